"""Storage: the cache folder, digests, arrays kept by key."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from damage import damaged

from lulc_lib.checkpoints import available_checkpoints
from lulc_lib.files import seal
from lulc_lib.plots.files import write_whole
from lulc_lib.storage import (
    CacheWarning,
    cache_dir,
    cached_arrays,
    digest_arrays,
    free_memory,
    load_arrays,
    processor_cache,
    sha256_file,
)


def test_cache_dir_is_the_environments(tmp_path, monkeypatch):
    """`$LULC_CACHE` is taken, made when missing, absolute also when given relative."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LULC_CACHE", "some/where")
    assert cache_dir() == tmp_path / "some" / "where"
    assert cache_dir().is_dir()


def test_files_kept_in_memory_are_no_used_memory(tmp_path):
    """A container's count holds the page cache, which the system gives up when it is asked."""
    for name, text in (("memory.max", 4 * 2**20), ("memory.current", 3 * 2**20)):
        (tmp_path / name).write_text(f"{text}\n")
    if free_memory(tmp_path) is None:
        pytest.skip("this system does not say how much memory is free")
    assert free_memory(tmp_path) == 2**20
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {2**20}\n")
    assert free_memory(tmp_path) == 2 * 2**20


def test_a_home_folder_is_no_folder_of_that_name(tmp_path, monkeypatch):
    """A path that begins with ~ lies in the home folder, for caches, figures and checkpoints."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "made").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LULC_CACHE", "~/cache")
    assert cache_dir() == tmp_path / "home" / "cache"
    assert write_whole("~/a.png", b"data") == tmp_path / "home" / "a.png"
    monkeypatch.setenv("LULC_CHECKPOINTS", "~/made")
    assert available_checkpoints()  # the shipped ones, and no error
    assert write_whole("~no-such-user.html", b"data") == tmp_path / "~no-such-user.html"
    assert not Path("~").exists()


def test_cache_dir_is_else_the_platforms(tmp_path, monkeypatch):
    """Without the variable the platform's cache folder is used; empty counts as unset."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("LULC_CACHE", raising=False)
    assert "lulc_lib" in cache_dir().parts
    monkeypatch.setenv("LULC_CACHE", "")
    assert "lulc_lib" in cache_dir().parts


def test_cache_dir_that_cannot_be_made(tmp_path, monkeypatch):
    """The error names the folder and the variable that chooses another."""
    (tmp_path / "file").write_text("x")
    for blocked in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("LULC_CACHE", str(blocked))
        with pytest.raises(OSError, match=r"cache folder .*file.* cannot be made.*set LULC_CACHE"):
            cache_dir()


def test_sha256_file(tmp_path):
    """The digest is that of the bytes."""
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_digest_arrays_sees_values_shape_dtype_and_order():
    """Arrays that differ in anything have other digests; layout in memory does not count."""
    base = np.arange(12, dtype=np.int64).reshape(3, 4)
    others = [
        base.reshape(4, 3),
        base.astype(np.int32),
        base + 1,
        base.T,
        np.zeros((0, 4), np.int64),
        np.zeros((4, 0), np.int64),
    ]
    digests = {digest_arrays(array) for array in [base, *others]}
    assert len(digests) == 1 + len(others)
    assert digest_arrays(np.asfortranarray(base)) == digest_arrays(base)
    assert digest_arrays(base, base + 1) != digest_arrays(base + 1, base)
    assert digest_arrays(np.array(5)) == digest_arrays(np.array(5))


def test_cached_arrays_computes_once(tmp_path):
    """The same key gives the stored arrays; another key computes again."""
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.arange(3), "b": np.ones((2, 2), np.float16)}

    first = cached_arrays("kind", {"x": 1, "y": "z"}, compute)
    second = cached_arrays("kind", {"y": "z", "x": 1}, compute)
    assert len(calls) == 1
    assert sorted(second) == ["a", "b"]
    assert all(np.array_equal(first[k], second[k]) for k in first)
    assert second["b"].dtype == np.float16
    cached_arrays("kind", {"x": 2, "y": "z"}, compute)
    assert len(calls) == 2
    assert len(list((cache_dir() / "kind").iterdir())) == 2


