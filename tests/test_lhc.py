"""The LHC layer: the reference's cases, the formula by hand, and what any Keras layer promises."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from src import backend, settings, weights
from src.backend import keras
from src.fast.lhc import FastLHC
from src.lhc import LHC

BOTH = [LHC, FastLHC]


def layer(shape, kind=LHC, **config):
    """Return an LHC layer built for images of `shape`, its weights random but repeatable."""
    built = kind(**config)
    built.build((None, *shape))
    rng = np.random.RandomState(0)
    built.set_weights([np.float32(0.3 * rng.randn(*w.shape)) for w in built.get_weights()])
    return built


def variables(module):
    """Return the weights by name: query_key_0/kernel, ..., value/bias, temperature/kernel, w."""
    return weights.take(module.named_variables())


def pooled(x, size, reduce):
    """Pool with stride 1 and "same" borders that don't count, x (H, W, C)."""
    height, width, _ = x.shape
    before = (size - 1) // 2
    out = np.empty_like(x)
    for r, c in np.ndindex(height, width):
        rows = slice(max(0, r - before), min(height, r - before + size))
        columns = slice(max(0, c - before), min(width, c - before + size))
        out[r, c] = reduce(x[rows, columns], axis=(0, 1))
    return out


def convolved(x, kernel, bias):
    """Convolve with zero "same" borders, x (H, W, C), in float64."""
    size = len(kernel)
    before = (size - 1) // 2
    padded = np.pad(x, ((before, size - 1 - before),) * 2 + ((0, 0),))
    out = np.zeros(x.shape)
    for r, c in np.ndindex(*x.shape[:2]):
        out[r, c] = np.tensordot(padded[r : r + size, c : c + size], kernel, 3) + bias
    return out


def by_hand(module, x):
    """REFERENCE.md section 5 word by word, one image, one head, one channel at a time."""
    weights = {name: np.float64(value) for name, value in variables(module).items()}
    heads, d = module.num_heads, module.att_embed_dim
    outputs = []
    for image in np.float64(x):
        channels = image.shape[-1]
        value = convolved(image, weights["value/kernel"], weights["value/bias"])
        query = pooled(image, module.pool_size, np.mean).reshape(-1, channels)
        key = pooled(image, module.pool_size, np.max).reshape(-1, channels)
        value = pooled(value, 3, np.mean).reshape(-1, channels)
        length = len(query) // heads
        y = np.empty_like(query)
        for h in range(heads):
            part = slice(h * length, (h + 1) * length)
            kernel, bias = (weights[f"query_key_{h}/{leaf}"] for leaf in ("kernel", "bias"))
            q, k = query[part].T @ kernel + bias, key[part].T @ kernel + bias  # (C, d)
            scores = q @ k.T
            mean = scores.mean(axis=1)
            logit = mean @ weights["temperature/kernel"] + weights["temperature/bias"]
            temperature = 1 / (1 + np.exp(-logit))
            scores = scores / d ** (module.norm_c + temperature)[:, None]
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            y[part] = (shares @ value[part].T).T
        y = y.reshape(image.shape)
        outputs.append(image + y * (1 + np.tanh(weights["w"])) if "w" in weights else image + y)
    return np.array(outputs)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("case", range(5))
def test_the_references_cases(shared, case, kind):
    fixture = np.load(shared / "fixtures" / "lhc_module.npz")
    x, expected = fixture[f"x{case}"], fixture[f"y{case}"]
    config = {key: values[case] for key, values in settings.load().lhc.items()}
    module = kind(**config)
    module.build(x.shape)
    # The fixture's order: query_key of each head, temperature, value.
    names = [f"query_key_{head}" for head in range(config["num_heads"])] + ["temperature", "value"]
    names = [f"{name}/{leaf}" for name in names for leaf in ("kernel", "bias")]
    arrays = {name: fixture[f"w{case}_{k:02}"] for k, name in enumerate(names)}
    weights.put(module.named_variables(), arrays)
    found = backend.to_numpy(module(x))
    residual = np.abs(expected - x).max()
    assert np.abs(found - expected).max() <= 1e-4 * residual
    if backend.GENERATION == 2 and kind is LHC:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    "shape, config",
    [
        ((4, 6, 5), {"num_heads": 3, "att_embed_dim": 2}),
        ((4, 4, 3), {"num_heads": 16, "att_embed_dim": 3, "kernel_size": 1, "pool_size": 1}),
        ((4, 2, 4), {"num_heads": 1, "att_embed_dim": 5, "pool_size": 2, "norm_c": 0.5}),
        ((3, 4, 2), {"num_heads": 2, "att_embed_dim": 3, "kernel_size": 5, "pool_size": 4}),
        ((4, 4, 3), {"num_heads": 2, "att_embed_dim": 3, "norm_c": 2, "controller": -0.5}),
    ],
)
def test_the_formula_by_hand(shape, config, kind):
    module = layer(shape, kind, **config)
    x = np.random.RandomState(1).randn(3, *shape).astype(np.float32)
    expected = by_hand(module, x)
    assert np.abs(expected - x).max() > 0.1
    np.testing.assert_allclose(backend.to_numpy(module(x)), expected, rtol=1e-4, atol=1e-5)


