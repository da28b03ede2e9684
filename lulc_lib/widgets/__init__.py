"""Explore models by hand in a notebook: a thin shell over the functions of the other modules."""

from lulc_lib.widgets.finding import Facts, colour_distance, confusion, embed, find
from lulc_lib.widgets.state import State, Stroke

try:
    from lulc_lib.widgets.explorer import Explorer
    from lulc_lib.widgets.live import Live
    from lulc_lib.widgets.vary import Vary
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("ipywidgets", "anywidget", "traitlets"):
        raise
    raise ModuleNotFoundError(
        f"the explorer needs {error.name}, which is not installed: pip install 'ipywidgets>=8.1' "
        "'anywidget>=0.9.13'; lulc_lib.plots.plot_gallery draws its maps without them",
        name=error.name,
    ) from error

__all__ = [
    "Explorer",
    "Facts",
    "Live",
    "State",
    "Stroke",
    "Vary",
    "colour_distance",
    "confusion",
    "embed",
    "find",
]
