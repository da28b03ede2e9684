"""The live page: a Vision Transformer that runs in a browser, in one file."""

from lulc_lib.live.packing import PackedVit, live_methods, pack_vit
from lulc_lib.live.page import LiveData, live_data, live_html, live_script

__all__ = [
    "LiveData",
    "PackedVit",
    "live_data",
    "live_html",
    "live_methods",
    "live_script",
    "pack_vit",
]
