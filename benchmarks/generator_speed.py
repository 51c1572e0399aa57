"""Images per second of our data generator and of Keras' own, side by side on one JPEG folder.

    python benchmarks/generator_speed.py [--images 384] [--threads 2] [--repeats 5]
                                          [--save NAME]

Writes formula-made pictures into a temporary JPEG folder, then, for each recipe, lets both
generators give a whole epoch in turn and takes the median over the repeats. `first` is our first
epoch, in which the JPEGs are decoded; Keras decodes them every time. Needs TensorFlow; 1 minute.
"""

import argparse
import io
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record  # noqa: E402
from src.dataset import CLASSES  # noqa: E402
from src.etl import SUBFOLDER, write_images  # noqa: E402
from src.generator import ImageFolder, ImageFolderBatches  # noqa: E402

SIZE = 224
RECIPES = {  # name: batch size, augmentation, goal
    "stage 1": (48, {"rotation_range": 30, "horizontal_flip": True}, 15),
    "stage 2": (
        64,
        {
            "rotation_range": 10,
            "width_shift_range": 0.1,
            "height_shift_range": 0.1,
            "zoom_range": 0.1,
            "horizontal_flip": True,
        },
        10,
    ),
    "stage 3": (64, {}, 6),
}


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=384, help="of an epoch")
    parser.add_argument("--threads", type=int, default=2, help="that make batches at a time")
    parser.add_argument(
        "--repeats", type=int, default=5, help="of each generator, which take turns"
    )
    record.add_option(parser)
    options = parser.parse_args(argv)

    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    sizes = [batch_size for batch_size, _, _ in RECIPES.values()]
    chosen = {"images": options.images, "threads": options.threads}
    notes = record.Record("generator_speed", argv, "tensorflow", SIZE, sizes, "float32", **chosen)
    images, labels = pictures(options.images)
    print(f"{options.images} images of {SIZE} x {SIZE}, {options.threads} threads, images/s\n")
    print(
        f"{'recipe':8} {'batch':>5} {'Keras':>8} {'first':>8} {'ours':>8} {'ratio':>7} {'goal':>5}"
    )
    with tempfile.TemporaryDirectory() as folder:
        write_images(images, labels, folder, SIZE, options.threads)
        folder = str(Path(folder) / SUBFOLDER)
        warm_up(folder)
        for name, (batch_size, augmentation, goal) in RECIPES.items():
            with redirect_stdout(io.StringIO()):  # it reports what it found
                theirs = ImageDataGenerator(**augmentation).flow_from_directory(
                    folder, (SIZE, SIZE), classes=list(CLASSES), batch_size=batch_size
                )
            ours = ImageFolderBatches(
                ImageFolder(folder, SIZE, threads=options.threads), batch_size, **augmentation
            )
            first = rate(ours, options.images)
            pairs = [
                (rate(theirs, options.images), rate(ours, options.images, epochs=5))
                for _ in range(options.repeats)
            ]
            keras, own = (f"{name}, {whose}" for whose in ("Keras", "ours"))
            keras_rate, own_rate = map(notes.measured, (keras, own), zip(*pairs))
            notes.measured(f"{name}, ours, first epoch", [first])
            ratio = notes.ratio(f"generator, {name}, against Keras", own, keras, goal=goal)
            print(
                f"{name:8} {batch_size:5} {keras_rate['median']:8.0f} {first:8.0f} "
                f"{own_rate['median']:8.0f} {ratio['median']:6.1f}x {goal:4}x"
            )
    notes.save(options.save)
    return 0


def pictures(count):
    """Smooth blobs with some noise, about as hard to pack as photographs."""
    random = np.random.RandomState(0)
    y, x = np.mgrid[:48, :48]
    centre = random.uniform(8, 40, (count, 2, 1, 1))
    distance = np.hypot(y - centre[:, 0], x - centre[:, 1])
    images = 128 + 80 * np.cos(distance / 4) + random.normal(0, 8, (count, 48, 48))
    return images.clip(0, 255).astype(np.uint8), np.arange(count, dtype=np.uint8) % len(CLASSES)


def warm_up(folder):
    """Compile the kernels before the clock runs."""
    for augmentation in ({}, {"rotation_range": 30}):
        ImageFolderBatches(ImageFolder(folder, SIZE, limit=2), 2, **augmentation)[0]


def rate(batches, images, epochs=1):
    start = time.perf_counter()
    for _ in range(epochs):
        for i in range(len(batches)):
            batches[i]
        batches.on_epoch_end()
    return epochs * images / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
