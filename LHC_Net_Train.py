"""Train LHC-Net on its own from the ImageNet backbone, as Training_Settings.json says.

    python LHC_Net_Train.py
    python LHC_Net_Train.py --settings Settings/Quickstart

Comes after ETL.py. Three stages whose values are two- and three-element lists in that file.
Writes Models/LHC_Net/: weights.h5 (best epoch of the last stage), history.csv, history.png,
settings.json. Time: an epoch costs 1.3 to 1.8 times ResNet34's (see ResNet34_Train.py), 50 to 100
epochs. Memory: as ResNet34_Train.py.

Expected result: one line an epoch; about 0.72 validation accuracy on FER2013.
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
    backend.set_seeds(**settings.recipe("LHC_Net")["seeds"])
    backbone = networks.build("ResNet34", settings)
    weights.load_start(backbone, settings)
    network = networks.build("LHC_Net", settings)
    weights.transfer(backbone, network)
    del backbone  # or it would be held throughout training
    training.train(network, settings, "LHC_Net", args.restart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
