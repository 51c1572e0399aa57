"""Predictions, the figures printed about them, and the reports kept (REFERENCE.md section 8).

Images stream through the net one batch at a time: enlarged just before they are needed, so memory
holds the 48 x 48 originals, one batch, and the net.
"""

import json
import math
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from sklearn.metrics import accuracy_score, classification_report

from src import audit, backend, dataset, devices, page, plots, runtime, tta
from src.backend import keras
from src.dataset import CLASSES
from src.errors import UserError, enough_memory
from src.etl import SUBFOLDER, check_matches
from src.files import lock, remove_left, replace, write_file
from src.generator import check_images, list_images, read_grey
from src.pixels import enlarge, rgb
from src.prefetch import one_ahead, prefetch
from src.progress import progress_bar

# Accuracy in % on the test split, as published (REFERENCE.md section 10).
PAPER = {
    "ResNet34": {
        "best_run": 72.81,
        "mean_of_top_40_percent_of_runs": 72.69,
        "mean_of_top_25_percent_of_runs": 72.75,
    },
    "LHC_Net": {
        "best_run": 73.39,
        "mean_of_top_40_percent_of_runs": 72.89,
        "mean_of_top_25_percent_of_runs": 73.02,
        "best_run_with_tta": 74.42,
    },
    "LHC_NetC": {
        "best_run": 73.53,
        "mean_of_top_40_percent_of_runs": 73.04,
        "mean_of_top_25_percent_of_runs": 73.21,
        "best_run_with_tta": 74.28,
    },
}

# Of report.txt.
HEADINGS = {"test": "Test split", "tta_test": "Test split, test-time augmentation"}


def evaluate(model, settings, name, title="LHC_Net", train=True, complete=True, augmented=True):
    """Print the original's lines about `model` and write Results/<name>/; return the metrics.

    name: of the results folder. title: opens the first line. train: whether the training images
    are evaluated too; they are the JPEGs that ETL.py wrote. complete: whether the model's training
    was; only told in the metrics. augmented: whether test-time augmentation, 60 times the test
    split's work, is evaluated too; without it there is no page. Raises UserError, before anything
    is computed, where data are missing.

    With "unseen_test" in the settings, one more line and two more metrics are of those test images
    that do not stand in the training split too.

    Files: metrics.json; predictions.npz, whose arrays val_probabilities, test_probabilities and
    tta_test_probabilities have one row an image in the data's order; confusion_matrix.png, of the
    test split with augmentation averaging; report.txt, per class; report.html, the page of it all.
    """
    files, train_labels = _train_files(settings) if train else ([], [])
    val_images, val_labels = _load(settings, "val")
    test_images, test_labels = _load(settings, "test")
    told = _describe(
        {"val": (val_images, val_labels), "test": (test_images, test_labels)}, settings
    )
    unseen = _unseen(test_images, settings) if settings.evaluation["unseen_test"] else None
    folder = settings.path("results_folder") / name
    # Rather than find out hours later that they can't be written.
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    training = page.training_of(settings, name, complete)  # before another one takes its place
    predictor = devices.predictor(model)
    metrics = {}

    batch = f"batch_size {settings.evaluation['batch_size']} of Evaluation_Settings.json"
    with devices.joined(), enough_memory(batch, settings.size):
        print(f"{title} Perf:", flush=True)
        if train:
            batches = _jpeg_batches(files, settings)
            probabilities = predict(predictor, batches, len(files), "train")
            metrics["train"] = _measure(train_labels, probabilities)
            metrics["train"]["loss"] = cross_entropy(train_labels, probabilities)
            _print("Train Loss", metrics["train"]["loss"])
            _print("Train Perf", metrics["train"]["accuracy"])

        val_probabilities = predict_images(predictor, val_images, settings, "val")
        metrics["val"] = _measure(val_labels, val_probabilities)
        _print("Val Perf", metrics["val"]["accuracy"])

        test_probabilities = predict_images(predictor, test_images, settings, "test")
        metrics["test"] = _measure(test_labels, test_probabilities)
        _print("Test Perf", metrics["test"]["accuracy"])
        _print("Test Pred Repeated", metrics["test"]["repeated"])

        tested = {"test": test_probabilities}
        if augmented:
            tested["tta_test"] = predict_augmented(model, test_images, settings)
            metrics["tta_test"] = _measure(test_labels, tested["tta_test"])
            _print("TTA Test Perf", metrics["tta_test"]["accuracy"])
            _print("TTA Test Pred Repeated", metrics["tta_test"]["repeated"])

    if unseen is not None:
        for split, probabilities in tested.items():
            of = split.replace("test", "unseen_test")
            metrics[of] = _measure(test_labels[unseen], probabilities[unseen])
        with_tta = f" (TTA {metrics['tta_unseen_test']['accuracy']:.17f})" if augmented else ""
        print(
            f"Unseen Test Perf:  {metrics['unseen_test']['accuracy']:.17f}{with_tta}, "
            f"{unseen.sum()} of {len(unseen)} images, which do not stand in the training split too",
            flush=True,
        )

    if not devices.is_main():
        return metrics
    record = {
        "network": model.name,
        "training_complete": complete,
        "data": told,
        **metrics,
        "paper_test_accuracy_percent": PAPER[model.name],
        "settings": settings.resolved(),
        "versions": runtime.versions(),
    }
    predicted = {"val": val_probabilities, **tested}
    arrays = {f"{split}_probabilities": rows for split, rows in predicted.items()}
    report = "\n".join(
        f"{HEADINGS[split]}\n\n{_report(test_labels, probabilities)}"
        for split, probabilities in tested.items()
    )
    shown = "tta_test" if augmented else "test"
    percent = 100 * metrics[shown]["accuracy"]
    with lock(folder / "results.lock", f"{folder} is being written", wait=True):
        remove_left(folder)
        write_file(folder / "metrics.json", (json.dumps(record, indent=4) + "\n").encode())
        with replace(folder / "predictions.npz") as part, open(part, "wb") as file:
            np.savez_compressed(file, **arrays)
        write_file(folder / "report.txt", report.encode())
        picture = folder / "confusion_matrix.png"
        with plots.warning(picture):
            plots.confusion_matrix(
                picture,
                test_labels,
                tested[shown].argmax(axis=1),
                CLASSES,
                f"{name}: {len(test_labels)} test images, {'with TTA ' if augmented else ''}"
                f"{percent:.2f} % right",
            )
        written = folder / "report.html"
        if augmented:
            with plots.warning(written):
                page.write(written, name, record, training, test_images, test_labels, tested)
        else:
            written.unlink(missing_ok=True)  # it tells of the evaluation before
    print(f"data: {told}", file=sys.stderr)  # the lines on stdout are the original's
    print(f"Pictures and reports: {folder}", flush=True)
    return metrics


