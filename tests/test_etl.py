"""The JPEG folder: the reference's pixels and bytes, interruptions, other data, bad input."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ETL
from src import etl
from src.dataset import CLASSES, csv_path, load, write_csvs
from src.errors import UserError
from src.files import lock
from src.pixels import enlarge

DATA = Path(__file__).parent / "data"


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


@pytest.fixture
def tiny():
    return load(DATA / "tiny_data", "train")


def test_jpegs_are_the_references(tiny, tmp_path):
    expected = json.loads((DATA / "reference.json").read_text())["etl"]["jpegs"]
    assert etl.write_images(*tiny, tmp_path, 224, threads=2) == (35, 0)
    found = files(tmp_path / "Training")
    found.pop(etl.NOTE)
    assert sorted(found) == sorted(expected)
    for name, content in found.items():
        image = Image.open(tmp_path / "Training" / name)
        pixels = np.asarray(image)
        assert image.mode == "RGB" and (pixels == pixels[..., :1]).all()
        grey = np.ascontiguousarray(pixels[..., 0])
        assert hashlib.sha256(grey).hexdigest() == expected[name]["decoded_gray_sha256"]
        assert hashlib.sha256(content).hexdigest() == expected[name]["jpeg_sha256"]


@pytest.mark.parametrize("size", [1, 37, 48])
def test_jpegs_have_the_bytes_that_pillow_writes(size, tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, (3, 48, 48)).astype(np.uint8)
    etl.write_images(noise, np.zeros(3, int), tmp_path / "ours", size)
    for i, plane in enumerate(np.floor(enlarge(noise, size))):
        rgb = Image.fromarray(np.stack([plane.astype(np.uint8)] * 3, axis=-1))
        rgb.save(tmp_path / "theirs.jpeg", quality=100, subsampling=0)
        ours = tmp_path / "ours" / "Training" / "Anger" / f"Images{i}.jpeg"
        assert ours.read_bytes() == (tmp_path / "theirs.jpeg").read_bytes()


def test_interrupted_run_is_completed(tiny, tmp_path, monkeypatch):
    etl.write_images(*tiny, tmp_path / "whole", 32)
    replace, calls = os.replace, []

    def fails(source, target):
        calls.append(target)
        if len(calls) > 12:
            raise OSError("No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(UserError, match="No space left on device.*run ETL.py again"):
        etl.write_images(*tiny, tmp_path / "broken", 32, threads=1)
    monkeypatch.undo()
    assert etl.write_images(*tiny, tmp_path / "broken", 32) == (24, 11)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_only_missing_and_empty_files_are_written_again(tiny, tmp_path):
    etl.write_images(*tiny, tmp_path, 32)
    before = files(tmp_path)
    assert etl.write_images(*tiny, tmp_path, 32) == (0, 35)
    (tmp_path / "Training" / "Fear" / "Images1.jpeg").unlink()
    (tmp_path / "Training" / "Anger" / "Images3.jpeg").write_bytes(b"")
    assert etl.write_images(*tiny, tmp_path, 32) == (2, 33)
    assert files(tmp_path) == before


def test_other_data_size_or_a_lost_note_replaces_everything(tiny, tmp_path):
    images, labels = tiny
    etl.write_images(images, labels, tmp_path, 32)
    parts = ["Images1.jpeg.part", "Images1.jpeg.4321-0ab9.part"]  # of killed runs: earlier, today's
    for part in parts:
        (tmp_path / "Training" / "Anger" / part).write_bytes(b"half")
    (tmp_path / "Training" / f"{etl.NOTE}.4321-0123abcd.part").write_text("{")
    mine = tmp_path / "Training" / "Fear" / "mine.txt"
    mine.write_text("not an image of ours")
    assert etl.write_images(images, labels, tmp_path, 48) == (35, 0)
    assert not list(tmp_path.rglob("*.part"))
    assert etl.write_images(images[:20], labels[:20], tmp_path, 48) == (20, 0)
    assert len(list(tmp_path.rglob("*.jpeg"))) == 20
    assert etl.write_images(255 - images[:20], labels[:20], tmp_path, 48) == (20, 0)
    (tmp_path / "Training" / etl.NOTE).write_text("{")
    assert etl.write_images(255 - images[:20], labels[:20], tmp_path, 48) == (20, 0)
    assert mine.exists()


def test_cut_off_images_are_written_again_and_surplus_ones_removed(tiny, tmp_path):
    etl.write_images(*tiny, tmp_path, 32)
    before = files(tmp_path)
    path = tmp_path / "Training" / "Anger" / "Images3.jpeg"
    path.write_bytes(path.read_bytes()[:300])
    (path.parent / "Images9999.jpeg").write_bytes(before["Training/Anger/Images0.jpeg"])
    assert etl.write_images(*tiny, tmp_path, 32) == (1, 34)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100000,
        "[]",
        "5",
        '{"images": Infinity, "size": 32, "sha256": ""}',
        '{"images": 1e999, "size": 32, "sha256": ""}',
        '{"images": "35", "size": 32, "sha256": ""}',
        '{"images": 35}',
        '{"images": 35, "size": [], "sha256": ""}',
    ],
    ids=lambda text: text[:30],
)
def test_a_broken_note_is_none(tiny, tmp_path, text):
    etl.write_images(*tiny, tmp_path, 32)
    note = tmp_path / "Training" / etl.NOTE
    whole = note.read_text()
    note.write_text(text)
    assert etl.images_of(note.parent) is None
    etl.check_matches(note.parent, DATA / "tiny_data", 48)
    assert etl.write_images(*tiny, tmp_path, 32) == (35, 0)
    assert note.read_text() == whole


def test_images_of_other_data_are_told(tiny, tmp_path, monkeypatch):
    data, folder = tmp_path / "data", tmp_path / "Training"
    path = csv_path(data, "train")
    write_csvs({path: (*tiny, "Training")})
    etl.write_images(*tiny, tmp_path, 32, csv=path)
    etl.check_matches(folder, data, 32)
    with pytest.raises(UserError, match="expected JPEG images of 48 x 48 .* of 32 x 32; run ETL"):
        etl.check_matches(folder, data, 48)
    with monkeypatch.context() as patch:  # a CSV that is the same is not even read
        patch.setattr(etl, "load", None)
        etl.check_matches(folder, data, 32)
    write_csvs({path: (*tiny, "the same in other words")})
    etl.check_matches(folder, data, 32)
    images, labels = tiny
    write_csvs({path: (255 - images, labels, "Training")})
    with pytest.raises(UserError, match="data_train.csv, found JPEGs of other data; run ETL.py"):
        etl.check_matches(folder, data, 32)
    write_csvs({path: (images, labels[::-1], "Training")})
    with pytest.raises(UserError, match="other data"):
        etl.check_matches(folder, data, 32)
    path.unlink()
    etl.check_matches(folder, data, 32)


def test_a_note_of_before_learns_where_the_images_come_from(tiny, tmp_path):
    path, note = csv_path(DATA / "tiny_data", "train"), tmp_path / "Training" / etl.NOTE
    etl.write_images(*tiny, tmp_path, 32)
    before = json.loads(note.read_text())
    assert etl.write_images(*tiny, tmp_path, 32, csv=path) == (0, 35)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(note.read_text()) == dict(before, csv_sha256=digest)


def test_every_class_has_a_folder(tiny, tmp_path):
    etl.write_images(tiny[0][:1], tiny[1][:1], tmp_path, 32)
    assert all((tmp_path / "Training" / name).is_dir() for name in CLASSES)


def test_script(tmp_path, capsys):
    settings = tmp_path / "Settings"
    settings.mkdir()
    shutil.copytree(str(DATA / "tiny_data"), str(tmp_path / "data"))
    data = {"data_folder": str(tmp_path / "data"), "images_folder": str(tmp_path / "images")}
    (settings / "Data_Settings.json").write_text(json.dumps(data))
    assert ETL.main(["--settings", str(settings)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("35 images of 224 x 224 pixels in ") and "(35 written, 0 kept)" in out

    data["data_folder"] = str(tmp_path / "nowhere")
    (settings / "Data_Settings.json").write_text(json.dumps(data))
    assert ETL.main(["--settings", str(settings)]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error and error.count("\n") == 1


def test_only_one_process_writes_at_a_time(tiny, tmp_path):
    with lock(tmp_path / "etl.lock", "held"), pytest.raises(UserError, match="is being written by"):
        etl.write_images(*tiny, tmp_path, 32)
    assert etl.write_images(*tiny, tmp_path, 32) == (35, 0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in folders")
@pytest.mark.parametrize("kind", ["pipe", "endless", "large", "digits"])
def test_a_note_that_is_none_is_not_read(tmp_path, kind):
    images, labels = load(DATA / "tiny_data", "train", 7)
    etl.write_images(images, labels, tmp_path, 32)
    note = tmp_path / "Training" / etl.NOTE
    content = note.read_text()
    note.unlink()
    if kind == "pipe":
        os.mkfifo(str(note))
    elif kind == "endless":
        note.symlink_to("/dev/zero")
    elif kind == "large":
        note.write_text(content + " " * (1 << 21))
    else:
        note.write_text(content.replace("32", "3" * 5000))
    assert etl.images_of(tmp_path / "Training") is None
    assert etl.write_images(images, labels, tmp_path, 32) == (len(images), 0)
    assert note.read_text() == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in folders")
def test_a_pipe_in_the_place_of_a_picture_is_replaced(tmp_path):
    images, labels = load(DATA / "tiny_data", "train", 7)
    etl.write_images(images, labels, tmp_path, 32)
    path = etl.image_paths(labels, str(tmp_path / "Training"))[0]
    os.remove(path)
    os.mkfifo(path)
    assert etl.write_images(images, labels, tmp_path, 32) == (1, len(images) - 1)
    assert etl.is_whole(path)
