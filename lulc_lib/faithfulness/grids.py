"""Divide heat maps and tiles into cells, and check both."""

import itertools
from typing import Any

import numpy as np


def checked_maps(heatmap: Any, count: int | None = None) -> np.ndarray:
    """Return heat maps as float64 (N, H, W).

    Args:
        heatmap: float (N, H, W).
        count: how many there must be, None for any number.

    Raises:
        ValueError: if the shape is another, or a value is not finite.
    """
    maps = np.asarray(heatmap, dtype=np.float64)
    if maps.ndim != 3 or (count is not None and len(maps) != count):
        number = "N" if count is None else count
        raise ValueError(f"heatmap must have shape ({number}, H, W), got {maps.shape}")
    broken = ~np.isfinite(maps).all(axis=(1, 2))
    if broken.any():
        raise ValueError(
            f"{int(broken.sum())} of {len(maps)} heat maps hold NaN or infinite values, the first "
            f"is number {int(broken.argmax())}; look for the method or model that made them"
        )
    return maps


def edges(length: int, side: int) -> np.ndarray:
    """Return where `side` cells begin and end along so many pixels, int64 (side + 1,).

    They lie on whole pixels: where `side` does not divide the length, some cells are one larger.

    Raises:
        ValueError: if side is no whole number, or below 1, or the pixels are fewer than the cells.
    """
    if side != int(side) or not 1 <= side <= length:
        raise ValueError(
            f"side must lie in 1..{length}, the pixels along a side, and be whole, got {side!r}"
        )
    side = int(side)
    return np.rint(np.linspace(0, length, side + 1)).astype(np.int64)


def cell_numbers(height: int, width: int, side: int) -> np.ndarray:
    """Return which of `side` x `side` cells each pixel lies in, row by row, int64 (H, W)."""
    rows = np.repeat(np.arange(side), np.diff(edges(height, side)))
    columns = np.repeat(np.arange(side), np.diff(edges(width, side)))
    return rows[:, None] * side + columns


def cell_sums(maps: np.ndarray, side: int) -> np.ndarray:
    """Return the sum over each of `side` x `side` cells, row by row, float64 (N, side * side)."""
    rows, columns = edges(maps.shape[1], side), edges(maps.shape[2], side)
    return np.stack(
        [
            maps[:, top:bottom, left:right].sum(axis=(1, 2))
            for top, bottom in itertools.pairwise(rows)
            for left, right in itertools.pairwise(columns)
        ],
        axis=1,
    )


def checked_masks(mask: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Return masks as bool (N, H, W), one mask (H, W) repeated for all.

    Raises:
        TypeError: if the masks are not bool.
        ValueError: if the shape is another.
    """
    masks = np.asarray(mask)
    if masks.dtype != bool:
        raise TypeError(f"mask must be bool, True where the evidence lies, got {masks.dtype}")
    if masks.shape not in (shape, shape[1:]):
        raise ValueError(f"mask must have shape {shape} or {shape[1:]}, got {masks.shape}")
    return np.broadcast_to(masks, shape)
