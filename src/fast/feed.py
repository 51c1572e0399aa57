"""The input path of the fast numerics: images live on the device, batches are made in the step.

The same pictures and distributions as the reference's generator gives (REFERENCE.md sections 2, 3)
from the 48 x 48 images themselves: enlarge, floor (as the JPEGs are), move, flip. Only row numbers
and seven numbers per image travel to the device. Parameters come from a private generator, so the
batches are not the reference's, and nothing else's random numbers move.
"""

from types import SimpleNamespace

import numpy as np

from src import backend as B
from src import dataset, descent, devices, distillation, mixing
from src.backend import keras
from src.generator import draw_parameters
from src.pixels import bilinear_taps
from src.settings import augmentation_of
from src.tta import rgb

VALIDATION_BATCH = 256


def load(settings):
    """Return the training split: images uint8 (N, 48, 48), labels one-hot float32 (N, 7)."""
    images, labels = dataset.load(settings.path("data_folder"), "train")
    rows = [np.flatnonzero(labels == label) for label in range(len(dataset.CLASSES))]
    shares = dataset.class_shares([len(r) for r in rows], settings.runtime["max_train_images"])
    rows = np.sort(np.concatenate([r[:share] for r, share in zip(rows, shares)]))
    return images[rows], dataset.one_hot(labels[rows])


def draw_placements(random, count, size, augmentation):
    """Draw `count` times where pixels come from: float32 (count, 7).

    Columns: 2 x 2 matrix, offset, 1 if flipped: output pixel (r, c) is read at
    matrix @ (r, c) + offset, c counted from the right if flipped.
    """
    ranges = SimpleNamespace(vertical_flip=False, **augmentation)
    matrices, offsets, flips = draw_parameters(ranges, size, count, random.random)
    if matrices is None:
        matrices, offsets = np.tile(np.eye(2), (count, 1, 1)), np.zeros((count, 2))
    columns = [matrices.reshape(count, 4), offsets, flips[:, :1]]
    return np.concatenate(columns, axis=1).astype(np.float32)


class Given(keras.initializers.Initializer):
    """Starts a variable as an array. (A plain function will not do: on several devices Keras lets
    JAX compile the method `__call__`, which some of its versions want to be Python's.)"""

    def __init__(self, array):
        self.array = array

    def __call__(self, shape, dtype=None, **kwargs):
        return B.convert(self.array)


