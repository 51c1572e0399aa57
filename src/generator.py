"""The training images in batches, augmented, bit-identical to the reference's (REFERENCE.md, 3).

What takes the original most of its time is done here once or on all cores: each JPEG is decoded
once and kept as one grey uint8 plane, all random parameters of a batch are drawn first, in the
original's order, and then threads transform the images without the interpreter lock.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from src import etl
from src.backend import keras
from src.dataset import CLASSES, class_shares, one_hot
from src.errors import UserError
from src.pixels import affine_batch


class ImageFolder:
    """The JPEGs in `folder`/<class>/, decoded to grey planes of `size` x `size`, uint8.

    limit: use only about so many images, each class keeping its share (at least one image each),
        the first ones in file order.
    threads: how many work at decoding and transforming.
    cache_mb: decoded images are kept if all of them fit (size * size bytes each, 1,441 MB for
        FER2013 at 224); otherwise each is decoded whenever it is needed.

    Raises UserError if a class folder is missing, images are (fewer than ETL.py's note tells of, or
    none) or there are too many, or one is cut off; and later if an image cannot be read or has
    another size.
    """

    def __init__(self, folder, size, limit=None, threads=1, cache_mb=2048):
        self.files, self.labels = list_images(folder, limit)
        check_images(self.files, size)
        self.size = size
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)
        self._cache = None
        if len(self.files) * size * size <= cache_mb * 2**20:
            # Memory is touched, and so taken, only as images are decoded.
            self._cache = np.empty((len(self.files), size, size), np.uint8)
            self._decoded = np.zeros(len(self.files), bool)

    def __len__(self):
        return len(self.files)

    def described(self):
        """Return the names and sizes of the files in use, as bytes (n,), uint8."""
        lines = (
            f"{label} {os.path.basename(file)} {os.path.getsize(file)}\n"
            for label, file in zip(self.labels, self.files)
        )
        return np.frombuffer("".join(lines).encode("utf-8", "surrogateescape"), np.uint8)

    def planes(self, rows):
        """Return grey planes, uint8 (n, size, size), and where among them the images `rows` lie."""
        if self._cache is None:
            planes = np.stack([read_grey(self.files[row], self.size) for row in rows])
            return planes, np.arange(len(rows))
        for row in rows:
            if not self._decoded[row]:
                self._cache[row] = read_grey(self.files[row], self.size)
                self._decoded[row] = True
        return self._cache, rows

    def in_parallel(self, work, count):
        """Call work(slice) for slices that cover `count` items, two per thread to even them out."""
        edges = np.linspace(0, count, min(count, 2 * self._threads) + 1).astype(int)
        for job in [self._pool.submit(work, slice(*edge)) for edge in zip(edges, edges[1:])]:
            job.result()


class ImageFolderBatches(keras.utils.Sequence):
    """Shuffled, augmented batches of an ImageFolder, as Keras' generator's.

    Item i is (x, y): x float32 (B, size, size, 3) in 0...255 with three equal channels, y float32
    one-hot (B, classes). Ranges: `rotation_range` and `shear_range` in degrees, the shifts as
    fractions of the size, `zoom_range` around 1; zero turns a part off.

    Random numbers come from NumPy's global generator, as the original's do: without a `seed` they
    go on from wherever it stands; with one, it is seeded with `seed` + batches given so far at
    every request.
    """

    def __init__(
        self,
        images,
        batch_size,
        rotation_range=0,
        width_shift_range=0,
        height_shift_range=0,
        shear_range=0,
        zoom_range=0,
        horizontal_flip=False,
        vertical_flip=False,
        seed=None,
    ):
        super().__init__()
        self.images = images
        self.size = images.size
        self.batch_size = batch_size
        self.rotation_range = rotation_range
        self.width_shift_range = width_shift_range
        self.height_shift_range = height_shift_range
        self.shear_range = shear_range
        self.zoom_range = zoom_range
        self.horizontal_flip = horizontal_flip
        self.vertical_flip = vertical_flip
        self.seed = seed
        self.batches_seen = 0
        self.order = None
        self._memory = _Memory((batch_size, self.size, self.size, 3))

    def __len__(self):
        return math.ceil(len(self.images) / self.batch_size)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        if self.seed is not None:
            np.random.seed(self.seed + self.batches_seen)
        self.batches_seen += 1
        if self.order is None:
            self.on_epoch_end()
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        parameters = self.draw_parameters(len(rows))
        return self._transform(rows, *parameters), one_hot(self.images.labels[rows])

    def on_epoch_end(self):
        self.order = np.random.permutation(len(self.images))

    def draw_parameters(self, count):
        """Draw the augmentation of `count` images from NumPy's global generator.

        Returns matrices (count, 2, 2), offsets (count, 2) and flips bool (count, 2; left-right,
        up-down): before the flips, output pixel (r, c) is read at matrix @ (r, c) + offset.
        Matrices and offsets are None if nothing but flips is asked for.
        """
        return draw_parameters(self, self.size, count, np.random.random_sample)

    def _transform(self, rows, matrices, offsets, flips):
        moved = matrices is not None
        if not moved:
            matrices, offsets = np.zeros((len(rows), 2, 2)), np.zeros((len(rows), 2))
        x = self._memory.take()[: len(rows)]

        def work(part):
            images, indices = self.images.planes(rows[part])
            affine_batch(
                images, indices, matrices[part], offsets[part], flips[part], moved, x[part]
            )

        self.images.in_parallel(work, len(rows))
        return x


class _Memory:
    """Gives out float32 arrays of one shape, and their memory again once nobody uses them.

    The system clears fresh memory before it hands it out, which takes longer than filling it.
    """

    def __init__(self, shape):
        self.shape = shape
        self.free = []

    def take(self):
        """Return an array with any content. It is free again when it and all its views are gone."""
        try:
            array = self.free.pop()
        except IndexError:
            array = np.empty(self.shape, np.float32)
        return np.asarray(_Lease(array, self.free))


class _Lease:
    """Notices when an array is no longer used, and puts it on the list `free`.

    NumPy makes an array of a lease without a copy. That array and every view of it keep the lease
    alive (as their `base`); it is deleted with the last of them.
    """

    def __init__(self, array, free):
        self.array, self.free = array, free
        self.__array_interface__ = array.__array_interface__

    def __del__(self):
        self.free.append(self.array)


def draw_parameters(ranges, size, count, random_sample):
    """Draw the augmentation of `count` images of `size` pixels (REFERENCE.md section 3).

    ranges: an object with the attributes of the same names as ImageFolderBatches' arguments, from
    `rotation_range` to `vertical_flip`. random_sample: gives uniform numbers from 0 to 1 in a
    shape, such as np.random.random_sample. Returns what ImageFolderBatches.draw_parameters returns.
    """
    # One row of draws per image: `uniform(a, b)` is a + (b - a) * random().
    limits = [
        (-ranges.rotation_range, ranges.rotation_range),
        (-ranges.height_shift_range, ranges.height_shift_range),
        (-ranges.width_shift_range, ranges.width_shift_range),
        (-ranges.shear_range, ranges.shear_range),
        (1 - ranges.zoom_range, 1 + ranges.zoom_range),
        (1 - ranges.zoom_range, 1 + ranges.zoom_range),
    ]
    drawn = [low != high for low, high in limits]
    draws = iter(random_sample((count, sum(drawn) + 2)).T)
    rotation, down, right, shear, zoom_down, zoom_right = [
        low + (high - low) * next(draws) if low != high else None for low, high in limits
    ]
    flips = np.stack([next(draws) < 0.5, next(draws) < 0.5], axis=1)
    flips &= [ranges.horizontal_flip, ranges.vertical_flip]

    parts = []
    if rotation is not None:
        cosine, sine = _turn(rotation)
        parts.append(_identities(count))
        parts[-1][:, 0, 0] = parts[-1][:, 1, 1] = cosine
        parts[-1][:, 1, 0] = sine
        parts[-1][:, 0, 1] = -sine
    if down is not None or right is not None:
        parts.append(_identities(count))
        parts[-1][:, 0, 2] = 0 if down is None else down * size
        parts[-1][:, 1, 2] = 0 if right is None else right * size
    if shear is not None:
        cosine, sine = _turn(shear)
        parts.append(_identities(count))
        parts[-1][:, 0, 1] = -sine
        parts[-1][:, 1, 1] = cosine
    if zoom_down is not None:
        parts.append(_identities(count))
        parts[-1][:, 0, 0] = zoom_down
        parts[-1][:, 1, 1] = zoom_right
    if not parts:
        return None, None, flips

    matrix = parts[0]
    for part in parts[1:]:
        matrix = np.matmul(matrix, part)
    centre, back = np.eye(3), np.eye(3)
    centre[:2, 2] = size / 2 + 0.5
    back[:2, 2] = -centre[:2, 2]
    matrix = np.matmul(np.matmul(centre, matrix), back)
    return matrix[:, :2, :2], matrix[:, :2, 2], flips


def list_images(folder, limit=None):
    """Return paths (list) and labels (int array) of the JPEGs in `folder`/<class>/.

    By class, names in plain string order; `limit` as ImageFolder's. Raises UserError as it does.
    """
    names = []
    for name in CLASSES:
        try:
            with os.scandir(os.path.join(folder, name)) as entries:
                names.append(sorted(entry.name for entry in entries if _is_image(entry)))
        except OSError:
            raise UserError(
                f"{Path(folder) / name}: folder of class {name} not found; run ETL.py"
            ) from None
    total = sum(map(len, names))
    if not total:
        raise UserError(f"{folder}: expected JPEG images, found none; run ETL.py")
    complete = etl.images_of(folder)
    if complete is not None and total < complete:
        raise UserError(f"{folder}: expected {complete} JPEG images, found {total}; run ETL.py")
    if complete is not None and total > complete:
        files = (f"{c}/{f}" for c, found in zip(CLASSES, names) for f in found)
        foreign = next((f" ({f})" for f in files if not etl.IMAGE.match(Path(f).name)), "")
        raise UserError(
            f"{folder}: expected {complete} JPEG images, found {total}{foreign}; remove those that "
            f"are not from ETL.py and run it, or, if all are your own, remove {etl.NOTE}"
        )
    shares = class_shares([len(found) for found in names], limit)
    names = [found[:share] for found, share in zip(names, shares)]
    files = [os.path.join(folder, c, f) for c, found in zip(CLASSES, names) for f in found]
    return files, np.repeat(np.arange(len(CLASSES)), [len(found) for found in names])


def _is_image(entry):
    """Return whether an entry of a folder is a JPEG by its name; hidden ones are the system's."""
    name = entry.name.lower()
    return name.endswith((".jpeg", ".jpg")) and not name.startswith(".") and entry.is_file()


