"""The page of an evaluation: report.html, one file that needs no other one and no network.

It says how good the net is beside the paper's and the published runs (Experiments/), which classes
it takes for which, how it was trained, how far its probabilities can be taken at their word, and
what it ran on. The numbers are those of metrics.json and predictions.npz.
"""

import base64
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from src import calibration, charts, plots, results, runs, settings, strict_json
from src.dataset import CLASSES
from src.errors import UserError, shown
from src.files import write_file
from src.markup import document, element, table

EXPERIMENTS = settings.DEFAULTS.parent / "Experiments"
STYLE = Path(__file__).with_name("page.css")
COLUMNS = ["stage", "epoch", "loss", "categorical_accuracy", "val_loss", "val_categorical_accuracy"]
SPLITS = {"test": "without TTA", "tta_test": "with TTA"}
ROWS = {"train": "training", "val": "validation", "test": "test", "tta_test": "test, with TTA"}
PAPER_IMAGES = 3589  # of the test split
PAPER_ROWS = {
    "the paper, best run": ("best_run", "best_run_with_tta"),
    "the paper, top 40 %": ("mean_of_top_40_percent_of_runs", None),
    "the paper, top 25 %": ("mean_of_top_25_percent_of_runs", None),
}
MISTAKES = 12  # that are shown
NOTHING = "–"


@dataclasses.dataclass
class Training:
    """What is known of the training that made the weights; None and reasons where it is not."""

    history: list = None  # rows of history.csv: {column of COLUMNS: number}
    recipe: dict = None  # its seeds {name: number}, and its stages in words
    settings: dict = None  # all of them
    versions: dict = None
    missing: list = dataclasses.field(default_factory=list)  # what could not be read, in words


def training_of(own, name, complete=True):
    """Return the Training of the weights `name` in the models folder of the settings `own`.

    complete: whether it is the last complete run, or the one that was stopped. Raises nothing for
    files that are missing or damaged: published weights come without.
    """
    find = runs.complete_folder if complete else runs.unfinished_folder
    found = Training()
    try:
        folder = find(own, name)
    except (UserError, OSError):
        found.missing.append(f"There is no training {name} in the models folder.")
        return found
    try:
        with results.readable(folder / runs.HISTORY):
            rows = pd.read_csv(str(folder / runs.HISTORY))[COLUMNS].astype(float)
            if not len(rows):
                raise ValueError("found no epoch")
            found.history = rows.to_dict("records")
    except UserError as error:
        found.missing.append(f"{error}.")
    try:
        with results.readable(folder / runs.RECORD):
            record = strict_json.read(folder / runs.RECORD)
            then = settings.Settings(record["settings"])
            recipe, found.versions = then.recipe(name), dict(record["versions"])
            stages = [results.stage_words(stage) for stage in recipe["stages"]]
            found.recipe = {"seeds": dict(recipe["seeds"]), "stages": stages}
            found.settings = then.resolved()
    except UserError as error:
        found.missing.append(f"{error}.")
    return found


def write(path, name, record, training, images, labels, probabilities):
    """Write the page of an evaluation, whole or not at all.

    name: of the results. record: what metrics.json holds. training: of `training_of`. images: of
    the test split, uint8 (N, 48, 48). labels: theirs (N,). probabilities: {"test": float32
    (N, classes), "tta_test": the same with test-time augmentation}.
    """
    predictions = {split: probabilities[split].argmax(axis=1) for split in SPLITS}
    bins = {split: calibration.reliability(labels, probabilities[split]) for split in SPLITS}
    sections = {
        "Accuracy": _accuracy(record),
        "Which classes are taken for which": _confusion(labels, predictions),
        "Classes one by one": _classes(labels, predictions),
        "Learning curves": _curves(training),
        "Are the probabilities right?": _calibration(bins),
        "The most confident mistakes": _mistakes(images, labels, probabilities["tta_test"]),
        "What it ran on": _conditions(record, training),
    }
    ids = {title: f"section-{number}" for number, title in enumerate(sections, start=1)}
    links = [element("li", element("a", t, href=f"#{i}")) for t, i in ids.items()]
    text = document(
        f"{name}: evaluation",
        STYLE.read_text(encoding="utf-8"),
        element("header", _head(path, name, record, bins)),
        element(
            "main",
            element("nav", element("ul", links), aria_label="Sections of this page"),
            [
                element("section", element("h2", t, id=ids[t]), parts, aria_labelledby=ids[t])
                for t, parts in sections.items()
            ],
        ),
    )
    write_file(path, text.encode())


