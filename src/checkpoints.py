"""The published models as they come: TensorFlow object checkpoints (REFERENCE.md section 9).

A checkpoint is three files: `checkpoint`, `<prefix>.index` and `<prefix>.data-00000-of-00001`. All
of them are checked here, to the last checksum, before TensorFlow sees them: it ends the whole
process, without a word to Python, over an index that it does not understand. Only reading the
arrays needs it.
"""

import re
from collections import namedtuple
from pathlib import Path

import numpy as np

from src.errors import UserError
from src.files import bytes_of

LARGEST_INDEX = 1 << 24  # bytes; the published ones have 17 kB
LARGEST_NOTE = 1 << 16  # bytes of the file `checkpoint`; the published ones have under 100
TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
STRING, MANY_STRINGS = 7, 1000
ITEM_BYTES = {  # of TensorFlow's number types, by their numbers in an index
    **{1: 4, 2: 8, 3: 4, 4: 1, 5: 2, 6: 1, 9: 8, 10: 1},  # float32 to bool, without the complex
    **{14: 2, 17: 2, 19: 2, 22: 4, 23: 8},  # bfloat16, uint16, float16, uint32, uint64
}
# What an index says of a tensor: type, dimensions, where its bytes lie, their masked CRC-32C.
Entry = namedtuple("Entry", "dtype shape offset size crc")
# The parts of the published nets that hold an attention module: the stem, each stage's last unit.
HOMES = ("conv1", "conv2_3", "conv3_4", "conv4_6", "conv5_3")


def check_checkpoint(prefix):
    """Raise UserError unless `<prefix>.index` and its data file are there and sound."""
    for name in (f"{prefix}.index", f"{prefix}.data-00000-of-00001"):
        try:
            check_checkpoint_file(Path(name), name)
        except UserError as error:
            raise UserError(
                f"{prefix} is not a readable checkpoint ({error}): run Download_Models.py"
            ) from None


def check_checkpoint_file(file, name):
    """Raise UserError if `file` can't be the file called `name` of a TensorFlow checkpoint.

    An index must be whole, plain and true to its checksums. A data file is compared with the
    `.index` beside it, where there is one: its length and every tensor's checksum.
    """
    if not bytes_of(file):
        raise UserError(f"{file}: {'empty' if file.exists() else 'not found'}")
    if name == "checkpoint":
        if bytes_of(file) > LARGEST_NOTE:
            raise UserError(
                f"{file}: expected at most {LARGEST_NOTE} bytes, found {bytes_of(file)}"
            )
        if "model_checkpoint_path" not in file.read_text(errors="replace"):
            raise UserError(f'{file}: expected the text "model_checkpoint_path"')
    elif name.endswith(".index"):
        read_index(file)
    elif ".data-" in name:
        index = file.with_name(Path(name).name.split(".data-")[0] + ".index")
        if index.is_file():
            _check_data(file, read_index(index))


def data_size(entries):
    """Return how many bytes the data file has that belongs to an index (from `read_index`)."""
    return max((entry.offset + entry.size for entry in entries.values()), default=0)


def checkpoint_key(name):
    """Return the published checkpoints' key of variable `name` (REFERENCE.md section 9).

    "stage2_unit1_sc/kernel" -> "conv3_1/convId/kernel"
    """
    layer, variable = name.split("/", 1)
    stem = {"bn_data": "conv1/bn1", "conv0": "conv1/conv1", "bn0": "conv1/bn2", "bn1": "bn"}
    unit = re.fullmatch(r"stage(\d)_unit(\d)_(\w+)", layer)
    attention = re.fullmatch(r"lhc(\d)", layer)
    if unit:
        part = {"sc": "convId"}.get(unit[3], unit[3])
        return f"conv{int(unit[1]) + 1}_{unit[2]}/{part}/{variable}"
    if attention:
        stage = int(attention[1])
        if variable == "w":
            return f"controller{stage}/w"
        variable = re.sub(r"^query_key_", "Wqk/", variable)
        variable = variable.replace("temperature/", "Wp/").replace("value/", "Wv/")
        return f"{HOMES[stage - 1]}/LHC_Module/{variable}"
    return f"{stem.get(layer, layer)}/{variable}"


