"""LHC's attention and its gradient as GPU kernels, for the fast numerics on JAX.

With few channels, a program has one head of one image to itself, the temperature too, and keeps the
(C, C) softmax for the gradient. With many, the scores and their softmax stay on the chip and are
computed anew for the gradient: a program has a block of queries (or, for their gradients, of keys
and values) and goes through the others a block at a time, as FlashAttention does (arXiv
2307.08691); the mean scores, on which the temperature depends, come before, from the mean keys.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from src.fast.launch import interpreted, run_flat

ROWS = 64  # positions of values, or numbers of an embedding, that are read at once
BLOCK = 64  # queries, or keys
ONES = 16  # columns of a matrix of ones, by which matrix units add up the rows of another
TOGETHER = 128  # vectors of a module, one for each head and image, that a program adds up
TERMS = 3  # numbers of bfloat16 that have all bits of one of float32
LOG2_E = math.log2(math.e)
TINY = 1e-37  # above the smallest normal number of float32


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_whole(temper, embedded, bias, value, value_bias, residual, kernel, offset):
    """Return residual + softmax(q k^T / d^(norm_c + T)) v, with T = sigmoid(mean(q k^T) W + w).

    temper: (d, norm_c). embedded: queries and keys without their bias, (heads, rows, 2, B, C),
    where rows beyond d are zeros. bias: (heads, d), float32. value, residual: (B, heads, l, C).
    value_bias: (C,), a part of the values whose gradient is taken here, where it is at hand.
    kernel, offset: W (C, C) and w (C,), float32. C: a power of two, 16...64.
    """
    inputs = [embedded, value, bias, kernel, offset, residual]
    return _launch(_forward, inputs, [_like(value)], temper=temper)[0]


def _whole_forward(temper, embedded, bias, value, value_bias, residual, kernel, offset):
    batch, heads, _, channels = value.shape
    vector = (heads, batch, channels), jnp.float32
    outputs = [_like(value), ((heads, batch, channels, channels), value.dtype), vector, vector]
    inputs = [embedded, value, bias, kernel, offset, residual]
    y, above, mean, temperature = _launch(_forward, inputs, outputs, temper=temper)
    return y, (embedded, value, bias, kernel, above, temperature, mean)


def _whole_backward(temper, inputs, dy):
    *inputs, mean = inputs
    embedded, value, bias, *_ = inputs
    batch, heads, _, channels = value.shape
    rows = (batch, heads, embedded.shape[1]), jnp.float32
    outputs = [_like(embedded), _like(value), rows, _like(mean), _like(mean)]
    results = _launch(_backward, [*inputs, dy], outputs, temper=temper)
    d_embedded, d_value, d_bias, *vectors = results
    d_bias = d_bias.sum(0)[:, : bias.shape[1]]
    d_kernel, d_offset, d_value_bias = _totals(mean, *vectors)
    return d_embedded, d_bias, d_value, d_value_bias, dy, d_kernel, d_offset


attend_whole.defvjp(_whole_forward, _whole_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_blocks(temper, embedded, bias, value, value_bias, residual, kernel, offset):
    """As `attend_whole`, but up to 128 rows, l up to 128 and C any power of two."""
    return _blocks_forward(temper, embedded, bias, value, value_bias, residual, kernel, offset)[0]


def _blocks_forward(temper, embedded, bias, value, value_bias, residual, kernel, offset):
    heads, width, _, batch, channels = embedded.shape
    vector, queries = (heads, batch, channels), (heads, width, batch, channels)
    outputs = [((heads, batch, width), jnp.float32), (vector, jnp.float32)]
    mean_key, means = _launch(_means, [embedded, value, bias], outputs, blocks=1)
    temperature = jax.nn.sigmoid(means @ kernel + offset)
    factor = _factor(temperature, temper)
    outputs = [_like(value), (queries, embedded.dtype), _like(value), _like(factor)]
    inputs = [embedded, value, bias, factor, residual]
    y, *kept = _launch(_forward_blocks, inputs, outputs, stages=_stages(width))
    return y, (embedded, value, bias, kernel, mean_key, means, temperature, factor, *kept)


def _blocks_backward(temper, inputs, dy):
    embedded, value, bias, kernel, mean_key, means, *tempers, queries, output, totals = inputs
    heads, width, _, batch, channels = embedded.shape
    d_embedded, d_exponent, vectors = _launch(
        _backward_queries,
        [embedded, value, queries, dy, totals, *tempers, output],
        [_like(embedded), _like(means), ((heads, 2 * TERMS, batch, channels), jnp.bfloat16)],
        stages=_stages(width),
        temper=temper,
    )
    d_embedded, d_key, d_bias = _launch(
        _backward_means,
        [embedded, value, bias, d_embedded, d_exponent @ kernel.T, mean_key],
        [_like(embedded), _like(mean_key), _like(mean_key)],
        {3: 0},
        blocks=1,
    )
    # The gradients of the keys go beside those of the queries.
    d_embedded, d_value, d_value_bias = _launch(
        _backward_keys,
        [embedded, value, queries, dy, vectors, d_key, d_embedded],
        [_like(embedded), _like(value), _like(means)],
        {6: 0},
    )
    d_bias = d_bias.sum(1)[:, : bias.shape[1]]
    d_kernel, d_offset, d_value_bias = _totals(means, d_exponent, d_value_bias)
    return d_embedded, d_bias, d_value, d_value_bias, dy, d_kernel, d_offset


attend_blocks.defvjp(_blocks_forward, _blocks_backward)


def _factor(temperature, temper):
    """Return what T multiplies the scores by: 1 / d^(norm_c + T)."""
    dimension, norm = temper
    return jnp.exp(-math.log(dimension) * (norm + temperature))


def _exponent_gradient(d_logarithm, temperature, temper):
    """Return the gradient of what T is the sigmoid of, from that of the factor's logarithm."""
    return -math.log(temper[0]) * temperature * (1 - temperature) * d_logarithm


