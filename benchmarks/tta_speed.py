"""Time test-time augmentation against one `predict` call per view on an array built for it.

    python benchmarks/tta_speed.py [--images 64] [--views 60] [--repeats 1] [--settings FOLDER]
                                   [--save NAME]

Both ways give the probabilities of the same drawn images from the same LHC-Net, compiled and run
once before they are timed. "Separate" is the plain way: the whole float32 array of a view, three
channels and all, is made in the host's memory (by the same layer as ours, without the net); then
`predict` runs over it. The two take turns of up to ten views. Prints seconds, seconds spent on
making the arrays, and the ratio of the turns' median. Two cores do about 6 images a second at 224,
so take few; on a GPU take more: KERAS_BACKEND=jax python benchmarks/tta_speed.py --images 3589
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record  # noqa: E402
from src import backend, networks, runtime, sample, tta  # noqa: E402
from src.cli import command, parse  # noqa: E402
from src.evaluation import image_batches  # noqa: E402
from src.pixels import enlarge  # noqa: E402


@command
def main(argv=None):
    options = {
        "--images": {"type": int, "default": 64, "help": "how many drawn images"},
        "--views": {"type": int, "default": 60, "help": "how many of the 60 views"},
        "--repeats": {"type": int, "default": 1, "help": "how often all of it"},
        "--save": record.SAVE,
    }
    arguments = parse(argv, __doc__, options)
    settings, count = arguments.settings, arguments.images
    runtime.prepare(settings)
    network = networks.build("LHC_Net", settings)
    images, _ = sample.draw(1, [-(-count // 7)] * 7)
    images = images[:count]
    # Evenly from the whole list, so that each kind has its share.
    views = tta.descriptions(settings.evaluation)
    views = [views[i] for i in np.linspace(0, 59, arguments.views).astype(int)]
    building = 0.0
    batch_size = settings.evaluation["batch_size"]
    one_view = tta.with_view(lambda view: view, settings.size)

    def separate(views):
        nonlocal building
        large = enlarge(images, settings.size)
        total = 0
        for row in tta.table(views, settings.size):
            start = time.perf_counter()
            rows = np.tile(row, (count, 1))
            array = one_view.predict([large, rows], batch_size=batch_size, verbose=0)
            building += time.perf_counter() - start
            total = total + network.predict(array, batch_size=batch_size, verbose=0)
        return total / len(views)

    predict = backend.predictor(tta.with_view(network, settings.size))

    def together(views):
        rows = tta.table(views, settings.size)
        batches = image_batches(images, settings)
        return tta.average(predict, rows, np.ones(len(views)), batches, count)

    separate(views[:2])
    together(views[:2])
    chosen = [backend.NAME, settings.size, batch_size, settings.runtime["precision"]]
    more = {"numerics": settings.runtime["numerics"], "images": count, "views": len(views)}
    notes = record.Record("tta_speed", argv, *chosen, **more)
    notes.add_versions(gpus=backend.versions()["gpus"])
    building, seconds, differences = 0.0, [], []
    turns = np.array_split(np.arange(len(views)), -(-len(views) // 10))
    for turn in turns * arguments.repeats:
        part = [views[i] for i in turn]
        start = time.perf_counter()
        ours = together(part)
        middle = time.perf_counter()
        theirs = separate(part)
        seconds.append((time.perf_counter() - middle, middle - start))
        differences.append(np.abs(ours - theirs).max())
    print(f"{count} images of {settings.size} x {settings.size}, {len(views)} views")
    print(f"{len(turns)} turns, {arguments.repeats} times")
    their_seconds, our_seconds = np.sum(seconds, axis=0)
    print(f"separate arrays: {their_seconds:8.2f} s, of which making them {building:.2f} s")
    print(f"one program:     {our_seconds:8.2f} s")
    for label, values in zip(("separate arrays", "one program"), zip(*seconds)):
        notes.measured(label, values, "s a turn")
    label = f"TTA at {settings.size}, {settings.runtime['precision']}, against an array a view"
    ratio = notes.ratio(label, "separate arrays", "one program")
    print(f"ratio:           {ratio['median']:8.2f}")
    print(f"largest difference of a probability: {max(differences):.1e}")
    notes.save(arguments.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
