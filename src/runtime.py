"""What is set once per process before anything is computed: determinism, threads, precision."""

import platform
from pathlib import Path

import numba
import PIL
import scipy
import simplejpeg

from src import backend, compiled, devices


def prepare(settings):
    """Set up the backend as Runtime_Settings.json asks. Call before building a network."""
    runtime = settings.runtime
    if runtime["deterministic"]:
        backend.set_deterministic()
    if runtime["threads"]:
        backend.set_threads(runtime["threads"])
    backend.set_precision(runtime["precision"])
    if runtime["compilation_cache"]:
        compiled.keep_in(Path(runtime["compilation_cache"]))
    devices.use(runtime)


def versions():
    """Return {name: version} of all that has a part in the numbers, for storing with a run."""
    modules = {"scipy": scipy, "pillow": PIL, "simplejpeg": simplejpeg, "numba": numba}
    libraries = {name: module.__version__ for name, module in modules.items()}
    return dict(backend.versions(), cpu=cpu(), platform=platform.platform(), **libraries)


def cpu(info=Path("/proc/cpuinfo")):
    """Return the CPU's maker and widest vector instructions where Linux tells, else its kind.

    On another one, sums may be added up in another order.
    """
    try:
        lines = info.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    told = {name.strip(): value.split() for name, _, value in (x.partition(":") for x in lines)}
    if not told.get("vendor_id"):
        return platform.machine()
    names = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX"}
    widest = [shown for flag, shown in names.items() if flag in told.get("flags", [])]
    return ", ".join(told["vendor_id"] + widest[:1])
