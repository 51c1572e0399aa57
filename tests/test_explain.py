"""What is explained of a net: numbers that can be computed in another way, and their figure."""

import contextlib
import random

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import Predict
from src import backend as B
from src import (
    dataset,
    explain,
    explain_figure,
    networks,
    predict_nets,
    sample,
    settings,
    weights,
)
from src.backend import keras
from src.errors import UserError
from src.lhc import LHC
from src.pixels import enlarge, rgb

SIZE = 32
FACES = sample.draw(5, [2] * 7)[0][:11]  # more than a batch


@pytest.fixture(scope="module")
def net(tmp_path_factory, settings_folder):
    loaded = settings.load(settings_folder(tmp_path_factory.mktemp("net")))
    B.set_seeds(2, 2, 2)
    net = networks.build("LHC_NetC", loaded)
    net.get_layer("bn_data").moving_variance.assign([1e4] * 3)  # a net in doubt
    return net


@pytest.fixture(scope="module")
def explained(net):
    return explain.explain(net, SIZE, FACES, target=2)


@pytest.fixture(scope="module")
def taps(net):
    """What goes into the modules and comes out of them, [(x, y)], for all FACES."""
    tensors = [tensor for module in modules(net) for tensor in (module.input, module.output)]
    maps = keras.Model(net.input, tensors).predict_on_batch(images())
    return list(zip(maps[::2], maps[1::2]))


def images():
    return rgb(enlarge(FACES, SIZE))


def modules(net):
    return [layer for layer in net.layers if isinstance(layer, LHC)]


def test_the_net_itself_stays_as_it_is(net):
    before = weights.to_arrays(net)
    explain.explain(net, SIZE, FACES[:1])
    after = weights.to_arrays(net)
    assert all((before[name] == after[name]).all() for name in before)


def test_probabilities_and_faces_are_means(net, explained):
    rows = net.predict_on_batch(images())
    np.testing.assert_allclose(explained.probabilities, rows.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(explained.face, FACES.mean(axis=0))
    assert explained.count == len(FACES) and explained.target == 2
    assert explain.explain(net, SIZE, FACES[:1]).target == rows[0].argmax()


def test_attention_is_that_of_the_modules(net, taps, explained):
    for module, (x, _), found in zip(modules(net), taps, explained.modules):
        expected = B.to_numpy(module.attention(B.convert(x))).mean(axis=0)
        assert found.attention.shape == expected.shape
        np.testing.assert_allclose(found.attention, expected, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found.attention.sum(axis=-1), 1, rtol=1e-4)


def test_what_a_module_adds(taps, explained):
    for (x, y), found in zip(taps, explained.modules):
        added = np.stack([np.sqrt(np.mean((b - a) ** 2, axis=-1)) for a, b in zip(x, y)])
        np.testing.assert_allclose(found.added, added.mean(axis=0), rtol=1e-3, atol=1e-6)
        norms = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in zip(x, y)]
        assert found.strength == pytest.approx(np.mean(norms), rel=1e-3)


def test_switching_off_leaves_what_comes_in(net, explained):
    """As a controller of -infinity would: 1 + tanh(w) is 0."""
    for module, found in zip(modules(net), explained.modules):
        kept = B.to_numpy(module.w)
        module.w.assign(-50.0)
        expected = net.predict_on_batch(images())[:, 2].mean()
        module.w.assign(kept)
        assert found.without == pytest.approx(expected, rel=1e-4)
    assert any(abs(m.without - explained.probabilities[2]) > 1e-6 for m in explained.modules)


@pytest.mark.skipif(B.NAME == "torch", reason="says that it needs TensorFlow or JAX")
def test_evidence_follows_the_gradient_of_the_score(net, taps):
    """The last module's maps, moved a little in one place and channel, move the score by it."""
    (module,) = modules(net)[-1:]
    head = net.get_layer("fc3")
    kernel = B.to_numpy(head.kernel)
    batch = images()[:2]

    def score(last):
        return B.sum(B.matmul(last, B.convert(kernel))[:, 4])

    told = B.map_gradients(net, [module], head, score)
    for part in (images()[2:4], batch):  # made once, for any images
        (before,), (after,), (gradient,) = told(part)
    maps = taps[-1][1][:2]
    assert gradient.shape == maps.shape
    for found, expected in ((before, taps[-1][0][:2]), (after, maps)):
        np.testing.assert_allclose(found, expected, atol=1e-4 * abs(expected).max())

    names = [layer.name for layer in net.layers]
    tail = net.layers[names.index(module.name) + 1 : -1]

    def moved(amount):
        x = B.convert((maps + amount * direction).astype(np.float32))
        for layer in tail:
            x = layer(x)
        return float((B.to_numpy(x) @ kernel)[:, 4].sum())

    direction = gradient / np.linalg.norm(gradient)
    slope = (moved(0.01) - moved(-0.01)) / 0.02
    assert slope == pytest.approx(np.linalg.norm(gradient), rel=0.05) and slope > 0


def test_evidence_is_grad_cam():
    maps = np.zeros((2, 2, 3, 2), np.float32)
    maps[0, 0, 1], maps[0, 1, 2] = (2, 1), (0, 4)
    maps[1, 1, 1] = (0, 1)
    gradients = np.zeros_like(maps)
    gradients[..., 0], gradients[:, 0, 0, 1] = 1, -6  # mean weights 1 and -1
    # First: 2 - 1 in one place, 0 - 4 in the other. Second: nothing speaks for it.
    expected = np.zeros((2, 3))
    expected[0, 1] = 0.5
    np.testing.assert_allclose(explain._evidence(maps, gradients), expected)


