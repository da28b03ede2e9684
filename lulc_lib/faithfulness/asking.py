"""Ask a model for the target's probability or logit in many changed tiles."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from lulc_lib.predictions import LazyImages, Predictions, predict
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


def answers(
    model: nn.Module,
    make: Callable[[int, int], Tensor],
    target: np.ndarray,
    measure: str = "probability",
    precision: str = "float32",
) -> np.ndarray:
    """Return the target's probability or logit in images that are made batch by batch.

    Args:
        model: a model.
        make: as in `LazyImages`.
        target: int64 (M,), the class that is asked for in each of M images.
        measure: one of `MEASURES`.
        precision: as in `predict`.

    Returns:
        float64 (M,) probabilities in [0, 1], or float32 (M,) logits.

    Raises:
        ValueError: if the measure is unknown, or as in `predict`.
    """
    check_measure(measure)
    found = predict(model, LazyImages(len(target), make), precision=precision)
    return measured(found, measure)[np.arange(len(target)), target]


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
