"""Take pixels away and fill the hole.

Taking pixels away is itself a choice: each way of filling the hole leaves another tile, which the
model has never seen either. A drop that all ways share says more than one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lulc_lib.models import EUROSAT_MEAN
from lulc_lib.tiles import TILE_SIZE, as_images

FILLS = ("blur", "mean", "texture")
BLUR_SIGMA = 6.0  # pixels: wider than a road, a river or a building

_SHAPE = (TILE_SIZE, TILE_SIZE)


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
