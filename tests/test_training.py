"""Training: the original's order of draws, its early stopping, and the files that are kept."""

import csv
import errno
import functools
import inspect
import io
import json
import math
import os
import random
import re
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from src import (
    backend,
    dataset,
    distillation,
    etl,
    feeds,
    networks,
    packed,
    pixels,
    plots,
    progress,
    runs,
    settings,
    training,
    weights,
)
from src.backend import keras
from src.errors import UserError
from src.fast.feed import DeviceFeed
from src.files import file_digest
from src.lhc import LHC
from src.settings import PLAIN_PICTURES, PLAIN_STEPS

TINY = Path(__file__).parent / "data" / "tiny_data"
SIZE = 32
PLAIN = dict(rotation_range=0, width_shift_range=0, height_shift_range=0, shear_range=0)
PLAIN.update(zoom_range=0, horizontal_flip=False, generator_seed=None, seeds=None, patience=None)


def stage(epochs=1, **changes):
    fixed = {"optimizer": "sgd", "learning_rate": 1e-3, "batch_size": 8, "epochs": epochs}
    return {**PLAIN, **PLAIN_PICTURES, **PLAIN_STEPS, **fixed, **changes}


TIMES = ("seconds", "images_per_second")  # of a row, which no two runs share
AUGMENTED = dict(rotation_range=30, width_shift_range=0.1, zoom_range=0.1, horizontal_flip=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The tiny data set and its JPEGs of 32 pixels."""
    root = tmp_path_factory.mktemp("training")
    shutil.copytree(TINY, root / "data")
    etl.write_images(*dataset.load(TINY, "train"), root / "images", SIZE)
    return root


@pytest.fixture(scope="module")
def settings_in(data, settings_folder):
    """A function that returns settings that read the tiny data and write to a folder."""
    folders = {f"{name}_folder": str(data / name) for name in ("data", "images")}
    return lambda root: settings.load(settings_folder(root, Data=folders))


@pytest.fixture
def loaded(settings_in, tmp_path):
    """Settings that read the tiny data and write to a folder of the test's own."""
    return settings_in(tmp_path)


HISTORY = plots.history


@pytest.fixture(autouse=True)
def sketched(monkeypatch):
    """The picture of a history is the text of what it shows: to draw it takes as long as to train.

    Tests of what drawing does take `drawn`.
    """

    def write(path, rows):
        known = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
        path.write_text(json.dumps(known))

    monkeypatch.setattr(plots, "history", write)


@pytest.fixture
def drawn(sketched, monkeypatch):
    monkeypatch.setattr(plots, "history", HISTORY)


def net(dropout=backend.Dropout):
    """A small net with dropout and moving statistics: (B, 32, 32, 3) -> (B, 7)."""
    layers = keras.layers
    image = layers.Input((SIZE, SIZE, 3))
    x = layers.BatchNormalization(name="bn_data")(image)
    x = layers.Conv2D(4, 5, strides=4, activation="relu", name="conv0")(x)
    x = dropout(0.4)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(7, activation="softmax", name="fc3")(x), name="ResNet34")


def run(model, loaded, stages, name="ResNet34"):
    """Train; return (history rows without times, what lies in the folder)."""
    loaded.modular[name]["stages"] = stages
    rows = training.train(model, loaded, name)
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    return rows, loaded.path("models_folder") / name


def generators():
    """Return the states of NumPy's and Python's global generators."""
    _, keys, position, *_ = np.random.get_state()
    return keys.tolist(), position, random.getstate()


class Batches:
    """Four numbered batches that note what is asked of them."""

    def __init__(self):
        self.asked, self.ends, self.images = [], 0, range(32)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.asked.append(index)
        return index

    def on_epoch_end(self):
        self.ends += 1
        self.asked.append("end")


class Model:
    """Its weights are the number of epochs it was trained."""

    def __init__(self):
        self.epochs = 0

    def get_weights(self):
        return [np.array(self.epochs)]

    def set_weights(self, weights):
        self.epochs = int(weights[0])


@pytest.fixture
def scripted(monkeypatch, loaded):
    """A function that trains `Model` on `Batches`, the validation accuracies given beforehand.

    Returns (model, batches, epochs run, epochs kept in the file).
    """

    def train(accuracies, loss=1.0, val_loss=1.0, **changes):
        model, batches, accuracies, rows, kept = Model(), Batches(), iter(accuracies), [], []

        class Kept(training.NoKeeper):
            def keep(self, progress, row, better):
                if better:
                    kept.append(model.epochs)

        def fit(model, stream, steps):
            assert len(list(stream)) == steps == 4
            model.epochs += 1
            return {"loss": loss, "categorical_accuracy": 0.5}

        monkeypatch.setattr(backend, "compile_model", lambda *args: None)
        monkeypatch.setattr(backend, "fit_epoch", fit)
        monkeypatch.setattr(
            backend,
            "evaluate",
            lambda *args: {"loss": val_loss, "categorical_accuracy": next(accuracies)},
        )
        monkeypatch.setattr(feeds, "training_batches", lambda images, stage: batches)
        described, validation = stage(**changes), feeds.load_validation(loaded)
        feed = feeds.HostFeed(model, described, batches.images, validation, loaded)
        for row in training.run_stage(model, described, feed, loaded.runtime, "x", Kept()):
            rows.append(row["epoch"])
        return model, batches, rows, kept

    return train


