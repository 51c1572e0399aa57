"""Train the backbone, ResNet34v2, in the three stages of the modular protocol.

    python ResNet34_Train.py
    python ResNet34_Train.py --settings Settings/Quickstart

TIMELINE
"""

import sys

from src import backend, networks, runtime, training, weights
from src.cli import command, settings_from


@command
def main(argv=None):
    settings = settings_from(argv, __doc__)
    runtime.prepare(settings)
    backend.set_seeds(**settings.recipe("ResNet34")["seeds"])
    network = networks.build("ResNet34", settings)
    weights.load_start(network, settings)
    training.train(network, settings, "ResNet34")
    return 0


if __name__ == "__main__":
    sys.exit(main())
