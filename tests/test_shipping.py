"""Ship.py and Shipped_Eval.py: from a finished run to the net that comes with the program."""

import contextlib
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

import Download_Data
import Ship
import Shipped_Eval
from src import (
    backend,
    calibration,
    dataset,
    evaluation,
    networks,
    packed,
    predict_nets,
    runtime,
    settings,
    shipping,
    weights,
)
from src.errors import UserError

COUNTS = {"train": [1] * 7, "val": [2] * 7, "test": [1, 2, 3, 1, 1, 1, 1]}


@pytest.fixture(scope="module")
def world(tmp_path_factory, settings_folder):
    """Settings, drawn data, a finished run of LHC, and the net shipped of it, in shipped/.

    `lines` is what Ship.py said; `net`, which changes, stands in for nets that take long to build.
    """
    root = tmp_path_factory.mktemp("shipping")
    folder = settings_folder(root, Data={"class_counts": COUNTS})
    loaded = settings.load(folder)
    backend.set_seeds(3, 3, 3)
    net = networks.build("LHC_Net", loaded)
    net.get_layer("bn_data").moving_variance.assign([1e4] * 3)  # a net in doubt
    run = root / "models" / "LHC"
    run.mkdir(parents=True)
    weights.save(net, run / "weights.h5", weights.architecture_of(net, loaded))
    record = {
        "complete": True,
        "settings": loaded.resolved(),
        "versions": runtime.versions(),
    }
    (run / "settings.json").write_text(json.dumps(record))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        assert Download_Data.main(["--settings", str(folder)]) == 0
        patch.setattr(dataset, "describe", lambda *_: "FER2013, unchanged")
        assert Ship.main(["--settings", str(folder), "--to", str(root / "shipped")]) == 0
    lines = printed.getvalue().splitlines()[-3:]
    return SimpleNamespace(root=root, folder=folder, net=net, lines=lines)


@pytest.fixture
def shipped(world, monkeypatch):
    """The folder of the shipped net, which the program takes for its own."""
    monkeypatch.setattr(packed, "FOLDER", world.root / "shipped")
    return packed.FOLDER


def probabilities(world, arrays, split):
    """Return labels (N,), and what a net with these weights says by Keras' own way."""
    weights.assign(world.net, arrays, "x")
    images, labels = dataset.load(world.root / "data", split)
    grey = np.concatenate(list(evaluation.image_batches(images, settings.load(world.folder))))
    return labels, world.net.predict(np.repeat(grey[..., None], 3, axis=-1), verbose=0)


def test_figures_are_those_of_the_packed_net(world, shipped):
    record = packed.record(shipped)
    arrays, _ = weights.read_h5(world.root / "models" / "LHC" / "weights.h5")
    assert record["parameters"] == sum(array.size for array in arrays.values())
    for split, line in zip(("val", "test"), world.lines):
        of = record["measured"][split]
        labels, before = probabilities(world, arrays, split)
        _, after = probabilities(world, packed.read(shipped), split)
        said = after.argmax(axis=1)
        assert of["images"] == len(labels) == sum(COUNTS[split])
        assert of["accuracy"] == np.mean(said == labels)
        assert of["float32_accuracy"] == np.mean(before.argmax(axis=1) == labels)
        assert of["changed"] == np.sum(before.argmax(axis=1) != said)
        assert of["mean_confidence"] == pytest.approx(after.max(axis=1).mean(), rel=1e-5)
        error = calibration.expected_calibration_error(calibration.reliability(labels, after))
        assert of["expected_calibration_error"] == pytest.approx(error, rel=1e-4)
        for number, (name, of_class) in enumerate(of["classes"].items()):
            assert name == dataset.CLASSES[number]
            assert of_class["images"] == COUNTS[split][number]
            assert of_class["recall"] == np.mean(said[labels == number] == number)
            called = labels[said == number]
            assert of_class["precision"] == (np.mean(called == number) if len(called) else 0)
        assert f"packed {100 * of['accuracy']:.3f} %" in line


def test_what_it_was_made_from(world, shipped):
    made = packed.record(shipped)["made_from"]
    assert (made["training"], made["start"]) == ("LHC", "random")
    assert list(made["recipes"]) == ["ResNet34", "LHC"]
    assert len(made["recipes"]["ResNet34"]["stages"]) == 3
    assert made["data"] == "FER2013, unchanged" and made["versions"]["python"]
    assert str(world.root) not in (shipped / "net.json").read_text(), "no names of this machine"


def test_the_card_has_the_figures(shipped):
    record = packed.record(shipped)
    card = (shipped / "README.md").read_text(encoding="utf-8")
    assert card == shipping.card(record)
    for name, of in record["measured"]["test"]["classes"].items():
        row = next(line for line in card.splitlines() if line.startswith(f"| {name} "))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:3] == [str(of["images"]), f"{100 * of['recall']:.1f}"]
    for text in ("65 ± 5 %", "Article 5(1)(f)", "from random ones", "policing", "non-commercial"):
        assert text in card
    assert not re.search(r"{\w*}", card)
    record["made_from"]["start"] = "ImageNet"
    record["measured"]["test"].update(mean_confidence=1, accuracy=0.25)
    changed = shipping.card(record)
    assert "from ImageNet's weights" in changed and "accuracy 25.00 %" in changed
    assert "surer than it is right" in changed


def test_the_card_alone(shipped, capsys):
    path = shipped / "README.md"
    before = path.read_bytes()
    path.write_text("old")
    assert Ship.main(["--card", "--to", str(shipped)]) == 0
    assert path.read_bytes() == before
    assert Ship.main(["--card", "--to", str(shipped / "none")]) == 2
    assert "net.json is missing" in capsys.readouterr().err


