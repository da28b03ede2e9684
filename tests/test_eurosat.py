"""EuroSAT: every layout, every kind of damage, the decoded cache, and the download."""

import hashlib
import io
import os
import socket
import subprocess
import sys
import threading
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from local_hub import Hub, go_online
from PIL import Image

from lulc_lib import eurosat
from lulc_lib import hub as hub_room
from lulc_lib.eurosat import (
    CLASS_COUNTS,
    DataError,
    DataUnavailableError,
    ModifiedDataWarning,
    data_root,
    load_eurosat,
    read_public_list,
)
from lulc_lib.hub import RemoteFile
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
        monkeypatch.setattr(eurosat, "_usual_places", lambda: [tmp_path / "data"])


# --- layouts and order ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", eurosat.LAYOUTS)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_every_layout_gives_the_same_tiles(tmp_path, layout, kind):
    """All known layouts, as folder or zip, give the same tiles in the same order."""
    if kind == "folder":
        root = tmp_path / "some"
        write_folder(root / layout)
    else:
        root = write_zip(tmp_path / "some.zip", prefix=f"{layout}/" if layout else "")
    tiles = load(root)
    assert tiles.names == tuple(sorted(TILES))
    assert tiles.names[CLASSES.index("River") * COUNT + 2] == "River/River_11.jpg"
    assert tiles.source == "eurosat (modified)"
    manifest = "".join(f"{hashlib.sha256(TILES[n]).hexdigest()}  {n}\n" for n in sorted(TILES))
    assert tiles.digest == hashlib.sha256(manifest.encode()).hexdigest()
    for i in (0, 57, len(TILES) - 1):
        expected = np.asarray(Image.open(io.BytesIO(TILES[tiles.names[i]]))).transpose(2, 0, 1)
        assert np.array_equal(tiles.images[i].numpy(), expected)
        assert CLASSES[int(tiles.labels[i])] == tiles.names[i].split("/")[0]


def test_order_is_that_of_image_folder(tmp_path):
    """The order is torchvision's, tile for tile: the splits of others count on it."""
    from torchvision.datasets import ImageFolder

    folder = ImageFolder(write_folder(tmp_path / "2750"))
    tiles = load(tmp_path)
    relative = [Path(path).relative_to(tmp_path / "2750").as_posix() for path, _ in folder.samples]
    assert list(tiles.names) == relative
    assert tiles.labels.tolist() == folder.targets


@pytest.mark.parametrize("name", eurosat.ZIP_NAMES)
def test_folder_that_holds_the_zip(tmp_path, name):
    """A folder with the zip and other things in it is as good as the zip."""
    write_zip(tmp_path / "eurosat" / name)
    (tmp_path / "eurosat" / "splits").mkdir()
    (tmp_path / "eurosat" / "README.md").write_text("about")
    assert len(load(tmp_path / "eurosat")) == len(TILES)
    assert len(load(tmp_path)) == len(TILES)
    assert data_root(tmp_path) == tmp_path / "eurosat" / name


