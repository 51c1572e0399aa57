"""FER2013 as arrays: the three CSVs of the data folder, read, checked and written (REFERENCE.md
section 2).

They are in the original project's layout: one file per split, `;` between label, a column that is
not used, and 2304 pixel columns. src/formats.py reads it, src/sources.py imports others.

Rows that read well may be the user's own, cleaned by hand: they are replaced only by force.
"""

import hashlib
from pathlib import Path

import numpy as np

from src import formats, sample
from src.delimited import LONGEST_LINE
from src.errors import OtherData, UserError
from src.files import replace_all
from src.names import CLASSES, PIXELS, SPLITS, USAGES

KEPT = "it may be yours and is kept; --force replaces it"
DIGITS = [b"%d" % value for value in range(256)]


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
    if formats.layout(path).name != formats.ORIGINAL:
        raise UserError(
            f"{path}: expected the original layout (one split, `;` between columns), found "
            f"Kaggle's; import it with `python Download_Data.py --from {path}`"
        )
    return formats.read(path, limit)[None]


def verify(path, split, expected_counts, fer2013=None):
    """Return (images, labels) of one original-layout CSV, which must hold just what is expected.

    expected_counts: images per class. fer2013: `fer2013_sha256` of the data settings, or None where
    other data are expected. Raises OtherData if the file reads well but holds other rows, else
    UserError if it is damaged.
    """
    path = Path(path)
    if formats.layout(path).name != formats.ORIGINAL:
        formats.read(path)
        raise OtherData(f"{path}: expected the original layout (`;` between columns)")
    images, labels = formats.read(path)[None]
    odd = odd_counts(labels, split, expected_counts)
    if odd:
        raise OtherData(f"{path}: {odd[0]}; the file is incomplete or another one")
    if fer2013 and order(fer2013[split], images, labels) is None:
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
        orders = {split: order(digests[split], *splits[split]) for split in splits}
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


def order(digests, images, labels):
    """Return "in order" or "in any order" as a split's `fer2013_sha256` is met, else None.

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


def _there(path):
    """Return what `formats.read` does of a file; {} if there is none or it is damaged."""
    try:
        return formats.read(path) if path.exists() else {}
    except OtherData:
        raise
    except UserError:
        return {}
