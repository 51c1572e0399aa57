"""Bring FER2013 into the data folder: data_train.csv, data_val.csv and data_test.csv.

    python Download_Data.py                              fetch the three CSVs of the paper's authors
    python Download_Data.py --from PATH                  import your own copy instead
    python Download_Data.py --settings Settings/Quickstart    draw the sample, no download at all

PATH is Kaggle's fer2013.csv or icml_face_data.csv (unpacked), or a folder with the three CSVs.
A broken download is resumed by running the command again; files that are there and complete are
only verified. Time: an import about 10 s, a download as long as 300 MB take; memory: 160 MB.

Expected result, the last three lines (class counts follow on each):
    train: 28709 images in Data/data_train.csv: Anger 3995, Disgust 436, ...
    val: 3589 images in Data/data_val.csv: Anger 467, Disgust 56, ...
    test: 3589 images in Data/data_test.csv: Anger 491, Disgust 55, ...
"""

import sys
from pathlib import Path

import numpy as np

from src import plots, sample
from src.cli import command, parse
from src.dataset import CLASSES, SPLITS, csv_path, import_from, load, store, verify
from src.downloads import fetch
from src.errors import UserError

SOURCE = {"dest": "source", "metavar": "PATH", "help": "import FER2013 from this file or folder"}


def download(urls, folder, counts):
    """Fetch the CSVs that are missing or broken; none gets its name before it is verified."""
    for split in SPLITS:
        path = csv_path(folder, split)
        if path.exists():
            try:
                verify(path, split, counts[split])
                print(f"already there: {path}", flush=True)
                continue
            except UserError as error:
                print(f"fetching again: {error}", flush=True)
        fetch(
            urls[path.name],
            path,
            check=lambda part, split=split: verify(part, split, counts[split]),
            hint=", or import your own copy with `python Download_Data.py --from PATH`",
        )


def draw(seed, counts):
    """Draw the sample; every split has a seed of its own."""
    return {
        split: sample.draw(seed * len(SPLITS) + i, counts[split]) for i, split in enumerate(SPLITS)
    }


@command
def main(argv=None):
    args = parse(argv, __doc__, {"--from": SOURCE})
    data, folder = args.settings.data, args.settings.path("data_folder")
    counts = data["class_counts"]
    if args.source is None and data["source"] == "download":
        download(data["data_urls"], folder, counts)
    else:
        if args.source is not None:
            written = import_from(Path(args.source), folder, counts)
        else:
            splits = draw(data["sample_seed"], counts)
            written = store(folder, splits)
            plots.sample_sheet(folder / "sample.png", *splits["train"], CLASSES)
        print("written:" if written else "already there:", folder, flush=True)
    for split in SPLITS:
        found = np.bincount(load(folder, split)[1], minlength=len(CLASSES))
        listing = ", ".join(f"{name} {n}" for name, n in zip(CLASSES, found))
        print(f"{split}: {found.sum()} images in {csv_path(folder, split)}: {listing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
