"""The page of an evaluation: its numbers, what it does without, and that anyone can read it."""

import base64
import html
import html.parser
import io
import json
import random
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score

from src import calibration, page, settings
from src.dataset import CLASSES
from src.markup import document, element, table

IMAGES = 60
NAME = 'ResNet34 <script>alert("1")<script> &amp;'
VOID = {"br", "img", "meta"}
HEAD = "stage,epoch,loss,categorical_accuracy,val_loss,val_categorical_accuracy,seconds\n"
ROWS = "1,1,2.5,0.2,70,0.15,9\n1,2,1.5,0.4,1.6,0.4,8\n2,1,1.2,0.5,1.4,0.45,8\n"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")


class Reader(html.parser.HTMLParser):
    """Reads a page and keeps its elements: (tag, attributes, text), and what was not closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.unclosed = [], [], []
        self.feed(text)
        self.close()
        self.unclosed += [tag for tag, _ in self.open]

    def handle_starttag(self, tag, attributes):
        assert len({name for name, _ in attributes}) == len(attributes)
        entry = [tag, dict(attributes), ""]
        self.elements.append(entry)
        if tag not in VOID:
            self.open.append((tag, entry))

    def handle_endtag(self, tag):
        opened, _ = self.open.pop()
        if opened != tag:
            self.unclosed.append(f"{opened} before {tag}")

    def handle_data(self, data):
        for _, entry in self.open:
            entry[2] += data

    def all(self, *tags):
        return [(attributes, text) for tag, attributes, text in self.elements if tag in tags]

    @property
    def text(self):
        return " ".join(self.all("body")[0][1].split())

    def rows(self, caption):
        """Return the cells of the table with this caption, as texts."""
        tags = [tag for tag, _, _ in self.elements]
        start = next(
            i
            for i, (tag, _, text) in enumerate(self.elements)
            if (tag, text) == ("caption", caption)
        )
        end = next((i for i in range(start, len(tags)) if tags[i] == "table"), len(tags))
        rows = []
        for tag, _, text in self.elements[start:end]:
            if tag == "tr":
                rows.append([])
            elif tag in ("td", "th"):
                rows[-1].append(text)
        return rows


@pytest.fixture(scope="module")
def evaluation():
    """What an evaluation hands to the page: (record without settings, images, labels, arrays)."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 7, IMAGES).astype(np.uint8)
    images = generator.integers(0, 256, (IMAGES, 48, 48)).astype(np.uint8)
    probabilities = {}
    record = {"network": "ResNet34", "training_complete": True, "data": "FER2013, unchanged"}
    for split in page.SPLITS:
        scores = generator.random((IMAGES, 7)) + 0.7 * np.eye(7)[labels]
        probabilities[split] = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
        accuracy = float(np.mean(probabilities[split].argmax(axis=1) == labels))
        record[split] = {"images": IMAGES, "accuracy": accuracy, "repeated": 0}
    record["val"] = {"images": 50, "accuracy": 0.5, "repeated": 3}
    record["paper_test_accuracy_percent"] = {
        "best_run": 72.81,
        "mean_of_top_40_percent_of_runs": 72.69,
    }
    record["versions"] = {"python": "3.x <b>", "gpus": ["a card", "another"]}
    return record, images, labels, probabilities


@pytest.fixture(scope="module")
def world(tmp_path_factory, settings_folder):
    """The settings of a training whose folder has a history and a record."""
    root = tmp_path_factory.mktemp("page")
    own = settings.load(settings_folder(root, Runtime={"max_epochs": 3, "max_test_images": IMAGES}))
    write_training(own.path("models_folder") / "ResNet34", own)
    return own


def write_training(folder, own, history=HEAD + ROWS):
    folder.mkdir(parents=True)
    (folder / "weights.h5").write_bytes(b"")
    (folder / "history.csv").write_text(history)
    record = {"complete": True, "settings": own.resolved(), "versions": {"python": "3.y"}}
    (folder / "settings.json").write_text(json.dumps(record))


