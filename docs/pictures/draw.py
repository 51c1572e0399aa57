"""Draw the pictures of LHC-Net and of its attention module from the network itself.

    python docs/pictures/draw.py

Builds LHC-NetC as Settings/ shapes it, takes every size in the pictures from its layers, and writes
net.png and module.png beside this script. Each file holds what was read from the net under
"Description", and tests/test_docs.py compares it with today's net. Takes ten seconds and 1 GB.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from matplotlib import style  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle  # noqa: E402

from src.files import replace  # noqa: E402

INK, GREY, PALE = "#222222", "#8a8a8a", "#f4f4f2"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#7b4ea3"
LIGHT = {BLUE: "#d6e8f4", ORANGE: "#fbe3d3", GREEN: "#d5efe6", PURPLE: "#e6dcf0", GREY: "#e9e9e9"}
MODULE = 1  # the one that module.png shows, counted from 1
# Where the rows of module.png are, in inches from below, and how they look.
ROWS = {"query": (5.1, BLUE), "key": (3.7, GREEN), "value": (2.1, PURPLE)}
SCORES, SUM = 4.4, 0.42


def describe(network):
    """Return what the pictures show of an LHC-Net, as json.load would give it again.

    {"input": [H, W, channels], "parts": [{"name", "maps": [H, W, C], "units", "lhc"}, ...],
    "unit": sides of a residual unit's kernels, "dense": [units, ...]}; the parts are the stem and
    the stages, "lhc" is what the module behind each was built with.
    """
    from src.lhc import ARGUMENTS  # with TensorFlow, which has built the network

    parts = [{"name": "stem", "units": 0}]
    for layer in network.layers:
        added = re.fullmatch(r"stage(\d)_unit\d_add", layer.name)
        if added and parts[-1]["name"] != f"stage {added.group(1)}":
            parts.append({"name": f"stage {added.group(1)}", "units": 0})
        if added or layer.name == "pooling0":
            parts[-1]["units"] += bool(added)
            parts[-1]["maps"] = list(layer.output.shape[1:])
        if hasattr(layer, "num_heads"):
            parts[-1]["lhc"] = {
                **{key: getattr(layer, key) for key in ARGUMENTS},
                "value_pool": layer.value_pool.pool_size[0],
                "slice": int(layer.query_key[0].kernel.shape[0]),
            }
    unit = (network.get_layer(f"stage1_unit1_{name}") for name in ("conv1", "conv2", "sc"))
    return {
        "input": list(network.input_shape[1:]),
        "parts": parts,
        "unit": [layer.kernel_size[0] for layer in unit],
        "dense": [layer.units for layer in network.layers if re.fullmatch(r"fc\d", layer.name)],
    }


def canvas(width, height):
    """Return a figure of so many inches, and axes that count its inches from the lower left."""
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    return figure, axes


def words(axes, x, y, text, size=11, colour=INK, **kwargs):
    kwargs = {"ha": "center", "va": "center", "linespacing": 1.35, **kwargs}
    axes.text(x, y, text, fontsize=size, color=colour, **kwargs)


def box(axes, x, y, width, height, text, colour, size=11):
    """Draw a box with its centre at (x, y)."""
    corner = (x - width / 2 + 0.06, y - height / 2 + 0.06)
    look = {"boxstyle": "round,pad=0.06", "edgecolor": colour, "facecolor": LIGHT[colour]}
    axes.add_patch(FancyBboxPatch(corner, width - 0.12, height - 0.12, linewidth=1.4, **look))
    words(axes, x, y, text, size)


def arrow(axes, *points, colour=INK):
    """Draw a line through points (x, y) with its head at the last one."""
    xs, ys = zip(*points[:-1])
    axes.plot(xs, ys, color=colour, linewidth=1.4, solid_capstyle="butt", solid_joinstyle="miter")
    look = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", points[-1], points[-2], arrowprops={**look, "mutation_scale": 13})


def maps(axes, x, y, side, depth, colour, bands=1):
    """Draw a stack of maps `side` high, its centre at (x, y); return its left and right ends.

    With more than one band they are cut from top to bottom, and the second band shines.
    """
    width, slant = 0.36 * side, 0.3 * side
    left, low = x - (width + depth) / 2, y - (side + slant) / 2
    front = [(0, 0), (width, slant), (width, side + slant), (0, side)]
    sheets = max(2, round(depth / 0.06))
    for sheet in range(sheets, -1, -1):
        shift = left + depth * sheet / sheets
        corners = [(shift + a, low + b) for a, b in front]
        look = {"facecolor": LIGHT[colour], "edgecolor": colour, "linewidth": 0.8}
        axes.add_patch(Polygon(corners, **look))
    if bands > 1:
        step = side / bands
        lit = [(0, side - 2 * step), (width, side + slant - 2 * step)]
        lit += [(a, b + step) for a, b in reversed(lit)]
        axes.add_patch(Polygon([(left + a, low + b) for a, b in lit], facecolor=colour, alpha=0.75))
        for cut in range(1, bands):
            height = low + cut * step
            axes.plot((left, left + width), (height, height + slant), color=colour, linewidth=0.9)
    return left, left + width + depth


def matrix(axes, x, y, width, height, colour, rows=8, columns=8):
    """Draw a grid that stands for a matrix, its centre at (x, y)."""
    left, low = x - width / 2, y - height / 2
    axes.add_patch(Rectangle((left, low), width, height, facecolor=LIGHT[colour], edgecolor=colour))
    for row in range(1, rows):
        place = low + height * row / rows
        axes.plot((left, left + width), (place, place), color="white", linewidth=0.7)
    for column in range(1, columns):
        place = left + width * column / columns
        axes.plot((place, place), (low, low + height), color="white", linewidth=0.7)


def times(*sizes):
    return " × ".join(f"{size:,}" for size in sizes)


def heads(lhc):
    return f"{lhc['num_heads']} head{'s' * (lhc['num_heads'] != 1)}"


def draw_net(description, face, classes):
    """Return the figure of the whole net; face: grey levels (H, W); classes: what it may say."""
    figure, axes = canvas(12.8, 5.2)
    middle = 3.35
    first, second, shortcut = (times(side, side) for side in description["unit"])
    axes.imshow(face, cmap="gray", extent=(0.15, 1.25, middle - 0.55, middle + 0.55))
    words(axes, 0.7, middle - 0.95, f"a face,\n{times(*description['input'][:2])}", va="top")
    end = 1.25
    for number, part in enumerate(description["parts"]):
        x = 2.2 + 1.76 * number
        height, width, channels = part["maps"]
        side, depth = 0.35 + 0.14 * math.sqrt(height), 0.06 + 0.0011 * channels
        units = f"{part['units']} residual units" if part["units"] else "convolution, pool"
        words(axes, x, 4.95, part["name"], 12, BLUE, weight="bold")
        words(axes, x, 4.7, units, 10)
        left, right = maps(axes, x, middle, side, depth, BLUE)
        words(axes, x, middle - 0.95, f"{channels} maps,\n{times(height, width)}", va="top")
        gate = x + 0.86
        arrow(axes, (end, middle), (left - 0.02, middle))
        arrow(axes, (right + 0.02, middle), (gate - 0.17, middle))
        box(axes, gate, middle, 0.34, 0.95, "", ORANGE)
        words(axes, gate, middle, f"LHC {number + 1}", 11, ORANGE, rotation=90, weight="bold")
        words(axes, gate, middle + 0.62, heads(part["lhc"]), 10, ORANGE)
        end = gate + 0.17
    arrow(axes, (end, middle), (end + 0.2, middle))
    dense = "\n".join(f"Dense {units:,}" for units in description["dense"])
    box(axes, end + 0.78, middle, 1.16, 1.4, f"norm, ReLU\nmaps' means\n{dense}", GREY, 10)
    words(axes, end + 0.78, 4.95, "head", 12, GREY, weight="bold")
    words(axes, end + 0.78, middle - 0.95, f"{len(classes)} probabilities", va="top")
    arrow(axes, (end + 1.36, middle), (end + 1.56, middle))
    words(axes, end + 1.62, middle, "\n".join(classes), 10, ha="left", linespacing=1.5)

    axes.add_patch(Rectangle((0.15, 0.15), 12.5, 1.55, facecolor=PALE, edgecolor="none"))
    words(axes, 0.35, 1.45, "a residual unit", 11, BLUE, ha="left", weight="bold")
    steps = ("norm, ReLU", f"conv {first}", "norm, ReLU", f"conv {second}")
    row, places = 0.82, (1.35, 2.55, 3.75, 4.95)
    arrow(axes, (0.35, row), (places[0] - 0.52, row))
    for place, step in zip(places, steps):
        box(axes, place, row, 1.04, 0.42, step, BLUE, 10)
        arrow(axes, (place + 0.52, row), (place + (0.68 if place < 4.9 else 0.75), row))
    words(axes, 5.82, row, "+", 15, BLUE, weight="bold")
    arrow(axes, (0.55, row), (0.55, 0.35), (5.82, 0.35), (5.82, row - 0.14))
    added = f"what came in is added (in a stage's first unit: a {shortcut} conv of the first ReLU)"
    words(axes, 3.2, 0.47, added, 8.5)
    arrow(axes, (5.95, row), (6.25, row))

    words(axes, 6.75, 1.45, "an LHC module", 11, ORANGE, ha="left", weight="bold")
    text = (
        "Maps are cut into bands, one a head. In each band every map is compared\n"
        "with all maps, and listens to those that fit it. What it hears is added to it:\n"
        "Local multi-Head Channel self-attention. The rest of the ResNet stays."
    )
    words(axes, 6.75, 0.75, text, 10, ha="left", linespacing=1.5)
    return figure


def draw_module(part, number):
    """Return the figure of the module behind a part of the description, the `number`th."""
    lhc = part["lhc"]
    height, width, channels = part["maps"]
    figure, axes = canvas(12.6, 6.5)
    title = f"LHC module {number}: {channels} maps of {times(height, width)} places, {heads(lhc)}"
    words(axes, 0.2, 6.25, title, 13, ORANGE, ha="left", weight="bold")
    axes.add_patch(Rectangle((3.75, 1.2), 7.3, 4.7, facecolor=PALE, edgecolor="none"))
    frame = f"in each of the {lhc['num_heads']} bands, by a head of its own"
    frame += f" (here {lhc['slice']} places of each map)"
    words(axes, 3.9, 1.38, frame, 10, GREY, ha="left", weight="bold")
    _embed(axes, lhc, part["maps"])
    _attend(axes, lhc, channels)
    _add(axes, lhc["num_heads"])
    return figure


def _embed(axes, lhc, shape):
    """Draw how x becomes queries, keys and values."""
    count, size, length = lhc["num_heads"], lhc["att_embed_dim"], lhc["slice"]
    pool, kernel, smooth = (
        times(lhc[key], lhc[key]) for key in ("pool_size", "kernel_size", "value_pool")
    )
    makers = {
        "query": f"mean of\n{pool} places",
        "key": f"maximum of\n{pool} places",
        "value": f"{kernel} conv,\nmean of {smooth}",
    }
    start, trunk = ROWS["key"][0], 1.35
    words(axes, 0.7, start + 0.95, "x", 15, weight="bold", style="italic")
    maps(axes, 0.7, start, 0.95, 0.3, GREY)
    words(axes, 0.65, 2.8, f"{shape[2]} maps\n{times(*shape[:2])}", 10, va="top")
    words(axes, 3.25, 5.72, f"{count} bands", 10)
    box(axes, 4.56, SCORES, 1.16, 2.1, f"one Dense\nfor both:\n{length} → {size}", GREY, 10)
    for name, (row, colour) in ROWS.items():
        arrow(axes, (1.12, start), (trunk, start), (trunk, row), (1.6, row))
        words(axes, 2.18, row + 0.52, name, 11, colour, weight="bold")
        box(axes, 2.18, row, 1.16, 0.68, makers[name], colour, 10)
        arrow(axes, (2.76, row), (2.98, row))
        _, right = maps(axes, 3.25, row, 0.75, 0.2, colour, count)
        embedded = name != "value"
        arrow(axes, (right + 0.03, row), (3.98 if embedded else 5.48, row))
        if embedded:
            arrow(axes, (5.14, row), (5.48, row))
        words(axes, 5.98, row + 0.46, name[0], 12, colour, style="italic", weight="bold")
        matrix(axes, 5.98, row, 0.95, 0.62, colour)
        words(axes, 5.98, row - 0.46, times(shape[2], size if embedded else length), 10)
    arrow(axes, (1.12, start), (trunk, start), (trunk, SUM), (11.52, SUM))
    words(axes, 6.2, SUM + 0.17, "what came in is added", 10)


def _attend(axes, lhc, channels):
    """Draw a head's scores and shares, and what they make of its values."""
    (query, _), (key, _), (value, _) = ROWS.values()
    arrow(axes, (6.48, query), (7.2, query), (7.2, SCORES + 0.5))
    arrow(axes, (6.48, key), (7.2, key), (7.2, SCORES - 0.5))
    matrix(axes, 7.2, SCORES, 0.9, 0.9, ORANGE)
    told = f"scores $q\\,k^T$: {times(channels, channels)}\n(rows: who listens)"
    words(axes, 7.35, query + 0.02, told, 10, ha="left")
    arrow(axes, (7.67, SCORES), (8.0, SCORES))
    divisor = f"{lhc['att_embed_dim']}$^{{\\,{lhc['norm_c']} + T}}$"
    box(axes, 8.68, SCORES, 1.36, 0.8, f"row / {divisor},\nthen softmax", ORANGE, 10)
    arrow(axes, (7.67, SCORES - 0.3), (7.83, SCORES - 0.3), (7.83, 3.2), (8.0, 3.2))
    warmth = "T, one a row:\nsigmoid of Dense\nof rows' means"
    box(axes, 8.72, 3.2, 1.44, 0.85, warmth, ORANGE, 10)
    arrow(axes, (8.68, 3.64), (8.68, SCORES - 0.4))
    arrow(axes, (9.37, SCORES), (9.72, SCORES))
    matrix(axes, 10.2, SCORES, 0.9, 0.9, ORANGE)
    words(axes, 10.2, SCORES + 0.72, "shares $A$\n(rows add up to 1)", 10)
    arrow(axes, (10.2, SCORES - 0.47), (10.2, value + 0.34))
    arrow(axes, (6.48, value), (9.7, value))
    words(axes, 8.1, value - 0.2, "sums of values, weighted by the shares", 10)
    matrix(axes, 10.2, value, 0.95, 0.62, ORANGE)
    words(axes, 10.2, value - 0.46, f"$A\\,v$: {times(channels, lhc['slice'])}", 10)


def _add(axes, count):
    """Draw how the bands come together and are added to x."""
    value, _ = ROWS["value"]
    arrow(axes, (10.7, value), (11.25, value))
    maps(axes, 11.65, value, 0.75, 0.2, ORANGE, count)
    words(axes, 11.72, value + 0.78, "bands together:\n$y$", 10)
    arrow(axes, (11.65, value - 0.52), (11.65, 1.37))
    box(axes, 11.65, 1.08, 1.3, 0.56, "in LHC-NetC\n× (1 + tanh w)", ORANGE, 10)
    arrow(axes, (11.65, 0.8), (11.65, SUM + 0.13))
    words(axes, 11.65, SUM - 0.01, "+", 15, weight="bold")
    arrow(axes, (11.78, SUM), (12.5, SUM))
    words(axes, 12.15, SUM + 0.2, "$x + y$", 10.5)


def write(path, figure, description):
    with replace(path) as part:
        about = {"Description": json.dumps(description)}
        figure.savefig(part, format="png", dpi=120, metadata=about)


@style.context("default")
def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()

    # TensorFlow starts here, in seconds.
    from src import networks, sample, settings
    from src.names import CLASSES

    description = describe(networks.build("LHC_NetC", settings.load(settings.DEFAULTS)))
    face = sample.draw(1, [0, 0, 0, 1, 0, 0, 0])[0][0]
    write(HERE / "net.png", draw_net(description, face, CLASSES), description)
    write(HERE / "module.png", draw_module(description["parts"][MODULE - 1], MODULE), description)


if __name__ == "__main__":
    main()
