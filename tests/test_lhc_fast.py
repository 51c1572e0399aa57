"""LHC's fast numerics give what the reference's give, gradients too, weights being named alike."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src import backbone, backend, devices, weights
from src.backend import keras
from src.fast import kernels
from src.fast.lhc import FastLHC
from src.fast.parts import FAST
from src.lhc import LHC

SHAPE = (6, 4, 5)  # H, W, C; 2 heads of 12 positions


def module(kind, **kwargs):
    layer = kind(num_heads=2, att_embed_dim=7, **kwargs)
    layer.build((None,) + SHAPE)
    return layer


def compare(reference, fast, x):
    """Outputs and gradients of both; the gradients come from one SGD step of a model on x."""
    start = weights.take(reference.named_variables())
    weights.put(fast.named_variables(), start)
    weighting = np.random.RandomState(1).normal(size=x.shape).astype(np.float32)
    results = []
    for layer in (reference, fast):
        inputs = keras.layers.Input(x.shape[1:], batch_size=len(x))
        shift = Shift(x)
        model = keras.Model(inputs, layer(shift(inputs)))
        model.compile(
            keras.optimizers.SGD(1.0),
            loss=lambda y, z: (
                keras.backend.sum(y * z) if backend.GENERATION == 2 else keras.ops.sum(y * z)
            ),
            run_eagerly=True,
        )
        output = model.predict(x, verbose=0)
        model.train_on_batch(x, weighting)
        after = weights.take({**layer.named_variables(), "x": (shift.zeros, ...)})
        results.append((output - x, after))
    (y, after), (fast_y, fast_after) = results
    close(fast_y, y)
    for name, old in dict(start, x=np.zeros_like(x)).items():
        close(old - fast_after[name], old - after[name])


class Shift(keras.layers.Layer):
    """Adds zeros that can be trained, so that the gradient by the input is one by a variable."""

    def __init__(self, x):
        super().__init__()
        self.zeros = self.add_weight(name="zeros", shape=x.shape, initializer="zeros")

    def call(self, x):
        return x + self.zeros


def close(found, expected, tolerance=1e-4):
    # The temperature's gradients are sums that nearly cancel: the reference's own move by 1e-5
    # when its input moves by 1e-7.
    error = np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30)
    assert error < tolerance or np.abs(found - expected).max() < 1e-6


@pytest.fixture(params=["operations", "library"])
def computed_by(request, monkeypatch):
    """What computes norms and pools: operations, as on a GPU, or a CPU's library."""
    x = backend.convert(np.ones((1,) + SHAPE, np.float32))
    if request.param == "operations":
        monkeypatch.setattr(kernels, "serve_cpu", lambda x: False)
    elif not kernels.serve_cpu(x):
        pytest.skip("no library here has norms and pools")


def test_where_the_cpus_library_serves(monkeypatch):
    x = np.ones((1,) + SHAPE, np.float32)
    expected = backend.NAME != "jax" and not backend.has_gpu()
    assert kernels.serve_cpu(backend.convert(x)) == expected
    assert not kernels.serve_cpu(backend.cast(backend.convert(x), "float16"))
    monkeypatch.setattr(devices, "count", lambda: 2)
    assert not kernels.serve_cpu(backend.convert(x))


@pytest.mark.usefixtures("computed_by")
@pytest.mark.parametrize(
    "options",
    [{}, {"controller": -0.5}, {"pool_size": 2, "norm_c": 0}, {"pool_size": 16}, {"pool_size": 17}],
)
def test_outputs_and_gradients_agree(options):
    x = np.random.RandomState(0).normal(size=(3,) + SHAPE).astype(np.float32)
    compare(module(LHC, **options), module(FastLHC, **options), x)


@pytest.mark.usefixtures("computed_by")
def test_gradient_goes_to_the_first_of_equal_maxima():
    # Few distinct values, as after the stem's max-pool: nearly every window has ties.
    x = np.random.RandomState(0).randint(0, 3, size=(3,) + SHAPE).astype(np.float32)
    compare(module(LHC), module(FastLHC), x)


