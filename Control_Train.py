"""Train the trained ResNet34 on, by LHC's recipe but without LHC: what LHC is compared with.

    python Control_Train.py --settings Settings/FromScratch
    python Control_Train.py --settings Settings/FromScratch --seed 1

Comes after ResNet34_Train.py. Same epochs, same recipe, same batches as LHC_Train.py, so that what
LHC adds is not mixed up with longer training. Writes Models/Control/: weights.h5, history.csv,
history.png, settings.json. Time and memory: as ResNet34_Train.py, for LHC's epochs.

Expected result: one line an epoch, with the validation accuracy of LHC_Train.py or close to it.
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
    backend.set_seeds(**settings.recipe("Control")["seeds"])
    network = networks.build("ResNet34", settings)
    weights.load_trained(network, settings, "ResNet34")
    training.train(network, settings, "Control", args.restart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
