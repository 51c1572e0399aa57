"""What JAX has compiled, kept in a folder, so that the next start need not compile it again.

What lies there is run as it is. So that settings from somebody else can't name a folder with things
to run, everything is kept in a subfolder whose name only this user's home knows.
"""

import functools
import os
import re
import secrets
import sys
from pathlib import Path

from src import backend
from src.files import replace

NAME = "lhc-net-compiled"  # of the file in the user's cache folder


def keep_in(folder):
    """Keep what is compiled in a subfolder of `folder`, and take from there what was before.

    TensorFlow and PyTorch keep nothing. If it can't be kept, work goes on with a warning.
    """
    if backend.NAME != "jax":
        return
    import jax

    try:
        folder = folder.resolve() / _secret()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError) as error:  # the latter for users without a home
        print(f"warning: nothing compiled is kept: {error}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # All of it: the many small computations that make a net's fresh weights are felt together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _secret():
    """Return the subfolder's name, which the first call makes up."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home.mkdir(parents=True, exist_ok=True)
    path = home / NAME
    if not path.exists():
        private = functools.partial(os.open, mode=0o600)
        with replace(path) as part, open(part, "w", opener=private) as file:
            file.write(secrets.token_hex(16))
    secret = path.read_text(errors="replace")
    if not re.fullmatch("[0-9a-f]{32}", secret):
        raise OSError(f"{path}: expected 32 digits; remove it")
    return secret
