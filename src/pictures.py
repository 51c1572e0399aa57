"""Picture files of any common kind as upright RGB pixels, and which files a list of paths names."""

import os
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from src.errors import UserError, shown

# Decoded by Pillow itself. Others may start programs: Ghostscript runs what an EPS file says.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
LARGEST = 100_000_000  # pixels; decoded they take 300 MB


def suffixes():
    """Return the lower-case endings, such as ".jpg", of the picture files that can be read."""
    known = Image.registered_extensions()
    return {suffix for suffix, kind in known.items() if kind in FORMATS}


def find(words, endings, failed, lines=None):
    """Return the Paths that words of a command line stand for, in their order, each once.

    A folder stands for the files in it (not in its folders) with one of the `endings`, sorted by
    name, hidden ones left out; `-` for the words in `lines` (bytes), one a line, by default those
    of the standard input. failed(name, reason) is told of folders that give none. Whether a named
    file is there shows when it is read.
    """
    paths = []
    for word in words:
        if word == "-":
            lines = sys.stdin.buffer if lines is None else lines
            listed = [os.fsdecode(line.rstrip(b"\r\n")) for line in lines]
            inner = [line for line in listed if line.strip() and line != "-"]
            paths += find(inner, endings, failed)
        elif os.path.isdir(word):  # of a name that cannot be one: False
            try:
                files = _files(Path(word), endings)
            except OSError as error:
                failed(word, f"could not be read: {error.strerror}")
                continue
            if not files:
                failed(word, f"found none of {' '.join(sorted(endings))} in this folder")
            paths += files
        else:
            paths.append(Path(word))
    return list(dict.fromkeys(paths))


def _files(folder, endings):
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in endings and not path.name.startswith(".") and path.is_file()
    )


def read(path):
    """Return the picture in a file as a PIL image, mode RGB, turned as its EXIF data say.

    The first frame where there are several; what is transparent lies on white; of 16-bit pictures
    65535 is white, of pictures of floats the highest number. Raises UserError for a file that
    isn't a picture of these kinds, is damaged or too large.
    """
    if not path.is_file():  # a pipe would be waited for
        raise UserError("found something else than a file" if path.exists() else "no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's own, lower, limit of pixels
            with Image.open(str(path), formats=_formats()) as image:
                if image.width * image.height > LARGEST:
                    raise Image.DecompressionBombError
                return _rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise UserError(
            f"too large: expected at most {LARGEST // 10**6} million pixels; make it smaller"
        ) from None
    except Image.UnidentifiedImageError:
        kinds = ", ".join(_formats())
        raise UserError(f"not a picture of a known kind ({kinds})") from None
    except Exception as error:  # a decoder's depend on which bytes are damaged
        reason = shown(" ".join(str(error).split()) or type(error).__name__)
        raise UserError(f"could not be read: {reason}") from None


def _formats():
    """Return those of the FORMATS that this Pillow knows."""
    Image.init()
    return [kind for kind in FORMATS if kind in Image.OPEN]


def _rgb(image):
    """Return a PIL image of any mode as RGB."""
    if image.mode.startswith(("I", "F")):  # more than 8 bits; convert would cut them off
        pixels = np.nan_to_num(np.asarray(image, np.float64))
        white = 65535 if image.mode.startswith("I") else max(pixels.max(), 1e-30)
        levels = np.clip(pixels / white, 0, 1) * 255
        image = Image.fromarray(np.floor(levels + 0.5).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "RGBa", "La"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