@pytest.mark.usefixtures("computed_by")
def test_stem_agrees_in_outputs_gradients_and_statistics():
    """Here the gradients that count are those through the stride-2 pool and of bn_data's beta."""
    x = np.random.RandomState(0).uniform(0, 255, (2, 33, 33, 3)).astype(np.float32)
    image = keras.layers.Input((33, 33, 3))
    results = []
    for parts in (backbone.REFERENCE, FAST):
        net = keras.Model(image, backbone.stem(parts, image))
        random = np.random.RandomState(1)
        start = [random.uniform(0.5, 1.5, w.shape).astype(np.float32) for w in net.get_weights()]
        start[-4:-2] = [w - 1 for w in start[-4:-2]]  # bn0: ReLU cuts some, so windows have ties
        net.set_weights(start)
        net.compile(keras.optimizers.SGD(1.0), loss="mse")
        prediction = net.predict(x, verbose=0)
        target = random.normal(size=prediction.shape).astype(np.float32)
        net.train_on_batch(x, target)
        changes = [b - a for a, b in zip(start, net.get_weights())]
        results.append([prediction] + changes)
    for expected, found in zip(*results):
        # TensorFlow 2.4 multiplies the batch's variance by n / (n - 1) before it averages it.
        close(found, expected, tolerance=2e-3)


@pytest.mark.parametrize("attend", ["attend_whole", "attend_blocks"])
@pytest.mark.parametrize("controller", [None, -0.5])
def test_attention_in_kernels_changes_nothing(attend, controller, monkeypatch):
    """JAX's interpreter runs them here, with the pools' kernels before."""
    if backend.NAME != "jax":
        pytest.skip("the kernels are JAX's")
    monkeypatch.setattr(backend, "kernel_capability", lambda: 9.0)
    monkeypatch.setattr(kernels, "attention", lambda *_: getattr(kernels, attend))
    sizes = dict(num_heads=2, att_embed_dim=20, controller=controller)
    layers = [LHC(**sizes), FastLHC(**sizes)]
    for layer in layers:
        layer.build((None, 12, 14, 32))
    x = np.random.RandomState(0).normal(size=(2, 12, 14, 32)).astype(np.float32)
    compare(*layers, x)


def test_small_weights_stay_float32_under_mixed_precision(monkeypatch):
    """Within a model and without, called or as JAX's training calls it."""
    if backend.GENERATION == 2:
        pytest.skip("TensorFlow 2.4 is used in float32")
    seen = []

    def attend(d, norm_c, embedded, bias, value, value_bias, residual, *temperature):
        seen.append([np.asarray(backend.to_numpy(part)) for part in (bias, *temperature)])
        assert keras.backend.standardize_dtype(value.dtype) == "bfloat16"
        return residual

    monkeypatch.setattr(kernels, "attention", lambda *_: attend)
    backend.set_precision("bfloat16")
    try:
        layer = module(FastLHC)
    finally:
        backend.set_precision("float32")
    random = np.random.RandomState(0)
    layer.set_weights([random.normal(size=w.shape) for w in layer.get_weights()])
    inputs = keras.layers.Input(SHAPE)
    model = keras.Model(inputs, layer(inputs))
    x = np.ones((2,) + SHAPE, np.float32)
    outputs = [layer(x), model(x)]
    if backend.NAME == "jax":
        variables = model.trainable_variables, model.non_trainable_variables
        outputs.append(model.stateless_call(*([v.value for v in part] for part in variables), x)[0])
    parts = layer.query_key[0].bias, layer.temperature.kernel, layer.temperature.bias
    wanted = [backend.to_numpy(part.value) for part in parts]
    assert len(seen) >= len(outputs)
    for found in seen[-len(outputs) :]:
        for part, expected in zip(found, wanted):
            np.testing.assert_array_equal(part, expected)
    for output in (*outputs, model.output):
        assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"


