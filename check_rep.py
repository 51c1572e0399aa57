"""Check, before long training, whether this machine gives the paper's numbers bit for bit.

    python check_rep.py
    python check_rep.py --repeat          train twice: are the results repeatable here at all?
    python check_rep.py --repeat 5
    python check_rep.py --settings Settings/Quickstart

Trains ResNet34v2 for one epoch from fixed seeds and compares the validation cross-entropy with
the expected value in Known_Results.json of the settings folder (the paper's, unless you give
others). Expected after the epoch's own line: `Replicable Results!` on the paper's setup, elsewhere
`Not Replicable Results. Change your GPU!`. (That line's val_loss is Keras' own, which TensorFlow
computes from logits; the value is the original's, from probabilities that are cut off at 1e-7.)

Exit codes: 0 identical, 1 different (repeatable, as far as --repeat has tried), 2 not repeatable
here, 3 bad input, 4 a fault of the program.

Comes after ETL.py. Time: one epoch at 224 x 224, over an hour on 2 CPU cores, minutes on a GPU;
half a minute in the Quickstart. Memory: as ResNet34_Train.py. Writes nothing but the ImageNet
weights, where they are not there yet.
"""

import sys

from src.cli import command, parse, positive

REPEAT = {
    "metavar": "N",
    "type": positive(int),
    "nargs": "?",
    "const": 2,
    "default": 1,
    "help": "train N times (2 without a number) and compare the results with each other",
}


@command(bad_input=3, fault=4)
def main(argv=None):
    args = parse(argv, __doc__, {"--repeat": REPEAT})

    # TensorFlow starts here, in seconds.
    from src import replicability, runtime

    runtime.prepare(args.settings)
    values = [replicability.measure(args.settings) for _ in range(args.repeat)]
    return replicability.report(values, args.settings)


if __name__ == "__main__":
    sys.exit(main())
