"""The curves of a training for TensorBoard, in its event files, which are written without it.

An event file is a row of records: a length, its checksum, a message, its checksum. The messages
are protocol buffers: an Event has a time (field 1), a step (2), and either the version of the
format (3), scalars (5) or the word that a program starts at this step (7). That word lets
TensorBoard forget what an earlier file of the folder tells of this step and those after it, so a
run that goes on, or begins anew, has each epoch once.
"""

import struct
import time

from src import plots
from src.crc32c import crc32c, masked

VERSION = b"brain.Event:2"
STARTS = b"\x08\x01"  # of a SessionLog: its status (field 1) is START (1)


class Board:
    """Tells the scalars of each epoch to TensorBoard; None for a folder: to nobody."""

    def __init__(self, folder):
        self.folder = folder
        self._path = None  # of the file that is written, whole so far

    def add(self, step, scalars):
        """Append {name: number} of an epoch, counted from 1 over all stages.

        If that fails, it is a warning. Half a record would hide all after it, so that the next
        epoch begins another file.
        """
        if self.folder is None:
            return
        now = time.time()
        begun, self._path = self._path, None
        path = begun or self.folder / f"events.out.tfevents.{now:.6f}"
        with plots.warning(path):
            records = _record(now, step, 5, b"".join(map(_scalar, scalars.items())))
            if not begun:
                records = _record(now, 0, 3, VERSION) + _record(now, step, 7, STARTS) + records
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as file:
                file.write(records)
            self._path = path


def _record(now, step, field, content):
    """Return the record of an Event whose `field` is made of these bytes."""
    event = b"\x09" + struct.pack("<d", now) + b"\x10" + _varint(step) + _bytes(field, content)
    length = struct.pack("<Q", len(event))
    return length + _checksum(length) + event + _checksum(event)


def _scalar(pair):
    """Return a (name, number) as the value (field 1) of a Summary: tag (1), simple_value (2)."""
    name, number = pair
    return _bytes(1, _bytes(1, name.encode()) + b"\x15" + struct.pack("<f", number))


def _bytes(field, content):
    return bytes([field << 3 | 2]) + _varint(len(content)) + content


def _varint(number):
    """Return a whole number, 7 bits a byte, the lowest first."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _checksum(content):
    return struct.pack("<I", masked(crc32c(content)))
