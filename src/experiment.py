"""All trainings and evaluations of a recipe, for several seeds: what there is to do, and its order.

A job is one of the scripts in a process of its own. It waits for the runs that it needs: the net
that it goes on from, and its teachers. What a job has done shows in the folders of the run, so a
plan that was stopped goes on wherever the files are, on as many GPUs as there are then.
"""

import contextlib
import dataclasses
import functools
import os
import subprocess
import sys
import time
from pathlib import Path

from src import interrupts, lineage, nvidia, packed, results, run_record, strict_json
from src.errors import UserError, shown
from src.files import file_digest, lock
from src.settings import FILES, PROGRAM

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60  # for a process that was asked to end
# Or the first process on a GPU takes all of its memory, which several are to share.
SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


@dataclasses.dataclass
class Job:
    """A script to run, or that has run."""

    name: str  # as it is told: "LHC_Train.py, seed 2"
    words: list  # the script and its command line
    run: Path  # the folder of the training that this is, or evaluates
    results: Path  # None of a training
    needs: list  # the folders of runs, or of nets that Ship.py made
    log: Path
    evaluation: dict  # the settings of that name
    log_start: int = 0  # bytes of earlier processes

    def is_done(self):
        """Return whether there is nothing left to do."""
        if self.results is None:
            return run_record.is_complete(self.run)
        return is_evaluated(self.run, self.results, self.evaluation)

    def is_ready(self):
        """Return whether all that it needs is there."""
        return all(map(is_there, self.needs))


def is_there(folder):
    """Return whether a folder has a complete run, or a net that Ship.py made."""
    return run_record.is_complete(folder) or (folder / packed.RECORD).is_file()


def is_evaluated(run, found, evaluation):
    """Return whether a run is complete, and what its evaluation has `found` is of that one.

    evaluation: the settings of that name, which it has to have had.
    """
    last = found / results.PREDICTIONS  # comes after the metrics
    if not (run_record.is_complete(run) and last.is_file()):
        return False
    try:
        metrics = strict_json.read(found / results.METRICS)
        own = metrics["training_complete"] and metrics["settings"]["evaluation"] == evaluation
    except (OSError, ValueError, LookupError, TypeError):
        return False  # damaged: the next evaluation mends it
    return own and last.stat().st_mtime >= (run / run_record.RECORD).stat().st_mtime


def networks_of(settings):
    """Return the networks that the settings folder has recipes for, as they follow each other."""
    own = settings.folder / FILES["modular"]
    recipes = strict_json.read(own) if own.is_file() else settings.modular
    return [network for network in run_record.NETWORKS if network in recipes]


def plan(settings, networks, seeds):
    """Return the list of Jobs, of every network for every seed; seeds: numbers, or None for none.

    Trainings of a network come before its evaluations, and those before the next network. Raises
    UserError where a run is needed that neither is there nor will be, or where one that is there
    was trained with other settings, or from a net or with teachers that were trained anew since.
    """
    jobs, digest = [], functools.lru_cache(maxsize=None)(file_digest)
    for network in [name for name in run_record.NETWORKS if name in networks]:
        trainings, evaluations = [], []
        for seed in seeds:
            of = _with_seed(settings, seed)
            run, found = (of.path(key) / network for key in ("models_folder", "results_folder"))
            needs = _needs(of, network)
            trainings.append(_job(of, network, "Train", seed, run, None, needs))
            evaluations.append(_job(of, network, "Eval", seed, run, found, [run]))
            for name in filter(None, (run_record.GOES_ON_FROM.get(network), network)):
                _check_run(of, name, run.with_name(name), digest)
        jobs += trainings + evaluations
    _check_needs(jobs)
    return jobs


@contextlib.contextmanager
def held(settings, seeds):
    """Hold the results folders of all seeds. Raises UserError where another experiment has one."""
    with contextlib.ExitStack() as stack:
        for seed in seeds:
            folder = _with_seed(settings, seed).path("results_folder")
            busy = f"an experiment is being run in {folder}"
            stack.enter_context(lock(folder / "experiment.lock", busy))
        yield


def _with_seed(settings, seed):
    return settings if seed is None else settings.with_seed(seed)


def _job(settings, network, kind, seed, run, found, needs):
    script = f"{network}_{kind}.py"
    words = [script, f"--settings={settings.folder}"]
    words += [] if seed is None else ["--seed", str(seed)]
    name = script if seed is None else f"{script}, seed {seed}"
    log = settings.path("results_folder") / f"{network}_{kind}.log"
    return Job(name, words, run, found, needs, log, settings.evaluation)


def _needs(settings, network):
    """Return the folders of the run that a training goes on from, and of its teachers."""
    teachers = lineage.all_teacher_files(settings.recipe(network))
    return [path.parent for path in lineage.start_files(settings, network) + teachers]


