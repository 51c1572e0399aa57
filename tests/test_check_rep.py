"""check_rep: its sentences, figures, verdicts and exit codes, and the table of known results."""

import json
import platform

import numpy as np
import pytest

import check_rep
from src import dataset, replicability, runtime, settings
from src.errors import UserError

PAPER = np.float32(1.081964015960693359375)
MACHINE = {
    "python": "3.8.5",
    "backend": "tensorflow",
    "tensorflow": "2.4.1",
    "cuda": "11.1",
    "cudnn": "8",
    "gpus": ["GeForce GTX 1080 Ti"],
    "driver": "457.51",
}
YES, NO = "Replicable Results!", "Not Replicable Results. Change your GPU!"


def moved(value, steps):
    """Return the float32 number `steps` above `value`."""
    return np.array(np.float32(value).view(np.int32) + steps, np.int32).view(np.float32)[()]


@pytest.fixture
def check(monkeypatch, capsys, tmp_path):
    """A function that runs check_rep.py on scripted values; returns (exit code, printed lines)."""

    (tmp_path / "Runtime_Settings.json").write_text("{}")

    def run(values, options=(), machine=MACHINE, **files):
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        values = iter(values)
        monkeypatch.setattr(runtime, "prepare", lambda settings: None)
        monkeypatch.setattr(replicability, "measure", lambda settings: next(values))
        monkeypatch.setattr(replicability, "environment", lambda: machine)
        code = check_rep.main(["--settings", str(tmp_path), *options])
        assert next(values, None) is None  # as many runs as were asked for
        return code, capsys.readouterr().out.splitlines()

    return run


def test_identical(check):
    code, lines = check([PAPER])
    assert code == 0
    assert lines[0] == YES
    assert "1.081964015960693359375" in lines[1] and " 0 float32 steps" in lines[1]
    assert "1.081964015960693359375" in lines[2] and "the paper" in lines[2]
    assert lines[3].startswith("ran on:")
    for word in ("2.4.1", "GTX 1080 Ti", "457.51", "11.1", "3.8.5"):
        assert word in lines[3]
    assert len(lines) == 5 and "identical" in lines[4] and "--repeat" in lines[4]


@pytest.mark.parametrize("steps, away", [(1, "1.192e-07"), (-3, "3.576e-07"), (1000, "1.192e-04")])
def test_different(check, steps, away):
    code, lines = check([moved(PAPER, steps)])
    assert code == 1
    assert lines[0] == NO
    assert f"distance {away}, {abs(steps)} float32 steps" in lines[1]
    assert "different" in lines[-1] and "--repeat" in lines[-1]


@pytest.mark.parametrize(
    "steps, options, code, words",
    [
        ([0, 0], ["--repeat"], 0, ["identical to the paper", "2 runs"]),
        ([0, 0, 0], ["--repeat", "3"], 0, ["identical to the paper", "3 runs"]),
        ([5, 5], ["--repeat"], 1, ["repeatable here", "different from the paper"]),
        ([0, 4], ["--repeat"], 2, ["not repeatable here", "4 float32 steps"]),
        ([-3, 2, 0], ["--repeat", "3"], 2, ["not repeatable here", "5 float32 steps"]),
        ([0], ["--repeat", "1"], 0, ["identical"]),
    ],
)
def test_verdicts_and_exit_codes(check, steps, options, code, words):
    found, lines = check([moved(PAPER, n) for n in steps], options)
    assert found == code
    assert lines[0] == (YES if not any(steps) else NO)
    assert sum(line.startswith("value:") for line in lines) == len(steps)
    verdict = lines[-1]
    assert verdict.startswith("verdict:") and all(word in verdict for word in words), verdict
    assert code == 2 or "not repeatable" not in verdict


@pytest.mark.parametrize(
    "options", [["--repeat", "0"], ["--repeat", "x"], ["--repeat", "-2"], ["-x"]]
)
def test_bad_input_is_code_3(check, capsys, options):
    assert check_rep.main(options) == 3
    assert capsys.readouterr().err.count("\n") == 1
    assert check_rep.main(["--settings", "nowhere"]) == 3
    assert "nowhere" in capsys.readouterr().err


def test_a_failed_training_is_code_3(monkeypatch, capsys, tmp_path):
    def fails(settings):
        raise UserError("Data/data_train.csv: not found")

    monkeypatch.setattr(runtime, "prepare", lambda settings: None)
    monkeypatch.setattr(replicability, "measure", fails)
    (tmp_path / "Runtime_Settings.json").write_text("{}")
    assert check_rep.main(["--settings", str(tmp_path)]) == 3
    assert "data_train.csv" in capsys.readouterr().err


