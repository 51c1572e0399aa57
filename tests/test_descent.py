"""The steps that a stage may ask for, against the same arithmetic in NumPy."""

import math

import numpy as np
import pytest

from src import backend, descent, distillation
from src.backend import keras
from src.settings import PLAIN_STEPS

CLASSES, FEATURES, BATCH, STEPS = 7, 5, 4, 6
KERNEL = np.random.RandomState(1).normal(size=(FEATURES, CLASSES)).astype(np.float32)


@pytest.fixture(autouse=True)
def seeds():
    backend.set_seeds(1, 1, 1)


@pytest.fixture(scope="module")
def data():
    random = np.random.RandomState(0)
    x = random.normal(size=(BATCH * STEPS, FEATURES)).astype(np.float32)
    return x, np.eye(CLASSES, dtype=np.float32)[random.randint(0, CLASSES, len(x))]


def stage(**changes):
    plain = {"optimizer": "sgd", "learning_rate": 0.5, "epochs": 1, **PLAIN_STEPS}
    assert set(changes) <= set(plain)
    return {**plain, **changes}


def linear():
    """Return softmax(x kernel + bias) as a net: (B, FEATURES) -> (B, CLASSES)."""
    x = keras.layers.Input((FEATURES,))
    net = keras.Model(x, keras.layers.Dense(CLASSES, activation="softmax", name="dense")(x))
    net.set_weights([KERNEL, np.zeros(CLASSES, np.float32)])
    return net


def trained(data, described, steps_per_execution=1):
    """Train a linear net for an epoch in the order of the data; return (trainer, net)."""
    net = linear()
    x = keras.layers.Input((FEATURES,))
    trainer = descent.Trainer(x, net(x))
    descent.compile_model(trainer, net, described, STEPS, steps_per_execution)
    trainer.fit(*data, batch_size=BATCH, shuffle=False, verbose=0)
    return trainer, net


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def gradients(weights, x, y, smoothing):
    kernel, bias = weights
    y = y * (1 - smoothing) + smoothing / CLASSES
    scores = (softmax(x @ kernel + bias) - y) / len(x)
    return [x.T @ scores, scores.sum(axis=0)]


def rates(described):
    """Return the learning rate of each step."""
    warmup = round(described["warmup_epochs"] * STEPS)
    found = []
    for step in range(STEPS):
        rate = described["learning_rate"] * min((step + 1) / max(warmup, 1), 1)
        if described["schedule"] == "cosine":
            done = max(step - warmup, 0) / max(described["epochs"] * STEPS - warmup, 1)
            rate *= 0.5 * (1 + math.cos(math.pi * done))
        found.append(rate)
    return found


def expected(data, described):
    """Return (weights, their averages) after the same epoch in NumPy, float64."""
    weights = [KERNEL.astype(float), np.zeros(CLASSES)]
    averages, velocity = [w.copy() for w in weights], [0 * w for w in weights]
    for step, rate in enumerate(rates(described)):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        x, y = (part[batch].astype(float) for part in data)
        found = gradients(weights, x, y, described["label_smoothing"])
        if described["sharpness"]:
            length = math.sqrt(sum((g**2).sum() for g in found))
            moved = [w + described["sharpness"] * g / length for w, g in zip(weights, found)]
            found = gradients(moved, x, y, described["label_smoothing"])
        found[0] += described["weight_decay"] * weights[0]  # and not the bias
        velocity = [described["momentum"] * v - rate * g for v, g in zip(velocity, found)]
        if described["nesterov"]:
            weights = [
                w + described["momentum"] * v - rate * g
                for w, v, g in zip(weights, velocity, found)
            ]
        else:
            weights = [w + v for w, v in zip(weights, velocity)]
        share = 1 - min((2 + step) / (11 + step), described["ema"])
        averages = [a + share * (w - a) for a, w in zip(averages, weights)]
    return weights, averages


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"label_smoothing": 0.2},
        {"schedule": "cosine"},
        {"warmup_epochs": 0.5},
        {"schedule": "cosine", "warmup_epochs": 0.34, "epochs": 2},
        {"sharpness": 0.3},
        {"ema": 0.5},
        {"ema": 0.999, "sharpness": 0.1, "weight_decay": 0.01, "momentum": 0.9, "nesterov": True},
    ],
    ids=lambda changes: ",".join(changes),
)
@pytest.mark.parametrize("together", [1, 3])
def test_an_epoch_is_that_of_the_formulas(data, changes, together):
    described = stage(**changes)
    weights, averages = expected(data, described)
    plain, _ = expected(data, stage())
    if set(changes) - {"ema"}:
        assert max(np.abs(a - b).max() for a, b in zip(weights, plain)) > 1e-3
    trainer, net = trained(data, described, together)
    for found, wanted in zip(net.get_weights(), weights):
        assert np.abs(found - wanted).max() < 1e-5
    with descent.averaged(trainer):
        judged = net.get_weights()
    for found, wanted in zip(judged, averages if described["ema"] else weights):
        assert np.abs(found - wanted).max() < 1e-5
    for found, wanted in zip(net.get_weights(), weights):  # its own again
        assert np.abs(found - wanted).max() < 1e-5


