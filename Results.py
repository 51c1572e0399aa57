"""Make the results table, and the page of all runs, from what Experiments/ holds.

    python Results.py [--experiments FOLDER]
    python Results.py --collect FromScratch --settings Settings/FromScratch [--seed K]

Prints the table, one row a recipe and network, and writes it into README.md beside the folder, and
with recipes, curves and what was tried into README.md in it, between the marks of either page; a
page without marks stays as it is. curves.png in the folder has the validation curves of all seeds.
Runs of the same seeds are compared in pairs; McNemar's test joins where the data folder has the
data that they were evaluated on.

With --collect it first copies the finished and evaluated runs of a settings folder: settings,
history, metrics and predictions of every network become <FOLDER>/<recipe>/seed<K>/<network>/.
Takes seconds and 300 MB.

Expected result:
    | recipe  | network  | seeds |          val |         test | ...
    | ------- | -------- | ----: | -----------: | -----------: | ...
    | FromScratch | ResNet34 |     5 | 71.02 ± 0.39 | 71.83 ± 0.27 | ...
    Tables: README.md, Experiments/README.md
"""

import json
import sys
from pathlib import Path

from src import comparison, dataset, plots, results
from src.cli import SEED, command, parse
from src.files import replace
from src.markdown import between

BEGIN, END = "<!-- made by Results.py: begin -->", "<!-- made by Results.py: end -->"
OPTIONS = {
    "--experiments": {
        "metavar": "FOLDER",
        "type": Path,
        "default": Path("Experiments"),
        "help": "folder of the collected runs (default: Experiments)",
    },
    "--collect": {
        "metavar": "RECIPE",
        "help": "copy the settings folder's finished runs there first, under this name",
    },
    **SEED,
}


@command
def main(argv=None):
    args = parse(argv, __doc__, OPTIONS)
    folder = args.experiments
    if args.collect:
        for target in results.collect(args.settings, args.collect, folder):
            print(f"Collected: {target}")
        if (folder / "mcnemar.json").exists():  # of the runs before
            (folder / "mcnemar.json").unlink()
    groups = results.read(folder)
    count(folder, groups, args.settings)
    curves = {" ".join(group): [r.history for r in runs.values()] for group, runs in groups.items()}
    plots.curves(folder / "curves.png", curves)
    print(results.results_table(groups))
    written = []
    for path, parts in pages(folder, groups).items():
        text = path.read_bytes().decode("utf-8") if path.is_file() else ""
        if BEGIN in text and END in text:
            with replace(path) as part, open(part, "wb") as file:
                file.write(between(text, BEGIN, END, parts).encode())
            written.append(str(path))
    print(f"Tables: {', '.join(written) or 'in no page'}")
    return 0


def count(folder, groups, settings):
    """Keep McNemar's counts in mcnemar.json, if the labels of the runs' test split are at hand."""
    data = settings.path("data_folder")
    if comparison.pairs(groups) and dataset.csv_path(data, "test").is_file():
        test = dataset.load(data, "test")
        told = {dataset.describe({"test": test}, settings.data)}
        if told == {run.data for runs in groups.values() for run in runs.values()}:
            with replace(folder / "mcnemar.json") as part, open(part, "wb") as file:
                file.write(
                    json.dumps(comparison.mcnemar_counts(groups, test[1]), indent=1).encode()
                )


def pages(folder, groups):
    """Return {path: the parts between its marks} of the two pages."""
    counts = results.read_list(folder / "mcnemar.json", {})
    tried = results.read_list(folder / "tried.json", [])
    starts = {
        r.settings.data["backbone_weights"] for runs in groups.values() for r in runs.values()
    }
    start = [results.RANDOM_START] if starts == {"random"} else []
    table = [results.results_table(groups), results.NOTES, *start]
    answers = comparison.answers(groups)
    compared = ["## Runs of the same seeds", comparison.pairs_table(groups, counts), *answers]
    page = [
        *("## Results", *table),
        *(compared if comparison.pairs(groups) else []),
        *("## Curves", "![validation loss and accuracy of every seed](curves.png)"),
        *("## Recipes", results.recipes_table(groups)),
        *("## What was tried", results.tried_table(tried, groups)),
    ]
    return {folder.parent / "README.md": [*table, *answers], folder / "README.md": page}


if __name__ == "__main__":
    sys.exit(main())
