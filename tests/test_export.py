"""Export.py: every format says what Keras says and how it is fed, and nothing else is replaced."""

import ast
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import Export
from src import backend, dataset, export, export_pytorch, networks, predict_nets, sample, settings
from src import export_tensorflow as on_tensorflow
from src import weights as weight_files
from src.errors import UserError
from src.pixels import enlarge, rgb

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "src" / "lhc_pytorch.py"
FACES = sample.draw(6, [2] * 7)[0]  # others than Export.py compares on
NETS = {"Controller": "LHC_NetC", "ResNet34": "ResNet34"}
FORMATS = [["onnx", "litert"], ["onnx", "litert8"]]  # without and with one of 8 bits
# Windows of even sizes, which Keras pads more on one side than on the other.
ODD = {"kernel_size": [3, 2, 1, 4, 3], "pool_size": [2, 3, 4, 3, 1], "norm_c": [1, 0.5, 1, 2, 1]}


@pytest.fixture(scope="module")
def work(tmp_path_factory, settings_folder):
    """A folder with finished runs of Controller (LHC-NetC) and ResNet34."""
    root = tmp_path_factory.mktemp("work")
    loaded = settings.load(settings_folder(root, LHC=ODD))
    backend.set_seeds(1, 1, 1)
    for name, network in NETS.items():
        net = networks.build(network, loaded)
        net.get_layer("bn_data").moving_variance.assign([1e5] * 3)  # a net in doubt
        # Features of an untrained net are huge, and CPUs round them in orders of their own.
        gamma = net.get_layer("bn1").gamma
        gamma.assign(np.full(gamma.shape, 0.1, np.float32))
        path = root / "models" / name / "weights.h5"
        path.parent.mkdir(parents=True)
        weight_files.save(net, path, weight_files.architecture_of(net, loaded))
    return root


@pytest.fixture(scope="module")
def nets(work):
    """{name: net with its weights}: loaded once, since that takes seconds."""
    loaded = settings.load(work / "Settings")
    return {name: predict_nets.load(predict_nets.choose(loaded, name), loaded) for name in NETS}


@pytest.fixture
def run(work, nets, capsys, monkeypatch):
    """A function that runs Export.py in the work folder and returns (code, stdout, stderr)."""
    monkeypatch.chdir(work)
    monkeypatch.setattr(predict_nets, "load", lambda candidate, loaded: nets[candidate.name])
    # A face of each class is enough here.
    monkeypatch.setattr(export, "DRAWN", 1)
    monkeypatch.setattr(export, "COMPARED", 7)
    monkeypatch.setattr(export, "TIMED", 1)

    def call(*words):
        code = Export.main([*words, "--settings", "Settings"])
        return (code, *capsys.readouterr())

    return call


def needs(name):
    """Skip a test of a format that can't be written here."""
    try:
        export.check([name])
    except UserError as error:
        pytest.skip(str(error))


def images(count=14):
    return rgb(enlarge(FACES[:count], 32))


def is_about(told, name):
    """Whether what is stored in an export tells classes and preprocessing."""
    return (
        list(told["classes"]) == list(dataset.CLASSES)
        and told["classes"][0] == "Anger"
        and told["net"] == name
        and "32 x 32" in told["preprocessing"]
        and "0...255" in told["input"]
    )


def kept(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", NETS)
def test_onnx(run, work, nets, name):
    needs("onnx")
    import onnx
    import onnxruntime

    code, out, _ = run("--format", "onnx", "--model", name, "--to", f"{name}-onnx")
    assert code == 0
    path = work / f"{name}-onnx" / f"{name}.onnx"
    assert out.splitlines()[-1].startswith("onnx ") and str(path.relative_to(work)) in out
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 14):
        (found,) = session.run(None, {"image": images(count)})
        expected = nets[name].predict_on_batch(images(count))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    stored = {part.key: part.value for part in onnx.load(str(path)).metadata_props}
    assert is_about({**stored, "classes": json.loads(stored["classes"])}, name)
    assert kept(path.parent) == [path.name]


def test_savedmodel(run, work, nets):
    needs("savedmodel")
    import tensorflow as tf

    for _ in range(2):  # the second one replaces the first
        assert run("--format", "savedmodel", "--to", "saved")[0] == 0
    path = work / "saved" / "Controller.savedmodel"
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    found = serve(image=tf.constant(images()))["probabilities"].numpy()
    np.testing.assert_allclose(found, nets["Controller"].predict_on_batch(images()), atol=1e-5)
    assert is_about(json.loads((path / "assets.extra" / "lhc_net.json").read_text()), "Controller")
    assert kept(path.parent) == [path.name]


