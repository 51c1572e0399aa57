"""Kill scripts at random moments, again and again, and look at what they leave behind.

    python tests/robustness/kills.py [--kills 100] [--kind training] [--seed 1] [--save]

Each kind of work (scenes.py) starts with the older result of its script in place. The script is
started, its process group killed with SIGKILL, the folder looked at, the same command started
again, and so on: up to five kills before it may end. Then the result is compared with that of a run
that nobody killed.

Moments: a quarter are uniform over the time that an undisturbed run takes, which for training is
mostly TensorFlow's import. The others come 0.02 s (in the mean) after an event, a word of output
or a file that appears or goes, chosen uniformly among the undisturbed run's; these runs, and those
that end a series of kills, start in a copy (fork) of a process that has imported TensorFlow.

Counted are: lost models (no complete training that loads, with the digest of its weights), wrong
files (broken, or neither the older result's nor the newer's), failed (the last command ended
with an error), different (of the results that were reached: weights, history without its times,
pictures, JPEGs, CSVs, predictions, metrics), left over (files in the end that an undisturbed run
does not leave). Exit code 0 if all are 0. POSIX only. 100 kills take 3 minutes of importing or ETL
and 15 of training on two cores.
"""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.robustness import scenes  # noqa: E402

MOST = 5  # kills before a result
COUNTED = ("lost_models", "wrong_files", "failed", "different", "left_over")
ABOUT = "Scripts killed (SIGKILL) at random moments and started again: what they left and reached."


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="of each kind")
    scenes.add_options(parser)
    options = parser.parse_args(argv)
    return scenes.play("kills", ABOUT, COUNTED, options, kill, options.kills)


def kill(scene, kills, seed):
    """Kill a scene's script that often; return the counts."""
    moments, started = random.Random(seed), time.perf_counter()
    row = dict.fromkeys(("kills", "while_starting", "while_writing", "results", *COUNTED), 0)
    while row["kills"] < kills:
        scene.reset()
        for _ in range(moments.randint(1, MOST)):
            at_once = moments.random() < 0.75
            ended = scene.run(until=moment(moments, scene.whole, at_once), fork=at_once)
            if not ended.killed or row["kills"] == kills:
                break
            row["kills"] += 1
            row["while_starting"] += not ended.events
            row["while_writing"] += bool(list(scene.work.rglob("*.part")))
            for name, what in scene.faults().items():
                count(row, name, what)
        if ended.killed:
            ended = scene.run(fork=True)
        row["results"] += 1
        count(row, "failed", [ended.text[-2000:]] if ended.code else [])
        for name, what in scene.difference().items():
            count(row, name, what)
    return dict(row, seconds=round(time.perf_counter() - started))


def count(row, name, what):
    """Count faults, and print them."""
    row[name] += len(what)
    for line in what:
        print(f"{name}: {line}", flush=True)


def moment(moments, whole, at_once):
    """Return a function (seconds, events) that tells when to kill; see the module.

    whole: how an undisturbed run Ended. at_once: whether the imports are done already.
    """
    if not at_once:
        after = moments.uniform(0, whole.seconds)
        return lambda seconds, events: seconds >= after
    event, pause, seen = moments.randint(1, whole.events), moments.expovariate(50), []

    def until(seconds, events):
        if events >= event:
            seen.append(seconds)
        return bool(seen) and seconds >= seen[0] + pause

    return until


if __name__ == "__main__":
    sys.exit(main())
