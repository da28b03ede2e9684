"""Draw heat maps: one scale, one look, and the words that go with a map."""

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from lulc_lib.plots.style import INK, RULE, axes_or_new, frame, one_picture
from lulc_lib.tiles import GROUND_METRES, TILE_SIZE

SEQUENTIAL, DIVERGING = "magma", "RdBu_r"  # maps that never fall below 0, and maps that do
GROUND = float(GROUND_METRES)  # metres along the side of a EuroSAT tile


@dataclass(frozen=True)
class Scale:
    """The colour scale that the maps of one explanation share.

    Attributes:
        limit: value at the end of the scale; signed scales run from -limit to limit.
        signed: whether a value lies below 0, so that the map diverges from 0.
        clipped: whether a value lies beyond the end of the scale.
    """

    limit: float
    signed: bool
    clipped: bool

    @property
    def norm(self) -> Normalize:
        """Return matplotlib's norm for the scale."""
        return Normalize(-self.limit if self.signed else 0, self.limit)

    @property
    def cmap(self) -> str:
        """Return the name of matplotlib's colour map for the scale."""
        return DIVERGING if self.signed else SEQUENTIAL


def map_scale(heatmaps: Any, limit: float | None = None, signed: bool | None = None) -> Scale:
    """Return the scale for heat maps (..., 64, 64) that are to be compared with each other.

    The end of the scale is the upper quartile of the tiles' peaks, so that one tile with a strong
    map does not leave the others blank; a tile's peak is the 99.5th percentile of its magnitudes,
    so that one hot pixel does not make a peak. `limit` sets the end by hand. Values that are not
    finite are left out; where nothing is left, or all is 0, the limit is 1.
    """
    if limit is not None and not (np.isfinite(limit) and limit > 0):
        raise ValueError(f"limit must be positive and finite, got {limit!r}")
    values = np.ma.masked_invalid(np.asarray(heatmaps, dtype=np.float64))
    magnitudes = [np.abs(one.compressed()) for one in values.reshape(-1, *values.shape[-2:])]
    magnitudes = [one for one in magnitudes if one.size] or [np.zeros(1)]
    largest = max(float(one.max()) for one in magnitudes)
    peaks = [np.percentile(one, 99.5) for one in magnitudes]
    end = float(limit or np.percentile(peaks, 75) or largest or 1)
    below = bool((values < 0).any()) if signed is None else signed
    return Scale(end, below, largest > end * (1 + 1e-6))


def colour_table(scale: Scale) -> np.ndarray:
    """Return the 256 colours of a scale from its low to its high end, uint8 (256, 3)."""
    colours = matplotlib.colormaps[scale.cmap](np.arange(256))
    return np.round(colours[:, :3] * 255).astype(np.uint8)


def describe_grid(grid: Any, ground: float | None = GROUND) -> str:
    """Say how fine a grid is, such as "7x7 grid, 1 cell = 91 m".

    Args:
        grid: an array (..., h, w).
        ground: metres along the side of the picture; None leaves the ground size out.
    """
    rows, columns = np.shape(grid)[-2:]
    cell = "" if ground is None else f", 1 cell = {ground / columns:.0f} m"
    if ground is not None and rows != columns:
        cell = f", 1 cell = {ground / columns:.0f} x {ground / rows:.0f} m"
    return f"{rows}x{columns} grid{cell}"


def describe_range(grid: Any) -> str:
    """Say between which values a grid lies, such as "raw −0.02 to 0.31"."""
    low, high = float(np.min(grid)) + 0.0, float(np.max(grid)) + 0.0  # no zero below zero
    if not np.isfinite(low + high):
        return "raw NaN: no map"
    if low == high:
        return f"raw {low:.2g} everywhere".replace("-", "−")
    return f"raw {low:.2g} to {high:.2g}".replace("-", "−")


def describe_peak(grid: Any) -> str:
    """Say where a map (h, w) is highest, counted from 1; its range where it is highest nowhere."""
    values = np.asarray(grid)
    if not np.isfinite(values).all() or values.max() == values.min():
        return describe_range(values)
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    rows, columns = values.shape
    return f"highest in row {row + 1} of {rows}, column {column + 1} of {columns}"


