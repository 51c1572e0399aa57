import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from src import settings as module
from src.errors import UserError
from src.settings import DEFAULTS, FOLDERS, PROGRAM, Settings, load, resolutions


def write(folder, **files):
    """Write {file name without _Settings.json: content or text} into a settings folder."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}_Settings.json").write_text(text, encoding="utf-8")
    return folder


def stage(**changes):
    return {"optimizer": "sgd", "learning_rate": 0.01, "batch_size": 64, **changes}


def lhc(*stages, **recipe):
    return {"LHC": {"stages": list(stages), **recipe}}


BAD = [  # file, content, words that the line must hold
    ("Training", {"batchsize": [1, 1, 1]}, ["batchsize: found an unknown name", "batch_size"]),
    ("Training", {"batch_size": [48, 64]}, ["batch_size: found [48, 64]", "a list of 3 whole"]),
    ("Training", {"batch_size": [48, 64, 0]}, ["batch_size[2]: found 0", ">= 1"]),
    ("Training", {"batch_size": [48, 64, 64.0]}, ["batch_size[2]: found 64.0", "whole"]),
    ("Training", {"batch_size": [48, 64, True]}, ["batch_size[2]: found true", "whole"]),
    ("Training", {"batch_size": "48"}, ['batch_size: found "48"', "a list of 3"]),
    ("Training", {"rotation_range": [30, 10, 0]}, ["rotation_range: found", "a list of 2"]),
    ("Training", {"rotation_range": [30, 181]}, ["rotation_range[1]: found 181", "0 to 180"]),
    ("Training", {"rotation_range": [30, True]}, ["rotation_range[1]: found true", "a number"]),
    ("Training", {"width_shift_range": [0, 1]}, ["width_shift_range[1]: found 1", "< 1"]),
    ("Training", {"height_shift_range": [-0.1, 0]}, ["height_shift_range[0]: found -0.1", ">= 0"]),
    ("Training", {"shear_range": [90, 0]}, ["shear_range[0]: found 90", "< 90"]),
    ("Training", {"zoom_range": [1, 0]}, ["zoom_range[0]: found 1", "< 1"]),
    ("Training", {"horizontal_flip": [1, True]}, ["horizontal_flip[0]: found 1", "true or false"]),
    ("Training", {"learning_rate": [0, 1, 1]}, ["learning_rate[0]: found 0", "> 0"]),
    ("Training", {"patience": [8, 8, None]}, ["patience[2]: found null", ">= 1"]),
    ("Training", {"target_size": 31}, ["target_size: found 31", "from 32"]),
    ("Training", {"seed": -1}, ["seed: found -1", "from 0"]),
    ("Training", {"about": ""}, ['about: found ""', "a text"]),
    ("Training", [], ["Training_Settings.json: found []", "an object with the keys"]),
    ("LHC", {"num_heads": [8, 8, 7, 7]}, ["num_heads: found [8, 8, 7, 7]", "a list of 5"]),
    ("LHC", {"num_heads": [8, 8, 7, 7, 2]}, ["num_heads[4]: found 2", "1, 7, 49 for the 7 x 7"]),
    ("Modular", {"LHC": {"seeds": None}}, ["LHC.seeds: found null", "tensorflow, python, numpy"]),
    ("Modular", {"LHC": {"zero_values": 1}}, ["LHC.zero_values: found 1", "true or false"]),
    ("Modular", {"ResNet34": {"zero_values": True}}, ["ResNet34.zero_values: found an unknown"]),
    ("Modular", lhc(stage(schedule="cosine")), ["stages[0].epochs: found nothing", "ends with"]),
    ("Modular", lhc(stage(schedule="linear")), ['stages[0].schedule: found "linear"', '"cosine"']),
    ("Modular", lhc(stage(momentum=1)), ["stages[0].momentum: found 1", "< 1"]),
    (
        "Modular",
        lhc(stage(optimizer="adam", momentum=0.9)),
        ["momentum: found 0.9", 'beside "adam"'],
    ),
    ("Modular", lhc(stage(optimizer="adam", weight_decay=0.1)), ["decay: found 0.1", '"sgd" has']),
    ("Modular", lhc(stage(nesterov=True)), ["nesterov: found true", "beside a momentum"]),
    ("Modular", lhc(stage(ema=1)), ["stages[0].ema: found 1", "< 1"]),
    ("Modular", lhc(stage(mixup=-1)), ["stages[0].mixup: found -1", "0 (off)"]),
    ("Modular", lhc(stage(random_erasing=2)), ["random_erasing: found 2", "0 to 1"]),
    ("Modular", lhc(stage(label_smoothing=1)), ["label_smoothing: found 1", "< 1"]),
    ("Modular", lhc(stage(sharpness="a")), ['sharpness: found "a"', "0 (off)"]),
    ("Modular", lhc(stage(warmup_epochs=-1)), ["warmup_epochs: found -1", ">= 0"]),
    ("Modular", lhc(stage(distillation={"share": 1})), ["distillation.teachers: found nothing"]),
    (
        "Modular",
        lhc(stage(distillation={"teachers": ["a", "a\0b"], "share": 1})),
        ["distillation.teachers: found", "can be printed"],
    ),
    (
        "Modular",
        lhc(stage(distillation={"teachers": [], "share": 1})),
        ["distillation.teachers: found []", "1 to 16 folders"],
    ),
    ("LHC", {"pool_size": [0, 3, 3, 3, 3]}, ["pool_size[0]: found 0", ">= 1"]),
    ("LHC", {"kernel_size": [0, 3, 3, 3, 3]}, ["kernel_size[0]: found 0", ">= 1"]),
    ("LHC", {"att_embed_dim": [0, 1, 1, 1, 1]}, ["att_embed_dim[0]: found 0", ">= 1"]),
    ("LHC", {"norm_c": [1, 1, 1, 1, "1"]}, ['norm_c[4]: found "1"', "a finite number"]),
    ("LHC", '{"norm_c": [NaN, 1, 1, 1, 1]}', ["found NaN", "finite"]),
    ("LHC", '{"norm_c": [1, 1, 1, 1, -Infinity]}', ["found -Infinity", "finite"]),
    ("LHC", '{"norm_c": [1, 1, 1, 1, 1e999]}', ["found 1e999", "finite"]),
    ("LHC", '{"norm_c": [1, 1],\n "num_heads" 1}', ["line 2, column 14", "invalid JSON"]),
    ("LHC", '{"norm_c": 1, "norm_c": 2}', ["norm_c: found 2 times"]),
    ("LHC", "", ["line 1, column 1", "invalid JSON"]),
    ("Modular", {"VGG": {}}, ["VGG: found an unknown name", "ResNet34"]),
    ("Modular", {"Controller": {"about": " "}}, ['Controller.about: found " "', "a text"]),
    ("Modular", {"LHC": {"about": ["x"]}}, ["LHC.about: found", "a text"]),
    ("Modular", lhc(), ["LHC.stages: found []", "at least one stage"]),
    ("Modular", lhc({"optimizer": "sgd"}), ["LHC.stages[0].learning_rate: found nothing"]),
    ("Modular", lhc(stage(optimizer="lion")), ["LHC.stages[0].optimizer: found", '"adam"']),
    ("Modular", lhc(stage(), stage(zoom=1)), ["LHC.stages[1].zoom: found an unknown name"]),
    ("Modular", lhc(stage(epochs=0)), ["LHC.stages[0].epochs: found 0", ">= 1"]),
    ("Modular", lhc(stage(patience=0)), ["LHC.stages[0].patience: found 0", "or null"]),
    ("Modular", lhc(stage(seeds={"numpy": 1})), ["LHC.stages[0].seeds.tensorflow: found nothing"]),
    ("Modular", lhc(stage(), seeds={"numpy": 2**32}), ["LHC.seeds.numpy: found 4294967296"]),
    ("Modular", {"Controller": {"initial_scalars": [0]}}, ["initial_scalars: found [0]", "of 5"]),
    ("Data", {"source": "kaggle"}, ['source: found "kaggle"', '"sample"']),
    ("Data", {"sample_seed": 1431655765}, ["sample_seed: found 1431655765", "to 1431655764"]),
    ("Data", {"data_folder": " "}, ['data_folder: found " "', "folder"]),
    ("Data", {"imagenet_url": "ftp://x"}, ["imagenet_url: found", "https://"]),
    ("Data", {"imagenet_md5": "8caaa0"}, ["imagenet_md5: found", "32 hexadecimal"]),
    ("Data", {"backbone_weights": "vgg"}, ["backbone_weights: found", ".h5"]),
    ("Data", {"data_urls": {"x.csv": "https://x"}}, ["data_urls.x.csv: found an unknown name"]),
    ("Data", {"class_counts": {"val": [1] * 6}}, ["class_counts.val: found", "a list of 7"]),
    ("Data", {"class_counts": {"val": [0] * 7}}, ["class_counts.val: found", "not all of them 0"]),
    ("Data", {"class_counts": {"val": [-1] * 7}}, ["class_counts.val[0]: found -1", ">= 0"]),
    ("Data", {"published_models": {"LHC_Net": {"../x": "https://x"}}}, ['found "../x"', "plain"]),
    ("Evaluation", {"batch_size": 0}, ["batch_size: found 0", ">= 1"]),
    ("Evaluation", {"identity_weight": 1.5}, ["identity_weight: found 1.5", "whole"]),
    ("Evaluation", {"rotation": 3.2}, ["rotation: found 3.2", "0 to pi"]),
    ("Evaluation", {"shift": 113}, ["shift: found 113", "0 to 112"]),
    ("Evaluation", {"unseen_test": 1}, ["unseen_test: found 1", "true or false"]),
    ("Evaluation", {"crop": 0}, ["crop: found 0", "0.1 to 1"]),
    ("Runtime", {"numerics": "quick"}, ['numerics: found "quick"', '"fast"']),
    ("Runtime", {"precision": "float64"}, ['precision: found "float64"', '"bfloat16"']),
    ("Runtime", {"precision": "bfloat16"}, ['precision: found "bfloat16"', 'is "reference"']),
    ("Runtime", {"xla": 0}, ["xla: found 0", "true or false"]),
    ("Runtime", {"threads": 0}, ["threads: found 0", "or null"]),
    ("Runtime", {"image_cache_mb": -1}, ["image_cache_mb: found -1", ">= 0"]),
    ("Runtime", {"prefetch_batches": -1}, ["prefetch_batches: found -1", ">= 0"]),
    ("Runtime", {"steps_per_execution": 0}, ["steps_per_execution: found 0", ">= 1"]),
    ("Runtime", {"max_epochs": 0}, ["max_epochs: found 0", ">= 1"]),
    ("Runtime", {"max_train_images": 6}, ["max_train_images: found 6", ">= 7"]),
    ("Extra", {}, ["Extra_Settings.json: found an unknown name", "Runtime_Settings.json"]),
]


@pytest.mark.parametrize("name, content, words", BAD, ids=[f"{b[0]}-{b[2][0]}" for b in BAD])
def test_bad_input_is_one_clear_line(tmp_path, name, content, words):
    write(tmp_path, **{name: content})
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(tmp_path / f"{name}_Settings.json"))
    assert [word for word in words if word not in line] == []


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere: found no such folder"):
        load(tmp_path / "nowhere")


def test_defaults_must_be_complete(tmp_path, monkeypatch):
    write(tmp_path, Runtime={})
    copy = tmp_path / "Settings"
    shutil.copytree(str(DEFAULTS), str(copy))
    monkeypatch.setattr(module, "DEFAULTS", copy)
    assert load(copy).resolved() == load(tmp_path).resolved()
    write(copy, Evaluation={"batch_size": 32})
    with pytest.raises(UserError, match="Evaluation_Settings.json: identity_weight: found nothing"):
        load(tmp_path)
    (copy / "Evaluation_Settings.json").unlink()
    with pytest.raises(UserError, match="Evaluation_Settings.json: found nothing"):
        load(tmp_path)


def test_heads_are_checked_at_the_size_in_use(tmp_path):
    write(tmp_path, Training={"target_size": 48})
    with pytest.raises(UserError, match=r"num_heads\[2\]: found 7, allowed: 1, 2, 3, 4, 6, 9, 12"):
        load(tmp_path)
    write(tmp_path, LHC={"num_heads": [8, 8, 4, 3, 1], "pool_size": [3, 3, 3, 3, 1]})
    assert load(tmp_path).size == 48


@pytest.mark.parametrize(
    "size, expected",
    [(224, [56, 56, 28, 14, 7]), (48, [12, 12, 6, 3, 2]), (33, [9, 9, 5, 3, 2])],
)
def test_resolutions(size, expected):
    assert resolutions(size) == expected


def test_resolutions_follow_the_convolutions():
    for size in range(32, 300):
        stem = (size + 2 * 3 - 7) // 2 + 1
        sides = [(stem + 2 * 1 - 3) // 2 + 1]
        sides.append(sides[0])
        for _ in range(3):
            sides.append((sides[-1] + 2 * 1 - 3) // 2 + 1)
        assert resolutions(size) == sides


def test_a_folder_holds_only_what_differs(tmp_path):
    write(
        tmp_path,
        Training={"seed": 7},
        Modular=lhc(stage(epochs=2), stage(epochs=5)),
        Data={"class_counts": {"val": [1] * 7}},
        Runtime="\ufeff" + json.dumps({"max_epochs": 3}),
    )
    settings, default = load(tmp_path), load(DEFAULTS)
    assert settings.training == {**default.training, "seed": 7}
    assert settings.lhc == default.lhc
    assert settings.modular["LHC"]["seeds"] == default.modular["LHC"]["seeds"]
    assert [s["epochs"] for s in settings.modular["LHC"]["stages"]] == [2, 3]
    assert [s["epochs"] for s in settings.modular["ResNet34"]["stages"]] == [3, 3, 3]
    counts = settings.data["class_counts"]
    assert counts == {**default.data["class_counts"], "val": [1] * 7}
    assert settings.folder == tmp_path


def test_the_default_name_means_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load().folder == DEFAULTS
    (tmp_path / "Settings").mkdir()
    write(tmp_path / "Settings", Training={"seed": 9})
    assert load().training["seed"] == 9


def test_reduced_precision_needs_fast_numerics(tmp_path):
    write(tmp_path, Runtime={"numerics": "fast", "precision": "bfloat16"})
    assert load(tmp_path).runtime["precision"] == "bfloat16"


ENTRY = {"name": "here", "value": 1.5}


@pytest.mark.parametrize(
    "table, words",
    [
        ([1], ["[0]: found 1", "an object with at least"]),
        ([{"value": 1.5}], ["[0].name: found nothing"]),
        ([ENTRY, {"name": "there"}], ["[1].value: found nothing"]),
        ([{**ENTRY, "value": "1.5"}], ["[0].value: found", "a number"]),
        ([{**ENTRY, "value": 1e300}], ["[0].value: found 1e+300", "float32"]),
        ([{**ENTRY, "expected": 1}], ["[0].expected: found 1", "true or false"]),
        ([{**ENTRY, "cuda": 11}], ["[0].cuda: found 11", "a text"]),
        ([{**ENTRY, "gpus": "A"}], ["[0].gpus: found", "a list of texts"]),
        ([{**ENTRY, "gpus": [1]}], ["[0].gpus[0]: found 1", "a text"]),
        ([{**ENTRY, "settings": 5}], ["[0].settings: found 5", "a settings folder"]),
        ([{**ENTRY, "settings": "x" * 3000}], ["[0].settings: found", "a settings folder"]),
    ],
)
def test_known_results_are_checked(tmp_path, table, words):
    path = tmp_path / "Known_Results.json"
    path.write_text(json.dumps([ENTRY]))
    assert load(tmp_path).known_results == [ENTRY]
    path.write_text(json.dumps(table))
    with pytest.raises(UserError, match="Known_Results.json: ") as caught:
        load(tmp_path)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    "content, words",
    [
        (b"[" * 100_000, "brackets within each other"),
        (b'{"a":' * 100_000, "brackets within each other"),
        (b"[" * 21 + b"1" + b"]" * 21, "brackets within each other"),
        (b"1" * 5000, "at most 18 digits"),
        (b"-" + b"1" * 18, "at most 18 digits"),
        (b"\xff\xfe{\x00", "expected text in UTF-8"),
        (b" " * (1 << 21), "found more than 1048576 bytes"),
    ],
    ids=["lists", "objects", "a few too deep", "digits", "a few too many", "UTF-16", "large"],
)
@pytest.mark.parametrize("name", ["Runtime_Settings.json", "Known_Results.json"])
def test_files_that_no_parser_should_see(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: .*{words}"):
        load(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(str(tmp_path / "Runtime_Settings.json"))
    with pytest.raises(UserError, match="something else than a file"):
        load(tmp_path)


def test_a_folder_without_settings_is_no_settings_folder(tmp_path, monkeypatch):
    """The Quickstart's output bears the name of its settings; it was taken for the defaults."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Quickstart" / "Data").mkdir(parents=True)
    with pytest.raises(UserError, match="Quickstart: found no settings.*you mean .*Settings/Quick"):
        load("Quickstart")
    with pytest.raises(UserError, match="fast: found no such folder.*did you mean .*Settings/Fast"):
        load("fast")
    with pytest.raises(UserError, match="Data_Settings.json: found a file, expected the folder"):
        load(DEFAULTS / "Data_Settings.json")
    for name in ("no\0such", "\ud800", "x" * 3000):
        with pytest.raises(UserError, match="could not be read"):
            load(name)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may read all")