@pytest.fixture
def written(world, evaluation, tmp_path):
    """A function that writes the page and returns its text.

    written(training=None, **changes of the record)
    """

    def write(training=None, **changes):
        record, *arrays = evaluation
        record = {"settings": world.resolved(), **record, **changes}
        training = training or page.training_of(world, "ResNet34")
        folder = tmp_path / NAME
        folder.mkdir(exist_ok=True)
        page.write(folder / "report.html", NAME, record, training, *arrays)
        assert [path.name for path in folder.iterdir()] == ["report.html"]
        return (folder / "report.html").read_bytes().decode("utf-8")

    return write


def test_every_element_is_closed_and_every_name_is_one_elements(written):
    reader = Reader(written())
    assert not reader.unclosed
    ids = [attributes["id"] for _, attributes, _ in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 7
    named = {a["href"].lstrip("#") for _, a, _ in reader.elements if "href" in a}
    named |= {a["aria-labelledby"] for a, _ in reader.all("section")}
    named |= set(re.findall(r"url\(#([\w-]+)\)", written()))
    assert named <= set(ids) and len(named) > 10


def test_nothing_from_outside(written):
    text = written()
    reader = Reader(text)
    tags = {tag for tag, _, _ in reader.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video"}
    for _, attributes, _ in reader.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:image/png").startswith("data:image/png")
        assert attributes.get("href", "#").startswith("#")
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    (policy,) = [a["content"] for a, _ in reader.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


def test_what_is_given_is_shown_as_it_is(written):
    text = written(data="FER2013 <img src=x onerror=alert(1)>")
    reader = Reader(text)
    assert f"{NAME}: evaluation" == reader.all("h1")[0][1] == reader.all("title")[0][1]
    assert "FER2013 <img src=x onerror=alert(1)>" in reader.text and "3.x <b>" in reader.text
    assert not reader.all("b") and "alert" not in "".join(map(str, reader.all("script")))
    assert len(reader.all("img")) == page.MISTAKES


def test_a_screen_reader_finds_its_way(written):
    reader = Reader(written())
    assert reader.all("html")[0][0]["lang"] == "en"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [
        attributes for attributes, _ in reader.all("meta")
    ]
    levels = [int(tag[1]) for tag, _, _ in reader.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))
    tables = len(reader.all("table"))
    assert tables >= 8 and len({text for _, text in reader.all("caption")}) == tables
    assert {attributes.get("scope") for attributes, _ in reader.all("th")} == {"col", "row"}
    assert all(text.strip() for _, text in reader.all("th", "caption", "h1", "h2", "h3"))
    pictures = [attributes["alt"] for attributes, _ in reader.all("img")]
    charts = [a["aria-label"] for a, _ in reader.all("svg") if a["role"] == "img"]
    assert len(set(pictures)) == page.MISTAKES and len(set(charts)) == 4
    assert all(pictures) and all(charts)


def luminance(colour):
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(*colours):
    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_that_of_wcag_aa(scheme):
    style = page.STYLE.read_text(encoding="utf-8")
    palette = dict(re.findall(r"--(\w+): ([^;]+);", style.split(":root")[scheme + 1]))
    share = float(re.search(r"var\(--share\) \* ([\d.]+)", style).group(1))
    ground = [int(palette["ground"][i : i + 2], 16) for i in (1, 3, 5)]
    shade = [int(channel) for channel in palette["shade"].split(",")]
    mixed = (round(g + share * (s - g)) for g, s in zip(ground, shade))
    darkest = "#" + "".join(f"{channel:02x}" for channel in mixed)
    for colour in ("text", "muted", "link"):
        assert contrast(palette[colour], palette["ground"]) >= 4.5, colour
    for ground in (darkest, palette["note"]):
        assert contrast(palette["text"], ground) >= 4.5
    for colour in ("first", "second"):
        assert contrast(palette[colour], palette["ground"]) >= 3, colour


def test_the_numbers_are_those_of_the_predictions(written, evaluation):
    record, _, labels, probabilities = evaluation
    reader = Reader(written())
    for split, words in page.SPLITS.items():
        said = probabilities[split].argmax(axis=1)
        counts = confusion_matrix(labels, said, labels=range(7))
        head, *rows = reader.rows(f"Confusion matrix {words}")
        assert head == ["true class", *CLASSES, "images"]
        for name, expected, row in zip(CLASSES, counts, rows):
            share = expected / max(expected.sum(), 1)
            cells = [f"{n}{100 * s:.1f}\u00a0%" for n, s in zip(expected, share)]
            assert row == [name, *cells, str(expected.sum())]
        column = {"test": 4, "tta_test": 7}[split]
        scores = f1_score(labels, said, labels=range(7), average=None, zero_division=0)
        rows = reader.rows("Precision, recall and F1 of the test split")[1:]
        told = [row[column] for row in rows]
        assert told == [f"{score:.3f}" for score in [*scores, scores.mean()]]
    error = calibration.expected_calibration_error(
        calibration.reliability(labels, probabilities["tta_test"])
    )
    assert f"{100 * error:.2f} % with TTA" in reader.text
    low, high = calibration.wilson(25, 50)
    expected = ["50", "25", "50.00", f"{100 * low:.2f} to {100 * high:.2f}", "3"]
    assert reader.rows("Accuracy of this evaluation")[1] == ["validation", *expected]
    assert len(reader.rows("Accuracy of this evaluation")) == 4  # the training images were left out


def test_the_shades_are_the_shares(written, evaluation):
    _, _, labels, probabilities = evaluation
    counts = confusion_matrix(labels, probabilities["test"].argmax(axis=1), labels=range(7))
    shares = counts / counts.sum(axis=1, keepdims=True)
    cells = [a for a, _ in Reader(written()).all("td") if "cell" in a.get("class", "")][:49]
    assert [a["style"] for a in cells] == [f"--share: {share:.3f}" for share in shares.flat]
    framed = [number for number, a in enumerate(cells) if "right" in a["class"].split()]
    assert framed == list(range(0, 49, 8))


def test_the_most_confident_mistakes(written, evaluation):
    _, images, labels, probabilities = evaluation
    sure = probabilities["tta_test"].max(axis=1)
    wrong = np.flatnonzero(probabilities["tta_test"].argmax(axis=1) != labels)
    expected = sorted(wrong.tolist(), key=lambda index: -sure[index])[: page.MISTAKES]
    reader = Reader(written())
    for index, (picture, _), (_, words) in zip(
        expected, reader.all("img"), reader.all("figcaption")
    ):
        content = base64.b64decode(picture["src"].split(",")[1])
        with Image.open(io.BytesIO(content)) as image:
            np.testing.assert_array_equal(np.asarray(image), images[index])
        said = CLASSES[probabilities["tta_test"][index].argmax()]
        assert f"image {index + 1}, labelled {CLASSES[labels[index]]}" in words
        assert f"said {said} with {100 * sure[index]:.1f}\u00a0%" in words
        assert picture["alt"] == f"Face of test image {index + 1}"
    assert f"The {page.MISTAKES} of {len(wrong)} mistakes" in reader.text


def test_an_evaluation_without_mistakes(world, evaluation, tmp_path):
    record, images, labels, _ = evaluation
    right = np.eye(7, dtype=np.float32)[labels]
    perfect = {"images": IMAGES, "accuracy": 1.0, "repeated": 0}
    record = {**record, "settings": world.resolved(), "test": perfect, "tta_test": perfect}
    path = tmp_path / "report.html"
    training = page.training_of(world, "ResNet34")
    page.write(path, "All", record, training, images, labels, dict.fromkeys(page.SPLITS, right))
    reader = Reader(path.read_text(encoding="utf-8"))
    assert "There is no mistake on the test split with TTA." in reader.text
    assert not reader.all("img")


def test_one_image_is_enough(world, evaluation, tmp_path):
    record, images, labels, probabilities = evaluation
    single = {"images": 1, "accuracy": 0.0, "repeated": 0}
    record = {**record, "settings": world.resolved(), "test": single, "tta_test": single}
    path = tmp_path / "report.html"
    first = {split: array[:1] for split, array in probabilities.items()}
    training = page.training_of(world, "ResNet34")
    page.write(path, "One", record, training, images[:1], labels[:1], first)
    assert "95 %: 0.00 to 79.35" in Reader(path.read_text(encoding="utf-8")).text


def test_what_is_to_be_known_first_is_at_the_top(written):
    stopped, part = "was stopped before its end", "a part of the images"
    for changes, told in (
        ({}, []),
        ({"training_complete": False}, [stopped]),
        ({"data": f"{part}, as Runtime_Settings.json says"}, [part]),
        ({"training_complete": False, "data": part}, [stopped, part]),
    ):
        reader = Reader(written(**changes))
        notes = [text for a, text in reader.all("p") if a.get("role") == "note"]
        assert len(notes) == len(told)
        assert all(words in note for words, note in zip(told, notes))
        tags = [(tag, a.get("role")) for tag, a, _ in reader.elements]
        assert not told or tags.index(("p", "note")) < tags.index(("h2", None))


def test_learning_curves(written):
    reader = Reader(written())
    labels = [a["aria-label"] for a, _ in reader.all("svg")]
    loss = "Cross-entropy over 3 epochs: of training from 2.5 to 1.2, of validation from 70 to 1.4."
    assert loss in labels
    rows = reader.rows("The best epoch of each stage")[1:]
    assert rows[0] == ["1", "2", "2", "0.4000", "1.6000", "0.4000", "1.5000"]
    assert rows[1] == ["2", "1", "1", "0.4500", "1.4000", "0.5000", "1.2000"]
    assert "Stage 1: rotation_range 30, horizontal_flip, patience 30, optimizer adam" in reader.text
    texts = {text for _, text in reader.all("text")}
    assert {"cross-entropy", "epoch", "stage 2", "validation", "50"} <= texts


@pytest.mark.parametrize(
    "history, reason",
    [
        (None, "history.csv is missing"),
        ("", "found a damaged file (EmptyDataError"),
        ("epoch,val_loss\n1,2\n", "found a damaged file (KeyError"),
        (HEAD, "found no epoch"),
        (HEAD + "1,1,<b>,0.2,70,0.15,9\n", "could not convert string to float: '<b>'"),
        (HEAD + "1,1,nan,0.2,inf,0.15,9\n", None),
    ],
)
def test_a_history_that_is_not_as_it_should_be(written, world, tmp_path, history, reason):
    own = settings.Settings(world.resolved())
    own.data["models_folder"] = str(tmp_path / "models")
    write_training(tmp_path / "models" / "ResNet34", own, history or "")
    if history is None:
        (tmp_path / "models" / "ResNet34" / "history.csv").unlink()
    reader = Reader(written(page.training_of(own, "ResNet34")))
    assert not reader.unclosed
    assert ("Learning curves are left out." in reader.text) == bool(reason)
    assert len(reader.all("svg")) == (2 if reason else 4)
    assert not reason or reason in reader.text


def test_versions_may_be_anything(written, world):
    training = page.training_of(world, "ResNet34")
    training.versions = {"python": {"a": 1}, "gpus": [1, None], "new": 3, "old": None}
    rows = Reader(written(training)).rows("Versions and machine")[1:]
    assert [row[2] for row in rows] == ["{'a': 1}", "1, None", "3", page.NOTHING]
    assert rows[1][:2] == ["gpus", "a card, another"]


@pytest.mark.parametrize("content", ["", "[]", '{"settings": {}}', '{"settings": 1}'])
def test_a_record_that_is_not_as_it_should_be(written, world, tmp_path, content):
    own = settings.Settings(world.resolved())
    own.data["models_folder"] = str(tmp_path / "models")
    write_training(tmp_path / "models" / "ResNet34", own)
    (tmp_path / "models" / "ResNet34" / "settings.json").write_text(content)
    reader = Reader(written(page.training_of(own, "ResNet34")))
    assert "settings.json: found a damaged file" in reader.text and len(reader.all("svg")) == 4


def test_published_weights_have_no_training(written, world):
    reader = Reader(written(page.training_of(world, "LHC_Downloaded")))
    assert "There is no training LHC_Downloaded in the models folder." in reader.text
    assert "The training: not in the models folder." in reader.text
    assert reader.rows("Versions and machine")[1] == ["python", "3.x <b>", page.NOTHING]


def test_the_stopped_training_is_the_one_that_is_told_of(world, tmp_path):
    own = settings.Settings(world.resolved())
    own.data["models_folder"] = str(tmp_path)
    write_training(tmp_path / "ResNet34", own)
    write_training(tmp_path / "ResNet34.unfinished", own, HEAD + ROWS.splitlines()[0])
    assert len(page.training_of(own, "ResNet34", complete=True).history) == 3
    assert len(page.training_of(own, "ResNet34", complete=False).history) == 1


def test_the_paper_and_the_published_runs_of_the_same_net(written):
    rows = Reader(written()).rows("ResNet34 on FER2013's test split")
    names = [row[0] for row in rows]
    assert names[:4] == ["net", "this evaluation", "the paper, best run", "the paper, top 40 %"]
    assert "FromScratch, seed 1" in names and "Teachers, seed 14" in names
    ends = [f"{100 * end:.2f}" for end in calibration.wilson(2613, 3589)]
    assert rows[2][1:] == ["72.81", " to ".join(ends), page.NOTHING, page.NOTHING]
    assert rows[3][1:] == ["72.69"] + [page.NOTHING] * 3
    assert rows[names.index("FromScratch, seed 1")][1] == "72.30"
    reader = Reader(written(network="LHC_NetC"))
    published = {row[0]: row[1] for row in reader.rows("LHC_NetC on FER2013's test split")}
    assert published["FromScratch Controller, seed 1"] == "72.64"
    assert "Teachers, seed 14" not in published


def test_runs_are_in_the_order_of_their_seeds(written, tmp_path, monkeypatch, evaluation):
    record = {key: evaluation[0][key] for key in ("network", "data", "test", "tta_test")}
    for seed, changes in ((10, {}), (9, {}), (8, {"data": "drawn sample"})):
        folder = tmp_path / "Experiments" / "Mine" / f"seed{seed}" / "Control"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({**record, **changes}))
    monkeypatch.setattr(page, "EXPERIMENTS", tmp_path / "Experiments")
    names = [row[0] for row in Reader(written()).rows("ResNet34 on FER2013's test split")]
    assert names[4:] == ["Mine Control, seed 9", "Mine Control, seed 10"]


def test_published_runs_that_cannot_be_read(written, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "EXPERIMENTS", tmp_path / "none")
    assert "there are no published runs of this net" in Reader(written()).text
    folder = tmp_path / "none" / "Mine" / "seed1" / "ResNet34"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{")
    reader = Reader(written())
    assert "The runs of this repository are left out:" in reader.text
    assert len(reader.rows("ResNet34 on FER2013's test split")) == 4


def test_other_data_are_no_comparison(written):
    reader = Reader(written(data="drawn sample"))
    assert "There is no comparison." in reader.text and "the paper, best run" not in reader.text
    assert len(reader.all("svg")) == 3


def test_settings_that_differ_from_the_defaults(written, world):
    other = settings.Settings(world.resolved())
    other.runtime["max_test_images"] = None
    training = page.training_of(world, "ResNet34")
    training.settings = other.resolved()
    rows = {
        row[0]: row[1:]
        for row in Reader(written(training)).rows("Settings that differ from the defaults")
    }
    assert rows["runtime.max_test_images"] == ["null", str(IMAGES), "the default"]
    assert rows["lhc.num_heads"] == ["[8, 8, 7, 7, 1]"] + ["[4, 2, 2, 2, 1]"] * 2
    assert rows["data.source"] == ['"download"', '"sample"', '"sample"']
    assert "lhc.kernel_size" not in rows and not [name for name in rows if "modular" in name]
    defaults = settings.load(settings.DEFAULTS).resolved()
    text = written(page.Training(), settings=defaults)
    assert "The settings are the defaults." in text


def test_the_same_numbers_are_the_same_bytes_and_draw_nothing(written):
    numpy_before, python_before = np.random.get_state()[1].copy(), random.getstate()
    assert written() == written()
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
    assert random.getstate() == python_before


def test_a_long_training_makes_no_large_page(written):
    history = [
        dict(zip(page.COLUMNS, (1 + epoch // 300, epoch % 300 + 1, *values)))
        for epoch, values in enumerate(np.random.default_rng(2).random((900, 4)).tolist())
    ]
    text = written(page.Training(history))
    assert len(text.encode()) < 600_000


def test_texts_are_escaped_wherever_they_stand():
    wild = "<i>&\"'"
    made = element("p", wild, element("b", wild, title=wild), wild, [None, 3, element("br")], wild)
    text = document(
        wild, "p { color: red; }", made, table(wild, [(wild, wild), (wild, wild)], "<>")
    )
    reader = Reader(text)
    assert not reader.unclosed and not reader.all("i")
    assert reader.all("p") == [({}, f"{wild}{wild}{wild}3{wild}")]
    assert reader.all("b") == [({"title": wild}, wild)]
    assert reader.rows(wild) == [[wild, wild], [wild, wild]]


def measured(browser, folder, text, width):
    """Return what a page of this width (pixels) measures in a browser, or skip the test.

    It stands in a frame: browsers' own windows can be wider than asked for.
    """
    frame = (
        f'<iframe srcdoc="{html.escape(text)}" style="width: {width}px; height: 900px; border: 0">'
    )
    script = """
        onload = () => {
            const root = document.querySelector("iframe").contentDocument;
            const pictures = [...root.querySelectorAll("img, svg")];
            const answer = {
                width: root.documentElement.clientWidth,
                needed: root.documentElement.scrollWidth,
                shown: pictures.filter(p => p.tagName == "svg" || p.naturalWidth == 48).length,
                widest: Math.max(...pictures.map(p => p.getBoundingClientRect().right)),
                ground: getComputedStyle(root.body).backgroundColor,
            };
            document.body.textContent = "answer " + JSON.stringify(answer);
        }"""
    path = folder / "frame.html"
    path.write_text(f"<!doctype html><script>{script}</script>{frame}</iframe>", encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=300)
    answer = re.search("answer ({.*?})", done.stdout.decode("utf-8", "replace"))
    if not answer:
        pytest.skip(f"{browser} shows no page here")
    return json.loads(answer.group(1))


@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_only_tables_scroll(written, tmp_path, width):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        pytest.skip("needs a Chromium")
    text = written()
    found = measured(browser, tmp_path, text, width)
    assert found["needed"] <= found["width"] <= width
    assert found["widest"] <= found["width"]
    assert found["shown"] == page.MISTAKES + 4
    assert found["ground"] == "rgb(255, 255, 255)"
    wide = text.replace("<h1>", f"<h1 style='white-space: nowrap'>{'wide ' * 99}")
    assert measured(browser, tmp_path, wide, width)["needed"] > width
