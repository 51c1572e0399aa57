"""Local multi-Head Channel self-attention (LHC), REFERENCE.md section 5, paper section 2."""

import importlib
import numbers

from src import backend as B
from src.backend import keras

# What shapes a module; LHC_Settings.json has a list of each.
ARGUMENTS = ("num_heads", "att_embed_dim", "kernel_size", "pool_size", "norm_c")


@keras.utils.register_keras_serializable("lhc_net")
class LHC(keras.layers.Layer):
    """Local multi-Head Channel self-attention with a residual connection.

    The spatial positions are flattened and cut into `num_heads` contiguous slices of length
    l = H * W / num_heads. In each slice the C channels, vectors of length l, attend to each other:

        Q = AvgPool(x)    K = MaxPool(x)    V = AvgPool3x3(Conv(x))
        q, k = Dense_head(Q), Dense_head(K)                  one Dense(d) a head, shared by Q and K
        S = q k^T                                            (C, C)
        T = sigmoid(Dense_C(mean of S over the keys))        Dense_C shared by all heads
        A = softmax(S / d^(norm_c + T))                      over the keys, T per query
        y = A v
        output = x + y, or x + (1 + tanh(w)) y with a controller

    Args:
        num_heads: number of slices; must divide H * W.
        att_embed_dim: d, the length of queries and keys.
        kernel_size: size of the value convolution (C -> C, with bias, linear).
        pool_size: size of the pools that make queries and keys.
        norm_c: g, the constant part of the temperature's exponent.
        controller: None, or the initial value of the trainable scalar w (LHC-NetC).
        **kwargs: of every Keras layer. The sublayers have this layer's `dtype`; the temperature
            and the softmax are computed in float32 at least.

    Shapes: (B, H, W, C) -> (B, H, W, C), H, W and C fixed, channels last.

    Raises: ValueError for arguments of another kind, and for heads that do not divide H * W.

    Example:
        >>> maps = keras.layers.Input((56, 56, 64))
        >>> tuple(LHC(num_heads=8, att_embed_dim=196)(maps).shape)
        (None, 56, 56, 64)

    Reference: https://arxiv.org/abs/2111.07224
    """

    def __init__(
        self,
        num_heads,
        att_embed_dim,
        kernel_size=3,
        pool_size=3,
        norm_c=1,
        controller=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = _size("num_heads", num_heads)
        self.att_embed_dim = _size("att_embed_dim", att_embed_dim)
        self.kernel_size = _size("kernel_size", kernel_size)
        self.pool_size = _size("pool_size", pool_size)
        self.norm_c = _number("norm_c", norm_c)
        self.controller = None if controller is None else _number("controller", controller)
        self.query_key = self._new_query_key()
        # TensorFlow 2.4 adds up the gradients at x in the alphabetical order of what they come
        # from: with these names the residual (an "add"), query, value and key, as in the original.
        shared = {"dtype": self.dtype_policy, "data_format": "channels_last"}
        same = {"strides": 1, "padding": "same", **shared}
        self.query_pool = B.AveragePooling2D(self.pool_size, name="average_pool", **same)
        self.key_pool = keras.layers.MaxPooling2D(self.pool_size, name="max_pool", **same)
        self.value_pool = B.AveragePooling2D(3, name="value_pool", **same)

    def _new_query_key(self):
        """Return the layers that make queries and keys: a Dense(d) for each head."""
        return [
            keras.layers.Dense(
                self.att_embed_dim, name=f"query_key_{head}", dtype=self.dtype_policy
            )
            for head in range(self.num_heads)
        ]

    def build(self, input_shape):
        height, width, channels = input_shape[1:]
        if None in (height, width, channels) or height * width % self.num_heads:
            raise ValueError(
                f"LHC: {self.num_heads} heads need fixed H and W with H * W divisible by "
                f"{self.num_heads}, found input shape {tuple(input_shape)}"
            )
        # Variables are created in this order because their initial values are drawn in it.
        for layer in self.query_key:
            B.build(layer, (None, channels, height * width // self.num_heads))
        self.value = keras.layers.Conv2D(
            channels,
            self.kernel_size,
            padding="same",
            data_format="channels_last",
            name="conv",
            dtype=self.dtype_policy,
        )
        B.build(self.value, input_shape)
        # An exponent rounded to bfloat16 would move the temperature by 1 %.
        self.temperature = keras.layers.Dense(
            channels, activation="sigmoid", name="temperature", dtype=self._at_least_float32
        )
        B.build(self.temperature, (None, self.num_heads, channels))
        if self.controller is not None:
            self.w = self.add_weight(
                name="w", shape=(), initializer=keras.initializers.Constant(self.controller)
            )
        self.map_shape = (height, width, channels)
        super().build(input_shape)

    def call(self, x):
        x = B.cast(x, self.compute_dtype)
        attention = self.attention(x)  # (B, heads, C, C)
        value = self._slices(self.value_pool(self.value(x)))  # (B, heads, C, l)
        y = B.matmul(attention, value)  # (B, heads, C, l)
        # (B, heads, C, l) -> (B, heads, l, C) -> (B, H, W, C)
        y = B.reshape(B.transpose(y, (0, 1, 3, 2)), (-1,) + self.map_shape)
        if self.controller is not None:
            y = y * B.cast(self._gain(), y.dtype)
        return x + y

    def _gain(self):
        """Return 1 + tanh(w), from w as it is stored: a mixed policy would round it first."""
        with B.stored_precision():
            return 1.0 + B.tanh(self.w)

    def attention(self, x):
        """Return the shares A of the values: (B, H, W, C) -> (B, heads, C of queries, C of keys).

        They add up to 1 over the keys. The layer must have been built.
        """
        x = B.cast(x, self.compute_dtype)
        query = self._embed(self._slices(self.query_pool(x)))  # (B, heads, C, d)
        key = self._embed(self._slices(self.key_pool(x)))  # (B, heads, C, d)
        query, key = (B.cast(part, self._at_least_float32) for part in (query, key))
        scores = B.einsum("bncd,bnkd->bnck", query, key)  # (B, heads, C, C)
        exponent = self.norm_c + self.temperature(B.mean(scores, axis=-1))  # (B, heads, C)
        base = B.cast(float(self.att_embed_dim), exponent.dtype)
        divisor = B.power(base, exponent)  # (B, heads, C)
        shares = B.softmax(scores / divisor[..., None], axis=-1)  # (B, heads, C, C)
        return B.cast(shares, self.compute_dtype)

    def _slices(self, x):
        """Cut each channel's positions into the heads' slices: (B, H, W, C) -> (B, heads, C, l)."""
        channels = self.map_shape[-1]
        # (B, H, W, C) -> (B, heads, l, C) -> (B, heads, C, l)
        x = B.reshape(x, (-1, self.num_heads, self._slice_length, channels))
        return B.transpose(x, (0, 1, 3, 2))

    def _embed(self, slices):
        """Make queries or keys: (B, heads, C, l) -> (B, heads, C, d)."""
        return B.stack([dense(slices[:, h]) for h, dense in enumerate(self.query_key)], axis=1)

    @property
    def _slice_length(self):
        height, width, _ = self.map_shape
        return height * width // self.num_heads

    @property
    def _at_least_float32(self):
        return "float64" if self.compute_dtype == "float64" else "float32"

    @property
    def parts(self):
        """Return the sublayers that have variables, in order of creation."""
        return [*self.query_key, self.value, self.temperature]

    def named_variables(self):
        """Return {name: (variable, index)}: the weight of that name is variable[index].

        The index of a weight that is a variable of its own is `...`, which takes all of it.
        """
        leaves = ("kernel", "bias")
        named = {
            f"query_key_{head}/{leaf}": self._head_variable(head, leaf)
            for head in range(self.num_heads)
            for leaf in leaves
        }
        for name, part in (("value", self.value), ("temperature", self.temperature)):
            named.update({f"{name}/{leaf}": (getattr(part, leaf), ...) for leaf in leaves})
        if self.controller is not None:
            named["w"] = self.w, ...
        return named

    def _head_variable(self, head, leaf):
        """Return (variable, index) of a head's "kernel" (l, d) or "bias" (d,)."""
        return getattr(self.query_key[head], leaf), ...

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, self.compute_dtype)

    def get_config(self):
        config = {name: getattr(self, name) for name in (*ARGUMENTS, "controller")}
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if config.pop("numerics", "reference") == "fast":
            # Saved when this was an argument, not yet a layer of its own with its own variables.
            return importlib.import_module("src.fast.lhc").FastLHC.from_config(config)
        return super().from_config(config)


def _size(name, value):
    """Return a whole number from 1, NumPy's too, as an int."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"LHC: {name} must be a whole number from 1, found {value!r}")
    return int(value)


def _number(name, value):
    """Return a number, NumPy's too, as an int or float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"LHC: {name} must be a number, found {value!r}")
    return int(value) if isinstance(value, numbers.Integral) else float(value)
