"""What the attention does to a face, or on the average over many: figures for `explain_figure`.

Of each LHC module: the attention of its heads, what it adds to the maps and where, which places of
the maps speak for the class (Grad-CAM, Selvaraju et al., arXiv 1610.02391), and the class's
probability without the module.
"""

from collections import namedtuple

import numpy as np

from src import backend as B
from src.errors import UserError
from src.lhc import LHC
from src.pixels import enlarge, rgb

BATCH = 8  # images at a time; their maps and gradients take about 1 GB at 224 x 224

# face: the mean of the faces, (48, 48), 0...255. target: number of the class that is explained.
# probabilities: (7,), those of the net as it is. count: of faces. modules: a Module each.
Explanation = namedtuple("Explanation", "face target probabilities count modules")
# attention: (heads, C, C), shares of the values (columns) for each channel (rows), which add up to
# 1. added: (H, W), the root mean square over the channels of what the module adds. strength: that
# of all of it as a share of what it adds to. evidence: (H, W), Grad-CAM at the module's output, the
# highest place of each face being 1. without: the target's probability with the module off.
Module = namedtuple("Module", "attention added strength evidence without")


def explain(network, size, faces, target=None):
    """Return the Explanation of a network for faces uint8 (N, 48, 48), a mean over them.

    size: of the network's input. target: number of the class to explain, by default the one that
    the net finds. Raises UserError for a net without LHC modules.
    """
    modules = [layer for layer in network.layers if isinstance(layer, LHC)]
    if not modules:
        raise UserError(f"{network.name} has no attention to explain: choose another --model")
    run = B.predictor(network)  # one for all: JAX compiles each anew
    probabilities = _mean_probabilities(run, size, faces)
    target = int(probabilities.argmax()) if target is None else target
    without = [_without(run, module, size, faces)[target] for module in modules]
    weights = [len(part) / len(faces) for part in _batches(faces)]
    told = _maps_and_gradients(network, modules, target)  # one for all batches too
    parts = [_batch(modules, *told(_input(part, size))) for part in _batches(faces)]

    def mean(values):
        return sum(weight * value for weight, value in zip(weights, values))

    described = [
        Module(*map(mean, zip(*of_module)), rest) for of_module, rest in zip(zip(*parts), without)
    ]
    return Explanation(faces.mean(axis=0), target, probabilities, len(faces), described)


def _batches(array):
    return [array[i : i + BATCH] for i in range(0, len(array), BATCH)]


def _input(faces, size):
    return rgb(enlarge(faces, size))


def _mean_probabilities(run, size, faces):
    rows = [B.to_numpy(run(_input(part, size))) for part in _batches(faces)]
    return np.concatenate(rows).mean(axis=0)


def _without(run, module, size, faces):
    """Return the mean probabilities (7,) where a module adds nothing."""
    variables = (module.value.kernel, module.value.bias)
    kept = [np.array(B.to_numpy(variable)) for variable in variables]
    try:
        for variable, array in zip(variables, kept):
            variable.assign(np.zeros_like(array))
        return _mean_probabilities(run, size, faces)
    finally:
        for variable, array in zip(variables, kept):
            variable.assign(array)


def _maps_and_gradients(network, modules, target):
    """Return `backend.map_gradients` of the modules, by the score of the class `target`."""
    head = network.get_layer("fc3")

    def score(last):
        """What goes into the softmax: of a sure net, its own gradient would be 0."""
        return B.sum(B.matmul(B.cast(last, "float32"), B.convert(head.kernel))[:, target])

    return B.map_gradients(network, modules, head, score)


def _batch(modules, before, after, gradients):
    """Return, of each module, the means over a batch: attention, added, strength, evidence.

    before, after: [map (B, H, W, C)] that each module gets and makes. gradients: by the latter.
    """
    return [
        (_attention(module, x), *_added(x, y), _evidence(y, gradient))
        for module, x, y, gradient in zip(modules, before, after, gradients)
    ]


def _attention(module, x):
    return B.to_numpy(module.attention(B.convert(x))).mean(axis=0)


def _added(x, y):
    """Return where a module adds how much, (H, W), and how much in all, relative to its input."""
    added = np.sqrt(((y - x) ** 2).mean(axis=-1))
    strength = np.sqrt(((y - x) ** 2).mean(axis=(1, 2, 3)) / ((x**2).mean(axis=(1, 2, 3)) + 1e-30))
    return added.mean(axis=0), strength.mean()


def _evidence(maps, gradients):
    """Return Grad-CAM (H, W), the mean over a batch: maps weighted by their mean gradients."""
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    places = np.maximum((weights * maps).sum(axis=-1), 0)
    highest = places.max(axis=(1, 2), keepdims=True)
    return (places / np.where(highest > 0, highest, 1)).mean(axis=0)
