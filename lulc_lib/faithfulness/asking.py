"""Read which class is asked for, and its probability or logit from what a model said."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from lulc_lib.predictions import Predictions, predict
from lulc_lib.tiles import class_indices

MEASURES = ("probability", "logit")


def targets_of(
    model: nn.Module, images: Tensor, target: Any, precision: str = "float32"
) -> np.ndarray:
    """Return the class to explain of each tile, int64 (N,), given as `explain` takes it.

    Args:
        model: what predicts the class where it is None.
        images: N images, as `predict` takes them.
        target: one class for all, or one for each; None for what the model predicts.
        precision: as in `predict`.

    Raises:
        TypeError: if a class is neither a name nor a whole number.
        ValueError: if there is no such class, or the number does not fit.
    """
    if target is None:
        return predict(model, images, precision=precision).predicted
    return class_indices(target, len(images))


def check_measure(measure: str) -> None:
    """Refuse a measure that there is not.

    Raises:
        ValueError: if the measure is unknown.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")


def measured(found: Predictions, measure: str) -> np.ndarray:
    """Return logits or probabilities, (N, K).

    Raises:
        ValueError: if the measure is unknown.
    """
    check_measure(measure)
    return found.logits if measure == "logit" else found.probabilities
