"""Ctrl-C and SIGTERM end a script at once, whatever it is doing: importing, compiling, training.

Python would raise KeyboardInterrupt in the main thread, when that comes back from C++ code, and
some libraries swallow it there. Here a thread of its own waits for the signals. Files are whole or
not at all at every moment (src/files.py), so there is nothing to wait for. Processes that a script
has started get the same signal.
"""

import contextlib
import os
import select
import signal
import threading

from src import streams
from src.files import remove_parts

MESSAGE = "interrupted; run the same command again to continue"
children = []  # subprocess.Popen of what is to end with this process
starting = threading.Lock()  # held while one is started and joins the list


def listen():
    """Make the process end with 128 + the signal's number on SIGINT (130) and SIGTERM (143).

    Call from the main thread before others start. Windows has its own way (src/cli.py).
    """
    if not hasattr(signal, "pthread_sigmask"):
        return
    numbers = {
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN  # as a shell's background jobs do
    }
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    threading.Thread(target=lambda: _stop(signal.sigwait(numbers)), daemon=True).start()


def _stop(number):
    try:
        starting.acquire()  # for good: nothing begins any more
        for child in children:
            with contextlib.suppress(OSError):  # it has just ended
                child.send_signal(number)
        remove_parts()
        # Not by way of sys.stderr, whose lock the main thread may hold; nor where nobody reads.
        stderr = streams.error_number
        if select.select([], [stderr], [], 0)[1]:
            start = os.linesep if os.isatty(stderr) else ""
            os.write(stderr, f"{start}{MESSAGE}{os.linesep}".encode())
    finally:
        os._exit(128 + number)
