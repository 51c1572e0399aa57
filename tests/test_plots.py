"""Pictures: written whole, drawn from what is given, without touching global state."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from src import plots
from src.dataset import CLASSES

ROOT = Path(__file__).resolve().parent.parent
ROWS = [
    {
        "stage": stage,
        "epoch": epoch,
        "loss": 2 / epoch,
        "categorical_accuracy": 0.1 * epoch,
        "val_loss": 3 / epoch,
        "val_categorical_accuracy": 0.05 * epoch,
        "seconds": 1.0,
        "images_per_second": 10.0,
    }
    for stage in (1, 2)
    for epoch in (1, 2, 3)
]


@pytest.fixture
def figures(monkeypatch):
    """The figures drawn, kept as they are saved."""
    kept, savefig = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        kept.append(figure)
        return savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def check_picture(path):
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no part file left
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_confusion_matrix(tmp_path, figures):
    labels, predictions = [0, 0, 0, 1, 2], [0, 0, 1, 1, 0]
    path = tmp_path / "results" / "confusion_matrix.png"
    plots.confusion_matrix(path, labels, predictions, CLASSES, "title")
    check_picture(path)
    axes = figures[0].axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(texts) == 49
    # Positions are (predicted, true).
    assert texts[0, 0] == "66.7 %\n2" and texts[1, 0] == "33.3 %\n1"
    assert texts[0, 2] == "100.0 %\n1" and texts[2, 0] == "0.0 %\n0"
    assert texts[6, 6] == "0.0 %\n0"  # a class without images


def test_history(tmp_path, figures):
    plots.history(tmp_path / "history.png", [{k: str(v) for k, v in row.items()} for row in ROWS])
    check_picture(tmp_path / "history.png")
    loss, accuracy = figures[0].axes
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    assert list(loss.lines[0].get_ydata()) == [row["loss"] for row in ROWS]
    assert list(accuracy.lines[1].get_ydata()) == [row["val_categorical_accuracy"] for row in ROWS]
    assert [text.get_text() for text in loss.texts] == ["stage 1", "stage 2"]
    rings = [line.get_xdata()[0] for line in accuracy.lines if line.get_marker() == "o"]
    assert rings == [3, 6]


@pytest.mark.parametrize("count", [1, 2])
def test_history_that_has_only_begun(tmp_path, count):
    plots.history(tmp_path / "history.png", ROWS[:count])
    check_picture(tmp_path / "history.png")


def test_history_with_a_loss_that_is_no_number(tmp_path):
    plots.history(
        tmp_path / "history.png", ROWS[:2] + [dict(ROWS[2], loss=np.nan, val_loss=np.nan)]
    )
    check_picture(tmp_path / "history.png")


def test_losses_far_apart_have_plain_numbers_beside_them(tmp_path, figures):
    plots.history(tmp_path / "history.png", [dict(ROWS[0], val_loss=75.0), ROWS[1]])
    axes = figures[0].axes[0]
    low, high = axes.get_ylim()
    values = [value for value in axes.get_yticks() if low <= value <= high]
    formatter = axes.yaxis.get_major_formatter()
    assert [formatter(value) for value in values] == ["1", "2", "5", "10", "20", "50"]


def test_losses_of_zero_stay_on_a_linear_axis(tmp_path, figures):
    plots.history(tmp_path / "history.png", [dict(ROWS[0], loss=0, val_loss=0)])
    check_picture(tmp_path / "history.png")
    assert figures[0].axes[0].get_yscale() == "linear"


def test_many_epochs_are_lines_without_markers(tmp_path, figures):
    for count in (plots.DOTTED, plots.DOTTED + 1):
        plots.history(tmp_path / "history.png", [dict(ROWS[0], epoch=e) for e in range(count)])
    markers = [{line.get_marker() for line in f.axes[0].lines[:2]} for f in figures]
    assert markers == [{"."}, {""}]


def test_sample_sheet(tmp_path, figures):
    images = np.arange(5 * 48 * 48, dtype=np.uint8).reshape(5, 48, 48)
    plots.sample_sheet(tmp_path / "sheet.png", images, [0, 0, 0, 1, 6], CLASSES, columns=2)
    check_picture(tmp_path / "sheet.png")
    shown = [len(axes.images) for axes in figures[0].axes]
    assert shown == [1, 1, 1, 0] + [0] * 8 + [1, 0]


DRAW = """
import sys
from pathlib import Path
import numpy as np
from src import plots
from tests.test_plots import CLASSES, ROWS
folder = Path(sys.argv[1])
plots.confusion_matrix(folder / "matrix.png", [0, 0, 1, 5], [0, 1, 1, 5], CLASSES, "title")
plots.history(folder / "history.png", ROWS)
plots.sample_sheet(folder / "sheet.png", np.arange(48 * 48).reshape(1, 48, 48), [3], CLASSES)
"""
WILD = """
backend: nonsense
font.size: 30
figure.facecolor: red
figure.dpi: 31
savefig.dpi: 300
savefig.bbox: tight
axes.grid: True
axes.prop_cycle: cycler("color", ["pink"])
lines.linewidth: 9
image.cmap: hot
text.color: green
nothing.of.the.kind: 7
"""


@pytest.mark.parametrize("backend", ["nonsense", "TkAgg", "module://nowhere"])
def test_a_users_matplotlib_settings_do_not_reach_the_pictures(tmp_path, backend):
    drawn = {}
    for kind in ("plain", "wild"):
        cwd, pictures = tmp_path / kind, tmp_path / kind / "pictures"
        pictures.mkdir(parents=True)
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        environment.pop("MPLBACKEND", None)
        if kind == "wild":
            (cwd / "matplotlibrc").write_text(WILD)
            environment["MPLBACKEND"] = backend
        command = [sys.executable, "-c", DRAW, str(pictures)]
        subprocess.run(command, cwd=cwd, env=environment, check=True)
        drawn[kind] = {path.name: path.read_bytes() for path in pictures.iterdir()}
    assert len(drawn["plain"]) == 3 and drawn["wild"] == drawn["plain"]


def test_global_random_generators_are_untouched(tmp_path):
    numpy_before, python_before = np.random.get_state()[1].copy(), random.getstate()
    plots.confusion_matrix(tmp_path / "a.png", [0, 1], [0, 1], CLASSES, "title")
    plots.history(tmp_path / "b.png", ROWS)
    plots.sample_sheet(tmp_path / "c.png", np.zeros((1, 48, 48)), [0], CLASSES)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
    assert random.getstate() == python_before


def test_sheet_with_captions(tmp_path, figures):
    images = np.arange(3 * 48 * 48).reshape(3, 48, 48) % 256
    plots.captioned_sheet(tmp_path / "sheet.png", images, ["a", "b\nc", "d"], "title", columns=2)
    check_picture(tmp_path / "sheet.png")
    above, below = figures[0].axes[::2], figures[0].axes[1::2]
    assert len(above) == len(below) == 3
    for axes, image in zip(above, images):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
    assert [[text.get_text() for text in axes.texts] for axes in below] == [["a"], ["b\nc"], ["d"]]


def test_curves_of_many_groups_can_be_told_apart(tmp_path, figures):
    plots.curves(tmp_path / "curves.png", {f"group {number}": [ROWS[:3]] for number in range(25)})
    (legend,) = figures[0].legends
    looks = {(line.get_color(), line.get_linestyle()) for line in legend.get_lines()}
    assert len(looks) == 25
