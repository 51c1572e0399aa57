"""On a Python without a stack of its own, installing and running end with one line that says so."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LINES = [
    Requirement(line)
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def installed(python):
    return [line for line in LINES if line.marker is None or line.marker.evaluate(python)]


@pytest.mark.parametrize("version", ["3.7", "3.9", "3.10", "3.14", "3.15"])
def test_other_pythons_are_refused(version):
    found = installed({"python_version": version})
    assert "needs-Python-3.11-to-3.13-or-3.8" in found[0].url


@pytest.mark.parametrize("version", ["3.8", "3.11", "3.12", "3.13"])
def test_each_stack_is_whole(version):
    found = installed({"python_version": version})
    assert not any(line.url for line in found)
    names = [line.name for line in found]
    assert len(names) == len(set(names))
    assert {"tensorflow", "numpy", "pandas", "pillow", "scikit-learn", "requests", "tqdm"} < {
        *names
    }
    assert all(str(line.specifier).startswith("==") for line in found)


@pytest.mark.parametrize("script", ["Download_Data.py", "ResNet34_Train.py"])
def test_scripts_end_with_a_line(tmp_path, script):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.version_info = (3, 10, 4)")
    for name in ("src", script):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode != 0
    assert done.stderr.startswith("error: found Python 3.10, expected 3.11 to 3.13, or 3.8")
    assert done.stderr.count("\n") == 1
