"""Keras' HDF5 weights files, read so that a damaged or a crafted one can do no harm.

Such a file can name other files as the place of its numbers, declare far more of them than it
holds, or lead the HDF5 library into an endless loop. So the library looks at it in another process,
with limits on time and, where the system has them, on memory, and tells where in the file the
numbers lie: plain floats, one after the other. From there they are read without the library.
"""

import json
import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

from src.errors import UserError, shown

PROGRAM = "import sys; sys.path = sys.argv[2:]; from src import hdf5; hdf5.answer(sys.argv[1])"
COMPUTING_S = 10  # of processor time; a quarter of a second is usual
WAITING_S = 300  # a slow disk included
MOST = 1 << 32  # bytes of numbers; LHC-Net has 130 MB
MEMORY = 1 << 30  # bytes for HDF5 itself
FLOATS = [
    getattr(h5py.h5t, f"IEEE_F{bits}{order}") for bits in (16, 32, 64) for order in ("LE", "BE")
]
AGAIN = "use a complete copy, or make or fetch it again"
EXPECTED = (
    "expected the weights alone in the HDF5 layout of Keras 2 (attribute layer_names): load it in "
    "Keras and write it with src.weights.save"
)


def read(path):
    """Return ({"layer/variable": array}, {"architecture": text or None, "sha256": ...}) of a file.

    The arrays are floats of 16, 32 or 64 bits in the file's order; the texts are attributes of the
    whole file. Raises UserError if it is no weights file in Keras' layout, or a damaged one.
    """
    # Matplotlib's backend would have src/__init__.py import it.
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    command = [sys.executable, "-c", PROGRAM, os.fspath(path), *sys.path]
    pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        done = subprocess.run(command, env=environment, timeout=WAITING_S, **pipes)
    except subprocess.TimeoutExpired:
        raise UserError(f"{path}: not read within {WAITING_S} s: {AGAIN}") from None
    if done.returncode:
        reason = f"it ended HDF5 with code {done.returncode}"
        if done.returncode == -getattr(signal, "SIGXCPU", 0):
            reason = f"it keeps HDF5 busy for more than {COMPUTING_S} s"
        raise UserError(f"{path} is not a readable weights file ({reason}): {AGAIN}")
    found = json.loads(done.stdout.decode())
    if "error" in found:
        raise UserError(f"{path} {found['error']}")
    arrays = {}
    with open(path, "rb") as file:
        for name, (dtype, shape, offset) in found["places"].items():
            flat = np.fromfile(file, dtype, math.prod(shape), offset=offset - file.tell())
            arrays[name] = flat.reshape(shape)
    return arrays, found["texts"]


def answer(path):
    """Print, as JSON, the texts that `read` returns and where the numbers lie, or an error.

    This is what the other process does.
    """
    _limit()
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"PK\3\4":
                raise UserError(f"is a zip archive such as Keras' own .keras files, {EXPECTED}")
        with h5py.File(path, "r") as file:
            texts = {name: _text(file, name) for name in ("architecture", "sha256")}
            found = {"texts": texts, "places": _places(file, os.stat(path).st_size)}
    except UserError as error:
        found = {"error": str(error)}
    except Exception as error:  # h5py's depend on its version and on which bytes are damaged
        reason = shown(error) or type(error).__name__
        found = {"error": f"is not a readable weights file ({reason}): {AGAIN}"}
    print(json.dumps(found), flush=True)