@pytest.mark.parametrize(
    "accuracies, patience, epochs, ran, held, kept",
    [
        # (epochs run, of which epoch the model holds the weights at the end, epochs written)
        ([0.1, 0.3, 0.2, 0.1], 2, 10, 4, 2, [1, 2]),
        ([0.3, 0.3, 0.3], 2, 10, 3, 1, [1]),  # a tie keeps the earlier epoch
        ([0.0, 0.0], 1, 10, 2, 1, [1]),  # none right is better than nothing so far
        ([0.1, 0.3, 0.2], 2, 3, 3, 3, [1, 2]),  # the limit comes first: nothing is put back
        ([0.1, 0.3, 0.2, 0.1], 2, 4, 4, 2, [1, 2]),  # both at once: put back
        ([0.2, 0.1, 0.3, 0.1, 0.4, 0.1], 2, 6, 6, 6, [1, 3, 5]),  # gains start the wait anew
        ([0.3, 0.2, 0.1, 0.0], None, 4, 4, 4, [1]),  # no patience: to the limit
    ],
)
def test_early_stopping_is_that_of_tensorflow_2_4(
    scripted, accuracies, patience, epochs, ran, held, kept
):
    model, batches, rows, found = scripted(accuracies, patience=patience, epochs=epochs)
    assert rows == list(range(1, ran + 1))
    assert model.epochs == held
    assert found == kept
    stopped_early = held != ran
    assert batches.ends == ran - stopped_early  # no on_epoch_end after an early stop


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_batches_are_taken_in_the_originals_order(scripted, loaded, ahead):
    loaded.runtime["prefetch_batches"] = ahead
    random.seed(7)
    _, batches, _, _ = scripted([0.1, 0.2, 0.3], epochs=3)
    expected = [0]  # once before training starts
    random.seed(7)
    for _ in range(3):
        order = [0, 1, 2, 3]
        random.shuffle(order)
        expected += order + ["end"]
    assert batches.asked == expected
    assert len({tuple(expected[i : i + 4]) for i in (1, 6, 11)}) > 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["loss", "val_loss"])
def test_a_loss_that_is_no_number_stops(scripted, bad, which):
    with pytest.raises(UserError, match=f"x epoch 1/3.* {which} {bad}.*learning_rate"):
        scripted([0.5], epochs=3, **{which: bad})


def test_each_epochs_line_tells_the_best_and_the_time_left(scripted, capsys):
    scripted([0.25, 0.5, 0.125, 0.25], patience=2, epochs=9)
    lines = capsys.readouterr().out.splitlines()
    figures = "loss 1.0000, accuracy 0.5000, val_loss 1.0000, val_accuracy"
    ends = [line.split(" images/s; ")[1] for line in lines]
    left = r"best (0.\d+), at most \d+:\d\d:\d\d left"
    assert all(line.startswith(f"x epoch {i}/9: {figures} ") for i, line in enumerate(lines, 1))
    assert [re.fullmatch(left, end)[1] for end in ends[:3]] == ["0.2500", "0.5000", "0.5000"]
    assert ends[3] == "best 0.5000"  # its patience has ended it


def test_the_bar_within_an_epoch_tells_them_too(scripted, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0)
    scripted([0.25, 0.5], epochs=2)
    told = [line.split(":  ")[0] for line in capsys.readouterr().err.splitlines()]
    left = r"about \d+:\d\d:\d\d left"
    assert any(re.fullmatch(f"x epoch 1/2, {left}", line) for line in told)
    assert any(re.fullmatch(f"x epoch 2/2, best 0.2500, {left}", line) for line in told)


def test_numbers_out_of_range_leave_no_weights(loaded):
    backend.set_seeds(1, 1, 1)  # from other weights the net can die without a number overflowing
    stages = [stage(epochs=3, learning_rate=1e38)]
    with pytest.raises(UserError, match="learning_rate"):
        run(net(), loaded, stages)
    folder = loaded.path("models_folder") / "ResNet34.unfinished"
    assert len((folder / "history.csv").read_text().splitlines()) >= 2
    assert (folder / runs.WEIGHTS).exists() == (len(read_history(folder)) > 1)


