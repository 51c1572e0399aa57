"""The GPU kernels of the pools, run by JAX's interpreter, against the pools of shifted slices."""

import numpy as np
import pytest

pytest.importorskip("jax")
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from src import backend  # noqa: E402
from src.fast import launch, pool_kernels  # noqa: E402


def both(average, largest):
    """Two maps (B, H, W, C) -> (H * W, 2, B, C)."""
    maps = np.stack([average, largest])
    return maps.reshape(*maps.shape[:2], -1, maps.shape[-1]).transpose(2, 0, 1, 3)


def expected(x):
    """NumPy: (average pool, max pool), and a function from their gradients to that of x."""
    batch, height, width, channels = x.shape
    average, largest = np.zeros_like(x), np.zeros_like(x)
    windows = {}
    for r, c in np.ndindex(height, width):
        rows, columns = slice(max(r - 1, 0), r + 2), slice(max(c - 1, 0), c + 2)
        window = x[:, rows, columns]
        average[:, r, c], largest[:, r, c] = window.mean((1, 2)), window.max((1, 2))
        first = window.reshape(batch, -1, channels).argmax(1)
        chosen = first[:, None] == np.arange(window[0, :, :, 0].size)[None, :, None]
        windows[r, c] = rows, columns, chosen.reshape(window.shape)

    def gradient(d_average, d_largest):
        dx = np.zeros_like(x)
        for (r, c), (rows, columns, chosen) in windows.items():
            share = 1 / chosen[0, :, :, 0].size
            dx[:, rows, columns] += d_average[:, r, c][:, None, None] * share
            dx[:, rows, columns] += d_largest[:, r, c][:, None, None] * chosen
        return dx

    return average, largest, gradient


@pytest.mark.parametrize("kind", ["many", "few", "other"])
@pytest.mark.parametrize("shape", [(2, 14, 14, 16), (1, 9, 5, 48), (2, 1, 2, 64)])
def test_kernels_agree(shape, kind, monkeypatch):
    for name in ("BOTH_POOLS", "BOTH_GRADIENTS", "AVERAGE"):
        sizes = getattr(pool_kernels, name)
        monkeypatch.setattr(pool_kernels, name, dict.fromkeys(sizes, sizes[kind]))
    random = np.random.RandomState(0)
    x = random.randint(-3, 4, size=shape).astype(np.float32)  # with many ties
    average, largest, gradient = expected(x)
    outputs, backward = jax.vjp(pool_kernels.pools, jnp.asarray(x))
    for found, wanted in zip(outputs, (x, x, both(average, largest))):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    straight = random.normal(size=(4, *shape)).astype(np.float32)
    (dx,) = backward(tuple(map(jnp.asarray, (*straight[:2], both(*straight[2:])))))
    np.testing.assert_allclose(dx, sum(straight[:2]) + gradient(*straight[2:]), atol=1e-5)

    found, backward = jax.vjp(pool_kernels.average_pool, jnp.asarray(x))
    np.testing.assert_allclose(found, average, atol=1e-6)
    (dx,) = backward(jnp.asarray(straight[0]))
    np.testing.assert_allclose(dx, gradient(straight[0], 0 * straight[0]), atol=1e-5)


HALVES = [("bfloat16", 2**-8), ("float16", 2**-11)]  # types, and how much one rounding changes


def run_both(dtype, shape=(3, 9, 5, 48)):
    """Outputs and gradient of both pools, from numbers that `dtype` has exactly."""
    random = np.random.RandomState(0)
    x = random.randint(-9, 10, size=shape) / 4
    both_shape = (shape[1] * shape[2], 2, shape[0], shape[3])
    gradients = [random.normal(size=size) for size in (shape, shape, both_shape)]
    x, *gradients = (jnp.asarray(part, "bfloat16").astype(dtype) for part in (x, *gradients))
    outputs, backward = jax.jit(lambda x: jax.vjp(pool_kernels.pools, x))(x)
    return outputs[2].astype("float32"), backward(tuple(gradients))[0].astype("float32")


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize("dtype, rounding", HALVES)
def test_two_numbers_at_once(dtype, rounding):
    wanted, found = run_both("float32"), run_both(dtype)
    np.testing.assert_array_equal(found[0][:, 1], wanted[0][:, 1])
    np.testing.assert_allclose(found[0][:, 0], wanted[0][:, 0], rtol=rounding)
    np.testing.assert_allclose(found[1], wanted[1], rtol=rounding, atol=6 * rounding)


@pytest.mark.parametrize("dtype, _", HALVES)
def test_kernels_lower_for_gpus(dtype, _, monkeypatch):
    """Also those that no CPU can run: two numbers in one instruction."""
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    instruction = {"bfloat16": "max.NaN.bf16x2", "float16": "max.NaN.f16x2"}[dtype]
    for capability, packs in ((8.0, False), (9.0, True)):
        monkeypatch.setattr(backend, "kernel_capability", lambda found=capability: found)
        for pool in (pool_kernels.pools, pool_kernels.average_pool):
            both_ways = lambda x, pool=pool: jax.vjp(pool, x)[1](pool(x))  # noqa: E731
            traced = jax.jit(both_ways).trace(jax.ShapeDtypeStruct((2, 8, 8, 64), dtype))
            text = traced.lower(lowering_platforms=("cuda",)).as_text()
            assert (instruction in text) == (packs and pool is pool_kernels.pools)
