"""Mixup and random erasing: what is drawn, and what becomes of pictures and labels."""

import numpy as np
import pytest

from src import backend, mixing

SIZE, COUNT = 40, 4000


def stage(mixup=0.0, random_erasing=0.0):
    return {"mixup": mixup, "random_erasing": random_erasing}


def draw(**changes):
    return mixing.draw(np.random.default_rng(0), COUNT, SIZE, stage(**changes))


def test_nothing_is_asked_for_by_default():
    assert not mixing.is_asked(stage())
    assert mixing.is_asked(stage(mixup=0.1)) and mixing.is_asked(stage(random_erasing=0.1))


def test_shares_are_those_of_the_beta_distribution():
    rows = draw(mixup=0.4)
    shares = rows[:, 0]
    assert 0.5 <= shares.min() and shares.max() <= 1 and not rows[:, 1:].any()
    expected = np.random.default_rng(5).beta(0.4, 0.4, 100_000)
    expected = np.maximum(expected, 1 - expected)
    for quantile in (0.1, 0.5, 0.9):
        assert np.quantile(shares, quantile) == pytest.approx(
            np.quantile(expected, quantile), abs=0.02
        )


def test_rectangles_lie_inside_and_cover_what_they_should():
    rows = draw(random_erasing=0.25)
    top, left, bottom, right, grey = rows[:, 1:].T
    erased = bottom > top
    assert erased.mean() == pytest.approx(0.25, abs=0.03)
    assert (rows[:, 0] == 1).all() and grey.min() >= 0 and grey.max() <= 255
    height, width = (bottom - top)[erased], (right - left)[erased]
    assert (top >= 0).all() and (bottom <= SIZE).all() and (rows == rows.round())[:, 1:5].all()
    areas = height * width / SIZE**2
    assert 0.01 < areas.min() < 0.04 and 0.28 < areas.max() < 0.36
    assert np.median(areas) == pytest.approx(np.mean(mixing.AREA), abs=0.03)
    assert (height / width).max() < 1.3 / mixing.ASPECT and (width / height).max() > 2


def pictures(x, rows):
    x, rows = (backend.convert(part.astype(np.float32)) for part in (x, rows))
    return backend.to_numpy(mixing.pictures(x, rows, backend))


def test_pictures_and_labels_are_mixed_with_their_partners():
    random = np.random.RandomState(1)
    x = random.uniform(0, 255, (3, SIZE, SIZE)).astype(np.float32)
    rows = np.zeros((3, mixing.COLUMNS), np.float32)
    rows[:, 0] = 1, 0.75, 0.5
    rows[0, 1:] = 2, 3, 6, 10, 99
    erased = x.copy()
    erased[0, 2:6, 3:10] = 99
    expected = [erased[0], erased[1], 0.5 * erased[2] + 0.5 * erased[0]]  # the second with itself
    for found in (mixing.pictures(x, rows, np), pictures(x, rows)):
        assert np.abs(found - expected).max() < 1e-4
    one_hot = np.eye(7, dtype=np.float32)[[4, 5, 6]]
    found = mixing.labels(one_hot, rows)
    assert np.allclose(found, [one_hot[0], one_hot[1], (one_hot[2] + one_hot[0]) / 2])


def test_rows_that_ask_for_nothing_change_nothing():
    x = np.random.RandomState(2).uniform(0, 255, (4, SIZE, SIZE)).astype(np.float32)
    rows = mixing.draw(np.random.default_rng(0), 4, SIZE, stage())
    assert np.array_equal(mixing.pictures(x, rows, np), x)
    assert np.array_equal(pictures(x, rows), x)