def test_gradients_add_up_in_float32_under_mixed_precision():
    """Sums of 100,000 numbers whose mean is not zero, which 16 bits would lose."""
    if backend.GENERATION == 2:
        pytest.skip("TensorFlow 2.4 is used in float32")
    random, shape = np.random.RandomState(0), (8, 28, 28, 16)
    x = np.abs(random.normal(size=shape)).astype(np.float32)
    weighting = (random.normal(size=shape) / 10 + 0.1).astype(np.float32)
    gradients, start = [], None
    for precision in ("float32", "bfloat16"):
        backend.set_precision(precision)
        try:
            layer = FastLHC(num_heads=7, att_embed_dim=8, controller=0.3)
            inputs = keras.layers.Input(shape[1:])
            model = keras.Model(inputs, layer(inputs))
        finally:
            backend.set_precision("float32")
        if start is None:
            start = {
                key: random.normal(size=part.shape).astype(np.float32) / 5
                for key, part in weights.take(layer.named_variables()).items()
            }
        weights.put(layer.named_variables(), start)
        model.compile(
            keras.optimizers.SGD(1e-4),
            loss=lambda y, z: keras.ops.sum(z * keras.ops.cast(y, "float32")),
            jit_compile=False,
        )
        model.train_on_batch(x, weighting)
        after = weights.take(layer.named_variables())
        gradients.append({key: start[key] - after[key] for key in ("w", "value/bias")})
    wanted, found = gradients
    for key, part in wanted.items():
        assert np.linalg.norm(found[key] - part) < 2e-2 * np.linalg.norm(part), key


def test_attention_kernels_where_they_serve(monkeypatch):
    def chosen(length, channels, dimension=16, dtype="bfloat16", images=2):
        value = SimpleNamespace(shape=(images, 1, length, channels), dtype=dtype)
        return kernels.attention(value, dimension)

    assert chosen(49, 64) is None  # no GPU here
    if backend.NAME != "jax":
        pytest.skip("the kernels are JAX's")
    monkeypatch.setattr(backend, "kernel_capability", lambda: 9.0)
    assert chosen(392, 64) is kernels.attend_whole
    assert chosen(112, 128) is chosen(49, 512) is kernels.attend_blocks
    monkeypatch.setattr(backend, "kernel_capability", lambda: 8.9)
    assert chosen(392, 64) is None  # too little memory on the chip
    monkeypatch.setattr(backend, "kernel_capability", lambda: 8.0)
    assert chosen(392, 64) is kernels.attend_whole
    for sizes in (
        (392, 128),
        (49, 96),
        (49, 8),
        (49, 64, 16, "float32"),
        (49, 128, 200, "float16"),
        (392, 64, 16, "bfloat16", 50000),  # more than int32 can count
    ):
        assert chosen(*sizes) is None


def test_pool_kernels_where_they_serve(monkeypatch):
    def chosen(channels=64, size=3, images=2, length=8):
        return kernels.serve_pools(SimpleNamespace(shape=(images, length, length, channels)), size)

    assert not chosen()  # no GPU here
    for capability, serves in ((7.5, False), (8.0, True), (8.9, True)):
        monkeypatch.setattr(backend, "kernel_capability", lambda found=capability: found)
        assert chosen() == serves
    assert chosen(images=None) and not chosen(channels=24) and not chosen(size=2)
    assert chosen(images=256, length=256) and not chosen(images=256, length=257)  # int32


@pytest.mark.skipif(backend.NAME != "jax", reason="the kernels are JAX's")
def test_windows_needs_no_compiler_for_kernels():
    """JAX comes without it there."""
    code = (
        "import sys; from src import backend; sys.platform = 'win32'; "
        "sys.modules['jax.experimental.pallas.triton'] = None; from src import networks"
    )
    root = str(Path(backend.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
