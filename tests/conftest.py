"""What several test modules share: the reference's fixtures, where at hand, and small settings."""

import gc
import importlib.util
import json
import lzma
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from src import backend, checkpoints, pixels
from src.crc32c import crc32c, masked
from src.names import SPLITS
from tests.tables import table_block, varint

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes too")


def pytest_configure(config):
    backend.set_deterministic()  # as the scripts run
    if backend.NAME == "jax" and not backend.has_gpu():
        import jax

        # What is compiled here runs for moments: optimising it takes longer than it saves.
        jax.config.update("jax_disable_most_optimizations", True)
    config.addinivalue_line("markers", "slow: takes minutes; runs only with --slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="runs only with --slow"))


def pytest_collection_finish(session):
    gc.freeze()  # or each collection, and every training has some, would search what is imported


@pytest.fixture(scope="session")
def shared():
    """The folder with the reference's fixtures."""
    if not (SHARED / "fixtures").is_dir():
        pytest.skip("needs ../shared/fixtures")
    return SHARED


@pytest.fixture(scope="session")
def published(shared, tmp_path_factory):
    """The folder with the unpacked published checkpoints and their expected probabilities."""
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(shared / "fixtures" / "published_models.tar.xz") as archive:
        for name in archive.getnames():
            archive.extract(name, folder)
    return folder


@pytest.fixture(scope="session")
def imagenet(shared, tmp_path_factory):
    """The path of a weights file in the ImageNet file's format."""
    path = tmp_path_factory.mktemp("imagenet") / "resnet34.h5"
    packed = shared / "fixtures" / "resnet34_imagenet_1000_no_top.h5.xz"
    with lzma.open(packed) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return path


@pytest.fixture(scope="session")
def fer2013_validation(shared):
    """The first eight validation images of FER2013, uint8 (8, 48, 48); see unpack.py there."""
    path = shared / "fer2013" / "fer2013.med.xz"
    if not path.is_file():
        pytest.skip("needs ../shared/fer2013")
    first, count, side = 28709, 8, 48
    with lzma.open(path) as file:
        file.seek(first * side * side)
        residuals = np.frombuffer(file.read(count * side * side), np.uint8).astype(int)
    pixels = np.zeros((count, side + 1, side + 1), int)
    for r, c in np.ndindex(side, side):
        left, up, corner = pixels[:, r + 1, c], pixels[:, r, c + 1], pixels[:, r, c]
        guess = np.clip(left + up - corner, np.minimum(left, up), np.maximum(left, up))
        residual = residuals.reshape(count, side, side)[:, r, c]
        pixels[:, r + 1, c + 1] = (guess + residual) & 255
    return pixels[:, 1:, 1:].astype(np.uint8)


@pytest.fixture(scope="session")
def fer2013(shared):
    """FER2013, {split: (images uint8 (N, 48, 48), labels (N,))}; see unpack.py there."""
    path = shared / "fer2013" / "unpack.py"
    if not path.is_file():
        pytest.skip("needs ../shared/fer2013")
    spec = importlib.util.spec_from_file_location("unpack", path)
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    pixels, labels, usages = unpack.load()
    return {split: (pixels[usages == i], labels[usages == i]) for i, split in enumerate(SPLITS)}


@pytest.fixture(scope="session")
def affine():
    """A function that moves and flips one image uint8 (H, W): float32 (H, W, 3).

    affine(image, matrix, offset, left_right, up_down), as `src.pixels.affine_batch`.
    """

    def move(image, matrix, offset, left_right=False, up_down=False):
        out = np.empty((1, *image.shape, 3), np.float32)
        matrices, offsets = (np.array([part], np.float64) for part in (matrix, offset))
        flips = np.array([[left_right, up_down]], bool)
        pixels.affine_batch(image[None], np.zeros(1, int), matrices, offsets, flips, True, out)
        return out[0]

    return move


@pytest.fixture(scope="session")
def settings_folder():
    """A function that writes a settings folder for nets of 32 pixels, and returns its path.

    settings_folder(root, Training={"seed": 2}, ...): every folder in use lies in `root`; each
    keyword names a settings file and what to change in it.
    """

    def write(root, **changes):
        keys = ("data", "images", "models", "downloaded_models", "results")
        files = {
            "Data": dict({f"{key}_folder": str(root / key) for key in keys}, source="sample"),
            "Training": {"target_size": 32},
            "LHC": {"num_heads": [4, 2, 2, 2, 1], "att_embed_dim": [4] * 5},
            "Evaluation": {"shift": 2},
            "Runtime": {"max_epochs": 1},
        }
        files["Data"]["backbone_weights"] = "random"
        folder = root / "Settings"
        folder.mkdir(parents=True, exist_ok=True)
        for name in {**files, **changes}:
            content = {**files.get(name, {}), **changes.get(name, {})}
            (folder / f"{name}_Settings.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.fixture(scope="session")
def make_index():
    """A function that returns a checkpoint's index (bytes) of {key (bytes): value (bytes)}."""

    def make(pairs):
        block = table_block(pairs.items())
        listing = table_block([(b"z", varint(0) + varint(len(block) - 5))])
        footer = bytes(2) + varint(len(block)) + varint(len(listing) - 5)
        return block + listing + footer.ljust(40, b"\0") + checkpoints.TABLE_MAGIC

    return make


@pytest.fixture(scope="session")
def make_checkpoint(make_index):
    """A function that returns (index, data), both bytes, of float32 arrays {key (text): array}."""

    def make(arrays):
        pairs, data = {b"": bytes([8, 1, 0x1A, 2, 8, 1])}, b""
        for key, array in sorted(arrays.items()):
            content = np.asarray(array, "<f4").tobytes()
            sizes = [bytes([8]) + varint(side) for side in np.shape(array)]
            shape = b"".join(bytes([0x12, len(size)]) + size for size in sizes)
            places = b"\x20" + varint(len(data)) + b"\x28" + varint(len(content))
            crc = b"\x35" + masked(crc32c(content)).to_bytes(4, "little")
            entry = b"\x08\x01\x12" + varint(len(shape)) + shape + places + crc
            pairs[key.encode()] = entry
            data += content
        return make_index(pairs), data

    return make
