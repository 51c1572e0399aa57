"""What the kernels of LHC's attention share.

A program works on one head of one image. The head's queries, keys and values are matrices whose
columns are channels: it is channels that attend to each other. The rows of values are the l
positions of the head's slice; the rows of queries and keys are the d numbers of an embedding, and
zeros up to a multiple of 8. Kernels hold such a matrix in tiles of some rows each.

Shape comments name the axes of a tile: `# (rows, columns)`. Queries and keys are channels, so that
scores are (queries, keys). Matrices are stored in the values' type; sums, softmax and temperature
are float32.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from src.fast.launch import array_of, run_flat

ROWS = 64  # the most rows of a tile
BLOCK = 64  # the most queries, or keys, that a program has at once
SUM_COLUMNS = 16  # of a factor that has one column to give: matrix units take no fewer
VECTORS = 128  # the most vectors (C,), one of each head and image, that a program adds up
QUERY, KEY = 0, 1  # where queries and keys are along the third axis of `embedded`


def columns_at_once(channels, most=BLOCK):
    """Return how many of the channels a program has at once."""
    return min(channels, most)


class HeadShape(NamedTuple):
    """The lengths of the axes of all arrays. They are constants of a kernel."""

    batch: int
    heads: int
    value_rows: int  # l, positions
    channels: int
    embedded_rows: int  # d, and zeros up to a multiple of 8
    block: int  # channels that a program has at once


def launch(kernel, inputs, outputs, block, programs=None, stages=3, aliases=None, **constants):
    """Run `kernel` for each block of channels of each head of each image.

    inputs: {name: array}; embedded and value are among them and tell the head's shape.
    outputs: {name: array_of(shape, dtype)}. aliases: of `run_flat`.
    block: how many channels a program has at once. programs: how many a head has, if not one for
    each block. stages: Triton loads the tiles of the next stages - 1 steps of a loop ahead.
    """
    batch, heads, value_rows, channels = inputs["value"].shape
    embedded_rows = inputs["embedded"].shape[1]
    shape = HeadShape(batch, heads, value_rows, channels, embedded_rows, block)
    return run_flat(
        kernel,
        grid=(programs or channels // block, heads, batch),
        inputs=inputs,
        outputs=outputs,
        aliases=aliases,
        constants=dict(shape=shape, **constants),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=stages),
    )


class Head:
    """The head of an image that this program works on, and where its numbers lie.

    Offsets are int32, which src/fast/kernels.py keeps in range.

    columns: the channels that are this program's own, (columns,).
    Methods `..._at` return offsets into a flat array.
    """

    def __init__(self, shape):
        self.shape = shape
        self.head, self.image = pl.program_id(1), pl.program_id(2)
        self.columns = self.columns_of(pl.program_id(0))

    def columns_of(self, block):
        return block * self.shape.block + jnp.arange(self.shape.block)  # (columns,)

    def embedded_at(self, which, rows, columns):
        """In (heads, rows, 2, B, C): these rows of the queries (QUERY) or the keys (KEY)."""
        row = (self.head * self.shape.embedded_rows + rows.numbers) * 2 + which  # (rows,)
        row = (row * self.shape.batch + self.image)[:, None]  # (rows, 1)
        return row * self.shape.channels + columns[None]  # (rows, columns)

    def value_at(self, rows, columns):
        """In (B, heads, l, C)."""
        row = (self.image * self.shape.heads + self.head) * self.shape.value_rows + rows.numbers
        return row[:, None] * self.shape.channels + columns[None]  # (rows, columns)

    def vector_at(self, columns):
        """In (heads, B, C), where each query, or key, has one number."""
        row = self.head * self.shape.batch + self.image
        return row * self.shape.channels + columns  # (columns,)

    def load_embedded(self, embedded, which, rows, columns):
        return load(embedded, self.embedded_at(which, rows, columns), rows.exist)  # (rows, columns)

    def load_value(self, ref, rows, columns):
        """From the values, or another array of their shape."""
        return load(ref, self.value_at(rows, columns), rows.exist)  # (rows, columns)

    def load_bias(self, bias, rows):
        """From (heads, d), which lacks the rows of zeros: their bias is 0."""
        dimension = bias.shape[0] // self.shape.heads
        offsets = self.head * dimension + rows.numbers  # (rows,)
        exist = rows.numbers < dimension
        return triton.load(bias.at[offsets], mask=exist, other=0)[:, None]  # (rows, 1)


class Rows(NamedTuple):
    """The rows of a tile. The last tile of a matrix may have more rows than the matrix."""

    numbers: Any  # (rows,), int32
    exist: Any  # (rows,), bool

    @classmethod
    def starting_at(cls, first, count):
        """Return the rows of the tile from row `first` on of a matrix of `count` rows."""
        numbers = first + jnp.arange(tile_rows(count))
        return cls(numbers, numbers < count)

    @classmethod
    def of_all_tiles(cls, count):
        """Return the rows of each tile of a matrix of `count` rows, for a loop in Python.

        The kernel then has code for each tile, and may hold all of them in registers.
        """
        return [cls.starting_at(first, count) for first in range(0, count, tile_rows(count))]


def tile_rows(count):
    """Return how many rows the tiles of a matrix of `count` rows have."""
    # Triton's tiles are powers of two, and its products need 16 rows.
    return min(ROWS, max(16, pl.next_power_of_2(count)))


def over_row_tiles(count, body, carry):
    """Return the last of carry = body(rows, carry), for each tile of `count` rows.

    A loop on the GPU, for matrices of too many tiles to have code for each.
    """

    def step(index, carry):
        return body(Rows.starting_at(index * tile_rows(count), count), carry)

    return jax.lax.fori_loop(0, pl.cdiv(count, tile_rows(count)), step, carry)


def load(ref, offsets, exist):
    """Return a tile, (rows, columns), with zeros in the rows that do not exist."""
    return triton.load(ref.at[offsets], mask=exist[:, None], other=0)


def store(ref, offsets, tile, exist):
    """Write the rows of a tile, (rows, columns), that exist, rounded to the array's type."""
    triton.store(ref.at[offsets], tile.astype(ref.dtype), mask=exist[:, None])


