"""The settings: JSON files read, merged over the defaults, checked, and completed.

`Settings/` beside this package holds every key; any other folder may hold only what differs:
objects merge key by key, lists are replaced whole. `settings_schema.json` says which keys, types
and ranges are allowed; the checks that need more than one value are in `_check`. Whatever is
wrong becomes a one-line `UserError` naming file, key, what was found and what is allowed.

Settings may come from others, so they decide what the scripts compute, never what they run: files
get fixed names (settings_schema.json), and no folder lies among the program's files (`_check`).
"""

import copy
import json
import os
from pathlib import Path

from src import strict_json
from src.errors import UserError

DEFAULTS = Path(__file__).resolve().parent.parent / "Settings"
FILES = {
    "training": "Training_Settings.json",
    "lhc": "LHC_Settings.json",
    "modular": "Modular_Settings.json",
    "data": "Data_Settings.json",
    "evaluation": "Evaluation_Settings.json",
    "runtime": "Runtime_Settings.json",
}
FOLDERS = (
    "data_folder",
    "images_folder",
    "models_folder",
    "downloaded_models_folder",
    "results_folder",
)
PROGRAM = DEFAULTS.parent
PROGRAM_FOLDERS = ("src", "benchmarks", "settings", "__pycache__")
KNOWN_RESULTS = "Known_Results.json"  # what check_rep gave elsewhere: a table, not a setting
NO_AUGMENTATION = {
    "rotation_range": 0,
    "width_shift_range": 0,
    "height_shift_range": 0,
    "shear_range": 0,
    "zoom_range": 0,
    "horizontal_flip": False,
}
# What a stage may ask for beyond the paper's: of its pictures (src/mixing.py) and of its steps
# (src/descent.py).
PLAIN_PICTURES = {"mixup": 0, "random_erasing": 0}
PLAIN_STEPS = {
    "schedule": "constant",
    "warmup_epochs": 0,
    "momentum": 0,
    "nesterov": False,
    "weight_decay": 0,
    "sharpness": 0,
    "ema": 0,
    "label_smoothing": 0,
    "distillation": None,
}
# What a stage has where it leaves a key out; its epochs are then "max_epochs".
STAGE_DEFAULTS = {
    **NO_AUGMENTATION,
    **PLAIN_PICTURES,
    **PLAIN_STEPS,
    **dict.fromkeys(("patience", "seeds", "generator_seed")),
}

SCHEMA = json.loads(Path(__file__).with_name("settings_schema.json").read_text(encoding="utf-8"))
LARGEST_SEED = SCHEMA["definitions"]["generator_seed"]["maximum"]  # of all kinds of seeds


