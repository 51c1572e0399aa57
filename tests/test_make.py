"""`make run`: the steps in order, and what ends it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STEPS = (
    "Download_Data ETL check_rep ResNet34_Train LHC_Train Controller_Train LHC_Eval "
    "Controller_Eval Shipped_Eval"
)

if not shutil.which("make"):
    pytest.skip("needs make", allow_module_level=True)


def make(tmp_path, codes):
    """Run `make run` with steps that only give `codes` ({step: exit code}) -> (code, steps)."""
    (tmp_path / "installed").write_text("")
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    cases = "".join(f"{step}.py) exit {code};; " for step, code in codes.items())
    python.write_text(f'#!/bin/sh\ncase "$1" in {cases} esac\n')
    python.chmod(0o755)
    command = ["make", "-s", "-C", str(ROOT), "run", f"VENV={tmp_path}", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, capture_output=True)
    lines = done.stdout.decode().splitlines()
    return done.returncode, [line.split()[1][: -len(".py")] for line in lines if "==" in line]


def test_steps_come_in_the_readmes_order(tmp_path):
    assert make(tmp_path, {"check_rep": 1}) == (0, STEPS.split())  # other bits are no failure


@pytest.mark.parametrize("step, code", [("ETL", 2), ("check_rep", 3), ("LHC_Train", 130)])
def test_a_step_that_fails_ends_the_run(tmp_path, step, code):
    steps = STEPS.split()
    found, ran = make(tmp_path, {step: code})
    assert found != 0 and ran == steps[: steps.index(step) + 1]


def test_a_python_that_has_no_packages_is_told(tmp_path):
    python = tmp_path / "python"
    code = "import sys; sys.version_info = (3, 10, 1); exec(sys.argv[2])"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    python.chmod(0o755)
    command = ["make", "-s", "-C", str(ROOT), "run", f"VENV={tmp_path / 'v'}", f"PYTHON={python}"]
    done = subprocess.run(command, capture_output=True)
    error = done.stderr.decode()
    assert done.returncode and "is Python 3.10, expected 3.11 to 3.13" in error
    assert not (tmp_path / "v").exists()
