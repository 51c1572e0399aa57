"""The backbone's parts with less memory traffic: norms, the image convolution, the max-pool.

A BatchNorm that takes its two moments in one pass reads the tensor once less forwards and once less
backwards. Layers keep the names and variables of those they stand for. On a CPU, the framework's
library does what src/fast/kernels.py says.
"""

from src import backbone, devices
from src import backend as B
from src.backbone import CONV, NORM
from src.backend import keras
from src.fast import kernels
from src.fast.pools import max_pool

layers = keras.layers


def image_norm(x):
    """As the backbone's; the convolution that follows gets the trained shift, too."""
    return ImageNorm(name="bn_data", scale=False, dtype="float32", **NORM)(x)


def image_conv(maps, filters, size, strides, name):
    """As the backbone's, of `image_norm`'s two maps."""
    return ImageConv(filters, size, strides=strides, name=name, **CONV)(*maps)


def conv(x, filters, size, strides, name):
    """As the backbone's; at stride 1 the convolution pads by itself."""
    if strides > 1:  # "same" would pad one side only
        return backbone.conv(x, filters, size, strides, name, B.Conv2D)
    return B.Conv2D(filters, size, padding="same", name=name, **CONV)(x)


def norm_relu(x, norm_name, relu_name):
    """As the backbone's, in one layer; the second keeps the name that stands for its output."""
    x = BatchNormReLU(name=norm_name, **NORM)(x)
    return layers.Activation("linear", name=relu_name)(x)


def pool(x, name):
    """As the backbone's."""
    return MaxPooling(3, strides=2, name=name)(x)


FAST = backbone.Parts(image_norm, image_conv, conv, norm_relu, pool)


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
        if training and self.trainable and kernels.serve_cpu(x):
            return self._by_cpu_library(x)
        return _affine(x, *self._scale_and_shift(x, training), self.compute_dtype)

    def _by_cpu_library(self, x):
        gamma = B.convert(self.gamma) if self.scale else B.ones_like(B.convert(self.beta))
        y, mean, variance = B.batch_norm(x, gamma, B.convert(self.beta), self.epsilon)
        self._move_averages(mean, variance)
        return y

    def _scale_and_shift(self, x, training):
        if training and self.trainable:
            x = B.cast(x, "float32")
            mean, square = devices.batch_means(x, x * x)
            variance = B.maximum(square - mean * mean, 0.0)
            self._move_averages(mean, variance)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        a = B.rsqrt(variance + self.epsilon)
        a = a * self.gamma if self.scale else a
        return a, self.beta - mean * a

    def _move_averages(self, mean, variance):
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1 - self.momentum))


class BatchNormReLU(BatchNorm):
    """BatchNorm and ReLU after it, whose gradients are two readings of (x, dy) and nothing else."""

    def call(self, x, training=None):
        if training and self.trainable and kernels.serve_cpu(x):
            return B.relu(self._by_cpu_library(x))
        return affine_relu(x, *self._scale_and_shift(x, training), self.compute_dtype)


def affine_relu(x, a, b, dtype):
    """(..., C) -> relu(a x + b), the same shape, of type `dtype`. a, b: (C,), float32."""

    @B.custom_gradient
    def run(x, a, b):
        def gradient(dy):
            dy = B.materialise(dy)
            d = _where_positive(x, a, b, dy)
            da, db = devices.batch_sums(d * B.cast(x, "float32"), d)
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

    A CPU's library convolves three channels as they are.
    """

    def build(self, images_shape, beta_shape=None):
        super().build(images_shape)

    def compute_output_shape(self, images_shape, beta_shape=None):
        batch, *lengths = images_shape[:3]
        return (batch, *((length + 1) // 2 for length in lengths), self.filters)

    def call(self, images, beta):
        @B.custom_gradient
        def share_gradient(y, of_beta):
            def gradient(dy):
                dy = B.materialise(dy)
                return dy, B.cast(B.sum(B.cast(dy, "float32"), axis=0, keepdims=True), dy.dtype)

            return y, gradient

        kernel = B.convert(self.kernel)
        return share_gradient(
            self._convolve(B.stop_gradient(images), kernel),
            self._convolve(beta, B.stop_gradient(kernel)),
        )

    def _convolve(self, x, kernel):
        """(B, H, W, C), (7, 7, C, filters) -> (B, ceil(H / 2), ceil(W / 2), filters)."""
        if kernels.serve_cpu(x):
            return B.conv(B.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]]), kernel, strides=2)
        odd = kernel.shape[2] % 2
        kernel = B.pad(kernel, [[0, 1], [0, 1], [0, odd], [0, 0]])
        return B.conv(self._fold(self._border(x)), self._fold(kernel[None])[0])

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
