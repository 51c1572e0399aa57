"""Finished runs: collected, read again, and told in tables.

Experiments/<recipe>/seed<K>/<network>/ holds of one run settings.json, history.csv, metrics.json
and predictions.npz. Everything told comes from these files.
"""

import collections
import contextlib
import dataclasses
import json
import re
import zipfile
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
import pandas as pd

from src import strict_json
from src.errors import UserError, shown
from src.files import replace_all
from src.markdown import counted, table
from src.run_record import GOES_ON_FROM, HISTORY, NETWORKS, RECORD
from src.settings import STAGE_DEFAULTS, Settings

SPLITS = ("val", "test", "tta_test")
METRICS, PREDICTIONS = "metrics.json", "predictions.npz"
FILES = (RECORD, HISTORY, METRICS, PREDICTIONS)
NOTES = (
    "Accuracy in %, mean ± standard deviation over the seeds. Best run: the highest test accuracy "
    "of the seeds, which is how the paper counts; with TTA: the highest with it, of any seed. "
    "Seconds: the epochs of one training, compiling included, without those of its teachers or of "
    "the net that it goes on from."
)
RANDOM_START = (
    "All of these start from random weights, since the authors' ImageNet file was not at hand: it "
    "is not the paper's start."
)


@dataclasses.dataclass
class Run:
    """What is told of one run."""

    settings: Settings
    recipe: dict  # the seeds and stages of its network
    card: str
    history: list  # the rows of history.csv: {column: number}
    percent: dict  # {split: accuracy in %}
    paper: list  # the paper's best in %, without TTA and, where it is told, with it
    data: str  # what it was evaluated on
    probabilities: dict  # {split: float32 (N, classes)}

    @property
    def seed(self):
        return self.recipe["seeds"]["tensorflow"]

    @property
    def seconds(self):
        return sum(row["seconds"] for row in self.history)


def read(folder):
    """Return {(recipe, network): {seed: Run}} of the folder Experiments.

    Raises UserError, one line, where there is none, or where a file is missing or damaged.
    """
    groups = collections.defaultdict(dict)
    for path in folder.glob("*/seed*/*/"):
        if path.is_dir():
            run = read_run([path / name for name in FILES], path.name)
            if path.parent.name != f"seed{run.seed}":
                raise UserError(f"{path}: found a run of seed {run.seed}")
            groups[path.parent.parent.name, path.name][run.seed] = run
    if not groups:
        raise UserError(f"{folder}: found no runs, expected <recipe>/seed<K>/<network>/")
    order = sorted(groups, key=lambda group: (group[0], NETWORKS.index(group[1])))
    return {group: dict(sorted(groups[group].items())) for group in order}


def read_run(paths, network):
    """Return the Run of the four files `paths`, which are in the order of FILES."""
    record_path, history_path, metrics_path, predictions_path = paths
    with readable(record_path):
        if network not in NETWORKS:
            raise ValueError(f"found a network {network}, expected one of {', '.join(NETWORKS)}")
        record = strict_json.read(record_path)
        if not record["complete"]:
            raise ValueError("found a training that was not complete")
        settings = Settings(record["settings"])
        recipe = settings.recipe(network)
        card = counted(record["versions"]["gpus"]) or record["versions"]["cpu"]
    with readable(history_path):
        columns = ["epoch", "val_loss", "val_categorical_accuracy", "seconds"]
        history = pd.read_csv(str(history_path))[columns].astype(float).to_dict("records")
        if not history:
            raise ValueError("found no epoch")
    with readable(metrics_path):
        metrics = strict_json.read(metrics_path)
        rows = {split: metrics[split]["images"] for split in SPLITS}
        if not all(0 <= metrics[split]["accuracy"] <= 1 for split in SPLITS):
            raise ValueError("found an accuracy that is none")
        paper = metrics["paper_test_accuracy_percent"].items()
        best = [float(value) for key, value in paper if key.startswith("best_run")]
        data = metrics["data"]
    with readable(predictions_path):
        if not zipfile.is_zipfile(str(predictions_path)):
            raise ValueError("found no archive of arrays")
        with np.load(str(predictions_path)) as arrays:
            probabilities = {s: arrays[f"{s}_probabilities"].astype(np.float32) for s in SPLITS}
        if any(np.shape(probabilities[split]) != (rows[split], 7) for split in SPLITS):
            raise ValueError("found other numbers of images than metrics.json")
    percent = {split: 100 * metrics[split]["accuracy"] for split in SPLITS}
    return Run(settings, recipe, card, history, percent, best, data, probabilities)


def files_of(settings, network):
    """Return where the scripts leave the four files of a run, in the order of FILES."""
    models, results = (settings.path(key) for key in ("models_folder", "results_folder"))
    return [(results if i > 1 else models) / network / name for i, name in enumerate(FILES)]


def read_list(path, empty):
    """Return the content of a JSON file of the folder Experiments, or `empty` without one."""
    if not path.exists():
        return empty
    with readable(path):
        return strict_json.read(path)


