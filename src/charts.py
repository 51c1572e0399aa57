"""Charts that stand in a page: matplotlib's SVG, in the page's own colours, light or dark.

Texts stay texts. The same numbers give the same bytes with one version of matplotlib.
"""

import io
import re
from xml.etree import ElementTree

from matplotlib import style
from matplotlib.figure import Figure

from src import plots
from src.markup import element

PLAIN = {
    "svg.fonttype": "none",  # texts as such
    "svg.hashsalt": "chart",  # else names within the file are drawn at random
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}
STYLE = ["default", PLAIN]
# What a page's style sheet gives colours to.
COLOURS = {
    "#000000": "currentColor",
    plots.TRAINING: "var(--first)",
    plots.VALIDATION: "var(--second)",
    plots.GREY: "var(--muted)",
}
ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.5, 1)}  # of the axes
WIDTH, HEIGHT = 4.6, 3.6  # inches: texts are 10/72, so a telephone's page shows them as 11 pixels
SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


@style.context(STYLE)
def history(rows, key, label):
    """Return one of plots.QUANTITIES over the epochs `rows` of history.csv."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    plots.draw_history(figure.subplots(), rows, key)
    return _svg(figure, key, label)


@style.context(STYLE)
def reliability(curves, label):
    """Return accuracy over confidence. curves: {name: rows of `calibration.reliability`}, two."""
    figure = Figure(figsize=(WIDTH, 4.2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=plots.GREY, linestyle=":", label="calibrated")
    for (name, rows), colour, marker, line in zip(
        curves.items(), (plots.TRAINING, plots.VALIDATION), "os", ("-", "--")
    ):
        x, y = ([row[key] for row in rows] for key in ("confidence", "accuracy"))
        ends = [_whiskers(row["accuracy"], row["interval"]) for row in rows]
        look = {"marker": marker, "markersize": 5, "linestyle": line, "color": colour}
        axes.errorbar(x, y, list(zip(*ends)), elinewidth=0.8, capsize=2, label=name, **look)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.3)
    axes.legend(**ABOVE, ncol=3)
    return _svg(figure, "reliability", label)


@style.context(STYLE)
def intervals(rows, names, label):
    """Return accuracies side by side, one row below the other, each with its interval.

    rows: (name, [(percent, (low, high) or None) or None of each of `names`]), two of these. Lines
    through all rows lead from the first one's.
    """
    figure = Figure(figsize=(WIDTH, 1.4 + 0.36 * len(rows)))
    axes = figure.subplots()
    for column, (name, colour, marker, offset) in enumerate(
        zip(names, (plots.TRAINING, plots.VALIDATION), "os", (-0.14, 0.14))
    ):
        for number, (_, cells) in enumerate(rows):
            if cells[column]:
                percent, ends = cells[column]
                look = {"color": colour, "marker": marker, "markersize": 5, "linestyle": "none"}
                whiskers = [[end] for end in _whiskers(percent, ends)] if ends else None
                once = {"label": name} if number == 0 else {}
                axes.errorbar(
                    [percent], [number + offset], xerr=whiskers, capsize=2, **look, **once
                )
        axes.axvline(rows[0][1][column][0], color=colour, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(rows)))
    axes.set_yticklabels([name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("accuracy on the test split, %")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(**ABOVE, ncol=2)
    return _svg(figure, "intervals", label)


def _whiskers(value, ends):
    return max(0, value - ends[0]), max(0, ends[1] - value)


def _svg(figure, name, label):
    """Return a figure as an svg element. name: sets its parts' ids apart from other figures'.

    label: what it shows, in words, for those who do not see it.
    """
    figure.tight_layout()
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    drawn = ElementTree.fromstring(file.getvalue())
    made = element("svg", viewBox=drawn.get("viewBox"), role="img", aria_label=label)
    made.extend(part for part in drawn if part.tag != SVG + "metadata")
    linked = set(re.findall(r"#(\w+)", " ".join(_values(made, (LINK, "clip-path")))))
    for part in made.iter():
        part.tag = part.tag.replace(SVG, "")
        values = {key: _own(value, name) for key, value in part.items()}
        part.attrib.clear()
        for key, value in values.items():
            if key == LINK:
                part.set("href", value.replace("#", f"#{name}-"))
            elif key != "id":
                part.set(key, value)
            elif value in linked:
                part.set("id", f"{name}-{value}")
    return made


def _values(tree, keys):
    return (part.get(key, "") for part in tree.iter() for key in keys)


def _own(value, name):
    """Return an attribute's value with the page's colours and this figure's names."""
    for colour, own in COLOURS.items():
        value = value.replace(colour, own)
    return value.replace("url(#", f"url(#{name}-")
