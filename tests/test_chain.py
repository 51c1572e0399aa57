"""All scripts, end to end, in the documented orders, on a handful of drawn images."""

import contextlib
import io
import json
import re

import numpy as np
import pytest

import check_rep
import Control_Eval
import Control_Train
import Controller_Downloaded_Eval
import Controller_Eval
import Controller_Train
import Download_Data
import ETL
import LHC_Downloaded_Eval
import LHC_Eval
import LHC_Net_Eval
import LHC_Net_Train
import LHC_Train
import ResNet34_Eval
import ResNet34_Train
from src import dataset, networks, settings, weights
from src.backend import keras
from src.files import file_digest
from tests.robustness import small

COUNTS = {"train": [3, 2, 2, 2, 2, 2, 1], "val": [1] * 7, "test": [1] * 7}
STAGES = {"check_rep": 1, "ResNet34": 3, "LHC": 1, "Controller": 1, "LHC_Net": 3}
# What a script needs to have run before, as the README's order says.
NEEDED = {
    ETL: [Download_Data],
    check_rep: [ETL],
    ResNet34_Train: [ETL],
    LHC_Train: [ResNet34_Train],
    Controller_Train: [LHC_Train],
    Control_Train: [ResNet34_Train],
    LHC_Net_Train: [ETL],
    ResNet34_Eval: [ResNet34_Train],
    LHC_Eval: [LHC_Train],
    Controller_Eval: [Controller_Train],
    Control_Eval: [Control_Train],
    LHC_Net_Eval: [LHC_Net_Train],
}
FILES = {"history.csv", "history.png", "settings.json", "weights.h5"}
RESULTS = {"confusion_matrix.png", "metrics.json", "predictions.npz", "report.txt", "report.html"}


def write_start(path):
    """A file like ImageNet's to start from; with its statistics the first epochs stay tame."""
    net = networks.resnet34(32)
    net.get_layer("bn_data").moving_variance.assign([1e4] * 3)
    weights.save(keras.Model(net.input, net.get_layer("relu1").output), path, None)


def write_settings(root, settings_folder):
    """Settings of one short epoch a stage, with small steps, and of nets with few heads.

    Small steps, since statistics over maps of one pixel make gradients wild.
    """
    short = {"batch_size": 7, "epochs": 1, "learning_rate": 1e-5}
    recipes = {
        name: {"stages": [dict(stage, **short) for stage in recipe["stages"]]}
        for name, recipe in settings.load().modular.items()
    }
    write_start(root / "start.h5")
    return settings_folder(
        root,
        Data={"class_counts": COUNTS, "backbone_weights": str(root / "start.h5")},
        Training={"target_size": 32, "batch_size": [7] * 3, "learning_rate": [1e-5] * 3},
        Modular=recipes,
    )


class Chain:
    """Runs scripts on one settings folder and keeps what they print."""

    def __init__(self, root, settings_folder):
        self.root = root
        self.folder = write_settings(root, settings_folder)
        self.settings = settings.load(self.folder)
        self.printed = {}

    def run(self, *scripts):
        """Run scripts that have not run yet, after what they need: a test may come alone."""
        for script in scripts:
            if script.__name__ in self.printed:
                continue
            self.run(*NEEDED.get(script, []))
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                code = script.main(["--settings", str(self.folder)])
            self.printed[script.__name__] = printed.getvalue().splitlines()
            assert code == (1 if script is check_rep else 0), script.__name__

    @contextlib.contextmanager
    def changed(self, name, **changes):
        """Let a file of the settings have other values for a while."""
        path = self.folder / f"{name}_Settings.json"
        content = path.read_text()
        path.write_text(json.dumps({**json.loads(content), **changes}))
        try:
            yield
        finally:
            path.write_text(content)

    def weights(self, name):
        return weights.read_h5(self.root / "models" / name / "weights.h5")[0]

    def history(self, name):
        lines = (self.root / "models" / name / "history.csv").read_text().splitlines()
        header, *rows = [line.split(",") for line in lines]
        return [dict(zip(header, row)) for row in rows]


