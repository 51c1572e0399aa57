"""The published models as they come: TensorFlow object checkpoints (REFERENCE.md section 9).

A checkpoint is three files: `checkpoint`, `<prefix>.index` and `<prefix>.data-00000-of-00001`. They
are checked as far as that goes without TensorFlow, which only reading the arrays needs.
"""

import re

import numpy as np

from src.errors import UserError

TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
# The parts of the published nets that hold an attention module: the stem, each stage's last unit.
HOMES = ("conv1", "conv2_3", "conv3_4", "conv4_6", "conv5_3")


def check_checkpoint_file(file, name):
    """Raise UserError if `file` can't be the file called `name` of a TensorFlow checkpoint.

    A data file is measured against the `.index` beside it, where there is one.
    """
    if not _bytes(file):
        raise UserError(f"{file}: empty")
    if name == "checkpoint":
        if "model_checkpoint_path" not in file.read_text(errors="replace"):
            raise UserError(f'{file}: expected the text "model_checkpoint_path"')
    elif name.endswith(".index"):
        _data_size(file)
    elif ".data-" in name:
        index = file.with_name(name.split(".data-")[0] + ".index")
        expected = _data_size(index) if index.is_file() else None
        if expected not in (None, _bytes(file)):
            raise UserError(f"{file}: expected {expected} bytes, found {_bytes(file)}")


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


def _bytes(file):
    return file.stat().st_size if file.is_file() else 0


def _data_size(index):
    """Return how many bytes a checkpoint's data file has, by its index; None if that is packed.

    The index is a LevelDB-style table: blocks of (key, value), the last of which lists the others,
    and a footer that says where that one is. Field 4 of a value is a tensor's offset, field 5 its
    size.
    """
    table = index.read_bytes()
    try:
        if table[-8:] != TABLE_MAGIC:
            raise ValueError
        *_, offset, size = _varints(table[-48:], 4)
        end = 0
        for handle in _values(table, offset, size):
            offset, size = _varints(handle, 2)
            if table[offset + size] != 0:  # how the block is compressed
                return None
            for value in _values(table, offset, size):
                fields = _fields(value)
                end = max(end, fields.get(4, 0) + fields.get(5, 0))
        return end
    except (ValueError, IndexError):
        raise UserError(f"{index}: not the index of a TensorFlow checkpoint") from None


def _values(table, offset, size):
    """Yield the values of one block of a table."""
    block = table[offset : offset + size]
    restarts = int.from_bytes(block[-4:], "little")
    block = block[: -4 * (restarts + 1)]
    while block:
        _, key, length, block = _varints(block, 3, rest=True)
        yield block[key : key + length]
        block = block[key + length :]


def _fields(message):
    """Return the whole-number fields of a protocol buffer message: {field number: value}."""
    fields = {}
    while message:
        tag, message = _varints(message, 1, rest=True)
        if tag & 7 == 5:  # 32 bits
            message = message[4:]
            continue
        value, message = _varints(message, 1, rest=True)
        if tag & 7 == 0:
            fields[tag >> 3] = value
        elif tag & 7 == 2:  # bytes, `value` of them
            message = message[value:]
        else:
            raise ValueError
    return fields


def _varints(data, count, rest=False):
    """Return the `count` variable-length integers that start `data` (and what follows them)."""
    numbers, value, shift, position = [], 0, 0, 0
    while len(numbers) < count:
        value |= (data[position] & 127) << shift
        shift += 7
        if data[position] < 128:
            numbers.append(value)
            value = shift = 0
        position += 1
    return (*numbers, data[position:]) if rest else tuple(numbers)
