"""Read the expressions of faces in pictures of your own, in videos or before a camera.

    python Predict.py photo.jpg holidays/
    python Predict.py --no-detect --tta crops/ --csv crops.csv
    find ~/Pictures -name '*.jpg' | python Predict.py - --json faces.json --annotate marked
    python Predict.py portrait.jpg --explain why

A PATH is a picture, a video, a folder (the pictures in it, not those in its folders; other files
are left out) or - for a list of paths on the standard input. OpenCV finds the faces with its Haar
cascade, or YuNet if you name its file; each is made grey and 48 x 48 pixels, as FER2013's were, and
goes through the net as in evaluation. The first line tells which net: the first that is there of
Controller (LHC-NetC), LHC, LHC_Net, ResNet34 and Control, trained by these scripts, then the
published Controller_Downloaded and LHC_Downloaded, then Shipped, which comes with the program.

What can't be read is one line on stderr each, and the others go on. No file that lies among the
pictures is overwritten. Exit code: 0, all was read (also where no face was found); 3, something
could not be read; 2, nothing was done, because of the options, the settings or a net that lacks.
Time: 10 s to start and 0.1 to 0.3 s a face on 2 CPU cores, with --tta 60 times that; --explain 15 s
a face. Memory: 1.5 GB, 2.6 GB with --explain-class.

Expected result:
    Net: Controller (LHC_NetC), Models/Controller/weights.h5
    file       face                 expression  probability  second
    photo.jpg  214 x 214 at 97, 61  Happiness        93.1 %  Neutral 4.2 %
"""

import itertools
import sys
from functools import partial
from pathlib import Path

import numpy as np

from src import dataset, faces, looks, pictures
from src import predict_output as output
from src.cli import SEED, command, parse, positive
from src.dataset import CLASSES
from src.errors import UserError, shown

FAILED = 3


OPTIONS = {
    "paths": {"nargs": "*", "metavar": "PATH", "help": "picture, video, folder, or - for a list"},
    "--model": {"metavar": "NAME", "help": "the net, if not the first that is there"},
    "--no-detect": {"action": "store_true", "help": "pictures are faces: take the middle square"},
    "--yunet": {"metavar": "FILE", "help": "find faces with this YuNet network (ONNX)"},
    "--tta": {"action": "store_true", "help": "test-time augmentation: the mean of 60 views"},
    "--json": {"metavar": "FILE", "help": "write all probabilities there (- for stdout)"},
    "--csv": {"metavar": "FILE", "help": "write one row a face there (- for stdout)"},
    "--annotate": {"metavar": "FOLDER", "type": Path, "help": "write all pictures, faces marked"},
    "--webcam": {
        "metavar": "NUMBER",
        "type": int,
        "choices": range(100),
        "nargs": "?",
        "const": 0,
        "help": "look through a camera (default: 0) until Ctrl-C or --frames",
    },
    "--every": {
        "metavar": "SECONDS",
        "type": positive(float),
        "default": 1.0,
        "help": "from one picture of a video to the next (default: 1)",
    },
    "--frames": {
        "metavar": "N",
        "type": positive(int),
        "help": "so many pictures of a video or camera at most",
    },
    "--explain": {
        "metavar": "FOLDER",
        "type": Path,
        "help": "draw what the attention does to each face (docs/attention.md)",
    },
    "--explain-class": {
        "metavar": "CLASS",
        "choices": CLASSES,
        "help": "with --explain: the mean over test images of a class: " + ", ".join(CLASSES),
    },
    "--explain-images": {
        "metavar": "N",
        "type": positive(int),
        "default": 50,
        "help": "so many test images at most (default: 50)",
    },
    **SEED,
}


def check(args):
    """Raise UserError for options that do not go together."""
    live = args.webcam is not None
    for wrong, words in (
        (live and args.paths, "--webcam: expected no paths beside it"),
        (live and (args.tta or args.explain), "--webcam: neither --tta nor --explain goes with it"),
        (
            live and (args.json or args.csv) and not args.frames,
            "--webcam: --json and --csv are written at its end: give --frames",
        ),
        (args.json and args.json == args.csv, "--json and --csv: expected two files"),
        (args.no_detect and args.yunet, "--no-detect: there is nothing for --yunet to find"),
        (
            args.explain_class and not args.explain,
            "--explain-class: give --explain FOLDER for its figure",
        ),
        (
            not (args.paths or live or args.explain_class),
            "found no path: give pictures, folders, - for a list, or --webcam",
        ),
    ):
        if wrong:
            raise UserError(f"{words} (--help lists what is allowed)")