def test_a_folder_that_may_not_be_read(tmp_path):
    tmp_path.chmod(0)
    try:
        with pytest.raises(UserError, match="could not be read: Permission denied"):
            load(tmp_path)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    "name", [".Data_Settings.json", "Data_Settings.JSON", "Data_Settings.json.txt", ".json"]
)
def test_names_that_are_not_read_are_told(tmp_path, name):
    write(tmp_path, Runtime={})
    (tmp_path / "Data_Settings.json.bak").write_text("an editor's, left alone")
    assert load(tmp_path)
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"{re.escape(name)}: found a name that is not read"):
        load(tmp_path)


@pytest.mark.parametrize(
    "file, key", [*(("Data", key) for key in FOLDERS), ("Runtime", "tensorboard")]
)
def test_folders_of_the_program_are_refused(tmp_path, monkeypatch, file, key):
    """Else a settings folder from elsewhere could overwrite code, or put a module beside it."""
    monkeypatch.chdir(PROGRAM)
    (tmp_path / "link").symlink_to(PROGRAM / "src")
    refused = [".", "..", "/", "src", "src/fast", "SRC/x", "Data/../src", "Settings/Quickstart"]
    refused += [".git/hooks", ".venv/lib", "benchmarks", str(PROGRAM), str(tmp_path / "link")]
    refused += ["\u017frc"]  # with a long s, which macOS takes for src
    for folder in refused:
        write(tmp_path, **{file: {key: folder}})
        with pytest.raises(UserError, match=f"{key}: found .*allowed: folders that hold nothing"):
            load(tmp_path)
    for folder in ("Data", "Quickstart/Models", "srcs", "../Elsewhere", str(tmp_path / "src")):
        write(tmp_path, **{file: {key: folder}})
        assert getattr(load(tmp_path), file.lower())[key] == folder


