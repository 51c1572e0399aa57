"""The Keras generation in use, and the few tensor operations the nets need.

This is the only module that knows whether Keras 3 (TensorFlow, JAX or PyTorch below it) or the
Keras 2.4 inside TensorFlow 2.4 is running. Everyone else imports `keras` and the operations from
here. Shapes follow NumPy's conventions; images are channels-last.
"""

import contextlib
import functools
import importlib.util
import os
import random
import sys
from types import SimpleNamespace

import numpy as np

from src import streams
from src.errors import UserError, shown

BACKENDS = ("tensorflow", "jax", "torch")

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_OUTSIDE = ("KERAS_HOME", "KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")


def _check_choice():
    """Raise UserError where Keras would start with a backend that there is none of."""
    name = os.environ.get("KERAS_BACKEND") or BACKENDS[0]
    if name not in BACKENDS:
        raise UserError(f"KERAS_BACKEND: found {shown(name)}, allowed: {', '.join(BACKENDS)}")
    if importlib.util.find_spec(name) is None:
        raise UserError(
            f"KERAS_BACKEND: {name} is not installed: docs/stacks.md has the line that brings it, "
            f"or choose another of {', '.join(BACKENDS)}"
        )


# A keras.json left in somebody's home, or a limit left in a shell, would change nets and training:
# Keras finds none while it starts. In a program that started Keras before, its choices stand.
_hidden = {name: os.environ.pop(name, None) for name in _OUTSIDE}
os.environ["KERAS_HOME"] = os.devnull

if sys.version_info >= (3, 9):
    _check_choice()
    with streams.without_starting_lines():
        import keras
        from keras import ops

    GENERATION = 3
    NAME = keras.backend.backend()
else:  # the paper's Python 3.8 has TensorFlow 2.4.1, whose Keras lives inside it
    import tensorflow as ops
    from tensorflow import keras

    GENERATION = 2
    NAME = "tensorflow"

JOINS_CLUSTERS = GENERATION == 2  # Keras 3 on TensorFlow trains in one process only
WRITES_LITERT = GENERATION == 3  # TensorFlow 2.4's converter wants batches of a fixed size

del os.environ["KERAS_HOME"]
os.environ.update({name: value for name, value in _hidden.items() if value is not None})


def _either(keras3, tensorflow2):
    """Return the operation of the generation that runs, looked up by dotted name."""
    target = ops
    for part in (keras3 if GENERATION == 3 else tensorflow2).split("."):
        target = getattr(target, part)
    return target


matmul = _either("matmul", "matmul")
transpose = _either("transpose", "transpose")
reshape = _either("reshape", "reshape")
stack = _either("stack", "stack")
mean = _either("mean", "reduce_mean")
sum = _either("sum", "reduce_sum")
power = _either("power", "pow")
softmax = _either("softmax", "nn.softmax")
tanh = _either("tanh", "tanh")
take = _either("take", "gather")
cast = _either("cast", "cast")
convert = _either("convert_to_tensor", "convert_to_tensor")
broadcast_to = _either("broadcast_to", "broadcast_to")
floor = _either("floor", "floor")
sqrt = _either("sqrt", "sqrt")
cos = _either("cos", "cos")
copy = _either("copy", "identity")
arange = _either("arange", "range")
minimum = _either("minimum", "minimum")
maximum = _either("maximum", "maximum")
where = _either("where", "where")
pad = _either("pad", "pad")
einsum = _either("einsum", "einsum")
rsqrt = _either("rsqrt", "math.rsqrt")
zeros_like = _either("zeros_like", "zeros_like")
ones_like = _either("ones_like", "ones_like")
relu = _either("relu", "nn.relu")
stop_gradient = _either("stop_gradient", "stop_gradient")
take_along_axis = _either("take_along_axis", "gather")
if GENERATION == 2:
    take_along_axis = functools.partial(take_along_axis, batch_dims=1)
