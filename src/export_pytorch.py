"""Weights of a Keras net -> the state_dict of src/lhc_pytorch.py."""

import io
import re

import numpy as np

from src import weights

VARIABLES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def write(network, about, path):
    """Write {"state_dict", "about"} to a file for torch.load. about: with the net's arguments."""
    import torch

    from src import lhc_pytorch

    net = lhc_pytorch.LHCNet(**about["arguments"])
    state = net.state_dict()  # with what Keras' nets lack: bn_data's scale, which is 1
    found = {name: torch.from_numpy(array) for name, array in arrays(network).items()}
    net.load_state_dict({**state, **found})
    content = io.BytesIO()  # of a full disk torch tells less well than Python
    torch.save({"state_dict": net.state_dict(), "about": about}, content)
    with open(path, "wb") as file:
        file.write(content.getbuffer())


def read(path, threads):
    """Return a function images (B, S, S, 3) -> probabilities (B, 7) of a file of `write`."""
    import torch

    from src import lhc_pytorch

    torch.set_num_threads(threads)
    net, _ = lhc_pytorch.load(path)

    def run(images):
        with torch.no_grad():
            return net(torch.from_numpy(images)).numpy()

    return run


def arrays(network):
    """Return {name in the state_dict: array} of a Keras net's weights."""
    return {_renamed(name): _turned(array) for name, array in weights.to_arrays(network).items()}


def _renamed(name):
    """Return "stage1_unit2.bn1.weight" of "stage1_unit2_bn1/gamma"."""
    name = re.sub(r"^(stage\d_unit\d)_", r"\1/", name).replace("query_key_", "query_key/")
    *layers, variable = name.split("/")
    return ".".join([*layers, VARIABLES.get(variable, variable)])


def _turned(array):
    """Turn a kernel (h, w, in, out) or (in, out) into (out, in, h, w) or (out, in)."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, range(array.ndim))
    return np.array(array.transpose(*order), order="C")
