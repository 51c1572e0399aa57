"""ResNet34v2, the pre-activation residual backbone (REFERENCE.md section 4, paper section 3).

Layer names are those of the ImageNet file, so its weights load by name.
"""

from typing import Callable, NamedTuple

from src import backend as B
from src.backend import keras

layers = keras.layers

UNITS = (3, 4, 6, 3)
FILTERS = (64, 128, 256, 512)

LAST = {"data_format": "channels_last"}
CONV = {"use_bias": False, "kernel_initializer": "he_uniform", **LAST}
NORM = {"epsilon": 2e-5, "momentum": 0.99}


def image_norm(x):
    """Standardise the pixels, any shape, with a trained shift and no trained scale."""
    # float32 whatever the policy: bfloat16 has 8 bits, an enlarged grey level more.
    return B.batch_normalization(name="bn_data", scale=False, dtype="float32", **NORM)(x)


def conv(x, filters, size, strides, name, kind=layers.Conv2D):
    """Pad with zeros by size // 2, convolve: (B, H, W, C) -> (B, ceil(H / strides), ...)."""
    if size > 1:
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad", **LAST)(x)
    return kind(filters, size, strides=strides, name=name, **CONV)(x)


def norm_relu(x, norm_name, relu_name):
    """Batch normalisation and ReLU, any shape."""
    x = B.batch_normalization(name=norm_name, **NORM)(x)
    return layers.Activation("relu", name=relu_name)(x)


def pool(x, name):
    """Halve H and W by the maxima of 3 x 3 pixels, those beyond the border being 0."""
    x = layers.ZeroPadding2D(1, name=f"{name}_pad", **LAST)(x)
    return layers.MaxPooling2D(3, strides=2, name=name, **LAST)(x)


class Parts(NamedTuple):
    """The functions that make the layers, so that others of the same mathematics can take turns."""

    image_norm: Callable
    image_conv: Callable  # of image_norm's output
    conv: Callable
    norm_relu: Callable
    pool: Callable


REFERENCE = Parts(image_norm, conv, conv, norm_relu, pool)


def stem(parts, x):
    """(B, S, S, 3) grey levels 0...255 -> (B, S/4, S/4, 64)."""
    x = parts.image_norm(x)
    x = parts.image_conv(x, 64, 7, 2, "conv0")
    x = parts.norm_relu(x, "bn0", "relu0")
    return parts.pool(x, "pooling0")


def unit(parts, x, stage, number, shortcut_first):
    """Residual unit `number` of `stage` (both from 1); the first of a stage may halve H and W.

    `shortcut_first` decides only in which order the convolutions are created, which is the order
    in which their initial values are drawn.
    """
    name = f"stage{stage}_unit{number}"
    filters = FILTERS[stage - 1]
    strides = 2 if number == 1 and stage > 1 else 1
    y = parts.norm_relu(x, f"{name}_bn1", f"{name}_relu1")
    activated, shortcut = y, x
    if number == 1 and shortcut_first:
        shortcut = parts.conv(activated, filters, 1, strides, f"{name}_sc")
    y = parts.conv(y, filters, 3, strides, f"{name}_conv1")
    y = parts.norm_relu(y, f"{name}_bn2", f"{name}_relu2")
    y = parts.conv(y, filters, 3, 1, f"{name}_conv2")
    if number == 1 and not shortcut_first:
        shortcut = parts.conv(activated, filters, 1, strides, f"{name}_sc")
    return layers.Add(name=f"{name}_add")([y, shortcut])


def features(x, after_stage=None, parts=REFERENCE):
    """The whole backbone: (B, S, S, 3) -> (B, S/32, S/32, 512).

    `after_stage(x, index)` is called after the stem (0) and after each stage (1...4) and returns
    the tensor that goes on: that is where LHC-Net puts its attention modules.
    """
    x = stem(parts, x)
    if after_stage:
        x = after_stage(x, 0)
    for stage, units in enumerate(UNITS, start=1):
        for number in range(1, units + 1):
            x = unit(parts, x, stage, number, shortcut_first=after_stage is None)
        if after_stage:
            x = after_stage(x, stage)
    return parts.norm_relu(x, "bn1", "relu1")
