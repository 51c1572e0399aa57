"""Training in stages (REFERENCE.md section 6).

A recipe in the settings is a list of stages. Each stage compiles the model anew and has its own
early stopping and its own best weights. A run leaves in Models/<name>/:

* weights.h5: the best epoch of the last stage;
* history.csv and history.png: one row an epoch;
* settings.json: all settings, the versions it ran with, and digests of what it was made from.

Until it is complete it also has its state, from which it goes on after whatever stopped it; the
folder is Models/<name>.unfinished/ then (src/runs.py).
"""

import dataclasses
import gc
import hashlib
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from src import (
    backend,
    board,
    descent,
    devices,
    feeds,
    lineage,
    plots,
    run_record,
    runs,
    weights,
)
from src.errors import UserError, enough_memory
from src.files import replace
from src.progress import Outlook
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


PICTURE_SECONDS = 30  # drawing takes one: where epochs take 3, that is felt


@dataclasses.dataclass
class Progress:
    """How far a stage has come, and what early stopping knows."""

    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    waited: int = 0  # epochs since
    finished: bool = False


def train(model, settings, name, restart=False):
    """Train `model` by the recipe `name`, keep the result in Models/<name>/; return history rows.

    model: (B, size, size, 3) of 0...255 -> (B, 7). A row is a dict with the keys COLUMNS. A run
    that was stopped goes on where it was, unless `restart`. Raises UserError where the data are
    missing, when the loss is no longer a number, and as `runs.training` does.
    """
    recipe = settings.recipe(name)
    for number, stage in enumerate(recipe["stages"], start=1):
        devices.check_stage(stage, f"stage {number} of {name}")
    opened = feeds.opener(settings)
    record = _record(model, settings, name, opened)
    with devices.joined(), runs.training(settings, name, record, restart) as run:
        values, arrays = run.state or ({"stage": 0, "rows": []}, {})
        if run.state:
            with runs.intact(run.folder / runs.STATE):
                _check_values(values, recipe["stages"])
            print(f"{run.folder}: {len(values['rows'])} epochs are done, going on", flush=True)
        rows, outlook = values["rows"], Outlook(recipe["stages"])
        curves = board.Board(_board_folder(settings, name) if run.writes else None)
        for number, stage in enumerate(recipe["stages"], start=1):
            if stage["seeds"]:
                backend.set_seeds(**stage["seeds"])
            if number < values["stage"]:
                continue
            seeds = (stage["seeds"] or recipe["seeds"]).values()
            random = np.random.default_rng([*seeds, stage["generator_seed"] or 0, number])
            feed = opened.feed(model, stage, random)
            keeper = Keeper(run, model, settings, feed, number, rows, curves)
            if number == values["stage"]:
                keeper.resumed = values, arrays
                if values["progress"]["finished"]:
                    keeper.restore_layers()
                    continue
            outlook.stages = recipe["stages"][number - 1 :]
            label = f"{name} stage {number}/{len(recipe['stages'])}"
            with enough_memory(f"{label}: batch_size {stage['batch_size']}", settings.size):
                done = len(rows)
                try:
                    how = settings.runtime, label, keeper, outlook
                    for row in run_stage(model, stage, feed, *how):
                        rows.append(dict(row, stage=number))
                        keeper.draw_history(at_most_every=PICTURE_SECONDS)
                finally:
                    if len(rows) > done:
                        keeper.draw_history()
    print(f"Best weights and history: {settings.path('models_folder') / name}", flush=True)
    return rows


def _board_folder(settings, name):
    folder = settings.runtime["tensorboard"]
    return folder and Path(folder) / name


def _check_values(values, stages):
    """Raise ValueError or TypeError unless the values of a state are those of such stages."""
    number, progress = values["stage"], Progress(**values["progress"])
    expected = [field.type for field in dataclasses.fields(Progress)]
    if [type(value) for value in dataclasses.astuple(progress)] != expected:
        raise ValueError("found no progress")
    if type(number) is not int or not 1 <= number <= len(stages):
        raise ValueError("found another stage")
    epoch, limit = progress.epoch, stages[number - 1]["epochs"]
    if not (1 <= progress.best_epoch <= epoch <= limit and 0 <= progress.waited < epoch):
        raise ValueError("found another epoch")
    rows = values["rows"]
    if not isinstance(rows, list) or any(set(row) != set(COLUMNS) for row in rows):
        raise ValueError("found another history")
    if not all(type(row[key]) in (int, float) for row in rows for key in row):
        raise ValueError("found a history without numbers")


