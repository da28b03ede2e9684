"""Measure how much of a map lies where the evidence is known to lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from lulc_lib.arrays import whole_number
from lulc_lib.faithfulness.grids import cell_numbers, cell_sums, checked_maps, checked_masks
from lulc_lib.faithfulness.patches import patch_falls
from lulc_lib.predictions import LazyImages, predict
from lulc_lib.tiles import TileSet, as_images, undivided


@dataclass(frozen=True, eq=False)
class Mosaics:
    """Pictures made of tiles of different classes, in which it is known where the evidence lies.

    Attributes:
        images: float32 (N, 3, H, W) in [0, 1], as large as a single tile, or `side` times as wide
            and high where they are not shrunk.
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

    @property
    def cells(self) -> np.ndarray:
        """Which of the tiles each pixel belongs to, counted row by row, int64 (H, W).

        Where `side` does not divide H or W, borders between tiles fall on the nearest pixel.
        """
        return cell_numbers(*self.images.shape[-2:], self.side)

    @property
    def own(self) -> np.ndarray:
        """The pixels of the tile whose class is explained, bool (N, H, W)."""
        return self.own_in(*self.images.shape[-2:])

    def own_in(self, height: int, width: int) -> np.ndarray:
        """Return where that tile lies in maps of another size, bool (N, height, width)."""
        return cell_numbers(height, width, self.side) == self.cell[:, None, None]


def mosaics(
    tiles: TileSet, count: int, seed: int = 0, side: int = 2, shrink: bool = True
) -> Mosaics:
    """Put tiles of different classes together, and shrink the whole to the size of one tile.

    No tile is used again before all of its class were used. A map that explains one of the classes
    should lie on that class's tile (the pointing game of
    Zhang et al. 2016, arXiv:1608.00507; mosaics after Arias-Duart et al. 2022, arXiv:2109.15035,
    whose mosaics hold two tiles of the class asked for, so that chance is one half).

    Args:
        tiles: what the mosaics are made of, such as the test tiles that a model gets right, or
            that it still recognises when they are shrunk (`recognised`).
        count: how many mosaics.
        seed: of the draw: the class to explain, its place, the other classes, the tiles of each.
        side: tiles in a row, and rows.
        shrink: bring the whole to the size of one tile. Else it stays at the tiles' own scale,
            which `lulc_lib.models.enlarged` makes a copy of a model for.

    Raises:
        TypeError: if the tiles are no TileSet, and so have no labels.
        ValueError: if count or side are out of range, or there are fewer classes than places.
    """
    if not isinstance(tiles, TileSet):
        raise TypeError(f"tiles must be a TileSet, which has labels, got {type(tiles).__name__}")
    count, side = whole_number("count", count), whole_number("side", side, 2)
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
    turns = {k: _in_turn(own[k], rng) for k in classes}
    chosen = np.array([[next(turns[k]) for k in row] for row in drawn])  # (N, side * side)
    cell = rng.integers(side**2, size=count)
    images = _put_together(as_images(tiles[chosen.reshape(-1)]), side, shrink)
    return Mosaics(images, drawn[np.arange(count), cell].astype(np.int64), cell, side)


