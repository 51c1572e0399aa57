"""The benchmarks' records: what is stored, and that the tables are those of the files."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import etl_speed, generator_speed, record, scaling, table

ROOT = Path(__file__).resolve().parent.parent
STORED = table.results()


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Records go there instead of into the repository."""
    monkeypatch.setattr(record, "FOLDER", tmp_path / "results")
    return tmp_path / "results"


def stored(folder, name):
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def check(content):
    """Compute again what was computed from the repeats' values."""
    assert content["measured"] and content["ratios"]
    for entry in content["measured"].values():
        assert entry.items() >= record.summary(entry["values"]).items()
        assert entry["unit"] in ("images/s", "TFLOP/s", "s a turn", "GB")
    for entry in content["ratios"].values():
        again = record.ratio(content["measured"], entry["of"], entry["to"], entry["paired"])
        assert entry.items() >= again.items()


@pytest.mark.parametrize("name", STORED)
def test_stored_figures_follow_from_the_repeats(name):
    content = STORED[name]
    check(content)
    assert {"cpu", "cores", "gpus", "load"} <= set(content["machine"])
    assert {"backend", "image_size", "batch", "precision"} <= set(content["setting"])
    assert content["versions"]["python"] and content["date"]


@pytest.mark.parametrize("name", STORED)
def test_the_stored_command_makes_the_file(name):
    words = shlex.split(STORED[name]["command"])
    script = f"benchmarks/{STORED[name]['benchmark']}.py"
    assert script in words and (ROOT / script).exists()
    assert words[words.index("--save") + 1] == name
    assert not [word for word in words if Path(word).is_absolute()]


def test_the_tables_are_up_to_date():
    text = table.README.read_text(encoding="utf-8")
    assert table.updated(text, STORED) == text, "run python benchmarks/table.py"