def test_variables_are_created_in_the_references_order():
    module = LHC(num_heads=2, att_embed_dim=3, controller=0)
    module.build((None, 4, 4, 5))
    names = ["query_key_0", "query_key_1", "value", "temperature"]
    names = [f"{name}/{leaf}" for name in names for leaf in ("kernel", "bias")] + ["w"]
    assert list(module.named_variables()) == names
    shapes = [(8, 3), (3,), (8, 3), (3,), (3, 3, 5, 5), (5,), (5, 5), (5,)]
    assert [w.shape for part in module.parts for w in part.get_weights()] == shapes
    assert len(module.get_weights()) == len(shapes) + 1 == len(module.trainable_variables)


def test_fresh_weights_are_the_same_in_both_numerics():
    found = []
    for kind in BOTH:
        backend.set_seeds(1, 2, 3)
        module = kind(num_heads=3, att_embed_dim=5, controller=0.5)
        module.build((None, 4, 6, 4))
        found.append(variables(module))
    reference, fast = found
    assert list(fast) == list(reference)
    assert len(module.trainable_variables) == 7  # those of all heads in one
    for name in reference:
        np.testing.assert_array_equal(fast[name], reference[name], name)
    kernels = [reference[f"query_key_{head}/kernel"] for head in range(3)]
    assert not np.array_equal(kernels[0], kernels[1]) and kernels[0].std() > 0.1


def test_gradients_of_x_are_added_up_in_the_originals_order():
    """TensorFlow 2.4 sorts them by name; tests/test_trajectory.py sees the numbers it makes."""
    module = LHC(num_heads=1, att_embed_dim=1)
    module.build((None, 2, 2, 1))
    names = ["add", module.query_pool.name, module.value.name, module.key_pool.name]
    assert names == sorted(names)


@pytest.mark.parametrize("initial", [0, -1, -0.5])
def test_the_controller_starts_where_it_is_told(initial):
    module = LHC(num_heads=1, att_embed_dim=1, controller=initial)
    module.build((None, 2, 2, 1))
    assert float(backend.to_numpy(module.w)) == initial


@pytest.mark.parametrize("kind", BOTH)
def test_every_variable_learns(kind):
    x = keras.layers.Input((4, 4, 3))
    y = kind(num_heads=2, att_embed_dim=3, controller=0.1)(x)
    y = keras.layers.Dense(7, activation="softmax")(keras.layers.Flatten()(y))
    model = keras.Model(x, y)
    backend.compile_model(model, "sgd", 0.1)
    rng = np.random.RandomState(0)
    before = model.get_weights()
    images = rng.randn(7, 4, 4, 3).astype(np.float32)
    batches = (batch for batch in [(images, np.eye(7, dtype=np.float32))])
    backend.fit_epoch(model, batches, 1)
    changed = [np.abs(old - new).max() > 0 for old, new in zip(before, model.get_weights())]
    assert all(changed), changed


@pytest.mark.parametrize(
    "key, value",
    [
        (key, value)
        for key in ("num_heads", "att_embed_dim", "kernel_size", "pool_size")
        for value in (0, -1, 2.0, "2", True, None)
    ]
    + [("norm_c", "one"), ("controller", "zero")],
)
def test_bad_arguments_are_told(key, value):
    with pytest.raises(ValueError, match=key):
        LHC(**dict({"num_heads": 2, "att_embed_dim": 3}, **{key: value}))


