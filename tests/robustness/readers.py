"""What reads files in this project, each with a good input, hostile ones, and the calls to try.

A reader is made in the process that reads: `room` is a folder for what it needs around the input.
`good()` is the input that `inputs(good)` makes hostile ones of (src/tests/robustness/inputs.py);
`commands(folder)` are the calls of the scripts: (function, whether it leaves the folder as it is).
`limit_s` is how long an input may take.
"""

import functools
import io
import json
import math
import pickle
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from tests.robustness.inputs import (
    INTERESTING,
    changed,
    damaged,
    odd_json,
)

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "data" / "tiny_data"
SIDE = 32  # pixels of the JPEGs
RECIPES = ("check_rep", "ResNet34", "LHC", "Controller", "LHC_Net")


def files(folder):
    """Return an input of the files below a folder."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): ("file", path.read_bytes()) for path in paths}


def hostile(good, mutators):
    """A strategy of inputs, of {end of a file's name: function that gives a strategy of bytes}."""
    chosen = {}
    for name in good:
        for end, mutator in mutators.items():
            if name.endswith(end):
                chosen.setdefault(name, mutator)
    return changed(good, chosen)


def some(*mutators):
    """One mutator of several, by chance."""
    return lambda content: st.one_of(*[mutator(content) for mutator in mutators])


class Settings:
    """src.settings.load: a settings folder."""

    limit_s = 10

    def __init__(self, room):
        pass

    def good(self):
        own = files(ROOT / "Settings" / "Quickstart")
        paths = (ROOT / "Settings").glob("*.json")
        return {**{path.name: ("file", path.read_bytes()) for path in paths}, **own}

    @staticmethod
    def inputs(good):
        names = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]))
        more = st.tuples(names.filter(lambda name: name.strip(".")), st.binary(max_size=9))
        named = st.tuples(hostile(good, {".json": odd_json}), more).map(
            lambda pair: {**pair[0], pair[1][0][:60] + ".json": ("file", pair[1][1])}
        )
        return st.one_of(*[hostile(good, {".json": odd_json})] * 9, named)

    def commands(self, folder):
        from src import settings

        def read():
            loaded = settings.load(folder)
            loaded.resolved()
            for name in RECIPES:
                loaded.recipe(name)

        return [(read, True)]


class Csv:
    """src.dataset, src.sources: CSVs of all layouts, loaded, verified, imported, with labels."""

    limit_s = 10

    def __init__(self, room):
        self.counts = [0] * 7
        for line in self._lines()[1:]:
            self.counts[int(line[:1])] += 1

    def _lines(self):
        return (TINY / "data_train.csv").read_bytes().splitlines(True)[:5]

    def good(self):
        from src import dataset

        header, *lines = self._lines()
        result = {
            f"data/{dataset.csv_path('', split)}": ("file", header + b"".join(lines))
            for split in dataset.SPLITS
        }
        rows = [line.strip().split(b";", 2) for line in lines[:3]]
        kaggle = b"emotion,pixels,Usage\n" + b"".join(
            b"%s,%s,%s\n" % (label, pixels.replace(b";", b" "), usage.encode())
            for (label, _, pixels), usage in zip(rows, dataset.USAGES.values())
        )
        votes = b"Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,"
        votes += b"contempt,unknown,NF\n" + b"".join(
            b"%s,fer%d.png,1,7,0,0,1,0,0,0,1,0\n" % (usage.encode(), row)
            for row, usage in enumerate(dataset.USAGES.values())
        )
        return {
            **result,
            "source/fer2013.csv": ("file", kaggle),
            "labels/fer2013new.csv": ("file", votes),
        }

    @staticmethod
    def inputs(good):
        return hostile(good, {".csv": some(damaged, _odd_table, _odd_table)})

    def commands(self, folder):
        from src import dataset, sources

        data = folder / "data"
        expected = dict.fromkeys(dataset.SPLITS, self.counts)
        calls = []
        for split in dataset.SPLITS:
            calls.append((functools.partial(dataset.load, data, split), True))
            calls.append((functools.partial(dataset.load, data, split, 2), True))
            path = dataset.csv_path(data, split)
            calls.append((functools.partial(dataset.verify, path, split, self.counts), True))
        for source in (data, folder / "source", folder / "source" / "fer2013.csv"):
            calls.append(
                (
                    functools.partial(
                        sources.import_from, source, folder / "new", expected, force=True
                    ),
                    False,
                )
            )
        by_force = functools.partial(
            sources.import_from, folder / "source", data, expected, force=True
        )
        calls.append((by_force, False))
        with_labels = functools.partial(
            by_force, labels=folder / "labels" / "fer2013new.csv", fer2013=None
        )
        calls.append((with_labels, False))
        return calls


