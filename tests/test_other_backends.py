"""Layer, nets, kernels, feeds, training and views again, on JAX and PyTorch, where installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Those of a line run in one process, since each has to import the backend and Keras.
FILES = [
    "test_training.py",
    "test_descent.py test_mixing.py test_fast_feed.py",
    "test_lhc.py test_lhc_fast.py",
    "test_networks.py test_tta.py::test_average_weighs_the_passes "
    "test_explain.py::test_evidence_follows_the_gradient_of_the_score",
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder for compiled steps: many tests compile the same ones."""
    return tmp_path_factory.mktemp("compiled")


@pytest.mark.parametrize("names", FILES, ids=lambda names: names.split(".")[0])
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_on(backend, names, compiled):
    if sys.version_info < (3, 9) or importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend} under Keras 3")
    tests = Path(__file__).parent
    environment = dict(
        os.environ,
        KERAS_BACKEND=backend,
        JAX_COMPILATION_CACHE_DIR=str(compiled),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *(str(tests / name) for name in names.split())],
        env=environment,
        cwd=tests.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
