"""Progress moves on a terminal and is told in lines elsewhere."""

import io
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from src import progress


class Stream(io.StringIO):
    terminal = False

    def isatty(self):
        return self.terminal


@pytest.fixture
def stream(monkeypatch):
    stream = Stream()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    return stream


def test_a_log_file_gets_lines(stream, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0)
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    assert list(progress.progress_bar(range(3), desc="TTA", unit="view")) == [0, 1, 2]
    lines = stream.getvalue().splitlines()
    assert len(lines) > 1 and "\r" not in stream.getvalue()
    assert all(line.startswith("TTA: ") and "/3 [" in line and "view" in line for line in lines)


def test_what_is_over_soon_has_no_line(stream):
    with progress.progress_bar(total=3, leave=True) as bar:
        bar.update(3)
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar(stream):
    stream.terminal = True
    bar = progress.progress_bar(total=3, file=stream)
    assert type(bar) is tqdm
    bar.close()
    assert "\r" in stream.getvalue()
