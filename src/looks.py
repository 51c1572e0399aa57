"""Faces in files: pictures and videos are read, and what is seen in each is kept."""

import itertools
from collections import namedtuple

from src import faces, pictures
from src.errors import UserError

# A picture, or one of a video: its file, seconds into a video or None, its size in pixels, the
# boxes (x, y, width, height) of its faces and their pixels, uint8 (48, 48) each.
Look = namedtuple("Look", "file seconds size boxes faces")


def looks(path, detect, every, limit):
    """Yield the Looks of a file: one of a picture, one or more of a video.

    detect(image) -> boxes. every: seconds from one picture of a video to the next; limit: how many
    at most, or None. Raises UserError for a file that can't be read.
    """
    for seconds, image in images(path, every, limit):
        yield look(str(path), seconds, image, detect)


def images(path, every, limit):
    """Yield (seconds, RGB image of PIL) of a file, a picture's without seconds."""
    if path.suffix.lower() not in faces.VIDEOS:
        yield None, pictures.read(path)
        return
    yield from itertools.islice(faces.frames(path, every), limit)


def look(file, seconds, image, detect):
    """Return the Look of an RGB image of PIL."""
    boxes = detect(image)
    grey = image.convert("L")
    return Look(file, seconds, image.size, boxes, [faces.cut(grey, box) for box in boxes])


def examine(paths, detect, every, limit, failed):
    """Return the Looks of all files; failed(name, reason) is told of those that can't be read.

    What a video gave before it failed is kept.
    """
    found = []
    for path in paths:
        try:
            found.extend(looks(path, detect, every, limit))
        except (UserError, OSError) as error:
            failed(str(path), str(error))
    return found