class Settings:
    """Checked settings as plain dicts: training, lhc, modular, data, evaluation, runtime.

    `values` is what `resolved` returns, so a run's stored settings rebuild the object.
    """

    def __init__(self, values, folder=DEFAULTS, known_results=(), all_models=None):
        self.folder = Path(folder)
        self.known_results = list(known_results)
        self._all_models = all_models
        for name in FILES:
            setattr(self, name, copy.deepcopy(values[name]))
        self.training.pop("about", None)  # it is for readers of the file, and no part of a run
        for recipe in self.modular.values():
            recipe.pop("about", None)
            recipe["stages"] = [self._stage(stage) for stage in recipe["stages"]]

    @property
    def size(self):
        """Height and width of the net's input in pixels."""
        return self.training["target_size"]

    @property
    def threads(self):
        """How many threads work at a time: what the settings say, or one a core."""
        return self.runtime["threads"] or os.cpu_count() or 1

    def path(self, key):
        """Return a folder of Data_Settings.json, such as "data_folder", as a Path."""
        return Path(self.data[key])

    @property
    def all_models(self):
        """The models folder of all seeds, where what they share is kept."""
        return self._all_models or self.path("models_folder")

    def resolved(self):
        """Return every setting, ready for json.dump."""
        return {name: copy.deepcopy(getattr(self, name)) for name in FILES}

    def recipe(self, name):
        """Return {"seeds", "stages"} of a training step (REFERENCE.md section 6).

        name: check_rep, ResNet34, LHC, Controller (has "initial_scalars" too), Control (LHC's) or
        LHC_Net, whose three stages are those of Training_Settings.json.
        """
        if name == "Control":
            name = "LHC"
        if name != "LHC_Net":
            return copy.deepcopy(self.modular[name])
        training, stages = self.training, []
        for i, optimizer in enumerate(("adam", "sgd", "sgd")):
            stage = {key: training[key][i] for key in ("learning_rate", "batch_size", "patience")}
            if i < 2:  # the third stage is trained without augmentation
                stage.update({key: training[key][i] for key in NO_AUGMENTATION})
            seed = training["seed"] + (1, 1, 2)[i]
            stages.append(self._stage({"optimizer": optimizer, "generator_seed": seed, **stage}))
        seeds = dict.fromkeys(("tensorflow", "python", "numpy"), training["seed"])
        return {"seeds": seeds, "stages": stages}

    def with_seed(self, seed):
        """Return the same settings for another run: its seeds, and folders of its own for it.

        Every seed of the recipes becomes `seed`; models, results and TensorBoard's curves go to
        seed<seed>/ in theirs.
        """
        values = self.resolved()
        values["training"]["seed"] = seed
        for recipe in values["modular"].values():
            seeds = dict.fromkeys(recipe["seeds"], seed)
            recipe["seeds"] = seeds
            for stage in recipe["stages"]:
                stage["seeds"] = stage["seeds"] and seeds
                stage["generator_seed"] = None if stage["generator_seed"] is None else seed
        for key in ("models_folder", "results_folder"):
            values["data"][key] = str(self.path(key) / f"seed{seed}")
        if self.runtime["tensorboard"]:
            values["runtime"]["tensorboard"] = str(
                Path(self.runtime["tensorboard"]) / f"seed{seed}"
            )
        return Settings(values, self.folder, self.known_results, self.all_models)

    def changed(self, **parts):
        """Return the same settings with other values: changed(training={"target_size": 224}).

        These are for the program to choose: nothing is checked.
        """
        values = self.resolved()
        for part, content in parts.items():
            values[part].update(content)
        return Settings(values, self.folder, self.known_results, self._all_models)

    def _stage(self, stage):
        """Return a stage with the keys that it leaves out, and no more epochs than are allowed."""
        limit = self.runtime["max_epochs"]
        return {
            **STAGE_DEFAULTS,
            **stage,
            "epochs": min(stage.get("epochs", limit), limit),
        }


def load(folder="Settings"):
    """Read a settings folder (relative to the current one) over the defaults -> Settings.

    Where the current folder has no `Settings`, that name means the repository's own.
    Raises UserError for anything that is not exactly as it must be.
    """
    folder = Path(folder)
    if folder == Path("Settings") and not os.path.exists(str(folder)):
        folder = DEFAULTS
    files = {KNOWN_RESULTS: [], **_read(DEFAULTS)}
    _validate(files, DEFAULTS)
    own = _read(folder)
    if os.path.realpath(str(folder)) != str(DEFAULTS):
        data = own.get(FILES["data"])
        if isinstance(data, dict) and "class_counts" in data:  # of other data than FER2013
            data.setdefault("fer2013_sha256", None)
        files = _merge(files, own)
        _validate(files, folder)
    values = {name: files[file] for name, file in FILES.items()}
    settings = Settings(values, folder, files[KNOWN_RESULTS])
    _check(settings)
    _check_stages(files[FILES["modular"]], folder)
    return settings


def augmentation_of(stage):
    """Return what a stage of a recipe says about augmentation: {"rotation_range": 30, ...}."""
    return {key: stage[key] for key in NO_AUGMENTATION}


