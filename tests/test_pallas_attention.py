"""The GPU kernels of the attention, run by JAX's interpreter, against the formula."""

import numpy as np
import pytest

pytest.importorskip("jax")
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from src import pallas_attention  # noqa: E402

# heads, d, l, C, channels in a block: rows that fill their tiles and rows that do not
SIZES = [(2, 20, 100, 64, 64), (1, 7, 9, 16, 16), (3, 64, 70, 32, 16), (1, 25, 49, 64, 16)]
IMAGES = 3


def draw(heads, d, length, channels):
    """embedded, bias, value and its bias, residual, W, w and a gradient of the output."""
    random = np.random.RandomState(0)
    width = d + -d % 8
    exists = np.arange(width) < d
    normal = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    embedded = normal(heads, width, 2, IMAGES, channels) * exists[:, None, None, None]
    value, residual, dy = (normal(IMAGES, heads, length, channels) for _ in range(3))
    bias, kernel = normal(heads, width) * exists, 0.3 * normal(channels, channels)
    offset, value_bias = normal(channels), normal(channels)
    parts = embedded, bias, value, value_bias, residual, kernel, offset
    return [*map(jnp.asarray, parts)], jnp.asarray(dy)


def formula(embedded, bias, value, value_bias, residual, factor):
    """factor: from the scores, (B, heads, C, C), (heads, B, C)."""
    value = value + value_bias - jax.lax.stop_gradient(value_bias)  # a part of it already
    embedded = embedded + bias[:, :, None, None, None]
    scores = jnp.einsum("ndbc,ndbk->bnck", embedded[:, :, 0], embedded[:, :, 1])
    softmax = jax.nn.softmax(scores * factor(scores).transpose(1, 0, 2)[..., None], axis=-1)
    return residual + jnp.einsum("bnlk,bnck->bnlc", value, softmax)


def tempered(d, norm, *parts):
    *parts, kernel, offset = parts

    def factor(scores):
        temperature = jax.nn.sigmoid(scores.mean(-1) @ kernel + offset)  # (B, heads, C)
        return float(d) ** -(norm + temperature.transpose(1, 0, 2))

    return formula(*parts, factor)


def scaled(*parts):
    *parts, factor = parts
    return formula(*parts, lambda scores: factor)


def compare(formula, kernel, parts, dy):
    """The formula in float64: in float32 it rounds more than the kernels do."""
    with jax.enable_x64(True):
        *wide, wide_dy = (jnp.asarray(part, jnp.float64) for part in (*parts, dy))
        wanted, wanted_backward = jax.vjp(formula, *wide)
        wanted_gradients = wanted_backward(wide_dy)
    found, backward = jax.vjp(kernel, *parts)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    for found, wanted in zip(backward(dy), wanted_gradients):
        wanted = np.asarray(wanted)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found / scale, wanted / scale, atol=2e-5)


@pytest.mark.parametrize("heads, d, length, channels, block", SIZES)
def test_whole_heads(heads, d, length, channels, block):
    parts, dy = draw(heads, d, length, channels)
    compare(
        lambda *parts: tempered(d, 0.5, *parts),
        lambda *parts: pallas_attention.attend((d, 0.5), *parts),
        parts,
        dy,
    )


@pytest.mark.parametrize("heads, d, length, channels, block", SIZES)
def test_blocks(heads, d, length, channels, block, monkeypatch):
    monkeypatch.setattr(pallas_attention, "BLOCK", block)
    (*parts, _, _), dy = draw(heads, d, length, channels)
    factor = 0.2 * np.abs(np.random.RandomState(1).normal(size=(heads, IMAGES, channels)))
    parts.append(jnp.asarray(factor, jnp.float32))
    compare(scaled, pallas_attention.attend_scaled, parts, dy)