def read_history(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_weights_settings_and_history(loaded, drawn, monkeypatch):
    saved, write = [], weights.write
    monkeypatch.setattr(
        weights, "write", lambda arrays, *args: saved.append(arrays) or write(arrays, *args)
    )
    accuracies = iter([0.5, 0.9, 0.1, 0.2, 0.2])  # stage 1 is better than stage 2
    monkeypatch.setattr(
        backend, "evaluate", lambda *args: {"loss": 1 / 3, "categorical_accuracy": next(accuracies)}
    )
    model = seeded()
    rows, folder = run(model, loaded, [stage(2), stage(3, optimizer="adam")])
    names = ["history.csv", "history.png", "settings.json", "weights.h5"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert picture(folder).startswith(b"\x89PNG")

    assert [(row["stage"], row["epoch"]) for row in rows] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
        (2, 3),
    ]
    table = read_history(folder)
    assert tuple(table[0]) == training.COLUMNS
    assert [{key: float(line[key]) for key in rows[0]} for line in table] == rows
    assert all(float(line["seconds"]) > 0 for line in table)
    speeds = [float(line["images_per_second"]) * float(line["seconds"]) for line in table]
    assert speeds == pytest.approx([35] * 5)
    assert all(len(line["loss"]) > 10 for line in table)  # not rounded

    # The best of the last stage, though the stage before it was better.
    assert len(saved) == 4
    arrays, architecture = weights.read_h5(folder / "weights.h5")
    assert set(arrays) == set(saved[-1])
    for name, expected in saved[-1].items():
        np.testing.assert_array_equal(arrays[name], expected)
    last = weights.to_arrays(model)  # there was a third epoch
    assert not np.array_equal(last["fc3/bias"], arrays["fc3/bias"])
    assert architecture == {"network": "ResNet34", "target_size": SIZE}

    record = json.loads((folder / "settings.json").read_text())
    assert record["settings"] == loaded.resolved()
    assert {"python", "numpy", "keras", "scipy", "pillow", "simplejpeg", "cpu"} <= set(
        record["versions"]
    )


def test_the_run_before_is_kept_aside(loaded):
    folder = loaded.path("models_folder") / "ResNet34"
    aside = folder.with_name("ResNet34.previous")
    histories = []
    for epochs in (1, 2, 3):
        run(net(), loaded, [stage(epochs)])
        histories.append((folder / "history.csv").read_text())
        if epochs > 1:
            assert (aside / "history.csv").read_text() == histories[-2]
            assert (aside / runs.WEIGHTS).is_file()
    assert [text.count("\n") for text in histories] == [2, 3, 4]


def seeded():
    """Return a net as a script builds it: from seeds, so that a stopped run finds the same."""
    backend.set_seeds(1, 2, 3)
    return net()


def test_stopped_runs_leave_the_complete_one(loaded, monkeypatch):
    _, folder = run(seeded(), loaded, [stage()])
    good = (folder / runs.WEIGHTS).read_bytes()
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killing(patch, runs.Run, "keep", 1, after=True)
            run(seeded(), loaded, [stage(2)])
    assert (folder / runs.WEIGHTS).read_bytes() == good


class Killed(BaseException):
    """Stands for the end of a process at some place."""


def killing(patch, holder, name, call, after=False):
    """Let the process end before or after that call, counted from 1, of a function."""
    function, calls = getattr(holder, name), []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == call and not after:
            raise Killed
        result = function(*args, **kwargs)
        if len(calls) == call:
            raise Killed
        return result

    patch.setattr(holder, name, counted)


LIFE = [stage(3, optimizer="adam", patience=1), stage(3, learning_rate=0.01)]
ACCURACIES = [0.2, 0.3, 0.1, 0.5, 0.4, 0.6]  # the first stage ends by its patience


def lived(loaded, patch, epochs_done=0, life=LIFE):
    """Train the two stages with validation accuracies as given; return rows, weights, folder."""
    accuracies = iter(ACCURACIES[epochs_done:])

    def validate(feed):
        return {"val_loss": 0.5, "val_categorical_accuracy": next(accuracies)}

    for kind in (feeds.HostFeed, DeviceFeed):
        patch.setattr(kind, "validate", validate)
    loaded.modular["ResNet34"]["stages"] = [{**s, **AUGMENTED} for s in life]
    rows = training.train(seeded(), loaded, "ResNet34")
    rows = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    folder = loaded.path("models_folder") / "ResNet34"
    return rows, weights.read_h5(folder / runs.WEIGHTS)[0]


@pytest.fixture(scope="module")
def undisturbed(settings_in, tmp_path_factory):
    """A function that returns what `lived` does if nothing stops it, and the folder of models.

    undisturbed(numerics, life="LIFE"): each of them lives once.
    """

    @functools.lru_cache(maxsize=None)
    def live(numerics, life="LIFE"):
        loaded = settings_in(tmp_path_factory.mktemp("undisturbed"))
        loaded.runtime["numerics"] = numerics
        with pytest.MonkeyPatch.context() as patch:
            found = lived(loaded, patch, life=globals()[life])
        return found, loaded.path("models_folder")

    return live


def equal(one, other):
    assert one[0] == other[0]
    for name, array in one[1].items():
        np.testing.assert_array_equal(array, other[1][name], name)


@pytest.mark.parametrize("numerics", ["reference", "fast"])
@pytest.mark.parametrize(
    "name, call, after, done",
    [
        ("keep", 1, False, 0),  # the first epoch is lost
        ("keep", 1, True, 1),  # its state is there, its weights are not
        ("write", 2, True, 2),
        ("keep", 3, True, 3),  # a stage has ended
        ("keep", 4, False, 3),
        ("keep", 5, True, 5),
        ("keep", 6, True, 6),  # all epochs are done, the last and best weights are missing
        ("write_record", 2, True, 6),  # complete, and has not its name yet
    ],
)
def test_a_stopped_training_goes_on_to_the_same_bits(
    loaded, undisturbed, monkeypatch, name, call, after, done, numerics
):
    if numerics == "fast" and backend.NAME == "tensorflow":
        pytest.skip("TensorFlow's fast numerics differ from run to run")
    loaded.runtime["numerics"] = numerics
    expected, models = undisturbed(numerics)
    shutil.copytree(str(models), str(loaded.path("models_folder")))  # an older run
    with monkeypatch.context() as patch, pytest.raises(Killed):
        holder = weights if name == "write" else runs.Run
        killing(patch, holder, name, call, after)
        lived(loaded, patch)
    with monkeypatch.context() as patch:
        found = lived(loaded, patch, done)
    equal(found, expected)
    names = sorted(path.name for path in loaded.path("models_folder").iterdir())
    assert names == ["ResNet34", "ResNet34.previous"]


MORE = dict(
    schedule="cosine",
    warmup_epochs=1,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.01,
    sharpness=0.1,
    ema=0.9,
    label_smoothing=0.1,
    mixup=0.4,
    random_erasing=0.5,
)
RICHER = [stage(3, **MORE), stage(3, optimizer="adam", ema=0.5, sharpness=0.1)]


@pytest.mark.parametrize("numerics", ["reference", "fast"])
@pytest.mark.parametrize(
    "name, call, after, done",
    [
        ("keep", 2, True, 2),  # the state is there, the averages that are its best weights not yet
        ("keep", 3, True, 3),
        ("write", 4, True, 6),
        ("keep", 6, True, 6),
    ],
)
def test_stages_that_ask_for_more_go_on_to_the_same_bits_too(
    loaded, undisturbed, monkeypatch, name, call, after, done, numerics
):
    if numerics == "fast" and backend.NAME == "tensorflow":
        pytest.skip("TensorFlow's fast numerics differ from run to run")
    loaded.runtime["numerics"] = numerics
    expected, _ = undisturbed(numerics, "RICHER")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, weights if name == "write" else runs.Run, name, call, after)
        lived(loaded, patch, life=RICHER)
    with monkeypatch.context() as patch:
        found = lived(loaded, patch, done, life=RICHER)
    equal(found, expected)


def curves_of(folder):
    """Return {name: {step: value}} of the curves in a folder, as TensorBoard shows them."""
    tensorflow = pytest.importorskip("tensorflow")
    found = {}
    for path in sorted(folder.iterdir()):
        for event in tensorflow.compat.v1.train.summary_iterator(str(path)):
            if event.HasField("session_log"):  # a start takes back what was told of later steps
                for curve in found.values():
                    for step in [step for step in curve if step >= event.step]:
                        del curve[step]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


