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

from src.fast.launch import packs, run_flat

# Columns times channels of a row that a program holds at once, how many rows it walks down, and how
# many numbers of each row a thread has (16 bytes are the widest it can read): for maps of many rows
# and of few where two numbers are computed at once, and for all others. The fastest of some 60 on
# an H200, batch 256.
FEW_ROWS = 28
BOTH_POOLS = {"many": (512, 4, 8), "few": (512, 4, 8), "other": (512, 4, 8)}
BOTH_GRADIENTS = {"many": (512, 8, 8), "few": (2048, 14, 8), "other": (512, 4, 4)}
AVERAGE = {"many": (256, 4, 8), "few": (512, 28, 4), "other": (512, 4, 4)}


@jax.custom_vjp
def pools(x):
    """(B, H, W, C) -> (x, x, average pool and max pool, (H * W, 2, B, C)).

    x is handed through, for two users, so that all its gradients are added in one kernel.
    """
    return _pools_forward(x)[0]


def _pools_forward(x):
    batch, height, width, channels = x.shape
    both = (height * width, 2, batch, channels)
    outputs = [(both, x.dtype), (x.shape, jnp.int8)]
    pooled, winner = _launch(_forward, x.shape, [x], outputs, BOTH_POOLS)
    return (x, x, pooled), winner


def _pools_backward(winner, gradients):
    one, two, pooled = gradients
    maps = [pooled, one, two, winner]
    outputs = [(winner.shape, pooled.dtype)]
    return tuple(_launch(_backward, winner.shape, maps, outputs, BOTH_GRADIENTS))


pools.defvjp(_pools_forward, _pools_backward)


@jax.custom_vjp
def average_pool(x):
    """(B, H, W, C) -> the same shape."""
    return _average(_forward, x)


def _average(kernel, x):
    return _launch(kernel, x.shape, [x], [(x.shape, x.dtype)], AVERAGE)[0]


average_pool.defvjp(lambda x: (average_pool(x), None), lambda _, dy: (_average(_backward, dy),))