def _totals(means, d_exponent, d_value_bias):
    """Return the gradients of W, w and the values' bias from vectors of each head and image.

    All (heads, B, C) -> (C, C), (C,), (C,).
    """
    channels = means.shape[-1]
    count, block = means.size // channels, min(channels, BLOCK)
    parts = pl.cdiv(count, TOGETHER)
    outputs = [((parts, channels, channels), jnp.float32), ((2, parts, channels), jnp.float32)]
    d_kernel, vectors = run_flat(
        functools.partial(_add_up, count=count, channels=channels),
        grid=(channels // block, channels // block, parts),
        maps=[means, d_exponent, d_value_bias],
        outputs=outputs,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
    )
    return d_kernel.sum(0), *vectors.sum(1)


def _like(array):
    return array.shape, array.dtype


def _stages(width):
    # Of longer queries and keys, fewer programs fit on the chip with more tiles each.
    return 2 if width > 32 else 3


def _launch(body, maps, outputs, same=None, stages=3, blocks=None, **constants):
    """Run `body` for each block of channels of each head of each image.

    maps: embedded, value and others. outputs: pairs (shape, dtype). same: {a map's number: the
    number of the output that takes its place}. stages: of tiles that are loaded ahead, and one.
    blocks: 1 where a program has all channels.
    """
    embedded, value = maps[:2]
    batch, heads, _, channels = value.shape
    return run_flat(
        functools.partial(body, shape=value.shape, width=embedded.shape[1], **constants),
        grid=(blocks or channels // min(channels, BLOCK), heads, batch),
        maps=maps,
        outputs=outputs,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=stages),
        input_output_aliases=same or {},
    )


class _Head:
    """One head of one image: where its numbers are. Rows are positions or embedded numbers."""

    def __init__(self, embedded, value, shape, width, block=None):
        self.embedded, self.value = embedded, value
        self.batch, self.heads, self.length, self.channels = shape
        self.width = width
        self.head, self.image = pl.program_id(1), pl.program_id(2)
        self.block = min(self.channels, block or BLOCK)
        self.own = self.columns(pl.program_id(0))

    def columns(self, block):
        return block * self.block + jnp.arange(self.block)

    def place_embedded(self, which, rows, columns):
        """Return where these rows of the queries (0) or keys (1) are, (rows, columns)."""
        row = (self.head * self.width + rows) * 2 + which
        return (row * self.batch + self.image)[:, None] * self.channels + columns[None]

    def place_value(self, rows, columns):
        row = (self.image * self.heads + self.head) * self.length + rows
        return row[:, None] * self.channels + columns[None]

    def place_vector(self, columns):
        """Return where these columns are in an array (heads, B, C)."""
        return (self.head * self.batch + self.image) * self.channels + columns

    def place_query(self, rows, columns):
        """Return where these rows of queries without keys are, (rows, columns)."""
        row = (self.head * self.width + rows) * self.batch + self.image
        return row[:, None] * self.channels + columns[None]

    def place_split(self, columns):
        """Return where two vectors are that were split, (ONES, columns), and which rows exist."""
        terms, rows = 2 * TERMS, jnp.arange(ONES)
        row = (self.head * terms + rows) * self.batch + self.image
        return row[:, None] * self.channels + columns[None], rows < terms

    def place_rows(self, rows):
        """Return where these rows are in an array (heads, B, rows)."""
        return (self.head * self.batch + self.image) * self.width + rows

    def place_square(self):
        """Return where the scores of all queries and keys are in an array (heads, B, C, C)."""
        return self.place_vector(self.own)[:, None] * self.channels + self.own[None]

    def load_square(self, ref):
        """Return an array (C, C)."""
        return triton.load(ref.at[self.own[:, None] * self.channels + self.own[None]])

    def load_rows(self, ref, rows, exists):
        return triton.load(ref.at[self.place_rows(rows)], mask=exists, other=0)[:, None]

    def load_bias(self, ref, rows):
        count = ref.shape[0] // self.heads  # of an embedding's numbers, without those that pad it
        place = self.head * count + rows
        return triton.load(ref.at[place], mask=rows < count, other=0)[:, None]

    def load_embedded(self, which, rows, exists, columns):
        return _load(self.embedded, self.place_embedded(which, rows, columns), exists)

    def load_value(self, ref, rows, exists, columns):
        return _load(ref, self.place_value(rows, columns), exists)

    def keys(self, columns):
        return [self.load_embedded(1, *rows, columns) for rows in _rows(self.width)]

    def queries(self, ref, columns):
        places = ((self.place_query(rows, columns), exists) for rows, exists in _rows(self.width))
        return [_load(ref, *place) for place in places]

    def values(self, ref, columns):
        return [self.load_value(ref, *rows, columns) for rows in _rows(self.length)]

    def over_blocks(self, body, carry):
        """Carry on through body(columns, carry) for all blocks of channels."""
        return jax.lax.fori_loop(
            0, self.channels // self.block, lambda i, carry: body(self.columns(i), carry), carry
        )


def _step(count):
    return min(ROWS, max(16, pl.next_power_of_2(count)))


def _rows(count):
    """Return (the numbers of the rows that are taken together, which of them exist), for all."""
    numbers = (start + jnp.arange(_step(count)) for start in range(0, count, _step(count)))
    return [(part, part < count) for part in numbers]


def _over_rows(count, body, carry):
    """Carry on through body(numbers, exists, carry) for all rows."""

    def run(index, carry):
        numbers = index * _step(count) + jnp.arange(_step(count))
        return body(numbers, numbers < count, carry)

    return jax.lax.fori_loop(0, pl.cdiv(count, _step(count)), run, carry)


def _dot(a, axis_a, b, axis_b):
    """Return the float32 product of two matrices, summed over these axes of theirs."""
    contract = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, contract, preferred_element_type=jnp.float32)


