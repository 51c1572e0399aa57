"""Look through the data: pictures there twice, in two splits or under different labels.

    python Audit_Data.py [--settings FOLDER]

Reads the three CSVs in the data folder (Download_Data.py puts them there), changes nothing in them,
and writes beside them:
    audit.json    the figures printed, and every picture that is there more than once: splits, rows
                  (from 0) and labels of its copies
    audit.png     the first 60 of these, those under most labels first

Time: 7 s for FER2013. Memory: 240 MB. It prints two tables; FER2013's say that 34034 of the 35887
pictures are distinct, and that 288 of the test split stand in the training split too. Then:
    1516 pictures are there more than once, 3369 times in all; 57 of them under different labels ...
    written: Data/audit.json, Data/audit.png
"""

import json
import sys

from src.cli import command, settings_from
from src.files import lock, remove_left, write_file


@command
def main(argv=None):
    folder = settings_from(argv, __doc__).path("data_folder")

    # NumPy and Matplotlib start here, in a second.
    from src import plots
    from src.audit import audit, report, sheet
    from src.dataset import SPLITS, load

    splits = {split: load(folder, split) for split in SPLITS}
    record = audit(splits)
    print(report(record), flush=True)
    with lock(folder / "data.lock", f"{folder} is being written"):
        remove_left(folder)
        write_file(folder / "audit.json", (json.dumps(record, indent=1) + "\n").encode())
        picture = folder / "audit.png"
        with plots.warning(picture):
            title = "Pictures that are there more than once, those under most labels first"
            plots.captioned_sheet(picture, *sheet(splits, record), title)
    print(f"written: {folder / 'audit.json'}, {picture}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
