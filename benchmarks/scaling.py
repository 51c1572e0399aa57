"""Images per second on 1, 2, 4 ... devices of one machine: training and test-time augmentation.

    KERAS_BACKEND=jax python benchmarks/scaling.py --devices 1 2 [--network ResNet34] [--save NAME]

Trains as `src/training.py` does, with fast numerics on drawn images at 224 x 224 and the second
stage's augmentation: with `--batch` images a device (weak scaling), and with each batch of
`--global-batch` (strong scaling). TTA: all views of eight batches, `--batch` images a device. (The
first batch has nothing to hide behind; FER2013's test split has 14 of them.) Each number of devices
runs in a process of its own; they take turns, `--rounds` times. About 2 minutes a process on H100s,
of which most is compiling; a folder for --compiled spares that after the first round. --profile
tells, for training with several devices, what part of the time they only talk or wait.
On the CPU, to see that it runs: --devices 1 2 --size 32 --images 64 --batch 8 --global-batch 16
--precision float32.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import record  # noqa: E402

GOALS = {("weak", 2): 1.85, ("weak", 4): 3.5, ("weak", 8): 6.8, ("TTA", 2): 1.95, ("TTA", 8): 7.5}
KINDS = ("weak", "strong", "TTA")
TTA_BATCHES = 8


def main(argv=None):
    options = parsed(argv)
    if options.only:
        return measure(options)
    words = sys.argv[1:] if argv is None else argv
    load_before = record.load()
    rates, machine, waits = {}, {}, {}
    for _ in range(options.rounds):
        for count in options.devices:
            command = [sys.executable, __file__, *words, "--only", str(count)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            machine = found.pop("machine")
            waits[count] = found.pop("profile")
            for kind, values in found.items():
                rates.setdefault((kind, count), []).extend(values)
            print(f"{count} devices: {found}", file=sys.stderr, flush=True)
    chosen = [machine["backend"], options.size, options.batch, options.precision]
    more = {
        "network": options.network,
        "global_batch": options.global_batch,
        "steps_per_execution": options.steps_per_execution,
    }
    notes = record.Record("scaling", argv, *chosen, load_before=load_before, **more)
    notes.add_versions(gpus=machine["gpus"], **machine["versions"])
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
    notes.document["profile"] = {f"{count} devices": shares for count, shares in waits.items()}
    for devices, shares in notes.document["profile"].items():
        for name, values in shares.items():
            print(
                f"{options.network}, weak, {devices}: {name} {np.median(values):.1f} % of the time"
            )
    notes.save(options.save)
    return 0


def parsed(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--devices",
        type=int,
        nargs="+",
        default=[1, 2],
        help="how many to compare, the first with the others",
    )
    parser.add_argument(
        "--network",
        default="ResNet34",
        choices=("ResNet34", "LHC_Net"),
        help="to train, or to predict with",
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=KINDS,
        choices=KINDS,
        help="weak: a batch for each device; strong: one shared by all; TTA",
    )
    parser.add_argument("--batch", type=int, default=256, help="images a device")
    parser.add_argument("--global-batch", type=int, nargs="+", default=[256], help="of strong")
    parser.add_argument("--images", type=int, default=16384, help="of an epoch, a device")
    parser.add_argument("--epochs", type=int, default=4, help="the first one is not counted")
    parser.add_argument("--rounds", type=int, default=1, help="through all numbers of devices")
    parser.add_argument("--steps-per-execution", type=int, default=8, help="in one call")
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--precision", default="bfloat16", help="float32 or bfloat16")
    parser.add_argument("--compiled", metavar="FOLDER", help="where compiled steps are kept")
    parser.add_argument("--profile", action="store_true", help="JAX: how long devices wait")
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
        steps_per_execution=options.steps_per_execution,
        compilation_cache=options.compiled,
    )
    runtime.prepare(values)
    images, labels = sample.draw(1, [40] * 7)
    rows = np.arange(options.images * count) % len(images)
    data = images[rows], np.eye(7, dtype=np.float32)[labels[rows]]
    batches = {}
    if "weak" in options.kinds:
        batches["weak"] = options.batch * count
    if "strong" in options.kinds:
        batches.update({f"strong {batch}": batch for batch in options.global_batch})
    rates, waits = {}, {}
    for kind, batch in batches.items():
        same = next((other for other in rates if batches[other] == batch), None)
        if same:  # one device's share is all of it: the same step
            rates[kind] = rates[same]
            continue
        profile = kind == "weak" and count > 1 and options.profile
        rates[kind], waits[kind] = training_rates(options, values, data, batch, profile)
    if "TTA" in options.kinds:
        rates["TTA"] = tta_rates(options, values, data[0], options.batch * count)
    versions = backend.versions()
    machine = {
        "backend": backend.NAME,
        "gpus": versions.pop("gpus"),
        "versions": record.versions(backend.NAME),
    }
    print(json.dumps({**rates, "profile": waits.get("weak") or {}, "machine": machine}))
    return 0


def training_rates(options, values, data, batch, profile=False):
    """Return images/s of all epochs but the first, `batch` images a step, and `shares_of_time`."""
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
        feed.fit("{:.0%}".format)
        rates.append(len(data[0]) / (time.perf_counter() - start))
    return rates[1:], shares_of_time(lambda: feed.fit("{:.0%}".format)) if profile else {}


def shares_of_time(work):
    """Return {what devices do: its share of the time in %, one a device} while JAX does `work`."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder)
        work()
        jax.profiler.stop_trace()
        path = next(Path(folder).rglob("*.xplane.pb"))
        planes = jax.profiler.ProfileData.from_file(str(path)).planes
        found = [spans(plane) for plane in planes if plane.name.startswith("/device:GPU")]
    shares = {"only talking": [], "waiting": [], "talking at all": []}
    for talking, computing in filter(any, found):
        both = merged(talking + computing)
        whole = both[-1][1] - both[0][0]
        shares["only talking"].append(100 * (length(both) - length(merged(computing))) / whole)
        shares["waiting"].append(100 * (whole - length(both)) / whole)
        shares["talking at all"].append(100 * length(merged(talking)) / whole)
    if not shares["waiting"]:
        print("the profiler told of no device's work", file=sys.stderr)
        return {}
    return shares


def spans(plane):
    """Return when a device talks to others and when it computes: two lists of (start, end), ns."""
    talking, computing = [], []
    for stream in plane.lines:
        if "Stream" in stream.name:
            for event in stream.events:
                talks = re.match("nccl|all_reduce", event.name, re.I)  # NCCL's, or XLA's own kernel
                kind = talking if talks else computing
                kind.append((event.start_ns, event.start_ns + event.duration_ns))
    return talking, computing


def merged(spans):
    """Return spans (start, end) in order, those that overlap as one."""
    found = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def length(spans):
    return sum(end - start for start, end in spans)


def tta_rates(options, values, images, batch):
    """Return views/s of all passes but the first, `batch` images at a time."""
    from src import devices, networks, tta
    from src.pixels import enlarge

    model = networks.build(options.network, values)
    predictor = devices.predictor(tta.with_view(model, options.size))
    views = tta.table(tta.descriptions(values.evaluation), options.size)
    large = enlarge(images[: TTA_BATCHES * batch], options.size)  # before the clock starts
    rates = []
    for _ in range(options.epochs):
        start = time.perf_counter()
        batches = (large[i : i + batch] for i in range(0, len(large), batch))
        tta.average(predictor, views, [1] * len(views), batches, len(large))
        rates.append(len(large) * len(views) / (time.perf_counter() - start))
    return rates[1:]


if __name__ == "__main__":
    sys.exit(main())
