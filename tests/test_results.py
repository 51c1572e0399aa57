"""Collected runs: what is read and told of them, and that the published ones are as they say."""

import copy
import json
import lzma
import re
from pathlib import Path

import numpy as np
import pytest

import Results
from src import (
    comparison,
    markdown,
    packed,
    results,
    results_pages,
    run_record,
    settings,
    strict_json,
)
from src.errors import UserError
from src.files import file_digest
from src.results_pages import BEGIN, END

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = results.read(ROOT / "Experiments")
IMAGES = 40
LABELS = np.random.default_rng(0).integers(0, 7, IMAGES)
MARKED = f"# A page\n\n{BEGIN}\nold\n{END}\nthe end\n"


def probabilities(wrong, seed=1):
    """Return rows whose highest class is the label's, but for the first `wrong` ones."""
    rows = np.random.default_rng(seed).random((IMAGES, 7)).astype(np.float32)
    classes = np.where(np.arange(IMAGES) < wrong, (LABELS + 1) % 7, LABELS)
    rows[np.arange(IMAGES), classes] += 1
    return rows / rows.sum(axis=1, keepdims=True)


def write_run(models, results_folder, loaded, network, wrong):
    """Write what a training and an evaluation leave that were wrong with so many test images."""
    for folder in (models / network, results_folder / network):
        folder.mkdir(parents=True)
    resolved = loaded.resolved()
    resolved["data"]["data_folder"] = "/home/somebody/here/Data"
    teachers = {f"/media/{name}/Models/ResNet34/weights.h5": name for name in ("a", "b")}
    record = {
        "complete": True,
        "settings": resolved,
        "versions": {"gpus": [], "cpu": "a CPU"},
        "conditions": {"teachers": teachers, "cache": "C:\\Users\\somebody\\cache"},
    }
    (models / network / "settings.json").write_text(json.dumps(record))
    head = "stage,epoch,loss,categorical_accuracy,val_loss,val_categorical_accuracy,seconds\n"
    rows = "1,1,1.5,0.3,1.4,0.35,10\n1,2,1.2,0.5,1.1,0.45,2.5\n"
    (models / network / "history.csv").write_text(head + rows)
    wrongs = {"val": 10, "test": wrong, "tta_test": wrong}
    metrics = {
        split: {"images": IMAGES, "accuracy": (IMAGES - count) / IMAGES}
        for split, count in wrongs.items()
    }
    metrics.update(data="FER2013, unchanged", paper_test_accuracy_percent={"best_run": 72.81})
    metrics.update(settings=resolved, training_complete=True)
    (results_folder / network / "metrics.json").write_text(json.dumps(metrics))
    arrays = {f"{split}_probabilities": probabilities(count) for split, count in wrongs.items()}
    np.savez_compressed(str(results_folder / network / "predictions.npz"), **arrays)


@pytest.fixture
def collected(tmp_path, settings_folder):
    """A function that makes runs of the seeds {seed: {network: wrong images}}, and collects them.

    It returns the folder Experiments, beside which both pages have marks.
    """
    folder = settings_folder(tmp_path / "work")
    experiments = tmp_path / "Experiments"
    experiments.mkdir()
    for page in (tmp_path / "README.md", experiments / "README.md"):
        page.write_text(MARKED)

    def collect(runs):
        for seed, networks in runs.items():
            loaded = settings.load(folder).with_seed(seed)
            where = [loaded.path(key) for key in ("models_folder", "results_folder")]
            for network, wrong in networks.items():
                write_run(*where, loaded, network, wrong)
            words = ["--collect", "Mine", "--settings", str(folder), "--seed", str(seed)]
            assert Results.main([*words, "--experiments", str(experiments)]) == 0
        return experiments

    return collect


