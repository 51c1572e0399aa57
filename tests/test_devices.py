"""Several devices and processes: the same numbers as with one device, on the CPU's cores."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src import backend, dataset, devices, etl, runs
from src.errors import UserError
from src.settings import PLAIN_PICTURES, PLAIN_STEPS

TESTS = Path(__file__).parent
TINY = TESTS / "data" / "tiny_data"
STAGE = dict(
    optimizer="sgd",
    learning_rate=1e-4,
    batch_size=8,  # of 35 pictures: the last batch has 3
    epochs=3,
    patience=None,
    rotation_range=30,
    width_shift_range=0.1,
    zoom_range=0.1,
    horizontal_flip=True,
)
NUMERICS = ["reference", "fast"]


@pytest.fixture(scope="module", autouse=True)
def offered():
    if backend.NAME == "torch":
        pytest.skip("PyTorch runs on one device")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder for what JAX compiles, which serves all jobs."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def folder(tmp_path, settings_folder, compiled):
    """A folder with settings, pictures and data for tests/devices_job.py."""
    data = {"data_folder": str(TINY)}
    settings_folder(
        tmp_path,
        Data=data,
        Evaluation={"shift": 2, "batch_size": 8},
        Runtime={
            "compilation_cache": str(compiled),
            "tensorboard": str(tmp_path / "Curves"),
            "max_epochs": 100,
        },
        Modular={"ResNet34": {"stages": [STAGE]}},
    )
    etl.write_images(*dataset.load(TINY, "train"), tmp_path / "images", 32)
    return tmp_path


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A function that starts tests/devices_job.py, in a home for all of them."""
    home = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("home"))}

    def job(folder, count, numerics, *options, **environment):
        words = [str(TESTS / "devices_job.py"), str(folder), str(count), numerics, *options]
        return subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, **home, "KERAS_BACKEND": backend.NAME, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return job


def result(process):
    out, err = process.communicate()
    assert process.returncode == 0, err[-3000:]
    printed = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
    return json.loads(printed[-1]) if printed else None  # one process alone prints


def same(found, expected):
    """Check that two trainings had the same losses, and as many right."""
    for row, other in zip(found["rows"], expected["rows"]):
        for key in ("loss", "val_loss", "categorical_accuracy", "val_categorical_accuracy"):
            # Keras 2.4's moving variance counts the pixels of a batch, and those of the last one,
            # which goes whole to every device, as often.
            close = 5e-5 if key == "val_loss" and backend.GENERATION == 2 else 1e-5
            assert row[key] == pytest.approx(other[key], rel=close, abs=1e-6), key
    assert len(found["rows"]) == len(expected["rows"])


def change(folder, name, **values):
    """Change top-level keys of one of a folder's settings files."""
    path = folder / "Settings" / f"{name}_Settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("numerics", NUMERICS)
def test_two_devices_give_the_numbers_of_one(start, folder, compiled, numerics):
    found = []
    for count in (1, 2):
        found.append(result(start(folder, count, numerics, "--evaluate")))
        assert found[-1]["devices"] == count
    one, two = found
    same(two, one)
    for key in ("plain", "averaged"):
        assert len(two[key]) == len(one[key]) == 14
        np.testing.assert_allclose(two[key], one[key], atol=1e-4)
    record = json.loads((folder / "models" / "ResNet34" / runs.RECORD).read_text())
    assert record["conditions"]["setting"]["runtime"]["devices"] == 2
    kept = [path for path in compiled.rglob("*") if path.is_file()]
    assert bool(kept) == (backend.NAME == "jax")


MORE = dict(momentum=0.9, weight_decay=5e-4, ema=0.99, mixup=0.2, schedule="cosine")


@pytest.mark.skipif(backend.NAME != "jax", reason="JAX alone takes a group of batches in one call")
@pytest.mark.parametrize("count, more", [(1, {}), (2, MORE)])
def test_groups_of_batches_give_the_numbers_of_single_ones(start, folder, count, more):
    """The four whole batches go in pairs; the last, smaller one by itself."""
    change(folder, "Modular", ResNet34={"stages": [dict(STAGE, **more)]})
    change(folder, "Runtime", steps_per_execution=3)
    expected = result(start(folder, 1, "fast"))
    shutil.rmtree(folder / "models")
    same(result(start(folder, count, "fast", "--groups")), expected)


def both(start, folder):
    """Start the job in two processes that find each other over the loopback interface."""
    with socket.socket() as one, socket.socket() as other:
        for port in (one, other):
            port.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{port.getsockname()[1]}" for port in (one, other)]
    started = []
    for number in range(2):
        if backend.NAME == "jax":
            told = {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": addresses[0],
                "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
                "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
            }
        else:
            task = {"type": "worker", "index": number}
            told = {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})}
        started.append(start(folder, "all", "reference", **told))
    return started


several_processes = pytest.mark.skipif(
    backend.NAME == "tensorflow" and backend.GENERATION == 3,
    reason="Keras 3 trains on TensorFlow in one process",
)


@several_processes
def test_two_processes_train_as_one_and_go_on_after_one_has_died(start, folder, tmp_path):
    change(folder, "Modular", ResNet34={"stages": [dict(STAGE, epochs=20)]})
    expected = result(start(folder, 1, "reference"))
    shutil.rmtree(folder / "models")

    main, other = both(start, folder)
    for line in main.stdout:
        if "epoch 2/20: loss" in line:
            break
    other.send_signal(signal.SIGKILL)
    other.communicate()
    _, err = main.communicate()
    assert main.returncode == 2, err[-3000:]
    assert "error: another of the 2 processes has ended" in err and "Traceback" not in err
    names = {path.name for path in (folder / "models").iterdir()}
    assert names <= {"ResNet34.unfinished", "ResNet34.lock"}

    curves = len(list((folder / "Curves" / "ResNet34").iterdir()))
    main, other = both(start, folder)
    found = result(main)
    assert result(other) is None
    assert found["devices"] == 2
    same(found, expected)
    assert [path.name for path in (folder / "models").glob("*4")] == ["ResNet34"]
    # One process alone writes them.
    assert len(list((folder / "Curves" / "ResNet34").iterdir())) == curves + 1


def test_what_cannot_be_shared_is_told(monkeypatch):
    stage = {**STAGE, **PLAIN_PICTURES, **PLAIN_STEPS}
    devices.check_stage(dict(stage, batch_size=7, mixup=0.2), "stage 1 of ResNet34")
    monkeypatch.setattr(devices, "_engine", SimpleNamespace(count=4))
    devices.check_stage(stage, "stage 1 of ResNet34")
    with pytest.raises(UserError, match="stage 1 of ResNet34: found batch_size 10, exp"):
        devices.check_stage(dict(stage, batch_size=10), "stage 1 of ResNet34")
    beyond = dict(stage, mixup=0.2, ema=0.9)
    if backend.NAME == "tensorflow":
        with pytest.raises(UserError, match="asks for mixup, ema, which TensorFlow trains on one"):
            devices.check_stage(beyond, "stage 1 of ResNet34")
    else:
        devices.check_stage(beyond, "stage 1 of ResNet34")


def test_logs_of_parts_count_rows():
    logs = [(8, {"loss": 1.0, "accuracy": 0.5}), (2, {"loss": 2.0, "accuracy": 1.0})]
    assert devices._mean(logs) == pytest.approx({"loss": 1.2, "accuracy": 0.6})
