"""Nets for other programs: written, compared with Keras on pictures, and only then given a name."""

import importlib.util
import time
from pathlib import Path
from typing import Callable, NamedTuple, Tuple

import numpy as np

from src import (
    backend,
    dataset,
    evaluation,
    export_onnx,
    export_pytorch,
    export_tensorflow,
    sample,
)
from src.errors import UserError
from src.files import bytes_of, lock, replace, replace_folder
from src.lhc import ARGUMENTS, LHC
from src.names import CLASSES
from src.pixels import enlarge, rgb

MADE_BY = "Export.py of LHC-Net"  # stands in every export, whatever the format, as it is
LARGEST_DIFFERENCE = 1e-4  # of a probability
LARGEST_LOSS = 0.005  # of accuracy, or one picture where that is more
COMPARED = 70  # pictures for probabilities; accuracies take all
DRAWN_SEED, DRAWN = 2013, 100  # faces a class, where there are no test data
TIMED = 21  # calls with one picture


class Format(NamedTuple):
    """How a format is written and read."""

    suffix: str
    write: Callable  # write(network, about, path)
    read: Callable  # read(path, threads) -> function images (B, S, S, 3) -> probabilities (B, 7)
    packages: Tuple[str, ...] = ()  # beyond the requirements
    on_tensorflow: bool = False  # Keras has to run on it
    eight_bits: bool = False  # what counts is the accuracy


FORMATS = {
    "savedmodel": Format(
        ".savedmodel",
        export_tensorflow.write_saved_model,
        export_tensorflow.read_saved_model,
        on_tensorflow=True,
    ),
    "onnx": Format(".onnx", export_onnx.write, export_onnx.read, packages=("onnx", "onnxruntime")),
    "litert": Format(
        ".tflite",
        export_tensorflow.write_litert,
        export_tensorflow.read_litert,
        on_tensorflow=True,
    ),
    "litert8": Format(
        ".8bit.tflite",
        export_tensorflow.write_litert8,
        export_tensorflow.read_litert,
        on_tensorflow=True,
        eight_bits=True,
    ),
    "pytorch": Format(".pt", export_pytorch.write, export_pytorch.read, packages=("torch",)),
}


class Pictures(NamedTuple):
    """Real inputs: faces uint8 (N, 48, 48), their labels (N,), and what they are, in words."""

    images: np.ndarray
    labels: np.ndarray
    name: str


class Row(NamedTuple):
    """What is told of an export: sizes in MB, medians in milliseconds a picture."""

    path: Path
    megabytes: float
    agreement: str
    milliseconds: float


def check(names):
    """Raise UserError unless all packages of the formats are there, and the stack writes them."""
    for name in names:
        kind = FORMATS[name]
        lacking = [p for p in kind.packages if importlib.util.find_spec(p) is None]
        if lacking:
            raise UserError(
                f"--format {name}: found no package {' nor '.join(lacking)}: "
                f"pip install -c requirements.txt {' '.join(kind.packages)}"
            )
        if kind.on_tensorflow and backend.NAME != "tensorflow":
            raise UserError(
                f"--format {name}: expected TensorFlow below Keras, found {backend.NAME}: "
                "KERAS_BACKEND=tensorflow writes it from the same weights"
            )
        if name in ("litert", "litert8") and not backend.WRITES_LITERT:
            raise UserError(
                f"--format {name}: TensorFlow 2.4 does not write it: run this with Python 3.11 to "
                "3.13, which reads the same weights"
            )


def target(folder, name, format_name):
    """Return the path of an export. Raises UserError where something else has its name."""
    path = Path(folder) / f"{name}{FORMATS[format_name].suffix}"
    if path.exists() and not is_ours(path):
        raise UserError(
            f"{path}: is there already, and not made by Export.py: move it elsewhere, or name "
            "another folder with --to"
        )
    return path


def is_ours(path):
    """Return whether a file or folder has been made by `export`."""
    file = path / export_tensorflow.ABOUT if path.is_dir() else path
    return file.is_file() and MADE_BY.encode() in file.read_bytes()


