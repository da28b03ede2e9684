"""Score predictions, with intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any

import numpy as np
import pandas as pd

from lulc_lib.arrays import softmax, whole_number
from lulc_lib.predictions import Predictions, check_predictions
from lulc_lib.tiles import CLASSES

ECE_BINS = 15  # equal-width bins of confidence, as in Guo et al. 2017 (arXiv 1706.04599)


class Interval(float):
    """A figure with its 95 % interval: a float that also has `.low` and `.high`.

    Args:
        value: the figure itself; what the float is.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    low: float
    high: float

    def __new__(cls, value: float, low: float, high: float) -> "Interval":
        """Make the float and put the ends beside it."""
        self = super().__new__(cls, value)
        self.low, self.high = float(low), float(high)
        return self

    def __getnewargs__(self) -> tuple[float, float, float]:
        return self.value, self.low, self.high

    @property
    def value(self) -> float:
        """The figure as a plain float."""
        return float(self)

    def __repr__(self) -> str:
        return f"Interval({self.value!r}, {self.low!r}, {self.high!r})"

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_dict(self) -> dict[str, float]:
        """Return the three numbers as JSON-able data."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, eq=False)
class Report:
    """Figures of a model on some tiles, each with a bootstrap 95 % interval over tiles.

    Attributes:
        macro_f1: mean F1 over the classes that occur among labels or predictions, as
            scikit-learn and torchmetrics take it.
        macro_auprc: mean average precision over the classes that occur among the labels.
        accuracy: share of tiles whose predicted class is their label.
        ece: expected calibration error with 15 equal-width bins (Guo et al. 2017).
        per_class: DataFrame indexed by class with `producers_accuracy` (recall), `users_accuracy`
            (precision), `f1`, `ap` and `support`; NaN where the tiles leave a figure undefined.
        confusion: int64 (10, 10), rows are labels, columns predictions.
        n: number of tiles.
        model: name of the model.
        source: kind of tiles.
        digest: digest of the whole data set.
        part: which part of it.
        training_tiles: how many of the tiles the model was trained on, None where not known.
        tta: whether predictions were averaged over flips and turns.
        resamples: bootstrap resamples behind the intervals.
        seed: seed of the resamples.
    """

    macro_f1: Interval
    macro_auprc: Interval
    accuracy: Interval
    ece: Interval
    per_class: pd.DataFrame
    confusion: np.ndarray
    n: int
    model: str = ""
    source: str = ""
    digest: str = ""
    part: str = ""
    training_tiles: int | None = None
    tta: bool = False
    resamples: int = 0
    seed: int = 0

    def __repr__(self) -> str:
        return (
            f"Report({self.model or '?'} on {self.n:,} tiles, {self.part or self.source or '?'}: "
            f"macro-F1 {self.macro_f1}, AUPRC {self.macro_auprc}, accuracy {self.accuracy}, "
            f"ECE {self.ece})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-able data; NaN becomes None."""
        table = self.per_class.astype(object).where(self.per_class.notna(), None)
        return {
            **{name: getattr(self, name).to_dict() for name in _FIGURES},
            "per_class": table.to_dict(orient="index"),
            "confusion": self.confusion.tolist(),
            **{name: getattr(self, name) for name in ("n", "model", "source", "digest", "part")},
            "training_tiles": self.training_tiles,
            "tta": self.tta,
            "resamples": self.resamples,
            "seed": self.seed,
        }


_FIGURES = ("macro_f1", "macro_auprc", "accuracy", "ece")


