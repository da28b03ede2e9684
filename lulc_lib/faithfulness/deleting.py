"""Delete pixels in a map's order and note what the model says then."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lulc_lib.faithfulness.fills import remove
from lulc_lib.predictions import LazyImages, predict
from lulc_lib.tiles import TILE_SIZE, TileSet, as_images, class_index

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
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(_PIXELS) for _ in range(count)])


def first_pixels(order: np.ndarray, share: float) -> np.ndarray:
    """Return a mask of the first pixels of an order.

    Args:
        order: int64 (N, 4096).
        share: of the pixels, in [0, 1].

    Returns:
        bool (N, 64, 64).

    Raises:
        ValueError: if the share or the order's shape is out of range.
    """
    order = np.asarray(order)
    if order.ndim != 2 or order.shape[1] != _PIXELS:
        raise ValueError(f"order must have shape (N, {_PIXELS}), got {order.shape}")
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share!r}")
    mask = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(mask, order[:, : round(share * _PIXELS)], True, axis=1)
    return mask.reshape(-1, *_SHAPE)


@dataclass(frozen=True, eq=False)
class Deletion:
    """What a model says as more and more pixels go.

    Attributes:
        shares: float64 (S,), of the pixels, from 0 to 1.
        probability: float32 (N, S), of the target.
        target: int64 (N,).
        fill: how the holes were filled.
    """

    shares: np.ndarray
    probability: np.ndarray
    target: np.ndarray
    fill: str

    @property
    def area(self) -> np.ndarray:
        """Mean probability along the way, (N,), by the trapezoid rule: lower is a better order."""
        return np.trapezoid(self.probability, self.shares, axis=1)


def deletion(
    model: nn.Module,
    images: Any,
    order: np.ndarray,
    target: int | str | Sequence[int] | np.ndarray,
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
        target: a class for all, or one for each.
        fill: one of `FILLS`.
        steps: into so many equal parts the pixels are divided.
        precision: as in `predict`.

    Raises:
        ValueError: if shapes do not fit, or steps is below 1.
    """
    lazily = isinstance(images, TileSet) and len(images) > 0  # uint8 until its batch comes up
    tensor = images.images if lazily else as_images(images)
    order = np.asarray(order)
    if len(order) != len(tensor):
        raise ValueError(f"order is of {len(order)} tiles, but there are {len(tensor)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps!r}")
    single = isinstance(target, int | str | np.integer)
    classes = [target] * len(tensor) if single else list(target)
    if len(classes) != len(tensor):
        raise ValueError(f"{len(classes)} targets do not fit {len(tensor)} tiles")
    wanted = np.array([class_index(c) for c in classes])
    shares = np.linspace(0, 1, steps + 1)

    def stages(first: int, last: int) -> Tensor:
        """Return some of the tiles, all of them at the first share, then all at the second."""
        stage, tile = np.divmod(np.arange(first, last), len(tensor))
        gone = [first_pixels(order[[t]], shares[s]) for s, t in zip(stage, tile, strict=True)]
        return remove(tensor[torch.from_numpy(tile)], np.concatenate(gone), fill)

    found = predict(model, LazyImages(len(shares) * len(tensor), stages), precision=precision)
    rows = found.probabilities.reshape(len(shares), len(tensor), -1)
    chosen = rows[:, np.arange(len(tensor)), wanted].T
    return Deletion(shares, chosen.astype(np.float32), wanted, fill)