class Pictures:
    """src.sources: folders of pictures, imported."""

    limit_s = 10

    def __init__(self, room):
        pass

    def good(self):
        from PIL import Image

        result = {}
        for number, split in enumerate(["train", "train", "test"]):
            for kind, end in (("JPEG", "jpg"), ("PNG", "png"), ("BMP", "bmp")):
                file = io.BytesIO()
                Image.new("L", (48, 48), number).save(file, kind)
                name = f"archive/{split}/{('happy', 'sad')[number % 2]}/{number}.{end}"
                result[name] = ("file", file.getvalue())
        return result

    @staticmethod
    def inputs(good):
        jpegs = {".jpg": some(damaged, _odd_jpeg, _other_picture)}
        odd = hostile(good, {**jpegs, ".png": damaged, ".bmp": damaged})
        places = st.sampled_from(["train/0", "test/happy", "train", "x", "train/contempt", "."])
        names = st.sampled_from(["a\udcff.jpg", "\n.png", "9" * 200 + ".png", "._0.jpg", "a.gif"])
        added = st.tuples(odd, places, names).map(
            lambda drawn: {**drawn[0], f"archive/{drawn[1]}/{drawn[2]}": next(iter(good.values()))}
        )
        return st.one_of(*[odd] * 4, added)

    def commands(self, folder):
        from src import dataset, sources

        expected = dict.fromkeys(dataset.SPLITS, [0] * 7)
        into = functools.partial(
            sources.import_from, folder / "archive", folder / "new", expected, force=True
        )
        return [(into, False)]


@st.composite
def _odd_table(draw, content):
    """A CSV with odd cells, rows, columns, line ends and encodings."""
    lines = content.split(b"\n")
    number = draw(st.integers(0, len(lines) - 1))
    separator = draw(st.sampled_from([b";", b",", b" "]))
    kind = draw(st.sampled_from(["cell", "cell", "cell", "columns", "header", "rows", "ends"]))
    if kind == "cell":
        cells = lines[number].split(separator)
        cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(ODD_CELLS))
        lines[number] = separator.join(cells)
    elif kind == "columns":
        cells = lines[number].split(separator)
        cells = draw(st.sampled_from([cells[1:], cells[::-1], cells * 2, cells[:1] * 9, []]))
        lines[number] = separator.join(cells)
    elif kind == "header":
        names = [b"emotion", b"pixels", b"Usage", b"usage", b" Usage\r", b'"pixels"', b"", b"\xff"]
        header = draw(st.lists(st.sampled_from(names), min_size=1, max_size=6))
        lines[0] = separator.join(header)
    elif kind == "rows":
        row = draw(st.sampled_from([b"", b"\r", b";" * 2305, b",,", b"\0", b'"', b" " * 70_000]))
        lines[number:number] = [row] * draw(st.sampled_from([1, 1, 2, 100]))
    text = draw(st.sampled_from([b"\n"] * 9 + [b"\r\n", b"\r", b"\n\n"])).join(lines)
    codec = draw(st.sampled_from(["latin-1"] * 9 + ["utf-16", "utf-8-sig"]))
    return text.decode("latin-1").encode(codec)


