"""The net that comes with the program, in few bits, and checked whenever it is read.

    Models_Shipped/net.json            what it is and was made from, its figures, its files' digests
    Models_Shipped/weights-1.npz ...   its weights
    Models_Shipped/README.md           its card (src/shipping.py)

A kernel is stored as whole numbers, codes, with one scale for each output channel: a weight is its
code times the scale. Each layer adds its own error to what the net says, whatever its size, so that
small kernels get more bits, which cost little. What has hardly any numbers (biases, BatchNorm, the
first and the last kernel) stays as it is.

In the files `layer/variable` has the low bytes of the codes, `layer/variable.high` a plane for each
of their other bits, and `layer/variable.scale` the scales.
"""

import hashlib
import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np

from src import settings, strict_json
from src.errors import UserError, shown
from src.files import lock, remove_left, replace_all

FOLDER = Path(__file__).resolve().parent.parent / "Models_Shipped"
RECORD, CARD = "net.json", "README.md"
WEIGHTS = re.compile(r"weights-[1-9]\.npz")
LARGEST = 16_000_000  # bytes of a file
MOST = 40_000_000  # bytes of all of them
OVERHEAD = 1000  # bytes beside an array's own, generously: names and shapes, twice
BITS = ((1_000_000, 9), (300_000, 10), (20_000, 12))  # of so many numbers or more: 9 to 16 each
AGAIN = "take a new copy of the folder, or make it anew with Ship.py"
TRAINING = settings.SCHEMA["properties"][settings.FILES["training"]]
SCHEMA = {
    "definitions": settings.SCHEMA["definitions"],
    "type": "object",
    "required": ["architecture", "files", "parameters", "made_from", "measured"],
    "properties": {
        "architecture": {
            "type": "object",
            "required": ["network", "target_size", "lhc"],
            "properties": {
                "network": {"enum": ["LHC_Net", "LHC_NetC"]},
                "target_size": TRAINING["properties"]["target_size"],
                "lhc": settings.SCHEMA["properties"][settings.FILES["lhc"]],
            },
        },
        "files": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": f"^{WEIGHTS.pattern}$"},
            "additionalProperties": {
                "type": "object",
                "required": ["bytes", "sha256"],
                "properties": {
                    "bytes": {"type": "integer", "minimum": 1, "maximum": LARGEST},
                    "sha256": {"type": "string"},
                },
            },
        },
        "measured": {
            "type": "object",
            "required": ["test"],
            "properties": {
                "test": {
                    "type": "object",
                    "required": ["images", "accuracy"],
                    "properties": {
                        "images": {"type": "integer", "minimum": 1},
                        "accuracy": {"type": "number", "minimum": 0, "maximum": 1},
                    },
                }
            },
        },
    },
}


def pack(arrays):
    """Return the parts {name: array} of weights {"layer/variable": float32 array}."""
    parts = {}
    for name, array in arrays.items():
        bits = next((bits for numbers, bits in BITS if array.size >= numbers), None)
        if bits is None:
            parts[name] = array
            continue
        middle = 2 ** (bits - 1) - 1  # the code of 0
        highest = np.abs(array).max(axis=tuple(range(array.ndim - 1)))
        # Smaller scales lose digits; a channel of zeros needs one too.
        scale = np.maximum(highest / np.float32(middle), np.finfo(np.float32).tiny)
        codes = (np.clip(np.rint(array / scale), -middle, middle) + middle).astype(np.uint16)
        planes = [np.packbits(codes & (1 << bit) > 0) for bit in range(8, bits)]
        parts[name] = (codes & 255).astype(np.uint8)
        parts[f"{name}.high"] = np.stack(planes)
        parts[f"{name}.scale"] = scale
    return parts


def unpack(parts):
    """Return the weights {"layer/variable": float32 array} of parts as `pack` makes them.

    Each is at most half its channel's scale from what was packed.
    """
    arrays = {}
    for name in (name for name in parts if not name.endswith((".high", ".scale"))):
        arrays[name] = parts[name]
        if f"{name}.scale" in parts:
            planes, codes = parts[f"{name}.high"], parts[name].astype(np.uint16)
            for bit, plane in enumerate(planes, start=8):
                ones = np.unpackbits(plane)[: codes.size].reshape(codes.shape)
                codes |= ones.astype(np.uint16) << bit
            middle = 2 ** (7 + len(planes)) - 1
            arrays[name] = (codes.astype(np.float32) - middle) * parts[f"{name}.scale"]
    return arrays