def load_checkpoint(model, prefix):
    """Put the checkpoint `prefix`, a published model's, into `model`, by name.

    Raises UserError where the files are missing or damaged, TensorFlow is not installed, or a
    variable is missing, surplus, misshapen or not made of finite floats; the model is then
    unchanged.
    """
    try:
        import tensorflow as tf  # the file format is TensorFlow's own
    except ImportError as error:
        raise UserError(
            f"{prefix}: only TensorFlow reads published checkpoints, and it cannot be imported "
            f"({error}): pip install -r requirements.txt"
        ) from None

    from src import weights  # not before: Download_Models.py does without Keras

    check_checkpoint(prefix)  # TensorFlow ends the process at some damages
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        keys = [
            key[: -len(suffix)]
            for key in reader.get_variable_to_shape_map()
            # The optimizer's slots and the save counter are not the network's.
            if key.endswith(suffix)
            and ".OPTIMIZER_SLOT" not in key
            and not key.startswith(("optimizer/", "save_counter/"))
        ]
        stored = {key: reader.get_tensor(key + suffix) for key in keys}
    # What TensorFlow raises depends on its version and on which bytes are damaged.
    except (LookupError, TypeError, ValueError, RuntimeError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{prefix} is not a readable checkpoint ({reason}): run Download_Models.py"
        ) from error
    names = {checkpoint_key(name): name for name in weights.named_variables(model)}
    arrays = {names.get(key, key): np.asarray(array) for key, array in stored.items()}
    weights.assign(model, arrays, prefix)


def read_index(index):
    """Return {key: Entry} of a checkpoint's index; raise UserError if anything in it is odd.

    The index is a LevelDB-style table: blocks of keys and values, the last of which lists the
    others, and a footer that says where that one is. The first value is the checkpoint's header,
    each other one describes a tensor; both are protocol buffers. Whatever TensorFlow itself would
    not write (several data files, packed blocks, slices, unknown fields) is refused.
    """
    if bytes_of(index) > LARGEST_INDEX:
        raise UserError(f"{index}: expected at most {LARGEST_INDEX} bytes, found {bytes_of(index)}")
    table = index.read_bytes()
    try:
        if len(table) < 48 or table[-8:] != TABLE_MAGIC:
            raise ValueError("no table")
        position = len(table) - 48
        handles = []
        for _ in range(4):  # of a list of metadata, which is empty, and of the list of blocks
            number, position = _varint(table, position)
            handles.append(number)
        entries, last, end = {}, None, 0
        for _, handle in _pairs(table, *handles[2:]):
            offset, position = _varint(handle, 0)
            size, position = _varint(handle, position)
            if position != len(handle) or offset < end:  # a block twice would take its time twice
                raise ValueError("odd list of blocks")
            end = offset + size
            for key, value in _pairs(table, offset, size):
                if last is not None and key <= last:
                    raise ValueError("keys out of order")
                if last is None:
                    _check_header(key, value)
                else:
                    entries[key.decode()] = _entry(value)
                last = key
        if last is None:
            raise ValueError("no header")
        end = 0
        for entry in sorted(entries.values(), key=lambda entry: entry.offset):
            if entry.offset < end:
                raise ValueError("tensors that overlap")
            end = entry.offset + entry.size
        return entries
    except (ValueError, IndexError) as error:
        reason = f" ({error})" if type(error) is ValueError else ""
        raise UserError(f"{index}: not the index of a TensorFlow checkpoint{reason}") from None


def _check_data(file, entries):
    """Raise UserError if a data file isn't the one that an index's entries describe."""
    from src.crc32c import crc32c, masked  # not before: compiling takes a second

    if bytes_of(file) != data_size(entries):
        raise UserError(f"{file}: expected {data_size(entries)} bytes, found {bytes_of(file)}")
    with open(file, "rb") as data:
        for key, entry in sorted(entries.items(), key=lambda item: item[1].offset):
            data.seek(entry.offset)
            content = data.read(entry.size)
            try:
                if entry.dtype == STRING:
                    content = _unpacked_lengths(content, entry)
            except (ValueError, IndexError):
                content = b""
            if masked(crc32c(content)) != entry.crc:
                raise UserError(f"{file}: the checksum of {key} does not match; it is damaged")


