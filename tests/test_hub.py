"""Downloads: resumed, checked, given up in time, and never seen half-done."""

import hashlib
import os
import socket
import threading

import huggingface_hub
import numpy as np
import pytest
from damage import damaged
from local_hub import Hub, go_online

from lulc_lib import hub as hub_room
from lulc_lib.hub import (
    DataUnavailableError,
    RemoteFile,
    downloaded_file,
    fetch,
    first_contact,
    hub_address,
    is_cached,
)
from lulc_lib.models import create_model
from lulc_lib.storage import CacheWarning, cache_dir


@pytest.fixture
def hub(monkeypatch):
    """A running hub that serves 100 kB, and online mode."""
    server = Hub(np.random.default_rng(0).bytes(100_000))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    go_online(monkeypatch, server.address)
    digest = hashlib.md5(server.body).hexdigest()
    server.file = RemoteFile("EuroSAT.zip", "md5", digest, "torchgeo/eurosat", "r1")
    yield server
    server.shutdown()
    server.server_close()


def test_an_interrupted_download_goes_on(hub, monkeypatch):
    """When the connection breaks, the rest is asked for, not the whole."""
    # The client writes whole chunks, by default of 10 MB: more than the made zip.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.break_after = 30_000
    path = fetch(hub.file)
    assert path.read_bytes() == hub.body
    assert hub.requests[-1][2] == "bytes=30000-"


def test_a_killed_download_goes_on_later(hub):
    """What an earlier process had received is kept and completed."""
    part = cache_dir() / "downloads" / ".EuroSAT.zip.part"
    part.parent.mkdir()
    part.write_bytes(hub.body[:40_000])
    assert fetch(hub.file).read_bytes() == hub.body
    assert [request[2] for request in hub.requests] == [None, "bytes=40000-"]
    assert not part.exists()


@pytest.mark.parametrize("extra", [b"", b"too much"])
def test_a_part_that_is_whole_or_longer(hub, extra):
    """A part killed just before its move is used; one longer than the file is dropped."""
    part = cache_dir() / "downloads" / ".EuroSAT.zip.part"
    part.parent.mkdir()
    part.write_bytes(hub.body + extra)
    assert fetch(hub.file).read_bytes() == hub.body


def test_the_hub_clients_own_cache_is_used(hub, tmp_path, monkeypatch):
    """A file that other tools downloaded from the hub is taken from where they put it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "datasets--torchgeo--eurosat" / "snapshots" / ("c" * 40)
    folder.mkdir(parents=True)
    (folder / "EuroSAT.zip").write_bytes(hub.body)
    archive = RemoteFile("EuroSAT.zip", "md5", hub.file.digest, "torchgeo/eurosat", "c" * 40)
    assert fetch(archive) == folder / "EuroSAT.zip"
    assert hub.requests == []


def test_a_wrong_hash_is_refused_and_removed(hub):
    """Bytes that are not the published file are not kept."""
    hub.body = hub.body[:-1] + b"?"
    with pytest.raises(DataUnavailableError, match=r"do not have md5 .*; they were removed"):
        fetch(hub.file)
    assert not list((cache_dir() / "downloads").glob("*.zip"))


def test_a_kept_download_is_checked_when_it_is_used(hub, monkeypatch):
    """A file damaged since it was downloaded is downloaded again, with a warning."""
    path = fetch(hub.file)
    asked = len(hub.requests)
    assert fetch(hub.file) == path
    assert len(hub.requests) == asked
    path.write_bytes(damaged(hub.body, seed=1))
    with pytest.warns(CacheWarning, match=r"EuroSAT\.zip is damaged: .*md5.*downloaded again"):
        assert fetch(hub.file).read_bytes() == hub.body
    path.write_bytes(damaged(hub.body, seed=2))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with (
        pytest.warns(CacheWarning, match="is damaged"),
        pytest.raises(DataUnavailableError, match="offline"),
    ):
        fetch(hub.file)


@pytest.mark.timeout(120)
def test_a_pipe_in_place_of_a_download_is_replaced(hub):
    """What is no regular file is not waited for."""
    path = downloaded_file(hub.file)
    path.parent.mkdir()
    os.mkfifo(path)
    assert fetch(hub.file).read_bytes() == hub.body


def test_weights_that_the_hubs_client_keeps_are_checked(tmp_path, monkeypatch):
    """Weights that lost the SHA-256 they are kept under are removed, so that they come anew."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--some--model"
    blob = folder / "blobs" / hashlib.sha256(b"weights").hexdigest()
    link = folder / "snapshots" / ("c" * 40) / "model.safetensors"
    for path, text in ((blob, "weights"), (folder / "refs" / "main", "c" * 40)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    assert is_cached("some/model", "model.safetensors")
    blob.write_bytes(b"Weights")
    with pytest.warns(CacheWarning, match=r"model\.safetensors of some/model.* is removed"):
        assert not is_cached("some/model", "model.safetensors")
    assert not link.is_symlink()
    assert not blob.exists()
    assert not is_cached("some/model", "model.safetensors")


def test_without_a_cache_folder_the_error_is_named(hub, tmp_path, monkeypatch):
    """Where nothing can be kept nothing is downloaded, and the error says why."""
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LULC_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataUnavailableError, match=r"cache folder .* set LULC_CACHE"):
        fetch(hub.file)


@pytest.mark.timeout(60)
def test_first_contact_tells_the_size_or_gives_up(hub, monkeypatch):
    """An answering server tells the size; one that keeps silent is left after the time set."""
    assert first_contact(hub.file.address()) == len(hub.body)
    monkeypatch.setattr(hub_room, "PATIENCE", 0.3)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Exception, match=r"no answer|timed out"),
    ):
        first_contact(f"http://127.0.0.1:{silent.getsockname()[1]}/file")


def test_addresses_follow_the_endpoint(hub):
    """`$HF_ENDPOINT` names a mirror, for data sets and models alike."""
    assert hub.file.address() == f"{hub.address}/datasets/torchgeo/eurosat/resolve/r1/EuroSAT.zip"
    model = hub_address("timm/resnet18.a1_in1k", "model.safetensors")
    assert model == f"{hub.address}/timm/resnet18.a1_in1k/resolve/main/model.safetensors"


@pytest.mark.timeout(60)
def test_pretrained_weights_give_up_a_dead_network(monkeypatch):
    """Without network, pretrained=True fails at once and says which file to bring."""
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    go_online(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(FileNotFoundError, match=r"Bring .*model\.safetensors of timm/"):
        create_model("resnet18.a1_in1k", pretrained=True)
    assert pauses == [], "it was tried again later"
