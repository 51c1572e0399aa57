"""Downloads that end with a verified file under its name, or with none.

A file arrives in `<name>.part`; `<name>.part.json` beside it remembers whose part it is, so that a
broken transfer goes on where it stopped, and only if the server still has the same file. Size and
time are bounded: a server may send without end, or a byte a minute.
"""

import contextlib
import errno
import json
import os
import queue
import re
import socket
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests

from src import strict_json
from src.errors import UserError
from src.files import bytes_of, file_digest
from src.progress import progress_bar

TIMEOUT = (10, 60)  # seconds to connect, seconds of silence
RETRIES = 5  # failures in a row that brought nothing new
PAUSE = 1.0  # seconds before the first retry; doubles each time
CHUNK = 1 << 16
LARGEST = 1 << 28  # bytes; the ImageNet file has 85 MB
SLOWEST = 10_000  # bytes a second: what is slower, over all of the largest file, is given up
LEAST_PATIENCE = 60  # seconds, for the smallest file
HOPS = 10  # redirections in a row


CORRECT = "Correct the address in Data_Settings.json"


class Interrupted(Exception):
    """A transfer failed in a way that may pass."""


class Failed(UserError):
    """A transfer failed in a way that `advice` fits better than trying again later."""

    def __init__(self, reason, advice):
        super().__init__(reason)
        self.advice = advice


class _Session(requests.Session):
    """Follows no redirection by itself: that would read all that comes with one, however much."""

    def get_redirect_target(self, response):
        return None


def fetch(url, path, md5=None, check=None, hint="", largest=LARGEST):
    """Fetch `url` to `path`, replacing what is there only once the new file is complete and right.

    Verified: the length the server announces, `md5` (hex digest), and `check(part_path)`, which
    raises UserError if it doesn't like the file. Time-outs, broken connections and 5xx answers are
    retried with growing pauses; a part file is resumed. It is given up beyond `largest` bytes,
    and beyond the time that these take at SLOWEST.
    Raises UserError with the address, the reason, and what to do by hand (`hint` adds to it).
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    failures, furthest = 0, 0
    patience = LEAST_PATIENCE + largest / SLOWEST
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                resumed = _transfer(url, part, largest, deadline)
                _verify(part, md5, check, resumed)
                break
            except Interrupted as error:
                reason = error
            if time.monotonic() >= deadline:
                raise Failed(
                    f"it took longer than {patience / 60:.0f} minutes",
                    "Run the command again, which goes on where it stopped",
                )
            arrived = bytes_of(part)
            failures = 1 if arrived > furthest else failures + 1
            furthest = max(furthest, arrived)
            if failures > RETRIES:
                raise UserError(str(reason))
            pause = PAUSE * 2 ** (failures - 1)
            print(
                f"{path.name}: {reason}; trying again in {pause:g} s", file=sys.stderr, flush=True
            )
            time.sleep(pause)
        _note(part).unlink(missing_ok=True)  # first, or it would stay where a kill comes between
        os.replace(part, path)
    except UserError as error:
        if not bytes_of(part):
            _discard(part)
        advice = getattr(error, "advice", "Try again later")
        raise UserError(
            f"{path}: could not be fetched from {url}: {error}. {advice}, or fetch it with "
            f"a browser and save it as {path}{hint}"
        ) from None
    except OSError as error:  # no fault of the server's: a browser would fare no better
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = (
            "free some space" if full else "permit it, or choose another folder in the settings"
        )
        raise UserError(
            f"{error.filename or part}: could not be written: {error.strerror}; {advice}, and run "
            "the command again, which goes on where it stopped"
        ) from None


def secure(url):
    """Return whether an address is encrypted (https), or of this machine."""
    parts = urlsplit(url)
    own = re.fullmatch(r"localhost|127(\.\d{1,3}){3}|::1", parts.hostname or "")
    return parts.scheme == "https" or bool(parts.scheme == "http" and own)


def _transfer(url, part, largest, deadline):
    """Bring `part` to its full length; return whether bytes of an earlier transfer are in it.

    Raises Interrupted if trying again may help, else UserError.
    """
    origin = _origin(part, url)
    offset = bytes_of(part) if origin else 0
    headers = {"Accept-Encoding": "identity"}  # lengths and ranges count the file's own bytes
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if origin["validator"]:
            headers["If-Range"] = origin["validator"]
    try:
        with _Session() as session, _open(session, url, headers, deadline) as response:
            start, total = _span(response, part, offset, origin)
            if (total or 0) > largest:
                raise _too_large(f"the server announces {total} bytes", largest)
            if start == 0:
                _remember(part, url, response, total)
            if start != total:
                _receive(response, part, start, total, largest, deadline)
    except (requests.RequestException, ValueError) as error:
        if isinstance(error, ValueError):  # an address that can never work
            raise Failed(str(error), CORRECT) from None
        host, kind = urlsplit(url).netloc, type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            reason = re.search(r"verify failed: ([^()]*)", str(error))
            raise Failed(
                f"the certificate of {host} is not valid here"
                + (f": {reason.group(1).strip()}" if reason else ""),
                "Set this machine's clock, or name your proxy's certificates in REQUESTS_CA_BUNDLE",
            ) from None
        raise Interrupted(f"the connection to {host} failed ({kind})") from None
    arrived = bytes_of(part)
    if total is not None and arrived < total:
        raise Interrupted(f"the connection ended after {arrived} of {total} bytes")
    if total is not None and arrived > total:
        _discard(part)
        raise Interrupted(f"expected {total} bytes, received {arrived}")
    return start > 0


def _open(session, url, headers, deadline):
    """Return the server's answer after all redirections, none of which may leave https."""
    for _ in range(HOPS):
        response = _answer(session, url, headers, deadline)
        if not response.is_redirect:
            return response
        response.close()
        url = urljoin(url, response.headers["Location"])
        if not secure(url):
            raise Failed(f"the server leads to {url}, not https", CORRECT)
    raise Failed(f"the server leads on and on, to {url} at last", CORRECT)


