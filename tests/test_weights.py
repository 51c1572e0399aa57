"""Weights in and out: our own files, the ImageNet layout, checkpoints, and everything broken."""

import concurrent.futures
import io
import json
import os
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from src import backend, checkpoints, hdf5, networks, settings, weights
from src.backend import keras
from src.errors import UserError

DATA = Path(__file__).parent / "data"
ARCHITECTURE = {"network": "LHC_Net", "target_size": 8, "lhc": {"num_heads": [2]}}
IMAGES = np.random.RandomState(0).random_sample((3, 8, 8, 3)).astype(np.float32)


def tiny(seed=0, name="LHC_Net", controller=None, heads=2, numerics="reference"):
    """A net with all kinds of variables, random but repeatable: (B, 8, 8, 3) -> (B, 7)."""
    layers = keras.layers
    image = layers.Input((8, 8, 3))
    x = layers.BatchNormalization(scale=False, name="bn_data")(image)
    x = layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False, name="conv0")(x)
    sizes = dict(num_heads=heads, att_embed_dim=3, controller=controller)
    x = networks.ATTENTION[numerics](name="lhc1", **sizes)(x)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(7, activation="softmax", name="fc3")(x)
    net = keras.Model(image, x, name=name)
    rng = np.random.RandomState(seed)
    arrays = {}
    for variable_name, array in weights.to_arrays(net).items():
        array = np.asarray(0.3 * rng.randn(*array.shape))
        positive = "variance" in variable_name
        arrays[variable_name] = np.float32(0.5 + np.abs(array) if positive else array)
    weights.assign(net, arrays, "here")
    return net


def same(a, b):
    a, b = weights.to_arrays(a), weights.to_arrays(b)
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture
def saved(tmp_path):
    """The path of a file of `tiny()`'s weights."""
    path = tmp_path / "weights.h5"
    weights.save(tiny(), path, ARCHITECTURE)
    return path


def texts(names):
    return [name if isinstance(name, str) else name.decode() for name in names]


