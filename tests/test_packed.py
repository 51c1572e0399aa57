"""The packed net: how near it is, what it takes, and what is told of files that are not its own."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from src import networks, packed, settings, shipping, weights
from src.errors import UserError

SHAPES = {
    "fc/kernel": (1000, 1001),
    "conv/kernel": (3, 3, 256, 131),
    "small/kernel": (100, 201),
    "smallest/kernel": (3, 7),
    "conv/bias": (131,),
    "lhc1/w": (),
}
STEPS = {"fc/kernel": 255, "conv/kernel": 511, "small/kernel": 2047}  # from 0 to the largest weight


@pytest.fixture(scope="module")
def arrays():
    """Weights of all sizes, some of whose channels are 0, or hardly anything."""
    random = np.random.default_rng(1)
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    arrays["fc/kernel"][:, 3] = 0
    arrays["fc/kernel"][:, 4] *= np.float32(1e-38)
    arrays["fc/kernel"][5, 5] = 1e6
    return arrays


@pytest.fixture
def folder(arrays, tmp_path):
    """A folder with these weights as a net."""
    write(tmp_path / "net", arrays)
    return tmp_path / "net"


def write(folder, arrays):
    contents = packed.files(packed.pack(arrays))
    record = {
        "architecture": {
            "network": "LHC_Net",
            "target_size": 224,
            "lhc": settings.load(settings.DEFAULTS).lhc,
        },
        "files": packed.digests(contents),
        "parameters": 1,
        "made_from": {},
        "measured": {"test": {"images": 7, "accuracy": 0.5}},
    }
    contents[packed.RECORD] = json.dumps(record).encode()
    packed.write(folder, contents)


def test_weights_are_at_most_half_a_step_away(arrays):
    found = packed.unpack(packed.pack(arrays))
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == np.float32 and found[name].shape == array.shape
        if name not in STEPS:
            np.testing.assert_array_equal(found[name], array)
            continue
        highest = np.abs(array).reshape(-1, array.shape[-1]).max(axis=0)
        allowed = np.maximum(highest / STEPS[name], np.finfo(np.float32).tiny) * 0.501
        assert (np.abs(found[name] - array) <= allowed).all(), name
        assert (found[name] != array).any()
    assert not found["fc/kernel"][:, 3].any()


def test_lhc_net_fits():
    """The net of the default settings, and LHC-NetC, which has five numbers more."""
    loaded = settings.load()
    arrays = weights.to_arrays(networks.build("LHC_NetC", loaded))
    assert sum(array.size for array in arrays.values()) == 32_411_668 + 5
    sizes = [len(content) for content in packed.files(packed.pack(arrays)).values()]
    assert max(sizes) <= packed.LARGEST == 16_000_000
    assert sum(sizes) <= packed.MOST - 100_000, "net.json and the card need room too"
    assert packed.MOST == 40_000_000


def test_files_hold_what_they_are_given(arrays, folder, monkeypatch):
    monkeypatch.setattr(packed, "LARGEST", 300_000)
    contents = packed.files(packed.pack(arrays))
    assert len(contents) > 2
    monkeypatch.undo()
    write(folder, arrays)
    expected = packed.unpack(packed.pack(arrays))
    found = packed.read(folder)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_smaller_net_leaves_nothing_of_the_one_before(arrays, folder, monkeypatch):
    monkeypatch.setattr(packed, "OVERHEAD", packed.LARGEST)  # a file for each part
    write(folder, dict(list(arrays.items())[2:]))
    assert (folder / "weights-6.npz").exists()
    monkeypatch.undo()
    write(folder, arrays)
    names = {path.name for path in folder.iterdir()}
    assert names == {"net.json", "weights-1.npz"}


@pytest.mark.parametrize("name", ["README.md", "weights-7.npz"])
def test_files_of_the_users_own_stay(tmp_path, name):
    (tmp_path / name).write_text("mine")
    contents = {"weights-1.npz": b"1", packed.RECORD: b"{}", packed.CARD: b"card"}
    with pytest.raises(UserError, match=f"{name}: is there already, and without net.json not Ship"):
        packed.write(tmp_path, contents)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("limit", ["MOST", "LARGEST"])
def test_what_is_too_large_is_not_written(arrays, folder, monkeypatch, limit):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    contents = packed.files(packed.pack(arrays))
    monkeypatch.setattr(packed, limit, 1_000_000)
    with pytest.raises(UserError, match="nothing was written"):
        packed.write(folder, contents)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def change(path, key, value):
    content = json.loads(path.read_text())
    content[key] = value
    path.write_text(json.dumps(content))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "one bit": ("weights-1.npz", flip, "damaged or another one"),
    "cut": ("weights-1.npz", lambda p: p.write_bytes(p.read_bytes()[:-1]), "damaged or"),
    "longer": ("weights-1.npz", lambda p: p.write_bytes(p.read_bytes() + b"x"), "damaged or"),
    "missing": ("weights-1.npz", lambda p: p.unlink(), "is missing"),
    "surplus": ("weights-2.npz", lambda p: p.write_bytes(b"x"), "names no such file"),
    "no record": ("net.json", lambda p: p.unlink(), "comes without a trained net"),
    "no JSON": ("net.json", lambda p: p.write_text("{"), "is damaged"),
    "other JSON": ("net.json", lambda p: p.write_text("[]"), "is damaged"),
    "elsewhere": ("net.json", lambda p: change(p, "files", {"../x": {}}), "../x"),
    "huge": (
        "net.json",
        lambda p: change(p, "files", {"weights-1.npz": {"bytes": 10**12, "sha256": ""}}),
        "files.weights-1.npz.bytes",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damages_are_one_line(folder, kind):
    name, damage, words = DAMAGES[kind]
    damage(folder / name)
    with pytest.raises(UserError) as caught:
        packed.read(folder)
    told = str(caught.value)
    assert told.startswith(str(folder / name)) and words in told
    assert "\n" not in told and len(told) < 600


def replaced(folder, content):
    """Put another file in the place of the net's only one, with its digest in net.json."""
    (folder / "weights-1.npz").write_bytes(content)
    change(folder / packed.RECORD, "files", packed.digests({"weights-1.npz": content}))