def _answer(session, url, headers, deadline):
    """Return what a server answers; raise Interrupted at `deadline`, even if it still answers."""
    answers = queue.Queue()

    def ask():
        try:
            answers.put(session.get(url, headers=headers, stream=True, timeout=TIMEOUT))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=max(0, deadline - time.monotonic()))
    except queue.Empty:
        raise Interrupted("the answer took too long") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _span(response, part, offset, origin):
    """Return where the answer's bytes start and how long the file is (None: not told).

    An answer that is not the file raises Interrupted or UserError.
    """
    status, reason = response.status_code, f"{response.status_code} {response.reason}"
    span = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if status == 416 and offset:
        if span and span.group(2) == str(offset):  # all of it had arrived
            return offset, offset
        _discard(part)
        raise Interrupted(f"{reason}: the part file does not fit, starting anew")
    if status == 206:
        total = int(span.group(2)) if span and span.group(2) != "*" else None
        before = origin["total"] if origin else None
        if not span or span.group(1) != str(offset) or before not in (None, total):
            _discard(part)
            raise Interrupted("the server's file has changed, starting anew")
        return offset, total
    if status >= 500 or status in (408, 429):
        raise Interrupted(f"the server answers {reason}")
    if status != 200:
        raise Failed(f"the server answers {reason}", CORRECT)
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise UserError("the server sent a web page instead of the file")
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() and not encoded else None


def _too_large(found, largest):
    return Failed(f"{found}, the file can have {largest} bytes", CORRECT)


@contextlib.contextmanager
def _cut(response, deadline):
    """Cut the connection at `deadline`, even in the midst of waiting for its next byte."""
    if response.raw.closed:  # it has brought everything already
        yield
        return
    line = socket.fromfd(response.raw.fileno(), socket.AF_INET, socket.SOCK_STREAM)

    def cut():
        with contextlib.suppress(OSError):  # it is closed already
            line.shutdown(socket.SHUT_RDWR)

    alarm = threading.Timer(max(0, deadline - time.monotonic()), cut)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()
        line.close()


def _receive(response, part, start, total, largest, deadline):
    """Write an answer's bytes to `part` from `start` on, with a progress bar."""
    bar = progress_bar(
        desc=part.name[: -len(".part")],
        initial=start,
        total=total,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
    )
    with _cut(response, deadline), open(part, "ab" if start else "wb") as file, bar:
        for chunk in response.iter_content(CHUNK):
            if file.tell() == 0 and re.match(rb"\s*<(!doctype )?html", chunk, re.IGNORECASE):
                raise UserError("the server sent a web page instead of the file")
            if file.tell() + len(chunk) > largest:  # decoded, if it was sent packed
                _discard(part)
                raise _too_large("the server sends more", largest)
            file.write(chunk)
            bar.update(len(chunk))
    if total is None and time.monotonic() >= deadline:  # the end is then that of our patience
        raise Interrupted("the connection was cut")


def _verify(part, md5, check, resumed):
    """Raise UserError if a complete part is not the file; Interrupted if only its seam may be."""
    try:
        if not bytes_of(part):
            raise UserError("the server sent an empty file")
        if md5 is not None and file_digest(part, "md5") != md5:
            raise UserError(f"expected MD5 {md5}, found {file_digest(part, 'md5')}")
        if check is not None:
            check(part)
    except UserError as error:
        _discard(part)
        if resumed:
            raise Interrupted(str(error)) from None
        raise


def _note(part):
    return part.with_name(part.name + ".json")


def _origin(part, url):
    """Return what is remembered of the part file, or None if it isn't a part of `url`."""
    try:
        origin = strict_json.read(_note(part))
        validator, total = origin["validator"], origin["total"]
        # What the header of a request can hold.
        known = validator is None or re.fullmatch("[!-~][ -~]{,999}", validator)
        sound = known and type(total) in (int, type(None)) and origin["url"] == url
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return origin if sound else None


def _remember(part, url, response, total):
    validator = response.headers.get("ETag", "")
    if not validator or validator.startswith("W/"):  # weak tags don't promise equal bytes
        validator = response.headers.get("Last-Modified")
    part.parent.mkdir(parents=True, exist_ok=True)
    _discard(part)
    _note(part).write_text(json.dumps({"url": url, "validator": validator, "total": total}))


def _discard(part):
    for path in (part, _note(part)):
        path.unlink(missing_ok=True)
