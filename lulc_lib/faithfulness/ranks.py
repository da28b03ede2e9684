"""Compare two maps of the same tile by the order of their pixels."""

from typing import Any

import numpy as np

from lulc_lib.faithfulness.grids import checked_maps
from lulc_lib.faithfulness.patches import correlation


def rank_correlation(one: Any, other: Any) -> np.ndarray:
    """Return Spearman's rank correlation of each map with the other one.

    Args:
        one: float (N, H, W).
        other: float (N, H, W).

    Returns:
        float64 (N,) in [-1, 1]; 1 for two equal maps, flat ones too, and 0 where one alone is flat.

    Raises:
        ValueError: if the shapes differ, or a value is not finite.
    """
    one, other = checked_maps(one), checked_maps(other)
    if one.shape != other.shape:
        raise ValueError(
            f"maps to compare must have one shape, got {one.shape} and {other.shape}; the "
            "explainer must return maps of one size for all models and tiles"
        )
    first, second = one.reshape(len(one), -1), other.reshape(len(other), -1)
    return np.where((first == second).all(axis=1), 1.0, correlation(ranks(first), ranks(second)))


def ranks(rows: np.ndarray) -> np.ndarray:
    """Return the place of each value in its row from 1 up, equal values sharing the mean place."""
    found = np.empty(rows.shape)
    for row, places in zip(rows, found, strict=True):
        _, which, counts = np.unique(row, return_inverse=True, return_counts=True)
        places[:] = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return found
