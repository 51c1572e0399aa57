"""What the fast numerics compute in another order than the framework's layers do.

On a GPU these operations cost memory traffic, not arithmetic. Pools made of shifted slices have
gradients that a compiler fuses into one pass over the tensor (the framework's own scatter into it);
a BatchNorm that takes its two moments in one pass reads the tensor once less forwards and
backwards. Layers keep the names and variables of those they stand for; only HeadVariables has those
of several layers in one.
"""

import math

import numpy as np

from . import backend as B
from .backend import keras

if B.NAME == "jax":
    from . import pallas_pools
    from .pallas_attention import attend_blocks, attend_whole


def same(size):
    """Return the (before, after) padding that keeps the length at stride 1."""
    return (size - 1) // 2, size // 2


def query_key_pools(x, size):
    """(B, H, W, C) -> (x, x, average pool and max pool, (H * W, 2, B, C)).

    x comes back for two users, so that all its gradients can be added in one place.
    """
    if _has_pools(x, size):
        return pallas_pools.pools(x)
    height, width, channels = x.shape[1:]
    pools = average_pool(x, size), max_pool(x, size, 1, same(size), float("-inf"))
    pools = [B.reshape(pool, (-1, height * width, channels)) for pool in pools]
    return x, x, B.transpose(B.stack(pools), (2, 0, 1, 3))


def _has_pools(x, size):
    # The compiler behind Pallas knows no GPU older than Ampere.
    return B.kernel_capability() >= 8 and size == 3 and x.shape[-1] % 16 == 0 and _counted(x.shape)


def _counted(shape):
    """Return whether kernels, which count in int32, can tell all numbers of two maps apart."""
    return 2 * math.prod(length for length in shape if length is not None) <= 2**31


def attention_kernels(value, dimension):
    """Return the function of pallas_attention that serves LHC's attention here, or None.

    value: (B, heads, l, C). dimension: d, the length of queries and keys.
    """
    *images_and_heads, length, channels = value.shape
    # Their products would round float32 to TF32, and their tiles are powers of two. They need more
    # memory on the chip than workstation cards have: A100, H100, B200 and their like.
    capability = B.kernel_capability()
    if value.dtype == "float32" or not (capability == 8 or 9 <= capability < 12):
        return None
    if channels not in (16, 32, 64, 128, 256, 512):
        return None
    longest = max(length, dimension + -dimension % 8, channels)  # of all that a head has columns of
    if not _counted((*images_and_heads, longest, channels)):
        return None
    if channels <= 64:
        return attend_whole
    return attend_blocks if max(length, dimension) <= 128 else None


def attend_stored(embedded, bias, value, residual, factor):
    """Return residual + softmax(q k^T * factor) v.

    embedded, value, residual: as for pallas_attention.attend_whole. bias: (heads, rows), float32.
    factor: of each query's scores, (heads, B, C), float32.
    """
    embedded = B.cast(embedded, "float32") + bias[:, :, None, None, None]
    query = B.cast(embedded[:, :, 0] * factor[:, None], value.dtype)
    key = B.cast(embedded[:, :, 1], value.dtype)
    # (heads, rows, B, C) -> (B, heads, rows, C)
    query, key = (B.transpose(part, (2, 0, 1, 3)) for part in (query, key))
    scores = B.einsum("bndc,bndk->bnck", query, key)
    attention = B.cast(B.softmax(B.cast(scores, "float32"), axis=-1), value.dtype)
    return residual + B.einsum("bnlk,bnck->bnlc", value, attention)


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
    if _has_pools(x, size):
        return pallas_pools.average_pool(x)
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


