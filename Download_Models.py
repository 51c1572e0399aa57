"""Fetch the paper's published models, LHC-Net and LHC-NetC, as TensorFlow checkpoints.

    python Download_Models.py

About 130 MB each, into Downloaded_Models/LHC_Net and Downloaded_Models/LHC_NetC. A broken download
is resumed by running the command again; files that are there and sound are kept. Memory: 100 MB.

Expected result: one line per model, "LHC_Net: complete in Downloaded_Models/LHC_Net", exit code 0.
"""

import sys
from functools import partial

from src.checkpoints import check_checkpoint_file
from src.cli import command, settings_from
from src.downloads import fetch
from src.errors import UserError


@command
def main(argv=None):
    settings = settings_from(argv, __doc__)
    for model, urls in settings.data["published_models"].items():
        folder = settings.path("downloaded_models_folder") / model
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
            fetch(url, path, check=check)
        print(f"{model}: complete in {folder}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