class Keeper:
    """Keeps what a stage of a run has come to, and gives it back to one that was stopped."""

    resumed = None  # or the state (values, arrays) to go on from
    drawn = -math.inf  # when the picture was drawn last

    def __init__(self, run, model, settings, feed, number, rows, curves):
        self.run, self.model, self.settings, self.feed = run, model, settings, feed
        self.number, self.rows, self.curves = number, rows, curves

    def keep(self, progress, row, better):
        """Have all written that the next epoch starts from, while that one trains already.

        row: the last epoch's. better: whether its weights are the stage's best so far. They come
        second: until they are written, the state knows that its own are the best.
        """
        if self.settings.runtime["tensorboard"]:
            # Before the state: what is told twice counts once, what is not told is missing.
            self.curves.add(len(self.rows) + 1, self._scalars(progress, row))
        feed, arrays = self.feed.state()
        values = {
            "stage": self.number,
            "progress": dataclasses.asdict(progress),
            "rows": [*self.rows, dict(row, stage=self.number)],
            "random": backend.random_state(),
            "feed": feed,
        }

        def write():
            self.run.keep(values, arrays)
            if better:
                self._write_best(descent.judged(arrays, feed["averages"]))

        self.run.later(write)

    def _write_best(self, judged):
        """Write the weights that a training state has, which is one of `descent.judged`."""
        architecture = weights.architecture_of(self.model, self.settings)
        best = weights.in_state(self.model, judged)
        weights.write(best, self.run.folder / runs.WEIGHTS, architecture)

    def _scalars(self, progress, row):
        """Return {name: number} of an epoch: its row, its last learning rate, and of LHC-NetC each
        module's scalar."""
        stage = self.feed.stage
        steps = -(-len(self.feed.images) // stage["batch_size"])
        rate = descent.schedule(stage, steps)(progress.epoch * steps - 1)
        scalars = {**row, "stage": self.number, "learning_rate": float(backend.to_numpy(rate))}
        for layer in self.model.layers:
            if getattr(layer, "controller", None) is not None:
                scalars[f"{layer.name}/w"] = float(backend.to_numpy(layer.w))
        return scalars

    def restore(self):
        """Return (Progress, best weights or None) that a compiled stage starts with."""
        if self.resumed is None:
            return Progress(), None
        values, arrays = self.resumed
        with runs.intact(self.run.folder / runs.STATE):
            self.feed.restore(values["feed"], arrays)
        return Progress(**values["progress"]), self.restore_layers()

    def restore_layers(self):
        """Put the layers' state into the model; return the best weights until then.

        The best epoch's weights are written after its state, so they may be missing for the last.
        """
        values, arrays = self.resumed
        progress = Progress(**values["progress"])
        best = progress.best_epoch == progress.epoch
        with runs.intact(self.run.folder / runs.STATE):
            judged = descent.judged(arrays, values["feed"]["averages"]) if best else arrays
            backend.set_layer_state(self.model, judged)
            backend.set_random_state(values["random"])
        if best:
            self.run.later(lambda: self._write_best(judged))
        else:
            architecture = weights.architecture_of(self.model, self.settings)
            weights.load(self.model, self.run.folder / runs.WEIGHTS, architecture)
        best_weights = self.model.get_weights()
        backend.set_layer_state(self.model, arrays)
        self.draw_history()  # its last row may be missing
        return best_weights

    def draw_history(self, at_most_every=0):
        """Write the table and, once in so many seconds, the picture of all epochs.

        If they can't be written, training goes on.
        """
        if not self.run.writes:
            return
        writers = [(runs.HISTORY, write_history)]
        if time.monotonic() - self.drawn >= at_most_every:
            self.drawn = time.monotonic()
            writers.append((runs.PICTURE, plots.history))
        for name, write in writers:
            path = self.run.folder / name
            with plots.warning(path):
                write(path, self.rows)


class NoKeeper:
    """Keeps nothing: for trainings that are measured only."""

    def keep(self, progress, row, better):
        """Forget them."""

    def restore(self):
        """Start from nothing."""
        return Progress(), None


def run_stage(model, stage, feed, runtime, label, keeper=None, outlook=None):
    """Train one stage; yield a history row (without "stage") after each epoch.

    stage: of a recipe. feed: the `feeds.Feed` of this model and stage. runtime: the settings of
    that name. label: opens the printed lines. keeper: a Keeper, or None to keep nothing. outlook:
    an Outlook on this stage and those after it, or None if there are none. Raises UserError when a
    loss or weight is no longer a number.

    Early stopping is that of TensorFlow 2.4.1 (REFERENCE.md section 6): a tie is no improvement,
    and the best weights are put back only when the patience runs out, not when the epoch limit
    ends the stage.
    """
    keeper, outlook = keeper or NoKeeper(), outlook or Outlook([stage])
    steps, xla = runtime["steps_per_execution"], runtime["xla"]
    feed.compile(steps, xla)
    progress, best_weights = keeper.restore()
    gc.collect()  # networks that only gave their weights, and earlier stages, refer to themselves
    while not progress.finished:
        progress.epoch += 1
        title = f"{label} epoch {progress.epoch}/{stage['epochs']}"
        started = time.perf_counter()
        logs = feed.fit(partial(_bar_title, title, outlook, progress))
        seconds = time.perf_counter() - started
        with feed.averaged():
            row = {"epoch": progress.epoch, **logs, **feed.validate()}
            better = row["val_categorical_accuracy"] > progress.best
            judged = model.get_weights() if better else None
        row.update(seconds=seconds, images_per_second=len(feed.images) / seconds)
        best = row["val_categorical_accuracy"] if better else progress.best
        progress.waited = 0 if better else progress.waited + 1
        stops_early = bool(stage["patience"]) and progress.waited >= stage["patience"]
        figures = (
            "{}: loss {loss:.4f}, accuracy {categorical_accuracy:.4f}, val_loss {val_loss:.4f}, "
            "val_accuracy {val_categorical_accuracy:.4f}, {images_per_second:.1f} images/s"
        ).format(title, **row)
        words = outlook.after(progress.epoch, best, stops_early)
        print("; ".join(filter(None, (figures, words))), flush=True)
        if not all(math.isfinite(value) for value in row.values()):
            yield row
            raise UserError(
                f"{title}: loss {row['loss']}, val_loss {row['val_loss']}: expected finite numbers;"
                " lower the stage's learning_rate"
            )
        if better:
            progress.best, progress.best_epoch = best, progress.epoch
            best_weights = judged
            # A weight that is no number need not show in the loss: ReLU and maximum hide it.
            if not all(np.isfinite(array).all() for array in best_weights):
                yield row
                raise UserError(
                    f"{title}: found weights that are not finite; lower the stage's learning_rate"
                )
        if stops_early:
            model.set_weights(best_weights)
            progress.finished = True
        else:
            feed.end_epoch()  # not after an early stop: its draw was never made there
            progress.finished = progress.epoch >= stage["epochs"]
        keeper.keep(progress, row, better)
        yield row


def _bar_title(title, outlook, progress, done):
    words = outlook.during(progress.epoch, progress.best, done)
    return f"{title}, {words}" if words else title


def _record(model, settings, name, opened):
    """Return what a run tells about itself, in JSON; "conditions" decide its numbers.

    "goes_on_from" does too, by the weights at the start: it tells whose they were.
    """
    found = versions()
    start = hashlib.sha256()
    for variable, array in weights.to_arrays(model).items():
        start.update(variable.encode())
        start.update(np.ascontiguousarray(array))
    conditions = {
        "setting": run_record.deciding(settings, name),
        "version": {key: value for key, value in found.items() if key != "platform"},
        "data": opened.digests,
        "weights at the start": {"sha256": start.hexdigest()},
    }
    teachers = lineage.all_teacher_files(settings.recipe(name))
    if teachers:
        conditions["teachers"] = lineage.digests(teachers)
    return {
        "settings": settings.resolved(),
        "versions": found,
        "goes_on_from": lineage.digests(lineage.start_files(settings, name)),
        "conditions": conditions,
    }


def write_history(path, rows):
    """Write the rows as a CSV with the columns COLUMNS, floats at full precision."""
    with replace(path) as part:
        pd.DataFrame(rows, columns=COLUMNS).to_csv(part, index=False)