@pytest.mark.parametrize("numerics", ["reference", "fast"])
@pytest.mark.parametrize("call, after, done", [(2, False, 1), (4, True, 4)])
def test_a_stopped_training_tells_each_epoch_once(
    loaded, monkeypatch, tmp_path, call, after, done, numerics
):
    loaded.runtime.update(numerics=numerics, tensorboard=str(tmp_path / "Curves"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, runs.Run, "keep", call, after)
        lived(loaded, patch)
    with monkeypatch.context() as patch:
        rows, _ = lived(loaded, patch, done)
    curves = curves_of(tmp_path / "Curves" / "ResNet34")
    names = {*training.COLUMNS, "learning_rate"}
    assert set(curves) == names
    for name in ("stage", "epoch", "loss", "val_loss", "val_categorical_accuracy"):
        told = {step: np.float32(row[name]) for step, row in enumerate(rows, start=1)}
        assert curves[name] == told, name
    rates = [np.float32(rate) for rate in (1e-3, 1e-3, 1e-3, 0.01, 0.01, 0.01)]
    assert list(curves["learning_rate"].values()) == rates


def test_curves_change_no_number_and_may_come_and_go(loaded, undisturbed, monkeypatch, tmp_path):
    expected, _ = undisturbed(loaded.runtime["numerics"])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, runs.Run, "keep", 2, after=True)
        lived(loaded, patch)
    loaded.runtime["tensorboard"] = str(tmp_path / "Curves")
    with monkeypatch.context() as patch:
        equal(lived(loaded, patch, 2), expected)
    assert list(curves_of(tmp_path / "Curves" / "ResNet34")["loss"]) == [3, 4, 5, 6]


def test_the_scalars_of_the_modules_and_a_falling_rate_are_told(loaded, tmp_path):
    loaded.runtime["tensorboard"] = str(tmp_path / "Curves")
    layers = keras.layers
    image = layers.Input((SIZE, SIZE, 3))
    x = layers.BatchNormalization(name="bn_data")(image)
    x = layers.Conv2D(4, 5, strides=4, name="conv0")(x)
    x = LHC(num_heads=7, att_embed_dim=2, controller=0.25, name="lhc1")(x)
    x = layers.Dense(7, activation="softmax", name="fc3")(layers.Flatten()(x))
    model = keras.Model(image, x, name="ResNet34")
    run(model, loaded, [stage(2, schedule="cosine", learning_rate=0.125)])
    curves = curves_of(tmp_path / "Curves" / "ResNet34")
    assert curves["lhc1/w"][2] == float(backend.to_numpy(model.get_layer("lhc1").w))
    assert 0 < abs(curves["lhc1/w"][1] - 0.25) < 1
    steps = 10  # 5 batches of 8 of the 35 images, twice
    rates = [0.125 / 2 * (1 + math.cos(math.pi * step / steps)) for step in (4, 9)]
    assert list(curves["learning_rate"].values()) == pytest.approx(rates, rel=1e-5)


def test_curves_that_cannot_be_written_end_no_training(loaded, tmp_path, capsys):
    (tmp_path / "Curves").write_text("a file")
    loaded.runtime["tensorboard"] = str(tmp_path / "Curves")
    rows, folder = run(net(), loaded, [stage(2)])
    assert len(rows) == 2 and (folder / runs.WEIGHTS).is_file()
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and all("could not be written" in line for line in warnings)


@pytest.fixture(scope="module")
def weights_with(settings_in, tmp_path_factory):
    """A function that returns the weights after a training with the parts `keys` of MORE."""

    @functools.lru_cache(maxsize=None)
    def train(numerics, *keys):
        loaded = settings_in(tmp_path_factory.mktemp("weights"))
        loaded.runtime["numerics"] = numerics
        described = stage(2, learning_rate=0.05, **{key: MORE[key] for key in keys})
        _, folder = run(seeded(), loaded, [described])
        return weights.read_h5(folder / runs.WEIGHTS)[0]

    return train


@pytest.mark.parametrize("numerics", ["reference", "fast"])
@pytest.mark.parametrize("key", MORE)
def test_each_part_of_a_recipe_changes_a_training(weights_with, key, numerics):
    needed = ["momentum"] if key == "nesterov" else []
    without = weights_with(numerics, *needed)
    found = weights_with(numerics, *needed, key)
    assert any((without[name] != found[name]).any() for name in found)


@pytest.mark.parametrize("numerics", ["reference", "fast"])
def test_a_stage_learns_from_teachers(loaded, numerics, monkeypatch):
    loaded.runtime["numerics"] = numerics
    monkeypatch.setattr(networks, "build", lambda name, settings: net())
    _, teacher = run(seeded(), loaded, [stage(2)])
    teacher = teacher.rename(teacher.with_name("teacher"))
    kept = (teacher / runs.WEIGHTS).read_bytes()
    taught = {"teachers": [str(teacher)], "share": 0.7}
    rows, folder = run(seeded(), loaded, [stage(2, distillation=taught, mixup=0.4)])
    assert len(rows) == 2 and (teacher / runs.WEIGHTS).read_bytes() == kept
    record = json.loads((folder / "settings.json").read_text())
    digest = file_digest(teacher / runs.WEIGHTS, "sha256")
    assert record["conditions"]["teachers"] == {str(teacher / runs.WEIGHTS): digest}
    assert set(weights.read_h5(folder / runs.WEIGHTS)[0]) == set(weights.to_arrays(net()))

    (teacher / runs.WEIGHTS).unlink()
    with pytest.raises(UserError, match="teacher/weights.h5 is missing: .*among the teachers"):
        run(seeded(), loaded, [stage(2, distillation=taught)])


