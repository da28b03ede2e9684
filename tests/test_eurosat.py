"""EuroSAT: every layout, every kind of damage, the decoded cache, and the download."""

import socket
from pathlib import Path

import pytest
from local_hub import go_online
from made_eurosat import TILES, load, write_folder, write_zip

from lulc_lib import eurosat, hub, public_lists
from lulc_lib.archive import DataError
from lulc_lib.eurosat import (
    CLASS_COUNTS,
    DataUnavailableError,
    ModifiedDataWarning,
    data_root,
    load_eurosat,
)
from lulc_lib.hub import RemoteFile
from lulc_lib.public_lists import read_public_list
from lulc_lib.storage import CacheWarning, cache_dir

USUAL_PLACES = eurosat.usual_places  # before tests see none of them

pytestmark = pytest.mark.usefixtures("nothing_around")


def test_order_is_that_of_image_folder(tmp_path):
    """The order is torchvision's, tile for tile: the splits of others count on it."""
    from torchvision.datasets import ImageFolder

    folder = ImageFolder(write_folder(tmp_path / "2750"))
    tiles = load(tmp_path)
    relative = [Path(path).relative_to(tmp_path / "2750").as_posix() for path, _ in folder.samples]
    assert list(tiles.names) == relative
    assert tiles.labels.tolist() == folder.targets


def test_environment_then_data_folder(tmp_path, monkeypatch):
    """`$LULC_EUROSAT` comes before `data/`, and `root` before both."""
    one = write_zip(tmp_path / "data" / "EuroSAT.zip", dict(list(TILES.items())[::-1][:-1]))
    assert data_root() == one
    assert len(load()) == len(TILES) - 1
    other = write_folder(tmp_path / "elsewhere")
    monkeypatch.setenv("LULC_EUROSAT", str(other))
    assert data_root() == other
    assert len(load()) == len(TILES)
    assert data_root(one) == one


def test_relative_and_empty_environment(tmp_path, monkeypatch):
    """A relative path becomes absolute; an empty variable counts as unset."""
    write_folder(tmp_path / "tiles")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LULC_EUROSAT", "tiles")
    assert data_root() == tmp_path / "tiles"
    monkeypatch.setenv("LULC_EUROSAT", "")
    with pytest.raises(DataUnavailableError, match="LULC_EUROSAT is not set"):
        data_root()


def test_a_named_place_that_is_missing_is_never_passed_over(tmp_path, monkeypatch):
    """A path that does not exist is an error, though `data/` holds tiles."""
    write_folder(tmp_path / "data")
    monkeypatch.setenv("LULC_EUROSAT", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"LULC_EUROSAT names .*gone, which does not exist"):
        load_eurosat()
    with pytest.raises(FileNotFoundError, match=r"root names .*lost"):
        load_eurosat(tmp_path / "lost")


def test_a_named_folder_without_tiles_says_what_was_looked_for(tmp_path):
    """The error lists the folders and files that would have been recognised."""
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match=r"pictures holds no EuroSAT.*AnnualCrop.*2750/.*EuroSAT\."):
        load_eurosat(tmp_path / "pictures")


def test_nothing_anywhere_says_what_to_bring(tmp_path):
    """Without data and download, the error names file, hash, sources and destination."""
    with pytest.raises(DataUnavailableError) as caught:
        load_eurosat(download=False)
    for word in ("EuroSAT.zip", eurosat.ARCHIVE.digest, "zenodo.org", str(tmp_path / "data")):
        assert word in str(caught.value)


def test_difference_names_missing_additional_and_changed():
    """A modified copy is told apart from the original, and by what."""
    names = [f"{c}/{c}_{i}.jpg" for c, n in CLASS_COUNTS.items() for i in range(1, n + 1)]
    same = {"all": "another", **eurosat.CLASS_DIGESTS}
    assert eurosat._difference(names, {"all": eurosat.MANIFEST_DIGEST}) == ""
    told = eurosat._difference(names, same | {"Forest": "another"})
    assert told == "changed tiles in Forest"
    told = eurosat._difference(names[1:], same | {"AnnualCrop": "another"})
    assert told == "26,999 tiles instead of 27,000; 1 missing (AnnualCrop/AnnualCrop_1.jpg)"
    told = eurosat._difference([*names, "River/mine.jpg"], same | {"River": "another"})
    assert told == "27,001 tiles instead of 27,000; 1 additional (River/mine.jpg)"


def test_warning_comes_every_time(tmp_path):
    """A later start from the cache warns as the first one did."""
    write_zip(tmp_path / "a.zip")
    for _ in range(2):
        with pytest.warns(ModifiedDataWarning, match="110 tiles instead of 27,000; 26,890 missing"):
            load_eurosat(tmp_path / "a.zip")


def test_the_source_may_be_read_only(tmp_path):
    """Nothing is written beside the source."""
    root = write_folder(tmp_path / "a" / "2750").parent
    before = sorted(tmp_path.rglob("*"))
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        load(root)
        assert sorted(tmp_path.rglob("*")) == before
    finally:
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755)