def test_strewn_files_do_not_matter(tmp_path):
    """What file managers and notebooks leave in folders is no tile and no damage."""
    write_folder(tmp_path)
    for name in (".DS_Store", "River/Thumbs.db", "River/.hidden.jpg", "splits/a.txt", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert len(load(tmp_path)) == len(TILES)


# --- where it is looked for ----------------------------------------------------------------------


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


# --- not the original ----------------------------------------------------------------------------


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


# --- damage --------------------------------------------------------------------------------------

DAMAGED_TILES = {
    "empty": (b"", "is empty"),
    "truncated": (jpeg(1)[:700], "is a broken JPEG"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
    "too small": (jpeg(1, side=32), "is 32x32 pixels"),
    "grey": (None, "has colour mode 'L'"),
    "far too large": (jpeg(1) + bytes(eurosat.MAX_TILE_BYTES), "has 1,00"),
}


@pytest.mark.parametrize("damage", DAMAGED_TILES)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_damaged_tile_is_named(tmp_path, damage, kind):
    """One bad tile stops the load with its name, and nothing half-made stays."""
    data, finding = DAMAGED_TILES[damage]
    if data is None:
        buffer = io.BytesIO()
        Image.new("L", (64, 64)).save(buffer, "JPEG")
        data = buffer.getvalue()
    tiles = TILES | {"River/River_7.jpg": data}
    make = write_folder if kind == "folder" else write_zip
    root = make(tmp_path / ("a" if kind == "folder" else "a.zip"), tiles)
    with pytest.raises(DataError, match=rf"River/River_7\.jpg {finding}"):
        load_eurosat(root)
    assert left_behind() == []


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_wrong_class_folders_are_named(tmp_path, kind):
    """A class folder that is missing, unknown or empty is an error by its name."""
    make = write_folder if kind == "folder" else write_zip
    cases = {
        "lacks the class folder 'River'": {n: d for n, d in TILES.items() if n[:5] != "River"},
        "unknown class folder 'Lake'": TILES | {"Lake/Lake_1.jpg": jpeg(1)},
        "River/sub.* is not a JPEG tile": TILES | {"River/sub/River_1.jpg": jpeg(1)},
        "River_1.png is not a JPEG tile": TILES | {"River/River_1.png": b"x"},
        "River_1.tif is not .* the 13-band version": TILES | {"River/River_1.tif": b"x"},
    }
    for i, (finding, tiles) in enumerate(cases.items()):
        with pytest.raises(DataError, match=finding):
            load_eurosat(make(tmp_path / f"{i}.zip", tiles))
    assert left_behind() == []


def test_empty_class_folder_is_named(tmp_path):
    """A class folder without tiles is an error, in a folder and in a zip."""
    tiles = {name: data for name, data in TILES.items() if not name.startswith("Forest")}
    write_folder(tmp_path / "a", tiles)
    (tmp_path / "a" / "Forest").mkdir()
    write_zip(tmp_path / "a.zip", tiles | {"Forest/": b""})
    for root in (tmp_path / "a", tmp_path / "a.zip"):
        with pytest.raises(DataError, match="empty class folder 'Forest'"):
            load_eurosat(root)


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"", "is not a whole zip"),
        (b"<html>not found</html>", "is a web page"),
        (b"some text, longer than a zip's last record: 22 bytes", "is not a whole zip"),
    ],
)
def test_a_file_that_is_no_zip(tmp_path, data, finding):
    """An empty file, a web page and a text are refused by name."""
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.zip {finding}.*download it again"):
        load_eurosat(tmp_path / "a.zip")


def test_truncated_and_corrupted_zip(tmp_path):
    """A zip cut short, or with a byte changed in a tile, is refused by name."""
    data = write_zip(tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.zip is not a whole zip"):
        load_eurosat(tmp_path / "cut.zip")
    place = data.index(TILES["River/River_3.jpg"]) + 700
    changed = data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]
    (tmp_path / "changed.zip").write_bytes(changed)
    with pytest.raises(DataError, match=r"changed\.zip: 2750/River/River_3\.jpg cannot be read"):
        load_eurosat(tmp_path / "changed.zip")
    assert left_behind() == []


