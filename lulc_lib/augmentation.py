"""Vary a batch of tiles: turns, shifts, crops, colours, erased patches, mixed pairs.

Every draw comes from a NumPy generator that the caller gives, for the whole batch at once, so that
the same batch is varied alike in one process and in several.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lulc_lib.config import RunConfig
from lulc_lib.models import EUROSAT_MEAN
from lulc_lib.tiles import CLASSES

WAYS = {  # what `turned` may do, by setting
    "none": (0,),
    "flip": (0, 4),
    "d4": tuple(range(8)),
    "d4_cycle": tuple(range(8)),
}


def draw_turns(count: int, config: RunConfig, rng: np.random.Generator) -> np.ndarray:
    """Return for each tile which of `WAYS[config.augment]` it takes: an index, int64 (count,)."""
    ways = len(WAYS[config.augment])
    return rng.integers(0, ways, count) if ways > 1 else np.zeros(count, dtype=np.int64)


def turns_in_cycle(chosen: np.ndarray, count: int, epoch: int, seed: int) -> np.ndarray:
    """Return the turn of each chosen tile in an epoch, so that eight epochs show all eight.

    Each tile starts at a turn of its own and takes the next one in the next epoch (alternating
    flips, Jordan 2024, arXiv 2404.00498, for the eight flips and quarter turns of a square).

    Args:
        chosen: int64 (B,), numbers of the tiles among all training tiles.
        count: number of training tiles.
        epoch: number of the epoch, from 0.
        seed: of the first turns.

    Returns:
        int64 (B,) in 0..7, indices of `WAYS["d4_cycle"]`.
    """
    first = np.random.default_rng((seed, 2)).integers(0, 8, count)
    return (first[chosen] + epoch) % 8


def augment(
    images: Tensor, turns: np.ndarray, config: RunConfig, rng: np.random.Generator, size: int
) -> Tensor:
    """Return a batch as float32 in [0, 1], varied as the settings say.

    Args:
        images: uint8 (B, 3, 64, 64).
        turns: (B,) from `draw_turns`.
        config: the settings.
        rng: source of all other draws.
        size: size inside the model, to which random crops are brought at once.

    Returns:
        float32 (B, 3, 64, 64), or (B, 3, size, size) after a random crop.
    """
    ways = WAYS[config.augment]
    if len(ways) > 1:
        images = turned(images, np.asarray(ways)[turns])
    if config.shift:
        images = _shifted(images, config.shift, rng)
    floats = images.to(torch.float32).div_(255)
    if config.crop_scale < 1:
        floats = _cropped(floats, config.crop_scale, size, rng)
    if config.colour:
        floats = _coloured(floats, config.colour, rng)
    return _erased(floats, config.erase, rng) if config.erase else floats


def mix(
    images: Tensor, targets: Tensor, config: RunConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each image with another one of the batch, or put a patch of that one into it.

    mixup (Zhang et al. 2018, arXiv 1710.09412) blends, cutmix (Yun et al. 2019, arXiv 1905.04899)
    puts a patch; where both are asked, a coin decides for the whole batch.

    Args:
        images: float32 (B, 3, H, W).
        targets: labels int64 (B,), or probabilities float32 (B, 10) of one or more origins (B, k).
        config: the settings.
        rng: source of all draws.

    Returns:
        images like those given, and targets as they were, or float32 (B, 10 or k) when mixed.
    """
    if not (config.mixup or config.cutmix):
        return images, targets
    patch = config.cutmix > 0 and (config.mixup == 0 or rng.random() < 0.5)
    strength = config.cutmix if patch else config.mixup
    share = float(rng.beta(strength, strength))
    share = max(share, 1 - share)  # the first image stays the main one
    partner = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    if targets.ndim == 1:
        targets = F.one_hot(targets, len(CLASSES)).float()
    if patch:
        top, bottom, left, right = _box(*images.shape[-2:], 1 - share, rng)
        images = images.clone()
        images[..., top:bottom, left:right] = images[partner][..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
    else:
        images = images[partner].lerp_(images, share)
    return images, targets[partner].lerp_(targets, share)


def turned(images: Tensor, which: np.ndarray) -> Tensor:
    """Turn each image by `which % 4` quarters and mirror it where `which >= 4`.

    Args:
        images: (B, C, S, S), any dtype.
        which: whole numbers 0..7, (B,).
    """
    size = images.shape[-1]
    places = torch.arange(size * size).view(size, size)
    quarters = [torch.rot90(places, k) for k in range(4)]
    ways = torch.stack(quarters + [way.flip(1) for way in quarters]).flatten(1)
    source = ways.to(images.device)[torch.from_numpy(which).to(images.device)]
    source = source[:, None].expand(-1, images.shape[1], -1)  # (B, C, S * S)
    return images.flatten(2).gather(2, source).view_as(images)


def _shifted(images: Tensor, by: int, rng: np.random.Generator) -> Tensor:
    """Move each image by up to `by` pixels each way; the edges are reflected."""
    size = images.shape[-1]
    for dim in (2, 3):  # torch's own reflection knows no uint8
        first, last = images.narrow(dim, 1, by), images.narrow(dim, size - 1 - by, by)
        images = torch.cat([first.flip(dim), images, last.flip(dim)], dim)
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # (B, 3, 2 by + 1, 2 by + 1, 64, 64)
    down, right = torch.from_numpy(rng.integers(0, 2 * by + 1, (2, len(images)))).to(images.device)
    return windows[torch.arange(len(images), device=images.device), :, down, right]


def _cropped(images: Tensor, smallest: float, size: int, rng: np.random.Generator) -> Tensor:
    """Crop a random part of each image and bring it to `size`, as torchvision does.

    Areas are uniform in [smallest, 1], sides' ratios log-uniform in [3/4, 4/3].
    """
    count = len(images)
    area = rng.uniform(smallest, 1, count)
    ratio = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), count))
    width = np.minimum(1, np.sqrt(area * ratio))
    height = np.minimum(1, np.sqrt(area / ratio))
    theta = np.zeros((count, 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2] = rng.uniform(-1, 1, count) * (1 - width)
    theta[:, 1, 2] = rng.uniform(-1, 1, count) * (1 - height)
    where = torch.from_numpy(theta).to(images.device)
    grid = F.affine_grid(where, [count, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _coloured(images: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Change each image's brightness, then its contrast, then its saturation, as torchvision does.

    Each factor is uniform in [1 - share, 1 + share]. Contrast is about the image's mean grey,
    saturation about each pixel's own grey; what leaves [0, 1] is cut off after each step.
    """
    drawn = rng.uniform(1 - share, 1 + share, (3, len(images), 1, 1, 1)).astype(np.float32)
    bright, contrast, saturation = torch.from_numpy(drawn).to(images.device)
    images = (images * bright).clamp_(0, 1)
    mean = _grey(images).mean(dim=(-2, -1), keepdim=True)
    images = torch.lerp(mean, images, contrast).clamp_(0, 1)
    return torch.lerp(_grey(images), images, saturation).clamp_(0, 1)


def _grey(images: Tensor) -> Tensor:
    """Return the luma (ITU-R BT.601) of images (B, 3, H, W), as (B, 1, H, W)."""
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def _erased(images: Tensor, chance: float, rng: np.random.Generator) -> Tensor:
    """Fill a rectangle of some images with EuroSAT's mean colour.

    Random erasing (Zhong et al. 2020, arXiv 1708.04896): with probability `chance`, 2 to 33 % of
    the area, sides' ratio log-uniform in [0.3, 3.3].
    """
    images = images.clone()
    colour = torch.tensor(EUROSAT_MEAN, device=images.device).view(3, 1, 1)
    for i in np.flatnonzero(rng.random(len(images)) < chance):
        ratio = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
        box = _box(*images.shape[-2:], rng.uniform(0.02, 0.33), rng, ratio)
        images[i, :, box[0] : box[1], box[2] : box[3]] = colour
    return images


def _box(
    height: int, width: int, area: float, rng: np.random.Generator, ratio: float = 1.0
) -> tuple[int, int, int, int]:
    """Place a rectangle of a share of the area; return (top, bottom, left, right) in pixels."""
    h = min(height, round(height * math.sqrt(area / ratio)))
    w = min(width, round(width * math.sqrt(area * ratio)))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    return top, top + h, left, left + w