def test_download_from_the_hub(eurosat_hub, tmp_path):
    """With no tiles anywhere they are downloaded, verified, kept, and not downloaded again."""
    assert len(load()) == len(TILES)
    path = "/datasets/torchgeo/eurosat/resolve/r1/EuroSAT.zip"
    assert [request[:2] for request in eurosat_hub.requests] == [("HEAD", path), ("GET", path)]
    kept = cache_dir() / "downloads" / "EuroSAT.zip"
    assert kept.read_bytes() == eurosat_hub.body
    assert not kept.with_name(".EuroSAT.zip.part").exists()
    assert len(load(download=False)) == len(TILES)
    assert data_root() == kept
    assert len(eurosat_hub.requests) == 2


def test_a_damaged_download_is_not_replaced_unasked(eurosat_hub):
    """With download=False a damaged zip is named, and the network is left alone."""
    load()
    path = data_root()  # the zip, which `LULC_EUROSAT` may name, and not what was decoded from it
    assert path.name == "EuroSAT.zip"
    count = len(eurosat_hub.requests)
    path.write_bytes(b"torn")
    with (
        pytest.warns(CacheWarning, match=r"EuroSAT\.zip is damaged"),
        pytest.raises(DataUnavailableError, match="no download was asked for"),
    ):
        data_root()
    assert len(eurosat_hub.requests) == count


def test_a_wrong_hash_leaves_nothing(eurosat_hub):
    """Bytes that are not the published file are removed, and the error says so."""
    eurosat_hub.body = eurosat_hub.body[:-1] + b"x"
    with pytest.raises(DataUnavailableError, match=r"do not have md5 .*; they were removed"):
        load_eurosat()
    kept = [path.name for path in (cache_dir() / "downloads").iterdir()]
    assert [name for name in kept if not name.endswith(".lock")] == []


@pytest.mark.timeout(60)
def test_a_dead_network_is_given_up(monkeypatch, tmp_path):
    """A server that refuses is given up at once, with a word on what to bring where."""
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    go_online(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(DataUnavailableError) as caught:
        load_eurosat()
    assert pauses == [], "it was tried again later"
    told = str(caught.value)
    for word in ("127.0.0.1:9", "EuroSAT.zip", "md5", str(tmp_path / "data"), "LULC_EUROSAT"):
        assert word in told
    remote = RemoteFile("l.csv", "sha256", "0", url="http://127.0.0.1:9/l.csv")
    monkeypatch.setitem(public_lists.PUBLIC_LISTS, "l.csv", remote)
    with pytest.raises(DataUnavailableError, match=r"l\.csv .*put it into splits/"):
        read_public_list("l.csv")


@pytest.mark.timeout(60)
def test_a_silent_network_is_given_up(monkeypatch):
    """A server that takes the call and never answers is given up after the time set."""
    assert hub.PATIENCE < 10
    monkeypatch.setattr(hub, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        go_online(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DataUnavailableError, match="could not be downloaded"):
            load_eurosat()


def test_offline_mode_is_respected(eurosat_hub, monkeypatch):
    """With HF_HUB_OFFLINE nothing is asked of the network, and the error says why."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataUnavailableError, match="offline mode is enabled"):
        load_eurosat()
    assert eurosat_hub.requests == []


@pytest.mark.eurosat
def test_the_original(eurosat):
    """The real data are recognised as the original: counts, digest, statistics, no warning."""
    from lulc_lib.eurosat import MANIFEST_DIGEST

    assert (len(eurosat), eurosat.source, eurosat.part) == (27_000, "eurosat", "all")
    assert eurosat.digest == MANIFEST_DIGEST
    assert eurosat.class_counts() == CLASS_COUNTS
    assert eurosat.names[:3] == (
        "AnnualCrop/AnnualCrop_1.jpg",
        "AnnualCrop/AnnualCrop_10.jpg",
        "AnnualCrop/AnnualCrop_100.jpg",
    )
    mean = eurosat.images[::27].float().div(255).mean(dim=(0, 2, 3))
    assert mean.tolist() == pytest.approx([0.34438, 0.38029, 0.40777], abs=5e-3)


@pytest.mark.eurosat
def test_a_warm_start_decodes_nothing(eurosat, monkeypatch):
    """Once decoded, 27,000 tiles are mapped from the cache (benchmarks/imports.py: in a second)."""
    monkeypatch.setattr("lulc_lib.eurosat.decode_tile", None)  # calling it would be an error
    assert load_eurosat(download=False).digest == eurosat.digest


def test_a_place_is_searched_and_named_once(monkeypatch):
    """Within a checkout, its own `data` is the folder `data` as well."""
    checkout = Path(eurosat.__file__).parents[1]
    monkeypatch.chdir(checkout)
    places = USUAL_PLACES()
    assert places.count(checkout / "data") == len(places) == 1
