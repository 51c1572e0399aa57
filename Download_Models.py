"""Fetch the paper's published models, LHC-Net and LHC-NetC, as TensorFlow checkpoints.

    python Download_Models.py

About 130 MB each, into Downloaded_Models/LHC_Net and Downloaded_Models/LHC_NetC. A broken download
is resumed by running the command again; files that are there and sound, to the last checksum, are
kept, damaged ones fetched again. Memory: 150 MB.

Expected result: one line per model, "LHC_Net: complete in Downloaded_Models/LHC_Net", exit code 0.
"""

import sys
from functools import partial

from src.checkpoints import (
    LARGEST_INDEX,
    LARGEST_NOTE,
    check_checkpoint_file,
    data_size,
    read_index,
)
from src.cli import command, settings_from
from src.downloads import LARGEST, fetch
from src.errors import UserError
from src.files import lock


def largest(path):
    """Return how many bytes a file of a checkpoint can have; of a data file its index tells."""
    if path.name == "checkpoint":
        return LARGEST_NOTE
    if path.suffix == ".index":
        return LARGEST_INDEX
    index = path.with_name(path.name.split(".data-")[0] + ".index")
    return data_size(read_index(index)) if index.is_file() else LARGEST


def bring(urls, folder):
    """Fetch the files of a checkpoint that are missing or damaged."""
    # The index comes first: it tells how long the data file has to be.
    for name, url in sorted(urls.items(), key=lambda item: ".data-" in item[0]):
        path = folder / name
        check = partial(check_checkpoint_file, name=name)
        if path.exists():
            try:
                check(path)
                print(f"already there: {path}", flush=True)
                continue
            except UserError as error:
                print(f"fetching again: {error}", flush=True)
        fetch(url, path, check=check, largest=largest(path))


@command
def main(argv=None):
    settings = settings_from(argv, __doc__)
    for model, urls in settings.data["published_models"].items():
        folder = settings.path("downloaded_models_folder") / model
        with lock(folder / "download.lock", f"{folder} is being written"):
            bring(urls, folder)
        print(f"{model}: complete in {folder}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
