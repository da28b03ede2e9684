"""Remove one patch after another and compare the falls with what a map says of the patches."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lulc_lib.faithfulness.asking import check_measure, measured, targets_of
from lulc_lib.faithfulness.fills import remove
from lulc_lib.faithfulness.grids import cell_numbers, cell_sums, checked_maps
from lulc_lib.predictions import LazyImages, Predictions, predict
from lulc_lib.tiles import undivided


def patch_falls(
    model: nn.Module,
    images: Any,
    target: Any,
    *,
    side: int = 4,
    fill: str = "blur",
    measure: str = "logit",
    precision: str = "float32",
) -> np.ndarray:
    """Return how much the target falls when each patch alone is removed.

    A tile takes side * side + 1 passes.

    Args:
        model: a model.
        images: as in `remove`.
        target: a class for all, or one for each; None for what the model predicts.
        side: patches in a row, and rows.
        fill: one of `FILLS`.
        measure: "logit" or "probability".
        precision: as in `predict`.

    Returns:
        float64 (N, side * side), row by row, in units of the logit, or probabilities in [-1, 1]:
        positive where the patch counted for the target.

    Raises:
        ValueError: if the number of targets does not fit, or side or a word is out of range.
    """
    check_measure(measure)
    tensor = undivided(images, None)
    wanted = targets_of(model, tensor, target, precision)
    found = patch_answers(model, tensor, side=side, fill=fill, precision=precision)
    return falls_of(found, wanted, measure)


def patch_answers(
    model: nn.Module, images: Any, *, side: int = 4, fill: str = "blur", precision: str = "float32"
) -> Predictions:
    """Return what a model says of each tile without each patch, and last of the tile as it is.

    Args:
        model: a model.
        images: N images, as in `remove`.
        side: patches in a row, and rows.
        fill: one of `FILLS`.
        precision: as in `predict`.

    Returns:
        Predictions of N * (side * side + 1) images, tile by tile.
    """
    tensor = undivided(images, None)
    masks = patch_masks(*tensor.shape[-2:], side)

    def stages(first: int, last: int) -> Tensor:
        """Return some of the images: each tile without each patch, then as it is."""
        tile, patch = np.divmod(np.arange(first, last), len(masks))
        return remove(tensor[torch.from_numpy(tile)], masks[patch], fill)

    return predict(model, LazyImages(len(tensor) * len(masks), stages), precision=precision)


def falls_of(found: Predictions, target: np.ndarray, measure: str = "logit") -> np.ndarray:
    """Return how much the target falls without each patch, as `patch_falls`.

    Args:
        found: from `patch_answers`.
        target: int64 (N,), the class of each tile.
        measure: one of `MEASURES`.

    Raises:
        ValueError: if the measure is unknown, or the answers are of other tiles than the targets.
    """
    each = len(found) / max(1, len(target))  # patches, and the tile as it is
    if each < 2 or each != int(each) or math.isqrt(int(each) - 1) ** 2 != each - 1:
        raise ValueError(
            f"{len(found)} answers are not those of {len(target)} tiles without each of their "
            "patches; give the target of each tile that was asked"
        )
    values = measured(found, measure).reshape(len(target), -1, found.logits.shape[1])
    own = values[np.arange(len(target)), :, target].astype(np.float64)  # (N, side * side + 1)
    return own[:, -1:] - own[:, :-1]


def single_deletion(heatmap: Any, falls: np.ndarray) -> np.ndarray:
    """Return how well a map's sums over the patches go with the falls that removing them caused.

    Pearson's correlation for each tile, after the single-deletion score of Hesse, Schaub-Meyer and
    Roth, NeurIPS 2024 (IDSDS, arXiv:2407.11910). Theirs is Spearman's, of the ranks alone; here a
    patch counts the more, the larger its sum and its fall. In theirs the model has been trained on
    tiles without a patch, as `adapted` does.

    Args:
        heatmap: float (N, H, W), such as `Explanation.heatmap`.
        falls: float (N, side * side), from `patch_falls`.

    Returns:
        float64 (N,) in [-1, 1], without a unit; higher is better. 0 is chance, and also the answer
        where the map has the same sum in each patch, or no fall differs from another.

    Raises:
        ValueError: if shapes do not fit, or a value is not finite.
    """
    falls = np.asarray(falls, dtype=np.float64)
    side = int(np.sqrt(falls.shape[-1])) if falls.ndim == 2 else 0
    if side < 2 or side**2 != falls.shape[1]:
        raise ValueError(f"falls must have shape (N, side * side), side 2 at least: {falls.shape}")
    if not np.isfinite(falls).all():
        raise ValueError("falls hold NaN or infinite values")
    return correlation(cell_sums(checked_maps(heatmap, len(falls)), side), falls)


def correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of each row with the other's, 0 where a row does not vary.

    A row whose values differ by no more than rounding errors does not vary.
    """
    first, second = _centred(one), _centred(other)
    length = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    along = (first * second).sum(axis=1) / np.where(length > 0, length, 1)
    return np.where(length > 0, along, 0.0).clip(-1, 1)


def _centred(rows: np.ndarray) -> np.ndarray:
    """Return rows of mean 0, scaled to about 1 so that no square is too small or too large."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scaled = rows / np.where(largest > 0, largest, 1)
    spread = scaled - scaled.mean(axis=1, keepdims=True)
    flat = np.abs(spread).max(axis=1, keepdims=True) < _ROUNDING
    return np.where(flat, 0.0, spread)


def patch_masks(height: int, width: int, side: int) -> np.ndarray:
    """Return a mask for each patch, row by row, and an empty one: bool (side * side + 1, H, W)."""
    numbers = cell_numbers(height, width, side)
    return numbers == np.arange(side**2 + 1)[:, None, None]


_ROUNDING = 1e-7  # of a row's largest value: float32 has 6e-8
