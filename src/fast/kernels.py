"""Which of the kernels serve here: the one place that decides, and that imports them.

Those for GPUs are written in Pallas, so they are JAX's. On a CPU, TensorFlow's and PyTorch's
library has norms and pools of its own; JAX compiles all. Elsewhere the framework's operations
compute the same.
"""

import math
import sys

from src import backend as B
from src import devices

# JAX for Windows has no compiler for kernels, and computes on the CPU alone.
if B.NAME == "jax" and sys.platform != "win32":
    from src.fast.attention_blocks import attend_blocks
    from src.fast.attention_whole import attend_whole
    from src.fast.pool_kernels import average_pool, pools

    __all__ = ["attend_blocks", "attend_whole", "average_pool", "pools"]


def serve_cpu(x):
    """Return whether the CPU library's norms and pools serve maps like x, on one device."""
    if B.NAME == "jax" or devices.count() > 1 or B.has_gpu():
        return False
    return "float32" in str(x.dtype)  # each framework has a type of its own for types


def serve_pools(x, size):
    """Return whether the kernels `pools` and `average_pool` serve maps like x (B, H, W, C)."""
    # The compiler behind Pallas knows no GPU older than Ampere.
    return B.kernel_capability() >= 8 and size == 3 and x.shape[-1] % 16 == 0 and _counted(x.shape)


def attention(value, dimension):
    """Return the kernels' function that serves LHC's attention, or None.

    value: (B, heads, l, C). dimension: d, the length of queries and keys.
    """
    *images_and_heads, length, channels = value.shape
    # Their products would round float32 to TF32, and their tiles are powers of two. They need more
    # memory on the chip than workstation cards have: A100, H100, B200 and their like.
    capability = B.kernel_capability()
    if value.dtype == "float32" or not (capability == 8 or 9 <= capability < 12):
        return None
    if channels not in (16, 32, 64, 128, 256, 512):
        return None
    longest = max(length, dimension + -dimension % 8, channels)  # of all that a head has columns of
    if not _counted((*images_and_heads, longest, channels)):
        return None
    if channels <= 64:
        return attend_whole
    return attend_blocks if max(length, dimension) <= 128 else None


def _counted(shape):
    """Return whether kernels, which count in int32, can tell all numbers of two maps apart."""
    return 2 * math.prod(length for length in shape if length is not None) <= 2**31