_flip = _either("flip", "reverse")
_conv = _either("conv", "nn.conv2d")
_max_pool = _either("max_pool", "nn.max_pool2d")
_average_pool = _either("average_pool", "nn.avg_pool2d")


def flip(x, axis):
    """Return x with the order along one axis reversed."""
    return _flip(x, [axis])


class _SyncBatchNormalization(
    keras.layers.experimental.SyncBatchNormalization if GENERATION == 2 else object
):
    """Keras 2.4's for several devices, whose moving variance is that of its other one.

    That one, which TensorFlow fuses, keeps the estimate for the population: n / (n - 1) times the
    batch's own.
    """

    def call(self, inputs, training=None):
        replicas = ops.distribute.get_strategy().num_replicas_in_sync
        count = ops.cast(ops.size(inputs) // inputs.shape[-1] * replicas, "float32")
        self._share = count / (count - 1)
        return super().call(inputs, training=training)

    def _assign_moving_average(self, variable, value, momentum, inputs_size):
        if variable is self.moving_variance:
            value = value * self._share
        return super()._assign_moving_average(variable, value, momentum, inputs_size)


class _AveragePooling2D(keras.layers.AveragePooling2D):
    """Keras' averages on PyTorch count pixels that only pad windows of an even size; not these."""

    def call(self, x):
        sides = [((size - 1) // 2, size // 2) for size in self.pool_size]
        pads = [(0, 0), *sides, (0, 0)]
        inside = ops.pad(ops.ones_like(x[:1, :, :, :1]), pads)
        sums, shares = (
            ops.average_pool(part, self.pool_size, 1, data_format="channels_last")
            for part in (ops.pad(x, pads), inside)
        )
        return sums / shares


def AveragePooling2D(pool_size, **kwargs):  # noqa: N802 - stands for a class
    """Return Keras' average pool at stride 1, "same", of the pixels that exist."""
    even = pool_size % 2 == 0
    kind = _AveragePooling2D if NAME == "torch" and even else keras.layers.AveragePooling2D
    return kind(pool_size, **kwargs)


class _Dropout(keras.layers.Dropout):
    """Keras 2.4's dropout, the same numbers from a generator whose state can be kept.

    Keras leaves them to an operation that hides its generator. This one starts from the same two
    seeds at each tracing of a step, moves on as that one does, and lies in a variable.
    """

    def build(self, input_shape):
        with ops.init_scope():
            # In a namespace of its own: it is no weight of the layer.
            variable = ops.Variable([0, 0, 0], dtype="int64", trainable=False)
        self.generator = SimpleNamespace(state=variable, start=None)
        self._track_trackable(variable, "generator_state")
        super().build(input_shape)

    def call(self, x, training=None):
        from tensorflow.python.keras.utils import control_flow_util

        training = keras.backend.learning_phase() if training is None else training
        return control_flow_util.smart_cond(
            training, lambda: self._drop(x), lambda: ops.identity(x)
        )

    def _drop(self, x):
        from tensorflow.python.framework import random_seed
        from tensorflow.python.ops import gen_stateful_random_ops

        graph_seed, seed = random_seed.get_seed(None)
        start = self.generator.start
        with ops.init_scope():  # when the step is traced, not in it; TensorFlow may trace it twice
            self.generator.state.assign([0, seed, graph_seed] if start is None else start)
        philox = 1
        drawn = gen_stateful_random_ops.stateful_uniform(
            self.generator.state.handle, philox, ops.shape(x), x.dtype
        )
        return x * (1 / (1 - self.rate)) * ops.cast(drawn >= self.rate, x.dtype)


Dropout = keras.layers.Dropout if GENERATION == 3 else _Dropout


def batch_normalization(**kwargs):
    """Return Keras' batch normalisation, over the batches of all of a strategy's devices together.

    JAX takes the statistics over the whole batch anyway.
    """
    layers = keras.layers
    if NAME != "tensorflow":
        return layers.BatchNormalization(**kwargs)
    import tensorflow

    shared = tensorflow.distribute.has_strategy()
    if GENERATION == 3:
        return layers.BatchNormalization(synchronized=shared, **kwargs)
    kind = _SyncBatchNormalization if shared else layers.BatchNormalization
    return kind(**kwargs)


def conv(x, kernel, padding="valid", strides=1):
    """(B, H, W, C), (h, w, C, filters) -> (B, H', W', filters). "same": at stride 1."""
    if NAME == "torch":
        # (h, w, C, filters) -> (filters, C, h, w)
        return _by_torch(
            "conv2d", x, convert(kernel).permute(3, 2, 0, 1), padding=padding, stride=strides
        )
    if GENERATION == 2:
        return _conv(x, kernel, strides=strides, padding=padding.upper())
    return _conv(x, kernel, strides=strides, padding=padding, data_format="channels_last")


def max_pool(x, size, strides):
    """(B, H, W, C) -> (B, H', W', C): the maxima of the windows of size x size pixels within x."""
    if NAME == "torch":
        return _by_torch("max_pool2d", x, size, strides)
    if GENERATION == 2:
        return _max_pool(x, size, strides, "VALID")
    return _max_pool(x, size, strides, "valid", data_format="channels_last")


def average_pool(x, size):
    """(B, H, W, C) -> the same shape: the means of the pixels that exist, of size x size ones.

    size: odd.
    """
    if NAME == "torch":
        return _by_torch("avg_pool2d", x, size, 1, size // 2, count_include_pad=False)
    if GENERATION == 2:
        return _average_pool(x, size, 1, "SAME")
    return _average_pool(x, size, 1, "same", data_format="channels_last")


def _by_torch(name, x, *args, **kwargs):
    """Return what PyTorch's function makes of x (B, H, W, C), in the same order of axes.

    Keras' operations copy maps into another order in memory and back.
    """
    from torch.nn import functional

    # (B, H, W, C) -> (B, C, H, W) and back, which moves nothing in memory
    return getattr(functional, name)(x.permute(0, 3, 1, 2), *args, **kwargs).permute(0, 2, 3, 1)


class _Conv2D(keras.layers.Conv2D):
    """Keras' for PyTorch, by `conv`."""

    def convolution_op(self, inputs, kernel):
        return conv(inputs, kernel, self.padding, self.strides)


Conv2D = _Conv2D if NAME == "torch" else keras.layers.Conv2D


def batch_norm(x, gamma, beta, epsilon):
    """Return (y, mean, variance): x (B, H, W, C) as TensorFlow or PyTorch normalises it itself.

    gamma, beta, mean, variance: (C,). The moments are those of the batch; no gradient goes back
    through them but that of y.
    """
    if NAME == "torch":
        import torch

        # (B, H, W, C) -> (B, C, H, W), as in `_by_torch`
        y, mean, inverse = torch.native_batch_norm(
            x.permute(0, 3, 1, 2), gamma, beta, None, None, True, 0.0, epsilon
        )
        return y.permute(0, 2, 3, 1), mean.detach(), inverse.detach() ** -2 - epsilon
    import tensorflow

    y, mean, variance = tensorflow.compat.v1.nn.fused_batch_norm(
        x, gamma, beta, epsilon=epsilon, is_training=True
    )
    rows = cast(tensorflow.size(x) // x.shape[-1], "float32")
    # TensorFlow gives the estimate for the population: n / (n - 1) times the batch's own.
    return y, stop_gradient(mean), stop_gradient(variance) * ((rows - 1) / rows)


def custom_gradient(function):
    """Let function(*x) -> (y, gradient), gradient(dy) -> dx, take part in differentiation."""

    def wrapped(*x):
        y, gradient = function(*x)
        # PyTorch's way is to pass x again and dy by name.
        return y, lambda *args, upstream=None: gradient(args[0] if upstream is None else upstream)

    return ops.custom_gradient(wrapped)


@functools.lru_cache(maxsize=None)
def kernel_capability():
    """Return the compute capability of the Nvidia GPU on which JAX runs Pallas' kernels, or 0."""
    if NAME != "jax":
        return 0
    import jax

    device = jax.devices()[0]
    return float(device.compute_capability) if "NVIDIA" in device.device_kind else 0


@functools.lru_cache(maxsize=None)
def has_gpu():
    """Return whether the framework computes on a GPU, or another accelerator."""
    if NAME == "jax":
        import jax

        return jax.devices()[0].platform != "cpu"
    if NAME == "torch":
        return keras.src.backend.torch.core.DEFAULT_DEVICE != "cpu"  # get_device tells "meta" too
    import tensorflow

    return bool(tensorflow.config.list_physical_devices("GPU"))


def materialise(tensors):
    """Return the tensor or tensors, in memory before anything is made of them.

    A compiler would otherwise compute a tensor anew for each use, or use one before the others.
    """
    if NAME == "jax":
        import jax

        return jax.lax.optimization_barrier(tensors)
    return tensors


def to_numpy(tensor):
    """Return a tensor of any backend as a NumPy array."""
    # A strategy's variable, which TensorFlow 2.4 has on each device, is an array once it is read.
    return ops.convert_to_numpy(tensor) if GENERATION == 3 else np.asarray(convert(tensor))


def tensorflow_variables(model):
    """Return the variables of a model on TensorFlow as TensorFlow knows them."""
    return [variable.value if GENERATION == 3 else variable for variable in model.weights]


def predictor(model):
    """Return run(inputs) -> `model.predict_on_batch(inputs)`.

    On JAX the result, a tensor, comes back while the device still computes it. Freeze layers first.
    """
    if NAME != "jax":
        return model.predict_on_batch
    import jax

    groups = model.trainable_variables, model.non_trainable_variables

    @jax.jit
    def step(values, inputs):
        return model.stateless_call(*values, inputs, training=False)[0]

    # Read anew each time: training, and Keras' own predict, replace the arrays of the variables.
    return lambda inputs: step([[variable.value for variable in part] for part in groups], inputs)


def map_gradients(model, layers, head, score):
    """Return a function that tells what `layers` of a model make of images, and how it counts.

    It takes images (B, H, W, 3) and returns NumPy arrays: [map that each layer gets], [map that it
    makes], [d score / d that one]. score: function that makes a scalar of what the layer `head`
    gets. Raises UserError on PyTorch.
    """
    before, after = ([getattr(layer, end) for layer in layers] for end in ("input", "output"))
    tapped = keras.Model(model.input, [*before, *after, head.input])
    if NAME == "tensorflow":
        import tensorflow

        def maps_and_gradients(images):
            images = convert(images)
            with tensorflow.GradientTape() as tape:
                tape.watch(images)  # where layers are frozen, their variables watch nothing
                *maps, last = tapped(images, training=False)
                value = score(last)
            made = maps[len(layers) :]
            return maps, tape.gradient(value, made)

    elif NAME == "jax":
        import jax

        run = predictor(tapped)
        ends = [keras.Model(end, head.input) for end in after]
        steps = [jax.grad(lambda x, end=end: score(end(x, training=False))) for end in ends]

        def maps_and_gradients(images):
            *maps, _ = run(images)
            return maps, [step(made) for step, made in zip(steps, maps[len(layers) :])]

    else:
        raise UserError(
            "gradients of maps need TensorFlow or JAX, found PyTorch: see KERAS_BACKEND"
        )

    def told(images):
        maps, gradients = maps_and_gradients(images)
        maps = list(map(to_numpy, maps))
        return maps[: len(layers)], maps[len(layers) :], list(map(to_numpy, gradients))

    return told


def keep_python_random(build):
    """Leave Python's global generator as `build` found it.

    Keras 3 draws the seeds of its initialisers and dropout layers from there; the original's order
    of batches comes from there too, and must be the same on every stack.
    """

    @functools.wraps(build)
    def wrapped(*args, **kwargs):
        state = random.getstate()
        try:
            return build(*args, **kwargs)
        finally:
            random.setstate(state)

    return wrapped


def build(layer, input_shape):
    """Build a layer that another one consists of: its variables bear its name on both stacks.

    Keras' HDF5 files want the names of a layer's variables to differ.
    """
    if GENERATION == 3:
        layer.build(input_shape)
    else:
        with ops.name_scope(layer.name):
            layer.build(input_shape)


def stored_precision():
    """Return a context in which variables are read as they are stored, whatever the policy."""
    if GENERATION == 3:
        return keras.src.backend.AutocastScope(None)
    from tensorflow.python.keras.mixed_precision import autocast_variable

    return autocast_variable.enable_auto_cast_variables(None)


def set_seeds(tensorflow, python, numpy):
    """Seed the backend's generator, Python's and NumPy's."""
    if GENERATION == 2:
        ops.random.set_seed(tensorflow)
    elif NAME == "tensorflow":
        with streams.without_starting_lines():
            keras.utils.set_random_seed(tensorflow)
    else:
        _set_keras_seed(tensorflow)
    random.seed(python)
    np.random.seed(numpy)


def _set_keras_seed(seed):
    """Do what `keras.utils.set_random_seed` does, but for importing TensorFlow: it takes seconds.

    Python's and NumPy's generators stay as they are.
    """
    from keras.src.backend.common import global_state
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
    from keras.src.utils.rng_utils import GLOBAL_RANDOM_SEED

    global_state.set_global_attribute(GLOBAL_RANDOM_SEED, seed)
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)  # made anew from the seed
    if NAME == "torch":
        import torch

        torch.manual_seed(seed)


def random_state():
    """Return the states of the global generators, in JSON's types: Python's, NumPy's, PyTorch's."""
    kind, keys, *rest = np.random.get_state()
    state = {"python": random.getstate(), "numpy": [kind, keys.tolist(), *rest]}
    if NAME == "torch":  # Keras takes dropout's numbers from there
        import torch

        generators = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
        state["torch"] = [generator.tolist() for generator in generators]
    return state


def set_random_state(state):
    """Put back a `random_state`, as JSON has kept it.

    Raises ValueError, TypeError, LookupError or OverflowError for anything else.
    """
    if NAME == "torch":
        _set_torch_generators([np.array(numbers, np.uint8) for numbers in state["torch"]])
    version, numbers, gauss = state["python"]
    kind, keys, position, *rest = state["numpy"]
    if not 0 <= position <= len(keys):  # NumPy would read beyond the keys
        raise ValueError(f"found {position} as a generator's position")
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state((kind, keys, position, *rest))


def _set_torch_generators(states):
    """Put back the states of PyTorch's generators: the CPU's, and one of each GPU."""
    import torch

    own, *gpus = (torch.from_numpy(numbers) for numbers in states)
    if len(gpus) != torch.cuda.device_count():
        raise ValueError(f"found the generators of {len(gpus)} GPUs")
    try:
        torch.set_rng_state(own)
        torch.cuda.set_rng_state_all(gpus)
    except RuntimeError as error:  # another length, or numbers that no generator has
        raise ValueError(str(error)) from None


def set_deterministic():
    """Make two runs on one machine give the same bits. Call before the first operation."""
    os.environ["TF_DETERMINISTIC_OPS"] = "1"  # all that TensorFlow 2.4 reads
    if NAME == "jax":
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    elif NAME == "torch":
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    elif GENERATION == 3:
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()


def set_threads(count):
    """Limit the CPU threads of the backend. Call before the first operation."""
    if NAME == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(count)
        tensorflow.config.threading.set_inter_op_parallelism_threads(count)
    elif NAME == "torch":
        import torch

        torch.set_num_threads(count)


def set_precision(precision):
    """Choose "float32" (true float32 on GPUs too), "tf32", "bfloat16" or "float16" (both mixed)."""
    mixed = precision in ("bfloat16", "float16")
    keras.mixed_precision.set_global_policy(f"mixed_{precision}" if mixed else "float32")
    if NAME == "jax":
        import jax

        # JAX rounds float32 operands to TF32 on its own unless told not to.
        jax.config.update(
            "jax_default_matmul_precision", "float32" if precision == "float32" else "tensorfloat32"
        )
    elif NAME == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
        torch.backends.cudnn.allow_tf32 = precision != "float32"
    else:
        import tensorflow

        tensorflow.config.experimental.enable_tensor_float_32_execution(precision != "float32")


class _Optimizer2:
    """What Keras 3 calls its optimizers' methods, for a class before one of Keras 2.4's."""

    def build(self, variables):
        """Create the variables of the optimizer's own."""

    def apply(self, gradients, variables, **kwargs):
        return super().apply_gradients(zip(gradients, variables), **kwargs)

    def apply_gradients(self, grads_and_vars, name=None, **kwargs):
        gradients, variables = zip(*grads_and_vars)
        with ops.init_scope():
            self._create_all_weights(variables)
        return self.apply(gradients, variables, name=name, **kwargs)

    def _create_all_weights(self, variables):
        super()._create_all_weights(variables)
        if not getattr(self, "_is_built", False):
            self._is_built = True
            self.build(variables)

    def add_variable_like(self, variable, name):
        new = ops.Variable(variable, trainable=False, name=f"{variable.name.split(':')[0]}/{name}")
        self._weights.append(new)
        return new


class _Optimizer3:
    """What both generations' optimizers can be asked for."""

    def add_variable_like(self, variable, name):
        """Return a new variable of the optimizer with the value of another."""
        new = self.add_variable_from_reference(variable, name)
        new.assign(np.array(to_numpy(variable)))  # a copy: on JAX they would share the memory
        return new


_Optimizer = _Optimizer3 if GENERATION == 3 else _Optimizer2


class Adam(_Optimizer, keras.optimizers.Adam):
    """Keras' Adam, to derive from: `build(variables)` and `apply(gradients, variables)` are open.

    `add_variable_like(variable, name)` gives it variables that are kept with its state.
    """


class SGD(_Optimizer, keras.optimizers.SGD):
    """Keras' SGD, to derive from as from `Adam`."""


OPTIMIZERS = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}


def repeat_step(result, args):
    """Return the arguments of a `train_step` that follows one with `args` on the same batch."""
    return (result[1], args[1]) if NAME == "jax" else args


def after_step(model, result, update):
    """Return the `result` of a `train_step` after `update()`, which assigns to variables."""
    if NAME != "jax":
        update()
        return result
    logs, state = result  # on JAX a step is a function from a state to the next
    owners = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
    pairs = [pair for group, values in zip(owners, state) for pair in zip(group, values)]
    with keras.StatelessScope(state_mapping=pairs) as scope:
        update()
    groups = [[scope.get_current_value(variable) for variable in group] for group in owners]
    return logs, (*groups, state[3])


def trains_in_groups():
    """Return whether `train_group` is there, and faster than one call for each batch.

    Each call of JAX's hands over all arrays of the state, for each device. On a CPU that is little,
    and its compiler makes slower steps of those in a loop.
    """
    return NAME == "jax" and has_gpu()


def train_group(step, args, batch_size, shares):
    """Return what a `train_step` gives after all batches of a group, in one compiled call.

    args: as JAX's trainer passes them, (state, data), data's rows sorted by device (of `shares`),
    then by batch. One batch, or the rest of one, is a step like any other.
    """
    import jax

    state, data = args
    count = len(jax.tree.leaves(data)[0]) // batch_size
    if count < 2:
        return step(state, data)

    def batches(rows):
        # (shares * count * own, ...) -> (shares, count, own, ...) -> (count, shares * own, ...)
        rows = rows.reshape(shares, count, -1, *rows.shape[1:]).swapaxes(0, 1)
        return rows.reshape(count, -1, *rows.shape[3:])

    def next_state(state, batch):
        logs, state = step(state, batch)
        return state, logs

    state, logs = jax.lax.scan(next_state, state, jax.tree.map(batches, data))
    return {name: values[-1] for name, values in logs.items()}, state


def compile_model(
    model,
    optimizer,
    learning_rate=None,
    steps_per_execution=1,
    xla=False,
    loss="categorical_crossentropy",
    accuracy=None,
):
    """Give `model` a fresh optimizer, the loss and the metric (section 6).

    optimizer: "adam" or "sgd", with its learning_rate, or an optimizer. accuracy: None, or a
    function of that purpose named categorical_accuracy.
    """
    if isinstance(optimizer, str):
        optimizer = OPTIMIZERS[optimizer](learning_rate=float(learning_rate))
    plain = keras.metrics.CategoricalAccuracy() if GENERATION == 3 else "categorical_accuracy"
    if NAME == "torch":  # Keras knows single steps only there; they train the same
        steps_per_execution = 1
    # JAX has no other way to run a step than compiled by XLA.
    extra = {"jit_compile": xla or NAME == "jax"} if GENERATION == 3 else {}
    model.compile(
        optimizer,
        loss=loss,
        metrics=[accuracy or plain],
        steps_per_execution=steps_per_execution,
        **extra,
    )
    if GENERATION == 2:
        for layer in model._flatten_layers():
            if isinstance(layer, Dropout):
                layer.generator.start = None  # the next tracing starts anew
    elif NAME == "tensorflow":
        import tensorflow

        # TensorFlow 2.21's pass that removes superfluous dependencies also removes, in some
        # tracings of a step, one that is needed: gradients then see weights already updated.
        tensorflow.config.optimizer.set_experimental_options({"dependency_optimization": False})
        # Variables that are there already spare TensorFlow a second tracing of the step.
        model.optimizer.build(model.trainable_variables)


def fit_epoch(model, batches, steps):
    """Train on the `steps` batches (x, y) of a generator; return {"loss", "categorical_accuracy"}.

    A plain generator is taken as it comes on every stack: Keras looks at its first batches and
    puts them back, where with a Sequence it would draw some of them twice.
    """
    if NAME in ("jax", "torch") and model.optimizer is not None and not model.optimizer.built:
        # Keras would take the shapes from the generator and lose the batches it looked at.
        first = next(batches)
        model._symbolic_build(data_batch=first)
        batches = _chain(first, batches)
    with _own_errors(batches) as batches:
        stream = _stream(batches)
        history = model.fit(stream, steps_per_epoch=steps, shuffle=False, verbose=0).history
    return {name: values[0] for name, values in history.items()}


def after_steps(tell):
    """Return a callback of `fit` that calls tell(number of the epoch's steps that are done)."""
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: tell(step + 1))
    callback.async_safe = True  # Keras 3 asks for a step's numbers elsewhere, and trains on
    return callback


def _stream(batches):
    """Return the generator in the form in which Keras takes it without getting in its way.

    Around a plain generator Keras puts a data set of TensorFlow's that tunes itself, and whose
    tuning holds up the end of many epochs by a third of the epoch.
    """
    if NAME != "tensorflow" or GENERATION == 2:
        return batches
    import tensorflow

    first = next(batches)
    runs = [_chain(first, batches)]
    if tensorflow.distribute.has_strategy():
        runs.insert(0, [first])  # Keras looks at a batch, and then starts over
    runs = iter(runs)
    dataset = tensorflow.data.Dataset.from_generator(
        lambda: next(runs),
        output_signature=tuple(
            tensorflow.TensorSpec((None, *array.shape[1:]), array.dtype) for array in first
        ),
    )
    options = tensorflow.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(1).with_options(options)


def _chain(first, rest):
    yield first
    yield from rest


def training_state(model, trained):
    """Return {name: array} of all that training changes: layers, random generators, optimizer.

    model: the net; trained: the compiled model around it, or itself. Training on leaves the arrays
    as they are. On JAX they are still on the device; NumPy fetches them in any thread.
    """
    return {name: _kept(variable) for name, variable in _state_variables(model, trained).items()}


def names_in_state(model, trained=None):
    """Return {id of a variable: its name in a `training_state`}; without `trained`, the layers'."""
    named = _state_variables(model, trained)
    return {id(variable): name for name, variable in named.items()}


def _kept(variable):
    # What several machines share, all of their processes have to read, and at once.
    if NAME == "jax" and variable.value.is_fully_addressable:
        return copy(variable.value)
    return np.array(to_numpy(variable))


def _state_variables(model, trained):
    optimizer = [] if trained is None else _optimizer_variables(trained)
    groups = {"layer": _layer_variables(model), "optimizer": optimizer}
    return {
        f"{kind}_{number}": variable
        for kind, variables in groups.items()
        for number, variable in enumerate(variables)
    }


def set_training_state(model, trained, arrays, example):
    """Put back a `training_state`; `trained` is compiled and has not trained yet.

    example: a batch (x, y) of the shapes that it will train on. Raises ValueError for arrays that
    are not those of this model.
    """
    if GENERATION == 2:
        trained.optimizer._create_all_weights(trained.trainable_variables)
    else:
        trained._symbolic_build(data_batch=example)
    set_layer_state(model, arrays)
    _assign(_optimizer_variables(trained), arrays, "optimizer")


def set_layer_state(model, arrays):
    """Put back what a `training_state` holds of the layers; ValueError if that is not theirs."""
    _assign(_layer_variables(model), arrays, "layer")
    for layer in model.layers:
        if GENERATION == 2 and isinstance(layer, Dropout):
            layer.generator.start = to_numpy(layer.generator.state)


def _assign(variables, arrays, kind):
    for number, variable in enumerate(variables):
        name = f"{kind}_{number}"
        found, expected = arrays.get(name), to_numpy(variable)
        if found is None or (found.shape, found.dtype) != (expected.shape, expected.dtype):
            raise ValueError(f"found another shape or type of {name} than this network has")
        variable.assign(np.array(found))  # a copy: on JAX, training uses up what is a variable's


def _layer_variables(model):
    if GENERATION == 3:
        return [variable for layer in model.layers for variable in layer.variables]
    dropouts = [layer for layer in model.layers if isinstance(layer, Dropout)]
    return [*model.weights, *(layer.generator.state for layer in dropouts)]


def _optimizer_variables(model):
    return model.optimizer.weights if GENERATION == 2 else model.optimizer.variables


def evaluate(model, batches, steps):
    """Return {"loss", "categorical_accuracy"} over the `steps` batches of a generator."""
    with _own_errors(batches) as batches:
        return model.evaluate(_stream(batches), steps=steps, verbose=0, return_dict=True)


@contextlib.contextmanager
def _own_errors(batches):
    """Yield the batches; what they raise inside TensorFlow's input pipeline comes out as it was."""
    raised = []

    def watched():
        try:
            yield from batches
        except Exception as error:
            raised.append(error)
            raise

    try:
        yield watched()
    except Exception:
        if raised:
            raise raised[0] from None
        raise


def versions():
    """Return the versions of everything that has a part in the numbers, and the devices."""
    found = {"python": sys.version.split()[0], "backend": NAME, "numpy": np.__version__}
    found["keras"] = keras.__version__
    if NAME == "tensorflow":
        import tensorflow

        found["tensorflow"] = tensorflow.__version__
        build = tensorflow.sysconfig.get_build_info()
        found["cuda"] = build.get("cuda_version")
        found["cudnn"] = build.get("cudnn_version")
        gpus = tensorflow.config.list_physical_devices("GPU")
        details = tensorflow.config.experimental.get_device_details
        found["gpus"] = [details(gpu).get("device_name", gpu.name) for gpu in gpus]
    elif NAME == "jax":
        import jax

        found["jax"] = jax.__version__
        gpus = [device for device in jax.devices() if device.platform != "cpu"]
        found["gpus"] = [device.device_kind for device in gpus]
    else:
        import torch

        found["torch"] = torch.__version__
        found["cuda"] = torch.version.cuda
        found["cudnn"] = str(torch.backends.cudnn.version() or "") or None
        count = torch.cuda.device_count()
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(count)]
    return found
