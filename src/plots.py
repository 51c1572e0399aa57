"""Pictures: confusion matrix, learning curves, sheet of images; PNG files, drawn without a display.

Figures are made without pyplot, so that nothing global is touched, random generators included, and
in matplotlib's own style, whatever a user's matplotlibrc says.
"""

import contextlib
import sys
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from src.files import replace

TRAINING, VALIDATION, GREY = "#1f77b4", "#d95f02", "#707070"
QUANTITIES = {"loss": "cross-entropy", "categorical_accuracy": "accuracy"}  # of history.csv
DOTTED = 30  # more epochs than these have no markers: they would hide the lines


@contextlib.contextmanager
def warning(path):
    """Let nothing that keeps `path` from being written end the work: it is a warning on stderr."""
    try:
        yield
    except Exception as error:  # an open spreadsheet, a full disk, a broken font, ...
        print(f"warning: {path}: could not be written: {error}", file=sys.stderr)


@style.context("default")
def confusion_matrix(path, labels, predictions, classes, title):
    """Draw how often each class was taken for which: share of the true class, and count.

    labels, predictions: class numbers (N,).
    """
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labels, predictions), 1)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]

    figure = Figure(figsize=(8.4, 7.2))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (true, predicted), share in np.ndenumerate(shares):
        count = counts[true, predicted]
        colour = "white" if share > 0.5 else "black" if count else GREY
        text = f"{100 * share:.1f} %\n{count}"
        axes.text(predicted, true, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(classes)))
    axes.set_xticklabels(classes, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)))
    axes.set_yticklabels([f"{name}\n{total}" for name, total in zip(classes, totals)])
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class, images")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03, label="share of the true class")
    _save(figure, path)


@style.context("default")
def history(path, rows):
    """Draw loss, on a log axis, and accuracy of training and validation over all stages' epochs.

    rows: history.csv as dicts with stage, epoch, loss, categorical_accuracy, val_loss and
    val_categorical_accuracy. Stages are parted by lines; each one's best epoch is ringed.
    """
    figure = Figure(figsize=(10, 4.4))
    for axes, key in zip(figure.subplots(1, 2), QUANTITIES):
        draw_history(axes, rows, key)
    _save(figure, path)


