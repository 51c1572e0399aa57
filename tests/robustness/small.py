"""Run one of the scripts with a small net in the place of its own, so that it takes seconds.

    python tests/robustness/small.py LHC_Eval.py --settings FOLDER

The net has what the real ones have: normalisation with its moving statistics, a convolution,
dropout. All else is the script as it is.
"""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from src import backend, networks  # noqa: E402
from src.backend import keras  # noqa: E402


@backend.keep_python_random
def build(name, settings):
    """Return the net in the place of `name`, with half a million weights at 32 pixels."""
    layers = keras.layers
    image = layers.Input((settings.size, settings.size, 3), name="image")
    x = layers.BatchNormalization(name="bn_data")(image)
    x = layers.Conv2D(8, 5, strides=4, activation="relu", name="conv0")(x)
    x = layers.Dense(1024, activation="relu", name="fc1")(layers.Flatten(name="flat")(x))
    x = backend.Dropout(0.4, name="dropout1")(x)
    return keras.Model(image, layers.Dense(7, activation="softmax", name="fc3")(x), name=name)


if __name__ == "__main__":
    networks.build = build
    sys.argv = sys.argv[1:]
    runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