def _head(path, name, record, bins):
    """Return the page's top: what it is about, what to know first, and three figures."""
    notes = []
    if not record["training_complete"]:
        notes.append(
            "The training of these weights was stopped before its end: this is how far it came, "
            "not a result."
        )
    if not record["data"].startswith("FER2013"):
        notes.append(f"This is no evaluation on all of FER2013, but on: {record['data']}.")
    figures = {
        f"Test accuracy {words}": (f"{_percent(record[split])} %", f"95 %: {_range(record[split])}")
        for split, words in reversed(list(SPLITS.items()))
    }
    told = f"data: {record['data']}; results: {Path(path).parent}"
    error = calibration.expected_calibration_error(bins["tta_test"])
    figures["Calibration error with TTA"] = (f"{100 * error:.2f} %", "0 would be perfect")
    return [
        element("h1", f"{name}: evaluation"),
        element("p", f"{record['network']} on {record['test']['images']} test images; {told}."),
        [element("p", note, class_="note", role="note") for note in notes],
        element(
            "dl",
            [
                element(
                    "div",
                    element("dt", what),
                    element("dd", element("strong", figure), element("br"), more),
                )
                for what, (figure, more) in figures.items()
            ],
            class_="figures",
        ),
    ]


def _accuracy(record):
    """Return accuracies with intervals, and beside them those of others on the same images."""
    rows = [("split", "images", "right", "accuracy, %", "95 % interval", "not unique")]
    for split, words in ROWS.items():
        if split in record:
            of = record[split]
            numbers = (of["images"], _right(of), _percent(of), _range(of), of["repeated"])
            rows.append((words, *numbers))
    parts = [
        table("Accuracy of this evaluation", rows, "<>>>>>"),
        element(
            "p",
            "Intervals are Wilson's: how far the accuracy on other images of the same kind may be "
            "from this one. They say nothing of other seeds. Not unique: images whose highest "
            "probability two classes share. TTA: test-time augmentation, the mean over many views "
            "of an image.",
        ),
        element("h3", "Beside the paper and the published runs"),
    ]
    if not record["data"].startswith("FER2013"):
        told = f"Those are of all of FER2013, this is of: {record['data']}. There is no comparison."
        return [*parts, element("p", told)]
    others, problem = _published(record["network"])
    compared = [
        ("this evaluation", [_cell_of(record[split]) for split in SPLITS]),
        *_paper(record["paper_test_accuracy_percent"]),
        *others,
    ]
    rows = [("net", "accuracy, %", "95 % interval", "with TTA, %", "95 % interval")]
    for who, cells in compared:
        rows.append((who, *(text for cell in cells for text in _two_texts(cell))))
    label = (
        "The accuracies of the table below as points with their intervals; dotted lines through "
        "all rows are this evaluation's."
    )
    return [
        *parts,
        element(
            "div",
            element("figure", charts.intervals(compared, tuple(SPLITS.values()), label)),
            class_="charts",
        ),
        table(f"{record['network']} on FER2013's test split", rows, "<>>>>"),
        element("p", problem) if problem else None,
        element(
            "p",
            "All are of the same images, so that intervals may overlap where one net is better "
            "than another. The paper's best run is the best of an untold number; its top 40 % and "
            "25 % are means of several runs, which have no such interval.",
        ),
    ]