def _limit():
    """Limit this process's time and memory, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {resource.RLIMIT_CPU: COMPUTING_S, resource.RLIMIT_CORE: 0}
    with suppress(OSError):  # only Linux tells what is in use already
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = used + MEMORY
    for kind, amount in limits.items():
        soft, hard = resource.getrlimit(kind)
        known = [limit for limit in (amount, soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(kind, (min(known), hard))


def _places(file, size):
    """Return {"layer/variable": (dtype, shape, offset in the file)} of a file of `size` bytes."""
    if "layer_names" not in file.attrs:
        raise UserError(_other_kind(file))
    places, total = {}, 0
    for layer in _names(file, "layer_names"):
        group = _member(file, layer)
        if not isinstance(group, h5py.Group):
            raise UserError(f"has no variables as {shown(layer)}: {AGAIN}")
        for name in _names(group, "weight_names"):
            short = name.split(":")[0]
            short = short[len(layer) + 1 :] if short.startswith(f"{layer}/") else short
            key, dataset = f"{layer}/{short}", _member(group, name)
            if key in places:
                raise UserError(f"names the variable {shown(key)} twice: {AGAIN}")
            places[key] = _place(dataset, shown(key))
            length = math.prod(dataset.shape) * dataset.dtype.itemsize
            total += length
            if total > min(size, MOST) or places[key][2] + length > size:
                raise UserError(f"declares more numbers than its {size} bytes hold: {AGAIN}")
    return places


def _other_kind(file):
    """Say what an HDF5 file without layer_names is."""
    if "model_config" in file.attrs or file.id.links.exists(b"model_weights"):
        return f"is a whole model (Keras' model.save), {EXPECTED}"
    if file.id.links.exists(b"layers") or file.id.links.exists(b"_layer_checkpoint_dependencies"):
        return f"is in the layout of Keras 3 (its model.save_weights), {EXPECTED}"
    return f"is an HDF5 file of another kind, {EXPECTED}"


def _names(holder, attribute):
    """Return the texts in an attribute that lists names."""
    if attribute not in holder.attrs:
        raise UserError(f"lacks the attribute {attribute} of {shown(holder.name)}: {AGAIN}")
    stored = holder.attrs.get_id(attribute)
    if stored.shape == (0,):  # of any type, as layers without weights have it
        return []
    if len(stored.shape or ()) != 1 or not _is_text(stored.dtype):
        raise UserError(f"has an attribute {attribute} that is no list of names: {AGAIN}")
    return [_decoded(name) for name in holder.attrs[attribute]]


def _text(file, attribute):
    """Return the text in an attribute, or None without it."""
    if attribute not in file.attrs:
        return None
    stored = file.attrs.get_id(attribute)
    if stored.shape != () or not _is_text(stored.dtype):
        raise UserError(f"has an attribute {attribute} that is no text: {AGAIN}")
    return _decoded(file.attrs[attribute])


def _is_text(dtype):
    return dtype.kind == "S" or h5py.check_dtype(vlen=dtype) in (str, bytes)


def _decoded(text):
    return text.decode() if isinstance(text, bytes) else str(text)


def _member(group, name):
    """Return what lies in `group` under `name`, if it lies in this file and not behind a link."""
    for part in name.split("/"):
        # Asked of the library itself: h5py's own ways open what a link leads to.
        if not (isinstance(group, h5py.Group) and part and group.id.links.exists(part.encode())):
            raise UserError(f"lacks {shown(name)}, which it names: {AGAIN}")
        if group.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise UserError(f"has a link to another place as {shown(name)}: {AGAIN}")
        group = group[part]
    return group


def _place(dataset, name):
    """Return (dtype, shape, offset in the file) of a dataset whose numbers lie there in one row."""
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"has no numbers as {name}: {AGAIN}")
    stored, properties = dataset.id.get_type(), dataset.id.get_create_plist()
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise UserError(f"takes {name} from other files: {AGAIN}")
    if dataset.shape is None or not any(stored.equal(known) for known in FLOATS):
        raise UserError(
            f"holds {name} as {shown(dataset.dtype)}, expected floats of 16, 32 or 64 bits: {AGAIN}"
        )
    if properties.get_layout() != h5py.h5d.CONTIGUOUS:
        raise UserError(f"holds {name} in chunks or compressed: repack it (h5repack -l CONTI)")
    offset = dataset.id.get_offset()
    if offset is None and math.prod(dataset.shape):
        raise UserError(f"lacks the numbers of {name}, which were never written: {AGAIN}")
    return dataset.dtype.str, dataset.shape, offset or 0
