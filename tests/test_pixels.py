"""The compiled kernels against TensorFlow's resize, SciPy's transform, the reference's digest."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from src.dataset import load
from src.pixels import enlarge, floored_rgb, rgb

DATA = Path(__file__).parent / "data"
SRC = DATA.parent.parent / "src"


def test_enlarged_validation_images_have_the_reference_digest():
    images, _ = load(DATA / "tiny_data", "val")
    expected = json.loads((DATA / "reference.json").read_text())["etl"]
    enlarged = enlarge(images, 224)
    assert enlarged.dtype == np.float32
    assert hashlib.sha256(enlarged).hexdigest() == expected["val_float32_gray_sha256"]
    row = expected["val0_row100_cols0_12"]
    assert enlarged[0, 100, :12].tolist() == row
    assert np.array_equal(enlarge(images.astype(np.float32), 224), enlarged)


@pytest.mark.parametrize("shape, size", [((48, 48), 224), ((7, 5), 64), ((9, 9), 5)])
def test_enlarge_is_tensorflows_resize(shape, size):
    tf = pytest.importorskip("tensorflow")
    images = np.random.RandomState(1).randint(0, 256, (4,) + shape).astype(np.uint8)
    with tf.device("CPU"):
        expected = tf.image.resize(images[..., None], (size, size)).numpy()[..., 0]
    assert np.array_equal(enlarge(images, size), expected)


def test_floored_rgb_rounds_down():
    planes = np.array([[[0, 0.99, 1], [127.5, 254.999, 255]]], np.float32)
    rgb = floored_rgb(planes)
    assert rgb.shape == (1, 2, 3, 3) and rgb.dtype == np.uint8
    assert np.array_equal(rgb, np.stack([np.floor(planes)] * 3, axis=-1))


def test_kernels_work_where_no_cache_can_be_kept(tmp_path):
    """A copy of the package whose cache folder is a file, and a home that is one too."""
    shutil.copytree(SRC, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "src" / "__pycache__").write_text("")
    code = (
        "import numpy; from src import pixels; print(pixels.enlarge(numpy.eye(2)[None], 4).sum())"
    )
    environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", PYTHONPATH="")
    environment.update(dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), os.devnull))
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert done.stdout.split() == [b"8.0"]
    error = done.stderr.decode()
    assert error.count("\n") == 1 and "NUMBA_CACHE_DIR" in error, error


def test_rgb_repeats_the_grey_channel():
    grey = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    assert rgb(grey).shape == (2, 2, 3, 3) and rgb(grey).dtype == np.float32
    assert (rgb(grey) == grey[..., None]).all()


@pytest.mark.parametrize("shape", [(32, 32), (30, 17)])
def test_affine_is_scipys(shape, affine):
    random = np.random.RandomState(2)
    for case in range(30):
        image = random.randint(0, 256, shape).astype(np.uint8)
        matrix = np.eye(2) + (case > 0) * random.normal(0, 0.5, (2, 2))
        offset = (case > 1) * random.normal(0, 15, 2)  # far beyond the borders too
        expected = affine_transform(
            image.astype(np.float32), matrix, offset, order=1, mode="nearest"
        )
        left_right, up_down = case % 2, case // 2 % 2
        expected = expected[:: -1 if up_down else 1, :: -1 if left_right else 1]
        found = affine(image, matrix, offset, left_right, up_down)
        assert found.shape == shape + (3,) and found.dtype == np.float32
        for channel in range(3):
            assert np.array_equal(found[..., channel], expected)
