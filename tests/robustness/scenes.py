"""The kinds of work that kills.py and races.py disturb: real scripts on drawn data.

A scene has a folder `work` where something is already when its script begins: the older result of
the same script, made with other settings or damaged. What lies there afterwards is the older or
the newer one, each file whole, whatever happened between.
"""

import contextlib
import functools
import hashlib
import importlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.record import cores, cpu, versions  # noqa: E402
from src import dataset, runs, settings  # noqa: E402
from src.errors import UserError  # noqa: E402
from src.etl import NOTE, SUBFOLDER  # noqa: E402
from tests.loopback import serving  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
POLL = 0.004  # seconds between two looks at a process
TIMES = ["seconds", "images_per_second"]  # of history.csv, which no two runs share
SHORT = {"optimizer": "sgd", "learning_rate": 1e-3, "batch_size": 14, "epochs": 3}
AUGMENTED = dict(SHORT, rotation_range=20, width_shift_range=0.1, horizontal_flip=True)


class Ended:
    """How a process ended: exit code, seconds, events, what it printed, its number."""

    def __init__(self, code, seconds, events, text, pid):
        self.code, self.seconds, self.events, self.text, self.pid = code, seconds, events, text, pid

    @property
    def killed(self):
        return self.code == -signal.SIGKILL


class Forked:
    """A script that runs in a copy of this process; otherwise as a Popen."""

    def __init__(self, words, output):
        self.process = multiprocessing.get_context("fork").Process(
            target=self.act, args=(words, output)
        )
        self.process.start()
        self.pid = self.process.pid

    @staticmethod
    def act(words, output):
        os.setsid()
        os.chdir(str(ROOT))
        os.environ["NO_PROXY"] = "127.0.0.1"
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        sys.argv = words
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")

    def poll(self):
        return self.process.exitcode

    def wait(self):
        self.process.join()
        return self.process.exitcode


class Scene:
    """One kind of work; see the module."""

    script = ()  # what Python runs, and its words
    counts = {"train": [4] * 7, "val": [2] * 7, "test": [2] * 7}
    changes = {}  # {settings file: content}
    imports = ()  # what takes seconds to import
    model = None  # the name of a training whose complete run has to be there at every moment

    def __init__(self, root):
        self.root, self.work, self.folder = root, root / "work", root / "Settings"
        self.work.mkdir(parents=True)
        for module in self.imports:
            importlib.import_module(module)
        self.open = contextlib.ExitStack()
        self.write_settings()
        self.before()
        self.old = self.found()
        shutil.copytree(str(self.work), str(root / "start"))
        self.whole = self.run()
        if self.whole.code:
            raise RuntimeError(self.whole.text)
        self.new = self.found()
        self.known = {}
        for path, held in [*self.old.items(), *self.new.items()]:
            self.known.setdefault(path.replace(".previous/", "/"), set()).add(held)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.open.close()

    def before(self):
        """Make what is there when the script begins, and set `script`."""
        raise NotImplementedError

    def write_settings(self, **changes):
        """Write the settings folder: nets for 32 pixels, all folders within `work`."""
        keys = ("data", "images", "models", "downloaded_models", "results")
        data = {f"{key}_folder": str(self.work / key) for key in keys}
        data.update(source="sample", backbone_weights="random", class_counts=self.counts)
        files = {
            "Data": data,
            "Training": {"target_size": 32},
            "LHC": {"num_heads": [4, 2, 2, 2, 1], "att_embed_dim": [4] * 5},
            "Evaluation": {"shift": 2},
        }
        self.folder.mkdir(exist_ok=True)
        for name in {**files, **self.changes, **changes}:
            values = {}
            for part in (files, self.changes, changes):
                values.update(part.get(name, {}))
            (self.folder / f"{name}_Settings.json").write_text(json.dumps(values))

    def reset(self):
        """Put what was there before into `work`."""
        shutil.rmtree(str(self.work))
        shutil.copytree(str(self.root / "start"), str(self.work))

    def start(self, *script, log="log", fork=False):
        """Start a script, by default the scene's own; it prints to a file.

        fork: in a copy of this process, which has imported already what takes seconds.
        """
        words = [*(script or self.script), "--settings", str(self.folder)]
        with open(self.root / log, "wb") as output:
            if fork:
                return Forked(words, output)
            return subprocess.Popen(
                [sys.executable, *words],
                stdout=output,
                stderr=output,
                cwd=str(ROOT),
                env=dict(os.environ, NO_PROXY="127.0.0.1"),
                start_new_session=True,
            )

    def run(self, *script, until=None, fork=False):
        """Run a script, kill it once `until(seconds, events)`; return how it Ended."""
        process, start = self.start(*script, fork=fork), time.perf_counter()
        events, before = 0, None
        while process.poll() is None:
            now = self._signs()
            events += before is not None and now != before
            before = now
            if until is not None and until(time.perf_counter() - start, events):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            time.sleep(POLL)
        return self.ended(process, time.perf_counter() - start, events)

    def make(self, *script):
        """Run a script that has to succeed."""
        ended = self.run(*script, fork=True)
        if ended.code:
            raise RuntimeError(f"{' '.join(script)}: {ended.text[-2000:]}")
        return ended

    def ended(self, process, seconds=None, events=None, log="log"):
        code = process.wait()
        text = (self.root / log).read_text(errors="replace")
        return Ended(code, seconds, events, text, process.pid)

    def _signs(self):
        """Return what shows that a process went on: the length of its output, names of files."""
        names = [names for _, _, names in os.walk(str(self.work))]
        return (self.root / "log").stat().st_size, names

    def found(self):
        """Return {path: what it holds} of all files in `work`."""
        paths = sorted(path for path in self.work.rglob("*") if path.is_file())
        return {path.relative_to(self.work).as_posix(): content(path) for path in paths}

    def faults(self):
        """Return the kinds of faults in `work` after a kill: {"lost_models": [what], ...}."""
        faults, found = {"lost_models": [], "wrong_files": []}, self.found()
        for path, held in found.items():
            if path.endswith((".part", ".part.json", ".lock")):
                continue
            between = ".unfinished/" in path  # there, each file only has to be whole
            known = self.known.get(path.replace(".previous/", "/"), ())
            if isinstance(held, Broken) or not (between or held in known):
                faults["wrong_files"].append(f"{path}: {held}")
        faults["wrong_files"] += self.mixed(found)
        if self.model and not self.has_model(found):
            faults["lost_models"].append(self.model)
        return faults

    def mixed(self, found):
        """Return what of `found` does not belong together, though each file is right."""
        return []

    def has_model(self, found):
        """Return whether there is a complete run, with weights that have their digest."""
        try:
            folder = runs.complete_folder(settings.load(str(self.folder)), self.model)
        except UserError:
            return False
        record = json.loads((folder / runs.RECORD).read_text())
        held = found[(folder / runs.WEIGHTS).relative_to(self.work).as_posix()]
        return record["complete"] and not isinstance(held, Broken)

    def difference(self):
        """Return the files {"different" from an undisturbed run's, or "left_over" beside them}.

        The run before is the older one, or the newer one where it was trained twice.
        """
        found, new = (
            {path: held for path, held in files.items() if ".previous/" not in path}
            for files in (self.found(), self.new)
        )
        return {
            "different": sorted(path for path in new if new[path] != found.get(path)),
            "left_over": sorted(set(found) - set(new)),
        }