def refused(words, load, *args, numerics="reference", **kwargs):
    """Check that a net refuses weights in one line with all `words`, and stays as it was."""
    net = tiny(seed=5, numerics=numerics)
    with pytest.raises(UserError) as caught:
        load(net, *args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert same(net, tiny(seed=5, numerics=numerics))


def test_saved_weights_come_back_bit_by_bit(saved):
    net = tiny(seed=1)
    assert not same(net, tiny())
    weights.load(net, saved, ARCHITECTURE)
    assert same(net, tiny())
    assert [path.name for path in saved.parent.iterdir()] == ["weights.h5"]


def test_names_say_what_a_variable_is():
    assert list(weights.named_variables(tiny(controller=0.5))) == [
        "bn_data/beta",
        "bn_data/moving_mean",
        "bn_data/moving_variance",
        "conv0/kernel",
        "lhc1/query_key_0/kernel",
        "lhc1/query_key_0/bias",
        "lhc1/query_key_1/kernel",
        "lhc1/query_key_1/bias",
        "lhc1/value/kernel",
        "lhc1/value/bias",
        "lhc1/temperature/kernel",
        "lhc1/temperature/bias",
        "lhc1/w",
        "bn1/gamma",
        "bn1/beta",
        "bn1/moving_mean",
        "bn1/moving_variance",
        "fc3/kernel",
        "fc3/bias",
    ]


@pytest.mark.parametrize("there, here", [("reference", "fast"), ("fast", "reference")])
def test_weights_of_one_numerics_serve_the_other(there, here, tmp_path):
    weights.save(tiny(numerics=there), tmp_path / "weights.h5", ARCHITECTURE)
    net = tiny(seed=1, numerics=here)
    assert not same(net, tiny(numerics=there))
    weights.load(net, tmp_path / "weights.h5", ARCHITECTURE)
    assert same(net, tiny(numerics=there))


def test_a_head_that_lacks_or_has_another_shape_is_told():
    """Where the heads' variables are stacked, too."""
    arrays = weights.to_arrays(tiny(numerics="fast"))
    name = "lhc1/query_key_1/kernel"
    assert arrays[name].shape == (8, 3)
    shorter, another = arrays[name][:2], name.replace("1/k", "2/k")
    lacking = {key: array for key, array in arrays.items() if key != name}
    for changed, words in (
        ({**arrays, name: shorter}, [name, "(2, 3)", "(8, 3)"]),
        ({**arrays, another: arrays[name]}, ["unknown", another]),
        (lacking, [f"lacks variable {name}"]),
    ):
        refused(words, weights.assign, changed, "file", numerics="fast")


def test_one_head_alone_can_be_loaded():
    net, other = tiny(numerics="fast"), tiny(seed=1)
    arrays, expected = weights.to_arrays(other), weights.to_arrays(net)
    name = "lhc1/query_key_1/kernel"
    weights.assign(net, {name: arrays[name]}, "file", ignore=set(arrays) - {name})
    expected[name] = arrays[name]
    found = weights.to_arrays(net)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_the_file_is_in_keras_layout(saved):
    with h5py.File(saved, "r") as file:
        assert texts(file.attrs["layer_names"])[:2] == ["bn_data", "conv0"]
        names = texts(file["fc3"].attrs["weight_names"])
        assert [file["fc3"][name].shape for name in names] == [(4, 7), (7,)]
        assert json.loads(file.attrs["architecture"]) == ARCHITECTURE


@pytest.mark.skipif(backend.GENERATION == 3, reason="Keras 3 writes another layout")
def test_files_that_keras_writes_are_read(tmp_path):
    x = keras.layers.Input((4,))
    net = keras.Model(x, keras.layers.Dense(2, name="fc3")(x))
    net.save_weights(str(tmp_path / "weights.h5"))
    arrays, _ = weights.read_h5(tmp_path / "weights.h5")
    assert list(arrays) == ["fc3/kernel", "fc3/bias"]
    np.testing.assert_array_equal(arrays["fc3/kernel"], net.get_weights()[0])


def test_another_architecture_is_told(saved):
    other = dict(ARCHITECTURE, target_size=16)
    words = [str(saved), "target_size", "16", "8", "another architecture"]
    refused(words, weights.load, saved, other)
    refused(["another architecture"], weights.load, saved, {"network": "LHC_NetC"})


def test_a_file_without_an_architecture_is_told(saved):
    with h5py.File(saved, "a") as file:
        del file.attrs["architecture"], file.attrs["sha256"]
    refused([str(saved), "architecture"], weights.load, saved, ARCHITECTURE)


def test_a_missing_file_is_told(tmp_path):
    path = tmp_path / "LHC_Net" / "weights.h5"
    refused([str(path), "missing", "run LHC_Net_Train.py"], weights.load, path, ARCHITECTURE)


def edit(path, change):
    """Apply `change(names of fc3's weights, group fc3)` to a weights file, as if it were older.

    Files of today have a digest, which would tell of any change.
    """
    with h5py.File(path, "a") as file:
        file.attrs.pop("sha256", None)
        group = file["fc3"]
        names = texts(group.attrs["weight_names"])
        change(names, group)
        group.attrs["weight_names"] = [name.encode() for name in names]


def test_a_missing_variable_is_named(saved):
    edit(saved, lambda names, group: names.remove("bias:0"))
    refused([str(saved), "lacks", "fc3/bias"], weights.load, saved, ARCHITECTURE)


def test_a_surplus_variable_is_named(saved):
    def change(names, group):
        names.append("scale:0")
        group["scale:0"] = np.zeros(7, np.float32)

    edit(saved, change)
    refused([str(saved), "unknown", "fc3/scale"], weights.load, saved, ARCHITECTURE)


def test_a_misshapen_variable_is_named(saved):
    def change(names, group):
        del group["kernel:0"]
        group["kernel:0"] = np.zeros((5, 7), np.float32)

    edit(saved, change)
    words = [str(saved), "fc3/kernel", "(5, 7)", "(4, 7)"]
    refused(words, weights.load, saved, ARCHITECTURE)


def test_ignored_layers_may_lack_but_not_be_wrong(saved):
    arrays, _ = weights.read_h5(saved)
    without = {name: array for name, array in arrays.items() if not name.startswith("fc3/")}
    net = tiny(seed=5)
    weights.assign(net, without, saved, ignore=weights.HEAD)
    found = weights.to_arrays(net)
    assert np.array_equal(found["conv0/kernel"], arrays["conv0/kernel"])
    assert not np.array_equal(found["fc3/kernel"], arrays["fc3/kernel"])
    wrong = dict(without, **{"fc3/kernel": np.zeros((1, 7), np.float32)})
    refused(["fc3/kernel"], weights.assign, wrong, saved, ignore=weights.HEAD)


@pytest.mark.parametrize(
    "wrong",
    [np.full(7, b"1.5"), np.full(7, "abc"), np.zeros(7, int), np.zeros(7, bool), np.zeros(7, "c8")]
    + [np.full(7, value) for value in (np.nan, -np.inf, 1e300)]
    + [np.array([None] * 7), np.zeros(7, "V4"), np.zeros(7, "M8[s]")],
    ids=lambda wrong: f"{wrong.dtype} {wrong[0]}",
)
def test_no_array_that_is_not_of_finite_floats_gets_into_a_network(wrong):
    """The last variable's: all before it would have been assigned already."""
    arrays = {**weights.to_arrays(tiny()), "fc3/bias": wrong}
    refused(["file", "fc3/bias", "finite"], weights.assign, arrays, "file")


def test_broken_files_are_told(saved):
    whole = saved.read_bytes()
    for content in (b"", b"<!doctype html>", whole[:1000], whole[: len(whole) // 2]):
        saved.write_bytes(content)
        refused([str(saved), "readable"], weights.load, saved, ARCHITECTURE)


def test_files_of_another_kind_are_told_and_never_to_be_deleted(saved):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("config.json", "{}")
    kinds = {
        "whole model": lambda file: file.create_group("model_weights"),
        "layout of Keras 3": lambda file: file.create_group("layers/dense/vars"),
        "another kind": lambda file: file.create_dataset("other", data=np.zeros(3)),
    }
    for words, fill in kinds.items():
        with h5py.File(saved, "w") as file:
            fill(file)
        refused([str(saved), words, "layer_names"], weights.load, saved, ARCHITECTURE)
    saved.write_bytes(archive.getvalue())
    refused([str(saved), "zip", "layer_names"], weights.load, saved, ARCHITECTURE)
    with pytest.raises(UserError) as caught:
        weights.read_h5(saved)
    assert "delete" not in str(caught.value)


def test_every_changed_bit_of_a_number_is_noticed(saved):
    with h5py.File(saved, "r") as file:
        place = file["fc3/kernel:0"].id.get_offset()
    whole = saved.read_bytes()
    for bit in (0, 7, 30):
        changed = bytearray(whole)
        changed[place + bit // 8] ^= 1 << bit % 8
        saved.write_bytes(changed)
        words = [str(saved), "damaged", "last complete copy or train again"]
        refused(words, weights.load, saved, ARCHITECTURE)
    saved.write_bytes(whole.replace(b'"target_size": 8', b'"target_size": 9'))
    refused(["damaged"], weights.load, saved, ARCHITECTURE)


@pytest.mark.parametrize(
    "text", ["{", "[" * 100000, "[1]", "5", '"abc"', "true", '{"lhc": 5}', '{"network": "a"}']
)
def test_an_architecture_of_any_form_is_told(saved, text):
    with h5py.File(saved, "a", libver="latest") as file:
        del file.attrs["sha256"], file.attrs["architecture"]
        file.attrs["architecture"] = text
    refused([str(saved), "architecture"], weights.load, saved, ARCHITECTURE)


def test_another_files_text_is_shown_short_and_printable(saved):
    found = {"network": "a\n\x1b[31m" + 20000 * "b", "lhc": {f"{i}" * 999: 1 for i in range(999)}}
    with h5py.File(saved, "a", libver="latest") as file:
        del file.attrs["sha256"]
        file.attrs["architecture"] = json.dumps(found)
    with pytest.raises(UserError) as caught:
        weights.load(tiny(), saved, ARCHITECTURE)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2000


def replaced(path, make):
    """Put what `make(group)` stores as "kernel:0" in the place of fc3's kernel, (4, 7)."""

    def change(names, group):
        del group["kernel:0"]
        make(group)

    edit(path, change)


def virtual(group):
    layout = h5py.VirtualLayout((4, 7), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "k", (4, 7))
    group.create_virtual_dataset("kernel:0", layout)


def stored(**how):
    return lambda group: group.create_dataset("kernel:0", **how)


KERNEL = np.ones((4, 7), np.float32)
LINKS = {"outside": h5py.ExternalLink("other.h5", "/k"), "loop": h5py.SoftLink("/fc3/kernel:0")}


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda group: group.__setitem__("kernel:0", LINKS["outside"]), "link to another place"),
        (lambda group: group.__setitem__("kernel:0", LINKS["loop"]), "link to another place"),
        (virtual, "from other files"),
        (stored(shape=(4, 7), dtype="f4", external=[("/dev/zero", 0, 112)]), "from other files"),
        (stored(shape=(4, 7), dtype="f4"), "never written"),
        (stored(shape=(1 << 58,), dtype="f4", chunks=(1 << 20,)), "in chunks or compressed"),
        (stored(data=KERNEL, compression="gzip"), "in chunks or compressed"),
        (stored(data=KERNEL.astype(int)), "int64"),
        (stored(data=KERNEL.astype(bool)), "bool"),
        (stored(data=KERNEL.astype("c8")), "complex64"),
        (stored(data=np.full((4, 7), b"1.5")), "|S3"),
        (stored(data=np.zeros((4, 7), "V4")), "|V4"),
        (stored(data=np.zeros((4, 7), [("a", "f4")])), "'a'"),
        (stored(shape=(4, 7), dtype=h5py.special_dtype(vlen=np.float32)), "object"),
        (stored(shape=(4, 7), dtype=h5py.special_dtype(vlen=str)), "object"),
        (stored(data=h5py.Empty("f4")), "fc3/kernel"),
        (lambda group: group.create_group("kernel:0"), "no numbers"),
        (lambda group: group.__setitem__("kernel:0", np.dtype("f4")), "no numbers"),
        (stored(data=np.nan * KERNEL), "finite"),
        (stored(data=np.inf * KERNEL), "finite"),
        (stored(data=np.full((4, 7), 1e300)), "finite"),
        (lambda group: None, "lacks kernel:0"),
    ],
)
def test_only_plain_finite_floats_of_the_file_itself_are_read(saved, make, words):
    with h5py.File(saved.parent / "other.h5", "w") as file:
        file["k"] = KERNEL
    replaced(saved, make)
    refused([str(saved), words], weights.load, saved, ARCHITECTURE)


@pytest.mark.parametrize("kind", ["<f2", ">f4", "f8"])
def test_floats_of_other_sizes_and_byte_orders_are_read(saved, kind):
    replaced(saved, stored(data=KERNEL.astype(kind)))
    net = tiny(seed=1)
    weights.load(net, saved, ARCHITECTURE)
    assert np.array_equal(weights.to_arrays(net)["fc3/kernel"], KERNEL)


@pytest.mark.parametrize(
    "layer_names, weight_names, words",
    [
        (np.arange(3), None, "no list of names"),
        ("fc3", None, "no list of names"),
        (h5py.Empty(np.dtype("S3")), None, "no list of names"),
        (None, np.array([1.5, 2]), "no list of names"),
        (None, np.array([[b"kernel:0"]]), "no list of names"),
        ([b"fc3", b"fc3"], None, "twice"),
        ([b"\xff\xfe"], None, "readable"),
        ([b"fc3/kernel:0"], None, "no variables"),
        ([b"none"], None, "lacks none"),
        (None, [b"/fc3/kernel:0"], "lacks /fc3/kernel:0"),
        (None, [b"kernel:0/kernel:0"], "lacks kernel:0/kernel:0"),
    ],
)
def test_names_of_any_form_are_told(saved, layer_names, weight_names, words):
    with h5py.File(saved, "a") as file:
        del file.attrs["sha256"]
        if layer_names is not None:
            file.attrs["layer_names"] = layer_names
        if weight_names is not None:
            file["fc3"].attrs["weight_names"] = weight_names
    refused([str(saved), words], weights.load, saved, ARCHITECTURE)


def test_one_place_cannot_be_read_many_times(saved):
    def change(names, group):
        group.create_dataset("large", data=np.zeros(10000, np.float32))
        for i in range(50):
            group[f"again{i}"] = group["large"]
            names.append(f"again{i}")

    edit(saved, change)
    refused([str(saved), "declares more"], weights.load, saved, ARCHITECTURE)


def test_a_file_that_keeps_hdf5_busy_is_given_up(saved, monkeypatch):
    pytest.importorskip("resource")
    monkeypatch.setattr(hdf5, "PROGRAM", "while True: pass")
    monkeypatch.setattr(hdf5, "WAITING_S", 0.5)
    refused([str(saved), "not read within"], weights.load, saved, ARCHITECTURE)
    limits = "import resource as r; r.setrlimit(r.RLIMIT_CPU, (1, 2)); r.setrlimit(r.RLIMIT_CORE, "
    monkeypatch.setattr(hdf5, "PROGRAM", f"{limits}(0, 0))\nwhile True: pass")
    monkeypatch.setattr(hdf5, "WAITING_S", 60)
    refused([str(saved), "keeps HDF5 busy"], weights.load, saved, ARCHITECTURE)
    monkeypatch.setattr(hdf5, "PROGRAM", "import os; os.kill(os.getpid(), 9)")
    refused([str(saved), "readable", "code -9"], weights.load, saved, ARCHITECTURE)


def test_an_interrupted_save_keeps_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def fails(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", fails)
    with pytest.raises(OSError):
        weights.save(tiny(seed=1), saved, ARCHITECTURE)
    assert saved.read_bytes() == before


def test_weights_pass_from_net_to_net():
    source, target = tiny(name="ResNet34"), tiny(seed=1, controller=-0.5)
    weights.transfer(source, target)
    arrays, found = weights.to_arrays(source), weights.to_arrays(target)
    before = weights.to_arrays(tiny(seed=1, controller=-0.5))
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert found["lhc1/w"] == before["lhc1/w"]
    with pytest.raises(UserError, match="unknown variable lhc1/w"):
        weights.transfer(target, source)
    with pytest.raises(UserError, match="lhc1/query_key_0/kernel"):
        weights.transfer(tiny(heads=1), source)


@pytest.mark.parametrize("numerics", ["reference", "fast"])
def test_a_training_state_holds_the_weights_whatever_trains_on(numerics):
    net = tiny(numerics=numerics)
    expected = weights.to_arrays(net)
    backend.compile_model(net, "adam", 0.5)
    state = backend.training_state(net, net)
    x, y = IMAGES, np.eye(7, dtype=np.float32)[:3]
    net.fit(x, y, batch_size=3, shuffle=False, verbose=0)
    assert not same(net, tiny(numerics=numerics))
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        found = other.submit(weights.in_state, net, state).result()
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.float32 and np.array_equal(found[name], array), name


def test_the_start_is_the_imagenet_file_without_the_head(imagenet, settings_folder, tmp_path):
    folder = settings_folder(tmp_path, Data={"backbone_weights": str(imagenet)})
    loaded = settings.load(folder)
    net = networks.build("ResNet34", loaded)
    before = weights.to_arrays(net)
    weights.load_start(net, loaded)
    after, arrays = weights.to_arrays(net), weights.read_h5(imagenet)[0]
    for name, array in after.items():
        head = name.split("/")[0] in weights.HEAD
        np.testing.assert_array_equal(array, before[name] if head else arrays[name], name)

    loaded.data["backbone_weights"] = "random"
    weights.load_start(net, loaded)
    assert np.array_equal(weights.to_arrays(net)["conv0/kernel"], arrays["conv0/kernel"])
    loaded.data["backbone_weights"] = str(tmp_path / "none.h5")
    with pytest.raises(UserError, match="none.h5: not found.*backbone_weights"):
        weights.load_start(net, loaded)


def test_a_full_disk_is_told_in_one_line_and_the_old_weights_stay(saved):
    resource = pytest.importorskip("resource")
    before, limits = saved.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        words = "weights.h5: could not be written: .* MB of the disk are free: make room"
        with pytest.raises(OSError, match=words) as caught:
            weights.save(tiny(), saved, ARCHITECTURE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert saved.read_bytes() == before


@pytest.mark.parametrize(
    "name, key",
    [
        ("bn_data/beta", "conv1/bn1/beta"),
        ("conv0/kernel", "conv1/conv1/kernel"),
        ("bn0/gamma", "conv1/bn2/gamma"),
        ("stage1_unit1_sc/kernel", "conv2_1/convId/kernel"),
        ("stage4_unit3_bn2/moving_mean", "conv5_3/bn2/moving_mean"),
        ("lhc1/query_key_7/kernel", "conv1/LHC_Module/Wqk/7/kernel"),
        ("lhc2/temperature/bias", "conv2_3/LHC_Module/Wp/bias"),
        ("lhc5/value/kernel", "conv5_3/LHC_Module/Wv/kernel"),
        ("lhc4/w", "controller4/w"),
        ("bn1/beta", "bn/beta"),
        ("fc2/bias", "fc2/bias"),
    ],
)
def test_keys_of_the_published_checkpoints(name, key):
    assert checkpoints.checkpoint_key(name) == key


def write_checkpoint(folder, arrays):
    """Write {"conv1/bn1/beta": array} as a TensorFlow object checkpoint; return its prefix."""
    tf = pytest.importorskip("tensorflow")

    def tree(level):
        named = {}
        for key, value in level.items():
            named[key] = tree(value) if isinstance(value, dict) else tf.Variable(value)
        return tf.train.Checkpoint(**named)

    levels = {}
    for key, array in arrays.items():
        *path, leaf = key.split("/")
        level = levels
        for part in path:
            level = level.setdefault(part, {})
        level[leaf] = array
    return tree(levels).save(str(folder / "LHC_Net"))


@pytest.fixture
def published_arrays():
    """The variables of `tiny()` under the published checkpoints' keys."""
    arrays = weights.to_arrays(tiny(controller=0.5))
    return {checkpoints.checkpoint_key(name): array for name, array in arrays.items()}


def test_a_checkpoint_is_loaded_by_name(published_arrays, tmp_path):
    prefix = write_checkpoint(tmp_path, dict(published_arrays, **{"optimizer/iter": 7}))
    net = tiny(seed=1, controller=0.1)
    checkpoints.load_checkpoint(net, prefix)
    assert same(net, tiny(controller=0.5))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"conv1/conv1/kernel": None}, ["lacks", "conv0/kernel"]),
        ({"conv1/LHC_Module/Wqk/1/bias": None}, ["lacks", "lhc1/query_key_1/bias"]),
        ({"conv1/conv9/kernel": np.zeros(3)}, ["unknown", "conv1/conv9/kernel"]),
        ({"temperature": np.zeros(3)}, ["unknown", "temperature"]),
        ({"fc3/bias": np.zeros(8, np.float32)}, ["fc3/bias", "(8,)", "(7,)"]),
        ({"fc3/bias": np.full(7, np.nan, np.float32)}, ["fc3/bias", "finite"]),
        ({"fc3/bias": np.full(7, "abc")}, ["fc3/bias", "finite"]),
    ],
    ids=["missing", "missing in LHC", "surplus", "surplus on top", "misshapen", "NaN", "texts"],
)
def test_every_variable_of_a_checkpoint_is_accounted_for(published_arrays, tmp_path, change, words):
    arrays = {**published_arrays, **change}
    arrays.pop("controller1/w")
    arrays = {key: array for key, array in arrays.items() if array is not None}
    prefix = write_checkpoint(tmp_path, arrays)
    refused([prefix, *words], checkpoints.load_checkpoint, prefix)


