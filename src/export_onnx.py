"""LHC-Net as an ONNX graph, written from its weights: the same from every backend and stack."""

import json

import numpy as np

from src import backbone, weights
from src.lhc import LHC

# What ONNX Runtime has read since 2021.
OPSET, IR_VERSION = 13, 7


def write(network, about, path):
    """Write a network to an ONNX file, with `about` ({key: text, or what JSON takes}) inside."""
    from onnx import TensorProto, checker, helper, numpy_helper

    graph = _Graph(helper, numpy_helper, weights.to_arrays(network))
    modules = {layer.name: layer for layer in network.layers if isinstance(layer, LHC)}
    probabilities = _network(graph, modules)
    _, height, width, channels = network.input_shape
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (
            ("image", ["batch", height, width, channels]),
            (probabilities, ["batch", network.output_shape[-1]]),
        )
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, network.name, values[:1], values[1:], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=about["made_by"],
    )
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
    helper.set_model_props(model, texts)
    checker.check_model(model)
    with open(path, "wb") as file:
        file.write(model.SerializeToString())


def read(path, threads):
    """Return a function images (B, S, S, 3) -> probabilities (B, 7) of an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"image": images})[0]


class _Graph:
    """ONNX nodes and constants while they are added; tensors go by their names.

    arrays: the weights, {"layer/variable": array}. Maps are (B, C, H, W), as ONNX has them.
    """

    def __init__(self, helper, numpy_helper, arrays):
        self.nodes, self.constants, self.arrays = [], [], arrays
        self._helper, self._numpy = helper, numpy_helper

    def add(self, kind, inputs, name, **attributes):
        """Add a node; return its output, which has the node's name. Arrays become constants."""
        names = [
            value if isinstance(value, str) else self.constant(value, f"{name}/{number}")
            for number, value in enumerate(inputs)
        ]
        self.nodes.append(self._helper.make_node(kind, names, [name], name, **attributes))
        return name

    def constant(self, array, name):
        """Add an array; return its name, by which any node may take it."""
        self.constants.append(self._numpy.from_array(np.array(array, order="C"), name))
        return name

    def conv(self, x, layer, stride=1, pads=None):
        """Convolve with the weights of a layer, padded by half its size unless `pads` are given."""
        kernel = self.arrays[f"{layer}/kernel"].transpose(3, 2, 0, 1)
        inputs = [x, kernel]
        if f"{layer}/bias" in self.arrays:
            inputs.append(self.arrays[f"{layer}/bias"])
        pads = pads or [kernel.shape[-1] // 2] * 4
        return self.add("Conv", inputs, layer, strides=[stride] * 2, pads=pads)

    def norm(self, x, layer):
        """Normalise with the moving mean and variance of a layer."""
        parts = [
            self.arrays.get(f"{layer}/{part}")
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        ]
        if parts[0] is None:  # bn_data has no scale
            parts[0] = np.ones_like(parts[1])
        return self.add("BatchNormalization", [x, *parts], layer, epsilon=backbone.NORM["epsilon"])

    def norm_relu(self, x, layer):
        return self.add("Relu", [self.norm(x, layer)], f"{layer}_relu")

    def dense(self, x, layer):
        product = self.add("MatMul", [x, self.arrays[f"{layer}/kernel"]], f"{layer}_product")
        return self.add("Add", [product, self.arrays[f"{layer}/bias"]], layer)


def _network(graph, modules):
    """Add the whole net; return its output. modules: {"lhc1": LHC layer, ...}, or none."""

    def after_stage(x, stage):
        layer = modules.get(f"lhc{stage + 1}")
        return _lhc(graph, x, layer) if layer else x

    x = graph.add("Transpose", ["image"], "channels_first", perm=[0, 3, 1, 2])
    x = graph.conv(graph.norm(x, "bn_data"), "conv0", stride=2)
    # The zeros that Keras pads with are no larger than any of these maps' values.
    size, pads = [3, 3], [1, 1, 1, 1]
    x = graph.norm_relu(x, "bn0")
    x = graph.add("MaxPool", [x], "pooling0", kernel_shape=size, strides=[2, 2], pads=pads)
    x = after_stage(x, 0)
    for stage, units in enumerate(backbone.UNITS, start=1):
        for number in range(1, units + 1):
            x = _unit(graph, x, f"stage{stage}_unit{number}", 2 if number == 1 < stage else 1)
        x = after_stage(x, stage)
    x = graph.norm_relu(x, "bn1")
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x], "pool")], "features")
    for layer in ("fc1", "fc2"):
        x = graph.add("Relu", [graph.dense(x, layer)], f"{layer}_relu")
    return graph.add("Softmax", [graph.dense(x, "fc3")], "probabilities", axis=1)


