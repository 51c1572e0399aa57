"""The drawn sample: the same bytes everywhere, no global generator touched, learnable classes."""

import hashlib
import random

import numpy as np
import pytest

from src.errors import UserError
from src.sample import EXPRESSIONS, draw

COUNTS = [3, 1, 3, 4, 3, 2, 3]


def test_bytes_are_the_same_on_every_platform():
    images, labels = draw(1, COUNTS)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert digest == "dfe71eebf396f694a1a6b32fa5bc1b1ca3f729d069bb937a628ff5c9af83eb06"


def test_shapes_counts_and_order():
    images, labels = draw(7, COUNTS)
    assert images.shape == (sum(COUNTS), 48, 48)
    assert images.dtype == labels.dtype == np.uint8
    assert np.bincount(labels, minlength=7).tolist() == COUNTS
    assert (np.diff(labels.astype(int)) < 0).any()  # shuffled, not sorted by class
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_seed_decides():
    images, labels = draw(3, COUNTS)
    again, labels_again = draw(3, COUNTS)
    other, _ = draw(4, COUNTS)
    assert (images == again).all() and (labels == labels_again).all()
    assert (images != other).any()


def test_global_generators_are_untouched():
    def states():
        kind, keys, *rest = np.random.get_state()
        return random.getstate(), kind, keys.tolist(), rest

    before = states()
    draw(1, [1] * 7)
    assert states() == before


def test_contrast_is_that_of_a_photograph():
    images, _ = draw(5, [4] * 7)
    flat = images.reshape(len(images), -1)
    assert (flat.std(axis=1) > 12).all()
    assert ((flat == 0) | (flat == 255)).mean() < 0.1  # hardly anything clipped


def test_expressions_can_be_told_apart():
    """Each class's mean face is nearest to the same class's mean face of another draw."""

    def means(seed):
        images, labels = draw(seed, [40] * 7)
        features = images[:, 14:44, 10:38]  # without hair and background
        pixels = features.reshape(len(images), -1).astype(float)
        pixels = (pixels - pixels.mean(axis=1, keepdims=True)) / pixels.std(axis=1, keepdims=True)
        return np.stack([pixels[labels == k].mean(axis=0) for k in range(len(EXPRESSIONS))])

    one, other = means(1), means(2)
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    assert (one @ other.T).argmax(axis=1).tolist() == list(range(7))


def test_empty_classes_are_allowed():
    images, labels = draw(1, [0] * 7)
    assert images.shape == (0, 48, 48) and labels.shape == (0,)


@pytest.mark.parametrize("counts", [[1] * 6, [1] * 8, [1, 1, 1, -1, 1, 1, 1], [1.5] + [1] * 6])
def test_bad_counts_are_told(counts):
    with pytest.raises(UserError, match="7 counts"):
        draw(1, counts)


@pytest.mark.parametrize("seed", [-1, 2**32, None, "1"])
def test_bad_seed_is_told(seed):
    with pytest.raises(UserError, match="seed"):
        draw(seed, [1] * 7)