def archive(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"no archive",
        archive(**{"a/kernel": np.zeros(9, np.uint8), "a/kernel.scale": np.ones(1)}),
        archive(np.savez_compressed, **{"a/bias": np.zeros(1 << 20, np.float32)}),
        archive(**{"a/bias": np.array([{}], object)}),
    ],
    ids=["no archive", "half of a kernel", "compressed", "objects"],
)
def test_a_crafted_file_is_one_line(folder, content):
    """Its digest is right: that net.json is crafted too."""
    replaced(folder, content)
    with pytest.raises(UserError, match="no net of Ship.py's") as caught:
        packed.read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "heads, size, message",
    [
        ([1], 224, "architecture.lhc.num_heads: "),
        ([8, 8, 7, 7, 2], 224, "architecture.lhc.num_heads.4: expected 1, 7, 49 for the 7 x 7 map"),
        ([1] * 5, 10**9, "architecture.target_size: 1000000000 is greater"),
    ],
    ids=["one module", "no divisor", "size"],
)
def test_the_shape_of_the_net_is_checked(folder, heads, size, message):
    record = folder / packed.RECORD
    shape = json.loads(record.read_text())["architecture"]
    shape["lhc"]["num_heads"], shape["target_size"] = heads, size
    change(record, "architecture", shape)
    with pytest.raises(UserError, match=message) as caught:
        packed.record(folder)
    assert "\n" not in str(caught.value)


def test_the_current_folder_can_hold_a_net(arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("."), arrays)
    assert set(os.listdir(".")) == {"net.json", "weights-1.npz"}


@pytest.mark.skipif(not packed.FOLDER.exists(), reason="no net comes with this copy")
def test_the_net_that_comes_with_the_program():
    """Whole, small enough, as good as it was in float32, and with the card of these figures."""
    record = packed.record(packed.FOLDER)
    sizes = [path.stat().st_size for path in packed.FOLDER.iterdir()]
    assert max(sizes) <= packed.LARGEST and sum(sizes) <= packed.MOST
    arrays = packed.read(packed.FOLDER)
    assert sum(array.size for array in arrays.values()) == record["parameters"]
    assert all(np.isfinite(array).all() for array in arrays.values())
    loaded = settings.load()
    shape = record["architecture"]
    assert (shape["target_size"], shape["lhc"]) == (loaded.size, loaded.lhc)
    for of in record["measured"].values():
        assert 100 * abs(of["accuracy"] - of["float32_accuracy"]) <= shipping.LIMIT
        found = sum(c["recall"] * c["images"] for c in of["classes"].values())
        assert found == pytest.approx(of["accuracy"] * of["images"])
    assert (packed.FOLDER / packed.CARD).read_text(encoding="utf-8") == shipping.card(record)
