"""Nothing outside the repository changes a number: keras.json and Keras' variables of the shell."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Prints what a net, an epoch of training and Keras itself are like in a new process.
PROGRAM = """
import numpy as np
from src import backbone, backend, networks, settings
from src.backend import keras
backend.set_seeds(1, 2, 3)
net = networks.lhc_net(32, {**settings.load().lhc, "num_heads": [1] * 5, "att_embed_dim": [2] * 5})
shapes = [tuple(weight.shape) for weight in net.get_weights()]
x = np.random.RandomState(0).uniform(0, 255, (7, 32, 32, 3)).astype(np.float32)
y = np.eye(7, dtype=np.float32)
found = [net(x, training=True).numpy().tolist()]
# A net of few of the same layers is trained: all of them take long.
image = keras.layers.Input((32, 32, 3))
features = networks.LHC(1, 2)(backbone.stem(backbone.REFERENCE, image))
few = keras.Model(image, networks.classification_head(features, (3, 4)))
backend.compile_model(few, "sgd", 1e-3)
found += [backend.fit_epoch(few, ((x, y) for _ in range(2)), 2), few.predict_on_batch(x).tolist()]
config = keras.backend
config = config.image_data_format(), config.epsilon(), config.floatx(), backend.NAME
print([config, len(shapes), shapes[:9], found])
"""


def run(home=None, **environment):
    if home is not None:
        environment["KERAS_HOME"] = str(home)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("KERAS_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return run(tmp_path_factory.mktemp("empty"))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"image_data_format": "channels_first", "epsilon": 0.01, "floatx": "float64"}),
        json.dumps({"backend": "jax", "floatx": "int8"}),  # Keras itself would end in a traceback
        "no JSON",
    ],
)
def test_a_leftover_keras_json_changes_nothing(content, expected, tmp_path):
    path = tmp_path / "keras.json"
    path.write_text(content)
    assert run(tmp_path) == expected
    assert path.read_text() == content


def test_limits_left_in_a_shell_change_nothing(expected, tmp_path):
    assert run(KERAS_MAX_EPOCHS="1", KERAS_MAX_STEPS_PER_EPOCH="1") == expected


@pytest.mark.skipif(sys.version_info < (3, 9), reason="the paper's stack has one backend")
@pytest.mark.parametrize(
    "name, installed, line",
    [
        ("jx", True, "KERAS_BACKEND: found jx, allowed: tensorflow, jax, torch"),
        ("torch", False, "KERAS_BACKEND: torch is not installed: docs/stacks.md has the line"),
    ],
)
def test_a_backend_that_is_not_there_is_one_line(name, installed, line):
    # A script's own process, in which nothing of that name can be found.
    program = (
        "import sys, importlib.util as util; find = util.find_spec\n"
        f"gone = {[] if installed else [name]}\n"
        "util.find_spec = lambda name, *more: None if name in gone else find(name, *more)\n"
        "import LHC_Eval; sys.exit(LHC_Eval.main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": name},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {line}") and len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.version_info < (3, 9), reason="the paper's stack has one backend")
@pytest.mark.parametrize("name", ["tensorflow", "jax"])
def test_nothing_is_told_of_a_start(name):
    pytest.importorskip(name)
    done = subprocess.run(
        [sys.executable, "-c", "from src import backend; backend.set_seeds(1, 2, 3)"],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": name},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(sys.version_info < (3, 9), reason="the paper's stack has one backend")
def test_seeds_on_jax_are_those_of_keras_and_start_no_tensorflow():
    pytest.importorskip("jax")
    program = (
        "import sys, keras, random\nfrom numpy.random import rand\n"
        "from src import backend\n"
        "draw = lambda: (keras.random.normal((3,)).tolist(), rand(), random.random())\n"
        "keras.random.normal((5,))\n"
        "backend.set_seeds(7, 7, 7)\n"
        "ours, started = draw(), 'tensorflow' in sys.modules\n"
        "keras.utils.set_random_seed(7)\n"
        "print(ours == draw(), started)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout.split() == ["True", "False"]