def check_images(files, size):
    """Raise UserError if one of the JPEGs `files`, of `size` pixels, is cut off or no JPEG.

    Hours of work need not begin then. Only those that do not begin and end as JPEGs do are
    decoded, so that 28,709 good ones take a second.
    """
    for path in files:
        if not etl.is_whole(path):
            read_grey(path, size)


def read_grey(path, size):
    """Decode a JPEG of `size` x `size` pixels to one grey plane, uint8; colour is ignored.

    For the grey pictures that ETL.py writes this is each channel of the RGB picture, bit by bit.
    Raises UserError for any other file.
    """
    try:
        # No other format: Pillow would have Ghostscript run what an EPS file says, for one.
        with JpegImageFile(path) as image:
            found = image.size
            if found == (size, size):
                image.draft("L", None)
                return np.asarray(image.convert("L"))
    except Exception as error:  # a decoder's depend on which bytes are damaged
        raise UserError(
            f"{path}: expected a JPEG image, cannot read it ({error}); put a good one there, "
            "or delete it and run ETL.py"
        ) from None
    raise UserError(
        f"{path}: expected {size} x {size} pixels, found {found[0]} x {found[1]}; run ETL.py"
    )


def _identities(count):
    return np.tile(np.eye(3), (count, 1, 1))


def _turn(degrees):
    """Cosines and sines by the C library, since NumPy's own differ between its versions."""
    angles = [math.radians(angle) for angle in degrees]
    return np.array([math.cos(a) for a in angles]), np.array([math.sin(a) for a in angles])
