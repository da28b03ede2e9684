"""Decoded tiles in the cache folder."""

import io
import os
import subprocess
import sys
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lulc_lib import eurosat
from lulc_lib.eurosat import (
    DataUnavailableError,
    ModifiedDataWarning,
    data_root,
    load_eurosat,
)
from lulc_lib.storage import cache_dir
from lulc_lib.tiles import CLASSES

COUNT = 11  # tiles per class in the made data: River_10 sorts before River_2


def jpeg(seed: int, side: int = 64) -> bytes:
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
    for name, data in tiles.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path: Path, tiles: dict[str, bytes] = TILES, prefix: str = "2750/") -> Path:
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


@pytest.fixture(autouse=True)
def _nothing_around(request, tmp_path, monkeypatch):
    """Hide the real data and `data/` from the tests on made tiles."""
    if not request.node.get_closest_marker("eurosat"):
        monkeypatch.delenv("LULC_EUROSAT", raising=False)
        monkeypatch.setattr(eurosat, "usual_places", lambda: [tmp_path / "data"])


def test_later_starts_do_not_decode(tmp_path, monkeypatch):
    """A second load maps the cache; it neither lists nor decodes the zip."""
    path = write_zip(tmp_path / "a.zip")
    first = load(path)
    monkeypatch.setattr(eurosat, "_decode", None)
    monkeypatch.setattr(eurosat, "opened", None)
    second = load(path)
    assert second.digest == first.digest
    assert np.array_equal(second.images.numpy(), first.images.numpy())


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_changed_source_is_decoded_again(tmp_path, kind):
    """New bytes at the old place give new tiles: size or time stamp tell."""
    make = write_folder if kind == "folder" else write_zip
    root = tmp_path / ("a" if kind == "folder" else "a.zip")
    before = load(make(root))
    after = load(make(root, TILES | {"River/River_7.jpg": jpeg(99)}))
    assert after.digest != before.digest
    i = after.names.index("River/River_7.jpg")
    assert not np.array_equal(after.images[i].numpy(), before.images[i].numpy())


def test_the_same_tiles_elsewhere_share_one_cache(tmp_path):
    """Folder and zip of the same tiles have one digest and one decoded copy."""
    one = load(write_zip(tmp_path / "a.zip"))
    other = load(write_folder(tmp_path / "a"))
    assert one.digest == other.digest
    assert len(list((cache_dir() / "eurosat").glob("*/images.npy"))) == 1


def test_the_cache_cannot_be_written_through_tiles(tmp_path):
    """Writing into loaded tiles changes the memory of one process, not the file."""
    path = write_zip(tmp_path / "a.zip")
    tiles = load(path)
    original = tiles.images[0].clone()
    tiles.images[0] = 0
    assert np.array_equal(load(path).images[0].numpy(), original.numpy())


def test_decoded_tiles_outlive_their_source(tmp_path, monkeypatch):
    """When the source is gone, the original's decoded tiles are still loaded, and told of."""
    path = write_zip(tmp_path / "a.zip")
    tiles = load(path)
    path.unlink()
    with pytest.raises(DataUnavailableError):
        load_eurosat(download=False)
    monkeypatch.setattr(eurosat, "MANIFEST_DIGEST", tiles.digest)
    assert load(download=False).names == tiles.names
    assert data_root() == cache_dir() / "eurosat" / tiles.digest


@pytest.mark.parametrize("damage", ["cut images", "no images", "bad index", "bad record"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    """A cache that lost something is replaced without a word."""
    path = write_zip(tmp_path / "a.zip")
    tiles = load(path)
    home = cache_dir() / "eurosat"
    images = home / tiles.digest / "images.npy"
    if damage == "cut images":
        os.truncate(images, 5000)
    elif damage == "no images":
        images.unlink()
    elif damage == "bad index":
        (home / tiles.digest / "index.json").write_text('{"digest": ')
    else:
        next((home / "sources").glob("*.json")).write_text("{}")
    again = load(path)
    assert again.names == tiles.names
    assert np.array_equal(again.images[5].numpy(), load(path).images[5].numpy())
    assert sorted(p.name for p in (home / tiles.digest).iterdir()) == ["images.npy", "index.json"]
    assert not list(home.glob(".decoding-*"))


def test_decoding_at_the_same_time(tmp_path):
    """Threads that decode one source together all get whole tiles, and leave one cache."""
    path = write_zip(tmp_path / "a.zip")
    start, digests = threading.Barrier(4), []

    def work():
        start.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            digests.append((load_eurosat(path).digest, int(load_eurosat(path).images.sum())))

    threads = [threading.Thread(target=work) for _ in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(digests) == 4
    assert len(set(digests)) == 1
    assert not list((cache_dir() / "eurosat").glob(".decoding-*"))


def test_two_processes_decode_at_the_same_time(tmp_path):
    """Two processes started together on an empty cache both succeed."""
    path = write_zip(tmp_path / "a.zip")
    code = "import sys, lulc_lib; print(lulc_lib.load_eurosat(sys.argv[1]).digest)"
    command = [sys.executable, "-W", "ignore", "-c", code, str(path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = {run.communicate(timeout=120)[0].strip() for run in runs}
    assert told == {load(path).digest}
    assert [run.returncode for run in runs] == [0, 0]


def test_remains_of_killed_processes_are_swept(tmp_path):
    """What a killed process left is removed once it is old; what is in the making is not."""
    home = cache_dir() / "eurosat"
    old, new = home / ".decoding-1-aa", home / ".decoding-2-bb"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "images.npy").write_bytes(b"half")
    os.utime(old, (0, 0))
    load(write_zip(tmp_path / "a.zip"))
    assert not old.exists()
    assert new.exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    """When the cache folder is a file, the error says so and how to choose another."""
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LULC_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="LULC_CACHE"):
        load_eurosat(write_zip(tmp_path / "a.zip"))


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    """When writing fails, the error says how much was needed, and nothing half-made stays."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=r"1 MB.*No space left on device; free"):
        load_eurosat(write_zip(tmp_path / "a.zip"))
    assert left_behind() == []
    assert not list((cache_dir() / "eurosat").glob(".decoding-*"))
