"""Ask whether maps stay where the answer stays: under a little noise, and in a turned tile.

A tile turned by a quarter is the same place, seen from another side, and noise below a sensor's own
changes nothing that a person sees. A map that changes while the answer does not says little about
the answer (Alvarez-Melis and Jaakkola 2018, arXiv:1806.08049).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lulc_lib.arrays import whole_number
from lulc_lib.augmentation import turned
from lulc_lib.faithfulness.asking import targets_of
from lulc_lib.faithfulness.explainers import Explainer, maps_of
from lulc_lib.faithfulness.ranks import rank_correlation
from lulc_lib.predictions import predict
from lulc_lib.tiles import as_images

BACK = (0, 3, 2, 1, 4, 5, 6, 7)  # the way of `turned` that undoes each of its eight ways


def stability_noise(
    explainer: Explainer,
    model: nn.Module,
    images: Any,
    target: Any = None,
    sigma: float = 0.02,
    draws: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """Return how alike each map is to that of the tile with noise, where the answer stays.

    Args:
        explainer: any function `(model, images, target) -> maps (N, H, W)`.
        model: a model.
        images: as `predict` takes them.
        target: class to explain, one for all or one for each; None for what the model predicts.
        sigma: deviation of the normal noise, in the unit of the images (0.02 is 5 of 255 levels).
        draws: how many noisy copies of each tile are averaged over.
        seed: of the noise.

    Returns:
        float64 (N,): mean Spearman correlation in [-1, 1], higher is better; NaN where the
        predicted class changes in every draw.

    Raises:
        ValueError: if sigma or draws are out of range, or maps do not fit the images.
    """
    if not 0 <= sigma <= 1:
        raise ValueError(f"sigma must lie in [0, 1], got {sigma!r}")
    draws = whole_number("draws", draws)
    tiles = as_images(images)
    source = torch.Generator().manual_seed(seed)

    def noisy() -> Tensor:
        noise = torch.randn(tiles.shape, generator=source)
        return (tiles + sigma * noise).clamp_(0, 1)

    return _likeness(explainer, model, tiles, target, [(noisy, 0)] * draws)


def stability_turns(
    explainer: Explainer, model: nn.Module, images: Any, target: Any = None
) -> np.ndarray:
    """Return how alike each map is to those of the turned and mirrored tile, turned back.

    Args:
        explainer: as in `stability_noise`.
        model: a model.
        images: as `predict` takes them, square.
        target: as in `stability_noise`.

    Returns:
        float64 (N,): mean Spearman correlation in [-1, 1] over those of the seven other positions
        in which the predicted class stays, higher is better; NaN where it stays in none.

    Raises:
        ValueError: if maps do not fit the images.
    """
    tiles = as_images(images)
    ways = [(lambda way=way: _turned(tiles, way), way) for way in range(1, len(BACK))]
    return _likeness(explainer, model, tiles, target, ways)


def _likeness(
    explainer: Explainer, model: nn.Module, tiles: Tensor, target: Any, ways: list[Any]
) -> np.ndarray:
    """Return the mean correlation with maps of changed tiles whose answer stays, NaN for none.

    Args:
        explainer: as in `stability_noise`.
        model: a model.
        tiles: float32 (N, 3, H, W).
        target: as in `stability_noise`.
        ways: for each change a function that makes the tiles, and how `turned` turned them.
    """
    usual = predict(model, tiles).predicted
    wanted = usual if target is None else targets_of(model, tiles, target)
    maps = maps_of(explainer, model, tiles, wanted)
    total, count = np.zeros(len(tiles)), np.zeros(len(tiles))
    for make, way in ways:
        changed = make()
        stays = np.flatnonzero(predict(model, changed).predicted == usual)
        if len(stays) == 0:
            continue
        other = maps_of(explainer, model, changed[torch.from_numpy(stays)], wanted[stays])
        # A copy, since torch holds no array that is turned round or write-protected.
        back = _turned(torch.from_numpy(other.copy())[:, None], BACK[way])[:, 0].numpy()
        total[stays] += rank_correlation(maps[stays], back)
        count[stays] += 1
    return np.divide(total, count, out=np.full(len(tiles), np.nan), where=count > 0)


def _turned(images: Tensor, way: int) -> Tensor:
    return turned(images, np.full(len(images), way))
