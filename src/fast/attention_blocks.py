"""LHC's attention for many channels: scores and softmax are never stored, as in FlashAttention
(arXiv 2307.08691).

A program has a block of queries and goes through the keys and values a block at a time; for the
gradients of keys and values it has a block of those and goes through the queries. Scores and
softmax stay on the chip and are computed anew for the gradient. Two things differ from
FlashAttention:

The temperature divides the scores and depends on their means, so the mean scores come first, in a
kernel of their own. The mean of a query's scores is the query times the mean key.

The query is multiplied by the factor, 1 / d^(norm_c + T), and by log2(e), so that the softmax is
made of powers of 2. Only queries get the bias then: that of the keys would add the same number to
all scores of a query, which changes neither the softmax nor, as the gradients of those scores add
up to 0, any gradient. For the mean scores both have it.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from src.fast.attention_head import (
    KEY,
    QUERY,
    ROWS,
    SUM_COLUMNS,
    Head,
    Rows,
    columns_at_once,
    dot,
    launch,
    load,
    logit_gradient,
    score_factor,
    store,
    sum_small_gradients,
    tile_rows,
)
from src.fast.launch import array_like, array_of, interpreted

TERMS = 3  # numbers of bfloat16 whose sum has all bits of one of float32
LOG2_E = math.log2(math.e)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend_blocks(
    dimension,
    norm_c,
    embedded,
    bias,
    value,
    value_bias,
    residual,
    temperature_kernel,
    temperature_bias,
):
    """As `attend_whole`, but for up to 128 rows, l up to 128, and C any power of two from 16."""
    return _forward(
        dimension,
        norm_c,
        embedded,
        bias,
        value,
        value_bias,
        residual,
        temperature_kernel,
        temperature_bias,
    )[0]


class Residuals(NamedTuple):
    """What the gradient needs of the forward pass."""

    embedded: Any  # (heads, rows, 2, B, C)
    bias: Any  # (heads, d)
    value: Any  # (B, heads, l, C)
    temperature_kernel: Any  # (C, C)
    mean_keys: Any  # (heads, B, rows), float32
    mean_scores: Any  # (heads, B, C), float32
    temperatures: Any  # (heads, B, C), float32
    factors: Any  # (heads, B, C), float32: what each query's scores are multiplied by
    scaled_queries: Any  # (heads, rows, B, C): (q + b) * factor * log2(e)
    attended: Any  # (B, heads, l, C): the softmax times the values, without the residual
    log_sums: Any  # (heads, B, C), float32: log2 of the sum that a query's softmax divides by


def _forward(
    dimension,
    norm_c,
    embedded,
    bias,
    value,
    value_bias,
    residual,
    temperature_kernel,
    temperature_bias,
):
    heads, rows, _, batch, channels = embedded.shape
    vectors = array_of((heads, batch, channels), jnp.float32)
    means = launch(
        attend_blocks_means,
        dict(embedded=embedded, value=value, bias=bias),
        dict(mean_keys=array_of((heads, batch, rows), jnp.float32), mean_scores=vectors),
        # Sums of 8192 numbers take 64 registers of each of the 128 threads.
        block=columns_at_once(channels, _columns_of(8192, rows)),
        programs=1,
    )
    # A small product for all heads and images: XLA's, in float32. (heads, B, C)
    temperatures = jax.nn.sigmoid(means.mean_scores @ temperature_kernel + temperature_bias)
    factors = score_factor(temperatures, dimension, norm_c)  # (heads, B, C)
    found = launch(
        attend_blocks_forward,
        dict(embedded=embedded, value=value, bias=bias, factors=factors, residual=residual),
        dict(
            y=array_like(value),
            scaled_queries=array_of((heads, rows, batch, channels), embedded.dtype),
            attended=array_like(value),
            log_sums=vectors,
        ),
        block=columns_at_once(channels),
        stages=_stages(rows),
    )
    return found.y, Residuals(
        embedded=embedded,
        bias=bias,
        value=value,
        temperature_kernel=temperature_kernel,
        mean_keys=means.mean_keys,
        mean_scores=means.mean_scores,
        temperatures=temperatures,
        factors=factors,
        scaled_queries=found.scaled_queries,
        attended=found.attended,
        log_sums=found.log_sums,
    )


def _backward(dimension, norm_c, saved, dy):
    heads, rows, _, batch, channels = saved.embedded.shape
    shared = dict(embedded=saved.embedded, value=saved.value)
    # Scores reach the loss through the softmax and through their means. The gradients of queries
    # and keys are thus two sums, and three kernels take turns: the softmax for the queries, the
    # means for both, the softmax for the keys, which need what the means give to keys.
    of_queries = launch(
        attend_blocks_backward_queries,
        dict(
            **shared,
            scaled_queries=saved.scaled_queries,
            dy=dy,
            log_sums=saved.log_sums,
            temperatures=saved.temperatures,
            factors=saved.factors,
            attended=saved.attended,
        ),
        dict(
            d_embedded=array_like(saved.embedded),
            d_logits=array_like(saved.mean_scores),
            split_vectors=array_of((heads, 2 * TERMS, batch, channels), jnp.bfloat16),
        ),
        block=columns_at_once(channels),
        stages=_stages(rows),
        dimension=dimension,
    )
    of_means = launch(
        attend_blocks_backward_means,
        dict(
            **shared,
            bias=saved.bias,
            d_queries=of_queries.d_embedded,
            d_mean_scores=of_queries.d_logits @ saved.temperature_kernel.T,
            mean_keys=saved.mean_keys,
        ),
        dict(
            d_embedded=array_like(saved.embedded),
            d_keys=array_like(saved.mean_keys),
            d_biases=array_like(saved.mean_keys),
        ),
        block=columns_at_once(channels, _columns_of(4096, rows)),  # of two sums
        programs=1,
        aliases={"d_queries": "d_embedded"},  # added to where it is
    )
    of_keys = launch(
        attend_blocks_backward_keys,
        dict(
            **shared,
            scaled_queries=saved.scaled_queries,
            dy=dy,
            split_vectors=of_queries.split_vectors,
            d_keys=of_means.d_keys,
            d_queries=of_means.d_embedded,
        ),
        dict(
            d_embedded=array_like(saved.embedded),
            d_value=array_like(saved.value),
            d_value_biases=array_like(saved.mean_scores),
        ),
        block=columns_at_once(channels),
        # The gradients of the keys go beside those of the queries, which stay.
        aliases={"d_queries": "d_embedded"},
    )
    # Programs run at the same time: each has its own part of what images share, added up here.
    d_bias = of_means.d_biases.sum(1)[:, : saved.bias.shape[1]]
    small = sum_small_gradients(saved.mean_scores, of_queries.d_logits, of_keys.d_value_biases)
    return (
        of_keys.d_embedded,
        d_bias,
        of_keys.d_value,
        small.value_bias,
        dy,  # of the residual
        small.temperature_kernel,
        small.temperature_bias,
    )


attend_blocks.defvjp(_forward, _backward)


def _stages(rows):
    # The longer queries and keys are, the fewer programs fit on the chip with tiles loaded ahead.
    return 2 if rows > 32 else 3


def _columns_of(numbers, rows):
    """Return how many columns of queries have about this many numbers, in whole tiles of rows."""
    return numbers // (tile_rows(rows) * pl.cdiv(rows, ROWS))


class _BlockHead(Head):
    """A head whose channels are taken a block at a time.

    A matrix (rows, columns) is a list of its tiles. The rows are few here, so that all tiles of a
    block of columns fit on the chip together.
    """

    def embedded_tiles(self):
        """Return the Rows of each tile of queries or keys."""
        return Rows.of_all_tiles(self.shape.embedded_rows)

    def value_tiles(self):
        """Return the Rows of each tile of values."""
        return Rows.of_all_tiles(self.shape.value_rows)

    def scaled_query_at(self, rows, columns):
        """In (heads, rows, B, C)."""
        row = (self.head * self.shape.embedded_rows + rows.numbers) * self.shape.batch + self.image
        return row[:, None] * self.shape.channels + columns[None]  # (rows, columns)

    def mean_at(self, rows):
        """In (heads, B, rows), where each row of queries, or keys, has one number."""
        row = self.head * self.shape.batch + self.image
        return row * self.shape.embedded_rows + rows.numbers  # (rows,)

    def split_at(self, columns):
        """In (heads, 2 * TERMS, B, C): return offsets, and which rows of the tile exist there."""
        rows = jnp.arange(SUM_COLUMNS)
        row = (self.head * (2 * TERMS) + rows) * self.shape.batch + self.image
        return row[:, None] * self.shape.channels + columns[None], rows < 2 * TERMS

    def load_mean(self, means, rows):
        return triton.load(means.at[self.mean_at(rows)], mask=rows.exist, other=0)[:, None]

    def load_keys(self, embedded, columns):
        return [self.load_embedded(embedded, KEY, rows, columns) for rows in self.embedded_tiles()]

    def load_scaled_queries(self, ref, columns):
        return [
            load(ref, self.scaled_query_at(rows, columns), rows.exist)
            for rows in self.embedded_tiles()
        ]

    def load_values(self, ref, columns):
        """From the values, or another array of their shape."""
        return [self.load_value(ref, rows, columns) for rows in self.value_tiles()]

    def over_blocks(self, body, carry):
        """Return the last of carry = body(columns, carry), for each block of channels."""
        return jax.lax.fori_loop(
            0,
            self.shape.channels // self.shape.block,
            lambda block, carry: body(self.columns_of(block), carry),
            carry,
        )


def _dot_tiles(tiles_a, tiles_b):
    """Return a^T b, (columns of a, columns of b), of two matrices in tiles of the same rows."""
    return sum(dot(a, 0, b, 0) for a, b in zip(tiles_a, tiles_b))


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


def attend_blocks_means(embedded, value, bias, mean_keys, mean_scores, *, shape):
    """Kernel of the mean key of each head and image, and of the mean score of each query."""
    del value  # which tells the launch the head's shape
    head = _BlockHead(shape)
    all_rows = head.embedded_tiles()
    # Tiles are added to tiles, and the columns of a row are added up once, at last: for that,
    # threads have to exchange numbers.
    sums = [jnp.zeros((len(rows.numbers), shape.block), jnp.float32) for rows in all_rows]

    def add(columns, sums):
        return [old + key for old, key in zip(sums, head.load_keys(embedded, columns))]

    sums = head.over_blocks(add, sums)  # of (rows, columns)
    mean_key = []  # of (rows, 1)
    for rows, tile in zip(all_rows, sums):
        mean = jnp.sum(tile, 1)[:, None] / shape.channels + head.load_bias(bias, rows)
        triton.store(mean_keys.at[head.mean_at(rows)], mean[:, 0], mask=rows.exist)
        mean_key.append(mean)

    def store_means(columns, _):
        total = jnp.zeros((shape.block,), jnp.float32)  # (columns,)
        for rows, mean in zip(all_rows, mean_key):
            query = head.load_embedded(embedded, QUERY, rows, columns)  # (rows, columns)
            total = total + jnp.sum((query + head.load_bias(bias, rows)) * mean, 0)
        triton.store(mean_scores.at[head.vector_at(columns)], total)
        return 0

    head.over_blocks(store_means, 0)


def attend_blocks_forward(
    embedded, value, bias, factors, residual, y, scaled_queries, attended, log_sums, *, shape
):
    """Kernel of the output y and of what the gradient needs, for a block of queries."""
    head = _BlockHead(shape)
    vector = head.vector_at(head.columns)  # (queries,)
    factor = triton.load(factors.at[vector])[None] * LOG2_E  # (1, queries)
    query_tiles = []  # of (rows, queries)
    for rows in head.embedded_tiles():
        query = head.load_embedded(embedded, QUERY, rows, head.columns) + head.load_bias(bias, rows)
        query_tiles.append((query * factor).astype(value.dtype))
        offsets = head.scaled_query_at(rows, head.columns)
        store(scaled_queries, offsets, query_tiles[-1], rows.exist)

    # The softmax subtracts the largest score of all keys. Sums made with the largest one so far
    # shrink when a block has a larger one.
    def add(keys, sums):
        largest, denominator, outputs = sums
        scaled = _dot_tiles(query_tiles, head.load_keys(embedded, keys))  # (queries, keys)
        larger = jnp.maximum(largest, jnp.max(scaled, 1))  # (queries,)
        numerators, shrink = _exp2(scaled - larger[:, None]), _exp2(largest - larger)
        denominator = denominator * shrink + jnp.sum(numerators, 1)
        numerators = numerators.astype(value.dtype)  # (queries, keys)
        parts = [dot(numerators, 1, tile, 1) for tile in head.load_values(value, keys)]
        outputs = [old * shrink[:, None] + part for old, part in zip(outputs, parts)]
        return larger, denominator, outputs

    zeros = jnp.zeros((shape.block,), jnp.float32)  # (queries,)
    # Queries are the rows of the sums, so that a product takes the softmax from registers.
    outputs = [
        jnp.zeros((shape.block, len(rows.numbers)), jnp.float32) for rows in head.value_tiles()
    ]
    largest, denominator, outputs = head.over_blocks(add, (zeros - jnp.inf, zeros, outputs))
    triton.store(log_sums.at[vector], largest + jnp.log2(denominator))
    for rows, tile in zip(head.value_tiles(), outputs):
        tile = (tile * (1 / denominator)[:, None]).T  # (rows, queries)
        offsets = head.value_at(rows, head.columns)
        store(attended, offsets, tile, rows.exist)
        store(y, offsets, tile + head.load_value(residual, rows, head.columns), rows.exist)


def attend_blocks_backward_queries(
    embedded,
    value,
    scaled_queries,
    dy,
    log_sums,
    temperatures,
    factors,
    attended,
    d_embedded,
    d_logits,
    split_vectors,
    *,
    dimension,
    shape,
):
    """Kernel of the gradients of a block of queries, without what goes through the mean scores.

    d_logits: of mean(q k^T) W + w, of which T is the sigmoid.
    split_vectors: each query's log_sum and delta, for the kernel of the keys.
    """
    head = _BlockHead(shape)
    vector = head.vector_at(head.columns)  # (queries,)
    query_tiles = head.load_scaled_queries(scaled_queries, head.columns)  # of (rows, queries)
    dy_tiles = head.load_values(dy, head.columns)  # of (rows, queries)
    log_sum = triton.load(log_sums.at[vector])  # (queries,)
    # delta: the sum, over the keys, of softmax times its gradient. It equals the sum, over the
    # positions, of dy times what was attended, which takes no pass over the keys.
    delta = sum(
        jnp.sum(dy_tile * tile.astype(jnp.float32), 0)
        for dy_tile, tile in zip(dy_tiles, head.load_values(attended, head.columns))
    )  # (queries,)
    offsets, exist = head.split_at(head.columns)
    store(split_vectors, offsets, _split(log_sum, delta), exist)

    def add(keys, sums):
        key_tiles = head.load_keys(embedded, keys)  # of (rows, keys)
        softmax = _exp2(_dot_tiles(query_tiles, key_tiles) - log_sum[:, None])  # (queries, keys)
        d_softmax = _dot_tiles(dy_tiles, head.load_values(value, keys))  # (queries, keys)
        d_scaled = softmax * (d_softmax - delta[:, None])  # (queries, keys)
        d_scaled = d_scaled.astype(value.dtype)
        return [old + dot(d_scaled, 1, key, 1) for old, key in zip(sums, key_tiles)]

    zeros = [jnp.zeros(tile.shape[::-1], jnp.float32) for tile in query_tiles]
    # The sums of keys, weighed by d_scaled, make the gradients both of the query and of its factor.
    key_sums = head.over_blocks(add, zeros)  # of (queries, rows)
    key_sums = [tile.T for tile in key_sums]  # of (rows, queries)
    # The scaled queries have log2(e) in them, which the factor has not.
    d_log_factor = (
        sum(jnp.sum(tile * query, 0) for tile, query in zip(key_sums, query_tiles)) / LOG2_E
    )  # (queries,)
    temperature = triton.load(temperatures.at[vector])  # (queries,)
    factor = triton.load(factors.at[vector])  # (queries,)
    d_logit = logit_gradient(d_log_factor, temperature, dimension)  # (queries,)
    triton.store(d_logits.at[vector], d_logit)
    for rows, tile in zip(head.embedded_tiles(), key_sums):
        offsets = head.embedded_at(QUERY, rows, head.columns)
        store(d_embedded, offsets, tile * factor[None], rows.exist)


def attend_blocks_backward_means(
    embedded,
    value,
    bias,
    d_queries,
    d_mean_scores,
    mean_keys,
    d_embedded,
    d_keys,
    d_biases,
    *,
    shape,
):
    """Kernel of what goes through the mean scores, which are (q + b) times the mean of k + b.

    d_embedded: what the queries get, added to d_queries in its place. d_keys: what each key gets,
    the same for all keys of a head. d_biases: all that the bias of queries and keys gets.
    """
    del value  # which tells the launch the head's shape
    head = _BlockHead(shape)
    all_rows = head.embedded_tiles()
    mean_key = [head.load_mean(mean_keys, rows) for rows in all_rows]  # of (rows, 1)
    row_bias = [head.load_bias(bias, rows) for rows in all_rows]  # of (rows, 1)

    def add(columns, sums):
        d_mean_score = triton.load(d_mean_scores.at[head.vector_at(columns)])[None]  # (1, columns)
        after = []
        for rows, mean, added, (d_mean_key, d_bias) in zip(all_rows, mean_key, row_bias, sums):
            query = head.load_embedded(embedded, QUERY, rows, columns) + added  # (rows, columns)
            offsets = head.embedded_at(QUERY, rows, columns)
            d_query = load(d_queries, offsets, rows.exist) + mean * d_mean_score
            store(d_embedded, offsets, d_query, rows.exist)
            after.append((d_mean_key + query * d_mean_score, d_bias + d_query))
        return after

    zeros = [jnp.zeros((len(rows.numbers), shape.block), jnp.float32) for rows in all_rows]
    # As in the kernel of the means, tiles are added up before their columns are.
    sums = head.over_blocks(add, [(zero, zero) for zero in zeros])  # of (rows, columns)
    for rows, (d_mean_key, d_bias) in zip(all_rows, sums):
        # The mean key's gradient is shared equally by all keys.
        d_key = jnp.sum(d_mean_key, 1) / shape.channels  # (rows,)
        # Besides the queries' gradients, the bias gets those of all keys.
        d_bias = jnp.sum(d_bias, 1) + d_key * shape.channels  # (rows,)
        triton.store(d_keys.at[head.mean_at(rows)], d_key, mask=rows.exist)
        triton.store(d_biases.at[head.mean_at(rows)], d_bias, mask=rows.exist)


def attend_blocks_backward_keys(
    embedded,
    value,
    scaled_queries,
    dy,
    split_vectors,
    d_keys,
    d_queries,
    d_embedded,
    d_value,
    d_value_biases,
    *,
    shape,
):
    """Kernel of the gradients of a block of keys and of their values.

    Keys are the rows of all matrices here, so that products take them from registers.
    """
    del d_queries  # whose place d_embedded takes, with the gradients of the queries in it
    head = _BlockHead(shape)
    key_tiles = head.load_keys(embedded, head.columns)  # of (rows, keys)
    value_tiles = head.load_values(value, head.columns)  # of (rows, keys)

    def add(queries, sums):
        key_sums, value_sums = sums
        split = load(split_vectors, *head.split_at(queries))  # (SUM_COLUMNS, queries)
        query_tiles = head.load_scaled_queries(scaled_queries, queries)  # of (rows, queries)
        dy_tiles = head.load_values(dy, queries)  # of (rows, queries)
        scaled = _dot_tiles(key_tiles, query_tiles)  # (keys, queries)
        softmax = _exp2(scaled + _minus_in_each_row(LOG_SUM, split))
        d_softmax = _dot_tiles(value_tiles, dy_tiles)  # (keys, queries)
        d_scaled = softmax * (d_softmax + _minus_in_each_row(DELTA, split))
        d_scaled, softmax = d_scaled.astype(value.dtype), softmax.astype(value.dtype)
        key_sums = [old + dot(d_scaled, 1, tile, 1) for old, tile in zip(key_sums, query_tiles)]
        value_sums = [old + dot(softmax, 1, tile, 1) for old, tile in zip(value_sums, dy_tiles)]
        return key_sums, value_sums

    key_zeros = [jnp.zeros(tile.shape[::-1], jnp.float32) for tile in key_tiles]
    value_zeros = [jnp.zeros(tile.shape[::-1], jnp.float32) for tile in value_tiles]
    # Of (keys, rows), both.
    key_sums, value_sums = head.over_blocks(add, (key_zeros, value_zeros))
    d_value_bias = sum(jnp.sum(tile, 1) for tile in value_sums)  # (keys,)
    triton.store(d_value_biases.at[head.vector_at(head.columns)], d_value_bias)
    for rows, tile in zip(head.embedded_tiles(), key_sums):
        # The scaled queries have log2(e) in them, which the scaled scores have not.
        d_key = tile.T / LOG2_E + head.load_mean(d_keys, rows)  # (rows, keys)
        store(d_embedded, head.embedded_at(KEY, rows, head.columns), d_key, rows.exist)
    for rows, tile in zip(head.value_tiles(), value_sums):
        store(d_value, head.value_at(rows, head.columns), tile.T, rows.exist)


# The kernel of the keys subtracts two vectors (queries,), each from all rows of a product (keys,
# queries). Matrix units do it, by adding the product of a column of minus ones and the vector. They
# take 16 bits, so the vector is split into terms, of which each has 8 bits, the first ones first.

LOG_SUM, DELTA = 0, 1  # the two vectors


def _split(log_sum, delta):
    """Return (SUM_COLUMNS, queries), TERMS rows for each vector, which add up to all of its bits.

    The rows after those are of no use.
    """
    number, split = jnp.arange(SUM_COLUMNS)[:, None], jnp.bfloat16(0)
    rest = jnp.where(number < TERMS, log_sum[None], delta[None])  # (SUM_COLUMNS, queries)
    for k in range(TERMS):
        term = rest.astype(jnp.bfloat16)  # the first bits of what is left
        split = jnp.where(number % TERMS == k, term, split)
        rest = rest - term.astype(jnp.float32)
    return split


def _minus_in_each_row(which, split):
    """Return (keys, queries), as many keys as queries: each row is minus one of the vectors."""
    # (keys, SUM_COLUMNS): -1 for the TERMS of the vector, 0 for those of the other.
    number = jax.lax.broadcasted_iota(jnp.int32, (split.shape[-1], SUM_COLUMNS), 1)
    minus = jnp.where(number // TERMS == which, -1.0, 0.0).astype(split.dtype)
    return dot(minus, 1, split, 0)