def files(parts):
    """Return {name: content} of the files that hold the parts, none above LARGEST bytes."""
    groups, size = [{}], 0
    for name, part in parts.items():
        size += part.nbytes + OVERHEAD
        if size > LARGEST and groups[-1]:
            groups.append({})
            size = part.nbytes + OVERHEAD
        groups[-1][name] = part
    contents = {}
    for number, group in enumerate(groups, start=1):
        file = io.BytesIO()
        np.savez(file, **group)
        contents[f"weights-{number}.npz"] = file.getvalue()
    return contents


def digests(contents):
    """Return what net.json tells under "files" of {name: content}."""
    return {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }


def check_folder(folder):
    """Raise UserError if a folder has files of a net's names that belong to no such net."""
    names = os.listdir(folder) if folder.is_dir() else []
    there = {name for name in names if name in (RECORD, CARD) or WEIGHTS.fullmatch(name)}
    if there and RECORD not in there:
        raise UserError(
            f"{folder / min(there)}: is there already, and without {RECORD} not Ship.py's: "
            "move it elsewhere, or name another folder with --to"
        )


def write(folder, contents):
    """Write the files {name: content} of a net into a folder, and remove weights of another one.

    All or nothing. Raises UserError if they are more than a repository should hold, and as
    `check_folder` does.
    """
    size, largest = sum(map(len, contents.values())), max(map(len, contents.values()))
    if size > MOST or largest > LARGEST:
        raise UserError(
            f"{folder}: found a net of {size} bytes, {largest} in one file, allowed: {MOST} and "
            f"{LARGEST}; nothing was written"
        )
    with lock(folder / "net.lock", f"{folder} is being written"):
        remove_left(folder)
        check_folder(folder)
        with replace_all([folder / name for name in contents]) as parts:
            for part, content in zip(parts, contents.values()):
                with open(part, "wb") as file:
                    file.write(content)
        for name in _weights_in(folder) - set(contents):
            os.remove(folder / name)


def record(folder):
    """Return what net.json in a folder tells.

    Raises UserError, one line, where it is missing or damaged.
    """
    path = folder / RECORD
    if not path.exists():
        raise UserError(
            f"{path} is missing: this copy of the program comes without a trained net; Ship.py "
            "makes one of a finished training"
        )
    try:
        found = strict_json.read(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({shown(error)}): {AGAIN}") from None
    problem = _problem(found)
    if problem:
        raise UserError(f"{path} is damaged ({shown(problem)}): {AGAIN}")
    return found


def _problem(record):
    """Return what is wrong with the content of a net.json, or None."""
    wrong = next(strict_json.Validator(SCHEMA).iter_errors(record), None)
    if wrong:
        where = ".".join(map(str, wrong.absolute_path)) or "its content"
        return f"{where}: {wrong.message}"
    shape = record["architecture"]
    heads = shape["lhc"]["num_heads"]
    wrong = settings.wrong_heads(heads, shape["target_size"])
    if wrong:
        module, allowed = wrong
        return f"architecture.lhc.num_heads.{module}: expected {allowed}, found {heads[module]}"
    return None


def read(folder):
    """Return the weights {"layer/variable": float32 array} of the net in a folder.

    Raises UserError, one line, where a file is missing, surplus, or not what net.json tells.
    """
    told = record(folder)["files"]
    surplus = _weights_in(folder) - set(told)
    if surplus:
        raise UserError(f"{folder / min(surplus)}: {RECORD} names no such file: {AGAIN}")
    parts = {}
    try:
        for name, expected in told.items():
            parts.update(_arrays(_content(folder / name, expected)))
        return unpack(parts)
    except (ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder}: no net of Ship.py's ({shown(error)}): {AGAIN}") from None


def _arrays(content):
    """Return the arrays {name: array} of a file's content, which is as large as they are."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(part.compress_type for part in archive.infolist()):
            raise ValueError("found compressed parts")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _content(path, expected):
    """Return the content of a file, which is to have the size and the digest of net.json."""
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path} is missing: {AGAIN}")
    with open(path, "rb") as file:
        content = file.read(expected["bytes"] + 1)
    if digests({path.name: content})[path.name] != expected:
        raise UserError(
            f"{path} is damaged or another one: expected {expected['bytes']} bytes with the "
            f"SHA-256 {shown(expected['sha256'])}: {AGAIN}"
        )
    return content


def _weights_in(folder):
    return {name for name in os.listdir(folder) if WEIGHTS.fullmatch(name)}