@pytest.mark.parametrize("shape", [(None, 4, 3), (4, 4, None), (3, 3, 2)])
def test_inputs_that_heads_do_not_divide_are_told(shape):
    with pytest.raises(ValueError, match="2 heads"):
        LHC(num_heads=2, att_embed_dim=3)(keras.layers.Input(shape))


CONFIG = {
    "num_heads": 2,
    "att_embed_dim": 3,
    "kernel_size": 5,
    "pool_size": 2,
    "norm_c": 0.5,
    "controller": -0.5,
    "name": "mine",
}


@pytest.mark.parametrize("kind", BOTH)
def test_config_makes_the_layer_again(kind):
    module = kind(**CONFIG)
    config = json.loads(json.dumps(module.get_config()))
    assert {key: config[key] for key in CONFIG} == CONFIG
    again = kind.from_config(config)
    assert type(again) is kind and again.get_config() == module.get_config()
    plain = kind(num_heads=1, att_embed_dim=1)
    assert kind.from_config(plain.get_config()).controller is None


def test_numbers_of_numpy_are_numbers():
    config = {key: np.array(value)[()] for key, value in CONFIG.items() if key != "name"}
    module = LHC(name="mine", **config)
    assert json.loads(json.dumps(module.get_config())) == LHC(**CONFIG).get_config()
    assert module(np.ones((1, 4, 4, 3), np.float32)).shape == (1, 4, 4, 3)


@pytest.mark.parametrize("kind", BOTH)
def test_attention_is_the_share_of_each_value(kind):
    """x + attention v is the layer's output, and the shares of a query add up to 1."""
    module = layer((4, 6, 5), kind, num_heads=3, att_embed_dim=2)
    x = np.random.RandomState(1).randn(2, 4, 6, 5).astype(np.float32)
    shares = backend.to_numpy(module.attention(x))
    assert shares.shape == (2, 3, 5, 5) and shares.min() > 0
    np.testing.assert_allclose(shares.sum(axis=-1), 1, rtol=1e-5)
    assert np.ptp(shares, axis=-1).max() > 0.1
    value = backend.to_numpy(module.value_pool(module.value(x)))
    value = value.reshape(2, 3, 8, 5).transpose(0, 1, 3, 2)  # (B, heads, C, l)
    y = (shares @ value).transpose(0, 1, 3, 2).reshape(x.shape)
    np.testing.assert_allclose(backend.to_numpy(module(x)), x + y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BOTH)
def test_a_model_with_the_layer_can_be_saved(kind, tmp_path):
    x = keras.layers.Input((4, 4, 3))
    model = keras.Model(x, kind(**CONFIG)(x))
    images = np.random.RandomState(0).randn(2, 4, 4, 3).astype(np.float32)
    expected = model.predict_on_batch(images)
    again = keras.models.model_from_json(model.to_json())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again.predict_on_batch(images), expected)
    for name in ("model.keras" if backend.GENERATION == 3 else "model", "model.h5"):
        model.save(str(tmp_path / name))
        loaded = keras.models.load_model(str(tmp_path / name))
        assert name == "model" or type(loaded.layers[-1]) is kind
        np.testing.assert_array_equal(loaded.predict_on_batch(images), expected)


SAVED = Path(__file__).parent / "data" / "saved"


