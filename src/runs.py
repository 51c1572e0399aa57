"""The life of a training run on the disk, from its first epoch to the finished model.

    Models/<Name>.unfinished/   the run that trains, or was stopped: its state after the last epoch
    Models/<Name>/              the last complete run
    Models/<Name>.previous/     the complete run before it

A run is renamed only when it is complete, so whatever stops a program, a complete run stays. Files
are moved and removed by name; a folder with anything else in it is left alone.
"""

import contextlib
import json
import os
import re
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from src import devices, run_record, strict_json
from src.errors import UserError, shown
from src.files import SYSTEMS, lock, remove_left, replace, write_file
from src.run_record import HISTORY, PICTURE, RECORD, STATE, WEIGHTS

OURS = re.compile(
    "({})(\\.\\d+-[0-9a-f]+\\.part)?|(weights|history)\\.part".format(
        "|".join(map(re.escape, (WEIGHTS, HISTORY, PICTURE, RECORD, STATE)))
    )
)

# How np.save begins a file of plain numbers.
ARRAY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>|][biuf][1248])', 'fortran_order': (False|True), "
    rb"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \} *\n",
    re.DOTALL,
)
STATE_DIGITS = 39  # of its whole numbers: NumPy's generators count with 128 bits


def complete_folder(settings, name):
    """Return the folder of the last complete run. Raises UserError where there is none."""
    folder = settings.path("models_folder") / name
    unfinished = _beside(folder, "unfinished")
    if not folder.exists() and run_record.is_complete(unfinished):
        return unfinished  # stopped between two renames; the next training ends that
    if (folder / WEIGHTS).is_file():
        return folder
    again = f"run {name}_Train.py with the same settings folder"
    if (unfinished / WEIGHTS).is_file():
        raise UserError(
            f"{unfinished}: the training was stopped before its end: {again} to continue it, or "
            "evaluate what there is with --unfinished"
        )
    raise UserError(f"{folder / WEIGHTS} is missing: {again} first")


def unfinished_folder(settings, name):
    """Return the folder of a run that was stopped. Raises UserError where it has no weights."""
    folder = _beside(settings.path("models_folder") / name, "unfinished")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder / WEIGHTS} is missing: there is no unfinished training of {name}")
    return folder


@contextlib.contextmanager
def training(settings, name, record, restart=False):
    """Hold the run `name` for training; yield its Run. Nobody else can train it meanwhile.

    A run that was stopped goes on, unless `restart`. Once the block has ended, the run is complete
    and has its name. record: a JSON object that tells of the run; its "conditions" decide the run's
    numbers, and a run that was begun under other ones does not go on.
    Raises UserError where another process trains it, for changed conditions, for a folder with
    files that are not a run's, and for a damaged state.
    Of several processes that train it together, one writes; the others have a Follower.
    """
    final = settings.path("models_folder") / name
    folder = _beside(final, "unfinished")
    if not devices.is_main():
        devices.together()  # the state is then the one to start from
        yield Follower(folder)
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    held = lock(_beside(final, "lock"), f"{name} is being trained in {final.parent}")
    with held, ThreadPoolExecutor(1) as writer:
        for path in (folder, final, _beside(final, "previous")):
            _check_files(path)
        goes_on = not restart and (folder / STATE).exists() and not _changed(folder, record)
        if run_record.is_complete(folder) and not goes_on:
            _take_name(folder, final)  # stopped just before: what is complete stays
        (final / STATE).unlink(missing_ok=True)  # stopped just before
        if restart and folder.exists():
            (folder / STATE).unlink(missing_ok=True)  # first: it cannot do without the others
            shutil.rmtree(folder)
        run = Run(folder, record, writer)
        devices.together()
        yield run
        run.wait()
        run.write_record(complete=True)
        _take_name(folder, final)
        (final / STATE).unlink(missing_ok=True)  # last: until here, the run can go on to here


