"""Seconds from a script's command to its first training step, compiling anew or not.

    KERAS_BACKEND=jax python benchmarks/start_speed.py [--script ResNet34_Train]
                                  [--settings Settings/ShippedNet] [--repeats 3] [--save NAME]

Starts the script as a user does, on the settings folder's data, for two epochs, with models of its
own in a temporary folder: once with nothing compiled, then `--repeats` times with what that start
kept. Counted is the time to the first epoch's line without what the second epoch took, which
compiles nothing. Goal: 15 s. About 4 minutes on a GPU; take a script that needs no other's model.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import record  # noqa: E402

GOAL = 15  # seconds


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--script", default="ResNet34_Train")
    parser.add_argument("--settings", type=Path, default=Path("Settings/ShippedNet"))
    parser.add_argument("--repeats", type=int, default=3)
    record.add_option(parser)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        settings = copied(options.settings, Path(folder))
        starts = [start(options.script, settings) for _ in range(1 + options.repeats)]
        found = read(Path(folder) / "Models" / recipe_name(options.script) / "settings.json")
    training, versions = found["settings"]["training"], found["versions"]
    runtime = found["settings"]["runtime"]
    backend = versions.pop("backend")
    notes = record.Record(
        *("start_speed", argv, backend, training["target_size"]),
        precision=runtime["precision"],
        script=options.script,
    )
    kept = {name: version for name, version in versions.items() if name in record.LIBRARIES}
    notes.add_versions(gpus=versions["gpus"], **kept)
    labels = [
        f"{options.script}'s first step, {when}" for when in ("nothing compiled", "compiled before")
    ]
    for label, values in zip(labels, (starts[:1], starts[1:])):
        print(record.line(label, notes.measured(label, values, "s a turn")))
    ratio = notes.ratio(f"{options.script}: a first start against the next", *labels, paired=False)
    print(f"goal: {GOAL} s; a first start takes {ratio['median']:.1f} times as long")
    notes.save(options.save)
    return 0


def copied(source, folder):
    """Return a settings folder like `source` for two epochs, its models and cache in `folder`."""
    target = folder / "Settings"
    target.mkdir()
    for path in source.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())
    for name, values in (
        ("Runtime_Settings.json", {"compilation_cache": str(folder / "Compiled"), "max_epochs": 2}),
        ("Data_Settings.json", {"models_folder": str(folder / "Models")}),
    ):
        path = target / name
        content = read(path) if path.exists() else {}
        path.write_text(json.dumps({**content, **values}), encoding="utf-8")
    return target


def start(script, settings):
    """Return how many seconds a start of the script needs before it trains."""
    command = [sys.executable, f"{script}.py", "--settings", str(settings), "--restart"]
    ends, begun = [], time.perf_counter()
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if re.search(r" epoch \d+/\d+: ", line):
                ends.append(time.perf_counter())
    if process.returncode or len(ends) < 2:
        sys.exit(f"{' '.join(command)}: ended with {process.returncode}, {len(ends)} epochs")
    return 2 * ends[0] - ends[1] - begun


def recipe_name(script):
    return re.sub("_Train$", "", script)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
