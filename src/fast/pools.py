"""Stride-1 and stride-2 pools made of shifted slices.

On a GPU pools cost memory traffic, not arithmetic. A compiler fuses the gradient of shifted slices
into one pass over the tensor, where the framework's own pools scatter into it. On JAX, the pools of
LHC run as GPU kernels where src/fast/kernels.py says so.
"""

import numpy as np

from src import backend as B
from src.fast import kernels


def same(size):
    """Return the (before, after) padding that keeps the length at stride 1."""
    return (size - 1) // 2, size // 2


def query_key_pools(x, size):
    """(B, H, W, C) -> (x, x, average pool and max pool, (H * W, 2, B, C)).

    x comes back for two users, so that all its gradients can be added in one place.
    """
    if kernels.serve_pools(x, size):
        return kernels.pools(x)
    height, width, channels = x.shape[1:]
    pools = average_pool(x, size), max_pool(x, size, 1, same(size), float("-inf"))
    pools = [B.reshape(pool, (-1, height * width, channels)) for pool in pools]
    return x, x, B.transpose(B.stack(pools), (2, 0, 1, 3))


def max_pool(x, size, strides, padding, border):
    """(B, H, W, C) -> (B, h, w, C), `padding` (before, after) of the value `border` on H and W.

    Each window remembers which of its pixels was the first maximum in row-major order, as the
    framework's pooling does; the gradient of a pixel is then gathered from the windows it is in.
    """
    height, width, channels = x.shape[1:]
    kind = np.uint8 if size < 16 else np.int32
    nobody, outside = np.iinfo(kind).max - 1, np.iinfo(kind).max  # beyond the numbers of pixels
    before = padding[0]
    reach = -(-size // strides)  # windows that a pixel is in, along one axis
    rows, columns = (-(-(length + sum(padding)) // strides) for length in (height, width))

    @B.custom_gradient
    def pool(x):
        largest = winner = None
        for k, part in enumerate(_windows(_pad(x, padding, padding, border), size, strides)):
            if largest is None:
                largest, winner = part, B.cast(B.zeros_like(part), kind.__name__)
            else:
                better = part > largest
                largest = B.where(better, part, largest)
                winner = B.where(better, kind(k), winner)
        largest, winner = B.materialise(largest), B.materialise(winner)

        def gradient(dy):
            # Pixel p of the padded map is number p % strides + a * strides in window
            # p // strides - a, for a = 0...reach - 1.
            after = [n - m for n, m in zip((rows, columns), largest.shape[1:3])]
            pads = [(reach - 1, extra) for extra in after]
            dy, chosen = _pad(dy, *pads, 0), _pad(winner, *pads, outside)
            dx = 0.0
            for a, b in np.ndindex(reach, reach):
                i, j = np.arange(strides) + a * strides, np.arange(strides) + b * strides
                number = np.add.outer(i * size, j)
                number[i >= size] = number[:, j >= size] = nobody
                number = number.astype(kind)[:, None, :, None]
                r, c = reach - 1 - a, reach - 1 - b
                index = (slice(None), slice(r, r + rows), None, slice(c, c + columns), None)
                dx = dx + B.where(chosen[index] == number, B.cast(dy[index], "float32"), 0.0)
            dx = B.reshape(dx, (-1, rows * strides, columns * strides, channels))
            return B.cast(dx[:, before : before + height, before : before + width], x.dtype)

        return largest, gradient

    return pool(x)


def average_pool(x, size):
    """(B, H, W, C) -> the same shape; each pixel is the mean of those of its window that exist."""
    if kernels.serve_pools(x, size):
        return kernels.average_pool(x)
    before, after = same(size)
    counts = [_existing(length, size) for length in x.shape[1:3]]
    weights = (1 / np.outer(*counts)).astype(np.float32)[:, :, None]

    def total(x, padding):
        windows = _windows(_pad(x, padding, padding, 0), size, 1)
        return sum(B.cast(part, "float32") for part in windows)

    @B.custom_gradient
    def pool(x):
        def gradient(dy):
            dy = B.cast(B.cast(dy, "float32") * weights, x.dtype)
            return B.cast(total(dy, (after, before)), x.dtype)

        y = B.cast(total(x, (before, after)) * weights, x.dtype)
        return B.materialise(y), gradient

    return pool(x)


def _pad(x, vertical, horizontal, value):
    """Pad H and W. Kept in memory: read from there, no window asks again where the border is."""
    pads = [[0, 0], list(vertical), list(horizontal), [0, 0]]
    return B.materialise(B.pad(x, pads, constant_values=value))


def _windows(x, size, strides):
    """Yield, in row-major order, the size * size strided slices of x that make up all windows."""
    ends = [(length - size) // strides * strides + 1 for length in x.shape[1:3]]
    for r, c in np.ndindex(size, size):
        yield x[:, r : r + ends[0] : strides, c : c + ends[1] : strides]


def _existing(length, size):
    """Return how many pixels of each window of a stride-1 'same' pool lie inside 0...length-1."""
    before, after = same(size)
    i = np.arange(length)
    return np.minimum(i + after, length - 1) - np.maximum(i - before, 0) + 1
