"""Evaluation: the lines printed, the files kept, the metrics, and what happens when data lack."""

import contextlib
import io
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import Controller_Downloaded_Eval
import LHC_Eval
from src import dataset, etl, evaluation, networks, settings, weights
from src.errors import UserError

TINY = Path(__file__).parent / "data" / "tiny_data"
SIZE = 32
SPLIT_LINES = ["Train Loss", "Train Perf", "Val Perf", "Test Perf", "Test Pred Repeated"]
LINES = SPLIT_LINES + ["TTA Test Perf", "TTA Test Pred Repeated"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A settings folder for tiny nets, data and JPEGs, and a trained LHC-Net (random weights)."""
    root = tmp_path_factory.mktemp("evaluation")
    folder = root / "Settings"
    folder.mkdir()
    keys = ("data", "images", "models", "downloaded_models", "results")
    changed = {
        "Data": {f"{key}_folder": str(root / key) for key in keys},
        "Training": {"target_size": SIZE},
        "LHC": {"num_heads": [8, 8, 4, 2, 1], "pool_size": [3, 3, 3, 2, 1]},
        "Evaluation": {"batch_size": 8},
        "Runtime": {"max_test_images": 10},
    }
    for name, values in changed.items():
        (folder / f"{name}_Settings.json").write_text(json.dumps(values))
    shutil.copytree(TINY, root / "data")
    etl.write_images(*dataset.load(TINY, "train"), root / "images", SIZE)
    loaded = settings.load(folder)
    network = networks.lhc_net(SIZE, loaded.lhc)
    # Features of an untrained net are huge: tame them, or all probabilities are 0 or 1.
    gamma = network.get_layer("bn1").trainable_variables[0]
    gamma.assign(np.full(gamma.shape, 1e-3, np.float32))
    target = root / "models" / "LHC"
    target.mkdir(parents=True)
    weights.save(network, target / "weights.h5", weights.architecture_of(network, loaded))
    return root, folder, network


@pytest.fixture(scope="module")
def ran(world):
    """What LHC_Eval.py printed and wrote."""
    root, folder, _ = world
    (root / "results" / "LHC").mkdir(parents=True, exist_ok=True)  # other tests evaluate, too
    (root / "results" / "LHC" / "metrics.json.4321-0123abcd.part").write_text("of a killed one")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert LHC_Eval.main(["--settings", str(folder)]) == 0
    return printed.getvalue().splitlines(), root / "results" / "LHC"


def read(folder):
    return json.loads((folder / "metrics.json").read_text()), np.load(folder / "predictions.npz")


def test_prints_the_originals_lines(ran):
    lines, _ = ran
    assert lines[0] == "LHC_Net Perf:"
    for line, label in zip(lines[1:], LINES):
        value = r"\d+" if label.endswith("Repeated") else r"\d+\.\d{17}"
        assert re.fullmatch(f"{label}:  {value}", line), line
    assert len(lines) == 1 + len(LINES) + 1  # the last one says where the files lie


def test_writes_all_files_whole(ran):
    names = {"confusion_matrix.png", "metrics.json", "predictions.npz", "report.html", "report.txt"}
    assert {path.name for path in ran[1].iterdir()} == names
    report = (ran[1] / "report.txt").read_text()
    assert report.count("precision") == 2 and "Surprise" in report


def test_metrics_agree_with_what_was_printed_and_predicted(ran):
    printed = dict(line.split(":  ") for line in ran[0][1:-1])
    metrics, predictions = read(ran[1])
    for split, label in (("val", "Val"), ("test", "Test"), ("tta_test", "TTA Test")):
        probabilities = predictions[f"{split}_probabilities"]
        images, labels = dataset.load(TINY, split[-4:].strip("_"), 10 if "test" in split else None)
        assert probabilities.dtype == np.float32 and probabilities.shape == (len(images), 7)
        accuracy = np.mean(probabilities.argmax(axis=1) == labels)
        assert metrics[split]["accuracy"] == accuracy == float(printed[f"{label} Perf"])
        error = np.sqrt(accuracy * (1 - accuracy) / len(labels))
        assert metrics[split]["standard_error"] == pytest.approx(error)
        assert metrics[split]["images"] == len(labels)
    assert metrics["train"]["images"] == 35
    assert metrics["train"]["loss"] == pytest.approx(float(printed["Train Loss"]), rel=1e-15)
    assert metrics["test"]["repeated"] == int(printed["Test Pred Repeated"])
    assert metrics["paper_test_accuracy_percent"]["best_run_with_tta"] == 74.42
    assert metrics["settings"]["runtime"]["max_test_images"] == 10
    assert "python" in metrics["versions"]


def test_predictions_are_the_nets_in_the_datas_order(world, ran):
    root, folder, network = world
    loaded = settings.load(folder)
    images, _ = dataset.load(TINY, "val")
    grey = np.concatenate(list(evaluation.image_batches(images, loaded)))
    expected = network.predict(np.repeat(grey[..., None], 3, axis=-1), verbose=0)
    found = read(ran[1])[1]["val_probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.ptp(found, axis=0).max() > 1e-3  # the images differ


def test_train_figures_are_those_of_the_jpegs(world, ran):
    root, folder, network = world
    files = [
        path
        for name in dataset.CLASSES
        for path in sorted((root / "images" / "Training" / name).glob("*.jpeg"))
    ]
    labels = [dataset.CLASSES.index(path.parent.name) for path in files]
    rgb = np.stack([np.asarray(Image.open(path)) for path in files]).astype(np.float32)
    probabilities = network.predict(rgb, verbose=0)
    train = read(ran[1])[0]["train"]
    # Keras keeps 1e-7 away from 0 and 1; what the net, of random weights, gives may lie closer.
    given = np.clip(probabilities[np.arange(len(labels)), labels], 1e-7, 1 - 1e-7)
    loss = -np.log(given).mean()
    assert train["loss"] == pytest.approx(loss, rel=1e-4)
    assert train["accuracy"] == np.mean(probabilities.argmax(axis=1) == labels)


def test_cross_entropy_by_hand():
    probabilities = np.full((2, 7), 0.1, np.float32)
    probabilities[[0, 1], [3, 5]] = 0.4
    found = evaluation.cross_entropy(np.array([3, 0], np.uint8), probabilities)
    assert found == pytest.approx(-(np.log(0.4) + np.log(0.1)) / 2, rel=1e-6)
    assert found == np.float32(found)


def test_repeated_counts_rows_with_a_shared_highest_probability():
    rows = np.array([[0.4, 0.4, 0.2], [0.2, 0.2, 0.6], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    assert evaluation.repeated(rows) == 2


def test_missing_weights_say_what_to_do(world, capsys, tmp_path):
    folder = shutil.copytree(world[1], tmp_path / "Settings")
    data = json.loads((folder / "Data_Settings.json").read_text())
    data.update(models_folder=str(tmp_path / "none"), results_folder=str(tmp_path / "results"))
    data.update(downloaded_models_folder=str(tmp_path / "none"))
    (folder / "Data_Settings.json").write_text(json.dumps(data))
    for script, hint in (
        (LHC_Eval, "run LHC_Train.py"),
        (Controller_Downloaded_Eval, "Download_Models"),
    ):
        assert script.main(["--settings", str(folder)]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ") and hint in error, error
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "key, hint", [("data_folder", "Download_Data.py"), ("images_folder", "ETL.py")]
)
def test_missing_data_say_what_to_do(world, capsys, tmp_path, key, hint):
    loaded = settings.load(world[1])
    loaded.data.update({key: str(tmp_path / "none"), "results_folder": str(tmp_path / "results")})
    with pytest.raises(UserError, match=hint):
        evaluation.evaluate(world[2], loaded, "LHC")
    assert capsys.readouterr().out == "" and not (tmp_path / "results").exists()


def test_a_results_folder_that_cannot_be_is_told_first(world, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "predict", lambda *args: pytest.fail("predicted"))
    (tmp_path / "results").write_text("a file")
    shutil.copytree(world[1], tmp_path / "Settings")
    data = json.loads((world[1] / "Data_Settings.json").read_text())
    data["results_folder"] = str(tmp_path / "results")
    (tmp_path / "Settings" / "Data_Settings.json").write_text(json.dumps(data))
    assert LHC_Eval.main(["--settings", str(tmp_path / "Settings")]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and str(tmp_path / "results") in error


def evaluated(world, capsys):
    """Return (code, stdout, stderr) of LHC_Eval.py."""
    code = LHC_Eval.main(["--settings", str(world[1])])
    return (code, *capsys.readouterr())


def test_too_little_memory_names_the_setting(world, capsys, monkeypatch):
    def allocate(*args):
        raise MemoryError("Unable to allocate 17 PiB")

    monkeypatch.setattr(evaluation.tta, "with_view", allocate)
    code, _, stderr = evaluated(world, capsys)
    assert code == 2
    assert "batch_size 8 of Evaluation_Settings.json at target_size 32 needs more mem" in stderr


def test_one_line_when_another_process_is_gone(world, capsys, monkeypatch):
    def lose(*args):
        raise RuntimeError("Gloo: connection closed by peer")

    monkeypatch.setattr(evaluation.devices, "_engine", SimpleNamespace(processes=2, process=0))
    monkeypatch.setattr(evaluation.devices, "predictor", lambda model: model)
    monkeypatch.setattr(evaluation, "predict", lose)
    monkeypatch.setattr(evaluation.devices.os, "_exit", sys.exit)  # that one would end the tests
    with pytest.raises(SystemExit) as left:
        evaluated(world, capsys)
    assert left.value.code == 2
    assert "another of the 2 processes has ended (Gloo" in capsys.readouterr().err


def test_a_picture_or_page_that_cannot_be_drawn_is_a_warning(world, capsys, monkeypatch):
    def draw(*args):
        raise RuntimeError("no font")

    monkeypatch.setattr(evaluation.plots, "confusion_matrix", draw)
    monkeypatch.setattr(evaluation.page, "write", draw)
    code, stdout, stderr = evaluated(world, capsys)
    assert code == 0 and stdout.splitlines()[-1].startswith("Pictures and reports: ")
    for name in ("confusion_matrix.png", "report.html"):
        assert re.search(f"warning: .*{name}: could not be written: no font", stderr)


def test_the_page_tells_what_the_metrics_tell(ran):
    metrics, page = read(ran[1])[0], (ran[1] / "report.html").read_text(encoding="utf-8")
    for split in ("train", "val", "test", "tta_test"):
        assert f"{100 * metrics[split]['accuracy']:.2f}</td>" in page
    assert "a part of the images, as Runtime_Settings.json says" in page
    assert "history.csv is missing" in page


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
def test_results_that_cannot_be_written_are_told_before(world, tmp_path, capsys):
    (tmp_path / "LHC").symlink_to("/proc/self")
    loaded = settings.load(world[1])
    loaded.data["results_folder"] = str(tmp_path)
    with pytest.raises(OSError):
        evaluation.evaluate(world[2], loaded, "LHC", train=False)
    assert capsys.readouterr().out == ""


def test_test_images_that_stand_in_train_can_be_left_out(world, ran, capsys, tmp_path):
    """Two of the ten test images stand in train too: the figures without them come on top."""
    data, folder = tmp_path / "data", tmp_path / "Settings"
    splits = {split: dataset.load(TINY, split) for split in dataset.SPLITS}
    images = splits["train"][0].copy()
    images[[3, 8]] = splits["test"][0][[7, 2]]
    dataset.store(data, {**splits, "train": (images, splits["train"][1])})
    shutil.copytree(world[1], folder)
    settings_of = json.loads((folder / "Data_Settings.json").read_text())
    settings_of.update(data_folder=str(data), results_folder=str(tmp_path / "results"))
    (folder / "Data_Settings.json").write_text(json.dumps(settings_of))
    asked = json.dumps({"batch_size": 8, "unseen_test": True})
    (folder / "Evaluation_Settings.json").write_text(asked)
    loaded = settings.load(folder)
    evaluation.evaluate(world[2], loaded, "LHC", train=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:-2] == ran[0][3:-1], "the original's lines stay as they are"
    metrics, predictions = read(tmp_path / "results" / "LHC")
    labels = np.delete(splits["test"][1][:10], [2, 7])
    for name, kind in (("unseen_test", "test"), ("tta_unseen_test", "tta_test")):
        probabilities = np.delete(predictions[f"{kind}_probabilities"], [2, 7], axis=0)
        assert metrics[name]["accuracy"] == np.mean(probabilities.argmax(axis=1) == labels)
        assert metrics[name]["images"] == 8 and metrics[kind]["images"] == 10
    unseen, averaged = metrics["unseen_test"], metrics["tta_unseen_test"]
    assert lines[-2] == (
        f"Unseen Test Perf:  {unseen['accuracy']:.17f} (TTA {averaged['accuracy']:.17f}), "
        "8 of 10 images, which do not stand in the training split too"
    )
    both = np.concatenate([images, splits["test"][0]])
    dataset.store(data, {"train": (both, np.zeros(len(both), np.uint8))}, force=True)
    with pytest.raises(UserError, match="unseen_test of Evaluation_Settings.json: .*found none"):
        evaluation.evaluate(world[2], loaded, "LHC", train=False)
    assert capsys.readouterr().out == "", "nothing was computed"


def test_nothing_is_left_out_unless_asked(ran):
    metrics, _ = read(ran[1])
    assert not [name for name in metrics if "unseen" in name]
    assert not [line for line in ran[0] if "Unseen" in line]