def describe_probability(value: float) -> str:
    """Say a probability in per cent, such as "98.2 %"; never 100 % for what only comes near."""
    return ">99.9 %" if value >= 0.9995 else f"{100 * value:.1f} %"


def plot_heatmap(
    image: Any,
    heatmap: Any,
    ax: Axes | None = None,
    *,
    scale: Scale | None = None,
    limit: float | None = None,
    grid: tuple[int, int] | None = None,
    opacity: float = 0.6,
    outline: bool = True,
) -> Axes:
    """Draw a heat map over its tile in grey, so that every colour comes from the map.

    Maps without negative values run from dark to light; others diverge from 0. Half of the scale is
    outlined, solid above 0 and dashed below, which keeps the sign readable in grey.

    Args:
        image: one tile (3, 64, 64), uint8 or float32 in [0, 1].
        heatmap: signed float (64, 64), unscaled; what is not finite is left blank.
        ax: where to draw; None makes a figure with a colour bar.
        scale: a scale shared with other maps, from `map_scale`.
        limit: value at the end of the scale, when there is no `scale`.
        grid: (h, w) of the layer's own grid, drawn as ticks around the frame.
        opacity: 0 shows the tile alone, 1 the map alone.
        outline: outline half of the scale; on maps that change from pixel to pixel, lines would
            cover everything.
    """
    heatmap = np.ma.masked_invalid(heatmap)
    if heatmap.shape != (TILE_SIZE, TILE_SIZE):
        raise ValueError(
            f"heatmap must have shape {(TILE_SIZE, TILE_SIZE)}, got {heatmap.shape}; "
            "an Explanation's .heatmap holds one per tile"
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity!r}")
    scale = scale or map_scale(heatmap, limit)
    alone = ax is None
    ax = axes_or_new(ax, (3.1, 2.6))
    ax.imshow(_underlay(one_picture(image)), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    drawn = ax.imshow(heatmap, cmap=scale.cmap, norm=scale.norm, alpha=opacity,
                      interpolation="bilinear")  # fmt: skip
    for sign, style in ((1, "solid"), (-1, (0, (2.2, 1.6)))):
        reached = (sign * heatmap).max() > scale.limit / 2 > (sign * heatmap).min()
        if outline and bool(reached) and opacity > 0 and (sign > 0 or scale.signed):
            ax.contour(sign * heatmap, [scale.limit / 2], colors="black", linewidths=0.9,
                       linestyles=[style], alpha=0.85)  # fmt: skip
    if alone:
        dress_colour_bar(ax.figure.colorbar(drawn, ax=ax, extend=extend(scale)), scale)
    return frame(ax, grid)


def _underlay(picture: np.ndarray) -> np.ndarray:
    """Return a tile in grey, (64, 64) in [0, 1], spread around mid-grey to carry a map.

    Dark tiles would vanish under dark colours. The gain is at most 2.5, so that the sensor's noise
    on open water does not turn into a texture.
    """
    grey = picture @ (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
    low, middle, high = np.percentile(grey, (2, 50, 98))
    gain = min(2.5, 0.7 / max(high - low, 1e-3))
    return np.clip(0.5 + gain * (grey - middle), 0.1, 1)


def extend(scale: Scale) -> str:
    """Say which ends of a colour bar are pointed, as values lie beyond them."""
    if not scale.clipped:
        return "neither"
    return "both" if scale.signed else "max"


def dress_colour_bar(bar: Any, scale: Scale) -> None:
    """Give a colour bar its three ticks, over mid-grey as the maps lie over grey tiles."""
    ends = [-scale.limit, 0, scale.limit] if scale.signed else [0, scale.limit]
    bar.set_ticks(ends, labels=[f"{end:.2g}".replace("-", "−") for end in ends])
    bar.ax.set_facecolor("0.45")
    bar.ax.tick_params(length=2, labelsize=7, colors=INK, pad=1.5)
    bar.outline.set(edgecolor=RULE, linewidth=0.6)
