"""Draw results: `plot_*(result, ax=None)` draws one result on one Axes and returns it.

Where `ax` is None the Axes is made through pyplot, so that a notebook shows it by itself; code that
runs outside a notebook closes it with `close`. `plot_gallery` and `plot_maps` return a Figure that
pyplot does not know: a notebook shows it as the last line of a cell, and nothing needs closing.
"""

from lulc_lib.plots.compare import plot_agreement, plot_maps
from lulc_lib.plots.files import figure_jpeg, figure_png, save_figure, write_whole
from lulc_lib.plots.gallery import Column, GalleryFigure, gallery_columns, plot_gallery
from lulc_lib.plots.maps import (
    GROUND,
    Scale,
    colour_table,
    describe_grid,
    describe_peak,
    describe_probability,
    describe_range,
    map_scale,
    plot_heatmap,
)
from lulc_lib.plots.panels import panels, plot_curves
from lulc_lib.plots.results import (
    plot_confusion,
    plot_coverage,
    plot_history,
    plot_per_class,
    plot_reliability,
)
from lulc_lib.plots.style import close
from lulc_lib.plots.tiles import (
    plot_class_balance,
    plot_colour_statistics,
    plot_mask,
    plot_tiles,
)
from lulc_lib.plots.verdicts import plot_report_card

__all__ = [
    "GROUND",
    "Column",
    "GalleryFigure",
    "Scale",
    "close",
    "colour_table",
    "describe_grid",
    "describe_peak",
    "describe_probability",
    "describe_range",
    "figure_jpeg",
    "figure_png",
    "gallery_columns",
    "map_scale",
    "panels",
    "plot_agreement",
    "plot_class_balance",
    "plot_colour_statistics",
    "plot_confusion",
    "plot_coverage",
    "plot_curves",
    "plot_gallery",
    "plot_heatmap",
    "plot_history",
    "plot_maps",
    "plot_mask",
    "plot_per_class",
    "plot_reliability",
    "plot_report_card",
    "plot_tiles",
    "save_figure",
    "write_whole",
]
