"""Draw what a notebook works out by itself: empty panels in a row, and named curves."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from lulc_lib.plots.style import INK, SERIES, axes_or_new, dress, legend, plain


def panels(titles: Sequence[str], width: float = 2.4, height: float = 2.6) -> list[Axes]:
    """Make a row of empty panels, to be drawn on by `plot_heatmap(..., ax=panel)` or by hand.

    Args:
        titles: one per panel; may be empty text.
        width: of one panel, in inches.
        height: of one panel with its title, in inches.
    """
    if isinstance(titles, str) or not len(titles):
        raise ValueError(f"titles must be a list with one text per panel, got {titles!r}")
    size = (width * len(titles), height)
    _, row = plt.subplots(1, len(titles), figsize=size, layout="constrained", squeeze=False)
    for ax, title in zip(row[0], titles, strict=True):
        ax.set_title(plain(title), loc="left", fontsize=9, color=INK)
    return list(row[0])


def plot_curves(
    curves: Mapping[str, Sequence[float]],
    x: Sequence[float] | None = None,
    ax: Axes | None = None,
    *,
    title: str = "",
    labels: tuple[str, str] = ("", ""),
) -> Axes:
    """Draw up to four named curves over a common x.

    Args:
        curves: name -> values.
        x: where they stand; None counts from 0.
        ax: where to draw; None makes a figure.
        title: above the panel.
        labels: what x and y are, with their units.

    Raises:
        ValueError: if there are no curves or more than four, or lengths differ.
    """
    if not 1 <= len(curves) <= len(SERIES):
        raise ValueError(f"1 to {len(SERIES)} curves can be told apart, got {len(curves)}")
    lengths = {name: len(values) for name, values in curves.items()}
    if x is not None:
        lengths["x"] = len(x)
    if len(set(lengths.values())) > 1:
        raise ValueError(f"curves must be equally long, got {lengths}")
    x = np.arange(next(iter(lengths.values()))) if x is None else x
    ax = axes_or_new(ax, (7.2, 2.8))
    styles = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
    for (name, values), colour, style in zip(curves.items(), SERIES, styles, strict=False):
        ax.plot(x, values, color=colour, linestyle=style, linewidth=1.8, label=name)
    dress(ax, title, " " if title and len(curves) > 1 else "")
    ax.set(xlabel=plain(labels[0]), ylabel=plain(labels[1]))
    if len(curves) > 1:
        legend(ax, len(curves), left=True)
    return ax