@pytest.mark.parametrize("page", ["benchmarks/README.md", "Experiments/README.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    heads = re.findall(r"^#+ (.+)$", text, re.M)
    anchors = {"#" + re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
    links = re.findall(r"\]\(([^)]+)\)", text)
    lost = [
        link
        for link in links
        if not link.startswith("https://")
        and link not in anchors
        and not (ROOT / page).parent.joinpath(link).exists()
    ]
    assert lost == []


def test_what_is_absent_is_said_with_its_command():
    text = table.updated(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", {})
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    for name, (what, command) in table.EXPECTED.items():
        row = next(line for line in text.splitlines() if line.endswith(f"| {name:21} |"))
        assert row.startswith(f"| {what} ") and table.ABSENT in row
        assert f"{command} --save {name}\n" in text
        assert (ROOT / next(word for word in command.split() if word.endswith(".py"))).exists()


def test_any_other_file_has_its_rows_and_columns_are_even():
    content = dict(stored_example(), command="python benchmarks/etl_speed.py --save mine")
    text = table.updated(table.BEGIN + table.END, {"mine": content})
    lines = text.splitlines()
    assert [line for line in lines if line.endswith("| mine                  |")]
    rows = [line for line in lines if line.startswith("|")]
    assert {len(row) for row in rows[: len(table.EXPECTED) + 3]} == {len(rows[0])}
    assert "| 2.50 | 1.41 | 1.50 to 3.50 | 2 | 2 |" in re.sub(" +", " ", text)


def stored_example():
    run = record.Record("etl_speed", [], "tensorflow", 224, images=3)
    run.measured("slow", [10, 12])
    run.measured("quick", [15, 42])
    run.ratio("much", "quick", "slow", goal=2)
    run.document["machine"]["load"].append(0.5)
    run.document["versions"] = {"python": "3.11.9", "tensorflow": "2.21.0"}
    return run.document


def test_ratios_of_turns_and_of_medians():
    run = record.Record("etl_speed", [], "tensorflow", 224)
    slow, quick = run.measured("slow", [10, 12, 11]), run.measured("quick", [20, 36, 11])
    assert (slow["median"], slow["sd"], slow["n"]) == (11, 1, 3)
    assert (quick["min"], quick["max"]) == (11, 36)
    paired = run.ratio("turns", "quick", "slow", goal=2)
    assert paired["values"] == [2, 3, 1] and paired["median"] == 2 and paired["goal"] == 2
    run.measured("other", [5.5])
    medians = run.ratio("medians", "quick", "other", paired=False)
    assert medians["median"] == pytest.approx(20 / 5.5, rel=1e-5) and "values" not in medians
    assert medians["sd"] is None and medians["n"] == 1
    run.measured("again", [5, 6])
    medians = run.ratio("more medians", "again", "slow", paired=False)
    assert medians["median"] == 0.5 and medians["n"] == 2
    assert medians["sd"] == pytest.approx(0.5 * (1 / 11**2 + 0.5 / 5.5**2) ** 0.5, rel=1e-5)
    with pytest.raises(ValueError, match="did not take turns"):
        run.ratio("turns", "quick", "other")
    check(run.document)


@pytest.mark.parametrize(
    "module, words, ratios",
    [(etl_speed, ["--images", "8"], 1), (generator_speed, ["--images", "14"], 3)],
    ids=["etl", "generator"],
)
def test_save_writes_what_was_printed(folder, capsys, module, words, ratios):
    words = [*words, "--threads", "1", "--repeats", "2"]
    assert module.main([*words, "--save", "here"]) == 0
    content = stored(folder, "here")
    check(content)
    assert len(content["ratios"]) == ratios
    assert content["command"].endswith(" ".join([*words, "--save", "here"]))
    printed = capsys.readouterr().out
    for entry in content["ratios"].values():
        assert entry["n"] == 2 and f"{entry['median']:.1f}x" in printed
    assert "tensorflow" in content["versions"]


def test_nothing_is_written_unasked(folder):
    run = record.Record("etl_speed", [], "tensorflow", 224)
    run.measured("ours", [1])
    run.save(None)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["a/b", "", ".hidden", "a b"])
def test_a_name_is_a_file_name(folder, capsys, name):
    with pytest.raises(SystemExit) as caught:
        etl_speed.main(["--save", name])
    assert caught.value.code == 2 and "letters, digits" in capsys.readouterr().err


def test_step_speed_keeps_pytorchs_lines(folder, monkeypatch, capsys):
    from benchmarks import step_speed
    from src import backend

    lines = ["versions\t2.9.0\t0.24.0", "matrix product\t700\t710\t705"]
    lines += ["PyTorch eager\t4000\t4100\t4050", "PyTorch compiled\t5000\t5100\t5200"]
    process = SimpleNamespace(stdout="\n".join(lines), returncode=0)
    monkeypatch.setattr(step_speed.subprocess, "run", lambda *args, **kwargs: process)
    monkeypatch.setattr(step_speed.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(backend, "set_precision", lambda precision: None)
    monkeypatch.setattr(step_speed, "network", lambda name, numerics: None)
    for steps in ("bare_steps", "fit_steps"):
        monkeypatch.setattr(step_speed, steps, lambda model, x, y: lambda count: None)
    assert step_speed.main(["--batch", "2", "--repeats", "3", "--save", "step"]) == 0
    content = stored(folder, "step")
    check(content)
    assert content["measured"]["PyTorch compiled"]["values"] == [5000, 5100, 5200]
    assert content["measured"]["matrix product"]["unit"] == "TFLOP/s"
    assert {"torch": "2.9.0", "torchvision": "0.24.0"}.items() <= content["versions"].items()
    assert len(content["measured"]) == 3 + 2 * 2 * 2
    unpaired = [entry for entry in content["ratios"].values() if not entry["paired"]]
    assert len(content["ratios"]) == 4 and len(unpaired) == 2
    assert {entry["to"] for entry in unpaired} == {"PyTorch compiled"}
    assert "our backbone / PyTorch compiled, fast" in capsys.readouterr().out


def test_step_speed_on_a_cpu_lets_all_backends_take_turns(folder):
    code = (
        "import pathlib; from benchmarks import cpu_steps, record, step_speed;"
        f"cpu_steps.THEIRS = (); record.FOLDER = pathlib.Path({str(folder)!r}); step_speed.main()"
    )
    words = "--cpu --networks ResNet34 --size 32 --batch 2 --steps 1 --repeats 2 --save cpu"
    command = [sys.executable, "-c", code, *words.split()]
    output = subprocess.run(command, cwd=str(ROOT), stdout=subprocess.PIPE, text=True, check=True)
    content = stored(folder, "cpu")
    check(content)
    measured = content["measured"]
    for name in ("ResNet34 tensorflow fast", "ResNet34 tensorflow reference"):
        assert measured[name]["n"] == 2 and measured[name]["unit"] == "images/s"
        assert 0.1 < measured[f"{name}, peak memory"]["median"] < 10
        assert name in output.stdout
    assert content["versions"]["tensorflow"] and content["setting"]["batch"] == 2
    (label,) = [label for label in content["ratios"] if "tensorflow fast against" in label]
    assert content["ratios"][label]["goal"] == 1 and content["ratios"][label]["paired"]


def test_step_speed_needs_no_tensorflow():
    pytest.importorskip("jax")
    code = (
        "import os, sys; os.environ['KERAS_BACKEND'] = 'jax'; sys.modules['tensorflow'] = None;"
        "import benchmarks.step_speed"
    )
    assert subprocess.call([sys.executable, "-c", code], cwd=str(ROOT)) == 0


def test_what_devices_do_while_they_train_is_told_by_a_profile():
    events = {
        "ncclDevKernel_AllReduce": [(0, 4)],
        "all_reduce_63_0_fusion_1": [(10, 12)],
        "input_reduce_fusion": [(2, 8)],
        "convolution": [],
    }
    lines = [
        SimpleNamespace(
            name=f"Stream #{number}",
            events=[
                SimpleNamespace(name=name, start_ns=start, duration_ns=end - start)
                for start, end in spans
            ],
        )
        for number, (name, spans) in enumerate(events.items())
    ]
    host = SimpleNamespace(name="XLA Modules", events=[object()])  # is not looked at
    talking, computing = scaling.spans(SimpleNamespace(lines=[*lines, host]))
    assert (sorted(talking), computing) == ([(0, 4), (10, 12)], [(2, 8)])
    # Of 12 it computes 6, talks alone for 2 and 2, and waits for 2.
    both = scaling.merged(talking + computing)
    assert both == [(0, 8), (10, 12)]
    assert scaling.length(both) - scaling.length(scaling.merged(computing)) == 4