def _product(parts_a, parts_b):
    """Return a^T b of two matrices in parts of some rows each."""
    return sum(_dot(a, 0, b, 0) for a, b in zip(parts_a, parts_b))


def _exp2(x):
    """Return 2 to the power of x, 0 instead of subnormal numbers, in one instruction."""
    if interpreted():
        return jnp.exp2(x)
    (y,) = triton.elementwise_inline_asm(
        "ex2.approx.ftz.f32 $0, $1;",
        args=[x],
        constraints="=f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
    )
    return y


def _load(ref, place, exists):
    return triton.load(ref.at[place], mask=exists[:, None], other=0)


def _store(ref, place, part, exists):
    triton.store(ref.at[place], part.astype(ref.dtype), mask=exists[:, None])


def _whole_scores(head, bias):
    """Return (q + b)^T (k + b), its terms apart: q and k go to the matrix units as they are."""

    def add(rows, exists, carry):
        scores, of_query, of_key, squares = carry
        query, key = (head.load_embedded(which, rows, exists, head.own) for which in (0, 1))
        one = head.load_bias(bias, rows)
        column = jnp.broadcast_to(one, (len(rows), ONES)).astype(query.dtype)
        scores = scores + _dot(query, 0, key, 0)
        of_query, of_key = of_query + _dot(query, 0, column, 0), of_key + _dot(key, 0, column, 0)
        return scores, of_query, of_key, squares + jnp.sum(one * one)

    columns = jnp.zeros((head.channels, ONES), jnp.float32)
    carry = jnp.zeros((head.channels,) * 2, jnp.float32), columns, columns, jnp.float32(0)
    scores, of_query, of_key, squares = _over_rows(head.width, add, carry)
    of_query, of_key = (jnp.sum(part, 1) / ONES for part in (of_query, of_key))
    return scores + (of_query + squares)[:, None] + of_key[None]