def test_adam_takes_sharp_steps_and_averages_too(data):
    trainer, net = trained(data, stage(optimizer="adam", learning_rate=0.01, ema=0.9))
    sharp = stage(optimizer="adam", learning_rate=0.01, sharpness=0.5, ema=0.9)
    other, sharp_net = trained(data, sharp)
    assert np.abs(net.get_weights()[0] - sharp_net.get_weights()[0]).max() > 1e-4
    with descent.averaged(other):
        assert np.abs(sharp_net.get_weights()[0] - KERNEL).max() < 0.06  # 6 steps of 0.01 at most


def test_a_state_goes_on_to_the_same_bits(data):
    """Stopped after an epoch and continued in a new process' place, or not: no difference."""
    described = stage(
        schedule="cosine", epochs=2, momentum=0.9, sharpness=0.1, ema=0.9, weight_decay=0.01
    )
    trainer, net = trained(data, described)
    arrays = backend.training_state(net, trainer)
    averages = descent.averages_in_state(trainer, net)
    with descent.averaged(trainer):
        judged = net.get_weights()
    trainer.fit(*data, batch_size=BATCH, shuffle=False, verbose=0)
    other = linear()
    x = keras.layers.Input((FEATURES,))
    again = descent.Trainer(x, other(x))
    descent.compile_model(again, other, described, STEPS)
    example = tuple(part[:1] for part in data)
    backend.set_training_state(other, again, arrays, example)
    with descent.averaged(again):
        assert all(np.array_equal(a, b) for a, b in zip(judged, other.get_weights()))
    again.fit(*data, batch_size=BATCH, shuffle=False, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(net.get_weights(), other.get_weights()))

    backend.set_layer_state(other, descent.judged(arrays, averages))
    assert all(np.array_equal(a, b) for a, b in zip(judged, other.get_weights()))


def test_without_averages_a_state_is_judged_as_it_is(data):
    trainer, net = trained(data, stage(momentum=0.9))
    assert descent.averages_in_state(trainer, net) == {}
    arrays = backend.training_state(net, trainer)
    assert descent.judged(arrays, {}) == arrays


def test_teachers_replace_a_share_of_the_targets(data):
    x, y = data
    teachers = [linear(), linear()]
    teachers[1].set_weights([-KERNEL, np.ones(CLASSES, np.float32)])
    described = stage(label_smoothing=0.1, distillation={"teachers": ["a", "b"], "share": 0.7})
    net = linear()
    net.set_weights([0.1 * KERNEL, np.zeros(CLASSES, np.float32)])
    inputs = keras.layers.Input((FEATURES,))
    outputs = distillation.Teaching(teachers, name="teaching")([net(inputs), inputs])
    trainer = descent.Trainer(inputs, outputs)
    assert len(trainer.trainable_variables) == 2  # the teachers learn nothing
    descent.compile_model(trainer, net, described, 1)
    logs = trainer.fit(x, y, batch_size=len(x), verbose=0).history
    taught = (softmax(x @ KERNEL) + softmax(x @ -KERNEL + 1)) / 2
    targets = 0.3 * (0.9 * y + 0.1 / CLASSES) + 0.7 * taught
    own = softmax(x @ (0.1 * KERNEL))
    assert logs["loss"][0] == pytest.approx(-(targets * np.log(own)).sum(axis=1).mean(), abs=1e-5)
    right = (own.argmax(axis=1) == y.argmax(axis=1)).mean()
    assert logs["categorical_accuracy"][0] == pytest.approx(right, abs=1e-6)
    step = 0.5 * x.T @ ((own - targets) / len(x))
    assert np.abs(net.get_weights()[0] - (0.1 * KERNEL - step)).max() < 1e-5
    assert np.array_equal(teachers[0].get_weights()[0], KERNEL)