@pytest.mark.parametrize("file", sorted(path.name for path in SAVED.glob("lhc_*")))
def test_models_saved_by_earlier_versions_load(file):
    """Both numerics were one class then, with an argument of that name."""
    if file.endswith(".keras") and backend.GENERATION == 2:
        pytest.skip("Keras 2.4 does not know the format")
    arrays = np.load(SAVED / "outputs.npz")
    model = keras.models.load_model(str(SAVED / file))
    numerics = file.split("_")[1]
    assert type(model.layers[-1]) is (FastLHC if numerics == "fast" else LHC)
    found = model.predict_on_batch(arrays["x"])
    np.testing.assert_allclose(found, arrays[numerics], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", BOTH)
def test_exports_give_the_same(kind, tmp_path):
    """SavedModel, and LiteRT where today's TensorFlow is."""
    if backend.NAME != "tensorflow":
        pytest.skip("the formats are TensorFlow's")
    import tensorflow

    # Other weights in every order of the tests would bring sums near 0, which keep fewer digits.
    backend.set_seeds(5, 5, 5)
    x = keras.layers.Input((4, 4, 3))
    model = keras.Model(x, kind(**CONFIG)(x))
    images = np.random.RandomState(0).randn(1, 4, 4, 3).astype(np.float32)
    expected = model.predict_on_batch(images)
    save = model.export if backend.GENERATION == 3 else model.save
    save(str(tmp_path / "exported"))
    loaded = tensorflow.saved_model.load(str(tmp_path / "exported"))
    serve = loaded.serve if backend.GENERATION == 3 else loaded
    # Several matrix products in one may be rounded otherwise in a graph.
    np.testing.assert_allclose(serve(images), expected, rtol=0 if kind is LHC else 1e-6)
    if backend.GENERATION == 2:
        return  # its converter does not know a batch of any size in a matrix product
    converter = tensorflow.lite.TFLiteConverter.from_saved_model(str(tmp_path / "exported"))
    interpreter = tensorflow.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], images)
    interpreter.invoke()
    found = interpreter.get_tensor(target["index"])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


# What a policy computes in, and how far rounding may move the output.
POLICIES = {
    "float32": ("float32", 1e-5),
    "float64": ("float64", 1e-5),
    "mixed_float16": ("float16", 1e-2),
    "mixed_bfloat16": ("bfloat16", 5e-2),
    "float16": ("float16", 1e-2),
    "bfloat16": ("bfloat16", 5e-2),
}


def policy_of(name):
    if backend.GENERATION == 2 and "bfloat16" in name:
        pytest.skip("TensorFlow 2.4 has no such convolution on CPUs")
    if backend.NAME == "jax" and name == "float64":
        pytest.skip("JAX computes in float32 unless it is told otherwise")
    return keras.mixed_precision.Policy(name)


def dtype_of(tensor):
    return getattr(tensor.dtype, "name", None) or keras.backend.standardize_dtype(tensor.dtype)


@pytest.fixture
def global_policy():
    """A function that sets Keras' global policy for one test."""
    yield keras.mixed_precision.set_global_policy
    keras.mixed_precision.set_global_policy("float32")


IMAGES = np.random.RandomState(0).randn(2, 4, 4, 3).astype(np.float32)


@functools.lru_cache(maxsize=None)
def start():
    """Return weights by name."""
    return {key: np.float32(part) for key, part in variables(layer((4, 4, 3), **CONFIG)).items()}


def outputs_of(module):
    """Return a model with the layer, and its outputs in float64, from the weights of `start`."""
    x = keras.layers.Input(IMAGES.shape[1:])
    y = module(x)
    model = keras.Model(x, y)
    weights.put(module.named_variables(), start())
    result = module(backend.convert(IMAGES))
    promised = module.compute_dtype
    assert dtype_of(y) == dtype_of(result) == promised
    found = np.asarray(model.predict_on_batch(IMAGES))
    assert str(found.dtype) == promised
    return model, np.float64(found)


@functools.lru_cache(maxsize=None)
def outputs_in_float32(kind):
    return outputs_of(kind(**CONFIG))[1]


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("given", ["global", "dtype"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_dtype_policy(kind, given, name, global_policy, tmp_path):
    """The output has the promised dtype, sublayers follow the layer, saved layers stay equal."""
    policy, (dtype, tolerance) = policy_of(name), POLICIES[name]
    other = "float32" if name != "float32" else "float64"
    wanted = outputs_in_float32(kind)
    global_policy(policy if given == "global" else other)
    module = kind(**CONFIG) if given == "global" else kind(dtype=policy, **CONFIG)
    model, found = outputs_of(module)
    global_policy("float32")
    assert module.compute_dtype == dtype
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()
    sublayers = [*module.query_key, module.value, module.query_pool, module.value_pool]
    assert {sublayer.compute_dtype for sublayer in sublayers} == {dtype}
    assert module.temperature.compute_dtype == ("float64" if dtype == "float64" else "float32")
    path = str(tmp_path / ("model.keras" if backend.GENERATION == 3 else "model.h5"))
    if backend.GENERATION == 3 or "16" not in name:  # HDF5 of Keras 2.4 does not name the policy
        model.save(path)
        again = keras.models.load_model(path)
        np.testing.assert_array_equal(np.float64(again.predict_on_batch(IMAGES)), found)