def test_scalars_make_another_network(published_arrays, tmp_path):
    prefix = write_checkpoint(tmp_path, published_arrays)
    refused(["unknown", "controller1/w"], checkpoints.load_checkpoint, prefix)


def test_without_tensorflow_a_checkpoint_is_told_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="Models/LHC_Net: only TensorFlow reads .*pip install"):
        checkpoints.load_checkpoint(None, "Downloaded_Models/LHC_Net")


def test_broken_checkpoints_are_told(published_arrays, tmp_path):
    prefix = write_checkpoint(tmp_path, published_arrays)
    index, data = Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")
    whole = index.read_bytes(), data.read_bytes()
    words = [prefix, "Download_Models.py"]
    data.write_bytes(whole[1][:100])
    refused(words, checkpoints.load_checkpoint, prefix)
    data.write_bytes(bytes(reversed(whole[1])))
    refused(words, checkpoints.load_checkpoint, prefix)
    data.unlink()
    refused(words, checkpoints.load_checkpoint, prefix)
    data.write_bytes(whole[1])
    index.write_bytes(b"<!doctype html>")
    refused(words, checkpoints.load_checkpoint, prefix)
    index.unlink()
    refused(words, checkpoints.load_checkpoint, prefix)


@pytest.mark.parametrize("stack", ["today", "paper"])
def test_weights_of_both_stacks_give_the_same_probabilities(stack):
    """The files were written by this test's own nets on each stack; see `write_example`."""
    path = DATA / f"weights_{stack}.h5"
    net = tiny(seed=1)
    weights.load(net, path, ARCHITECTURE)
    with h5py.File(path, "r") as file:
        expected = np.array(json.loads(file.attrs["probabilities"]), np.float32)
    found = net.predict_on_batch(IMAGES)
    assert np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def write_example():
    """Write the running stack's file for the test above: `python -m tests.test_weights`."""
    path = DATA / f"weights_{'today' if backend.GENERATION == 3 else 'paper'}.h5"
    net = tiny(seed=int(backend.GENERATION))
    weights.save(net, path, ARCHITECTURE)
    with h5py.File(path, "a") as file:
        file.attrs["probabilities"] = json.dumps(net.predict_on_batch(IMAGES).tolist())
    print(path, os.path.getsize(path), "bytes")


if __name__ == "__main__":
    write_example()


def test_a_checkout_may_have_any_name(tmp_path, monkeypatch):
    """A colon would part the names of a path from each other."""
    checkout = tmp_path / f"my{os.pathsep}checkout"
    checkout.mkdir()
    (checkout / "src").symlink_to(Path(weights.__file__).parent, target_is_directory=True)
    weights.save(
        keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, name="d")]),
        tmp_path / "w.h5",
        {"network": "x", "target_size": 2},
    )
    root = Path(weights.__file__).parent.parent
    others = [path for path in sys.path if path and Path(path).resolve() != root]
    monkeypatch.setattr(sys, "path", [str(checkout), *others])
    monkeypatch.chdir(tmp_path)
    arrays, _ = weights.read_h5(tmp_path / "w.h5")
    assert set(arrays) == {"d/kernel", "d/bias"}
