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


def formula(d, norm, embedded, bias, value, value_bias, residual, kernel, offset):
    value = value + value_bias - jax.lax.stop_gradient(value_bias)  # a part of it already
    embedded = embedded + bias[:, :, None, None, None]
    scores = jnp.einsum("ndbc,ndbk->bnck", embedded[:, :, 0], embedded[:, :, 1])
    temperature = jax.nn.sigmoid(scores.mean(-1) @ kernel + offset)  # (B, heads, C)
    softmax = jax.nn.softmax(scores / float(d) ** (norm + temperature)[..., None], axis=-1)
    return residual + jnp.einsum("bnlk,bnck->bnlc", value, softmax)


@pytest.mark.parametrize("attend", [pallas_attention.attend_whole, pallas_attention.attend_blocks])
@pytest.mark.parametrize("heads, d, length, channels, block", SIZES)
def test_formula(attend, heads, d, length, channels, block, monkeypatch):
    """In float64: in float32 the formula rounds more than the kernels do."""
    if attend is pallas_attention.attend_blocks:
        monkeypatch.setattr(pallas_attention, "BLOCK", block)
    parts, dy = draw(heads, d, length, channels)
    with jax.enable_x64(True):
        *wide, wide_dy = (jnp.asarray(part, jnp.float64) for part in (*parts, dy))
        wanted, wanted_backward = jax.vjp(lambda *parts: formula(d, 0.5, *parts), *wide)
        wanted_gradients = wanted_backward(wide_dy)
    found, backward = jax.vjp(lambda *parts: attend((d, 0.5), *parts), *parts)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    for found, wanted in zip(backward(dy), wanted_gradients):
        wanted = np.asarray(wanted)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found / scale, wanted / scale, atol=2e-5)
