"""Tables of text as people have them: what spreadsheets, editors and shells do to a CSV.

UTF-8 with or without a byte order mark, or UTF-16; lines that end in LF, CRLF or CR; `,`, `;` or a
tab between the columns; quotes; empty lines, and lines of nothing but separators. Files are read
line by line.
"""

import codecs
import contextlib
import csv
import string
from functools import partial

from src.errors import OtherData

LONGEST_LINE = 1 << 16  # characters; twice a header, so that a binary file is not read as one line
SEPARATORS = ",;\t"
BLANK = string.whitespace + '",;'  # what the empty lines of spreadsheets are made of


@contextlib.contextmanager
def lines(path):
    """Yield an iterator over a file's (number, line), text, without the empty ones.

    What is no text in the file's encoding becomes U+FFFD. Raises OtherData if the file may not be
    read, since nobody knows what it holds.
    """
    if not path.is_file():  # a pipe would be waited for
        raise OtherData(f"{path}: could not be read: no file; move it elsewhere")
    try:
        file = open(path, encoding=_encoding(path), errors="replace")
    except OSError as error:
        raise OtherData(f"{path}: could not be read: {error.strerror}") from None
    with file:
        numbered = enumerate(iter(partial(file.readline, LONGEST_LINE), ""), start=1)
        yield ((number, line) for number, line in numbered if line.strip(BLANK))


def header(path):
    """Return the first line's number, cells and separator: the one that it has most of.

    An empty file has line 1 without cells. Raises OtherData as `lines` does.
    """
    with lines(path) as numbered:
        number, line = next(numbered, (1, ""))
    separator = max(SEPARATORS, key=line.count)
    line = line.rstrip("\n")
    with contextlib.suppress(ValueError):  # no header of ours has quotes that lead nowhere
        line = without_quotes(line, separator)
    return number, line.split(separator) if line else [], separator


def without_quotes(line, separator):
    """Return a line without its quotes; separators that they held have become blanks.

    A line that is quoted as a whole is what it holds. Raises ValueError if that cannot be told.
    """
    if '"' not in line:
        return line
    try:
        cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{error}; the row is damaged") from None
    if len(cells) == 1:
        return cells[0]
    return separator.join(cell.replace(separator, " ") for cell in cells)


def _encoding(path):
    """Return the name of a file's encoding by its first bytes: tables begin in ASCII."""
    with open(path, "rb") as file:
        start = file.read(4)
    if start.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = start[::2], start[1::2]
    if odd == b"\0\0" and all(even):
        return "utf-16-le"
    if even == b"\0\0" and all(odd):
        return "utf-16-be"
    return "utf-8"
