"""A quick slice of tests/robustness/fuzz.py: the same hostile inputs each time."""

import os
import time

import pytest
from hypothesis import strategies as st

from src.errors import UserError
from tests.robustness import fuzz, inputs
from tests.robustness.readers import READERS

if not hasattr(os, "mkfifo"):
    pytest.skip("needs a system with pipes in folders", allow_module_level=True)

INPUTS = {"settings": 100, "csv": 40, "note": 40, "hdf5": 8, "checkpoint": 100, "jpeg": 50}
INPUTS.update({"pictures": 40, "state": 12})


@pytest.mark.parametrize("name", READERS)
def test_hostile_files_are_rejected_in_one_line(name):
    row = fuzz.run(READERS[name], seed=1, inputs=INPUTS[name])
    assert row["inputs"] == INPUTS[name] == row["rejected"] + row["accepted"]
    assert row["rejected"] and not any(row[kind] for kind in fuzz.FAULTS)


class Bad:
    """A reader that does what the input says."""

    limit_s = 2

    def __init__(self, room):
        pass

    def good(self):
        return {"file": ("file", b"accepted")}

    @staticmethod
    def inputs(good):
        return st.sampled_from([{"file": ("file", kind.encode())} for kind in KINDS])

    def commands(self, folder):
        kind = (folder / "file").read_text()
        return [(lambda: KINDS[kind](folder), True)]


def refuse(line, folder=None):
    if folder:
        (folder / "new").mkdir()
    raise UserError(line)


KINDS = {
    "accepted": lambda folder: None,
    "rejected": lambda folder: refuse("found this, expected that"),
    "tracebacks": lambda folder: {}["a"],
    "ended": lambda folder: os.abort(),
    "hangs": lambda folder: time.sleep(60),
    "memory": lambda folder: bytearray((fuzz.LIMIT_MB + 50) << 20),
    "long_lines": lambda folder: refuse("x" * 5000),
    "changed_files": lambda folder: refuse("found this", folder),
}


def test_every_kind_of_fault_is_seen_and_kept(tmp_path, capsys):
    assert set(KINDS) == {"accepted", "rejected", *fuzz.FAULTS}
    row = fuzz.run(Bad, seed=1, inputs=len(KINDS), folder=tmp_path)
    assert [row[kind] for kind in KINDS] == [1] * len(KINDS)
    kept = {path.name.split(".")[1]: path for path in tmp_path.iterdir()}
    assert set(kept) == set(fuzz.FAULTS)
    for kind, path in kept.items():
        assert inputs.from_text(path.read_text()) == {"file": ("file", kind.encode())}
    assert "bad: tracebacks: Traceback" in capsys.readouterr().out


def test_a_kept_input_is_read_again(tmp_path, capsys):
    path = tmp_path / "settings.tracebacks.1.json"
    path.write_text(inputs.as_text({"Data_Settings.json": ("file", b"{")}))
    assert fuzz.main(["--replay", str(path)]) == 0
    assert capsys.readouterr().out.strip() == "rejected"
