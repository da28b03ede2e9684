"""Made data in EuroSAT's layout, for the tests that read, keep, download and list it."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lulc_lib.eurosat import ModifiedDataWarning, load_eurosat
from lulc_lib.storage import cache_dir
from lulc_lib.tiles import CLASSES

COUNT = 11  # tiles per class in the made data: River_10 sorts before River_2


def jpeg(seed: int, side: int = 64) -> bytes:
    """Return a picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=30)
    return buffer.getvalue()


TILES = {
    f"{name}/{name}_{i}.jpg": jpeg(1000 * label + i)
    for label, name in enumerate(CLASSES)
    for i in range(1, COUNT + 1)
}


def write_folder(root: Path, tiles: dict[str, bytes] = TILES) -> Path:
    """Write class folders; return the folder that holds them."""
    for name, data in tiles.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path: Path, tiles: dict[str, bytes] = TILES, prefix: str = "2750/") -> Path:
    """Write the same as a zip; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in tiles.items():
            archive.writestr(prefix + name, data)
    return path


def load(root=None, **options):
    """Load made tiles, which are never the original ones."""
    with pytest.warns(ModifiedDataWarning, match="not the original EuroSAT"):
        return load_eurosat(root, **options)


def left_behind() -> list[str]:
    """List what a failed load left in the cache."""
    return [str(path) for path in cache_dir().rglob("*") if path.is_file()]