def rows(labels, wrong):
    """Return probabilities that are right about all but the first `wrong` images."""
    found = np.full((len(labels), 7), 0.01, np.float32)
    said = np.where(np.arange(len(labels)) < wrong, (labels + 1) % 7, labels)
    found[np.arange(len(labels)), said] = 0.94
    return found


@pytest.mark.parametrize(
    "split, words, wrong", [("val", "validation", (1, 0)), ("test", "test", (0, 1))]
)
def test_a_net_that_packing_changes_is_not_shipped(world, monkeypatch, split, words, wrong):
    root, loaded = world.root, settings.load(world.folder)
    labels = {name: dataset.load(root / "data", name)[1] for name in ("val", "test")}
    found = iter(
        {name: rows(of, count if name == split else 0) for name, of in labels.items()}
        for count in wrong
    )
    monkeypatch.setattr(shipping, "answers", lambda *_: next(found))
    monkeypatch.setattr(dataset, "describe", lambda *_: "FER2013, unchanged")
    with pytest.raises(UserError, match=f"packing moves the {words} accuracy by .*nothing was"):
        shipping.ship(world.net, loaded, "LHC", root / "other")
    assert not (root / "other").exists()


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], "found drawn sample, expected FER2013"),
        (["--network", "Controller"], "run Controller_Train.py"),
        (["--network", "ResNet34"], "--network"),
        (["--seed", "9"], "run LHC_Train.py"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(world, monkeypatch, capsys, argv, words):
    other = world.root / "other"
    monkeypatch.setattr(networks, "build", lambda *_: world.net)
    assert Ship.main(["--settings", str(world.folder), "--to", str(other), *argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and words in err
    assert not other.exists()


VALUE = r"\d+\.\d{17}"
LINES = [
    "LHC_Net Perf:",
    f"Val Perf:  {VALUE}",
    f"Test Perf:  {VALUE}",
    r"Test Pred Repeated:  \d+",
    f"TTA Test Perf:  {VALUE}",
    r"TTA Test Pred Repeated:  \d+",
    "Pictures and reports: .*Shipped",
]


@pytest.mark.parametrize("tta", [True, False])
def test_evaluation_under_settings_of_another_size(
    world, shipped, settings_folder, tmp_path, capsys, tta
):
    """The net has the size that it was made for; with --tta there is a page, without it none."""
    root = world.root
    folders = {f"{key}_folder": str(root / key) for key in ("data", "results")}
    folder = settings_folder(
        tmp_path,
        Data={**folders, "class_counts": COUNTS},
        Training={"target_size": 64},
        Evaluation={"unseen_test": True},
    )
    assert Shipped_Eval.main(["--settings", str(folder), *(["--tta"] if tta else [])]) == 0
    lines = capsys.readouterr().out.splitlines()
    unseen, sentence = lines.pop(-3), lines.pop()
    patterns = LINES if tta else [pattern for pattern in LINES if "TTA" not in pattern]
    assert len(lines) == len(patterns)
    for pattern, line in zip(patterns, lines):
        assert re.fullmatch(pattern, line), line
    assert unseen.startswith("Unseen Test Perf:") and ("TTA" in unseen) == tta
    told = packed.record(shipped)["measured"]["test"]["accuracy"]
    assert float(lines[2].split()[-1]) == told
    assert sentence == (
        f"This net learned from FER2013's photographs: {100 * told:.2f} % of that test split's 10 "
        "were right when it was made. Of these 10 drawn faces, which are something else than "
        f"photographs, {100 * told:.2f} % are."
    )
    names = {path.name for path in (root / "results" / "Shipped").iterdir()}
    expected = {"confusion_matrix.png", "metrics.json", "predictions.npz", "report.txt"}
    assert names == (expected | {"report.html"} if tta else expected)
    with np.load(root / "results" / "Shipped" / "predictions.npz") as arrays:
        assert ("tta_test_probabilities" in arrays) == tta


def test_no_net_to_evaluate(world, monkeypatch, capsys):
    monkeypatch.setattr(packed, "FOLDER", world.root / "none")
    assert Shipped_Eval.main(["--settings", str(world.folder)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "comes without a trained net" in err


def test_prediction_takes_it_and_settings_of_another_net_are_told(world, shipped, tmp_path):
    fitting = settings.load(world.folder).changed(data={"models_folder": str(tmp_path)})
    candidate = predict_nets.choose(fitting)
    assert candidate[:3] == ("Shipped", "LHC_Net", shipped)
    found = weights.to_arrays(predict_nets.load(candidate, fitting))
    for name, array in packed.read(shipped).items():
        np.testing.assert_array_equal(found[name], array, name)
    other = fitting.changed(training={"target_size": 64})
    with pytest.raises(UserError, match="target_size: found 64, expected 32; leave out --settings"):
        predict_nets.load(predict_nets.choose(other), other)


def test_a_folder_of_somebody_elses_is_told_before_anything_is_computed(world, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match="README.md: is there already, and without net.json"):
        shipping.ship(None, settings.load(world.folder), "LHC", tmp_path)


def test_a_card_of_a_damaged_net_is_one_line(world, tmp_path, capsys):
    record = json.loads((world.root / "shipped" / packed.RECORD).read_text())
    del record["made_from"]["recipes"]
    (tmp_path / packed.RECORD).write_text(json.dumps(record))
    assert Ship.main(["--card", "--to", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "net.json: found a damaged file (KeyError: 'recipes')" in err and err.count("\n") == 1
