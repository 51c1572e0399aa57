"""LHC's attention and its gradient as GPU kernels, for the fast numerics on JAX.

The (C, C) scores and their softmax stay on the chip, and are computed anew for the gradient. With
few channels, a program has one head of one image to itself, and the temperature stays there too.
With many, a program has a block of queries (or, for their gradients, of keys and values) and goes
through the others a block at a time, as FlashAttention does (arXiv 2307.08691); the mean scores,
on which the temperature depends, come before, from the mean keys.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from .pallas_launch import interpreted, run_flat

ROWS = 64  # positions of values, or numbers of an embedding, that are read at once
BLOCK = 64  # queries, or keys
ONES = 16  # columns of a matrix of ones, by which matrix units add up the rows of another
LOG2_E = math.log2(math.e)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_whole(temper, embedded, bias, value, value_bias, residual, kernel, offset):
    """Return residual + softmax(q k^T / d^(norm_c + T)) v, with T = sigmoid(mean(q k^T) W + w).

    temper: (d, norm_c). embedded: queries and keys without their bias, (heads, rows, 2, B, C),
    where rows beyond d are zeros. bias: (heads, rows), float32. value, residual: (B, heads, l, C).
    value_bias: (C,), a part of the values whose gradient is taken here, where it is at hand.
    kernel, offset: W (C, C) and w (C,), float32. C: a power of two, 16...64.
    """
    return _whole_forward(temper, embedded, bias, value, value_bias, residual, kernel, offset)[0]


def _whole_forward(temper, embedded, bias, value, value_bias, residual, kernel, offset):
    inputs = embedded, value, bias, kernel, offset
    (y,) = _launch(_forward, [*inputs, residual], [_like(value)], temper=temper)
    return y, inputs


def _whole_backward(temper, inputs, dy):
    embedded, value, bias, *_ = inputs
    batch, heads, _, channels = value.shape
    vectors = [((heads, batch, channels), jnp.float32)] * 3
    outputs = [_like(embedded), _like(value), ((batch, *bias.shape), jnp.float32), *vectors]
    d_embedded, d_value, d_bias, d_value_bias, mean, d_exponent = _launch(
        _backward, [*inputs, dy], outputs, temper=temper
    )
    d_kernel = jnp.einsum("nbc,nbk->ck", mean, d_exponent)
    d_bias, d_value_bias, d_offset = d_bias.sum(0), _total(d_value_bias), _total(d_exponent)
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
    return y, (embedded, value, kernel, mean_key, means, temperature, factor, *kept)


def _blocks_backward(temper, inputs, dy):
    embedded, value, kernel, mean_key, means, temperature, factor, queries, output, totals = inputs
    _, width, _, _, channels = embedded.shape
    d_embedded, d_factor, inners = _launch(
        _backward_queries,
        [embedded, value, queries, dy, totals, factor, output],
        [_like(embedded), _like(factor), _like(factor)],
        stages=_stages(width),
    )
    d_exponent = _exponent_gradient(d_factor, factor, temperature, temper)
    # Of each score through the mean of its query's, as if scores were multiplied by the factor.
    d_mean = d_exponent @ kernel.T / (channels * factor)
    d_embedded, d_key, d_bias = _launch(
        _backward_means,
        [d_embedded, value, queries, factor, d_mean, mean_key],
        [_like(embedded), _like(mean_key), _like(mean_key)],
        {0: 0},
        blocks=1,
    )
    # The gradients of the keys go beside those of the queries.
    d_embedded, d_value, d_value_bias = _launch(
        _backward_keys,
        [embedded, value, queries, dy, totals, inners, d_key, d_embedded],
        [_like(embedded), _like(value), _like(factor)],
        {7: 0},
    )
    d_kernel = jnp.einsum("nbc,nbk->ck", means, d_exponent)
    d_bias, d_value_bias, d_offset = _total(d_bias, 1), _total(d_value_bias), _total(d_exponent)
    return d_embedded, d_bias, d_value, d_value_bias, dy, d_kernel, d_offset


attend_blocks.defvjp(_blocks_forward, _blocks_backward)


def _factor(temperature, temper):
    """Return what T multiplies the scores by: 1 / d^(norm_c + T)."""
    dimension, norm = temper
    return jnp.exp(-math.log(dimension) * (norm + temperature))


def _exponent_gradient(d_factor, factor, temperature, temper):
    """Return the gradient of what T is the sigmoid of."""
    slope = -math.log(temper[0]) * temperature * (1 - temperature)
    return d_factor * factor * slope


def _total(vectors, kept=0):
    """Sum over all axes but the last and the first `kept`.

    In two steps: few columns would keep few of the GPU's units busy.
    """
    *kept, channels = *vectors.shape[:kept], vectors.shape[-1]
    count = vectors.size // math.prod((*kept, channels))
    together = math.gcd(count, max(1, 1024 // channels))
    parts = vectors.reshape(*kept, -1, together * channels).sum(-2)
    return parts.reshape(*kept, together, channels).sum(-2)


def _like(array):
    return array.shape, array.dtype


def _blocks(channels):
    return channels // min(channels, BLOCK)


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
        grid=(blocks or _blocks(channels), heads, batch),
        maps=maps,
        outputs=outputs,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=stages),
        input_output_aliases=same or {},
    )


class _Head:
    """One head of one image: where its numbers are. Rows are positions or embedded numbers."""

    def __init__(self, embedded, value, shape, width):
        self.embedded, self.value = embedded, value
        self.batch, self.heads, self.length, self.channels = shape
        self.width = width
        self.head, self.image = pl.program_id(1), pl.program_id(2)
        self.block = min(self.channels, BLOCK)
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

    def place_rows(self, rows):
        """Return where these rows are in an array (heads, B, rows)."""
        return (self.head * self.batch + self.image) * self.width + rows

    def load_rows(self, ref, rows, exists):
        return triton.load(ref.at[self.place_rows(rows)], mask=exists, other=0)[:, None]

    def load_bias(self, ref, rows, exists):
        return triton.load(ref.at[self.head * self.width + rows], mask=exists, other=0)[:, None]

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
            0, _blocks(self.channels), lambda i, carry: body(self.columns(i), carry), carry
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
        one = head.load_bias(bias, rows, exists)
        column = jnp.broadcast_to(one, (len(rows), ONES)).astype(query.dtype)
        scores = scores + _dot(query, 0, key, 0)
        of_query, of_key = of_query + _dot(query, 0, column, 0), of_key + _dot(key, 0, column, 0)
        return scores, of_query, of_key, squares + jnp.sum(one * one)

    columns = jnp.zeros((head.channels, ONES), jnp.float32)
    carry = jnp.zeros((head.channels,) * 2, jnp.float32), columns, columns, jnp.float32(0)
    scores, of_query, of_key, squares = _over_rows(head.width, add, carry)
    of_query, of_key = (jnp.sum(part, 1) / ONES for part in (of_query, of_key))
    return scores + (of_query + squares)[:, None] + of_key[None]


def _temper(scores, head, kernel, offset, temper):
    """Return the scores' mean, T, the factor of the scores that T makes, W, and the softmax."""
    mean = jnp.sum(scores, 1) / head.channels
    weights = triton.load(kernel.at[head.own[:, None] * head.channels + head.own[None]])
    exponent = jnp.sum(weights * mean[:, None], 0) + triton.load(offset.at[head.own])
    temperature = 1 / (1 + jnp.exp(-exponent))
    factor = _factor(temperature, temper)
    scaled = scores * factor[:, None]
    softmax = jnp.exp(scaled - jnp.max(scaled, 1)[:, None])
    softmax = softmax * (1 / jnp.sum(softmax, 1))[:, None]
    return mean, temperature, factor, weights, softmax


