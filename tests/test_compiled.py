"""What JAX has compiled is kept where only this user's programs look for it."""

import os
import secrets
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from src import backend, compiled


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What JAX was told, {name: value}, by a user whose cache folder is tmp_path/home."""
    told = {}
    jax = SimpleNamespace(config=SimpleNamespace(update=told.__setitem__))
    monkeypatch.setitem(sys.modules, "jax", jax)
    monkeypatch.setattr(backend, "NAME", "jax")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return told


def test_the_subfolder_is_the_users_own(told, tmp_path, monkeypatch):
    compiled.keep_in(tmp_path / "Compiled")
    first = told["jax_compilation_cache_dir"]
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "home" / compiled.NAME).stat().st_mode) == 0o600
    (own,) = (tmp_path / "Compiled").iterdir()
    assert str(own.resolve()) == first and own.stat().st_mode & 0o77 == 0
    compiled.keep_in(tmp_path / "Compiled")
    assert told["jax_compilation_cache_dir"] == first

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    compiled.keep_in(tmp_path / "Compiled")
    assert told["jax_compilation_cache_dir"] not in (first, str(tmp_path / "Compiled"))


@pytest.mark.parametrize("content", ["", "..", "0" * 31, "0" * 32 + "\n", "\0"])
def test_a_damaged_name_is_not_used(told, tmp_path, capsys, content):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / compiled.NAME).write_text(content)
    compiled.keep_in(tmp_path / "Compiled")
    assert told == {} and not (tmp_path / "Compiled").exists()
    assert "warning: nothing compiled is kept: " in capsys.readouterr().err


def test_a_home_that_cannot_be_written_is_a_warning(told, tmp_path, capsys):
    (tmp_path / "home").write_text("a file")
    compiled.keep_in(tmp_path / "Compiled")
    assert told == {} and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["tensorflow", "torch"])
def test_others_keep_nothing(told, tmp_path, monkeypatch, name):
    monkeypatch.setattr(backend, "NAME", name)
    compiled.keep_in(tmp_path / "Compiled")
    assert told == {} and os.listdir(tmp_path) == []


def test_a_second_start_compiles_nothing(tmp_path):
    pytest.importorskip("jax")
    program = (
        "import jax, pathlib\n"
        "from src import compiled\n"
        "events = []\n"
        "jax.monitoring.register_event_listener(lambda name, **rest: events.append(name))\n"
        "compiled.keep_in(pathlib.Path('Compiled'))\n"
        "jax.random.normal(jax.random.key(1), (3, 4)) @ jax.numpy.ones((4, 2))\n"
        "print(*(sum(name.endswith(end) for name in events) for end in ('_hits', '_misses')))\n"
    )
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "XDG_CACHE_HOME": str(tmp_path / "home"),
    }
    for name in [name for name in environment if name.startswith("JAX_")]:
        del environment[name]
    found = []
    for _ in range(2):
        command = [sys.executable, "-c", program]
        told = subprocess.check_output(command, cwd=str(tmp_path), env=environment, text=True)
        found.append([int(word) for word in told.split()])
    (none, missed), (hit, again) = found
    assert none == 0 and missed > 1 and (hit, again) == (missed, 0)


def test_a_name_is_whole_or_not_there(told, tmp_path, monkeypatch):
    """Or the next start would find an empty one, and keep nothing for ever."""
    make = secrets.token_hex

    def full(count):
        if count == 16:
            raise OSError("no room")
        return make(count)

    monkeypatch.setattr(secrets, "token_hex", full)
    compiled.keep_in(tmp_path / "Compiled")
    assert told == {} and list((tmp_path / "home").iterdir()) == []
