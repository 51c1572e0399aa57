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
from src.dataset import CLASSES, load
from src.errors import UserError
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
