"""FER2013 as folders of pictures: train/angry/*.jpg, test/happy/*.png and the like.

The folder names the class, by its word or its number. The split is that of the pictures' names
(Training_3908.jpg, PublicTest_..., PrivateTest_...) where all of them have one, since the copies
that are passed around most keep both of Kaggle's test splits in one folder `test`; else the
folder's. What the system or an archive has put between them is not looked at.
"""

import os
import re
import warnings
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image

from src.errors import UserError, shown
from src.files import SYSTEMS
from src.names import CLASSES, SIZE, label_of, split_of

FORMATS = ("JPEG", "PNG", "BMP")  # no others: Pillow would have Ghostscript run an EPS file
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # those of 8 bits
ARCHIVES = ("__macosx",)  # what they add
OFFICIAL = re.compile("(Training|PublicTest|PrivateTest)_", re.IGNORECASE)


class Picture(NamedTuple):
    path: str
    label: int
    folder_split: Optional[str]
    name_split: Optional[str]


def read(folder):
    """Return {split: (images uint8 (N, 48, 48), labels uint8 (N,))} of the pictures in a folder.

    Pictures are in the order of the numbers in their names. Prints what the splits come from, and
    what was turned grey or left out. Raises UserError for a picture without class or split, of
    another size, found twice, or that cannot be read.
    """
    pictures, others = _find(folder)
    splits, source = _splits(pictures)
    _refuse_copies(pictures, folder)
    print(f"{folder}: {len(pictures)} pictures, splits by {source}", flush=True)
    if others:
        print(
            f"left out: {len(others)} files that are not named as JPEG, PNG or BMP pictures, such "
            f"as {shown(others[0])}",
            flush=True,
        )
    arrays, coloured = {}, 0
    for split in set(splits):
        part = [picture for picture, its in zip(pictures, splits) if its == split]
        images = np.empty((len(part), SIZE, SIZE), np.uint8)
        for image, picture in zip(images, part):
            image[...], mode = _read(picture.path)
            coloured += mode != "L"
        arrays[split] = images, np.array([picture.label for picture in part], np.uint8)
    if coloured:
        print(f"turned grey: {coloured} pictures that are saved in colour", flush=True)
    return arrays


def hold_pictures(folder):
    """Return whether there is any picture in a folder or further down."""
    return any(_is_picture(where, name) for where, files in _walk(folder) for name in files)


def is_own(name):
    """Return whether a file or folder is the user's: neither hidden nor the system's."""
    return not name.startswith(".") and name.lower() not in SYSTEMS + ARCHIVES


def _walk(folder):
    """Return an iterator over folders, the names within them, both of the user's own."""
    for where, inner, files in os.walk(str(folder)):
        inner[:] = filter(is_own, inner)
        yield where, list(filter(is_own, files))


def _is_picture(where, name):
    return name.lower().endswith(SUFFIXES) and os.path.isfile(os.path.join(where, name))


def _find(folder):
    """Return the Pictures in a folder, in order, and the paths of other files of its classes."""
    pictures, others = [], []
    for where, files in _walk(folder):
        parts = os.path.relpath(where, str(folder)).split(os.sep)
        label, split = _last(label_of, parts), _last(split_of, parts)
        for name in files:
            path = os.path.join(where, name)
            if not _is_picture(where, name):
                others += [path] if label is not None else []
            elif label is None:
                raise UserError(
                    f"{path}: expected pictures in folders of a class ({', '.join(CLASSES)}, or "
                    "their numbers from 0), found one elsewhere; move it, or name another folder"
                )
            else:
                official = OFFICIAL.match(name)
                named = split_of(official.group(1)) if official else None
                pictures.append(Picture(path, label, split, named))
    return sorted(pictures, key=_order), sorted(others)


def _last(meaning, parts):
    """Return what the innermost folder of those that mean something means."""
    found = [meaning(part) for part in parts]
    return next((value for value in reversed(found) if value is not None), None)


def _order(picture):
    """Sort by the numbers in a name rather than by class, so that any part has all classes."""
    text = re.split(r"([0-9]+)", os.path.basename(picture.path))
    return (
        [int(part) if i % 2 else part for i, part in enumerate(text)],
        picture.label,
        picture.path,
    )


def _splits(pictures):
    """Return the split of each picture, and what it is known by, in words."""
    named = [
        picture.name_split
        for picture in pictures
        if picture.folder_split in (None, picture.name_split)
        or (picture.folder_split, picture.name_split) == ("test", "val")
    ]
    if None not in named and len(named) == len(pictures):
        return named, "their names (Training_, PublicTest_, PrivateTest_)"
    lost = next((picture.path for picture in pictures if picture.folder_split is None), None)
    if lost:
        raise UserError(
            f"{lost}: expected pictures in folders of a split, such as train and test, found one "
            "elsewhere; name the folder that holds them"
        )
    return [picture.folder_split for picture in pictures], "their folders"


def _refuse_copies(pictures, folder):
    """Raise UserError if an archive holds its folders twice: all would count double."""
    seen = {}
    for picture in pictures:
        parts = os.path.relpath(picture.path, str(folder)).split(os.sep)
        means = [label_of(part) is not None or split_of(part) is not None for part in parts[:-1]]
        # From the innermost folders of split and class on.
        start = len(means)
        while start and means[start - 1]:
            start -= 1
        key = tuple(parts[start:])
        if key in seen:
            raise UserError(
                f"{picture.path}: found {os.path.join(*key)} in {os.path.dirname(seen[key])} too; "
                "name the folder that holds each picture once"
            )
        seen[key] = picture.path


def _read(path):
    """Return a picture's grey plane, uint8 (48, 48), and the mode that it was saved in."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of sizes that are refused here anyway
            with Image.open(path, formats=FORMATS) as image:
                size, mode = image.size, image.mode
                if size == (SIZE, SIZE) and mode in MODES:
                    return np.asarray(image.convert("L")), mode
    except Exception as error:  # a decoder's depend on which bytes are damaged
        raise UserError(
            f"{path}: expected a JPEG, PNG or BMP picture, cannot read it ({error}); put a good "
            "one there, or delete it"
        ) from None
    if size != (SIZE, SIZE):
        raise UserError(
            f"{path}: expected {SIZE} x {SIZE} pixels, found {size[0]} x {size[1]}; resize the "
            "pictures, or import FER2013's own"
        )
    raise UserError(f"{path}: expected a grey picture of 8 bits, found mode {mode}; convert it")
