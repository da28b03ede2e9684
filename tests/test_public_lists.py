"""Published lists of tile names."""

import hashlib

import pytest
from made_eurosat import load, write_folder

from lulc_lib import public_lists
from lulc_lib.archive import DataError
from lulc_lib.hub import RemoteFile
from lulc_lib.public_lists import read_public_list

pytestmark = pytest.mark.usefixtures("nothing_around")


def test_lists_are_read_beside_the_source_and_checked(tmp_path, monkeypatch):
    """A list in `splits/` is taken if its hash is right, else refused by name."""
    text = "River_1.jpg\nRiver_2.jpg\n"
    remote = RemoteFile("l.txt", "sha256", hashlib.sha256(text.encode()).hexdigest(), url="x")
    monkeypatch.setitem(public_lists.PUBLIC_LISTS, "l.txt", remote)
    tiles = load(write_folder(tmp_path / "e" / "2750"))
    (tmp_path / "e" / "splits").mkdir()
    (tmp_path / "e" / "splits" / "l.txt").write_text(text)
    assert read_public_list("l.txt", tiles.digest) == text
    (tmp_path / "e" / "splits" / "l.txt").write_text(text + "River_3.jpg\n")
    with pytest.raises(DataError, match=r"l\.txt is not the published list.*remove it"):
        read_public_list("l.txt", tiles.digest)


def test_a_place_that_is_gone_is_one_of_several(tmp_path, monkeypatch):
    """A list that lies beside the tiles is found whatever `$LULC_EUROSAT` names."""
    text = "River_1.jpg\n"
    remote = RemoteFile("l.txt", "sha256", hashlib.sha256(text.encode()).hexdigest(), url="x")
    monkeypatch.setitem(public_lists.PUBLIC_LISTS, "l.txt", remote)
    tiles = load(write_folder(tmp_path / "e" / "2750"))
    (tmp_path / "e" / "splits").mkdir()
    (tmp_path / "e" / "splits" / "l.txt").write_text(text)
    monkeypatch.setenv("LULC_EUROSAT", str(tmp_path / "gone"))
    assert read_public_list("l.txt", tiles.digest) == text


def test_a_list_is_downloaded(eurosat_hub, monkeypatch):
    """A public list comes from its address, hash-checked, once."""
    eurosat_hub.body = b"River_1.jpg\n"
    digest = hashlib.sha256(eurosat_hub.body).hexdigest()
    remote = RemoteFile("l.txt", "sha256", digest, url=f"{eurosat_hub.address}/splits/l.txt")
    monkeypatch.setitem(public_lists.PUBLIC_LISTS, "l.txt", remote)
    assert read_public_list("l.txt") == read_public_list("l.txt") == "River_1.jpg\n"
    assert [request[:2] for request in eurosat_hub.requests] == [
        ("HEAD", "/splits/l.txt"),
        ("GET", "/splits/l.txt"),
    ]
