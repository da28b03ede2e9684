"""Decoded tiles in the cache folder, and which source they came from; each file is checksummed."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lulc_lib.files import (
    DamagedFileError,
    atomic_write,
    open_checked,
    read_checked,
    read_json,
    seal,
    write_checked,
)
from lulc_lib.storage import cache_costs_nothing, cache_dir, warn_damaged
from lulc_lib.tiles import CLASSES, EUROSAT, EUROSAT_MODIFIED, TILE_SIZE, TileSet

_MOST_INDEX_BYTES = 2**24  # 27,000 names take 1 MB


def tile_set(names: list[str], images: np.ndarray, difference: str, digest: str) -> TileSet:
    """Return tiles that were decoded.

    Args:
        names: N names such as "River/River_12.jpg".
        images: uint8 (N, 3, 64, 64).
        difference: how they differ from the original, "" if not at all.
        digest: of all the tiles' files.
    """
    labels = torch.tensor([CLASSES.index(name.partition("/")[0]) for name in names])
    kind = EUROSAT_MODIFIED if difference else EUROSAT
    return TileSet(torch.from_numpy(images), labels, tuple(names), kind, digest)


def cache_file(digest: str) -> Path:
    """Return where the decoded tiles with a digest lie, or would lie."""
    return cache_dir() / "eurosat" / f"{digest}.tiles"


def write_cache(tiles: TileSet, difference: str, stamp: str, source: Path) -> None:
    """Keep decoded tiles, and which source they came from.

    Args:
        tiles: all tiles of a source.
        difference: how they differ from the original, "" if not at all.
        stamp: of the source's names, sizes and time stamps.
        source: a folder or zip.

    Warns:
        CacheWarning: if they cannot be written.
    """
    about = {"digest": tiles.digest, "difference": difference, "names": tiles.names}
    record = {"digest": tiles.digest, "path": str(source)}
    with cache_costs_nothing(f"the decoded tiles ({tiles.images.nbytes / 1e6:.0f} MB)"):
        path = cache_file(tiles.digest)
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)  # an earlier version's
        with atomic_write(path) as temporary:
            with temporary.open("wb") as file:
                file.write(json.dumps(about).encode() + b"\n")
                tiles.images.numpy().tofile(file)
            seal(temporary)
        write_checked(_record_file(stamp), json.dumps(record).encode())


def open_cache(digest: str) -> tuple[TileSet, str] | None:
    """Return decoded tiles and how they differ from the original; None if none are kept.

    They are read whole and not mapped into memory. All bytes must be read to check them, and a
    mapped file that is cut by another process, or that the disk fails to give, would end this one.

    Raises:
        DamagedFileError: if they are not as they were written.
    """
    try:
        path = cache_file(digest)
        with open_checked(path) as file:
            about = read_json(file.readline(_MOST_INDEX_BYTES), "its first line")
            if about["digest"] != digest:
                raise DamagedFileError(f"{path} is damaged: it holds the tiles {about['digest']}")
            images = np.empty((len(about["names"]), 3, TILE_SIZE, TILE_SIZE), dtype=np.uint8)
            if file.readinto(images) != images.nbytes:
                raise DamagedFileError(f"{path} is damaged: it was cut while it was read")
    except OSError:
        return None
    return tile_set(about["names"], images, about["difference"], digest), about["difference"]


def noted_digest(stamp: str) -> str | None:
    """Return the digest of the tiles that a source holds, None where it is not known.

    Warns:
        CacheWarning: if the record is damaged.
    """
    try:
        return _record(_record_file(stamp))["digest"]
    except OSError:
        return None
    except DamagedFileError as error:
        warn_damaged(error)
        return None


def noted_sources(digest: str) -> Iterator[Path]:
    """Yield the sources from which tiles with a digest were decoded."""
    with contextlib.suppress(OSError):
        for path in sorted(_record_file("").parent.glob("*.json")):
            with contextlib.suppress(OSError, DamagedFileError):  # of other sources, or older
                record = _record(path)
                if record["digest"] == digest:
                    yield Path(record["path"])


def _record_file(stamp: str) -> Path:
    return cache_dir() / "eurosat" / "sources" / f"{stamp}.json"


def _record(path: Path) -> dict[str, str]:
    return read_json(read_checked(path, most_bytes=2**16), "the record of a source")
