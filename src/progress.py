"""How far a script is: a bar that moves on a terminal, now and then a line in a log file."""

import datetime
import io
import math
import statistics
import sys
import time
from collections import deque

from tqdm import tqdm

SECONDS = 10  # from one line to the next
PACE = 3  # epochs whose median is the pace: the first one compiles, others may have to wait


def progress_bar(*args, **kwargs):
    """Return tqdm(*args, **kwargs), on stderr."""
    if sys.stderr.isatty():
        return tqdm(*args, **kwargs)
    # What is over before the first line is due has none. What tqdm itself writes, a carriage return
    # at the end, goes nowhere.
    quiet = {"mininterval": SECONDS, "delay": SECONDS, "leave": False, "file": io.StringIO()}
    return _Lines(*args, **{**kwargs, **quiet})


def epoch_bar(count, title):
    """Return the bar of an epoch of `count` batches, which `advance` moves.

    title: function of the share that is done, 0 to 1 -> the words before the bar.
    """
    return progress_bar(total=count, desc=title(0), unit="batch", leave=False)


def advance(bar, done, title):
    """Move an `epoch_bar` on to `done` batches; never back, from whatever thread."""
    with bar.get_lock():
        bar.set_description(title(done / bar.total), refresh=False)
        bar.update(max(done - bar.n, 0))


class _Lines(tqdm):
    def display(self, msg=None, pos=None):
        """Print a line; tqdm asks with an empty one to take the bar away."""
        if msg is None:
            print(self, file=sys.stderr, flush=True)
        return True


class Outlook:
    """How a training stands: the best epoch of its stage, and the time left for the whole run.

    That is what all epochs still to come take at the pace of the last ones, "at most" where a
    patience may end a stage earlier.
    """

    def __init__(self, stages):
        """stages: of a recipe, the one that is trained and those after it."""
        self.stages = stages
        self._seconds = deque(maxlen=PACE)
        self._since = time.perf_counter()

    def during(self, epoch, best, done):
        """Return words such as "best 0.7123, at most 0:12:34 left" for within an epoch.

        epoch: which of its stage, from 1. best: accuracy, -inf for none yet. done: share (0 to 1)
        of the epoch, of which the first one's pace is guessed; there are no words yet at its start.
        """
        passed = time.perf_counter() - self._since
        if self._seconds:
            pace = statistics.median(self._seconds)
        else:
            pace = passed / done if done else 0
        return self._words(best, max(pace - passed, 0) + pace * self._epochs_after(epoch))

    def after(self, epoch, best, stops):
        """Return the same words once that epoch is over. stops: whether it ends its stage."""
        now = time.perf_counter()
        self._seconds.append(now - self._since)
        self._since = now
        return self._words(
            best, statistics.median(self._seconds) * self._epochs_after(epoch, stops)
        )

    def _epochs_after(self, epoch, stops=False):
        first, *later = (stage["epochs"] for stage in self.stages)
        return sum(later) + (0 if stops else first - epoch)

    def _words(self, best, seconds):
        words = [f"best {best:.4f}"] if math.isfinite(best) else []
        if seconds:
            bound = "at most" if any(stage["patience"] for stage in self.stages) else "about"
            words.append(f"{bound} {datetime.timedelta(seconds=round(seconds))} left")
        return ", ".join(words)
