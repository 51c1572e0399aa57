"""A finished run becomes the net that comes with the program: packed, measured, and its card."""

import json
from pathlib import Path

import numpy as np

from src import (
    calibration,
    dataset,
    devices,
    evaluation,
    packed,
    results,
    runs,
    strict_json,
    weights,
)
from src.dataset import CLASSES
from src.errors import UserError
from src.files import file_digest, write_file
from src.markdown import counted, table
from src.settings import Settings

LIMIT = 0.1  # points of accuracy that packing may cost
CARD = Path(__file__).with_name("model_card.md")
SPLITS = {"val": "validation", "test": "test"}
# The trainings that a run goes through, the last one its own.
CHAINS = {
    "LHC": ("ResNet34", "LHC"),
    "Controller": ("ResNet34", "LHC", "Controller"),
    "LHC_Net": ("LHC_Net",),
}
STARTS = {
    "random": "That one starts from ImageNet's weights, this one from random ones.",
    "ImageNet": "It is another run of the same protocol, from ImageNet's weights.",
}
VERSIONS = ("python", "keras", "tensorflow", "jax", "torch")  # that the card names


def ship(network, settings, name, folder):
    """Write the net of the finished training `name` to a folder, with net.json and its card.

    network: untrained; it has the packed weights in the end. Prints the accuracies. Raises
    UserError, and writes nothing, where the training or data are missing, the data are not FER2013,
    packing moves an accuracy by more than LIMIT points, the files are too large, or the folder
    has such files of somebody else.
    """
    packed.check_folder(folder)  # rather than find out after an hour
    made_from = origin(settings, name)
    splits = {split: dataset.load(settings.path("data_folder"), split) for split in SPLITS}
    made_from["data"] = dataset.describe(splits, settings.data)
    if not made_from["data"].startswith("FER2013"):
        raise UserError(
            f"{settings.path('data_folder')}: found {made_from['data']}, expected FER2013, which "
            "the card tells of: name its folder in Data_Settings.json"
        )
    weights.load_trained(network, settings, name)
    arrays = weights.to_arrays(network)
    predictor = devices.predictor(network)
    before = answers(predictor, settings, splits)
    parts = packed.pack(arrays)
    weights.assign(network, packed.unpack(parts), "the packed net")
    after = answers(predictor, settings, splits)
    measured = {
        split: figures(labels, before[split], after[split]) for split, (_, labels) in splits.items()
    }
    for split, of in measured.items():
        print(
            f"{SPLITS[split]}: {of['images']} images, "
            f"float32 {100 * of['float32_accuracy']:.3f} %, "
            f"packed {100 * of['accuracy']:.3f} %, {of['changed']} changed",
            flush=True,
        )
    for split, of in measured.items():
        moved = 100 * (of["accuracy"] - of["float32_accuracy"])
        if abs(moved) > LIMIT:
            raise UserError(
                f"packing moves the {SPLITS[split]} accuracy by {moved:+.3f} points, allowed: "
                f"{LIMIT}; nothing was written: ship another seed's net, or change BITS in "
                "src/packed.py"
            )
    files = packed.files(parts)
    record = {
        "architecture": weights.architecture_of(network, settings),
        "parameters": sum(array.size for array in arrays.values()),
        "files": packed.digests(files),
        "made_from": made_from,
        "measured": measured,
    }
    files[packed.RECORD] = (json.dumps(record, indent=1) + "\n").encode()
    files[packed.CARD] = card(record).encode()
    packed.write(folder, files)
    size = sum(map(len, files.values()))
    print(f"{size / 1e6:.1f} MB in {folder}: {', '.join(files)}", flush=True)


def origin(settings, name):
    """Return what net.json tells under "made_from" of the finished training `name`."""
    path = runs.complete_folder(settings, name) / runs.RECORD
    with results.readable(path):
        told = strict_json.read(path)
        then = Settings(told["settings"])
        recipes = {step: then.recipe(step) for step in CHAINS[name]}
        start = then.data["backbone_weights"]
        return {
            "training": name,
            "weights_sha256": file_digest(path.with_name(runs.WEIGHTS), "sha256"),
            "start": "random" if start == "random" else "ImageNet",
            "recipes": {
                step: {
                    "seeds": recipe["seeds"],
                    "stages": [results.stage_words(stage) for stage in recipe["stages"]],
                }
                for step, recipe in recipes.items()
            },
            "versions": {
                key: value
                for key, value in told["versions"].items()
                if key in (*VERSIONS, "backend", "gpus", "cpu")
            },
        }


