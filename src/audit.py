"""What is odd about the data: pictures that are there twice, with other labels, or in two splits.

Pictures are the same if all their pixels are. A row is counted from 0, as in predictions.npz.
"""

import hashlib
from collections import Counter, defaultdict

import numpy as np

from src import markdown
from src.names import CLASSES


def audit(splits):
    """Return what there is to tell about `splits` ({split: (images (N, 48, 48), labels (N,))}).

    A dict for JSON:
    splits: {split: {"pictures", "distinct", "constant", "classes": {name: pictures}}};
    distinct: pictures of all splits, each counted once;
    shared: for each two splits, how many pictures of one stand in the other, and how many of these
    have no label there that is their own;
    groups: the pictures that are there more than once: {"copies": [{"split", "row", "label"}],
    "labels": how many different ones, "constant": of one value}, those of most labels first.
    """
    places = _places(splits)
    groups = [
        {
            "labels": len({copy["label"] for copy in copies}),
            "constant": _is_constant(splits, copies[0]),
            "copies": copies,
        }
        for copies in places.values()
        if len(copies) > 1
    ]
    groups.sort(key=lambda group: (-group["labels"], -len(group["copies"])))
    return {
        "splits": {
            split: {
                "pictures": len(labels),
                "distinct": sum(any(c["split"] == split for c in own) for own in places.values()),
                "constant": int((np.ptp(images.reshape(len(images), -1), axis=1) == 0).sum()),
                "classes": dict(zip(CLASSES, np.bincount(labels, minlength=7).tolist())),
            }
            for split, (images, labels) in splits.items()
        },
        "distinct": len(places),
        "shared": [
            {"of": split, "in": other, **_shared(groups, split, other)}
            for split in splits
            for other in splits
            if split != other
        ],
        "groups": groups,
    }


def seen(images, others):
    """Return which of images (N, 48, 48) stand among others (M, 48, 48) too, bool (N,)."""
    known = set(map(_digest, others))
    return np.array([_digest(image) in known for image in images], bool)


def sheet(splits, record, limit=60):
    """Return pictures (list of (48, 48)) and captions (list of text) of the first groups.

    A caption has a line a label: in which splits the picture stands under it, and how often.
    """
    images, captions = [], []
    for group in record["groups"][:limit]:
        first = group["copies"][0]
        images.append(splits[first["split"]][0][first["row"]])
        found = Counter((copy["label"], copy["split"]) for copy in group["copies"])
        lines = defaultdict(list)
        for (label, split), times in found.items():
            lines[label].append(split if times == 1 else f"{times} x {split}")
        captions.append("\n".join(f"{label}: {', '.join(where)}" for label, where in lines.items()))
    return images, captions


def report(record):
    """Return what `audit` found as text: tables, and a line about each kind of copies."""
    names = {"pictures": "pictures", "distinct": "distinct", "constant": "one grey throughout"}
    rows = [["split", *names.values(), *CLASSES]]
    for split, of in record["splits"].items():
        rows.append([split, *(of[key] for key in names), *of["classes"].values()])
    columns = list(zip(*rows[1:]))[1:]
    total = [sum(column) for column in columns]
    total[1] = record["distinct"]
    parts = [markdown.table([*rows, ["all", *total]], "<" + ">" * len(total))]
    rows = [["pictures of", "stand in", "pictures", "under other labels only"]]
    rows += [[s["of"], s["in"], s["pictures"], s["other_label"]] for s in record["shared"]]
    parts.append(markdown.table(rows, "<<>>"))
    groups = record["groups"]
    odd = [group for group in groups if group["labels"] > 1]
    parts.append(
        f"{len(groups)} pictures are there more than once, {_copies(groups)} times in all; "
        f"{len(odd)} of them under different labels, {_copies(odd)} times"
    )
    return "\n\n".join(parts)


def _places(splits):
    """Return {digest: [{"split", "row", "label"}]} of all distinct pictures."""
    places = defaultdict(list)
    for split, (images, labels) in splits.items():
        for row, (image, label) in enumerate(zip(images, labels.tolist())):
            copy = {"split": split, "row": row, "label": CLASSES[label]}
            places[_digest(image)].append(copy)
    return places


def _digest(image):
    return hashlib.sha256(np.ascontiguousarray(image)).digest()


def _is_constant(splits, copy):
    return bool(np.ptp(splits[copy["split"]][0][copy["row"]]) == 0)


def _shared(groups, split, other):
    """Count the pictures of a split that stand in another one, and those under other labels."""
    pictures = other_label = 0
    for group in groups:
        there = {copy["label"] for copy in group["copies"] if copy["split"] == other}
        here = [copy["label"] for copy in group["copies"] if copy["split"] == split]
        if there:
            pictures += len(here)
            other_label += sum(label not in there for label in here)
    return {"pictures": pictures, "other_label": other_label}


def _copies(groups):
    return sum(len(group["copies"]) for group in groups)
