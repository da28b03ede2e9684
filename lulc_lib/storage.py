"""What the library derives: its cache folder, digests, arrays kept by key; what memory there is."""

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from lulc_lib.files import (
    DamagedFileError,
    atomic_write,
    home_expanded,
    one_line,
    open_checked,
    open_regular,
    seal,
)


class CacheWarning(UserWarning):
    """A cache is damaged, or cannot be written; what it would have held is made anew."""


def cache_dir() -> Path:
    """Return the absolute folder for derived files, made when it is missing.

    It is `$LULC_CACHE`, else the platform's cache folder for `lulc_lib`.

    Raises:
        OSError: if the folder cannot be made or written; the message names it.
    """
    chosen = os.environ.get("LULC_CACHE")
    folder = (
        home_expanded(chosen).absolute() if chosen else platformdirs.user_cache_path("lulc_lib")
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"the cache folder {folder} cannot be made ({error.strerror}); "
            "set LULC_CACHE to a folder you may write to"
        ) from error
    return folder


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a regular file as 64 hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_arrays(*arrays: np.ndarray) -> str:
    """Return one SHA-256 over dtype, shape and bytes of several arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


def cache_key(**facts: Any) -> dict[str, Any]:
    """Return the key of something that our code makes from models and tiles.

    Whatever is kept under it is made anew after a change of the package's code or of the versions
    of torch and timm.

    Args:
        **facts: all else that it depends on, as JSON-able values.
    """
    return {"code": _code_digest(), **_versions(), **facts}


def key_digest(key: dict[str, Any]) -> str:
    """Return a key as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code_digest() -> str:
    """Return one SHA-256 over the names and contents of the package's sources."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "timm")}


def cached_arrays(
    kind: str, key: dict[str, Any], compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return the arrays that `compute` makes, kept on disk under a key.

    Args:
        kind: subfolder of the cache, such as "predictions".
        key: everything the arrays depend on, as JSON-able values.
        compute: makes the arrays when the cache has none.

    Warns:
        CacheWarning: if the cache is damaged, or cannot be written; the arrays are right.
    """
    arrays = load_arrays(kind, key)
    if arrays is None:
        arrays = compute()
        store_arrays(kind, key, arrays)
    return arrays


def load_arrays(kind: str, key: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """Return the arrays kept under a key, None where there are none, or not as they were written.

    Warns:
        CacheWarning: if the file is damaged.
    """
    try:
        path = _kept(kind, key)
    except OSError:  # no folder for the cache
        return None
    try:
        with open_checked(path) as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except OSError:
        return None
    except DamagedFileError as error:
        warn_damaged(error)
    except Exception as error:  # a file that something else sealed may hold anything
        warn_damaged(f"{path} is damaged: {error}")
    return None


def store_arrays(kind: str, key: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Keep arrays on disk under a key.

    Warns:
        CacheWarning: if they cannot be written.
    """
    with cache_costs_nothing(f"the {kind}"), atomic_write(_kept(kind, key)) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        seal(temporary)


@contextlib.contextmanager
def cache_costs_nothing(what: str) -> Iterator[None]:
    """Go on after a block that could not write into the cache: a full disk costs no result.

    Args:
        what: what the block keeps, such as "the predictions".

    Warns:
        CacheWarning: if the block ended by an OSError.
    """
    try:
        yield
    except OSError as error:
        warnings.warn(
            f"{what} could not be kept ({one_line(error.strerror or error)}), and will be made "
            f"again next time: free space, or set LULC_CACHE to a folder that you may write to",
            CacheWarning,
            stacklevel=4,
        )


def warn_damaged(error: object, remedy: str = "it is made anew") -> None:
    """Warn that a file of the cache is damaged, and say what is done about it."""
    warnings.warn(f"{one_line(error)}; {remedy}", CacheWarning, stacklevel=3)


def _kept(kind: str, key: dict[str, Any]) -> Path:
    return cache_dir() / kind / f"{key_digest(key)}.npz"


def free_memory(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes of memory that can still be had, within a container's limit.

    None where the system does not say (it is read from Linux's /proc). Files that are kept in
    memory, and were not used lately, count as free.

    Args:
        group: where Linux describes the container's memory (cgroup v2).
    """
    known = Path("/proc/meminfo")
    if not known.is_file():
        return None
    lines = dict(line.split(":", 1) for line in known.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        with contextlib.suppress(OSError, ValueError, KeyError):
            told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            used -= int(told["inactive_file"])
        free = min(free, limit - used)
    return free


def give_memory_back() -> bool:
    """Give freed memory back to the system; return whether the C library can (glibc's can).

    It keeps what arrays and networks have freed for the next ones: here some hundred megabytes.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # no such function, or no such library
        return False
    trim(0)
    return True


def processor_cache(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """Return the bytes of the processor's largest cache, None where the system does not say.

    Args:
        folder: where Linux describes the caches, one folder `index*` each.
    """
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = []
    for path in folder.glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text().strip()
            sizes.append(int(text.rstrip("KMG")) * units.get(text[-1:], 1))
    return max(sizes, default=None)
