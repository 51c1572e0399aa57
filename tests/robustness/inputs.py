"""Hostile inputs: folders of files, made of good ones by changes that Hypothesis draws.

An input is {name: (kind, value)}: ("file", bytes), ("zeros", number of bytes), ("link", target),
("pipe", None) or ("folder", None). Names may have slashes.
"""

import base64
import copy
import json
import os

from hypothesis import strategies as st

HUGE = 3 << 30  # bytes; such files have holes, and take no room
ODD_FILES = st.sampled_from(
    [
        *[("file", b""), ("file", b"\0"), ("zeros", 1 << 20), ("zeros", HUGE)],
        *[("link", "/dev/zero"), ("link", "loop"), ("link", "."), ("pipe", None), ("folder", None)],
    ]
)
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
DIGITS, DEEP = "@digits", "@deep"  # stand for very long numbers and brackets in brackets
ODD_VALUES = st.sampled_from(
    [
        *[None, True, False, 0, -1, 1, 2, 7, 1.5, -0.5, 48.0, 10**9, 2**31, 2**53, 2**63, 10**17],
        *[10**18, -(10**30), 1e308, 1e-320, float("nan"), float("inf"), DIGITS, DEEP],
        *[
            "",
            " ",
            "\0",
            "\n",
            "\ud800",
            "\u202e",
            "\u0663",
            "a\u0301",
            "x" * 3000,
            "~nobody",
            "..",
        ],
        *["/dev/zero", "../../src", "a/" * 600, "https://[", "3", "null", "adam", "float16"],
        *[[], {}, [[]], {"": None}, [None] * 5, [1] * 5000, {"\ud800": 1}, {"x" * 300: {}}],
    ]
)
VALUES = ODD_VALUES | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def write(entries, folder):
    """Write an input's files below a folder."""
    for name, (kind, value) in entries.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if kind == "folder":
            os.makedirs(path, exist_ok=True)
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "link":
            os.symlink(value, path)
        else:
            with open(path, "wb") as file:
                file.write(value) if kind == "file" else file.truncate(value)


def as_text(entries):
    """Return an input as JSON, which `from_text` reads."""
    packed = {
        name: [kind, base64.b64encode(value).decode() if kind == "file" else value]
        for name, (kind, value) in entries.items()
    }
    return json.dumps(packed, indent=1)


def from_text(text):
    return {
        name: (kind, base64.b64decode(value) if kind == "file" else value)
        for name, (kind, value) in json.loads(text).items()
    }


def changed(entries, changes):
    """A strategy of inputs: `entries` with one or two of its files changed.

    changes: {name: function of a file's bytes that gives a strategy of bytes}; any of these files
    may be missing, too, or be no file at all.
    """

    made = {name: change(entries[name][1]) for name, change in changes.items()}
    names = st.lists(st.sampled_from(sorted(changes)), min_size=1, max_size=2, unique=True)

    @st.composite
    def draw_input(draw):
        result = dict(entries)
        for name in draw(names)[: draw(st.sampled_from([1, 1, 2]))]:
            how = draw(st.integers(0, 39))
            if how == 0:
                del result[name]
            elif how == 1:
                result[name] = draw(ODD_FILES)
            else:
                result[name] = ("file", draw(made[name]))
        return result

    return draw_input()


def places(length):
    """A strategy of places among `length` bytes: the ends are as likely as all between them."""
    ends = st.integers(0, min(length, 200)), st.integers(max(0, length - 200), length)
    return st.one_of(*ends, st.integers(0, length))


@st.composite
def damaged(draw, content):
    """Bytes after one to four changes: flipped, overwritten, cut, moved, repeated."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(places(len(data)))
        end = start + draw(st.sampled_from([1, 1, 2, 4, 8, 30, 300, 5000]))
        kind = draw(st.sampled_from(["flip", "number", "run", "cut", "remove", "copy", "insert"]))
        if kind == "flip" and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            number, size = draw(st.sampled_from(INTERESTING)), draw(st.sampled_from([1, 2, 4, 8]))
            order = draw(st.sampled_from(["little", "big"]))
            data[start : start + size] = (number % 256**size).to_bytes(size, order)
        elif kind == "run":
            data[start:end] = bytes([draw(st.integers(0, 255))]) * len(data[start:end])
        elif kind == "cut":
            del data[start:]
        elif kind == "remove":
            del data[start:end]
        elif kind == "copy":
            target = draw(places(len(data)))
            data[target:target] = data[start:end] * draw(st.sampled_from([1, 1, 1, 50]))
        elif kind == "insert":
            data[start:start] = draw(st.binary(max_size=40))
    return bytes(data)


def odd_json(content):
    """A strategy of JSON files, made of a good one: odd values, keys, encodings and bytes."""
    document = json.loads(content.decode())
    return st.one_of(*[_odd_document(document)] * 4, damaged(content))


@st.composite
def _odd_document(draw, document):
    holder = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(1, 3))):
        _change(draw, holder)
    text = json.dumps(holder[0], indent=draw(st.sampled_from([None, 1])))
    if draw(st.integers(0, 9)) == 0 and "{" in text:  # the same key twice
        text = text.replace("{", '{"\\n": 1, "\\n": 2, ', 1)
    length = draw(st.sampled_from([19, 400, 5000, 200_000]))
    text = text.replace(f'"{DIGITS}"', "7" * length)
    text = text.replace(f'"{DEEP}"', "[" * length + "]" * length)
    codec = draw(st.sampled_from([*["utf-8"] * 12, "utf-8-sig", "utf-16", "utf-32"]))
    return text.encode(codec)


def _change(draw, holder):
    """Change one place in [document], found by going down from the top."""
    key = 0
    while isinstance(holder[key], (dict, list)) and holder[key] and draw(st.integers(0, 4)):
        holder = holder[key]
        keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
        key = draw(st.sampled_from(keys))
    kind = draw(st.sampled_from(["set", "set", "set", "wrap", "remove", "rename", "more"]))
    if kind == "wrap":
        holder[key] = draw(st.sampled_from([[holder[key]], {"a": holder[key]}]))
    elif kind == "remove" and holder is not None and len(holder) > 1:
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[draw(st.text(max_size=9))] = holder.pop(key)
    elif kind == "more" and isinstance(holder, list) and len(holder) > 1:
        holder.append(copy.deepcopy(draw(VALUES)))
    else:
        holder[key] = copy.deepcopy(draw(VALUES))  # since the next change may be in it
