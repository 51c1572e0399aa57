"""What is set once per process before anything is computed: determinism, threads, precision."""

import platform

import numba
import PIL
import scipy

from . import backend


def prepare(settings):
    """Set up the backend as Runtime_Settings.json asks. Call before building a network."""
    runtime = settings.runtime
    if runtime["deterministic"]:
        backend.set_deterministic()
    if runtime["threads"]:
        backend.set_threads(runtime["threads"])
    backend.set_precision(runtime["precision"])


def versions():
    """Return {name: version} of all that has a part in the numbers, for storing with a run."""
    libraries = {"scipy": scipy.__version__, "pillow": PIL.__version__, "numba": numba.__version__}
    return dict(backend.versions(), platform=platform.platform(), **libraries)
