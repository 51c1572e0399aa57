"""FER2013 as arrays: its CSV files read, written and imported (REFERENCE.md section 2).

Two CSV layouts are known, and recognised by their header line, never by the file's name:

* the original project's, one file per split, `;`-separated: label, a column that is not used, and
  2304 pixel columns;
* Kaggle's, one file for all splits, `,`-separated: `emotion`, `pixels` (2304 numbers with blanks
  between) and `Usage`, in any order: `fer2013.csv` and `icml_face_data.csv`.

Files are read line by line, so memory holds little more than the uint8 images (66 MB for the
28,709 training images).

Rows that read well may be the user's own, cleaned by hand: they are replaced only by force.
"""

import hashlib
import warnings
from functools import partial
from pathlib import Path

import numpy as np

from src import sample
from src.errors import UserError
from src.files import replace_all

CLASSES = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral")
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}  # Kaggle's names
SPLITS = tuple(USAGES)
SIZE = 48
PIXELS = SIZE * SIZE

KAGGLE_COLUMNS = {"emotion", "pixels", "usage"}
LONGEST_LINE = 1 << 16  # bytes; twice a header, so that a binary file is not read as one line
KEPT = "it may be yours and is kept; --force replaces it"
DIGITS = [b"%d" % value for value in range(256)]


class OtherData(UserError):
    """A CSV holds other rows than those expected, or may not be read: it is not a damaged one."""


def csv_path(data_folder, split):
    """Return where the CSV of a split lies."""
    return Path(data_folder) / f"data_{split}.csv"


def load(data_folder, split, limit=None):
    """Return a split's images uint8 (N, 48, 48) and labels uint8 (N,), in the file's order.

    `limit` stops after that many rows. Raises UserError naming file and line if anything is wrong.
    """
    path = csv_path(data_folder, split)
    if not path.is_file():
        raise UserError(f"{path}: not found; run Download_Data.py first")
    if _layout(path) != "original":
        raise UserError(
            f"{path}: expected the original layout (one split, `;` between columns), found "
            f"Kaggle's; import it with `python Download_Data.py --from {path}`"
        )
    return _read(path, limit)[None]


def verify(path, split, expected_counts, fer2013=None):
    """Return (images, labels) of one original-layout CSV, which must hold just what is expected.

    expected_counts: images per class. fer2013: `fer2013_sha256` of the data settings, or None where
    other data are expected. Raises OtherData if the file reads well but holds other rows, else
    UserError if it is damaged.
    """
    path = Path(path)
    if _layout(path) != "original":
        _read(path)
        raise OtherData(f"{path}: expected the original layout (`;` between columns)")
    images, labels = _read(path)[None]
    odd = odd_counts(labels, split, expected_counts)
    if odd:
        raise OtherData(f"{path}: {odd[0]}; the file is incomplete or another one")
    if fer2013 and _order(fer2013[split], images, labels) is None:
        raise OtherData(
            f"{path}: expected the {split} split of FER2013, found other pixels or labels; with "
            '"fer2013_sha256": null in Data_Settings.json other data are welcome'
        )
    return images, labels


def longest_csv(counts):
    """Return how many bytes a CSV of these images per class can have, generously."""
    return LONGEST_LINE + sum(counts) * (6 * PIXELS + 64)


def describe(splits, data):
    """Return what loaded `splits` ({split: (images, labels)}, whole ones) are, in words.

    data: the data settings. "FER2013, unchanged"; "FER2013 in another order"; "drawn sample"; or
    "other data" with the splits that differ and their numbers of rows. Digests tell that rows
    differ, not how many.
    """
    if data["source"] == "sample":
        drawn = draw(data)
        same = [split for split in splits if _equal(splits[split], drawn[split])]
        name = "drawn sample"
    elif data["fer2013_sha256"] is None:
        return "other data than FER2013 (fer2013_sha256 is null)"
    else:
        digests = data["fer2013_sha256"]
        orders = {split: _order(digests[split], *splits[split]) for split in splits}
        same = [split for split in splits if orders[split]]
        moved = "in any order" in {orders[split] for split in same}
        name = "FER2013 in another order" if moved else "FER2013, unchanged"
    others = [
        f"{split} ({len(splits[split][1])} rows, expected {sum(data['class_counts'][split])})"
        for split in splits
        if split not in same
    ]
    return "other data: " + ", ".join(others) if others else name


def draw(data):
    """Return {split: (images, labels)} of the drawn sample; every split has a seed of its own."""
    seed, counts = data["sample_seed"], data["class_counts"]
    return {
        split: sample.draw(seed * len(SPLITS) + i, counts[split]) for i, split in enumerate(SPLITS)
    }


