"""LHC with batched matrix products and, where there are some, GPU kernels."""

from src import backend as B
from src import devices
from src.backend import keras
from src.fast import kernels, pools
from src.lhc import LHC


@keras.utils.register_keras_serializable("lhc_net")
class FastLHC(LHC):
    """The same function as LHC; arguments, shapes and names of the weights are LHC's.

    The weights of all heads are one variable, and channels stay the last axis of everything. Three
    shortcuts: one product embeds all images of a head, the mean of the scores over the keys is the
    query times the mean key, and dividing the query by the temperature divides its scores. Sums of
    gradients, temperature and softmax are computed in float32. Where there are kernels, the scores
    are not stored.
    """

    def _new_query_key(self):
        # A list of one, as LHC's is a list of many, is what saved models name the variables by.
        return [
            HeadVariables(
                self.num_heads, self.att_embed_dim, name="query_key", dtype=self.dtype_policy
            )
        ]

    def _head_variable(self, head, leaf):
        return getattr(self.query_key[0], leaf), head

    def _embed(self, slices):
        (heads,) = self.query_key
        kernel, bias = (B.cast(part, slices.dtype) for part in (heads.kernel, heads.bias))
        # (B, heads, C, l), (heads, l, d) -> (B, heads, C, d)
        return B.einsum("bncl,nld->bncd", slices, kernel) + bias[:, None]

    def call(self, x):
        # A mixed policy would round weights where they are read, and lose sums of their gradients.
        with B.stored_precision():
            return devices.per_device(self._attend, self.variables, B.cast(x, self.compute_dtype))

    def _attend(self, x):
        # residual and x: (B, H, W, C); pooled: (H * W, 2, B, C)
        residual, x, pooled = pools.query_key_pools(x, self.pool_size)
        residual = self._as_slices(residual)
        attend = kernels.attention(residual, self.att_embed_dim)
        value, value_bias = self._value(x, biased_by_kernels=attend is not None)
        embedded, bias = self._embed_pooled(pooled)
        if attend:
            y = attend(
                float(self.att_embed_dim),
                self.norm_c,
                embedded,
                bias,
                value,
                value_bias,
                residual,
                B.cast(self.temperature.kernel, "float32"),
                B.cast(self.temperature.bias, "float32"),
            )
        else:
            bias = B.pad(bias, [[0, 0], [0, embedded.shape[1] - self.att_embed_dim]])
            y = attend_stored(embedded, bias, value, residual, self._factor(embedded, bias))
        y = B.reshape(y, (-1,) + self.map_shape)  # (B, heads, l, C) -> (B, H, W, C)
        # The compiler fuses less of what follows if it sees that a kernel's output is flat.
        return B.materialise(y) if attend else y

    def _as_slices(self, x):
        """(B, H, W, C) -> (B, heads, l, C): slices are contiguous, so nothing moves in memory."""
        return B.reshape(x, (-1, self.num_heads, self._slice_length, self.map_shape[-1]))

    def _value(self, x, biased_by_kernels):
        """Return the values with their bias, (B, heads, l, C), and that bias, (C,), by itself.

        The kernels take the bias' gradient where its parts are at hand; it is not taken here then.
        """
        bias = B.cast(self.value.bias, "float32")
        value = B.conv(x, B.cast(self.value.kernel, x.dtype), padding="same")
        if biased_by_kernels:
            value = value + B.cast(B.stop_gradient(bias), x.dtype)
        else:
            value = _in_float32(lambda value: value + bias, value)
        value = self._as_slices(pools.average_pool(value, 3))
        if self.controller is not None:
            gain = B.cast(self._gain(), "float32")
            value = _in_float32(lambda value: value * gain, value)
            bias = bias * B.stop_gradient(gain)
        return value, bias

    def _embed_pooled(self, pooled):
        """Return queries and keys, (heads, rows, 2, B, C), and their bias, (heads, d), apart.

        pooled: (H * W, 2, B, C). rows: d and zeros, up to a multiple of 8, as matrix units want.
        """
        (heads,) = self.query_key
        bias, kernel = B.cast(heads.bias, "float32"), B.cast(heads.kernel, pooled.dtype)
        missing = [0, -self.att_embed_dim % 8]
        # (heads, l, d) -> (heads, l, rows) -> (heads, rows, l)
        kernel = B.transpose(B.pad(kernel, [[0, 0], [0, 0], missing]), (0, 2, 1))
        count, rows, length = kernel.shape
        # One product a head for all images: (H * W, 2, B, C) -> (heads, l, 2 * B * C)
        embedded = B.matmul(kernel, B.reshape(pooled, (count, length, -1)))
        # (heads, rows, 2 * B * C) -> (heads, rows, 2, B, C)
        return B.reshape(embedded, (count, rows, 2, -1, self.map_shape[-1])), bias

    def _factor(self, embedded, bias):
        """Return d^-(norm_c + T), (heads, B, C).

        embedded: queries and keys, (heads, rows, 2, B, C). bias: theirs, (heads, rows).
        """
        query, key = (B.cast(embedded[:, :, i], "float32") for i in range(2))
        mean_key = (B.mean(key, axis=-1) + bias[:, :, None])[..., None]  # (heads, rows, B, 1)
        # The bias apart: adding it to the queries would pass over all of them for its gradient.
        means = B.sum(query * mean_key, axis=1) + B.sum(bias[:, :, None, None] * mean_key, axis=1)
        temperature = B.cast(self.temperature(means), "float32")  # (heads, B, C)
        return B.power(float(self.att_embed_dim), -(self.norm_c + temperature))


# Saved models find a layer's variables by the name of its class, which has always been this one.
FastLHC.__name__ = "LHC"


def attend_stored(embedded, bias, value, residual, factor):
    """Return residual + softmax(q k^T * factor) v, (B, heads, l, C), by way of stored scores.

    embedded: queries and keys without their bias, (heads, rows, 2, B, C). bias: (heads, rows),
    float32. value, residual: (B, heads, l, C). factor: of each query's scores, (heads, B, C),
    float32.
    """
    embedded = B.cast(embedded, "float32") + bias[:, :, None, None, None]
    query = B.cast(embedded[:, :, 0] * factor[:, None], value.dtype)
    key = B.cast(embedded[:, :, 1], value.dtype)
    # (heads, rows, B, C) -> (B, heads, rows, C)
    query, key = (B.transpose(part, (2, 0, 1, 3)) for part in (query, key))
    scores = B.einsum("bndc,bndk->bnck", query, key)  # (B, heads, C, C)
    attention = B.cast(B.softmax(B.cast(scores, "float32"), axis=-1), value.dtype)
    return residual + B.einsum("bnlk,bnck->bnlc", value, attention)


def _in_float32(function, x):
    """Return function(x), and let gradients of what it is computed with add up in float32."""
    return B.cast(function(B.cast(x, "float32")), x.dtype)


class HeadVariables(keras.layers.Layer):
    """The variables of one Dense a head in two: kernel (heads, l, units), bias (heads, units).

    An optimizer then updates two variables instead of two a head.
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