def about(network, name):
    """Return {key: text, list or dict}: what is stored inside an export of a net."""
    size = network.input_shape[1]
    modules = [layer for layer in network.layers if isinstance(layer, LHC)]
    lhc = {key: [getattr(layer, key) for layer in modules] for key in ARGUMENTS}
    controllers = [layer.controller for layer in modules]
    return {
        "made_by": MADE_BY,
        "net": name,
        "network": network.name,
        "classes": list(CLASSES),
        "input": f"image: float32 (batch, {size}, {size}, 3), red, green and blue equal, 0...255",
        "preprocessing": (
            "the square of a face, grey, 48 x 48 pixels of 0...255; enlarged bilinearly with "
            f"half-pixel centres and without antialiasing to {size} x {size}, not rounded; three "
            "equal channels; nothing is subtracted or divided, the net does that itself"
        ),
        "output": "probabilities: float32 (batch, 7), in the order of classes, which add up to 1",
        # Of src/lhc_pytorch.py's LHCNet.
        "arguments": {
            "size": size,
            "lhc": lhc if modules else None,
            "controllers": controllers if network.name == "LHC_NetC" else None,
        },
    }


def pictures(settings, names):
    """Return the Pictures to compare exports with: test data of the settings, or drawn faces.

    names: of the formats. Those with 8 bits take all test data, the others the first ones.
    """
    whole = any(FORMATS[name].eight_bits for name in names)
    folder = settings.path("data_folder")
    path = dataset.csv_path(folder, "test")
    if path.is_file():
        limit = settings.runtime["max_test_images"] if whole else COMPARED
        images, labels = dataset.load(folder, "test", limit)
        return Pictures(images, labels, f"{len(labels)} pictures of {path}")
    each = DRAWN if whole else COMPARED // len(CLASSES)
    images, labels = sample.draw(DRAWN_SEED, [each] * len(CLASSES))
    return Pictures(images, labels, f"{len(labels)} drawn faces, since there is no {path}")


def export(network, settings, name, format_name, path, shown):
    """Write a net in a format to `path`, whole or not at all; return its Row.

    name: of the net, as --model has it. shown: (Pictures, what Keras says of them).
    Raises UserError if the export says something else.
    """
    kind = FORMATS[format_name]
    # SavedModel alone is a folder.
    replaced = replace_folder if format_name == "savedmodel" else replace
    with lock(f"{path}.lock", f"{path} is being written"), replaced(path) as part:
        kind.write(network, about(network, name), part)
        run = kind.read(part, settings.threads)
        compare = _compare_classes if kind.eight_bits else _compare_probabilities
        agreement = compare(run, settings, format_name, *shown)
        milliseconds = latency(run, network, shown[0].images[0])
    return Row(path, _megabytes(path), agreement, milliseconds)


def _compare_probabilities(run, settings, format_name, given, expected):
    """Return in words how far `run` is from what Keras says of the first Pictures."""
    images, expected = given.images[:COMPARED], expected[:COMPARED]
    found = evaluation.predict_images(run, images, settings, format_name)
    difference = float(np.abs(found - expected).max())
    if not difference <= LARGEST_DIFFERENCE:  # nor a NaN
        raise UserError(
            f"{format_name}: found probabilities {difference:.1e} away from Keras', expected at "
            f"most {LARGEST_DIFFERENCE:.0e}: not kept; another format may do"
        )
    return f"{difference:.1e}"


def _compare_classes(run, settings, format_name, given, expected):
    """Return in words how often `run` is as right of the Pictures as Keras is."""
    found = evaluation.predict_images(run, given.images, settings, format_name).argmax(axis=1)
    expected = expected.argmax(axis=1)
    right, wanted = (float((rows == given.labels).mean()) for rows in (found, expected))
    if wanted - right > max(LARGEST_LOSS, 1.001 / len(found)):
        raise UserError(
            f"{format_name}: found {100 * right:.2f} % right, expected Keras' {100 * wanted:.2f} % "
            f"less {100 * LARGEST_LOSS} points at most, on {given.name}: not kept; take litert"
        )
    alike = float((found == expected).mean())
    return f"{100 * (right - wanted):+.2f} points, {100 * alike:.1f} % alike"


def latency(run, network, image):
    """Return the median milliseconds that `run` takes for one picture, uint8 (48, 48)."""
    picture = rgb(enlarge(image[None], network.input_shape[1]))
    seconds = []
    for _ in range(TIMED + 1):  # the first one prepares
        start = time.perf_counter()
        np.asarray(run(picture))
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds[1:]))


def _megabytes(path):
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(map(bytes_of, files)) / 1e6
