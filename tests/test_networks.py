"""The networks: parameter counts, structure, fresh weights, and the reference's outputs."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest

from src import backend, checkpoints, dataset, networks, pixels, settings, weights
from src.backend import keras
from src.fast.lhc import FastLHC
from src.lhc import LHC

DATA = Path(__file__).parent / "data"
DEFAULTS = settings.load()
MODULES = ("lhc1", "lhc2", "lhc3", "lhc4", "lhc5")
paper_only = pytest.mark.skipif(backend.GENERATION != 2, reason="only on the paper's stack")


@pytest.fixture(scope="module")
def nets():
    """The three networks at 224 pixels."""
    return {name: networks.build(name, DEFAULTS) for name in ("ResNet34", "LHC_Net", "LHC_NetC")}


def rgb(images, size):
    return np.repeat(pixels.enlarge(images, size)[..., None], 3, axis=-1)


def count(variables):
    return sum(int(np.prod(tuple(variable.shape))) for variable in variables)


def test_parameter_counts(nets):
    assert nets["ResNet34"].count_params() == 27_606_224
    assert nets["LHC_Net"].count_params() == 32_411_668
    assert nets["LHC_NetC"].count_params() == 32_411_668 + 5
    head = [nets["ResNet34"].get_layer(name) for name in weights.HEAD]
    assert 27_606_224 - sum(layer.count_params() for layer in head) == 21_302_473


@pytest.mark.parametrize("name", ["ResNet34", "LHC_Net", "LHC_NetC"])
def test_every_variable_has_a_name_of_its_own(nets, name):
    named = weights.named_variables(nets[name])
    assert count(weights.to_arrays(nets[name]).values()) == nets[name].count_params()
    assert len(named) == len({(id(variable), index) for variable, index in named.values()})


def test_layers_are_those_of_the_reference(nets):
    for net in nets.values():
        norms = [x for x in net.layers if isinstance(x, keras.layers.BatchNormalization)]
        assert len(norms) == 2 + 2 * 16 + 1
        assert all(x.epsilon == 2e-5 and x.momentum == 0.99 for x in norms)
        assert [x.name for x in norms if not x.scale] == ["bn_data"]
        convolutions = [x for x in net.layers if isinstance(x, keras.layers.Conv2D)]
        assert len(convolutions) == 1 + 2 * 16 + 4
        assert not any(x.use_bias for x in convolutions)
        strided = [x.name for x in convolutions if tuple(x.strides) == (2, 2)]
        expected = ["conv0"] + [f"stage{s}_unit1_{c}" for s in (2, 3, 4) for c in ("conv1", "sc")]
        assert sorted(strided) == sorted(expected)
        dropouts = [x for x in net.layers if isinstance(x, keras.layers.Dropout)]
        assert [x.rate for x in dropouts] == [0.4, 0.4]


def test_attention_stands_after_the_stem_and_after_each_stage(nets):
    shapes = [(56, 56, 64), (56, 56, 64), (28, 28, 128), (14, 14, 256), (7, 7, 512)]
    before = ["pooling0"] + [f"stage{s}_unit{n}_add" for s, n in enumerate((3, 4, 6, 3), start=1)]
    for name in ("LHC_Net", "LHC_NetC"):
        found = [x for x in nets[name].layers if isinstance(x, LHC)]
        assert [x.name for x in found] == list(MODULES)
        for i, (module, shape, source) in enumerate(zip(found, shapes, before)):
            assert module.input is nets[name].get_layer(source).output
            assert tuple(module.input.shape)[1:] == tuple(module.output.shape)[1:] == shape
            for key, values in DEFAULTS.lhc.items():
                assert getattr(module, key) == values[i]
    scalars = [float(backend.to_numpy(nets["LHC_NetC"].get_layer(name).w)) for name in MODULES]
    assert scalars == [0, 0, 0, -1, -0.5]


def test_settings_shape_the_networks(settings_folder, tmp_path):
    heads, dims, kernels = [8, 4, 4, 2, 1], [2, 3, 4, 5, 6], [1, 3, 5, 3, 1]
    pools, norms = [1, 2, 3, 4, 1], [1, 0.5, 2, 1, 1]
    lhc = dict(num_heads=heads, att_embed_dim=dims, kernel_size=kernels)
    lhc.update(pool_size=pools, norm_c=norms)
    folder = settings_folder(
        tmp_path,
        LHC=lhc,
        Modular={"Controller": {"initial_scalars": [1, 2, 3, 4, 5]}},
        Runtime={"numerics": "fast"},
    )
    net = networks.build("LHC_NetC", settings.load(folder))
    assert tuple(net.inputs[0].shape) == (None, 32, 32, 3)
    arrays = weights.to_arrays(net)
    for i, name in enumerate(MODULES):
        module, side = net.get_layer(name), (8, 8, 4, 2, 1)[i]
        channels = (64, 64, 128, 256, 512)[i]
        for head in range(heads[i]):
            shape = side * side // heads[i], dims[i]
            assert arrays[f"{name}/query_key_{head}/kernel"].shape == shape
        assert tuple(module.value.kernel.shape) == (kernels[i], kernels[i], channels, channels)
        assert (module.pool_size, module.norm_c) == (pools[i], norms[i])
        assert float(backend.to_numpy(module.w)) == i + 1
        assert type(module) is FastLHC


def test_seeded_dense_kernels():
    """Seeds 3 and 4 decide the first two kernels of the plain ResNet34's head, nothing else."""

    def kernels(build):
        drawn = []
        for seed in (1, 2):
            backend.set_seeds(seed, seed, seed)
            net = build()
            drawn.append([backend.to_numpy(net.get_layer(n).kernel) for n in weights.HEAD])
        return [np.array_equal(a, b) for a, b in zip(*drawn)]

    def head(seeds):
        x = keras.layers.Input((1, 1, 512))
        return keras.Model(x, networks.classification_head(x, seeds))

    assert kernels(lambda: head((3, 4))) == [True, True, False]
    assert kernels(lambda: head((None, None))) == [False, False, False]