@pytest.mark.parametrize("key", [*FOLDERS, "backbone_weights"])
def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, key):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    write(tmp_path, Data={key: "~/fer/x.h5"})
    assert load(tmp_path).data[key] == str(tmp_path / "home" / "fer" / "x.h5")
    write(tmp_path, Data={key: "a~b/x.h5"})
    assert load(tmp_path).data[key] == "a~b/x.h5"
    write(tmp_path, Data={key: "~no.such.user/x.h5"})
    with pytest.raises(UserError, match=f"{key}: found .*home folder"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["a\0b.h5", "\ud800.h5", "a\nb.h5", "x" * 300 + ".h5", "x/" * 999])
@pytest.mark.parametrize("key", ["data_folder", "backbone_weights"])
def test_paths_that_no_file_can_have(tmp_path, key, text):
    write(tmp_path, Data={key: text})
    with pytest.raises(UserError, match=f"Data_Settings.json: {key}: found") as caught:
        load(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_the_system_cannot_write(tmp_path):
    """Under LANG=C in some cron and docker jobs."""
    write(tmp_path, Data={"data_folder": "\u6570\u636e"})
    code = "import sys; from src.settings import load; load(sys.argv[1])"
    plain = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=str(DEFAULTS.parent),
        env={**os.environ, **plain},
        stderr=subprocess.PIPE,
    )
    assert b"allowed: names in this system's encoding, ascii; PYTHONUTF8=1" in done.stderr


