"""`app/voila.py`: how many pages `make app` opens at once, and what it says instead of one more."""

import asyncio
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError

FILE = Path(__file__).parents[1] / "app" / "voila.py"


def settings() -> dict:
    """Run the file as Voila does, and return its names."""
    given = SimpleNamespace(VoilaConfiguration=SimpleNamespace(),
                            MappingKernelManager=SimpleNamespace())  # fmt: skip
    return runpy.run_path(str(FILE), {"get_config": lambda: given})


@pytest.mark.parametrize("chosen", ["2.5", "all", "0", "-1"])
def test_a_number_of_pages_that_is_none_ends_the_server(chosen, monkeypatch):
    """Voila logs any other error of this file and goes on without a limit."""
    monkeypatch.setenv("LULC_PAGES", chosen)
    with pytest.raises(SystemExit, match=f"whole number of at least 1, got '{chosen}'"):
        settings()


def test_pages_that_are_asked_for_at_once_are_counted(monkeypatch):
    """A kernel counts from the moment it is begun, and no longer once it has failed."""
    monkeypatch.setenv("LULC_PAGES", "1")
    started = []

    async def start(self, *args, **kwargs):
        await asyncio.sleep(0)
        if not started:
            started.append(1)
            raise OSError("no such kernel")
        self._kernels[str(len(started))] = None
        return "kernel"

    monkeypatch.setattr(AsyncMappingKernelManager, "start_kernel", start)
    kernels = settings()["CappedKernels"]()

    async def several() -> list:
        first = await asyncio.gather(kernels.start_kernel(), return_exceptions=True)
        both = [kernels.start_kernel(), kernels.start_kernel()]
        return [*first, *await asyncio.gather(*both, return_exceptions=True)]

    failed, made, refused = asyncio.run(several())
    assert isinstance(failed, OSError)
    assert made == "kernel"
    assert isinstance(refused, HTTPError)
    assert refused.status_code == 503
    assert "(1). Close one" in refused.reason
    kernels._kernels.clear()
