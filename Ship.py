"""Make the net that comes with the program of a finished training: packed, measured, with its card.

    python Ship.py --settings Settings/FromScratch --seed 1
    python Ship.py --settings Settings/FromScratch --seed 1 --network Controller --to OtherFolder
    python Ship.py --card

Comes after LHC_Train.py (or Controller_Train.py, LHC_Net_Train.py), with the same settings and
seed, and needs FER2013 in the data folder. Packs the weights into 9 to 12 bits, evaluates both nets
on the validation and the test split, in float32 and without augmentation, and writes
Models_Shipped/: weights-1.npz and so on (16 MB at most each), net.json (what it was made from, its
figures, the files' SHA-256) and README.md, the net's card. Nothing is written if packing moves an
accuracy by more than 0.1 points. --card writes only the card anew, from the net.json that is there.
Time: a minute on a GPU; 25 minutes on 2 CPU cores. Memory: 1.5 GB.

Expected result:
    validation: 3589 images, float32 72.... %, packed 72.... %, ... changed
    test: 3589 images, float32 72.... %, packed 72.... %, ... changed
    39.3 MB in Models_Shipped: weights-1.npz, weights-2.npz, weights-3.npz, net.json, README.md
"""

import sys
from pathlib import Path

from src import packed
from src.cli import SEED, command, parse

OPTIONS = {
    "--network": {
        "choices": ("LHC", "Controller", "LHC_Net"),
        "default": "LHC",
        "help": "which training's net (default: LHC)",
    },
    "--to": {
        "metavar": "FOLDER",
        "type": Path,
        "default": packed.FOLDER,
        "help": "where to write it (default: Models_Shipped beside this script)",
    },
    "--card": {"action": "store_true", "help": "write only the card anew, from net.json"},
    **SEED,
}


@command
def main(argv=None):
    args = parse(argv, __doc__, OPTIONS)

    # TensorFlow starts here, in seconds.
    from src import networks, predict_nets, runtime, shipping

    if args.card:
        shipping.write_card(args.to)
        return 0
    settings = args.settings.changed(runtime={"precision": "float32"})
    runtime.prepare(settings)
    network = networks.build(predict_nets.TRAINED[args.network], settings)
    shipping.ship(network, settings, args.network, args.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
