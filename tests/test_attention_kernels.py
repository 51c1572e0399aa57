"""The GPU kernels of the attention, run by JAX's interpreter, against the formula."""

import numpy as np
import pytest

pytest.importorskip("jax")
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from src.fast import attention_head  # noqa: E402
from src.fast.attention_blocks import attend_blocks  # noqa: E402
from src.fast.attention_whole import attend_whole  # noqa: E402

WHOLE, BLOCKS = attend_whole, attend_blocks
# heads, d, l, C, channels in a block: rows that fill their tiles and rows that do not
SIZES = [(2, 20, 100, 64, 64), (1, 7, 9, 16, 16), (3, 64, 70, 32, 16), (1, 25, 49, 64, 16)]
CASES = [(attend, *sizes) for attend in (WHOLE, BLOCKS) for sizes in SIZES]
CASES += [(WHOLE, 1, 196, 100, 64, 64), (BLOCKS, 1, 100, 98, 128, 64), (BLOCKS, 1, 25, 49, 512, 64)]
IMAGES = 3


def draw(heads, d, length, channels):
    """embedded, bias, value and its bias, residual, W, w and a gradient of the output."""
    random = np.random.RandomState(0)
    width = d + -d % 8
    exists = np.arange(width) < d
    normal = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    embedded = normal(heads, width, 2, IMAGES, channels) * exists[:, None, None, None]
    embedded *= (20 / d) ** 0.5 if d > 64 else 1  # so that the temperature does not saturate
    value, residual, dy = (normal(IMAGES, heads, length, channels) for _ in range(3))
    bias, temperature_kernel = normal(heads, d), 0.3 * normal(channels, channels)
    temperature_kernel *= min(1, 64 / channels)
    temperature_bias, value_bias = normal(channels), normal(channels)
    parts = embedded, bias, value, value_bias, residual, temperature_kernel, temperature_bias
    return [*map(jnp.asarray, parts)], jnp.asarray(dy)


def formula(d, norm_c, embedded, bias, value, value_bias, residual, W, w):
    value = value + value_bias - jax.lax.stop_gradient(value_bias)  # a part of it already
    bias = jnp.pad(bias, [[0, 0], [0, embedded.shape[1] - d]])
    embedded = embedded + bias[:, :, None, None, None]
    scores = jnp.einsum("ndbc,ndbk->bnck", embedded[:, :, 0], embedded[:, :, 1])
    temperature = jax.nn.sigmoid(scores.mean(-1) @ W + w)  # (B, heads, C)
    softmax = jax.nn.softmax(scores / float(d) ** (norm_c + temperature)[..., None], axis=-1)
    return residual + jnp.einsum("bnlk,bnck->bnlc", value, softmax)


def wanted_of(d, parts, dy):
    """Return the output and the gradients in float64: the formula in float32 rounds too much."""
    with jax.enable_x64(True):
        *parts, dy = (jnp.asarray(part, jnp.float64) for part in (*parts, dy))
        y, backward = jax.vjp(lambda *parts: formula(d, 0.5, *parts), *parts)
        return np.asarray(y), [np.asarray(part) for part in backward(dy)]


@pytest.mark.parametrize("attend, heads, d, length, channels, block", CASES)
def test_formula(attend, heads, d, length, channels, block, monkeypatch):
    if attend is BLOCKS:
        monkeypatch.setattr(attention_head, "BLOCK", block)
    parts, dy = draw(heads, d, length, channels)
    wanted, wanted_gradients = wanted_of(d, parts, dy)
    found, backward = jax.vjp(lambda *parts: attend(float(d), 0.5, *parts), *parts)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    alone = attend(float(d), 0.5, *parts)  # where no gradient is wanted
    np.testing.assert_array_equal(alone, found)
    for found, wanted in zip(backward(dy), wanted_gradients):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found / scale, wanted / scale, atol=2e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_with_half_precision(dtype):
    """Values whose mean is large show whether a softmax that was rounded adds up to 1."""
    (embedded, bias, value, *rest), dy = draw(2, 20, 49, 64)
    value_bias, residual, *weights = rest
    halves = (part.astype(dtype) for part in (embedded, value + 5, residual, dy))
    embedded, value, residual, dy = halves
    parts = embedded, bias, value, value_bias, residual, *weights
    _, wanted_gradients = wanted_of(20, parts, dy)
    _, backward = jax.vjp(lambda *parts: WHOLE(20.0, 0.5, *parts), *parts)
    for found, wanted in zip(backward(dy), wanted_gradients):
        error = np.linalg.norm(np.asarray(found, np.float64) - wanted) / np.linalg.norm(wanted)
        assert error < (1e-2 if dtype == "bfloat16" else 2e-3)


@pytest.mark.parametrize("heads, images, channels", [(3, 100, 64), (1, 129, 128), (2, 5, 16)])
def test_small_gradients_add_up(heads, images, channels):
    """More vectors than one program adds up, in numbers that do not fill the last one."""
    random = np.random.RandomState(0)
    shape = heads, images, channels
    parts = [random.normal(size=shape).astype(np.float32) for _ in range(3)]
    found = attention_head.sum_small_gradients(*map(jnp.asarray, parts))
    means, d_logits, d_value_bias = (part.reshape(-1, channels).astype(float) for part in parts)
    wanted = means.T @ d_logits, d_logits.sum(0), d_value_bias.sum(0)
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one, other, atol=1e-4)
