"""Faces: boxes and crops without OpenCV; with it, what it finds; what is told where it lacks."""

import ast
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from src import faces, looks, sample
from src.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
DRAWN = sample.draw(1, [2] * 7)[0]


@pytest.fixture(scope="module")
def scene():
    """A picture with one drawn face of 144 x 144 pixels at (120, 90)."""
    image = Image.new("RGB", (400, 330), (160, 160, 160))
    image.paste(Image.fromarray(DRAWN[0]).resize((144, 144), Image.BICUBIC), (120, 90))
    return image


def test_a_crop_of_fer2013s_size_stays_as_it_is():
    image = Image.fromarray(DRAWN[0])
    np.testing.assert_array_equal(faces.cut(image, faces.centre(image)), DRAWN[0])


def test_cutting_takes_the_box_and_nothing_beside_it():
    pixels = np.full((200, 300), 255, np.uint8)
    pixels[40:136, 60:156] = DRAWN[0].repeat(2, axis=0).repeat(2, axis=1)
    face = faces.cut(Image.fromarray(pixels), (60, 40, 96, 96))
    assert face.shape == (48, 48) and face.dtype == np.uint8
    assert np.abs(face.astype(int) - DRAWN[0]).mean() < 6  # Lanczos' filter sharpens a little
    assert faces.cut(Image.new("L", (1, 1), 9), (0, 0, 1, 1)).tolist() == [[9] * 48] * 48


def test_reducing_does_not_alias():
    stripes = np.tile(np.array([0, 255], np.uint8), (480, 240))  # one pixel wide
    face = faces.cut(Image.fromarray(stripes), (0, 0, 480, 480))
    assert np.abs(face[:, 2:-2].astype(int) - 128).max() <= 2


def test_the_middle_square():
    assert faces.centre(Image.new("L", (100, 40))) == (30, 0, 40, 40)
    assert faces.centre(Image.new("L", (3, 8))) == (0, 2, 3, 3)


def fake(monkeypatch, found, **more):
    """Put a stand-in for OpenCV in place, which finds the given boxes in every picture."""
    seen = []

    def detect(pixels, *args, **kwargs):
        seen.append(pixels.shape)
        return found

    cascade = SimpleNamespace(detectMultiScale=detect)
    parts = {
        "CascadeClassifier": lambda path: cascade,
        "data": SimpleNamespace(haarcascades=""),
        "setNumThreads": lambda count: None,
        "cvtColor": lambda pixels, code: pixels,
        "COLOR_RGB2GRAY": 0,
        "COLOR_RGB2BGR": 1,
        "error": RuntimeError,
        "__version__": "0",
        **more,
    }
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(**parts))
    return seen


def test_boxes_lie_in_the_picture_from_left_to_right(monkeypatch):
    fake(monkeypatch, [(80, 10, 50, 50), (-5, -5, 30, 30), (99.6, 40, 0.1, 20)])
    found = faces.detector()(Image.new("RGB", (100, 60)))
    assert found == [(0, 0, 25, 25), (80, 10, 20, 50), (99, 40, 1, 20)]


def test_large_pictures_are_searched_small(monkeypatch):
    seen = fake(monkeypatch, [(100, 200, 64, 64)])
    found = faces.detector()(Image.new("RGB", (2 * faces.SEARCHED, 1000)))
    assert seen == [(500, faces.SEARCHED, 3)] and found == [(200, 400, 128, 128)]


def test_tiny_pictures_are_not_searched(monkeypatch):
    seen = fake(monkeypatch, [(0, 0, 9, 9)])
    assert faces.detector()(Image.new("RGB", (5000, 1))) == [] and not seen


def test_yunets_boxes_become_squares(monkeypatch, tmp_path):
    rows = np.array([[10, 20, 30, 40, 1, 2, 3, 0.9]], np.float32)
    sizes = []
    network = SimpleNamespace(setInputSize=sizes.append, detect=lambda pixels: (1, rows))
    fake(monkeypatch, [], FaceDetectorYN=SimpleNamespace(create=lambda *args: network))
    with pytest.raises(UserError, match="no such file"):
        faces.detector(tmp_path / "yunet.onnx")
    (tmp_path / "yunet.onnx").touch()
    find = faces.detector(tmp_path / "yunet.onnx")
    assert find(Image.new("RGB", (200, 100))) == [(5, 20, 40, 40)] and sizes == [(200, 100)]
    rows = None
    assert find(Image.new("RGB", (200, 100))) == []

    def refuse(pixels):
        raise sys.modules["cv2"].error("another network's layers")

    network.detect = refuse
    with pytest.raises(UserError, match="expected YuNet"):
        find(Image.new("RGB", (200, 100)))


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="pip install opencv-python-headless==.*--no-detect"):
        faces.detector()


def test_the_advice_installs_the_required_opencv():
    assert faces.INSTALL[len("pip install ") :] in (ROOT / "requirements.txt").read_text().split()


def test_opencv_without_haar_cascades(monkeypatch):
    fake(monkeypatch, [])
    del sys.modules["cv2"].CascadeClassifier
    with pytest.raises(UserError, match="no Haar cascades any more: pip install.*--yunet"):
        faces.detector()


def test_opencv_is_known_here_only():
    known = {
        path.name
        for path in [*ROOT.glob("*.py"), *(ROOT / "src").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and "cv2" in {alias.name for alias in node.names}
    }
    assert known == {"faces.py"}
    started = ast.parse((ROOT / "src" / "faces.py").read_text(encoding="utf-8")).body
    assert "cv2" not in {
        a.name for node in started if isinstance(node, ast.Import) for a in node.names
    }


def test_the_cascade_finds_a_drawn_face(scene):
    pytest.importorskip("cv2")
    find = faces.detector()
    ((x, y, width, height),) = find(scene)
    assert abs(x + width / 2 - 192) < 15 and abs(y + height / 2 - 162) < 20
    assert width == height and 100 < width <= 160
    assert find(scene) == find(scene)
    assert find(Image.new("RGB", (300, 300), (90, 90, 90))) == []


def test_a_file_that_is_no_yunet(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "yunet.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="could not load it"):
        faces.detector(tmp_path / "yunet.onnx")


def test_a_video_gives_a_picture_every_so_often(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for level in range(0, 200, 10):  # four seconds
        writer.write(np.full((48, 64, 3), (0, 0, level), np.uint8))  # OpenCV's order: red
    writer.release()
    found = list(faces.frames(path, every=1.5))
    assert [seconds for seconds, _ in found] == [0, 1.6, 3.2]
    for (_, image), level in zip(found, (0, 80, 160)):
        assert image.size == (64, 48)
        np.testing.assert_allclose(np.asarray(image)[20, 30], (level, 0, 0), atol=6)


def test_a_video_that_is_none(tmp_path):
    pytest.importorskip("cv2")
    with pytest.raises(UserError, match="no such file"):
        next(faces.frames(tmp_path / "none.mp4"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match="gets no picture"):
        next(faces.frames(tmp_path / "text.mp4"))


def test_no_more_of_a_video_is_read_than_is_asked_for(monkeypatch):
    pulled = []
    monkeypatch.setattr(faces, "frames", lambda *_: map(pulled.append, range(9)))
    assert len(list(looks.images(Path("a.mp4"), 1, 2))) == 2 and pulled == [0, 1]
    assert len(list(looks.images(Path("a.mp4"), 1, None))) == 9
