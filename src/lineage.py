"""What a training is made from: the net that it goes on from, and its teachers.

Each is told from others by the SHA-256 of a file, so it shows when one of them was trained anew.
Needs no framework.
"""

from pathlib import Path

from src import packed
from src.files import file_digest
from src.run_record import GOES_ON_FROM, WEIGHTS


def start_files(settings, name):
    """Return [the weights that the training `name` goes on from], [] if it begins anew."""
    start = GOES_ON_FROM.get(name)
    return [settings.path("models_folder") / start / WEIGHTS] if start else []


def teacher_files(stage):
    """Return the file of each teacher of a stage that tells it from others.

    It is a finished run's weights.h5, or the net.json of a net that Ship.py made, which holds the
    digests of its weights.
    """
    named = stage["distillation"] or {"teachers": []}
    folders = [Path(folder) for folder in named["teachers"]]
    return [
        folder / (packed.RECORD if (folder / packed.RECORD).is_file() else WEIGHTS)
        for folder in folders
    ]


def all_teacher_files(recipe):
    """Return the files of all teachers of a recipe, each once, in their names' order."""
    return sorted({path for stage in recipe["stages"] for path in teacher_files(stage)})


def digests(paths, digest=file_digest):
    """Return {path: SHA-256 of the file, or None if it is missing}.

    digest: reads a file, where one that knows the files already is to do it.
    """
    return {str(path): digest(path, "sha256") if path.is_file() else None for path in paths}


def is_other(then, now):
    """Return whether a run was made from other files than there are now; both: from `digests`.

    Folders may have moved, and of a file that is missing, then or now, nothing is known.
    """
    if not isinstance(then, dict) or None in (*then.values(), *now.values()):
        return False
    return sorted(map(str, then.values())) != sorted(now.values())
