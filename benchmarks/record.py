"""What a benchmark measured and on what: printed as it goes, kept with `--save NAME`.

A file benchmarks/results/NAME.json holds every repeat's value, so that medians, spreads and ratios
can be computed again; `benchmarks/table.py` makes the table in benchmarks/README.md from nothing
else. Needs nothing but Python, so that a benchmark can be run where little is installed.
"""

import argparse
import json
import math
import os
import platform
import re
import shlex
import statistics
import sys
from datetime import date
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "results"
FRAMEWORKS = ("tensorflow", "jax", "torch")
LIBRARIES = ("keras", *FRAMEWORKS, "numpy", "scipy", "pillow", "simplejpeg", "numba")
MODULES = {"pillow": "PIL"}  # where it is not the library's own name
ENVIRONMENT = ("KERAS_BACKEND",)  # shown before the command line if set


def add_option(parser):
    parser.add_argument("--save", **SAVE)


def _name(text):
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed: letters, digits, _ . -")
    return text


SAVE = {
    "metavar": "NAME",
    "type": _name,
    "help": "write what was measured to benchmarks/results/NAME.json (default: not written)",
}


class Record:
    """What one run of a benchmark measures.

    benchmark: its name, such as "etl_speed". argv: its words, None for those of the process.
    backend, image_size, batch, precision (None where there is none) and what else was chosen;
    load_before: what `load` told before, where this comes after measuring.
    """

    def __init__(
        self,
        benchmark,
        argv,
        backend,
        image_size,
        batch=None,
        precision=None,
        load_before=None,
        **more,
    ):
        words = sys.argv[1:] if argv is None else argv
        setting = {"backend": backend, "image_size": image_size, "batch": batch}
        setting.update(precision=precision, **more)
        chosen = [f"{name}={os.environ[name]}" for name in ENVIRONMENT if name in os.environ]
        machine = {"cpu": cpu(), "cores": cores(), "gpus": [], "system": platform.system()}
        self.document = {
            "benchmark": benchmark,
            "command": shlex.join([*chosen, "python", f"benchmarks/{benchmark}.py", *words]),
            "date": date.today().isoformat(),
            "machine": {**machine, "load": [load() if load_before is None else load_before]},
            "versions": {},
            "setting": setting,
            "measured": {},
            "ratios": {},
        }

    def measured(self, label, values, unit="images/s"):
        """Keep the values of all repeats under a label; return {"n", "median", "sd", ...}."""
        values = [_short(value) for value in values]
        entry = {"unit": unit, **summary(values), "values": values}
        self.document["measured"][label] = entry
        return entry

    def ratio(self, label, of, to, paired=True, goal=None):
        """Keep how many times `to` goes into `of`, two labels; return {"n", "median", ...}.

        paired: the two took turns, so that each repeat has a ratio of its own and their median
        counts, which a machine that is busy now and then moves least; else that of the medians.
        goal: what it should be at least.
        """
        entry = {"of": of, "to": to, "paired": paired, "goal": goal}
        entry.update(ratio(self.document["measured"], of, to, paired))
        self.document["ratios"][label] = entry
        return entry

    def add_versions(self, gpus=(), **versions):
        """Note the GPUs and versions that cannot be seen from this process."""
        self.document["machine"]["gpus"] += gpus
        self.document["versions"].update(versions)

    def save(self, name):
        """Write the file, if there is a name."""
        if name is None:
            return
        self.document["machine"]["load"].append(load())
        found = versions(self.document["setting"]["backend"])
        self.document["versions"] = {**found, **self.document["versions"]}
        FOLDER.mkdir(exist_ok=True)
        path = FOLDER / f"{name}.json"
        path.write_text(as_text(self.document), encoding="utf-8")
        print(f"saved as {path.name}; `python benchmarks/table.py` puts it into the table")


def summary(values):
    """Return the number of values, their median, standard deviation (of a sample) and range."""
    return {
        "n": len(values),
        "median": _short(statistics.median(values)),
        "sd": _short(statistics.stdev(values)) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
    }


def line(label, entry):
    """Return what is printed of a measurement."""
    places = 0 if entry["median"] >= 100 else 1
    sd = "" if entry["sd"] is None else f", sd {entry['sd']:.{places}f}"
    return f"{label} {entry['median']:9.{places}f} {entry['unit']} (n {entry['n']}{sd})"


def ratio(measured, of, to, paired):
    """Return the summary of the pairs' ratios, or the ratio of the medians and its deviation."""
    of, to = measured[of], measured[to]
    if paired:
        if of["n"] != to["n"]:
            raise ValueError(f"found {of['n']} and {to['n']} repeats, which did not take turns")
        values = [_short(a / b) for a, b in zip(of["values"], to["values"])]
        return {**summary(values), "values": values}
    median = of["median"] / to["median"]
    sd = None
    if None not in (of["sd"], to["sd"]):
        sd = _short(median * math.hypot(of["sd"] / of["median"], to["sd"] / to["median"]))
    return {"n": min(of["n"], to["n"]), "median": _short(median), "sd": sd}


def _short(value):
    """Return a number rounded to six digits."""
    return float(f"{value:.6g}")


def versions(backend):
    """Return {library: version} of Python, the backend and the others that are imported."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        module = sys.modules.get(MODULES.get(name, name))
        if module and (name == backend or name not in FRAMEWORKS):
            found[name] = module.__version__
    return found


def cpu(info=Path("/proc/cpuinfo")):
    """Return the CPU's name where Linux tells, else its kind."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(errors="replace"), re.M)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.machine()


def cores():
    """Return how many of the CPU's cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def load():
    """Return how many processes wanted a core in the last minute, None where it is not told."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def as_text(document):
    """Return JSON with one line for each measurement, one for each ratio."""
    parts = []
    for key, value in document.items():
        if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
            rows = (f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            text = "{\n" + ",\n".join(rows) + "\n  }"
        else:
            text = json.dumps(value)
        parts.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
