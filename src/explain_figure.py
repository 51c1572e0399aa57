"""The figure that shows an `explain.Explanation` to somebody who has not read the paper."""

import math
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from src.dataset import CLASSES
from src.files import replace

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#b0b0b0"  # told apart by colour-blind readers too
HEAT = "inferno"
FARTHEST = 16  # times the even share, up or down, where the colours of attention end
LEAST = 0.01  # of what comes in: where a module adds less, its brightest place is nothing too
CELLS = 32  # of a head's square, at most; each is a mean over neighbouring channels
PLACES = ("after the stem", *(f"after stage {stage}" for stage in range(1, 5)))


@style.context("default")
def draw(path, explanation, title):
    """Write the figure of an Explanation as a PNG; make its folder if need be."""
    figure = Figure(figsize=(13, 13.4), constrained_layout=True)
    figure.suptitle(title, fontsize=15, fontweight="bold")
    parts = figure.subfigures(4, 1, height_ratios=(2.6, 2.5, 2.5, 2.9))
    name = CLASSES[explanation.target]
    _summary(parts[0], explanation, name)
    _overlays(
        parts[1],
        explanation,
        [module.added * (module.strength >= LEAST) for module in explanation.modules],
        [f"adds {100 * module.strength:.0f} %" for module in explanation.modules],
        "What each attention module adds to the picture's maps, and where on the face\n"
        "(in % of the strength of what comes in; each module from 1 % on has its own scale)",
        ("nothing", "most"),
    )
    _overlays(
        parts[2],
        explanation,
        [module.evidence for module in explanation.modules],
        ["" if module.evidence.any() else "none of them" for module in explanation.modules],
        f"Which places speak for {name}, seen after each module (Grad-CAM)\n"
        "(early maps are fine and see edges; late ones are coarse and see the whole face)",
        ("not at all", "most"),
    )
    _attention(parts[3], explanation)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replace(path) as part:
        figure.savefig(part, format="png", dpi=80)


def _summary(part, explanation, name):
    face, bars, switches = part.subplots(1, 3, gridspec_kw={"width_ratios": (1, 1.6, 2.1)})
    several = explanation.count > 1
    face.imshow(explanation.face, cmap="gray", vmin=0, vmax=255)
    face.set_title(
        f"mean of {explanation.count} faces" if several else "the face as the net sees it"
    )
    face.set_axis_off()

    percent = 100 * explanation.probabilities
    colours = [BLUE if number == explanation.target else GREY for number in range(len(CLASSES))]
    _bars(bars, CLASSES, percent, colours, [f"{value:.1f} %" for value in percent])
    bars.set_xlim(0, 118)  # room for the numbers
    bars.set_xticks(range(0, 101, 20))
    bars.set_title("what the net says" + (", on the average" if several else ""))
    bars.set_xlabel("probability, %")

    whole = percent[explanation.target]
    without = [100 * module.without for module in explanation.modules]
    changes = [value - whole for value in without]
    labels = [f"without module {number + 1}" for number in range(len(changes))]
    colours = [BLUE if change < 0 else ORANGE for change in changes]
    texts = [
        f"{change:+.1f}, to {value:.1f} %" if abs(change) >= 0.05 else "no change"
        for change, value in zip(changes, without)
    ]
    _bars(switches, labels, changes, colours, texts)
    reach = 1.9 * max(2, *map(abs, changes))
    switches.set_xlim(-reach, reach)
    switches.axvline(0, color="black", linewidth=0.8)
    switches.set_title(f"{name} with one module off ({whole:.1f} % with all)")
    switches.set_xlabel(f"points; blue: the module speaks for {name},\norange: against it")


def _bars(axes, names, values, colours, texts):
    places = range(len(names))
    axes.barh(places, values, color=colours)
    axes.set_yticks(places)
    axes.set_yticklabels(names)
    axes.invert_yaxis()
    for place, value, text in zip(places, values, texts):
        side, blanks = ("right", "{}  ") if value < 0 else ("left", "  {}")
        axes.text(value, place, blanks.format(text), ha=side, va="center", fontsize=9)
    axes.spines["top"].set_visible(False)
    axes.spines["right"].set_visible(False)


def _overlays(part, explanation, maps, notes, title, ends):
    """Draw a row of maps (H, W) over the face, one a module."""
    part.suptitle(title, fontsize=11)
    row = part.subplots(1, len(maps))
    for number, (axes, values, note) in enumerate(zip(row, maps, notes)):
        face = {"cmap": "gray", "vmin": 0, "vmax": 255, "interpolation": "nearest"}
        axes.imshow(explanation.face, extent=(0, 1, 1, 0), **face)
        heat = axes.imshow(
            values / (values.max() or 1),
            cmap=HEAT,
            vmin=0,
            vmax=1,
            alpha=0.6,
            interpolation="nearest",  # one square a place: the maps are as coarse as that
            extent=(0, 1, 1, 0),
        )
        axes.set_title(_heading(number, f"{values.shape[0]} x {values.shape[1]} places", note))
        axes.set_axis_off()
    bar = part.colorbar(heat, ax=list(row), ticks=(0, 1), fraction=0.02, pad=0.01)
    bar.set_ticklabels(ends)


def _heading(number, *notes):
    lines = [f"module {number + 1}, {PLACES[number]}", ", ".join(note for note in notes if note)]
    return "\n".join(lines)


def _attention(part, explanation):
    part.suptitle(
        "Which channel listens to which: one square a head; a row is a channel that listens, a "
        "column one that is listened to\n(the first head reads the uppermost band of the face, the "
        "last one the lowest; green: more than an even share, purple: less)",
        fontsize=11,
    )
    row = part.subplots(1, len(explanation.modules))
    for number, (axes, module) in enumerate(zip(row, explanation.modules)):
        heads, channels = module.attention.shape[:2]
        picture = axes.imshow(
            mosaic(module.attention),
            cmap="PRGn",
            norm=LogNorm(1 / FARTHEST, FARTHEST),
            interpolation="nearest",
        )
        many = f"{heads} heads" if heads > 1 else "1 head"
        axes.set_title(_heading(number, many, f"{channels} channels"))
        axes.set_axis_off()
    ticks = [FARTHEST**power for power in (-1, -0.5, 0, 0.5, 1)]
    # Their squares fill more or less of the height: all begin at its top.
    bar = part.colorbar(picture, ax=list(row), panchor="N", ticks=ticks, fraction=0.02, pad=0.01)
    bar.set_ticklabels(["1/16 or less", "1/4", "even share", "4 times", "16 or more"])
    bar.minorticks_off()


def mosaic(attention):
    """Return the squares of heads (heads, C, C) side by side, row by row, gaps being NaN.

    Values are multiples of the even share, 1 / C, within the colours' range.
    """
    heads, channels = attention.shape[:2]
    cells = min(channels, CELLS if heads > 1 else 2 * CELLS)
    edges = np.linspace(0, channels, cells + 1).round().astype(int)[:-1]
    counts = np.diff([*edges, channels])
    sums = np.add.reduceat(np.add.reduceat(attention, edges, axis=1), edges, axis=2)
    shares = channels * sums / np.multiply.outer(counts, counts)
    shares = np.clip(shares, 1 / FARTHEST, FARTHEST)
    columns = math.ceil(math.sqrt(heads))
    rows = math.ceil(heads / columns)
    gap = 2
    sheet = np.full((rows * (cells + gap) - gap, columns * (cells + gap) - gap), np.nan)
    for head, square in enumerate(shares):
        top, left = (cells + gap) * (head // columns), (cells + gap) * (head % columns)
        sheet[top : top + cells, left : left + cells] = square
    return sheet