def collect(settings, recipe, experiments):
    """Copy what the settings' folders hold of finished runs; return the new folders.

    They become <experiments>/<recipe>/seed<K>/<network>/, K being the run's seed. Absolute names of
    folders are shortened, and probabilities rounded to float16. Runs without results are left out.
    """
    if not re.fullmatch(r"\w+", recipe):
        raise UserError(f"--collect {shown(recipe)}: expected letters, digits and _")
    targets = []
    for network in NETWORKS:
        paths = files_of(settings, network)
        if not paths[2].is_file():
            continue
        run = read_run(paths, network)
        target = experiments / recipe / f"seed{run.seed}" / network
        target.mkdir(parents=True, exist_ok=True)
        with replace_all([target / name for name in FILES]) as (record, history, metrics, arrays):
            for path, part in ((paths[0], record), (paths[2], metrics)):
                with open(part, "wb") as file:
                    content = shortened(strict_json.read(path))
                    file.write((json.dumps(content, indent=1) + "\n").encode())
            with open(history, "wb") as file:
                file.write(paths[1].read_bytes())
            with open(arrays, "wb") as file:
                compact = {f"{s}_probabilities": halved(p) for s, p in run.probabilities.items()}
                np.savez_compressed(file, **compact)
        targets.append(target)
    if not targets:
        folder = settings.path("results_folder")
        raise UserError(f"{folder}: found no network's metrics.json; run its _Eval.py first")
    return targets


def shortened(content):
    """Return a JSON content with the end of each absolute name of a file in its place.

    That is the last two parts, and more where two names would become one.
    """
    names = {PureWindowsPath(text).parts for text in _texts(content) if _is_absolute(text)}

    def short(text):
        if not _is_absolute(text):
            return text
        parts = PureWindowsPath(text).parts
        others = names - {parts}
        ends = (parts[-n:] for n in range(2, len(parts)))
        unique = (end for end in ends if all(other[-len(end) :] != end for other in others))
        return "/".join(next(unique, parts[1:]))

    def walk(part):
        if isinstance(part, dict):
            return {short(key): walk(value) for key, value in part.items()}
        if isinstance(part, list):
            return [walk(value) for value in part]
        return short(part) if isinstance(part, str) else part

    return walk(content)


def halved(probabilities):
    """Return probabilities (N, classes) as float16, each row's first highest class unchanged."""
    half = probabilities.astype(np.float16)
    highest = probabilities.argmax(axis=1)
    lost = np.flatnonzero(half.argmax(axis=1) != highest)  # rounding made it one of equals
    half[lost, highest[lost]] = np.nextafter(half[lost].max(axis=1), np.float16(2))
    return half


def results_table(groups):
    """Return the Markdown table of {(recipe, network): {seed: Run}}."""
    head = ("recipe", "network", "seeds", "val", "test", "test, TTA", "best run", "with TTA")
    rows = [(*head, "the paper's best", "epochs", "seconds", "card")]
    for (recipe, network), runs in groups.items():
        runs = list(runs.values())
        rows.append(
            (
                *(recipe, network, len(runs)),
                *(spread([run.percent[split] for run in runs]) for split in SPLITS),
                *(f"{max(run.percent[s] for run in runs):.2f}" for s in SPLITS[1:]),
                ", TTA ".join(f"{value:.2f}" for value in runs[0].paper),
                sorted({len(run.history) for run in runs}),
                f"{np.mean([run.seconds for run in runs]):.0f}",
                sorted({run.card for run in runs}),
            )
        )
    return table(rows, "<<>>>>>>>>><")


def spread(values):
    """Return the mean of numbers and, where there are several, their standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{deviation}"


def recipes_table(groups):
    """Return the Markdown table of what each stage asks for beside the defaults."""
    rows = [("recipe", "network", "start", "stage", "settings")]
    for (recipe, network), runs in groups.items():
        run = next(iter(runs.values()))
        start = GOES_ON_FROM.get(network, run.settings.data["backbone_weights"] or "ImageNet")
        for number, stage in enumerate(run.recipe["stages"], start=1):
            rows.append((recipe, network, start, number, stage_words(stage)))
    return table(rows, "<<<><")


def stage_words(stage):
    """Return what a stage asks for beside the defaults: "optimizer sgd, epochs 60, ..."."""
    asked = {
        key: value
        for key, value in stage.items()
        if key != "generator_seed" and (key not in STAGE_DEFAULTS or value != STAGE_DEFAULTS[key])
    }
    if asked.get("distillation"):
        soft = asked["distillation"]
        count = len(soft["teachers"])
        asked["distillation"] = f"{soft['share']} from {count} {'net' if count == 1 else 'nets'}"
    return ", ".join(key if value is True else f"{key} {value}" for key, value in asked.items())


def tried_table(tried, groups):
    """Return the Markdown table of what was tried: the list of tried.json, then the recipes."""
    rows = [("network", "settings", "seeds", "val", "test", "what came out")]
    for entry in tried:
        came = entry["result"]
        words = stage_words(entry["stage"])
        rows.append((entry["network"], words, 1, f"{entry['val']:.2f}", "not looked at", came))
    for (recipe, network), runs in groups.items():
        runs = list(runs.values())
        figures = (spread([run.percent[split] for run in runs]) for split in SPLITS[:2])
        rows.append((network, f"the recipe {recipe}", len(runs), *figures, "in the table above"))
    return table(rows, "<<>>><")


def _texts(content):
    """Return an iterator over all texts of a JSON content, the keys of its objects included."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, (dict, list)):
        inside = [*content, *content.values()] if isinstance(content, dict) else content
        for part in inside:
            yield from _texts(part)


def _is_absolute(text):
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()


@contextlib.contextmanager
def readable(path):
    """Tell in a UserError that a run's file is missing or damaged, where the block finds so."""
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path} is missing")
    try:
        yield
    except (
        *(ValueError, TypeError, LookupError, AttributeError),  # of values and columns
        *(OSError, EOFError, zipfile.BadZipFile),
    ) as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: found a damaged file ({shown(words)})") from None
