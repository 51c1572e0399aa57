"""A quick slice of tests/robustness: scripts killed or started twice, and what they leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.robustness import scenes

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups to kill")


def play(script, *words):
    """Run one of the folder's scripts; it ends with 0 if nothing was lost, broken or mixed."""
    command = [sys.executable, str(ROOT / "tests" / "robustness" / script), *words]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()[-3000:]
    return done.stdout.decode()


def test_killed_trainings_go_on_to_the_same_result():
    assert "'kills': 2," in play("kills.py", "--kind", "training", "--kills", "2")


def test_killed_etls_and_imports_go_on_to_the_same_result():
    printed = play("kills.py", "--kind", "etl", "--kind", "import", "--kills", "2")
    assert printed.count("'kills': 2,") == 2


def test_two_at_once_do_not_mix():
    assert "'races': 2," in play("races.py", "--kind", "etl", "--times", "2")


CARELESS = """
import time
for name in ("picture.jpeg", "metrics.json"):
    with open(WORK / name, "w") as file:
        file.write('{"half": ')
        file.flush()
        time.sleep(0.2)
        file.write("1}")
"""


class Careless(scenes.Scene):
    """A script that writes its files in place."""

    def before(self):
        path = self.root / "careless.py"
        path.write_text(f"from pathlib import Path\nWORK = Path({str(self.work)!r})\n{CARELESS}")
        self.script = (str(path),)
        (self.work / "picture.jpeg").write_text("the older one")


def test_faults_are_found(tmp_path):
    """Files that a killed script left broken, of neither run, surplus, or not as they should be."""
    with Careless(tmp_path / "scene") as scene:
        assert scene.whole.events and not scene.difference()["different"]
        scene.reset()
        assert scene.faults() == {"lost_models": [], "wrong_files": []}
        assert scene.run(
            until=lambda seconds, events: (scene.work / "metrics.json").exists()
        ).killed
        broken, *others = scene.faults()["wrong_files"]
        assert broken.startswith("metrics.json: JSONDecodeError") and not others
        assert scene.difference() == {"different": ["metrics.json"], "left_over": []}
        (scene.work / "picture.jpeg").write_text("half")
        (scene.work / "metrics.json.1-01234567.part").write_text("")
        scene.model = "ResNet34"
        faults = scene.faults()
        assert [line.split(":")[0] for line in faults["wrong_files"]] == [
            "metrics.json",
            "picture.jpeg",
        ]
        assert faults["lost_models"] == ["ResNet34"]
        assert scene.difference()["left_over"] == ["metrics.json.1-01234567.part"]