def changes(lines):
    """Return the lines that say what would have to change."""
    return [line.strip() for line in lines if line.startswith("  ")]


def test_only_what_differs_is_listed(check):
    different = moved(PAPER, 1)
    _, lines = check([different])
    assert changes(lines) == []
    assert not any("to match" in line for line in lines)
    _, lines = check([PAPER], machine=dict(MACHINE, driver=None, gpus=[]))
    assert changes(lines) == []  # nothing has to change

    machine = dict(MACHINE, gpus=["NVIDIA H100"], driver="550.1", cuda="12.3", tensorflow="2.21.0")
    _, lines = check([different], machine=machine)
    assert changes(lines) == [
        "tensorflow: 2.21.0 here, 2.4.1 there",
        "gpus: NVIDIA H100 here, GeForce GTX 1080 Ti there",
        "driver: 550.1 here, 457.51 there",
        "cuda: 12.3 here, 11.1.1 there",
    ]
    _, lines = check([different], machine={"python": "3.11.2", "gpus": [], "jax": "0.4"})
    assert changes(lines) == [
        "tensorflow: none here, 2.4.1 there",
        "python: 3.11.2 here, 3.8.5 there",
        "gpus: none here, GeForce GTX 1080 Ti there",
        "driver: none here, 457.51 there",
        "cuda: none here, 11.1.1 there",
        "cudnn: none here, 8.0.5 there",
    ]


def test_names_of_gpus_with_and_without_the_maker_are_the_same(check):
    machine = dict(MACHINE, gpus=["NVIDIA GeForce GTX 1080 Ti"])
    assert changes(check([moved(PAPER, 1)], machine=machine)[1]) == []


def test_settings_that_differ_are_listed(check):
    stage = {"optimizer": "adam", "learning_rate": 0.0001, "batch_size": 16, "epochs": 1}
    stage.update(rotation_range=30, horizontal_flip=True)
    _, lines = check(
        [moved(PAPER, 1)],
        Modular_Settings={"check_rep": {"stages": [stage]}, "LHC": {"seeds": {"python": 1}}},
        Training_Settings={"target_size": 48, "seed": 7, "patience": [1, 1, 1]},
        LHC_Settings={"num_heads": [1, 1, 1, 1, 1]},
        Data_Settings={"backbone_weights": "random", "results_folder": "Elsewhere"},
        Runtime_Settings={
            "max_train_images": 700,
            "max_test_images": 9,
            "prefetch_batches": 5,
            "compilation_cache": "Compiled",
        },
    )
    assert sorted(changes(lines)) == [
        "setting backbone_weights: random here, imagenet there",
        "setting check_rep stage 1 batch_size: 16 here, 48 there",
        "setting max_train_images: 700 here, None there",
        "setting target_size: 48 here, 224 there",
    ]


def test_data_that_differ_are_listed(check, tmp_path):
    """Rows taken out are no setting; the machine is not to blame for them."""
    counts = dict.fromkeys(("train", "val", "test"), [1] * 7)
    entry = {"name": "drawn", "value": float(PAPER), "expected": True, "settings": str(tmp_path)}
    data = {"source": "sample", "data_folder": str(tmp_path / "Data"), "class_counts": counts}
    splits = dataset.draw({**data, "sample_seed": 1})
    dataset.store(tmp_path / "Data", splits)
    files = {"Data_Settings": data, "Known_Results": [entry]}
    assert changes(check([moved(PAPER, 1)], **files)[1]) == []
    images, labels = splits["train"]
    dataset.store(tmp_path / "Data", {"train": (images[1:], labels[1:])}, force=True)
    assert changes(check([moved(PAPER, 1)], **files)[1]) == [
        "data: other data: train (6 rows, expected 7) here, drawn sample there"
    ]


TABLE = [
    {"name": "today", "value": 1.5, "expected": True, "tensorflow": "2.21.0"},
    {"name": "the paper", "value": float(PAPER), "expected": True, "tensorflow": "2.4.1"},
    {"name": "my old machine", "value": 1.25, "tensorflow": "2.4.1"},
]


def test_the_expected_entry_of_the_running_stack_counts(check):
    assert check([PAPER], Known_Results=TABLE)[0] == 0
    today = dict(MACHINE, tensorflow="2.21.0")
    code, lines = check([np.float32(1.5)], machine=today)
    assert code == 0 and "(today)" in lines[2]
    code, lines = check([PAPER], machine=today)
    assert code == 1 and any("seen before: the paper" in line for line in lines)
    code, lines = check([np.float32(1.5)], machine=dict(MACHINE, tensorflow="2.30.0"))
    assert code == 0 and "(today)" in lines[2]  # none of this stack: the first


