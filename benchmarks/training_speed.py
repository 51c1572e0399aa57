"""Images per second of the real training loop and of its bare compiled step, epoch after epoch.

    KERAS_BACKEND=jax python benchmarks/training_speed.py [--network ResNet34] [--images 20000]
                                                          [--save NAME]

Trains with fast numerics on drawn images at 224 x 224, batch 64, the second stage's augmentation:
everything that `src/training.py` does for an epoch's training, without validation, plots and
weights. The bare step is the same step, input path included, called in a loop on one batch that
stays on the device. Goal: 90 % of it. Needs a GPU; 2 minutes.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record  # noqa: E402
from benchmarks.step_speed import bare_steps  # noqa: E402
from src import backend, networks, sample, settings, training  # noqa: E402
from src.fast import feed as fast_feed  # noqa: E402

GOAL = 0.9


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--network", default="ResNet34", choices=("ResNet34", "LHC_Net"), help="to train"
    )
    parser.add_argument("--images", type=int, default=20000, help="of an epoch")
    parser.add_argument("--batch", type=int, default=64, help="images of a step")
    parser.add_argument(
        "--epochs", type=int, default=4, help="the first of which compiles and does not count"
    )
    parser.add_argument("--precision", default="bfloat16", help="float32 or bfloat16")
    parser.add_argument("--steps-per-execution", type=int, default=8, help="in one call")
    record.add_option(parser)
    options = parser.parse_args(argv)

    print(f"{backend.versions()}\n{options.network}, batch {options.batch}, {options.precision}")
    backend.set_precision(options.precision)
    values = settings.load()
    values.runtime.update(numerics="fast", steps_per_execution=options.steps_per_execution)
    notes = record.Record(
        "training_speed",
        argv,
        backend.NAME,
        values.size,
        options.batch,
        options.precision,
        network=options.network,
        images=options.images,
        steps_per_execution=options.steps_per_execution,
    )
    notes.add_versions(gpus=backend.versions()["gpus"])
    stage = dict(values.recipe("ResNet34")["stages"][1], epochs=options.epochs)
    stage.update(batch_size=options.batch, patience=None)
    images, labels = sample.draw(1, [40] * 7)
    rows = np.arange(options.images) % len(images)
    data = images[rows], np.eye(7, dtype=np.float32)[labels[rows]]
    validation = data[0][:1024], data[1][:1024]
    model = networks.build(options.network, values)
    random = np.random.default_rng(0)
    feed = fast_feed.DeviceFeed(model, stage, data, validation, values, random)
    loop = [
        row["images_per_second"]
        for row in training.run_stage(model, stage, feed, values.runtime, options.network)
    ][1:]  # the first epoch compiles

    augmentation = settings.augmentation_of(stage)
    placements = fast_feed.draw_placements(random, options.batch, values.size, augmentation)
    x = [np.arange(options.batch, dtype=np.int32), placements]
    run = bare_steps(feed.trained, x, data[1][: options.batch])
    run(8)
    bare = []
    for _ in range(5):
        start = time.perf_counter()
        run(100)
        bare.append(100 * options.batch / (time.perf_counter() - start))
    for name, rates in (("training loop", loop), ("bare step", bare)):
        print(record.line(f"{name:14}", notes.measured(name, rates)))
    label = f"training loop of {options.network} against its bare step"
    ratio = notes.ratio(label, "training loop", "bare step", paired=False, goal=GOAL)
    print(f"ratio {ratio['median']:.1%}")
    notes.save(options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