def _paper(percents):
    """Return rows as of `charts.intervals` of the paper's accuracies {name: percent}."""
    rows = []
    for who, names in PAPER_ROWS.items():
        values = [percents.get(name) for name in names]
        if any(values):
            single = "best_run" in names
            rows.append((who, [value and (value, _ends(value, single)) for value in values]))
    return rows


def _ends(percent, single):
    """Return the interval in % of a published accuracy, or None where it is not of one run."""
    right = round(percent / 100 * PAPER_IMAGES)
    return tuple(100 * end for end in calibration.wilson(right, PAPER_IMAGES)) if single else None


def _published(network):
    """Return (rows as of `charts.intervals`, what was wrong or None) of this repository's runs."""
    rows = []
    try:
        for path in sorted(EXPERIMENTS.glob("*/seed*/*/metrics.json"), key=_by_number):
            with results.readable(path):
                record = strict_json.read(path)
                cells = [_cell_of(record[split]) for split in SPLITS]
                same = record["network"] == network and record["data"].startswith("FER2013")
            recipe, seed, name = path.parts[-4:-1]
            if same:
                net = "" if name == network else f" {name}"
                rows.append((f"{recipe}{net}, {seed.replace('seed', 'seed ')}", cells))
    except UserError as error:
        return [], f"The runs of this repository are left out: {error}."
    return rows, None if rows else "Of this repository there are no published runs of this net."


def _by_number(path):
    """Return what sorts seed2 before seed10."""
    return path.parts[-4], path.parts[-2], len(path.parts[-3]), path.parts[-3]


def _confusion(labels, predictions):
    parts = [
        element(
            "p",
            "A row is a true class, a column what the net said: the number of images, and their "
            "share of the row, which is also the depth of the shade. Right ones are framed.",
        )
    ]
    for split, words in SPLITS.items():
        counts = confusion_matrix(labels, predictions[split], labels=range(len(CLASSES)))
        rows = [("true class", *CLASSES, "images")]
        for true, row in enumerate(counts.tolist()):
            total = sum(row)
            cells = [_share(c, total, true == predicted) for predicted, c in enumerate(row)]
            rows.append((CLASSES[true], *cells, total))
        parts.append(table(f"Confusion matrix {words}", rows, "<" + ">" * (len(CLASSES) + 1)))
    return parts


def _share(count, total, right):
    share = count / total if total else 0
    return element(
        "td",
        count,
        element("small", f"{100 * share:.1f}\u00a0%"),
        class_="cell right" if right else "cell",
        style=f"--share: {share:.3f}",
    )


def _classes(labels, predictions):
    rows = [("class", "images", "precision", "recall", "F1")]
    rows[0] += tuple(f"{figure} with TTA" for figure in rows[0][2:])
    columns = []
    for split in SPLITS:
        columns += precision_recall_fscore_support(
            labels, predictions[split], labels=range(len(CLASSES)), zero_division=0
        )[:3]
    counts = np.bincount(labels, minlength=len(CLASSES))
    for name, count, *figures in zip(CLASSES, counts, *columns):
        rows.append((name, count, *(f"{figure:.3f}" for figure in figures)))
    rows.append(("mean of the classes", len(labels), *(f"{c.mean():.3f}" for c in columns)))
    return [
        element(
            "p",
            "Precision: of the images that the net says are of the class, the share that is. "
            "Recall: of the images of the class, the share that it finds. F1: their harmonic mean. "
            "Where nothing can be divided, they are 0.",
        ),
        table("Precision, recall and F1 of the test split", rows, "<" + ">" * 7),
    ]


