"""The CSV files: the original's layout byte for byte, both of Kaggle's, every kind of damage."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

import Download_Data
from src import files, settings
from src.dataset import (
    PIXELS,
    SPLITS,
    USAGES,
    OtherData,
    class_shares,
    csv_path,
    describe,
    draw,
    load,
    odd_counts,
    one_hot,
    store,
    verify,
    write_csvs,
)
from src.errors import UserError
from src.sources import import_from

TINY = Path(__file__).parent / "data" / "tiny_data"
COUNTS = {"train": [1, 1, 1, 1, 1, 1, 2], "val": [1] * 7, "test": [1] * 7}


@pytest.fixture
def splits():
    random = np.random.RandomState(0)
    made = {}
    for split, counts in COUNTS.items():
        labels = random.permutation(np.repeat(np.arange(7, dtype=np.uint8), counts))
        made[split] = random.randint(0, 256, (len(labels), 48, 48)).astype(np.uint8), labels
    return made


def kaggle_rows(splits, order="{label},{pixels},{usage}"):
    return [
        order.format(label=label, pixels=" ".join(map(str, image.ravel())), usage=USAGES[split])
        for split in SPLITS
        for image, label in zip(*splits[split])
    ]


def write_kaggle(path, rows, header="emotion,pixels,Usage", end="\n"):
    path.write_bytes((end.join([header] + rows) + end).encode())
    return path


def assert_holds(folder, splits):
    for split in SPLITS:
        for found, expected in zip(load(folder, split), splits[split]):
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, expected)


def test_original_layout_is_reproduced_byte_for_byte(tmp_path):
    for split, rows in zip(SPLITS, (35, 14, 14)):
        images, labels = load(TINY, split)
        assert images.shape == (rows, 48, 48) and images.dtype == np.uint8
        assert labels.tolist() == [i % 7 for i in range(rows)]
        write_csvs({tmp_path / "copy.csv": (images, labels, "x")})
        original = csv_path(TINY, split).read_bytes()
        assert (tmp_path / "copy.csv").read_bytes() == original
    by_pandas = np.array(original.splitlines()[3].split(b";")[2:], int).reshape(48, 48)
    np.testing.assert_array_equal(images[2], by_pandas)


def test_labels_as_one_hot():
    assert one_hot(np.array([6, 0], np.uint8)).tolist() == [[0] * 6 + [1], [1] + [0] * 6]
    assert one_hot(np.array([1])).dtype == np.float32


def test_each_class_keeps_its_share():
    counts = [40, 4, 20, 0]
    assert class_shares(counts, None) == class_shares(counts, 64) == counts
    assert class_shares(counts, 16) == [10, 1, 5, 1]
    assert class_shares(counts, 7) == [4, 1, 2, 1]


def test_limit_stops_early(tmp_path):
    lines = csv_path(TINY, "val").read_bytes().splitlines(keepends=True)
    csv_path(tmp_path, "val").write_bytes(b"".join(lines[:4]) + b"damaged\n")
    images, labels = load(tmp_path, "val", limit=3)
    assert len(images) == len(labels) == 3
    with pytest.raises(UserError):
        load(tmp_path, "val", limit=4)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "header, order",
    [
        ("emotion,pixels,Usage", "{label},{pixels},{usage}"),
        ("emotion, Usage, pixels", "{label},{usage},{pixels}"),
        ('"emotion","pixels","Usage"', '"{label}","{pixels}","{usage}"'),
        ("\ufeffemotion,pixels,Usage", "{label},{pixels},{usage}"),
    ],
)
def test_kaggle_layouts(tmp_path, splits, header, order, end, capsys):
    source = write_kaggle(tmp_path / "any.txt", kaggle_rows(splits, order), header, end)
    assert import_from(source, tmp_path / "Data", COUNTS)
    assert_holds(tmp_path / "Data", splits)
    assert "Odd" not in capsys.readouterr().out
    assert not import_from(source, tmp_path / "Data", COUNTS), "the same again is not written"
    assert sorted(p.name for p in (tmp_path / "Data").iterdir()) == [
        "data_test.csv",
        "data_train.csv",
        "data_val.csv",
    ]


def test_blank_lines_are_no_rows(tmp_path, splits):
    source = write_kaggle(tmp_path / "fer2013.csv", kaggle_rows(splits) + ["", ""])
    import_from(source, tmp_path / "Data", COUNTS)
    assert_holds(tmp_path / "Data", splits)


def test_original_layout_and_folders_as_sources(tmp_path, splits):
    store(tmp_path / "a", splits)
    import_from(tmp_path / "a", tmp_path / "b", COUNTS)
    import_from(csv_path(tmp_path / "b", "val"), tmp_path / "c", COUNTS)
    assert_holds(tmp_path / "c", splits)
    import_from(tmp_path / "c", tmp_path / "c", COUNTS)
    assert_holds(tmp_path / "c", splits)
    (tmp_path / "k").mkdir()
    write_kaggle(tmp_path / "k" / "icml.csv", kaggle_rows(splits))
    (tmp_path / "k" / "a_train.csv").write_text("emotion,pixels\n")
    import_from(tmp_path / "k", tmp_path / "d", COUNTS)
    assert_holds(tmp_path / "d", splits)


def test_other_rows_replace_what_is_there(tmp_path, splits):
    store(tmp_path, splits)
    images, labels = splits["val"]
    changed = {**splits, "val": (images[::-1], labels[::-1])}
    with pytest.raises(OtherData, match="data_val.csv: found 7 other rows.*--force replaces it"):
        store(tmp_path, changed)
    assert_holds(tmp_path, splits)
    assert store(tmp_path, changed, force=True)
    assert_holds(tmp_path, changed)
    csv_path(tmp_path, "test").write_bytes(b"broken")
    assert store(tmp_path, changed)
    assert_holds(tmp_path, changed)
    write_kaggle(csv_path(tmp_path, "val"), kaggle_rows(splits))
    with pytest.raises(OtherData, match="data_val.csv: found 22 other rows"):
        store(tmp_path, changed)


def digests(splits):
    """Return "fer2013_sha256" of the settings if `splits` were FER2013."""
    sha256 = hashlib.sha256
    made = {}
    for split, (images, labels) in splits.items():
        rows = [sha256(bytes([k]) + i.tobytes()).digest() for i, k in zip(images, labels.tolist())]
        made[split] = {
            "in_order": sha256(images.tobytes() + labels.tobytes()).hexdigest(),
            "any_order": sha256(b"".join(sorted(rows))).hexdigest(),
        }
    return made


def test_what_the_data_are_is_told(splits):
    data = {"source": "download", "class_counts": COUNTS, "fer2013_sha256": digests(splits)}
    assert describe(splits, data) == "FER2013, unchanged"
    images, labels = splits["val"]
    turned = {**splits, "val": (images[::-1], labels[::-1])}
    assert describe(turned, data) == "FER2013 in another order"
    swapped = {**splits, "val": (images, labels[::-1])}
    assert describe(swapped, data) == "other data: val (7 rows, expected 7)"
    cleaned = {split: (images[1:], labels[1:]) for split, (images, labels) in splits.items()}
    del cleaned["test"]
    found = describe(cleaned, data)
    assert found == "other data: train (7 rows, expected 8), val (6 rows, expected 7)"
    assert "fer2013_sha256 is null" in describe(splits, {**data, "fer2013_sha256": None})
    drawn = {"source": "sample", "sample_seed": 1, "class_counts": COUNTS}
    assert describe(draw(drawn), drawn) == "drawn sample"
    assert describe(splits, drawn).startswith("other data: train (8 rows, expected 8)")


def test_the_real_data_are_recognised(fer2013):
    """In the order of Kaggle's file, as its MD5 proves (see unpack.py there)."""
    data = settings.load(settings.DEFAULTS).data
    assert describe(fer2013, data) == "FER2013, unchanged"
    turned = {split: (images[::-1], labels[::-1]) for split, (images, labels) in fer2013.items()}
    assert describe(turned, data) == "FER2013 in another order"


