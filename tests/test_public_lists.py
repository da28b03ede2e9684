"""Published lists of tile names."""

import hashlib
import io
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from local_hub import Hub, go_online
from PIL import Image

from lulc_lib import eurosat, public_lists
from lulc_lib.archive import DataError
from lulc_lib.eurosat import (
    ModifiedDataWarning,
    load_eurosat,
)
from lulc_lib.hub import RemoteFile
from lulc_lib.public_lists import read_public_list
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


def load(root=None, **options):
    """Load made tiles, which are never the original ones."""
    with pytest.warns(ModifiedDataWarning, match="not the original EuroSAT"):
        return load_eurosat(root, **options)


@pytest.fixture(autouse=True)
def _nothing_around(request, tmp_path, monkeypatch):
    """Hide the real data and `data/` from the tests on made tiles."""
    if not request.node.get_closest_marker("eurosat"):
        monkeypatch.delenv("LULC_EUROSAT", raising=False)
        monkeypatch.setattr(eurosat, "usual_places", lambda: [tmp_path / "data"])
        monkeypatch.setattr(public_lists, "usual_places", lambda: [tmp_path / "data"])


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


def test_a_list_is_downloaded(hub, monkeypatch):
    """A public list comes from its address, hash-checked, once."""
    hub.body = b"River_1.jpg\n"
    digest = hashlib.sha256(hub.body).hexdigest()
    remote = RemoteFile("l.txt", "sha256", digest, url=f"{hub.address}/splits/l.txt")
    monkeypatch.setitem(public_lists.PUBLIC_LISTS, "l.txt", remote)
    assert read_public_list("l.txt") == read_public_list("l.txt") == "River_1.jpg\n"
    assert [request[:2] for request in hub.requests] == [
        ("HEAD", "/splits/l.txt"),
        ("GET", "/splits/l.txt"),
    ]
