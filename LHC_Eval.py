"""Evaluate the LHC-Net of the modular protocol: training, validation and test split, and TTA.

    python LHC_Eval.py
    python LHC_Eval.py --settings Settings/Quickstart

Comes after LHC_Train.py. Prints the accuracies with 17 decimals and writes
Results/LHC/: metrics.json, predictions.npz (probabilities in the data's order),
confusion_matrix.png of the test split with TTA, report.txt (figures of each class), and report.html
(all of it as a page, with curves, calibration and mistakes; open it in any browser).
Time: on 2 CPU cores about 25 minutes for the training images and 3 hours for the 60 passes of TTA
at 224 x 224, a minute in the Quickstart; a GPU needs minutes. Memory: 1.5 GB.

Expected result:
    LHC_Net Perf:
    Train Loss:  0.3...
    Train Perf:  0.9...
    Val Perf:  0.7...
    Test Perf:  0.7...
    Test Pred Repeated:  0
    TTA Test Perf:  0.7...
    TTA Test Pred Repeated:  0
    data: FER2013, unchanged
    Pictures and reports: Results/LHC
"""

import sys

from src.cli import SEED, UNFINISHED, command, parse


@command
def main(argv=None):
    args = parse(argv, __doc__, {**UNFINISHED, **SEED})

    # TensorFlow starts here, in seconds.
    from src import evaluation, networks, runtime, weights

    settings = args.settings
    runtime.prepare(settings)
    network = networks.build("LHC_Net", settings)
    weights.load_trained(network, settings, "LHC", args.unfinished)
    evaluation.evaluate(network, settings, "LHC", complete=not args.unfinished)
    return 0


if __name__ == "__main__":
    sys.exit(main())