def test_litert(run, work, nets):
    needs("litert")
    code, out, _ = run("--format", "litert", "litert8", "--to", "lite")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["litert", "litert8"]
    path, small = (work / "lite" / f"Controller{end}" for end in (".tflite", ".8bit.tflite"))
    expected = nets["Controller"].predict_on_batch(images())
    for file, apart in ((path, 1e-5), (small, 0.1)):
        predict = on_tensorflow.read_litert(file, 1)
        np.testing.assert_allclose(predict(images()), expected, atol=apart)
        np.testing.assert_allclose(predict(images(1)), expected[:1], atol=apart)
        with zipfile.ZipFile(file) as archive:
            assert archive.read("labels.txt").decode().split() == list(dataset.CLASSES)
            assert is_about(json.loads(archive.read("lhc_net.json")), "Controller")
    assert 3.5 * small.stat().st_size < path.stat().st_size


@pytest.mark.parametrize("name", NETS)
def test_pytorch(run, work, nets, name):
    needs("pytorch")
    import torch

    from src import lhc_pytorch

    assert run("--format", "pytorch", "--model", name, "--to", "torch")[0] == 0
    net, about = lhc_pytorch.load(work / "torch" / f"{name}.pt")
    assert is_about(about, name)
    with torch.no_grad():
        found = net(torch.from_numpy(images())).numpy()
    np.testing.assert_allclose(found, nets[name].predict_on_batch(images()), atol=1e-5)
    if name == "Controller":
        maps = np.random.RandomState(1).rand(2, 8, 8, 64).astype(np.float32)
        with torch.no_grad():
            shares = net.lhc1.attention(torch.from_numpy(maps.transpose(0, 3, 1, 2))).numpy()
        expected = nets[name].get_layer("lhc1").attention(backend.convert(maps))
        np.testing.assert_allclose(shares, backend.to_numpy(expected), atol=1e-6)


def test_the_pytorch_layer_by_itself():
    torch = pytest.importorskip("torch")
    from src import lhc_pytorch

    with pytest.raises(ValueError, match="5 heads do not divide 8 x 8"):
        lhc_pytorch.LHC(channels=4, size=8, heads=5, dim=2)
    layer = lhc_pytorch.LHC(channels=4, size=8, heads=4, dim=2, controller=0)
    x = torch.rand(3, 4, 8, 8)
    assert layer(x).shape == x.shape
    layer(x).sum().backward()
    assert all(part.grad is not None for part in layer.parameters())
    np.testing.assert_allclose(layer.attention(x).detach().sum(3), 1, rtol=1e-5)


def test_the_pytorch_reference_is_one_short_file():
    text = REFERENCE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported == {"torch"}


def test_weights_for_pytorch(nets):
    found = export_pytorch.arrays(nets["Controller"])
    assert len(found) == len(weight_files.to_arrays(nets["Controller"]))
    shapes = {
        "bn_data.running_mean": (3,),
        "conv0.weight": (64, 3, 7, 7),
        "stage2_unit1.sc.weight": (128, 64, 1, 1),
        "stage1_unit2.bn1.running_var": (64,),
        "lhc1.query_key.3.weight": (4, 16),  # 8 x 8 positions, 4 heads
        "lhc3.value.bias": (128,),
        "lhc5.w": (),
        "fc3.weight": (7, 1024),
    }
    assert {name: found[name].shape for name in shapes} == shapes


def broken(monkeypatch, eight_bits, answer):
    """Let --format onnx write a file that, read again, answers `answer` for any picture."""
    fake = export.Format(
        ".onnx",
        lambda network, about, path: Path(path).write_text(about["made_by"]),
        lambda path, threads: lambda images: np.array([answer] * len(images), np.float32),
        eight_bits=eight_bits,
    )
    monkeypatch.setitem(export.FORMATS, "onnx", fake)


@pytest.mark.parametrize("value", [1 / 7, float("nan")])
def test_what_differs_is_not_kept(run, work, monkeypatch, value):
    broken(monkeypatch, False, [value] * 7)
    code, _, err = run("--format", "onnx", "--to", "differs")
    assert code == 3 and kept(work / "differs") == []
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and "away from Keras', expected at most 1e-04" in told[0]


def test_fast_numerics_are_exported_as_the_references(run, monkeypatch, tmp_path, settings_folder):
    broken(monkeypatch, False, [0] * 7)
    asked = []

    def load(candidate, loaded):
        asked.append((loaded.runtime["numerics"], loaded.runtime["precision"]))
        raise UserError("no further")

    monkeypatch.setattr(predict_nets, "load", load)
    fast = {"numerics": "fast", "precision": "bfloat16"}
    folder = settings_folder(tmp_path, Runtime=fast)
    words = ["--format", "onnx", "--model", "LHC", "--settings", str(folder)]
    assert Export.main(words) == 2
    assert asked == [("reference", "float32")]


