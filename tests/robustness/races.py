"""Start two of the same script at once in the same folder, and look at what comes of it.

    python tests/robustness/races.py [--times 40] [--kind training] [--seed 1] [--save]

Each kind of work (scenes.py) starts with the older result of its script in place; the second
process starts up to 2 s after the first, half the time up to 0.2 s. Both start in copies (fork) of
a process that has imported TensorFlow, so that they meet at work. Either one is refused, with one
line that names the other and exit code 2, or both end well, one after the other. (Evaluations
compute at the same time and write one after the other.)

Counted are: wrong lines (a refusal that says something else), failed (any other exit code), wrong
files (broken, or neither the older result's nor the newer's), different (files unlike a single
run's), left over (files that a single run does not leave). Exit code 0 if all are 0. POSIX only.
"""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.robustness import scenes  # noqa: E402
from tests.robustness.kills import count  # noqa: E402

COUNTED = ("wrong_lines", "failed", "lost_models", "wrong_files", "different", "left_over")
ABOUT = "Two of the same script at once in one folder: who went on, and what was left."


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=40, help="of each kind")
    scenes.add_options(parser)
    options = parser.parse_args(argv)
    return scenes.play("races", ABOUT, COUNTED, options, race, options.times)


def race(scene, times, seed):
    """Let two of a scene's script race that often; return the counts."""
    moments, started = random.Random(seed), time.perf_counter()
    row = dict.fromkeys(("races", "refused", "both", *COUNTED), 0)
    while row["races"] < times:
        scene.reset()
        processes = {"first": scene.start(log="first", fork=True)}
        time.sleep(moments.uniform(0, moments.choice([0.2, 2])))
        processes["second"] = scene.start(log="second", fork=True)
        pair = [scene.ended(process, log=log) for log, process in processes.items()]
        judge(row, *sorted(pair, key=lambda ended: ended.code))
        for name, what in {**scene.faults(), **scene.difference()}.items():
            count(row, name, what)
        row["races"] += 1
    return dict(row, seconds=round(time.perf_counter() - started))


def judge(row, one, other):
    """Count how two processes ended; `one` has the lower exit code."""
    if (one.code, other.code) == (0, 0):
        row["both"] += 1
    elif (one.code, other.code) == (0, 2):
        row["refused"] += 1
        lines = [line for line in other.text.splitlines() if line.startswith("error:")]
        told = len(lines) == 1 and f" by process {one.pid} (" in lines[0]
        count(row, "wrong_lines", [] if told else [other.text[-2000:]])
    else:
        count(row, "failed", [ended.text[-2000:] for ended in (one, other) if ended.code])


if __name__ == "__main__":
    sys.exit(main())
