"""Batches: the reference's digests, Keras' own generator where it exists, bad folders, memory."""

import hashlib
import io
import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.dataset import CLASSES, load
from src.errors import UserError
from src.etl import write_images
from src.generator import ImageFolder, ImageFolderBatches, list_images, read_grey

DATA = Path(__file__).parent / "data"
REFERENCE = json.loads((DATA / "reference.json").read_text())
RECIPES = {
    "stage1": {"rotation_range": 30, "horizontal_flip": True},
    "stage2": {
        "rotation_range": 10,
        "width_shift_range": 0.1,
        "height_shift_range": 0.1,
        "zoom_range": 0.1,
        "horizontal_flip": True,
    },
    "stage3": {},
    "shear": {"shear_range": 20, "zoom_range": 0.2, "horizontal_flip": True},
}


def jpegs(folder, size, images=None, labels=None):
    if images is None:
        images, labels = load(DATA / "tiny_data", "train")
    write_images(images, labels, folder, size)
    return folder / "Training"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return jpegs(tmp_path_factory.mktemp("images"), 224)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return jpegs(tmp_path_factory.mktemp("small"), 32)


def test_files_are_in_the_references_order(folder):
    files, labels = list_images(folder)
    names = [Path(file).relative_to(folder).as_posix() for file in files]
    assert names == REFERENCE["generator_filenames"]
    assert [CLASSES[label] for label in labels] == [name.split("/")[0] for name in names]


def test_names_are_sorted_as_strings(tmp_path):
    images = np.zeros((12, 48, 48), np.uint8)
    files, _ = list_images(jpegs(tmp_path, 16, images, np.zeros(12, np.uint8)))
    assert [Path(file).stem for file in files][:4] == ["Images0", "Images1", "Images10", "Images11"]


@pytest.mark.parametrize("cache_mb", [2048, 0])
@pytest.mark.parametrize("case", sorted(REFERENCE["generator"]))
def test_batches_have_the_reference_digests(folder, case, cache_mb):
    recipe, kind = case.split("/")
    expected = REFERENCE["generator"][case]
    if cache_mb == 0:
        expected = expected[:2]
    np.random.seed(131415)
    seed = 2 if kind == "seeded" else None
    batches = ImageFolderBatches(
        ImageFolder(folder, 224, threads=2, cache_mb=cache_mb), 8, seed=seed, **RECIPES[recipe]
    )
    assert len(batches) == 5
    for batch in expected:
        if batch["epoch"] and not batch["batch"]:
            batches.on_epoch_end()
        x, y = batches[batch["batch"]]
        first = 8 * batch["batch"]
        assert batches.order[first : first + 8].tolist() == batch["order"]
        assert x.dtype == y.dtype == np.float32 and x.flags.c_contiguous
        assert y.tolist() == np.eye(7)[batch["labels"]].tolist()
        grey = np.ascontiguousarray(x[..., 0])
        assert hashlib.sha256(grey).hexdigest() == batch["images_gray_sha256"]
        assert (x == grey[..., None]).all()


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_draws_are_one_uniform_after_the_other(small, recipe):
    """The generator draws in bulk; image by image, NumPy must be left in the same state."""
    ranges = RECIPES[recipe]
    batches = ImageFolderBatches(ImageFolder(small, 32), 6, **ranges)
    np.random.seed(7)
    matrices, offsets, flips = batches.draw_parameters(6)
    state = np.random.get_state()[1:]

    np.random.seed(7)
    for i in range(6):
        rotation = np.random.uniform(-30, 30) if recipe == "stage1" else 0
        if recipe == "stage2":
            rotation = np.random.uniform(-10, 10)
            np.random.uniform(-0.1, 0.1)
            np.random.uniform(-0.1, 0.1)
            zoom = np.random.uniform(0.9, 1.1, 2)
        if recipe == "shear":
            np.random.uniform(-20, 20)
            zoom = np.random.uniform(0.8, 1.2, 2)
        left_right = np.random.random() < 0.5
        np.random.random()
        assert flips[i].tolist() == [left_right and recipe != "stage3", False]
        if recipe == "stage1":
            cosine, sine = np.cos(np.deg2rad(rotation)), np.sin(np.deg2rad(rotation))
            np.testing.assert_allclose(matrices[i], [[cosine, -sine], [sine, cosine]], rtol=1e-14)
            centre = np.full(2, 16.5)
            np.testing.assert_allclose(matrices[i] @ centre + offsets[i], centre, rtol=1e-14)
        if recipe in ("stage2", "shear"):
            assert np.linalg.det(matrices[i]) > 0
            scale = np.linalg.norm(matrices[i], axis=0)
            if recipe == "stage2":
                np.testing.assert_allclose(scale, zoom, rtol=1e-14)
    assert all(np.array_equal(a, b) for a, b in zip(state, np.random.get_state()[1:]))
    if recipe == "stage3":
        assert matrices is None and offsets is None


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_batches_are_those_of_keras(small, recipe):
    """Same draws; the same pixels too on the paper's stack.

    Today's Keras turns about size/2 - 0.5 and takes rows for columns, so there only batches in
    which nothing moves can have the same pixels.
    """
    tf = pytest.importorskip("tensorflow")
    paper = tf.__version__.startswith("2.4.")
    keras_generator = tf.keras.preprocessing.image.ImageDataGenerator(**RECIPES[recipe])
    np.random.seed(11)
    sequence = keras_generator.flow_from_directory(
        str(small), (32, 32), classes=list(CLASSES), batch_size=8
    )
    theirs = [(*sequence[i], np.random.random()) for i in (0, 1, 4)]
    np.random.seed(11)
    sequence = ImageFolderBatches(ImageFolder(small, 32), 8, **RECIPES[recipe])
    ours = [(*sequence[i], np.random.random()) for i in (0, 1, 4)]
    for (our_x, our_y, our_next), (x, y, following) in zip(ours, theirs):
        assert our_next == following
        assert np.array_equal(our_y, y)
        assert np.array_equal(our_x, x) or not (paper or recipe == "stage3")


