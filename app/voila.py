"""How `make app` serves the explorer: kernels of closed pages end, and no more start than fit."""

import os

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError

from lulc_lib.storage import free_memory

PAGE_MEMORY = 1.6e9  # bytes that one open page takes (benchmarks/app.py)
LEFT_OVER = 1e9  # bytes that stay free


def most_pages() -> int:
    """Return how many pages may be open: $LULC_PAGES, or as many as memory holds, at least one.

    Raises:
        SystemExit: if $LULC_PAGES is no such number; of another error Voila would take no notice.
    """
    if chosen := os.environ.get("LULC_PAGES"):
        if not chosen.isdecimal() or int(chosen) < 1:
            raise SystemExit(f"LULC_PAGES must be a whole number of at least 1, got {chosen!r}")
        return int(chosen)
    free = free_memory()
    return 8 if free is None else max(1, int((free - LEFT_OVER) // PAGE_MEMORY))


class CappedKernels(AsyncMappingKernelManager):
    """Kernels up to a number, so that one page too many is refused and the others stay quick."""

    most = most_pages()
    _starting = 0  # kernels that are not among those of `len` yet

    async def start_kernel(self, *args, **kwargs):
        """Start the kernel of a page, or say in words why there is none."""
        if len(self) + self._starting >= self.most:
            words = (
                f"All pages that this computer has memory for are open ({self.most}). Close one "
                "that nobody needs, wait two minutes, and open this address again."
            )
            raise HTTPError(503, words, reason=words)  # the page shows the reason
        self._starting += 1
        try:
            return await super().start_kernel(*args, **kwargs)
        finally:
            self._starting -= 1


c = get_config()  # noqa: F821
c.VoilaConfiguration.multi_kernel_manager_class = CappedKernels
c.MappingKernelManager.cull_idle_timeout = 120  # seconds; a page that is open is never culled
c.MappingKernelManager.cull_interval = 20
c.MappingKernelManager.cull_connected = False
c.VoilaConfiguration.show_tracebacks = True
