"""What JAX has compiled is kept where only this user's programs look for it."""

import os
import sys
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
