"""Intervals and calibration: against numbers worked out by hand."""

import numpy as np
import pytest

from src import calibration


def rows_of(confidences, right):
    """Return (labels, probabilities) of two classes with these confidences, right or wrong."""
    confidences = np.array(confidences)
    probabilities = np.stack([confidences, 1 - confidences], axis=1)
    return np.where(right, 0, 1), probabilities


@pytest.mark.parametrize(
    "right, images, ends",
    [(8, 10, (0.4902, 0.9433)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0))],
)
def test_wilson_by_the_book(right, images, ends):
    assert calibration.wilson(right, images) == pytest.approx(ends, abs=5e-5)


def test_wilsons_ends_are_as_far_away_as_they_may_be():
    share = 2610 / 3589
    for end in calibration.wilson(2610, 3589):
        assert abs(share - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 3589))


def test_bins_and_their_numbers():
    labels, probabilities = rows_of([0.55, 0.58, 0.95, 0.97, 1.0], [True, False, True, True, False])
    low, high = calibration.reliability(labels, probabilities)
    assert (low["low"], low["high"]) == (8 / 15, 9 / 15)
    assert (low["images"], low["accuracy"]) == (2, 0.5)
    assert low["confidence"] == pytest.approx(0.565)
    assert (high["images"], high["high"]) == (3, 1.0)
    assert high["confidence"] == pytest.approx(2.92 / 3)
    assert high["interval"] == calibration.wilson(2, 3)
    error = calibration.expected_calibration_error([low, high])
    assert error == pytest.approx((2 * 0.065 + 3 * (2.92 / 3 - 2 / 3)) / 5)


def test_a_bin_has_its_upper_end():
    labels, probabilities = rows_of([0.5, 0.75, 0.7500001], [True] * 3)
    rows = calibration.reliability(labels, probabilities, bins=4)
    assert [(row["high"], row["images"]) for row in rows] == [(0.5, 1), (0.75, 1), (1.0, 1)]


def test_rounding_beyond_one_stays_in_the_last_bin():
    probabilities = np.array([[1.0000001, 0]], np.float32)
    assert calibration.reliability(np.array([0]), probabilities)[0]["high"] == 1


def test_a_net_that_says_how_often_it_is_right_has_no_error():
    labels, probabilities = rows_of([0.8] * 10, [True] * 8 + [False] * 2)
    rows = calibration.reliability(labels, probabilities)
    assert calibration.expected_calibration_error(rows) == pytest.approx(0, abs=1e-12)