def answers(predictor, settings, splits):
    """Return {split: probabilities float32 (N, 7)} of splits {split: (images, labels)}."""
    return {
        split: evaluation.predict_images(predictor, images, settings, split)
        for split, (images, _) in splits.items()
    }


def figures(labels, before, after):
    """Return what net.json tells of a split.

    labels: class numbers (N,). before, after: probabilities (N, 7) before and after packing.
    """
    said = after.argmax(axis=1)
    of_class, called, right = (
        np.bincount(numbers, minlength=len(CLASSES)).tolist()
        for numbers in (labels, said, labels[said == labels])
    )
    bins = calibration.reliability(labels, after)
    return {
        "images": len(labels),
        "float32_accuracy": float((before.argmax(axis=1) == labels).mean()),
        "accuracy": float((said == labels).mean()),
        "changed": int((said != before.argmax(axis=1)).sum()),
        "mean_confidence": float(after.max(axis=1).mean(dtype=np.float64)),
        "expected_calibration_error": calibration.expected_calibration_error(bins),
        "classes": {
            name: {
                "images": of_class[i],
                "recall": right[i] / of_class[i],
                "recall_interval": calibration.wilson(right[i], of_class[i]),
                "precision": right[i] / max(1, called[i]),
            }
            for i, name in enumerate(CLASSES)
        },
    }


def write_card(folder):
    """Write the card of the net in a folder anew. Raises UserError where net.json is damaged."""
    record = packed.record(folder)
    with results.readable(folder / packed.RECORD):
        text = card(record)
    write_file(folder / packed.CARD, text.encode())


def card(record):
    """Return the text of a net's card, all of whose figures are those of its net.json."""
    made, test = record["made_from"], record["measured"]["test"]
    sizes = {name: of["bytes"] for name, of in record["files"].items()}
    rows = [("training", "stage", "settings")]
    for step, recipe in made["recipes"].items():
        rows += [(step, number, words) for number, words in enumerate(recipe["stages"], start=1)]
    accuracy = [("split", "pictures", "float32, %", "as shipped, %", "changed")]
    for split, words in SPLITS.items():
        of = record["measured"][split]
        both = (f"{100 * of[key]:.2f}" for key in ("float32_accuracy", "accuracy"))
        accuracy.append((words, of["images"], *both, of["changed"]))
    classes = [("class", "pictures", "found, %", "95 %", "right, %")]
    for name, of in test["classes"].items():
        ends = "{:.1f} to {:.1f}".format(*(100 * end for end in of["recall_interval"]))
        found, right = (f"{100 * of[key]:.1f}" for key in ("recall", "precision"))
        classes.append((name, of["images"], found, ends, right))
    seeds = sorted({seed for of in made["recipes"].values() for seed in of["seeds"].values()})
    surer = test["mean_confidence"] > test["accuracy"]
    versions = made["versions"]
    return CARD.read_text(encoding="utf-8").format(
        title=record["architecture"]["network"].replace("_", "-"),
        megabytes=f"{sum(sizes.values()) / 1e6:.1f}",
        size=record["architecture"]["target_size"],
        parameters=f"{record['parameters']:,}",
        files=", ".join(f"`{name}`" for name in sizes),
        start=STARTS[made["start"]],
        recipe=table(rows, "<><"),
        seeds=", ".join(map(str, seeds)),
        card=counted(versions.get("gpus") or [versions["cpu"]]),
        versions=", ".join(f"{key} {versions[key]}" for key in VERSIONS if versions.get(key)),
        data=made["data"],
        accuracy=table(accuracy, "<>>>>"),
        limit=LIMIT,
        classes=table(classes, "<>>>>"),
        confidence=f"{100 * test['mean_confidence']:.2f}",
        test=f"{100 * test['accuracy']:.2f}",
        error=f"{100 * test['expected_calibration_error']:.2f}",
        bins=calibration.BINS,
        verdict=f" On the whole it is {'surer' if surer else 'less sure'} than it is right.",
    )
