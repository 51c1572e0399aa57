"""Put what tests/robustness/results/ holds into the tables of tests/robustness/README.md.

    python tests/robustness/table.py

Each file there is {"about": text, "versions": {Python: {library: version}}, "machine": {"cpu",
"cores"}, "seed": number, "rows": [{column: cell}]}, and gives one table. tests/test_robustness.py
checks that they are up to date.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks.table import NAMES  # noqa: E402
from benchmarks.table import table as lines  # noqa: E402

README, RESULTS = HERE / "README.md", HERE / "results"
BEGIN, END = "<!-- made by table.py: begin -->", "<!-- made by table.py: end -->"


def main():
    README.write_text(updated(README.read_text(encoding="utf-8"), results()), encoding="utf-8")
    print(f"{README} holds the tables of {len(results())} files")
    return 0


def results(folder=RESULTS):
    """Return {name: content} of the files."""
    paths = sorted(folder.glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def updated(text, found):
    """Return the README's text with the tables of {name: content} between the marks."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    parts = [part for name, content in found.items() for part in section(name, content)]
    return "\n\n".join([before + BEGIN, *parts, END + after])


def section(name, content):
    """Return the paragraphs about a file: its table, and on what it was measured."""
    machine = content["machine"]
    stacks = [
        ", ".join(f"{NAMES.get(key, key)} {version}" for key, version in stack.items())
        for stack in content["versions"].values()
    ]
    facts = f"Seed {content['seed']}; {machine['cpu']}, {machine['cores']} cores; "
    return [f"### {name}.py", content["about"], table(content["rows"]), facts + "; ".join(stacks)]


def table(rows):
    """Return rows, {column: cell} each, as a Markdown table; numbers stand on the right."""
    sides = [">" if isinstance(cell, (int, float)) else "<" for cell in rows[0].values()]
    head = [key.replace("_", " ") for key in rows[0]]
    return lines([head, *[list(row.values()) for row in rows]], sides)


if __name__ == "__main__":
    sys.exit(main())
