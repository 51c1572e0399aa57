"""Train the backbone, ResNet34v2, in the three stages of the modular protocol.

    python ResNet34_Train.py
    python ResNet34_Train.py --settings Settings/Quickstart

Comes after ETL.py. Starts from the ImageNet weights (fetched when first needed) and writes
Models/ResNet34/: weights.h5 (best epoch of the last stage), history.csv, history.png,
settings.json. Time at 224 x 224: an epoch of FER2013 takes over an hour on 2 CPU cores and 3 s on
an H200 with fast numerics and bfloat16; 50 to 100 epochs are usual. The Quickstart takes 2
minutes on 2 cores. Memory: 2.0 GB in the Quickstart, 6 GB on a CPU at 224.

Expected result: one line an epoch; about 0.72 validation accuracy on FER2013, about 0.9 in the
Quickstart.
"""

import sys

from src.cli import RESTART, SEED, command, parse


@command
def main(argv=None):
    args = parse(argv, __doc__, {**RESTART, **SEED})

    # TensorFlow starts here, in seconds.
    from src import backend, networks, runtime, training, weights

    settings = args.settings
    runtime.prepare(settings)
    backend.set_seeds(**settings.recipe("ResNet34")["seeds"])
    network = networks.build("ResNet34", settings)
    weights.load_start(network, settings)
    training.train(network, settings, "ResNet34", args.restart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