def test_number_of_threads_and_python_randomness_do_not_matter(small):
    random.seed(5)
    before = random.getstate()
    batches = []
    for threads in (1, 3):
        np.random.seed(0)
        sequence = ImageFolderBatches(
            ImageFolder(small, 32, threads=threads), 10, **RECIPES["stage2"]
        )
        batches.append([x for x, _ in (sequence[i] for i in range(len(sequence)))])
    assert all(np.array_equal(a, b) for a, b in zip(*batches))
    assert len(batches[0][-1]) == 5  # 35 images: the last batch is short
    assert random.getstate() == before


def test_memory_is_used_again_only_when_nobody_has_it(small):
    batches = ImageFolderBatches(ImageFolder(small, 32), 8)
    view = batches[0][0][2:4, ::2]  # of an array that is gone
    before = view.copy()
    others = [batches[i][0] for i in (1, 2, 3)]
    assert not any(np.shares_memory(view, x) for x in others)
    assert not np.shares_memory(others[0], others[1])
    place = others.pop().__array_interface__["data"]
    last = batches[len(batches) - 1][0]  # 3 images
    assert last.__array_interface__["data"] == place and len(last) == 3
    assert np.array_equal(view, before)


def test_what_the_memory_held_before_does_not_matter(small):
    used, fresh = (ImageFolderBatches(ImageFolder(small, 32), 8, rotation_range=30) for _ in "ab")
    used[0][0][...] = np.nan
    found = []
    for batches in (used, fresh):
        np.random.seed(1)
        batches.on_epoch_end()
        found.append(batches[0][0])
    assert np.array_equal(*found)


def test_vertical_flip(small):
    np.random.seed(0)
    plain, _ = ImageFolderBatches(ImageFolder(small, 32), 35)[0]
    np.random.seed(0)
    sequence = ImageFolderBatches(ImageFolder(small, 32), 35, vertical_flip=True)
    flipped, _ = sequence[0]
    upside_down = [np.array_equal(a, b[::-1]) for a, b in zip(flipped, plain)]
    assert 5 < sum(upside_down) < 30
    assert all(u or np.array_equal(a, b) for u, a, b in zip(upside_down, flipped, plain))


def test_images_are_the_decoded_files_in_order(small):
    for cache_mb in (2048, 0):
        folder = ImageFolder(small, 32, cache_mb=cache_mb)
        planes, rows = folder.planes(np.arange(len(folder)))
        assert planes.dtype == np.uint8
        for file, image in zip(folder.files, planes[rows]):
            assert np.array_equal(np.asarray(Image.open(file)), np.stack([image] * 3, axis=-1))


def test_limit_keeps_the_classes_shares(tmp_path):
    counts = [20, 2, 10, 30, 10, 10, 18]
    labels = np.repeat(np.arange(7), counts).astype(np.uint8)
    folder = jpegs(tmp_path, 16, np.zeros((100, 48, 48), np.uint8), labels)
    files, labels = list_images(folder, limit=20)
    assert np.bincount(labels).tolist() == [4, 1, 2, 6, 2, 2, 4]
    assert len(ImageFolder(folder, 16, limit=20)) == len(files) == 21
    assert len(list_images(folder, limit=1000)[0]) == 100


