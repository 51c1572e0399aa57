"""Files that appear whole or not at all, whatever stops the program, and locks for folders."""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import sys
import time

from src.errors import UserError

# What systems put into folders that somebody looks at, in lower case.
SYSTEMS = ("thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store")
PART = re.compile(r".+\.\d+-[0-9a-f]{8}\.part")  # the name of what `replace` writes first
HOLDER = re.compile(r"(\n(\d+ \(.*\)\n)?)?")  # what a lock file holds
_open = set()  # the parts that are being written


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


def write_file(path, content):
    """Write the bytes `content` to a file, which appears whole or not at all, as with `replace`."""
    with replace(path) as part, open(part, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def replace_all(paths, sync=True):
    """Like `replace` for several files: yields their parts, and all are complete before the first
    one takes its place."""
    parts = [_part(path) for path in paths]
    _open.update(parts)
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
    finally:
        _open.difference_update(parts)
    if sync:
        for folder in {os.path.dirname(part) or os.curdir for part in parts}:
            with contextlib.suppress(OSError):  # Windows opens no folders
                _sync(folder, os.O_RDONLY)


@contextlib.contextmanager
def replace_folder(path):
    """Like `replace` for a folder: `part` is a new, empty one.

    What was at `path` goes once the new folder has its name. Between two renames neither has it;
    whoever is killed there leaves both beside it, complete, as `.part`.
    """
    part, old = _part(path), _part(path)
    _open.add(part)
    os.mkdir(part)
    try:
        yield part
        for folder, _, names in os.walk(part):
            for name in names:
                _sync(os.path.join(folder, name), os.O_RDWR)
        _open.discard(part)
        replaces = os.path.isdir(path)
        if replaces:
            os.rename(path, old)
        try:
            os.rename(part, path)
        except OSError:
            if replaces:
                os.rename(old, path)
            raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # the first error counts
        raise
    finally:
        _open.discard(part)
    shutil.rmtree(old, ignore_errors=True)  # there is none, or it does no harm


def remove_left(folder):
    """Remove what killed processes were writing in a folder, which nobody else may write to now."""
    for name in filter(PART.fullmatch, os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.remove(path)


def remove_parts():
    """Remove what is being written now, since the process ends."""
    for part in list(_open):
        with contextlib.suppress(OSError):  # it has its name already, or is not begun
            os.remove(part)
        shutil.rmtree(part, ignore_errors=True)  # of a folder


def _part(path):
    return f"{path}.{os.getpid()}-{secrets.token_hex(4)}.part"


def bytes_of(path):
    """Return how many bytes a file has; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def file_digest(path, algorithm):
    """Return the hex digest of a file by an algorithm of hashlib, such as "sha256"."""
    found = hashlib.new(algorithm)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def _sync(path, mode):
    """Wait until the disk holds a file's content or a folder's names."""
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def lock(path, busy, wait=False):
    """Hold the lock file `path`, which the system lets go of when the process ends, however.

    If another process holds it, wait for that one's end, or raise UserError: what is busy, and who.
    """
    path = os.fspath(path)
    os.makedirs(os.path.dirname(path) or os.curdir, exist_ok=True)
    with _locked(path, busy, wait) as file:
        file.seek(0)
        if not HOLDER.fullmatch(file.read(1000)):
            raise UserError(f"{path}: found a file that is no lock of ours: move it elsewhere")
        file.truncate(0)
        with contextlib.suppress(OSError):  # a full disk; then others are not told who it is
            os.write(file.fileno(), f"\n{os.getpid()} ({os.path.basename(sys.argv[0])})\n".encode())
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no open file; it does no harm
                os.remove(path)


def _locked(path, busy, wait):
    """Return the open and locked file `path`."""
    while True:
        file = open(path, "a+", encoding="utf-8", errors="replace")
        try:
            _lock(file)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            file.close()  # removed by the one that held it, before this one had it
            continue
        except (BlockingIOError, PermissionError):
            if wait:
                file.close()
                time.sleep(0.05)
                continue
            holder = _holder(file)
            file.close()
            raise UserError(f"{busy} {holder}: wait for it, or stop it") from None
        file.close()


def _holder(file):
    """Return which process holds the lock of a file, as that tells a moment after it has it."""
    for _ in range(20):
        file.seek(1)
        holder = file.read().strip()
        if holder:
            return f"by process {holder}"
        time.sleep(0.05)
    return "by another process"


def _lock(file):
    """Lock the first byte of a file for this process, or raise BlockingIOError at once."""
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
