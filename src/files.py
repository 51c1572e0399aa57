"""Files that appear whole or not at all, whatever stops the program that writes them."""

import contextlib
import os
import secrets


@contextlib.contextmanager
def replace(path, sync=True):
    """Write a file anew: `with replace(path) as part:` write what is to be in it to `part`.

    `part` (text) lies beside `path` under a name that no other process uses, and takes its place
    at the end of the block. If the block raises an error, the part is removed and what was at
    `path` stays. The folder has to exist.

    sync: have the disk hold the content before the name changes, so that a power cut leaves the
    old file or the new one. Raises OSError, which names a file or the folder, if the disk refuses.
    """
    with replace_all([path], sync) as (part,):
        yield part


@contextlib.contextmanager
def replace_all(paths, sync=True):
    """Like `replace` for several files: yields their parts, and all are complete before the first
    one takes its place."""
    parts = [f"{path}.{os.getpid()}-{secrets.token_hex(4)}.part" for path in paths]
    try:
        yield parts
        if sync:
            for part in parts:
                _sync(part, os.O_RDWR)
        for part, path in zip(parts, paths):
            os.replace(part, path)
    except BaseException as error:
        for part in parts:
            with contextlib.suppress(OSError):  # not begun, or lost too: the first error counts
                os.remove(part)
        if isinstance(error, OSError) and error.errno and not error.filename:  # as of a full disk
            error.filename = os.path.dirname(parts[0]) or os.curdir
        raise
    if sync:
        for folder in {os.path.dirname(part) or os.curdir for part in parts}:
            with contextlib.suppress(OSError):  # Windows opens no folders
                _sync(folder, os.O_RDONLY)


def _sync(path, mode):
    """Wait until the disk holds a file's content or a folder's names."""
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
