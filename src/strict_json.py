"""JSON from files that may be damaged or somebody else's, read so that it can do no harm.

Stricter than `json`: plain files of bounded size only, no key twice, no NaN, no endless numbers,
few brackets within each other. Whatever is wrong is a ValueError, or an OSError of the system's.
"""

import json
import math
import os
import re
from collections import Counter
from functools import partial

from jsonschema import Draft7Validator
from jsonschema.validators import extend

LARGEST = 1 << 20  # bytes; settings have up to 3 kB
DEEPEST = 20  # brackets within brackets; settings have up to 5
DIGITS = 18  # what 64 bits hold
BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)|[][{}]', re.DOTALL)  # beside the strings
STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}
TOO_DEEP = f"found more than {DEEPEST} brackets within each other, allowed: fewer"

# JSON Schema takes 48.0 for an integer; a batch size is to be written 48.
Validator = extend(
    Draft7Validator,
    type_checker=Draft7Validator.TYPE_CHECKER.redefine("integer", lambda _, v: type(v) is int),
)


def read(path):
    """Return the content of a JSON file of at most LARGEST bytes."""
    if not os.path.isfile(path):  # a pipe would be waited for
        raise ValueError("found something else than a file")
    with open(path, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"found more than {LARGEST} bytes, allowed: fewer")
    return parse(content)


def parse(content, digits=DIGITS):
    """Return the content of JSON (bytes in UTF-8), whose whole numbers have at most `digits`."""
    text = content.decode("utf-8-sig")  # Windows editors like to write the mark
    # Before json sees it: its scanner calls itself for each bracket, and what Python 3.8 cleans up
    # beside a RecursionError can end the process.
    if not _shallow(text):
        raise ValueError(TOO_DEEP)
    return json.loads(
        text,
        parse_int=partial(_whole, digits=digits),
        parse_float=_finite,
        parse_constant=_finite,
        object_pairs_hook=_unique,
    )


def _shallow(text):
    """Return whether brackets lie within each other no deeper than DEEPEST."""
    depth = 0
    for match in BRACKETS.finditer(text):
        depth += STEPS.get(match.group(), 0)
        if depth > DEEPEST:
            return False
    return True


def _whole(text, digits):
    if len(text) > digits:  # thousands of digits take long to read
        raise ValueError(f"found {text[:20]}..., allowed: whole numbers of at most {digits} digits")
    return int(text)


def _finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"found {text[:20]}, allowed: finite numbers")
    return number


def _unique(pairs):
    for key, times in Counter(key for key, _ in pairs).items():
        if times > 1:
            shown = key if key.isprintable() else json.dumps(key)
            raise ValueError(f"{shown[:200]}: found {times} times in one object, allowed: once")
    return dict(pairs)
