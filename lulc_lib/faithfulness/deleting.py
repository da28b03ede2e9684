"""Take pixels away, or give them back, in a map's order and note what the model says then."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lulc_lib.arrays import whole_number
from lulc_lib.faithfulness.asking import check_measure, measured, targets_of
from lulc_lib.faithfulness.fills import remove
from lulc_lib.predictions import LazyImages, Predictions, predict
from lulc_lib.tiles import TILE_SIZE, undivided

_SHAPE = (TILE_SIZE, TILE_SIZE)
_PIXELS = TILE_SIZE * TILE_SIZE


def deletion_order(heatmap: Any, seed: int = 0) -> np.ndarray:
    """Return the pixels in the order in which a map would have them deleted: highest value first.

    Pixels of equal value follow in a random order, so that a flat map deletes at random and not
    from the top left.

    Args:
        heatmap: float (N, 64, 64), such as `Explanation.heatmap`.
        seed: of the order among equals.

    Returns:
        int64 (N, 4096): row-major numbers of pixels.

    Raises:
        ValueError: if the shape is another, or a value is not finite.
    """
    maps = np.asarray(heatmap, dtype=np.float64)
    if maps.ndim != 3 or maps.shape[1:] != _SHAPE:
        raise ValueError(f"heatmap must have shape (N, {TILE_SIZE}, {TILE_SIZE}), got {maps.shape}")
    if not np.isfinite(maps).all():
        raise ValueError("a heatmap with NaN or infinite values gives no order")
    ties = random_order(1, seed)[0]
    ranked = np.argsort(-maps.reshape(len(maps), -1)[:, ties], axis=1, kind="stable")
    return ties[ranked]


def random_order(count: int, seed: int = 0) -> np.ndarray:
    """Return an order of the pixels that looks at nothing, for each of `count` tiles.

    Returns:
        int64 (count, 4096).
    """
    count, rng = whole_number("count", count), np.random.default_rng(seed)
    return np.stack([rng.permutation(_PIXELS) for _ in range(count)])


def first_pixels(order: np.ndarray, share: float) -> np.ndarray:
    """Return a mask of the first pixels of an order.

    Args:
        order: int64 (N, 4096).
        share: of the pixels, in [0, 1].

    Returns:
        bool (N, 64, 64).

    Raises:
        ValueError: if the share is out of range, or the order does not hold each pixel once.
    """
    return _first(_checked_order(order), share)


def _first(order: np.ndarray, share: float) -> np.ndarray:
    """Return a mask of the first pixels of an order that has been checked."""
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share!r}")
    mask = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(mask, order[:, : round(share * _PIXELS)], True, axis=1)
    return mask.reshape(-1, *_SHAPE)


@dataclass(frozen=True, eq=False)
class Deletion:
    """What a model says as more and more pixels go, or come back.

    Attributes:
        shares: float64 (S,), of the pixels that went, or came back, from 0 to 1.
        probability: float32 (N, S), of the target.
        target: int64 (N,).
        fill: how the holes were filled.
        logit: float32 (N, S), of the target.
    """

    shares: np.ndarray
    probability: np.ndarray
    target: np.ndarray
    fill: str
    logit: np.ndarray

    @property
    def area(self) -> np.ndarray:
        """Mean probability along the way, (N,), by the trapezoid rule.

        Of `deletion` lower is a better order, of `insertion` higher is.
        """
        return np.trapezoid(self.probability, self.shares, axis=1)

    @property
    def logit_area(self) -> np.ndarray:
        """Mean logit along the way, (N,), likewise."""
        return np.trapezoid(self.logit, self.shares, axis=1)


def deletion(
    model: nn.Module,
    images: Any,
    order: np.ndarray,
    target: Any,
    *,
    fill: str = "blur",
    steps: int = 16,
    precision: str = "float32",
) -> Deletion:
    """Delete pixels step by step in a given order and note the target's probability.

    Petsiuk et al. 2018, "RISE", arXiv 1806.07421. A map's order means something beside a random
    one alone: any order ends at the same empty tile.

    Args:
        model: a model.
        images: as in `remove`.
        order: int64 (N, 4096), such as `deletion_order(explanation.heatmap)`.
        target: a class for all, or one for each; None for what the model predicts.
        fill: one of `FILLS`.
        steps: into so many equal parts the pixels are divided.
        precision: as in `predict`.

    Raises:
        ValueError: if shapes do not fit, the order does not hold each pixel once, or steps is
            below 1.
    """
    return _curve(model, images, order, target, fill, steps, precision, back=False)


def insertion(
    model: nn.Module,
    images: Any,
    order: np.ndarray,
    target: Any,
    *,
    fill: str = "blur",
    steps: int = 16,
    precision: str = "float32",
) -> Deletion:
    """Give an emptied tile its pixels back in a given order and note the target's probability.

    The counterpart of `deletion` in the same paper: `.area` lies in [0, 1], and higher is a better
    order. What is not yet back is filled from what is, so that the way begins at the tile that
    `deletion` ends with.

    Args:
        model: a model.
        images: as in `remove`.
        order: int64 (N, 4096), such as `deletion_order(explanation.heatmap)`: what comes first.
        target: a class for all, or one for each; None for what the model predicts.
        fill: one of `FILLS`.
        steps: into so many equal parts the pixels are divided.
        precision: as in `predict`.

    Raises:
        ValueError: if shapes do not fit, the order does not hold each pixel once, or steps is
            below 1.
    """
    return _curve(model, images, order, target, fill, steps, precision, back=True)


def removal(
    model: nn.Module,
    images: Any,
    heatmap: Any,
    target: Any,
    *,
    share: float = 0.25,
    fill: str = "blur",
    measure: str = "probability",
    precision: str = "float32",
) -> np.ndarray:
    """Compare what the map's highest pixels are worth with what its lowest ones are.

    The target's fall when the top share is removed, less its fall when the bottom share is. The
    untouched tile cancels out, so that a tile takes two passes. Samek et al. 2017,
    arXiv:1509.06321, and Rong et al. 2022, arXiv:2202.00449, remove in both orders. A compact spot
    in the middle of the tile does well here without looking at anything: print the centre null
    beside it.

    Args:
        model: a model.
        images: as in `remove`.
        heatmap: float (N, 64, 64), such as `Explanation.heatmap`.
        target: a class for all, or one for each; None for what the model predicts.
        share: of the pixels, at either end, in [0, 1].
        fill: one of `FILLS`.
        measure: "probability" or "logit".
        precision: as in `predict`.

    Returns:
        float64 (N,), in [-1, 1] for probabilities, else in units of the logit; higher is better.
        Around 0 for a flat map, whose pixels are ranked at random, and 0 where the share is 0.

    Raises:
        ValueError: if shapes do not fit, the share is out of range or a word is unknown.
    """
    check_measure(measure)
    tensor = undivided(images)
    wanted = targets_of(model, tensor, target, precision)
    found = removal_answers(model, tensor, heatmap, share=share, fill=fill, precision=precision)
    return removal_of(found, wanted, measure)


def removal_answers(
    model: nn.Module,
    images: Any,
    heatmap: Any,
    *,
    share: float = 0.25,
    fill: str = "blur",
    precision: str = "float32",
) -> Predictions:
    """Return what a model says of each tile without the map's lowest pixels, and its highest.

    Args:
        model: a model.
        images: N images, as in `remove`.
        heatmap: float (N, 64, 64).
        share: of the pixels, at either end, in [0, 1].
        fill: one of `FILLS`.
        precision: as in `predict`.

    Returns:
        Predictions of 2 * N images, tile by tile.

    Raises:
        ValueError: as in `removal`.
    """
    tensor = undivided(images)
    order = deletion_order(heatmap)
    _check_count(order, tensor)
    gone = np.stack([_first(order[:, ::-1], share), _first(order, share)], axis=1)
    gone = gone.reshape(2 * len(tensor), *gone.shape[2:])  # bottom, top of the first tile, ...

    def stages(first: int, last: int) -> Tensor:
        which = np.arange(first, last)
        return remove(tensor[torch.from_numpy(which // 2)], gone[which], fill)

    return predict(model, LazyImages(len(gone), stages), precision=precision)


def removal_of(found: Predictions, target: np.ndarray, measure: str = "probability") -> np.ndarray:
    """Return what the highest pixels are worth less what the lowest ones are, as `removal`.

    Args:
        found: from `removal_answers`.
        target: int64 (N,), the class of each tile.
        measure: one of `MEASURES`.

    Raises:
        ValueError: if the measure is unknown, or the answers are of other tiles than the targets.
    """
    if len(found) != 2 * len(target):
        raise ValueError(
            f"{len(found)} answers belong to {len(found) / 2:g} tiles, got {len(target)} targets"
        )
    left = measured(found, measure).reshape(len(target), 2, -1)
    own = left[np.arange(len(target)), :, target].astype(np.float64)  # (N, 2)
    return own[:, 0] - own[:, 1]


def _curve(
    model: nn.Module,
    images: Any,
    order: np.ndarray,
    target: Any,
    fill: str,
    steps: int,
    precision: str,
    back: bool,
) -> Deletion:
    """Return the probability while pixels go, or come `back`, in the given order."""
    tensor = undivided(images)  # uint8 until its batch comes up
    order = _checked_order(order)
    _check_count(order, tensor)
    steps = whole_number("steps", steps)
    wanted = targets_of(model, tensor, target, precision)
    shares = np.linspace(0, 1, steps + 1)

    def stages(first: int, last: int) -> Tensor:
        """Return some of the tiles, all of them at the first share, then all at the second."""
        stage, tile = np.divmod(np.arange(first, last), len(tensor))
        reached = [_first(order[[t]], shares[s]) for s, t in zip(stage, tile, strict=True)]
        gone = np.concatenate(reached) ^ back
        return remove(tensor[torch.from_numpy(tile)], gone, fill)

    made = LazyImages(len(shares) * len(tensor), stages)
    found = predict(model, made, precision=precision)

    def along(values: np.ndarray) -> np.ndarray:
        own = values.reshape(len(shares), len(tensor), -1)[:, np.arange(len(tensor)), wanted]
        return own.T.astype(np.float32)  # (N, S)

    return Deletion(shares, along(found.probabilities), wanted, fill, along(found.logits))


def _checked_order(order: Any) -> np.ndarray:
    """Return an order as an array; refuse one in which a pixel is missing."""
    order = np.asarray(order)
    if order.ndim != 2 or order.shape[1] != _PIXELS:
        raise ValueError(f"order must have shape (N, {_PIXELS}), got {order.shape}")
    if order.dtype.kind not in "iu":
        raise ValueError(
            f"order must hold whole numbers of pixels, got {order.dtype}; deletion_order(heatmap) "
            "makes one of a map"
        )
    wrong = (np.sort(order, axis=1) != np.arange(_PIXELS)).any(axis=1)
    if wrong.any():
        raise ValueError(
            f"order must hold each of the pixels 0..{_PIXELS - 1} once, and that of tile "
            f"{int(wrong.argmax())} does not; deletion_order(heatmap) makes one of a map"
        )
    return order.astype(np.int64, copy=False)


def _check_count(order: np.ndarray, tensor: Tensor) -> None:
    if len(order) != len(tensor):
        raise ValueError(f"order is of {len(order)} tiles, but there are {len(tensor)}")