@pytest.mark.parametrize("place", range(0, 40))
def test_bytes_changed_in_the_directory_of_a_zip(tmp_path, place):
    """Damage to a zip's own records gives a DataError or no harm, never another error."""
    data = bytearray(write_zip(tmp_path / "a.zip").read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + place] ^= 0xB7
    (tmp_path / "b.zip").write_bytes(data)
    told = "b.zip"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModifiedDataWarning)
        try:
            assert len(load_eurosat(tmp_path / "b.zip")) == len(TILES)
        except DataError as error:
            told = str(error)
    assert "b.zip" in told


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../River_1.jpg", "2750/River/../../x.jpg", "C:/x.jpg", "..\\x.jpg"]
)
def test_unsafe_names_in_a_zip(tmp_path, name):
    """A zip with names that lead out of its folder is refused, naming the member."""
    path = write_zip(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(DataError, match=r"a\.zip holds a member with the unsafe name"):
        load_eurosat(path)


def test_a_member_far_too_large_is_not_unpacked(tmp_path):
    """A zip bomb is refused by the size it declares, before anything is unpacked."""
    path = write_zip(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("2750/River/River_99.jpg", bytes(50_000_000))
    with pytest.raises(DataError, match=r"River_99\.jpg has 50,000,000 bytes"):
        load_eurosat(path)


def test_other_odd_zips(tmp_path):
    """A zip without classes, with a tile twice, or encrypted, is refused by name."""
    nothing = write_zip(tmp_path / "nothing.zip", {"Lake/Lake_1.jpg": jpeg(1)})
    with pytest.raises(DataError, match=r"nothing\.zip holds no EuroSAT"):
        load_eurosat(nothing)
    double = write_zip(tmp_path / "double.zip")
    with zipfile.ZipFile(double, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("2750/River/River_1.jpg", jpeg(1))
    with pytest.raises(DataError, match=r"holds River/River_1\.jpg twice"):
        load_eurosat(double)
    data = bytearray(write_zip(tmp_path / "secret.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(data)
    with pytest.raises(DataError, match="is encrypted"):
        load_eurosat(tmp_path / "secret.zip")


# --- the decoded cache ---------------------------------------------------------------------------


def test_later_starts_do_not_decode(tmp_path, monkeypatch):
    """A second load maps the cache; it neither lists nor decodes the zip."""
    path = write_zip(tmp_path / "a.zip")
    first = load(path)
    monkeypatch.setattr(eurosat, "_decode", None)
    monkeypatch.setattr(eurosat, "_opened", None)
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


# --- public lists --------------------------------------------------------------------------------


def test_lists_are_read_beside_the_source_and_checked(tmp_path, monkeypatch):
    """A list in `splits/` is taken if its hash is right, else refused by name."""
    text = "River_1.jpg\nRiver_2.jpg\n"
    remote = RemoteFile("l.txt", "sha256", hashlib.sha256(text.encode()).hexdigest(), url="x")
    monkeypatch.setitem(eurosat.PUBLIC_LISTS, "l.txt", remote)
    tiles = load(write_folder(tmp_path / "e" / "2750"))
    (tmp_path / "e" / "splits").mkdir()
    (tmp_path / "e" / "splits" / "l.txt").write_text(text)
    assert read_public_list("l.txt", tiles.digest) == text
    (tmp_path / "e" / "splits" / "l.txt").write_text(text + "River_3.jpg\n")
    with pytest.raises(DataError, match=r"l\.txt is not the published list.*remove it"):
        read_public_list("l.txt", tiles.digest)


# --- downloads, from a server of our own that imitates the hub ------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """A running hub that serves the made zip, and online mode."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name, data in TILES.items():
            archive.writestr(f"2750/{name}", data)
    server = Hub(body.getvalue())
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    go_online(monkeypatch, server.address)
    archive = RemoteFile(
        "EuroSAT.zip", "md5", hashlib.md5(server.body).hexdigest(), "torchgeo/eurosat", "r1"
    )
    monkeypatch.setattr(eurosat, "ARCHIVE", archive)
    yield server
    server.shutdown()
    server.server_close()


def test_download_from_the_hub(hub, tmp_path):
    """With no tiles anywhere they are downloaded, verified, kept, and not downloaded again."""
    assert len(load()) == len(TILES)
    path = "/datasets/torchgeo/eurosat/resolve/r1/EuroSAT.zip"
    assert [request[:2] for request in hub.requests] == [("HEAD", path), ("GET", path)]
    kept = cache_dir() / "downloads" / "EuroSAT.zip"
    assert kept.read_bytes() == hub.body
    assert not kept.with_name(".EuroSAT.zip.part").exists()
    assert len(load(download=False)) == len(TILES)
    assert data_root() == kept
    assert len(hub.requests) == 2


def test_a_wrong_hash_leaves_nothing(hub):
    """Bytes that are not the published file are removed, and the error says so."""
    hub.body = hub.body[:-1] + b"x"
    with pytest.raises(DataUnavailableError, match=r"do not have md5 .*; they were removed"):
        load_eurosat()
    kept = [path.name for path in (cache_dir() / "downloads").iterdir()]
    assert [name for name in kept if not name.endswith(".lock")] == []


def test_a_list_is_downloaded(hub, monkeypatch):
    """A public list comes from its address, hash-checked, once."""
    hub.body = b"River_1.jpg\n"
    digest = hashlib.sha256(hub.body).hexdigest()
    remote = RemoteFile("l.txt", "sha256", digest, url=f"{hub.address}/splits/l.txt")
    monkeypatch.setitem(eurosat.PUBLIC_LISTS, "l.txt", remote)
    assert read_public_list("l.txt") == read_public_list("l.txt") == "River_1.jpg\n"
    assert [request[:2] for request in hub.requests] == [
        ("HEAD", "/splits/l.txt"),
        ("GET", "/splits/l.txt"),
    ]


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
    monkeypatch.setitem(eurosat.PUBLIC_LISTS, "l.csv", remote)
    with pytest.raises(DataUnavailableError, match=r"l\.csv .*put it into splits/"):
        read_public_list("l.csv")


@pytest.mark.timeout(60)
def test_a_silent_network_is_given_up(monkeypatch):
    """A server that takes the call and never answers is given up after the time set."""
    assert hub_room.PATIENCE < 10
    monkeypatch.setattr(hub_room, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        go_online(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DataUnavailableError, match="could not be downloaded"):
            load_eurosat()


def test_offline_mode_is_respected(hub, monkeypatch):
    """With HF_HUB_OFFLINE nothing is asked of the network, and the error says why."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataUnavailableError, match="offline mode is enabled"):
        load_eurosat()
    assert hub.requests == []


# --- the real thing ------------------------------------------------------------------------------


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
