"""Evaluate the published LHC-Net: validation and test split, and TTA.

    python LHC_Downloaded_Eval.py

Comes after Download_Models.py. Prints the accuracies with 17 decimals and writes
Results/LHC_Downloaded/: metrics.json, predictions.npz (probabilities in the data's order),
confusion_matrix.png of the test split with TTA, report.txt (figures of each class), and report.html
(all of it as a page, with curves, calibration and mistakes; open it in any browser).
Time: 3 hours on 2 CPU cores, nearly all for the 60 passes of TTA; a GPU needs minutes. Memory:
1.5 GB. To try it sooner, set max_val_images and max_test_images in Runtime_Settings.json.

Expected result:
    LHC_Net Perf:
    Val Perf:  0.7...
    Test Perf:  0.73...
    Test Pred Repeated:  0
    TTA Test Perf:  0.74...
    TTA Test Pred Repeated:  0
    data: FER2013, unchanged
    Pictures and reports: Results/LHC_Downloaded
"""

import sys

from src.cli import command, settings_from


@command
def main(argv=None):
    settings = settings_from(argv, __doc__)

    # TensorFlow starts here, in seconds.
    from src import evaluation, networks, runtime
    from src.checkpoints import load_checkpoint

    runtime.prepare(settings)
    network = networks.build("LHC_Net", settings)
    folder = settings.path("downloaded_models_folder")
    load_checkpoint(network, folder / "LHC_Net" / "LHC_Net")
    evaluation.evaluate(network, settings, "LHC_Downloaded", train=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