def test_of_a_stacks_entries_the_one_of_such_a_cpu_counts(check):
    entries = [dict(TABLE[1], name=cpu, value=i, cpu=cpu) for i, cpu in enumerate(["Intel", "AMD"])]
    for i, cpu in enumerate(["Intel", "AMD"]):
        code, lines = check(
            [np.float32(i)], machine=dict(MACHINE, cpu=cpu), Known_Results=[TABLE[0], *entries]
        )
        assert code == 0 and f"({cpu})" in lines[2]
    elsewhere = dict(MACHINE, cpu="AMD", tensorflow=None)
    code, lines = check([np.float32(1)], machine=elsewhere)
    assert code == 0 and "(AMD)" in lines[2]
    code, lines = check([np.float32(1)], machine=dict(MACHINE, cpu="ARM"))
    assert code == 1 and "(Intel)" in lines[2] and "cpu: ARM here, Intel there" in changes(lines)


def test_the_cpu_is_named_by_maker_and_vector_instructions(tmp_path):
    info = tmp_path / "cpuinfo"
    for flags, shown in (("sse avx avx2 avx512f", "Maker, AVX-512"), ("sse avx", "Maker, AVX")):
        text = f"processor\t: 0\nvendor_id\t: Maker\nmodel name\t: \xff\nflags\t\t: fpu {flags}\n\n"
        info.write_bytes(text.encode("latin-1") * 2)
        assert runtime.cpu(info) == shown
    info.write_text("processor\t: 0\nFeatures\t: asimd\n")
    assert runtime.cpu(info) == runtime.cpu(tmp_path / "nowhere") == platform.machine()
    assert replicability.environment()["cpu"] == runtime.cpu()


def test_values_seen_elsewhere_are_recognised(check):
    code, lines = check([np.float32(1.25)], Known_Results=TABLE)
    assert code == 1
    assert "seen before: my old machine" in lines
    _, lines = check([np.float32(1.26)])
    assert not any("seen before" in line for line in lines)


def test_an_entry_may_name_its_own_settings(check, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "Runtime_Settings.json").write_text('{"max_train_images": 48}')
    entry = dict(TABLE[1], settings=str(other))
    code, lines = check([moved(PAPER, 1)], Known_Results=[entry])
    assert changes(lines) == ["setting max_train_images: None here, 48 there"]
    _, lines = check([moved(PAPER, 1)], Runtime_Settings={"max_train_images": 48})
    assert changes(lines) == []


@pytest.mark.parametrize(
    "table, word",
    [
        ([], "expected"),
        ([{"name": "a", "value": 1.0}], "expected"),
        ([{"name": "a", "value": "1.0", "expected": True}], "value"),
        ([{"value": 1.0, "expected": True}], "name"),
        ([TABLE[1], {"name": "a"}], "value"),
        ([dict(TABLE[0], settings="nowhere")], "nowhere: found no such folder"),
        ([dict(TABLE[0], settings=5)], "settings"),
    ],
)
def test_a_bad_table_is_told_before_any_training(monkeypatch, tmp_path, capsys, table, word):
    (tmp_path / "Known_Results.json").write_text(json.dumps(table))
    monkeypatch.setattr(runtime, "prepare", lambda settings: None)
    monkeypatch.setattr(replicability.networks, "build", lambda *args: pytest.fail("training"))
    assert check_rep.main(["--settings", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Known_Results.json" in error and word in error


@pytest.mark.parametrize("folder", ["Settings", "Settings/Quickstart"])
def test_the_tables_of_the_repository_are_sound(folder):
    loaded = settings.load(settings.DEFAULTS.parent / folder)
    assert replicability.expected_entry(loaded, {})["expected"]
    paper = [entry for entry in settings.load().known_results if entry["name"] == "the paper"]
    assert np.float32(paper[0]["value"]) == PAPER == paper[0]["value"]


def test_steps_between():
    one = np.float32(1)
    assert replicability.steps_between(one, one) == 0
    assert replicability.steps_between(one, np.nextafter(one, np.float32(2))) == 1
    assert replicability.steps_between(np.float32(2), one) == 2**23


def test_environment_names_the_stack():
    found = replicability.environment()
    assert {"python", "keras", "backend", "gpus", "driver", "platform"} <= set(found)
