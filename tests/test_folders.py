"""Folders of pictures as they are passed around, and what else lies between them."""

import os
import random

import numpy as np
import pytest
from PIL import Image

from src import dataset, folders
from src.errors import UserError
from src.sources import import_from

NAMES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
COUNTS = dict.fromkeys(dataset.SPLITS, [1] * 7)


def picture(number):
    """Return a picture that no other number has, uint8 (48, 48)."""
    return np.random.RandomState(number).randint(0, 256, (48, 48)).astype(np.uint8)


def put(folder, path, number, mode="L", **how):
    """Save a picture below a folder."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(number)).convert(mode).save(target, **how)
    return target


def fill(folder, splits=("train", "val", "test"), names=NAMES, each=1, file="im{}.png"):
    """Put `each` pictures of each class into folders of splits; number = split, class, picture."""
    for s, split in enumerate(splits):
        for label, name in enumerate(names):
            for i in range(each):
                number = 1000 * s + 100 * label + i
                put(folder, f"{split}/{name}/" + file.format(number), number)
    return folder


def assert_holds(data, split, numbers):
    """Check that a split in a data folder holds the pictures of these numbers, in this order."""
    images, labels = dataset.load(data, split)
    assert labels.tolist() == [number // 100 % 10 for number in numbers]
    np.testing.assert_array_equal(images, [picture(number) for number in numbers])


@pytest.mark.parametrize(
    "splits, names",
    [
        (("train", "val", "test"), NAMES),
        (("Training", "PublicTest", "PrivateTest"), [name.upper() for name in NAMES]),
        (("TRAIN", "validation", "Test"), dataset.CLASSES),
        (("train", "valid", "testing"), [str(label) for label in range(7)]),
        (("train", "val", "test"), [f"{9 - label}_{name}" for label, name in enumerate(NAMES)]),
    ],
)
def test_names_of_folders(tmp_path, capsys, splits, names):
    fill(tmp_path / "archive", splits, names)
    assert import_from(tmp_path / "archive", tmp_path / "Data", COUNTS)
    for s, split in enumerate(dataset.SPLITS):
        assert_holds(tmp_path / "Data", split, [1000 * s + 100 * label for label in range(7)])
    out = capsys.readouterr().out
    assert "21 pictures, splits by their folders" in out and "Odd" not in out
    assert not import_from(tmp_path / "archive", tmp_path / "Data", COUNTS), "the same again"


def test_official_splits_by_the_names_of_pictures(tmp_path, capsys):
    """As in the copy that most have, whose folder `test` holds both of Kaggle's test splits."""
    root = tmp_path / "archive" / "fer2013"
    for label, name in enumerate(NAMES):
        put(root, f"train/{name}/Training_{label}.png", 100 * label)
        put(root, f"test/{name}/PublicTest_{label}.png", 1000 + 100 * label)
        put(root, f"test/{name}/PrivateTest_{label}.png", 2000 + 100 * label)
    import_from(tmp_path, tmp_path / "Data", COUNTS)
    assert "splits by their names" in capsys.readouterr().out
    for s, split in enumerate(dataset.SPLITS):
        assert_holds(tmp_path / "Data", split, [1000 * s + 100 * label for label in range(7)])


def test_names_that_the_folders_contradict_do_not_count(tmp_path, capsys):
    root = fill(tmp_path / "archive", file="Training_{}.png")
    import_from(root, tmp_path / "Data", COUNTS)
    assert "splits by their folders" in capsys.readouterr().out
    assert_holds(tmp_path / "Data", "test", [2000 + 100 * label for label in range(7)])


