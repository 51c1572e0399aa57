"""Make the results table, and the page of all runs, from what Experiments/ holds.

    python Results.py [--experiments FOLDER]
    python Results.py --collect FromScratch --settings Settings/FromScratch [--seed K]

Prints the table, one row a recipe and network, and writes it with recipes, curves and what was
tried into README.md in the folder, and its rows of recipes that trained at least five LHC nets of a
kind into README.md beside it (all rows where there is no such recipe), between the marks of either
page; a page without marks stays as it is.
curves.png in the folder has the validation curves of all seeds. Runs of the same seeds are compared
in pairs; McNemar's test joins where the data folder has the data that they were evaluated on.

With --collect it first copies the finished and evaluated runs of a settings folder: settings,
history, metrics and predictions of every network become <FOLDER>/<recipe>/seed<K>/<network>/.
Takes seconds and 300 MB.

Expected result:
    | recipe  | network  | seeds |          val |         test | ...
    | ------- | -------- | ----: | -----------: | -----------: | ...
    | FromScratch | ResNet34 |     9 | 71.79 ± 0.26 | 72.36 ± 0.22 | ...
    Tables: README.md, Experiments/README.md
"""

import sys
from pathlib import Path

from src.cli import SEED, command, parse

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

    # NumPy, SciPy and Matplotlib start here, in seconds.
    from src import plots, results, results_pages

    folder = args.experiments
    if args.collect:
        for target in results.collect(args.settings, args.collect, folder):
            print(f"Collected: {target}")
        (folder / results_pages.COUNTS).unlink(missing_ok=True)  # of the runs before
    groups = results.read(folder)
    results_pages.count(folder, groups, args.settings)
    curves = {" ".join(group): [r.history for r in runs.values()] for group, runs in groups.items()}
    plots.curves(folder / "curves.png", curves)
    print(results.results_table(groups))
    written = map(str, results_pages.write(folder, groups))
    print(f"Tables: {', '.join(written) or 'in no page'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
