"""JSON from elsewhere: what is read, and what is refused before it does any harm."""

import os

import pytest

from src import strict_json


def test_plain_json_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null, "b"]}')
    assert strict_json.read(tmp_path / "a.json") == {"a": [1, 2.5, None, "b"]}
    assert strict_json.parse(b"1" * 39, digits=39) == int("1" * 39)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[" * 22 + b"]" * 22, "more than 20 brackets"),
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in folders")
def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(str(tmp_path / "pipe"))
    for name in ("pipe", ".", "nothing"):
        with pytest.raises(ValueError, match="something else than a file"):
            strict_json.read(tmp_path / name)
