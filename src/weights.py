"""Weights in and out: HDF5 files in Keras' by-name layout.

One layout serves the ImageNet file and our own: a group per layer, in it the variables named in
the group's attribute `weight_names`. Variables are matched by name on every stack; a missing,
surplus or misshapen one is an error.
"""

import hashlib
import json
import shutil
from pathlib import Path

import h5py
import numpy as np

from src import backend, downloads, hdf5, packed, runs, strict_json
from src.errors import UserError, shown
from src.files import file_digest, lock, write_file
from src.lhc import LHC

HEAD = ("fc1", "fc2", "fc3")


def named_variables(model):
    """Return {"layer/variable": (variable, index)} in the order of the layers in the model.

    Of that name is variable[index], where `...` is all of it: LHC may keep the variables of its
    heads in one.
    """
    named = {}
    for layer in model.layers:
        if isinstance(layer, LHC):
            parts = layer.named_variables()
        else:
            parts = {
                variable.name.split("/")[-1].split(":")[0]: (variable, ...)
                for variable in layer.weights
            }
        named.update({f"{layer.name}/{name}": part for name, part in parts.items()})
    return named


def to_arrays(model):
    """Return {"layer/variable": float32 array}."""
    return take(named_variables(model))


def in_state(model, state):
    """Return {"layer/variable": float32 array} of what a `backend.training_state` of it holds."""
    names = backend.names_in_state(model)
    return {
        name: np.asarray(state[names[id(variable)]])[index]
        for name, (variable, index) in named_variables(model).items()
    }


def assign(model, arrays, source, ignore=()):
    """Put `arrays` ({"layer/variable": array}) into `model`.

    `ignore` names layers or variables that may lack. Raises UserError, naming `source`, when a
    variable is missing, surplus, misshapen or not made of finite floats; the model is then
    unchanged.
    """
    variables = named_variables(model)
    wanted = {
        name: place
        for name, place in variables.items()
        if name in arrays or not (name in ignore or name.split("/")[0] in ignore)
    }
    for problem, names in (
        ("lacks", sorted(set(wanted) - set(arrays))),
        ("has the unknown", sorted(set(arrays) - set(variables))),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"{source} {problem} variable {shown(names[0])}{more}; the network "
                f"{model.name} has {len(variables)} variables: use the file made for this network"
            )
    for name, (variable, index) in wanted.items():
        shape = tuple(variable.shape)
        shape = shape if index is ... else shape[1:]  # without the axis of the heads
        if shape != arrays[name].shape:
            raise UserError(
                f"{source}: variable {name} has shape {arrays[name].shape}, the network "
                f"{model.name} expects {shape}: check target_size and LHC_Settings"
            )
        if not _is_finite(arrays[name]):
            raise UserError(
                f"{source}: variable {name} has values that are not finite float32 numbers: use "
                "another copy of the file, or make or fetch it again"
            )
    put(wanted, arrays)


def _is_finite(array):
    if not np.issubdtype(array.dtype, np.floating):
        return False
    with np.errstate(over="ignore"):  # beyond float32 it becomes infinite
        return bool(np.isfinite(array.astype(np.float32, copy=False)).all())


def take(variables):
    """Return {name: array} of {name: (variable, index)}."""
    # Copies: training may reuse a variable's memory even while an array is a view of it.
    return {
        name: np.array(backend.to_numpy(variable)[index])
        for name, (variable, index) in variables.items()
    }


def put(variables, arrays):
    """Assign {name: array} to {name: (variable, index)}."""
    for name, (variable, index) in variables.items():
        array = arrays[name]
        if index is not ...:
            parts = list(backend.to_numpy(variable))
            parts[index] = array
            array = np.stack(parts)
        variable.assign(array)


def transfer(source, target):
    """Copy every weight of `source` into `target` by name; what only `target` has stays."""
    arrays = to_arrays(source)
    assign(target, arrays, source.name, ignore=set(named_variables(target)) - set(arrays))


def read_h5(path):
    """Return ({"layer/variable": array}, architecture or None) of an HDF5 file in Keras' layout.

    The arrays are floats of 16, 32 or 64 bits; the architecture is a dict as `architecture_of`
    gives it. Raises UserError if the file is of another kind or damaged (src/hdf5.py).
    """
    arrays, texts = hdf5.read(path)
    if texts["sha256"] not in (None, _digest(arrays, texts["architecture"])):
        raise UserError(
            f"{path} is damaged: it holds other numbers than were written (by their SHA-256): use "
            "its last complete copy or train again"
        )
    try:
        architecture = strict_json.parse((texts["architecture"] or "null").encode())
    except ValueError:
        architecture = texts["architecture"]
    if architecture is not None and not _is_architecture(architecture):
        raise UserError(
            f"{path} is damaged: expected its attribute architecture to tell network, target_size "
            f"and lhc, found {shown(architecture)}: use its last complete copy or train again"
        )
    return arrays, architecture


def _digest(arrays, architecture):
    """Return the hex SHA-256 of what a weights file holds; `architecture` is its text."""
    names = sorted(arrays)
    described = [(name, arrays[name].dtype.str, arrays[name].shape) for name in names]
    digest = hashlib.sha256(json.dumps([architecture, described]).encode())
    for name in names:
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.hexdigest()


def _is_architecture(found):
    return (
        isinstance(found, dict)
        and isinstance(found.get("network"), str)
        and isinstance(found.get("target_size", 0), int)
        and isinstance(found.get("lhc", {}), dict)
    )


