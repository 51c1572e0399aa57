"""Training in stages (REFERENCE.md section 6).

A recipe from the settings is a list of stages; each stage compiles anew, has its own early
stopping and its own best weights. Models/<name>/ gets weights.h5 (the best epoch of the last
stage), settings.json (resolved, with the versions) and history.csv (one row an epoch).
"""

import gc
import json
import math
import os
import random
import shutil
import time

import numpy as np
import pandas as pd
from tqdm import tqdm

from . import backend, dataset, device_input, plots, runtime, weights
from .errors import UserError
from .generator import ImageFolder, ImageFolderBatches
from .pixels import enlarge
from .prefetch import prefetch

COLUMNS = (
    "stage",
    "epoch",
    "loss",
    "categorical_accuracy",
    "val_loss",
    "val_categorical_accuracy",
    "seconds",
    "images_per_second",
)
AUGMENTATION = (
    "rotation_range",
    "width_shift_range",
    "height_shift_range",
    "shear_range",
    "zoom_range",
    "horizontal_flip",
)
VALIDATION_BATCH = 32  # Keras' default, which the original leaves as it is


def train(model, settings, name, recipe=None):
    """Train `model` by the recipe `name`, keep the result in Models/<name>/; return history rows.

    Raises UserError where the data are missing, or when the loss is no longer a number.
    """
    recipe = recipe or settings.recipe(name)
    stages = recipe["stages"]
    on_device = settings.runtime["numerics"] == "fast"
    validation = load_validation(settings)
    images = (device_input.load if on_device else load_training)(settings)
    folder = start_folder(settings, name)
    rows = []

    def keep_row(row):
        rows.append(row)
        write_history(folder / "history.csv", rows)
        plots.history(folder / "history.png", rows)

    def keep_weights():
        weights.save(model, folder / weights.FILE, weights.architecture_of(model, settings))

    for number, stage in enumerate(stages, start=1):
        if stage["seeds"]:
            backend.set_seeds(**stage["seeds"])
        if on_device:
            seeds = (stage["seeds"] or recipe.get("seeds") or {}).values()
            draws = np.random.default_rng([*seeds, stage["generator_seed"] or 0, number])
            augmentation = {key: stage[key] for key in AUGMENTATION}
            feed = device_input.DeviceFeed(
                model, stage["batch_size"], augmentation, images, validation, settings.size, draws
            )
        else:
            feed = HostFeed(model, training_batches(images, stage), validation, settings)
        label = f"{name} stage {number}/{len(stages)}"
        for row in run_stage(model, stage, feed, settings.runtime, label, keep_weights):
            keep_row(dict(row, stage=number))
    print(f"Best weights and history: {folder}", flush=True)
    return rows


def run_stage(model, stage, feed, speed, label, keep_weights=lambda: None):
    """Train one stage; yield a history row (without "stage") after each epoch.

    feed: a HostFeed or a DeviceFeed. speed: the settings' `runtime`.

    Early stopping as in TensorFlow 2.4.1: a tie is no improvement, and the best weights are put
    back only when the patience runs out, not when the epoch limit ends the stage.
    """
    feed.compile(
        stage["optimizer"], stage["learning_rate"], speed["steps_per_execution"], speed["xla"]
    )
    # Networks that only gave their weights, and the stage before, refer to themselves.
    gc.collect()
    best, best_weights, waited = -math.inf, None, 0
    for epoch in range(1, stage["epochs"] + 1):
        title = f"{label} epoch {epoch}/{stage['epochs']}"
        started = time.perf_counter()
        logs = feed.fit(title)
        seconds = time.perf_counter() - started
        row = {"epoch": epoch, **logs, **feed.validate()}
        row.update(seconds=seconds, images_per_second=len(feed.images) / seconds)
        print(
            "{}: loss {loss:.4f}, accuracy {categorical_accuracy:.4f}, val_loss {val_loss:.4f}, "
            "val_accuracy {val_categorical_accuracy:.4f}, {images_per_second:.1f} images/s".format(
                title, **row
            ),
            flush=True,
        )
        yield row
        if not all(math.isfinite(value) for value in row.values()):
            raise UserError(
                f"{title}: loss {row['loss']}, val_loss {row['val_loss']}: expected finite numbers;"
                " lower the stage's learning_rate"
            )
        if row["val_categorical_accuracy"] > best:
            best, waited = row["val_categorical_accuracy"], 0
            best_weights = model.get_weights()
            # A weight that is no number need not show in the loss: ReLU and maximum hide it.
            if not all(np.isfinite(array).all() for array in best_weights):
                raise UserError(
                    f"{title}: found weights that are not finite; lower the stage's learning_rate"
                )
            keep_weights()
        else:
            waited += 1
            if stage["patience"] and waited >= stage["patience"]:
                model.set_weights(best_weights)
                break
        feed.end_epoch()  # not after an early stop: its draw was never made there


