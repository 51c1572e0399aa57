"""Stride-1 3 x 3 pools and their gradients as GPU kernels, for the fast numerics on JAX.

XLA makes these pools of nine shifted slices of a padded copy, so each pixel is read nine times.
Here a program walks down a strip of the map. It reads each row three times, once for each column
of the windows, and combines it with what it keeps, in registers, of the two rows before. Pixels
outside the map are masked when they are read, so nothing is padded.

Shape comments name the axes of a tile, the part of a row that a program has: `# (columns,
channels)`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from src.fast.launch import array_like, array_of, packs, run_flat

MEAN, MAXIMUM = 0, 1  # where the two pools are along the second axis of (H * W, 2, B, C)
NOBODY = -1  # stands for the winner of windows outside the map


class Launch(NamedTuple):
    """How the work on a map is divided."""

    tile: int  # columns times channels that a program has of a row: they stay in registers
    strip: int  # rows it walks down: the rows around the strip are read by two programs
    per_thread: int  # numbers of each row that a thread has: it can read 16 bytes at once


# For maps of many rows and of few, where two numbers are computed in one instruction, and for all
# other maps. The fastest of some 60 on an H200, batch 256.
FEW_ROWS = 28
BOTH_POOLS = {
    "many": Launch(tile=512, strip=4, per_thread=8),
    "few": Launch(tile=512, strip=4, per_thread=8),
    "other": Launch(tile=512, strip=4, per_thread=8),
}
BOTH_GRADIENTS = {
    "many": Launch(tile=512, strip=8, per_thread=8),
    "few": Launch(tile=2048, strip=14, per_thread=8),
    "other": Launch(tile=512, strip=4, per_thread=4),
}
AVERAGE = {
    "many": Launch(tile=256, strip=4, per_thread=8),
    "few": Launch(tile=512, strip=28, per_thread=4),
    "other": Launch(tile=512, strip=4, per_thread=4),
}


@jax.custom_vjp
def pools(x):
    """Return (x, x, the average pool and the max-pool of x), of x (B, H, W, C).

    The pools are one array, (H * W, 2, B, C). x is returned for its two other users: the gradients
    of all three come back together, and one kernel adds them up.
    """
    return _pools_forward(x)[0]


def _pools_forward(x):
    batch, height, width, channels = x.shape
    found = _launch(
        both_pools,
        x.shape,
        dict(x=x),
        dict(
            pooled=array_of((height * width, 2, batch, channels), x.dtype),
            winners=array_of(x.shape, jnp.int8),
        ),
        BOTH_POOLS,
        packed=packs(x),
    )
    return (x, x, found.pooled), found.winners


def _pools_backward(winners, gradients):
    d_first, d_second, d_pooled = gradients
    found = _launch(
        both_gradients,
        winners.shape,
        dict(d_pooled=d_pooled, d_first=d_first, d_second=d_second, winners=winners),
        dict(dx=array_of(winners.shape, d_pooled.dtype)),
        BOTH_GRADIENTS,
        packed=packs(d_pooled),
    )
    return (found.dx,)


pools.defvjp(_pools_forward, _pools_backward)


@jax.custom_vjp
def average_pool(x):
    """Return the average pool of x, both (B, H, W, C)."""
    return _average_forward(x)[0]


def _average_forward(x):
    outputs = dict(y=array_like(x))
    found = _launch(average, x.shape, dict(x=x), outputs, AVERAGE, packed=packs(x))
    return found.y, None  # the gradient needs nothing of x


def _average_backward(_, dy):
    outputs = dict(dx=array_like(dy))
    found = _launch(average_gradient, dy.shape, dict(dy=dy), outputs, AVERAGE, packed=packs(dy))
    return (found.dx,)


average_pool.defvjp(_average_forward, _average_backward)


def _launch(kernel, shape, inputs, outputs, launches, packed):
    """Run `kernel` for maps of `shape`, (B, H, W, C); inputs and outputs as of `run_flat`.

    packed: whether two numbers are computed in one instruction.
    """
    batch, height, width, channels = shape
    kind = "few" if height <= FEW_ROWS else "many"
    launch = launches[kind if packed else "other"]
    strip = min(launch.strip, height)
    # Tiles are powers of two. Blocks of channels fill all channels: the largest power of two that
    # divides these. Programs of the last columns may have some beyond the map.
    block = min(channels & -channels, launch.tile)
    columns = min(pl.next_power_of_2(width), launch.tile // block)
    return run_flat(
        kernel,
        # Strips that share rows run at the same time: the second then finds them in the cache.
        grid=(pl.cdiv(height, strip), pl.cdiv(width, columns) * (channels // block), batch),
        inputs=inputs,
        outputs=outputs,
        constants=dict(shape=shape, tile=(columns, block), strip=strip),
        compiler_params=triton.CompilerParams(
            num_warps=max(1, columns * block // (32 * launch.per_thread))
        ),
    )


class _Strip:
    """The part of a map that this program walks down, and where its numbers lie.

    column, channel: the numbers of those that its tile has, (columns, channels).
    Methods `..._at` return (offsets into a flat array, which of them exist), both (columns,
    channels), of the tile in a row, moved to the right by `shift`.
    """

    def __init__(self, shape, tile, strip):
        self.batch, self.height, self.width, self.channels = shape
        self.count = strip
        columns, block = tile
        blocks = self.channels // block
        self.first, part, self.image = pl.program_id(0) * strip, pl.program_id(1), pl.program_id(2)
        self.column = jax.lax.broadcasted_iota(jnp.int32, tile, 0) + part // blocks * columns
        self.channel = jax.lax.broadcasted_iota(jnp.int32, tile, 1) + part % blocks * block

    def rows(self):
        """Yield the strip's rows, and the one before and the one after them."""
        for step in range(-1, self.count + 1):
            yield self.first + step

    def map_at(self, row, shift=0):
        """In (B, H, W, C)."""
        pixel, exist = self._pixel(row, shift)
        pixel = self.image * (self.height * self.width) + pixel
        return pixel * self.channels + self.channel, exist

    def pooled_at(self, which, row, shift=0):
        """In (H * W, 2, B, C)."""
        pixel, exist = self._pixel(row, shift)
        pixel = (pixel * 2 + which) * self.batch + self.image
        return pixel * self.channels + self.channel, exist

    def _pixel(self, row, shift):
        column = self.column + shift
        exist = (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
        return row * self.width + column, exist


def _share(position, length):
    """Return 1 / how many pixels of the three around `position` are in 0...length - 1."""
    edges = (position == 0).astype(jnp.float32) + (position == length - 1).astype(jnp.float32)
    return 1 / (3 - edges)


def average(x, y, *, shape, tile, strip):
    """Kernel of the average pool."""
    strip = _Strip(shape, tile, strip)
    share = _share(strip.column, strip.width)  # (columns, channels)
    sums = []  # of the last three rows: what the windows find in it, (columns, channels)
    for row in strip.rows():
        pixels, _ = _load_three(x, strip, row)
        sums = sums[-2:] + [_sum_of_three(pixels)]
        if len(sums) == 3:
            row = row - 1  # the middle one: its windows are complete
            mean = _mean(sums, share, row, strip)
            offsets, exist = strip.map_at(row)
            triton.store(y.at[offsets], mean.astype(y.dtype), mask=exist)


def average_gradient(dy, dx, *, shape, tile, strip):
    """Kernel of the average pool's gradient: a pixel gets a share of each window that it is in."""
    strip = _Strip(shape, tile, strip)
    means = []  # of the last three rows: what the windows around it give, (columns, channels)
    for row in strip.rows():
        mean = jnp.zeros(tile, jnp.float32)
        for shift in (-1, 0, 1):
            offsets, exist = strip.map_at(row, shift)
            mean = _add_share(mean, dy, offsets, exist, strip, shift)
        means = means[-2:] + [mean * _share(row, strip.height)]
        if len(means) == 3:
            total = means[0] + means[1] + means[2]
            offsets, exist = strip.map_at(row - 1)
            triton.store(dx.at[offsets], total.astype(dx.dtype), mask=exist)


class _WindowsRow(NamedTuple):
    """What the windows around each pixel of a row find in that row, (columns, channels) all."""

    total: Any  # float32: the sum of three pixels
    largest: Any  # the largest of them
    column: Any  # int8: 0, 1 or 2, that of the first of the largest


def both_pools(x, pooled, winners, *, shape, tile, strip):
    """Kernel of the average pool and the max-pool.

    winners: for each window, which of its nine pixels, in row-major order, is the first of the
    largest.
    """
    strip = _Strip(shape, tile, strip)
    share = _share(strip.column, strip.width)  # (columns, channels)
    rows = []  # the last three: _WindowsRow
    for row in strip.rows():
        pixels, exists = _load_three(x, strip, row)
        total = _sum_of_three(pixels)
        # The mean takes zeros for pixels outside the map, the maximum needs less than any pixel.
        pixels = [_outside_least(part, exist) for part, exist in zip(pixels, exists)]
        zeros = jnp.zeros(tile, jnp.int8)
        largest, column = _largest(pixels), _first_largest(pixels, [zeros] * 3, step=1)
        rows = rows[-2:] + [_WindowsRow(total, largest, column)]
        if len(rows) == 3:
            row = row - 1  # the middle one: its windows are complete
            mean = _mean([part.total for part in rows], share, row, strip)
            offsets, exist = strip.pooled_at(MEAN, row)
            triton.store(pooled.at[offsets], mean.astype(pooled.dtype), mask=exist)
            maxima, columns = [part.largest for part in rows], [part.column for part in rows]
            offsets, exist = strip.pooled_at(MAXIMUM, row)
            triton.store(pooled.at[offsets], _largest(maxima).astype(pooled.dtype), mask=exist)
            offsets, exist = strip.map_at(row)
            # Each row of a window has 3 of its pixels.
            winner = _first_largest(maxima, columns, step=3)
            triton.store(winners.at[offsets], winner, mask=exist)


class _WindowsGradients(NamedTuple):
    """What the windows around the pixels of a row give to pixels, (columns, channels) all.

    A column gets it from three windows: around the pixels to the left, in it and to the right.
    """

    mean: Any  # float32, from the average pool: to each of the three rows
    to_above: Any  # from the max-pool: to the row above
    to_itself: Any
    to_below: Any


def both_gradients(d_pooled, d_first, d_second, winners, dx, *, shape, tile, strip):
    """Kernel of the gradient of x, the sum of those of both pools and of the two returned x."""
    strip = _Strip(shape, tile, strip)
    rows = []  # the last three: _WindowsGradients
    for row in strip.rows():
        mean, d_maxima, row_winners = jnp.zeros(tile, jnp.float32), [], []
        for shift in (-1, 0, 1):
            offsets, exist = strip.pooled_at(MEAN, row, shift)
            mean = _add_share(mean, d_pooled, offsets, exist, strip, shift)
            offsets, exist = strip.pooled_at(MAXIMUM, row, shift)
            d_maxima.append(triton.load(d_pooled.at[offsets], mask=exist, other=0))
            offsets, exist = strip.map_at(row, shift)
            row_winners.append(triton.load(winners.at[offsets], mask=exist, other=NOBODY))
        mean = mean * _share(row, strip.height)
        to_above, to_itself, to_below = _chosen(d_maxima, row_winners)
        rows = rows[-2:] + [_WindowsGradients(mean, to_above, to_itself, to_below)]
        if len(rows) == 3:
            above, here, below = rows
            total = above.mean + here.mean + below.mean
            offsets, exist = strip.map_at(row - 1)
            first = triton.load(d_first.at[offsets], mask=exist, other=0)
            second = triton.load(d_second.at[offsets], mask=exist, other=0)
            for part in (above.to_below, here.to_itself, below.to_above, first, second):
                total = total + part.astype(jnp.float32)
            triton.store(dx.at[offsets], total.astype(dx.dtype), mask=exist)


def _load_three(x, strip, row):
    """Return a row's pixels to the left, here and to the right, and which of them exist."""
    places = [strip.map_at(row, shift) for shift in (-1, 0, 1)]
    pixels = [triton.load(x.at[offsets], mask=exist, other=0) for offsets, exist in places]
    return pixels, [exist for _, exist in places]


def _sum_of_three(pixels):
    return sum(part.astype(jnp.float32) for part in pixels)


def _mean(sums, share, row, strip):
    """Return the mean of the windows around `row`, from the sums of their three rows.

    share: of their columns. Where a window reaches out of the map, it has fewer pixels.
    """
    return (sums[0] + sums[1] + sums[2]) * (share * _share(row, strip.height))


def _add_share(mean, gradient, offsets, exist, strip, shift):
    """Add what windows that are `shift` to the right give to each of their three columns."""
    part = triton.load(gradient.at[offsets], mask=exist, other=0).astype(jnp.float32)
    return mean + part * _share(strip.column + shift, strip.width)


# Below, one instruction computes with two 16-bit numbers or four of 8 bits, where the GPU can: its
# units for comparisons and selections would take longer than the memory otherwise. Sums computed
# that way, of the max-pool's gradients from one row of windows, are rounded to 16 bits after each
# addition.


def _outside_least(part, exists):
    """Return the pixels, with -inf for those that do not exist, which were read as zeros."""
    if not packs(part):
        return jnp.where(exists, part.astype(jnp.float32), -np.inf)
    # All bits of 0.0 are 0, so "or" leaves the pixels that exist, and makes -inf of the zeros read.
    least = jnp.where(exists, 0.0, -np.inf).astype(part.dtype)
    return _packed("or.b32 $0, $1, $2;", [part, least], part.dtype)


def _largest(parts):
    """Return the elementwise maximum of three tiles."""
    a, b, c = parts
    if not packs(a):
        return jnp.maximum(jnp.maximum(a, b), c)
    asm = "max.NaN.T $0, $1, $2; max.NaN.T $0, $0, $3;"
    return _packed(asm, parts, a.dtype)


def _first_largest(parts, numbers, step):
    """Return numbers[k] + step * k, int8, where k is the first of the largest of three tiles.

    numbers: three tiles, int8. All tiles are (columns, channels).
    """
    if not packs(parts[0]):
        largest, winner = parts[0], numbers[0]
        for k in (1, 2):
            winner = jnp.where(parts[k] > largest, numbers[k] + np.int8(step * k), winner)
            largest = jnp.maximum(parts[k], largest)
        return winner
    # For four numbers of each tile: $1 to $6 are the parts, two registers each, and $7 to $9 the
    # numbers, of 8 bits. A comparison makes 16 bits, all 1 or all 0, of each pair: prmt takes one
    # byte of each, for all four, and lop3 with 0xCA chooses by them, a ? b : c.
    asm = f"""{{ .reg .b32 m<2>, g<2>, w<2>;
    add.u32 w0, $8, {step * 0x01010101}; add.u32 w1, $9, {step * 0x02020202};
    set.gt.u32.T g0, $3, $1; set.gt.u32.T g1, $4, $2; prmt.b32 g0, g0, g1, 0x6420;
    lop3.b32 w0, g0, w0, $7, 0xCA;
    max.NaN.T m0, $1, $3; max.NaN.T m1, $2, $4;
    set.gt.u32.T g0, $5, m0; set.gt.u32.T g1, $6, m1; prmt.b32 g0, g0, g1, 0x6420;
    lop3.b32 $0, g0, w1, w0, 0xCA; }}"""
    return _packed(asm, [*parts, *numbers], jnp.int8, parts[0].dtype)


def _chosen(parts, winners):
    """Return what the windows around a row give to the row above, the row itself and that below.

    parts: the max-pool's gradients for the windows around the pixels to the left, here and to the
    right. winners: of these windows. All tiles are (columns, channels).
    """
    # In the window to the left (i = 0), this column is the last one (2 - i); row k of a window has
    # the pixels 3 * k ... 3 * k + 2.
    dtype = parts[0].dtype
    if not packs(parts[0]):
        return [
            sum(
                jnp.where(winner == 3 * k + 2 - i, part.astype(jnp.float32), 0)
                for i, (part, winner) in enumerate(zip(parts, winners))
            )
            for k in range(3)
        ]
    # Winners become numbers of the gradients' type, for comparisons that give 1 or 0 of that type.
    # A byte becomes the lower one of a number whose upper one has the exponent of whole numbers.
    high = 0x43 if dtype == jnp.bfloat16 else 0x64
    asm = f"prmt.b32 $0, $2, {high}, 0x4140; prmt.b32 $1, $2, {high}, 0x4342;"
    winners = [_packed(asm, [winner], dtype) for winner in winners]
    sums = []
    for k in range(3):
        # What the comparison gives is what the gradient is multiplied by.
        wanted = [(high << 8 | 3 * k + 2 - i) * 0x00010001 for i in range(3)]
        asm = f"""{{ .reg .b32 m, c;
        mov.b32 c, {wanted[0]}; set.eq.T.T m, $4, c; mul.rn.T $0, m, $1;
        mov.b32 c, {wanted[1]}; set.eq.T.T m, $5, c; fma.rn.T $0, m, $2, $0;
        mov.b32 c, {wanted[2]}; set.eq.T.T m, $6, c; fma.rn.T $0, m, $3, $0; }}"""
        sums.append(_packed(asm, [*parts, *winners], dtype))
    return sums


def _packed(asm, args, dtype, computed=None):
    """Return what `asm` makes of tiles, for the fewest numbers at once that fill registers.

    T in `asm` stands for two numbers of the type `computed`, or else of `dtype`, the result's.
    JAX takes one result of it: what needs two is two functions, each with the comparisons.
    """
    dtypes = [np.dtype(dtype), *(np.dtype(arg.dtype) for arg in args)]
    pack = 4 // min(dtype.itemsize for dtype in dtypes)  # a register has 4 bytes
    registers = [pack * dtype.itemsize // 4 for dtype in dtypes]
    (y,) = triton.elementwise_inline_asm(
        asm.replace("T", "bf16x2" if (computed or dtype) == jnp.bfloat16 else "f16x2"),
        args=args,
        constraints=",".join(["=&r"] * registers[0] + ["r"] * sum(registers[1:])),
        pack=pack,
        result_shape_dtypes=[jax.ShapeDtypeStruct(args[0].shape, dtype)],
    )
    return y
