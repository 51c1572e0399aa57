"""Seconds from a script's command to its first training step, compiling anew or not.

    KERAS_BACKEND=jax python benchmarks/start_speed.py [--script ResNet34_Train]
                                  [--settings Settings/TeacherNet] [--repeats 3] [--save NAME]

Starts the script as a user does, in a terminal, on the settings folder's data, with models of its
own in a temporary folder: once with nothing compiled, to the end of two epochs, then `--repeats`
times with what that start kept. Counted is the time until the progress bar has moved, which it does
when the first training step is done, or the first group of them (`steps_per_execution`). Goal:
15 s. About 2 minutes on a GPU, on Linux; take fast numerics, whose bar moves with the steps, and a
script that needs no other's model.
"""

import argparse
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import record  # noqa: E402

GOAL = 15  # seconds
MOVED = re.compile(rb"epoch 1/2.*?\| *[1-9]\d*/\d+ \[")  # the bar, a step or more done


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--script", default="ResNet34_Train", help="to start")
    parser.add_argument(
        "--settings", type=Path, default=Path("Settings/TeacherNet"), help="that it starts with"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of the start with a cache")
    record.add_option(parser)
    options = parser.parse_args(argv)
    load_before = record.load()
    with tempfile.TemporaryDirectory() as folder:
        settings = copied(options.settings, Path(folder))
        repeats = range(1 + options.repeats)
        starts = [start(options.script, settings, to_the_end=n == 0) for n in repeats]
        found = read(Path(folder) / "Models" / recipe_name(options.script) / "settings.json")
    training, versions = found["settings"]["training"], found["versions"]
    runtime = found["settings"]["runtime"]
    backend = versions.pop("backend")
    notes = record.Record(
        *("start_speed", argv, backend, training["target_size"]),
        load_before=load_before,
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


def start(script, settings, to_the_end):
    """Return how many seconds a start of the script needs to its first training step."""
    command = [sys.executable, f"{script}.py", "--settings", str(settings), "--restart"]
    environment = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=terminal
    )
    os.close(terminal)
    told, stepped = b"", None
    while stepped is None or to_the_end:
        try:
            told += os.read(screen, 1 << 16)
        except OSError:  # Linux: the other end is closed
            break
        if stepped is None and MOVED.search(told):
            stepped = time.perf_counter()
    os.close(screen)
    if not to_the_end:
        process.kill()
    code = process.wait()
    if stepped is None or (to_the_end and code):
        print(told.decode(errors="replace"), file=sys.stderr)
        sys.exit(f"{' '.join(command)}: ended with {code}")
    return stepped - begun


def recipe_name(script):
    return re.sub("_Train$", "", script)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
