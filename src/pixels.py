"""Grey pixels, enlarged and moved exactly as the reference does (REFERENCE.md, sections 2 and 3).

Compiled kernels that repeat TensorFlow's bilinear resize (float32) and SciPy's order-1 affine
transform (double precision) operation by operation: the order of the multiplications and additions
is part of the result, so nothing here may be re-associated or fused. They work on one grey channel
and release the interpreter lock, so that threads can share the work.
"""

import functools
import sys

import numpy as np
from numba import njit


def compiled(function):
    """Compile a function, without the interpreter lock, and keep the result for the next start."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the checkout nor the home can be written
        _say_that_nothing_is_kept()
        return njit(nogil=True)(function)


@functools.lru_cache(maxsize=None)  # once, for all functions
def _say_that_nothing_is_kept():
    print(
        "src/pixels.py is compiled anew, which takes some seconds: its folder and the home folder "
        "cannot be written; NUMBA_CACHE_DIR may name another one",
        file=sys.stderr,
    )


def enlarge(images, size):
    """Resize bilinearly with half-pixel centres, as `tf.image.resize` does on a CPU.

    images (N, h, w) of uint8 or float32 -> float32 (N, size, size), range kept.
    """
    images = np.ascontiguousarray(images)
    out = np.empty((len(images), size, size), np.float32)
    taps = bilinear_taps(images.shape[1], size) + bilinear_taps(images.shape[2], size)
    _enlarge(images, *taps, out)
    return out


def floored_rgb(planes):
    """Floor float32 planes (N, H, W) of 0...255: uint8 (N, H, W, 3), three equal channels."""
    out = np.empty(planes.shape + (3,), np.uint8)
    _floor_rgb(planes.reshape(-1), out.reshape(-1))
    return out


def rgb(grey):
    """Return grey pixels (..., H, W) as a picture of three equal channels, (..., H, W, 3)."""
    return np.repeat(grey[..., None], 3, axis=-1)


@compiled
def affine_batch(images, rows, matrices, offsets, flips, moved, out):
    """Write the moved and flipped images[rows] into out, float32 (B, H, W, 3), equal channels.

    images uint8 (N, H, W); matrices (B, 2, 2), offsets (B, 2), flips bool (B, 2: left-right,
    up-down). Moves as `scipy.ndimage.affine_transform(order=1, mode="nearest")`: output pixel
    (r, c) is read at matrix @ (r, c) + offset; then flips. With `moved` False the matrices are
    ignored and the pixels only copied.

    Every output pixel is computed on its own, so a flip just computes it for the mirrored place.
    The work on a line is cut into loops that the compiler turns into vector instructions.
    """
    height, width = images.shape[1:]
    corners = np.empty(height * width, np.uint32)
    words = np.empty(width, np.uint32)
    line = np.empty(width, np.float32)
    row_step, column_step = np.empty(width), np.empty(width)
    top, left, above, before = np.empty(width), np.empty(width), np.empty(width), np.empty(width)
    for b in range(len(rows)):
        image = images[rows[b]]
        matrix = matrices[b]
        if moved:
            _pack_corners(image, corners)
            for c in range(width):
                column = width - 1 - c if flips[b, 0] else c
                row_step[c] = column * matrix[0, 1]
                column_step[c] = column * matrix[1, 1]
        for r in range(height):
            row = height - 1 - r if flips[b, 1] else r
            if moved:
                _locate(row * matrix[0, 0], row_step, offsets[b, 0], height - 1.0, top, above)
                _locate(row * matrix[1, 0], column_step, offsets[b, 1], width - 1.0, left, before)
                _pick(corners, top, left, words)
                _blend(words, above, before, line)
            elif flips[b, 0]:
                for c in range(width):
                    line[c] = image[row, width - 1 - c]
            else:
                for c in range(width):
                    line[c] = image[row, c]
            for c in range(width):
                out[b, r, c, 0] = line[c]
                out[b, r, c, 1] = line[c]
                out[b, r, c, 2] = line[c]


@compiled
def _pack_corners(image, corners):
    """Put each pixel and its right, lower and lower right neighbours into one 32-bit word.

    One read per output pixel then fetches all four. Beyond the border the pixel itself stands in:
    its weight is zero there.
    """
    height, width = image.shape
    for r in range(height):
        upper, lower = image[r], image[min(r + 1, height - 1)]
        line = corners[r * width : (r + 1) * width]
        for c in range(width - 1):
            line[c] = _word(upper[c], upper[c + 1], lower[c], lower[c + 1])
        line[-1] = _word(upper[-1], upper[-1], lower[-1], lower[-1])


@compiled
def _word(a, b, c, d):
    first = np.uint32(a) | np.uint32(b) << np.uint32(8)
    return first | np.uint32(c) << np.uint32(16) | np.uint32(d) << np.uint32(24)


@compiled
def _locate(start, step, shift, last, floor, weight):
    """Coordinates (start + step) + shift, clamped to 0...last: whole part, weight of that pixel."""
    for c in range(len(step)):
        position = min(max(start + step[c] + shift, 0.0), last)
        floor[c] = np.floor(position)
        weight[c] = 1.0 - (position - floor[c])


@compiled
def _pick(corners, top, left, words):
    width = np.float64(len(words))
    for c in range(len(words)):
        words[c] = corners[np.uint32(np.int32(top[c] * width + left[c]))]


@compiled
def _blend(words, above, before, line):
    """Sum over the corners, row-major, of (pixel * row weight) * column weight; w1 = 1 - w0."""
    byte = np.uint32(255)
    for c in range(len(words)):
        word = words[c]
        below = 1.0 - above[c]
        behind = 1.0 - before[c]
        value = np.float64(np.int32(word & byte)) * above[c] * before[c]
        value += np.float64(np.int32(word >> np.uint32(8) & byte)) * above[c] * behind
        value += np.float64(np.int32(word >> np.uint32(16) & byte)) * below * before[c]
        value += np.float64(np.int32(word >> np.uint32(24))) * below * behind
        line[c] = value


def bilinear_taps(length, size):
    """Neighbours below and above, and float32 weight, of `size` points over `length` pixels."""
    half = np.float32(0.5)
    scale = np.float32(length) / np.float32(size)
    position = (np.arange(size, dtype=np.float32) + half) * scale - half
    floor = np.floor(position)
    lower = np.maximum(floor, 0).astype(np.int64)
    upper = np.minimum(np.ceil(position), length - 1).astype(np.int64)
    return lower, upper, position - floor


@compiled
def _enlarge(images, top, bottom, row_weight, left, right, column_weight, out):
    height, size = images.shape[1], out.shape[1]
    wide = np.empty((height, size), np.float32)
    for n in range(len(images)):
        for r in range(height):
            _interpolate_row(images[n, r], left, right, column_weight, wide[r])
        for r in range(size):
            _interpolate_rows(wide[top[r]], wide[bottom[r]], row_weight[r], out[n, r])


@compiled
def _interpolate_row(row, left, right, weight, out):
    for c in range(len(out)):
        a = np.float32(row[left[c]])
        b = np.float32(row[right[c]])
        out[c] = a + (b - a) * weight[c]


@compiled
def _interpolate_rows(above, below, weight, out):
    for c in range(len(out)):
        out[c] = above[c] + (below[c] - above[c]) * weight


@compiled
def _floor_rgb(planes, out):
    for i in range(len(planes)):  # flat arrays: the compiler then writes whole vectors
        grey = np.uint8(planes[i])
        out[3 * i] = grey
        out[3 * i + 1] = grey
        out[3 * i + 2] = grey
