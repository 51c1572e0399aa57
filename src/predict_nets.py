"""Which nets there are to predict with, the best first."""

from collections import namedtuple

from src import networks, packed, runs, weights
from src.checkpoints import load_checkpoint
from src.errors import UserError, shown

# name: as --model and the results folders have it. network: as `networks.build` does. path: of the
# weights, or None where there are none. load(net) puts them in.
Candidate = namedtuple("Candidate", "name network path load")

TRAINED = {
    "Controller": "LHC_NetC",
    "LHC": "LHC_Net",
    "LHC_Net": "LHC_Net",
    "ResNet34": "ResNet34",
    "Control": "ResNet34",
}
PUBLISHED = {
    "Controller_Downloaded": ("LHC_NetC", "LHC_Net_Controller"),
    "LHC_Downloaded": ("LHC_Net", "LHC_Net"),
}
SHIPPED = "Shipped"
NAMES = (*TRAINED, *PUBLISHED, SHIPPED)


def candidates(settings):
    """Return all Candidates, the best first: those trained here, the published ones, our own."""
    return [
        *(_trained(settings, name, network) for name, network in TRAINED.items()),
        *(_published(settings, name, *where) for name, where in PUBLISHED.items()),
        _shipped(settings),
    ]


def choose(settings, name=None, seed=None):
    """Return the Candidate of that name, or the first one that is there.

    seed: of the trainings that are meant, whose folders the settings have; then it is one of them.
    Raises UserError where there is none.
    """
    found = candidates(settings)
    if name is not None and name not in NAMES:
        raise UserError(f"--model: found {shown(name)}, allowed: {', '.join(NAMES)}")
    if name is not None:
        return next(candidate for candidate in found if candidate.name == name)
    for candidate in found:
        if candidate.path is not None and (seed is None or candidate.name in TRAINED):
            return candidate
    if seed is not None:
        raise UserError(
            f"--seed {seed}: found no finished training in {settings.path('models_folder')}: train "
            "with this seed, name another, or leave it out"
        )
    folders = " or ".join(
        str(settings.path(key)) for key in ("models_folder", "downloaded_models_folder")
    )
    raise UserError(
        f"found no net in {folders}, and none that comes with the program: run Download_Models.py "
        "for the published ones, or the training scripts, with the same settings folder"
    )


def load(candidate, settings):
    """Return the network of a Candidate with its weights. Raises UserError where they lack."""
    network = networks.build(candidate.network, settings)
    candidate.load(network)
    return network


def _trained(settings, name, network):
    try:
        path = runs.complete_folder(settings, name) / runs.WEIGHTS
    except UserError:
        path = None  # `load` says so again, if it is asked for
    return Candidate(name, network, path, lambda net: weights.load_trained(net, settings, name))


def _published(settings, name, network, prefix):
    path = settings.path("downloaded_models_folder") / network / prefix
    there = path.with_name(f"{prefix}.index").is_file()
    return Candidate(name, network, path if there else None, lambda net: load_checkpoint(net, path))


def _shipped(settings):
    path = packed.FOLDER if (packed.FOLDER / packed.RECORD).is_file() else None
    try:
        network = packed.record(packed.FOLDER)["architecture"]["network"]
    except UserError:
        network = "LHC_Net"  # `load` says what is wrong, if it is asked for
    return Candidate(SHIPPED, network, path, lambda net: weights.load_shipped(net, settings))
