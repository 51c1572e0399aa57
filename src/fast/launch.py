"""How the GPU kernels are started: on flat arrays, or on the CPU by JAX's interpreter."""

import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from src import backend


def interpreted():
    """Return whether the kernels are run by JAX's interpreter."""
    return jax.default_backend() == "cpu"


def packs(part):
    """Return whether a kernel may compute with two of these numbers in one instruction."""
    # GPUs before Hopper do not compare bfloat16. Each thread needs four numbers.
    halves = part.dtype in (jnp.bfloat16, jnp.float16) and part.size >= 4 * 32
    return halves and backend.kernel_capability() >= 9


def run_flat(kernel, grid, maps, outputs, **options):
    """Run `kernel` on the flattened arrays `maps`; return a list of arrays.

    outputs: pairs (shape, dtype). options: of `pallas_call`.
    """
    flat = pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=[jax.ShapeDtypeStruct((math.prod(shape),), dtype) for shape, dtype in outputs],
        interpret=interpreted(),
        **options,
    )(*(part.reshape(-1) for part in maps))
    return [part.reshape(shape) for part, (shape, _) in zip(flat, outputs)]