def _curves(training):
    """Return the curves of the run that made the weights, or why there are none."""
    missing = [element("p", text) for text in training.missing]
    history = training.history
    if not history:
        return [element("p", "Learning curves are left out."), *missing]
    drawn = []
    for key, words in plots.QUANTITIES.items():
        first, last = history[0], history[-1]
        label = (
            f"{words.capitalize()} over {len(history)} epoch{'s' * (len(history) > 1)}: "
            f"of training from {first[key]:.3g} "
            f"to {last[key]:.3g}, of validation from {first['val_' + key]:.3g} to "
            f"{last['val_' + key]:.3g}."
        )
        drawn.append(element("figure", charts.history(history, key, label)))
    rows = [("stage", "epochs", "best epoch", "val accuracy", "val loss", "accuracy", "loss")]
    for stage in dict.fromkeys(row["stage"] for row in history):
        epochs = [row for row in history if row["stage"] == stage]
        best = max(epochs, key=lambda row: row["val_categorical_accuracy"])  # of equals the first
        figures = (best[f"{of}{key}"] for of in ("val_", "") for key in reversed(COLUMNS[2:4]))
        numbers = (len(epochs), f"{best['epoch']:g}", *(f"{figure:.4f}" for figure in figures))
        rows.append((f"{stage:g}", *numbers))
    return [
        element(
            "p",
            "The weights are those of the last stage's best epoch: the one of the highest "
            "validation accuracy. Losses are drawn on a logarithmic axis.",
        ),
        element("div", drawn, class_="charts"),
        table("The best epoch of each stage", rows, "<" + ">" * 6),
        *_recipe(training.recipe),
        *missing,
    ]


def _recipe(recipe):
    if not recipe:
        return []
    seeds = ", ".join(f"{name} {seed}" for name, seed in recipe["seeds"].items())
    stages = [f"Stage {number}: {words}." for number, words in enumerate(recipe["stages"], start=1)]
    return [
        element("p", f"Seeds: {seeds}. What the stages ask for:"),
        element("ul", [element("li", stage) for stage in stages]),
    ]


def _calibration(bins):
    errors = {split: calibration.expected_calibration_error(bins[split]) for split in SPLITS}
    curves = {words: bins[split] for split, words in SPLITS.items()}
    label = (
        "Accuracy over confidence in bins, without and with TTA, beside the line of a calibrated "
        "net; the table below has the numbers of TTA."
    )
    rows = [("confidence", "images", "mean confidence", "accuracy", "95 % interval")]
    for row in bins["tta_test"]:
        ends = "{:.3f} to {:.3f}".format(*row["interval"])
        numbers = (row["images"], f"{row['confidence']:.3f}", f"{row['accuracy']:.3f}", ends)
        rows.append((f"{row['low']:.3f} to {row['high']:.3f}", *numbers))
    return [
        element(
            "p",
            "The confidence of an image is its highest probability. Below the line, the net is "
            "surer than it should be; above it, less sure.",
        ),
        element("p", _verdict(bins["tta_test"])),
        element("div", element("figure", charts.reliability(curves, label)), class_="charts"),
        element(
            "p",
            f"Expected calibration error: {100 * errors['test']:.2f} % without TTA, "
            f"{100 * errors['tta_test']:.2f} % with TTA. That is the mean over all images of the "
            "distance between the accuracy and the mean confidence of their bin, in "
            f"{calibration.BINS} bins of equal width from 0 to 1, the upper end of each included; "
            "of the highest probability only (top-label). Bins without images are left out.",
        ),
        table("Reliability with TTA", rows, "<>>>>"),
    ]


def _verdict(rows):
    images = sum(row["images"] for row in rows)
    confidence, accuracy = (
        100 * sum(row["images"] * row[key] for row in rows) / images
        for key in ("confidence", "accuracy")
    )
    kind = "surer than it should be" if confidence > accuracy else "less sure than it could be"
    return (
        f"With TTA the mean confidence is {confidence:.2f} %, the accuracy {accuracy:.2f} %: on "
        f"the whole, the net is {kind}."
    )