def test_the_largest_cache_of_the_processor_is_found(tmp_path):
    """Sizes are read with their units; without a description the answer is None."""
    assert processor_cache(tmp_path) is None
    for index, text in enumerate(("32K", "512K\n", "32M", "", "unknown")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(text)
    assert processor_cache(tmp_path) == 32 * 2**20
    assert processor_cache() is None or processor_cache() >= 2**15


def entry_of(kind: str) -> Path:
    """Return the one file kept of a kind."""
    (entry,) = (cache_dir() / kind).iterdir()
    return entry


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut short", b"no zip", *range(20)])
def test_a_damaged_entry_is_computed_again(damage):
    """Whatever happened to a cache file, it is replaced with a warning, not believed."""
    made = {"a": np.arange(20), "b": np.ones((2, 3), np.float16)}
    cached_arrays("kind", {"x": 1}, lambda: made)
    entry = entry_of("kind")
    whole = entry.read_bytes()
    entry.write_bytes(damaged(whole, damage) if isinstance(damage, int) else damage)
    with pytest.warns(CacheWarning, match=r"\.npz is damaged: .*; it is made anew"):
        assert load_arrays("kind", {"x": 1}) is None
    with pytest.warns(CacheWarning, match="made anew"):
        found = cached_arrays("kind", {"x": 1}, lambda: made)
    assert found is made
    assert entry.read_bytes() == whole


def test_a_missing_entry_is_no_damage():
    """Where nothing was kept nothing is said."""
    assert load_arrays("kind", {"x": 1}) is None


def test_a_cache_that_cannot_be_made_costs_no_result(tmp_path, monkeypatch):
    """With a file in place of the cache folder arrays are computed each time, with a warning."""
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LULC_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        with pytest.warns(CacheWarning, match=r"the kind could not be kept.*set LULC_CACHE"):
            assert cached_arrays("kind", {"x": 1}, lambda: {"a": np.ones(2)})["a"].sum() == 2


def test_a_full_disk_costs_no_result(little_disk):
    """When the disk takes no more, the arrays are returned, and nothing half-made stays."""
    arrays = {"a": np.zeros(100_000)}
    with (
        little_disk(),
        pytest.warns(CacheWarning, match=r"the kind could not be kept \(File too l"),
    ):
        assert cached_arrays("kind", {"x": 1}, lambda: arrays) is arrays
    assert list((cache_dir() / "kind").iterdir()) == []


def test_cached_arrays_keeps_nothing_after_an_error():
    """When computing fails, the next call computes again."""

    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cached_arrays("kind", {"x": 3}, fail)
    assert not (cache_dir() / "kind").exists() or not list((cache_dir() / "kind").iterdir())
    assert cached_arrays("kind", {"x": 3}, lambda: {"a": np.ones(1)})["a"].tolist() == [1]


def test_objects_are_never_unpickled(tmp_path):
    """A cache entry that holds a pickle is not loaded: loading runs no code."""
    cached_arrays("kind", {"x": 4}, lambda: {"a": np.ones(1)})
    entry = next((cache_dir() / "kind").iterdir())
    flag = Path(tmp_path / "ran")

    class Evil:
        def __reduce__(self):
            return (Path.touch, (flag,))

    with entry.open("wb") as file:
        np.savez(file, a=np.array([Evil()], dtype=object))
    seal(entry)
    with pytest.warns(CacheWarning, match="Object arrays cannot be loaded"):
        assert load_arrays("kind", {"x": 4}) is None
    with pytest.warns(CacheWarning, match="made anew"):
        again = cached_arrays("kind", {"x": 4}, lambda: {"a": np.zeros(1)})
    assert again["a"].tolist() == [0]
    assert not flag.exists()


def test_freed_memory_is_given_back():
    """Where the C library can, what a process has freed no longer counts as its own."""
    code = """
import gc, os
import numpy as np
from pathlib import Path
from lulc_lib.storage import give_memory_back
def pages(): return int(Path("/proc/self/statm").read_text().split()[1])
kept = [np.ones(2**11) for _ in range(4000)]  # below the size that has a mapping of its own
last = kept[-1]
del kept
before = pages()
print(give_memory_back(), before - pages())
"""
    if not Path("/proc/self/statm").is_file():
        pytest.skip("the system does not say how much memory a process takes")
    words = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    if words[0] == "True":
        assert int(words[1]) > 5000