@pytest.fixture(scope="module")
def chain(tmp_path_factory, settings_folder):
    return Chain(tmp_path_factory.mktemp("chain"), settings_folder)


def evaluated(chain, script, name):
    """Check what an Eval printed and wrote."""
    value = r"\d+\.\d{17}"
    title = "ResNet34" if name in ("ResNet34", "Control") else "LHC_Net"
    patterns = [f"{title} Perf:", f"Train Loss:  {value}", f"Train Perf:  {value}"]
    patterns += [f"Val Perf:  {value}", f"Test Perf:  {value}", r"Test Pred Repeated:  \d"]
    patterns += [f"TTA Test Perf:  {value}", r"TTA Test Pred Repeated:  \d", "Pictures .*"]
    lines = chain.printed[script.__name__]
    assert len(lines) == len(patterns)
    for pattern, line in zip(patterns, lines):
        assert re.fullmatch(pattern, line), line
    folder = chain.root / "results" / name
    assert {path.name for path in folder.iterdir()} == RESULTS
    predictions = np.load(folder / "predictions.npz")
    assert {array.shape for array in predictions.values()} == {(7, 7)}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["train"]["images"] == sum(COUNTS["train"])


def test_data_and_images(chain):
    chain.run(Download_Data, ETL)
    for split, counts in COUNTS.items():
        images, labels = dataset.load(chain.root / "data", split)
        assert images.shape == (sum(counts), 48, 48)
        assert np.bincount(labels).tolist() == counts
    assert len(list((chain.root / "images").rglob("*.jpeg"))) == sum(COUNTS["train"])


def test_check_rep(chain):
    chain.run(ETL)
    before = sorted((chain.root / "models").rglob("*"))
    chain.run(check_rep)
    assert sorted((chain.root / "models").rglob("*")) == before, "it leaves nothing"
    lines = chain.printed["check_rep"]
    assert "Not Replicable Results. Change your GPU!" in lines
    assert lines[-1].startswith("verdict:  different here")


def test_modular_protocol(chain):
    chain.run(check_rep, ResNet34_Train, LHC_Train, Controller_Train, LHC_Eval, Controller_Eval)
    for name in ("ResNet34", "LHC", "Controller"):
        assert {path.name for path in (chain.root / "models" / name).iterdir()} == FILES
        history = chain.history(name)
        assert [int(row["stage"]) for row in history] == list(range(1, STAGES[name] + 1))
        assert (
            f"Best weights and history: {chain.root / 'models' / name}"
            in (chain.printed[f"{name}_Train"])
        )
    # check_rep is the first epoch of ResNet34_Train.
    loss = f"loss {float(chain.history('ResNet34')[0]['loss']):.4f}"
    assert any(loss in line for line in chain.printed["check_rep"])
    # What each of them went on from.
    for name, start in (("ResNet34", None), ("LHC", "ResNet34"), ("Controller", "LHC")):
        record = json.loads((chain.root / "models" / name / "settings.json").read_text())
        files = [chain.root / "models" / start / "weights.h5"] if start else []
        assert record["goes_on_from"] == {str(path): file_digest(path, "sha256") for path in files}
    # The controller's training moved nothing but its scalars.
    plain, controlled = chain.weights("LHC"), chain.weights("Controller")
    scalars = sorted(set(controlled) - set(plain))
    assert scalars == [f"lhc{i}/w" for i in range(1, 6)]
    for name, array in plain.items():
        np.testing.assert_array_equal(controlled[name], array, name)
    found = [float(controlled[name]) for name in scalars]
    assert found == pytest.approx([0, 0, 0, -1, -0.5], abs=1e-4)
    assert found != [0, 0, 0, -1, -0.5]
    told = [f"{name}: {w:.4f}: adds {1 + np.tanh(w):.4f} times" for name, w in zip(scalars, found)]
    printed = chain.printed["Controller_Train"][-5:]
    assert [line.startswith(start) for line, start in zip(printed, told)] == [True] * 5
    evaluated(chain, LHC_Eval, "LHC")
    evaluated(chain, Controller_Eval, "Controller")


