"""HTML, built as a tree of the standard library: whatever text goes in is escaped, and every
element is closed."""

from xml.etree import ElementTree

SIDES = {"<": None, ">": "number"}  # the class of a table's cells


def element(tag, *content, **attributes):
    """Return an element.

    content: texts, numbers, elements, and lists of these; None is nothing. attributes: of values
    other than None; `class_` stands for class, and `aria_label` for aria-label.
    """
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    given = {names[name]: str(value) for name, value in attributes.items() if value is not None}
    made = ElementTree.Element(tag, given)
    _add(made, content)
    return made


def _add(parent, content):
    for part in content:
        if isinstance(part, (list, tuple)):
            _add(parent, part)
        elif isinstance(part, ElementTree.Element):
            parent.append(part)
        elif part is not None and len(parent):
            parent[-1].tail = (parent[-1].tail or "") + str(part)
        elif part is not None:
            parent.text = (parent.text or "") + str(part)


def table(caption, rows, sides):
    """Return a table in a box of its own, which scrolls where the page is too narrow for it.

    rows: the head first; their cells are texts, or td elements. The first cell of a row heads it.
    sides: a letter a column, "<" or ">" for the side that its cells keep to (as src/markdown.py).
    """
    classes = [SIDES[side] for side in sides]
    head = [element("th", cell, scope="col", class_=c) for cell, c in zip(rows[0], classes)]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row", class_=classes[0]),
            [_cell(cell, side) for cell, side in zip(row[1:], classes[1:])],
        )
        for row in rows[1:]
    ]
    made = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", head)),
        element("tbody", body),
    )
    # Reached by the tabulator key, so that it scrolls without a mouse.
    return element("div", made, class_="scroll", role="region", tabindex=0, aria_label=caption)


def _cell(cell, side):
    if isinstance(cell, ElementTree.Element) and cell.tag == "td":
        return cell
    return element("td", cell, class_=side)


def document(title, style, *content):
    """Return the text of a page that asks for nothing outside of itself.

    style: CSS, without `<`. content: what the body holds.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy", "content": policy}),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", style),
    )
    page = element("html", head, element("body", *content), lang="en")
    text = ElementTree.tostring(page, encoding="unicode", method="html")
    return f"<!doctype html>\n{text}\n"