def test_a_net_that_ship_py_made_teaches(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "build", lambda name, settings: net())
    shipped, teacher = tmp_path / "Shipped", seeded()
    contents = packed.files(packed.pack(weights.to_arrays(teacher)))
    record = {
        "architecture": {"network": "LHC_Net", "target_size": loaded.size, "lhc": loaded.lhc},
        "files": packed.digests(contents),
        "parameters": 1,
        "made_from": {},
        "measured": {"test": {"images": 1, "accuracy": 1.0}},
    }
    contents[packed.RECORD] = json.dumps(record).encode()
    packed.write(shipped, contents)
    taught = {"teachers": [str(shipped)], "share": 0.7}
    untaught, _ = run(seeded(), loaded, [stage()])
    rows, folder = run(seeded(), loaded, [stage(distillation=taught)])
    assert rows[0]["loss"] != untaught[0]["loss"]
    conditions = json.loads((folder / "settings.json").read_text())["conditions"]
    path = shipped / packed.RECORD
    assert conditions["teachers"] == {str(path): file_digest(path, "sha256")}

    (found,) = distillation.teachers(stage(distillation=taught), loaded)
    for name, array in weights.to_arrays(teacher).items():
        assert np.array_equal(weights.to_arrays(found)[name], array), "small kernels keep all bits"
    (shipped / "weights-1.npz").write_bytes(b"other")
    with pytest.raises(UserError, match="weights-1.npz is damaged or another one"):
        distillation.teachers(stage(distillation=taught), loaded)


def test_a_teacher_sees_the_same_size(loaded):
    _, folder = run(seeded(), loaded, [stage()])
    loaded.training["target_size"] = 40
    described = stage(distillation={"teachers": [str(folder)], "share": 0.5})
    with pytest.raises(UserError, match="images of 32 pixels, expected 40"):
        distillation.teachers(described, loaded)


def test_a_kill_between_two_renames_loses_nothing(loaded, monkeypatch):
    _, folder = run(seeded(), loaded, [stage()])
    replace, renames = os.replace, []

    def second(source, target):
        if str(source).endswith(".unfinished"):
            raise Killed
        renames.append(target)
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(runs.os, "replace", second)
        run(seeded(), loaded, [stage(2)])
    assert not folder.exists()
    assert runs.complete_folder(loaded, "ResNet34").name == "ResNet34.unfinished"
    run(seeded(), loaded, [stage(3)])
    assert len(read_history(folder)) == 3
    assert len(read_history(folder.with_name("ResNet34.previous"))) == 2


@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("change", ["none", "settings", "restart"])
def test_a_complete_run_that_has_not_its_name_yet_is_not_lost(loaded, monkeypatch, state, change):
    """Killed just before that, beside an older one: it goes on to its end, or takes its name."""
    run(seeded(), loaded, [stage()])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, runs, "_take_name", 1)
        run(seeded(), loaded, [stage(2)])
    folder = loaded.path("models_folder") / "ResNet34"
    complete = folder.with_name("ResNet34.unfinished")
    weights_there = (complete / runs.WEIGHTS).read_bytes()
    if not state:
        (complete / runs.STATE).unlink()
    epochs = 3 if change == "settings" else 2
    loaded.modular["ResNet34"]["stages"] = [stage(epochs)]
    rows = training.train(seeded(), loaded, "ResNet34", restart=change == "restart")
    assert len(rows) == len(read_history(folder)) == epochs
    goes_on = state and change == "none"
    kept = folder if goes_on else folder.with_name("ResNet34.previous")
    assert (kept / runs.WEIGHTS).read_bytes() == weights_there
    assert len(read_history(folder.with_name("ResNet34.previous"))) == (1 if goes_on else 2)
    for path in folder.parent.iterdir():
        assert path.is_dir() and not path.name.endswith("unfinished")
        assert not (path / runs.STATE).exists()


def test_a_kill_before_the_state_is_removed_leaves_it_for_the_next_training(loaded, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, runs, "_take_name", 1, after=True)
        run(seeded(), loaded, [stage(2)])
    folder = loaded.path("models_folder") / "ResNet34"
    assert runs.complete_folder(loaded, "ResNet34") == folder and (folder / runs.STATE).exists()
    run(seeded(), loaded, [stage(2)])
    assert not list(folder.parent.rglob(runs.STATE))


@pytest.mark.parametrize("holder, name", [(training, "write_history"), (plots, "history")])
def test_the_last_epochs_row_is_not_lost_by_a_kill_before_it_is_written(
    loaded, monkeypatch, holder, name
):
    run(seeded(), loaded, [stage(2)])
    folder = loaded.path("models_folder") / "ResNet34"
    expected = [row["loss"] for row in read_history(folder)], picture(folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, holder, name, 2)
        run(seeded(), loaded, [stage(2)])
    run(seeded(), loaded, [stage(2)])
    assert ([row["loss"] for row in read_history(folder)], picture(folder)) == expected


def picture(folder):
    return (folder / "history.png").read_bytes()


def test_weights_are_written_after_the_state_and_while_the_next_epoch_trains(loaded, monkeypatch):
    done, keep, write, fit = [], runs.Run.keep, weights.write, backend.fit_epoch
    trained = threading.Event()

    def keeping(*args):
        if len(done) == 1:  # the first epoch is done, the second one not begun
            assert trained.wait(60)
        keep(*args)
        done.append("state")

    def fitting(*args):
        done.append("epoch")
        if len(done) > 1:
            trained.set()
        return fit(*args)

    monkeypatch.setattr(runs.Run, "keep", keeping)
    monkeypatch.setattr(weights, "write", lambda *args: write(*args) or done.append("weights"))
    monkeypatch.setattr(backend, "fit_epoch", fitting)
    accuracies = iter([0.1, 0.2])
    monkeypatch.setattr(
        backend, "evaluate", lambda *args: {"loss": 1, "categorical_accuracy": next(accuracies)}
    )
    run(net(), loaded, [stage(2)])
    assert done == ["epoch", "epoch", "state", "weights", "state", "weights"]


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_state_that_cannot_be_written_ends_the_training(loaded, monkeypatch, epochs):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.Run, "keep", full)
    with pytest.raises(OSError, match="No space left"):
        run(net(), loaded, [stage(epochs)])
    folder = loaded.path("models_folder") / "ResNet34.unfinished"
    assert not (folder / runs.WEIGHTS).exists()  # never without its state
    assert len(read_history(folder)) == 1


def test_changed_conditions_are_refused_and_restart_begins_anew(loaded, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, runs.Run, "keep", 1, after=True)
        run(seeded(), loaded, [stage(2)])
    loaded.modular["ResNet34"]["stages"] = [stage(2, learning_rate=0.002)]
    with pytest.raises(UserError, match="learning_rate: then 0.001, now 0.002.*--restart"):
        training.train(seeded(), loaded, "ResNet34")
    rows = training.train(seeded(), loaded, "ResNet34", restart=True)
    assert [row["epoch"] for row in rows] == [1, 2]


