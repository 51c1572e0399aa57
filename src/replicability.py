"""check_rep: does one epoch here give the paper's number, bit for bit? (REFERENCE.md section 7)"""

import numpy as np

from src import (
    backend,
    dataset,
    evaluation,
    feeds,
    networks,
    nvidia,
    run_record,
    runtime,
    training,
    weights,
)
from src import settings as settings_module
from src.errors import UserError, enough_memory

IDENTICAL, REPEATABLE, NOT_REPEATABLE = 0, 1, 2  # the exit codes

# What a table entry may say about its machine, and the name of it in `runtime.versions()`.
CONDITIONS = ("tensorflow", "python", "cpu", "gpus", "driver", "cuda", "cudnn")


def measure(settings):
    """Train one epoch from the fixed seeds; return the validation cross-entropy (float32)."""
    expected_entry(settings, {})  # rather than find out about a bad table after the training
    recipe = settings.recipe("check_rep")
    backend.set_seeds(**recipe["seeds"])
    network = networks.build("ResNet34", settings)
    weights.load_start(network, settings)
    validation = feeds.load_validation(settings)
    training_images = feeds.load_training(settings)
    for stage in recipe["stages"]:
        # The paper's value is one of the host's batches, whatever the numerics.
        feed = feeds.HostFeed(network, stage, training_images, validation, settings)
        with enough_memory(f"check_rep: batch_size {stage['batch_size']}", settings.size):
            for _ in training.run_stage(network, stage, feed, settings.runtime, "check_rep"):
                pass
    images, one_hot = validation
    predictor = backend.predictor(network)
    probabilities = evaluation.predict_images(predictor, images, settings, "validation")
    return np.float32(evaluation.cross_entropy(one_hot.argmax(axis=1), probabilities))


def expected_entry(settings, found):
    """Return the table's expected entry that is nearest to this machine.

    An entry with "expected": true carries the value to reproduce; where there are several, one made
    by the running TensorFlow is nearer than others, then one made on such a CPU, then an earlier
    one. Raises UserError where the table is not usable.
    """
    file = settings.folder / settings_module.KNOWN_RESULTS
    for entry in settings.known_results:
        _settings_of(entry, file)
    entries = [entry for entry in settings.known_results if entry.get("expected") is True]
    if not entries:
        raise UserError(f'{file}: found no entry with "expected": true, allowed: one or more')
    return max(
        entries,
        key=lambda entry: [entry.get(name) == found.get(name) for name in ("tensorflow", "cpu")],
    )


def _settings_of(entry, file):
    """Return the settings, in a folder of this repository, that an entry was made with."""
    folder = entry.get("settings", settings_module.DEFAULTS.name)
    try:
        return settings_module.load(settings_module.DEFAULTS.parent / folder)
    except UserError as error:
        raise UserError(f'{file}: {entry["name"]}: "settings": {error}') from None


def steps_between(a, b):
    """Return how many float32 numbers lie from `a` to `b`."""
    a, b = (int(np.float32(value).view(np.int32)) for value in (a, b))
    return abs(a - b)


def differences(entry, found, settings):
    """Return the lines that say what differs from the machine and the settings of `entry`."""
    lines = [
        f"{name}: {_words(found.get(name))} here, {_words(entry[name])} there"
        for name in CONDITIONS
        if name in entry and not _same(entry[name], found.get(name))
    ]
    there = _decisive(_settings_of(entry, settings.folder / settings_module.KNOWN_RESULTS))
    here = _decisive(settings)
    for key in {**here, **there}:
        if here.get(key) != there.get(key):
            lines.append(f"setting {key}: {here.get(key)} here, {there.get(key)} there")
    data = _data(settings)
    expected = "drawn sample" if there["source"] == "sample" else "FER2013, unchanged"
    if data not in (None, expected) and here["source"] == there["source"]:
        lines.append(f"data: {data} here, {expected} there")
    return lines


def _data(settings):
    """Return what the CSVs of training and validation hold, in words; None if they are not there.

    FER2013's are read in five seconds.
    """
    folder = settings.path("data_folder")
    try:
        splits = {split: dataset.load(folder, split) for split in ("train", "val")}
    except UserError:
        return None
    return dataset.describe(splits, settings.data)


def _decisive(settings):
    """Return the settings that decide the value, flat: {name: value}."""
    setting = run_record.deciding(settings, "check_rep")
    recipe = setting["recipe"]
    decisive = {key: settings.data[key] for key in ("source", "backbone_weights")}
    decisive["target_size"] = setting["target_size"]
    decisive.update(setting["runtime"])
    decisive.update({f"check_rep seed {key}": v for key, v in recipe["seeds"].items()})
    for number, stage in enumerate(recipe["stages"], start=1):
        decisive.update({f"check_rep stage {number} {key}": v for key, v in stage.items()})
    return decisive


def environment():
    """Return the versions, and the GPU driver where there is one."""
    drivers = nvidia.ask("driver_version") or [None]
    return dict(runtime.versions(), driver=drivers[0])


def report(values, settings):
    """Print everything about the measured `values`; return the exit code."""
    found = environment()
    entry = expected_entry(settings, found)
    expected = np.float32(entry["value"])
    distances = [steps_between(value, expected) for value in values]
    repeatable = len(set(values)) == 1
    identical = max(distances) == 0
    print("Replicable Results!" if identical else "Not Replicable Results. Change your GPU!")
    for value, steps in zip(values, distances):
        away = abs(float(value) - float(expected))
        print(f"value:    {float(value):.24f}  (distance {away:.3e}, {steps} float32 steps)")
    print(f"expected: {float(expected):.24f}  ({entry['name']})")
    for known in settings.known_results:
        if known is not entry and np.float32(known["value"]) == values[0]:
            print(f"seen before: {known['name']}")
    print("ran on:   " + ", ".join(f"{key} {_words(value)}" for key, value in found.items()))
    changes = [] if identical else differences(entry, found, settings)
    if changes:
        print(f"to match {entry['name']}, change:")
        for line in changes:
            print(f"  {line}")
    if len(values) == 1:
        print("verdict:  " + ("identical" if identical else "different here"), end=" ")
        print("(--repeat tells whether it is repeatable here)")
    elif identical:
        print(f"verdict:  identical to {entry['name']} in {len(values)} runs")
    elif repeatable:
        print(f"verdict:  repeatable here ({len(values)} runs) but different from {entry['name']}")
    else:
        spread = steps_between(min(values), max(values))
        print(f"verdict:  not repeatable here: {len(values)} runs span {spread} float32 steps")
    if identical:
        return IDENTICAL
    return REPEATABLE if repeatable else NOT_REPEATABLE


def _words(value):
    if isinstance(value, list):
        return ", ".join(value) if value else "none"
    return "none" if value is None else str(value)


def _same(expected, found):
    """Compare as far as both are given: CUDA 11.1 is no other than 11.1.1."""
    if isinstance(expected, list):
        return [name.split("NVIDIA ")[-1] for name in found or []][: len(expected) or 1] == expected
    if found is None:
        return False
    parts = zip(str(expected).split("."), str(found).split("."))
    return all(a == b for a, b in parts)
