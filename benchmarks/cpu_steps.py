"""`step_speed.py --cpu`: training steps on a CPU, on every backend that is installed, in turn.

Each contestant is a process that has built its net and waits to be told how many steps to take, so
that a machine that slows down does so for all of them. Its peak memory is told in the end.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import record

SCRIPT = Path(__file__).resolve().with_name("step_speed.py")
OURS = ("tensorflow", "jax", "torch")
THEIRS = ("PyTorch eager", "PyTorch compiled")  # torchvision's ResNet-34
READY = "ready\t"  # the line that says so, then versions in JSON


def main(options, argv):
    """Measure all contestants of each network; print and keep rates, peaks and ratios."""
    backends = [name for name in OURS if importlib.util.find_spec(name)]
    notes = record.Record(
        "step_speed", argv, backends[0], options.size, options.batch, options.precision
    )
    for network in options.networks:
        names = [f"{name} {numerics}" for name in backends for numerics in options.numerics]
        if network == "ResNet34" and importlib.util.find_spec("torchvision"):
            names += THEIRS
        contestants = [Contestant(network, name, argv) for name in names]
        contestants = [found for found in contestants if found.is_ready(notes)]
        for _ in range(options.repeats):
            for found in contestants:
                found.rates.append(options.batch * options.steps / found.run(options.steps))
        for found in contestants:
            print(record.line(f"{found.label:34}", notes.measured(found.label, found.rates)))
        for found in contestants:
            entry = notes.measured(f"{found.label}, peak memory", [found.end()], "GB")
            print(f"{found.label:34} {entry['median']:9.2f} GB", flush=True)
        add_ratios(notes, network, [found.name for found in contestants])
    notes.save(options.save)
    return 0


def add_ratios(notes, network, names):
    """Keep and print what the fast numerics are against the reference's, and against PyTorch."""
    for backend in OURS:
        fast = f"{backend} fast"
        for other in (f"{backend} reference", *THEIRS):
            if fast in names and other in names:
                label = f"{network} on a CPU: {fast} against {other}"
                pair = f"{network} {fast}", f"{network} {other}"
                ratio = notes.ratio(label, *pair, goal=1)
                print(f"{label}: {ratio['median']:.2f}", flush=True)


class Contestant:
    """A process with a net that is ready to train; `name` is a backend and numerics, or PyTorch."""

    def __init__(self, network, name, argv):
        self.name, self.label, self.rates = name, f"{network} {name}", []
        command = [sys.executable, str(SCRIPT), *(sys.argv[1:] if argv is None else argv)]
        environment = dict(os.environ)
        if name not in THEIRS:
            environment["KERAS_BACKEND"] = name.split()[0]
        self.process = subprocess.Popen(
            [*command, "--contestant", network, name],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def is_ready(self, notes):
        """Wait until it has trained a little; return whether it could, and note its versions."""
        for line in self.process.stdout:
            if line.startswith(READY):
                found = json.loads(line[len(READY) :])
                notes.add_versions(**found)
                return True
        print(f"{self.label}: ended with {self.process.wait()}", flush=True)
        return False

    def run(self, steps):
        """Return how many seconds it takes for that many steps."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self):
        """Return its peak memory, GB."""
        peak, _ = self.process.communicate()
        return float(peak)


def contestant(options, steps_of):
    """Take as many steps as standard input says, line by line; print the seconds, then the peak.

    steps_of: function (network, name of the contestant, precision, x, labels) -> run(count).
    """
    import resource

    network, name = options.contestant
    random = np.random.RandomState(0)
    shape = options.batch, options.size, options.size, 3
    x = random.uniform(0, 255, shape).astype(np.float32)
    labels = random.randint(0, 7, options.batch)
    run = steps_of(network, name, options.precision, x, labels)
    run(2)
    backend = "torch" if name in THEIRS else name.split()[0]
    print(READY + json.dumps(record.versions(backend)), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        print(time.perf_counter() - start, flush=True)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes on Linux
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9)
    return 0
