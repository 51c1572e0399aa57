"""Faces in pictures: found with OpenCV, and cut out as FER2013's were.

OpenCV is imported when faces are to be found or a video is to be read, and nowhere else, so that
everything but that does without it.
"""

import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from src.errors import UserError
from src.names import SIZE

CASCADE = "haarcascade_frontalface_alt2.xml"
INSTALL = "pip install opencv-python-headless==4.14.0.94"
SEARCHED = 1280  # pixels of the longer side; larger pictures are searched at this size
SMALLEST = 24  # pixels of a face's side there
NEIGHBOURS = 5  # overlapping finds that make a face
CONFIDENCE = 0.7  # of YuNet
VIDEOS = {".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"}


def detector(model=None):
    """Return find(image) -> list of boxes (x, y, width, height) in an RGB image of PIL.

    Boxes are whole pixels, square where the picture's edge allows it, from left to right. model:
    path of a YuNet network (ONNX), or None for the Haar cascade that comes with OpenCV. Raises
    UserError where OpenCV is not installed or can't load the model.
    """
    cv2 = _opencv()
    find = _haar(cv2) if model is None else _yunet(cv2, Path(model))

    def boxes(image):
        scale = min(1, SEARCHED / max(image.size))
        size = [max(1, round(side * scale)) for side in image.size]
        if min(size) < SMALLEST:
            return []
        found = find(np.asarray(image.resize(size, Image.BOX) if scale < 1 else image))
        return sorted(_inside(np.asarray(box) / scale, image.size) for box in found)

    return boxes


def _opencv():
    """Return the module cv2, which works in one thread: its boxes then are the same each time."""
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"finding faces and reading videos need OpenCV, which cannot be imported ({error}): "
            f"{INSTALL}; or give pictures that show a face and nothing else, with --no-detect"
        ) from None
    cv2.setNumThreads(1)
    return cv2


def _haar(cv2):
    if not hasattr(cv2, "CascadeClassifier"):
        raise UserError(
            f"OpenCV {cv2.__version__} has no Haar cascades any more: {INSTALL}, or name a YuNet "
            "file with --yunet"
        )
    cascade = cv2.CascadeClassifier(os.path.join(cv2.data.haarcascades, CASCADE))

    def find(pixels):
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        smallest = (SMALLEST, SMALLEST)
        return cascade.detectMultiScale(grey, 1.1, NEIGHBOURS, minSize=smallest)

    return find


def _yunet(cv2, model):
    if not model.is_file():
        raise UserError(f"{model}: no such file, expected a YuNet network (ONNX)")
    try:
        network = cv2.FaceDetectorYN.create(str(model), "", (320, 320), CONFIDENCE)
    except (cv2.error, AttributeError):
        raise UserError(f"{model}: OpenCV could not load it, expected YuNet (ONNX)") from None

    def find(pixels):
        network.setInputSize(pixels.shape[1::-1])
        try:
            found = network.detect(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1]
        except cv2.error:  # a network of another kind, which loads too
            raise UserError(f"{model} found fault with it, expected YuNet (ONNX)") from None
        return [_squared(row[:4]) for row in ([] if found is None else found)]

    return find


def _squared(box):
    """Return the square with a box's centre and its longer side: FER2013's faces are squares."""
    x, y, width, height = box
    side = max(width, height)
    return x + (width - side) / 2, y + (height - side) / 2, side, side


def _inside(box, size):
    """Return a box in whole pixels, cut at the edges of a picture (width, height)."""
    start = [min(max(round(float(v)), 0), side - 1) for v, side in zip(box, size)]
    end = [
        min(max(round(float(v + length)), v0 + 1), side)
        for v, length, v0, side in zip(box, box[2:], start, size)
    ]
    return (*start, *(b - a for a, b in zip(start, end)))


def centre(image):
    """Return the box of the largest square in the middle of an image: a ready crop's face."""
    side = min(image.size)
    return ((image.width - side) // 2, (image.height - side) // 2, side, side)


def cut(grey, box):
    """Return the face in a box of a grey image of PIL as FER2013 has it, uint8 (48, 48).

    Lanczos' filter reduces without aliasing; a crop of 48 x 48 pixels stays as it is.
    """
    x, y, width, height = box
    corners = (x, y, x + width, y + height)
    return np.asarray(grey.resize((SIZE, SIZE), Image.LANCZOS, box=corners))


def frames(source, every=1.0):
    """Yield (seconds, RGB image of PIL) of a video: the first picture, then one `every` seconds.

    source: a Path, or a camera's number; a camera's pictures come as fast as they are asked for.
    Raises UserError where OpenCV reads nothing from it.
    """
    cv2 = _opencv()
    live = isinstance(source, int)
    if not live and not source.is_file():
        raise UserError("no such file")
    # An absolute name: others could be taken for addresses.
    capture = cv2.VideoCapture(source if live else os.path.abspath(source))
    try:
        rate = capture.get(cv2.CAP_PROP_FPS) or 25
        step = 1 if live else max(1, round(every * rate))
        number, start = 0, time.monotonic()
        while capture.grab():
            if number % step == 0:
                there, pixels = capture.retrieve()
                if there:
                    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                    seconds = time.monotonic() - start if live else number / rate
                    yield seconds, Image.fromarray(pixels)
            number += 1
        if number == 0:
            where = f"camera {source}: " if live else ""
            raise UserError(f"{where}OpenCV gets no picture from it")
    finally:
        capture.release()