def test_the_table_and_the_pages(collected, capsys):
    experiments = collected({1: {"ResNet34": 10}, 2: {"ResNet34": 14}})
    out = re.sub(" +", " ", capsys.readouterr().out)
    row = "| Mine | ResNet34 | 2 | 75.00 ± 0.00 | 70.00 ± 7.07 | 70.00 ± 7.07 | 75.00 | 75.00 |"
    assert f"{row} 72.81 | 2 | 12 | a CPU |" in out  # 12.5 seconds
    for page in (experiments.parent / "README.md", experiments / "README.md"):
        text = re.sub(" +", " ", page.read_text(encoding="utf-8"))
        assert row in text and results.RANDOM_START in text and "old" not in text
        assert text.startswith("# A page\n") and text.endswith("\nthe end\n")
        assert "same seeds" not in text and "Does LHC help" not in text, "nothing to compare"
    assert "| Mine | ResNet34 | random | 1 |" in text
    assert (experiments / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_collected_files_hold_no_absolute_path(collected):
    experiments = collected({3: {"ResNet34": 10}})
    folder = experiments / "Mine" / "seed3" / "ResNet34"
    assert sorted(path.name for path in folder.iterdir()) == sorted(results.FILES)
    record = json.loads((folder / "settings.json").read_text())
    assert record["settings"]["data"]["data_folder"] == "here/Data"
    assert record["settings"]["data"]["models_folder"] == "models/seed3"
    teachers = {f"{name}/Models/ResNet34/weights.h5": name for name in ("a", "b")}
    assert record["conditions"] == {"teachers": teachers, "cache": "somebody/cache"}
    for name in ("settings.json", "metrics.json"):
        assert absolute((folder / name).read_text(encoding="utf-8")) == []


def absolute(text):
    return re.findall(r'"(?:/|~|[A-Za-z]:\\)[^"]*"', text)


@pytest.mark.parametrize("path", sorted((ROOT / "Experiments").rglob("*.json")), ids=str)
def test_published_files_hold_no_absolute_path(path):
    assert absolute(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", results.FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other"])