def _order(digests, images, labels):
    """Return "in order" or "in any order" as a split's SHA-256 digests are met, else None.

    in_order: of all pixels and then all labels. any_order: of the rows' own digests (label, then
    pixels), sorted.
    """
    digest = hashlib.sha256(np.ascontiguousarray(images))
    digest.update(np.ascontiguousarray(labels))
    if digest.hexdigest() == digests["in_order"]:
        return "in order"
    rows = sorted(
        hashlib.sha256(bytes([label]) + image.tobytes()).digest()
        for image, label in zip(images, labels.tolist())
    )
    if hashlib.sha256(b"".join(rows)).hexdigest() == digests["any_order"]:
        return "in any order"
    return None


def _equal(some, others):
    return all(np.array_equal(a, b) for a, b in zip(some, others))


def one_hot(labels):
    """Return labels (N,) as float32 (N, 7): 1 in the label's column."""
    return np.eye(len(CLASSES), dtype=np.float32)[labels]


def class_shares(counts, limit):
    """Return how many images of each class to take, about `limit` in all (None: every one).

    counts: images of each class. Each class keeps its share, and at least one image.
    """
    total = sum(counts)
    if limit is None or limit >= total:
        return counts
    return [max(1, round(count * limit / total)) for count in counts]


def odd_counts(labels, split, expected_counts):
    """Return one line of text per class whose number of images is not the expected one."""
    counts = np.bincount(labels, minlength=len(CLASSES))
    return [
        f"{split}, {name}: expected {expected} images, found {found}"
        for name, expected, found in zip(CLASSES, expected_counts, counts)
        if found != expected
    ]


def store(data_folder, splits, force=False):
    """Write `splits` ({split: (images, labels)}) to a folder, unless the same is there already.

    All files are complete before the first one takes its name. Returns whether it wrote. Raises
    OtherData, with nothing written, if a CSV of other rows is there, unless `force`.
    """
    there = {split: _there(csv_path(data_folder, split)) for split in splits}
    other = [s for s in splits if None not in there[s] or not _equal(there[s][None], splits[s])]
    if not other:
        return False
    for split in other:
        if there[split] and not force:
            found = sum(len(labels) for _, labels in there[split].values())
            raise OtherData(f"{csv_path(data_folder, split)}: found {found} other rows; {KEPT}")
    write_csvs({csv_path(data_folder, s): (*arrays, USAGES[s]) for s, arrays in splits.items()})
    return True


def write_csvs(files):
    """Write {path: (images uint8 (N, 48, 48), labels (N,), usage)} in the original's layout.

    `usage` (text) fills the column that is not used. All files are complete before the first one
    takes its name. Raises UserError if the disk refuses.
    """
    header = ";".join(["emotion", "Usage"] + [f"pixel{i}" for i in range(PIXELS)]) + "\n"
    try:
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
        with replace_all(files) as parts:
            for part, (images, labels, usage) in zip(parts, files.values()):
                with open(part, "wb") as file:
                    file.write(header.encode())
                    for image, label in zip(images, labels):
                        text = b";".join(map(DIGITS.__getitem__, image.tobytes()))
                        file.write(b"%d;%s;%s\n" % (label, usage.encode(), text))
    except OSError as error:
        raise UserError(
            f"{error.filename}: could not be written: {error.strerror or error}: make room or "
            "permit it, and run the command again"
        ) from None


def import_from(path, data_folder, expected_counts, force=False):
    """Import FER2013 from a user's own files into the three CSVs of `data_folder`.

    `path`: a CSV in Kaggle's layout, the folder with the three CSVs of the original layout, one of
    those three, or a folder with Kaggle's CSV. The official splits and the order of rows are kept.
    Counts other than `expected_counts` ({split: images per class}) are printed, not refused, since
    the data are the user's own. Returns whether files were written (they may be there already).
    Raises UserError, with nothing written, if a row is damaged, a split is missing, or other rows
    than these are there and `force` is not given.
    """
    path = _source(Path(path))
    if path.is_dir():
        splits = {split: load(path, split) for split in SPLITS}
    else:
        splits = _read(path)
        for split in SPLITS:
            if split not in splits:
                raise UserError(f"{path}: no rows with Usage {USAGES[split]!r} ({split} split)")
    for split in SPLITS:
        for line in odd_counts(splits[split][1], split, expected_counts[split]):
            print(f"Odd count in {path}: {line}", flush=True)
    return store(data_folder, splits, force)


def _source(path):
    """Return what `path` means as a source: a Kaggle CSV, or a folder with the three CSVs."""
    if path.is_file():
        return path if _layout(path) == "Kaggle" else path.parent
    if not path.is_dir():
        raise UserError(f"{path}: not found; give fer2013.csv, icml_face_data.csv or a folder")
    if any(csv_path(path, split).is_file() for split in SPLITS):
        return path
    for candidate in sorted(path.glob("*.csv")):
        if candidate.is_file() and KAGGLE_COLUMNS == set(_columns(_header(candidate), b",")):
            return candidate
    raise UserError(
        f"{path}: expected data_train.csv, data_val.csv and data_test.csv, or Kaggle's fer2013.csv "
        "or icml_face_data.csv; found none of them"
    )


