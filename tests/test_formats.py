"""CSVs as spreadsheets, editors and shells leave them: each mark of theirs, alone and together."""

import codecs

import numpy as np
import pytest

from src import formats
from src.delimited import LONGEST_LINE
from src.errors import OtherData, UserError
from src.names import PIXELS, SPLITS, USAGES, label_of, split_of
from src.sources import import_from

LABELS = [3, 0, 6, 1]
PLACES = ["train", "val", "test", "train"]
IMAGES = np.random.RandomState(5).randint(0, 256, (4, 48, 48)).astype(np.uint8)
HEADER = ["emotion", "pixels", "Usage"]
ROWS = [
    [str(label), " ".join(map(str, image.ravel())), USAGES[split]]
    for label, image, split in zip(LABELS, IMAGES, PLACES)
]
WIDE_HEADER = ["emotion", "Usage"] + [f"pixel{i}" for i in range(PIXELS)]
WIDE = [[label, usage, *pixels.split()] for label, pixels, usage in ROWS]
FULL = " ".join(["9"] * PIXELS)


def table(header, rows, separator=",", end="\n"):
    return "".join(separator.join(cells) + end for cells in [header, *rows])


def with_column(position, name, header=HEADER, rows=ROWS):
    """Return header and rows with one more column of row numbers."""
    lines = [list(header), *map(list, rows)]
    for number, cells in enumerate(lines):
        cells.insert(position, name if number == 0 else str(number - 1))
    return lines[0], lines[1:]


@pytest.fixture
def check(tmp_path):
    """A function that writes a table's text or bytes, and checks that it is read as what it is."""

    def write_and_read(content, wide=False):
        path = tmp_path / "fer2013.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = formats.read(path)
        expected = {None: range(4)} if wide else {"train": [0, 3], "val": [1], "test": [2]}
        assert set(found) == set(expected)
        for split, rows in expected.items():
            images, labels = found[split]
            assert images.dtype == labels.dtype == np.uint8
            np.testing.assert_array_equal(images, IMAGES[list(rows)])
            assert labels.tolist() == [LABELS[row] for row in rows]

    return write_and_read


ENCODED = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16 LE": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "UTF-16 BE": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-16 LE without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-16 BE without a mark": lambda text: text.encode("utf-16-be"),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
@pytest.mark.parametrize("encoding", ENCODED)
def test_encodings_separators_and_line_ends(check, encoding, separator, end):
    check(ENCODED[encoding](table(HEADER, ROWS, separator, end)))
    check(ENCODED[encoding](table(WIDE_HEADER, WIDE, separator, end)), wide=True)


@pytest.mark.parametrize("name", ["", "index", "Index", "Unnamed: 0", '"notes, for me"'])
@pytest.mark.parametrize("position", range(4))
def test_other_columns_are_not_read(check, name, position):
    check(table(*with_column(position, name)))


def test_cells_of_other_columns_may_hold_separators(check):
    header, rows = with_column(1, "notes")
    check(table(header, [[a, '"one, two;"', *rest] for a, _, *rest in rows]))


@pytest.mark.parametrize("name", ["", "index", "Unnamed: 0"])
@pytest.mark.parametrize("position", [0, 1, 2, PIXELS + 2])
def test_row_numbers_beside_pixel_columns(check, name, position):
    check(table(*with_column(position, name, WIDE_HEADER, WIDE), ";"), wide=True)


@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_empty_columns_and_rows_at_the_end(check, separator):
    empty = [["", "", ""], ["", ""], [], ["", "", "", "", ""], [" ", '""', ""]]
    check(table(HEADER, ROWS + empty, separator))
    check(table(HEADER + [""] * 2, [row + [""] * 2 for row in ROWS], separator))
    check(table(HEADER + [""] * 2, ROWS, separator))
    check(table(HEADER, [row + [""] * 3 for row in ROWS], separator))
    check(table([], [[], HEADER, [], *ROWS], separator))
    longer = [row + ["", " "] for row in WIDE]
    check(table(WIDE_HEADER, longer + [[""] * len(WIDE[0])], separator), wide=True)