ADDRESSES = {  # address: whether it is allowed
    "https://www.example.org/a?dl=1": True,
    "https://[::1]:8000/a": True,
    "http://localhost:8000/a": True,
    "http://127.0.0.1:24999/a": True,
    "http://[::1]/a": True,
    "http://www.example.org/a": False,
    "http://localhost.example.org/a": False,
    "http://127.0.0.1.example.org/a": False,
    "http://127.0.0.1@example.org/a": False,
    "https://": False,
    "https://x y": False,
    "https://x\n": False,
    "file:///etc/passwd": False,
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_are_https_or_on_this_machine(tmp_path, address):
    write(tmp_path, Data={"data_urls": {"data_val.csv": address}})
    if ADDRESSES[address]:
        assert load(tmp_path).data["data_urls"]["data_val.csv"] == address
    else:
        with pytest.raises(UserError, match="data_val.csv: found .*starts with https://"):
            load(tmp_path)


@pytest.mark.parametrize(
    "name, allowed",
    [
        ("checkpoint", True),
        ("Mine_2.index", True),
        ("Mine-2.data-00000-of-00001", True),
        ("tqdm.py", False),
        ("sitecustomize.py.index", False),
        ("x.index\n", False),
        (".index", False),
        ("a.data-0-of-1", False),
    ],
)
def test_downloads_have_the_names_of_what_they_are(tmp_path, name, allowed):
    write(tmp_path, Data={"published_models": {"LHC_Net": {name: "https://x"}}})
    if allowed:
        assert name in load(tmp_path).data["published_models"]["LHC_Net"]
    else:
        with pytest.raises(UserError, match="plain file names of a checkpoint"):
            load(tmp_path)


HUGE = [10**9, 10**17]
NUMBERS = [  # a file's name and a function that makes its content of one number
    *[("Training", lambda n, k=key: {k: [n] * 3}) for key in ("batch_size", "patience")],
    ("Training", lambda n: {"learning_rate": [n, 1, 1]}),
    ("Training", lambda n: {"target_size": n}),
    *[
        ("LHC", lambda n, k=key: {k: [n] * 5})
        for key in ("num_heads", "att_embed_dim", "kernel_size", "pool_size", "norm_c")
    ],
    *[
        ("Modular", lambda n, k=key: lhc(stage(**{k: n})))
        for key in ("batch_size", "epochs", "patience", "learning_rate")
    ],
    ("Modular", lambda n: {"Controller": {"initial_scalars": [n] * 5}}),
    ("Data", lambda n: {"class_counts": {"val": [n] * 7}}),
    *[
        ("Evaluation", lambda n, k=key: {k: n})
        for key in ("batch_size", "identity_weight", "shift", "rotation", "crop")
    ],
    *[
        ("Runtime", lambda n, k=key: {k: n})
        for key, value in load(DEFAULTS).runtime.items()
        if type(value) is int or value is None
    ],
]


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("name, content", NUMBERS)
def test_every_number_has_a_maximum(tmp_path, name, content, number):
    write(tmp_path, **{name: content(number)})
    with pytest.raises(UserError, match=f"found {number}, allowed: "):
        load(tmp_path)


def test_resolved_settings_rebuild(tmp_path):
    settings = load(write(tmp_path, Training={"seed": 3}))
    again = Settings(json.loads(json.dumps(settings.resolved())))
    assert again.resolved() == settings.resolved()
    assert again.recipe("LHC_Net") == settings.recipe("LHC_Net")
    # a run's stored settings are themselves a valid folder
    write(tmp_path, Modular=settings.modular)
    assert load(tmp_path).resolved() == settings.resolved()


def test_what_is_handed_out_is_a_copy():
    settings = load(DEFAULTS)
    settings.recipe("LHC")["stages"][0]["epochs"] = -1
    settings.resolved()["training"]["seed"] = -1
    assert settings.resolved() == load(DEFAULTS).resolved()


def abouts(folder):
    """Return {recipe: its "about"} of the files in a settings folder."""
    read = {
        name: json.loads((folder / f"{name}_Settings.json").read_text(encoding="utf-8"))
        for name in ("Training", "Modular")
    }
    recipes = {"LHC_Net": read["Training"], **read["Modular"]}
    return {name: recipe.get("about", "") for name, recipe in recipes.items()}


@pytest.mark.parametrize("folder", [DEFAULTS, DEFAULTS / "Quickstart"], ids=lambda f: f.name)
def test_each_recipe_says_what_to_expect_and_what_it_costs(folder):
    found = abouts(folder)
    assert set(found) == {"check_rep", "ResNet34", "LHC", "Controller", "LHC_Net"}
    for text in found.values():
        assert "Expected: " in text and "Cost: " in text


def test_what_a_recipe_is_about_is_no_part_of_it(tmp_path):
    about = {"about": "Expected: nothing."}
    write(tmp_path, Training=about, Modular={"LHC": about, "Controller": about, "check_rep": about})
    assert load(tmp_path).resolved() == load(DEFAULTS).resolved()
    assert "about" not in json.dumps(load(DEFAULTS).resolved())
    for name in ("check_rep", "ResNet34", "LHC", "Controller", "LHC_Net"):
        assert "about" not in load(tmp_path).recipe(name)


def test_the_fast_folder_is_the_fast_one():
    settings = load(DEFAULTS / "Fast")
    assert (settings.runtime["numerics"], settings.runtime["precision"]) == ("fast", "bfloat16")
    assert settings.modular == load(DEFAULTS).modular


def test_paths():
    settings = load(DEFAULTS)
    assert settings.path("data_folder").name == settings.data["data_folder"]
    assert settings.size == 224


PLAIN = dict(
    rotation_range=0,
    width_shift_range=0,
    height_shift_range=0,
    shear_range=0,
    zoom_range=0,
    horizontal_flip=False,
    epochs=300,
    seeds=None,
    generator_seed=None,
    mixup=0,
    random_erasing=0,
    schedule="constant",
    warmup_epochs=0,
    momentum=0,
    nesterov=False,
    weight_decay=0,
    sharpness=0,
    ema=0,
    label_smoothing=0,
    distillation=None,
)
FIRST = dict(PLAIN, rotation_range=30, horizontal_flip=True)
SECOND = dict(
    PLAIN,
    rotation_range=10,
    width_shift_range=0.1,
    height_shift_range=0.1,
    zoom_range=0.1,
    horizontal_flip=True,
)


def same(*seeds):
    return dict(zip(("tensorflow", "python", "numpy"), seeds))


def fit(base, optimizer, learning_rate, batch_size, patience, **changes):
    step = dict(optimizer=optimizer, learning_rate=learning_rate, batch_size=batch_size)
    return dict(base, patience=patience, **{**step, **changes})


REFERENCE = {  # REFERENCE.md section 6
    "check_rep": (
        same(5678, 9101112, 131415),
        [dict(fit(FIRST, "adam", 1e-4, 48, None), epochs=1)],
    ),
    "ResNet34": (
        same(5678, 9101112, 131415),
        [
            fit(FIRST, "adam", 1e-4, 48, 30),
            fit(SECOND, "sgd", 0.01, 64, 10),
            dict(fit(PLAIN, "sgd", 0.01, 64, 5), seeds=same(1115, 1115, 1115)),
        ],
    ),
    "LHC": (same(0, 0, 0), [fit(PLAIN, "sgd", 0.01, 64, 3)]),
    "Controller": (same(0, 0, 0), [fit(PLAIN, "adam", 1e-4, 32, 1)]),
    "LHC_Net": (
        same(1, 1, 1),
        [
            dict(fit(FIRST, "adam", 1e-4, 48, 8), generator_seed=2),
            dict(fit(SECOND, "sgd", 0.01, 64, 8), generator_seed=2),
            dict(fit(PLAIN, "sgd", 0.01, 64, 8), generator_seed=3),
        ],
    ),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_the_default_recipes_are_the_reference(name):
    recipe = load(DEFAULTS).recipe(name)
    seeds, stages = REFERENCE[name]
    assert recipe["seeds"] == seeds
    assert recipe["stages"] == stages
    if name == "Controller":
        assert recipe["initial_scalars"] == [0, 0, 0, -1, -0.5]


def test_another_seed_is_another_run():
    loaded = load(DEFAULTS)
    other = loaded.with_seed(7)
    for name in ("ResNet34", "LHC", "Controller", "Control"):
        assert other.recipe(name)["seeds"] == same(7, 7, 7)
    assert other.recipe("ResNet34")["stages"][2]["seeds"] == same(7, 7, 7)
    assert other.recipe("LHC_Net")["stages"][0]["generator_seed"] == 8
    assert other.path("models_folder") == loaded.path("models_folder") / "seed7"
    assert other.path("results_folder") == loaded.path("results_folder") / "seed7"
    assert other.path("data_folder") == loaded.path("data_folder")
    assert other.runtime["tensorboard"] is None
    assert loaded.resolved() == load(DEFAULTS).resolved()  # which stays as it was
    loaded.runtime["tensorboard"] = "Curves"
    assert loaded.with_seed(7).runtime["tensorboard"] == os.path.join("Curves", "seed7")


@pytest.mark.parametrize("name", sorted(p.name for p in DEFAULTS.iterdir() if p.is_dir()))
def test_the_settings_that_come_along_are_sound(name):
    loaded = load(DEFAULTS / name)
    for recipe in ("check_rep", "ResNet34", "LHC", "Controller", "LHC_Net"):
        assert loaded.recipe(recipe)["stages"]


def test_teachers_may_lie_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    taught = stage(distillation={"teachers": ["~/a", "b"], "share": 0.5})
    loaded = load(write(tmp_path, Modular=lhc(taught)))
    teachers = loaded.recipe("LHC")["stages"][0]["distillation"]["teachers"]
    assert teachers == [str(tmp_path / "a"), "b"]


def test_the_control_is_trained_as_lhc():
    loaded = load(DEFAULTS)
    assert loaded.recipe("Control") == loaded.recipe("LHC")


def test_reading_settings_needs_no_tensorflow():
    code = "import sys, src.cli; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.call([sys.executable, "-c", code], cwd=str(DEFAULTS.parent)) == 0
