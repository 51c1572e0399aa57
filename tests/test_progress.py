"""Progress moves on a terminal and is told in lines elsewhere."""

import io
import math
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


def test_a_log_file_gets_lines(stream, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0)
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    assert list(progress.progress_bar(range(3), desc="TTA", unit="view")) == [0, 1, 2]
    lines = stream.getvalue().splitlines()
    assert len(lines) > 1 and "\r" not in stream.getvalue()
    assert capsys.readouterr().err == ""  # nor any from tqdm itself, by another way
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


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def stages(*epochs, patience=None):
    return [{"epochs": count, "patience": patience} for count in epochs]


def test_the_first_epoch_tells_the_pace_by_what_is_done(clock):
    outlook = progress.Outlook(stages(3, 7))
    assert outlook.during(1, -math.inf, 0) == ""
    clock.now = 30.0
    assert outlook.during(1, -math.inf, 0.25) == "about 0:19:30 left"  # 10 x 120 s, less 30 s


def test_time_left_is_that_of_all_stages_at_the_pace_of_the_last_epochs(clock):
    outlook = progress.Outlook(stages(4, 2))
    told = []
    for epoch, seconds in enumerate((100, 10, 20, 30), start=1):
        clock.now += seconds
        told.append(outlook.after(epoch, 0.5, stops=False))
    # Medians of 100; of 100 and 10; of the last three. Epochs left: 5, 4, 3, 2.
    assert told == [
        "best 0.5000, about 0:08:20 left",
        "best 0.5000, about 0:03:40 left",
        "best 0.5000, about 0:01:00 left",
        "best 0.5000, about 0:00:40 left",
    ]
    outlook.stages = stages(2)
    clock.now += 5
    assert outlook.during(1, -math.inf, 0.9) == "about 0:00:35 left"  # 20 - 5, and 20 s
    clock.now += 100
    assert outlook.during(1, 0.25, 0.9) == "best 0.2500, about 0:00:20 left"
    outlook.after(1, 0.25, stops=False)
    assert outlook.after(2, 0.25, stops=True) == "best 0.2500"


def test_a_patience_makes_it_the_most(clock):
    outlook = progress.Outlook([*stages(10), *stages(10, patience=3)])
    clock.now = 60.0
    assert outlook.after(4, 0.5, stops=False) == "best 0.5000, at most 0:16:00 left"
    clock.now = 120.0
    assert outlook.after(5, 0.5, stops=True) == "best 0.5000, at most 0:10:00 left"
