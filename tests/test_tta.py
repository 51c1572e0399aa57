"""Test-time augmentation: the reference's views, their weights, and the mean over them."""

import random
from pathlib import Path

import numpy as np
import pytest

from src import backend, checkpoints, dataset, networks, pixels, settings, tta
from src.backend import keras

TINY = Path(__file__).parent / "data" / "tiny_data"
EVALUATION = settings.load().evaluation
VIEWS = tta.descriptions(EVALUATION)


@pytest.fixture(scope="module")
def images():
    return dataset.load(TINY, "val")[0][:2]


def make_views(images, views, size):
    """Return each view of the enlarged images: list of (N, size, size, 3)."""
    net = keras.Sequential(
        [keras.layers.Input((size, size, 3)), keras.layers.Activation("linear", dtype="float32")]
    )
    model = tta.with_view(net, size)
    grey = pixels.enlarge(images, size)
    rows = [np.tile(row, (len(grey), 1)) for row in tta.table(views, size)]
    return [model.predict_on_batch([grey, row]) for row in rows]


def test_sixty_passes_with_weights_adding_up_to_62():
    assert len(VIEWS) == len(set(VIEWS)) == 60
    assert VIEWS[0] == (1, 0, 0, 0, 0)
    assert tta.view_weights(EVALUATION) == [3] + [1] * 59
    uncropped = [view for view in VIEWS if view[0] == 1]
    assert len(uncropped) == 54 and len(VIEWS) - len(uncropped) == 6
    assert {view[1] for view in uncropped} == {0, 0.4, -0.4}
    assert {view[2] for view in uncropped} == {view[3] for view in uncropped} == {0, 10, -10}


def test_settings_change_the_views():
    changed = tta.descriptions(dict(EVALUATION, rotation=0.1, shift=3, crop=0.5, crop_rotation=0.2))
    assert (1, -0.1, 3, -3, 1) in changed and (0.5, 0.2, 0, 0, 1) in changed


def test_the_crop_keeps_rows_11_to_212():
    row = dict(zip(tta.COLUMNS, tta.table([(0.9, 0, 0, 0, 0)], 224)[0]))
    assert row["crop_start"] == 11 and row["crop_length"] == 202


def test_identity_flip_and_shift_move_whole_pixels(images):
    views = [(1, 0, 0, 0, 0), (1, 0, 0, 0, 1), (1, 0, 5, -3, 0)]
    identity, flipped, shifted = make_views(images, views, 32)
    grey = pixels.enlarge(images, 32)
    padded = np.pad(grey, ((0, 0), (0, 3), (5, 0)), mode="edge")
    for channel in range(3):
        np.testing.assert_array_equal(identity[..., channel], grey)
        np.testing.assert_array_equal(flipped[..., channel], grey[:, :, ::-1])
        np.testing.assert_array_equal(shifted[..., channel], padded[:, 3:, :32])


@pytest.mark.parametrize("size", [224, 48])
def test_views_are_those_of_tensorflow(images, size):
    tf = pytest.importorskip("tensorflow")

    def move(x, transform):
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=x,
            transforms=np.float32([[*transform, 0, 0]]),
            output_shape=x.shape[1:3],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="NEAREST",
        )

    views = VIEWS[:1] + VIEWS[1::7] + VIEWS[-6:]
    for view, found in zip(views, make_views(images, views, size)):
        crop, rotation, shift_x, shift_y, flip = view
        x = tf.constant(pixels.enlarge(images, size)[..., None])
        x = x[:, :, ::-1] if flip else x
        if crop != 1:
            x = tf.image.resize(tf.image.central_crop(x, crop), (size, size))
        x = move(x, [1, 0, -shift_x, 0, 1, -shift_y])
        angle, last = tf.constant(rotation, tf.float32), tf.constant(size - 1, tf.float32)
        cos, sin = tf.cos(angle), tf.sin(angle)
        to_x = (last - (cos * last - sin * last)) / 2
        to_y = (last - (sin * last + cos * last)) / 2
        expected = np.asarray(move(x, [cos, -sin, to_x, sin, cos, to_y]))
        if backend.NAME == "tensorflow":
            np.testing.assert_array_equal(found[..., :1], expected, str(view))
        else:
            np.testing.assert_allclose(found[..., :1], expected, atol=1e-2, err_msg=str(view))


def test_views_are_the_references(shared, fer2013_validation):
    fixture = np.load(shared / "fixtures" / "tta_views.npz")
    np.testing.assert_array_equal(np.float32(VIEWS[1:]), fixture["desc"])
    found = make_views(fer2013_validation[:2], VIEWS[1:], 224)
    for view, expected in zip(found, fixture["views"]):
        np.testing.assert_allclose(view[:, ::4, ::4, 0], expected, atol=1e-2)


def test_probabilities_are_the_references(published, fer2013_validation):
    pytest.importorskip("tensorflow")  # reads the checkpoint
    network = networks.lhc_net(224, settings.load().lhc)
    checkpoints.load_checkpoint(network, published / "LHC_Net" / "LHC_Net")
    predict = backend.predictor(tta.with_view(network, 224))
    grey = pixels.enlarge(fer2013_validation[:1], 224)
    found = tta.average(predict, tta.table(VIEWS, 224), tta.view_weights(EVALUATION), [grey], 1)
    expected = np.load(published / "LHC_Net_expected.npz")["tta_pred_first4"][:1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def tiny_net():
    """A net of which each part of the picture counts differently."""
    net = keras.Sequential(
        [
            keras.layers.Input((24, 24, 3)),
            keras.layers.Conv2D(4, 5, strides=3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(7, activation="softmax"),
        ]
    )
    rng = np.random.RandomState(0)
    net.set_weights([0.02 * rng.randn(*w.shape).astype(np.float32) for w in net.get_weights()])
    return net


def test_average_weighs_the_passes(images, tiny_net):
    images = dataset.load(TINY, "val")[0]
    views, grey = tta.table(VIEWS, 24), pixels.enlarge(images, 24)
    batches = [grey[:8], grey[8:]]  # 14 images: the last batch is smaller
    predict = backend.predictor(tta.with_view(tiny_net, 24))
    tiny_net.predict(np.zeros((1, 24, 24, 3)), verbose=0)  # replaces arrays under the variables
    found = tta.average(predict, views, tta.view_weights(EVALUATION), batches, len(grey))
    passes = [tiny_net.predict_on_batch(view) for view in make_views(images, VIEWS, 24)]
    expected = (3 * passes[0] + np.sum(passes[1:], axis=0)) / 62
    assert found.dtype == np.float32 and found.shape == (14, 7)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert np.abs(found - passes[0]).max() > 1e-3  # the views do matter


def test_global_random_generators_are_untouched(images, tiny_net):
    numpy_before, python_before = np.random.get_state()[1].copy(), random.getstate()
    predict = backend.predictor(tta.with_view(tiny_net, 24))
    tta.average(predict, tta.table(VIEWS[:3], 24), [3, 1, 1], [pixels.enlarge(images, 24)], 2)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
    assert random.getstate() == python_before


def test_views_stay_float32_under_mixed_precision(images):
    views = [VIEWS[0], VIEWS[24]]
    expected = make_views(images, views, 24)
    backend.set_precision("bfloat16")
    try:
        found = make_views(images, views, 24)
    finally:
        backend.set_precision("float32")
    np.testing.assert_allclose(found, expected, atol=1e-3)