def _in_turn(numbers: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    """Yield all numbers in a random order, then all in another, and so on."""
    while True:
        yield from rng.permutation(numbers)


def recognised(model: nn.Module, tiles: TileSet, side: int = 2) -> np.ndarray:
    """Mark the tiles that a model still gets right when they are as small as in a mosaic.

    The model sees a mosaic of side * side copies of the tile, in one pass for each tile.

    Args:
        model: a model.
        tiles: tiles with labels.
        side: tiles in a row, and rows.

    Returns:
        bool (N,).

    Raises:
        TypeError: if the tiles are no TileSet, and so have no labels.
        ValueError: if side is below 1, or there are no tiles.
    """
    if not isinstance(tiles, TileSet):
        raise TypeError(f"tiles must be a TileSet, which has labels, got {type(tiles).__name__}")
    side = whole_number("side", side)
    images = undivided(tiles)

    def copies(first: int, last: int) -> Tensor:
        return _put_together(as_images(images[first:last].repeat_interleave(side**2, dim=0)), side)

    found = predict(model, LazyImages(len(tiles), copies))
    return found.predicted == tiles.labels.numpy()


def causal(
    model: nn.Module, found: Mosaics, fill: str = "mean", precision: str = "float32"
) -> np.ndarray:
    """Mark the mosaics in which the model's answer rests most on the tile of the target's class.

    Removing that tile must lower the target's probability, and by more than removing any other
    does. In other mosaics a right map may well lie elsewhere. A mosaic takes side * side + 1
    passes.

    Args:
        model: a model.
        found: mosaics.
        fill: one of `FILLS`.
        precision: as in `predict`.

    Returns:
        bool (N,).

    Raises:
        ValueError: if the fill is unknown.
    """
    falls = patch_falls(
        model, found.images, found.target, side=found.side, fill=fill,
        measure="probability", precision=precision,
    )  # fmt: skip
    rows = np.arange(len(found))
    own = falls[rows, found.cell].copy()
    falls[rows, found.cell] = 0.0  # the own tile must beat an untouched picture as well
    return own > falls.max(axis=1)


def relevance_share(heatmap: Any, found: Mosaics) -> np.ndarray:
    """Return how much of each map's positive relevance lies on the tile that it should explain.

    Chance is that tile's part of the area, 0.25 for 2x2 and about 0.11 for 3x3, and that is also
    the answer for a map that is nowhere positive.

    Args:
        heatmap: float (N, H, W), such as `explain(model, found.images, target=found.target)`'s.
        found: the mosaics that were explained.

    Returns:
        float64 (N,) in [0, 1]; higher is better.

    Raises:
        ValueError: if the shape does not fit the mosaics, or a value is not finite.
    """
    maps = checked_maps(heatmap, len(found)).clip(min=0)
    size, side = tuple(maps.shape[1:]), found.side
    sums = cell_sums(maps, side)
    area = np.bincount(cell_numbers(*size, side).reshape(-1)) / (size[0] * size[1])
    total = sums.sum(axis=1)
    share = sums[np.arange(len(found)), found.cell] / np.where(total > 0, total, 1)
    return np.where(total > 0, share, area[found.cell])


def pointing(heatmap: Any, found: Mosaics) -> np.ndarray:
    """Say whether each map's highest value lies on the tile that it should explain.

    The pointing game of Zhang et al. 2016, arXiv:1608.00507, without its tolerance of some pixels.

    Args:
        heatmap: float (N, H, W).
        found: the mosaics that were explained.

    Returns:
        float64 (N,): 1 for yes and 0 for no; where several pixels have the highest value, the part
        of them that lies on the tile. Chance is the tile's part of the area, which is also the
        answer for a flat map. Higher is better.

    Raises:
        ValueError: if the number of maps does not fit, or a value is not finite.
    """
    maps = checked_maps(heatmap, len(found))
    own = found.own_in(*maps.shape[1:])
    highest = maps == maps.max(axis=(1, 2), keepdims=True)
    return (highest & own).sum(axis=(1, 2)) / highest.sum(axis=(1, 2))


def area_under_roc(heatmap: Any, mask: Any) -> np.ndarray:
    """Return how well a map's values tell the pixels of the evidence from the others.

    The probability that a pixel inside the mask has a higher value than one outside, ties counting
    half: the area under the ROC curve, by ranks (Mann and Whitney 1947). For maps of mosaics the
    mask is `Mosaics.own`; Arias-Duart et al. 2022, arXiv:2109.15035, take the share.
    Unlike `relevance_share` it looks at the order alone, and at negative values too.

    Args:
        heatmap: float (N, H, W).
        mask: bool (N, H, W), or (H, W) for all: True where the evidence lies.

    Returns:
        float64 (N,) in [0, 1]; higher is better. 0.5 is chance, and also the answer for a flat map
        and for a mask that is empty or full.

    Raises:
        TypeError: if the mask is not bool.
        ValueError: if shapes do not fit, or a value of a map is not finite.
    """
    maps, masks = _maps_and_masks(heatmap, mask)
    return np.array([_area(m[k], m[~k]) for m, k in zip(maps, masks, strict=True)], dtype=float)


def share_inside(heatmap: Any, masks: Any) -> np.ndarray:
    """Return how much of each map's positive relevance lies inside a mask.

    For tiles whose evidence is known pixel by pixel, such as those of `synthetic` (relevance mass
    accuracy of Arras et al. 2022, arXiv:2003.07258).

    Args:
        heatmap: float (N, H, W).
        masks: bool (N, H, W), such as `TileSet.masks`, or (H, W) for all.

    Returns:
        float64 (N,) in [0, 1]; higher is better. Chance is the mask's part of the area, which is
        also the answer for a flat map and for one that is nowhere positive.

    Raises:
        TypeError: if the masks are not bool.
        ValueError: if shapes do not fit, or a value of a map is not finite.
    """
    maps, inside = _maps_and_masks(heatmap, masks)
    positive = maps.clip(min=0)
    total = positive.sum(axis=(1, 2))
    share = (positive * inside).sum(axis=(1, 2)) / np.where(total > 0, total, 1)
    return np.where(total > 0, share, inside.mean(axis=(1, 2)))


def _put_together(images: Tensor, side: int, shrink: bool = True) -> Tensor:
    """Return mosaics of side * side images each, in their order, shrunk to the size of one."""
    height, width = images.shape[-2:]
    rows = images.view(-1, side, side, 3, height, width).permute(0, 3, 1, 4, 2, 5)
    whole = rows.reshape(-1, 3, side * height, side * width)
    if not shrink:
        return whole
    small = F.interpolate(whole, (height, width), mode="bilinear", antialias=True)
    return small.clamp_(0, 1)


def _maps_and_masks(heatmap: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    maps = checked_maps(heatmap)
    return maps, checked_masks(mask, maps.shape)


def _area(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return how often a value of the one is above one of the other, ties counting half."""
    if len(inside) == 0 or len(outside) == 0:
        return 0.5
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, side="left").sum()
    not_above = np.searchsorted(ordered, inside, side="right").sum()
    return float(below + not_above) / (2 * len(inside) * len(outside))
