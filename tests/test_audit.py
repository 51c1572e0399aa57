"""What is odd about the data: copies, their labels and splits, pictures of one value."""

import json

import numpy as np
import pytest
from PIL import Image

import Audit_Data
from src import audit, dataset, plots
from src.names import SPLITS


def picture(number):
    if number == 0:
        return np.full((48, 48), 7, np.uint8)
    return np.random.RandomState(number).randint(0, 256, (48, 48)).astype(np.uint8)


ROWS = {  # (picture, label); picture 0 has one value
    "train": [(1, 0), (2, 3), (1, 0), (3, 4), (0, 0), (0, 6), (4, 5)],
    "val": [(5, 1), (2, 3), (0, 5)],
    "test": [(2, 2), (3, 4), (6, 6), (7, 1), (7, 1)],
}
SPLITS_OF_ROWS = {
    split: (
        np.stack([picture(number) for number, _ in rows]),
        np.array([label for _, label in rows], np.uint8),
    )
    for split, rows in ROWS.items()
}


@pytest.fixture(scope="module")
def record():
    return audit.audit(SPLITS_OF_ROWS)


def test_counts(record):
    found = {split: list(of.values())[:3] for split, of in record["splits"].items()}
    assert found == {"train": [7, 5, 2], "val": [3, 3, 1], "test": [5, 4, 0]}
    assert record["splits"]["train"]["classes"]["Anger"] == 3
    assert sum(record["splits"]["test"]["classes"].values()) == 5
    assert record["distinct"] == 8


def test_pictures_in_two_splits(record):
    shared = {
        (pair["of"], pair["in"]): (pair["pictures"], pair["other_label"])
        for pair in record["shared"]
    }
    assert shared == {
        ("train", "val"): (3, 2),  # 2 and twice 0, which has neither label there
        ("train", "test"): (2, 1),
        ("val", "train"): (2, 1),
        ("val", "test"): (1, 1),
        ("test", "train"): (2, 1),
        ("test", "val"): (1, 1),
    }


def test_groups_of_copies(record):
    assert [(g["labels"], len(g["copies"]), g["constant"]) for g in record["groups"]] == [
        *[(3, 3, True), (2, 3, False), (1, 2, False), (1, 2, False), (1, 2, False)]
    ]
    assert record["groups"][1]["copies"] == [
        {"split": "train", "row": 1, "label": "Happiness"},
        {"split": "val", "row": 1, "label": "Happiness"},
        {"split": "test", "row": 0, "label": "Fear"},
    ]


def test_images_seen_elsewhere():
    test, train = SPLITS_OF_ROWS["test"][0], SPLITS_OF_ROWS["train"][0]
    assert audit.seen(test, train).tolist() == [True, True, False, False, False]
    assert audit.seen(test, train[:0]).tolist() == [False] * 5


def test_report(record):
    text = audit.report(record)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["train", "7", "5", "2", "3", "0", "0", "1", "1", "1", "1"] in rows
    assert ["all", "15", "8", "3", "3", "3", "1", "2", "2", "2", "2"] in rows
    assert ["test", "train", "2", "1"] in rows
    assert text.endswith(
        "5 pictures are there more than once, 12 times in all; 2 of them under different labels, "
        "6 times"
    )


def test_captions(record):
    images, captions = audit.sheet(SPLITS_OF_ROWS, record, limit=3)
    np.testing.assert_array_equal(images, [picture(0), picture(2), picture(1)])
    assert captions == [
        "Anger: train\nNeutral: train\nSurprise: val",
        "Happiness: train, val\nFear: test",
        "Anger: 2 x train",
    ]


def run(tmp_path, splits, capsys):
    settings, data = tmp_path / "Settings", tmp_path / "Data"
    settings.mkdir(exist_ok=True)
    (settings / "Data_Settings.json").write_text(json.dumps({"data_folder": str(data)}))
    if splits:
        dataset.store(data, splits, force=True)
    code = Audit_Data.main(["--settings", str(settings)])
    return (code, data, *capsys.readouterr())


def test_the_script_writes_beside_the_data(tmp_path, record, capsys):
    code, data, out, _ = run(tmp_path, SPLITS_OF_ROWS, capsys)
    before = {split: dataset.csv_path(data, split).read_bytes() for split in SPLITS}
    assert code == 0 and audit.report(record) in out
    assert json.loads((data / "audit.json").read_text()) == record
    with Image.open(data / "audit.png") as image:
        assert image.format == "PNG" and len(np.unique(np.asarray(image.convert("L")))) > 10
    left = data / "audit.json.4321-0123abcd.part"
    left.write_text("of a killed one")
    assert run(tmp_path, None, capsys)[0] == 0
    assert sorted(path.name for path in data.iterdir()) == [
        *["audit.json", "audit.png", "data_test.csv", "data_train.csv", "data_val.csv"]
    ]
    assert {split: dataset.csv_path(data, split).read_bytes() for split in SPLITS} == before


def test_data_without_copies(tmp_path, capsys):
    splits = {
        split: (picture(number + 1)[None], np.array([number], np.uint8))
        for number, split in enumerate(SPLITS)
    }
    code, data, out, _ = run(tmp_path, splits, capsys)
    assert code == 0 and "0 pictures are there more than once, 0 times in all" in out
    assert json.loads((data / "audit.json").read_text())["groups"] == []
    assert (data / "audit.png").is_file()


def test_the_real_data(fer2013):
    """34,034 of FER2013's 35,887 pictures are distinct, and 12 are of one value."""
    record = audit.audit(fer2013)
    assert record["distinct"] == 34034
    assert sum(of["constant"] for of in record["splits"].values()) == 12
    assert sum(len(group["copies"]) - 1 for group in record["groups"]) == 35887 - 34034
    assert audit.seen(fer2013["test"][0], fer2013["train"][0]).sum() == 288


def test_missing_data_say_what_to_do(tmp_path, capsys):
    code, data, out, error = run(tmp_path, None, capsys)
    assert code == 2 and "data_train.csv: not found; run Download_Data.py first" in error
    assert not data.exists()


def test_a_sheet_that_cannot_be_drawn_is_a_warning(tmp_path, capsys, monkeypatch):
    def draw(*args):
        raise RuntimeError("no font")

    monkeypatch.setattr(plots, "captioned_sheet", draw)
    code, data, _, error = run(tmp_path, SPLITS_OF_ROWS, capsys)
    assert code == 0 and "audit.png: could not be written: no font" in error
    assert (data / "audit.json").is_file()