def dot(a, axis_a, b, axis_b):
    """Return the product of two matrices, summed over these axes of theirs, in float32."""
    contract = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, contract, preferred_element_type=jnp.float32)


def score_factor(temperature, dimension, norm_c):
    """Return what T multiplies a query's scores by: 1 / d^(norm_c + T)."""
    # As a power of e, since the logarithm of d is a constant.
    return jnp.exp(-math.log(dimension) * (norm_c + temperature))


def logit_gradient(d_log_factor, temperature, dimension):
    """Return the gradient of the logit, of which T is the sigmoid, from that of log(factor)."""
    # log(factor) = -log(d) * (norm_c + T), and a sigmoid's derivative is T * (1 - T).
    return -math.log(dimension) * temperature * (1 - temperature) * d_log_factor


class SmallGradients(NamedTuple):
    """Gradients of what all heads of all images share."""

    temperature_kernel: Any  # (C, C)
    temperature_bias: Any  # (C,)
    value_bias: Any  # (C,)


def sum_small_gradients(mean_scores, d_logits, d_value_biases):
    """Return the SmallGradients, from vectors of each head and image, (heads, B, C) all three.

    In a kernel, which reads the vectors once for all three; some programs share the vectors, and
    what each of them found is added up at last.
    """
    channels = mean_scores.shape[-1]
    count = mean_scores.size // channels  # heads * B
    block, parts = columns_at_once(channels), pl.cdiv(count, VECTORS)
    sums = run_flat(
        _sum_vectors,
        grid=(channels // block, channels // block, parts),
        inputs=dict(mean_scores=mean_scores, d_logits=d_logits, d_value_biases=d_value_biases),
        outputs=dict(
            kernels=array_of((parts, channels, channels), jnp.float32),
            biases=array_of((2, parts, channels), jnp.float32),
        ),
        constants=dict(count=count, channels=channels, block=block),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
    )
    temperature_kernel = sums.kernels.sum(0)
    temperature_bias, value_bias = sums.biases.sum(1)
    return SmallGradients(temperature_kernel, temperature_bias, value_bias)


def _sum_vectors(mean_scores, d_logits, d_value_biases, kernels, biases, *, count, channels, block):
    """Add up VECTORS of the vectors, for a block of the temperature's kernel.

    kernels: products of mean scores and logits' gradients. biases: sums of the two other arrays.
    """
    part = pl.program_id(2)
    left, right = (pl.program_id(axis) * block + jnp.arange(block) for axis in (0, 1))  # (block,)

    def add(index, sums):
        kernel, logit_rows, value_rows = sums
        rows = part * VECTORS + index * ROWS + jnp.arange(ROWS)  # (rows,)
        offsets = rows[:, None] * channels + left[None]  # (rows, block)
        mean = load(mean_scores, offsets, rows < count)  # (rows, block)
        offsets = rows[:, None] * channels + right[None]  # (rows, block)
        d_logit = load(d_logits, offsets, rows < count)  # (rows, block)
        d_value_bias = load(d_value_biases, offsets, rows < count)  # (rows, block)
        # Rows are added to rows here, and added up once, after the loop.
        return kernel + dot(mean, 0, d_logit, 0), logit_rows + d_logit, value_rows + d_value_bias

    zero_rows = jnp.zeros((ROWS, block), jnp.float32)
    zero_kernel = jnp.zeros((block, block), jnp.float32)
    kernel, logit_rows, value_rows = jax.lax.fori_loop(
        0, VECTORS // ROWS, add, (zero_kernel, zero_rows, zero_rows)
    )
    triton.store(kernels.at[(part * channels + left[:, None]) * channels + right[None]], kernel)
    for which, rows in enumerate((logit_rows, value_rows)):
        offsets = (which * pl.num_programs(2) + part) * channels + right  # (block,)
        # The programs of the other rows of blocks have the same sums: one of them writes.
        writes = jnp.full(right.shape, pl.program_id(0) == 0)
        triton.store(biases.at[offsets], jnp.sum(rows, 0), mask=writes)
