"""The standard streams of a script: none of them ends the work that it tells of.

They may be closed, lead to a full disk, or to a reader that has gone, such as `head`.
"""

import contextlib
import os
import re
import sys
import tempfile

NAMES = ("stdout", "stderr")
# What TensorFlow's libraries tell while they start, before they know what is to be told.
STARTING = re.compile(rb"WARNING: All log messages before absl::|I\d{4} .*\.cc:\d+\]")

error_number = 2  # of the file that stderr leads to


def open_closed():
    """Open those that are closed, or the next files would get their numbers and what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


@contextlib.contextmanager
def lasting():
    """Let `print` and progress bars go on when their streams can't be written any more."""
    out, err = (_Lasting(name, getattr(sys, name) or open(os.devnull, "w")) for name in NAMES)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()


@contextlib.contextmanager
def without_starting_lines():
    """Leave out of stderr, also of what is not Python's, the lines that only tell of a start."""
    global error_number
    with contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
            error_number = os.dup(2)
        except OSError:  # there is no stderr, or no room to hold it back
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(error_number, 2)
            os.close(error_number)
            error_number = 2
            held.seek(0)
            told = [line for line in held if not STARTING.match(line)]
            with contextlib.suppress(OSError):  # nobody reads it
                os.write(2, b"".join(told))


class _Lasting:
    """A text stream that is led to nowhere once it fails; stderr hears of it."""

    def __init__(self, name, stream):
        self._name, self._stream = name, stream
        if hasattr(stream, "reconfigure"):  # or the name of a folder could end the script
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        with self._until_it_fails():
            self._stream.write(text)
        return len(text)

    def flush(self):
        with self._until_it_fails():
            self._stream.flush()

    @contextlib.contextmanager
    def _until_it_fails(self):
        try:
            yield
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            print(f"warning: {self._name}: {error}; going on without it", file=sys.stderr)
