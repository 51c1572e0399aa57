"""Bring FER2013 into the data folder: data_train.csv, data_val.csv and data_test.csv.

    python Download_Data.py                              fetch the three CSVs of the paper's authors
    python Download_Data.py --from PATH                  import your own copy instead
    python Download_Data.py --from PATH --labels fer2013new.csv    with FERPlus' labels
    python Download_Data.py --settings Settings/Quickstart    draw the sample, no download at all

PATH is Kaggle's fer2013.csv or icml_face_data.csv (unpacked), as it is or as a spreadsheet has
saved it, a folder with the three CSVs, or one with 48 x 48 pictures: train/angry/*.jpg,
test/happy/*.png and so on. Where pictures have no validation split, a tenth of the training split
becomes it. With FERPlus' labels, pictures without a majority for one of the seven classes are left
out.

A broken download is resumed by running the command again; files that are there and complete are
only verified. One that reads well but holds other rows may be yours, cleaned by hand: only --force
replaces it. Time: an import about 10 s, a download as long as 300 MB take; memory: 160 MB.

Expected result, the last four lines (class counts follow on the first three):
    train: 28709 images in Data/data_train.csv: Anger 3995, Disgust 436, ...
    val: 3589 images in Data/data_val.csv: Anger 467, Disgust 56, ...
    test: 3589 images in Data/data_test.csv: Anger 491, Disgust 55, ...
    data: FER2013, unchanged
"""

import sys

import numpy as np

from src import plots
from src.cli import command, parse
from src.dataset import (
    CLASSES,
    KEPT,
    SPLITS,
    OtherData,
    csv_path,
    describe,
    draw,
    load,
    longest_csv,
    store,
    verify,
)
from src.downloads import fetch
from src.errors import UserError
from src.files import lock, remove_left
from src.sources import import_from

SOURCE = {"dest": "source", "metavar": "PATH", "help": "import FER2013 from this file or folder"}
LABELS = {"metavar": "CSV", "help": "with --from: take FERPlus' labels, fer2013new.csv"}
FORCE = {"action": "store_true", "help": "replace CSVs that read well but hold other rows"}


def download(data, folder, force):
    """Fetch the CSVs that are missing or broken; none gets its name before it is verified."""
    urls, counts, fer2013 = data["data_urls"], data["class_counts"], data["fer2013_sha256"]
    missing = []
    for split in SPLITS:
        path = csv_path(folder, split)
        if path.exists():
            try:
                verify(path, split, counts[split], fer2013)
                print(f"already there: {path}", flush=True)
                continue
            except OtherData as error:
                if not force:
                    raise UserError(f"{error}; {KEPT}") from None
            except UserError as error:
                print(f"fetching again: {error}", flush=True)
        missing.append(split)
    for split in missing:
        path = csv_path(folder, split)
        fetch(
            urls[path.name],
            path,
            check=lambda part, split=split: verify(part, split, counts[split], fer2013),
            hint=", or import your own copy with `python Download_Data.py --from PATH`",
            largest=longest_csv(counts[split]),
        )


def bring(data, folder, args):
    """Download, import or draw the CSVs."""
    if args.source is None and args.labels is not None:
        raise UserError("--labels: expected --from PATH too, the fer2013.csv that they belong to")
    if args.source is None and data["source"] == "download":
        return download(data, folder, args.force)
    if args.source is not None:
        counts, fer2013 = data["class_counts"], data["fer2013_sha256"]
        written = import_from(args.source, folder, counts, args.force, args.labels, fer2013)
    else:
        splits = draw(data)
        written = store(folder, splits, args.force)
        with plots.warning(folder / "sample.png"):
            plots.sample_sheet(folder / "sample.png", *splits["train"], CLASSES)
    print("written:" if written else "already there:", folder, flush=True)


@command
def main(argv=None):
    args = parse(argv, __doc__, {"--from": SOURCE, "--labels": LABELS, "--force": FORCE})
    data, folder = args.settings.data, args.settings.path("data_folder")
    with lock(folder / "data.lock", f"{folder} is being written"):
        remove_left(folder)
        bring(data, folder, args)
    splits = {split: load(folder, split) for split in SPLITS}
    for split in SPLITS:
        found = np.bincount(splits[split][1], minlength=len(CLASSES))
        listing = ", ".join(f"{name} {n}" for name, n in zip(CLASSES, found))
        print(f"{split}: {found.sum()} images in {csv_path(folder, split)}: {listing}")
    print("data:", describe(splits, data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
