"""Freeze LHC-Net and train one scalar for each of its modules: LHC-NetC.

    python Controller_Train.py
    python Controller_Train.py --settings Settings/Quickstart

Comes after LHC_Train.py. Writes Models/Controller/: weights.h5, history.csv, history.png,
settings.json. Time: a few epochs, the patience is 1; half a minute in the Quickstart on 2 cores.
Memory: as ResNet34_Train.py.

Expected result: one line an epoch, with the validation accuracy of LHC-Net or slightly above; then
the five scalars w and the factors 1 + tanh(w) of what the modules add:
    lhc1/w: 0.0012: adds 1.0012 times its attention
"""

import math
import sys

from src.cli import RESTART, SEED, command, parse


@command
def main(argv=None):
    args = parse(argv, __doc__, {**RESTART, **SEED})

    # TensorFlow starts here, in seconds.
    from src import backend, devices, networks, runs, runtime, training, weights

    settings = args.settings
    runtime.prepare(settings)
    backend.set_seeds(**settings.recipe("Controller")["seeds"])
    trained = networks.build("LHC_Net", settings)
    weights.load_trained(trained, settings, "LHC")
    network = networks.build("LHC_NetC", settings)
    weights.transfer(trained, network)
    del trained  # or it would be held throughout training
    networks.freeze_all_but_controllers(network)
    training.train(network, settings, "Controller", args.restart)
    if devices.is_main():
        kept, _ = weights.read_h5(runs.complete_folder(settings, "Controller") / runs.WEIGHTS)
        for name in sorted(name for name in kept if name.endswith("/w")):
            gain = 1 + math.tanh(kept[name])
            print(f"{name}: {kept[name]:.4f}: adds {gain:.4f} times its attention", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