@command
def main(argv=None):
    args = parse(argv, __doc__, OPTIONS)
    check(args)
    settings, failures = args.settings, []
    # The standard output is a file's where one is written to it.
    tell = partial(print, file=sys.stderr if "-" in (args.json, args.csv) else sys.stdout)

    def failed(name, reason):
        failures.append({"file": name, "reason": reason})
        print(f"{shown(name)}: {shown(reason)}", file=sys.stderr)

    paths = pictures.find(args.paths, pictures.suffixes(), failed)
    for path in (args.json, args.csv):
        if path not in (None, "-"):
            output.keep_pictures(path, paths)
    for folder in filter(None, (args.annotate, args.explain)):
        output.keep_folder(folder, paths)
        folder.mkdir(parents=True, exist_ok=True)
    nothing_to_find = args.no_detect or not (paths or args.webcam is not None)
    detect = find_centre if nothing_to_find else faces.detector(args.yunet)

    # TensorFlow starts here, in seconds.
    from src import predict_nets, runtime

    runtime.prepare(settings)
    chosen = predict_nets.choose(settings, args.model, args.seed)
    network = predict_nets.load(chosen, settings)
    tell(f"Net: {chosen.name} ({chosen.network}), {chosen.path}", flush=True)
    if args.webcam is not None:
        read = watch(args, network, detect, tell)
    else:
        read = look(args, network, paths, detect, failed, tell)
    about = {
        "net": chosen.name,
        "network": chosen.network,
        "weights": str(chosen.path),
        "augmented": args.tta,
    }
    if args.json:
        output.write(output.as_json(read, failures, about), args.json)
    if args.csv:
        output.write(output.as_csv(read), args.csv)
    if args.explain:
        explain_all(args, network, read, tell)
    return FAILED if failures else 0


def find_centre(image):
    """Return the only box of a ready crop, its middle square."""
    return [faces.centre(image)]


def look(args, network, paths, detect, failed, tell):
    """Read all files; print the table and mark the faces. Return [(look, faces' probabilities)]."""
    from src import predict

    found = looks.examine(paths, detect, args.every, args.frames, failed)
    crops = [face for seen in found for face in seen.faces]
    with_faces = {seen.file for seen in found if seen.faces}
    for file in dict.fromkeys(seen.file for seen in found if seen.file not in with_faces):
        print(f"{shown(file)}: no face found (see --no-detect)", file=sys.stderr)
    rows = predict.probabilities(network, args.settings, np.stack(crops), args.tta) if crops else []
    read = list(output.readings(found, rows))
    if crops:
        tell(*output.table(read), sep="\n", flush=True)
    if args.annotate:
        output.annotate_all(read, args.annotate, args.every, failed)
    return read


def watch(args, network, detect, tell):
    """Look through a camera; print a line a face as it comes. Return what `look` does."""
    from src import predict

    classify, read = predict.at_once(network, args.settings), []
    frames = itertools.islice(faces.frames(args.webcam), args.frames)
    for number, (seconds, image) in enumerate(frames):
        seen = looks.look("camera", seconds, image, detect)
        rows = list(classify(np.stack(seen.faces))) if seen.faces else []
        for line in output.lines(seen, rows):
            tell(line, flush=True)
        if args.annotate:
            output.annotate(image, seen, rows, args.annotate / f"camera.{number:06d}.faces.png")
        if args.frames:  # else it would grow until Ctrl-C, and nobody asks for it
            read.append((seen, rows))
    return read


def explain_all(args, network, read, tell):
    """Draw a figure of each face, or of the mean over test images of a class."""
    from src import explain
    from src import explain_figure as figure

    size, net = args.settings.size, network.name.replace("_", "-")
    if args.explain_class:
        number = CLASSES.index(args.explain_class)
        images, labels = dataset.load(args.settings.path("data_folder"), "test")
        images = images[labels == number][: args.explain_images]
        if not len(images):
            raise UserError(f"the test split holds no image of the class {args.explain_class}")
        path = args.explain / f"class.{args.explain_class}.png"
        title = f"{net}: the class {args.explain_class} in {len(images)} test images"
        figure.draw(path, explain.explain(network, size, images, number), title)
        tell(f"Explained: {path}", flush=True)
    named = zip(output.names([seen for seen, _ in read], "attention"), read)
    for name, (seen, rows) in named:
        for number, (face, row) in enumerate(zip(seen.faces, rows), start=1):
            path = args.explain / f"{name}.{number}.png"
            first = output.best(row)[0]
            title = f"{net} takes this for {CLASSES[first]}"
            figure.draw(path, explain.explain(network, size, face[None], first), title)
            tell(f"Explained: {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
