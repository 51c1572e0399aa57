"""README.md and docs/ are about what is there: files, modules, keys, the net; examples run."""

import doctest
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from docs import settings_tables
from docs.pictures import draw
from src import lhc, networks, settings

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def text_of(path):
    return path.read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len(text_of(README).splitlines()) < 250


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            path = page.parent / path if path else page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), target


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.M)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


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


def test_the_tables_of_settings_are_up_to_date():
    for page, text in settings_tables.pages().items():
        assert text_of(page) == text, "run python docs/settings_tables.py"


def test_the_tables_have_every_default():
    page = text_of(ROOT / "docs" / "settings.md")
    for name, part in settings.load().resolved().items():
        keys = page.split(f"### {settings.FILES[name]}")[1].split("\n### ")[0]
        for key, value in part.items():
            row = next(line for line in keys.splitlines() if line.startswith(f"| `{key}` "))
            text = json.dumps(value)
            shown = f"`{text}`" if len(text) <= settings_tables.LONGEST else "see the file"
            assert row.split(" | ")[-1].strip(" |") == shown


PICTURES = ROOT / "docs" / "pictures"


@pytest.fixture(scope="module")
def description():
    return draw.describe(networks.build("LHC_NetC", settings.load(settings.DEFAULTS)))


@pytest.mark.parametrize("name", ["net", "module"])
def test_the_pictures_show_todays_net(description, name):
    path = PICTURES / f"{name}.png"
    assert path.stat().st_size < 150_000
    with Image.open(path) as picture:
        drawn = json.loads(picture.text["Description"])
    assert drawn == description, "run python docs/pictures/draw.py"


def test_what_the_pictures_show_is_the_papers(description):
    """REFERENCE.md sections 4 and 5."""
    assert description["input"] == [224, 224, 3] and description["dense"] == [4096, 1024, 7]
    parts, lhcs = description["parts"], [part["lhc"] for part in description["parts"]]
    assert [part["name"] for part in parts] == ["stem", *(f"stage {n}" for n in (1, 2, 3, 4))]
    assert [part["units"] for part in parts] == [0, 3, 4, 6, 3]
    channels, sides = (64, 64, 128, 256, 512), (56, 56, 28, 14, 7)
    assert [part["maps"] for part in parts] == [[s, s, c] for s, c in zip(sides, channels)]
    assert [of["num_heads"] for of in lhcs] == [8, 8, 7, 7, 1]
    assert [of["att_embed_dim"] for of in lhcs] == [196, 196, 56, 14, 25]
    assert [of["slice"] for of in lhcs] == [392, 392, 112, 28, 49]


def test_the_drawings_tell_their_numbers(description):
    def words(figure):
        return " ".join(text.get_text() for text in figure.axes[0].texts)

    other = json.loads(json.dumps(description))
    other["parts"][2].update(units=5, maps=[30, 31, 99])
    other["parts"][2]["lhc"].update(num_heads=3, att_embed_dim=17, slice=310, norm_c=4)
    told = words(draw.draw_net(other, [[0, 255]], ["one", "two"]))
    for text in ("5 residual units", "99 maps,\n30 × 31", "3 heads", "2 probabilities"):
        assert text in told
    told = words(draw.draw_module(other["parts"][2], 3))
    for text in ("LHC module 3", "310 → 17", "99 × 17", "99 × 310", "99 × 99", "3 bands", "17$^"):
        assert text in told


def _code(text):
    """Return the code blocks of a part of a page."""
    return "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))


def test_the_readmes_layer_runs_and_has_the_shapes_it_says():
    code = _code(text_of(README).split("## The layer in your own network")[1].split("\n## ")[0])
    names = {}
    exec(code, names)
    told = re.findall(r"^(\w+) = .*# \(B, ([\d, ]+)\)", code, re.M)
    assert [name for name, _ in told] == ["x", "y", "shares", "model"]
    for name, shape in told:
        found = getattr(names[name], "output", names[name]).shape
        assert tuple(found)[1:] == tuple(map(int, shape.split(", "))), name


def test_the_layers_own_example_runs():
    done = doctest.testmod(lhc)
    assert done.attempted and not done.failed


def test_troubleshooting_names_lines_that_there_are():
    sources = [*ROOT.glob("*.py"), *(ROOT / "src").glob("*.py"), ROOT / "requirements.txt"]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(map(text_of, sources)))
    headings = re.findall(r"^### (.+)$", text_of(ROOT / "docs" / "troubleshooting.md"), re.M)
    marked = [part for heading in headings for part in re.findall(r"`([^`]+)`", heading)]
    assert len(marked) > 15
    assert [part for part in marked if part not in code] == []
