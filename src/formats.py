"""FER2013's layouts, and their rows as arrays (REFERENCE.md section 2).

They are recognised by their header line, never by the file's name, in whatever encoding and with
whatever separator the table is (src/delimited.py):

* the original project's, one file per split: label, a column that is not used, and 2304 pixel
  columns;
* Kaggle's, one file for all splits: `emotion`, `pixels` (2304 numbers with blanks between) and
  `Usage`, in any order, and others, which are not read: `fer2013.csv` and `icml_face_data.csv`;
* Kaggle's without Usage, one file per split, such as `train.csv` of the competition.

Memory holds little more than the uint8 images (66 MB for the 28,709 training images).
"""

import re
import warnings
from typing import NamedTuple, Optional

import numpy as np

from src import delimited
from src.delimited import BLANK
from src.errors import UserError
from src.names import CLASSES, PIXELS, SIZE, USAGES, VOTED_TOO, split_of

ORIGINAL, KAGGLE, WITHOUT_USAGE = "original", "Kaggle", "Kaggle without Usage"
# Row numbers, as pandas saves them, and columns that a spreadsheet has left empty.
INDEX = re.compile(r"|index|unnamed: ?\d+")
LABEL = re.compile(r"\s*0*([0-6])([.,]0*)?\s*")
PIXEL = re.compile(r"\s*0*(\d{1,3})\s*", re.ASCII)


class Layout(NamedTuple):
    """Where the columns of a table are."""

    name: str  # ORIGINAL, KAGGLE or WITHOUT_USAGE
    separator: str
    fewest: int  # columns of a row: up to the last one that has a name ...
    most: int  # ... and all of the header's
    label: int
    pixels: int  # in the original layout, the first of them
    usage: Optional[int] = None


def layout(path):
    """Return the Layout of a CSV.

    Raises UserError if it is none of those above, OtherData if it may not be read.
    """
    number, cells, separator = delimited.header(path)
    names = [cell.strip().lower() for cell in cells]
    found = _wide(names, separator) or _compact(names, separator)
    if found:
        return found
    if not names:
        raise UserError(f"{path}: empty, expected a header line; delete it and fetch it again")
    if set(VOTED_TOO) < set(names):
        raise UserError(
            f"{path}: found FERPlus' votes, which are labels without pictures; give them beside "
            f"the pictures: `python Download_Data.py --from fer2013.csv --labels {path}`"
        )
    if names.count("pixels") == 1 and "emotion" not in names:
        raise UserError(
            f"{path}: found pixels without the column `emotion`, as in the test.csv of Kaggle's "
            "competition; import icml_face_data.csv or fer2013.csv, which has all labels"
        )
    raise UserError(
        f"{path}, line {number}: expected the header `emotion,pixels,Usage` or {PIXELS + 2} "
        f"columns with `;` between, found {', '.join(names)[:60]!r}; unpack archives first"
    )


def _wide(names, separator):
    columns = range(len(names))
    if len(names) != PIXELS + 2:
        columns = [i for i in columns if not INDEX.fullmatch(names[i])]
    if len(columns) != PIXELS + 2 or columns[-1] - columns[2] != PIXELS - 1:
        return None
    return Layout(ORIGINAL, separator, columns[-1] + 1, len(names), columns[0], columns[2])


def _compact(names, separator):
    counts = [names.count(name) for name in ("emotion", "pixels", "usage")]
    if counts not in ([1, 1, 1], [1, 1, 0]):
        return None
    named = max(i for i, name in enumerate(names) if name) + 1
    columns = separator, named, len(names), names.index("emotion"), names.index("pixels")
    if "usage" in names:
        return Layout(KAGGLE, *columns, names.index("usage"))
    return Layout(WITHOUT_USAGE, *columns)