def _check_run(settings, network, run, digest):
    """Raise UserError where a run has its weights, but is not what these settings and files give.

    digest: `files.file_digest`, or one that knows the files already.
    """
    if not (run / run_record.WEIGHTS).is_file():
        return
    elsewhere = f'name another "models_folder", or train it anew with {network}_Train.py'
    if not run_record.is_complete(run):
        raise UserError(
            f"{run}: found {run_record.WEIGHTS}, but no {run_record.RECORD} that tells how it was "
            f"trained: {elsewhere}"
        )
    record = run_record.read(run)
    conditions = record.get("conditions")
    conditions = conditions if isinstance(conditions, dict) else {}
    now = run_record.deciding(settings, network)
    changes = run_record.changes(conditions.get("setting"), now, "setting")
    if changes:
        raise UserError(
            f"{run}: this training is complete, but was another ({run_record.told(changes)}): go "
            f"back to that, {elsewhere}"
        )
    for then, files in (
        (record.get("goes_on_from"), lineage.start_files(settings, network)),
        (conditions.get("teachers"), lineage.all_teacher_files(settings.recipe(network))),
    ):
        if lineage.is_other(then, lineage.digests(files, digest)):
            names = ", ".join(str(path.parent) for path in files)
            raise UserError(
                f"{run}: this training is complete, but what it was made from was another than is "
                f"there now ({names}): bring that back, {elsewhere}"
            )


def _check_needs(jobs):
    made = {os.path.realpath(str(job.run)) for job in jobs if job.results is None}
    for job in jobs:
        for folder in job.needs:
            if not is_there(folder) and os.path.realpath(str(folder)) not in made:
                raise UserError(
                    f"{job.name} needs {folder}, where no complete training is: add its network "
                    "and seed, or train it first"
                )


def check_gpus(numbers):
    """Raise UserError where this machine has no GPU of one of these numbers, as far as it tells.

    A script would then compute on the CPU, for days.
    """
    there = nvidia.ask("index") if numbers else None
    missing = [] if there is None else [n for n in numbers if str(n) not in there]
    if missing:
        found = ", ".join(there) or "none"
        raise UserError(f"--gpus {missing[0]}: no such GPU here, nvidia-smi tells of {found}")


def work(jobs, gpus=(), each=1, seconds=None):
    """Run the jobs, `each` at a time on each GPU, or anywhere; return those that are not done.

    gpus: their numbers, as nvidia-smi tells them. seconds: when to stop what runs, which goes on
    the next time. A job that ends with an error is not tried again, nor those that need it.
    """
    end = float("inf") if seconds is None else time.monotonic() + seconds
    places = [gpu for _ in range(each) for gpu in (gpus or [None])]
    left, running = [job for job in jobs if not job.is_done()], []
    waiting = list(left)
    try:
        while (waiting or running) and time.monotonic() < end:
            for place in _free(places, running):
                job = next((job for job in waiting if job.is_ready()), None)
                if job:
                    waiting.remove(job)
                    running.append((job, place, _start(job, place, each), time.monotonic()))
            if not running:
                break  # what waits needs what failed
            time.sleep(POLL_SECONDS)
            for entry in [entry for entry in running if entry[2].poll() is not None]:
                running.remove(entry)
                job, _, process, begun = entry
                interrupts.children.remove(process)
                _tell_end(job, process, begun)
    finally:  # the time is up, or a log cannot be written
        _stop(running)
    return [job for job in left if not job.is_done()]


def _free(places, running):
    free = list(places)
    for _, place, _, _ in running:
        free.remove(place)
    return free


def _start(job, place, each):
    """Start a job's process; what it prints goes to the end of its log."""
    environment = {**(SHARED_GPU if each > 1 else {}), **os.environ}
    if place is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(place)
        environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi counts
    job.log.parent.mkdir(parents=True, exist_ok=True)
    script, *words = job.words
    with open(str(job.log), "ab") as log, interrupts.starting:
        job.log_start = log.tell()
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM / script), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        interrupts.children.append(process)
    where = "" if place is None else f" on GPU {place}"
    print(f"{_now()} {job.name}: begins{where}, {job.log}", flush=True)
    return process


def _tell_end(job, process, begun):
    took = f"{time.monotonic() - begun:.0f} s"
    words = f"done in {took}"
    if process.returncode or not job.is_done():
        words = f"FAILED after {took}, exit code {process.returncode}: {_last_line(job)}"
    print(f"{_now()} {job.name}: {words}", flush=True)


def _stop(running):
    """Ask processes to end, which keeps all but the epoch that they are at, and wait for that."""
    for _, _, process, _ in running:
        process.terminate()
    for job, _, process, _ in running:
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        interrupts.children.remove(process)
        words = "done" if job.is_done() else "stopped; the same command goes on"
        print(f"{_now()} {job.name}: {words}", flush=True)


def _last_line(job):
    """Return what a job's process has said last, in one line."""
    try:
        text = job.log.read_bytes()[job.log_start :].decode("utf-8", "replace")
    except OSError as error:
        return f"its log cannot be read ({error.strerror})"
    lines = [line for line in text.splitlines() if line.strip()]
    return shown(lines[-1]) if lines else "it printed nothing"


def _now():
    return time.strftime("%H:%M:%S")


def table(settings, networks, seeds):
    """Return the results table of the runs that are trained and evaluated, "" if none is."""
    groups = {}
    for network in [name for name in run_record.NETWORKS if name in networks]:
        for seed in seeds:
            of = _with_seed(settings, seed)
            paths = results.files_of(of, network)
            if is_evaluated(paths[0].parent, paths[-1].parent, of.evaluation):
                group = groups.setdefault((settings.folder.resolve().name, network), {})
                group[seed] = results.read_run(paths, network)
    return results.results_table(groups) if groups else ""
