"""On a Python without a stack of its own, installing and running end with one line that says so."""

import re
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


def test_the_dockerfile_has_the_papers_stack():
    """It can't be built where there is no Docker; what it names must at least be there."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"python:?(\d\.\d+)", text)) == {"3.8"}
    names = {line.name: str(line.specifier) for line in installed({"python_version": "3.8"})}
    assert f"TensorFlow {names['tensorflow'][2:]};" in text
    sources = re.findall(r"^COPY (?:--\S+ )?(\S+) \S+$", text, re.M)
    assert sources == ["requirements.txt", "."]
    assert all((ROOT / source).exists() for source in sources)
    made = re.search(r"^RUN mkdir (.+)$", text, re.M).group(1).split()
    left_out = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert all(f"/{folder}/" in left_out for folder in made)  # which are the scripts' own
    base, user = text.index("FROM ${BASE}"), text.index("USER lhc")
    assert text.index("ARG BASE=") < base < user < text.index("CMD ")


def test_nothing_that_git_leaves_out_goes_into_the_image():
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for rule in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines():
        assert (rule if rule.startswith("/") else f"**/{rule}") in rules
    assert ".git/" in rules


def test_the_lines_for_gpus_have_the_required_versions():
    page = (ROOT / "docs" / "stacks.md").read_text(encoding="utf-8")
    development = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    told = re.findall(r'"(\w+)\[([\w-]+)\]==([\d.]+)"', page)
    assert [(name, extra) for name, extra, _ in told] == [
        ("tensorflow", "and-cuda"),
        ("jax", "cuda12"),
        ("jax", "cuda13"),
    ]
    pinned = {f"{line.name}{line.specifier}" for line in installed({"python_version": "3.11"})}
    pinned |= {line.split(";")[0] for line in development}
    assert {f"{name}=={version}" for name, _, version in told} <= pinned
