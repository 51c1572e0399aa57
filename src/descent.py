"""The steps of a stage: how the gradient of a batch becomes new weights.

The paper's stages take plain Adam or SGD (REFERENCE.md section 6). A stage of the settings may ask
for more, each part by keys of its own, all off by default:

* schedule, warmup_epochs: how the learning rate changes from step to step;
* momentum, nesterov, weight_decay: of SGD; kernels decay, norms and biases do not;
* sharpness: sharpness-aware minimisation (SAM, arXiv 2010.01412), two gradients a step;
* ema: a moving average of the weights and BatchNorm statistics, which is then judged and kept;
* label_smoothing, distillation (src/distillation.py): softer targets.
"""

import contextlib
import math

from src import backend as B
from src import distillation
from src.backend import keras
from src.settings import PLAIN_STEPS


def is_plain(stage):
    """Return whether the steps of a stage are the paper's."""
    return all(stage[key] == value for key, value in PLAIN_STEPS.items())


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises along a line for `warmup` steps, then stays or falls to 0.

    kind: "constant", or "cosine", half a period of it until step `total`.
    """

    def __init__(self, rate, kind, warmup, total):
        self.rate, self.kind, self.warmup, self.total = rate, kind, warmup, total

    def __call__(self, step):
        step = B.cast(step, "float32")
        rate = self.rate * B.minimum((step + 1) / max(self.warmup, 1), 1.0)
        if self.kind == "cosine":
            done = (step - self.warmup) / max(self.total - self.warmup, 1)
            done = B.minimum(B.maximum(done, 0.0), 1.0)
            rate = rate * 0.5 * (1 + B.cos(math.pi * done))
        return rate

    def get_config(self):
        return {name: getattr(self, name) for name in ("rate", "kind", "warmup", "total")}


class Descent:
    """What a stage adds to an optimizer, which is the other base class.

    net: its weights are those that are averaged.
    """

    climbing = False  # for the first of the two gradients of a sharpness-aware step

    def __init__(self, net, stage, **kwargs):
        super().__init__(**kwargs)
        self.kernel_decay, self.sharpness, self.ema = (
            stage[key] for key in ("weight_decay", "sharpness", "ema")
        )
        # A function, since Keras takes all variables in an optimizer's attributes for its own.
        self.net_weights = lambda: net.weights if self.ema else []

    def build(self, variables):
        super().build(variables)
        sharp = variables if self.sharpness else []
        self.kept = [self.add_variable_like(variable, "kept") for variable in sharp]
        self.averages = [self.add_variable_like(w, "average") for w in self.net_weights()]

    def apply(self, gradients, variables=None, **kwargs):
        variables = self._trainable_variables if variables is None else list(variables)
        if self.climbing:
            return self._climb(gradients, variables)
        for variable, kept in zip(variables, self.kept):
            variable.assign(kept)
        if self.kernel_decay:
            gradients = [
                gradient + self.kernel_decay * B.convert(variable)
                if _is_kernel(variable)
                else gradient
                for gradient, variable in zip(gradients, variables)
            ]
        return super().apply(gradients, variables, **kwargs)

    def _climb(self, gradients, variables):
        """Go up the gradient as far as `sharpness` says, where the second one is taken."""
        length = B.sqrt(sum(B.sum(gradient * gradient) for gradient in gradients))
        for gradient, variable, kept in zip(gradients, variables, self.kept):
            kept.assign(variable)
            variable.assign_add(gradient * (self.sharpness / (length + 1e-12)))

    def average(self):
        """Move the averages towards the weights, at first further, since they start anywhere."""
        steps = B.cast(self.iterations, "float32")
        share = 1 - B.minimum((1 + steps) / (10 + steps), self.ema)
        for weight, average in zip(self.net_weights(), self.averages):
            weight, found = (B.stop_gradient(B.convert(part)) for part in (weight, average))
            average.assign(found + share * (weight - found))


class DescentAdam(Descent, B.Adam):
    """Adam for stages that ask for more."""


class DescentSGD(Descent, B.SGD):
    """SGD for stages that ask for more."""


class Trainer(keras.Model):
    """A model whose steps are those of its optimizer, if that is a Descent, kept in `descent`."""

    descent = None

    def train_step(self, *args):
        """Keras' own, (data) -> logs or on JAX (state, data) -> (logs, state), twice if sharp."""
        if self.descent is None:
            return super().train_step(*args)
        if self.descent.sharpness:
            self.descent.climbing = True
            try:
                args = B.repeat_step(super().train_step(*args), args)
            finally:
                self.descent.climbing = False
        return B.after_step(self, super().train_step(*args), self.descent.average)


def schedule(stage, steps):
    """Return the Schedule of a stage with so many steps an epoch."""
    warmup = round(stage["warmup_epochs"] * steps)
    return Schedule(stage["learning_rate"], stage["schedule"], warmup, stage["epochs"] * steps)


def compile_model(model, net, stage, steps, steps_per_execution=1, xla=False):
    """Give `model`, a Trainer or for a plain stage any other, the optimizer and loss of a stage.

    net: the net in the model. steps: those of an epoch.
    """
    if is_plain(stage):
        optimizer, rate = stage["optimizer"], stage["learning_rate"]
        return B.compile_model(model, optimizer, rate, steps_per_execution, xla)
    rate = schedule(stage, steps)
    if stage["optimizer"] == "adam":
        model.descent = DescentAdam(net, stage, learning_rate=rate)
    else:
        momentum = float(stage["momentum"])
        model.descent = DescentSGD(
            net, stage, learning_rate=rate, momentum=momentum, nesterov=stage["nesterov"]
        )
    loss, accuracy = distillation.loss_and_accuracy(stage)
    return B.compile_model(
        model, model.descent, None, steps_per_execution, xla, loss=loss, accuracy=accuracy
    )


@contextlib.contextmanager
def averaged(model):
    """Let the net of a compiled model have its averaged weights, if it has any, for a while."""
    descent = getattr(model, "descent", None)
    if not (descent and descent.ema):
        yield
        return
    own = _copies(descent.net_weights())
    _assign(descent.net_weights(), _copies(descent.averages))
    try:
        yield
    finally:
        _assign(descent.net_weights(), own)


def averages_in_state(model, net):
    """Return {name of a weight: name of its average} in the `backend.training_state` of both."""
    descent = getattr(model, "descent", None)
    if not (descent and descent.ema):
        return {}
    names = B.names_in_state(net, model)
    pairs = zip(descent.net_weights(), descent.averages)
    return {names[id(weight)]: names[id(average)] for weight, average in pairs}


def judged(arrays, averages):
    """Return a training state with the averages in the place of the weights."""
    return {**arrays, **{weight: arrays[average] for weight, average in averages.items()}}


def _copies(variables):
    """Return the values as tensors; on JAX, what runs the net may use up a variable's own."""
    return [B.stop_gradient(B.copy(B.convert(variable))) for variable in variables]


def _assign(variables, tensors):
    for variable, tensor in zip(variables, tensors):
        variable.assign(tensor)


def _is_kernel(variable):
    return variable.name.split("/")[-1].split(":")[0] == "kernel"
