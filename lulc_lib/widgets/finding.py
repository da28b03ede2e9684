"""Find tiles: pure functions from a state and what the models say to positions of tiles."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from lulc_lib.metrics import disagreement
from lulc_lib.predictions import Predictions
from lulc_lib.tiles import CLASSES, TileSet
from lulc_lib.widgets.state import ALL, State


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of each tile, for finding it.

    Attributes:
        names: N names.
        labels: int64 (N,).
        probabilities: model name -> float32 (N, 10).
    """

    names: tuple[str, ...]
    labels: np.ndarray
    probabilities: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, tiles: TileSet, predictions: Mapping[str, Predictions]) -> "Facts":
        """Gather the facts of tiles and of predictions of these very tiles."""
        found = {name: given.probabilities for name, given in predictions.items()}
        return cls(tiles.names, tiles.labels.numpy(), found)

    @cached_property
    def predicted(self) -> dict[str, np.ndarray]:
        """Predicted class by model, int64 (N,)."""
        return {name: p.argmax(axis=1) for name, p in self.probabilities.items()}

    @cached_property
    def confidence(self) -> dict[str, np.ndarray]:
        """Probability of the predicted class by model, (N,)."""
        return {name: p.max(axis=1) for name, p in self.probabilities.items()}

    @cached_property
    def loss(self) -> dict[str, np.ndarray]:
        """Cross-entropy by model, (N,)."""
        rows = np.arange(len(self.labels))
        return {
            name: -np.log(np.maximum(p[rows, self.labels], 1e-12))
            for name, p in self.probabilities.items()
        }

    @cached_property
    def disagreement(self) -> np.ndarray:
        """Largest distance between two models' probabilities, (N,) (`metrics.disagreement`)."""
        return disagreement(list(self.probabilities.values()) or [np.zeros((len(self.labels), 10))])

    @cached_property
    def position(self) -> dict[str, int]:
        """Where a tile is, by its name."""
        return {name: i for i, name in enumerate(self.names)}

    def judges(self, state: State) -> list[str]:
        """Return the models whose answers count for a state.

        Raises:
            ValueError: if what they say is not known (yet).
        """
        names = list(self.probabilities) if state.judge == ALL else [state.judge]
        missing = [name for name in names if name not in self.probabilities]
        if missing or not names:
            says, has = "the models predict", "they have"
            if missing:
                says, has = f"{missing[0]} predicts", "it has"
            raise ValueError(
                f"what {says} is not known yet: wait until {has} been through all tiles"
            )
        return names


def find(state: State, facts: Facts) -> np.ndarray:
    """Return the positions of the tiles that a state asks for, in its order, int64.

    Raises:
        ValueError: if it asks for what a model says before that is known.
    """
    keep = np.ones(len(facts.labels), dtype=bool)
    if state.label != ALL:
        keep &= facts.labels == CLASSES.index(state.label)
    if state.among:
        chosen = [facts.position[name] for name in state.among if name in facts.position]
        keep &= np.isin(np.arange(len(keep)), chosen)
    if asks_models(state):
        keep &= _by_answers(state, facts)
    found = np.flatnonzero(keep)
    if state.sort == "order":
        return found
    return found[np.argsort(_sort_key(state, facts)[found], kind="stable")]


def asks_models(state: State) -> bool:
    """Say whether a state filters by what models predict."""
    answers = (state.predicted, state.answer) != (ALL, ALL)
    return answers or state.confidence != (0.0, 1.0)


def _by_answers(state: State, facts: Facts) -> np.ndarray:
    judges = facts.judges(state)
    keep = np.ones(len(facts.labels), dtype=bool)
    right = np.stack([facts.predicted[name] == facts.labels for name in judges])
    if state.answer == "right":
        keep &= right.all(axis=0)
    elif state.answer == "wrong":
        keep &= ~right.all(axis=0)
    elif state.answer == "disagree":
        rows = np.stack(list(facts.predicted.values()))
        keep &= (rows != rows[0]).any(axis=0)
    asked = np.ones((len(judges), len(keep)), dtype=bool)
    if state.predicted != ALL:
        wanted = CLASSES.index(state.predicted)
        asked &= np.stack([facts.predicted[name] == wanted for name in judges])
    low, high = state.confidence
    sure = np.stack([facts.confidence[name] for name in judges])
    asked &= (sure >= low) & (sure <= high)
    return keep & asked.any(axis=0)


def _sort_key(state: State, facts: Facts) -> np.ndarray:
    if state.sort == "disagreement":
        return -facts.disagreement
    judges = facts.judges(state)
    if state.sort == "loss":
        return -np.max([facts.loss[name] for name in judges], axis=0)
    return np.min([facts.confidence[name] for name in judges], axis=0)


def confusion(facts: Facts, model: str) -> np.ndarray:
    """Count tiles by label (rows) and by what a model predicts (columns), int64 (10, 10)."""
    size = len(CLASSES)
    pairs = facts.labels * size + facts.predicted[model]
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def embed(features: np.ndarray) -> tuple[np.ndarray, float]:
    """Bring features to two dimensions: the two along which they spread most (PCA).

    Args:
        features: (N, D).

    Returns:
        places float32 (N, 2) in [-1, 1], one unit on both axes; and the share of the spread
        (variance) that they show. The sign of an axis is free: its largest value is positive.
    """
    values = torch.from_numpy(np.asarray(features, dtype=np.float32))
    values = values - values.mean(dim=0)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)  # the fast decomposition starts from a random guess
        rank = min(6, *values.shape)
        axes, sizes, _ = torch.pca_lowrank(values, q=rank, center=False, niter=4)
    places = torch.zeros(len(values), 2)
    places[:, : min(2, rank)] = axes[:, :2] * sizes[:2]
    largest = places.gather(0, places.abs().argmax(dim=0, keepdim=True))
    places = places * torch.where(largest < 0, -1.0, 1.0)
    spread = float(values.square().sum())
    share = float(sizes[:2].square().sum()) / spread if spread else 0.0
    return (places / places.abs().max().clamp(min=1e-12)).numpy(), min(1.0, share)


def colour_distance(image: np.ndarray, tiles: TileSet) -> float:
    """Return how far a picture's mean colour lies from the tiles', in units of what is usual.

    Args:
        image: uint8 (3, 64, 64).
        tiles: what is usual.

    Returns:
        Mahalanobis distance of mean colours over its 99th percentile among the tiles: above 1, the
        picture is farther off than 99 of 100 tiles.
    """
    means = tiles.images.float().mean(dim=(2, 3)).numpy().astype(np.float64)  # (N, 3)
    centre = means.mean(axis=0)
    spread = np.cov(means.T, bias=True) + np.eye(
        3
    )  # a grey level squared, so that few tiles do not make it 0
    inverse = np.linalg.inv(spread)

    def distance(colours: np.ndarray) -> np.ndarray:
        apart = colours - centre
        return np.sqrt(np.einsum("nc,cd,nd->n", apart, inverse, apart))

    usual = np.percentile(distance(means), 99)
    own = image.astype(np.float64).mean(axis=(1, 2))[None]
    return float(distance(own)[0] / max(usual, 1e-9))
