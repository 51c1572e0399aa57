"""FER2013 as people have it, imported into the three CSVs of the data folder.

A source is a CSV in one of the layouts of src/formats.py, a folder with CSVs, or folders of
pictures (src/folders.py); as archives unpack, it may lie some folders further down.
"""

from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from src import ferplus, folders, formats
from src.dataset import csv_path, load, odd_counts, order, store
from src.errors import OtherData, UserError
from src.names import CLASSES, SPLITS, USAGES, split_of

TABLES = (".csv", ".tsv")
VALIDATION_SHARE, VALIDATION_SEED = 0.1, 2013


def import_from(path, data_folder, expected_counts, force=False, labels=None, fer2013=None):
    """Import FER2013 from a user's own files into the three CSVs of `data_folder`.

    `path`: a CSV in Kaggle's layout, the folder with the three CSVs of the original layout, one of
    those three, or a folder with Kaggle's CSV, with one CSV a split (train.csv, test.csv), or with
    pictures in folders of splits and classes. The official splits and the order of rows are kept;
    where CSVs or pictures have no validation split, it becomes a part of the training split.
    Counts other than `expected_counts` ({split: images per class}) are printed, not refused, since
    the data are the user's own.

    labels: FERPlus' fer2013new.csv, whose labels take the place of a CSV's own. fer2013: the
    `fer2013_sha256` of the data settings, which tell rows in another order; None where other data
    are expected.

    Returns whether files were written (they may be there already). Raises UserError, with nothing
    written, if a row or picture is damaged, a split is missing, or other rows than these are there
    and `force` is not given.
    """
    source = _source(Path(path))
    if labels is not None:
        splits = _with_labels(source, path, labels, fer2013)
    else:
        splits = source.read()
        for split in SPLITS:
            for line in odd_counts(splits[split][1], split, expected_counts[split]):
                print(f"Odd count in {path}: {line}", flush=True)
    return store(data_folder, splits, force)


class _Source(NamedTuple):
    """What is imported: `read()` returns {split: (images, labels)}.

    in_rows: whether these are all rows of FER2013, so that other files may follow their order.
    """

    read: Callable
    in_rows: bool = False


def _source(path):
    """Return the _Source that a path stands for."""
    if path.is_file():
        name = formats.layout(path).name
        if name == formats.KAGGLE:
            return _Source(partial(_all_splits, path), in_rows=True)
        folder = path.parent
    elif path.is_dir():
        name, folder = None, _unpacked(path)
    else:
        raise UserError(
            f"{path}: not found; give fer2013.csv, icml_face_data.csv or a folder with one of "
            "them, with the original's three CSVs, or with pictures"
        )
    ours = any(csv_path(folder, split).is_file() for split in SPLITS)
    if ours and name != formats.WITHOUT_USAGE:
        return _Source(lambda: {split: load(folder, split) for split in SPLITS}, in_rows=True)
    whole, parts, other = _csvs(folder)
    if whole and name is None:
        return _Source(partial(_all_splits, whole[0]), in_rows=True)
    if {"train", "test"} <= set(parts):
        return _Source(partial(_one_split_each, parts))
    if name == formats.WITHOUT_USAGE or parts:
        one = path if path.is_file() else next(iter(parts.values()))
        raise UserError(
            f"{one}: found `emotion` and `pixels` without `Usage`: the pictures of one split, as "
            "in the train.csv of Kaggle's competition; import icml_face_data.csv or fer2013.csv, "
            "which have all three, or put val.csv and test.csv of the same columns beside train.csv"
        )
    if folders.hold_pictures(folder):
        return _Source(partial(_pictures, folder))
    raise other or UserError(
        f"{path}: expected data_train.csv, data_val.csv and data_test.csv, Kaggle's fer2013.csv or "
        "icml_face_data.csv, or pictures in folders such as train/angry; found none of them"
    )


def _unpacked(folder):
    """Return the folder that holds something: archives unpack to folders within folders."""
    while True:
        own = [entry for entry in folder.iterdir() if folders.is_own(entry.name)]
        inner = [entry for entry in own if entry.is_dir()]
        if len(inner) != 1 or any(entry.suffix.lower() in TABLES for entry in own):
            return folder
        folder = inner[0]


def _csvs(folder):
    """Return the CSVs of a folder: those of all splits, {split: its CSV}, and what is wrong with
    the first of the others, a UserError or None."""
    whole, parts, other = [], {}, None
    for csv in sorted(folder.iterdir()):
        if csv.suffix.lower() not in TABLES or not csv.is_file() or not folders.is_own(csv.name):
            continue
        try:
            name = formats.layout(csv).name
        except OtherData:
            raise
        except UserError as error:
            other = other or error
            continue
        if name == formats.KAGGLE:
            whole.append(csv)
        elif name == formats.WITHOUT_USAGE:
            parts[split_of(csv.stem) or csv.stem] = csv
    return whole, parts, other


def _all_splits(csv):
    """Read a CSV of all splits."""
    splits = formats.read(csv)
    for split in SPLITS:
        if split not in splits:
            raise UserError(f"{csv}: no rows with Usage {USAGES[split]!r} ({split} split)")
    return splits


def _one_split_each(csvs):
    """Read CSVs, {split: path}, of one split each."""
    return _with_validation({s: formats.read(csvs[s])[None] for s in SPLITS if s in csvs})


def _pictures(folder):
    splits = folders.read(folder)
    for split in ("train", "test"):
        if split not in splits:
            raise UserError(
                f"{folder}: expected pictures in folders train and test, found none of {split}"
            )
    return _with_validation(splits)


def _with_validation(splits):
    """Return the three splits: where there is no val, it is a part of each class of train.

    The draw has a generator of its own, so that the same pictures are chosen each time.
    """
    if "val" in splits:
        return splits
    images, labels = splits["train"]
    random = np.random.RandomState(VALIDATION_SEED)
    chosen = np.zeros(len(labels), bool)
    for label in range(len(CLASSES)):
        rows = random.permutation(np.flatnonzero(labels == label))
        share = max(round(VALIDATION_SHARE * len(rows)), 1)
        chosen[rows[: min(share, len(rows) - 1)]] = True  # one at least stays in train
    if not chosen.any():
        raise UserError(
            "found no validation split, and no class of train with two pictures, so that one of "
            "them could become it; add a folder or CSV val"
        )
    print(
        f"no validation split: {chosen.sum()} of the {len(labels)} training pictures become it "
        f"({VALIDATION_SHARE:.0%} of each class, drawn with seed {VALIDATION_SEED})",
        flush=True,
    )
    train, val = (images[~chosen], labels[~chosen]), (images[chosen], labels[chosen])
    return {**splits, "train": train, "val": val}


def _with_labels(source, path, labels, fer2013):
    """Read a source, whose labels become those of FERPlus' file `labels`."""
    if not source.in_rows:
        raise UserError(
            f"{path}: found no rows that {labels} could follow; import fer2013.csv or "
            "icml_face_data.csv with it"
        )
    splits = source.read()
    if fer2013 and "in any order" in [order(fer2013[s], *splits[s]) for s in SPLITS]:
        raise UserError(
            f"{path}: found FER2013 in another order than its own, which {labels} follows row by "
            "row; import fer2013.csv or icml_face_data.csv with it"
        )
    return ferplus.relabel(splits, Path(labels))
