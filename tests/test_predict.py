"""Predict.py: which net, what it says, what is written, and what is told when something fails."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import Predict
from src import (
    backend,
    dataset,
    evaluation,
    faces,
    networks,
    packed,
    pictures,
    predict,
    predict_nets,
    sample,
    settings,
    tta,
    weights,
)
from src import predict_output as output
from src.errors import UserError
from src.looks import Look

DRAWN = sample.draw(5, [1] * 7)[0]


@pytest.fixture(scope="module")
def work(tmp_path_factory, settings_folder):
    """A folder with finished runs of LHC (LHC-Net) and ResNet34, and four crops in pics/."""
    root = tmp_path_factory.mktemp("work")
    loaded = settings.load(settings_folder(root))
    backend.set_seeds(1, 1, 1)
    for name, network in (("LHC", "LHC_Net"), ("ResNet34", "ResNet34")):
        net = networks.build(network, loaded)
        net.get_layer("bn_data").moving_variance.assign([1e4] * 3)  # a net in doubt
        path = root / "models" / name / "weights.h5"
        path.parent.mkdir(parents=True)
        weights.save(net, path, weights.architecture_of(net, loaded))
    (root / "pics").mkdir()
    for number in range(4):
        Image.fromarray(DRAWN[number]).save(root / "pics" / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def nothing_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "FOLDER", tmp_path / "shipped")


@pytest.fixture(scope="module")
def nets():
    """The loaded nets by name: `run` loads each once, since that takes seconds."""
    return {}


@pytest.fixture
def run(work, nets, capsys, monkeypatch):
    """A function that runs Predict.py in the work folder and returns (code, stdout, stderr)."""
    monkeypatch.chdir(work)
    load = predict_nets.load

    def load_once(candidate, loaded):
        if candidate.name not in nets:
            nets[candidate.name] = load(candidate, loaded)
        return nets[candidate.name]

    monkeypatch.setattr(predict_nets, "load", load_once)

    def call(*words):
        code = Predict.main([*words, "--settings", "Settings"])
        return (code, *capsys.readouterr())

    return call


def expected(work, net, augmented=False):
    """Return what a net says of the four crops, by way of the evaluation's own functions."""
    loaded = settings.load(work / "Settings")
    batches = evaluation.image_batches(DRAWN[:4], loaded)
    if not augmented:
        return evaluation.predict(backend.predictor(net), batches, 4, "x")
    views = tta.table(tta.descriptions(loaded.evaluation), 32)
    predictor = backend.predictor(tta.with_view(net, 32))
    return tta.average(predictor, views, tta.view_weights(loaded.evaluation), batches, 4)


def test_crops_are_read_as_in_evaluation(run, work, nets):
    code, out, _ = run("pics", "--no-detect", "--json", "out.json", "--csv", "out.csv")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "Net: LHC (LHC_Net), " + str(work / "models" / "LHC" / "weights.h5")
    assert lines[1].split() == ["file", "face", "expression", "probability", "second"]
    rows = expected(work, nets["LHC"])
    assert len(lines) == 6
    for number, (line, row) in enumerate(zip(lines[2:], rows)):
        first, second = np.argsort(-row)[:2]
        assert line.startswith(f"pics/{number}.png  48 x 48 at 0, 0")
        assert line.endswith(
            f"{100 * row[first]:.1f} %  {dataset.CLASSES[second]} {100 * row[second]:.1f} %"
        )
    content = json.loads((work / "out.json").read_text())
    assert content["net"] == "LHC" and not content["augmented"] and content["failed"] == []
    told = [part["faces"][0] for part in content["pictures"]]
    assert all(face["box"] == [0, 0, 48, 48] for face in told)
    assert [list(face["probabilities"].values()) for face in told] == rows.tolist()
    with open(work / "out.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["expression"] for row in table] == [face["expression"] for face in told]
    found = [[float(row[name]) for name in dataset.CLASSES] for row in table]
    np.testing.assert_allclose(found, rows, rtol=1e-6)
    assert {row["seconds"] for row in table} == {""} and table[1]["file"] == "pics/1.png"


def test_tta(run, work, nets):
    assert run("pics", "--no-detect", "--tta", "--json", "out.json")[0] == 0
    content = json.loads((work / "out.json").read_text())
    found = [list(part["faces"][0]["probabilities"].values()) for part in content["pictures"]]
    assert content["augmented"]
    np.testing.assert_array_equal(found, expected(work, nets["LHC"], augmented=True))


def test_another_net(run, work, nets):
    code, out, _ = run("pics", "--no-detect", "--model", "ResNet34", "--csv", "-")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))  # nothing else is on stdout
    found = [[float(row[name]) for name in dataset.CLASSES] for row in rows]
    np.testing.assert_allclose(found, expected(work, nets["ResNet34"]), rtol=1e-6)