def test_a_file_of_other_content_is_not_the_one_expected(tmp_path, splits):
    store(tmp_path, splits)
    path = csv_path(tmp_path, "val")
    verify(path, "val", COUNTS["val"], digests(splits))
    images = splits["val"][0].copy()
    images[0, 0, 0] ^= 1
    store(tmp_path, {"val": (images, splits["val"][1])}, force=True)
    with pytest.raises(OtherData, match="data_val.csv: expected the val split of FER2013"):
        verify(path, "val", COUNTS["val"], digests(splits))


def test_odd_counts_are_reported_not_refused(tmp_path, splits, capsys):
    assert odd_counts(splits["val"][1], "val", COUNTS["val"]) == []
    source = write_kaggle(tmp_path / "fer2013.csv", kaggle_rows(splits))
    odd = {**COUNTS, "val": [1, 1, 5, 1, 1, 1, 1]}
    assert import_from(source, tmp_path / "Data", odd)
    assert "val, Fear: expected 5 images, found 1" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"data_val.csv: val, Fear: expected 5 images, found 1"):
        verify(csv_path(tmp_path / "Data", "val"), "val", odd["val"])


def damaged(change):
    """Lines of a valid CSV in the original layout, one of its rows changed."""
    lines = csv_path(TINY, "val").read_bytes().splitlines()
    lines[3] = b";".join(change(lines[3].split(b";")))
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (csv_path(TINY, "val").read_bytes().split(b"\n")[0] + b"\n", "no rows"),
        (csv_path(TINY, "val").read_bytes()[:-500], r"line 15: expected 2306 columns, found 2\d+"),
        (damaged(lambda row: row[:-1]), "line 4: expected 2306 columns, found 2305"),
        (damaged(lambda row: row + [b"7"]), "line 4: expected 2306 columns, found 2307"),
        (damaged(lambda row: row[:-1] + [b""]), "line 4: pixel 2303: .* found ''"),
        (damaged(lambda row: row[:9] + [b"256"] + row[10:]), "line 4: pixel 7: .* found '256'"),
        (damaged(lambda row: row[:9] + [b"-1"] + row[10:]), "line 4: pixel 7: .* found '-1'"),
        (damaged(lambda row: row[:9] + [b"1.5"] + row[10:]), "line 4: pixel 7: .* found '1.5'"),
        (damaged(lambda row: row[:9] + [b"65536"] + row[10:]), "line 4: pixel 7: .* '65536'"),
        (damaged(lambda row: row[:-1] + [b"5 x"]), "line 4: pixel 2303: .* found '5 x'"),
        (damaged(lambda row: [b"7"] + row[1:]), r"line 4: expected a label 0\.\.\.6, found '7'"),
        (damaged(lambda row: [b"joy"] + row[1:]), "line 4: expected a label .* found 'joy'"),
        (b"<!DOCTYPE html><html></html>\n", "line 1: expected the header"),
        (b"PK\x03\x04" + bytes(range(256)) * 1000, "line 1: expected the header"),
        (b"emotion,pixels,Usage\n", "expected the original layout"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_damaged_original_layout(tmp_path, content, message):
    path = csv_path(tmp_path, "val")
    path.write_bytes(content)
    with pytest.raises(UserError, match="data_val.csv.*" + message) as caught:
        load(tmp_path, "val")
    assert "\n" not in str(caught.value)


def replace_row(number, row):
    def change(rows):
        return rows[:number] + ([row] if row is not None else []) + rows[number + 1 :]

    return change


FULL = " ".join(["9"] * PIXELS)


@pytest.mark.parametrize(
    "change, message",
    [
        (replace_row(2, f"0,{FULL[:-4]},Training"), "line 4: expected 2304 pixels, found 2302"),
        (replace_row(2, f"0,{FULL} 9,Training"), "line 4: expected 2304 pixels, found 2305"),
        (replace_row(2, f"0,{FULL}"), "line 4: expected 3 columns, found 2"),
        (replace_row(2, f"0,{FULL},training set"), "line 4: .*Usage.* found 'training set'"),
        (replace_row(2, f"9,{FULL},Training"), "line 4: expected a label"),
        (replace_row(2, f"0,{FULL[:-1]}x,Training"), "line 4: pixel 2303"),
        (replace_row(2, f"0,{FULL[:-1]}300,Training"), "line 4: pixel 2303"),
        (lambda rows: rows[:8], "no rows with Usage 'PublicTest'"),
        (lambda rows: rows[:-7], "no rows with Usage 'PrivateTest'"),
        (lambda rows: [], "no rows"),
    ],
)
def test_damaged_kaggle_layout_writes_nothing(tmp_path, splits, change, message):
    source = write_kaggle(tmp_path / "fer2013.csv", change(kaggle_rows(splits)))
    with pytest.raises(UserError, match="fer2013.csv.*" + message):
        import_from(source, tmp_path / "Data", COUNTS)
    assert not (tmp_path / "Data").exists()


def test_a_column_twice_is_told(tmp_path):
    source = tmp_path / "fer2013.csv"
    source.write_text(f"emotion,emotion,pixels,Usage\n0,1,{FULL}\n")
    with pytest.raises(UserError, match="line 1: expected the header"):
        import_from(source, tmp_path / "Data", COUNTS)


def test_missing_sources(tmp_path, splits):
    with pytest.raises(UserError, match="nowhere.csv: not found"):
        import_from(tmp_path / "nowhere.csv", tmp_path, COUNTS)
    with pytest.raises(UserError, match="found none of them"):
        import_from(tmp_path, tmp_path, COUNTS)
    with pytest.raises(UserError, match="data_train.csv: not found; run Download_Data.py"):
        load(tmp_path, "train")
    store(tmp_path / "a", splits)
    csv_path(tmp_path / "a", "test").unlink()
    with pytest.raises(UserError, match="data_test.csv: not found"):
        import_from(tmp_path / "a", tmp_path / "b", COUNTS)
    assert not (tmp_path / "b").exists()


def test_what_cannot_be_read_is_not_replaced(tmp_path, splits):
    csv_path(tmp_path, "val").mkdir()
    for force in (False, True):
        with pytest.raises(OtherData, match="data_val.csv: could not be read"):
            store(tmp_path, splits, force)
    with pytest.raises(OtherData, match="data_val.csv: could not be read"):
        verify(csv_path(tmp_path, "val"), "val", COUNTS["val"])
    assert [path.name for path in tmp_path.iterdir()] == ["data_val.csv"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path, splits):
    os.mkfifo(str(csv_path(tmp_path, "val")))
    os.mkfifo(str(tmp_path / "fer2013.csv"))
    with pytest.raises(OtherData, match="data_val.csv: could not be read: no file"):
        store(tmp_path, splits)
    with pytest.raises(OtherData, match="data_val.csv: could not be read: no file"):
        verify(csv_path(tmp_path, "val"), "val", COUNTS["val"])
    with pytest.raises(UserError, match="found none of them"):
        import_from(tmp_path, tmp_path / "a", COUNTS)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, splits, monkeypatch):
    store(tmp_path, splits)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "ab")
    blocked = tmp_path / f"data_test.csv.{os.getpid()}-ab.part"
    blocked.mkdir()  # can't be opened as a file
    images, labels = splits["train"]
    with pytest.raises(UserError, match=f"{blocked.name}: could not be written"):
        store(tmp_path, {**splits, "train": (images[::-1], labels)}, force=True)
    blocked.rmdir()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_script_draws_the_sample_and_imports(tmp_path, splits, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    counts = '{"train": [2,1,1,1,1,1,2], "val": [1,1,1,1,1,1,1], "test": [1,1,1,1,1,1,1]}'
    (tmp_path / "mine" / "Data_Settings.json").write_text(
        f'{{"source": "sample", "data_folder": "Drawn", "class_counts": {counts}}}'
    )
    assert Download_Data.main(["--settings", "mine"]) == 0
    out = capsys.readouterr().out
    assert "train: 9 images" in out and out.endswith("data: drawn sample\n")
    drawn = {split: load("Drawn", split) for split in SPLITS}
    assert np.bincount(drawn["train"][1]).tolist() == [2, 1, 1, 1, 1, 1, 2]
    val, test = (drawn[split][0][np.argsort(drawn[split][1])] for split in ("val", "test"))
    assert not any(np.array_equal(a, b) for a, b in zip(val, test)), "splits share no picture"
    left = csv_path("Drawn", "val").with_name("data_val.csv.4321-0123abcd.part")
    left.write_text("of a killed import")
    assert Download_Data.main(["--settings", "mine"]) == 0
    assert "already there: Drawn" in capsys.readouterr().out and not left.exists()

    source = write_kaggle(tmp_path / "fer2013.csv", kaggle_rows(splits))
    arguments = ["--settings", "mine", "--from", str(source)]
    assert Download_Data.main(arguments) == 2
    assert "data_train.csv: found 9 other rows" in capsys.readouterr().err
    assert_holds("Drawn", drawn)
    assert Download_Data.main([*arguments, "--force"]) == 0
    out = capsys.readouterr().out
    assert "data: other data: train (8 rows, expected 9)" in out
    assert "train, Anger: expected 2 images, found 1" in out and "train: 8 images" in out
    assert_holds("Drawn", splits)
    assert Download_Data.main(["--settings", "mine", "--from", "nowhere"]) == 2
    assert "nowhere: not found" in capsys.readouterr().err
