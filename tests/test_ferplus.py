"""FERPlus' votes as labels: who wins, who is left out, and that they belong to the pictures."""

import hashlib
import json

import numpy as np
import pytest

import Download_Data
from src import dataset, ferplus
from src.errors import UserError
from src.names import SPLITS, USAGES
from src.sources import import_from

HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)
COUNTS = dict.fromkeys(SPLITS, [0] * 7)
VOTES = [  # in the order of the header, and the label
    ("4,0,0,1,3,2,0,0,0,0", 6),
    ("0,6,4,0,0,0,0,0,0,0", 3),
    ("0,0,9,0,0,0,1,0,0,0", 5),
    ("0,0,0,5,2,0,0,3,0,0", 4),
    ("1,0,0,0,7,0,0,2,0,0", 0),
    ("0,0,0,0,0,10,0,0,0,0", 1),
    ("0,0,3,0,0,0,4,0,3,0", 2),
    ("4,0,0,4,0,0,0,0,2,0", None),  # two classes
    ("4,0,0,0,0,0,0,4,2,0", None),  # a class and contempt
    ("0,0,0,0,0,0,0,0,0,0", None),  # nobody
    ("2,0,0,0,0,0,0,8,0,0", None),  # contempt
    ("3,0,0,0,0,0,0,0,7,0", None),  # unknown
    ("0,0,0,0,0,0,0,0,1,9", None),  # no face
]
LEFT_OUT = "left out: 1 contempt, 1 unknown, 1 NF (no face), 3 without a majority"


@pytest.fixture(scope="module")
def splits():
    random = np.random.RandomState(3)
    return {
        split: (
            random.randint(0, 256, (len(VOTES), 48, 48)).astype(np.uint8),
            random.randint(0, 7, len(VOTES)).astype(np.uint8),
        )
        for split in SPLITS
    }


def rows(votes=VOTES):
    number, lines = 0, []
    for split in SPLITS:
        for row, _ in votes:
            lines.append(f"{USAGES[split]},fer{number:07}.png,{row}")
            number += 1
    return lines


def write(path, lines, header=HEADER, end="\n"):
    path.write_bytes((end.join([header, *lines]) + end).encode())
    return path


def kaggle(path, splits):
    """Write fer2013.csv."""
    lines = [
        f"{label},{' '.join(map(str, image.ravel()))},{USAGES[split]}"
        for split in SPLITS
        for image, label in zip(*splits[split])
    ]
    return write(path, lines, "emotion,pixels,Usage")


def assert_relabelled(found, splits):
    kept = [i for i, (_, label) in enumerate(VOTES) if label is not None]
    for split in SPLITS:
        images, labels = found[split]
        assert images.dtype == labels.dtype == np.uint8
        np.testing.assert_array_equal(images, splits[split][0][kept])
        assert labels.tolist() == [VOTES[i][1] for i in kept]


def test_most_votes_win(tmp_path, splits, capsys):
    assert_relabelled(ferplus.relabel(splits, write(tmp_path / "new.csv", rows())), splits)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3 and all(line.endswith(LEFT_OUT) for line in out)
    assert out[1].startswith("val: 7 of 13 pictures have a label by the most votes of")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r"])
def test_as_spreadsheets_leave_it(tmp_path, splits, separator, end):
    lines = [row.replace(",", ".0,") + ".0," for row in (votes for votes, _ in VOTES)]
    lines = [f"{number}," + line for number, line in enumerate(rows([(v, 0) for v in lines]))]
    header = "," + HEADER.upper()
    lines = [line.replace(",", separator) for line in [*lines, ",,,"]]
    path = write(tmp_path / "new.csv", lines, header.replace(",", separator), end)
    path.write_bytes(path.read_bytes().decode().encode("utf-16"))
    assert_relabelled(ferplus.relabel(splits, path), splits)


def change(number, line):
    def changed(lines):
        return lines[:number] + ([] if line is None else [line]) + lines[number + 1 :]

    return changed


