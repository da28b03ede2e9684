"""Predictions kept beside a checkpoint's weights: written once, read again by the tiles' names."""

import hashlib
import io
import json
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lulc_lib.files import atomic_write, one_line, open_regular, read_json
from lulc_lib.storage import digest_arrays
from lulc_lib.tiles import CLASSES, TileSet

COMPONENTS = 32  # principal components of the features: what the embedding map stands on
_SETTINGS = ("spec", "weights", "precision", "features", "tta")  # of the cache's key, see metrics


_ARRAYS = ("logits", "components", "labels", "names", "images", "facts")
_ROWS = ("logits", "components", "images")  # what is read of each tile
_MOST_BYTES = 2**26  # of a file, and of each array in it: 100,000 names take 20 MB
_MOST_FACTS = 2**20


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
    arrays = {
        "logits": np.asarray(logits, dtype=np.float32), "components": components,
        "labels": tiles.labels.numpy().astype(np.int16), "names": np.array(tiles.names),
        "images": image_hashes(tiles),
    }  # fmt: skip
    about = {
        **facts, **{name: key[name] for name in _SETTINGS}, "arrays": _digest(arrays),
        "source": tiles.source, "digest": tiles.digest, "part": tiles.part, "spread": spread,
    }  # fmt: skip
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays, facts=np.array(json.dumps(about)))


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
        stored = _read_arrays(path)
        facts = read_json(str(stored.pop("facts")), "the array facts", _MOST_FACTS)
        if facts.get("arrays", _digest(stored)) != _digest(stored):  # older files have none
            raise ValueError("the arrays are not those that were written")
        if facts["weights_sha256"] != weights_sha256:
            _warn(path, "was written for other weights than those beside it")
            return None
        if _answers(facts, tiles, key):
            return _rows(path.name, stored, facts, tiles)
    except Exception as error:  # a damaged file may fail in any way
        if isinstance(error, KeptPredictionsWarning):  # where warnings are errors
            raise
        _warn(path, f"cannot be read ({type(error).__name__}: {error})")
    return None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an .npz within bounds, whatever its headers claim; zip itself checks each array."""
    with open_regular(path) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sorted(archive.namelist()) != sorted(f"{name}.npy" for name in _ARRAYS):
            raise ValueError(f"it does not hold the arrays {', '.join(_ARRAYS)}")
        return {name: _read_array(archive, name) for name in _ARRAYS}


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in an unknown way")  # which may have no bounds
    with archive.open(info) as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"the array {name} has more than {_MOST_BYTES:,} bytes")
    start = io.BytesIO(data)
    if np.lib.format.read_magic(start) != (1, 0):
        raise ValueError(f"the array {name} has an unknown format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(start)
    if dtype.hasobject:
        raise ValueError(f"the array {name} holds objects")
    values = np.frombuffer(data, dtype, offset=start.tell())
    return values.reshape(shape, order="F" if fortran else "C")


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    return digest_arrays(*(arrays[name] for name in sorted(arrays)))


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
        float16 (N, K), K at most `count`, N and D, around 0, all smaller by one factor where the
        largest is beyond float16; and the share of the variance on these axes. scikit-learn fixes
        the signs, so that they are equal from run to run; files written before may have other
        signs, which no distance depends on.
    """
    from sklearn.decomposition import PCA  # here: predictions are made and read without it

    values = np.asarray(features, dtype=np.float64)
    count = min(count, *values.shape)
    if not np.ptp(values, axis=0).any():  # all rows are one: no axis holds any spread
        return np.zeros((len(values), count), dtype=np.float16), 1.0
    found = PCA(count, svd_solver="covariance_eigh")  # exact, and quick where N is above D
    places = found.fit_transform(values)
    largest = np.abs(places).max() / np.finfo(np.float16).max
    components = (places / max(1.0, largest)).astype(np.float16)
    return components, min(1.0, float(found.explained_variance_ratio_.sum()))


def _answers(facts: Mapping[str, Any], tiles: TileSet, key: Mapping[str, Any]) -> bool:
    """Tell whether a file speaks of this model with these settings, and of this data set."""
    asked = json.loads(json.dumps({name: key[name] for name in _SETTINGS}))
    same_model = asked == {name: facts[name] for name in _SETTINGS}
    return same_model and (facts["source"], facts["digest"]) == (tiles.source, tiles.digest)


def _rows(
    file: str, stored: Mapping[str, np.ndarray], facts: Mapping[str, Any], tiles: TileSet
) -> Kept | None:
    logits, components = stored["logits"], stored["components"]
    where = {name: i for i, name in enumerate(stored["names"].tolist())}
    found = {name: (stored[name].dtype.str[1:], *stored[name].shape) for name in _ROWS}
    expected = {
        "logits": ("f4", len(where), len(CLASSES)),
        "components": ("f2", len(where), *components.shape[1:2]),
        "images": ("u8", len(where)),
    }
    if found != expected or not np.isfinite(logits).all() or not np.isfinite(components).all():
        raise ValueError(f"{found} for {len(where)} different names, or not finite")
    rows = np.array([where.get(name, -1) for name in tiles.names], dtype=np.int64)
    if (rows < 0).any() or not np.array_equal(stored["images"][rows], image_hashes(tiles)):
        return None
    return Kept(file, logits[rows], components[rows], float(facts["spread"]))


def _warn(path: Path, why: str) -> None:
    warnings.warn(
        f"{one_line(f'{path} {why}')} and is not used: the model predicts instead. Delete it, or "
        "write it again with save_predictions",
        KeptPredictionsWarning,
        stacklevel=5,
    )
