"""Closed outputs, full disks and readers that have gone end no script, and hide nothing of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src import streams

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(os.name == "nt", reason="a shell's way to close them")


def run(words):
    """Run ETL.py in a shell; return (code, stdout, stderr)."""
    command = f"exec {sys.executable} {ROOT / 'ETL.py'} {words}"
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    done = subprocess.run(["sh", "-c", command], text=True, **pipes)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def settings(settings_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("streams")
    folder = settings_folder(root, Data={"class_counts": {"train": [1] * 7}})
    script = ROOT / "Download_Data.py"
    subprocess.run([sys.executable, str(script), "--settings", str(folder)], check=True)
    return folder


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(settings, closed):
    assert run(f"--settings {settings} {closed}")[0] == 0
    assert run(f"--settings {settings}/nothing {closed}")[0] == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_a_full_disk(settings):
    code, _, stderr = run(f"--settings {settings} >/dev/full")
    assert code == 0
    assert stderr.endswith(
        "warning: stdout: [Errno 28] No space left on device; going on without it\n"
    )
    code, stdout, _ = run(f"--settings {settings} 2>/dev/full")
    assert code == 0 and stdout.count("\n") == 1
    assert run(f"--settings {settings}/nothing 2>/dev/full")[0] == 2


def test_a_reader_that_has_gone(settings):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, str(ROOT / "ETL.py"), "--settings", str(settings)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 0
    assert done.stderr.endswith("warning: stdout: [Errno 32] Broken pipe; going on without it\n")


@pytest.mark.parametrize("kind", ["closed", "full", "nobody reads"])
def test_signals_end_a_script_that_cannot_say_so(kind):
    read, write = os.pipe()
    os.set_blocking(write, False)
    if kind == "nobody reads":
        with pytest.raises(BlockingIOError):
            while True:
                os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    where = {"closed": "2>&-", "full": "2>/dev/full"}.get(kind, "")
    program = (
        "from src import interrupts; import time; interrupts.listen(); print(1, flush=True); "
        "time.sleep(60)"
    )
    process = subprocess.Popen(
        ["sh", "-c", f'exec {sys.executable} -c "{program}" {where}'],
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=write,
    )
    os.close(write)
    process.stdout.read(1)
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(timeout=20) == 143
    finally:
        process.kill()
        os.close(read)


def test_lines_of_a_start_are_left_out(capfd):
    told = [
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        "I0000 00:00:1795789900.350292   14690 port.cc:153] custom operations are on",
        "E0000 00:00:1795789900.350292   14690 port.cc:153] an error",
        "I am a warning of Python's",
    ]
    with streams.without_starting_lines():
        os.write(2, "\n".join(told[:3]).encode() + b"\n")
        print(told[3], file=sys.__stderr__, flush=True)
        assert streams.error_number != 2
    os.write(2, b"after")
    assert capfd.readouterr().err.splitlines() == [*told[2:], "after"]
    assert streams.error_number == 2


def test_a_failed_start_tells_its_lines(capfd):
    with pytest.raises(ImportError), streams.without_starting_lines():
        os.write(2, b"why\n")
        raise ImportError
    assert capfd.readouterr().err == "why\n"


@pytest.mark.parametrize("closing", ["2>&-", "2>/dev/full"])
def test_it_starts_without_a_stderr_too(closing):
    script = "from src import streams\nwith streams.without_starting_lines(): print('done')"
    command = f'exec {sys.executable} -c "{script}" {closing}'
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, cwd=ROOT, check=True)
    assert done.stdout == b"done\n"


def test_the_backend_starts_quietly():
    words = [sys.executable, "-c", "from src import backend"]
    done = subprocess.run(words, stderr=subprocess.PIPE, cwd=ROOT, check=True)
    assert done.stderr == b""
