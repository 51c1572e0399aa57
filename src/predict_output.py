"""What is told of faces: a table, JSON, CSV, and the pictures with their faces marked."""

import csv
import io
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import ImageDraw, ImageFont

from src import looks
from src.dataset import CLASSES
from src.errors import UserError, shown
from src.files import replace, write_file

HEAD = ("file", "face", "expression", "probability", "second")
COLUMNS = ("file", "seconds", "x", "y", "width", "height", "expression", "probability", *CLASSES)
LARGEST = 1600  # pixels of the longer side of an annotated picture
MARK, INK = (240, 228, 66), (0, 0, 0)  # yellow and black differ for every eye


def readings(found, probabilities):
    """Yield (look, [its faces' probabilities (7,)]) from the rows of all faces, in their order."""
    rows = iter(probabilities)
    for look in found:
        yield look, [next(rows) for _ in look.boxes]


def table(read):
    """Return the lines of a table: one row a face, columns as in HEAD."""
    rows = [HEAD, *(row for look, faces in read for row in _rows(look, faces))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    return [line(row, widths) for row in rows]


def lines(look, faces):
    """Return the rows of one picture as lines by themselves, as they are told of a camera."""
    return [line(row, (12, 20, 9, 7, 0)) for row in _rows(look, faces)]


def line(row, widths):
    """Return a row of texts in columns; the probability is to the right."""
    cells = [
        text.rjust(width) if name == "probability" else text.ljust(width)
        for name, text, width in zip(HEAD, row, widths)
    ]
    return "  ".join(cells).rstrip()


def _rows(look, faces):
    for (x, y, width, height), row in zip(look.boxes, faces):
        first, second = best(row)
        yield (
            f"{shown(look.file)}{_moment(look)}",
            f"{width} x {height} at {x}, {y}",
            CLASSES[first],
            f"{100 * row[first]:.1f} %",
            f"{CLASSES[second]} {100 * row[second]:.1f} %",
        )


def _moment(look):
    return "" if look.seconds is None else f", {look.seconds:.1f} s"


def best(row):
    """Return the numbers of the highest class, the first of equals, and of the next one."""
    first, second = np.argsort(-row, kind="stable")[:2]
    return int(first), int(second)


def as_json(read, failures, about):
    """Return the JSON text (bytes) of readings and of {"file", "reason"} of what failed."""
    looked = [
        {
            "file": look.file,
            "seconds": look.seconds,
            "size": list(look.size),
            "faces": [
                {
                    "box": list(box),
                    "expression": CLASSES[best(row)[0]],
                    "probabilities": dict(zip(CLASSES, row.tolist())),
                }
                for box, row in zip(look.boxes, faces)
            ],
        }
        for look, faces in read
    ]
    content = {**about, "pictures": looked, "failed": failures}
    return (json.dumps(content, indent=1) + "\n").encode()


def as_csv(read):
    """Return the CSV text (bytes, UTF-8) of readings: one row a face, columns as in COLUMNS."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for look, faces in read:
        for box, row in zip(look.boxes, faces):
            first = best(row)[0]
            seconds = "" if look.seconds is None else look.seconds
            values = (CLASSES[first], row[first], *row)
            writer.writerow([look.file, seconds, *box, *values])
    return text.getvalue().encode("utf-8", "backslashreplace")


def write(content, path):
    """Write bytes to a file, which appears whole or not at all, or to the standard output (`-`)."""
    if path == "-":
        if hasattr(sys.stdout, "reconfigure"):  # a program reads it, whatever people's encoding is
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
        sys.stdout.write(content.decode())
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)


def keep_pictures(target, paths):
    """Raise UserError if writing the file `target` would replace one where the pictures lie."""
    target = Path(target)
    if target.exists() and _folder(target) in {_folder(path) for path in paths}:
        raise UserError(f"{target}: is there already, among the pictures: name another file")


def keep_folder(folder, paths):
    """Raise UserError if a folder to write pictures to is one that the pictures lie in."""
    if os.path.realpath(str(folder)) in {_folder(path) for path in paths}:
        raise UserError(f"{folder}: the pictures lie there: name another folder, a new one")


def _folder(path):
    """Return the folder that a file's name is in, links in its own name not followed."""
    return os.path.realpath(os.path.dirname(os.path.abspath(str(path))))


def names(found, ending):
    """Yield a file name for each Look, no two alike: "party.jpg.faces.png" for party.jpg."""
    used = set()
    for look in found:
        moment = "" if look.seconds is None else f".{look.seconds:.1f}s"
        stem, number = f"{Path(look.file).name}{moment}", 1
        name = f"{stem}.{ending}"
        while name.casefold() in used:  # of another folder, or named twice
            number += 1
            name = f"{stem}.{number}.{ending}"
        used.add(name.casefold())
        yield name


def annotate_all(read, folder, every, failed):
    """Write each picture and video frame of readings with its faces marked into a folder.

    The files are read again, one picture at a time; failed(name, reason) is told what can't be.
    """
    named = zip(read, names([look for look, _ in read], "faces.png"))
    for file, group in itertools.groupby(named, key=lambda part: part[0][0].file):
        group = list(group)
        try:
            again = looks.images(Path(file), every, len(group))
            for (_, image), ((look, faces), name) in zip(again, group):
                annotate(image, look, faces, folder / name)
        except (UserError, OSError) as error:
            failed(file, str(error))


def annotate(image, look, faces, path):
    """Write an RGB image of PIL, made smaller if it is large, with its faces marked as a PNG."""
    scale = min(1, LARGEST / max(image.size))
    image = image.resize([max(1, round(side * scale)) for side in image.size])
    drawing = ImageDraw.Draw(image)
    thick = max(1, round(max(image.size) / 400))
    for box, row in zip(look.boxes, faces):
        x, y, width, height = (round(scale * value) for value in box)
        right, low = x + max(width, 1) - 1, y + max(height, 1) - 1
        for colour, outside in ((INK, thick), (MARK, 0)):
            corners = (x - outside, y - outside, right + outside, low + outside)
            drawing.rectangle(corners, outline=colour, width=thick)
        _label(drawing, image.size, (x, y, height), row)
    with replace(path) as part:
        image.save(part, "PNG")


def _label(drawing, size, place, row):
    """Write the expression above a face, or below where there is no room."""
    x, y, height = place
    first = best(row)[0]
    text = f"{CLASSES[first]} {100 * row[first]:.0f} %"
    font = ImageFont.load_default(max(11, round(max(size) / 45)))
    _, _, wide, high = drawing.textbbox((0, 0), text, font=font)
    x = min(max(x, 0), max(size[0] - wide - 6, 0))
    y = y - high - 8 if y > high + 8 else y + height + 2
    y = min(y, max(size[1] - high - 6, 0))
    drawing.rectangle((x, y, x + wide + 6, y + high + 6), fill=INK)
    drawing.text((x + 3, y + 2), text, fill=MARK, font=font)
