"""The training images as a folder of JPEGs, which the generator reads (REFERENCE.md, section 2).

`folder`/Training/<Class>/Images<i>.jpeg: enlarged, floored, RGB, quality 100, no chroma
subsampling. Images stream through in small parts on all cores, so memory does not grow with their
number. A note beside the class folders says which images and size the JPEGs come from.
"""

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from simplejpeg import encode_jpeg

from src import strict_json
from src.dataset import CLASSES, csv_path, load
from src.errors import UserError
from src.files import file_digest, lock, remove_left, replace_all, write_file
from src.pixels import enlarge, floored_rgb
from src.progress import progress_bar

SUBFOLDER = "Training"
NOTE = "etl.json"
SAME = ("images", "size", "sha256")  # what the note and the JPEGs have to agree in
IMAGE = re.compile(r"Images\d+\.jpeg(\.(\d+-[0-9a-f]+\.)?part)?$")  # or a killed run's part of it
PART = 8  # images per piece of work: at 224 pixels, 3 MB for each worker


def write_images(images, labels, folder, size, threads=1, progress=False, csv=None):
    """Write uint8 images (N, h, w) with labels (N,) below `folder`/Training.

    An interrupted run is completed by the next one: each JPEG appears whole or not at all, and
    those that are there are kept as long as images, labels and size are the same as last time;
    otherwise all are replaced. csv: the file that the images come from, which makes
    `check_matches` faster. Returns (written, kept). Raises UserError if the disk refuses, or while
    another process writes there.
    """
    with lock(Path(folder) / "etl.lock", f"{folder} is being written"):
        return _write_images(images, labels, Path(folder) / SUBFOLDER, size, threads, progress, csv)


def _write_images(images, labels, folder, size, threads, progress, csv):
    try:
        paths = image_paths(labels, folder)
        note = {"images": len(images), "size": size, "sha256": _digest(images, labels)}
        if csv is not None:
            note["csv_sha256"] = file_digest(csv, "sha256")
        present = _prepare(folder, note)
        for path in present - set(paths):
            os.remove(path)
        missing = [i for i, path in enumerate(paths) if path not in present]
        parts = [missing[start : start + PART] for start in range(0, len(missing), PART)]
        # Twice as many workers as threads, since each waits for the disk part of its time.
        with ThreadPoolExecutor(2 * threads) as pool:
            jobs = [
                pool.submit(_write_part, images[part], [paths[i] for i in part], size)
                for part in parts
            ]
            try:
                with progress_bar(total=len(missing), unit="img", disable=not progress) as bar:
                    for job, part in zip(jobs, parts):
                        job.result()
                        bar.update(len(part))
            finally:
                for job in jobs:
                    job.cancel()
    except OSError as error:
        raise UserError(f"{folder}: cannot write the images ({error}); run ETL.py again") from None
    return len(missing), len(paths) - len(missing)


def image_paths(labels, folder):
    """Where each image goes: i counts from 0 within the class, in the order of the data."""
    seen = [0] * len(CLASSES)
    paths = []
    for label in labels:
        paths.append(os.path.join(folder, CLASSES[label], f"Images{seen[label]}.jpeg"))
        seen[label] += 1
    return paths


def _digest(images, labels):
    found = hashlib.sha256(np.ascontiguousarray(images))
    found.update(np.ascontiguousarray(labels, np.uint8))
    return found.hexdigest()


def images_of(folder):
    """Return how many images the note in a folder of JPEGs tells of, or None without a note."""
    note = _read_note(Path(folder))
    return None if note is None else note["images"]  # the user's own JPEGs may have none


def check_matches(folder, data_folder, size):
    """Raise UserError if the JPEGs in `folder` are of another size or other data than the CSV.

    folder: the one with the class folders; data_folder: where data_train.csv lies; size: of the
    JPEGs, in pixels. Without a note beside the JPEGs (they are the user's own) or without the CSV
    there is nothing to compare. It takes half a second, and three where the CSV was written anew.
    """
    note, path = _read_note(Path(folder)), csv_path(data_folder, "train")
    if note is None:
        return
    if note["size"] != size:
        raise UserError(
            f"{folder}: expected JPEG images of {size} x {size} pixels, found those of "
            f"{note['size']} x {note['size']}; run ETL.py"
        )
    if path.is_file() and note.get("csv_sha256") != file_digest(path, "sha256"):
        if note["sha256"] != _digest(*load(data_folder, "train")):
            raise UserError(
                f"{folder}: expected the images of {path}, found JPEGs of other data; run ETL.py"
            )


def is_whole(path):
    """Return whether a file begins and ends as a JPEG does: one that was cut off does not."""
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    try:
        with open(path, "rb", buffering=0) as file:
            start = file.read(2)
            file.seek(-2, os.SEEK_END)
            return start == b"\xff\xd8" and file.read(2) == b"\xff\xd9"
    except OSError:
        return False  # such as an empty one


def _read_note(folder):
    """Return the note in a folder of JPEGs; None if there is none, or a broken one."""
    try:
        note = strict_json.read(folder / NOTE)
        types = [type(note[key]) for key in SAME]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return note if types == [int, int, str] else None


def _prepare(folder, note):
    """Return the JPEGs to keep; if a note tells of other data, remove them and write the new one.

    The note is replaced after the old JPEGs are gone and before the first new one is there, so
    wherever a run stops, no JPEG is ever taken for one of other data.
    """
    for name in CLASSES:
        os.makedirs(folder / name, exist_ok=True)
    remove_left(folder)
    present = {
        entry.path
        for name in CLASSES
        for entry in os.scandir(folder / name)
        if IMAGE.match(entry.name)
    }
    before = _read_note(folder)
    kept = set()
    if before is not None and all(before[key] == note[key] for key in SAME):
        kept = {path for path in present if is_whole(path)}
    for path in present - kept:
        os.remove(path)
    if before != note:
        write_file(folder / NOTE, (json.dumps(note, indent=1) + "\n").encode())
    return kept


def _write_part(images, paths, size):
    pictures = floored_rgb(enlarge(images, size))
    # Not synced: that would take far longer than the pictures, and those that a power cut left
    # empty are written again.
    with replace_all(paths, sync=False) as parts:
        for rgb, part in zip(pictures, parts):
            with open(part, "wb") as file:
                # The same encoder as Pillow's, and the same bytes, without its copies.
                file.write(encode_jpeg(rgb, quality=100, colorsubsampling="444"))
