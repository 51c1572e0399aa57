"""From faces to expressions: a net reads them as in evaluation."""

from src import backend, devices, evaluation
from src.pixels import enlarge, rgb


def probabilities(network, settings, crops, augmented=False):
    """Return what a net says of faces uint8 (N, 48, 48): float32 (N, 7), as evaluation computes it.

    augmented: the mean over the views of test-time augmentation (REFERENCE.md section 8).
    """
    if augmented:
        return evaluation.predict_augmented(network, crops, settings)
    return evaluation.predict_images(devices.predictor(network), crops, settings, "faces")


def at_once(network, settings):
    """Return a function faces uint8 (N, 48, 48) -> probabilities (N, 7) without a progress bar."""
    predictor = devices.predictor(network)
    return lambda crops: backend.to_numpy(predictor(rgb(enlarge(crops, settings.size))))
