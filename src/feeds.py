"""How images reach a net that trains: in batches that the host makes, or from the device's memory.

The first is the reference's way (REFERENCE.md sections 3 and 6) and is here; the second belongs to
the fast numerics and is in src/fast/feed.py. Training knows both as a `Feed`.
"""

import hashlib
import random
from typing import Callable, NamedTuple, Protocol

import numpy as np

from src import backend, dataset, descent, devices, distillation, mixing
from src.backend import keras
from src.etl import SUBFOLDER, check_matches
from src.fast import feed as fast_feed
from src.generator import ImageFolder, ImageFolderBatches
from src.pixels import enlarge, rgb
from src.prefetch import prefetch
from src.progress import advance, epoch_bar
from src.settings import augmentation_of

MOST_BATCHES = 1 << 28  # the largest generator_seed and these are a seed for NumPy
VALIDATION_BATCH = 32  # Keras' default, which the original leaves as it is


class Feed(Protocol):
    """Trains and validates a model for one stage of a recipe.

    `images` has the length of the training split; `stage` is what it was made for.
    """

    def __init__(self, model, stage, training, validation, settings, random):
        """Prepare a stage for `model`: (B, size, size, 3) of 0...255 -> (B, 7).

        stage: of a recipe in the settings; training: the data that this kind of feed trains on;
        validation: from `load_validation`; random: a np.random.Generator, for feeds that do not
        draw from the global generators.
        """

    def compile(self, steps_per_execution=1, xla=False):
        """Give the model a fresh optimizer, as the stage says; comes before `fit`."""

    def fit(self, title):
        """Train for one epoch; return {"loss", "categorical_accuracy"}.

        title: what a progress bar says, a function of the share (0 to 1) of the epoch that is
        done.
        """

    def validate(self):
        """Return {"val_loss", "val_categorical_accuracy"}."""

    def averaged(self):
        """Return a context in which the model has the weights that are judged and kept."""

    def end_epoch(self):
        """Make the draws that come between two epochs."""

    def state(self):
        """Return (values, arrays), which `restore` takes, of what the next epoch starts from.

        values: a JSON object, arrays: {name: array}; values["averages"] tells which array has the
        average of which (src/descent.py). The global generators are not in it.
        """

    def restore(self, values, arrays):
        """Go on from a `state`, after `compile` and before `fit`.

        A state that is not this feed's raises ValueError, TypeError, LookupError or OverflowError.
        """


class Opener(NamedTuple):
    """The data of a training, loaded once for all stages."""

    feed: Callable  # (model, stage, random) -> Feed
    digests: dict  # {"training", "validation"}: SHA-256 of what the data are


def opener(settings):
    """Load the data for the numerics of the settings; return an Opener of their kind of feed.

    Raises UserError where data are missing.
    """
    validation = load_validation(settings)
    if settings.runtime["numerics"] == "fast":
        kind, training = fast_feed.DeviceFeed, fast_feed.load(settings)
        parts = training
    else:
        kind, training = HostFeed, load_training(settings)
        parts = [training.described()]

    def open_feed(model, stage, random):
        return kind(model, stage, training, validation, settings, random)

    return Opener(open_feed, {"training": _sha256(parts), "validation": _sha256(validation)})


