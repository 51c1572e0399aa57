"""Average pools and max-pools made of shifted slices, and the gradients of both.

A window of size x size pixels has as many pixels, and pixel k of all windows together is a strided
slice of the padded map. A pool adds up these slices, or takes their maximum. A compiler fuses that
into one pass over the map, the gradient too, whereas the gradients of the framework's max-pools
scatter what each window gives. On a GPU, memory traffic is what pools cost. On JAX, LHC's 3 x 3
pools run as GPU kernels where src/fast/kernels.py says so; on a CPU, the framework's library has
pools that are faster.
"""

import numpy as np

from src import backend as B
from src.fast import kernels


def same(size):
    """Return the (before, after) padding that keeps the length at stride 1."""
    return (size - 1) // 2, size // 2


def query_key_pools(x, size):
    """Return (x, x, the average pool and the max-pool of x), of x (B, H, W, C).

    The pools are one array, (H * W, 2, B, C). x is returned for its two other users, so that one
    place can add up the gradients of all three.
    """
    if kernels.serve_pools(x, size):
        return kernels.pools(x)
    height, width, channels = x.shape[1:]
    pools = average_pool(x, size), max_pool(x, size, 1, same(size), float("-inf"))
    # (B, H, W, C) -> (B, H * W, C)
    pools = [B.reshape(pool, (-1, height * width, channels)) for pool in pools]
    # (2, B, H * W, C) -> (H * W, 2, B, C)
    return x, x, B.transpose(B.stack(pools), (2, 0, 1, 3))


def max_pool(x, size, strides, padding, border):
    """Return the max-pool of x: (B, H, W, C) -> (B, h, w, C).

    padding: (before, after), how many pixels of the value `border` are added along H and W.

    Each window remembers its winner: which of its pixels is the largest and, of equal ones, the
    first in row-major order, as in the framework's pools. The gradient then goes through the
    windows that a pixel may be in, and takes from each what it gave to that pixel.
    """
    if kernels.serve_cpu(x):
        return B.max_pool(_pad(x, padding, padding, border), size, strides)
    height, width, channels = x.shape[1:]
    # Winners are stored, so their type is the smallest that can number a window's pixels. Two
    # numbers that no pixel has are left for pixels and windows that do not exist.
    number_type = np.uint8 if size < 16 else np.int32
    no_pixel, no_winner = np.iinfo(number_type).max - 1, np.iinfo(number_type).max
    before = padding[0]
    reach = -(-size // strides)  # how many windows a pixel is in, along one axis
    # The padded map has rows x columns squares of strides x strides pixels.
    rows, columns = (-(-(length + sum(padding)) // strides) for length in (height, width))

    @B.custom_gradient
    def pool(x):
        largest = winner = None  # (B, h, w, C)
        for k, part in enumerate(_windows(_pad(x, padding, padding, border), size, strides)):
            if largest is None:
                largest, winner = part, B.cast(B.zeros_like(part), number_type.__name__)
            else:
                better = part > largest  # not where equal: the first one stays the winner
                largest = B.where(better, part, largest)
                winner = B.where(better, number_type(k), winner)
        largest, winner = B.materialise(largest), B.materialise(winner)

        def gradient(dy):
            # Along one axis, pixel p is in windows p // strides - a, a = 0...reach - 1, and is
            # number p % strides + a * strides there. All pixels of square (r, c) are thus in the
            # same windows, and those at the same place of their squares have the same number.
            missing = [n - m for n, m in zip((rows, columns), largest.shape[1:3])]
            pads = [(reach - 1, after) for after in missing]  # a window at every r - a and c - b
            dy, winner_padded = _pad(dy, *pads, 0), _pad(winner, *pads, no_winner)
            dx = 0.0  # (B, rows, strides, columns, strides, C)
            for a, b in np.ndindex(reach, reach):
                i, j = np.arange(strides) + a * strides, np.arange(strides) + b * strides
                number = np.add.outer(i * size, j)  # (strides, strides), in row-major order
                number[i >= size] = number[:, j >= size] = no_pixel  # beyond the window
                number = number.astype(number_type)[:, None, :, None]
                # The windows of all squares, (B, rows, 1, columns, 1, C)
                r, c = reach - 1 - a, reach - 1 - b
                index = (slice(None), slice(r, r + rows), None, slice(c, c + columns), None)
                won = winner_padded[index] == number
                dx = dx + B.where(won, B.cast(dy[index], "float32"), 0.0)
            dx = B.reshape(dx, (-1, rows * strides, columns * strides, channels))
            return B.cast(dx[:, before : before + height, before : before + width], x.dtype)

        return largest, gradient

    return pool(x)


def average_pool(x, size):
    """Return the average pool of x, both (B, H, W, C), over the pixels of a window that exist."""
    if kernels.serve_pools(x, size):
        return kernels.average_pool(x)
    if kernels.serve_cpu(x) and size % 2:  # PyTorch pads both sides alike
        return B.average_pool(x, size)
    before, after = same(size)
    counts = [_existing(length, size) for length in x.shape[1:3]]  # of H and of W
    weights = (1 / np.outer(*counts)).astype(np.float32)[:, :, None]  # (H, W, 1)

    def total(x, padding):
        windows = _windows(_pad(x, padding, padding, 0), size, 1)
        return sum(B.cast(part, "float32") for part in windows)

    @B.custom_gradient
    def pool(x):
        def gradient(dy):
            dy = B.cast(B.cast(dy, "float32") * weights, x.dtype)
            # A pixel gets the shares of the windows it is in: a sum over the mirrored window.
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
