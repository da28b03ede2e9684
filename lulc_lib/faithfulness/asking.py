"""Read the target's probability or logit from what a model said."""

from typing import Any

import numpy as np

from lulc_lib.predictions import Predictions
from lulc_lib.tiles import class_index

MEASURES = ("probability", "logit")


def classes_of(target: Any, count: int) -> np.ndarray:
    """Return the class of each tile, int64 (count,), from one for all or one for each.

    Raises:
        ValueError: if there is no such class, or the number does not fit.
    """
    single = isinstance(target, int | str | np.integer)
    classes = [target] * count if single else list(target)
    if len(classes) != count:
        raise ValueError(f"{len(classes)} targets do not fit {count} tiles")
    return np.array([class_index(c) for c in classes], dtype=np.int64)


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
