import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from src import interrupts
from src.cli import SEED, command, parse, settings_from
from src.errors import UserError


def test_settings_are_loaded(tmp_path):
    (tmp_path / "Training_Settings.json").write_text('{"seed": 5}')
    assert settings_from(["--settings", str(tmp_path)], "doc").training["seed"] == 5
    assert settings_from([], "doc").training["seed"] == 1


def test_options_of_a_script():
    options = {
        "--from": {"dest": "source", "metavar": "PATH"},
        "--repeat": {"action": "store_true"},
    }
    args = parse(["--from", "x.csv", "--repeat"], "doc", options)
    assert (args.source, args.repeat) == ("x.csv", True)
    assert parse([], "doc", options).source is None


def test_help_shows_the_docstring(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], "What it does: 100 % of it.\n\n    a line as it stands", {})
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "100 % of it.\n\n    a line as it stands\n" in shown
    assert "--settings FOLDER" in shown


@pytest.mark.parametrize(
    "argv, word",
    [(["--nonsense"], "--nonsense"), (["--settings"], "--settings"), (["--settings", "no"], "no:")],
)
def test_a_bad_command_line_is_one_line_and_code_2(capsys, argv, word):
    @command
    def main(argv=None):
        parse(argv, "doc")
        return 0

    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and word in err


def test_exit_codes(capsys):
    @command
    def main(argv=None):
        if isinstance(argv, BaseException):
            raise argv
        return argv

    assert main(0) == 0
    assert main(1) == 1
    assert main(UserError("two\nlines")) == 2
    assert capsys.readouterr().err == "error: two lines\n"
    assert main(OSError(28, "No space left on device", "Results/x")) == 2
    assert "No space left on device: 'Results/x'" in capsys.readouterr().err
    assert main(UserError("\x1b]0;title\a\x1b[2J")) == 2
    assert "\\x1b[2J" in capsys.readouterr().err, "a name may not steer the terminal"
    assert main(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == f"{interrupts.MESSAGE}\n"
    with pytest.raises(ZeroDivisionError):  # a defect of ours keeps its traceback
        main(ZeroDivisionError())


def test_too_little_memory_is_no_fault_of_the_program(capsys):
    """Whoever says so: Python, TensorFlow (ResourceExhaustedError), JAX or PyTorch."""

    @command(bad_input=3, fault=4)
    def main(error):
        raise error

    exhausted = type("ResourceExhaustedError", (Exception,), {})("OOM when allocating\n[[node]]")
    for error in (MemoryError(), exhausted, RuntimeError("RESOURCE_EXHAUSTED: Out of memory")):
        assert main(error) == 3
        told = capsys.readouterr().err
        assert told.startswith("error: not enough memory (") and told.count("\n") == 1
        assert "lower batch_size" in told and "node" not in told


def test_a_script_may_have_its_own_code_for_bad_input():
    @command(bad_input=3)
    def main(argv=None):
        """Keep me."""
        raise UserError("bad")

    assert main([]) == 3
    assert main.__doc__ == "Keep me."


def test_a_fault_may_have_a_code_of_its_own(capsys):
    """check_rep's 1 means "different", which make forgives."""

    @command(bad_input=3, fault=4)
    def main(argv=None):
        return 1 / 0

    assert main() == 4
    assert "ZeroDivisionError" in capsys.readouterr().err


ROOT = Path(__file__).resolve().parent.parent
ANSWER = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    slow = {"keras", "tensorflow", "jax", "torch", "numba", "pandas", "scipy", "matplotlib"}
    print("slow:", sorted(slow & set(sys.modules)), "code:", end.code)
"""


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_help_and_mistakes_import_nothing_slow(script):
    def answer(*words):
        return subprocess.run(
            [sys.executable, "-c", ANSWER, script, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=partial(resource.setrlimit, resource.RLIMIT_AS, (16 << 30, 16 << 30)),
        )

    shown = answer("--help").stdout
    assert shown.splitlines()[-1] == "slow: [] code: 0"
    assert "--settings FOLDER" in shown or script == "Results.py"
    mistaken = answer("--settings", "nowhere")
    assert mistaken.stdout == f"slow: [] code: {3 if script == 'check_rep.py' else 2}\n"
    assert mistaken.stderr.startswith("error: nowhere: ")


@pytest.mark.parametrize("text, seed", [("0", 0), ("4000000000", 4000000000), ("5", 5)])
def test_seeds(tmp_path, text, seed):
    loaded = parse(["--seed", text], "doc", SEED).settings
    assert loaded.recipe("ResNet34")["seeds"]["numpy"] == seed


@pytest.mark.parametrize("text", ["-1", "4000000001", "1.5", "x", ""])
def test_what_is_no_seed(capsys, text):
    assert command(lambda argv: parse(argv, "doc", SEED))(["--seed", text]) == 2
    err = capsys.readouterr().err
    assert "--seed" in err and err.count("\n") == 1
