"""Put what tests/robustness/results/ holds into the tables of tests/robustness/README.md.

python tests/robustness/table.py
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks.table import table  # noqa: E402

README, RESULTS = HERE / "README.md", HERE / "results"


def fuzz(document):
    """Return the table of results/fuzz.json."""
    rows = [("reader", "Python", "s", "inputs", "rejected", "accepted")]
    rows[0] += ("tracebacks", "hangs", "other faults", "peak MB", "limit MB", "limit s")
    for version, content in document.items():
        for name, counts in content["readers"].items():
            tracebacks = counts["traceback"] + counts["end"]
            others = sum(counts[kind] for kind in ("memory", "line", "written"))
            figures = [counts[key] for key in ("seconds", "inputs", "rejected", "accepted")]
            limits = [counts[key] for key in ("peak_mb", "limit_mb", "limit_s")]
            rows.append((name, version, *figures, tracebacks, counts["hang"], others, *limits))
    return table(rows, "<<" + ">" * 10)
