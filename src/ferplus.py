"""FERPlus: ten people's votes about each picture of FER2013, as labels in the place of its own.

fer2013new.csv has one row for each of fer2013.csv, in the same order: `Usage`, and the number of
votes for each class, for contempt, for unknown and for NF (no face).
"""

import re

import numpy as np

from src import delimited
from src.errors import UserError
from src.names import CLASSES, USAGES, VOTED_TOO, label_of, split_of

COUNT = re.compile(r"\s*(\d{1,3})([.,]0*)?\s*", re.ASCII)


def relabel(splits, path):
    """Return `splits` ({split: (images, labels)}) with the labels of FERPlus' file `path`.

    A picture's label is the class with the most votes. Those with as many votes for another one,
    or with most for none of the seven classes, are left out; prints how many. Raises UserError if
    the file is another one, is damaged, or does not have one row a picture.
    """
    votes = _votes(path)
    relabelled = {}
    for split, (images, _) in splits.items():
        found = votes.get(split, np.empty((0, len(CLASSES + VOTED_TOO)), np.uint16))
        if len(found) != len(images):
            raise UserError(
                f"{path}: expected a row for each of the {len(images)} pictures of "
                f"{USAGES[split]}, found {len(found)}; these labels follow fer2013.csv row by row"
            )
        clear = (found == found.max(axis=1, keepdims=True)).sum(axis=1) == 1
        winners = found.argmax(axis=1)
        kept = clear & (winners < len(CLASSES))
        told = ", ".join(
            f"{np.sum(clear & (winners == len(CLASSES) + i))} {name}"
            for i, name in enumerate(("contempt", "unknown", "NF (no face)"))
        )
        print(
            f"{split}: {kept.sum()} of {len(kept)} pictures have a label by the most votes of "
            f"{path}; left out: {told}, {np.sum(~clear)} without a majority",
            flush=True,
        )
        if not kept.any():
            raise UserError(f"{path}: no row of {USAGES[split]} with most votes for one class")
        relabelled[split] = images[kept], winners[kept].astype(np.uint8)
    return relabelled


def _votes(path):
    """Return {split: votes uint16 (N, 10)}: for the classes 0...6, contempt, unknown, NF."""
    number, cells, separator = delimited.header(path)
    names = [cell.strip().lower() for cell in cells]
    labels = [label_of(name) for name in names]
    wanted = [label for label in range(len(CLASSES)) if labels.count(label) == 1]
    if len(wanted) < len(CLASSES) or any(names.count(name) != 1 for name in ("usage", *VOTED_TOO)):
        raise UserError(
            f"{path}, line {number}: expected FERPlus' fer2013new.csv with the header `Usage,Image "
            f"name,neutral,...,contempt,unknown,NF`, found {', '.join(names)[:60]!r}"
        )
    columns = [labels.index(label) for label in wanted] + [names.index(name) for name in VOTED_TOO]
    usage, votes = names.index("usage"), {}
    with delimited.lines(path) as lines:
        next(lines)
        for number, line in lines:
            try:
                row = delimited.without_quotes(line, separator).split(separator)
                split = split_of(row[usage]) if len(row) > max(usage, *columns) else None
                counts = [COUNT.fullmatch(row[column]) for column in columns] if split else [None]
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}") from None
            if None in counts:
                raise UserError(
                    f"{path}, line {number}: expected a Usage and {len(columns)} numbers of votes, "
                    f"found {', '.join(row)[:60]!r}; the row is damaged"
                )
            votes.setdefault(split, []).append([int(count.group(1)) for count in counts])
    return {split: np.array(rows, np.uint16) for split, rows in votes.items()}
