"""The input path on the device gives the reference generator's pictures and distributions."""

import io
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from tqdm import tqdm

from src import backend, progress
from src.backend import keras
from src.fast import feed as fast_feed
from src.generator import ImageFolderBatches
from src.pixels import enlarge
from src.settings import PLAIN_PICTURES, PLAIN_STEPS

SIZE = 40
AUGMENTATION = {
    "rotation_range": 30,
    "width_shift_range": 0.1,
    "height_shift_range": 0.2,
    "shear_range": 5,
    "zoom_range": 0.1,
    "horizontal_flip": True,
}
PLAIN = dict(dict.fromkeys(AUGMENTATION, 0), horizontal_flip=False)


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(0).randint(0, 256, (5, 48, 48)).astype(np.uint8)


def run(images, rows, *placements):
    layer = fast_feed.DeviceImages(images, SIZE)
    return backend.to_numpy(layer(backend.convert(np.int32(rows)), *placements))


def test_training_images_are_the_generators(images, affine):
    """Same parameters, same picture: also at the borders, flipped or not."""
    random = np.random.default_rng(1)
    rows = [3, 0, 4, 4, 1, 2]
    placements = fast_feed.draw_placements(random, len(rows), SIZE, AUGMENTATION)
    found = run(images, rows, backend.convert(placements))
    floored = np.floor(enlarge(images, SIZE)).astype(np.uint8)
    assert 0 < placements[:, 6].sum() < len(rows)
    for picture, row, (a, b, c, d, down, right, flip) in zip(found, rows, placements):
        expected = affine(floored[row], [[a, b], [c, d]], [down, right], bool(flip))
        assert np.abs(picture - expected).max() < 0.05  # float32 coordinates: neighbours differ by
        assert np.abs(picture - expected).mean() < 1e-3  # up to 255, 255 * 1e-4 where they do


def test_validation_images_are_enlarged_only(images):
    found = run(images, [4, 1])
    assert np.abs(found - enlarge(images[[4, 1]], SIZE)[..., None]).max() < 1e-4


def test_without_augmentation_the_grey_levels_stay(images):
    placements = fast_feed.draw_placements(np.random.default_rng(0), 5, SIZE, PLAIN)
    found = run(images, range(5), backend.convert(placements))
    expected = np.floor(enlarge(images, SIZE))[..., None]
    # A level may be off by one where the exact value is whole and rounding fell below it.
    assert np.abs(found - expected).max() <= 1 and np.mean(found != expected) < 1e-3


def test_placements_have_the_generators_distribution():
    count = 4000

    class Folder(list):
        size, classes = SIZE, range(7)

    np.random.seed(0)
    reference = ImageFolderBatches(Folder(), 1, **AUGMENTATION)
    matrices, offsets, flips = reference.draw_parameters(count)
    expected = np.concatenate([matrices.reshape(count, 4), offsets, flips[:, :1]], axis=1)
    random = np.random.default_rng(0)
    state = np.random.get_state()[1].copy()
    found = fast_feed.draw_placements(random, count, SIZE, AUGMENTATION)
    assert (np.random.get_state()[1] == state).all()  # the global generator stays as it is
    # Kolmogorov and Smirnov: 1.95 sqrt(2 / n) is exceeded once in 1,000 times.
    for column in range(7):
        values = np.sort(np.concatenate([found[:, column], expected[:, column]]))
        steps = [
            np.searchsorted(np.sort(part[:, column]), values, side="right")
            for part in (found, expected)
        ]
        assert np.abs(steps[0] - steps[1]).max() / count < 1.95 * np.sqrt(2 / count)


def feed_of(images):
    """A DeviceFeed of five images, two a batch, for a net of one layer."""
    model = keras.Sequential(
        [
            keras.layers.Input((SIZE, SIZE, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(7, activation="softmax", kernel_initializer="zeros"),
        ]
    )
    data = images, np.eye(7, dtype=np.float32)[:5]
    stage = dict(AUGMENTATION, batch_size=2, optimizer="sgd", learning_rate=1e-5)
    stage.update(**PLAIN_PICTURES, **PLAIN_STEPS)
    random = np.random.default_rng(0)
    return fast_feed.DeviceFeed(model, stage, data, data, SimpleNamespace(size=SIZE), random)


@pytest.fixture
def small_feed(images):
    return feed_of(images)


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("steps, moves", [(1, [0, 1, 2, 3]), (2, [0, 2, 3]), (9, [0, 2, 3])])
def test_an_epoch_tells_how_far_it_is(images, monkeypatch, steps, moves, groups):
    bars, told = [], []
    if groups and backend.NAME != "jax":
        pytest.skip("JAX alone takes a group of batches in one call")
    monkeypatch.setattr(backend, "trains_in_groups", lambda: groups)
    small_feed = feed_of(images)
    if steps == 9 and not groups:
        moves = [0, 3]  # the rest of a batch is one of them
    if backend.NAME == "torch":  # which takes one step after the other
        moves = [0, 1, 2, 3]

    def bar(**kwargs):
        bars.append(tqdm(file=io.StringIO(), **kwargs))
        return bars[-1]

    monkeypatch.setattr(progress, "progress_bar", bar)
    small_feed.compile(steps)
    for _ in range(2):
        small_feed.fit(lambda done: told.append(done) or "epoch")
    assert sorted(told) == pytest.approx(sorted(2 * [move / 3 for move in moves]))
    assert [bar.n for bar in bars] == [3, 3]


def test_feed_trains_the_model_itself(images, small_feed):
    """Weights move, and validation on the device is the model's own."""
    feed, model, one_hot = small_feed, small_feed.model, small_feed.one_hot
    feed.compile()
    before = [w.copy() for w in model.get_weights()]
    logs = feed.fit("{:.0%}".format)
    assert set(logs) == {"loss", "categorical_accuracy"}
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights()))
    x = np.repeat(enlarge(images, SIZE)[..., None], 3, axis=-1)
    probabilities = model.predict(x, verbose=0)
    expected = -np.log(np.sum(probabilities * one_hot, axis=1)).mean()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The structure of")  # Keras would print it
        assert feed.validate()["val_loss"] == pytest.approx(expected, rel=1e-4)