def _once(function, x):
    """Return function(x), computed once.

    Triton, which looks through everything but this, would compute it for each layout in which it is
    used, and need the registers for that.
    """
    return jax.lax.while_loop(
        lambda carry: carry[0] < 1, lambda carry: (carry[0] + 1, function(carry[1])), (0, x)
    )[1]


def _temper(scores, head, kernel, offset, temper):
    """Return the scores' mean, T, and the softmax."""
    mean = jnp.sum(scores, 1) / head.channels
    weights = head.load_square(kernel)
    exponent = jnp.sum(weights * mean[:, None], 0) + triton.load(offset.at[head.own])
    temperature = 1 / (1 + jnp.exp(-exponent))
    scaled = scores * _factor(temperature, temper)[:, None]
    softmax = jnp.exp(scaled - jnp.max(scaled, 1)[:, None])
    share = (1 / jnp.sum(softmax, 1))[:, None]
    return mean, temperature, _once(lambda part: part * share, softmax)


def _forward(embedded, value, bias, kernel, offset, residual, y, *kept, temper, **sizes):
    """Fill also, where a gradient is wanted, the mean scores, T, and the softmax times C, less 1.

    Stored so because 16 bits of the softmax itself would hardly tell numbers near 1 / C apart.
    """
    head = _Head(embedded, value, **sizes)
    scores = _whole_scores(head, bias)
    mean, temperature, softmax = _temper(scores, head, kernel, offset, temper)
    if kept:
        aboves, means, temperatures = kept
        vector = head.place_vector(head.own)
        triton.store(means.at[vector], mean)
        triton.store(temperatures.at[vector], temperature)
        above = (softmax * head.channels - 1).astype(aboves.dtype)
        triton.store(aboves.at[head.place_square()], above)
    softmax = softmax.astype(value.dtype)

    def store(rows, exists, _):
        part = _dot(softmax, 1, head.load_value(value, rows, exists, head.own), 1).T
        part = part + head.load_value(residual, rows, exists, head.own)
        _store(y, head.place_value(rows, head.own), part, exists)
        return 0

    _over_rows(head.length, store, 0)