def _forward(embedded, value, bias, kernel, offset, residual, y, temper, **sizes):
    head = _Head(embedded, value, **sizes)
    *_, softmax = _temper(_whole_scores(head, bias), head, kernel, offset, temper)
    softmax = softmax.astype(value.dtype)

    def store(rows, exists, _):
        part = _dot(head.load_value(value, rows, exists, head.own), 1, softmax, 1)
        part = part + head.load_value(residual, rows, exists, head.own)
        _store(y, head.place_value(rows, head.own), part, exists)
        return 0

    _over_rows(head.length, store, 0)


def _backward(embedded, value, bias, kernel, offset, dy, *outputs, temper, **sizes):
    """Fill the gradients, and the mean scores, whose product with d_exponent is W's gradient."""
    d_embedded, d_value, d_bias, d_value_bias, means, d_exponents = outputs
    head = _Head(embedded, value, **sizes)
    scores = _whole_scores(head, bias)
    mean, temperature, factor, weights, softmax = _temper(scores, head, kernel, offset, temper)
    rounded = softmax.astype(value.dtype)

    def through_values(rows, exists, carry):
        d_softmax, sums = carry
        part = head.load_value(dy, rows, exists, head.own)
        d_value_part = _dot(part, 1, rounded, 0)
        _store(d_value, head.place_value(rows, head.own), d_value_part, exists)
        d_softmax = d_softmax + _dot(part, 0, head.load_value(value, rows, exists, head.own), 0)
        return d_softmax, sums + _dot(part, 0, jnp.ones((len(rows), ONES), part.dtype), 0)

    carry = jnp.zeros_like(scores), jnp.zeros((head.channels, ONES), jnp.float32)
    d_softmax, sums = _over_rows(head.length, through_values, carry)
    d_value_bias_part = jnp.sum(softmax * (jnp.sum(sums, 1) / ONES)[:, None], 0)
    d_scaled = softmax * (d_softmax - jnp.sum(softmax * d_softmax, 1)[:, None])
    d_factor = jnp.sum(d_scaled * scores, 1)
    d_exponent = _exponent_gradient(d_factor, factor, temperature, temper)
    vector = head.place_vector(head.own)
    triton.store(d_value_bias.at[vector], d_value_bias_part)
    triton.store(means.at[vector], mean)
    triton.store(d_exponents.at[vector], d_exponent)
    d_mean = jnp.sum(weights * d_exponent[None], 1) / head.channels
    d_scores = (d_scaled * factor[:, None] + d_mean[:, None]).astype(value.dtype)

    def through_scores(rows, exists, _):
        one = head.load_bias(bias, rows, exists)
        parts = (head.load_embedded(which, rows, exists, head.own) for which in (0, 1))
        query, key = ((part.astype(jnp.float32) + one).astype(part.dtype) for part in parts)
        d_query, d_key = _dot(key, 1, d_scores, 1), _dot(query, 1, d_scores, 0)
        _store(d_embedded, head.place_embedded(0, rows, head.own), d_query, exists)
        _store(d_embedded, head.place_embedded(1, rows, head.own), d_key, exists)
        place = (head.image * head.heads + head.head) * head.width + rows
        triton.store(d_bias.at[place], jnp.sum(d_query + d_key, 1), mask=exists)
        return 0

    _over_rows(head.width, through_scores, 0)