def _sha256(arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


class HostFeed:
    """The Feed of the reference: `training` is an ImageFolder, whose batches the host makes.

    Their draws come from the global generators, as the original's do; those that the original
    does not make (src/mixing.py) come from `random`.
    """

    def __init__(self, model, stage, training, validation, settings, random=None):
        self.model, self.stage, self.images = model, stage, training
        self.batches = training_batches(training, stage)
        self.validation, self.settings, self.random = validation, settings, random
        self.trained = model
        if not descent.is_plain(stage):
            images = keras.layers.Input(model.input_shape[1:], name="images")
            outputs = distillation.student(model, images, stage, settings)
            self.trained = descent.Trainer(images, outputs)

    def compile(self, *args):
        if self.trained is not self.model:
            backend.compile_model(self.model, "sgd", 1.0)  # validates only
        descent.compile_model(self.trained, self.model, self.stage, len(self.batches), *args)
        self.batches[0]  # Keras 2.4 asks for a batch before training starts, and its draws count

    def fit(self, title):
        ahead = self.settings.runtime["prefetch_batches"]
        order = epoch_order(self.batches)
        batches = epoch_batches(self.batches, order, title)
        if mixing.is_asked(self.stage):
            batches = self._mixed(batches)
        size = self.stage["batch_size"]
        sizes = [min(size, len(self.images) - index * size) for index in order]
        return devices.fit_batches(self.trained, prefetch(batches, ahead), sizes)

    def _mixed(self, batches):
        for x, one_hot in batches:
            rows = mixing.draw(self.random, len(x), x.shape[1], self.stage)
            x = mixing.pictures(x[..., 0], rows, np)
            yield rgb(x), mixing.labels(one_hot, rows)

    def validate(self):
        return validate(self.model, self.validation, self.settings)

    def averaged(self):
        return descent.averaged(self.trained)

    def end_epoch(self):
        self.batches.on_epoch_end()

    def state(self):
        values = {
            "batches_seen": self.batches.batches_seen,
            "averages": descent.averages_in_state(self.trained, self.model),
        }
        if self.random:
            values["random"] = self.random.bit_generator.state
        arrays = backend.training_state(self.model, self.trained)
        return values, {**arrays, "order": self.batches.order}

    def restore(self, values, arrays):
        size = self.batches.size
        shapes = (1, size, size, 3), (1, len(dataset.CLASSES))
        example = tuple(np.zeros(shape, np.float32) for shape in shapes)
        backend.set_training_state(self.model, self.trained, arrays, example)
        seen, order = values["batches_seen"], arrays["order"]
        rows = np.arange(len(self.images))
        if not 0 <= seen <= MOST_BATCHES or not np.array_equal(np.sort(order), rows):
            raise ValueError("found an order of other images")
        self.batches.batches_seen, self.batches.order = seen, order.astype(rows.dtype)
        if self.random:
            self.random.bit_generator.state = values["random"]


def epoch_order(batches):
    """Draw the order in which Keras 2.4's `fit` takes the batches of a Sequence for an epoch."""
    order = list(range(len(batches)))
    random.shuffle(order)
    return order


def epoch_batches(batches, order, title):
    """Yield the batches in that order, with a progress bar; title: as `Feed.fit` takes it."""
    with epoch_bar(len(order), title) as bar:
        for done, index in enumerate(order, start=1):
            yield batches[index]
            advance(bar, done, title)


def load_training(settings):
    """Return the ETL'd training JPEGs (ImageFolder); one cache of decoded images serves all stages.

    Raises UserError where JPEGs are missing.
    """
    folder = settings.path("images_folder") / SUBFOLDER
    images = ImageFolder(
        folder,
        settings.size,
        limit=settings.runtime["max_train_images"],
        threads=settings.threads,
        cache_mb=settings.runtime["image_cache_mb"],
    )
    check_matches(folder, settings.path("data_folder"), settings.size)
    return images


def training_batches(images, stage):
    """Return the batches of an ImageFolder, augmented as `stage` says."""
    seed = stage["generator_seed"]
    return ImageFolderBatches(images, stage["batch_size"], seed=seed, **augmentation_of(stage))


def load_validation(settings):
    """Return the validation split: images uint8 (N, 48, 48), labels one-hot float32 (N, 7).

    Raises UserError where it is missing.
    """
    limit = settings.runtime["max_val_images"]
    images, labels = dataset.load(settings.path("data_folder"), "val", limit)
    return images, dataset.one_hot(labels)


def validation_batches(validation, size):
    """Yield (x float32 (B, size, size, 3), y), enlarged and never rounded, in the data's order."""
    images, one_hot = validation
    for start in range(0, len(images), VALIDATION_BATCH):
        part = slice(start, start + VALIDATION_BATCH)
        yield rgb(enlarge(images[part], size)), one_hot[part]


def validate(model, validation, settings):
    """Return {"val_loss", "val_categorical_accuracy"} of a compiled model; see load_validation."""
    length = len(validation[0])
    sizes = [min(VALIDATION_BATCH, length - i) for i in range(0, length, VALIDATION_BATCH)]
    batches = validation_batches(validation, settings.size)
    batches = prefetch(batches, settings.runtime["prefetch_batches"])
    logs = devices.evaluate_batches(model, batches, sizes)
    return {f"val_{key}": logs[key] for key in ("loss", "categorical_accuracy")}