def predict(predictor, batches, count, name):
    """Return probabilities float32 (N, classes) of grey `batches`, float32 (B, S, S) each.

    predictor: function (B, S, S, 3) -> (B, classes), as `devices.predictor` makes one. count:
    number of images, name: of the split; both for the progress bar.
    """
    results = (predictor(rgb(grey)) for grey in batches)
    probabilities = []
    with progress_bar(total=count, desc=name, unit="image") as bar:
        for result in one_ahead(results):
            probabilities.append(backend.to_numpy(result))
            bar.update(len(result))
    return np.concatenate(probabilities)


def predict_images(predictor, images, settings, name):
    """Return probabilities float32 (N, classes) of images uint8 (N, 48, 48); else as `predict`."""
    return predict(predictor, image_batches(images, settings), len(images), name)


def predict_augmented(model, images, settings):
    """Return the mean probabilities float32 (N, classes) of images uint8 (N, 48, 48) over the views
    of test-time augmentation (REFERENCE.md section 8)."""
    return tta.average(
        devices.predictor(tta.with_view(model, settings.size)),
        tta.table(tta.descriptions(settings.evaluation), settings.size),
        tta.view_weights(settings.evaluation),
        image_batches(images, settings),
        len(images),
    )


def image_batches(images, settings):
    """Return an iterator over images uint8 (N, 48, 48) in batches float32 (B, S, S).

    They are enlarged, and never rounded, while the device works on the batch before.
    """
    batch_size = settings.evaluation["batch_size"]
    parts = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
    batches = (enlarge(part, settings.size) for part in parts)
    return prefetch(batches, settings.runtime["prefetch_batches"])


def cross_entropy(labels, probabilities):
    """Return Keras' mean categorical cross-entropy, computed in float32, as a float."""
    loss = keras.losses.CategoricalCrossentropy()(dataset.one_hot(labels), probabilities)
    return float(backend.to_numpy(loss))


def repeated(probabilities):
    """Return how many rows have their highest probability more than once."""
    highest = probabilities.max(axis=1, keepdims=True)
    return int(((probabilities == highest).sum(axis=1) > 1).sum())


def _measure(labels, probabilities):
    accuracy = float(accuracy_score(labels, probabilities.argmax(axis=1)))
    return {
        "images": len(labels),
        "accuracy": accuracy,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / len(labels)),
        "repeated": repeated(probabilities),
    }


def _report(labels, probabilities):
    return classification_report(
        labels,
        probabilities.argmax(axis=1),
        labels=range(len(CLASSES)),
        target_names=CLASSES,
        digits=4,
        zero_division=0,
    )


def _print(label, value):
    value = value if isinstance(value, int) else f"{value:.17f}"
    print(f"{label}: ", value, flush=True)


def _load(settings, split):
    limit = settings.runtime[f"max_{split}_images"]
    return dataset.load(settings.path("data_folder"), split, limit)


def _unseen(images, settings):
    """Return which test images do not stand in the training split too, bool (N,)."""
    train_images, _ = dataset.load(settings.path("data_folder"), "train")
    unseen = ~audit.seen(images, train_images)
    if not unseen.any():
        raise UserError(
            "unseen_test of Evaluation_Settings.json: expected test images that do not stand in "
            "the training split too, found none; set it to false, or mend the data"
        )
    return unseen


def _describe(splits, settings):
    """Return what the splits are, in words, or that only a part of them was loaded."""
    if any(settings.runtime[f"max_{split}_images"] for split in splits):
        return "a part of the images, as Runtime_Settings.json says"
    return dataset.describe(splits, settings.data)


def _train_files(settings):
    folder = settings.path("images_folder") / SUBFOLDER
    files, labels = list_images(folder, settings.runtime["max_train_images"])
    check_matches(folder, settings.path("data_folder"), settings.size)
    check_images(files, settings.size)
    return files, labels


def _jpeg_batches(files, settings):
    """Return an iterator over the JPEGs `files`, in their order, in batches float32 (B, S, S)."""
    batch_size = settings.evaluation["batch_size"]

    def batches():
        decode = partial(read_grey, size=settings.size)
        with ThreadPoolExecutor(settings.threads) as pool:
            for start in range(0, len(files), batch_size):
                images = list(pool.map(decode, files[start : start + batch_size]))
                yield np.stack(images).astype(np.float32)

    return prefetch(batches(), settings.runtime["prefetch_batches"])