def resolutions(size):
    """Return the sides of the maps that the five LHC modules see, 224 -> 56, 56, 28, 14, 7.

    Each stride-2 step (conv0, its max-pool, stages 2 to 4) halves, rounding up (section 4).
    """
    return [-(-size // factor) for factor in (4, 4, 8, 16, 32)]


def wrong_heads(heads, size):
    """Return (module, what is allowed) of the first of five numbers of heads that does not divide
    its map's positions, or None.
    """
    for i, side in enumerate(resolutions(size)):
        if side**2 % heads[i]:
            divisors = [str(n) for n in range(1, side**2 + 1) if side**2 % n == 0]
            return i, f"{', '.join(divisors)} for the {side} x {side} map at target_size {size}"
    return None


def _read(folder):
    """Return {file name: content} of a folder's JSON files, of which there must be one."""
    try:
        names = sorted(os.listdir(str(folder)))
    except FileNotFoundError:
        raise UserError(
            f"{folder}: found no such folder, expected one with settings (*.json){_meant(folder)}"
        ) from None
    except NotADirectoryError:
        raise UserError(f"{folder}: found a file, expected the folder that it is in") from None
    except (OSError, ValueError) as error:  # not permitted, or a name that no folder can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{_short(str(folder))}: could not be read: {reason}") from None
    for name in names:
        if _looks_like_settings(name):
            raise UserError(
                f"{folder / name}: found a name that is not read, expected one of "
                f"{', '.join(SCHEMA['properties'])}; rename it or take it away"
            )
    found = {name: _parse(folder / name) for name in names if name.endswith(".json")}
    if not found:
        raise UserError(
            f"{folder}: found no settings file, expected at least one of "
            f"{', '.join(SCHEMA['properties'])}{_meant(folder)}"
        )
    return found


def _looks_like_settings(name):
    """Return whether someone may take a file for settings that is none by its name."""
    hidden, lower = name.startswith("."), name.lower()
    return lower.endswith((".json", ".json.txt")) and (hidden or not name.endswith(".json"))


def _meant(folder):
    """Return a question that names the repository's settings folder of that name, if any."""
    ours = {path.name.lower(): path for path in DEFAULTS.iterdir() if path.is_dir()}
    path = ours.get(Path(os.path.abspath(str(folder))).name.lower())
    if not path:
        return ""
    near = os.path.relpath(str(path))
    return f"; did you mean {path if near.startswith(os.pardir) else near}?"


def _parse(path):
    """Return the content of a JSON file (src/strict_json.py)."""
    try:
        return strict_json.read(path)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{path}: {where}: found invalid JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: found {error.reason}, expected text in UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: could not be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _merge(default, override):
    if not (isinstance(default, dict) and isinstance(override, dict)):
        return override
    return {**default, **{key: _merge(default.get(key), override[key]) for key in override}}


def _validate(files, folder):
    """Raise UserError for the first value that settings_schema.json does not allow."""
    error = next(strict_json.Validator(SCHEMA).iter_errors(files), None)
    if error is None:
        return
    keys, known = list(error.absolute_path), list(error.schema.get("properties", []))
    found = _short(error.instance)
    allowed = error.schema.get("description", "an object with the keys " + ", ".join(known))
    if error.validator == "additionalProperties":
        keys.append(next(key for key in error.instance if key not in known))
        found, allowed = "an unknown name", ", ".join(known)
    elif error.validator == "required":
        keys.append(next(key for key in error.validator_value if key not in error.instance))
        found, allowed = "nothing", "a value (it may not be left out)"
    raise _error(folder, keys, found, allowed)


def _check(settings):
    """Raise UserError for impossible paths, and values that are impossible together."""
    folder, size = settings.folder, settings.size
    paths = [("data", key) for key in (*FOLDERS, "backbone_weights")]
    for key in ("compilation_cache", "tensorboard"):
        if settings.runtime[key] is not None:
            paths.append(("runtime", key))
    for file, key in paths:
        values = getattr(settings, file)
        try:
            values[key] = _usable(values[key])
            if key != "backbone_weights" and _holds_the_program(values[key]):
                raise ValueError("folders that hold nothing of this program")
        except ValueError as error:
            raise _error(folder, [FILES[file], key], _short(values[key]), error) from None
    for name, recipe in settings.modular.items():
        for i, stage in enumerate(recipe["stages"]):
            if stage["distillation"]:
                where = [FILES["modular"], name, "stages", i, "distillation", "teachers"]
                teachers = stage["distillation"]["teachers"]
                try:
                    stage["distillation"]["teachers"] = [_usable(path) for path in teachers]
                except ValueError as error:
                    raise _error(folder, where, _short(teachers), error) from None
    wrong = wrong_heads(settings.lhc["num_heads"], size)
    if wrong:
        i, allowed = wrong
        heads = settings.lhc["num_heads"][i]
        raise _error(folder, [FILES["lhc"], "num_heads", i], heads, allowed)
    shift, precision = settings.evaluation["shift"], settings.runtime["precision"]
    if shift > size / 2:
        allowed = f"0 to {size // 2}, half of target_size"
        raise _error(folder, [FILES["evaluation"], "shift"], shift, allowed)
    if settings.runtime["numerics"] == "reference" and precision != "float32":
        allowed = 'only "float32" while numerics is "reference" ("fast" allows it)'
        raise _error(folder, [FILES["runtime"], "precision"], _short(precision), allowed)


def _check_stages(modular, folder):
    """Raise UserError for a stage that asks for things that do not go together."""
    for name, recipe in modular.items():
        for i, stage in enumerate(recipe["stages"]):
            where = [FILES["modular"], name, "stages", i]
            if stage.get("schedule") == "cosine" and "epochs" not in stage:
                allowed = 'a number of epochs beside "schedule": "cosine", which ends with them'
                raise _error(folder, [*where, "epochs"], "nothing", allowed)
            for key in ("momentum", "nesterov", "weight_decay"):
                if stage.get(key) and stage["optimizer"] != "sgd":
                    allowed = 'nothing but 0 or false beside "adam" ("sgd" has it)'
                    raise _error(folder, [*where, key], _short(stage[key]), allowed)
            if stage.get("nesterov") and not stage.get("momentum"):
                raise _error(folder, [*where, "nesterov"], "true", "true beside a momentum only")


def _usable(path):
    """Return the path (text) with its `~` expanded; raise ValueError if no file can have it."""
    if not path.isprintable():  # NUL, line ends, lone surrogates
        raise ValueError("paths of characters that can be printed")
    if path.startswith("~"):
        try:
            path = str(Path(path).expanduser())
        except RuntimeError:
            raise ValueError(
                "`~` or `~name` for the home folder of a user of this machine"
            ) from None
    try:
        longest = max(len(os.fsencode(part)) for part in ("", *Path(path).parts))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"names in this system's encoding, {error.encoding}; PYTHONUTF8=1 makes it UTF-8"
        ) from None
    if longest > 200:
        raise ValueError("names of at most 200 bytes between the slashes")
    return path


def _holds_the_program(folder):
    """Return whether what is written to a folder would come to lie among the program's files.

    So it is in the repository itself, the folders above it, those of its parts and hidden ones
    (.git, .venv); any other folder within it, such as Data, is free.
    """
    folder, program = (Path(os.path.realpath(str(path))) for path in (folder, PROGRAM))
    # Some file systems take SRC for src.
    folder, program = ([part.casefold() for part in path.parts] for path in (folder, program))
    if folder[: len(program)] != program:
        return program[: len(folder)] == folder
    first = folder[len(program) :][:1]
    return not first or first[0] in PROGRAM_FOLDERS or first[0].startswith(".")


def _error(folder, keys, found, allowed):
    file, *keys = keys
    shown = [key if isinstance(key, int) or key.isprintable() else json.dumps(key) for key in keys]
    name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in shown)
    name = name.lstrip(".")[:200]
    where = f"{folder / file}: {name}" if name else folder / file
    return UserError(f"{where}: found {found}, allowed: {allowed}")


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