def test_a_net_without_modules_is_told(settings_folder, tmp_path):
    plain = networks.build("ResNet34", settings.load(settings_folder(tmp_path)))
    with pytest.raises(UserError, match="ResNet34 has no attention"):
        explain.explain(plain, SIZE, FACES[:1])


def test_the_figure_tells_its_numbers(explained, tmp_path, monkeypatch):
    kept, savefig = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        kept.append(figure)
        return savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    state = random.getstate(), np.random.get_state()[1].tolist()
    path = tmp_path / "new" / "figure.png"
    explain_figure.draw(path, explained, "A title")
    assert [file.name for file in path.parent.iterdir()] == ["figure.png"]
    assert path.stat().st_size < 400_000
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 800
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state
    texts = [text.get_text() for axes in kept[0].axes for text in axes.texts]
    titles = "\n".join(axes.get_title() for axes in kept[0].axes)
    percent = 100 * explained.probabilities
    assert all(f"{value:.1f} %" in " ".join(texts) for value in percent)
    assert f"Fear with one module off ({percent[2]:.1f} % with all)" in titles
    for module in explained.modules:
        assert f"adds {100 * module.strength:.0f} %" in titles
        heads, channels = module.attention.shape[:2]
        assert f"{heads} head{'s' * (heads > 1)}, {channels} channels" in titles


def test_a_module_that_adds_nothing_has_no_bright_place(explained, tmp_path, monkeypatch):
    """Else its brightest one would be as bright as those of the others."""
    strengths = (0.3, 0.0099, 0.01, 0.0, 0.5)
    modules = [
        module._replace(strength=strength) for module, strength in zip(explained.modules, strengths)
    ]
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: kept.append(figure))
    monkeypatch.setattr(explain_figure, "replace", contextlib.nullcontext)
    explain_figure.draw(tmp_path / "figure.png", explained._replace(modules=modules), "A title")
    added = [axes for axes in kept[0].axes if "adds" in axes.get_title()]
    brightest = [float(axes.images[1].get_array().max()) for axes in added]
    assert brightest == [1, 0, 1, 0, 1]


def test_a_mosaic_shows_multiples_of_the_even_share():
    even = np.full((3, 64, 64), 1 / 64, np.float32)
    even[2] = 0
    even[2, :, 0] = 1  # all listen to the first channel
    sheet = explain_figure.mosaic(even)
    assert sheet.shape == (66, 66)
    np.testing.assert_allclose(sheet[:32, :32], 1, rtol=1e-5)
    np.testing.assert_allclose(sheet[34:, 0], 16)  # 32 times for two channels, at most 16
    np.testing.assert_allclose(sheet[34:, 1:32], 1 / 16)
    assert np.isnan(sheet[32:34]).all() and np.isnan(sheet[34:, 32:]).all()


@pytest.fixture
def predict(net, settings_folder, tmp_path, monkeypatch):
    """A function that runs Predict.py with `net`, as if loaded from a file; returns the code."""
    folder = settings_folder(tmp_path)
    (tmp_path / "models" / "Controller").mkdir(parents=True)
    (tmp_path / "models" / "Controller" / "weights.h5").touch()
    monkeypatch.setattr(predict_nets, "load", lambda *args: net)
    return lambda *words: Predict.main([*map(str, words), "--settings", str(folder)])


def test_predict_draws_faces_and_classes(predict, net, explained, tmp_path, capsys, monkeypatch):
    images, labels = sample.draw(1, [3] * 7)
    dataset.store(tmp_path / "data", {"test": (images, labels)})
    Image.fromarray(FACES[0]).save(tmp_path / "face.png")
    asked = []

    def stand_in(*args):
        asked.append(args)
        return explained

    monkeypatch.setattr(explain, "explain", stand_in)
    words = ["--explain", tmp_path / "why", "--explain-class", "Surprise", "--explain-images", 2]
    assert predict(tmp_path / "face.png", "--no-detect", *words) == 0
    names = sorted(path.name for path in (tmp_path / "why").iterdir())
    assert names == ["class.Surprise.png", "face.png.attention.1.png"]
    assert capsys.readouterr().out.count("Explained: ") == 2
    of_class, of_face = asked
    assert of_class[:2] == of_face[:2] == (net, SIZE) and of_class[3] == 5
    np.testing.assert_array_equal(of_class[2], images[labels == 5][:2])
    np.testing.assert_array_equal(of_face[2], FACES[:1])
    said = net.predict_on_batch(rgb(enlarge(FACES[:1], SIZE)))
    assert of_face[3] == said.argmax()


def test_a_class_without_images(predict, tmp_path, capsys):
    words = ["--explain", tmp_path / "why", "--explain-class", "Disgust"]
    assert predict(*words) == 2
    assert "run Download_Data.py first" in capsys.readouterr().err
    dataset.store(tmp_path / "data", {"test": sample.draw(1, [1, 0, 1, 1, 1, 1, 1])})
    assert predict(*words) == 2
    assert "no image of the class Disgust" in capsys.readouterr().err
