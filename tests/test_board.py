"""Curves for TensorBoard, read by TensorFlow's own reader and, where it is there, TensorBoard's."""

import pytest

from src import board


def events(folder):
    """Return the events of a folder, file by file, as TensorFlow reads them."""
    tensorflow = pytest.importorskip("tensorflow")
    files = sorted(folder.iterdir())
    return [list(tensorflow.compat.v1.train.summary_iterator(str(path))) for path in files]


def curves(folder):
    """Return {name: {step: value}} as TensorBoard shows them: a start takes back what follows."""
    found = {}
    for file in events(folder):
        for event in file:
            if event.HasField("session_log"):
                found = {
                    name: {step: value for step, value in of.items() if step < event.step}
                    for name, of in found.items()
                }
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_a_file_holds_its_version_its_start_and_the_scalars(tmp_path):
    curve = board.Board(tmp_path / "Curves" / "LHC")
    curve.add(1, {"loss": 0.5, "x" * 300: 2})
    curve.add(300, {"loss": -0.25})
    ((version, start, first, second),) = events(tmp_path / "Curves" / "LHC")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (1, start.session_log.START)
    assert [(v.tag, v.simple_value) for v in first.summary.value] == [("loss", 0.5), ("x" * 300, 2)]
    assert (first.step, second.step) == (1, 300)
    assert second.summary.value[0].simple_value == -0.25
    assert second.wall_time >= first.wall_time > 1.6e9


def test_what_goes_on_takes_the_place_of_what_was_told_before(tmp_path):
    for first, loss in ((1, 1.0), (3, 2.0)):
        curve = board.Board(tmp_path)
        for step in range(first, first + 4):
            curve.add(step, {"loss": loss})
    assert curves(tmp_path) == {"loss": {1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 2}}
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(tmp_path))
    found.Reload()
    told = [(scalar.step, scalar.value) for scalar in found.Scalars("loss")]
    assert told == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2)]


def test_what_cannot_be_written_is_a_warning_and_another_file_begun(tmp_path, capsys, monkeypatch):
    curve = board.Board(tmp_path / "Curves")
    curve.add(1, {"loss": 1})
    with monkeypatch.context() as patch:

        def full(path, mode):
            with open(path, mode) as file:
                file.write(b"half a record")
            raise OSError(28, "No space left on device", str(path))

        patch.setattr(board, "open", full, raising=False)
        curve.add(2, {"loss": 2})
    error = capsys.readouterr().err
    assert error.startswith("warning: ") and "No space left" in error and error.count("\n") == 1
    curve.add(3, {"loss": 3})
    curve.add(4, {"loss": 1e39})  # more than 32 bits hold
    assert "could not be written" in capsys.readouterr().err
    damaged, whole = sorted((tmp_path / "Curves").iterdir())
    assert damaged.read_bytes().endswith(b"half a record")
    damaged.unlink()
    assert [event.step for event in events(tmp_path / "Curves")[0]] == [0, 3, 3]


def test_nobody_is_told_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    board.Board(None).add(1, {"loss": 1})
    assert not list(tmp_path.iterdir())