class HeadVariables(keras.layers.Layer):
    """The variables of one Dense a head: kernel (heads, l, units) and bias (heads, units).

    An optimizer updates two variables, not two a head.
    """

    def __init__(self, heads, units, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads
        self.units = units
        # As the Denses do: each draws its seed here, and its own numbers with it.
        self.initializers = [keras.initializers.GlorotUniform() for _ in range(heads)]

    def build(self, input_shape):
        def draw(shape, dtype=None):
            return B.stack([initializer(shape[1:], dtype) for initializer in self.initializers])

        self.kernel = self.add_weight(
            name="kernel", shape=(self.heads, input_shape[-1], self.units), initializer=draw
        )
        self.bias = self.add_weight(
            name="bias", shape=(self.heads, self.units), initializer="zeros"
        )
        super().build(input_shape)


class MaxPooling(keras.layers.Layer):
    """Max-pool of non-negative maps padded with zeros by size // 2."""

    def __init__(self, size, strides, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.strides = strides

    def call(self, x):
        return max_pool(x, self.size, self.strides, (self.size // 2,) * 2, 0.0)


class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation over all axes but the last, its moments taken in one pass, in float32.

    var = E[x^2] - E[x]^2, and y = a x + b with one a and b per channel, so that the backward pass
    needs two sums in one reading of (x, dy) and then one reading for dx.
    """

    def call(self, x, training=None):
        return _affine(x, *self._scale_and_shift(x, training), self.compute_dtype)

    def _scale_and_shift(self, x, training):
        if training and self.trainable:
            axes = tuple(range(len(x.shape) - 1))
            x = B.cast(x, "float32")
            mean = B.mean(x, axes)
            variance = B.maximum(B.mean(x * x, axes) - mean * mean, 0.0)
            for moving, value in (
                (self.moving_mean, mean),
                (self.moving_variance, variance),
            ):
                moving.assign(moving * self.momentum + value * (1 - self.momentum))
        else:
            mean, variance = self.moving_mean, self.moving_variance
        a = B.rsqrt(variance + self.epsilon)
        a = a * self.gamma if self.scale else a
        return a, self.beta - mean * a


class BatchNormReLU(BatchNorm):
    """BatchNorm and ReLU after it, whose gradients are two readings of (x, dy) and nothing else."""

    def call(self, x, training=None):
        return affine_relu(x, *self._scale_and_shift(x, training), self.compute_dtype)


def affine_relu(x, a, b, dtype):
    """(..., C) -> relu(a x + b), the same shape, of type `dtype`. a, b: (C,), float32."""

    @B.custom_gradient
    def run(x, a, b):
        def gradient(dy):
            dy = B.materialise(dy)
            d = _where_positive(x, a, b, dy)
            axes = tuple(range(len(x.shape) - 1))
            da, db = B.sum(d * B.cast(x, "float32"), axis=axes), B.sum(d, axis=axes)
            if B.NAME == "jax":
                # Where dy goes through is asked a second time: a compiler that sees that it is
                # the same would write it to memory between the sums and dx.
                d = _where_positive(B.materialise(x), a, b, B.materialise(dy))
            return B.cast(d * a, x.dtype), da, db

        return B.maximum(_affine(x, a, b, dtype), 0), gradient

    return run(x, a, b)


def _where_positive(x, a, b, dy):
    return B.where(_affine(x, a, b, dy.dtype) > 0, B.cast(dy, "float32"), 0.0)


def _affine(x, a, b, dtype):
    return B.cast(B.cast(x, "float32") * a + b, dtype)


class ImageNorm(BatchNorm):
    """BatchNorm of the images that also gives its beta: (B, H, W, C) -> the same, (1, H, W, C)."""

    def compute_output_shape(self, input_shape):
        return [input_shape, (1,) + tuple(input_shape[1:])]

    def call(self, x, training=None):
        return [super().call(x, training), B.broadcast_to(self.beta, (1,) + tuple(x.shape[1:]))]


class ImageConv(keras.layers.Conv2D):
    """7 x 7 convolution at stride 2, padded with zeros by 3, of ImageNorm's output.

    2 x 2 pixels become one with four times the channels (padded to an even number before, since
    matrix units want multiples of 8), and the kernel, enlarged to 8 x 8, 4 x 4 at stride 1.

    Of all that comes before, only beta is trained. It is the same in all images, so nothing has to
    go back through the convolution but the sum of the gradients over the batch.
    """

    def build(self, images_shape, beta_shape=None):
        super().build(images_shape)

    def compute_output_shape(self, images_shape, beta_shape=None):
        batch, *lengths = images_shape[:3]
        return (batch, *((length + 1) // 2 for length in lengths), self.filters)

    def call(self, images, beta):
        odd = self.kernel.shape[2] % 2
        kernel = B.pad(self.kernel, [[0, 1], [0, 1], [0, odd], [0, 0]])
        kernel = self._fold(kernel[None])[0]

        @B.custom_gradient
        def share_gradient(y, of_beta):
            def gradient(dy):
                dy = B.materialise(dy)
                return dy, B.cast(B.sum(B.cast(dy, "float32"), axis=0, keepdims=True), dy.dtype)

            return y, gradient

        images, beta = (self._fold(self._border(x)) for x in (B.stop_gradient(images), beta))
        return share_gradient(B.conv(images, kernel), B.conv(beta, B.stop_gradient(kernel)))

    @staticmethod
    def _border(x):
        height, width, channels = x.shape[1:]
        after = [2 * ((length - 1) // 2) + 5 - length for length in (height, width)]
        return B.pad(x, [[0, 0], *([3, extra] for extra in after), [0, channels % 2]])

    def _fold(self, x):
        """(B, 2h, 2w, C, ...) -> (B, h, w, 4C, ...)."""
        height, width, channels, *rest = x.shape[1:]
        x = B.cast(x, self.compute_dtype)
        x = B.reshape(x, (-1, height // 2, 2, width // 2, 2, channels, *rest))
        x = B.transpose(x, (0, 1, 3, 2, 4, 5, *range(6, 6 + len(rest))))
        return B.reshape(x, (-1, height // 2, width // 2, 4 * channels, *rest))