def test_with_8_bits_accuracy_counts(run, work, nets, monkeypatch):
    faces, labels = sample.draw(export.DRAWN_SEED, [1] * 7)
    classes = nets["Controller"].predict_on_batch(rgb(enlarge(faces, 32))).argmax(axis=1)
    monkeypatch.setattr(sample, "draw", lambda seed, counts: (faces, classes))  # all are right
    broken(monkeypatch, True, [1, 0, 0, 0, 0, 0, 0])
    right = (classes == 0).mean()
    assert right < 6 / 7  # one picture less is allowed
    code, _, err = run("--format", "onnx", "--to", "differs")
    assert code == 3 and kept(work / "differs") == []
    assert f"found {100 * right:.2f} % right, expected Keras' 100.00 % less 0.5 points" in err


def test_others_files_stay(run, work):
    folder = work / "others"
    (folder / "Controller.savedmodel").mkdir(parents=True)
    (folder / "Controller.onnx").write_text("mine")
    (folder / "Controller.savedmodel" / "mine").write_text("mine")
    for path in (folder / "Controller.onnx", folder / "Controller.savedmodel"):
        with pytest.raises(UserError, match="not made by Export.py"):
            export.target(folder, "Controller", path.suffix[1:])
    (folder / "Controller.onnx").write_text(f"... {export.MADE_BY} ...")
    assert export.target(folder, "Controller", "onnx") == folder / "Controller.onnx"
    assert (folder / "Controller.savedmodel" / "mine").read_text() == "mine"


def test_a_file_in_the_way_is_one_line(run, work, monkeypatch):
    broken(monkeypatch, False, [0] * 7)
    (work / "taken").mkdir()
    (work / "taken" / "Controller.onnx").write_text("mine")
    code, out, err = run("--format", "onnx", "--to", "taken")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "move it elsewhere" in err
    assert (work / "taken" / "Controller.onnx").read_text() == "mine"


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "--format"),
        (["--format", "keras"], "'keras'"),
        (["--format"], "--format"),
        (["--format", "onnx", "--model", "Nobody"], "--model: found Nobody"),
        (["--format", "onnx", "--seed", "x"], "--seed"),
    ],
)
def test_wrong_words_are_one_line(run, monkeypatch, words, told):
    broken(monkeypatch, False, [0] * 7)
    code, out, err = run(*words)
    assert (code, out) == (2, "") and told in err and err.count("\n") == 1


@pytest.mark.parametrize("name, packages", [("onnx", "onnx onnxruntime"), ("pytorch", "torch")])
def test_a_package_that_lacks_is_told(run, monkeypatch, name, packages):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda package: None)
    code, out, err = run("--format", name)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.endswith(f": pip install -c requirements.txt {packages}\n")


def test_formats_of_tensorflow_say_what_they_need(monkeypatch):
    monkeypatch.setattr(backend, "WRITES_LITERT", False)
    with pytest.raises(UserError, match="run this with Python 3.11"):
        monkeypatch.setattr(backend, "NAME", "tensorflow")
        export.check(["litert8"])
    monkeypatch.setattr(backend, "NAME", "jax")
    with pytest.raises(UserError, match="found jax: KERAS_BACKEND=tensorflow"):
        export.check(["savedmodel"])


def test_the_scripts_formats_are_the_modules():
    assert list(Export.NAMES) == list(export.FORMATS)


def test_pictures_are_the_test_data_where_there_are_some(work, tmp_path, settings_folder):
    drawn = [export.pictures(settings.load(work / "Settings"), names) for names in FORMATS]
    assert [len(given.labels) for given in drawn] == [70, 700]
    assert "drawn faces, since there is no" in drawn[0].name
    loaded = settings.load(settings_folder(tmp_path, Runtime={"max_test_images": 7}))
    labels = np.arange(14, dtype=np.uint8) % 7
    dataset.store(loaded.path("data_folder"), dict.fromkeys(dataset.SPLITS, (FACES, labels)))
    for names, count in zip(FORMATS, (14, 7)):  # the 8 bits' are those of an evaluation
        given = export.pictures(loaded, names)
        np.testing.assert_array_equal(given.images, FACES[:count])
        np.testing.assert_array_equal(given.labels, labels[:count])
        assert given.name.startswith(f"{count} pictures of ")
