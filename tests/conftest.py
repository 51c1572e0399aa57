"""What several test modules share: the reference's fixtures, where they are at hand."""

import lzma
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared():
    """The folder with the reference's fixtures."""
    if not (SHARED / "fixtures").is_dir():
        pytest.skip("needs ../shared/fixtures")
    return SHARED


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