class HostFeed:
    """Trains and validates `model` on batches that the host makes."""

    def __init__(self, model, batches, validation, settings):
        self.model, self.batches = model, batches
        self.validation, self.settings = validation, settings
        self.images = batches.images

    def compile(self, *args):
        backend.compile_model(self.model, *args)
        self.batches[0]  # Keras 2.4 asks for a batch before training starts, and its draws count

    def fit(self, title):
        """Train for one epoch; return {"loss", "categorical_accuracy"}."""
        ahead = self.settings.runtime["prefetch_batches"]
        stream = prefetch(epoch_batches(self.batches, title), ahead)
        return backend.fit_epoch(self.model, stream, len(self.batches))

    def validate(self):
        """Return {"val_loss", "val_categorical_accuracy"}."""
        return validate(self.model, self.validation, self.settings)

    def end_epoch(self):
        self.batches.on_epoch_end()


def epoch_batches(batches, title):
    """Yield all batches in the order in which Keras 2.4's `fit` takes them from a Sequence."""
    order = list(range(len(batches)))
    random.shuffle(order)
    for index in tqdm(order, desc=title, unit="batch", leave=False):
        yield batches[index]


def load_training(settings):
    """Return the ETL'd training JPEGs; one cache of decoded images serves all stages."""
    return ImageFolder(
        settings.path("images_folder") / "Training",
        settings.size,
        limit=settings.runtime["max_train_images"],
        threads=settings.runtime["threads"],
        cache_mb=settings.runtime["image_cache_mb"],
    )


def training_batches(images, stage):
    """Return the batches of an ImageFolder, augmented as `stage` says."""
    augmentation = {key: stage[key] for key in AUGMENTATION}
    return ImageFolderBatches(
        images, stage["batch_size"], seed=stage["generator_seed"], **augmentation
    )


def load_validation(settings):
    """Return the validation split: images uint8 (N, 48, 48), labels one-hot float32 (N, 7)."""
    limit = settings.runtime["max_val_images"]
    images, labels = dataset.load(settings.path("data_folder"), "val", limit)
    return images, np.eye(len(dataset.CLASSES), dtype=np.float32)[labels]


def validation_batches(validation, size):
    """Yield (x float32 (B, size, size, 3), y), enlarged and never rounded, in the data's order."""
    images, one_hot = validation
    for start in range(0, len(images), VALIDATION_BATCH):
        part = slice(start, start + VALIDATION_BATCH)
        yield np.repeat(enlarge(images[part], size)[..., None], 3, axis=-1), one_hot[part]


def validate(model, validation, settings):
    """Return {"val_loss", "val_categorical_accuracy"}."""
    steps = math.ceil(len(validation[0]) / VALIDATION_BATCH)
    batches = validation_batches(validation, settings.size)
    batches = prefetch(batches, settings.runtime["prefetch_batches"])
    logs = backend.evaluate(model, batches, steps)
    return {f"val_{key}": logs[key] for key in ("loss", "categorical_accuracy")}


def start_folder(settings, name):
    """Make Models/<name>/ with the run's settings and an empty history.

    An older run is kept aside, instead of the one before it, unless it ended before it had weights.
    """
    folder = settings.path("models_folder") / name
    if (folder / weights.FILE).exists():
        aside = folder.with_name(f"{name}.previous")
        if aside.exists():
            shutil.rmtree(aside)
        os.replace(folder, aside)
    elif folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    record = {"settings": settings.resolved(), "versions": runtime.versions()}
    (folder / "settings.json").write_text(json.dumps(record, indent=4) + "\n")
    write_history(folder / "history.csv", [])
    return folder


def write_history(path, rows):
    """Write the rows, floats at full precision, atomically."""
    part = path.with_suffix(".part")
    pd.DataFrame(rows, columns=COLUMNS).to_csv(part, index=False)
    os.replace(part, path)
