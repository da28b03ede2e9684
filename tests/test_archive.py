"""Tiles in a folder or zip."""

import hashlib
import io
import os
import socket
import struct
import warnings
import zipfile

import numpy as np
import pytest
from damage import damaged
from made_eurosat import COUNT, TILES, jpeg, left_behind, load, write_folder, write_zip
from PIL import Image

from lulc_lib import archive, eurosat
from lulc_lib.archive import DataError
from lulc_lib.eurosat import (
    ModifiedDataWarning,
    data_root,
    load_eurosat,
)
from lulc_lib.tiles import CLASSES

pytestmark = pytest.mark.usefixtures("nothing_around")


@pytest.mark.parametrize("layout", archive.LAYOUTS)
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


DAMAGED_TILES = {
    "empty": (b"", "is empty"),
    "truncated": (jpeg(1)[:700], "is a broken JPEG"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
    "too small": (jpeg(1, side=32), "is 32x32 pixels"),
    "grey": (None, "has colour mode 'L'"),
    "far too large": (jpeg(1) + bytes(archive.MAX_TILE_BYTES), "has 1,00"),
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


def test_a_member_is_read_no_further_than_the_limit(tmp_path, monkeypatch):
    """A member whose header claims few bytes and that unpacks to many is refused, by name."""
    big = bytes(3_000_000)
    path = write_zip(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("2750/River/River_99.jpg", big)
    size, claim = (struct.pack("<L", n) for n in (len(big), 5000))
    path.write_bytes(path.read_bytes().replace(size, claim))
    with pytest.raises(DataError, match=r"River_99\.jpg cannot be read from its zip: Bad CRC"):
        load_eurosat(path)
    # The same bytes in a folder that grew after it was listed.
    root = write_folder(tmp_path / "a", TILES | {"River/River_99.jpg": big})
    monkeypatch.setattr(archive, "_regular_size", lambda _: 5000)
    with pytest.raises(DataError, match=r"River_99\.jpg has 1,000,001 bytes"):
        load_eurosat(root)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_packed_in_another_way_is_refused(tmp_path, method):
    """Ways of packing that unpack a piece of any size at once are refused before any is read."""
    path = write_zip(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a", method) as odd:
        odd.writestr("2750/River/River_99.jpg", jpeg(1))
    with pytest.raises(DataError, match=r"River_99\.jpg is compressed in another way"):
        load_eurosat(path)


def test_the_list_of_a_zip_is_bounded(tmp_path, monkeypatch):
    """A list of members far longer than EuroSAT's is not read; nor are too many tiles taken."""
    path = write_zip(tmp_path / "a.zip")
    monkeypatch.setattr(archive, "_MAX_READ", 5000)
    with pytest.raises(DataError, match=r"a\.zip is not a whole zip: it has a record of .* bytes"):
        load_eurosat(path)
    monkeypatch.undo()
    monkeypatch.setattr(archive, "MAX_TILES", 50)
    with pytest.raises(DataError, match="holds more than 50 tiles"):
        load_eurosat(path)
    monkeypatch.setattr(archive, "MAX_TILES", 10)
    with pytest.raises(DataError, match="holds more than 10 files"):
        load_eurosat(write_folder(tmp_path / "a"))


@pytest.mark.timeout(120)
def test_regular_files_alone_are_tiles(tmp_path):
    """A pipe, a socket, a device, a link to one and a link to nowhere are refused, and not read."""
    root = write_folder(tmp_path / "a")
    odd = root / "River" / "River_99.jpg"
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for target in (tmp_path / "pipe", tmp_path / "socket", "/dev/zero"):
            odd.symlink_to(target)
            with pytest.raises(DataError, match=r"River_99\.jpg is a pipe, a device or a socket"):
                load_eurosat(root)
            odd.unlink()
    odd.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"River_99\.jpg cannot be read: No such file"):
        load_eurosat(root)
    odd.unlink()
    os.mkfifo(odd)
    with pytest.raises(DataError, match=r"River_99\.jpg is a pipe"):
        load_eurosat(root)
    odd.unlink()
    (tmp_path / "tile.jpg").write_bytes(jpeg(99))
    odd.symlink_to(tmp_path / "tile.jpg")
    assert len(load(root)) == len(TILES) + 1
    with pytest.raises(DataError, match="pipe holds no EuroSAT"):
        load_eurosat(tmp_path / "pipe")


NAMES = {"River_\n9.jpg": r"'River_\\n9\.jpg'", "River_\x1b[2J.jpg": r"River_\\x1b\[2J"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_names_that_cannot_be_printed_are_refused(tmp_path, name, kind):
    """A line break or a control character in a file's name is named, in one line."""
    make = write_folder if kind == "folder" else write_zip
    root = make(tmp_path / "a", TILES | {f"River/{name}": jpeg(1)})
    with pytest.raises(DataError, match=rf"the file name .*{NAMES[name]}.* rename it") as caught:
        load_eurosat(root)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    """Bytes that are no UTF-8 in a file's or a folder's name are named, and can be printed."""
    root = write_folder(tmp_path / "a")
    for odd, finding in (
        (b"River/River_\xff.jpg", "file name 'River_.udcff.jpg' is not UTF-8"),
        (b"Lake\xff/a.jpg", "unknown class folder 'Lake.udcff'"),
    ):
        path = root / os.fsdecode(odd)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(1))
        with pytest.raises(DataError, match=finding) as caught:
            load_eurosat(root)
        str(caught.value).encode()
        path.unlink()


def test_odd_names_that_can_be_printed_are_taken(tmp_path):
    """Dollar signs, quotes, blanks and letters of any language are names like any other."""
    odd = {f"River/{name}.jpg": jpeg(i) for i, name in enumerate(["$x$", "a 'b'", "Fluß", "川"])}
    root = write_folder(tmp_path / "a\n$b", TILES | odd)
    assert set(odd) <= set(load(root).names)
    assert load(root).digest == load(write_zip(tmp_path / "a.zip", TILES | odd)).digest


@pytest.mark.parametrize("kind", ["tile", "zip"])
def test_damage_anywhere_is_refused_by_name_or_without_effect(tmp_path, kind):
    """Forty damages of a tile, and of a zip: either the tiles, or a DataError of one line."""
    few = {name: data for name, data in TILES.items() if name.endswith("_1.jpg")}
    whole = write_zip(tmp_path / "whole.zip", few)
    told = []
    for seed in range(40):
        if kind == "zip":
            (tmp_path / "a.zip").write_bytes(damaged(whole.read_bytes(), seed))
        else:
            changed = {"River/River_1.jpg": damaged(few["River/River_1.jpg"], seed)}
            write_zip(tmp_path / "a.zip", few | changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ModifiedDataWarning)
            try:
                tiles = load_eurosat(tmp_path / "a.zip")
            except DataError as error:
                told.append(str(error))
            else:
                assert len(tiles) == len(few)
                assert kind == "tile" or tiles.digest == load(whole).digest
    assert len(told) > 5
    assert all("a.zip" in text and "\n" not in text for text in told)


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
