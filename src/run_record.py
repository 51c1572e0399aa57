"""The trainings that there are, what the folder of a run holds, and what its record tells.

Reads JSON and nothing else, so that who only asks whether a run is complete need not wait for a
framework.
"""

import json

from src import strict_json
from src.errors import shown

NETWORKS = ("ResNet34", "Control", "LHC", "Controller", "LHC_Net")  # as they follow each other
GOES_ON_FROM = {"Control": "ResNet34", "LHC": "ResNet34", "Controller": "LHC"}
WEIGHTS, HISTORY, PICTURE = "weights.h5", "history.csv", "history.png"
RECORD = "settings.json"  # what the run was begun with, and whether it is complete
STATE = "state.npz"  # what it needs to go on; gone once it has its name
SHOWN = 4  # changes that a message tells of
# Runtime settings that cannot change a training's numbers; its epochs are those of the stages.
NEUTRAL = (
    "image_cache_mb",
    "prefetch_batches",
    "compilation_cache",
    "tensorboard",
    "max_test_images",
    "max_epochs",
)


def read(folder):
    """Return the record of a run's folder (a dict), or None where there is none."""
    try:
        record = strict_json.read(folder / RECORD)
    except (OSError, ValueError):
        return None  # no run, or one of the user's own making
    return record if isinstance(record, dict) else None


def is_complete(folder):
    """Return whether a folder holds a training that came to its end."""
    return (read(folder) or {}).get("complete") is True and (folder / WEIGHTS).is_file()


def deciding(settings, name):
    """Return what of the settings decides the numbers of the training `name`, a JSON object."""
    return {
        "recipe": settings.recipe(name),
        "target_size": settings.size,
        "lhc": settings.lhc,
        "runtime": {k: v for k, v in settings.runtime.items() if k not in NEUTRAL},
    }


def changes(then, now, name):
    """Return a list of words for all that differs between two JSON values, called `name`."""
    return [
        f"{shown(key)}: then {_short(before)}, now {_short(after)}"
        for key, before, after in _differences(then, now, name)
    ]


def told(words):
    """Return the first of such words in one text, and how many there are more."""
    more = f"; and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return "; ".join(words[:SHOWN]) + more


def _differences(then, now, name):
    """Yield (name, then, now) of all that differs between two JSON values."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in {**then, **now}:
            yield from _differences(then.get(key), now.get(key), f"{name} {key}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, pair in enumerate(zip(then, now), start=1):
            yield from _differences(*pair, f"{name} {number}")
    elif then != now:
        yield name, then, now


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
