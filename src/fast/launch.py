"""How the GPU kernels are started: on flat arrays, or on the CPU by JAX's interpreter.

A kernel is a function that many programs of a GPU run at the same time. Each program asks for its
number in a grid of up to three axes, and works on its share of the arrays. A ref is an array as
the kernel sees it: flat, so that the kernel computes the offsets of what it reads and writes.
"""

import math
import types

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from src import backend


def interpreted():
    """Return whether the kernels are run by JAX's interpreter."""
    return jax.default_backend() == "cpu"


def packs(array):
    """Return whether a kernel may compute with two of these numbers in one instruction."""
    # GPUs before Hopper do not compare bfloat16. Each thread needs four numbers.
    halves = array.dtype in (jnp.bfloat16, jnp.float16) and array.size >= 4 * 32
    return halves and backend.kernel_capability() >= 9


def array_of(shape, dtype):
    """Return what `run_flat` has to know of an output."""
    return jax.ShapeDtypeStruct(shape, dtype)


def array_like(array):
    return array_of(array.shape, array.dtype)


def run_flat(kernel, grid, inputs, outputs, aliases=None, constants=None, **options):
    """Run `kernel` and return its outputs as attributes, under their names.

    kernel: function of the refs of all inputs and outputs, and of constants, by their names.
    grid: how many programs run along each axis.
    inputs: {name: array}. outputs: {name: array_of(shape, dtype)}.
    aliases: {name of an input: name of the output that is written in its place}.
    options: of `pallas_call`.
    """
    names = [*inputs, *outputs]

    def body(*refs):
        kernel(**dict(zip(names, refs)), **(constants or {}))

    body.__name__ = kernel.__name__  # which profilers show
    flat = pl.pallas_call(
        body,
        grid=grid,
        out_shape=[array_of((math.prod(out.shape),), out.dtype) for out in outputs.values()],
        # JAX knows inputs and outputs by their positions.
        input_output_aliases={
            list(inputs).index(old): list(outputs).index(new)
            for old, new in (aliases or {}).items()
        },
        interpret=interpreted(),
        **options,
    )(*(array.reshape(-1) for array in inputs.values()))
    shaped = (array.reshape(out.shape) for array, out in zip(flat, outputs.values()))
    return types.SimpleNamespace(**dict(zip(outputs, shaped)))