def _backward(embedded, value, bias, kernel, aboves, temperatures, dy, *outputs, temper, **sizes):
    """Fill the gradients. d_exponents: of what T is the sigmoid of."""
    d_embedded, d_value, d_bias, d_exponents, d_value_biases = outputs
    head = _Head(embedded, value, **sizes)
    above = triton.load(aboves.at[head.place_square()]).astype(jnp.float32)
    softmax = (1 + above) / head.channels
    rounded = softmax.astype(value.dtype)

    def through_values(rows, exists, carry):
        d_softmax, sums = carry
        part = head.load_value(dy, rows, exists, head.own)
        d_value_part = _dot(part, 1, rounded, 0)
        _store(d_value, head.place_value(rows, head.own), d_value_part, exists)
        d_softmax = d_softmax + _dot(part, 0, head.load_value(value, rows, exists, head.own), 0)
        return d_softmax, sums + _dot(part, 0, jnp.ones((len(rows), ONES), part.dtype), 0)

    carry = (jnp.zeros((head.channels, count), jnp.float32) for count in (head.channels, ONES))
    d_softmax, sums = _over_rows(head.length, through_values, tuple(carry))
    d_value_bias = jnp.sum(softmax * (jnp.sum(sums, 1) / ONES)[:, None], 0)
    # As it was rounded, the softmax does not quite add up to 1.
    inner = (jnp.sum(softmax * d_softmax, 1) / jnp.sum(softmax, 1))[:, None]
    d_scaled = _once(lambda part: softmax * (part - inner), d_softmax)
    # A row of d_scaled adds up to 0, so that the scores may have any number added.
    d_logarithm = jnp.sum(d_scaled * jnp.log(jnp.maximum(softmax, TINY)), 1)
    vector = head.place_vector(head.own)
    temperature = triton.load(temperatures.at[vector])
    factor = _factor(temperature, temper)
    d_exponent = _exponent_gradient(d_logarithm, temperature, temper)
    triton.store(d_exponents.at[vector], d_exponent)
    triton.store(d_value_biases.at[vector], d_value_bias)
    d_mean = jnp.sum(head.load_square(kernel) * d_exponent[None], 1) / head.channels
    d_scores = (d_scaled * factor[:, None] + d_mean[:, None]).astype(value.dtype)

    def through_scores(rows, exists, _):
        one = head.load_bias(bias, rows)
        parts = (head.load_embedded(which, rows, exists, head.own) for which in (0, 1))
        query, key = ((part.astype(jnp.float32) + one).astype(part.dtype) for part in parts)
        d_query, d_key = _dot(key, 1, d_scores, 1), _dot(query, 1, d_scores, 0)
        _store(d_embedded, head.place_embedded(0, rows, head.own), d_query, exists)
        _store(d_embedded, head.place_embedded(1, rows, head.own), d_key, exists)
        place = (head.image * head.heads + head.head) * head.width + rows
        triton.store(d_bias.at[place], jnp.sum(d_query + d_key, 1), mask=exists)
        return 0

    _over_rows(head.width, through_scores, 0)


