"""What stands behind an error: labels that a model doubts, and the training tiles nearest to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import NearestNeighbors

from lulc_lib.predictions import Predictions, check_predictions
from lulc_lib.tiles import TileSet


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """Tiles whose label a model's probabilities speak against.

    Attributes:
        thresholds: mean probability of each class over the tiles that are labelled so, float64
            (C,); infinite for a class that no tile has.
        joint: the confident joint: how many tiles of each label (row) are confidently of each
            class (column), int64 (C, C); tiles that no threshold is met for are left out.
        positions: the tiles off its diagonal that the model gets wrong, int64, those whose label is
            least probable first.
        suggested: the class of each that the column says, int64.
    """

    thresholds: np.ndarray
    joint: np.ndarray
    positions: np.ndarray
    suggested: np.ndarray

    def __repr__(self) -> str:
        counted = self.joint.sum()
        return f"LabelIssues({len(self)} of {counted:,} tiles that are counted)"

    def __len__(self) -> int:
        return len(self.positions)


def label_issues(predictions: Predictions) -> LabelIssues:
    """Find labels that a model speaks against, by confident learning.

    A tile is counted as class j if j's probability reaches the mean that j has over the tiles
    labelled j, less 1e-6 as in their package cleanlab; of several such classes the most probable
    counts (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068, equation 2). A tile counted as
    another class than its label is an issue, unless its label is the predicted class, as in
    cleanlab's `find_label_issues(..., filter_by="confident_learning")`. The probabilities must be
    of tiles that the model was not trained on.

    Args:
        predictions: of labelled tiles.

    Raises:
        TypeError: if they are no Predictions.
        ValueError: if there are no labels, or the model was trained on some of the tiles.
    """
    check_predictions(predictions)
    labels, probabilities = predictions._need_labels(), predictions.probabilities
    if predictions.seen is not None and predictions.seen.any():
        raise ValueError(
            f"{predictions.model or 'the model'} was trained on {int(predictions.seen.sum()):,} of "
            f"these {len(predictions):,} tiles and has learnt their labels; give predictions of "
            "other tiles"
        )
    classes = probabilities.shape[1]
    rows = [probabilities[labels == k, k] for k in range(classes)]
    thresholds = np.array([row.mean() if len(row) else np.inf for row in rows])
    reached = np.where(probabilities >= thresholds - 1e-6, probabilities, -1.0)
    counted, given = reached.max(axis=1) >= 0, reached.argmax(axis=1)
    cells = labels[counted] * classes + given[counted]
    joint = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    found = np.flatnonzero(counted & (given != labels) & ~predictions.correct)
    found = found[np.argsort(probabilities[found, labels[found]], kind="stable")]
    return LabelIssues(thresholds, joint, found, given[found])


def thumbnails(tiles: TileSet, side: int = 16) -> np.ndarray:
    """Return each tile averaged to `side` x `side` cells, one row each, float32, in [0, 1].

    The mean of a cell leaves out noise of single pixels, and rows are short enough to compare many
    tiles with many others.

    Raises:
        ValueError: if the tiles do not divide into such cells.
    """
    bands, height, width = tiles.images.shape[1:]
    if side < 1 or height % side or width % side:
        raise ValueError(f"tiles of {height} x {width} pixels do not divide into {side} x {side}")
    shape = (-1, bands, side, height // side, side, width // side)
    parts = [
        chunk.reshape(shape).float().mean(dim=(3, 5)).flatten(1) / 255
        for chunk in tiles.images.split(2048)
    ]
    return np.concatenate([np.zeros((0, bands * side**2), np.float32), *map(np.asarray, parts)])


def nearest(
    queries: np.ndarray, references: np.ndarray, count: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest rows of a table for each row of another, nearest first.

    Args:
        queries: (N, D), such as features or thumbnails.
        references: (M, D), among which to look.
        count: how many for each query, at most M.

    Returns:
        positions int64 (N, count), and distances float32 (N, count): the root of the mean squared
        difference over the D columns.

    Raises:
        ValueError: if the tables have other widths, or there are not `count` references.
    """
    queries, references = (np.asarray(rows, dtype=np.float32) for rows in (queries, references))
    if queries.ndim != 2 or references.ndim != 2 or queries.shape[1] != references.shape[1]:
        raise ValueError(
            f"queries and references must be tables of one width, got {queries.shape} and "
            f"{references.shape}"
        )
    if not 1 <= count <= len(references):
        raise ValueError(f"count must lie in 1..{len(references)}, got {count!r}")
    if not len(queries):
        return np.zeros((0, count), np.int64), np.zeros((0, count), np.float32)
    middle = references.mean(axis=0)  # far from 0, squares would lose digits
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(references - middle)
    distances, positions = search.kneighbors(queries - middle)
    return positions, (distances / references.shape[1] ** 0.5).astype(np.float32)


def votes(labels: Sequence[int] | np.ndarray, positions: np.ndarray, classes: int) -> np.ndarray:
    """Count the labels of the neighbours of each query, int64 (N, classes)."""
    near = np.asarray(labels)[positions]
    return np.stack([(near == k).sum(axis=1) for k in range(classes)], axis=1)
