"""EuroSAT on disk or downloaded -> TileSet: found, verified, decoded once, kept memory-mapped."""

import contextlib
import hashlib
import itertools
import json
import os
import secrets
import shutil
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from lulc_lib.hub import DataUnavailableError, RemoteFile, fetch
from lulc_lib.images import ImageError, decode_tile, looks_like_web_page
from lulc_lib.storage import atomic_write, cache_dir
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

# Where the ten class folders lie in the copies that people have.
LAYOUTS = ("", "2750", "EuroSAT_RGB", "eurosat/2750", "EuroSAT/2750", "EuroSAT", "eurosat")
ZIP_NAMES = ("EuroSAT_RGB.zip", "EuroSAT.zip", "eurosat.zip", "2750.zip")
MAX_TILE_BYTES = 1_000_000  # the largest original has 5,229

_IGNORED_FOLDERS = ("splits", "__MACOSX")
_IGNORED_FILES = ("thumbs.db", "desktop.ini")
# What zipfile raises on damage; NotImplementedError is a RuntimeError.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError)


class DataError(ValueError):
    """The data met are damaged or not EuroSAT; the message names the file."""


class ModifiedDataWarning(UserWarning):
    """The tiles are readable but are not the 27,000 original ones."""


def load_eurosat(root: str | Path | None = None, download: bool = True) -> TileSet:
    """Load EuroSAT's RGB tiles from a folder or zip, or download them.

    The tiles are decoded once into a memory-mapped cache below `storage.cache_dir()`; later calls
    recognise the source by sizes and time stamps. Nothing is written beside the source.

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
        OSError: if the cache cannot be written.

    Warns:
        ModifiedDataWarning: if tiles are missing, additional or changed.
    """
    source = find_source(root)
    if source is not None:
        tiles, difference = _load(source)
    elif (found := _open_cache(MANIFEST_DIGEST)) is not None:
        tiles, difference = found
    else:
        tiles, difference = _load(_obtain(download))
    if difference:
        warnings.warn(f"not the original EuroSAT: {difference}", ModifiedDataWarning, stacklevel=2)
    return tiles


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder or zip from which `load_eurosat(root, download=False)` would load.

    When only the decoded tiles of an earlier load are left, it is their folder in the cache.

    Raises:
        FileNotFoundError: if `root` or `$LULC_EUROSAT` does not exist.
        DataUnavailableError: if nothing was found.
        DataError: if the place holds no EuroSAT.
    """
    if (source := find_source(root)) is not None:
        return source
    if _open_cache(MANIFEST_DIGEST) is not None:
        return cache_dir() / "eurosat" / MANIFEST_DIGEST
    return _obtain(download=False)


def find_source(root: str | Path | None = None) -> Path | None:
    """Return the zip, or the folder of the ten class folders, that a search finds.

    Returns:
        An absolute path, or None if no place was named and none of the usual ones holds tiles.
    """
    asked = root if root is not None else os.environ.get("LULC_EUROSAT") or None
    if asked is None:
        return next(filter(None, map(_locate, _usual_places())), None)
    path = Path(asked).expanduser().absolute()
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


def _usual_places() -> list[Path]:
    checkout = Path(__file__).absolute().parents[1]
    places = [Path.cwd() / "data"]
    if (checkout / "pyproject.toml").is_file():
        places.insert(0, checkout / "data")
    return places


def _locate(folder: Path) -> Path | None:
    for layout in LAYOUTS:
        if any((folder / layout / name).is_dir() for name in CLASSES):
            return folder / layout
    zips = (folder / place / name for place in ("", "eurosat", "EuroSAT") for name in ZIP_NAMES)
    return next((path for path in zips if path.is_file()), None)


# --- reading a source ----------------------------------------------------------------------------


class _Member(NamedTuple):
    name: str  # "River/River_12.jpg"
    key: str  # path of the file, or name inside the zip
    size: int  # bytes


def _list_folder(folder: Path) -> list[_Member]:
    """List the tiles of a folder of class folders, sorted by name."""
    members, seen = [], set()
    for inside in _scan(folder, folders=True):
        if _ignored(inside.name):
            continue
        seen.add(inside.name)
        for entry in _scan(inside.path) if inside.name in CLASSES else ():
            if _is_tile(entry.name, entry.path, entry.is_dir()):
                name = f"{inside.name}/{entry.name}"
                members.append(_Member(name, entry.path, entry.stat().st_size))
    return _checked(members, seen, str(folder))


def _list_zip(archive: zipfile.ZipFile, path: Path) -> list[_Member]:
    """List the tiles of a zip, sorted by name."""
    infos = archive.infolist()
    for info in infos:
        _refuse_unsafe(info, path)
    tops = {tuple(info.filename.split("/")[:3]) for info in infos}
    layout = next((x for x in LAYOUTS if _zip_has_classes(tops, x)), None)
    if layout is None:
        raise DataError(
            f"{path} holds no EuroSAT: there is none of the folders {', '.join(CLASSES)}, neither "
            f"at its root nor in {', '.join(f'{p}/' for p in LAYOUTS if p)}"
        )
    prefix = f"{layout}/" if layout else ""
    members, seen = [], set()
    for info in infos:
        class_name, _, name = info.filename.removeprefix(prefix).partition("/")
        outside = not info.filename.startswith(prefix) or "/" not in info.filename[len(prefix) :]
        if outside or _ignored(class_name):
            continue
        seen.add(class_name)
        where = f"{path}: {info.filename}"
        if name and class_name in CLASSES and _is_tile(name, where, "/" in name):
            members.append(_Member(f"{class_name}/{name}", info.filename, info.file_size))
    return _checked(members, seen, f"{path}: {prefix}" if prefix else str(path))


def _zip_has_classes(tops: set[tuple[str, ...]], layout: str) -> bool:
    prefix = tuple(layout.split("/")) if layout else ()
    depth = len(prefix)
    return any(top[:depth] == prefix and len(top) > depth and top[depth] in CLASSES for top in tops)


def _refuse_unsafe(info: zipfile.ZipInfo, path: Path) -> None:
    name = info.orig_filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or name[1:2] == ":":
        raise DataError(
            f"{path} holds a member with the unsafe name {info.orig_filename!r} (absolute, or "
            "leading out of its folder); this is not EuroSAT's archive"
        )
    if info.file_size > MAX_TILE_BYTES and name.lower().endswith((".jpg", ".jpeg")):
        raise DataError(_too_large(f"{path}: {info.filename}", info.file_size))
    if info.flag_bits & 0x1:
        raise DataError(f"{path}: {info.filename} is encrypted; EuroSAT's archive is not")


def _too_large(where: str, size: int) -> str:
    return f"{where} has {size:,} bytes; a tile has a few thousand, at most {MAX_TILE_BYTES:,} here"


def _ignored(folder: str) -> bool:
    return folder.startswith(".") or folder in _IGNORED_FOLDERS


def _is_tile(name: str, where: str, is_folder: bool) -> bool:
    """Tell a tile from the files that operating systems strew; refuse anything else."""
    if name.startswith(".") or name.lower() in _IGNORED_FILES:
        return False
    if is_folder or not name.lower().endswith((".jpg", ".jpeg")):
        hint = "; this is the 13-band version" if name.lower().endswith((".tif", ".tiff")) else ""
        raise DataError(f"{where} is not a JPEG tile of EuroSAT's RGB version{hint}")
    return True


def _checked(members: list[_Member], folders: set[str], where: str) -> list[_Member]:
    """Return members sorted as text, sure that there are exactly the ten classes, none empty."""
    if unknown := sorted(folders - set(CLASSES)):
        raise DataError(
            f"{where} holds the unknown class folder {unknown[0]!r}; the classes are "
            f"{', '.join(CLASSES)}"
        )
    if missing := [name for name in CLASSES if name not in folders]:
        raise DataError(f"{where} lacks the class folder {missing[0]!r} ({len(missing)} missing)")
    members.sort()
    filled = {member.name.partition("/")[0] for member in members}
    if empty := [name for name in CLASSES if name not in filled]:
        raise DataError(f"{where} has the empty class folder {empty[0]!r}")
    if twice := [a.name for a, b in itertools.pairwise(members) if a.name == b.name]:
        raise DataError(f"{where} holds {twice[0]} twice")
    return members


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tuple[list[_Member], Callable[[_Member], bytes]]]:
    """Open a source: its tiles sorted by name, and a function that reads one."""
    if source.is_dir():
        yield _list_folder(source), lambda member: Path(member.key).read_bytes()
        return
    with source.open("rb") as file:
        start = file.read(512)
    try:
        archive = zipfile.ZipFile(source)
    except (*_ZIP_ERRORS, ValueError) as error:
        what = "a web page" if looks_like_web_page(start) else "not a whole zip"
        raise DataError(f"{source} is {what}: {error}; download it again") from error
    with archive:
        yield _list_zip(archive, source), lambda member: archive.read(member.key)


def _read_tile(read: Callable[[_Member], bytes], member: _Member, where: str) -> bytes:
    if member.size > MAX_TILE_BYTES:
        raise DataError(_too_large(where, member.size))
    try:
        return read(member)
    except _ZIP_ERRORS as error:
        raise DataError(f"{where} cannot be read from its zip: {error}") from error
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror or error}") from error


# --- the decoded cache ---------------------------------------------------------------------------


def _load(source: Path) -> tuple[TileSet, str]:
    """Return the tiles of a source and how they differ from the original ("" if not at all)."""
    stamp = _fingerprint(source)
    record = cache_dir() / "eurosat" / "sources" / f"{stamp}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        found = _open_cache(json.loads(record.read_text(encoding="utf-8"))["digest"])
        if found is not None:
            return found
    digest = _decode(source)
    if _fingerprint(source) != stamp:
        raise DataError(f"{source} changed while it was read; load it again")
    with atomic_write(record) as temporary:
        temporary.write_text(json.dumps({"digest": digest, "path": str(source)}), encoding="utf-8")
    found = _open_cache(digest)
    if found is None:
        raise OSError(f"the decoded tiles below {record.parents[1]} vanished; load them again")
    return found


def _fingerprint(source: Path) -> str:
    """Digest names, sizes and time stamps of a source, without reading or checking it."""
    listing: list[Any] = [str(source)]
    for folder in _scan(source, folders=True) if source.is_dir() else ():
        if not _ignored(folder.name):
            stats = [(entry.name, entry.stat()) for entry in _scan(folder.path)]
            files = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
            listing.append((folder.name, files))
    if not source.is_dir():
        stat = source.stat()
        listing.append((stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(repr(listing).encode()).hexdigest()


def _scan(folder: str | Path, folders: bool = False) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        if not folders:
            return list(entries)
        return sorted((entry for entry in entries if entry.is_dir()), key=lambda e: e.name)


def _decode(source: Path) -> str:
    """Decode all tiles of a source into the cache and return its manifest digest."""
    with _opened(source) as (members, read):
        images = np.empty((len(members), 3, TILE_SIZE, TILE_SIZE), dtype=np.uint8)

        def decode(chunk: range) -> list[str]:
            hashes = []
            for i in chunk:
                where = members[i].key if source.is_dir() else f"{source}: {members[i].key}"
                data = _read_tile(read, members[i], where)
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
    _write_cache(digests["all"], names, images, _difference(names, digests))
    return digests["all"]


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


def _write_cache(digest: str, names: list[str], images: np.ndarray, difference: str) -> None:
    """Write a whole cache folder under a temporary name, then move it into place."""
    home = cache_dir() / "eurosat"
    home.mkdir(exist_ok=True)
    _sweep(home)
    temporary = home / f".decoding-{os.getpid()}-{secrets.token_hex(4)}"
    index = {"digest": digest, "difference": difference, "names": names}
    try:
        temporary.mkdir()
        np.save(temporary / "images.npy", images)
        (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")
        _move_into_place(temporary, home / digest)
    except OSError as error:
        raise OSError(
            f"the decoded tiles ({images.nbytes / 1e6:.0f} MB) cannot be written to {home}: "
            f"{error.strerror or error}; free space, or set LULC_CACHE to another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(temporary: Path, final: Path) -> None:
    """Make a folder the cache of its digest, unless another process just did."""
    if _open_cache(final.name) is not None:
        return
    with contextlib.suppress(FileNotFoundError):
        final.rename(temporary / "broken")
    try:
        temporary.rename(final)
    except OSError:
        if _open_cache(final.name) is None:
            raise
    shutil.rmtree(final / "broken", ignore_errors=True)


def _sweep(home: Path) -> None:
    """Remove what processes killed while decoding more than an hour ago left behind."""
    for left in home.glob(".decoding-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)


def _open_cache(digest: str) -> tuple[TileSet, str] | None:
    """Map decoded tiles into memory; None if there are none, or not whole ones."""
    folder = cache_dir() / "eurosat" / digest
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        names, difference = tuple(index["names"]), index["difference"]
        # Copy-on-write: PyTorch wants writable memory, the file must never change.
        images = np.load(folder / "images.npy", mmap_mode="c")
        if index["digest"] != digest:
            return None
        labels = torch.tensor([CLASSES.index(name.partition("/")[0]) for name in names])
        kind = "eurosat (modified)" if difference else "eurosat"
        return TileSet(torch.from_numpy(images), labels, names, kind, digest), difference
    except (OSError, ValueError, KeyError, TypeError):
        return None


# --- downloads -----------------------------------------------------------------------------------

_HUB = "torchgeo/eurosat"  # data set on the Hugging Face hub
_ARENA = "https://raw.githubusercontent.com/biasvariancelabs/aitlas-arena"


# The zip: the facts inside torchvision's EuroSAT.download (its folder is 2750/).
ARCHIVE = RemoteFile(
    "EuroSAT.zip",
    "md5",
    "c8fa014336c82ac7804f0398fcb19387",
    repo=_HUB,
    revision="c877bcd43f099cd0196738f714544e355477f3fd",
)
_SPATIAL = {
    "train": "2db7d455afb8dcbca898ea19a00f1f90c091734efdbba89e22aaf24056da243f",
    "val": "6c758477604b7057a0fd990d7f6327b63b99a6725aac11a6a9d0174a7fdd8f0b",
    "test": "de22dec83d350cac3b3e4ca8e285cb6733c81ab94bf5bcf9213a567993402452",
}
_AITLAS = {
    "train": "fd6bc70339acc1f6907980bb517ee4bfbf236b5810a957ef244e0b3760f47dfc",
    "val": "dffbba49c29be8544dd47b92deaba69e294ca7941dff9129388b5c367c97425b",
    "test": "dcd05dc9eade5ab5ec2577f06067f0ffb1699507d7ad2dc55dfb694e9c50a9dd",
}
PUBLIC_LISTS = {
    f"eurosat-spatial-{part}.txt": RemoteFile(
        f"eurosat-spatial-{part}.txt",
        "sha256",
        digest,
        repo=_HUB,
        revision="1ce6f1bfb56db63fd91b6ecc466ea67f2509774c",
    )
    for part, digest in _SPATIAL.items()
} | {
    f"aitlas-{part}.csv": RemoteFile(
        f"aitlas-{part}.csv",
        "sha256",
        digest,
        url=f"{_ARENA}/b640d13cd645e72d6017223ec584a3e30095fdf8/splits/eurosat_{part}.csv",
    )
    for part, digest in _AITLAS.items()
}


def read_public_list(name: str, digest: str = MANIFEST_DIGEST) -> str:
    """Read a published list of tile names, from the data root's `splits/` or downloaded.

    Args:
        name: a key of `PUBLIC_LISTS`.
        digest: digest of the tiles, to look beside the source they were loaded from.

    Raises:
        DataError: if the list found has another hash.
        DataUnavailableError: if it was neither found nor downloaded.
    """
    remote = PUBLIC_LISTS[name]
    near = [folder / "splits" / name for folder in _list_folders(digest)]
    near = [path for path in near if path.is_file()]
    for path in near:
        if remote.matches(path):
            return path.read_text(encoding="utf-8")
    if near:
        raise DataError(
            f"{near[0]} is not the published list: its {remote.algorithm} is not "
            f"{remote.digest}; remove it to have it downloaded"
        )
    try:
        return fetch(remote).read_text(encoding="utf-8")
    except DataUnavailableError as error:
        raise DataUnavailableError(
            f"{error}. Bring it and put it into splits/ beside the data set's zip or folder"
        ) from error


def _list_folders(digest: str) -> list[Path]:
    """Return folders beside which `splits/` may lie: of the sources known, and the usual ones."""
    sources = []
    for record in sorted((cache_dir() / "eurosat" / "sources").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            known = json.loads(record.read_text(encoding="utf-8"))
            if known["digest"] == digest:
                sources.append(Path(known["path"]))
    with contextlib.suppress(DataError):
        sources += filter(None, [find_source()])
    folders = [folder for source in sources for folder in (source, *list(source.parents)[:2])]
    return list(dict.fromkeys(folders + _usual_places()))


def _obtain(download: bool) -> Path:
    """Return the zip downloaded before or now; say what to bring if there is none."""
    reason, home = "no download was asked for", ARCHIVE.address()
    if download or (cache_dir() / "downloads" / ARCHIVE.name).is_file():
        try:
            return fetch(ARCHIVE)
        except DataUnavailableError as error:
            reason, home = str(error), "there"
    places = " or ".join(str(place) for place in _usual_places())
    raise DataUnavailableError(
        f"there is no EuroSAT: LULC_EUROSAT is not set, {places} holds none, and {reason}. Bring "
        f"{ARCHIVE.name} ({ARCHIVE.algorithm} {ARCHIVE.digest}) from {home}, or EuroSAT_RGB.zip "
        f"from https://zenodo.org/records/7711810, and put it into {places}, or set LULC_EUROSAT "
        "to its path"
    )
