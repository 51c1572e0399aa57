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

from src.cli import command, parse
from src.errors import UserError
from src.files import lock, remove_left

SOURCE = {"dest": "source", "metavar": "PATH", "help": "import FER2013 from this file or folder"}
LABELS = {"metavar": "CSV", "help": "with --from: take FERPlus' labels, fer2013new.csv"}
FORCE = {"action": "store_true", "help": "replace CSVs that read well but hold other rows"}


@command
def main(argv=None):
    args = parse(argv, __doc__, {"--from": SOURCE, "--labels": LABELS, "--force": FORCE})
    if args.source is None and args.labels is not None:
        raise UserError("--labels: expected --from PATH too, the fer2013.csv that they belong to")

    # NumPy and Matplotlib start here, in a second.
    from src.arrival import bring
    from src.dataset import csv_path, describe, load
    from src.names import CLASSES, SPLITS

    data, folder = args.settings.data, args.settings.path("data_folder")
    with lock(folder / "data.lock", f"{folder} is being written"):
        remove_left(folder)
        bring(data, folder, args.source, args.labels, args.force)
    splits = {split: load(folder, split) for split in SPLITS}
    for split, (_, labels) in splits.items():
        listing = ", ".join(f"{name} {(labels == n).sum()}" for n, name in enumerate(CLASSES))
        print(f"{split}: {len(labels)} images in {csv_path(folder, split)}: {listing}")
    print("data:", describe(splits, data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
