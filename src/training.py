"""Training in stages (REFERENCE.md section 6).

A recipe in the settings is a list of stages. Each stage compiles the model anew and has its own
early stopping and its own best weights. A run leaves in Models/<name>/:

* weights.h5: the best epoch of the last stage;
* history.csv and history.png: one row an epoch;
* settings.json: all settings, and the versions it ran with.
"""

import gc
import json
import math
import os
import shutil
import time

import numpy as np
import pandas as pd

from src import backend, feeds, plots, weights
from src.errors import UserError
from src.files import replace
from src.runtime import versions

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


def train(model, settings, name):
    """Train `model` by the recipe `name`, keep the result in Models/<name>/; return history rows.

    model: (B, size, size, 3) of 0...255 -> (B, 7). A row is a dict with the keys COLUMNS. Raises
    UserError where the data are missing, or when the loss is no longer a number.
    """
    recipe = settings.recipe(name)
    stages = recipe["stages"]
    open_feed = feeds.opener(settings)
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
        seeds = (stage["seeds"] or recipe["seeds"]).values()
        random = np.random.default_rng([*seeds, stage["generator_seed"] or 0, number])
        feed = open_feed(model, stage, random)
        label = f"{name} stage {number}/{len(stages)}"
        for row in run_stage(model, stage, feed, settings.runtime, label, keep_weights):
            keep_row(dict(row, stage=number))
    print(f"Best weights and history: {folder}", flush=True)
    return rows


def run_stage(model, stage, feed, runtime, label, keep_weights=lambda: None):
    """Train one stage; yield a history row (without "stage") after each epoch.

    stage: of a recipe. feed: the `feeds.Feed` of this model and stage. runtime: the settings of
    that name. label: opens the printed lines. keep_weights: called after each epoch that is the
    stage's best so far. Raises UserError when a loss or weight is no longer a number.

    Early stopping is that of TensorFlow 2.4.1 (REFERENCE.md section 6): a tie is no improvement,
    and the best weights are put back only when the patience runs out, not when the epoch limit
    ends the stage.
    """
    steps, xla = runtime["steps_per_execution"], runtime["xla"]
    feed.compile(stage["optimizer"], stage["learning_rate"], steps, xla)
    gc.collect()  # networks that only gave their weights, and earlier stages, refer to themselves
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


def start_folder(settings, name):
    """Make Models/<name>/ with the run's settings and an empty history; return its path.

    A run that is there and has weights is kept as Models/<name>.previous, in place of the one
    kept before. One that ended before it had weights is removed.
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
    record = {"settings": settings.resolved(), "versions": versions()}
    with replace(folder / "settings.json") as part, open(part, "w") as file:
        file.write(json.dumps(record, indent=4) + "\n")
    write_history(folder / "history.csv", [])
    return folder


def write_history(path, rows):
    """Write the rows as a CSV with the columns COLUMNS, floats at full precision."""
    with replace(path) as part:
        pd.DataFrame(rows, columns=COLUMNS).to_csv(part, index=False)
