"""Decoded tiles in the cache folder, memory-mapped."""

import contextlib
import json
import os
import secrets
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from lulc_lib.storage import cache_dir
from lulc_lib.tiles import CLASSES, EUROSAT, EUROSAT_MODIFIED, TileSet


def write_cache(digest: str, names: list[str], images: np.ndarray, difference: str) -> None:
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
    if open_cache(final.name) is not None:
        return
    with contextlib.suppress(FileNotFoundError):
        final.rename(temporary / "broken")
    try:
        temporary.rename(final)
    except OSError:
        if open_cache(final.name) is None:
            raise
    shutil.rmtree(final / "broken", ignore_errors=True)


def _sweep(home: Path) -> None:
    """Remove what processes killed while decoding more than an hour ago left behind."""
    for left in home.glob(".decoding-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)


def open_cache(digest: str) -> tuple[TileSet, str] | None:
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
        kind = EUROSAT_MODIFIED if difference else EUROSAT
        return TileSet(torch.from_numpy(images), labels, names, kind, digest), difference
    except (OSError, ValueError, KeyError, TypeError):
        return None