def _mistakes(images, labels, probabilities):
    """Return the faces that the net is wrong about with the highest probabilities."""
    said, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(said != labels)
    if not len(wrong):
        return [element("p", "There is no mistake on the test split with TTA.")]
    chosen = wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
    faces = []
    for index in chosen.tolist():
        given, answer = CLASSES[labels[index]], CLASSES[said[index]]
        faces.append(
            element(
                "li",
                element(
                    "figure",
                    element(
                        "img",
                        src=_data_uri(images[index]),
                        alt=f"Face of test image {index + 1}",
                        width=144,
                        height=144,
                    ),
                    element(
                        "figcaption",
                        f"image {index + 1}, labelled {given}",
                        element("br"),
                        element("strong", f"said {answer}"),
                        f" with {100 * sure[index]:.1f}\u00a0%; {given} got ",
                        f"{100 * probabilities[index, labels[index]]:.1f}\u00a0%",
                    ),
                ),
            )
        )
    return [
        element(
            "p",
            f"The {len(chosen)} of {len(wrong)} mistakes with TTA that the net is surest of. Some "
            "labels are disputable. The pictures are the data's: before you pass this page on, see "
            "whether their terms allow it.",
        ),
        element("ul", faces, class_="faces"),
    ]


def _data_uri(image):
    """Return a grey image uint8 (H, W) as the address of a PNG that holds it."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _conditions(record, training):
    """Return the data, the versions, and the settings that are not the defaults."""
    complete = "complete" if record["training_complete"] else "stopped before its end"
    if not (training.history or training.recipe):
        complete = "not in the models folder"
    then = training.versions or {}
    versions = [("what", "this evaluation", "the training")]
    for key in {**record["versions"], **then}:
        both = (of.get(key) or NOTHING for of in (record["versions"], then))
        texts = (", ".join(map(str, v)) if isinstance(v, list) else v for v in both)
        versions.append((key, *map(_long, texts)))
    return [
        element("p", f"Data: {record['data']}. The training: {complete}."),
        table("Versions and machine", versions, "<<<"),
        *_settings(record["settings"], training.settings),
    ]


def _settings(own, trained):
    """Return what differs from the defaults in the evaluation's settings or the training's.

    The stages of the training are told beside its curves, and left out here.
    """
    defaults = settings.load(settings.DEFAULTS).resolved()
    del defaults["modular"]
    shared = [{part: of[part] for part in defaults} if of else {} for of in (own, trained)]
    found = [dict(_differences(defaults, values)) for values in shared]
    keys = {**found[0], **found[1]}
    if not keys:
        return [element("p", "The settings are the defaults.")]
    same = ["the default", "the default" if trained else NOTHING]
    rows = [("setting", "default", "this evaluation", "the training")]
    for key, (default, _) in keys.items():
        values = [_json(of[key][1]) if key in of else words for of, words in zip(found, same)]
        rows.append((key, *map(_long, (_json(default), *values))))
    return [table("Settings that differ from the defaults", rows, "<<<<")]


def _differences(defaults, values, name=""):
    """Yield (name, (default, value)) of all in resolved settings that is not the default."""
    for key, value in values.items():
        default = defaults.get(key)
        if isinstance(default, dict) and isinstance(value, dict):
            yield from _differences(default, value, f"{name}{key}.")
        elif default != value:
            yield f"{name}{key}", (default, value)


def _json(value):
    return json.dumps(value, ensure_ascii=False)


def _long(text):
    return element("td", shown(text), class_="long")


def _cell_of(measured):
    """Return (percent, (low, high)) of one split's entry in metrics.json."""
    ends = calibration.wilson(_right(measured), measured["images"])
    return 100 * measured["accuracy"], tuple(100 * end for end in ends)


def _two_texts(cell):
    if not cell:
        return NOTHING, NOTHING
    percent, ends = cell
    return f"{percent:.2f}", "{:.2f} to {:.2f}".format(*ends) if ends else NOTHING


def _right(measured):
    return round(measured["accuracy"] * measured["images"])


def _percent(measured):
    return f"{100 * measured['accuracy']:.2f}"


def _range(measured):
    return _two_texts(_cell_of(measured))[1]
