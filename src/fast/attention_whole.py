"""LHC's attention for few channels: a program has a whole head of an image to itself.

All scores, (C, C), fit into the registers of a program, and so the temperature, which depends on
the mean scores of all queries, is computed in the same kernel. The softmax is stored for the
gradient, which then need not compute it anew.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton

from src.fast.attention_head import (
    KEY,
    QUERY,
    SUM_COLUMNS,
    Head,
    dot,
    launch,
    logit_gradient,
    over_row_tiles,
    score_factor,
    store,
    sum_small_gradients,
)
from src.fast.launch import array_like, array_of

TINY = 1e-37  # above the smallest normal number of float32, so that its logarithm is finite


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend_whole(
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
    """Return residual + softmax(q k^T / d^(norm_c + T)) v, with T = sigmoid(mean(q k^T) W + w).

    dimension: d, a float. norm_c: g, the constant part of the exponent.
    embedded: queries and keys without their bias, (heads, rows, 2, B, C), where the rows beyond d
    are zeros. bias: theirs, (heads, d), float32.
    value: with its bias, (B, heads, l, C). value_bias: (C,), which is not added again: the kernels
    take its gradient here, where its parts are at hand.
    residual: (B, heads, l, C).
    temperature_kernel, temperature_bias: W, (C, C), and w, (C,), float32.
    C: a power of two, 16...64.
    """
    inputs = _forward_inputs(embedded, bias, value, residual, temperature_kernel, temperature_bias)
    outputs = dict(y=array_like(value))
    return _launch(attend_whole_forward, inputs, outputs, dimension=dimension, norm_c=norm_c).y


class Residuals(NamedTuple):
    """What the gradient needs of the forward pass."""

    embedded: Any  # (heads, rows, 2, B, C)
    bias: Any  # (heads, d)
    value: Any  # (B, heads, l, C)
    temperature_kernel: Any  # (C, C)
    mean_scores: Any  # (heads, B, C), float32
    temperatures: Any  # (heads, B, C), float32
    # The softmax times C, less 1: 16 bits of the softmax itself would hardly tell numbers near
    # 1 / C apart.
    deviations: Any  # (heads, B, C, C), in the values' type


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
    batch, heads, _, channels = value.shape
    vectors = array_of((heads, batch, channels), jnp.float32)
    found = _launch(
        attend_whole_forward_with_residuals,
        _forward_inputs(embedded, bias, value, residual, temperature_kernel, temperature_bias),
        dict(
            y=array_like(value),
            deviations=array_of((heads, batch, channels, channels), value.dtype),
            mean_scores=vectors,
            temperatures=vectors,
        ),
        dimension=dimension,
        norm_c=norm_c,
    )
    return found.y, Residuals(
        embedded=embedded,
        bias=bias,
        value=value,
        temperature_kernel=temperature_kernel,
        mean_scores=found.mean_scores,
        temperatures=found.temperatures,
        deviations=found.deviations,
    )


def _backward(dimension, norm_c, saved, dy):
    batch, heads, _, _ = saved.value.shape
    rows = saved.embedded.shape[1]
    found = _launch(
        attend_whole_backward,
        dict(
            embedded=saved.embedded,
            value=saved.value,
            bias=saved.bias,
            temperature_kernel=saved.temperature_kernel,
            deviations=saved.deviations,
            temperatures=saved.temperatures,
            dy=dy,
        ),
        dict(
            d_embedded=array_like(saved.embedded),
            d_value=array_like(saved.value),
            d_biases=array_of((batch, heads, rows), jnp.float32),  # of each image
            d_logits=array_like(saved.mean_scores),
            d_value_biases=array_like(saved.mean_scores),
        ),
        dimension=dimension,
        norm_c=norm_c,
    )
    # Programs run at the same time: each has its own part of what images share, added up here.
    d_bias = found.d_biases.sum(0)[:, : saved.bias.shape[1]]
    small = sum_small_gradients(saved.mean_scores, found.d_logits, found.d_value_biases)
    return (
        found.d_embedded,
        d_bias,
        found.d_value,
        small.value_bias,
        dy,  # of the residual
        small.temperature_kernel,
        small.temperature_bias,
    )


attend_whole.defvjp(_forward, _backward)


def _forward_inputs(embedded, bias, value, residual, temperature_kernel, temperature_bias):
    return dict(
        embedded=embedded,
        value=value,
        bias=bias,
        temperature_kernel=temperature_kernel,
        temperature_bias=temperature_bias,
        residual=residual,
    )


def _launch(kernel, inputs, outputs, **constants):
    # All channels are one block, so a head has one program.
    channels = inputs["value"].shape[-1]
    return launch(kernel, inputs, outputs, block=channels, **constants)


def attend_whole_forward(
    embedded,
    value,
    bias,
    temperature_kernel,
    temperature_bias,
    residual,
    y,
    *,
    dimension,
    norm_c,
    shape,
):
    """Kernel of the output y where no gradient is wanted."""
    head = Head(shape)
    scores = _scores(head, embedded, bias)
    softmax = _softmax(
        head, scores, temperature_kernel, temperature_bias, dimension, norm_c
    ).softmax
    _store_output(head, softmax, value, residual, y)


def attend_whole_forward_with_residuals(
    embedded,
    value,
    bias,
    temperature_kernel,
    temperature_bias,
    residual,
    y,
    deviations,
    mean_scores,
    temperatures,
    *,
    dimension,
    norm_c,
    shape,
):
    """Kernel of the output y and of the Residuals that are not inputs."""
    head = Head(shape)
    scores = _scores(head, embedded, bias)
    found = _softmax(head, scores, temperature_kernel, temperature_bias, dimension, norm_c)
    vector = head.vector_at(head.columns)  # (C,)
    triton.store(mean_scores.at[vector], found.mean_scores)
    triton.store(temperatures.at[vector], found.temperature)
    deviation = (found.softmax * shape.channels - 1).astype(deviations.dtype)  # (C, C)
    triton.store(deviations.at[_scores_at(head)], deviation)
    _store_output(head, found.softmax, value, residual, y)


def attend_whole_backward(
    embedded,
    value,
    bias,
    temperature_kernel,
    deviations,
    temperatures,
    dy,
    d_embedded,
    d_value,
    d_biases,
    d_logits,
    d_value_biases,
    *,
    dimension,
    norm_c,
    shape,
):
    """Kernel of all gradients. d_logits: of mean(q k^T) W + w, of which T is the sigmoid."""
    head = Head(shape)
    deviation = triton.load(deviations.at[_scores_at(head)]).astype(jnp.float32)  # (C, C)
    softmax = (1 + deviation) / shape.channels  # (C, C)
    rounded = softmax.astype(value.dtype)  # (C, C), for the matrix units

    def through_values(rows, sums):
        d_softmax, dy_sums = sums
        dy_tile = head.load_value(dy, rows, head.columns)  # (rows, C)
        d_value_tile = dot(dy_tile, 1, rounded, 0)  # (rows, C)
        store(d_value, head.value_at(rows, head.columns), d_value_tile, rows.exist)
        value_tile = head.load_value(value, rows, head.columns)  # (rows, C)
        d_softmax = d_softmax + dot(dy_tile, 0, value_tile, 0)  # (C, C)
        # Matrix units sum up the rows of dy, which they have at hand.
        ones = jnp.ones((len(rows.numbers), SUM_COLUMNS), dy_tile.dtype)  # (rows, SUM_COLUMNS)
        return d_softmax, dy_sums + dot(dy_tile, 0, ones, 0)

    d_softmax = jnp.zeros((shape.channels, shape.channels), jnp.float32)
    dy_sums = jnp.zeros((shape.channels, SUM_COLUMNS), jnp.float32)
    d_softmax, dy_sums = over_row_tiles(shape.value_rows, through_values, (d_softmax, dy_sums))
    # Each of the SUM_COLUMNS columns has the same sums.
    d_value_bias = jnp.sum(softmax * (jnp.sum(dy_sums, 1) / SUM_COLUMNS)[:, None], 0)  # (C,)

    # The gradient of the scaled scores is softmax * (d_softmax - delta), where delta is the mean of
    # d_softmax, weighed by the softmax. From 16 bits, these weights add up to nearly 1, not to 1.
    delta = (jnp.sum(softmax * d_softmax, 1) / jnp.sum(softmax, 1))[:, None]  # (C, 1)
    d_scaled = _without_recomputing(lambda part: softmax * (part - delta), d_softmax)  # (C, C)
    # The gradient of log(factor) is the sum, over the keys, of d_scaled times the scaled scores.
    # These are not stored; the logarithm of the softmax is the same but for a number added to all
    # of a row, and that changes nothing, since a row of d_scaled adds up to 0.
    d_log_factor = jnp.sum(d_scaled * jnp.log(jnp.maximum(softmax, TINY)), 1)  # (C,)
    vector = head.vector_at(head.columns)  # (C,)
    temperature = triton.load(temperatures.at[vector])  # (C,)
    factor = score_factor(temperature, dimension, norm_c)  # (C,)
    d_logit = logit_gradient(d_log_factor, temperature, dimension)  # (C,)
    triton.store(d_logits.at[vector], d_logit)
    triton.store(d_value_biases.at[vector], d_value_bias)

    # The scores' gradient comes through the softmax and, for each key alike, the mean scores.
    weights = _load_temperature_kernel(head, temperature_kernel)  # (C, C)
    d_mean = jnp.sum(weights * d_logit[None], 1) / shape.channels  # (C,)
    d_scores = (d_scaled * factor[:, None] + d_mean[:, None]).astype(value.dtype)  # (C, C)

    def through_scores(rows, _):
        row_bias = head.load_bias(bias, rows)  # (rows, 1)

        def load_biased(which):
            tile = head.load_embedded(embedded, which, rows, head.columns)
            return (tile.astype(jnp.float32) + row_bias).astype(tile.dtype)  # (rows, C)

        query, key = load_biased(QUERY), load_biased(KEY)
        d_query, d_key = dot(key, 1, d_scores, 1), dot(query, 1, d_scores, 0)  # (rows, C)
        for which, gradient in ((QUERY, d_query), (KEY, d_key)):
            store(d_embedded, head.embedded_at(which, rows, head.columns), gradient, rows.exist)
        # In (B, heads, rows): queries and keys share their bias.
        offsets = (
            head.image * shape.heads + head.head
        ) * shape.embedded_rows + rows.numbers  # (rows,)
        triton.store(d_biases.at[offsets], jnp.sum(d_query + d_key, 1), mask=rows.exist)
        return 0

    over_row_tiles(shape.embedded_rows, through_scores, 0)


class _Softmax(NamedTuple):
    mean_scores: Any  # (C,), of each query
    temperature: Any  # (C,), T of each query
    softmax: Any  # (queries, keys)


def _scores(head, embedded, bias):
    """Return (q + b)^T (k + b), (queries, keys), as q^T k + q^T b + b^T k + b^T b.

    So the matrix units get q and k as they were loaded, and nothing is added to all of them.
    """

    def add_rows(rows, sums):
        scores, query_bias, key_bias, bias_bias = sums
        query, key = (
            head.load_embedded(embedded, which, rows, head.columns) for which in (QUERY, KEY)
        )  # (rows, C)
        row_bias = head.load_bias(bias, rows)  # (rows, 1)
        # (rows, SUM_COLUMNS), each column the bias: a matrix, as matrix units want.
        bias_columns = jnp.broadcast_to(row_bias, (len(rows.numbers), SUM_COLUMNS))
        bias_columns = bias_columns.astype(query.dtype)
        scores = scores + dot(query, 0, key, 0)
        query_bias = query_bias + dot(query, 0, bias_columns, 0)
        key_bias = key_bias + dot(key, 0, bias_columns, 0)
        return scores, query_bias, key_bias, bias_bias + jnp.sum(row_bias * row_bias)

    channels = head.shape.channels
    zero_columns = jnp.zeros((channels, SUM_COLUMNS), jnp.float32)
    zero_scores = jnp.zeros((channels, channels), jnp.float32)
    sums = zero_scores, zero_columns, zero_columns, jnp.float32(0)
    scores, query_bias, key_bias, bias_bias = over_row_tiles(
        head.shape.embedded_rows, add_rows, sums
    )
    # Each of the SUM_COLUMNS columns has the same numbers.
    query_bias, key_bias = (jnp.sum(part, 1) / SUM_COLUMNS for part in (query_bias, key_bias))
    return scores + (query_bias + bias_bias)[:, None] + key_bias[None]


def _softmax(head, scores, temperature_kernel, temperature_bias, dimension, norm_c):
    """Return the _Softmax of the scores and what it is computed from."""
    mean_scores = jnp.sum(scores, 1) / head.shape.channels  # (C,)
    weights = _load_temperature_kernel(head, temperature_kernel)  # (C, C)
    # A product of a vector and a matrix in float32, without matrix units, which would round.
    logit = jnp.sum(weights * mean_scores[:, None], 0)  # (C,)
    logit = logit + triton.load(temperature_bias.at[head.columns])
    temperature = 1 / (1 + jnp.exp(-logit))  # (C,)
    scaled = scores * score_factor(temperature, dimension, norm_c)[:, None]  # (C, C)
    numerators = jnp.exp(scaled - jnp.max(scaled, 1)[:, None])  # (C, C)
    shares = (1 / jnp.sum(numerators, 1))[:, None]  # (C, 1)
    softmax = _without_recomputing(lambda part: part * shares, numerators)  # (C, C)
    return _Softmax(mean_scores, temperature, softmax)


def _store_output(head, softmax, value, residual, y):
    """Fill y = v softmax^T + residual."""
    softmax = softmax.astype(value.dtype)  # (C, C)

    def store_rows(rows, _):
        value_tile = head.load_value(value, rows, head.columns)  # (rows, C)
        # As the transpose of softmax v^T, whose first factor stays in registers.
        tile = dot(softmax, 1, value_tile, 1).T  # (rows, C)
        tile = tile + head.load_value(residual, rows, head.columns)
        store(y, head.value_at(rows, head.columns), tile, rows.exist)
        return 0

    over_row_tiles(head.shape.value_rows, store_rows, 0)


def _scores_at(head):
    """Return where this head's scores are in (heads, B, C, C)."""
    return head.vector_at(head.columns)[:, None] * head.shape.channels + head.columns[None]


def _load_temperature_kernel(head, ref):
    # All of it, since this program has all channels as its columns.
    offsets = head.columns[:, None] * head.shape.channels + head.columns[None]
    return triton.load(ref.at[offsets])  # (C, C)


def _without_recomputing(function, x):
    """Return function(x), in a loop of one turn.

    Triton looks through everything but loops: it would compute function(x) anew for each layout
    of registers in which the result is used, and need registers for each.
    """
    return jax.lax.while_loop(
        lambda carry: carry[0] < 1, lambda carry: (carry[0] + 1, function(carry[1])), (0, x)
    )[1]