def test_what_cannot_be_read_does_not_stop_the_rest(run, work):
    (work / "broken.jpg").write_text("no picture")
    words = ["none.png", "broken.jpg", "pics/0.png", "Settings", "--no-detect", "--json", "o.json"]
    code, out, err = run(*words)
    assert code == 3 and "pics/0.png" in out
    told = [line for line in err.splitlines() if "%|" not in line and line]
    assert [line.split(":")[0] for line in told] == ["Settings", "none.png", "broken.jpg"]
    failed = json.loads((work / "o.json").read_text())["failed"]
    assert [part["file"] for part in failed] == ["Settings", "none.png", "broken.jpg"]
    assert failed[1]["reason"] == "no such file"


def test_a_list_on_the_standard_input(run, monkeypatch):
    listed = SimpleNamespace(buffer=io.BytesIO(b"pics/3.png\npics/1.png\n"))
    monkeypatch.setattr(sys, "stdin", listed)
    code, out, _ = run("-", "--no-detect")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["pics/3.png", "pics/1.png"]


def stand_in(monkeypatch, boxes):
    monkeypatch.setattr(faces, "detector", lambda model: lambda image: list(boxes))


def test_found_faces_are_cut_out_and_marked(run, work, monkeypatch):
    stand_in(monkeypatch, [(10, 20, 96, 96), (150, 40, 60, 60)])
    scene = Image.new("RGB", (300, 200), "white")
    scene.paste(Image.fromarray(DRAWN[0]).resize((96, 96)), (10, 20))
    (work / "scenes").mkdir()
    for name in ("a.png", "b.jpg"):
        scene.save(work / "scenes" / name)
    before = {path: path.read_bytes() for path in (work / "scenes").iterdir()}
    code, out, _ = run("scenes/a.png", "scenes/b.jpg", "--annotate", "marked")
    assert code == 0
    assert len(out.splitlines()) == 6 and "60 x 60 at 150, 40" in out
    names = sorted(path.name for path in (work / "marked").iterdir())
    assert names == ["a.png.faces.png", "b.jpg.faces.png"]
    marked = np.asarray(Image.open(work / "marked" / names[0]))
    assert marked.shape == (200, 300, 3)
    assert (marked[20, 10:106] == output.MARK).all() and (marked[30:90, 10] == output.MARK).all()
    assert (marked[150:, 120:] == 255).all(), "where there is no face nothing is drawn"
    assert {path: path.read_bytes() for path in (work / "scenes").iterdir()} == before


def test_no_face_is_told_and_no_failure(run, monkeypatch):
    stand_in(monkeypatch, [])
    code, out, err = run("pics/0.png", "--csv", "empty.csv")
    assert code == 0 and err == "pics/0.png: no face found (see --no-detect)\n"
    assert len(out.splitlines()) == 1


