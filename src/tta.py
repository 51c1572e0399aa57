"""Test-time augmentation: the mean over 60 moved copies, the views, of each image (section 8).

A view is described by a row of 13 numbers. One compiled program serves all of them: it takes grey
images and a row, makes the view on the device, and runs the net on it. No view is ever stored by
the host.

The pixels are those of TensorFlow's `tf.image.resize` and `ImageProjectiveTransformV3`, one after
the other: the same float32 operations in the same order. Flip and shift move whole pixels, so they
need no pass of their own; they change the indices at which the resampling after them reads.
"""

import itertools
import math

import numpy as np

from src import backend as B
from src import devices
from src.backend import keras
from src.prefetch import one_ahead
from src.progress import progress_bar

# Left and right pixels count from 0; see `View.call` for what each number does.
COLUMNS = (
    "flip_origin flip_sign crop_start crop_length crop_scale shift_x shift_y "
    "x_by_x x_by_y x_offset y_by_x y_by_y y_offset"
).split()


def descriptions(evaluation):
    """Return the 60 views as (crop, rotation, shift_x, shift_y, flip), the identity first.

    crop: the central part that is kept; rotation in radians; shifts in pixels; flip 0 or 1.
    """

    def both_ways(value):
        return (0, value, -value)

    rotations, shifts = both_ways(evaluation["rotation"]), both_ways(evaluation["shift"])
    views = [(1, *view) for view in itertools.product(rotations, shifts, shifts, (0, 1))]
    crop_rotations = both_ways(evaluation["crop_rotation"])
    views += [(evaluation["crop"], r, 0, 0, flip) for r in crop_rotations for flip in (0, 1)]
    return views


def view_weights(evaluation):
    """Return how much each view counts: the identity several times, the others once."""
    return [evaluation["identity_weight"]] + [1] * (len(descriptions(evaluation)) - 1)


def table(views, size):
    """Return the rows of numbers, float32 (len(views), 13), that make `views` at `size` pixels."""
    rows = []
    for crop, rotation, shift_x, shift_y, flip in views:
        start = int((size - size * crop) / 2)
        length = size - 2 * start
        last = np.float32(size - 1)
        cos, sin = (np.float32(f(np.float32(rotation))) for f in (math.cos, math.sin))
        half = np.float32(2)
        rows.append(
            [
                size - 1 if flip else 0,
                -1 if flip else 1,
                start,
                length,
                np.float32(length) / np.float32(size),
                shift_x,
                shift_y,
                cos,
                -sin,
                (last - (cos * last - sin * last)) / half,
                sin,
                cos,
                (last - (sin * last + cos * last)) / half,
            ]
        )
    return np.array(rows, np.float32)


class View(keras.layers.Layer):
    """Make one view of every image: [grey (B, S, S), rows (B, 13)] -> (B, S, S, 3), 0...255.

    All images get the view of the first of the rows, which are equal: they come one an image only
    because a model's inputs have to have the same length.
    """

    def __init__(self, **kwargs):
        # Grey levels and coordinates need float32 whatever the policy.
        super().__init__(dtype="float32", **kwargs)

    def call(self, inputs):
        grey, rows = inputs
        size = grey.shape[1]
        view = {name: rows[0, i] for i, name in enumerate(COLUMNS)}
        pixels = B.convert(np.arange(size, dtype=np.float32))

        # Flip, cut out the centre, and enlarge it: columns first, then rows. An uncropped image
        # comes through unchanged, since its weights are zero.
        position = (pixels + 0.5) * view["crop_scale"] - 0.5
        below = B.floor(position)
        weight = position - below
        last = view["crop_length"] - 1
        lower = view["crop_start"] + B.minimum(B.maximum(below, 0.0), last)
        upper = view["crop_start"] + B.minimum(B.maximum(below + 1, 0.0), last)
        left, right = (
            B.take(grey, _index(view["flip_origin"] + view["flip_sign"] * x), axis=2)
            for x in (lower, upper)
        )
        grey = left + (right - left) * weight
        above, below = (B.take(grey, _index(y), axis=1) for y in (lower, upper))
        grey = above + (below - above) * weight[:, None]

        # Rotate: output pixel (x, y) reads at a position of its own, outside the image from the
        # nearest border. (Whole grids, since TensorFlow's graph optimizer adds operands of unequal
        # shapes in another order, which changes last bits.)
        out_y, out_x = (B.convert(grid) for grid in np.indices((size, size), np.float32))
        x = view["x_by_x"] * out_x + view["x_by_y"] * out_y + view["x_offset"]
        y = view["y_by_x"] * out_x + view["y_by_y"] * out_y + view["y_offset"]
        x = B.minimum(B.maximum(x, 0.0), size - 1.0)
        y = B.minimum(B.maximum(y, 0.0), size - 1.0)
        left, top = B.floor(x), B.floor(y)
        grey = B.reshape(grey, (-1, size * size))

        def corner(right, down):
            """The rotation's neighbour, read where the shift before it had put it."""
            column = B.minimum(left + right, size - 1.0) - view["shift_x"]
            row = B.minimum(top + down, size - 1.0) - view["shift_y"]
            column = B.minimum(B.maximum(column, 0.0), size - 1.0)
            row = B.minimum(B.maximum(row, 0.0), size - 1.0)
            index = B.reshape(_index(row * size + column), (-1,))
            return B.reshape(B.take(grey, index, axis=1), (-1, size, size))

        above = (left + 1 - x) * corner(0, 0) + (x - left) * corner(1, 0)
        below = (left + 1 - x) * corner(0, 1) + (x - left) * corner(1, 1)
        grey = (top + 1 - y) * above + (y - top) * below
        return rgb(grey)

    def compute_output_shape(self, shapes):
        return (*shapes[0], 3)


def rgb(grey):
    """Return a tensor of grey images (B, S, S) as (B, S, S, 3), three equal channels."""
    return B.stack([grey, grey, grey], axis=-1)


def _index(position):
    return B.cast(position, "int32")


def with_view(net, size):
    """Return the model [grey (B, S, S), rows (B, 13)] -> what `net` gives for the view."""
    grey = keras.layers.Input((size, size), name="grey")
    rows = keras.layers.Input((len(COLUMNS),), name="view")
    return keras.Model([grey, rows], net(View(name="make_view")([grey, rows])), name="tta")


def average(predict, views, weights, batches, count):
    """Return the weighted mean of the probabilities over all views, float32 (N, classes).

    predict: [grey, rows] -> probabilities, from `devices.predictor(with_view(net, size))`. views:
    rows of `table`; weights: one number each. batches: yields grey images float32 (B, S, S),
    0...255, `count` in all. Only one batch is in memory at a time.
    """
    weights = np.float32(weights)
    means = []
    with progress_bar(total=count * len(views), desc="TTA", unit="view") as bar:
        for grey in batches:
            tensor = devices.place(grey)  # to the device once, not once a view
            rows = (devices.place(np.tile(view, (len(grey), 1))) for view in views)
            passes = one_ahead(predict([tensor, row]) for row in rows)
            total = np.float32(0)
            for weight, probabilities in zip(weights, passes):
                total = total + weight * B.to_numpy(probabilities)
                bar.update(len(grey))
            means.append(total / weights.sum())
    return np.concatenate(means)