def disagreement(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Return the largest distance between two models' probabilities of each tile, in [0, 1].

    The distance is total variation: the share of probability that would have to move.

    Args:
        probabilities: one (N, 10) for each model; of one model alone all is 0.

    Returns:
        float64 (N,).
    """
    rows = [np.asarray(p, dtype=np.float64) for p in probabilities]
    apart = np.zeros(len(rows[0]) if rows else 0)
    for i, one in enumerate(rows):
        for other in rows[:i]:
            apart = np.maximum(apart, 0.5 * np.abs(one - other).sum(axis=1))
    return apart


def evaluate(
    predictions: Predictions,
    *,
    allow_training_tiles: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Report:
    """Score predictions against their labels, with percentile bootstrap intervals over tiles.

    Figures agree with scikit-learn's `f1_score(average="macro")`, `average_precision_score` per
    class, `accuracy_score`, `recall_score` and `precision_score`. A class that the tiles lack is
    left out of the means rather than counted as 0: macro-F1 averages the classes that occur among
    labels or predictions, AUPRC those that occur among labels; each resample likewise.

    An interval is the 2.5th to 97.5th percentile over `resamples` draws of N tiles with
    replacement: it covers the choice of test tiles, not another training run. That of the ECE is
    moved down by the mean excess of the draws over the value, since every draw adds noise that a
    sum of absolute differences turns into error.

    Args:
        predictions: of labelled tiles.
        allow_training_tiles: score also where some tiles were trained on.
        resamples: how many draws, at least 1.
        seed: of the draws.

    Raises:
        TypeError: if they are no Predictions.
        ValueError: if there are no labels, no tiles or no resamples, or if the model was trained
            on some of the tiles.
    """
    labels = _scorable(predictions, allow_training_tiles, resamples)
    scorer = _Scorer(labels, predictions.probabilities, predictions.predicted)
    once = np.ones((1, len(labels)), dtype=np.int32)
    values = scorer.figures(once)
    draws = [scorer.figures(weights) for weights in _draws(len(labels), resamples, seed)]
    return Report(
        **{
            name: _interval(values[name][0], np.concatenate([d[name] for d in draws]), name)
            for name in _FIGURES
        },
        per_class=scorer.per_class(),
        confusion=scorer.confusion(once)[0],
        n=len(labels),
        model=predictions.model,
        source=predictions.source,
        digest=predictions.digest,
        part=predictions.part,
        training_tiles=None if predictions.seen is None else int(predictions.seen.sum()),
        tta=predictions.tta,
        resamples=resamples,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two models on the same tiles: by how much the second is ahead of the first.

    Attributes:
        models: names of the first and the second.
        macro_f1: second less first, with the interval of the paired bootstrap; > 0 where the
            second is better. Likewise macro_auprc and accuracy.
        macro_auprc: see macro_f1.
        accuracy: see macro_f1.
        per_class: DataFrame indexed by class with `support` (tiles with that label), F1 as `first`
            and `second`, their `difference`, and its paired 95 % interval as `low` and `high`.
        both_right: number of tiles that both get right.
        first_alone: that the first alone gets right.
        second_alone: that the second alone gets right.
        neither: that neither gets right.
        p_value: of McNemar's exact test, two-sided, in (0, 1]: how likely a division of the tiles
            that one model alone gets right is at least as uneven, were the models equally good.
        n: number of tiles.
    """

    models: tuple[str, str]
    macro_f1: Interval
    macro_auprc: Interval
    accuracy: Interval
    per_class: pd.DataFrame
    both_right: int
    first_alone: int
    second_alone: int
    neither: int
    p_value: float
    n: int

    def __repr__(self) -> str:
        first, second = self.models
        low, high = self.macro_f1.low, self.macro_f1.high
        return (
            f"Comparison({second} less {first} on {self.n:,} tiles: macro-F1 "
            f"{self.macro_f1.value:+.4f} [{low:+.4f}, {high:+.4f}], McNemar p = {self.p_value:.2g})"
        )


def compare(
    first: Predictions,
    second: Predictions,
    *,
    allow_training_tiles: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same tiles, tile by tile.

    Each bootstrap draw of tiles scores both models, so that what is easy or hard for both cancels
    out and the interval of the difference is shorter than two separate intervals suggest. McNemar's
    test (McNemar 1947, doi:10.1007/BF02295996), in its exact form, looks at the tiles that one
    model alone gets right. Both speak of the choice of test tiles, not of another training.

    Args:
        first: predictions of labelled tiles by one model.
        second: predictions of the same tiles, in the same order, by the other.
        allow_training_tiles: compare also where a model was trained on some of the tiles.
        resamples: how many draws, at least 1.
        seed: of the draws.

    Raises:
        TypeError: if one of them is no Predictions.
        ValueError: if there are no labels, tiles or resamples, if the tiles are not the same, or if
            a model was trained on some of them.
    """
    both = first, second
    labels, _ = (_scorable(one, allow_training_tiles, resamples) for one in both)
    _check_same_tiles(first, second)
    scorers = [_Scorer(labels, one.probabilities, one.predicted) for one in both]

    def apart(weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return second less first for each row of weights, F1 by class as well."""
        one, other = (
            scorer.figures(weights) | {"f1": _rates(scorer.confusion(weights))["f1"]}
            for scorer in scorers
        )
        return {name: other[name] - one[name] for name in one}

    values = apart(np.ones((1, len(labels)), dtype=np.int32))
    drawn = [apart(weights) for weights in _draws(len(labels), resamples, seed)]
    draws = {name: np.concatenate([one[name] for one in drawn]) for name in values}
    right = first.correct, second.correct
    alone = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
    return Comparison(
        models=(first.model, second.model),
        **{
            name: _interval(values[name][0], draws[name], name)
            for name in ("macro_f1", "macro_auprc", "accuracy")
        },
        per_class=_differences([scorer.per_class() for scorer in scorers], draws["f1"]),
        both_right=int((right[0] & right[1]).sum()),
        first_alone=alone[0],
        second_alone=alone[1],
        neither=int((~right[0] & ~right[1]).sum()),
        p_value=_mcnemar(*alone),
        n=len(labels),
    )


def _scorable(predictions: Predictions, allow_training_tiles: bool, resamples: int) -> np.ndarray:
    """Return the labels of predictions that may be scored."""
    check_predictions(predictions)
    labels = predictions._need_labels()
    if not len(labels):
        raise ValueError("there are no predictions to evaluate: the set of tiles is empty")
    whole_number("resamples", resamples)
    if not allow_training_tiles:
        _refuse_training_tiles(predictions)
    return labels


def _check_same_tiles(first: Predictions, second: Predictions) -> None:
    if first.names == second.names and first.digest != second.digest:
        known = [one.digest[:8] or "none" for one in (first, second)]
        raise ValueError(
            "the two models' tiles have the same names, but the digests of their data sets are "
            f"{known[0]} and {known[1]}; predict tiles of one data set with both"
        )
    if first.names != second.names:
        shared = len(set(first.names) & set(second.names))
        raise ValueError(
            f"the two models must have predicted the same tiles in the same order: {len(first):,} "
            f"and {len(second):,} tiles have {shared:,} names in common; predict the same part of "
            "the same split with both"
        )
    if not np.array_equal(first._need_labels(), second._need_labels()):
        raise ValueError("the two models' predictions give the same tiles other labels")


def _differences(tables: Sequence[pd.DataFrame], draws: np.ndarray) -> pd.DataFrame:
    """Return F1 by class of both models, and the difference with its interval."""
    first, second = (table.f1 for table in tables)
    ends = np.full((2, len(CLASSES)), np.nan)
    for c, own in enumerate(draws.T):
        if np.isfinite(own).any():
            ends[:, c] = np.nanpercentile(own, [2.5, 97.5])
    columns = {"support": tables[0].support, "first": first, "second": second}
    return pd.DataFrame(columns).assign(difference=second - first, low=ends[0], high=ends[1])


def _mcnemar(first_alone: int, second_alone: int) -> float:
    """Return the exact two-sided p-value of a division that a fair coin would make, in (0, 1]."""
    count = first_alone + second_alone
    tail = sum(comb(count, k) for k in range(min(first_alone, second_alone) + 1))
    return min(1.0, 2 * tail / 2**count)


def tempered(predictions: Predictions, temperature: float) -> Predictions:
    """Return predictions whose logits are divided by a temperature; no predicted class changes.

    Raises:
        TypeError: if they are no Predictions.
        ValueError: if the temperature is not a finite number above 0.
    """
    check_predictions(predictions)
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature!r}")
    return replace(predictions, logits=predictions.logits / temperature)


def temperature(predictions: Predictions) -> float:
    """Return the temperature that makes the mean cross-entropy of these predictions smallest.

    Fit it on validation tiles and apply it to others with `tempered` (Guo et al. 2017, arXiv
    1706.04599). In 1 / T the loss is convex; its derivative is the mean over tiles of the expected
    logit less the label's. Its root is bisected between T = 0.01 and T = 100. Where every tile is
    right the loss falls for ever smaller T, and 0.01 is returned.

    Args:
        predictions: of labelled tiles that the model was not trained on.

    Raises:
        TypeError: if they are no Predictions.
        ValueError: if there are no labels, or no tiles.
    """
    check_predictions(predictions)
    labels = predictions._need_labels()
    if not len(labels):
        raise ValueError("a temperature needs predictions, and there are none")
    logits = predictions.logits.astype(np.float64)
    own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    low, high = np.log(1e-2), np.log(1e2)  # of 1 / T
    for _ in range(50):
        middle = (low + high) / 2
        sharper = logits * np.exp(middle)
        expected = (softmax(sharper) * logits).sum(axis=1)
        low, high = (low, middle) if (expected - own).mean() > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


@dataclass(frozen=True, eq=False)
class CoverageCurve:
    """How right a model is where it answers only the tiles that it is surest of.

    Attributes:
        coverage: share of the tiles that are answered, 1/N to 1, float64 (N,).
        accuracy: share of these that are right, float64 (N,).
        area: mean error rate over all coverages (AURC, Geifman et al. 2019, arXiv 1805.08206), with
            its bootstrap 95 % interval over tiles; lower is better.
        chance: what the area is expected to be if tiles were answered in random order: the error
            rate.
        best: what it would be if all wrong tiles came last.
        model: name of the model.
    """

    coverage: np.ndarray
    accuracy: np.ndarray
    area: Interval
    chance: float
    best: float
    model: str = ""

    def __repr__(self) -> str:
        return (
            f"CoverageCurve({self.model or '?'} on {len(self.coverage):,} tiles: area "
            f"{self.area:.5f}, random order {self.chance:.5f}, best {self.best:.5f})"
        )


def coverage(
    predictions: Predictions,
    *,
    allow_training_tiles: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> CoverageCurve:
    """Order tiles by falling confidence and say how many of the first 1, 2, ..., N are right.

    Tiles of equal confidence count as answered in random order: each carries the mean error of its
    group.

    Args:
        predictions: of labelled tiles.
        allow_training_tiles: score also where some tiles were trained on.
        resamples: how many bootstrap draws of tiles, at least 1.
        seed: of the draws.

    Raises:
        TypeError: if they are no Predictions.
        ValueError: if there are no labels, no tiles or no resamples, or if the model was trained
            on some of the tiles.
    """
    labels = _scorable(predictions, allow_training_tiles, resamples)
    confidence, wrong = predictions.confidence, predictions.predicted != labels
    order = np.argsort(-confidence, kind="stable")
    group = np.unique(-confidence[order], return_inverse=True)[1]
    errors, count = wrong[order].astype(np.float64), len(labels)
    once = np.ones(count, dtype=np.int64)
    risk = _risks(errors, group, once)
    draws = [
        _risks(errors, group, row[order]).mean()
        for rows in _draws(count, resamples, seed)
        for row in rows
    ]
    return CoverageCurve(
        coverage=np.arange(1, count + 1) / count,
        accuracy=1 - risk,
        area=_interval(risk.mean(), np.array(draws), "aurc"),
        chance=float(errors.mean()),
        best=float(_risks(np.sort(errors), np.arange(count), once).mean()),
        model=predictions.model,
    )


def _risks(errors: np.ndarray, group: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the error rate of the first 1, 2, ... of ranked tiles, each counted as its weight."""
    held = np.bincount(group, weights)
    mean = np.bincount(group, weights * errors) / np.maximum(held, 1)
    ranked = np.repeat(mean[group], weights)
    return ranked.cumsum() / np.arange(1, len(ranked) + 1)


class _Scorer:
    """Figures of fixed predictions under weights (R, N) that say how often each tile counts.

    Ones give the figures themselves, multinomial counts give bootstrap resamples: ranking and
    binning are done once, each draw is then a few sums.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray):
        self.cells = labels * len(CLASSES) + predicted
        self.rankings = [_ranking(labels == c, probabilities[:, c]) for c in range(len(CLASSES))]
        confidence = np.take_along_axis(probabilities, predicted[:, None], axis=1)[:, 0]
        bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
        self.gaps = np.zeros((len(labels), ECE_BINS))  # one entry a row: correct - confidence
        self.gaps[np.arange(len(labels)), bins] = (labels == predicted) - confidence

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return each figure for each row of weights, as float64 (R,)."""
        confusion = self.confusion(weights)
        count = weights.sum(axis=1)
        return {
            "macro_f1": np.nanmean(_rates(confusion)["f1"], axis=1),
            "macro_auprc": np.nanmean(self.average_precision(weights), axis=1),
            "accuracy": np.trace(confusion, axis1=1, axis2=2) / count,
            "ece": np.abs(weights.astype(np.float64) @ self.gaps).sum(axis=1) / count,
        }

    def confusion(self, weights: np.ndarray) -> np.ndarray:
        """Return int64 (R, 10, 10), rows are labels."""
        rows, size = len(weights), len(CLASSES) ** 2
        cells = (self.cells + size * np.arange(rows)[:, None]).ravel()
        counts = np.bincount(cells, weights.ravel(), minlength=rows * size)
        return counts.astype(np.int64).reshape(rows, len(CLASSES), len(CLASSES))

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Return float64 (R, 10): the sum over thresholds of recall gained times precision.

        Equal scores share one threshold. Recall rises only at thresholds with a positive tile, so
        only these are visited. NaN where a draw has no tile of the class.
        """
        result = np.full((len(weights), len(CLASSES)), np.nan)
        for c, (order, positive, ends) in enumerate(self.rankings):
            ranked = weights[:, order]
            above = ranked.cumsum(axis=1, dtype=np.int32)[:, ends]
            hits = (ranked * positive).cumsum(axis=1, dtype=np.int32)[:, ends]
            gained = np.diff(hits, axis=1, prepend=0)
            terms = gained * (hits / np.maximum(above, 1))
            found = hits[:, -1] if len(ends) else np.zeros(len(weights))
            np.divide(terms.sum(axis=1), found, out=result[:, c], where=found > 0)
        return result

    def per_class(self) -> pd.DataFrame:
        """Return the table of figures by class."""
        once = np.ones((1, len(self.cells)), dtype=np.int32)
        confusion = self.confusion(once)[0]
        columns = {**_rates(confusion), "ap": self.average_precision(once)[0]}
        columns["support"] = confusion.sum(axis=1)
        return pd.DataFrame(columns, index=pd.Index(CLASSES, name="class"))


def _ranking(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, ...]:
    """Order tiles by falling score; mark positives, and the ends of ties that hold a positive."""
    order = np.argsort(-scores, kind="stable")
    ranked = positive[order]
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    holds = np.diff(ranked.cumsum()[ends], prepend=0) > 0
    return order, ranked.astype(np.int32), ends[holds]


def _rates(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return recall, precision and F1 of confusion counts (..., 10, 10), each (..., 10).

    As in scikit-learn, precision is 0 for a class that occurs but is never predicted, and F1 is 0
    for one that is predicted but never occurs. What is undefined is NaN.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where((predicted == 0) & (support > 0), 0.0, hits / predicted)
        return {
            "producers_accuracy": hits / support,
            "users_accuracy": precision,
            "f1": 2 * hits / (support + predicted),
        }


def _draws(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each tile is drawn, int32 (R, N), in chunks that fit the cache."""
    generator = np.random.default_rng(seed)
    chunk = max(1, 2**19 // count)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * count)
        yield counts.reshape(rows, count).astype(np.int32)


def _interval(value: float, draws: np.ndarray, name: str) -> Interval:
    if name == "ece":
        draws = np.clip(draws - (draws.mean() - value), 0, 1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, min(low, value), max(high, value))


def _refuse_training_tiles(predictions: Predictions) -> None:
    if predictions.seen is None or not predictions.seen.any():
        return
    count, first = int(predictions.seen.sum()), predictions.names[int(predictions.seen.argmax())]
    raise ValueError(
        f"{predictions.model or 'the model'} was trained on {count:,} of these "
        f"{len(predictions):,} tiles, such as {first!r}: its figures would flatter it. Evaluate "
        "it on other tiles, such as the test part of the split it was trained on, or say "
        "allow_training_tiles=True (--allow-training-tiles)"
    )
