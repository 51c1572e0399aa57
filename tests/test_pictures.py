"""Picture files of many kinds: read upright and as RGB, or refused in one line."""

import io

import numpy as np
import pytest
from PIL import Image

from src import pictures
from src.errors import UserError

GREY = np.add.outer(np.arange(20) * 6, np.arange(30) * 4).astype(np.uint8)  # brighter to the right


@pytest.fixture
def save(tmp_path):
    """A function that saves an image of PIL under a name in a folder, and returns the path."""

    def to(name, image, **options):
        path = tmp_path / name
        image.save(str(path), **options)
        return path

    return to


def levels(path):
    """Return the grey levels of a picture as read, (H, W)."""
    image = pictures.read(path)
    assert image.mode == "RGB"
    return np.asarray(image.convert("L")).astype(int)


def test_grey_colour_and_palette(save):
    grey = Image.fromarray(GREY)
    for name, image in (
        ("grey.png", grey),
        ("colour.bmp", grey.convert("RGB")),
        ("palette.gif", grey.quantize(256)),
        ("deep.png", Image.fromarray(GREY.astype(np.uint16) * 257)),
        ("deep.tif", Image.fromarray(GREY.astype(np.int32) * 257)),
    ):
        np.testing.assert_array_equal(levels(save(name, image)), GREY, err_msg=name)
    cmyk = save("cmyk.jpg", grey.convert("RGB").convert("CMYK"), quality=98)
    np.testing.assert_allclose(levels(cmyk), GREY, atol=4)
    bits = levels(save("bits.png", Image.fromarray(GREY > 100)))
    np.testing.assert_array_equal(bits, 255 * (GREY > 100))


def test_floats_are_scaled_to_the_highest(save):
    deep = (GREY / 400).astype(np.float32)
    deep[0, 0] = np.nan
    found = levels(save("float.tif", Image.fromarray(deep)))
    np.testing.assert_allclose(found, np.nan_to_num(deep) / deep[1:].max() * 255, atol=1)
    assert not levels(save("black.tif", Image.fromarray(np.zeros((3, 3), np.float32)))).any()


def test_what_is_transparent_lies_on_white(save):
    image = Image.fromarray(GREY).convert("RGBA")
    image.putalpha(
        Image.fromarray(
            np.where(np.arange(30) < 15, 0, 255).repeat(20).reshape(30, 20).T.astype(np.uint8)
        )
    )
    found = levels(save("alpha.png", image))
    assert (found[:, :15] == 255).all()
    np.testing.assert_array_equal(found[:, 15:], GREY[:, 15:])
    palette = Image.fromarray(GREY // 64).convert("P")
    assert (levels(save("palette.png", palette, transparency=0))[GREY < 64] == 255).all()


@pytest.mark.parametrize(
    "orientation, turned", [(1, GREY), (3, GREY[::-1, ::-1]), (6, GREY.T[:, ::-1])]
)
def test_exif_says_what_is_up(save, orientation, turned):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = save("turned.png", Image.fromarray(GREY), exif=exif)
    np.testing.assert_array_equal(levels(path), turned)


def test_the_first_frame_of_several(save):
    first, second = (Image.fromarray(part) for part in (GREY, 255 - GREY))
    path = save("moving.gif", first, save_all=True, append_images=[second])
    np.testing.assert_array_equal(levels(path), GREY)


def test_one_pixel(save):
    assert levels(save("tiny.png", Image.new("L", (1, 1), 7))).tolist() == [[7]]


def test_what_cannot_be_read(tmp_path, save, monkeypatch):
    whole = save("whole.jpg", Image.fromarray(GREY)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:-200])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    postscript = io.BytesIO()
    Image.fromarray(GREY).save(postscript, "EPS")
    (tmp_path / "program.jpg").write_bytes(postscript.getvalue())
    monkeypatch.setattr(pictures, "LARGEST", 10**6)
    save("large.png", Image.new("L", (1001, 1000)))
    for name, word in (
        ("cut.jpg", "could not be read"),
        ("text.jpg", "known kind"),
        ("empty.png", "known kind"),
        ("program.jpg", "known kind"),
        ("large.png", "at most 1 million pixels"),
        ("none.png", "no such file"),
        ("", "something else than a file"),
    ):
        with pytest.raises(UserError, match=word):
            pictures.read(tmp_path / name)


def test_pillows_own_limit_is_told_alike(save, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="million pixels"):
        pictures.read(save("large.png", Image.new("L", (30, 30))))


@pytest.mark.filterwarnings("error")
def test_pillow_warns_nobody(save, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)
    assert pictures.read(save("middling.png", Image.new("L", (30, 30)))).size == (30, 30)


def test_paths_that_words_stand_for(tmp_path):
    folder, empty = tmp_path / "folder", tmp_path / "empty"
    for path in (folder / "inner", empty):
        path.mkdir(parents=True)
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt", "inner/c.png"):
        (folder / name).touch()
    failed = []
    listed = [b"x.jpg\r\n", b"\n", b"-\n", bytes(folder) + b"\n"]
    words = [str(tmp_path / "named.txt"), "-", str(empty), str(folder)]
    found = pictures.find(words, {".jpg", ".png"}, lambda *told: failed.append(told), listed)
    names = [path.name for path in found]
    assert names == ["named.txt", "x.jpg", "a.png", "b.JPG"]  # each once
    assert failed == [(str(empty), "found none of .jpg .png in this folder")]


def test_suffixes():
    assert {".jpg", ".jpeg", ".png", ".gif", ".tif", ".webp"} <= pictures.suffixes()
    assert not {".eps", ".pdf", ".h5", ".mpg"} & pictures.suffixes()


def test_a_name_that_cannot_be_one_is_left_to_the_reading(save):
    path = save("a.png", Image.fromarray(GREY))
    failed = []
    words = ["x" * 5000, str(path)]
    found = pictures.find(words, [".png"], lambda *what: failed.append(what))
    assert list(map(str, found)) == words and failed == []