def save(model, path, architecture):
    """Write all weights and what shaped the network (from `architecture_of`) to an HDF5 file."""
    write(to_arrays(model), path, architecture)


def write(arrays, path, architecture):
    """Write weights ({"layer/variable": array}) and what shaped their network to an HDF5 file.

    The file appears whole or not at all, with a digest of what it holds. Raises OSError if the
    disk refuses.
    """
    image = _image(arrays, json.dumps(architecture))
    try:
        write_file(path, image)
    except OSError as error:
        free = shutil.disk_usage(Path(path).parent).free / 1e6
        raise OSError(
            f"{path}: could not be written: {error.strerror or error}; it takes "
            f"{len(image) / 1e6:.1f} MB, and {free:.1f} MB of the disk are free: make room there, "
            "or raise the limit on your files, and start again"
        ) from None


def _image(arrays, architecture):
    """Return the content of a weights file; `architecture` is its text.

    It is made in memory: where HDF5 itself meets a full disk, older ones crash the process later.
    """
    by_layer = {}
    for name, array in arrays.items():
        layer, variable = name.split("/", 1)
        by_layer.setdefault(layer, {})[f"{variable}:0"] = array
    with h5py.File(
        runs.WEIGHTS, "w", driver="core", backing_store=False, block_size=1 << 24
    ) as file:
        file.attrs["layer_names"] = [layer.encode() for layer in by_layer]
        file.attrs["architecture"] = architecture
        file.attrs["sha256"] = _digest(arrays, architecture)
        for layer, variables in by_layer.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in variables]
            for name, array in variables.items():
                # Without the times, the same weights are the same bytes.
                group.create_dataset(name, data=array, track_times=False)
        file.flush()
        return file.id.get_file_image()


def load(model, path, architecture):
    """Put one of our own weights files into `model`; `architecture` as given to `save`.

    Raises UserError when the file was trained with another architecture.
    """
    if not Path(path).is_file():
        script = f"{Path(path).parent.name}_Train.py"
        raise UserError(f"{path} is missing: run {script} first, with the same settings folder")
    arrays, found = read_h5(path)
    if found != architecture:
        raise UserError(
            f"{path} was trained with another architecture: {_differences(architecture, found)}; "
            "train again or use the settings it was trained with"
        )
    assign(model, arrays, path)


def _differences(expected, found):
    """Return what differs, as "target_size: found 48, expected 224"."""
    expected, found = (dict(part or {}) for part in (expected, found))
    for part in (expected, found):
        part.update(part.pop("lhc", {}))
    differing = [
        f"{shown(key)}: found {shown(found.get(key))}, expected {expected.get(key)}"
        for key in {**expected, **found}
        if found.get(key) != expected.get(key)
    ]
    return ", ".join(differing[: len(expected) + 1])  # the file's own keys may be many


def load_trained(model, settings, name, unfinished=False):
    """Put the best weights of the last complete training `name` into `model`.

    unfinished: of a training that was stopped instead, as far as it came. Raises UserError where
    there is none.
    """
    find = runs.unfinished_folder if unfinished else runs.complete_folder
    path = find(settings, name) / runs.WEIGHTS
    load(model, path, architecture_of(model, settings))


def load_shipped(model, settings):
    """Put the weights of the net that comes with the program into `model`.

    Raises UserError where that net is missing, damaged or of another architecture.
    """
    expected = packed.record(packed.FOLDER)["architecture"]
    found = architecture_of(model, settings)
    if found != expected:
        raise UserError(
            f"{packed.FOLDER}: this net needs other settings: {_differences(expected, found)}; "
            "leave out --settings, or train a net with them first"
        )
    assign(model, packed.read(packed.FOLDER), packed.FOLDER)


def architecture_of(model, settings):
    """Everything in the settings that shapes `model`, for storing beside its weights."""
    shape = {"network": model.name, "target_size": settings.size}
    return dict(shape, lhc=settings.lhc) if model.name != "ResNet34" else shape


def ensure_imagenet(settings):
    """Return the path of the backbone's ImageNet weights (Keras HDF5), fetching them if needed.

    `backbone_weights` of the data settings is "imagenet" (fetched once, to the models folder of all
    seeds, its MD5 checked at every use) or the path of such a file; "random" is the caller's
    affair.
    Raises UserError saying what to do.
    """
    data = settings.data
    if data["backbone_weights"] != "imagenet":
        path = Path(data["backbone_weights"])
        if not path.is_file():
            raise UserError(
                f'{path}: not found; correct "backbone_weights" in Data_Settings.json: the path '
                'of the ImageNet weights (Keras HDF5), "imagenet" to download them, or "random"'
            )
        return path
    url, md5 = data["imagenet_url"], data["imagenet_md5"]
    path = settings.all_models / url.rsplit("/", 1)[-1]
    hint = ', or set "backbone_weights" in Data_Settings.json to the path of the file or "random"'
    with lock(path.with_suffix(".lock"), f"{path} is being fetched", wait=True):
        if path.is_file():
            found = file_digest(path, "md5")
            if found == md5:
                return path
            print(f"{path}: expected MD5 {md5}, found {found}; fetching it again", flush=True)
        downloads.fetch(url, path, md5=md5, hint=hint)
    return path


def load_start(model, settings):
    """Start from the ImageNet file (REFERENCE.md section 4): everything but the dense head.

    With "backbone_weights": "random" the fresh weights stay.
    """
    if settings.data["backbone_weights"] != "random":
        path = ensure_imagenet(settings)
        assign(model, read_h5(path)[0], path, ignore=HEAD)