ODD_CELLS = [
    *[b"", b" ", b"-1", b"256", b"1.5", b"1e2", b"0x10", b"+7", b"nan", b"9" * 25, b"9" * 60_000],
    *[b"\0", b"\xff\xfe", "\u0663".encode(), b"1_0", b"'", b'"7"', b"7 7", b"Training", b"7\t8"],
]


class Note:
    """src.etl: the note beside the JPEGs, and the ETL that goes on from it."""

    limit_s = 10

    def __init__(self, room):
        from src import dataset

        shutil.copytree(TINY, room / "data")
        self.data = room / "data"
        self.images, self.labels = dataset.load(self.data, "train", 9)

    def good(self):
        with tempfile.TemporaryDirectory() as folder:
            self._write(folder)
            return files(folder)

    def _write(self, folder):
        from src import dataset, etl

        csv = dataset.csv_path(self.data, "train")
        etl.write_images(self.images, self.labels, folder, SIDE, csv=csv)

    @staticmethod
    def inputs(good):
        return hostile(good, {"etl.json": odd_json, "Images0.jpeg": damaged})

    def commands(self, folder):
        from src import etl, generator

        images = folder / etl.SUBFOLDER
        return [
            (functools.partial(etl.check_matches, images, self.data, SIDE), True),
            (functools.partial(generator.list_images, images), True),
            (functools.partial(self._write, folder), False),
        ]


class Jpeg:
    """src.generator.ImageFolder: the JPEGs themselves."""

    limit_s = 10

    def __init__(self, room):
        self.note = Note(room)

    def good(self):
        return {name: entry for name, entry in self.note.good().items() if ".jpeg" in name}

    @staticmethod
    def inputs(good):
        odd = hostile(good, {".jpeg": some(damaged, _odd_jpeg, _odd_jpeg, _other_picture)})
        name = st.sampled_from(["a\udcff.jpg", "Images7.JPEG", "x" * 200 + ".jpeg", "\n.jpeg"])
        return st.one_of(
            *[odd] * 9,
            st.tuples(odd, name).map(
                lambda pair: {**pair[0], f"Training/Fear/{pair[1]}": next(iter(pair[0].values()))}
            ),
        )

    def commands(self, folder):
        from src import generator

        def read(cache_mb):
            images = generator.ImageFolder(folder / "Training", SIDE, cache_mb=cache_mb)
            images.described()
            images.planes(range(len(images)))

        return [(functools.partial(read, 0), True), (functools.partial(read, 9), True)]


@st.composite
def _odd_jpeg(draw, content):
    """A JPEG with segments that are moved, repeated, removed, resized or odd within."""
    end = content.index(b"\xff\xda")
    segments, position = [], 2
    while position < end:
        length = 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        segments.append(bytearray(content[position : position + length]))
        position += length
    scan = content[end:-2]
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(segments) - 1))
        segment = segments[number]
        kind = draw(st.sampled_from(["move", "remove", "byte", "length", "size", "new", "many"]))
        if kind == "move":
            segments.insert(draw(st.integers(0, len(segments))), segments[number])
        elif kind == "remove" and len(segments) > 1:
            del segments[number]
        elif kind == "byte":
            place = draw(st.integers(1, len(segment) - 1))
            segment[place] = draw(st.sampled_from([0, 1, 2, 3, 4, 8, 17, 0x7F, 0xFF]))
        elif kind == "length":
            segment[2:4] = draw(st.sampled_from([0, 1, 2, 3, 4, 65535])).to_bytes(2, "big")
        elif kind == "size" and segment[1] in range(0xC0, 0xC4):
            segment[1] = draw(st.sampled_from([0xC0, 0xC1, 0xC2, 0xC3, 0xC9]))
            sides = st.sampled_from([0, 1, SIDE, SIDE, 65500, 65535])
            segment[5:9] = b"".join(draw(sides).to_bytes(2, "big") for _ in "hw")
        elif kind in ("new", "many"):
            marker, start = draw(st.sampled_from(APPLICATION_SEGMENTS))
            body = start + draw(st.binary(max_size=60))
            new = bytearray(b"\xff%c" % marker + (len(body) + 2).to_bytes(2, "big") + body)
            segments[number:number] = [new] * (1 if kind == "new" else 2000)
    scans = draw(st.sampled_from([1, 1, 1, 2, 500]))
    return b"\xff\xd8" + b"".join(segments) + scan * scans + content[-2:]