def test_row_numbers_of_empty_rows(check):
    """As pandas numbers the rows of commas at the end of a file."""
    header, rows = with_column(0, "")
    check(table(header, [*rows, ["4", "", "", ""], ["5", " ", '""', ""]]))
    header, rows = with_column(0, "", WIDE_HEADER, WIDE)
    check(table(header, [*rows, ["4"] + [""] * len(WIDE_HEADER)], ";"), wide=True)


def test_surplus_cells_that_hold_something_are_damage(tmp_path):
    path = tmp_path / "fer2013.csv"
    path.write_text(table(HEADER, [ROWS[0] + ["", "7"]]))
    with pytest.raises(UserError, match="line 2: expected 3 columns, found 5"):
        formats.read(path)


@pytest.mark.parametrize(
    "header", [["Emotion", "PIXELS", "usage"], [" emotion ", "\tpixels", "Usage "]]
)
def test_capitals_and_blanks_of_the_header(check, header):
    check(table(header, ROWS))


def test_quotes(check):
    quoted = [[f'"{cell}"' for cell in row] for row in [HEADER, *ROWS]]
    check(table(quoted[0], quoted[1:], ", "))
    check(table(WIDE_HEADER, [[f'"{cell}"' for cell in row] for row in WIDE], ";"), wide=True)
    check("".join(f'"{",".join(row)}"\n' for row in [HEADER, *ROWS]))  # each line one cell


@pytest.mark.parametrize("zeros", [".0", ".", ".000", ",0"])
def test_whole_numbers_as_floats(check, zeros):
    rows = [
        [label + zeros, " ".join(value + zeros for value in pixels.split()), usage]
        for label, pixels, usage in ROWS
    ]
    check(table(HEADER, rows, ";"))
    if zeros != ",0":
        check(table(HEADER, rows))
        wide = [[label, usage, *pixels.split()] for label, pixels, usage in rows]
        check(table(WIDE_HEADER, wide, ","), wide=True)