def _launch(kernel, shape, maps, outputs, sizes):
    """Run `kernel` for maps of `shape` (B, H, W, C). outputs: pairs (shape, dtype)."""
    batch, height, width, channels = shape
    kind = "few" if height <= FEW_ROWS else "many"
    tile, strip, per_thread = sizes[kind if packs(maps[0]) else "other"]
    strip = min(strip, height)
    block = min(channels & -channels, tile)
    columns = min(pl.next_power_of_2(width), tile // block)
    return run_flat(
        functools.partial(kernel, shape=shape, tile=(columns, block), strip=strip),
        # Strips that share rows run at the same time: the second then finds them in the cache.
        grid=(pl.cdiv(height, strip), pl.cdiv(width, columns) * (channels // block), batch),
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
    first, part, image = pl.program_id(0) * strip, pl.program_id(1), pl.program_id(2)
    column = jax.lax.broadcasted_iota(jnp.int32, tile, 0) + part // blocks * columns
    channel = jax.lax.broadcasted_iota(jnp.int32, tile, 1) + part % blocks * block

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
        places = [place(row, shift) for shift in (-1, 0, 1)]
        parts = [triton.load(x.at[offsets], mask=exists, other=0) for offsets, exists in places]
        total = sum(part.astype(jnp.float32) for part in parts)
        if winners:
            parts = [_outside_least(part, exists) for part, (_, exists) in zip(parts, places)]
            zeros = jnp.zeros(tile, jnp.int8)
            rows = rows[-2:] + [(total, _largest(parts), _first_largest(parts, [zeros] * 3, 1))]
        else:
            rows = rows[-2:] + [(total,)]
        if len(rows) < 3:
            continue
        row = row - 1
        totals, *rest = zip(*rows)
        total = (totals[0] + totals[1] + totals[2]) * (share * _share(row, height))
        offsets, exists = place(row, pool=0 if winners else None)
        triton.store(pooled.at[offsets], total.astype(pooled.dtype), mask=exists)
        if winners:
            offsets, exists = place(row, pool=1)
            triton.store(pooled.at[offsets], _largest(rest[0]).astype(pooled.dtype), mask=exists)
            offsets, exists = place(row)
            triton.store(winners[0].at[offsets], _first_largest(*rest, 3), mask=exists)


def _backward(pooled, *rest, shape, tile, strip):
    """rest: the output and before it, with two pools, x's two other gradients and the winners."""
    *rest, dx = rest
    _, height, width, _ = shape
    first, column, place = _strip(shape, tile, strip)
    rows = []  # the last three rows of windows: what each gives to all, and above, at and below it
    for step in range(-1, strip + 1):
        row = first + step
        mean, parts, winners = jnp.zeros(tile, jnp.float32), [], []
        for shift in (-1, 0, 1):
            offsets, exists = place(row, shift, 0 if rest else None)
            part = triton.load(pooled.at[offsets], mask=exists, other=0).astype(jnp.float32)
            mean = mean + part * _share(column + shift, width)
            if rest:
                offsets, exists = place(row, shift, 1)
                parts.append(triton.load(pooled.at[offsets], mask=exists, other=0))
                offsets, exists = place(row, shift)
                winners.append(triton.load(rest[2].at[offsets], mask=exists, other=-1))
        rows = rows[-2:] + [
            (mean * _share(row, height), *(_chosen(parts, winners) if rest else []))
        ]
        if len(rows) < 3:
            continue
        total = rows[0][0] + rows[1][0] + rows[2][0]
        offsets, exists = place(row - 1)
        if rest:
            # A pixel is in the last row of the windows above, the middle one of its own, and so on.
            parts = [rows[0][3], rows[1][2], rows[2][1]]
            parts += [
                triton.load(straight.at[offsets], mask=exists, other=0) for straight in rest[:2]
            ]
            total = sum((part.astype(jnp.float32) for part in parts), total)
        triton.store(dx.at[offsets], total.astype(dx.dtype), mask=exists)


# Below, two 16-bit numbers, or four of 8 bits, are computed with in one instruction where the GPU
# can: its units for comparisons and selections would take longer than the memory otherwise. What is
# added up that way, the gradients from one row of windows, is rounded to 16 bits after each.


def _outside_least(part, exists):
    """Return `part`, zeros where it does not exist, with -inf there; in float32 if not packed."""
    if not packs(part):
        return jnp.where(exists, part.astype(jnp.float32), -np.inf)
    least = jnp.where(exists, 0.0, -np.inf).astype(part.dtype)
    return _packed("or.b32 $0, $1, $2;", [part, least], part.dtype)


def _largest(parts):
    """Return the elementwise maximum of three maps."""
    a, b, c = parts
    if not packs(a):
        return jnp.maximum(jnp.maximum(a, b), c)
    asm = "max.NaN.T $0, $1, $2; max.NaN.T $0, $0, $3;"
    return _packed(asm, parts, a.dtype)


def _first_largest(parts, numbers, step):
    """Return numbers[k] + step * k of the first of three maps that is the largest there, int8."""
    if not packs(parts[0]):
        largest, winner = parts[0], numbers[0]
        for k in (1, 2):
            winner = jnp.where(parts[k] > largest, numbers[k] + np.int8(step * k), winner)
            largest = jnp.maximum(parts[k], largest)
        return winner
    # In: $1 to $6, two registers for each part, and $7 to $9, the numbers. 0xCA: a ? b : c.
    asm = f"""{{ .reg .b32 m<2>, g<2>, w<2>;
    add.u32 w0, $8, {step * 0x01010101}; add.u32 w1, $9, {step * 0x02020202};
    set.gt.u32.T g0, $3, $1; set.gt.u32.T g1, $4, $2; prmt.b32 g0, g0, g1, 0x6420;
    lop3.b32 w0, g0, w0, $7, 0xCA;
    max.NaN.T m0, $1, $3; max.NaN.T m1, $2, $4;
    set.gt.u32.T g0, $5, m0; set.gt.u32.T g1, $6, m1; prmt.b32 g0, g0, g1, 0x6420;
    lop3.b32 $0, g0, w1, w0, 0xCA; }}"""
    return _packed(asm, [*parts, *numbers], jnp.int8, parts[0].dtype)


def _chosen(parts, winners):
    """Return what the windows of a row give to the rows above, at and below it.

    parts: max-pool gradients of the windows to the left, here and to the right. winners: theirs.
    """
    dtype = parts[0].dtype
    if not packs(parts[0]):
        return [
            sum(
                jnp.where(winner == 3 * k + 2 - i, part.astype(jnp.float32), 0)
                for i, (part, winner) in enumerate(zip(parts, winners))
            )
            for k in range(3)
        ]
    # A byte becomes the lower one of a number whose upper one has the exponent of whole numbers.
    high = 0x43 if dtype == jnp.bfloat16 else 0x64
    asm = f"prmt.b32 $0, $2, {high}, 0x4140; prmt.b32 $1, $2, {high}, 0x4342;"
    winners = [_packed(asm, [winner], dtype) for winner in winners]
    sums = []
    for k in range(3):
        wanted = [(high << 8 | 3 * k + 2 - i) * 0x00010001 for i in range(3)]
        asm = f"""{{ .reg .b32 m, c;
        mov.b32 c, {wanted[0]}; set.eq.T.T m, $4, c; mul.rn.T $0, m, $1;
        mov.b32 c, {wanted[1]}; set.eq.T.T m, $5, c; fma.rn.T $0, m, $2, $0;
        mov.b32 c, {wanted[2]}; set.eq.T.T m, $6, c; fma.rn.T $0, m, $3, $0; }}"""
        sums.append(_packed(asm, [*parts, *winners], dtype))
    return sums


def _packed(asm, args, dtype, computed=None):
    """Run `asm` for the fewest numbers that fill a register; T stands for its type.

    JAX takes one result of it: what needs two is two functions, each with the comparisons.
    """
    dtypes = [np.dtype(dtype), *(np.dtype(arg.dtype) for arg in args)]
    pack = 4 // min(dtype.itemsize for dtype in dtypes)
    registers = [pack * dtype.itemsize // 4 for dtype in dtypes]
    (y,) = triton.elementwise_inline_asm(
        asm.replace("T", "bf16x2" if (computed or dtype) == jnp.bfloat16 else "f16x2"),
        args=args,
        constraints=",".join(["=&r"] * registers[0] + ["r"] * sum(registers[1:])),
        pack=pack,
        result_shape_dtypes=[jax.ShapeDtypeStruct(args[0].shape, dtype)],
    )
    return y