def test_validation_is_split_off_the_same_way_each_time(tmp_path, capsys):
    root = fill(tmp_path / "archive", ("train", "test"), each=12)
    numpy, python = np.random.get_state()[1].tolist(), random.getstate()
    import_from(root, tmp_path / "a", COUNTS)
    assert np.random.get_state()[1].tolist() == numpy and random.getstate() == python
    out = capsys.readouterr().out
    told = "no validation split: 7 of the 84 training pictures become it (10% of each class, drawn"
    assert told in out
    np.random.seed(1)
    import_from(root, tmp_path / "b", COUNTS)
    for split, count in (("train", 77), ("val", 7), ("test", 84)):
        images, labels = dataset.load(tmp_path / "a", split)
        np.testing.assert_array_equal(images, dataset.load(tmp_path / "b", split)[0])
        assert np.bincount(labels).tolist() == [count // 7] * 7
    both = np.concatenate([dataset.load(tmp_path / "a", split)[0] for split in ("train", "val")])
    assert len(np.unique(both.reshape(84, -1), axis=0)) == 84, "each picture is in one of them"
    first = [picture(100 * label) for label in range(7)]
    val = dataset.load(tmp_path / "a", "val")[0]
    assert not all((a == b).all() for a, b in zip(val, first)), "drawn, not the first ones"


def test_one_picture_a_class_is_too_few_to_split(tmp_path):
    root = fill(tmp_path / "archive", ("train", "test"))
    with pytest.raises(UserError, match="no validation split.*add a folder or CSV val"):
        import_from(root, tmp_path / "Data", COUNTS)
    put(root, "train/happy/x.png", 301)
    import_from(root, tmp_path / "Data", COUNTS)
    assert len(dataset.load(tmp_path / "Data", "train")[0]) == 7


def test_pictures_are_in_the_order_of_their_numbers(tmp_path):
    root = fill(tmp_path / "archive")
    for number in (2, 10, 1):
        put(root, f"train/angry/a{number}.png", number)
        put(root, f"train/sad/a{number}.png", 400 + number)
    import_from(root, tmp_path / "Data", COUNTS)
    numbers = [1, 401, 2, 402, 10, 410, *range(0, 700, 100)]
    assert_holds(tmp_path / "Data", "train", numbers)


def test_what_systems_and_archives_leave_is_not_looked_at(tmp_path, capsys):
    root = fill(tmp_path / "archive")
    for name in (".DS_Store", "._im0.png", "Thumbs.db", "desktop.ini"):
        (root / "train" / "angry" / name).write_bytes(b"\0\5\26\7")
    (root / ".cache").mkdir()
    put(root, "__MACOSX/train/angry/im0.png", 5)
    put(root, ".hidden/x.png", 5)
    (root / "README.md").write_text("about")
    import_from(root, tmp_path / "Data", COUNTS)
    assert "left out" not in capsys.readouterr().out
    assert_holds(tmp_path / "Data", "train", range(0, 700, 100))


def test_other_files_of_a_class_are_counted_aloud(tmp_path, capsys):
    root = fill(tmp_path / "archive")
    (root / "train" / "angry" / "a.webp").write_bytes(b"RIFF")
    (root / "train" / "sad" / "list.txt").write_bytes(b"")
    (root / "train" / "sad" / "folder.png").mkdir()
    import_from(root, tmp_path / "Data", COUNTS)
    assert "left out: 2 files that are not named as JPEG, PNG or BMP" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "L"])
def test_pictures_saved_in_colour(tmp_path, capsys, mode):
    root = fill(tmp_path / "archive")
    put(root, "train/angry/im0.png", 0, mode)
    import_from(root, tmp_path / "Data", COUNTS)
    assert_holds(tmp_path / "Data", "train", range(0, 700, 100))
    told = "turned grey: 1 pictures" in capsys.readouterr().out
    assert told == (mode != "L")


def test_jpegs_and_bitmaps(tmp_path):
    root = fill(tmp_path / "archive", ("val", "test"))
    for label, name in enumerate(NAMES):
        put(root, f"train/{name}/{label}.JPG", 100 * label, quality=100)
        put(root, f"train/{name}/{label + 7}.bmp", 100 * label)
    import_from(root, tmp_path / "Data", COUNTS)
    images, _ = dataset.load(tmp_path / "Data", "train")
    np.testing.assert_array_equal(images[7:], [picture(100 * label) for label in range(7)])
    assert np.abs(images[:7].astype(int) - images[7:]).max() <= 3


