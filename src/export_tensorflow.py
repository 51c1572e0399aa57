"""A Keras net on TensorFlow -> SavedModel, and LiteRT (TensorFlow Lite) with 32 or 8 bits."""

import json
import tempfile
import warnings
import zipfile
from pathlib import Path

from src import backend

# TensorFlow leaves alone what else lies in a SavedModel's folder of this name.
ABOUT = "assets.extra/lhc_net.json"


def write_saved_model(network, about, path):
    """Write a network into the folder `path`, with a signature serving_default and `about`."""
    import tensorflow as tf

    module = tf.Module()
    module.variables_kept = backend.tensorflow_variables(network)
    signature = tf.TensorSpec((None, *network.input_shape[1:]), tf.float32, name="image")

    @tf.function(input_signature=[signature])
    def serve(image):
        return {"probabilities": network(image, training=False)}

    tf.saved_model.save(module, str(path), signatures=serve.get_concrete_function())
    extra = Path(path) / ABOUT
    extra.parent.mkdir()
    extra.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read_saved_model(path, threads):
    """Return a function images (B, S, S, 3) -> probabilities (B, 7) of a SavedModel.

    The threads are those of the process.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def run(images):
        serve = loaded.signatures["serving_default"]  # of `loaded`, which holds the variables
        return serve(image=tf.constant(images))["probabilities"].numpy()

    return run


def write_litert(network, about, path):
    """Write a network to a LiteRT file.

    Behind it lies a ZIP archive, as LiteRT's own tools append it: labels.txt, a class a line, and
    lhc_net.json, which is `about`.
    """
    _write_litert(network, about, path, eight_bits=False)


def write_litert8(network, about, path):
    """Write a network to a LiteRT file whose large weights have 8 bits; else as `write_litert`.

    The activations stay floats: those of the attention's temperatures would become 0 in 8 bits.
    """
    _write_litert(network, about, path, eight_bits=True)


def _write_litert(network, about, path, eight_bits):
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        write_saved_model(network, about, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if eight_bits:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        content = converter.convert()
    with open(path, "wb") as file:
        file.write(content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "".join(f"{name}\n" for name in about["classes"]))
        archive.writestr("lhc_net.json", json.dumps(about, indent=1) + "\n")


def read_litert(path, threads):
    """Return a function images (B, S, S, 3) -> probabilities (B, 7) of a LiteRT file."""
    import tensorflow as tf

    content = Path(path).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will once be in a package of its own
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
    (image,), (probabilities,) = interpreter.get_input_details(), interpreter.get_output_details()
    allocated = None

    def run(images):
        nonlocal allocated
        if images.shape != allocated:
            interpreter.resize_tensor_input(image["index"], images.shape)
            interpreter.allocate_tensors()
            allocated = images.shape
        interpreter.set_tensor(image["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(probabilities["index"])

    return run
