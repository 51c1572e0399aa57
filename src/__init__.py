"""The package of LHC-Net's scripts; docs/tree.md lists its modules."""

import os
import sys

if not (sys.version_info[:2] == (3, 8) or (3, 11) <= sys.version_info[:2] <= (3, 13)):
    sys.exit(
        "error: found Python {}.{}, expected 3.11 to 3.13, or 3.8 for the paper's stack".format(
            *sys.version_info
        )
    )

from src import interrupts, streams  # noqa: E402


def _import_matplotlib(backend):
    """Import matplotlib as Keras and src/plots.py will, but survive a backend it does not know."""
    del os.environ["MPLBACKEND"]  # an unknown one ends the import; none of our pictures needs one
    try:
        import matplotlib

        matplotlib.rcParams["backend"] = backend  # what matplotlib does with the variable
        os.environ["MPLBACKEND"] = backend
    except (ImportError, ValueError):
        pass


if os.environ.get("MPLBACKEND") and "matplotlib" not in sys.modules:
    _import_matplotlib(os.environ["MPLBACKEND"])

# Here, since the scripts' own imports take seconds. A program of somebody else's listens by itself.
_main = getattr(sys.modules["__main__"], "__file__", None) or ""
if os.path.dirname(os.path.abspath(_main)) == os.path.dirname(os.path.dirname(__file__)):
    streams.open_closed()
    interrupts.listen()
