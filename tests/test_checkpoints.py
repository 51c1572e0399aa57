"""Checkpoints judged without TensorFlow, which ends the process over what it can't parse."""

import time
from pathlib import Path

import numpy as np
import pytest

from src import checkpoints
from src.checkpoints import check_checkpoint, check_checkpoint_file, data_size, read_index
from src.crc32c import crc32c, masked
from src.errors import UserError

HEADER = bytes([8, 1, 0x1A, 2, 8, 1])  # one data file, version 1
ARRAYS = {"a/kernel": np.arange(6).reshape(2, 3), "b": np.float32(7), "c": np.ones((0, 4))}


def write(folder, index, data):
    (folder / "m.index").write_bytes(index)
    (folder / "m.data-00000-of-00001").write_bytes(data)
    return folder / "m"


def test_crc32c():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of its definition
    assert crc32c(b"") == 0 and masked(0) == 0xA282EAD8


def test_a_sound_checkpoint(tmp_path, make_checkpoint):
    prefix = write(tmp_path, *make_checkpoint(ARRAYS))
    check_checkpoint(prefix)
    entries = read_index(tmp_path / "m.index")
    assert [(e.shape, e.offset, e.size) for e in entries.values()] == [
        ((2, 3), 0, 24),
        ((), 24, 4),
        ((0, 4), 28, 0),
    ]
    assert data_size(entries) == 28


def test_checkpoints_of_tensorflow_are_sound(tmp_path):
    tf = pytest.importorskip("tensorflow")
    variables = {f"v{i}": tf.Variable(np.full(i, i, np.float32)) for i in range(100)}
    prefix = tf.train.Checkpoint(step=tf.Variable(3), **variables).save(str(tmp_path / "m"))
    check_checkpoint(prefix)
    entries = read_index(Path(prefix + ".index"))
    assert entries["v7/.ATTRIBUTES/VARIABLE_VALUE"].shape == (7,)
    assert {entry.dtype for entry in entries.values()} == {1, 3, 7, 9}


def test_the_published_checkpoints_are_sound(published):
    for prefix in ("LHC_Net/LHC_Net", "LHC_NetC/LHC_Net_Controller"):
        check_checkpoint(published / prefix)


def test_any_changed_byte_is_found(tmp_path, make_checkpoint):
    index, data = make_checkpoint(ARRAYS)
    prefix = write(tmp_path, index, data)
    end = len(index) - 48  # of the footer only where the list of blocks lies has a meaning
    for number in [*range(end), end + 2, end + 3, *range(len(index) - 8, len(index))]:
        changed = bytearray(index)
        changed[number] ^= 1
        write(tmp_path, changed, data)
        with pytest.raises(UserError, match="m.index: not the index.*run Download_Models.py"):
            check_checkpoint(prefix)
    for number in range(len(data)):
        changed = bytearray(data)
        changed[number] ^= 128
        write(tmp_path, index, changed)
        with pytest.raises(UserError, match="data-00000-of-00001: the checksum of .* not match"):
            check_checkpoint(prefix)


@pytest.mark.parametrize("length", [0, 27, 29])
def test_the_length_of_the_data_is_told_by_the_index(tmp_path, make_checkpoint, length):
    prefix = write(tmp_path, make_checkpoint(ARRAYS)[0], bytes(length))
    with pytest.raises(UserError, match=f"expected 28 bytes, found {length}|empty"):
        check_checkpoint(prefix)


def test_missing_files(tmp_path, make_checkpoint):
    prefix = write(tmp_path, *make_checkpoint(ARRAYS))
    for name in ("m.data-00000-of-00001", "m.index"):
        (tmp_path / name).unlink()
        with pytest.raises(UserError, match=f"{name}: not found.*run Download_Models.py"):
            check_checkpoint(prefix)


SCALAR = bytes([0x08, 1, 0x12, 0, 0x28, 4])  # float32 without dimensions, four bytes at 0


@pytest.mark.parametrize(
    "value",
    [
        SCALAR[:-1] + b"\x05",  # five bytes
        SCALAR[:-1],  # cut
        SCALAR + b"\x37bad!",  # wire type 7
        SCALAR + b"\x35\0\0",  # a checksum of two bytes
        SCALAR + b"\x40\x01",  # field 8
        SCALAR + b"\x28\x04",  # the size twice
        SCALAR + b"\x18\x01",  # in the second data file
        SCALAR + b"\x3a\0",  # a slice
        SCALAR + b"\x20" + b"\xff" * 9 + b"\x01",  # offset -1
        SCALAR + b"\x20" + b"\x80" * 10 + b"\x01",  # more than 64 bits
        b"\x08\x63" + SCALAR[2:],  # type 99
        b"\x08\x07\x12\0\x28\0",  # a text of no bytes, not even its length
        b"\x08\x01\x12\x0d\x12\x0b\x08" + b"\xff" * 9 + b"\x01\x28\x04",  # dimension -1
        b"\x08\x01\x12\x02\x18\x01",  # unknown rank
        b"\x08\x01\x12\x05\x12\x03\x12\x01\xff",  # a dimension with a name
        b"\x08\x01\x12\x7f",  # a shape beyond the end
    ],
)
def test_entries_that_tensorflow_would_die_of(tmp_path, make_index, value):
    index = tmp_path / "m.index"
    index.write_bytes(make_index({b"": HEADER, b"k": SCALAR}))
    assert read_index(index)["k"].size == 4
    index.write_bytes(make_index({b"": HEADER, b"k": value}))
    with pytest.raises(UserError, match="m.index: not the index of a TensorFlow checkpoint"):
        read_index(index)


@pytest.mark.parametrize(
    "pairs",
    [
        {},
        {b"k": SCALAR},
        {b"": b"", b"k": SCALAR},
        {b"": bytes([8, 2]), b"k": SCALAR},  # two data files
        {b"": HEADER + bytes([16, 1]), b"k": SCALAR},  # big-endian
        {b"": HEADER, b"l": SCALAR, b"k": SCALAR[:-1] + b"\4\x20\4"},  # out of order
        {b"": HEADER, b"k": SCALAR, b"l": SCALAR},  # in one place
        {b"": HEADER, b"\xff": SCALAR},
    ],
)
def test_odd_tables(tmp_path, make_index, pairs):
    (tmp_path / "m.index").write_bytes(make_index(pairs))
    with pytest.raises(UserError, match="m.index: not the index of a TensorFlow checkpoint"):
        read_index(tmp_path / "m.index")


def test_large_indexes(tmp_path, make_index):
    """Two megabytes took a quarter of a minute, and four times that each time they doubled."""
    index = tmp_path / "m.index"
    many = {b"%06d" % i: b"\x08\x01\x12\x04\x12\x02\x08\0" for i in range(100_000)}
    index.write_bytes(make_index({b"": HEADER, **many}))
    start = time.perf_counter()
    assert len(read_index(index)) == 100_000
    assert time.perf_counter() - start < 10
    with open(index, "ab") as file:
        file.truncate(checkpoints.LARGEST_INDEX + 1)
    with pytest.raises(UserError, match="expected at most 16777216 bytes, found 16777217"):
        read_index(index)


def test_the_note_beside_them(tmp_path):
    note = tmp_path / "checkpoint"
    note.write_text('model_checkpoint_path: "m"')
    check_checkpoint_file(note, "checkpoint")
    for text in ("", "x", "model_checkpoint_path" + "x" * (1 << 16)):
        note.write_text(text)
        with pytest.raises(UserError, match="checkpoint: (empty|expected)"):
            check_checkpoint_file(note, "checkpoint")
