"""Images per second on 1, 2, 4 ... devices of one machine: training and test-time augmentation.

    KERAS_BACKEND=jax python benchmarks/scaling.py --devices 1 2 [--network ResNet34] [--save NAME]

Trains as `src/training.py` does, with fast numerics on drawn images at 224 x 224 and the second
stage's augmentation: once with `--batch` images a device (weak scaling), once with a batch of
`--global-batch` (strong scaling). TTA: `--batch` images a device. Each number of devices runs in a
process of its own; they take turns, `--rounds` times. About 3 minutes a process on H100s, of which
most is compiling; a folder for --compiled spares that after the first round.
On the CPU, to see that it runs: --devices 1 2 --size 32 --images 64 --batch 8 --global-batch 16
--precision float32.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record  # noqa: E402

GOALS = {("weak", 2): 1.85, ("weak", 4): 3.5, ("weak", 8): 6.8, ("TTA", 2): 1.95, ("TTA", 8): 7.5}
VIEWS = 8


def main(argv=None):
    options = parsed(argv)
    if options.only:
        return measure(options)
    words = sys.argv[1:] if argv is None else argv
    rates, machine = {}, {}
    for _ in range(options.rounds):
        for count in options.devices:
            command = [sys.executable, __file__, *words, "--only", str(count)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            machine = found.pop("machine")
            for kind, values in found.items():
                rates.setdefault((kind, count), []).extend(values)
    chosen = [machine["backend"], options.size, options.batch, options.precision]
    more = {"network": options.network, "global_batch": options.global_batch}
    notes = record.Record("scaling", argv, *chosen, **more)
    notes.add_versions(gpus=machine["gpus"])
    for (kind, count), values in rates.items():
        label = f"{options.network}, {kind}, {count} devices"
        print(record.line(f"{label:34}", notes.measured(label, values)), flush=True)
    first = options.devices[0]
    for kind, count in rates:
        if count != first:
            one, several = (f"{options.network}, {kind}, {n} devices" for n in (first, count))
            label = f"{options.network}, {kind}: {count} devices against {first}"
            goal = GOALS.get((kind, count)) if first == 1 else None
            ratio = notes.ratio(label, several, one, paired=False, goal=goal)
            print(f"{label}: {ratio['median']:.2f}")
    notes.save(options.save)
    return 0


def parsed(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--network", default="ResNet34", choices=("ResNet34", "LHC_Net"))
    parser.add_argument("--batch", type=int, default=256, help="images a device")
    parser.add_argument("--global-batch", type=int, default=256, help="of strong scaling")
    parser.add_argument("--images", type=int, default=8192, help="of an epoch, a device")
    parser.add_argument("--epochs", type=int, default=4, help="the first one is not counted")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--compiled", metavar="FOLDER", help="where compiled steps are kept")
    record.add_option(parser)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def measure(options):
    """Print what one number of devices does, in JSON: {kind: images/s of each epoch or pass}."""
    from src import backend, runtime, sample, settings

    count = options.only
    values = settings.load()
    values.training["target_size"] = options.size
    values.runtime.update(
        numerics="fast",
        precision=options.precision,
        devices=count,
        deterministic=False,
        steps_per_execution=8,
        compilation_cache=options.compiled,
    )
    runtime.prepare(values)
    images, labels = sample.draw(1, [40] * 7)
    rows = np.arange(options.images * count) % len(images)
    data = images[rows], np.eye(7, dtype=np.float32)[labels[rows]]
    rates = {
        "weak": training_rates(options, values, data, options.batch * count),
        "strong": training_rates(options, values, data, options.global_batch),
        "TTA": tta_rates(options, values, data[0], options.batch * count),
    }
    found = backend.versions()
    print(json.dumps({**rates, "machine": {"backend": backend.NAME, "gpus": found["gpus"]}}))
    return 0


def training_rates(options, values, data, batch):
    """Return images/s of all epochs but the first, `batch` images a step."""
    from src import networks
    from src.fast.feed import DeviceFeed

    stage = dict(values.recipe("ResNet34")["stages"][1], batch_size=batch)
    model = networks.build(options.network, values)
    validation = data[0][:32], data[1][:32]
    feed = DeviceFeed(model, stage, data, validation, values, np.random.default_rng(0))
    feed.compile(values.runtime["steps_per_execution"])
    rates = []
    for _ in range(options.epochs):
        start = time.perf_counter()
        feed.fit(options.network)
        rates.append(len(data[0]) / (time.perf_counter() - start))
    return rates[1:]


def tta_rates(options, values, images, batch):
    """Return views/s of all passes but the first, `batch` images at a time."""
    from src import devices, networks, tta
    from src.pixels import enlarge

    model = networks.build(options.network, values)
    predictor = devices.predictor(tta.with_view(model, options.size))
    views = tta.table(tta.descriptions(values.evaluation)[:VIEWS], options.size)
    large = enlarge(images[: 2 * batch], options.size)  # before the clock starts
    rates = []
    for _ in range(options.epochs):
        start = time.perf_counter()
        batches = (large[i : i + batch] for i in range(0, len(large), batch))
        tta.average(predictor, views, [1] * VIEWS, batches, len(large))
        rates.append(len(large) * VIEWS / (time.perf_counter() - start))
    return rates[1:]


if __name__ == "__main__":
    sys.exit(main())