def read(path, limit=None):
    """Return {split: (images uint8 (N, 48, 48), labels uint8 (N,))} of a CSV, in its order.

    The one split of a file without Usage is None. `limit` stops after that many rows. Raises
    UserError naming file and line if anything is wrong.
    """
    found = layout(path)
    fields, separator = _compact_fields, " "
    if found.name == ORIGINAL:
        fields, separator = _wide_fields, found.separator
    pixels, labels = {}, {}
    with delimited.lines(path) as lines, warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # older NumPy's word for unparsed text
        next(lines)
        for number, line in lines:
            if limit is not None and sum(map(len, labels.values())) >= limit:
                break
            try:
                label, text, usage = fields(found, line)
                if not (label.strip() or usage.strip() or text.strip(BLANK)):
                    continue  # a row number, perhaps, and nothing beside it
                split = None if found.usage is None else _parse_usage(usage)
                row = _parse_pixels(text.strip(), separator)
                pixels.setdefault(split, bytearray()).extend(row)
                labels.setdefault(split, bytearray()).append(_parse_label(label))
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


def _wide_fields(found, line):
    """Return label, pixels and "", text, of a line of the original layout."""
    separator = found.separator
    if '"' in line:
        line = line.replace('"', "")
    count = line.count(separator) + 1
    line, *surplus = line.rsplit(separator, max(count - found.most, 0))
    _check_columns(found, count, surplus)
    cells = line.split(separator, found.pixels)
    after = min(count, found.most) - found.pixels - PIXELS
    return cells[found.label], cells[-1].rsplit(separator, after)[0], ""


def _compact_fields(found, line):
    """Return label, pixels and Usage ("" without it), text, of a line of Kaggle's layouts."""
    cells = line.split(found.separator)
    if '"' in line:
        if len(cells) > found.most:  # quotes hold separators; else it takes less to drop them
            line = delimited.without_quotes(line, found.separator)
        cells = line.replace('"', "").split(found.separator)
    _check_columns(found, len(cells), cells[found.most :])
    usage = "" if found.usage is None else cells[found.usage]
    return cells[found.label], cells[found.pixels], usage


def _check_columns(found, count, surplus):
    if count < found.fewest or any(cell.strip() for cell in surplus):
        raise ValueError(f"expected {found.fewest} columns, found {count}; the row is damaged")


def _parse_usage(text):
    split = split_of(text)
    if split is None:
        found = text.strip()[:30]
        raise ValueError(f"expected a Usage of {', '.join(USAGES.values())}, found {found!r}")
    return split


def _parse_label(text):
    digit = LABEL.fullmatch(text)
    if not digit:
        found = text.strip()[:30]
        raise ValueError(f"expected a label 0...{len(CLASSES) - 1}, found {found!r}")
    return int(digit.group(1))


def _parse_pixels(text, separator):
    """Return 2304 bytes from their decimal numbers; np.fromstring is the fast way, not the judge
    of what is wrong: whatever it stumbles over is looked at again, value by value."""
    row = _fast(text, separator)
    if row is None:
        text = _without_zeros(text, separator)
        row = _fast(text, separator)
    if row is not None:
        return row
    values = text.split(separator)
    for index, value in enumerate(values):
        digits = PIXEL.fullmatch(value)
        if not (digits and int(digits.group(1)) <= 255):
            raise ValueError(
                f"pixel {index}: expected an integer 0...255, found {value.strip()[:30]!r}"
            )
    raise ValueError(f"expected {PIXELS} pixels, found {len(values)}; the row is damaged")


def _fast(text, separator):
    try:
        values = np.fromstring(text, np.int64, sep=separator)
    except (ValueError, DeprecationWarning):
        return None
    if values.size == PIXELS and values.min() >= 0 and values.max() <= 255:
        return values.astype(np.uint8).tobytes()
    return None


def _without_zeros(text, separator):
    """Return numbers such as `5.0`, or `5,0` where commas do not part them, as `5`."""
    marks = r"\." if separator == "," else "[.,]"
    return re.sub(rf"(?<=\d){marks}0*(?![^\s{separator}])", "", text)
