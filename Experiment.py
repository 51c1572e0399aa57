"""Run a whole experiment: every training and evaluation of a recipe, for several seeds.

    python Experiment.py --settings Settings/FromScratch --seeds 1 2 3 4 5
    python Experiment.py --settings Settings/FromScratch --seeds 1 2 3 4 5 --gpus 0 1 --each 2

Comes after ETL.py. Runs the _Train.py and _Eval.py scripts of the networks that the settings folder
has recipes for, each in a process of its own and as soon as what it needs is complete: the net that
it goes on from, and its teachers. What is done is left as it is, and what was stopped goes on; so
the same command may be started again at any time, also on another number of GPUs. What a script
prints goes to <results folder>/seed<K>/<script>.log.

--minutes ends what runs in time for a machine that is only lent, or under Slurm. A script that
fails is told with its last line; all that does not need its run goes on.

Expected result: a line when a script begins and one when it ends, and the table of what there is:
    13:05:10 ResNet34_Train.py, seed 1: begins on GPU 0, Results/.../ResNet34_Train.log
    ...
    | recipe      | network    | seeds |          val |         test |    test, TTA | ...
    All 30 scripts are done.
Exit code 0 then, 1 if some are not. Time and memory: those of the scripts; two at a time on an
H200 take as long as one after the other.
"""

import sys

from src.cli import command, parse, positive, whole_number
from src.errors import UserError
from src.run_record import NETWORKS

OPTIONS = {
    "--seeds": {
        "type": whole_number,
        "nargs": "+",
        "metavar": "K",
        "help": "the seeds, each with a folder of its own (default: the settings' own seeds)",
    },
    "--networks": {
        "nargs": "+",
        "choices": NETWORKS,
        "metavar": "NETWORK",
        "help": f"of {', '.join(NETWORKS)} (default: those with a recipe in the settings folder)",
    },
    "--gpus": {
        "type": whole_number,
        "nargs": "+",
        "default": [],
        "metavar": "N",
        "help": "the GPUs to share out, as nvidia-smi numbers them (default: left to the scripts)",
    },
    "--each": {
        "type": positive(int),
        "default": 1,
        "metavar": "N",
        "help": "how many scripts at a time on each GPU, or in all without --gpus (default: 1)",
    },
    "--minutes": {
        "type": positive(float),
        "metavar": "M",
        "help": "stop after that time; the same command goes on",
    },
    "--plan": {"action": "store_true", "help": "only tell what is done and what is to be done"},
}


@command
def main(argv=None):
    args = parse(argv, __doc__, OPTIONS)

    # NumPy and pandas start here.
    from src import experiment

    seeds = list(dict.fromkeys(args.seeds or [None]))
    networks = args.networks or experiment.networks_of(args.settings)
    if not networks:
        raise UserError(f"{args.settings.folder}: found no network's recipe; name some --networks")
    jobs = experiment.plan(args.settings, networks, seeds)
    if args.plan:
        for job in jobs:
            print(f"{'done' if job.is_done() else 'to do'}: {job.name}")
        return 0
    seconds = args.minutes and 60 * args.minutes
    experiment.check_gpus(args.gpus)
    with experiment.held(args.settings, seeds):
        left = experiment.work(jobs, list(dict.fromkeys(args.gpus)), args.each, seconds)
    table = experiment.table(args.settings, networks, seeds)
    if table:
        print(table)
    if left:
        names = "; ".join(job.name for job in left)
        print(f"{len(left)} of {len(jobs)} scripts are not done; the same command goes on: {names}")
        return 1
    print(f"All {len(jobs)} scripts are done.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
