"""How sure an accuracy is, and how far a net's probabilities can be taken at their word.

A net is calibrated if, of the images that it gives 0.8 to, 80 % are what it says. Here that is
asked of the highest probability of each image alone (top-label), its confidence, in equal-width
bins.
"""

import math

import numpy as np
from scipy.special import ndtri

BINS = 15


def wilson(right, images):
    """Return the ends (low, high) of Wilson's 95 % interval for `right` out of `images` >= 1."""
    z, share = ndtri(0.975), right / images
    shrink = 1 + z**2 / images
    middle = (share + z**2 / (2 * images)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def reliability(labels, probabilities, bins=BINS):
    """Return the bins of confidence that have images, from low to high, as a list of dicts.

    labels: class numbers (N,), probabilities: (N, classes). Of each bin: low < confidence <= high,
    images, the mean confidence, the accuracy, and its 95 % interval.
    """
    confidences = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    numbers = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for number in np.unique(numbers).tolist():
        inside = numbers == number
        images, hits = int(inside.sum()), int(right[inside].sum())
        rows.append(
            {
                "low": number / bins,
                "high": (number + 1) / bins,
                "images": images,
                "confidence": float(confidences[inside].mean()),
                "accuracy": hits / images,
                "interval": wilson(hits, images),
            }
        )
    return rows


def expected_calibration_error(rows):
    """Return the mean over all images of the distance of their bin's accuracy and confidence.

    rows: of `reliability`. Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    images = sum(row["images"] for row in rows)
    return sum(row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / images
