"""How `make app` serves the explorer: kernels of closed pages end, and no more start than fit."""

import os

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError

from lulc_lib.storage import free_memory

PAGE_MEMORY = 1.6e9  # bytes that one open page takes (benchmarks/app.py)
LEFT_OVER = 1e9  # bytes that stay free


def most_pages() -> int:
    """Return how many pages may be open: $LULC_PAGES, or as many as memory holds, at least one."""
    if chosen := os.environ.get("LULC_PAGES"):
        return max(1, int(chosen))
    free = free_memory()
    return 8 if free is None else max(1, int((free - LEFT_OVER) // PAGE_MEMORY))


class CappedKernels(AsyncMappingKernelManager):
    """Kernels up to a number, so that one page too many is refused and the others stay quick."""

    most = most_pages()

    async def start_kernel(self, *args, **kwargs):
        """Start the kernel of a page, or say in words why there is none."""
        if len(self) >= self.most:
            words = (
                f"All pages that this computer has memory for are open ({self.most}). Close one "
                "that nobody needs, wait a minute, and open this address again."
            )
            raise HTTPError(503, words, reason=words)  # the page shows the reason
        return await super().start_kernel(*args, **kwargs)


c = get_config()  # noqa: F821
c.VoilaConfiguration.multi_kernel_manager_class = CappedKernels
c.MappingKernelManager.cull_idle_timeout = 120  # seconds; a page that is open is never culled
c.MappingKernelManager.cull_interval = 20
c.MappingKernelManager.cull_connected = False
c.VoilaConfiguration.show_tracebacks = True
