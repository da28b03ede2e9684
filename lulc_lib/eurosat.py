"""EuroSAT on disk or downloaded -> TileSet: found, verified, decoded once and kept."""

import hashlib
import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lulc_lib.archive import LAYOUTS, DataError, ignored, opened, read_tile, scan
from lulc_lib.decoded import (
    cache_file,
    noted_digest,
    open_cache,
    tile_set,
    write_cache,
)
from lulc_lib.files import DamagedFileError, home_expanded
from lulc_lib.hub import DataUnavailableError, RemoteFile, fetch, find
from lulc_lib.images import ImageError, decode_tile
from lulc_lib.storage import warn_damaged
from lulc_lib.tiles import CLASSES, TILE_SIZE, TileSet

# The original: Helber et al. 2019, JSTARS, doi 10.1109/JSTARS.2019.2918242; Zenodo record 7711810.
CLASS_COUNTS = dict(
    zip(CLASSES, (3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000), strict=True)
)
TILE_COUNT = 27_000
# sha256 of the sorted lines "sha256-of-file  Class/Class_n.jpg\n", of all tiles and of each class.
MANIFEST_DIGEST = "feefa5e365ffbf7cf1bf39f68dc5e96efc80f5234d9c1b91889277593b3627e1"
CLASS_DIGESTS = {
    "AnnualCrop": "2acdbf4c92e3e7ec25109793c1acf6b04391d2b526c26441d9614a7130ded591",
    "Forest": "8d833627b4e1fb7c7db1eb1605a7eaa3f4249dc41782b95c05a95a876b7ac383",
    "HerbaceousVegetation": "43a974ffd18d044d6d15810a111055f04d4de16e470df33b261f0a4dafda1fe5",
    "Highway": "314012fa29c572dbcb1394bc3df3ea5edd0a597cd6e2f15db82732c761e72d09",
    "Industrial": "17fc5b4524e65236f93fb32d71d1d0d46aa4e1837d5c606d845b54c8ff915fa3",
    "Pasture": "1996a0ba988488d0b7b0851dd5f6aff9a35b734e253dd8aeae2971132b51507f",
    "PermanentCrop": "55a3f4a4c2a8f709abc568b746078bfc075e22677456852e51e247cf0824d8a8",
    "Residential": "5b5d7e4c8943b36eb01e6086332a082a7c3772d3ef1a3cd15b6382cdc1fb46b1",
    "River": "567ad6d02639c5482c915a27e16734bccf99aafcb40bf50aba590986a0afa2cf",
    "SeaLake": "c1855074b59737ea9b1c2cf7b4c8c65e5dac62654a90c3dda9b1fc6f07ce8402",
}
ZIP_NAMES = ("EuroSAT_RGB.zip", "EuroSAT.zip", "eurosat.zip", "2750.zip")


class ModifiedDataWarning(UserWarning):
    """The tiles are readable but are not the 27,000 original ones."""