APPLICATION_SEGMENTS = [
    *[(0xE0, b"JFIF\0\1\2"), (0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff"), (0xE1, b"Exif\0\0MM\0*")],
    *[(0xE1, b"http://ns.adobe.com/xap/1.0/\0"), (0xE2, b"ICC_PROFILE\0\1\xff"), (0xFE, b"")],
    *[(0xE2, b"MPF\0II*\0\x08\0\0\0\3\0"), (0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0\0\x10")],
    *[
        (0xEE, b"Adobe\0d\0\0\0\0\2"),
        (0xDB, b"\xff"),
        (0xC4, b"\x1f"),
        (0xDD, b"\0\1"),
        (0xDC, b""),
    ],
]


@functools.lru_cache(maxsize=None)
def _other_picture(content):
    """Pictures of other formats, sizes and modes under the name of a JPEG."""
    from PIL import Image

    def picture(mode, side, kind, options):
        file = io.BytesIO()
        Image.new(mode, (side, SIDE)).save(file, kind, **options)
        return file.getvalue()

    jpegs = [dict(progressive=True), dict(subsampling=2), dict(quality=1), dict(optimize=True)]
    return st.sampled_from(
        [
            *[
                picture("RGB", SIDE, kind, {})
                for kind in ("PNG", "GIF", "BMP", "EPS", "TIFF", "PPM")
            ],
            *[picture(mode, SIDE, "JPEG", {}) for mode in ("L", "CMYK", "RGB", "1")],
            *[picture("RGB", SIDE, "JPEG", options) for options in jpegs],
            *[picture("RGB", side, "JPEG", {}) for side in (1, 31, 33, 3000)],
        ]
    ).flatmap(lambda made: st.one_of(st.just(made), damaged(made)))


def net(name):
    """A small net with dropout and moving statistics: (B, 32, 32, 3) -> (B, 7)."""
    from src import backend

    backend.keras.backend.clear_session()
    layers = backend.keras.layers
    image = layers.Input((SIDE, SIDE, 3))
    x = layers.BatchNormalization(name="bn_data")(image)
    x = layers.Conv2D(1, 8, strides=8, activation="relu", name="conv0")(x)
    x = backend.Dropout(0.4, name="dropout1")(layers.Flatten()(x))
    x = layers.Dense(7, activation="softmax", name="fc3")(x)
    return backend.keras.Model(image, x, name=name)


class Hdf5:
    """src.weights.read_h5 and what puts its arrays into a net."""

    limit_s = 60  # the reader's own limit is 10 s of computing

    def __init__(self, room):
        self.room, self.net = room, net("ResNet34")
        self.shape = {"network": "ResNet34", "target_size": SIDE}

    def good(self):
        from src import weights

        weights.save(self.net, self.room / "weights.h5", self.shape)
        content = (self.room / "weights.h5").read_bytes()
        return {"weights.h5": ("file", content)}

    @staticmethod
    def inputs(good):
        odd = _odd_h5().map(lambda content: {"weights.h5": ("file", content)})
        return st.one_of(hostile(good, {".h5": damaged}), odd, odd)

    def commands(self, folder):
        from src import weights

        path = folder / "weights.h5"

        def start():
            if path.is_file():
                weights.assign(self.net, weights.read_h5(path)[0], path, ignore=weights.HEAD)

        return [(functools.partial(weights.load, self.net, path, self.shape), True), (start, True)]


@st.composite
def _odd_h5(draw):
    """HDF5 files near to a weights file: odd types, shapes, layouts, links and attributes."""
    import h5py

    names = st.sampled_from(["fc3", "bn_data", "conv0", "a", "b/c", "é", "x" * 500, "fc3/kernel:0"])
    number = st.integers(0, 3)
    shapes = st.sampled_from([(), (0,), (16, 7), (7,), (3,), (1, 1), (8, 8, 3, 1), (2**31, 0)])
    types = st.sampled_from(["<f4", "<f4", ">f8", "<f2", "<i4", "S3", "?", "<c8", "u1", "V5"])
    layout = draw(st.sampled_from(["earliest", "earliest", "latest"]))
    with h5py.File("made", "w", driver="core", backing_store=False, libver=layout) as file:
        layers = draw(st.lists(names, max_size=4))
        if draw(number):
            file.attrs["layer_names"] = _texts(draw, layers)
        for layer in layers:
            if layer in file or not draw(st.integers(0, 9)):
                continue
            group = file.create_group(layer)
            variables = draw(st.lists(st.sampled_from(VARIABLES), max_size=3))
            group.attrs["weight_names"] = _texts(draw, variables)
            for variable in variables:
                if variable.split("/")[0] in group or not variable.strip("./"):
                    continue
                kind = draw(st.sampled_from(["plain"] * 6 + list(LINKS) + ["huge", "chunked"]))
                shape, dtype = draw(shapes), draw(types)
                if kind in LINKS:
                    group[variable] = LINKS[kind](file)
                elif kind == "huge":
                    group.create_dataset(variable, (2**20, 2**20), "<f4")
                elif kind == "chunked" and 0 not in shape and shape:
                    options = dict(compression="gzip", fillvalue=np.zeros((), dtype)[()])
                    group.create_dataset(variable, shape, dtype, **options)
                elif 2**31 not in shape:
                    group.create_dataset(variable, data=np.zeros(shape, dtype))
        for name in ("architecture", "sha256", "weight_names", "model_config"):
            if draw(number) == 3:
                file.attrs[name] = _attribute(draw)
        file.flush()
        content = file.id.get_file_image()
    # The latest layout has checksums, beyond which damages do not get.
    spoil = layout == "earliest" and draw(st.integers(0, 5)) == 5
    return draw(damaged(content)) if spoil else content


VARIABLES = ["kernel:0", "bias:0", "gamma:0", "kernel", "fc3/kernel:0", "a/b", ".", "", ":", "é:1"]
LINKS = {
    "soft": lambda file: _h5py().SoftLink("/nowhere"),
    "circle": lambda file: _h5py().SoftLink("."),
    "external": lambda file: _h5py().ExternalLink("/dev/zero", "/a"),
    "hard": lambda file: file["/"],
}


def _h5py():
    import h5py

    return h5py


def _texts(draw, texts):
    """Names as an attribute: as they should be, or otherwise."""
    kind = draw(st.sampled_from(["bytes"] * 6 + ["text", "one", "numbers", "many", "attribute"]))
    if kind == "attribute":
        return _attribute(draw)
    choices = {
        "bytes": [text.encode() for text in texts],
        "text": texts,
        "one": "".join(texts),
        "numbers": np.arange(3),
        "many": [b"fc3"] * 2000,
    }
    return choices[kind] if len(choices[kind]) else np.zeros(0)


def _attribute(draw):
    deep = '{"network": ' + "[" * 900 + "]" * 900 + "}"
    fitting = '{"network": "ResNet34", "target_size": 32}'
    values = [7, 1.5, b"", "", "{}", "null", "[1]", fitting, fitting, deep, "\udcff", "7" * 5000]
    values += [np.zeros((2, 3)), np.zeros(0), np.array([b"a", b"b"]), np.bool_(True)]
    values += ['{"network": "a", "lhc": {"a": ' + deep + "}}", '{"network": "\\ud800", "lhc": {}}']
    values += [json.dumps({"network": "a", "lhc": {str(i): i for i in range(900)}})]
    value = values[draw(st.integers(0, len(values) - 1))]
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


class Checkpoint:
    """src.checkpoints: a published model, checked and read by TensorFlow."""

    limit_s = 10
    names = ("LHC_Net.index", "LHC_Net.data-00000-of-00001")

    def __init__(self, room):
        self.net = net("LHC_Net")

    def good(self):
        from src import weights
        from src.checkpoints import checkpoint_key

        suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
        arrays = {checkpoint_key(n) + suffix: a for n, a in weights.to_arrays(self.net).items()}
        arrays["save_counter" + suffix] = arrays["fc3/bias" + suffix]
        tensors = {
            key: {"dtype": 1, "shape": array.shape, "content": array.astype("<f4").tobytes()}
            for key, array in arrays.items()
        }
        made = dict(zip(self.names, _checkpoint(tensors)))
        made["checkpoint"] = b'model_checkpoint_path: "LHC_Net"\n'
        return {name: ("file", content) for name, content in made.items()}

    @classmethod
    def inputs(cls, good):
        odd = _odd_checkpoint(*(good[name][1] for name in cls.names)).map(
            lambda made: {**good, **{n: ("file", part) for n, part in zip(cls.names, made)}}
        )
        return st.one_of(hostile(good, {"": damaged}), odd, odd, odd)

    def commands(self, folder):
        from src import checkpoints

        calls = [
            (functools.partial(checkpoints.check_checkpoint_file, folder / name, name), True)
            for name in ("checkpoint", *self.names)
        ]
        load = functools.partial(checkpoints.load_checkpoint, self.net, folder / "LHC_Net")
        return [*calls, (load, True)]


@st.composite
def _odd_checkpoint(draw, index, data):
    """Checkpoints whose checksums are right, and whose tensors are odd."""
    from src.checkpoints import read_index

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "index")
        path.write_bytes(index)
        tensors = {
            key: {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "content": data[entry.offset : entry.offset + entry.size],
            }
            for key, entry in read_index(path).items()
        }
    numbers = st.sampled_from([*INTERESTING, 2, 3, 7, 64])
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(tensors)))
        tensor = tensors[key] = dict(tensors[key])
        kind = draw(st.sampled_from(["dtype", "shape", "content", "place", "fields", "key", "new"]))
        if kind == "dtype":
            tensor["dtype"] = draw(st.one_of(st.integers(0, 30), numbers))
            tensor["content"] = tensor["content"] * draw(st.sampled_from([1, 1, 2]))
        elif kind == "shape":
            shape = draw(st.lists(numbers, max_size=4))
            tensor["shape"] = draw(
                st.sampled_from([shape, [*shape, 0], [1] * 300, tensor["shape"][::-1], [1, 7]])
            )
        elif kind == "content":
            fill = draw(st.sampled_from([b"\0\0\xc0\x7f", b"\xff\xff\x7f\x7f", b"\0\0\0\1"]))
            length = draw(st.sampled_from([len(tensor["content"]), 0, 4, 1 << 16]))
            tensor["content"] = (fill * length)[:length]
            if draw(st.booleans()):
                tensor["shape"] = [length // 4]
        elif kind == "place":
            tensor[draw(st.sampled_from(["offset", "size", "crc"]))] = draw(numbers)
        elif kind == "fields":
            tensor["fields"] = draw(st.lists(st.sampled_from([1, 2, 4, 5, 6]), max_size=6))
        else:
            odd = ["\0", "é", "\udcff", "a" * 70_000, "_CHECKPOINTABLE_OBJECT_GRAPH", "a\nb", "~"]
            name = draw(st.sampled_from(odd)) + draw(st.sampled_from(["", SUFFIX]))
            tensors[name] = tensors.pop(key) if kind == "key" else tensor
    spoil = draw(st.integers(0, 2))
    return _checkpoint(tensors, *[lambda part: draw(damaged(part))] * (not spoil))


SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def _checkpoint(tensors, spoil=bytes):
    """Return (index, data) of a checkpoint with tensors {key: {"dtype", "shape", "content"}}.

    spoil: changes the bytes of a block before its checksum is made.
    """
    from src.checkpoints import TABLE_MAGIC
    from src.crc32c import crc32c, masked
    from tests.tables import table_block, varint

    def sealed(pairs):
        block = spoil(table_block(pairs)[:-5]) + b"\0"
        return block + masked(crc32c(block)).to_bytes(4, "little")

    pairs, data = {b"": bytes([8, 1, 0x1A, 2, 8, 1])}, b""
    for key, tensor in sorted(tensors.items()):
        content = tensor["content"]
        sizes = [b"\x08" + varint(side) for side in tensor["shape"]]
        shape = b"".join(b"\x12" + varint(len(size)) + size for size in sizes)
        fields = {
            1: b"\x08" + varint(tensor["dtype"]),
            2: b"\x12" + varint(len(shape)) + shape,
            4: b"\x20" + varint(tensor.get("offset", len(data))),
            5: b"\x28" + varint(tensor.get("size", len(content))),
            6: b"\x35" + tensor.get("crc", masked(crc32c(content))).to_bytes(8, "little")[:4],
        }
        chosen = tensor.get("fields", sorted(fields))
        pairs[key.encode("utf-8", "surrogatepass")] = b"".join(map(fields.get, chosen))
        data += content
    block = sealed(sorted(pairs.items()))
    listing = sealed([(b"z", varint(0) + varint(len(block) - 5))])
    footer = bytes(2) + varint(len(block)) + varint(len(listing) - 5)
    return block + listing + footer.ljust(40, b"\0") + TABLE_MAGIC, data


class State:
    """src.runs and src.training: what a stopped run has left, and going on from it."""

    limit_s = 20
    name = "ResNet34"

    def __init__(self, room):
        from src import backend, dataset, etl, plots, settings

        shutil.copytree(TINY, room / "data")
        etl.write_images(*dataset.load(room / "data", "train"), room / "images", SIDE)
        self.settings = settings.load(self._folder(room))
        # What comes after the reading is stood in for: it takes long, and other tests try it.
        logs = {"loss": 0.5, "categorical_accuracy": 0.5}
        backend.fit_epoch = backend.evaluate = lambda *args: dict(logs)
        plots.history = lambda *args: None

    def _folder(self, room):
        folder = room / "Settings"
        folder.mkdir()
        keys = "data", "images", "models", "results"
        data = {f"{key}_folder": str(room / key) for key in keys}
        stage = {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 8, "epochs": 2}
        seeds = dict.fromkeys(("tensorflow", "python", "numpy"), 1)
        recipe = {"seeds": seeds, "stages": [stage, {**stage, "epochs": 1}]}
        for name, content in {
            "Data": {**data, "source": "sample", "backbone_weights": "random"},
            "Training": {"target_size": SIDE},
            "LHC": {"num_heads": [4, 2, 2, 2, 1], "att_embed_dim": [4] * 5},
            "Evaluation": {"shift": 2},
            "Modular": {self.name: recipe},
        }.items():
            (folder / f"{name}_Settings.json").write_text(json.dumps(content))
        return folder

    def _net(self):
        from src import backend

        backend.set_seeds(1, 1, 1)
        return net(self.name)

    def good(self):
        """Stop a run after its first epoch."""
        from src import training

        class Stopped(Exception):
            pass

        def stop(rows):
            raise Stopped

        draw, training.Keeper.draw_history = training.Keeper.draw_history, stop
        try:
            training.train(self._net(), self.settings, self.name, restart=True)
        except Stopped:
            folder = self.settings.path("models_folder")
            left = files(folder / f"{self.name}.unfinished")
        finally:
            training.Keeper.draw_history = draw
        return {f"{self.name}.unfinished/{name}": entry for name, entry in left.items()}

    @staticmethod
    def inputs(good):
        state = hostile(good, {"state.npz": some(damaged, *[_odd_state] * 9)})
        return st.one_of(state, state, state, hostile(good, {"settings.json": odd_json}))

    def commands(self, folder):
        from src import training

        self.settings.data["models_folder"] = str(folder)
        train = functools.partial(training.train, self._net(), self.settings, self.name)
        return [(train, True)]


@st.composite
def _odd_state(draw, content):
    """A state whose values, arrays or zip archive are odd."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    packing = draw(st.sampled_from([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED, 12, 14]))
    values = odd_json(_body(members["values.npy"]))
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["values", "values", "array", "header", "member"]))
        if kind != "values":
            name = draw(st.sampled_from(sorted(members)))
        if kind == "values":
            text = draw(values)
            members["values.npy"] = _npy("|u1", (len(text),), text)
        elif kind == "array":
            dtype = draw(
                st.sampled_from(
                    ["<f4", "<f4", "<f4", ">f4", "<i8", "|b1", "<c8", "|S4", "<U1", "<M8[s]"]
                )
            )
            shape = draw(st.sampled_from([(), (0,), (1,), (7,), (9,), (4, 4), (1,) * 32]))
            members[name] = _npy(dtype, shape, draw(st.sampled_from([b"\xff", b"\0"])) * 4096)
        elif kind == "header":
            header = draw(st.sampled_from(HEADERS)).encode("latin-1")
            version = draw(st.sampled_from([b"\1\0", b"\2\0", b"\3\0", b"\x09\0"]))
            size = draw(st.sampled_from([len(header), 0, 60_000])).to_bytes(2, "little")
            size += bytes(2) * (version != b"\1\0")
            members[name] = b"\x93NUMPY" + version + size + header + _body(members[name])
        else:
            how = draw(st.sampled_from(["remove", "rename", "pickle", "bomb", "damage", "more"]))
            body = members.pop(name) if how in ("remove", "rename") else members[name]
            if how == "damage":
                members[name] = draw(damaged(body))
            elif how == "pickle":
                members[name] = pickle.dumps(Path("a"))
            elif how == "bomb":
                packing = zipfile.ZIP_DEFLATED
                members[name] = _npy("|u1", (1 << 28,), bytes(1 << 28))
            elif how in ("rename", "more"):
                new = [
                    "values",
                    "layer_0.npy",
                    "../up.npy",
                    "a" * 900,
                    "é.npy",
                    "order.npy",
                    ".npy",
                ]
                members[draw(st.sampled_from(new))] = body
            if not members:
                break
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return draw(damaged(file.getvalue())) if not draw(st.integers(0, 9)) else file.getvalue()


def _body(member):
    """Return the numbers' bytes of a .npy file."""
    return member[10 + int.from_bytes(member[8:10], "little") :]


def _npy(dtype, shape, body):
    """Return a .npy file of what of `body` has its place there."""
    body = body[: math.prod(shape) * np.dtype(dtype).itemsize]
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + body


HEADERS = [
    *[
        "",
        "{",
        "{}",
        "[]",
        "1",
        "{'descr': '|u1'}",
        "\0",
        "é",
        "(" * 900,
        "{'a': " * 300,
        "lambda: 0",
    ],
    *[
        f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}}}\n"
        for dtype, order, shape in [
            ("'|u1'", "False", "(1 << 40,)"),
            ("'|u1'", "False", "(1099511627776,)"),
            ("'|u1'", "False", "(3000000000,)"),
            ("'<f4'", "True", "(4, -1)"),
            ("'<f4'", "False", "(9223372036854775807, 9223372036854775807)"),
            ("'<f4'", "False", f"({'9' * 5000},)"),
            ("'<f4'", "False", "(True,)"),
            ("'<f4'", "7", "(1,)"),
            ("'|O'", "False", "(1,)"),
            ("'|V0'", "False", "(9,)"),
            ("'<U100000000'", "False", "(99,)"),
            ("[('a', '<f4')]", "False", "(1,)"),
            ("[('a', '<f4', (99999, 99999))]", "False", "(1,)"),
            ("''", "False", "(1,)"),
            ("'<q9'", "False", "(1,)"),
            ("(1, 2)", "False", "(1,)"),
        ]
    ],
]

READERS = {
    reader.__name__.lower(): reader
    for reader in (Settings, Csv, Pictures, Note, Hdf5, Checkpoint, Jpeg, State)
}