def test_a_kill_while_beginning_anew_leaves_no_half_of_the_old_run(loaded, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, runs.Run, "keep", 1, after=True)
        run(seeded(), loaded, [stage(2)])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, runs.shutil, "rmtree", 1)
        training.train(seeded(), loaded, "ResNet34", restart=True)
    rows, _ = run(seeded(), loaded, [stage()])  # of other settings, and not refused
    assert [row["epoch"] for row in rows] == [1]


@pytest.fixture(scope="module")
def stopped(settings_in, tmp_path_factory):
    """Settings, and the folder of a run that was stopped after its first epoch of two."""
    loaded = settings_in(tmp_path_factory.mktemp("stopped"))
    loaded.modular["ResNet34"]["stages"] = [stage(2)]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        killing(patch, runs.Run, "keep", 1, after=True)
        training.train(seeded(), loaded, "ResNet34")
    return loaded, loaded.path("models_folder") / "ResNet34.unfinished"


def assert_refused(stopped, name, content, message):
    """Training does not go on from that content of a file (None: a pipe), and changes nothing."""
    loaded, folder = stopped
    path = folder / name
    good = path.read_bytes()
    path.unlink()
    os.mkfifo(str(path)) if content is None else path.write_bytes(content)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    try:
        with pytest.raises(UserError, match=f"{message}.*--restart"):
            training.train(seeded(), loaded, "ResNet34")
        assert before == sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    finally:
        path.unlink()
        path.write_bytes(good)