def spoil(root, kind):
    """Spoil one thing about a good folder of pictures."""
    target = root / "train" / "fear" / "bad.png"
    if kind == "size":
        Image.new("L", (64, 48)).save(target)
    elif kind == "16 bits":
        Image.fromarray(np.full((48, 48), 999, np.uint16)).save(target)
    elif kind == "cut off":
        content = put(root, "train/fear/bad.png", 7).read_bytes()
        target.write_bytes(content[: len(content) // 2])
    elif kind == "no picture":
        target.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n")
    elif kind == "empty":
        target.write_bytes(b"")
    elif kind == "class":
        put(root, "train/contempt/im0.png", 7)
    elif kind == "loose":
        put(root, "preview.png", 7)
    elif kind == "split":
        put(root, "more/fear/im0.png", 7)
    elif kind == "twice":
        fill(root / "archive")
    elif kind in ("train", "test"):
        os.rename(root / kind, root.parent / "elsewhere")


@pytest.mark.parametrize(
    "kind, message",
    [
        ("size", r"bad.png: expected 48 x 48 pixels, found 64 x 48; resize"),
        ("16 bits", r"bad.png: expected a grey picture of 8 bits, found mode I"),
        ("cut off", r"bad.png: expected a JPEG, PNG or BMP picture, cannot read it"),
        ("no picture", r"bad.png: expected a JPEG, PNG or BMP picture, cannot read it"),
        ("empty", r"bad.png: expected a JPEG, PNG or BMP picture, cannot read it"),
        ("class", r"contempt.im0.png: expected pictures in folders of a class \(Anger, "),
        ("loose", r"preview.png: expected pictures in folders of a class"),
        ("split", r"more.fear.im0.png: expected pictures in folders of a split, such as train"),
        ("twice", r"im0.png: found train.angry.im0.png in .*name the folder that holds each"),
        ("train", r"archive: expected pictures in folders train and test, found none of train"),
        ("test", r"archive: expected pictures in folders train and test, found none of test"),
    ],
)
def test_bad_folders_write_nothing(tmp_path, kind, message):
    root = fill(tmp_path / "archive")
    spoil(root, kind)
    with pytest.raises(UserError, match=message) as caught:
        import_from(root, tmp_path / "Data", COUNTS)
    assert "\n" not in str(caught.value) and not (tmp_path / "Data").exists()


def test_class_folders_alone_have_no_splits(tmp_path):
    root = fill(tmp_path / "archive")
    with pytest.raises(UserError, match="expected pictures in folders of a split"):
        import_from(root / "train", tmp_path / "Data", COUNTS)


def test_a_csv_beside_pictures_is_preferred(tmp_path):
    root = fill(tmp_path / "archive")
    splits = {split: (picture(9)[None], np.array([3], np.uint8)) for split in dataset.SPLITS}
    dataset.store(root, splits)
    import_from(root, tmp_path / "Data", COUNTS)
    assert len(dataset.load(tmp_path / "Data", "train")[0]) == 1


def test_links_in_circles_end(tmp_path):
    (tmp_path / "archive").mkdir()
    try:
        os.symlink(".", str(tmp_path / "archive" / "loop"))
    except OSError:
        pytest.skip("needs links")
    with pytest.raises(UserError, match="found none of them"):
        import_from(tmp_path / "archive", tmp_path / "Data", COUNTS)


def test_pictures_are_recognised_without_being_read(tmp_path):
    assert not folders.hold_pictures(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".x.png").write_bytes(b"")
    assert not folders.hold_pictures(tmp_path)
    (tmp_path / "a" / "x.PNG").write_bytes(b"")
    assert folders.hold_pictures(tmp_path)