def test_videos(run, work, nets, monkeypatch):
    def frames(path, every):
        for number in range(5):
            yield number * every, Image.fromarray(DRAWN[number]).convert("RGB")

    monkeypatch.setattr(faces, "frames", frames)
    words = ["clip.mp4", "--no-detect", "--every", "0.5", "--frames", "3", "--annotate", "frames"]
    code, out, _ = run(*words, "--json", "clip.json")
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()[2:]] == [
        f"clip.mp4, {seconds} s" for seconds in ("0.0", "0.5", "1.0")
    ]
    content = json.loads((work / "clip.json").read_text())
    assert [part["seconds"] for part in content["pictures"]] == [0, 0.5, 1]
    found = [list(part["faces"][0]["probabilities"].values()) for part in content["pictures"]]
    np.testing.assert_allclose(found, expected(work, nets["LHC"])[:3], rtol=1e-4)
    names = sorted(path.name for path in (work / "frames").iterdir())
    assert names == [f"clip.mp4.{seconds}s.faces.png" for seconds in ("0.0", "0.5", "1.0")]


def test_a_camera(run, work, monkeypatch):
    asked = []

    def frames(number):
        asked.append(number)
        while True:
            yield 0.25, Image.fromarray(DRAWN[0]).convert("RGB")

    monkeypatch.setattr(faces, "frames", frames)
    words = ["--webcam", "2", "--no-detect", "--frames", "2", "--annotate", "camera"]
    code, out, _ = run(*words, "--csv", "camera.csv")
    assert code == 0 and asked == [2]
    assert len(out.splitlines()) == 3 and "camera, 0.2 s" in out
    assert len((work / "camera.csv").read_text().splitlines()) == 3
    names = sorted(path.name for path in (work / "camera").iterdir())
    assert names == ["camera.000000.faces.png", "camera.000001.faces.png"]


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "found no path"),
        (["pics", "--webcam"], "expected no paths"),
        (["--webcam", "--tta"], "neither --tta"),
        (["--webcam", "--json", "x.json"], "give --frames"),
        (["--webcam", "front"], "--webcam"),
        (["pics", "--json", "-", "--csv", "-"], "two files"),
        (["pics", "--no-detect", "--yunet", "x.onnx"], "nothing for --yunet"),
        (["--explain-class", "Fear"], "give --explain FOLDER"),
        (["--explain", "x", "--explain-class", "Joy"], "Joy"),
        (["pics", "--every", "0"], "above 0"),
        (["pics", "--frames", "nan"], "--frames"),
        (["pics", "--model", "VGG"], "VGG"),
        (["pics", "--no-detect", "--json", "pics/0.png"], "among the pictures"),
        (["pics", "--no-detect", "--annotate", "pics"], "the pictures lie there"),
        (["pics", "--no-detect", "--explain", "pics"], "the pictures lie there"),
        (["pics", "--no-detect", "--model", "Controller"], "run Controller_Train.py"),
        (["pics", "--no-detect", "--model", "LHC_Downloaded"], "run Download_Models.py"),
        (["pics", "--no-detect", "--model", "Shipped"], "comes without a trained net"),
        (["pics", "--no-detect", "--seed", "5"], "--seed 5: found no finished"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(run, work, words, told):
    before = {path: path.read_bytes() for path in (work / "pics").iterdir()}
    code, out, err = run(*words)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and told in err
    assert {path: path.read_bytes() for path in (work / "pics").iterdir()} == before
    assert not (work / "x.json").exists()


def test_without_opencv(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, _, err = run("pics")
    assert code == 2 and "pip install opencv-python-headless" in err and err.count("\n") == 1


def test_the_best_net_comes_first(tmp_path, settings_folder):
    loaded = settings.load(settings_folder(tmp_path))
    with pytest.raises(UserError, match="Download_Models.py"):
        predict_nets.choose(loaded)
    found = []
    published = tmp_path / "downloaded_models"
    for path in (
        packed.FOLDER / packed.RECORD,
        published / "LHC_Net" / "LHC_Net.index",
        published / "LHC_NetC" / "LHC_Net_Controller.index",
        *(tmp_path / "models" / n / "weights.h5" for n in ("Control", "ResNet34", "LHC_Net")),
        *(tmp_path / "models" / n / "weights.h5" for n in ("LHC", "Controller")),
    ):
        path.parent.mkdir(parents=True)
        path.touch()  # empty: what is damaged is told of when it is loaded
        found.append(predict_nets.choose(loaded).name)
    assert tuple(reversed(found)) == predict_nets.NAMES


def test_a_seed_means_its_training(tmp_path, settings_folder):
    """Another net's answer in its place would be taken for that of the run."""
    loaded = settings.load(settings_folder(tmp_path)).with_seed(3)
    own = tmp_path / "models" / "seed3" / "LHC"
    for path in (packed.FOLDER, tmp_path / "models" / "LHC"):
        path.mkdir(parents=True)
    (packed.FOLDER / packed.RECORD).touch()
    (tmp_path / "models" / "LHC" / "weights.h5").touch()
    with pytest.raises(UserError, match=f"--seed 3: found no finished training in {own.parent}:"):
        predict_nets.choose(loaded, seed=3)
    assert predict_nets.choose(loaded, "Shipped", 3).name == "Shipped"
    own.mkdir(parents=True)
    (own / "weights.h5").touch()
    assert predict_nets.choose(loaded, seed=3).path == own / "weights.h5"


def test_a_published_net_says_what_it_said(published, fer2013_validation, tmp_path):
    content = {"downloaded_models_folder": str(published), "models_folder": str(tmp_path)}
    (tmp_path / "Data_Settings.json").write_text(json.dumps(content))
    loaded = settings.load(tmp_path)
    candidate = predict_nets.choose(loaded)
    assert candidate.name == "Controller_Downloaded"
    net = predict_nets.load(candidate, loaded)
    crops = np.stack(
        [faces.cut(Image.fromarray(i), (0, 0, 48, 48)) for i in fer2013_validation[:2]]
    )
    found = predict.probabilities(net, loaded, crops)
    told = np.load(published / "LHC_NetC_expected.npz")["pred"][:2]
    np.testing.assert_allclose(found, told, atol=1e-4)


def test_names_of_written_pictures_differ():
    looks = [Look(f"{name}.jpg", None, (1, 1), [], []) for name in ("a/x", "b/x", "b/X")]
    looks.append(Look("x.mp4", 2.5, (1, 1), [], []))
    assert list(output.names(looks, "faces.png")) == [
        *("x.jpg.faces.png", "x.jpg.2.faces.png", "X.jpg.3.faces.png", "x.mp4.2.5s.faces.png")
    ]


def test_large_pictures_are_marked_small(tmp_path):
    look = Look("x.jpg", None, (4000, 10), [(3990, 0, 10, 10), (0, 0, 1, 1)], [])
    rows = np.eye(7, dtype=np.float32)[:2]
    output.annotate(Image.new("RGB", (4000, 10)), look, rows, tmp_path / "x.png")
    assert pictures.read(tmp_path / "x.png").size == (1600, 4)


def test_names_do_not_steer_the_terminal():
    look = Look("\x1b[2J.jpg", None, (9, 9), [(0, 0, 9, 9)], [])
    lines = output.table([(look, np.eye(7, dtype=np.float32)[:1])])
    assert "\x1b" not in "".join(lines) and "?[2J.jpg" in lines[1]


def test_equal_probabilities_name_the_first():
    assert output.best(np.array([0.1, 0.3, 0.3, 0.3], np.float32)) == (1, 2)


def test_a_program_reads_utf8_whatever_peoples_encoding_is():
    code = "from src import predict_output; predict_output.write('\u65e5\\n'.encode(), '-')"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    words = [sys.executable, "-c", code]
    root = Path(output.__file__).parent.parent
    told = subprocess.run(words, env=environment, cwd=str(root), stdout=subprocess.PIPE, check=True)
    assert told.stdout == "\u65e5\n".encode()