def _unit(graph, x, name, stride):
    active = graph.norm_relu(x, f"{name}_bn1")
    shortcut = x
    if f"{name}_sc/kernel" in graph.arrays:
        shortcut = graph.conv(active, f"{name}_sc", stride)
    y = graph.conv(active, f"{name}_conv1", stride)
    y = graph.conv(graph.norm_relu(y, f"{name}_bn2"), f"{name}_conv2")
    return graph.add("Add", [y, shortcut], f"{name}_add")


def _lhc(graph, x, layer):
    """Add an LHC module: (B, C, H, W) -> the same shape; see src/lhc.py for the formula."""
    name, (height, width, channels) = layer.name, layer.map_shape
    heads, length = layer.num_heads, height * width // layer.num_heads
    cut = np.array([0, channels, heads, length], np.int64)  # 0: as it is, the batch

    def slices(x, part):
        """(B, C, H, W) -> (B, heads, C, l)."""
        x = graph.add("Reshape", [x, cut], f"{name}/{part}_cut")
        return graph.add("Transpose", [x], f"{name}/{part}_slices", perm=[0, 2, 1, 3])

    def pool(x, kind, size, part, **attributes):
        return graph.add(
            kind, [x], f"{name}/{part}", kernel_shape=[size] * 2, pads=_same(size), **attributes
        )

    def average(x, size, part):
        return pool(x, "AveragePool", size, part, count_include_pad=0)

    def of_heads(leaf):
        return np.stack([graph.arrays[f"{name}/query_key_{head}/{leaf}"] for head in range(heads)])

    kernels = graph.constant(of_heads("kernel"), f"{name}/kernels")  # (heads, l, d)
    biases = graph.constant(of_heads("bias")[:, None], f"{name}/biases")  # (heads, 1, d)

    def embed(x, part):
        """(B, C, H, W) -> (B, heads, C, d)."""
        product = graph.add("MatMul", [slices(x, part), kernels], f"{name}/{part}_dense")
        return graph.add("Add", [product, biases], f"{name}/{part}_embedded")

    query = embed(average(x, layer.pool_size, "query_pool"), "query")
    key = embed(pool(x, "MaxPool", layer.pool_size, "key_pool"), "key")
    key = graph.add("Transpose", [key], f"{name}/key_transposed", perm=[0, 1, 3, 2])
    scores = graph.add("MatMul", [query, key], f"{name}/scores")  # (B, heads, C, C)
    means = graph.add("ReduceMean", [scores], f"{name}/means", axes=[3], keepdims=0)
    temperature = graph.dense(means, f"{name}/temperature")
    temperature = graph.add("Sigmoid", [temperature], f"{name}/temperature_sigmoid")
    exponent = graph.add("Add", [temperature, np.float32(layer.norm_c)], f"{name}/exponent")
    divisor = graph.add("Pow", [np.float32(layer.att_embed_dim), exponent], f"{name}/divisor")
    divisor = graph.add("Unsqueeze", [divisor, np.array([3], np.int64)], f"{name}/divisors")
    normed = graph.add("Div", [scores, divisor], f"{name}/normed_scores")
    attention = graph.add("Softmax", [normed], f"{name}/attention", axis=3)
    value = graph.conv(x, f"{name}/value", pads=_same(layer.kernel_size))
    value = slices(average(value, 3, "value_pool"), "value")
    y = graph.add("MatMul", [attention, value], f"{name}/attended")  # (B, heads, C, l)
    y = graph.add("Transpose", [y], f"{name}/attended_cut", perm=[0, 2, 1, 3])
    whole = np.array([0, channels, height, width], np.int64)
    y = graph.add("Reshape", [y, whole], f"{name}/attended_map")
    if layer.controller is not None:
        gain = np.float32(1 + np.tanh(graph.arrays[f"{name}/w"]))
        y = graph.add("Mul", [y, gain], f"{name}/controlled")
    return graph.add("Add", [x, y], f"{name}/output")


def _same(size):
    """Return the pads of windows that keep H and W, as Keras has them."""
    before, after = (size - 1) // 2, size // 2
    return [before, before, after, after]
