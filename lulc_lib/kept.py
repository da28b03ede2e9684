"""Predictions kept beside a checkpoint's weights: written once, read again by the tiles' names."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lulc_lib.files import atomic_write
from lulc_lib.tiles import CLASSES, TileSet

COMPONENTS = 32  # principal components of the features: what the embedding map stands on
_SETTINGS = ("spec", "weights", "precision", "features", "tta")  # of the cache's key, see metrics


class KeptPredictionsWarning(UserWarning):
    """A file of kept predictions is damaged or belongs to other weights, and is not used."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What a file of kept predictions says of some tiles, in the tiles' order.

    Attributes:
        file: name of the file, such as "resnet50.predictions.npz".
        logits: float32 (N, 10).
        components: float16 (N, K), the features' first principal components over all tiles of
            the file.
        spread: share of the features' variance that the components hold, in [0, 1].
    """

    file: str
    logits: np.ndarray
    components: np.ndarray
    spread: float


def write_kept(
    path: Path,
    tiles: TileSet,
    logits: np.ndarray,
    features: np.ndarray,
    key: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write a compressed .npz: logits, components of the features, and what they belong to.

    Args:
        path: of the file; it appears whole or not at all.
        tiles: N tiles with N different names.
        logits: float32 (N, 10).
        features: (N, D), what the last linear layer saw.
        key: spec and digest of the model, and the settings it ran with.
        facts: what else to keep, JSON-able; `weights_sha256` names the checkpoint's weights.

    Raises:
        ValueError: if two tiles have the same name.
    """
    if len(set(tiles.names)) < len(tiles):
        raise ValueError("predictions are kept by the tiles' names, and two tiles share one")
    components, spread = principal_components(features, COMPONENTS)
    about = {
        **facts, **{name: key[name] for name in _SETTINGS},
        "source": tiles.source, "digest": tiles.digest, "part": tiles.part, "spread": spread,
    }  # fmt: skip
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, logits=np.asarray(logits, dtype=np.float32), components=components,
            labels=tiles.labels.numpy().astype(np.int16), names=np.array(tiles.names),
            images=image_hashes(tiles), facts=np.array(json.dumps(about)),
        )  # fmt: skip


def read_kept(
    path: Path, weights_sha256: str, tiles: TileSet, key: Mapping[str, Any]
) -> Kept | None:
    """Return what a file says of these tiles, None where it does not speak of just these.

    Rows are found by name, so that a part of the file's tiles, in any order, will do. The model
    must have the weights and settings that the file names, and each tile the pixels.

    Args:
        path: of the file, which may be missing.
        weights_sha256: digest of the checkpoint's weights, as on its card.
        tiles: the tiles asked for.
        key: spec and digest of the model as it is now, and the settings asked for.

    Warns:
        KeptPredictionsWarning: if the file is damaged, or was written for other weights than the
            checkpoint's.
    """
    if not path.is_file():
        return None
    try:
        # The file is opened here because NumPy would leave it open when the zip is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            facts = json.loads(str(stored["facts"]))
            if facts["weights_sha256"] != weights_sha256:
                _warn(path, "was written for other weights than those beside it")
                return None
            if _answers(facts, tiles, key):
                return _rows(path.name, dict(stored), facts, tiles)
    except Exception as error:  # a damaged file may fail in any way
        if isinstance(error, KeptPredictionsWarning):  # where warnings are errors
            raise
        _warn(path, f"cannot be read ({type(error).__name__}: {error})")
    return None


def image_hashes(tiles: TileSet) -> np.ndarray:
    """Return a short hash of each tile's pixels, uint64 (N,): the first 8 bytes of BLAKE2b."""
    rows = tiles.images.cpu().numpy()
    hashes = [hashlib.blake2b(np.ascontiguousarray(row), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(hashes), dtype="<u8")


def principal_components(features: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """Return where features lie along the axes on which they spread most.

    Args:
        features: (N, D).
        count: axes at most.

    Returns:
        float16 (N, K), K at most `count`, around 0; and the share of the variance on these axes.
    """
    values = np.asarray(features, dtype=np.float64)
    values = values - values.mean(axis=0)
    variances, axes = np.linalg.eigh(values.T @ values)  # ascending
    most = slice(None, -count - 1, -1)
    total = float(variances.sum())
    share = float(variances[most].sum()) / total if total > 0 else 1.0
    return (values @ axes[:, most]).astype(np.float16), min(1.0, share)


def _answers(facts: Mapping[str, Any], tiles: TileSet, key: Mapping[str, Any]) -> bool:
    """Tell whether a file speaks of this model with these settings, and of this data set."""
    asked = json.loads(json.dumps({name: key[name] for name in _SETTINGS}))
    same_model = asked == {name: facts[name] for name in _SETTINGS}
    return same_model and (facts["source"], facts["digest"]) == (tiles.source, tiles.digest)


def _rows(
    file: str, stored: Mapping[str, np.ndarray], facts: Mapping[str, Any], tiles: TileSet
) -> Kept | None:
    where = {name: i for i, name in enumerate(stored["names"].tolist())}
    rows = np.array([where.get(name, -1) for name in tiles.names], dtype=np.int64)
    if (rows < 0).any() or not np.array_equal(stored["images"][rows], image_hashes(tiles)):
        return None
    logits, components = stored["logits"], stored["components"]
    shapes_fit = logits.shape == (len(where), len(CLASSES)) and len(components) == len(where)
    if not (shapes_fit and np.isfinite(logits).all() and np.isfinite(components).all()):
        raise ValueError(f"logits {logits.shape} for {len(where)} names, or not finite")
    return Kept(file, logits[rows], components[rows], float(facts["spread"]))


def _warn(path: Path, why: str) -> None:
    warnings.warn(
        f"{path} {why} and is not used: the model predicts instead. Delete it, or write it again "
        "with save_predictions",
        KeptPredictionsWarning,
        stacklevel=5,
    )