def test_an_interrupted_etl_is_not_trained_on(tmp_path):
    labels = np.arange(14, dtype=np.uint8) % 7
    folder = jpegs(tmp_path, 16, np.zeros((14, 48, 48), np.uint8), labels)
    (folder / "Fear" / "Images1.jpeg").unlink()
    with pytest.raises(UserError, match="expected 14 JPEG images, found 13; run ETL.py"):
        list_images(folder)
    (folder / "etl.json").write_text("{")  # as without a note: a folder of the user's own
    assert len(list_images(folder)[0]) == 13


def test_bad_folders_and_files(tmp_path):
    with pytest.raises(UserError, match="Anger.*not found; run ETL.py"):
        list_images(tmp_path)
    for name in CLASSES:
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="found none; run ETL.py"):
        list_images(tmp_path)

    path = tmp_path / "Fear" / "Images0.jpeg"
    Image.new("RGB", (30, 32)).save(path)
    with pytest.raises(UserError, match=r"Images0.jpeg: expected 32 x 32 pixels, found 30 x 32"):
        ImageFolderBatches(ImageFolder(tmp_path, 32), 4)[0]
    whole = path.read_bytes()
    for content in (b"", b"not a picture", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="Images0.jpeg: .*run ETL.py"):
            ImageFolderBatches(ImageFolder(tmp_path, 32), 4)[0]
    Image.new("RGB", (32, 32)).save(path)
    with pytest.raises(IndexError):
        ImageFolderBatches(ImageFolder(tmp_path, 32), 4)[1]


def test_hidden_files_and_folders_are_no_images(tmp_path):
    """Systems leave such beside the images: AppleDouble files, for one."""
    labels = np.arange(7, dtype=np.uint8)
    folder = jpegs(tmp_path, 32, np.zeros((7, 48, 48), np.uint8), labels)
    (folder / "Sadness" / "._Images0.jpeg").write_bytes(b"\0\5\x16\7")
    (folder / "Sadness" / "more.jpeg").mkdir()
    assert len(ImageFolder(folder, 32)) == 7


def test_more_images_than_the_note_tells_of_are_told(tmp_path):
    labels = np.arange(14, dtype=np.uint8) % 7
    folder = jpegs(tmp_path, 16, np.zeros((14, 48, 48), np.uint8), labels)
    content = (folder / "Fear" / "Images1.jpeg").read_bytes()
    (folder / "Anger" / "mine.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"expected 14 .* found 15 \(Anger/mine.jpg\); remove"):
        list_images(folder)
    (folder / "etl.json").unlink()
    assert len(ImageFolder(folder, 16)) == 15  # all the user's own
    (folder / "Anger" / "mine.jpg").write_bytes(content + b"a camera's own")
    assert len(ImageFolder(folder, 16)) == 15


def test_an_image_that_was_cut_off_is_told_before_training(tmp_path):
    labels = np.arange(7, dtype=np.uint8)
    folder = jpegs(tmp_path, 32, np.zeros((7, 48, 48), np.uint8), labels)
    path = folder / "Sadness" / "Images0.jpeg"
    whole = path.read_bytes()
    for content in (b"", b"\xff", whole[:300], whole[:-2], whole[2:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="Sadness.Images0.jpeg: expected a JPEG image"):
            ImageFolder(folder, 32)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "PPM", "BMP", "EPS"])
def test_other_formats_are_no_jpegs_whatever_their_name(kind, tmp_path, monkeypatch):
    """No EPS file may start Ghostscript, which would run it."""
    monkeypatch.setattr("subprocess.Popen", None)
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, kind)
    for content in (file.getvalue(), file.getvalue()[:-20], file.getvalue()[:40]):
        (tmp_path / "Images0.jpeg").write_bytes(content)
        with pytest.raises(UserError, match="Images0.jpeg: expected a JPEG image, cannot read it"):
            read_grey(tmp_path / "Images0.jpeg", 32)


def test_an_image_that_claims_to_be_huge_is_told_in_silence(tmp_path):
    path = tmp_path / "Images0.jpeg"
    Image.new("RGB", (32, 32)).save(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"\xff\xc0") + 5
    for size in (65500, 10000):
        content[place : place + 4] = 2 * size.to_bytes(2, "big")
        path.write_bytes(content)
        with warnings.catch_warnings(), pytest.raises(UserError, match=f"found {size} x {size}"):
            warnings.simplefilter("error")
            read_grey(path, 32)


def test_images_with_any_damage_are_read_or_told(small):
    whole = (small / "Anger" / "Images0.jpeg").read_bytes()
    path = small.parent / "damaged.jpeg"
    rng = random.Random(0)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            assert read_grey(path, 32).shape == (32, 32)
        except UserError as error:
            assert "damaged.jpeg: expected" in str(error)