class DeviceImages(keras.layers.Layer):
    """Rows (B,) int32 [and placements (B, 7)] -> images float32 (B, size, size, 3), 0...255.

    Holds `images` uint8 (N, h, w). With placements, images are floored and moved as in training;
    without, they are only enlarged, as for validation. With rows of src/mixing.py (B, 6) as well,
    they are erased and mixed.
    """

    def __init__(self, images, size, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.size = size
        self.pixels = self.add_weight(
            name="pixels",
            shape=images.shape,
            dtype="uint8",
            initializer=Given(images),
            trainable=False,
        )

    def compute_output_shape(self, rows_shape, placements_shape=None, mixes_shape=None):
        return (rows_shape[0], self.size, self.size, 3)

    def call(self, rows, placements=None, mixes=None):
        x = B.cast(B.take(B.convert(self.pixels), rows, axis=0), "float32")
        for axis in (2, 1):  # along the lines first, as TensorFlow does
            lower, upper, weight = bilinear_taps(x.shape[axis], self.size)
            low, high = B.take(x, lower, axis=axis), B.take(x, upper, axis=axis)
            x = low + (high - low) * (weight if axis == 2 else weight[:, None])
        if placements is not None:
            x = devices.per_device(self._move, [], B.floor(x), placements)
        if mixes is not None:
            x = mixing.pictures(x, mixes, B)
        return rgb(x)

    def _move(self, x, placements):
        """Read the images (B, S, S) where the placements say: bilinear, nearest at the border."""
        last = self.size - 1
        r, c = (B.convert(part) for part in np.mgrid[: self.size, : self.size].astype(np.float32))
        a, b, d, e, down, right, flip = (placements[:, i, None, None] for i in range(7))
        c = c + flip * (last - 2 * c)
        flat = B.reshape(x, (-1, self.size**2))
        corners = []
        for position in (a * r + b * c + down, d * r + e * c + right):
            position = B.minimum(B.maximum(position, 0.0), float(last))
            start = B.floor(position)
            corners.append((start, B.minimum(start + 1.0, float(last)), position - start))
        (top, bottom, below), (left, right, behind) = corners

        def pixel(row, column):
            index = B.cast(row * float(self.size) + column, "int32")
            index = B.reshape(index, (-1, self.size**2))
            return B.reshape(B.take_along_axis(flat, index, axis=1), (-1, self.size, self.size))

        upper = pixel(top, left) * (1 - behind) + pixel(top, right) * behind
        lower = pixel(bottom, left) * (1 - behind) + pixel(bottom, right) * behind
        return upper * (1 - below) + lower * below


class GroupTrainer(descent.Trainer):
    """A Trainer whose step takes a group of batches, of `batch_size` rows each, one by one."""

    batch_size = None

    def train_step(self, *args):
        return B.train_group(super().train_step, args, self.batch_size, devices.count())


class DeviceFeed:
    """The Feed (src/feeds.py) of the fast numerics: all images live on the device.

    `training` is what `load` returns; the order of the images and their placements are drawn from
    `random`.
    """

    group = 1  # batches in one call of the model's step

    def __init__(self, model, stage, training, validation, settings, random):
        self.stage, self.batch_size = stage, stage["batch_size"]
        self.model, self.size, self.random = model, settings.size, random
        self.images, self.one_hot = training
        self.validation_labels = validation[1]
        rows = keras.layers.Input((), dtype="int32", name="rows")
        places = [rows, keras.layers.Input((7,), name="placements")]
        if mixing.is_asked(stage):
            places.append(keras.layers.Input((mixing.COLUMNS,), name="mixing"))
        images = DeviceImages(self.images, self.size, name="training_images")(*places)
        kind = GroupTrainer if B.trains_in_groups() else descent.Trainer
        self.trained = kind(places, distillation.student(model, images, stage, settings))
        self.trained.batch_size = self.batch_size
        images = DeviceImages(validation[0], self.size, name="validation_images")(rows)
        self.validated = keras.Model([rows], model(images))

    def compile(self, steps_per_execution=1, xla=False):
        whole, rest = divmod(len(self.images), self.batch_size)
        steps = whole + (rest > 0)
        if B.trains_in_groups():
            # All groups of one size, since each size is compiled for itself.
            sizes = range(1, min(steps_per_execution, whole) + 1)
            self.group = max((size for size in sizes if whole % size == 0), default=1)
        training = 1 if self.group > 1 else steps_per_execution, xla
        descent.compile_model(self.trained, self.model, self.stage, steps, *training)
        B.compile_model(self.validated, "sgd", 1.0, steps_per_execution, xla)  # validates only

    def fit(self, title):
        rows = self.random.permutation(len(self.images)).astype(np.int32)
        augmentation = augmentation_of(self.stage)
        places = [rows, draw_placements(self.random, len(rows), self.size, augmentation)]
        one_hot = self.one_hot[rows]
        if mixing.is_asked(self.stage):
            places.append(mixing.draw(self.random, len(rows), self.size, self.stage))
            for start in range(0, len(rows), self.batch_size):
                batch = slice(start, start + self.batch_size)
                one_hot[batch] = mixing.labels(one_hot[batch], places[-1][batch])
        size, group = self.batch_size, self.group
        return devices.fit_arrays(self.trained, places, one_hot, size, title, group)

    def validate(self):
        rows = np.arange(len(self.validation_labels), dtype=np.int32)
        labels = self.validation_labels
        logs = devices.evaluate_arrays(self.validated, [rows], labels, VALIDATION_BATCH)
        return {f"val_{name}": value for name, value in logs.items()}

    def averaged(self):
        return descent.averaged(self.trained)

    def end_epoch(self):
        """Nothing is drawn between the epochs."""

    def state(self):
        values = {
            "random": self.random.bit_generator.state,
            "averages": descent.averages_in_state(self.trained, self.model),
        }
        return values, B.training_state(self.model, self.trained)

    def restore(self, values, arrays):
        places = [np.zeros((1, place.shape[1]), np.float32) for place in self.trained.inputs[1:]]
        example = [np.zeros(1, np.int32), *places], self.one_hot[:1]
        B.set_training_state(self.model, self.trained, arrays, example)
        self.random.bit_generator.state = values["random"]
