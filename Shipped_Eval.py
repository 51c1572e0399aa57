"""Evaluate the net that comes with the program: validation and test split.

    python Shipped_Eval.py
    python Shipped_Eval.py --settings Settings/Quickstart
    python Shipped_Eval.py --tta

Comes after Download_Data.py; needs no training. The images are enlarged to what this net takes,
224 x 224, whatever the settings say. Prints the accuracies with 17 decimals, and what to think of
them, and writes Results/Shipped/: metrics.json, predictions.npz (probabilities in the data's
order), confusion_matrix.png of the test split, report.txt (figures of each class), and with --tta
report.html (all of it as a page, with calibration and mistakes; open it in any browser).
Time: half a minute for the drawn sample on 2 CPU cores, 6 minutes for FER2013, 3 hours more with
--tta; a GPU needs a minute. Memory: 1.5 GB.

Expected result:
    LHC_Net Perf:
    Val Perf:  0.7...
    Test Perf:  0.7...
    Test Pred Repeated:  0
    data: FER2013, unchanged
    Pictures and reports: Results/Shipped
    This net learned from FER2013's photographs: 72.... % of that test split's 3589 were right when
    it was made. Of these 3589 test images 72.... % are.
"""

import sys

from src.cli import command, parse

OPTIONS = {"--tta": {"action": "store_true", "help": "test-time augmentation too: 60 views each"}}


@command
def main(argv=None):
    args = parse(argv, __doc__, OPTIONS)

    # TensorFlow starts here, in seconds.
    from src import evaluation, networks, packed, predict_nets, runtime, weights

    record = packed.record(packed.FOLDER)
    net = record["architecture"]
    shape = {"training": {"target_size": net["target_size"]}, "lhc": net["lhc"]}
    settings = args.settings.changed(**shape)
    runtime.prepare(settings)
    network = networks.build(net["network"], settings)
    weights.load_shipped(network, settings)
    metrics = evaluation.evaluate(
        network, settings, predict_nets.SHIPPED, net["network"], train=False, augmented=args.tta
    )
    drawn = settings.data["source"] == "sample"
    print(verdict(metrics["test"], record["measured"]["test"], drawn), flush=True)
    return 0


def verdict(here, made, drawn):
    """Return what to think of a test accuracy; here, made: {"images", "accuracy"}, now and then."""
    then, now = (f"{100 * of['accuracy']:.2f} %" for of in (made, here))
    what = "drawn faces, which are something else than photographs," if drawn else "test images"
    return (
        f"This net learned from FER2013's photographs: {then} of that test split's "
        f"{made['images']} were right when it was made. Of these {here['images']} {what} {now} are."
    )


if __name__ == "__main__":
    sys.exit(main())