@pytest.mark.parametrize(
    "changed, message",
    [
        (change(3, None), "expected a row for each of the 13 pictures of Training, found 12"),
        (lambda lines: lines[:13], "of the 13 pictures of PublicTest, found 0"),
        (change(3, "Training,a.png,1,2"), "line 5: expected a Usage and 10 numbers of votes"),
        (change(3, rows()[3].replace("5", "x")), "line 5: expected .*; the row is damaged"),
        (change(3, rows()[3].replace("5", "-5")), "line 5: expected"),
        (change(3, rows()[3].replace("5", "9" * 5000)), "line 5: expected"),
        (change(3, rows()[3].replace("Training", "Trial")), "line 5: expected"),
        (
            lambda lines: lines[:26] + ["PrivateTest,,0,0,0,0,0,0,0,9,0,0"] * 13,
            "no row of PrivateTest with most votes for one class",
        ),
    ],
)
def test_bad_votes(tmp_path, splits, changed, message):
    path = write(tmp_path / "new.csv", changed(rows()))
    with pytest.raises(UserError, match="new.csv.*" + message) as caught:
        ferplus.relabel(splits, path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_other_files_are_no_votes(tmp_path, splits):
    for header in ("emotion,pixels,Usage", HEADER.replace("fear", "joy"), HEADER + ",NF", ""):
        path = write(tmp_path / "new.csv", rows(), header)
        with pytest.raises(UserError, match="new.csv, line .: expected FERPlus' fer2013new.csv"):
            ferplus.relabel(splits, path)
    with pytest.raises(UserError, match="nowhere.csv: could not be read"):
        ferplus.relabel(splits, tmp_path / "nowhere.csv")


def test_votes_alone_are_told_as_what_they_are(tmp_path):
    path = write(tmp_path / "fer2013new.csv", rows())
    for source in (path, tmp_path):
        with pytest.raises(UserError, match="found FERPlus' votes.*--labels .*fer2013new.csv"):
            import_from(source, tmp_path / "Data", COUNTS)


def test_pictures_in_another_order_are_refused(tmp_path, splits):
    labels = write(tmp_path / "labels.csv", rows())

    def digests(split):
        images, found = splits[split]
        each = [bytes([k]) + i.tobytes() for i, k in zip(images, found.tolist())]
        each = sorted(hashlib.sha256(row).digest() for row in each)
        return {
            "in_order": hashlib.sha256(images.tobytes() + found.tobytes()).hexdigest(),
            "any_order": hashlib.sha256(b"".join(each)).hexdigest(),
        }

    fer2013 = {split: digests(split) for split in SPLITS}
    good = kaggle(tmp_path / "fer2013.csv", splits)
    assert import_from(good, tmp_path / "Data", COUNTS, labels=labels, fer2013=fer2013)
    turned = {**splits, "val": tuple(array[::-1] for array in splits["val"])}
    bad = kaggle(tmp_path / "turned.csv", turned)
    with pytest.raises(UserError, match="turned.csv: found FER2013 in another order"):
        import_from(bad, tmp_path / "Other", COUNTS, labels=labels, fer2013=fer2013)
    assert not (tmp_path / "Other").exists()


def test_pictures_in_folders_have_no_rows_to_follow(tmp_path):
    (tmp_path / "train" / "angry").mkdir(parents=True)
    (tmp_path / "train" / "angry" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="found no rows that .*new.csv could follow"):
        import_from(tmp_path, tmp_path / "Data", COUNTS, labels="new.csv")


def test_the_script_takes_labels(tmp_path, splits, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "Data_Settings.json").write_text(json.dumps({"data_folder": "Data"}))
    source = kaggle(tmp_path / "fer2013.csv", splits)
    labels = write(tmp_path / "fer2013new.csv", rows())
    arguments = ["--settings", "mine", "--labels", str(labels)]
    assert Download_Data.main(arguments) == 2
    assert "--labels: expected --from PATH too" in capsys.readouterr().err
    assert Download_Data.main([*arguments, "--from", str(source)]) == 0
    out = capsys.readouterr().out
    assert LEFT_OUT in out and "train: 7 images" in out and "Odd count" not in out
    assert_relabelled({split: dataset.load("Data", split) for split in SPLITS}, splits)
    assert Download_Data.main([*arguments, "--from", "Data"]) == 2  # some rows are left out there
    assert "expected a row for each of the 7 pictures of Training, found 13" in (
        capsys.readouterr().err
    )
