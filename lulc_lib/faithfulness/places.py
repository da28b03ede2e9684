"""Measure how much of a map lies where the evidence is known to lie."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from lulc_lib.tiles import TileSet, as_images


@dataclass(frozen=True, eq=False)
class Mosaics:
    """Pictures made of tiles of different classes, in which it is known where the evidence lies.

    Attributes:
        images: float32 (N, 3, H, W) in [0, 1], as large as a single tile.
        target: int64 (N,), the class to explain: that of one of the tiles.
        cell: int64 (N,), which of the tiles that is, counted row by row.
        side: tiles in a row, and rows.
    """

    images: Tensor
    target: np.ndarray
    cell: np.ndarray
    side: int

    def __len__(self) -> int:
        return len(self.images)


def mosaics(tiles: TileSet, count: int, seed: int = 0, side: int = 2) -> Mosaics:
    """Put tiles of different classes together and shrink the whole to the size of one tile.

    A map that explains one of the classes should lie on that class's tile (the pointing game of
    Zhang et al. 2016, arXiv:1608.00507; mosaics as in Arias-Duart et al. 2022, arXiv:2109.15035).

    Args:
        tiles: what the mosaics are made of, such as the test tiles that a model gets right.
        count: how many mosaics.
        seed: of the draw: the class to explain, its place, the other classes, the tiles of each.
        side: tiles in a row, and rows.

    Raises:
        ValueError: if count or side are out of range, or there are fewer classes than places.
    """
    if count < 1 or side < 2:
        raise ValueError(f"count must be at least 1 and side at least 2, got {count} and {side}")
    labels = np.asarray(tiles.labels)
    classes = np.unique(labels)
    if len(classes) < side**2:
        raise ValueError(
            f"a mosaic of {side}x{side} takes tiles of {side**2} classes, and these tiles have "
            f"{len(classes)}; take a smaller side or more classes"
        )
    own = {k: np.flatnonzero(labels == k) for k in classes}
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.permutation(classes)[: side**2] for _ in range(count)])
    chosen = np.vectorize(lambda k: rng.choice(own[k]))(drawn)  # (N, side * side)
    cell = rng.integers(side**2, size=count)
    images = as_images(tiles[chosen.reshape(-1)])
    height, width = images.shape[-2:]
    if height % side or width % side:
        raise ValueError(
            f"side must divide the tile's {height}x{width} px, so that each pixel lies on one of "
            f"the tiles, got {side}"
        )
    rows = images.view(count, side, side, 3, height, width).permute(0, 3, 1, 4, 2, 5)
    whole = rows.reshape(count, 3, side * height, side * width)
    small = F.interpolate(whole, (height, width), mode="bilinear", antialias=True)
    return Mosaics(small.clamp_(0, 1), drawn[np.arange(count), cell].astype(np.int64), cell, side)


def relevance_share(heatmap: Any, found: Mosaics) -> np.ndarray:
    """Return how much of each map's positive relevance lies on the tile that it should explain.

    Chance is one over the number of tiles in a mosaic, 0.25 for 2x2, and that is also the answer
    for a map that is nowhere positive.

    Args:
        heatmap: float (N, H, W), such as `explain(model, found.images, target=found.target)`'s.
        found: the mosaics that were explained.

    Returns:
        float64 (N,) in [0, 1]; higher is better.

    Raises:
        ValueError: if the shape does not fit the mosaics.
    """
    maps = np.asarray(heatmap, dtype=np.float64).clip(min=0)
    count, side = len(found), found.side
    if maps.ndim != 3 or len(maps) != count or maps.shape[1] % side or maps.shape[2] % side:
        raise ValueError(
            f"heatmap must have shape ({count}, H, W) with sides that {side} divides, got "
            f"{maps.shape}"
        )
    height, width = maps.shape[1] // side, maps.shape[2] // side
    sums = maps.reshape(count, side, height, side, width).sum(axis=(2, 4)).reshape(count, -1)
    total = sums.sum(axis=1)
    share = sums[np.arange(count), found.cell] / np.where(total > 0, total, 1)
    return np.where(total > 0, share, 1 / side**2)