@pytest.mark.parametrize(
    "row, message",
    [
        (["3.5", FULL, "Training"], r"expected a label 0\.\.\.6, found '3\.5'"),
        (["7.0", FULL, "Training"], r"expected a label .* found '7\.0'"),
        (["\u0663", FULL, "Training"], "expected a label"),
        (["9" * 9000, FULL, "Training"], "expected a label .* found '9{30}'"),
        (["3", FULL[:-1] + "9.5", "Training"], r"pixel 2303: .* found '9\.5'"),
        (["3", FULL[:-1] + "256.0", "Training"], "pixel 2303: .* found '256'"),
        (["3", FULL[:-1] + "9.0.0", "Training"], "pixel 2303: .* found '9.0'"),
        (["3", FULL[:-1] + "1e2", "Training"], "pixel 2303: .* found '1e2'"),
        (["3", FULL[:-1] + "\u0663", "Training"], "pixel 2303: "),
        (["3", FULL[:-1] + "\0", "Training"], "pixel 2303: "),
        (["3", FULL, "Trainingx"], "expected a Usage .* found 'Trainingx'"),
    ],
)
def test_what_is_no_whole_number(tmp_path, row, message):
    path = tmp_path / "fer2013.csv"
    path.write_text(table(HEADER, [ROWS[0], row]), encoding="utf-8")
    with pytest.raises(UserError, match=f"fer2013.csv, line 3: {message}") as caught:
        formats.read(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_lines_without_end_are_read_in_parts(tmp_path, encoding, separator):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(f"emotion{separator}pixels{separator}Usage\n0,".encode(encoding))
    with open(path, "ab") as file:
        file.truncate(50 * LONGEST_LINE)
    with pytest.raises(UserError, match="fer2013.csv, line [12]: ") as caught:
        formats.read(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\xff\xfe\n", b"\xef\xbb\xbf", b",,\n;\n"])
def test_files_of_marks_and_separators_are_empty(tmp_path, content):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match="fer2013.csv(: empty|, line 1: expected the header)"):
        formats.layout(path)


def test_a_damaged_quote_is_one_line(tmp_path):
    path = tmp_path / "fer2013.csv"
    path.write_text(table(HEADER, [ROWS[0], ['"3', FULL, "Training", "a", "b"]]))
    with pytest.raises(UserError, match="line 3: expected 3 columns"):
        formats.read(path)


def write(path, splits, header, usage=True):
    rows = [row if usage else row[:2] for row, split in zip(ROWS, PLACES) if split in splits]
    path.write_text(table(header, rows))
    return path


def test_one_csv_a_split(tmp_path, capsys):
    """Without Usage, the names of the files say which split it is."""
    header = HEADER[:2]
    train = write(tmp_path / "train.csv", ["train"], header, usage=False)
    counts = dict.fromkeys(SPLITS, [0] * 7)
    for source in (train, tmp_path):
        with pytest.raises(UserError, match="train.csv: found `emotion` and .* icml_face_data"):
            import_from(source, tmp_path / "Data", counts)
    write(tmp_path / "Test.CSV", ["test"], header, usage=False)
    write(tmp_path / "valid.csv", ["val"], header, usage=False)
    (tmp_path / "._test.csv").write_bytes(b"\0\5\26\7")
    for source in (train, tmp_path):
        import_from(source, tmp_path / "Data", counts, force=True)
        assert formats.read(tmp_path / "Data" / "data_train.csv")[None][1].tolist() == [3, 1]
        assert formats.read(tmp_path / "Data" / "data_val.csv")[None][1].tolist() == [0]
        assert formats.read(tmp_path / "Data" / "data_test.csv")[None][1].tolist() == [6]
    assert "no validation split" not in capsys.readouterr().out


def test_kaggles_own_test_csv_has_no_labels(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text(table(["pixels"], [[FULL]]))
    for source in (path, tmp_path):
        with pytest.raises(UserError, match="test.csv: found pixels without .*icml_face_data"):
            import_from(source, tmp_path / "Data", dict.fromkeys(SPLITS, [0] * 7))


def test_all_splits_are_preferred_and_found_further_down(tmp_path):
    inner = tmp_path / "archive" / "fer2013"
    inner.mkdir(parents=True)
    (tmp_path / "archive" / "README.txt").write_text("")
    (tmp_path / "__MACOSX").mkdir()
    write(inner / "train.csv", ["train"], HEADER[:2], usage=False)
    write(inner / "icml_face_data.TSV", SPLITS, HEADER)
    import_from(tmp_path, tmp_path / "archive" / "Data", dict.fromkeys(SPLITS, [0] * 7))
    images, labels = formats.read(tmp_path / "archive" / "Data" / "data_train.csv")[None]
    np.testing.assert_array_equal(images, IMAGES[[0, 3]])


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(OtherData, match="could not be read: no file"):
        formats.layout(tmp_path)


@pytest.mark.parametrize(
    "name, label",
    [
        *[("angry", 0), ("Anger", 0), ("0", 0), ("DISGUST", 1), ("fear", 2), ("Happy", 3)],
        *[("happiness", 3), ("4", 4), ("sad", 4), ("Sadness", 4), ("surprised", 5), (" 6", 6)],
        *[("neutral", 6), ("4_neutral", 6), ("3. Happy", 3), ("7", None), ("contempt", None)],
        *[("", None), ("fer2013", None), ("archive (3)", None), ("\u0663", None)],
    ],
)
def test_names_of_classes(name, label):
    assert label_of(name) == label


@pytest.mark.parametrize(
    "name, split",
    [
        *[("Training", "train"), ("TRAIN", "train"), ("PublicTest", "val"), ("public_test", "val")],
        *[("Private Test", "test"), ("validation", "val"), ("valid", "val"), ("test", "test")],
        *[("", None), ("images", None), ("training set", None)],
    ],
)
def test_names_of_splits(name, split):
    assert split_of(name) == split


def test_a_binary_file_is_no_table(tmp_path):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(b'"\0\1,"x\n' * 3)
    with pytest.raises(UserError, match="expected the header"):
        formats.layout(path)


def test_a_limit_counts_the_rows_that_hold_something(tmp_path):
    path = tmp_path / "fer2013.csv"
    empty = [["", "", ""], [" ", '""', ""]]
    path.write_text(table(["", *HEADER], [["1", *row] for row in empty + ROWS]))
    found = formats.read(path, 2)
    assert {split: labels.tolist() for split, (_, labels) in found.items()} == {
        "train": [3],
        "val": [0],
    }