def test_what_lhc_is_compared_with(chain):
    """The backbone, and the backbone trained on by LHC's recipe."""
    chain.run(ResNet34_Eval, Control_Train, Control_Eval)
    evaluated(chain, ResNet34_Eval, "ResNet34")
    evaluated(chain, Control_Eval, "Control")
    assert [row["stage"] for row in chain.history("Control")] == ["1"] * STAGES["LHC"]
    backbone, control = chain.weights("ResNet34"), chain.weights("Control")
    assert set(backbone) == set(control)
    assert any((backbone[name] != control[name]).any() for name in backbone)


def test_another_seed_has_folders_of_its_own(chain, monkeypatch):
    chain.run(ETL)
    monkeypatch.setattr(networks, "build", small.build)  # any net has them
    before = {path: path.stat().st_mtime_ns for path in (chain.root / "models").rglob("*.h5")}
    for script in (ResNet34_Train, ResNet34_Eval):
        with chain.changed("Data", backbone_weights="random"):
            with contextlib.redirect_stdout(io.StringIO()):
                assert script.main(["--settings", str(chain.folder), "--seed", "5"]) == 0
    record = json.loads((chain.root / "models/seed5/ResNet34/settings.json").read_text())
    seeds = dict.fromkeys(("tensorflow", "python", "numpy"), 5)
    assert record["settings"]["modular"]["ResNet34"]["seeds"] == seeds
    assert (chain.root / "results" / "seed5" / "ResNet34" / "metrics.json").is_file()
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert ResNet34_Train.main(["--settings", str(chain.folder), "--seed", "x"]) == 2


def test_standalone_protocol(chain):
    chain.run(LHC_Train, LHC_Net_Train, LHC_Net_Eval)
    assert [int(row["stage"]) for row in chain.history("LHC_Net")] == [1, 2, 3]
    assert not np.array_equal(
        chain.weights("LHC_Net")["conv0/kernel"], chain.weights("LHC")["conv0/kernel"]
    )
    evaluated(chain, LHC_Net_Eval, "LHC_Net")


def test_weights_of_another_architecture_are_told(chain, capsys):
    """Changed settings and old weights: every script that loads them says so."""
    chain.run(LHC_Train)
    with chain.changed("LHC", att_embed_dim=[4, 4, 4, 4, 5]):
        for script in (LHC_Eval, Controller_Train):
            assert script.main(["--settings", str(chain.folder)]) == 2
            error = capsys.readouterr().err.splitlines()[-1]
            assert "another architecture" in error and "[4, 4, 4, 4, 5]" in error


SCRIPTS = {
    ETL: "Download_Data.py",
    check_rep: "Download_Data.py",
    ResNet34_Train: "Download_Data.py",
    LHC_Net_Train: "Download_Data.py",
    LHC_Train: "ResNet34_Train.py",
    Controller_Train: "LHC_Train.py",
    LHC_Eval: "LHC_Train.py",
    Controller_Eval: "Controller_Train.py",
    LHC_Net_Eval: "LHC_Net_Train.py",
    LHC_Downloaded_Eval: "Download_Models.py",
    Controller_Downloaded_Eval: "Download_Models.py",
}


@pytest.fixture(scope="module")
def prebuilt(tmp_path_factory, settings_folder):
    """The nets, built once for all the scripts that will refuse to use them."""
    loaded = settings.load(settings_folder(tmp_path_factory.mktemp("prebuilt")))
    return {name: networks.build(name, loaded) for name in ("ResNet34", "LHC_Net", "LHC_NetC")}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_script_before_its_predecessors(
    script, prebuilt, settings_folder, tmp_path, capsys, monkeypatch
):
    folder = settings_folder(tmp_path)
    monkeypatch.setattr(networks, "build", lambda name, settings: prebuilt[name])
    assert script.main(["--settings", str(folder)]) == (3 if script is check_rep else 2)
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and SCRIPTS[script] in lines[0], err
    assert str(tmp_path) in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["Settings"], "nothing is written"
