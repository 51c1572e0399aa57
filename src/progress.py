"""How far a script is: a bar that moves on a terminal, now and then a line in a log file."""

import sys

from tqdm import tqdm

SECONDS = 10  # from one line to the next


def progress_bar(*args, **kwargs):
    """Return tqdm(*args, **kwargs), on stderr."""
    if sys.stderr.isatty():
        return tqdm(*args, **kwargs)
    # What is over before the first line is due has none.
    return _Lines(*args, **{**kwargs, "mininterval": SECONDS, "delay": SECONDS, "leave": False})


class _Lines(tqdm):
    def display(self, msg=None, pos=None):
        """Print a line; tqdm asks with an empty one to take the bar away."""
        if msg is None:
            print(self, file=sys.stderr, flush=True)
        return True