def test_a_missing_or_damaged_file_is_one_line(collected, capsys, name, damage):
    experiments = collected({1: {"ResNet34": 10}})
    path = experiments / "Mine" / "seed1" / "ResNet34" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {"empty": b"", "cut": content[: len(content) // 9], "other": b"[1]"}[damage]
        )
    capsys.readouterr()
    assert Results.main(["--experiments", str(experiments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"error: {path}")
    assert ("is missing" if damage == "missing" else "found a damaged file") in lines[0]


def test_what_cannot_be_collected(collected, settings_folder, tmp_path, capsys):
    experiments = collected({1: {"ResNet34": 10}})
    empty = ["--settings", str(settings_folder(tmp_path / "empty"))]
    assert Results.main([*empty, "--experiments", str(experiments), "--collect", "Mine"]) == 2
    assert "run its _Eval.py first" in capsys.readouterr().err
    assert Results.main([*empty, "--experiments", str(experiments), "--collect", "../a"]) == 2
    assert "letters, digits" in capsys.readouterr().err
    assert Results.main(["--experiments", str(tmp_path / "none")]) == 2
    assert "found no runs" in capsys.readouterr().err
    (experiments / "tried.json").write_text("[")
    assert Results.main(["--experiments", str(experiments)]) == 2
    assert "tried.json: found a damaged file" in capsys.readouterr().err
    (experiments / "Mine" / "seed1").rename(experiments / "Mine" / "seed5")
    with pytest.raises(UserError, match="found a run of seed 1"):
        results.read(experiments)


def test_does_lhc_help(collected, monkeypatch):
    runs = {
        seed: {"ResNet34": 14, "Control": 12, "LHC": wrong}
        for seed, wrong in ((1, 8), (2, 7), (3, 6))
    }
    experiments = collected(runs)
    text = (experiments.parent / "README.md").read_text(encoding="utf-8")
    # 10, 12.5, 15: 12.5 -+ 4.3027 * 2.5 / sqrt(3)
    helps = "+12.50 points (test; 95 % interval +6.29 to +18.71: it helps)"
    assert "**Does LHC help?** The same backbones" in text and f"* Mine, 3 seeds: {helps}" in text
    assert "Best of 3, as the paper counts: 85.00 and 70.00 %" in text
    assert "controllers" not in text, "there are none"
    page = (experiments / "README.md").read_text(encoding="utf-8")
    assert helps in page and "not computed" in page

    groups = results.read(experiments)
    alone = {("Alone", name): groups["Mine", name] for name in ("ResNet34", "LHC")}
    (text,) = comparison.answers({**alone, **groups})
    start = "beside the backbones at their start, without a control"
    assert f"* Alone, 3 seeds, {start}: +17.50" in text
    assert "Best of 3, as the paper counts: 85.00 and 65.00 %" in text and f"seeds: {helps}" in text
    assert comparison.answers(alone) == [], "that LHC brings nothing but more epochs is not told"

    monkeypatch.setattr(results_pages.dataset, "csv_path", lambda *args: experiments / "README.md")
    monkeypatch.setattr(results_pages.dataset, "load", lambda *args: (None, LABELS))
    monkeypatch.setattr(results_pages.dataset, "describe", lambda *args: "FER2013, unchanged")
    assert Results.main(["--experiments", str(experiments)]) == 0
    counts = json.loads((experiments / "mcnemar.json").read_text())
    assert counts["Mine LHC - Mine Control"]["test"] == [[4, 0], [5, 0], [6, 0]]
    page = (experiments / "README.md").read_text(encoding="utf-8")
    assert "0.125, 0.062, 0.031" in page and "not computed" not in page

    monkeypatch.undo()  # without the labels, the counts of the runs before are not kept
    page = (collected({4: runs[1]}) / "README.md").read_text(encoding="utf-8")
    assert "4 seeds" in page and "not computed" in page


@pytest.mark.parametrize(
    "wrong, verdict", [((12, 13, 11), "no difference to be seen"), ((20, 21, 20), "it harms")]
)
def test_the_answer_follows_the_interval(collected, wrong, verdict):
    runs = {seed: {"Control": 12, "LHC": count} for seed, count in enumerate(wrong)}
    text = (collected(runs).parent / "README.md").read_text(encoding="utf-8")
    assert text.count(f": {verdict})") == 2  # without TTA and with it


def test_controllers_are_compared_with_the_control_too(collected):
    runs = {seed: {"Control": 12, "LHC": 12, "Controller": 8 + seed} for seed in (1, 2, 3)}
    text = (collected(runs).parent / "README.md").read_text(encoding="utf-8")
    assert "With controllers too, trained 2 epochs longer, 3 seeds: +5.00 points (test; " in text
    published = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "* Mine, 3 seeds: +" in text and ", 5 seeds, all with the same teachers: +" in published


def test_other_recipes_of_the_same_seeds_are_no_pairs(collected):
    experiments = collected({seed: {"Control": 12, "LHC": 8} for seed in (1, 2)})
    groups = results.read(experiments)
    groups.update({("Other", network): runs for (_, network), runs in list(groups.items())})
    assert {b[0] == a[0] for b, a in comparison.pairs(groups)} == {True}


def test_the_main_page_has_recipes_of_enough_seeds(collected):
    experiments = collected({seed: {"Control": 12, "LHC": 8 + seed} for seed in range(1, 5)})
    groups = results.read(experiments)
    main_page, page = results_pages.pages(experiments, groups).values()
    assert "| Mine " in main_page[0] and "* Mine, 4 seeds" in main_page[2], "there is no other"
    fifth = collected({5: {"LHC": 13}}) / "Mine" / "seed5"
    groups = results.read(experiments)
    few = {("Few", network): runs for (_, network), runs in groups.items()}
    few["Few", "LHC"] = {seed: few["Few", "LHC"][seed] for seed in (1, 2, 3, 4)}
    assert fifth.is_dir() and len(groups["Mine", "LHC"]) == results_pages.ENOUGH
    main_page, page = results_pages.pages(experiments, {**groups, **few}).values()
    assert "Few" not in " ".join(main_page) and "* Mine, 4 seeds" in main_page[2]
    assert "| Few " in page[1] and "* Few, 4 seeds" in " ".join(page)


def test_mcnemars_p():
    assert comparison.mcnemar(0, 0) == 1 and comparison.mcnemar(5, 5) == 1
    assert comparison.mcnemar(1, 9) == comparison.mcnemar(9, 1) == pytest.approx(22 / 1024)


def test_rounding_keeps_the_highest_class():
    close = np.array([[0.3, 0.30001, 0.1], [0.25, 0.25, 0.5], [0.4, 0.4, 0.2]], np.float32)
    assert close.astype(np.float16).argmax(axis=1).tolist() == [0, 2, 0], "the first is at risk"
    half = results.halved(close)
    assert half.dtype == np.float16 and half.argmax(axis=1).tolist() == [1, 2, 0]
    np.testing.assert_allclose(half, close, rtol=2e-3)


def test_the_published_tables_are_up_to_date():
    for path, parts in results_pages.pages(ROOT / "Experiments", PUBLISHED).items():
        text = path.read_bytes().decode("utf-8")
        again = markdown.between(text, BEGIN, END, parts)
        assert again == text, "run python Results.py"


@pytest.fixture(scope="module")
def fer2013_labels(shared):
    """The labels of FER2013's validation and test split; see unpack.py there."""
    path = shared / "fer2013" / "fer2013.med.xz"
    if not path.is_file():
        pytest.skip("needs ../shared/fer2013")
    count, side = 35887, 48
    with lzma.open(path) as file:
        file.seek(count * side * side)
        labels, usages = np.frombuffer(file.read(), np.uint8).reshape(2, count)
    return {
        "val": labels[usages == 1],
        "test": labels[usages == 2],
        "tta_test": labels[usages == 2],
    }


@pytest.mark.parametrize("group", PUBLISHED, ids=" ".join)
def test_published_accuracies_follow_from_the_predictions(group, fer2013_labels):
    for run in PUBLISHED[group].values():
        for split, labels in fer2013_labels.items():
            right = run.probabilities[split].argmax(axis=1) == labels
            assert 100 * right.mean() == pytest.approx(run.percent[split], abs=1e-10)


@pytest.mark.parametrize(
    "recipe, network",
    [
        ("AllDevices", "ResNet34"),
        ("FromScratch", "ResNet34"),
        ("Gentler", "LHC"),
        ("Longer", "ResNet34"),
        ("NextGeneration", "ResNet34"),
        ("NextLonger", "LHC"),
        ("NextLonger", "ResNet34"),
    ],
)
def test_the_packed_teacher_of_published_runs_is_here_and_whole(recipe, network):
    (stage,) = settings.load(ROOT / "Settings" / recipe).recipe(network)["stages"]
    (folder,) = stage["distillation"]["teachers"]
    packed.read(ROOT / folder)
    records = list(ROOT.glob(f"Experiments/{recipe}/seed*/{network}/settings.json"))
    for record in records:
        (digest,) = strict_json.read(record)["conditions"]["teachers"].values()
        assert digest == file_digest(ROOT / folder / packed.RECORD, "sha256"), record
    assert records


@pytest.mark.parametrize("group", PUBLISHED, ids=" ".join)
def test_published_recipes_are_those_of_the_settings(group):
    """What the settings folder says now, but for the names of nets, which were moved."""
    recipe, network = group
    for seed, run in PUBLISHED[group].items():
        now = settings.load(ROOT / "Settings" / recipe).with_seed(seed).recipe(network)
        then = copy.deepcopy(run.recipe)
        for stage in (*then["stages"], *now["stages"]):
            if stage["distillation"]:
                stage["distillation"]["teachers"] = len(stage["distillation"]["teachers"])
        assert run_record.changes(then, now, "recipe") == [], seed


AVERAGED = [
    ("FromScratch", "ResNet34"),
    ("FromScratch", "LHC"),
    ("Longer", "ResNet34"),
    ("Longer", "LHC"),
    ("NextGeneration", "ResNet34"),
    ("TeacherNet", "ResNet34"),
]


def test_published_averages_follow_from_the_predictions(fer2013_labels):
    text = " ".join((ROOT / "Experiments" / "README.md").read_text(encoding="utf-8").split())
    for group in AVERAGED:
        runs = PUBLISHED[group].values()
        mean = sum(run.probabilities["val"] for run in runs)
        right = 100 * (mean.argmax(axis=1) == fer2013_labels["val"]).mean()
        one = np.mean([run.percent["val"] for run in runs])
        assert re.search(rf"{right:.2f} % \((one of them: )?{one:.2f} %\)", text), group


def test_names_are_counted():
    assert markdown.counted(["NVIDIA H200", "NVIDIA H200", "NVIDIA L4"]) == (
        "2 × NVIDIA H200, NVIDIA L4"
    )
    assert markdown.counted([]) == ""


@pytest.mark.parametrize("text", [f"{BEGIN} {BEGIN} {END}", f"{END} {BEGIN}", f"a {BEGIN}", END])
def test_marks_that_are_not_one_of_each_are_one_line(tmp_path, text, monkeypatch):
    pages = {tmp_path / "a.md": ["table"], tmp_path / "b.md": ["table"]}
    monkeypatch.setattr(results_pages, "pages", lambda *_: pages)
    (tmp_path / "a.md").write_text(f"{BEGIN} {END}")
    (tmp_path / "b.md").write_text(text)
    with pytest.raises(UserError, match="b.md: expected the marks .* once, in this order"):
        results_pages.write(tmp_path, {})
    assert (tmp_path / "a.md").read_text() == f"{BEGIN} {END}"
