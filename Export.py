"""Write a net for other programs: SavedModel, ONNX, LiteRT (32 or 8 bits) or PyTorch.

    python Export.py --format onnx
    python Export.py --format savedmodel litert litert8 --model LHC --to Exports
    python Export.py --format pytorch           # for src/lhc_pytorch.py, which needs only torch

The net is chosen as Predict.py chooses it, and computed in float32 whatever the settings say. All
formats take float32 images (batch, S, S, 3) of 0...255 and return seven probabilities; the order of
the classes and the preprocessing are stored inside (docs/export.md says where). Written are
FOLDER/<net>.savedmodel/, .onnx, .tflite, .8bit.tflite and .pt, each whole or not at all.

Each is first compared with Keras on the test data of the settings, or on drawn faces where there
are none: probabilities on 70 pictures, at most 1e-4 apart; with 8 bits the accuracy on all of them,
at most 0.5 points (or one picture) less. An export that differs more is not kept. Only what
Export.py has made is replaced. SavedModel and LiteRT need TensorFlow below Keras, LiteRT Python
3.11 or later; onnx needs the packages onnx and onnxruntime, pytorch torch.

Exit code: 0, all were written; 3, some were not, or differ and were not kept; 2, nothing was done,
because of the options, the settings, a package or net that lacks, or a file in the way.
Time: about a minute a format on 2 CPU cores; litert8 compares all test data, FER2013 at 224 in
about 10 minutes. Memory: 2.5 GB.

Expected result:
    Net: Controller (LHC_NetC), Models/Controller/weights.h5
    Compared on 70 pictures of Data/data_test.csv
    format           size  from Keras                  ms a picture  file
    keras                                                     165.6  Models/Controller/weights.h5
    onnx         129.7 MB  7.7e-07                            176.0  Exports/Controller.onnx
"""

import sys
from pathlib import Path

from src.cli import SEED, command, parse
from src.errors import UserError

FAILED = 3
NAMES = ("savedmodel", "onnx", "litert", "litert8", "pytorch")
COLUMNS = "{:<11}{:>10}  {:<28}{:>12}  {}"

OPTIONS = {
    "--format": {
        "dest": "formats",
        "choices": NAMES,
        "nargs": "+",
        "required": True,
        "help": "one or more of " + ", ".join(NAMES),
    },
    "--model": {"metavar": "NAME", "help": "the net, if not the first that is there"},
    "--to": {
        "metavar": "FOLDER",
        "type": Path,
        "default": Path("Exports"),
        "help": "write into this folder (default: Exports)",
    },
    **SEED,
}


@command
def main(argv=None):
    args = parse(argv, __doc__, OPTIONS)
    names = list(dict.fromkeys(args.formats))

    # TensorFlow starts here, in seconds.
    from src import backend, export, predict, predict_nets, runtime

    export.check(names)
    # Other numerics are the same function; only these do without kernels that nobody else has.
    settings = args.settings.changed(
        runtime={"numerics": "reference", "precision": "float32", "devices": 1}
    )
    runtime.prepare(settings)
    chosen = predict_nets.choose(settings, args.model, args.seed)
    targets = {name: export.target(args.to, chosen.name, name) for name in names}
    network = predict_nets.load(chosen, settings)
    print(f"Net: {chosen.name} ({chosen.network}), {chosen.path}", flush=True)
    args.to.mkdir(parents=True, exist_ok=True)
    given = export.pictures(settings, names)
    print(f"Compared on {given.name}", flush=True)
    compared = given, predict.probabilities(network, settings, given.images)

    def tell(*cells):
        print(COLUMNS.format(*cells).rstrip(), flush=True)

    tell("format", "size", "from Keras", "ms a picture", "file")
    milliseconds = export.latency(backend.predictor(network), network, given.images[0])
    tell("keras", "", "", f"{milliseconds:.1f}", chosen.path)
    code = 0
    for name, path in targets.items():
        try:
            row = export.export(network, settings, chosen.name, name, path, compared)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            code = FAILED
        else:
            size, speed = f"{row.megabytes:.1f} MB", f"{row.milliseconds:.1f}"
            tell(name, size, row.agreement, speed, row.path)
    return code


if __name__ == "__main__":
    sys.exit(main())
