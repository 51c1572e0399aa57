"""Runs of the same seeds, compared in pairs: does LHC help?

McNemar's test needs the labels of the test split, which are not published with the runs: its
counts, which tell no label, are kept in Experiments/mcnemar.json.
"""

import itertools
import math

import numpy as np
from scipy import stats

from src.markdown import table

TEST = {"test": "test", "tta_test": "test, TTA"}  # the splits that are compared, and their names


def pairs(groups):
    """Return {(group b, group a): [(Run of b, Run of a) of each seed]} of one recipe's networks.

    groups: of `results.read`; a group is a pair of recipe and network. At least two seeds.
    """
    found = {}
    for (a, runs_a), (b, runs_b) in itertools.combinations(groups.items(), 2):
        both = sorted(set(runs_a) & set(runs_b))
        if a[0] == b[0] and len(both) > 1:
            found[b, a] = [(runs_b[seed], runs_a[seed]) for seed in both]
    return found


def mcnemar_counts(groups, labels):
    """Return {"b - a": {split: [[only b right, only a right] of each seed]}} of the test split."""
    counts = {}
    for (b, a), couples in pairs(groups).items():
        counts[difference(b, a)] = of = {}
        for split in TEST:
            right = [
                [run.probabilities[split].argmax(axis=1) == labels for run in couple]
                for couple in couples
            ]
            of[split] = [[int((y & ~x).sum()), int((x & ~y).sum())] for y, x in right]
    return counts


def difference(b, a):
    return f"{' '.join(b)} - {' '.join(a)}"


def interval(differences):
    """Return mean, lower and upper end of Student's 95 % interval of paired differences."""
    n, mean = len(differences), np.mean(differences)
    half = stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half


def mcnemar(only_b, only_a):
    """Return the p-value of McNemar's exact test, two-sided."""
    fewer, both = min(only_b, only_a), only_b + only_a
    return min(1.0, 2 * float(stats.binom.cdf(fewer, both, 0.5)))


def pairs_table(groups, counts):
    """Return the Markdown table of all pairs. counts: of `mcnemar_counts`, or {}."""
    rows = [("difference", "split", "seeds", "mean", "95 % interval", "McNemar's p of each seed")]
    for (b, a), couples in pairs(groups).items():
        for split, name in TEST.items():
            mean, low, high = interval(differences(couples, split))
            values = counts.get(difference(b, a), {}).get(split, [])
            chances = ", ".join(f"{mcnemar(*pair):.3f}" for pair in values) or "not computed"
            range_ = f"{low:+.2f} to {high:+.2f}"
            rows.append((difference(b, a), name, len(couples), f"{mean:+.2f}", range_, chances))
    return table(rows, "<<>>><")


def differences(couples, split):
    """Return by how many points the first run of each couple is better."""
    return [y.percent[split] - x.percent[split] for y, x in couples]


def answers(groups):
    """Return [a paragraph on what LHC brings], [] if no recipe trained on with it and without."""
    found = pairs(groups)
    beside = {  # recipe: what its LHC is compared with
        b[0]: other
        for other in ("ResNet34", "Control")  # the fair one second, which counts if it is there
        for b, a in found
        if (b[1], a[1]) == ("LHC", other)
    }
    if "Control" not in beside.values():
        return []
    question = (
        "**Does LHC help?** The same backbones trained on with LHC and without it, same epochs, "
        "recipe and batches. Where the seeds have the same teachers, an interval leaves out what "
        "others would change:"
    )
    lines = (f"* {_answer(recipe, other, found)}" for recipe, other in sorted(beside.items()))
    return ["\n".join([question, *lines])]


def _answer(recipe, other, found):
    """Return what came out with one recipe, beside its network `other`; found: of `pairs`."""
    couples = found[(recipe, "LHC"), (recipe, other)]
    best = [
        "{:.2f} and {:.2f}".format(*(max(run.percent[s] for run in runs) for runs in zip(*couples)))
        for s in TEST
    ]
    taught = ", all with the same teachers" if _share_teachers(couples) else ""
    start = "" if other == "Control" else ", beside the backbones at their start, without a control"
    text = (
        f"{recipe}, {len(couples)} seeds{taught}{start}: {_told(couples)}. Best of {len(couples)}, "
        f"as the paper counts: {best[0]} %, with TTA {best[1]} %."
    )
    controlled = found.get(((recipe, "Controller"), (recipe, "Control")))
    if not controlled:
        return text
    longer = "/".join(map(str, sorted({len(run.history) for run, _ in controlled})))
    return (
        f"{text} With controllers too, trained {longer} epochs longer, {len(controlled)} seeds: "
        f"{_told(controlled)}."
    )


def _share_teachers(couples):
    """Return whether the first runs of all couples had teachers, and those the same."""
    folders = {
        tuple(folder for stage in run.recipe["stages"] for folder in _teachers(stage))
        for run, _ in couples
    }
    return len(folders) == 1 and folders != {()}


def _teachers(stage):
    return stage["distillation"]["teachers"] if stage["distillation"] else []


def _told(couples):
    """Return the difference of couples in words, on each split."""
    words = []
    for split, name in TEST.items():
        mean, low, high = interval(differences(couples, split))
        verdict = "it helps" if low > 0 else "it harms" if high < 0 else "no difference to be seen"
        words.append(
            f"{mean:+.2f} points ({name}; 95 % interval {low:+.2f} to {high:+.2f}: {verdict})"
        )
    return ", ".join(words)
