"""Numbers and arrays as several modules need them: counts, logits as probabilities, grids."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Return a count as an int.

    Raises:
        ValueError: if it is no whole number, such as True or 2.5, or below the least.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def softmax(logits: Any) -> np.ndarray:
    """Return probabilities, float64 (..., K), that sum to 1 along the last axis."""
    logits = np.asarray(logits)
    with np.errstate(invalid="ignore"):  # a row with an infinite logit becomes NaN, as in torch
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def resized(grids: Any, size: int) -> np.ndarray:
    """Bring grids to another size, bilinearly, the middles of cells where they were.

    Where they become smaller, each value is a mean over what it stands for.

    Args:
        grids: float (..., h, w).
        size: of the side, in pixels.

    Returns:
        float32 (..., size, size): PyTorch's `interpolate` with align_corners=False, and with
        antialias=True where the grids are larger.
    """
    values = torch.from_numpy(np.ascontiguousarray(grids, dtype=np.float32))
    h, w = values.shape[-2:]
    smaller = h > size or w > size
    made = F.interpolate(
        values.reshape(-1, 1, h, w), (size, size), mode="bilinear", antialias=smaller
    )
    return made.reshape(*values.shape[:-2], size, size).numpy()