class Broken(str):
    """Why a file is broken."""


def content(path):
    """Return what a file holds, apart from times, in a form to compare; Broken if it is."""
    known = path.stat()
    return _content(path, known.st_ino, known.st_size, known.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _content(path, *unchanged):
    try:
        if path.name == runs.WEIGHTS:
            from src import weights  # with TensorFlow, which not all scenes need

            arrays, architecture = weights.read_h5(path)  # which checks their digest
            return digest(*(arrays[name] for name in sorted(arrays))) + str(architecture)
        if path.name == runs.HISTORY:
            return pd.read_csv(path).drop(columns=TIMES).to_csv()
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                return digest(*(arrays[name] for name in sorted(arrays.files)))
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
    except Exception as error:
        return Broken(f"{type(error).__name__}: {error}")
    return digest(path.read_bytes())


def digest(*parts):
    """Return the SHA-256 of bytes or arrays."""
    found = hashlib.sha256()
    for part in parts:
        found.update(np.ascontiguousarray(part))
    return found.hexdigest()


def small(script):
    return ("tests/robustness/small.py", script)


class Training(Scene):
    """ResNet34_Train.py with a small net in the place of ResNet34, after an older training."""

    model = "ResNet34"
    imports = ("src.training", "src.networks")
    script = small("ResNet34_Train.py")
    stages = [dict(AUGMENTED, optimizer="adam", patience=1), AUGMENTED]

    def before(self):
        for script in ("Download_Data.py", "ETL.py"):
            self.make(script)
        self.write_settings(Modular={"ResNet34": {"stages": [dict(SHORT, epochs=1)]}})
        self.make(*self.script)
        self.write_settings(Modular={"ResNet34": {"stages": self.stages}})


class ResNet34(Training):
    """ResNet34_Train.py as it is, after an older training."""

    script = ("ResNet34_Train.py",)
    stages = [dict(AUGMENTED, optimizer="adam", epochs=2), dict(AUGMENTED, epochs=2)]


class Etl(Scene):
    """ETL.py, where JPEGs of another size are."""

    script = ("ETL.py",)
    counts = dict(Scene.counts, train=[30] * 7)

    def before(self):
        self.make("Download_Data.py")
        self.make(*self.script)
        self.write_settings(Training={"target_size": 96})

    def mixed(self, found):
        """Every JPEG is what the note beside it tells of."""
        note = f"images/{SUBFOLDER}/{NOTE}"
        told = self.new if found.get(note) == self.new[note] else self.old
        return [
            f"{path}: not what {note} tells of"
            for path, held in found.items()
            if path.endswith(".jpeg") and held != told.get(path)
        ]


class Import(Scene):
    """Download_Data.py --from Kaggle's file --force, where CSVs of other rows are."""

    counts = dict(Scene.counts, train=[20] * 7)

    def before(self):
        self.make("Download_Data.py")
        drawn = dataset.draw({"sample_seed": 2, "class_counts": self.counts})
        path = self.root / "fer2013.csv"
        with open(path, "w") as file:
            file.write("emotion,pixels,Usage\n")
            for split, (images, labels) in drawn.items():
                for image, label in zip(images, labels):
                    pixels = " ".join(map(str, image.ravel()))
                    file.write(f"{label},{pixels},{dataset.USAGES[split]}\n")
        self.script = ("Download_Data.py", "--from", str(path), "--force")


class Download(Scene):
    """Download_Data.py from a slow server on this machine, where one CSV is a damaged one."""

    script = ("Download_Data.py",)
    counts = Import.counts

    def before(self):
        self.make(*self.script)
        paths = [dataset.csv_path(self.work / "data", split) for split in dataset.SPLITS]
        served = {f"/{path.name}": path.read_bytes() for path in paths}
        server = self.open.enter_context(serving(served, pause=0.03))
        urls = {path.name: f"{server.address}/{path.name}" for path in paths}
        data = dict(source="download", data_urls=urls, fer2013_sha256=None)
        self.write_settings(Data=data)
        shutil.rmtree(str(self.work / "data"))
        paths[0].parent.mkdir()
        paths[0].write_bytes(served["/data_train.csv"][:-99])


# In a process of its own: this one stays fit to be copied.
CHECKPOINT = """
import sys
import tensorflow
values = tensorflow.random.stateless_uniform([300_000], seed=[1, 2])
tensorflow.train.Checkpoint(kernel=tensorflow.Variable(values)).write(sys.argv[1])
"""


class Models(Scene):
    """Download_Models.py from a slow server on this machine, where one file is a damaged one."""

    script = ("Download_Models.py",)

    def before(self):
        urls, served = {}, {}
        for model, name in (("LHC_Net", "LHC_Net"), ("LHC_NetC", "LHC_Net_Controller")):
            prefix = self.root / "published" / model / name
            command = [sys.executable, "-c", CHECKPOINT, str(prefix)]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            (prefix.parent / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
            files = {path.name: path.read_bytes() for path in prefix.parent.iterdir()}
            served.update({f"/{model}/{name}": body for name, body in files.items()})
            urls[model] = dict.fromkeys(files)
        server = self.open.enter_context(serving(served, pause=0.03))
        for model, files in urls.items():
            files.update({name: f"{server.address}/{model}/{name}" for name in files})
        self.write_settings(Data={"published_models": urls})
        damaged = self.work / "downloaded_models" / "LHC_Net" / "LHC_Net.data-00000-of-00001"
        damaged.parent.mkdir(parents=True)
        damaged.write_bytes(served[f"/LHC_Net/{damaged.name}"][:-1] + b"?")


class Evaluation(Scene):
    """LHC_Net_Eval.py of a small net, where the results of other views are."""

    model = "LHC_Net"
    imports = ("src.training", "src.networks", "src.evaluation")
    script = small("LHC_Net_Eval.py")
    changes = {"Runtime": {"max_epochs": 1}}

    def before(self):
        for script in (("Download_Data.py",), ("ETL.py",), small("LHC_Net_Train.py"), self.script):
            self.make(*script)
        self.write_settings(Evaluation={"shift": 1})


KINDS = {
    "training": Training,
    "resnet34": ResNet34,
    "etl": Etl,
    "import": Import,
    "download": Download,
    "models": Models,
    "evaluation": Evaluation,
}


def add_options(parser):
    """Add what kills.py and races.py have in common to their command lines."""
    parser.add_argument("--kind", action="append", choices=KINDS, help="default: all of them")
    parser.add_argument("--seed", type=int, default=1, help="of all random moments")
    parser.add_argument("--save", action="store_true", help="write the counts to results/")


def play(name, about, counted, options, disturb, times):
    """Disturb the kinds of work that the options name; return an exit code, 0 if all was well.

    disturb: a function (scene, times, seed) that returns counts; those `counted` should be 0.
    """
    faults = 0
    for kind in options.kind or KINDS:
        with scene(kind) as made:
            row = {"kind": kind, "python": "{}.{}".format(*sys.version_info)}
            row.update(disturb(made, times, options.seed))
        print(row, flush=True)
        faults += sum(row[key] for key in counted)
        if options.save:
            save(name, about, options.seed, row)
    return int(faults > 0)


def save(name, about, seed, row):
    """Put a row into results/NAME.json, in the place of one of the same kind and Python."""
    path = RESULTS / f"{name}.json"
    document = {
        "about": about,
        "versions": {},
        "machine": {"cpu": cpu(), "cores": cores()},
        "seed": seed,
        "rows": [],
    }
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if all(before[key] == document[key] for key in ("about", "machine", "seed")):
            document = before
    document["versions"].setdefault(row["python"], {}).update(versions("tensorflow"))
    same = ("kind", "python")
    document["rows"] = [
        other for other in document["rows"] if any(other[key] != row[key] for key in same)
    ]
    document["rows"].append(row)
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def scene(kind):
    """Make the scene of a kind in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder, KINDS[kind](Path(folder)) as made:
        yield made
