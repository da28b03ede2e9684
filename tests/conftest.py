"""What all tests share: tiles, the real data where there is some, and a quiet environment."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before any library reads them. Paths are made absolute here because kernels start elsewhere.
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
for name in ("LULC_EUROSAT", "LULC_CHECKPOINTS", "LULC_CACHE"):
    if os.environ.get(name):
        os.environ[name] = str(Path(os.environ[name]).absolute())

import torch  # noqa: E402

torch.set_num_threads(min(2, torch.get_num_threads()))


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


@pytest.fixture(scope="session")
def tiles():
    """Sixty drawn tiles, six of each class. Shared by all tests: do not write into them."""
    from lulc_lib.synthetic import synthetic

    return synthetic(n_per_class=6, seed=0)


@pytest.fixture(scope="session")
def eurosat():
    """All 27,000 tiles of EuroSAT; a test that asks for them is skipped where there are none."""
    if not os.environ.get("LULC_EUROSAT"):
        pytest.skip("EuroSAT is not here: set LULC_EUROSAT to its folder or zip")
    from lulc_lib.eurosat import load_eurosat

    return load_eurosat(download=False)
