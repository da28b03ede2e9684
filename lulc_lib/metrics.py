"""Predict tiles, and score the predictions with intervals."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lulc_lib import models
from lulc_lib.augmentation import WAYS, turned
from lulc_lib.kept import Kept, read_kept
from lulc_lib.models import evaluating
from lulc_lib.storage import (
    cached_arrays,
    digest_arrays,
    digest_files,
    load_arrays,
    processor_cache,
)
from lulc_lib.tiles import CLASSES, TILE_SIZE, TileSet, as_images

SAME_LOGITS = 1e-3  # processors and batch sizes change float32 logits by less
ECE_BINS = 15  # equal-width bins of confidence, as in Guo et al. 2017 (arXiv 1706.04599)
_BATCH_PIXELS = {"cpu": 2**20, "cuda": 2**24}  # pixels inside the model at once: bounds the memory
_FIRST_BATCH = 4  # on a processor: small, and watched to choose the size of the others
_CACHE_SHARE = 1 / 4  # of the processor's cache for a layer's largest output; its input is near
_USUAL_CACHE = 2**24  # bytes, where the system does not say


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about some tiles.

    Attributes:
        logits: float32 (N, 10).
        labels: int64 (N,), or None where the truth is not known.
        names: N names of tiles.
        features: float16 (N, D), what the last linear layer saw, or None.
        source: kind of tiles, as in `TileSet.source`.
        digest: digest of the whole data set the tiles came from.
        part: which part of it.
        model: name of the model.
        seen: bool (N,), the tiles that the model was trained on, or None where that is not known.
        seconds: time the model took, 0 where it did not run.
        tta: whether the logits are logarithms of probabilities averaged over flips and turns.
        read_from: name of the file beside a checkpoint that the logits were read from, "" where
            the model has run.

    Raises:
        ValueError: if shapes do not fit together, or a value is not finite.
    """

    logits: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...]
    features: np.ndarray | None = None
    source: str = ""
    digest: str = ""
    part: str = ""
    model: str = ""
    seen: np.ndarray | None = None
    seconds: float = 0.0
    tta: bool = False
    read_from: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "logits", np.asarray(self.logits, dtype=np.float32))
        object.__setattr__(self, "names", tuple(self.names))
        expected = (len(self.names), len(CLASSES))
        if self.logits.shape != expected:
            raise ValueError(
                f"logits must be {expected} to go with {expected[0]} names, got {self.logits.shape}"
            )
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.labels, len(self)))
        for name in ("features", "seen"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self):
                raise ValueError(f"{name} must have {len(self)} rows, got {len(value)}")
        _check_finite("logits", self.logits, self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        tiles = ", ".join(word for word in (self.source, self.part) if word)
        return f"Predictions({len(self):,} tiles, {tiles or 'images'}, by {self.model or '?'})"

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, float64 (N, 10)."""
        shifted = np.exp(self._shifted())
        return shifted / shifted.sum(axis=1, keepdims=True)

    @property
    def predicted(self) -> np.ndarray:
        """Class with the largest logit, int64 (N,)."""
        return self.logits.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, float64 (N,) in [0.1, 1]."""
        return self.probabilities.max(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """Tiles whose predicted class is their label, bool (N,)."""
        return self.predicted == self._need_labels()

    @property
    def losses(self) -> np.ndarray:
        """Cross-entropy of each tile in nats, float64 (N,)."""
        shifted = self._shifted()
        own = np.take_along_axis(shifted, self._need_labels()[:, None], axis=1)[:, 0]
        return np.log(np.exp(shifted).sum(axis=1)) - own

    def _shifted(self) -> np.ndarray:
        logits = self.logits.astype(np.float64)
        return logits - logits.max(axis=1, keepdims=True)

    def _need_labels(self) -> np.ndarray:
        if self.labels is None:
            raise ValueError(
                f"the {len(self):,} predictions have no labels: predict a TileSet, or add them "
                "with dataclasses.replace(predictions, labels=...)"
            )
        return self.labels


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


# --- predicting ----------------------------------------------------------------------------------


def predict(
    model: nn.Module,
    tiles: Any,
    features: bool = False,
    *,
    batch_size: int | None = None,
    precision: str = "float32",
    progress: bool = False,
    cache: bool = False,
    tta: bool = False,
) -> Predictions:
    """Run a model over tiles, on the device its parameters are on.

    Tiles stay uint8 until their batch comes up. The model is in eval mode meanwhile and gets its
    own mode back, also after an error.

    Args:
        model: a `TileClassifier`, or any module from images (N, 3, 64, 64) to logits (N, 10).
        tiles: a TileSet; or images uint8, or float32 in [0, 1], (N, 3, 64, 64), without labels.
        features: also keep what the last linear layer saw.
        batch_size: tiles at once; default: as many as keep the memory small at the model's size,
            and on a processor no more than its cache holds.
        precision: "float32", or "bfloat16" for autocast: faster where the processor has it,
            logits within about 1 %.
        progress: show a bar.
        cache: read the logits from the file of predictions beside the model's checkpoint, if it
            has one that speaks of these weights, settings and tiles; else keep the result in the
            cache folder, under the digests of weights, model, tiles and settings. A wrapped
            module is always run: its code has no digest.
        tta: test-time augmentation: average the probabilities over the tile's eight flips and
            quarter turns, at eight times the cost. Report such figures beside those of a single
            view, not in their place.

    Raises:
        TypeError: if images have another dtype, or the model gives no features.
        ValueError: if images have another shape or range, a setting is unknown, features are
            asked together with tta, or the model returns something else than finite logits
            (N, 10).

    Warns:
        KeptPredictionsWarning: with `cache`, if the checkpoint's file of predictions is damaged
            or was written for other weights; it is not used then.
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision must be float32 or bfloat16, got {precision!r}")
    if batch_size is not None and (isinstance(batch_size, bool) or batch_size < 1):
        raise ValueError(f"batch_size must be at least 1, got {batch_size!r}")
    if features and not hasattr(model, "forward_with_features"):
        raise TypeError(
            f"{type(model).__name__} gives no features; wrap it with create_model(module, ...)"
        )
    if features and tta:
        raise ValueError("features belong to one view of a tile: leave out features or tta")
    images = _undivided(tiles)
    is_set = isinstance(tiles, TileSet)
    names = tiles.names if is_set else tuple(f"image {i}" for i in range(len(images)))

    def compute() -> dict[str, np.ndarray]:
        start = time.perf_counter()
        arrays = _forward(model, images, features, batch_size, precision, progress, tta)
        for kind, values in arrays.items():
            _check_finite(kind, values, names)
        return {**arrays, "seconds": np.array(time.perf_counter() - start)}

    if cache and getattr(model, "spec", None) is not None:
        key = _cache_key(model, images, precision, features, tta)
        kept = _kept(model, tiles, key)
        if kept is not None:
            return _as_predictions(model, tiles, names, _arrays(kept), tta, kept.file)
        arrays = cached_arrays("predictions", key, compute)
    else:
        arrays = compute()
    return _as_predictions(model, tiles, names, arrays, tta)


def cached_predictions(
    model: nn.Module, tiles: TileSet, features: bool = False, precision: str = "float32"
) -> Predictions | None:
    """Return what `predict(..., cache=True)` need not compute, None where it must."""
    if getattr(model, "spec", None) is None:
        return None
    key = _cache_key(model, tiles.images, precision, features, tta=False)
    kept = _kept(model, tiles, key)
    if kept is not None:
        return _as_predictions(model, tiles, tiles.names, _arrays(kept), False, kept.file)
    arrays = load_arrays("predictions", key)
    return None if arrays is None else _as_predictions(model, tiles, tiles.names, arrays, False)


def _cache_key(
    model: nn.Module, images: Tensor, precision: str, features: bool, tta: bool
) -> dict[str, Any]:
    return {
        **model_key(model, precision, features, tta),
        "code": digest_files(Path(__file__), Path(models.__file__)),
        "images": digest_arrays(images.cpu().numpy()),
    }


def model_key(
    model: nn.Module, precision: str = "float32", features: bool = False, tta: bool = False
) -> dict[str, Any]:
    """Return what the logits depend on beside the tiles and our code, as JSON-able data."""
    return {
        "precision": precision,
        "features": bool(features),
        "tta": bool(tta),
        "spec": model.spec,
        "weights": weights_digest(model),
    }


def _as_predictions(
    model: nn.Module,
    tiles: Any,
    names: tuple[str, ...],
    arrays: Mapping[str, np.ndarray],
    tta: bool,
    read_from: str = "",
) -> Predictions:
    is_set = isinstance(tiles, TileSet)
    trained_on = getattr(model, "trained_on", None)
    return Predictions(
        logits=arrays["logits"],
        labels=tiles.labels.numpy().copy() if is_set else None,
        names=names,
        features=arrays.get("features"),
        source=tiles.source if is_set else "images",
        digest=tiles.digest if is_set else "",
        part=tiles.part if is_set else "",
        model=getattr(model, "name", type(model).__name__),
        seen=trained_on.contains(tiles) if is_set and trained_on is not None else None,
        seconds=float(arrays["seconds"]),
        tta=bool(tta),
        read_from=read_from,
    )


def kept_components(model: nn.Module, tiles: TileSet) -> tuple[np.ndarray, float] | None:
    """Return principal components of the features that lie beside the model's checkpoint.

    Returns:
        float16 (N, K) in the order of the tiles, and the share of the features' variance that
        they hold; None where no file speaks of this model and these tiles.
    """
    if getattr(model, "spec", None) is None:
        return None
    kept = _kept(model, tiles, model_key(model))
    return None if kept is None else (kept.components, kept.spread)


def predict_sample(
    model: nn.Module, kept: Predictions, tiles: TileSet, count: int = 128, seed: int | None = None
) -> tuple[Predictions, float]:
    """Predict some of the tiles now, and compare with what is known of them.

    Args:
        model: the model that is said to have made the predictions.
        kept: predictions of all the tiles, in their order.
        tiles: N tiles.
        count: how many tiles to predict, at most N.
        seed: of the draw; None draws other tiles each time.

    Returns:
        Predictions of the sample, and the largest difference between its logits and those known.
        Where it is less than half the distance of a tile's two largest logits, both name the same
        class.
    """
    drawn = np.random.default_rng(seed).permutation(len(tiles))[:count]
    live = predict(model, tiles[np.sort(drawn)])
    return live, float(np.abs(live.logits - kept.logits[np.sort(drawn)]).max())


def _kept(model: nn.Module, tiles: Any, key: Mapping[str, Any]) -> Kept | None:
    path, card = getattr(model, "predictions_file", None), getattr(model, "card", None)
    if path is None or card is None or not isinstance(tiles, TileSet):
        return None
    return read_kept(path, card.weights_sha256, tiles, key)


def _arrays(kept: Kept) -> dict[str, np.ndarray]:
    return {"logits": kept.logits, "seconds": np.array(0.0)}


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


def weights_digest(model: nn.Module) -> str:
    """Return one SHA-256 over names, dtypes, shapes and bytes of a model's state."""
    names, arrays = [], []
    for name, tensor in sorted(model.state_dict().items()):
        names.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}")
        arrays.append(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest_arrays(np.array(names), *arrays)


def _undivided(tiles: Any) -> Tensor:
    """Return checked images (N, 3, 64, 64), uint8 ones as they are, for a division per batch."""
    images = tiles.images if isinstance(tiles, TileSet) else tiles
    tensor = torch.as_tensor(images)
    tile = (3, TILE_SIZE, TILE_SIZE)
    if tensor.dtype == torch.uint8 and tuple(tensor.shape[1:]) == tile and len(tensor):
        return tensor
    return as_images(images)


@torch.inference_mode()
def _forward(
    model: nn.Module,
    images: Tensor,
    features: bool,
    batch_size: int | None,
    precision: str,
    progress: bool,
    tta: bool,
) -> dict[str, np.ndarray]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    size = getattr(model, "image_size", TILE_SIZE)
    pixels = _BATCH_PIXELS.get(device.type, _BATCH_PIXELS["cpu"])
    most = batch_size or min(1024, max(1, pixels // size**2))
    watch = batch_size is None and device.type == "cpu"  # until the largest output is known
    count = min(most, _FIRST_BATCH) if watch else most
    kept: dict[str, list[Tensor]] = {"logits": [], "features": []} if features else {"logits": []}
    reduced = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    # bfloat16 convolutions like their channels last: twice as fast on a CPU.
    layout = torch.channels_last if precision == "bfloat16" else torch.contiguous_format
    bar = tqdm(total=len(images), desc="predicting", unit="tile", disable=not progress)
    with evaluating(model), reduced, bar:
        start = 0
        while start < len(images):
            batch = images[start : start + count].to(device)
            if batch.dtype == torch.uint8:
                batch = batch.to(torch.float32).div_(255)
            with _outputs(model) if watch else contextlib.nullcontext([]) as outputs:
                if tta:
                    result = (_averaged(model, batch, layout),)
                else:
                    batch = batch.contiguous(memory_format=layout)
                    result = model.forward_with_features(batch) if features else (model(batch),)
            _check_logits(result[0], len(batch))
            for kind, values in zip(kept, result, strict=True):
                kept[kind].append(values.to(torch.float16 if kind == "features" else torch.float32))
            bar.update(len(batch))
            start += len(batch)
            if watch:
                count = min(most, _fitting(max([batch.nbytes, *outputs]) / len(batch)))
                watch = False
    return {kind: torch.cat(parts).cpu().numpy() for kind, parts in kept.items()}


@contextlib.contextmanager
def _outputs(model: nn.Module) -> Iterator[list[int]]:
    """Yield a list that grows by the bytes of what each innermost module returns."""
    found: list[int] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found.append(output.nbytes)

    inner = [module for module in model.modules() if not any(module.children())]
    handles = [module.register_forward_hook(note) for module in inner]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _fitting(tile_bytes: float) -> int:
    """Return for how many tiles a layer's largest output fits the processor's cache, at least 4.

    Larger batches are slower: the allocator returns large blocks to the system, and fresh ones are
    mapped for each layer.
    """
    cache = processor_cache() or _USUAL_CACHE
    return max(_FIRST_BATCH, int(cache * _CACHE_SHARE / tile_bytes))


def _averaged(model: nn.Module, batch: Tensor, layout: torch.memory_format) -> Tensor:
    """Return logarithms of the probabilities averaged over the eight flips and turns, (B, 10)."""
    total: Tensor | float = 0.0
    for way in WAYS["d4"]:
        view = turned(batch, np.full(len(batch), way))
        logits = model(view.contiguous(memory_format=layout))
        _check_logits(logits, len(batch))
        total = total + logits.float().softmax(dim=1) / len(WAYS["d4"])
    return total.clamp_min(1e-30).log()


def _check_logits(logits: Any, count: int) -> None:
    expected = (count, len(CLASSES))
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != expected:
        raise ValueError(f"the model must return logits {expected}, it returned {shape}")


def _check_finite(kind: str, values: np.ndarray, names: tuple[str, ...]) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{kind} are NaN or infinite for {len(bad):,} of {len(names):,} tiles, first for "
            f"{names[bad[0]]!r}: the weights are broken (a training that diverged?) or the "
            "precision is too small; load another checkpoint, or try precision='float32'"
        )


def _checked_labels(labels: Any, count: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (count,) or (count and labels.dtype.kind not in "iu"):
        raise ValueError(
            f"labels must be whole numbers ({count},), got {labels.dtype} {labels.shape}"
        )
    if count and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise ValueError(
            f"labels must lie in 0..{len(CLASSES) - 1}, got {labels.min()}..{labels.max()}"
        )
    return labels.astype(np.int64)


# --- scoring -------------------------------------------------------------------------------------


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
        ValueError: if there are no labels, no tiles or no resamples, or if the model was trained
            on some of the tiles.
    """
    labels = predictions._need_labels()
    if not len(labels):
        raise ValueError("there are no predictions to evaluate: the set of tiles is empty")
    if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 1:
        raise ValueError(f"resamples must be a whole number of at least 1, got {resamples!r}")
    if not allow_training_tiles:
        _refuse_training_tiles(predictions)
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