# In the blocks, queries are stored as (q + b) * factor, to the base 2. Keys have no bias: it would
# add the same number to all scores of a query, which changes neither the softmax nor, as the
# gradients of those scores add up to 0, any gradient.


def _means(embedded, value, bias, mean_keys, means, **sizes):
    """Fill the mean key of each head and image, and the mean score of each query."""
    head = _Head(embedded, value, **sizes)
    parts = _rows(head.width)
    sums = [jnp.zeros((len(rows), head.block), jnp.float32) for rows, _ in parts]
    sums = head.over_blocks(
        lambda columns, sums: [old + key for old, key in zip(sums, head.keys(columns))], sums
    )
    mean_key = []
    for (rows, exists), part in zip(parts, sums):
        mean = jnp.sum(part, 1)[:, None] / head.channels + head.load_bias(bias, rows, exists)
        triton.store(mean_keys.at[head.place_rows(rows)], mean[:, 0], mask=exists)
        mean_key.append(mean)

    def store(columns, _):
        total = jnp.zeros((head.block,), jnp.float32)
        for (rows, exists), mean in zip(parts, mean_key):
            query = head.load_embedded(0, rows, exists, columns)
            total = total + jnp.sum((query + head.load_bias(bias, rows, exists)) * mean, 0)
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
        query = head.load_embedded(0, rows, exists, head.own) + head.load_bias(bias, rows, exists)
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