def _add_up(means, d_exponents, d_value_biases, kernels, totals, *, count, channels):
    """Add up TOGETHER of the vectors: products of means and d_exponents, and two plain sums."""
    block, part = min(channels, BLOCK), pl.program_id(2)
    left, right = (pl.program_id(axis) * block + jnp.arange(block) for axis in (0, 1))

    def add(index, carry):
        kernel, to_offset, to_bias = carry
        rows = part * TOGETHER + index * ROWS + jnp.arange(ROWS)
        mean = _load(means, rows[:, None] * channels + left[None], rows < count)
        place = rows[:, None] * channels + right[None]
        d_exponent, d_value_bias = (
            _load(ref, place, rows < count) for ref in (d_exponents, d_value_biases)
        )
        return kernel + _dot(mean, 0, d_exponent, 0), to_offset + d_exponent, to_bias + d_value_bias

    zeros, tile = jnp.zeros((ROWS, block), jnp.float32), jnp.zeros((block, block), jnp.float32)
    kernel, *sums = jax.lax.fori_loop(0, TOGETHER // ROWS, add, (tile, zeros, zeros))
    place = (part * channels + left[:, None]) * channels + right[None]
    triton.store(kernels.at[place], kernel)
    for which, rows in enumerate(sums):
        place = (which * pl.num_programs(2) + part) * channels + right
        first = jnp.full(right.shape, pl.program_id(0) == 0)
        triton.store(totals.at[place], jnp.sum(rows, 0), mask=first)


# In the blocks, queries are stored as (q + b) * factor, to the base 2. Keys have no bias: it would
# add the same number to all scores of a query, which changes neither the softmax nor, as the
# gradients of those scores add up to 0, any gradient.


def _wide(numbers, width):
    """Return how many columns of an embedding have `numbers` numbers, in whole tiles of rows."""
    return numbers // (_step(width) * pl.cdiv(width, ROWS))


def _means(embedded, value, bias, mean_keys, means, **sizes):
    """Fill the mean key of each head and image, and the mean score of each query."""
    head = _Head(embedded, value, block=_wide(8192, sizes["width"]), **sizes)
    parts = _rows(head.width)
    sums = [jnp.zeros((len(rows), head.block), jnp.float32) for rows, _ in parts]
    sums = head.over_blocks(
        lambda columns, sums: [old + key for old, key in zip(sums, head.keys(columns))], sums
    )
    mean_key = []
    for (rows, exists), part in zip(parts, sums):
        mean = jnp.sum(part, 1)[:, None] / head.channels + head.load_bias(bias, rows)
        triton.store(mean_keys.at[head.place_rows(rows)], mean[:, 0], mask=exists)
        mean_key.append(mean)

    def store(columns, _):
        total = jnp.zeros((head.block,), jnp.float32)
        for (rows, exists), mean in zip(parts, mean_key):
            query = head.load_embedded(0, rows, exists, columns)
            total = total + jnp.sum((query + head.load_bias(bias, rows)) * mean, 0)
        triton.store(means.at[head.place_vector(columns)], total)
        return 0

    head.over_blocks(store, 0)


def _forward_blocks(
    embedded, value, bias, factor, residual, y, scaled_queries, output, totals, **sizes
):
    """Fill also the softmax' part of y, and the logarithm (base 2) of each query's denominator."""
    head = _Head(embedded, value, **sizes)
    vector = head.place_vector(head.own)
    factor = triton.load(factor.at[vector])[None] * LOG2_E
    queries = []
    for rows, exists in _rows(head.width):
        query = head.load_embedded(0, rows, exists, head.own) + head.load_bias(bias, rows)
        queries.append((query * factor).astype(value.dtype))
        _store(scaled_queries, head.place_query(rows, head.own), queries[-1], exists)

    def add(keys, carry):
        largest, total, sums = carry
        scaled = _product(queries, head.keys(keys))
        larger = jnp.maximum(largest, jnp.max(scaled, 1))
        softmax, shrink = _exp2(scaled - larger[:, None]), _exp2(largest - larger)
        total = total * shrink + jnp.sum(softmax, 1)
        softmax = softmax.astype(value.dtype)
        parts = [_dot(softmax, 1, part, 1) for part in head.values(value, keys)]
        sums = [old * shrink[:, None] + part for old, part in zip(sums, parts)]
        return larger, total, sums

    zeros = jnp.zeros((head.block,), jnp.float32)
    sums = [jnp.zeros((head.block, len(rows)), jnp.float32) for rows, _ in _rows(head.length)]
    largest, total, sums = head.over_blocks(add, (zeros - jnp.inf, zeros, sums))
    triton.store(totals.at[vector], largest + jnp.log2(total))
    for (rows, exists), part in zip(_rows(head.length), sums):
        part = (part * (1 / total)[:, None]).T
        place = head.place_value(rows, head.own)
        _store(output, place, part, exists)
        _store(y, place, part + head.load_value(residual, rows, exists, head.own), exists)


def _backward_queries(
    embedded, value, queries, dy, totals, temperature, factor, output, *outputs, temper, **sizes
):
    """Fill also vectors: of each query its total and its inner, split.

    inner: the sum over the keys of softmax times its gradient.
    """
    d_embedded, d_exponent, vectors = outputs
    head = _Head(embedded, value, **sizes)
    vector = head.place_vector(head.own)
    queries, parts = head.queries(queries, head.own), head.values(dy, head.own)
    total = triton.load(totals.at[vector])
    kept = (part.astype(jnp.float32) for part in head.values(output, head.own))
    inner = sum(jnp.sum(part * old, 0) for part, old in zip(parts, kept))
    place, exists = head.place_split(head.own)
    _store(vectors, place, _split(total, inner), exists)

    def add(columns, carry):
        keys = head.keys(columns)
        softmax = _exp2(_product(queries, keys) - total[:, None])
        d_scaled = softmax * (_product(parts, head.values(value, columns)) - inner[:, None])
        d_scaled = d_scaled.astype(value.dtype)
        return [old + _dot(d_scaled, 1, key, 1) for old, key in zip(carry, keys)]

    zeros = [jnp.zeros(part.shape[::-1], jnp.float32) for part in queries]
    sums = head.over_blocks(add, zeros)  # of keys, which make the gradients of query and factor
    sums = [part.T for part in sums]
    d_logarithm = sum(jnp.sum(part * query, 0) for part, query in zip(sums, queries)) / LOG2_E
    temperature, factor = (triton.load(ref.at[vector]) for ref in (temperature, factor))
    part = _exponent_gradient(d_logarithm, temperature, temper)
    triton.store(d_exponent.at[vector], part)
    for (rows, exists), part in zip(_rows(head.width), sums):
        _store(d_embedded, head.place_embedded(0, rows, head.own), part * factor[None], exists)


def _backward_means(
    embedded, value, bias, d_queries, of_queries, mean_keys, d_embedded, d_keys, d_bias, **sizes
):
    """Add to the queries' gradient what goes through their mean scores; fill the same of each key.

    It is the same for all keys of a head. d_bias: all that the queries' and the keys' bias gets.
    """
    head = _Head(embedded, value, block=_wide(4096, sizes["width"]), **sizes)
    parts = _rows(head.width)
    mean_key = [head.load_rows(mean_keys, *part) for part in parts]
    own_bias = [head.load_bias(bias, rows) for rows, _ in parts]

    def add(columns, carry):
        of_query = triton.load(of_queries.at[head.place_vector(columns)])[None]
        after = []
        for (rows, exists), mean, one, (to_key, to_bias) in zip(parts, mean_key, own_bias, carry):
            query = head.load_embedded(0, rows, exists, columns) + one
            place = head.place_embedded(0, rows, columns)
            d_query = _load(d_queries, place, exists) + mean * of_query
            _store(d_embedded, place, d_query, exists)
            after.append((to_key + query * of_query, to_bias + d_query))
        return after

    zeros = [jnp.zeros((len(rows), head.block), jnp.float32) for rows, _ in parts]
    sums = head.over_blocks(add, [(zero, zero) for zero in zeros])
    for (rows, exists), (to_key, to_bias) in zip(parts, sums):
        to_key = jnp.sum(to_key, 1) / head.channels
        to_bias = jnp.sum(to_bias, 1) + to_key * head.channels
        triton.store(d_keys.at[head.place_rows(rows)], to_key, mask=exists)
        triton.store(d_bias.at[head.place_rows(rows)], to_bias, mask=exists)


def _split(first, second):
    """Return rows of bfloat16, three for each of two vectors, whose sum is all of its bits.

    Matrix units, which add them up, then subtract a vector from all rows of a product.
    """
    number, split = jnp.arange(ONES)[:, None], jnp.bfloat16(0)
    rest = jnp.where(number < TERMS, first[None], second[None])
    for k in range(TERMS):
        term = rest.astype(jnp.bfloat16)
        split = jnp.where(number % TERMS == k, term, split)
        rest = rest - term.astype(jnp.float32)
    return split


def _less(which, split):
    """Return minus the vector `which` of those that were split, as often as there are columns."""
    number = jax.lax.broadcasted_iota(jnp.int32, (split.shape[-1], ONES), 1)
    minus = jnp.where(number // TERMS == which, -1.0, 0.0).astype(split.dtype)
    return _dot(minus, 1, split, 0)


def _backward_keys(embedded, value, queries, dy, vectors, d_key, _, *outputs, **sizes):
    """Keys are the rows of all matrices here, so that products take them from the registers."""
    d_embedded, d_value, d_value_bias = outputs
    head = _Head(embedded, value, **sizes)
    keys, values = head.keys(head.own), head.values(value, head.own)

    def add(columns, carry):
        d_keys, d_values = carry
        split = _load(vectors, *head.place_split(columns))
        scaled, parts = head.queries(queries, columns), head.values(dy, columns)
        softmax = _exp2(_product(keys, scaled) + _less(0, split))
        d_scaled = softmax * (_product(values, parts) + _less(1, split))
        d_scaled, softmax = d_scaled.astype(value.dtype), softmax.astype(value.dtype)
        d_keys = [old + _dot(d_scaled, 1, part, 1) for old, part in zip(d_keys, scaled)]
        d_values = [old + _dot(softmax, 1, part, 1) for old, part in zip(d_values, parts)]
        return d_keys, d_values

    d_keys, d_values = (
        [jnp.zeros(part.shape[::-1], jnp.float32) for part in parts] for parts in (keys, values)
    )
    d_keys, d_values = head.over_blocks(add, (d_keys, d_values))
    d_bias = sum(jnp.sum(part, 1) for part in d_values)
    triton.store(d_value_bias.at[head.place_vector(head.own)], d_bias)
    for (rows, exists), part in zip(_rows(head.width), d_keys):
        part = part.T / LOG2_E + head.load_rows(d_key, rows, exists)
        _store(d_embedded, head.place_embedded(1, rows, head.own), part, exists)
    for (rows, exists), part in zip(_rows(head.length), d_values):
        _store(d_value, head.place_value(rows, head.own), part.T, exists)
