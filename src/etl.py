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
from tqdm import tqdm

from src.dataset import CLASSES
from src.errors import UserError
from src.files import replace, replace_all
from src.pixels import enlarge, floored_rgb

SUBFOLDER = "Training"
NOTE = "etl.json"
IMAGE = re.compile(r"Images\d+\.jpeg(\.(\d+-[0-9a-f]+\.)?part)?$")  # or a killed run's part of it
PART = 8  # images per piece of work: at 224 pixels, 3 MB for each worker


def write_images(images, labels, folder, size, threads=1, progress=False):
    """Write uint8 images (N, h, w) with labels (N,) below `folder`/Training.

    An interrupted run is completed by the next one: each JPEG appears whole or not at all, and
    those that are there are kept as long as images, labels and size are the same as last time;
    otherwise all are replaced. Returns (written, kept). Raises UserError if the disk refuses.
    """
    folder = Path(folder) / SUBFOLDER
    try:
        paths = image_paths(labels, folder)
        present = _prepare(folder, _describe(images, labels, size))
        missing = [i for i, path in enumerate(paths) if path not in present]
        parts = [missing[start : start + PART] for start in range(0, len(missing), PART)]
        # Twice as many workers as threads, since each waits for the disk part of its time.
        with ThreadPoolExecutor(2 * threads) as pool:
            jobs = [
                pool.submit(_write_part, images[part], [paths[i] for i in part], size)
                for part in parts
            ]
            try:
                with tqdm(total=len(missing), unit="img", disable=not progress) as bar:
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


def _describe(images, labels, size):
    digest = hashlib.sha256(np.ascontiguousarray(images))
    digest.update(np.ascontiguousarray(labels, np.uint8))
    return {"images": len(images), "size": size, "sha256": digest.hexdigest()}


def images_of(folder):
    """Return how many images the note in a folder of JPEGs tells of, or None without a note."""
    try:
        return int(_read_note(Path(folder))["images"])
    except (KeyError, TypeError, ValueError):
        return None  # the user's own JPEGs may have none


def _read_note(folder):
    try:
        return json.loads((folder / NOTE).read_text())
    except (OSError, ValueError):
        return None  # no note, or a broken one


def _prepare(folder, description):
    """Return the JPEGs to keep; if the note tells of other data, remove them and write a new one.

    The note is replaced after the old JPEGs are gone and before the first new one is there, so
    wherever a run stops, no JPEG is ever taken for one of other data.
    """
    for name in CLASSES:
        os.makedirs(folder / name, exist_ok=True)
    present = [
        entry for name in CLASSES for entry in os.scandir(folder / name) if IMAGE.match(entry.name)
    ]
    if _read_note(folder) == description:
        return {entry.path for entry in present if entry.stat().st_size}
    for entry in present:
        os.remove(entry.path)
    with replace(folder / NOTE) as part, open(part, "w") as file:
        file.write(json.dumps(description, indent=1) + "\n")
    return set()


def _write_part(images, paths, size):
    pictures = floored_rgb(enlarge(images, size))
    # Not synced: that would take far longer than the pictures, and those that a power cut left
    # empty are written again.
    with replace_all(paths, sync=False) as parts:
        for rgb, part in zip(pictures, parts):
            with open(part, "wb") as file:
                # The same encoder as Pillow's, and the same bytes, without its copies.
                file.write(encode_jpeg(rgb, quality=100, colorsubsampling="444"))