class Run:
    """A run that trains: `folder`, and `state` if it was stopped, else None.

    The state is (values, arrays): a JSON object and {name: array}, as given to `keep`.
    """

    writes = True

    def __init__(self, folder, record, writer):
        self.folder, self.record, self._writer = folder, record, writer
        self._writing = None  # a Future
        self.state = None
        if (folder / STATE).exists():
            _refuse_changes(folder, record)
            self.state = _read_state(folder / STATE)
        elif folder.exists():
            shutil.rmtree(folder)  # stopped before its first epoch's end
        folder.mkdir(exist_ok=True)
        remove_left(folder)
        if self.state is None:
            self.write_record(complete=False)

    def write_record(self, complete):
        """Write what the run was begun with, and whether it is complete."""
        record = {"complete": complete, **self.record}
        write_file(self.folder / RECORD, (json.dumps(record, indent=4) + "\n").encode())

    def later(self, write):
        """Have `write()` done while training goes on, once the one before it is done.

        Raises what that one raised; nothing is written after it.
        """
        self.wait()
        self._writing = self._writer.submit(write)

    def wait(self):
        """Wait until all is written; raise what the writing raised."""
        if self._writing:
            self._writing.result()

    def keep(self, values, arrays):
        """Write the state after an epoch: a JSON object and {name: array}."""
        text = np.frombuffer(json.dumps(values).encode(), np.uint8)
        with replace(self.folder / STATE) as part, open(part, "wb") as file:
            np.savez(file, values=text, **arrays)


class Follower:
    """The same run in a process that trains with the one that writes: `folder` and `state`."""

    writes = False

    def __init__(self, folder):
        self.folder = folder
        self.state = _read_state(folder / STATE) if (folder / STATE).exists() else None

    def later(self, write):
        """Leave it to the other process."""


@contextlib.contextmanager
def intact(path):
    """Tell in a UserError that the state `path` is damaged, where the block cannot work with it."""
    try:
        yield
    except (
        *(ValueError, TypeError, LookupError, OverflowError),  # of values and arrays
        *(OSError, EOFError, NotImplementedError, zipfile.BadZipFile),
    ) as error:
        raise UserError(
            f"{path}: damaged, so the training cannot go on ({shown(' '.join(str(error).split()))})"
            "; begin anew with --restart"
        ) from None


def _read_state(path):
    with intact(path):
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("found something else than a file")
        with zipfile.ZipFile(path) as archive:  # its parts have checksums
            parts = archive.infolist()
            if any(part.compress_type or part.flag_bits & 1 for part in parts):
                raise ValueError("expected parts that are neither packed nor locked")
            if sum(part.file_size for part in parts) > path.stat().st_size:
                raise ValueError("declares more numbers than it holds")
            arrays = {part.filename[: -len(".npy")]: _array(archive.read(part)) for part in parts}
        return strict_json.parse(arrays.pop("values").tobytes(), STATE_DIGITS), arrays


def _array(content):
    """Return the array of plain numbers in a .npy file (bytes), as np.save wrote it."""
    head = ARRAY.match(content)
    if not head:
        raise ValueError("expected arrays of plain numbers")
    dtype, fortran, sides = head.groups()
    shape = [int(side) for side in sides.split(b",") if side.strip()]
    flat = np.frombuffer(content, dtype.decode(), offset=head.end())
    return flat.reshape(shape, order="F" if fortran == b"True" else "C")


def _changed(folder, record):
    """Return what of the conditions is no longer as the run in a folder was begun, or None.

    None: nobody knows how it was begun.
    """
    begun = (run_record.read(folder) or {}).get("conditions")
    if not isinstance(begun, dict):
        return None
    return [
        change
        for part, now_there in record["conditions"].items()
        for change in run_record.changes(begun.get(part, {}), now_there, part)
    ]


def _refuse_changes(folder, record):
    changes = _changed(folder, record)
    if changes is None:
        raise UserError(
            f"{folder / RECORD}: missing or damaged, so nobody knows how this training was begun: "
            "begin anew with --restart"
        )
    if changes:
        raise UserError(
            f"{folder}: this training was begun otherwise ({run_record.told(changes)}): go back to "
            "that, or begin anew with --restart"
        )


def _beside(folder, kind):
    return folder.with_name(f"{folder.name}.{kind}")


def _check_files(folder):
    """Raise UserError if there is anything in a run's folder that is not a run's."""
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of a training; move what is there elsewhere")
    strange = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() or not (OURS.fullmatch(path.name) or path.name.lower() in SYSTEMS)
    )
    if strange:
        more = f" and {len(strange) - 1} more" if strange[1:] else ""
        raise UserError(
            f"{folder}: found {strange[0]}{more}, which no training has made: move the folder or "
            "these files elsewhere, since it will be renamed"
        )


def _take_name(folder, final):
    """Give a complete run its name; the one that has it becomes the previous one."""
    previous = _beside(final, "previous")
    if final.exists():
        if previous.exists():
            shutil.rmtree(previous)
        os.replace(final, previous)
    os.replace(folder, final)