def _header(path):
    if not path.is_file():  # a pipe would be waited for
        raise OtherData(f"{path}: could not be read: no file; move it elsewhere")
    try:
        with open(path, "rb") as file:
            return file.readline(LONGEST_LINE)
    except OSError as error:
        # Nobody knows what it holds: not damaged, as far as replacing it goes.
        raise OtherData(f"{path}: could not be read: {error.strerror}") from None


def _columns(header, separator):
    names = header.decode("utf-8-sig", "replace").split(separator.decode())
    return [name.strip().strip('"').strip().lower() for name in names]


def _layout(path):
    """Return "original" or "Kaggle"; raise UserError for anything else."""
    header = _header(path)
    if header.count(b";") == PIXELS + 1:
        return "original"
    names = _columns(header, b",")
    if KAGGLE_COLUMNS == set(names) and len(names) == len(KAGGLE_COLUMNS):
        return "Kaggle"
    if not header.strip():
        raise UserError(f"{path}: empty, expected a header line; delete it and fetch it again")
    found = ", ".join(names)[:60]
    raise UserError(
        f"{path}, line 1: expected the header `emotion,pixels,Usage` or {PIXELS + 2} columns with "
        f"`;` between, found {found!r}; unpack archives first"
    )


def _read(path, limit=None):
    """Return {split: (images, labels)} of a CSV; the original layout's one split is None."""
    if _layout(path) == "Kaggle":
        names = _columns(_header(path), b",")
        fields = partial(_kaggle_fields, *map(names.index, ("emotion", "pixels", "usage")))
        separator = b" "
    else:
        fields, separator = _original_fields, b";"
    pixels, labels = {}, {}
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # older NumPy's word for unparsed text
        file.readline(LONGEST_LINE)
        for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), b""), start=2):
            if number - 2 == limit:
                break
            if line.isspace():
                continue
            try:
                label, text, split = fields(line.replace(b'"', b""))
                row = _parse_pixels(text.strip(), separator)
                pixels.setdefault(split, bytearray()).extend(row)
                labels.setdefault(split, bytearray()).append(_parse_label(label.strip()))
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}") from None
    if not labels:
        raise UserError(f"{path}: a header but no rows; delete it and fetch it again")
    return {
        split: (
            np.frombuffer(pixels[split], np.uint8).reshape(-1, SIZE, SIZE),
            np.frombuffer(labels[split], np.uint8),
        )
        for split in labels
    }


def _original_fields(line):
    if line.count(b";") != PIXELS + 1:
        found = line.count(b";") + 1
        raise ValueError(f"expected {PIXELS + 2} columns, found {found}; the row is damaged")
    label, _, text = line.split(b";", 2)
    return label, text, None


def _kaggle_fields(emotion, pixels, usage, line):
    row = line.split(b",")
    if len(row) != 3:
        raise ValueError(f"expected 3 columns, found {len(row)}; the row is damaged")
    name = row[usage].strip().decode("ascii", "replace")
    for split, known in USAGES.items():
        if name == known:
            return row[emotion], row[pixels], split
    raise ValueError(f"expected a Usage of {', '.join(USAGES.values())}, found {name[:30]!r}")


def _parse_label(text):
    if not (text.isdigit() and int(text) < len(CLASSES)):
        found = text[:30].decode("ascii", "replace")
        raise ValueError(f"expected a label 0...{len(CLASSES) - 1}, found {found!r}")
    return int(text)


def _parse_pixels(text, separator):
    """Return 2304 bytes from their decimal numbers; np.fromstring is the fast way, not the judge
    of what is wrong: whatever it stumbles over is looked at again, value by value."""
    try:
        values = np.fromstring(text, np.int64, sep=separator.decode())
        if values.size == PIXELS and values.min() >= 0 and values.max() <= 255:
            return values.astype(np.uint8).tobytes()
    except (ValueError, DeprecationWarning):
        pass
    values = text.split(separator)
    for index, value in enumerate(values):
        if not (value.strip().isdigit() and int(value) <= 255):
            found = value[:30].decode("ascii", "replace")
            raise ValueError(f"pixel {index}: expected an integer 0...255, found {found!r}")
    raise ValueError(f"expected {PIXELS} pixels, found {len(values)}; the row is damaged")


def _there(path):
    """Return what `_read` does of a file; {} if there is none or it is damaged."""
    try:
        return _read(path) if path.exists() else {}
    except OtherData:
        raise
    except UserError:
        return {}
