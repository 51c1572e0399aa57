"""Train LHC-Net on its own from the ImageNet backbone, as Training_Settings.json says.

    python LHC_Net_Train.py
    python LHC_Net_Train.py --settings Settings/Quickstart

TIMELINE
"""

import sys

from src import backend, networks, runtime, training, weights
from src.cli import command, settings_from


@command
def main(argv=None):
    settings = settings_from(argv, __doc__)
    runtime.prepare(settings)
    backend.set_seeds(**settings.recipe("LHC_Net")["seeds"])
    backbone = networks.build("ResNet34", settings)
    weights.load_start(backbone, settings)
    network = networks.build("LHC_Net", settings)
    weights.transfer(backbone, network)
    training.train(network, settings, "LHC_Net")
    return 0


if __name__ == "__main__":
    sys.exit(main())
