"""JSON from elsewhere: what is read, and what is refused before it does any harm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src import strict_json

ROOT = Path(__file__).resolve().parent.parent


def test_plain_json_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null, "b"]}')
    assert strict_json.read(tmp_path / "a.json") == {"a": [1, 2.5, None, "b"]}
    assert strict_json.parse(b"1" * 39, digits=39) == int("1" * 39)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[" * 21 + b"]" * 21, "more than 20 brackets"),
        (b'{"a": [' * 10 + b"[" + b"]" + b"]}" * 10, "more than 20 brackets"),
        (b"[" * 100_000, "more than 20 brackets"),
        (b"1" * 19, "at most 18 digits"),
        (b"[1e999]", "finite"),
        (b"[NaN]", "finite"),
        (b'{"a": 1, "a": 2}', "^a: found 2 times"),
        (b'{"%s": 1, "%s": 2}' % (b"a" * 9999, b"a" * 9999), "^a{200}: found 2 times"),
        (b'{"\\n": 1, "\\n": 2}', r'^"\\n": found 2 times'),
        (b"\xff", "codec"),
        (b"{", "property name"),
        (b" " * (strict_json.LARGEST + 1), "more than 1048576 bytes"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_anything_else_is_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        strict_json.read(tmp_path / "a.json")


def test_brackets_are_counted_where_they_nest():
    deepest = '{"a]": [' * 10 + "]}" * 10
    beside = "[" + ", ".join(["[{}]"] * 30) + "]"
    words = '["' + "[{" * 30 + '", "\\"' + "[" * 30 + '", "\\\\", {"' + "{" * 30 + '": "]"}]'
    for text in (deepest, beside, words):
        assert strict_json.parse(text.encode()) == json.loads(text)
    with pytest.raises(ValueError, match="more than 20 brackets"):
        strict_json.parse(words.replace('"]"', "[" * 19 + "]" * 19).encode())


FALLING = """
import gc
from src import strict_json

def fall(depth):
    return depth and fall(depth - 1)

class Falling:  # is cleaned up late, and then runs into the limit more than once
    def __init__(self):
        self.own = self

    def __del__(self):
        for depth in (2000, 60, 60, 60):
            try:
                fall(depth)
            except RecursionError:
                continue

for allocations in range(700, 1000):  # one of them is made just below the limit
    gc.disable()
    gc.collect()
    Falling()
    gc.set_threshold(allocations)
    gc.enable()
    try:
        strict_json.parse(b"[" * 100000)
    except ValueError as error:
        assert "more than 20 brackets" in str(error)
"""


def test_what_is_cleaned_up_while_json_is_read_ends_nothing():
    """Python 3.8 died of it when json's scanner went down to the recursion limit."""
    subprocess.run([sys.executable, "-c", FALLING], cwd=str(ROOT), check=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in folders")
def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(str(tmp_path / "pipe"))
    for name in ("pipe", ".", "nothing"):
        with pytest.raises(ValueError, match="something else than a file"):
            strict_json.read(tmp_path / name)