def draw_history(axes, rows, key):
    """Draw one of QUANTITIES, of training and validation, over the epochs `rows` of `history`."""
    rows = [{name: float(value) for name, value in row.items()} for row in rows]
    epochs = np.arange(1, len(rows) + 1)
    stages = np.array([row["stage"] for row in rows])
    starts = [0] + [i for i in range(1, len(rows)) if stages[i] != stages[i - 1]]
    dot = "." if len(rows) <= DOTTED else ""
    for prefix, name, colour, line in (
        ("", "training", TRAINING, "-"),
        ("val_", "validation", VALIDATION, "--"),
    ):
        values = [row[prefix + key] for row in rows]
        axes.plot(epochs, values, marker=dot, linestyle=line, color=colour, label=name)
    if key == "loss":
        log_scale(axes)  # of a net from random weights, the first epochs' are a hundred times more
    for start, end in zip(starts, starts[1:] + [len(rows)]):
        # The first of equals, as early stopping chooses.
        best = start + int(np.argmax([r["val_categorical_accuracy"] for r in rows[start:end]]))
        ring = {"marker": "o", "markersize": 10, "fillstyle": "none", "linestyle": "none"}
        once = "best of its stage" if start == 0 else None
        axes.plot(epochs[best], rows[best]["val_" + key], color=VALIDATION, label=once, **ring)
        if start:
            axes.axvline(start + 0.5, color=GREY, linestyle=":")
        if len(starts) > 1:
            name = f"stage {stages[start]:g}"
            at = {"xycoords": ("data", "axes fraction"), "color": GREY, "ha": "center"}
            axes.annotate(name, ((start + end + 1) / 2, 1.01), annotation_clip=False, **at)
    axes.set_xlim(0.5, len(rows) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel(QUANTITIES[key])
    axes.grid(alpha=0.3)
    axes.legend()


def log_scale(axes):
    """Make the y axis logarithmic, with plain numbers beside it, if what was drawn allows it."""
    values = np.concatenate([line.get_ydata() for line in axes.lines]).astype(float)
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return
    axes.set_yscale("log")
    decades = np.log10(values.max() / values.min())
    if decades < 1:
        axes.yaxis.set_major_locator(MaxNLocator(12, steps=[1, 2, 5, 10]))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


@style.context("default")
def curves(path, groups):
    """Draw the validation loss and accuracy of several runs of each group over their epochs.

    groups: {name: [history of a run: rows with val_loss and val_categorical_accuracy]}. A thin line
    is a run, the thick one the mean over those that got so far.
    """
    figure = Figure(figsize=(11, 5.2))
    loss, accuracy = figure.subplots(1, 2)
    for axes, key, factor in (
        (loss, "val_loss", 1),
        (accuracy, "val_categorical_accuracy", 100),
    ):
        for number, (name, runs) in enumerate(groups.items()):
            colour, style = f"C{number % 10}", ("-", "--", ":")[number // 10 % 3]
            lines = [[factor * row[key] for row in run] for run in runs]
            for line in lines:
                axes.plot(range(1, len(line) + 1), line, color=colour, alpha=0.45, linewidth=0.8)
            means = [
                np.mean([line[i] for line in lines if i < len(line)])
                for i in range(max(map(len, lines)))
            ]
            several = f"{len(runs)} seeds" if len(runs) > 1 else "1 seed"
            label = f"{name}, {several}"
            axes.plot(range(1, len(means) + 1), means, style, color=colour, label=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    # One legend for both, below them: the curves leave no room for it.
    columns = min(3, len(groups))
    named = loss.get_legend_handles_labels()
    figure.legend(*named, loc="lower center", ncol=columns, frameon=False)
    log_scale(loss)
    loss.set_ylabel("validation loss")
    # What sets seeds apart is at the end: the climb up to there would hide it.
    ends = [100 * run[-1]["val_categorical_accuracy"] for runs in groups.values() for run in runs]
    accuracy.set_ylim(min(ends) - 12, max(ends) + 2)
    accuracy.set_ylabel("validation accuracy, %")
    _save(figure, path, below=0.045 * -(-len(groups) // columns))


@style.context("default")
def sample_sheet(path, images, labels, classes, columns=10):
    """Draw grey images (N, H, W), 0...255: one row a class, the first `columns` images of each."""
    figure = Figure(figsize=(columns + 1.2, 1.05 * len(classes)))
    grid = figure.subplots(len(classes), columns, squeeze=False)
    labels = np.asarray(labels)
    for label, (name, cells) in enumerate(zip(classes, grid)):
        chosen = np.flatnonzero(labels == label)[:columns]
        for axes in cells:
            axes.axis("off")
        for axes, index in zip(cells, chosen):
            axes.imshow(images[index], cmap="gray", vmin=0, vmax=255)
        at = {"xycoords": "axes fraction", "ha": "right", "va": "center"}
        cells[0].annotate(name, (-0.1, 0.5), annotation_clip=False, **at)
    _save(figure, path)


@style.context("default")
def captioned_sheet(path, images, captions, title, columns=10):
    """Draw grey images (N, H, W), 0...255, in rows of `columns`, each over its caption."""
    rows = max(1, -(-len(images) // columns))
    lines = [caption.count("\n") + 1 for caption in captions] or [1]
    most = [max(lines[i * columns : (i + 1) * columns]) for i in range(rows)]
    heights = [height for count in most for height in (1.2, 0.14 * count)]  # a picture, its caption
    figure = Figure(figsize=(1.55 * columns, sum(heights) + 0.14 * rows + 0.6))
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=heights)
    for number, (image, caption) in enumerate(zip(images, captions)):
        row, column = divmod(number, columns)
        above, below = (figure.add_subplot(grid[2 * row + i, column]) for i in (0, 1))
        above.imshow(image, cmap="gray", vmin=0, vmax=255)
        below.text(0.5, 1, caption, ha="center", va="top", fontsize=7.5)
        for axes in (above, below):
            axes.axis("off")
    figure.suptitle(title)
    _save(figure, path)


def _save(figure, path, below=0):
    """Write a PNG, whole or not at all; make its folder if need be.

    below: the share of the height that the axes leave free at the bottom.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout(rect=(0, below, 1, 1))
    with replace(path) as part:
        figure.savefig(part, format="png", dpi=120)