def _unpacked_lengths(content, entry):
    """Return the bytes that the checksum of a tensor of strings is made of.

    The strings' lengths come first, as varints; the checksum takes them as 32 bits, or 64.
    """
    lengths, position = b"", 0
    for _ in range(_product(entry.shape)):
        length, position = _varint(content, position)
        lengths += length.to_bytes(4 if length < 1 << 32 else 8, "little")
    return lengths + content[position:]


def _pairs(table, offset, size):
    """Yield the (key, value) pairs of one block of a table, once its checksum is seen to match."""
    from src.crc32c import crc32c, masked  # not before: compiling takes a second

    end = offset + size
    if size < 8 or end + 5 > len(table) - 48:
        raise ValueError("a block beyond the end")
    if table[end] != 0:
        raise ValueError("a packed block")
    checksum = int.from_bytes(table[end + 1 : end + 5], "little")
    if masked(crc32c(table[offset : end + 1])) != checksum:
        raise ValueError("a checksum that does not match")
    restarts = int.from_bytes(table[end - 4 : end], "little")
    stop = end - 4 * (restarts + 1)
    if not 1 <= restarts <= size // 4 - 1:
        raise ValueError("odd block")
    starts = {
        int.from_bytes(table[place : place + 4], "little") for place in range(stop, end - 4, 4)
    }
    position, key, whole = offset, b"", {0}
    while position < stop:
        start = position
        shared, position = _varint(table, position)
        own, position = _varint(table, position)
        length, position = _varint(table, position)
        if shared > len(key) or position + own + length > stop:
            raise ValueError("odd block")
        if not shared:
            whole.add(start - offset)
        key = key[:shared] + table[position : position + own]
        position += own + length
        yield key, table[position - length : position]
    if not starts <= whole:  # where a search in the block begins
        raise ValueError("odd block")


def _check_header(key, value):
    """Raise ValueError unless this is the header of a checkpoint with one data file."""
    fields = _fields(value, {1: 0, 2: 0, 3: 2})
    _fields(fields.get(3, b""), {1: 0, 2: 0})
    if key or fields.get(1) != 1 or fields.get(2, 0) != 0:  # one data file, little-endian
        raise ValueError("odd header")


def _entry(value):
    """Return the Entry of a BundleEntryProto, as protocol buffers are called in TensorFlow."""
    fields = _fields(value, {1: 0, 2: 2, 3: 0, 4: 0, 5: 0, 6: 5})
    dimensions = _fields(fields.get(2, b""), {2: [2]}).get(2, [])
    if len(dimensions) > 32:
        raise ValueError("odd entry")
    shape = [_fields(dimension, {1: 0}).get(1, 0) for dimension in dimensions]
    dtype, offset, size = (fields.get(number, 0) for number in (1, 4, 5))
    count = _product(shape)
    if fields.get(3, 0) != 0 or max([offset, size, count, *shape]) >= 1 << 62:
        raise ValueError("odd entry")
    if dtype == STRING:  # the graph of the saved objects is one
        fits = count <= min(size, MANY_STRINGS)
    else:
        fits = dtype in ITEM_BYTES and size == count * ITEM_BYTES[dtype]
    if not fits:
        raise ValueError("an entry of another size than its shape")
    return Entry(dtype, tuple(shape), offset, size, fields.get(6, 0))


def _product(numbers):
    product = 1
    for number in numbers:
        product *= number
    return product


def _fields(message, known):
    """Return {field number: value} of a protocol buffer message, which has only `known` fields.

    known: {field number: wire type}: 0 whole number, 2 bytes, 5 four bytes; [2] may be repeated and
    gives a list. Raises ValueError for anything else.
    """
    fields, position = {}, 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        many = known.get(number) == [kind]
        if not many and (known.get(number) != kind or number in fields):
            raise ValueError("odd fields")
        if kind == 5:
            value = int.from_bytes(message[position : position + 4], "little")
            position += 4
        else:
            value, position = _varint(message, position)
        if kind == 2:
            value, position = message[position : position + value], position + value
        if position > len(message):
            raise ValueError("odd fields")
        if many:
            fields.setdefault(number, []).append(value)
        else:
            fields[number] = value
    return fields


def _varint(data, position):
    """Return the variable-length integer at `position` (at most 64 bits), and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >= 1 << 64:
                break
            return value, position
    raise ValueError("a number of more than 64 bits")