@pytest.mark.parametrize("change", ["empty", "cut", "bit", "pipe", "packed", "header", "surplus"])
def test_a_damaged_state_is_told(stopped, change):
    good = (stopped[1] / runs.STATE).read_bytes()
    contents = {"empty": b"", "cut": good[: len(good) // 2], "pipe": None}
    contents["bit"] = good[:900] + bytes([good[900] ^ 1]) + good[901:]
    if change in ("packed", "header", "surplus"):
        contents[change] = repacked(good, change)
    assert_refused(stopped, runs.STATE, contents[change], "state.npz: damaged")


def repacked(good, change):
    """Return a state whose zip archive is sound: packed, or with a header of an endless array."""
    made = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if change == "packed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(made, "w", packing) as new:
        for name in old.namelist():
            content = old.read(name)
            if change == "header" and name == "layer_0.npy":
                content = content.replace(b"'shape': (", b"'shape': (9999999999, ")
            if change != "surplus" or name != "layer_0.npy":
                new.writestr(name, content)
    return made.getvalue()


only_on_pytorch = pytest.mark.skipif(backend.NAME != "torch", reason="PyTorch's generators")


def set_in(document, path, value):
    """Put a value into nested dicts and lists."""
    *keys, last = path
    for key in keys:
        document = document[key]
    document[last] = value


@pytest.mark.parametrize(
    "path, value",
    [
        (["stage"], 9),
        (["stage"], "1"),
        (["progress"], []),
        (["progress", "epoch"], -(10**9)),
        (["progress", "epoch"], 3),
        (["progress", "best"], None),
        (["progress", "more"], 1),
        (["rows"], {}),
        (["rows", 0, "loss"], "0"),
        (["rows", 0, "more"], 1),
        (["random"], {}),
        (["random", "python", 1], [1, 2]),
        (["random", "numpy", 2], 10**6),
        (["feed"], None),
        (["feed", "batches_seen"], -1),
        (["feed", "batches_seen"], 10**12),
        *(
            pytest.param(["random", "torch"], value, marks=only_on_pytorch)
            for value in ([], [[1, 2]], [[300]], [[]], [[0] * 5056] * 99, "text")
        ),
    ],
)
def test_a_state_with_odd_values_is_told(stopped, path, value):
    with np.load(str(stopped[1] / runs.STATE)) as file:
        arrays = dict(file)
    values = json.loads(arrays.pop("values").tobytes().decode())
    set_in(values, path, value)
    assert_refused(stopped, runs.STATE, packed_state(values, arrays), "state.npz: damaged")


def packed_state(values, arrays):
    file = io.BytesIO()
    np.savez(file, values=np.frombuffer(json.dumps(values).encode(), np.uint8), **arrays)
    return file.getvalue()


def test_a_state_without_an_object_is_told(stopped):
    assert_refused(stopped, runs.STATE, packed_state("text", {}), "state.npz: damaged")


@pytest.mark.parametrize(
    "name, array",
    [
        ("order", np.zeros(35, np.int64)),
        ("order", np.zeros((), "<f4")),
        ("layer_0", np.zeros(9, np.float32)),
        ("layer_0", np.array(["a"])),
        ("optimizer_0", np.zeros(9, np.float32)),
    ],
)
def test_a_state_with_odd_arrays_is_told(stopped, name, array):
    with np.load(str(stopped[1] / runs.STATE)) as file:
        arrays = dict(file, **{name: array})
    values = json.loads(arrays.pop("values").tobytes().decode())
    assert_refused(stopped, runs.STATE, packed_state(values, arrays), "state.npz: damaged")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[" * 5000, b'{"conditions": [1]}', b" " * (1 << 21), None]
)
def test_a_damaged_record_is_told(stopped, content):
    assert_refused(stopped, runs.RECORD, content, "settings.json: missing or damaged")


def test_many_changes_are_told_in_short(stopped):
    record = json.loads((stopped[1] / runs.RECORD).read_text())
    record["conditions"] = {"setting": {"x" * 999 + "\n": 1}}
    content = json.dumps(record).encode()
    assert_refused(stopped, runs.RECORD, content, "begun otherwise.{,900}; and [0-9]+ more")


@pytest.mark.parametrize("kind", ["", ".unfinished", ".previous"])
def test_files_of_the_users_own_are_left_alone(loaded, kind):
    folder = loaded.path("models_folder") / f"ResNet34{kind}"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="notes.txt"):
        run(seeded(), loaded, [stage()])
    assert (folder / "notes.txt").read_text() == "mine"


def test_one_training_at_a_time(loaded):
    with runs.training(loaded, "ResNet34", {"conditions": {}}):
        with pytest.raises(UserError, match=f"ResNet34 is being trained.*process {os.getpid()}"):
            run(seeded(), loaded, [stage()])
    run(seeded(), loaded, [stage()])


def test_what_the_system_puts_into_a_folder_is_no_users_file(loaded):
    """A run's folder that somebody has looked at is a run's still; anything else stays."""
    _, folder = run(seeded(), loaded, [stage()])
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_text("x")
    run(seeded(), loaded, [stage()])
    (folder / ".notes").write_text("mine")
    with pytest.raises(UserError, match="found .notes, which no training has made"):
        run(seeded(), loaded, [stage()])
    assert (folder / ".notes").read_text() == "mine"


def test_a_table_that_is_open_elsewhere_ends_no_training(loaded, monkeypatch, capsys):
    def locked(path, rows):
        raise PermissionError(13, "Access is denied", str(path))

    monkeypatch.setattr(training, "write_history", locked)
    rows, folder = run(seeded(), loaded, [stage(2)])
    assert len(rows) == 2 and (folder / runs.WEIGHTS).is_file()
    assert "history.csv: could not be written" in capsys.readouterr().err


def test_an_unfinished_training_is_not_evaluated_as_a_finished_one(loaded, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, weights, "write", 1, after=True)
        run(seeded(), loaded, [stage(2)])
    with pytest.raises(UserError, match="stopped before its end.*ResNet34_Train.*--unfinished"):
        weights.load_trained(net(), loaded, "ResNet34")
    weights.load_trained(net(), loaded, "ResNet34", unfinished=True)


def test_errors_of_the_batches_come_through_the_framework(loaded, monkeypatch):
    def broken(batches, index):
        raise UserError("Images3.jpeg: expected a JPEG image")

    _, folder = run(seeded(), loaded, [stage()])
    before = (folder / "history.csv").read_bytes()
    monkeypatch.setattr(feeds, "epoch_batches", lambda batches, *_: map(broken, [batches], [0]))
    with pytest.raises(UserError, match="Images3.jpeg"):
        run(seeded(), loaded, [stage()])
    assert (folder / "history.csv").read_bytes() == before


def test_too_little_memory_is_told_with_the_batch_size(loaded, monkeypatch):
    def full(*args):
        raise MemoryError("Unable to allocate 17 PiB")

    monkeypatch.setattr(backend, "fit_epoch", full)
    with pytest.raises(UserError, match="batch_size 8 at target_size 32.*17 PiB"):
        run(net(), loaded, [stage()])


@pytest.mark.parametrize(
    "key, hint", [("data_folder", "Download_Data.py"), ("images_folder", "ETL.py")]
)
def test_missing_data_leave_an_earlier_run_alone(loaded, key, hint):
    _, folder = run(net(), loaded, [stage()])
    before = (folder / "history.csv").read_bytes()
    loaded.data[key] = "nowhere"
    with pytest.raises(UserError, match=f"nowhere.*{hint}"):
        run(net(), loaded, [stage()])
    assert (folder / "history.csv").read_bytes() == before
    assert not folder.with_name("ResNet34.previous").exists()


def test_seeds_of_a_stage_are_set_before_its_first_draw(loaded, monkeypatch):
    drawn, requests = [], feeds.ImageFolderBatches.__getitem__

    def noting(batches, index):
        drawn.append(np.random.get_state()[1][0])
        return requests(batches, index)

    monkeypatch.setattr(feeds.ImageFolderBatches, "__getitem__", noting)
    seeds = {"tensorflow": 1, "python": 2, "numpy": 1115}
    backend.set_seeds(tensorflow=5, python=6, numpy=7)
    run(net(), loaded, [stage(), stage(seeds=seeds)])
    assert len(drawn) == 12  # 1 + 5 batches a stage
    assert (drawn[0], drawn[6]) == (7, 1115)


class Recorder(feeds.ImageFolderBatches):
    """Batches that note what they gave."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.given = []

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        self.given.append((index, x.sum(dtype=float), y.argmax(axis=1).tolist()))
        return x, y


def test_nothing_but_the_batches_draws_from_the_global_generators(loaded, drawn, monkeypatch):
    """Nets, plots, progress bars, weights and Keras leave NumPy's and Python's generators alone."""
    made = []

    def recording(images, description):
        made.append(batches(images, description))
        return made[-1]

    def batches(images, description):
        return Recorder(images, 8, **AUGMENTED)

    monkeypatch.setattr(feeds, "training_batches", recording)
    np.random.seed(3)
    random.seed(4)
    before = random.getstate()
    model = net()
    random.setstate(before)  # what `keep_python_random` does for our own nets
    run(model, loaded, [stage(2)])
    found = generators()

    replay = batches(feeds.load_training(loaded), None)
    np.random.seed(3)
    random.seed(4)
    replay[0]
    for _ in range(2):
        order = list(range(len(replay)))
        random.shuffle(order)
        for index in order:
            replay[index]
        replay.on_epoch_end()
    assert made[0].given == replay.given and len(replay.given) == 11
    assert generators() == found


def trained(loaded, seed=1):
    """Train a fresh net from fixed seeds; return history and weights."""
    backend.set_deterministic()
    backend.set_seeds(tensorflow=seed, python=seed, numpy=seed)
    model = net()
    stages = [stage(2, optimizer="adam", **AUGMENTED), stage(2, learning_rate=0.01)]
    rows, _ = run(model, loaded, stages)
    return rows, model.get_weights()


def test_two_runs_give_the_same_bits(loaded):
    first, second, other = trained(loaded), trained(loaded), trained(loaded, seed=2)
    assert first[0] == second[0] != other[0]
    for a, b in zip(first[1], second[1]):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[1][-2], other[1][-2])


@pytest.mark.skipif(backend.GENERATION == 3, reason="Keras 3 takes batches in its own order")
def test_the_paper_stacks_own_fit_gives_the_same_bits(loaded, tmp_path):
    """One call of Keras 2.4's `fit` with its callbacks, as in the original, against ours."""

    def start(dropout=backend.Dropout):
        backend.set_seeds(tensorflow=1, python=2, numpy=3)
        return net(dropout)

    model = start()
    described = stage(6, optimizer="adam", learning_rate=0.01, patience=2, **AUGMENTED)
    rows, folder = run(model, loaded, [described])
    state = generators()

    original = start(keras.layers.Dropout)
    original.compile(
        keras.optimizers.Adam(0.01), "categorical_crossentropy", ["categorical_accuracy"]
    )
    images, one_hot = feeds.load_validation(loaded)
    x = np.repeat(pixels.enlarge(images, SIZE)[..., None], 3, axis=-1)
    monitor = {"monitor": "val_categorical_accuracy", "mode": "max"}
    path = str(tmp_path / "best.h5")
    history = original.fit(
        Recorder(feeds.load_training(loaded), 8, **AUGMENTED),
        validation_data=(x, one_hot),
        epochs=6,
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True, **monitor),
            keras.callbacks.ModelCheckpoint(
                path, save_best_only=True, save_weights_only=True, **monitor
            ),
        ],
    ).history
    assert generators() == state
    for key, values in history.items():
        assert values == [row[key] for row in rows], key
    for ours, theirs in zip(model.get_weights(), original.get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    ours, theirs = (weights.read_h5(file)[0] for file in (folder / runs.WEIGHTS, path))
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], name)


