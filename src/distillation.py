"""Softer targets: smoothed labels, and what trained nets think of the same picture (distillation).

A student with teachers gives (B, 2, 7): its own probabilities, and the mean of its teachers'.
"""

from src import backend as B
from src import lineage, networks, packed, weights
from src.backend import keras
from src.dataset import CLASSES
from src.errors import UserError
from src.settings import Settings


def teachers(stage, settings):
    """Return the frozen nets (list) of the folders that a stage names.

    Raises UserError where one is missing, damaged, or of another image size.
    """
    found = []
    for path in lineage.teacher_files(stage):
        arrays, architecture = _read(path)
        size = architecture.get("target_size")
        if size != settings.size:
            raise UserError(
                f"{path}: found a net for images of {size} pixels, expected {settings.size}: "
                "a teacher sees the same pictures"
            )
        own = settings.resolved()
        own["lhc"].update(architecture.get("lhc", {}))
        net = networks.build(architecture["network"], Settings(own))
        weights.assign(net, arrays, path)
        found.append(net)
    return found


def _read(path):
    """Return ({"layer/variable": array}, architecture) of one of `lineage.teacher_files`."""
    if path.name == packed.RECORD:
        return packed.read(path.parent), packed.record(path.parent)["architecture"]
    if not path.is_file():
        raise UserError(
            f"{path} is missing: expected the weights of a finished training, or a net of "
            "Ship.py's, since Modular_Settings.json names this folder among the teachers"
        )
    arrays, architecture = weights.read_h5(path)
    return arrays, architecture or {}


class Teaching(keras.layers.Layer):
    """[own (B, 7), images (B, S, S, 3)] -> (B, 2, 7): own, and the mean of what the nets give."""

    def __init__(self, nets, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.nets = nets
        self.trainable = False

    def compute_output_shape(self, input_shapes):
        return (input_shapes[0][0], 2, input_shapes[0][1])

    def call(self, inputs):
        own, images = inputs
        taught = [B.cast(net(images, training=False), "float32") for net in self.nets]
        return B.stack([own, B.stop_gradient(sum(taught) / len(taught))], axis=1)


def student(net, images, stage, settings):
    """Return what `net` makes of images (B, S, S, 3): (B, 7), or with its teachers (B, 2, 7)."""
    own = net(images)
    if not stage["distillation"]:
        return own
    return Teaching(teachers(stage, settings), name="teaching")([own, images])


def loss_and_accuracy(stage):
    """Return what `backend.compile_model` takes as loss and accuracy for a stage.

    The targets are labels with `label_smoothing`, of which `distillation` replaces a share by the
    teachers' probabilities.
    """
    smoothing = stage["label_smoothing"]
    if not stage["distillation"]:
        return keras.losses.CategoricalCrossentropy(label_smoothing=smoothing), None
    share = stage["distillation"]["share"]

    def distilled(labels, outputs):
        own, taught = outputs[:, 0], outputs[:, 1]
        labels = labels * (1 - smoothing) + smoothing / len(CLASSES)
        return keras.losses.categorical_crossentropy((1 - share) * labels + share * taught, own)

    def categorical_accuracy(labels, outputs):
        return keras.metrics.categorical_accuracy(labels, outputs[:, 0])

    return distilled, categorical_accuracy
