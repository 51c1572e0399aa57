"""The pages that tell of the collected runs, between marks of their own, and what they count."""

import json

from src import comparison, dataset, results
from src.errors import UserError
from src.files import write_file
from src.markdown import between

BEGIN, END = "<!-- made by Results.py: begin -->", "<!-- made by Results.py: end -->"
COUNTS = "mcnemar.json"  # of McNemar's test, which tell no label
ENOUGH = 5  # seeds of a net, for the main page to tell of its recipe


def count(experiments, groups, settings):
    """Keep McNemar's counts, if the labels of the runs' test split are at hand.

    experiments: the folder of the collected runs. groups: of `results.read`.
    """
    data = settings.path("data_folder")
    if comparison.pairs(groups) and dataset.csv_path(data, "test").is_file():
        test = dataset.load(data, "test")
        told = {dataset.describe({"test": test}, settings.data)}
        if told == {run.data for runs in groups.values() for run in runs.values()}:
            counts = comparison.mcnemar_counts(groups, test[1])
            write_file(experiments / COUNTS, json.dumps(counts, indent=1).encode())


def write(experiments, groups):
    """Write the tables into the pages that have marks for them; return the paths of these.

    Raises UserError, and writes nothing, where the marks are not one of each.
    """
    texts = {}
    for path, parts in pages(experiments, groups).items():
        text = path.read_bytes().decode("utf-8") if path.is_file() else ""
        if BEGIN in text or END in text:
            try:
                texts[path] = between(text, BEGIN, END, parts)
            except ValueError as error:
                raise UserError(f"{path}: {error}") from None
    for path, text in texts.items():
        write_file(path, text.encode())
    return list(texts)


def pages(experiments, groups):
    """Return {path: the parts between its marks} of the two pages."""
    counts = results.read_list(experiments / COUNTS, {})
    tried = results.read_list(experiments / "tried.json", [])
    starts = {
        r.settings.data["backbone_weights"] for runs in groups.values() for r in runs.values()
    }
    start = [results.RANDOM_START] if starts == {"random"} else []
    notes = " ".join([results.NOTES, *start])
    # The main page has no room for recipes that trained backbones alone or fewer nets of a kind,
    # unless there is no other.
    wholes = {
        recipe
        for (recipe, network), runs in groups.items()
        if network not in ("ResNet34", "Control") and len(runs) >= ENOUGH
    }
    shown = {key: runs for key, runs in groups.items() if key[0] in wholes} or groups
    table = comparison.pairs_table(groups, counts)
    compared = ["## Runs of the same seeds", table, *comparison.answers(groups)]
    page = [
        *("## Results", results.results_table(groups), notes),
        *(compared if comparison.pairs(groups) else []),
        *("## Curves", "![validation loss and accuracy of every seed](curves.png)"),
        *("## Recipes", results.recipes_table(groups)),
        *("## What was tried", results.tried_table(tried, groups)),
    ]
    main_page = [results.results_table(shown), notes, *comparison.answers(shown)]
    return {experiments.parent / "README.md": main_page, experiments / "README.md": page}
