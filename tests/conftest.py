"""What all tests share: tiles, the real data where there is some, and a quiet environment.

`make test` spreads the tests over several processes (`pytest -n auto`, by pytest-xdist). Two small
tests side by side, with one thread each, take less time than one after the other with two threads.
"""

import contextlib
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MOST_WORKERS = 4
BYTES_A_WORKER = 3 * 2**30  # a test process, and a notebook's kernel or a browser beside it
WORKER = "PYTEST_XDIST_WORKER" in os.environ
LONGEST_FIRST = ("notebook", "browser", "slow")  # a long one started last would run on alone
# Files whose tests stay in one process, since what they share takes longer than they do.
TOGETHER = re.compile(r"tests/browser/|test_training_scaleout\.py")

# Set before any library reads them. Paths are made absolute here because kernels start elsewhere.
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
if WORKER:  # for torch, and for the kernels and commands that tests start
    threads = CORES // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ["OMP_NUM_THREADS"] = str(max(1, min(2, threads)))
for name in ("LULC_EUROSAT", "LULC_CHECKPOINTS", "LULC_CACHE"):
    if os.environ.get(name):
        os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())

import torch  # noqa: E402

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process for each core, at most four, and no more than the free memory holds."""
    from lulc_lib.storage import free_memory

    memory = free_memory()
    fitting = MOST_WORKERS if memory is None else memory // BYTES_A_WORKER
    return max(1, min(CORES, MOST_WORKERS, fitting))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process its next test, or a whole file of `TOGETHER`, when it has few left."""
    from xdist.scheduler import LoadScopeScheduling

    class OneByOne(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    if config.getoption("dist") != "load":
        return None  # somebody asked for another way
    config.option.loadscopereorder = False  # our order stays
    return OneByOne(config, log)


def unit_of(nodeid: str) -> str:
    """Return what a test is handed out with: its file, or itself alone."""
    return nodeid.split("::")[0] if TOGETHER.search(nodeid) else nodeid


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a run of several processes, put what takes longest first; else leave the order."""

    def rank(item: pytest.Item) -> int:
        marks = [item.get_closest_marker(name) is not None for name in LONGEST_FIRST]
        return marks.index(True) if any(marks) else len(marks)

    if WORKER:
        items.sort(key=rank)


@pytest.fixture(autouse=True)
def _same_start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Seed torch, and give each test a cache of its own.

    Tests of the real tiles keep the user's cache, so that 27,000 tiles are decoded once and not
    for every test.
    """
    torch.manual_seed(0)
    if request.node.get_closest_marker("eurosat") or "eurosat" in request.fixturenames:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="lulc-cache-", ignore_cleanup_errors=True) as cache:
        monkeypatch.setenv("LULC_CACHE", cache)
        yield


@pytest.fixture
def little_disk() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A block in which no file can grow beyond a size, by the system's own limit: a full disk."""
    resource = pytest.importorskip("resource")

    @contextlib.contextmanager
    def limited(most: int = 10_000) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture(scope="session")
def tiles():
    """Sixty drawn tiles, six of each class. Shared by all tests: do not write into them."""
    from lulc_lib.drawn_tiles import synthetic

    return synthetic(n_per_class=6, seed=0)


@pytest.fixture(scope="session")
def eurosat():
    """All 27,000 tiles of EuroSAT; a test that asks for them is skipped where there are none."""
    if not os.environ.get("LULC_EUROSAT"):
        pytest.skip("EuroSAT is not here: set LULC_EUROSAT to its folder or zip")
    from lulc_lib.eurosat import load_eurosat

    return load_eurosat(download=False)


@pytest.fixture
def nothing_around(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> None:
    """Hide the real data and `data/` from the tests on made tiles."""
    from lulc_lib import eurosat, public_lists

    if not request.node.get_closest_marker("eurosat"):
        monkeypatch.delenv("LULC_EUROSAT", raising=False)
        for module in (eurosat, public_lists):
            monkeypatch.setattr(module, "usual_places", lambda: [tmp_path / "data"])


@pytest.fixture
def eurosat_hub(monkeypatch, tmp_path: Path) -> Iterator[Any]:
    """A running hub that serves the made zip, and online mode."""
    from local_hub import Hub, go_online
    from made_eurosat import write_zip

    from lulc_lib import eurosat
    from lulc_lib.hub import RemoteFile

    server = Hub(write_zip(tmp_path / "served" / "EuroSAT.zip").read_bytes())
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    go_online(monkeypatch, server.address)
    digest = hashlib.md5(server.body).hexdigest()
    archive = RemoteFile("EuroSAT.zip", "md5", digest, "torchgeo/eurosat", "r1")
    monkeypatch.setattr(eurosat, "ARCHIVE", archive)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def own_folder(monkeypatch, tmp_path_factory) -> None:
    """Keep the shipped checkpoints out of sight: names are looked up in an empty folder."""
    from lulc_lib import checkpoints

    monkeypatch.delenv("LULC_CHECKPOINTS", raising=False)
    monkeypatch.setattr(checkpoints, "_OWN_FOLDER", tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def trained() -> Any:
    """A small network with lived-in BatchNorm statistics and known training tiles."""
    from made_checkpoints import small_network

    return small_network()


@pytest.fixture
def saved(trained, tmp_path: Path) -> Path:
    """The path of that network's checkpoint."""
    from made_checkpoints import CONFIG, HISTORY

    from lulc_lib.checkpoints import save_checkpoint

    save_checkpoint(trained, CONFIG, tmp_path / "small", history=HISTORY)
    return tmp_path / "small"
