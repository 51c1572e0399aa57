"""README.md and docs/ are about what is there: files, modules, scripts, keys."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def text_of(path):
    return path.read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len(text_of(README).splitlines()) < 250


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    headings = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in _headings(README)}
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            assert (page.parent / path).exists(), target
            assert not anchor or anchor in headings, target


def _headings(page):
    return re.findall(r"^#+ (.+)$", text_of(page), re.M)


def test_every_script_and_module_has_its_line():
    tree = text_of(ROOT / "docs" / "tree.md")
    for path in sorted((ROOT / "src").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        assert name in tree or path.name == "__init__.py", name
    for name in re.findall(r"src/[\w/]+\.\w+", tree):
        assert (ROOT / name).is_file(), name
    listed = text_of(README).split("## The tree")[1]
    for path in ROOT.glob("*.py"):
        assert path.name in listed, path.name


@pytest.mark.parametrize("name", ["Runtime", "Evaluation"])
def test_every_key_is_explained(name):
    keys = json.loads(text_of(ROOT / "Settings" / f"{name}_Settings.json"))
    page = text_of(ROOT / "docs" / "settings.md")
    assert [key for key in keys if f"`{key}`" not in page and f'`"{key}"`' not in page] == []


def test_commands_name_what_is_there():
    for page in PAGES:
        for script in re.findall(r"python (\w[\w/]*\.py)", text_of(page)):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"
        for folder in re.findall(r"--settings (Settings\S*)", text_of(page)):
            assert (ROOT / folder.rstrip("`,;.")).is_dir(), f"{page.name}: {folder}"
