"""Test what a map claims: take pixels away and ask the model again.

Taking pixels away is itself a choice: each way of filling the hole leaves another tile, which the
model has never seen either. A drop that all ways share says more than one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lulc_lib.models import EUROSAT_MEAN
from lulc_lib.predictions import LazyImages, predict
from lulc_lib.tiles import TILE_SIZE, TileSet, as_images, class_index

FILLS = ("blur", "mean", "texture")
BLUR_SIGMA = 6.0  # pixels: wider than a road, a river or a building

_SHAPE = (TILE_SIZE, TILE_SIZE)
_PIXELS = TILE_SIZE * TILE_SIZE


def remove(images: Any, mask: Any, fill: str = "blur") -> Tensor:
    """Take pixels away and fill the hole.

    "blur": the tile's own colours, blurred by a Gaussian of 6 px over the pixels that stay, so that
    nothing of what is taken away shines through. "mean": the mean colour of the pixels that stay.
    "texture": what stays, mirrored at the hole's edge. Where nothing stays, the tile becomes
    EuroSAT's mean colour under any of them.

    Args:
        images: as `predict` takes them: a TileSet, or (N, 3, 64, 64) uint8 or float32 in [0, 1].
        mask: bool (N, 64, 64), or (64, 64) for all: True where pixels go.
        fill: one of `FILLS`.

    Returns:
        float32 (N, 3, 64, 64) in [0, 1]; pixels outside the mask are untouched.

    Raises:
        ValueError: if the fill is unknown or the mask has another shape.
        TypeError: if the mask is not bool.
    """
    tensor = as_images(images)
    gone = _as_mask(mask, len(tensor))
    if fill not in FILLS:
        raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {fill!r}")
    filler = {"blur": _blurred, "mean": _mean, "texture": _mirrored}[fill]
    filled = torch.where(gone[:, None], filler(tensor, gone), tensor)
    nothing = gone.flatten(1).all(1)
    if bool(nothing.any()):
        filled[nothing] = torch.tensor(EUROSAT_MEAN).view(3, 1, 1)
    return filled.clamp_(0, 1)


def swap(images: Any, others: Any, mask: Any) -> Tensor:
    """Put the pixels of other tiles in place of those under the mask.

    Args:
        images: as in `remove`.
        others: as many images, or one for all.
        mask: bool (N, 64, 64), or (64, 64) for all.

    Returns:
        float32 (N, 3, 64, 64) in [0, 1].

    Raises:
        ValueError: if the numbers of images do not fit, or the mask has another shape.
    """
    tensor, other = as_images(images), as_images(others)
    if len(other) not in (1, len(tensor)):
        raise ValueError(
            f"{len(other)} other images do not fit {len(tensor)}: pass as many, or one"
        )
    return torch.where(_as_mask(mask, len(tensor))[:, None], other, tensor)


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


def _as_mask(mask: Any, count: int) -> Tensor:
    tensor = torch.as_tensor(mask)
    if tensor.dtype != torch.bool:
        raise TypeError(f"mask must be bool, True where pixels go, got {tensor.dtype}")
    if tuple(tensor.shape) == _SHAPE:
        tensor = tensor.expand(count, *_SHAPE)
    if tuple(tensor.shape) != (count, *_SHAPE):
        raise ValueError(
            f"mask must have shape {(count, *_SHAPE)} or {_SHAPE}, got {tuple(tensor.shape)}"
        )
    return tensor


def _blurred(images: Tensor, gone: Tensor) -> Tensor:
    """Blur what stays: sums of colours over sums of weights, wide enough to reach any hole."""
    kept = (~gone)[:, None].float()
    colours, weights = _smooth(images * kept), _smooth(kept)
    near = colours / weights.clamp(min=1e-4)
    return torch.where(weights > 1e-4, near, _mean(images, gone))


def _smooth(maps: Tensor) -> Tensor:
    reach = int(3 * BLUR_SIGMA)
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (places / BLUR_SIGMA) ** 2)
    kernel = (kernel / kernel.sum()).expand(maps.shape[1], 1, 1, -1)
    for turned in (kernel, kernel.mT):
        padding = (turned.shape[-2] // 2, turned.shape[-1] // 2)
        maps = F.conv2d(maps, turned, padding=padding, groups=maps.shape[1])
    return maps


def _mean(images: Tensor, gone: Tensor) -> Tensor:
    kept = (~gone)[:, None].float()
    total = (images * kept).sum((2, 3), keepdim=True)
    return (total / kept.sum((2, 3), keepdim=True).clamp(min=1)).expand_as(images)


def _mirrored(images: Tensor, gone: Tensor) -> Tensor:
    """Give each lost pixel the colour of its mirror image at the nearest pixel that stays."""
    filled = images.clone()
    grid = torch.cartesian_prod(torch.arange(TILE_SIZE), torch.arange(TILE_SIZE))  # (4096, 2)
    for image, target, hole in zip(images, filled, gone.flatten(1), strict=True):
        lost, stays = grid[hole], grid[~hole]
        if len(lost) == 0 or len(stays) == 0:
            continue
        nearest = stays[torch.cdist(lost.float(), stays.float()).argmin(1)]
        mirror = (2 * nearest - lost).clamp(0, TILE_SIZE - 1)
        inside = hole[mirror[:, 0] * TILE_SIZE + mirror[:, 1]]
        source = torch.where(inside[:, None], nearest, mirror)
        target[:, lost[:, 0], lost[:, 1]] = image[:, source[:, 0], source[:, 1]]
    return filled


# --- mosaics -------------------------------------------------------------------------------------


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