def load_eurosat(root: str | Path | None = None, download: bool = True) -> TileSet:
    """Load EuroSAT's RGB tiles from a folder or zip, or download them.

    The tiles are decoded once and kept below `storage.cache_dir()`; later calls recognise the
    source by sizes and time stamps, and check what was kept by its checksum. Nothing is written
    beside the source.

    Args:
        root: a zip, or a folder that holds the ten class folders, a known layout (`LAYOUTS`) or a
            zip of a known name. None searches `$LULC_EUROSAT`, `data/` of the checkout and of the
            working directory, and what was decoded or downloaded before.
        download: whether to download (96 MB) when the search finds nothing.

    Returns:
        All tiles, uint8 (N, 3, 64, 64), sorted as text like torchvision's ImageFolder, with
        `source` "eurosat" or, if they are not the original, "eurosat (modified)".

    Raises:
        FileNotFoundError: if `root` or `$LULC_EUROSAT` does not exist.
        DataUnavailableError: if nothing was found and nothing could be downloaded.
        DataError: if the data are damaged.

    Warns:
        CacheWarning: if the decoded tiles that were kept are damaged and made anew, or cannot be
            kept.
        ModifiedDataWarning: if tiles are missing, additional or changed.
    """
    source = find_source(root)
    found = _decoded(MANIFEST_DIGEST) if source is None else None
    tiles, difference = found or _load(source or _obtain(download))
    if difference:
        warnings.warn(f"not the original EuroSAT: {difference}", ModifiedDataWarning, stacklevel=2)
    return tiles


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder or zip from which `load_eurosat(root, download=False)` would load.

    When only the decoded tiles of an earlier load are left, it is their file in the cache.

    Raises:
        FileNotFoundError: if `root` or `$LULC_EUROSAT` does not exist.
        DataUnavailableError: if nothing was found.
        DataError: if the place holds no EuroSAT.
    """
    if (source := find_source(root) or find(ARCHIVE)) is not None:
        return source
    if _decoded(MANIFEST_DIGEST) is not None:
        return cache_file(MANIFEST_DIGEST)
    return _obtain(download=False)


def find_source(root: str | Path | None = None) -> Path | None:
    """Return the zip, or the folder of the ten class folders, that a search finds.

    Returns:
        An absolute path, or None if no place was named and none of the usual ones holds tiles.
    """
    asked = root if root is not None else os.environ.get("LULC_EUROSAT") or None
    if asked is None:
        return next(filter(None, map(_locate, usual_places())), None)
    path = home_expanded(asked).absolute()
    word = "root" if root is not None else "LULC_EUROSAT"
    if not path.exists():
        raise FileNotFoundError(
            f"{word} names {path}, which does not exist; name a folder or zip of EuroSAT's RGB "
            "tiles" + ("" if root is not None else ", or unset it")
        )
    source = path if path.is_file() else _locate(path)
    if source is None:
        raise DataError(
            f"{path} holds no EuroSAT: there is none of the folders {', '.join(CLASSES)}, neither "
            f"directly nor in {', '.join(f'{p}/' for p in LAYOUTS if p)}, and none of the files "
            f"{', '.join(ZIP_NAMES)}"
        )
    return source


def usual_places() -> list[Path]:
    """Return the folders in which a search looks for tiles."""
    checkout = Path(__file__).absolute().parents[1]
    places = [Path.cwd() / "data"]
    if (checkout / "pyproject.toml").is_file():
        places.insert(0, checkout / "data")
    return list(dict.fromkeys(places))


def _locate(folder: Path) -> Path | None:
    for layout in LAYOUTS:
        if any((folder / layout / name).is_dir() for name in CLASSES):
            return folder / layout
    zips = (folder / place / name for place in ("", "eurosat", "EuroSAT") for name in ZIP_NAMES)
    return next((path for path in zips if path.is_file()), None)


def _load(source: Path) -> tuple[TileSet, str]:
    """Return the tiles of a source and how they differ from the original ("" if not at all)."""
    stamp = _fingerprint(source)
    digest = noted_digest(stamp)
    found = None if digest is None else _decoded(digest)
    if found is not None:
        return found
    tiles, difference = _decode(source)
    if _fingerprint(source) != stamp:
        raise DataError(f"{source} changed while it was read; load it again")
    write_cache(tiles, difference, stamp, source)
    return tiles, difference


def _decoded(digest: str) -> tuple[TileSet, str] | None:
    """Return tiles decoded before; None if there are none, or damaged ones, after a warning."""
    try:
        return open_cache(digest)
    except DamagedFileError as error:
        warn_damaged(error)
        return None


def _fingerprint(source: Path) -> str:
    """Digest names, sizes and time stamps of a source, without reading or checking it."""
    listing: list[Any] = ["checksummed", str(source)]
    for folder in scan(source, folders=True) if source.is_dir() else ():
        if not ignored(folder.name):
            listing.append((folder.name, sorted(map(_stamp, scan(folder.path)))))
    if not source.is_dir():
        stat = source.stat()
        listing.append((stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(repr(listing).encode()).hexdigest()


def _stamp(entry: os.DirEntry) -> tuple[Any, ...]:
    try:
        found = entry.stat()
    except OSError:  # a link that leads nowhere is named when the tiles are listed
        return (entry.name,)
    return (entry.name, found.st_size, found.st_mtime_ns)


def _decode(source: Path) -> tuple[TileSet, str]:
    """Decode all tiles of a source; return them, and how they differ from the original."""
    with opened(source) as (members, read):
        images = np.empty((len(members), 3, TILE_SIZE, TILE_SIZE), dtype=np.uint8)

        def decode(chunk: range) -> list[str]:
            hashes = []
            for i in chunk:
                where = members[i].key if source.is_dir() else f"{source}: {members[i].key}"
                data = read_tile(read, members[i], where)
                hashes.append(hashlib.sha256(data).hexdigest())
                try:
                    images[i] = decode_tile(data, where)
                except ImageError as error:
                    raise DataError(str(error)) from error
            return hashes

        chunks = [range(i, min(i + 128, len(images))) for i in range(0, len(images), 128)]
        hashes: list[str] = []
        progress = tqdm(total=len(images), desc="decoding tiles", unit=" tiles", disable=None)
        with progress, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for part in pool.map(decode, chunks):
                hashes += part
                progress.update(len(part))
    names = [member.name for member in members]
    digests = _manifest_digests(names, hashes)
    difference = _difference(names, digests)
    return tile_set(names, images, difference, digests["all"]), difference


def _manifest_digests(names: Iterable[str], hashes: Iterable[str]) -> dict[str, str]:
    """Digest the manifest of all tiles ("all") and of each class."""
    running = {key: hashlib.sha256() for key in ("all", *CLASSES)}
    for name, digest in zip(names, hashes, strict=True):
        line = f"{digest}  {name}\n".encode(errors="surrogateescape")
        running["all"].update(line)
        running[name.partition("/")[0]].update(line)
    return {key: value.hexdigest() for key, value in running.items()}


def _difference(names: list[str], digests: dict[str, str]) -> str:
    """Say how tiles differ from the 27,000 original ones; "" if they do not."""
    if digests["all"] == MANIFEST_DIGEST:
        return ""
    original = {
        f"{c}/{c}_{i}.jpg" for c, count in CLASS_COUNTS.items() for i in range(1, count + 1)
    }
    told = [f"{len(names):,} tiles instead of {TILE_COUNT:,}"] if len(names) != TILE_COUNT else []
    uneven = set()
    for word, odd in (("missing", original - set(names)), ("additional", set(names) - original)):
        uneven |= {name.partition("/")[0] for name in odd}
        if odd:
            some = ", ".join(sorted(odd)[:3]) + (", ..." if len(odd) > 3 else "")
            told.append(f"{len(odd):,} {word} ({some})")
    changed = [c for c in CLASSES if c not in uneven and digests[c] != CLASS_DIGESTS[c]]
    if changed:
        told.append(f"changed tiles in {', '.join(changed)}")
    return "; ".join(told)


HUB = "torchgeo/eurosat"  # data set on the Hugging Face hub
# The zip: the facts inside torchvision's EuroSAT.download (its folder is 2750/).
ARCHIVE = RemoteFile(
    "EuroSAT.zip",
    "md5",
    "c8fa014336c82ac7804f0398fcb19387",
    repo=HUB,
    revision="c877bcd43f099cd0196738f714544e355477f3fd",
)


def _obtain(download: bool) -> Path:
    """Return the zip downloaded before or now; say what to bring if there is none."""
    reason, home = "no download was asked for", ARCHIVE.address()
    if (present := find(ARCHIVE)) is not None:
        return present
    if download:
        try:
            return fetch(ARCHIVE)
        except DataUnavailableError as error:
            reason, home = str(error), "there"
    if (kept := cache_file(MANIFEST_DIGEST)).is_file():
        reason = f"what was decoded before, {kept}, is damaged, and {reason}"
    places = " or ".join(str(place) for place in usual_places())
    raise DataUnavailableError(
        f"there is no EuroSAT: LULC_EUROSAT is not set, {places} holds none, and {reason}. Bring "
        f"{ARCHIVE.name} ({ARCHIVE.algorithm} {ARCHIVE.digest}) from {home}, or EuroSAT_RGB.zip "
        f"from https://zenodo.org/records/7711810, and put it into {places}, or set LULC_EUROSAT "
        "to its path"
    )
