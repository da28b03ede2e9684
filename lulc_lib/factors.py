"""Concepts: the patterns that a layer's activations are made of, found without any label."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from lulc_lib.arrays import resized
from lulc_lib.explanations import explain
from lulc_lib.explanations.batch import Batch
from lulc_lib.models import TileClassifier
from lulc_lib.running import evaluating
from lulc_lib.tiles import TILE_SIZE, as_images

_TILES = 32  # through the model at once
_ROUNDS = 200  # of the factorisation, at most: scikit-learn's own


@dataclass(frozen=True, eq=False)
class Concepts:
    """What a layer's activations are made of: n directions, and where each is found.

    A cell's activations are nearly the sum of the directions, each times its value in that cell.
    Directions have length 1, so that values are lengths of activations and may be compared across
    concepts; the strongest concept comes first.

    Attributes:
        grids: float32 (N, n, h, w), not negative: how much of each concept is in each cell.
        heatmaps: float32 (N, n, 64, 64), `grids` resized bilinearly (align_corners=False).
        directions: float32 (n, C), not negative, each of length 1.
        layer: dotted name in `model.named_modules()`.
        explained: share of the variance of the positive activations that n concepts account for;
            1 where they do so wholly.
        kept: share of the layer's squared activations that is positive: 1 behind a ReLU, less in a
            ViT, where the rest is set to zero and no concept can speak of it.
    """

    grids: np.ndarray
    heatmaps: np.ndarray
    directions: np.ndarray
    layer: str
    explained: float
    kept: float

    def __len__(self) -> int:
        return len(self.directions)

    def __repr__(self) -> str:
        h, w = self.grids.shape[2:]
        return (
            f"Concepts({len(self)} at {self.layer}, grid {h}x{w}, {len(self.grids)} tiles, "
            f"{self.explained:.0%} of the variance)"
        )


def concepts(
    model: TileClassifier, images: Any, n: int = 6, layer: str | int = "auto", seed: int = 0
) -> Concepts:
    """Factorise a layer's activations into concepts by non-negative matrix factorisation.

    Deep Feature Factorization, Collins, Achanta and Süsstrunk 2018, arXiv:1806.10206: the cells of
    all tiles together, (N h w, C), become the product of a map of each concept and its direction.
    Nothing but activations is looked at, neither labels nor logits. Values below zero are set to
    zero first (`kept` says how much that leaves).

    Args:
        model: made by `create_model` or `load_checkpoint`; it comes back as it was.
        images: a TileSet, or images (N, 3, 64, 64), float32 in [0, 1] or uint8.
        n: how many concepts, at most as many as the layer has channels or the tiles have cells.
        layer: "auto", a dotted name or a number as in `layers(model)`, as for `explain`.
        seed: of the factorisation's start.

    Raises:
        TypeError: if model, images, n or layer have a wrong type.
        ValueError: if n is out of range, images do not fit, or the layer is unknown, has no grid,
            is nowhere positive or holds values that are not finite.
    """
    if not isinstance(n, int | np.integer) or isinstance(n, bool):
        raise TypeError(f"n must be a whole number of concepts, got {n!r}")
    tiles = as_images(images)
    where = explain(model, tiles[:1], "eigencam", layer=layer).layer  # found and checked as there
    maps = _activations(model, tiles, where)
    count, _, h, w = maps.shape
    cells = maps.permute(0, 2, 3, 1).flatten(0, 2).numpy()  # (N h w, C)
    if not 1 <= n <= min(cells.shape):
        raise ValueError(
            f"n must lie in 1..{min(cells.shape)} for {cells.shape[0]} cells of "
            f"{cells.shape[1]} channels, got {n}"
        )
    positive = _positive(cells, where)
    amounts, directions = _factorised(positive, n, seed)
    left = float(np.square(positive - amounts @ directions).sum(dtype=np.float64))
    spread = float(np.square(positive - positive.mean(axis=0)).sum(dtype=np.float64))
    grids = torch.from_numpy(amounts).view(count, h, w, n).permute(0, 3, 1, 2).contiguous()
    return Concepts(
        grids=grids.numpy(),
        heatmaps=resized(grids, TILE_SIZE),
        directions=directions,
        layer=where,
        explained=1 - left / spread if spread > 0 else 1.0,
        kept=float(np.square(positive).sum(dtype=np.float64))
        / float(np.square(cells).sum(dtype=np.float64)),
    )


def _activations(model: TileClassifier, tiles: Tensor, layer: str) -> Tensor:
    """Return the layer's activations as maps, float32 (N, C, h, w), on the CPU."""
    with torch.inference_mode(False), evaluating(model):
        parts = [
            Batch(model, part.clone(), None, layer, records=False).activations.cpu()
            for part in tiles.split(_TILES)
        ]
    return torch.cat(parts)


def _positive(cells: np.ndarray, layer: str) -> np.ndarray:
    if not np.isfinite(cells).all():
        raise ValueError(f"layer {layer!r} holds NaN or infinite activations; check the weights")
    if cells.max() <= 0:
        raise ValueError(f"layer {layer!r} is nowhere positive on these tiles; choose another")
    return cells.clip(min=0)


def _factorised(cells: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return amounts (cells, n) and directions (n, C) of length 1, the strongest first."""
    # NNDSVD starts from the data, so that the seed hardly matters; "a" leaves no exact zeros,
    # which coordinate descent could not leave again.
    factors = NMF(n, init="nndsvda", max_iter=_ROUNDS, random_state=seed)
    with warnings.catch_warnings():
        # It measures progress by its first step: who starts at the end never arrives.
        warnings.simplefilter("ignore", ConvergenceWarning)
        amounts = factors.fit_transform(cells)
    lengths = np.linalg.norm(factors.components_, axis=1)
    directions = factors.components_ / np.where(lengths > 0, lengths, 1)[:, None]
    amounts = amounts * lengths
    order = np.argsort(-np.linalg.norm(amounts, axis=0), kind="stable")
    return amounts[:, order].astype(np.float32), directions[order].astype(np.float32)
