"""Images per second of our ETL and of the original's way, side by side.

    python benchmarks/etl_speed.py [--images 1000] [--threads 2] [--repeats 3] [--save NAME]

The original's way: TensorFlow enlarges one image after the other into whole float32 RGB arrays,
which are then floored and saved one by one: 1.4 MB for each image, of which FER2013 has 28,709.
Ours: `src.etl.write_images`. Both write the same bytes, which is checked; both start with the
images in memory, and the median of the repeats is told. Needs TensorFlow and 2 GB; a minute.

The files go to the system's temporary folder. Within six minutes after many files were deleted
(by this very benchmark, too) ext4 takes long to make new ones, which costs both the same time per
image and hides some of the ratio: wait, or set TMPDIR to another disk.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record  # noqa: E402
from benchmarks.generator_speed import SIZE, pictures  # noqa: E402
from src.etl import SUBFOLDER, image_paths, write_images  # noqa: E402

GOAL = 5


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000, help="how many")
    parser.add_argument("--threads", type=int, default=2, help="that decode and write at a time")
    parser.add_argument("--repeats", type=int, default=3, help="of each way, which take turns")
    record.add_option(parser)
    options = parser.parse_args(argv)

    chosen = {"images": options.images, "threads": options.threads}
    notes = record.Record("etl_speed", argv, "tensorflow", SIZE, **chosen)
    images, labels = pictures(options.images)
    with tempfile.TemporaryDirectory() as folder:
        write_images(images[:2], labels[:2], Path(folder, "first"), SIZE)  # compiles the kernel
        one_by_one(images[:2], labels[:2], Path(folder, "first_theirs"))
        times = []
        for repeat in range(options.repeats):
            # Folders of their own: ext4 takes long to name a new file just after many were deleted.
            theirs, ours = Path(folder, f"theirs{repeat}"), Path(folder, f"ours{repeat}")
            start = time.perf_counter()
            one_by_one(images, labels, theirs)
            middle = time.perf_counter()
            write_images(images, labels, ours, SIZE, options.threads)
            times.append((middle - start, time.perf_counter() - middle))
        for path in theirs.rglob("*.jpeg"):
            twin = ours / path.relative_to(theirs)
            if path.read_bytes() != twin.read_bytes():
                raise SystemExit(f"{twin} differs from the original's")
    theirs, ours = ([options.images / seconds for seconds in way] for way in zip(*times))
    theirs = notes.measured("original's way", theirs)
    ours = notes.measured("ours", ours)
    ratio = notes.ratio("ETL against the original's way", "ours", "original's way", goal=GOAL)
    print(
        f"{options.images} images to {SIZE} x {SIZE} JPEGs, {options.threads} threads, images/s\n"
    )
    print("original's way     ours   ratio  goal")
    print(f"{theirs['median']:14.0f} {ours['median']:8.0f} {ratio['median']:6.1f}x {GOAL:4}x")
    notes.save(options.save)
    return 0


def one_by_one(images, labels, folder):
    import tensorflow as tf

    for path in image_paths(labels, folder / SUBFOLDER):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    enlarged = []
    for image in images:
        rgb = np.stack([image] * 3, axis=-1).astype(np.float32)
        enlarged.append(tf.image.resize(rgb, (SIZE, SIZE)).numpy())
    enlarged = np.array(enlarged).astype(np.uint8)  # the cast floors
    for image, path in zip(enlarged, image_paths(labels, folder / SUBFOLDER)):
        Image.fromarray(image).save(path, quality=100, subsampling=0)


if __name__ == "__main__":
    sys.exit(main())
