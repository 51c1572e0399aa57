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
    """Return {(group b, group a): [(Run of b, Run of a) of each seed]} where seeds are the same.

    groups: of `results.read`; a group is a pair of recipe and network. At least two seeds.
    """
    found = {}
    for (a, runs_a), (b, runs_b) in itertools.combinations(groups.items(), 2):
        both = sorted(set(runs_a) & set(runs_b))
        if len(both) > 1:
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


def parts(groups, counts):
    """Return the parts of a page that compare runs of the same seeds; none where there are none.

    counts: of `mcnemar_counts`, or {}.
    """
    rows = [("difference", "split", "seeds", "mean", "95 % interval", "McNemar's p of each seed")]
    answers = []
    for (b, a), couples in pairs(groups).items():
        for split, name in TEST.items():
            mean, low, high = interval([y.percent[split] - x.percent[split] for y, x in couples])
            values = counts.get(difference(b, a), {}).get(split, [])
            chances = ", ".join(f"{mcnemar(*pair):.3f}" for pair in values) or "not computed"
            range_ = f"{low:+.2f} to {high:+.2f}"
            rows.append((difference(b, a), name, len(couples), f"{mean:+.2f}", range_, chances))
            if b[1] == "LHC" and a == (b[0], "Control"):
                verdict = "yes" if low > 0 else "no, it harms" if high < 0 else "not to be seen"
                answers.append(
                    f"Does LHC help ({b[0]}, {name})? {verdict.capitalize()}: {mean:+.2f} "
                    f"points beside the same backbone trained on without it, 95 % interval "
                    f"{range_}, {len(couples)} seeds."
                )
    return [table(rows, "<<>>><"), *answers] if len(rows) > 1 else []