def _backward_queries(embedded, value, queries, dy, totals, factor, output, *outputs, **sizes):
    """Fill also inners: for each query, the sum over the keys of softmax times its gradient."""
    d_embedded, d_factor, inners = outputs
    head = _Head(embedded, value, **sizes)
    vector = head.place_vector(head.own)
    queries, parts = head.queries(queries, head.own), head.values(dy, head.own)
    total = triton.load(totals.at[vector])[:, None]
    kept = (part.astype(jnp.float32) for part in head.values(output, head.own))
    inner = sum(jnp.sum(part * old, 0) for part, old in zip(parts, kept))
    triton.store(inners.at[vector], inner)

    def add(columns, carry):
        keys = head.keys(columns)
        softmax = _exp2(_product(queries, keys) - total)
        d_scaled = softmax * (_product(parts, head.values(value, columns)) - inner[:, None])
        d_scaled = d_scaled.astype(value.dtype)
        return [old + _dot(d_scaled, 1, key, 1) for old, key in zip(carry, keys)]

    zeros = [jnp.zeros(part.shape[::-1], jnp.float32) for part in queries]
    sums = head.over_blocks(add, zeros)  # of keys, which make the gradients of query and factor
    sums = [part.T for part in sums]
    factor = triton.load(factor.at[vector])
    d_factors = sum(jnp.sum(part * query, 0) for part, query in zip(sums, queries))
    triton.store(d_factor.at[vector], d_factors / (factor * LOG2_E))
    for (rows, exists), part in zip(_rows(head.width), sums):
        _store(d_embedded, head.place_embedded(0, rows, head.own), part * factor[None], exists)


def _backward_means(
    d_queries, value, queries, factor, d_mean, mean_keys, d_embedded, d_keys, d_bias, **sizes
):
    """Add to the queries' gradient what goes through their mean scores; fill the same of each key.

    It is the same for all keys of a head. d_bias: all that the queries' and the keys' bias gets.
    """
    head = _Head(d_queries, value, **sizes)
    parts = _rows(head.width)
    mean_key = [head.load_rows(mean_keys, *part) for part in parts]

    def add(columns, carry):
        vector = head.place_vector(columns)
        of_key = triton.load(d_mean.at[vector])
        of_query = of_key * triton.load(factor.at[vector]) * head.channels
        after = []
        for (rows, exists), mean, scaled, (to_key, to_bias) in zip(
            parts, mean_key, head.queries(queries, columns), carry
        ):
            place = head.place_embedded(0, rows, columns)
            d_query = _load(d_queries, place, exists) + mean * of_query[None]
            _store(d_embedded, place, d_query, exists)
            after.append((to_key + scaled * of_key[None], to_bias + d_query))
        return after

    zeros = [jnp.zeros((len(rows), head.block), jnp.float32) for rows, _ in parts]
    sums = head.over_blocks(add, [(zero, zero) for zero in zeros])
    for (rows, exists), (to_key, to_bias) in zip(parts, sums):
        to_key = jnp.sum(to_key, 1) / LOG2_E
        to_bias = jnp.sum(to_bias, 1) + to_key * head.channels
        triton.store(d_keys.at[head.place_rows(rows)], to_key, mask=exists)
        triton.store(d_bias.at[head.place_rows(rows)], to_bias, mask=exists)


def _backward_keys(embedded, value, queries, dy, totals, inners, d_key, _, *outputs, **sizes):
    """Keys are the rows of all matrices here, so that products take them from the registers."""
    d_embedded, d_value, d_value_bias = outputs
    head = _Head(embedded, value, **sizes)
    keys, values = head.keys(head.own), head.values(value, head.own)

    def add(columns, carry):
        d_keys, d_values = carry
        vector = head.place_vector(columns)
        total, inner = (triton.load(ref.at[vector])[None] for ref in (totals, inners))
        scaled, parts = head.queries(queries, columns), head.values(dy, columns)
        softmax = _exp2(_product(keys, scaled) - total)
        d_scaled = softmax * (_product(values, parts) - inner)
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
