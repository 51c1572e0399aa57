"""The three networks of the paper: ResNet34v2, LHC-Net and LHC-NetC."""

import numpy as np

from src import backbone
from src.backend import Dropout, keep_python_random, keras
from src.fast.lhc import FastLHC
from src.fast.parts import FAST
from src.lhc import LHC

layers = keras.layers

# What a net is made of: the original's order of operations, or the same mathematics faster.
PARTS = {"reference": backbone.REFERENCE, "fast": FAST}
ATTENTION = {"reference": LHC, "fast": FastLHC}


def classification_head(x, seeds):
    """Features (B, h, w, 512) -> probabilities (B, 7); `seeds` of the first two Dense kernels."""
    x = layers.GlobalAveragePooling2D(name="pool", data_format="channels_last")(x)
    for number, (units, seed) in enumerate(zip((4096, 1024), seeds), start=1):
        x = layers.Dense(
            units,
            activation="relu",
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
            name=f"fc{number}",
        )(x)
        x = Dropout(0.4, name=f"dropout{number}")(x)
    # Probabilities in float32 whatever the policy.
    return layers.Dense(7, activation="softmax", name="fc3", dtype="float32")(x)


@keep_python_random
def resnet34(size, numerics="reference"):
    """ResNet34v2 with the classification head: (B, size, size, 3) -> (B, 7)."""
    image = layers.Input((size, size, 3), name="image")
    features = backbone.features(image, parts=PARTS[numerics])
    probabilities = classification_head(features, seeds=(3, 4))
    return keras.Model(image, probabilities, name="ResNet34")


@keep_python_random
def lhc_net(size, lhc, controllers=None, numerics="reference"):
    """LHC-Net, or LHC-NetC with five `controllers` (initial scalars): (B, size, size, 3) -> (B, 7).

    `lhc` is LHC_Settings.json: lists of five, for the modules after the stem and the four stages.
    """
    image = layers.Input((size, size, 3), name="image")

    def attention(x, stage):
        return ATTENTION[numerics](
            num_heads=lhc["num_heads"][stage],
            att_embed_dim=lhc["att_embed_dim"][stage],
            kernel_size=lhc["kernel_size"][stage],
            pool_size=lhc["pool_size"][stage],
            norm_c=lhc["norm_c"][stage],
            controller=None if controllers is None else controllers[stage],
            name=f"lhc{stage + 1}",
        )(x)

    features = backbone.features(image, after_stage=attention, parts=PARTS[numerics])
    probabilities = classification_head(features, seeds=(None, None))
    return keras.Model(image, probabilities, name="LHC_Net" if controllers is None else "LHC_NetC")


def build(name, settings):
    """Return the untrained network "ResNet34", "LHC_Net" or "LHC_NetC" as the settings shape it."""
    if name == "ResNet34":
        return resnet34(settings.size, settings.runtime["numerics"])
    scalars = settings.modular["Controller"]["initial_scalars"] if name == "LHC_NetC" else None
    return lhc_net(settings.size, settings.lhc, scalars, settings.runtime["numerics"])


def zero_values(network):
    """Let the LHC modules add nothing: LHC-Net then starts as the backbone that it holds."""
    for layer in network.layers:
        if isinstance(layer, LHC):
            for variable in (layer.value.kernel, layer.value.bias):
                variable.assign(np.zeros(variable.shape, np.float32))


def freeze_all_but_controllers(network):
    """Leave only the scalars of LHC-NetC trainable; BatchNorm then runs in inference mode."""
    for layer in network.layers:
        if isinstance(layer, LHC):
            for part in layer.parts:
                part.trainable = False
        else:
            layer.trainable = False
