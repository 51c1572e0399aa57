"""Put five fresh LHC modules into the trained ResNet34 and train everything: LHC-Net.

    python LHC_Train.py
    python LHC_Train.py --settings Settings/Quickstart

Comes after ResNet34_Train.py. Writes Models/LHC/: weights.h5, history.csv, history.png,
settings.json. Time: an epoch costs 1.3 to 1.8 times ResNet34's; a handful of epochs, the patience
is 3. The Quickstart takes half a minute on 2 cores. Memory: as ResNet34_Train.py.

Expected result: one line an epoch; about 0.73 validation accuracy on FER2013, about 0.9 in the
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
    backend.set_seeds(**settings.recipe("LHC")["seeds"])
    backbone = networks.build("ResNet34", settings)
    weights.load_trained(backbone, settings, "ResNet34")
    network = networks.build("LHC_Net", settings)
    weights.transfer(backbone, network)
    if settings.recipe("LHC").get("zero_values"):
        networks.zero_values(network)
    del backbone  # or it would be held throughout training
    training.train(network, settings, "LHC", args.restart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
