"""Stride-1 3 x 3 pools and their gradients as GPU kernels, for the fast numerics on JAX.

XLA makes these pools of nine shifted reads of a padded copy. Here a program walks down a strip of
the map, reads each row three times, once for each column of the window, and keeps what the rows
above left in registers. Borders are masks, so nothing is padded.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from .pallas_launch import run_flat

TILE = 512  # columns times channels of a row that a program holds at once
# Rows that it walks down, and how many numbers of each row a thread has: 8 in bfloat16 are the
# widest it can read. With both pools it remembers more of each, and more threads wait less.
ONE_POOL = {"strip": 7, "per_thread": 8}
BOTH_POOLS = {"strip": 4, "per_thread": 4}


@jax.custom_vjp
def pools(x):
    """(B, H, W, C) -> (x, x, average pool and max pool, (H * W, 2, B, C)).

    x is handed through, for two users, so that all its gradients are added in one kernel.
    """
    return _pools_forward(x)[0]


def _pools_forward(x):
    batch, height, width, channels = x.shape
    both = (height * width, 2, batch, channels)
    outputs = [(both, x.dtype), (x.shape, jnp.uint8)]
    pooled, winner = _launch(_forward, x.shape, [x], outputs, **BOTH_POOLS)
    return (x, x, pooled), winner


def _pools_backward(winner, gradients):
    one, two, pooled = gradients
    maps = [pooled, one, two, winner]
    outputs = [(winner.shape, pooled.dtype)]
    return tuple(_launch(_backward, winner.shape, maps, outputs, **BOTH_POOLS))


pools.defvjp(_pools_forward, _pools_backward)


@jax.custom_vjp
def average_pool(x):
    """(B, H, W, C) -> the same shape."""
    return _launch(_forward, x.shape, [x], [(x.shape, x.dtype)], **ONE_POOL)[0]


average_pool.defvjp(
    lambda x: (average_pool(x), None),
    lambda _, dy: tuple(_launch(_backward, dy.shape, [dy], [(dy.shape, dy.dtype)], **ONE_POOL)),
)


def _launch(kernel, shape, maps, outputs, strip, per_thread):
    """Run `kernel` for maps of `shape` (B, H, W, C); `outputs` are pairs (shape, dtype)."""
    batch, height, width, channels = shape
    block = min(channels & -channels, TILE)
    columns = min(pl.next_power_of_2(width), TILE // block)
    return run_flat(
        functools.partial(kernel, shape=shape, tile=(columns, block), strip=strip),
        grid=(pl.cdiv(width, columns) * (channels // block), pl.cdiv(height, strip), batch),
        maps=maps,
        outputs=outputs,
        compiler_params=triton.CompilerParams(
            num_warps=max(1, columns * block // (32 * per_thread))
        ),
    )


def _strip(shape, tile, strip):
    """Return (first row, columns of the tile, place).

    place(row, shift, pool) -> (offsets, which of them exist) of the tile moved to the right by
    `shift`, in a map (B, H, W, C) or in one of the pools of (H * W, 2, B, C).
    """
    batch, height, width, channels = shape
    columns, block = tile
    blocks = channels // block
    image, first = pl.program_id(2), pl.program_id(1) * strip
    column = jax.lax.broadcasted_iota(jnp.int32, tile, 0) + pl.program_id(0) // blocks * columns
    channel = jax.lax.broadcasted_iota(jnp.int32, tile, 1) + pl.program_id(0) % blocks * block

    def place(row, shift=0, pool=None):
        c = column + shift
        exists = (c >= 0) & (c < width) & (row >= 0) & (row < height)
        pixel = row * width + c
        if pool is None:
            pixel = image * (height * width) + pixel
        else:
            pixel = (pixel * 2 + pool) * batch + image
        return pixel * channels + channel, exists

    return first, column, place


def _share(position, length):
    """Return 1 / how many pixels of the window around `position` are in 0...length - 1."""
    edges = (position == 0).astype(jnp.float32) + (position == length - 1).astype(jnp.float32)
    return 1 / (3 - edges)


def _forward(x, pooled, *winners, shape, tile, strip):
    """pooled: the average pool or, with winners, both pools.

    winners: the number, in row-major order, of the first pixel that is its window's maximum.
    """
    _, height, width, _ = shape
    first, column, place = _strip(shape, tile, strip)
    share = _share(column, width)
    rows = []  # the last three: (sum, maximum, its column) of the window's pixels in that row
    for step in range(-1, strip + 1):
        row = first + step
        total = jnp.zeros(tile, jnp.float32)
        largest, winner = jnp.full(tile, -np.inf, jnp.float32), jnp.zeros(tile, jnp.int32)
        for k in range(3):
            offsets, exists = place(row, k - 1)
            part = triton.load(x.at[offsets], mask=exists, other=0).astype(jnp.float32)
            total = total + part
            if winners:
                part = jnp.where(exists, part, -np.inf)
                winner = jnp.where(part > largest, k, winner)
                largest = jnp.maximum(part, largest)
        rows = rows[-2:] + [(total, largest, winner)]
        if len(rows) < 3:
            continue
        row = row - 1
        total = (rows[0][0] + rows[1][0] + rows[2][0]) * (share * _share(row, height))
        offsets, exists = place(row, pool=0 if winners else None)
        triton.store(pooled.at[offsets], total.astype(pooled.dtype), mask=exists)
        if winners:
            _, largest, winner = rows[0]
            for k in (1, 2):
                winner = jnp.where(rows[k][1] > largest, rows[k][2] + 3 * k, winner)
                largest = jnp.maximum(rows[k][1], largest)
            offsets, exists = place(row, pool=1)
            triton.store(pooled.at[offsets], largest.astype(pooled.dtype), mask=exists)
            offsets, exists = place(row)
            triton.store(winners[0].at[offsets], winner.astype(jnp.uint8), mask=exists)


def _backward(pooled, *rest, shape, tile, strip):
    """rest: the output and before it, with two pools, x's two other gradients and the winners."""
    *rest, dx = rest
    _, height, width, _ = shape
    first, column, place = _strip(shape, tile, strip)
    rows = []  # the last three rows of windows: what each gives to the rows above, at and below it
    for step in range(-1, strip + 1):
        row = first + step
        mean, parts = jnp.zeros(tile, jnp.float32), [jnp.zeros(tile, jnp.float32)] * 3
        for shift in (-1, 0, 1):
            offsets, exists = place(row, shift, 0 if rest else None)
            part = triton.load(pooled.at[offsets], mask=exists, other=0).astype(jnp.float32)
            mean = mean + part * _share(column + shift, width)
            if rest:
                offsets, exists = place(row, shift, 1)
                part = triton.load(pooled.at[offsets], mask=exists, other=0).astype(jnp.float32)
                offsets, exists = place(row, shift)
                winner = triton.load(rest[2].at[offsets], mask=exists, other=255).astype(jnp.int32)
                for k in range(3):
                    parts[k] = parts[k] + jnp.where(winner == 3 * k + 1 - shift, part, 0)
        mean = mean * _share(row, height)
        rows = rows[-2:] + [[mean + part for part in parts]]
        if len(rows) < 3:
            continue
        # A pixel is in the last row of the windows above, the middle one of its own, and so on.
        total = rows[0][2] + rows[1][1] + rows[2][0]
        offsets, exists = place(row - 1)
        for straight in rest[:2]:
            total = total + triton.load(straight.at[offsets], mask=exists, other=0)
        triton.store(dx.at[offsets], total.astype(dx.dtype), mask=exists)
