"""Mixup (arXiv 1710.09412) and random erasing (arXiv 1708.04896) of a batch of pictures.

They come after the paper's augmentation (REFERENCE.md section 3) and only where a stage asks for
them. Each picture has a row of six numbers: the share that it keeps, the rest being its partner's;
top, left, bottom and right of a rectangle in pixels (all 0 for none), and the rectangle's grey
level. Partners are the first and the last picture of a batch, the second and the one before the
last, and so on. Drawn from generators of our own, so nobody else's random numbers move.
"""

import math

import numpy as np

COLUMNS = 6
AREA = 0.02, 1 / 3  # of the picture that a rectangle covers
ASPECT = 0.3  # height over width, or width over height, at least


def is_asked(stage):
    """Return whether a stage mixes or erases."""
    return bool(stage["mixup"] or stage["random_erasing"])


def draw(random, count, size, stage):
    """Draw the rows of `count` pictures of `size` pixels, float32 (count, 6).

    random: a np.random.Generator.
    """
    alpha = stage["mixup"]
    shares = random.beta(alpha, alpha, count) if alpha else np.ones(count)
    rows = np.zeros((count, COLUMNS), np.float32)
    rows[:, 0] = np.maximum(shares, 1 - shares)  # most of it is the picture itself
    if stage["random_erasing"]:
        erased = random.random(count) < stage["random_erasing"]
        areas = random.uniform(*AREA, count) * size**2
        aspects = np.exp(random.uniform(math.log(ASPECT), -math.log(ASPECT), count))
        sides = np.stack([np.sqrt(areas * aspects), np.sqrt(areas / aspects)], axis=1)
        sides = np.minimum(np.round(sides), size)
        starts = np.floor(random.random((count, 2)) * (size - sides + 1))
        boxes = np.concatenate([starts, starts + sides], axis=1)
        rows[:, 1:5] = boxes * erased[:, None]
        rows[:, 5] = random.uniform(0, 255, count)
    return rows


def pictures(x, rows, operations):
    """Erase and mix grey pictures (B, S, S) by their `rows` (B, 6); the same shape.

    operations: `numpy`, or src.backend for its tensors.
    """
    share, top, left, bottom, right, grey = (rows[:, i, None, None] for i in range(COLUMNS))
    place = operations.arange(x.shape[1], dtype="float32")
    r, c = place[None, :, None], place[None, None, :]
    inside = (r >= top) & (r < bottom) & (c >= left) & (c < right)  # (B, S, S)
    x = operations.where(inside, grey, x)
    return share * x + (1 - share) * operations.flip(x, 0)


def labels(one_hot, rows):
    """Mix the labels (B, 7) of one batch as its pictures are."""
    return rows[:, :1] * one_hot + (1 - rows[:, :1]) * one_hot[::-1]
