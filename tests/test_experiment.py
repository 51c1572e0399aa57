"""A recipe for several seeds: what is run, in which order, where, and what becomes of failures."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import Download_Data
import ETL
import Experiment
from src import experiment, interrupts, nvidia, run_record, settings
from tests.test_results import write_run

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [f"{network}_{kind}.py" for network in run_record.NETWORKS for kind in ("Train", "Eval")]
TOGETHER = 4
# In the place of the scripts: writes what they leave, at once, and when and where that was. Where
# there is a file of that name, none goes on before that many have begun together, or all are slow.
STAND_IN = f"""
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from src import lineage, run_record
from src.cli import SEED, parse
script = Path(__file__).name
network, kind = script[: -len(".py")].rsplit("_", 1)
args = parse(None, "", SEED)
job = f"{{script}} {{args.seed}}"
own = Path(__file__).parent
def tell(what):
    with open(own / "told", "a") as file:
        file.write(json.dumps([what, job, os.environ.get("CUDA_VISIBLE_DEVICES"),
                               os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE")]) + "\\n")
tell("begins")
print("the first line")
print("what", job, "says last", flush=True)
while (own / "together").exists() and (own / "told").read_text().count("begins") < {TOGETHER}:
    time.sleep(0.02)
if (own / "slow").exists():
    time.sleep(60)
if (own / "fails").exists() and job in (own / "fails").read_text().splitlines():
    sys.exit(2)
models, evaluated = (args.settings.path(k) / network for k in ("models_folder", "results_folder"))
folder = models if kind == "Train" else evaluated
folder.mkdir(parents=True, exist_ok=True)
if kind == "Train":
    (folder / "weights.h5").write_text(f"{{job}} of {{time.time()}}")
    teachers = lineage.all_teacher_files(args.settings.recipe(network))
    record = {{"complete": True, "conditions": {{
        "setting": run_record.deciding(args.settings, network),
        "teachers": lineage.digests(teachers)}}}}
    record["goes_on_from"] = lineage.digests(lineage.start_files(args.settings, network))
    (folder / "settings.json").write_text(json.dumps(record))
else:
    metrics = {{"training_complete": True, "settings": args.settings.resolved()}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "predictions.npz").write_text("")
tell("ends")
"""


class Scripts:
    """Stand-ins in the place of the repository's scripts, and what they have told."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        for name in SCRIPTS:
            (folder / name).write_text(STAND_IN)

    def fail(self, *jobs):
        (self.folder / "fails").write_text("\n".join(jobs))

    def told(self):
        """Return [[begins or ends, script and seed, GPU, XLA's setting]], and forget them."""
        path = self.folder / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        return [json.loads(line) for line in lines]

    def done(self):
        return [job for what, job, *_ in self.told() if what == "ends"]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The Scripts that run in the place of the repository's."""
    found = Scripts(tmp_path / "program")
    monkeypatch.setattr(experiment, "PROGRAM", found.folder)
    monkeypatch.setattr(experiment, "POLL_SECONDS", 0.02)
    return found


@pytest.fixture
def scripts(program, monkeypatch):
    """Those, no table at the end (they leave no figures), and nobody who tells of GPUs."""
    monkeypatch.setattr(nvidia, "ask", lambda what: None)
    monkeypatch.setattr(experiment, "table", lambda *_: "")
    return program


@pytest.fixture
def folder(tmp_path, settings_folder):
    """Settings with a recipe for ResNet34, and one for LHC that the ResNet34 of two seeds teach."""
    teachers = [str(tmp_path / "models" / f"seed{seed}" / "ResNet34") for seed in (1, 2)]
    stage = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 8, "epochs": 1}
    taught = dict(stage, distillation={"share": 0.7, "teachers": teachers})
    recipes = {"ResNet34": {"stages": [stage]}, "LHC": {"stages": [taught]}}
    return settings_folder(tmp_path, Modular=recipes)


def run(folder, *words):
    return Experiment.main(["--settings", str(folder), *words])


def test_all_of_a_recipe_in_an_order_that_serves(scripts, folder, capsys):
    assert run(folder, "--seeds", "1", "2") == 0
    order = scripts.done()
    assert sorted(order) == sorted(
        f"{network}_{kind}.py {seed}"
        for network in ("ResNet34", "LHC")
        for kind in ("Train", "Eval")
        for seed in (1, 2)
    )
    for seed in (1, 2):
        lhc = order.index(f"LHC_Train.py {seed}")
        assert all(order.index(f"ResNet34_Train.py {teacher}") < lhc for teacher in (1, 2))
        assert lhc < order.index(f"LHC_Eval.py {seed}")
    out = capsys.readouterr().out
    assert out.count(": begins, ") == out.count(": done in ") == 8
    assert out.endswith("All 8 scripts are done.\n")
    log = folder.parent / "results" / "seed2" / "LHC_Train.log"
    assert log.read_text().splitlines()[-1] == "what LHC_Train.py 2 says last"


def test_what_is_done_is_left_as_it_is(scripts, folder, capsys):
    assert run(folder, "--seeds", "1", "2", "--networks", "ResNet34") == 0
    scripts.told()
    record = folder.parent / "models" / "seed1" / "ResNet34" / "settings.json"
    later = time.time() + 5
    os.utime(str(record), (later, later))  # trained anew
    assert run(folder, "--seeds", "1", "2", "--networks", "ResNet34", "--plan") == 0
    assert "to do: ResNet34_Eval.py, seed 1\ndone: ResNet34_Eval.py" in capsys.readouterr().out
    assert scripts.told() == []
    run(folder, "--seeds", "1", "2")
    assert [job for job in scripts.done() if job.startswith("ResNet34")] == ["ResNet34_Eval.py 1"]


@pytest.mark.parametrize(
    "change",
    [
        {"training_complete": False},  # as --unfinished leaves it
        {"settings": {"evaluation": {"shift": 7}}},
        {"settings": None},
        None,
    ],
    ids=str,
)
def test_other_results_than_the_recipes_are_no_end(scripts, folder, change, capsys):
    assert run(folder, "--networks", "ResNet34") == 0
    path = folder.parent / "results" / "ResNet34" / "metrics.json"
    content = json.loads(path.read_text())
    path.write_text("{" if change is None else json.dumps({**content, **change}))
    assert run(folder, "--networks", "ResNet34", "--plan") == 0
    assert capsys.readouterr().out.endswith("done: ResNet34_Train.py\nto do: ResNet34_Eval.py\n")


def test_without_seeds_the_recipe_itself(scripts, folder):
    path = folder / "Modular_Settings.json"
    recipes = json.loads(path.read_text())
    del recipes["LHC"]
    path.write_text(json.dumps(recipes))
    assert run(folder) == 0
    assert scripts.done() == ["ResNet34_Train.py None", "ResNet34_Eval.py None"]
    assert (folder.parent / "models" / "ResNet34" / "settings.json").is_file()
    assert (folder.parent / "results" / "ResNet34_Train.log").is_file()


def test_a_folder_without_recipes_has_those_of_the_defaults(settings_folder, tmp_path):
    loaded = settings.load(settings_folder(tmp_path))
    assert experiment.networks_of(loaded) == ["ResNet34", "LHC", "Controller"]


def test_gpus_are_shared_out(scripts, folder, monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    (scripts.folder / "together").write_text("")
    seeds = [str(seed) for seed in range(1, 7)]
    words = ["--networks", "ResNet34", "--seeds", *seeds, "--gpus", "0", "3", "--each", "2"]
    assert run(folder, *words) == 0
    running, most, used = [], 0, set()
    for what, job, gpu, shared in scripts.told():
        assert shared == "false"
        (running.append if what == "begins" else running.remove)((job, gpu))
        used.add(gpu)
        places = [place for _, place in running]
        assert max(map(places.count, places), default=0) <= 2
        most = max(most, len(running))
    assert used == {"0", "3"} and most == TOGETHER


@pytest.mark.parametrize(
    "answer, found", [("printf '0\\n1\\n'", "0, 1"), ("true", "none"), ("exit 9", None)]
)
def test_gpus_that_are_not_there_are_one_line(
    program, folder, tmp_path, monkeypatch, capsys, answer, found
):
    driver = tmp_path / "nvidia-smi"
    driver.write_text(f"#!/bin/sh\n{answer}\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(experiment, "table", lambda *_: "")
    code = run(folder, "--networks", "ResNet34", "--gpus", "1", "2")
    if found is None:  # a driver that does not answer
        assert code == 0 and {gpu for _, _, gpu, _ in program.told()} <= {"1", "2"}
    else:
        missing = 2 if "1" in found else 1
        words = f"error: --gpus {missing}: no such GPU here, nvidia-smi tells of {found}\n"
        assert code == 2 and capsys.readouterr().err == words and program.told() == []


def test_one_at_a_time_has_the_gpu_to_itself(scripts, folder, monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert run(folder, "--networks", "ResNet34") == 0
    assert {(gpu, shared) for _, _, gpu, shared in scripts.told()} == {("5", None)}


def test_what_does_not_need_a_failed_run_goes_on(scripts, folder, capsys):
    scripts.fail("ResNet34_Train.py 2")
    assert run(folder, "--seeds", "1", "2", "3") == 1
    assert scripts.done() == [
        *("ResNet34_Train.py 1", "ResNet34_Train.py 3"),
        *("ResNet34_Eval.py 1", "ResNet34_Eval.py 3"),
    ]
    out = capsys.readouterr().out
    failed = r"seed 2: FAILED after \d+ s, exit code 2: what ResNet34_Train\.py 2 says last\n"
    assert re.search(failed, out)
    assert out.splitlines()[-1].startswith("8 of 12 scripts are not done; the same command goes on")
    scripts.fail()
    assert run(folder, "--seeds", "1", "2", "3") == 0
    assert len(scripts.done()) == 8


def test_the_last_line_is_the_last_process_own(scripts, folder, capsys):
    scripts.fail("ResNet34_Train.py None")
    assert run(folder, "--networks", "ResNet34") == 1
    (scripts.folder / "ResNet34_Train.py").write_text("import sys; sys.exit('\\033[31m here')")
    capsys.readouterr()
    assert run(folder, "--networks", "ResNet34") == 1
    assert "exit code 1: ?[31m here\n" in capsys.readouterr().out
    (scripts.folder / "ResNet34_Train.py").write_text("import sys; sys.exit(3)")
    assert run(folder, "--networks", "ResNet34") == 1
    assert "exit code 3: it printed nothing\n" in capsys.readouterr().out


def test_a_script_that_ends_without_its_run_has_failed(scripts, folder, capsys):
    (scripts.folder / "ResNet34_Train.py").write_text("")
    assert run(folder, "--networks", "ResNet34") == 1
    out = capsys.readouterr().out
    failed = r"ResNet34_Train\.py: FAILED after \d+ s, exit code 0: it printed nothing\n"
    assert re.search(failed, out)
    assert "2 of 2 scripts are not done" in out


def test_time_that_is_up_stops_what_runs(scripts, folder, capsys):
    (scripts.folder / "slow").write_text("")
    begun = time.monotonic()
    assert run(folder, "--seeds", "1", "2", "--minutes", "0.05", "--each", "2") == 1
    assert time.monotonic() - begun < 30
    out = capsys.readouterr().out
    assert out.count("stopped; the same command goes on") == 2
    assert scripts.done() == []
    assert interrupts.children == []


def test_a_log_that_cannot_be_written_leaves_nothing_running(scripts, folder, capsys):
    (scripts.folder / "slow").write_text("")
    (folder.parent / "results" / "seed2" / "ResNet34_Train.log").mkdir(parents=True)
    words = ["--networks", "ResNet34", "--seeds", "1", "2", "--each", "2"]
    begun = time.monotonic()
    assert run(folder, *words) == 2
    assert time.monotonic() - begun < 30 and interrupts.children == []
    err = capsys.readouterr().err
    assert "ResNet34_Train.log" in err and err.count("\n") == 1


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has its own way")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_its_scripts_end_with_it(tmp_path, number):
    """Also where the signal goes to it alone, as a kill does."""
    code = """
        import subprocess, sys, time
        from src import interrupts
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        interrupts.children.append(child)
        interrupts.listen()
        print(child.pid, flush=True)
        time.sleep(60)
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(words, cwd=str(ROOT), stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.send_signal(number)
        assert parent.wait(30) == 128 + number
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the child lives on")


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has its own way")
def test_what_is_being_started_ends_with_it_too(tmp_path):
    """The signal waits for a process that has begun and is not yet in the list."""
    code = """
        import subprocess, sys, time
        from src import interrupts
        interrupts.listen()
        with interrupts.starting:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3)"])
            print(child.pid, flush=True)
            time.sleep(1)
            interrupts.children.append(child)
            child.send_signal = lambda number: print("told", int(number), flush=True)
        time.sleep(60)
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(words, cwd=str(ROOT), stdout=subprocess.PIPE, text=True) as parent:
        parent.stdout.readline()
        parent.send_signal(signal.SIGTERM)
        assert parent.stdout.readline() == f"told {int(signal.SIGTERM)}\n"
        assert parent.wait(30) == 128 + signal.SIGTERM


def test_no_recipe_is_one_line(scripts, folder, capsys):
    (folder / "Modular_Settings.json").write_text("{}")
    assert run(folder) == 2
    assert capsys.readouterr().err == (
        f"error: {folder}: found no network's recipe; name some --networks\n"
    )


def test_a_teacher_that_is_nowhere_is_one_line(scripts, folder, capsys):
    assert run(folder, "--seeds", "1") == 2
    captured = capsys.readouterr()
    missing = folder.parent / "models" / "seed2" / "ResNet34"
    assert captured.err == (
        f"error: LHC_Train.py, seed 1 needs {missing}, where no complete training is: add its "
        "network and seed, or train it first\n"
    )
    assert scripts.told() == [] and captured.out == ""


def test_a_net_that_ships_is_a_teacher(tmp_path):
    assert experiment.is_there(ROOT / "Models_Shipped")
    assert not experiment.is_there(tmp_path)


@pytest.mark.parametrize("needed", [False, True])
def test_a_complete_run_of_other_settings_is_not_taken_for_this_one(
    scripts, folder, needed, capsys
):
    assert run(folder, "--networks", "ResNet34") == 0
    scripts.told()
    path = folder / "Modular_Settings.json"
    recipes = json.loads(path.read_text())
    recipes["ResNet34"]["stages"][0]["learning_rate"] = 0.2
    path.write_text(json.dumps(recipes))
    network = "LHC" if needed else "ResNet34"
    assert run(folder, "--networks", network) == 2
    err = capsys.readouterr().err
    expected = "was another (setting recipe stages 1 learning_rate: then 0.1, now 0.2)"
    assert expected in err and err.count("\n") == 1
    assert scripts.told() == []


@pytest.mark.parametrize("seed", [1, 2], ids=["what it goes on from", "a teacher"])
def test_a_run_of_what_was_trained_anew_is_not_taken_for_todays(scripts, folder, seed, capsys):
    """Its table would mix nets that never met."""
    words = ["--networks", "LHC", "--seeds", "1"]
    assert run(folder, "--seeds", "1", "2") == 0
    models = folder.parent / "models"
    trained_anew = models / f"seed{seed}" / "ResNet34" / "weights.h5"
    before = trained_anew.read_text()
    trained_anew.write_text("other weights")
    scripts.told()
    assert run(folder, *words) == 2
    err = capsys.readouterr().err
    own = models / "seed1"
    assert err.startswith(f"error: {own / 'LHC'}: this training is complete, but what it was made")
    assert str(trained_anew.parent) in err and "LHC_Train.py" in err and err.count("\n") == 1
    trained_anew.write_text(before)
    assert run(folder, *words) == 0 and scripts.told() == []


@pytest.mark.parametrize("kept", [{}, {"goes_on_from": [1]}, {"goes_on_from": {"a": None}}])
def test_of_older_runs_nothing_is_known(scripts, folder, kept):
    """They did not write down what they were made from."""
    assert run(folder, "--seeds", "1", "2") == 0
    path = folder.parent / "models" / "seed1" / "LHC" / "settings.json"
    record = json.loads(path.read_text())
    setting = record["conditions"]["setting"]
    path.write_text(json.dumps({"complete": True, "conditions": {"setting": setting}, **kept}))
    (folder.parent / "models" / "seed1" / "ResNet34" / "weights.h5").write_text("other")
    assert run(folder, "--networks", "LHC", "--seeds", "1", "--plan") == 0


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"complete": false}', None])
def test_weights_of_which_nobody_knows_stay(scripts, folder, content, capsys):
    """They are not taken for the recipe's, nor trained over."""
    own = folder.parent / "models" / "ResNet34"
    own.mkdir(parents=True)
    (own / run_record.WEIGHTS).write_text("precious")
    if content is not None:
        (own / run_record.RECORD).write_text(content)
    assert run(folder, "--networks", "ResNet34") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {own}: found weights.h5, but no settings.json that tells how")
    assert err.count("\n") == 1 and scripts.told() == []


def test_two_at_once_are_one_line(scripts, folder, capsys):
    """On the same seeds; with others, a second one may help."""
    words = ["--seeds", "1", "2", "--networks", "ResNet34"]
    with experiment.held(settings.load(folder), [2]):
        assert run(folder, *words) == 2
        err = capsys.readouterr().err
        busy = folder.parent / "results" / "seed2"
        assert err.startswith(f"error: an experiment is being run in {busy} by process ")
        assert err.count("\n") == 1 and scripts.told() == []
        assert run(folder, *words[:2], *words[3:]) == 0
    assert run(folder, *words) == 0
    assert not list(folder.parent.rglob("*.lock"))


@pytest.mark.parametrize(
    "words",
    [
        ["--seeds", "-1"],
        ["--seeds"],
        ["--networks", "ResNet"],
        ["--each", "0"],
        ["--each", "2.5"],
        ["--minutes", "nan"],
        ["--minutes", "x"],
        ["--minutes", "1e9"],
        ["--gpus", "a"],
    ],
    ids=" ".join,
)
def test_what_the_command_line_does_not_take(scripts, folder, words, capsys):
    assert run(folder, *words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and scripts.told() == []
    kinds = {
        "--each": "a whole number above 0",
        "--minutes": "a number above 0 and below 1000000000",
    }
    assert kinds.get(words[0], "") in err


def test_the_table_is_of_the_runs_that_are_evaluated(folder):
    wrong = {1: 10, 2: 12, 3: 14}
    for seed, count in wrong.items():
        loaded = settings.load(folder).with_seed(seed)
        where = [loaded.path(key) for key in ("models_folder", "results_folder")]
        write_run(*where, loaded, "ResNet34", count)
        (where[0] / "ResNet34" / run_record.WEIGHTS).write_text("")
    record = where[0] / "ResNet34" / run_record.RECORD
    os.utime(str(record), (time.time() + 5,) * 2)  # seed 3: trained anew
    table = experiment.table(settings.load(folder), ["ResNet34", "LHC"], [1, 2, 3, 4])
    (row,) = [line.split("|") for line in table.splitlines() if "ResNet34" in line]
    assert [cell.strip() for cell in row[1:6]] == [
        *("Settings", "ResNet34", "2", "75.00 ± 0.00"),
        "72.50 ± 3.54",
    ]


def test_the_scripts_themselves(tmp_path, settings_folder, program, capsys):
    """Trained and evaluated, with a net that takes seconds; then there is nothing left to do."""
    small = str(ROOT / "tests" / "robustness" / "small.py")
    for name in ("ResNet34_Train.py", "ResNet34_Eval.py"):
        words = f"import runpy, sys\nsys.argv = [{small!r}, {name!r}, *sys.argv[1:]]\n"
        words += f"runpy.run_path({small!r}, run_name='__main__')\n"
        (program.folder / name).write_text(words)
    stage = {"optimizer": "sgd", "learning_rate": 1e-4, "batch_size": 7, "epochs": 1}
    counts = {"train": [2] * 7, "val": [1] * 7, "test": [1] * 7}
    folder = settings_folder(
        tmp_path,
        Data={"class_counts": counts},
        Modular={"ResNet34": {"stages": [stage]}},
    )
    for prepare in (Download_Data, ETL):
        assert prepare.main(["--settings", str(folder)]) == 0
    assert run(folder, "--seeds", "1") == 0, list(map(Path.read_text, tmp_path.rglob("*.log")))
    assert "| Settings | ResNet34 |     1 |" in capsys.readouterr().out
    assert run(folder, "--seeds", "1", "--plan") == 0
    assert capsys.readouterr().out.count("done: ") == 2


def test_published_runs_are_those_of_their_recipe(tmp_path, monkeypatch):
    """A run as Experiments/ has it counts as done, up to what only the clone has: its weights."""
    folder = ROOT / "Settings" / "AllDevices"  # its teacher lies where it lay then
    monkeypatch.chdir(ROOT)
    loaded = settings.load(folder).with_seed(1).changed(data={"models_folder": str(tmp_path)})
    run_folder = tmp_path / "ResNet34"
    run_folder.mkdir()
    published = ROOT / "Experiments" / "AllDevices" / "seed1" / "ResNet34" / "settings.json"
    (run_folder / run_record.RECORD).write_bytes(published.read_bytes())
    assert not run_record.is_complete(run_folder)
    (run_folder / run_record.WEIGHTS).write_text("")
    (job, _) = experiment.plan(loaded, ["ResNet34"], [None])
    assert job.is_done() and [str(need) for need in job.needs] == ["Models_Teacher"]
