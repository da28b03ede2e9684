"""Take pixels away and fill the hole.

Taking pixels away is itself a choice: each way of filling the hole leaves another tile, which the
model has never seen either. A drop that all ways share says more than one.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lulc_lib.models import EUROSAT_MEAN
from lulc_lib.tiles import as_images

FILLS = ("blur", "mean", "texture", "linear")
BLUR_SIGMA = 6.0  # pixels: wider than a road, a river or a building
NOISE_SIGMA = 0.01  # of "linear", of the range from black to white: that of the authors' own code

_RESIDUAL = 1e-5  # of "linear", in the Euclidean norm over a tile's lost pixels
_MOST_STEPS = 1000  # some 130 are enough for a hole of two thirds of a tile


def remove(images: Any, mask: Any, fill: str = "blur", seed: int = 0) -> Tensor:
    """Take pixels away and fill the hole.

    "blur": the tile's own colours, blurred by a Gaussian of 6 px over the pixels that stay, so that
    nothing of what is taken away shines through. "mean": the mean colour of the pixels that stay.
    "texture": what stays, mirrored at the hole's edge. "linear": each lost pixel is the weighted
    mean of its eight neighbours, plus a little noise, so that the filling tells less of the hole's
    shape (Rong et al. 2022, "ROAD", arXiv:2202.00449). Where nothing stays, the tile becomes
    EuroSAT's mean colour under any of them.

    Args:
        images: as `predict` takes them: a TileSet, or (N, 3, 64, 64) uint8 or float32 in [0, 1];
            or larger ones of whole tiles, such as mosaics that are not shrunk.
        mask: bool (N, H, W), or (H, W) for all: True where pixels go.
        fill: one of `FILLS`.
        seed: of the noise of "linear", which is the same for each tile.

    Returns:
        float32 (N, 3, H, W) in [0, 1]; pixels outside the mask are untouched.

    Raises:
        ValueError: if the fill is unknown or the mask has another shape.
        TypeError: if the mask is not bool.
    """
    tensor = as_images(images, None)
    gone = _as_mask(mask, tensor)
    if fill not in FILLS:
        raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {fill!r}")
    fillers = {"blur": _blurred, "mean": _mean, "texture": _mirrored, "linear": _linear}
    inside = fillers[fill](tensor, gone)
    if fill == "linear":
        noise = torch.randn(tensor.shape[1:], generator=torch.Generator().manual_seed(seed))
        inside = inside + NOISE_SIGMA * noise
    filled = torch.where(gone[:, None], inside, tensor)
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
    return torch.where(_as_mask(mask, tensor)[:, None], other, tensor)


def _as_mask(mask: Any, images: Tensor) -> Tensor:
    count, shape = len(images), tuple(images.shape[-2:])
    # A copy, since torch holds no array that is turned round or write-protected.
    tensor = mask.cpu() if isinstance(mask, Tensor) else torch.from_numpy(np.array(mask))
    if tensor.dtype != torch.bool:
        raise TypeError(f"mask must be bool, True where pixels go, got {tensor.dtype}")
    if tuple(tensor.shape) == shape:
        tensor = tensor.expand(count, *shape)
    if tuple(tensor.shape) != (count, *shape):
        raise ValueError(
            f"mask must have shape {(count, *shape)} or {shape}, got {tuple(tensor.shape)}"
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
    height, width = images.shape[-2:]
    grid = torch.cartesian_prod(torch.arange(height), torch.arange(width))  # (H * W, 2)
    last = torch.tensor([height - 1, width - 1])
    for image, target, hole in zip(images, filled, gone.flatten(1), strict=True):
        lost, stays = grid[hole], grid[~hole]
        if len(lost) == 0 or len(stays) == 0:
            continue
        nearest = stays[torch.cdist(lost.float(), stays.float()).argmin(1)]
        mirror = (2 * nearest - lost).clamp(min=0).minimum(last)
        inside = hole[mirror[:, 0] * width + mirror[:, 1]]
        source = torch.where(inside[:, None], nearest, mirror)
        target[:, lost[:, 0], lost[:, 1]] = image[:, source[:, 0], source[:, 1]]
    return filled


def _linear(images: Tensor, gone: Tensor) -> Tensor:
    """Make each lost pixel the weighted mean of its neighbours, lost ones too.

    That is one linear equation for each lost pixel, solved by conjugate gradients for all tiles at
    once. A tile whose residual is small enough takes no further step, so that its answer does not
    depend on the others of its batch. Colours agree with a direct solver's within 1e-3.
    """
    hole = gone[:, None].float()
    weight = _neighbours(torch.ones_like(hole))  # less at the border of the tile
    filled = _mean(images, gone) * hole + images * (1 - hole)
    residual = hole * (_neighbours(filled) - weight * filled)
    step, square = residual, _squares(residual)
    for _ in range(_MOST_STEPS):
        active = square > _RESIDUAL**2
        if not bool(active.any()):
            break
        turned = hole * (weight * step - _neighbours(step))
        length = square / (step * turned).sum((2, 3), keepdim=True).clamp(min=1e-30)
        length = torch.where(active, length, 0.0)
        filled, residual = filled + length * step, residual - length * turned
        before, square = square, _squares(residual)
        step = residual + square / before.clamp(min=1e-30) * step
    return filled


def _neighbours(maps: Tensor) -> Tensor:
    """Sum the eight neighbours: 1/6 of those beside and above, 1/12 of the diagonal ones."""
    wide = F.pad(maps, (1, 1, 1, 1))
    rows = wide[..., :-2, :] + 2 * wide[..., 1:-1, :] + wide[..., 2:, :]
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:] - 4 * maps) / 12


def _squares(maps: Tensor) -> Tensor:
    return (maps * maps).sum((2, 3), keepdim=True)
