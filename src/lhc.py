"""Local multi-Head Channel self-attention (LHC), REFERENCE.md section 5, paper section 2."""

from . import backend as B
from . import fast
from .backend import keras


def _in_float32(function, x):
    """Return function(x), and let gradients of what it is computed with add up in float32."""
    return B.cast(function(B.cast(x, "float32")), x.dtype)


@keras.utils.register_keras_serializable("lhc_net")
class LHC(keras.layers.Layer):
    """Local multi-Head Channel self-attention with a residual connection.

    The spatial positions are flattened and cut into `num_heads` contiguous slices of length
    l = H * W / num_heads. In each slice the C channels, vectors of length l, attend to each other:

        Q = AvgPool(x)    K = MaxPool(x)    V = AvgPool3x3(Conv(x))
        q, k = Dense_head(Q), Dense_head(K)                  one Dense(d) a head, shared by Q and K
        S = q k^T                                            (C, C)
        T = sigmoid(Dense_C(mean of S over the keys))        Dense_C shared by all heads
        y = softmax(S / d^(norm_c + T)) v                    softmax over the keys, T per query
        output = x + y, or x + (1 + tanh(w)) y with a controller

    Args:
        num_heads: number of slices; must divide H * W.
        att_embed_dim: d, the length of queries and keys.
        kernel_size: size of the value convolution (C -> C, with bias, linear).
        pool_size: size of the pools that make queries and keys.
        norm_c: g, the constant part of the temperature's exponent.
        controller: None, or the initial value of the trainable scalar w (LHC-NetC).
        numerics: "reference" keeps the original's order of operations (one Dense a head, bits
            equal on the paper's stack); "fast" computes the same with batched matrix products, and
            has the variables of all heads in one.

    Shapes: (B, H, W, C) -> (B, H, W, C), H, W and C fixed.

    Example:
        x = LHC(num_heads=8, att_embed_dim=196)(x)  # x: (B, 56, 56, 64)
    """

    def __init__(
        self,
        num_heads,
        att_embed_dim,
        kernel_size=3,
        pool_size=3,
        norm_c=1,
        controller=None,
        numerics="reference",
        **kwargs,
    ):
        # Sublayers follow the policy; what is read here has to stay float32 where that matters.
        # Keras would round it if the policy held here too, except within a model that is called.
        super().__init__(autocast=False, **{"dtype": "float32", **kwargs})
        sizes = dict(
            num_heads=num_heads,
            att_embed_dim=att_embed_dim,
            kernel_size=kernel_size,
            pool_size=pool_size,
        )
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"LHC: {name} must be a whole number from 1, found {value!r}")
        for name, value in (
            ("norm_c", norm_c),
            ("controller", 0 if controller is None else controller),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"LHC: {name} must be a number, found {value!r}")
        if numerics not in ("reference", "fast"):
            raise ValueError(f'LHC: numerics must be "reference" or "fast", found {numerics!r}')
        self.num_heads = num_heads
        self.att_embed_dim = att_embed_dim
        self.kernel_size = kernel_size
        self.pool_size = pool_size
        self.norm_c = norm_c
        self.controller = controller
        self.numerics = numerics
        if numerics == "fast":
            self.query_key = [fast.HeadVariables(num_heads, att_embed_dim, name="query_key")]
        else:
            names = (f"query_key_{head}" for head in range(num_heads))
            self.query_key = [keras.layers.Dense(att_embed_dim, name=name) for name in names]
        # TensorFlow 2.4 adds up the gradients at x in the alphabetical order of what they come
        # from: with these names the residual (an "add"), query, value and key, as in the original.
        same = dict(strides=1, padding="same")
        self.query_pool = keras.layers.AveragePooling2D(pool_size, name="average_pool", **same)
        self.key_pool = keras.layers.MaxPooling2D(pool_size, name="max_pool", **same)
        self.value_pool = keras.layers.AveragePooling2D(3, name="value_pool", **same)

    def build(self, input_shape):
        height, width, channels = input_shape[1:]
        if None in (height, width, channels) or height * width % self.num_heads:
            raise ValueError(
                f"LHC: {self.num_heads} heads need fixed H and W with H * W divisible by "
                f"{self.num_heads}, found input shape {tuple(input_shape)}"
            )
        length = height * width // self.num_heads
        # Variables are created in this order because their initial values are drawn in it.
        for dense in self.query_key:
            B.build(dense, (None, channels, length))
        self.value = keras.layers.Conv2D(channels, self.kernel_size, padding="same", name="conv")
        B.build(self.value, input_shape)
        # float32 whatever the policy: an exponent rounded to bfloat16 moves the temperature by 1 %.
        self.temperature = keras.layers.Dense(
            channels, activation="sigmoid", name="temperature", dtype="float32"
        )
        B.build(self.temperature, (None, self.num_heads, channels))
        if self.controller is not None:
            self.w = self.add_weight(
                name="w",
                shape=(),
                initializer=keras.initializers.Constant(self.controller),
            )
        self.spatial = (height, width, channels)
        super().build(input_shape)

    @property
    def parts(self):
        """Return the sublayers that have variables, in order of creation."""
        return [*self.query_key, self.value, self.temperature]

    def named_variables(self):
        """Return {name: (variable, index)}: of that name is variable[index], and `...` is all.

        The names are the same whether the heads' variables are stacked or not.
        """
        if self.numerics == "fast":
            heads = [(self.query_key[0], head) for head in range(self.num_heads)]
        else:
            heads = [(dense, ...) for dense in self.query_key]
        parts = {f"query_key_{head}": place for head, place in enumerate(heads)}
        parts.update(value=(self.value, ...), temperature=(self.temperature, ...))
        named = {
            f"{name}/{leaf}": (getattr(part, leaf), index)
            for name, (part, index) in parts.items()
            for leaf in ("kernel", "bias")
        }
        if self.controller is not None:
            named["w"] = self.w, ...
        return named

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, self.query_pool.compute_dtype)

    def get_config(self):
        config = super().get_config()
        for name in (
            "num_heads",
            "att_embed_dim",
            "kernel_size",
            "pool_size",
            "norm_c",
            "controller",
            "numerics",
        ):
            config[name] = getattr(self, name)
        return config

    def call(self, x):
        x = B.cast(x, self.query_pool.compute_dtype)
        gain = None
        if self.controller is not None:
            gain = 1.0 + B.tanh(self.w)
        if self.numerics == "fast":
            return self._call_fast(x, gain)
        y = self._attend(x)
        return x + (y if gain is None else y * B.cast(gain, x.dtype))

    def _query_pool(self, x):
        # On PyTorch, Keras' averages of windows of an even size count pixels that only pad them.
        if B.NAME == "torch" and self.pool_size % 2 == 0:
            return fast.average_pool(x, self.pool_size)
        return self.query_pool(x)

    def _heads(self, x):
        """(B, H, W, C) -> (B, heads, l, C): slices are contiguous, so nothing moves in memory."""
        height, width, channels = self.spatial
        return B.reshape(x, (-1, self.num_heads, height * width // self.num_heads, channels))

    def _attend(self, x):
        # (B, H, W, C) -> (B, heads, l, C) -> (B, heads, C, l)
        query, key, value = (
            B.transpose(self._heads(part), (0, 1, 3, 2))
            for part in (
                self._query_pool(x),
                self.key_pool(x),
                self.value_pool(self.value(x)),
            )
        )
        # heads x (B, C, l) -> (B, heads, C, d)
        query = B.stack([dense(query[:, h]) for h, dense in enumerate(self.query_key)], axis=1)
        key = B.stack([dense(key[:, h]) for h, dense in enumerate(self.query_key)], axis=1)
        scores = B.einsum("bncd,bnkd->bnck", query, key)  # (B, heads, C, C)
        exponent = self.norm_c + self.temperature(B.mean(scores, axis=-1))  # (B, heads, C)
        divisor = B.power(float(self.att_embed_dim), exponent)
        scores = scores / divisor[..., None]
        y = B.matmul(B.softmax(scores, axis=-1), value)  # (B, heads, C, l)
        # (B, heads, C, l) -> (B, heads, l, C) -> (B, H, W, C)
        return B.reshape(B.transpose(y, (0, 1, 3, 2)), (-1,) + self.spatial)

    def _call_fast(self, x, gain):
        """The same with batched matrix products; channels stay the last axis of everything.

        Two shortcuts: the mean of S over the keys is q times the mean key, and dividing q by the
        temperature divides S. Temperature and softmax are computed in float32. Where there are
        kernels, the scores are not stored.
        """
        residual, x, pools = fast.query_key_pools(x, self.pool_size)
        residual = self._heads(residual)
        attend = fast.attention_kernels(residual, self.att_embed_dim)
        value_bias = B.cast(self.value.bias, "float32")
        value = B.conv(x, B.cast(self.value.kernel, x.dtype), padding="same")
        if attend:  # the kernels take the bias' gradient where its parts are at hand, so not here
            value = value + B.cast(B.stop_gradient(value_bias), x.dtype)
        else:
            value = _in_float32(lambda value: value + value_bias, value)
        value = self._heads(fast.average_pool(value, 3))
        if gain is not None:
            value = _in_float32(lambda value: value * gain, value)
            value_bias = value_bias * B.stop_gradient(gain)
        embedded, bias = self._embed(pools)
        if attend:
            temper = float(self.att_embed_dim), self.norm_c
            parts = self.temperature.kernel, self.temperature.bias
            parts = (B.cast(part, "float32") for part in parts)
            y = attend(temper, embedded, bias, value, value_bias, residual, *parts)
        else:
            bias = B.pad(bias, [[0, 0], [0, embedded.shape[1] - self.att_embed_dim]])
            y = fast.attend_stored(embedded, bias, value, residual, self._factor(embedded, bias))
        y = B.reshape(y, (-1,) + self.spatial)  # (B, heads, l, C) -> (B, H, W, C)
        # The compiler fuses less of what follows if it sees that a kernel's output is flat.
        return B.materialise(y) if attend else y

    def _embed(self, pools):
        """Return queries and keys, (heads, rows, 2, B, C), and their bias, (heads, d), apart.

        pools: (H * W, 2, B, C). rows: d and zeros, up to a multiple of 8, as matrix units want.
        """
        extra = [0, -self.att_embed_dim % 8]
        (dense,) = self.query_key
        bias, kernel = B.cast(dense.bias, "float32"), B.cast(dense.kernel, pools.dtype)
        kernel = B.transpose(B.pad(kernel, [[0, 0], [0, 0], extra]), (0, 2, 1))
        heads, width, length = kernel.shape
        # One product per head for all images: (H * W, 2, B, C) -> (heads, l, 2 * B * C)
        embedded = B.matmul(kernel, B.reshape(pools, (heads, length, -1)))
        # (heads, rows, 2 * B * C) -> (heads, rows, 2, B, C)
        embedded = B.reshape(embedded, (heads, width, 2, -1, self.spatial[-1]))
        return embedded, bias

    def _factor(self, embedded, bias):
        """Return d^-(norm_c + T), (heads, B, C).

        embedded: queries and keys, (heads, rows, 2, B, C). bias: theirs, (heads, rows).
        """
        query, key = (B.cast(embedded[:, :, i], "float32") for i in range(2))
        mean_key = (B.mean(key, axis=-1) + bias[:, :, None])[..., None]  # (heads, rows, B, 1)
        # The bias apart: adding it to the queries would pass over all of them for its gradient.
        means = B.sum(query * mean_key, axis=1) + B.sum(bias[:, :, None, None] * mean_key, axis=1)
        temperature = self.temperature(means)  # (heads, B, C)
        return B.power(float(self.att_embed_dim), -(self.norm_c + temperature))
