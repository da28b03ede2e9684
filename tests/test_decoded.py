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
from damage import damaged
from PIL import Image

from lulc_lib import eurosat
from lulc_lib.decoded import cache_file, noted_sources, open_cache
from lulc_lib.eurosat import (
    DataUnavailableError,
    ModifiedDataWarning,
    data_root,
    load_eurosat,
)
from lulc_lib.files import DamagedFileError
from lulc_lib.storage import CacheWarning, cache_dir
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
    """A second load reads the cache; it neither lists nor decodes the zip."""
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
    assert len(list((cache_dir() / "eurosat").glob("*.tiles"))) == 1


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
    kept = cache_file(tiles.digest)
    assert data_root() == kept
    kept.write_bytes(kept.read_bytes()[:-200])
    with (
        pytest.warns(CacheWarning, match=r"\.tiles is damaged"),
        pytest.raises(DataUnavailableError, match=rf"decoded before, {kept}, is damaged"),
    ):
        load_eurosat(download=False)


@pytest.fixture(scope="module")
def small_zip(tmp_path_factory) -> Path:
    """A zip of ten tiles, one of each class."""
    few = {name: data for name, data in TILES.items() if name.endswith("_1.jpg")}
    return write_zip(tmp_path_factory.mktemp("small") / "a.zip", few)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_cache_is_made_again(small_zip, seed):
    """Whatever happened to the decoded tiles, they are decoded anew, with a warning."""
    tiles = load(small_zip)
    kept = cache_file(tiles.digest)
    whole = kept.read_bytes()
    kept.write_bytes(damaged(whole, seed))
    with pytest.warns(CacheWarning, match=r"\.tiles is damaged: .*; it is made anew"):
        again = load(small_zip)
    assert again.names == tiles.names
    assert np.array_equal(again.images.numpy(), tiles.images.numpy())
    assert kept.read_bytes() == whole
    assert [path.name for path in kept.parent.iterdir() if path.is_file()] == [kept.name]


def test_a_cut_cache_ends_no_process_that_holds_its_tiles(small_zip):
    """Tiles read before are whole after another process cut the file in place."""
    load(small_zip)
    tiles = load(small_zip)
    sums = int(tiles.images.sum())
    os.truncate(cache_file(tiles.digest), 0)
    assert int(tiles.images.sum()) == sums


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_record_of_a_source_is_made_again(small_zip, seed):
    """A source whose record is damaged is read anew, with a warning."""
    tiles = load(small_zip)
    (record,) = (cache_dir() / "eurosat" / "sources").iterdir()
    record.write_bytes(damaged(record.read_bytes(), seed))
    with pytest.warns(CacheWarning, match=r"\.json is damaged"):
        assert load(small_zip).digest == tiles.digest
    assert list(noted_sources(tiles.digest)) == [small_zip]


def test_tiles_kept_for_others_are_not_taken(small_zip):
    """A whole file under another's name is damage: the digest inside counts."""
    tiles = load(small_zip)
    kept = cache_file(tiles.digest)
    kept.rename(cache_file("0" * 64))
    with pytest.raises(DamagedFileError, match=f"holds the tiles {tiles.digest}"):
        open_cache("0" * 64)


def test_what_an_earlier_version_kept_is_replaced_without_a_word(small_zip):
    """Its decoded tiles, a folder without checksums, go when the new ones are written."""
    digest = load(small_zip).digest
    kept = cache_file(digest)
    kept.unlink()
    old = kept.with_suffix("")
    old.mkdir()
    (old / "images.npy").write_bytes(b"old")
    (kept.parent / "sources" / "old.json").write_text(f'{{"digest": "{digest}", "path": "/x"}}')
    load(small_zip)
    assert kept.is_file()
    assert not old.exists()
    assert list(noted_sources(digest)) == [small_zip]


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
    assert not list((cache_dir() / "eurosat").glob(".*"))


def test_two_processes_decode_at_the_same_time(tmp_path):
    """Two processes started together on an empty cache both succeed."""
    path = write_zip(tmp_path / "a.zip")
    code = "import sys, lulc_lib; print(lulc_lib.load_eurosat(sys.argv[1]).digest)"
    command = [sys.executable, "-W", "ignore", "-c", code, str(path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = {run.communicate(timeout=120)[0].strip() for run in runs}
    assert told == {load(path).digest}
    assert [run.returncode for run in runs] == [0, 0]


def test_without_a_cache_the_tiles_are_decoded_each_time(small_zip, tmp_path, monkeypatch):
    """When the cache folder is a file, the tiles come all the same, with one warning each time."""
    whole = load(small_zip)
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LULC_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        with pytest.warns(CacheWarning, match="set LULC_CACHE") as told:
            tiles = load(small_zip)
        assert [w.category for w in told].count(CacheWarning) == 1
        assert np.array_equal(tiles.images.numpy(), whole.images.numpy())
        assert tiles.digest == whole.digest


def test_a_full_disk_costs_the_cache_alone(small_zip, little_disk):
    """When the disk is full, the warning says how much was needed, and nothing half-made stays."""
    with (
        little_disk(),
        pytest.warns(CacheWarning, match=r"tiles \(0 MB\) could not be"),
    ):
        assert len(load(small_zip)) == 10
    assert left_behind() == []
