"""Ctrl-C and SIGTERM end a script at any moment, with one line and a code of their own."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src import interrupts
from src.errors import UserError
from src.files import lock

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals")


def interrupted(script, folder, wait, number):
    """Start a script, send it a signal after `wait` seconds; return (code, stderr, seconds)."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / script), "--settings", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job, such as this test may be, would have it ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(wait)
    sent = time.perf_counter()
    process.send_signal(number)
    try:
        stderr = process.communicate(timeout=60)[1]
    finally:
        process.kill()  # where it goes on regardless, which is a failure
    return process.returncode, stderr, time.perf_counter() - sent


@pytest.fixture(scope="module")
def settings(settings_folder, tmp_path_factory):
    """Settings of a training that goes on for ever, with its data made."""
    root = tmp_path_factory.mktemp("interrupts")
    counts = {split: [2] * 7 for split in ("train", "val", "test")}
    stages = [{"optimizer": "sgd", "learning_rate": 1e-6, "batch_size": 14, "epochs": 1000}]
    folder = settings_folder(
        root,
        Data={"class_counts": counts},
        Runtime={"max_epochs": 1000},
        Modular={"ResNet34": {"stages": stages}},
    )
    for script in ("Download_Data.py", "ETL.py"):
        subprocess.run([sys.executable, str(ROOT / script), "--settings", str(folder)], check=True)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_at_random_moments(settings, number):
    """Ten of each: from the imports to training. (Before the first one, Python itself starts.)"""
    moments = random.Random(int(number))
    for _ in range(10):
        wait = moments.uniform(1, 8)
        code, stderr, seconds = interrupted("ResNet34_Train.py", settings, wait, number)
        assert code == 128 + number, (wait, stderr[-1000:])
        assert stderr.endswith(f"{interrupts.MESSAGE}\n") and "Traceback" not in stderr, wait
        assert seconds < 20, wait
    models = settings.parent / "models"
    assert not list(models.rglob("*.part"))


def test_ignored_signals_stay_ignored(settings):
    """A shell lets its background jobs ignore Ctrl-C."""
    command = f"trap '' INT; exec {sys.executable} {ROOT / 'ETL.py'} --help"
    process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0


def test_a_lock_ends_with_its_process(tmp_path):
    """Killed or not; while it lives, the other one is told who it is."""
    path = tmp_path / "folder" / "lock"
    program = (
        "import sys, time\nfrom src.files import lock\n"
        f"with lock({str(path)!r}, 'x'):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"the folder is busy by process {process.pid} "):
        with lock(path, "the folder is busy"):
            raise AssertionError("two hold it")
    process.kill()
    process.wait()
    with lock(path, "the folder is busy"):
        pass