def test_validation_is_not_rounded_and_weighs_each_image_the_same(loaded, monkeypatch):
    monkeypatch.setattr(feeds, "VALIDATION_BATCH", 4)  # 14 images: a smaller last batch
    images, one_hot = validation = feeds.load_validation(loaded)
    assert images.shape == (14, 48, 48) and one_hot.dtype == np.float32
    batches = list(feeds.validation_batches(validation, SIZE))
    assert [len(x) for x, _ in batches] == [4, 4, 4, 2]
    x = np.concatenate([x for x, _ in batches])
    assert x.dtype == np.float32 and x.shape == (14, SIZE, SIZE, 3)
    for channel in range(3):
        np.testing.assert_array_equal(x[..., channel], pixels.enlarge(images, SIZE))
    assert (x != np.floor(x)).any()

    model = net()
    model.set_weights([0.01 * array for array in model.get_weights()])  # moderate probabilities
    backend.compile_model(model, "sgd", 0.1)
    found = feeds.validate(model, validation, loaded)
    probabilities = model.predict_on_batch(x)
    right = probabilities.argmax(axis=1) == one_hot.argmax(axis=1)
    loss = -np.log((probabilities * one_hot).sum(axis=1)).mean()
    assert found["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert found["val_categorical_accuracy"] == pytest.approx(right.mean())


def test_limits_of_the_settings_hold(loaded):
    loaded.runtime.update(max_train_images=14, max_val_images=7)
    assert len(feeds.load_training(loaded)) == 14
    assert [len(part) for part in feeds.load_validation(loaded)] == [7, 7]


def test_a_stage_augments_as_it_says(loaded):
    images = feeds.load_training(loaded)
    described = stage(batch_size=5, generator_seed=9, **AUGMENTED)
    batches = feeds.training_batches(images, described)
    assert (len(batches), batches.seed) == (7, 9)
    for key in settings.NO_AUGMENTATION:
        assert getattr(batches, key) == described[key]


def test_optimizers_are_those_of_the_reference():
    model = net()
    backend.compile_model(model, "adam", 1e-4)
    first = model.optimizer
    assert isinstance(first, keras.optimizers.Adam)
    assert [float(getattr(first, key)) for key in ("beta_1", "beta_2", "epsilon")] == (
        [pytest.approx(0.9), pytest.approx(0.999), 1e-7]
    )
    assert float(backend.to_numpy(first.learning_rate)) == np.float32(1e-4)
    backend.compile_model(model, "sgd", 1)  # a rate may be a whole number
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert model.optimizer.momentum in (0, 0.0)
    backend.compile_model(model, "adam", 1e-4)
    assert model.optimizer is not first


@pytest.mark.parametrize("steps", [2, 3, 100])
def test_several_steps_per_execution_train_on_the_same_batches(loaded, monkeypatch, steps):
    made = []

    def recording(images, description):
        made.append(Recorder(images, 8))
        return made[-1]

    monkeypatch.setattr(feeds, "training_batches", recording)
    loaded.runtime["steps_per_execution"] = steps
    rows, _ = run(net(), loaded, [stage(2)])
    assert len(rows) == 2 and len(made[0].given) == 11


def test_tensorflow_does_not_drop_dependencies():
    """Its optimizer would now and then let gradients read weights that are already updated."""
    if backend.GENERATION == 2 or backend.NAME != "tensorflow":
        pytest.skip("the fault is TensorFlow 2.21's")
    import tensorflow

    backend.compile_model(net(), "sgd", 0.01)
    options = tensorflow.config.optimizer.get_experimental_options()
    assert options["dependency_optimization"] is False


def test_both_feeds_are_what_training_knows_as_a_feed():
    def public(kind):
        return {name for name in vars(kind) if callable(getattr(kind, name)) and name[0] != "_"}

    arguments = ["model", "stage", "training", "validation", "settings", "random"]
    for kind in (feeds.HostFeed, DeviceFeed):
        assert list(inspect.signature(kind).parameters) == arguments
        names = {"compile", "fit", "validate", "averaged", "end_epoch", "state", "restore"}
        assert public(kind) == public(feeds.Feed) == names


@pytest.mark.parametrize("numerics, kind", [("reference", feeds.HostFeed), ("fast", DeviceFeed)])
def test_the_feed_is_that_of_the_numerics(loaded, numerics, kind):
    loaded.runtime["numerics"] = numerics
    feed = feeds.opener(loaded).feed(net(), stage(), np.random.default_rng(0))
    assert type(feed) is kind and len(feed.images) == 35
