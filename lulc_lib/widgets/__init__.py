"""Explore models by hand in a notebook: thin shells over the functions of the other rooms."""

from lulc_lib.widgets.view import (
    ALL,
    ANSWERS,
    CAM_METHODS,
    View,
    choose_tiles,
    describe_choice,
    describe_tile,
    describe_warnings,
    position,
    settle,
    step,
)

try:
    from lulc_lib.widgets.gallery import Gallery
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "ipywidgets":
        raise
    raise ModuleNotFoundError(
        "the gallery needs ipywidgets, which is not installed: pip install 'ipywidgets>=8.1'; "
        "lulc_lib.plots.plot_gallery draws the same picture without it",
        name="ipywidgets",
    ) from error

__all__ = [
    "ALL",
    "ANSWERS",
    "CAM_METHODS",
    "Gallery",
    "View",
    "choose_tiles",
    "describe_choice",
    "describe_tile",
    "describe_warnings",
    "position",
    "settle",
    "step",
]
