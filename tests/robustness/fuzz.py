"""Feed hostile files to everything that reads files, and count what happens.

    python tests/robustness/fuzz.py --seconds 600
    python tests/robustness/fuzz.py --seconds 60 --reader settings --seed 7 --save
    python tests/robustness/fuzz.py --replay FILE

Each reader runs in a process of its own, on a copy of the input in a temporary folder. It may
accept an input or reject it in a UserError of one short line, with nothing written. All else is a
fault: a traceback or a process that ends, a hang (longer than the reader's limit), more memory than
the limit, a line that nobody can read, a file that is changed. Inputs that led to faults are kept
in --faults, from where --replay reads them again. Exit code: 1 if there are any.

Needs Linux or macOS, Hypothesis, and at most 2 GB of memory.
"""

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import platform
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from importlib import metadata
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import record  # noqa: E402
from tests.robustness import table  # noqa: E402
from tests.robustness.inputs import as_text, from_text, write  # noqa: E402
from tests.robustness.readers import READERS  # noqa: E402

ABOUT = (
    "Hostile inputs, and what became of them. Rejected is right: one line that says what is wrong. "
    "Faults are tracebacks, processes that ended, hangs beyond the limit, more memory than the "
    "limit (of the whole process, TensorFlow included), lines too long to read, and files changed."
)
FAULTS = ("tracebacks", "ended", "hangs", "memory", "long_lines", "changed_files")
LIMIT_MB = 400  # more than the process has before the first input
ADDRESSES_MB = 4096  # more than the limit above, so that it is seen, and less than the machine's
STARTING_S = 300  # until a reader's process is ready, on a busy machine
ENDING_S = 5  # until it ends by itself
LONGEST_LINE = 1000  # characters of a message
BATCH = 100  # inputs drawn with one seed
LIFE = 1000  # inputs that a process reads: frameworks keep a little of all that they do
KEPT = 3  # inputs kept of one fault


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600, help="for each reader")
    parser.add_argument("--reader", choices=list(READERS), help="only this one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default="faults", help="folder for inputs that led to faults")
    parser.add_argument("--replay", metavar="FILE", help="read one of these inputs again")
    parser.add_argument("--save", action="store_true", help="write results/fuzz.json")
    options = parser.parse_args(argv)
    if options.replay:
        return replay(Path(options.replay))
    rows = []
    for name in [options.reader] if options.reader else READERS:
        rows.append(run(READERS[name], options.seed, options.seconds, folder=Path(options.faults)))
        if options.save:
            save(rows[-1])
    print(table.table(rows))
    return int(any(row[kind] for row in rows for kind in FAULTS))


def run(reader, seed, seconds=None, inputs=None, folder=None):
    """Feed a reader for some seconds, or a number of inputs; return what is counted, as a row.

    folder: for inputs that lead to faults, or None.
    """
    name = reader.__name__.lower()
    counts, kept, peaks = Counter(), Counter(), []
    with Process(reader) as process:
        started, number = time.monotonic(), seed
        strategy = reader.inputs(process.good)

        def over():
            enough = seconds is not None and time.monotonic() - started >= seconds
            return enough or counts["inputs"] == inputs

        def feed(entries):
            if over():
                return
            outcome = process.read(entries)
            counts.update(["inputs", outcome["kind"]])
            peaks.append(outcome.get("peak_mb", 0))
            if outcome["kind"] not in FAULTS:
                return
            fault = outcome["what"].splitlines()[-1][:200]
            kept[outcome["kind"], fault] += 1
            if kept[outcome["kind"], fault] > KEPT:
                return
            print(f"{name}: {outcome['kind']}: {outcome['what']}", flush=True)
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{name}.{outcome['kind']}.{sum(kept.values())}.json"
                path.write_text(as_text(entries))

        while not over():
            drawn(strategy, number)(feed)
            number += 1
    return {
        "reader": name,
        "python": "{}.{}".format(*sys.version_info),
        "seconds": round(time.monotonic() - started),
        "inputs": counts["inputs"],
        **{kind: counts[kind] for kind in ("rejected", "accepted", *FAULTS)},
        "peak_MB": max(peaks),
        "limit_MB": process.limit_mb,
        "limit_s": reader.limit_s,
        "seed": seed,
    }


def drawn(strategy, number):
    """Return a function that calls another one with BATCH inputs of a strategy."""
    options = settings(
        max_examples=BATCH,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return lambda feed: seeded(number)(options(given(strategy)(lambda entries: feed(entries))))()


class Process:
    """A process that reads inputs, and is replaced when it ends, hangs or has grown too much.

    good: the reader's good input; limit_mb: how much memory the process may have.
    """

    def __init__(self, reader):
        self.reader = reader

    def __enter__(self):
        self._start()
        return self

    def __exit__(self, *error):
        self._end()

    def read(self, entries):
        """Return {"kind": text, "what": text, "peak_mb": number}."""
        if self._inputs == LIFE:
            self._end()
            self._start()
        self._inputs += 1
        self._pipe.send(entries)
        try:
            if self._pipe.poll(self.reader.limit_s):
                outcome = self._pipe.recv()
            else:
                outcome = {"kind": "hangs", "what": f"read for {self.reader.limit_s} s"}
        except EOFError:
            self._process.join()
            outcome = {"kind": "ended", "what": f"ended with code {self._process.exitcode}"}
        if outcome.get("peak_mb", 0) > self.limit_mb:
            outcome.update(kind="memory", what=f"took {outcome['peak_mb']} MB")
        if outcome["kind"] in ("hangs", "ended", "memory"):
            self._end()
            self._start()
        return outcome

    def _start(self):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._room = tempfile.TemporaryDirectory()
        words = self.reader, self._room.name, other
        self._process = context.Process(target=serve, args=words, daemon=True)
        self._process.start()
        other.close()
        if not self._pipe.poll(STARTING_S):
            raise RuntimeError(f"{self.reader}: not ready after {STARTING_S} s")
        self.good, started_mb = self._pipe.recv()
        self.limit_mb = started_mb + LIMIT_MB
        self._inputs = 0

    def _end(self):
        self._pipe.close()
        self._process.join(ENDING_S)
        if self._process.is_alive():
            os.killpg(self._process.pid, signal.SIGKILL)  # with the processes that it has started
            self._process.join()
        self._room.cleanup()


def serve(reader, room, pipe):
    """Read inputs from a pipe and answer what became of them: this is what the process does."""
    import resource

    os.setsid()
    tempfile.tempdir = room
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    reader = reader(Path(tempfile.mkdtemp()))
    good = reader.good()
    outcome_of(reader, good)  # what is compiled or imported at the first use is there then
    gc.freeze()  # or what is there already would be searched again and again
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = ADDRESSES_MB + (_told("VmSize") or 0) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    pipe.send((good, _peak_mb()))
    with contextlib.suppress(EOFError):  # no more inputs
        while True:
            pipe.send({**outcome_of(reader, pipe.recv()), "peak_mb": _peak_mb()})


def outcome_of(reader, entries):
    """Return what becomes of an input: {"kind", "what"}."""
    from src.errors import UserError

    kind = "accepted"
    with tempfile.TemporaryDirectory() as folder:
        write(entries, folder)
        for command, reads_only in reader.commands(Path(folder)):
            before = _listing(folder)
            try:
                command()
            except UserError as error:
                kind, line = "rejected", " ".join(str(error).split())
                if not 0 < len(line) <= LONGEST_LINE:
                    return {
                        "kind": "long_lines",
                        "what": f"{len(line)} characters: {line[:200]}...",
                    }
                if reads_only and before != _listing(folder):
                    return {"kind": "changed_files", "what": f"changed the folder: {line}"}
            except Exception:
                return {"kind": "tracebacks", "what": traceback.format_exc()}
    return {"kind": kind, "what": ""}


def _listing(folder):
    """Return the names, sizes and times of all that lies below a folder."""
    found = []
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            status = os.lstat(os.path.join(parent, name))
            found.append((parent, name, status.st_mode, status.st_size, status.st_mtime_ns))
    return sorted(found)


def _peak_mb():
    """Return the most memory (MB) that this process, or one that it started, has had."""
    import resource

    unit = 1 << (20 if sys.platform == "darwin" else 10)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // unit
    own = _told("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
    return max(own, children)


def _told(key, path=Path("/proc/self/status")):
    """Return what Linux tells of this process in kB, in MB; None on other systems."""
    if not path.exists():
        return None
    return int(re.search(rf"^{key}:\s+(\d+) kB$", path.read_text(), re.M).group(1)) >> 10


def replay(path):
    """Read a kept input again, with all that the reader prints; return 1 if it leads to a fault."""
    entries = from_text(path.read_text())
    with tempfile.TemporaryDirectory() as room:
        outcome = outcome_of(READERS[path.name.split(".")[0]](Path(room)), entries)
    print(f"{outcome['kind']} {outcome['what']}")
    return int(outcome["kind"] in FAULTS)


def save(row):
    """Put a row into results/fuzz.json, in the place of one of the same reader and Python."""
    path = table.RESULTS / "fuzz.json"
    before = json.loads(path.read_text()) if path.exists() else {"versions": {}, "rows": []}
    rows = {(other["reader"], other["python"]): other for other in [*before["rows"], row]}
    order = [(name, python) for python in sorted({key[1] for key in rows}) for name in READERS]
    document = {
        "about": ABOUT,
        "machine": {"cpu": record.cpu(), "cores": record.cores()},
        "seed": row["seed"],
        "versions": {**before["versions"], row["python"]: versions()},
        "rows": [rows[key] for key in order if key in rows],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def versions():
    """Return the versions of what reads the inputs and of what makes them."""
    found = {"python": platform.python_version()}
    for name in ("tensorflow", "numpy", "h5py", "pillow", "jsonschema", "hypothesis"):
        found[name] = metadata.version(name)
    return found


if __name__ == "__main__":
    sys.exit(main())
