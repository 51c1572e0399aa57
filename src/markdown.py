"""Tables in Markdown pages, between two marks that a script finds again."""

from collections import Counter


def table(rows, sides):
    """Return rows, the first of them the head, as a Markdown table of even columns.

    sides: a letter a column, "<" or ">" for the side that its cells keep to.
    """
    rows = [[words(cell) for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*rows)]
    rules = [
        "-" * (width - 1) + (":" if side == ">" else "-") for width, side in zip(widths, sides)
    ]
    lines = [
        " | ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths))
        for row in [rows[0], rules, *rows[1:]]
    ]
    return "\n".join(f"| {line} |" for line in lines)


def words(value):
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def counted(names):
    """Return names in one text, each once: "2 × NVIDIA H200, NVIDIA L4"."""
    times = Counter(names).items()
    return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in times)


def between(text, begin, end, parts):
    """Return a page's text with `parts` in the place of what was between the marks.

    Raises ValueError unless it has each of them once, in this order.
    """
    pieces = text.split(begin)
    pieces[1:] = pieces[1].split(end) if len(pieces) == 2 else []
    if len(pieces) != 3:
        raise ValueError(f"expected the marks {begin} and {end} once, in this order")
    before, _, after = pieces
    return "\n\n".join([before + begin, *parts, end + after])
