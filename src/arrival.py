"""How FER2013 comes into the data folder: fetched, imported from a user's own files, or drawn."""

from src import plots
from src.dataset import KEPT, csv_path, draw, longest_csv, store, verify
from src.downloads import fetch
from src.errors import OtherData, UserError
from src.names import CLASSES, SPLITS
from src.sources import import_from


def bring(data, folder, source=None, labels=None, force=False):
    """Bring the three CSVs into `folder`, unless they are there.

    data: the data settings. source, labels: a user's own files (src/sources.py); without them, the
    settings' "source" says whether to fetch or to draw. force: replace CSVs that read well but hold
    other rows, which raise UserError else, as whatever can't be brought does.
    """
    if source is None and data["source"] == "download":
        return _download(data, folder, force)
    if source is not None:
        counts, fer2013 = data["class_counts"], data["fer2013_sha256"]
        written = import_from(source, folder, counts, force, labels, fer2013)
    else:
        splits = draw(data)
        written = store(folder, splits, force)
        with plots.warning(folder / "sample.png"):
            plots.sample_sheet(folder / "sample.png", *splits["train"], CLASSES)
    print("written:" if written else "already there:", folder, flush=True)


def _download(data, folder, force):
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
