"""What tests/test_devices.py runs in processes of their own: a small net trained on some devices.

    python tests/devices_job.py FOLDER DEVICES NUMERICS [--evaluate] [--groups]

Reads FOLDER/Settings, trains ResNet34's recipe with a small net made of the nets' parts, and prints
what came out as the last line, in JSON; with probabilities, of the test split, where asked for.
--groups: as on a GPU, fast numerics on JAX take several batches in one call.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src import (
    backend,
    cli,
    dataset,
    devices,
    evaluation,
    networks,
    runtime,
    settings,
    training,
    tta,
)
from src.backend import keras

SIZE = 32


def net(numerics):
    """A small net of the parts that know of devices: (B, 32, 32, 3) -> (B, 7)."""
    image = keras.layers.Input((SIZE, SIZE, 3))
    parts = networks.PARTS[numerics]
    x = parts.image_conv(parts.image_norm(image), 4, 7, 2, "conv0")
    x = parts.norm_relu(x, "bn0", "relu0")
    x = parts.pool(x, "pooling0")
    x = networks.ATTENTION[numerics](4, 4, name="lhc1")(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(image, keras.layers.Dense(7, "softmax", name="fc3")(x), name="ResNet34")


def probabilities(model, loaded):
    """Return what the net gives for the test split, as it is and in three views."""
    images, _ = dataset.load(loaded.path("data_folder"), "test")
    views = tta.table(tta.descriptions(loaded.evaluation), SIZE)[:3]
    batches = evaluation.image_batches(images, loaded)
    plain = evaluation.predict(devices.predictor(model), batches, len(images), "test")
    predictor = devices.predictor(tta.with_view(model, SIZE))
    batches = evaluation.image_batches(images, loaded)
    averaged = tta.average(predictor, views, [1] * 3, batches, len(images))
    return {"plain": plain.tolist(), "averaged": averaged.tolist()}


@cli.command
def main(argv=None):
    folder, count, numerics = sys.argv[1:4]
    loaded = settings.load(Path(folder) / "Settings")
    loaded.runtime["numerics"] = numerics
    loaded.runtime["devices"] = count if count == "all" else int(count)
    runtime.prepare(loaded)
    if "--groups" in sys.argv:
        backend.trains_in_groups = lambda: True
    backend.set_seeds(1, 2, 3)
    model = net(numerics)
    rows = training.train(model, loaded, "ResNet34")
    found = {"devices": devices.count(), "main": devices.is_main(), "rows": rows}
    if "--evaluate" in sys.argv:
        found.update(probabilities(model, loaded))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