def test_building_leaves_the_global_generators_alone():
    random.seed(1)
    np.random.seed(1)
    networks.resnet34(32)
    networks.lhc_net(32, {key: [1] * 5 for key in DEFAULTS.lhc})
    found = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    assert found == (random.random(), np.random.random())


@pytest.mark.parametrize("numerics", ["reference", "fast"])
def test_with_zero_values_lhc_net_is_its_backbone(numerics, settings_folder, tmp_path):
    loaded = settings.load(settings_folder(tmp_path, Runtime={"numerics": numerics}))
    backend.set_seeds(1, 1, 1)
    trained, net = networks.build("ResNet34", loaded), networks.build("LHC_Net", loaded)
    # With its fresh statistics the net may be so sure of itself that nothing changes its mind.
    trained.get_layer("bn_data").moving_variance.assign([1e4] * 3)
    weights.transfer(trained, net)
    images = np.random.RandomState(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    expected = trained.predict_on_batch(images)
    assert np.abs(net.predict_on_batch(images) - expected).max() > 1e-4
    networks.zero_values(net)
    assert np.abs(net.predict_on_batch(images) - expected).max() < 1e-6


@pytest.mark.parametrize("numerics", ["reference", "fast"])
def test_only_five_scalars_are_trained(numerics, settings_folder, tmp_path):
    folder = settings_folder(tmp_path, Runtime={"numerics": numerics})
    net = networks.build("LHC_NetC", settings.load(folder))
    # With its fresh statistics the net may be so sure of itself that no gradient is left.
    net.get_layer("bn_data").moving_variance.assign([1e4] * 3)
    networks.freeze_all_but_controllers(net)
    scalars = {id(net.get_layer(name).w) for name in MODULES}
    assert {id(variable) for variable in net.trainable_variables} == scalars
    before = weights.to_arrays(net)
    backend.compile_model(net, "sgd", 10.0)
    images = np.random.RandomState(0).randint(0, 256, (7, 48, 48)).astype(np.uint8)
    batches = (batch for batch in [(rgb(images, 32), np.eye(7, dtype=np.float32))])
    backend.fit_epoch(net, batches, 1)
    after = weights.to_arrays(net)
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == [f"{name}/w" for name in MODULES]  # no moving statistics either


def test_backbone_features_are_the_references(nets, imagenet, shared):
    arrays, _ = weights.read_h5(imagenet)
    weights.assign(nets["ResNet34"], arrays, imagenet, ignore=weights.HEAD)
    net = keras.Model(nets["ResNet34"].input, nets["ResNet34"].get_layer("relu1").output)
    images, _ = dataset.load(DATA / "tiny_data", "val", 4)
    found = net.predict_on_batch(rgb(images, 224))[:, ::3, ::3]
    expected = np.load(shared / "fixtures" / "backbone_features.npz")["features"]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name, file", [("LHC_Net", "LHC_Net"), ("LHC_NetC", "LHC_Net_Controller")])
def test_published_checkpoints_give_the_expected_probabilities(
    nets, published, fer2013_validation, name, file
):
    checkpoints.load_checkpoint(nets[name], published / name / file)
    found = nets[name].predict_on_batch(rgb(fer2013_validation, 224))
    expected = np.load(published / f"{name}_expected.npz")["pred"]
    assert found.shape == (8, 7) and np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.fixture
def seeds_drawn(monkeypatch):
    """A list that gets an entry for every per-operation seed that TensorFlow 2.4 draws."""
    context = pytest.importorskip("tensorflow.python.eager.context")
    drawn, draw = [], context.Context._internal_operation_seed
    monkeypatch.setattr(
        context.Context, "_internal_operation_seed", lambda self: drawn.append(1) or draw(self)
    )
    return drawn


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


@paper_only
def test_fresh_weights_are_the_references(seeds_drawn):
    fresh = json.loads((DATA / "reference.json").read_text())["fresh"]
    backend.set_seeds(tensorflow=5678, python=0, numpy=0)
    arrays = weights.to_arrays(networks.resnet34(224))
    assert len(seeds_drawn) == 38
    for name, expected in fresh["backbone_seed5678"]:
        assert digest(arrays[name[: -len(":0")]]) == expected, name
    head = [array for name, array in arrays.items() if name.split("/")[0] in weights.HEAD]
    assert len(head) == len(fresh["head_seed5678"])
    for array, (name, shape, expected) in zip(head, fresh["head_seed5678"]):
        assert list(array.shape) == shape and digest(array) == expected, name
    assert len(arrays) == len(fresh["backbone_seed5678"]) + len(head)


@paper_only
@pytest.mark.parametrize("name", ["LHC_Net", "LHC_NetC"])
def test_as_many_seeds_are_drawn_as_in_the_original(seeds_drawn, name):
    networks.build(name, DEFAULTS)
    assert len(seeds_drawn) == 81
