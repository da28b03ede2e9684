"""Draw maps for comparison: how far they agree, and many of them under the same tiles."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lulc_lib.arrays import resized
from lulc_lib.plots.gallery import GalleryFigure
from lulc_lib.plots.maps import (
    DIVERGING,
    GROUND,
    describe_grid,
    describe_range,
    dress_colour_bar,
    extend,
    map_scale,
    plot_heatmap,
)
from lulc_lib.plots.style import INK, MUTED, axes_or_new, frame, plain, readable_on, titles
from lulc_lib.plots.tiles import short_name
from lulc_lib.tiles import TILE_SIZE, as_images


def plot_agreement(
    agreement: Any,
    names: Sequence[str],
    ax: Axes | None = None,
    *,
    split: int | None = None,
    title: str = "",
    subtitle: str = "",
) -> Axes:
    """Draw a matrix of correlations, red for +1, blue for −1.

    Its numbers stand below the diagonal; those that round to 0 are left out.

    Args:
        agreement: symmetric (M, M) in [-1, 1]; what is NaN is left blank with a dash.
        names: one per row.
        ax: where to draw; None makes a figure.
        split: a line is drawn before this row and column, such as where the nulls begin.
        title: above the matrix.
        subtitle: what was correlated, over how many tiles.

    Raises:
        ValueError: if the matrix is not symmetric, does not fit the names, or leaves [-1, 1].
    """
    values = np.ma.masked_invalid(np.asarray(agreement, dtype=np.float64))
    count = len(names)
    if values.shape != (count, count) or count == 0:
        raise ValueError(f"{count} names do not fit a matrix of shape {values.shape}")
    if not np.allclose(values.filled(0), values.filled(0).T, atol=1e-6):
        raise ValueError("the matrix is not symmetric: how far a agrees with b and b with a differ")
    if np.abs(values).max() > 1 + 1e-3:
        raise ValueError(f"correlations lie in [-1, 1], got {np.abs(values).max():.3g}")
    names = [plain(name) for name in names]
    longest = 0.068 * max(map(len, names))  # inches at this size of letters
    width = max(2.1, longest + 1.0) + 0.33 * count  # with names and colour bar
    width = max(width, longest + 0.3 + 0.1 * len(title), longest + 0.3 + 0.08 * len(subtitle))
    ax = axes_or_new(ax, (width, max(1.2, 0.77 * longest + 0.6) + 0.33 * count))
    ax.set_facecolor("#F4F5F7")
    drawn = ax.imshow(values, cmap=DIVERGING, vmin=-1, vmax=1)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        known = value is not np.ma.masked
        colour = readable_on(drawn.cmap(drawn.norm(value))) if known else MUTED
        words = _digits(value) if known else "–"
        if column <= row and words != "0":
            ax.text(column, row, words, ha="center", va="center", fontsize=7, color=colour)
    if split is not None:
        ax.axhline(split - 0.5, color=INK, linewidth=1)
        ax.axvline(split - 0.5, color=INK, linewidth=1)
    ax.set_xticks(range(count), names, rotation=50, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(count), names)
    ax.tick_params(length=0, labelsize=8, colors=INK)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.5, pad=0.03, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.ax.tick_params(labelsize=7.5, colors=INK, length=2)
    bar.set_label("correlation", fontsize=8, color=INK)
    bar.outline.set_visible(False)
    titles(ax, title, subtitle)
    return ax


def plot_maps(
    images: Any,
    grids: Mapping[str, Any],
    captions: Sequence[str] | None = None,
    *,
    ground: float | None = GROUND,
    side: float = 0.8,
    quantity: str | Mapping[str, str] = "raw value",
) -> Figure:
    """Draw pictures in a row and, below them, one row of maps for each set of grids.

    For maps that are no model's answer to a tile, such as means, concepts and nulls, or for more
    methods than a gallery has columns. The maps of a row share one scale, with its colour bar at
    the right; beside each row stand its name, its grid and its range.

    Args:
        images: a TileSet, or images (N, 3, 64, 64), uint8 or float32 in [0, 1].
        grids: name -> signed float (N, h, w), at any resolution; brought to the tile bilinearly.
        captions: one short text per picture; long class names are broken into two lines.
        ground: metres along the side of a tile; None leaves the size of a cell out.
        side: of a picture, in inches.
        quantity: what the values are, beside the colour bars; name -> words where rows differ,
            "raw value" for rows that are not named.

    Raises:
        ValueError: if there are no grids, or grids or captions do not fit the images.
    """
    pictures = as_images(images).numpy()
    captions = [""] * len(pictures) if captions is None else [short_name(c) for c in captions]
    if not grids:
        raise ValueError("there are no grids to draw: pass {'gradcam': explanation.grid}")
    if len(captions) != len(pictures):
        raise ValueError(f"{len(captions)} captions do not fit {len(pictures)} pictures")
    lines = 1 + max(caption.count("\n") for caption in captions)
    sheet = _Sheet(len(pictures), len(grids), head=0.12 + 0.13 * lines, side=side)
    figure = GalleryFigure(figsize=(sheet.width, sheet.height), facecolor="white", dpi=100)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        ax = figure.add_axes(sheet.picture(0, i))
        ax.imshow(picture.transpose(1, 2, 0), interpolation="nearest")
        frame(ax).set_title(plain(caption), fontsize=7.5, color=INK, pad=3)
    for row, (name, values) in enumerate(grids.items(), start=1):
        grid = _checked(name, values, len(pictures))
        heatmaps = resized(grid, TILE_SIZE)
        scale = map_scale(heatmaps)
        drawn = np.isfinite(grid).all(axis=(1, 2))
        known = grid[drawn] if drawn.any() else grid
        details = f"{describe_grid(grid, ground)}, {describe_range(known)}".replace(", ", "\n")
        if 0 < drawn.sum() < len(grid):
            details += f"\n{(~drawn).sum()} of {len(grid)}: no map"
        _label(figure, sheet, row, name, details)
        for i, picture in enumerate(pictures):
            ax = figure.add_axes(sheet.picture(row, i))
            plot_heatmap(picture, heatmaps[i], ax, scale=scale, grid=grid.shape[1:],
                         outline=max(grid.shape[1:]) < TILE_SIZE)  # fmt: skip
        cax = figure.add_axes(sheet.bar(row), label="colour bar")
        shown = matplotlib.cm.ScalarMappable(scale.norm, scale.cmap)
        bar = figure.colorbar(shown, cax=cax, alpha=0.6, extend=extend(scale), extendfrac=0.05)
        dress_colour_bar(bar, scale)
        words = quantity if isinstance(quantity, str) else quantity.get(name, "raw value")
        bar.set_label(plain(words), fontsize=6.5, color=INK, labelpad=2)
    return figure


@dataclass(frozen=True)
class _Sheet:
    """Where the pictures of a sheet of maps go, in inches from the top left."""

    columns: int
    rows: int  # of maps
    head: float  # above the pictures, for their captions
    side: float = 0.8
    gap: float = 0.08
    label: float = 1.45
    tail: float = 0.75  # right of the maps, for the colour bar and its label

    @property
    def width(self) -> float:
        return self.label + self.columns * (self.side + self.gap) + self.tail

    @property
    def height(self) -> float:
        return self.head + (1 + self.rows) * (self.side + self.gap)

    def picture(self, row: int, column: int) -> tuple[float, float, float, float]:
        return self._box(row, self.label + column * (self.side + self.gap), self.side)

    def bar(self, row: int) -> tuple[float, float, float, float]:
        return self._box(row, self.width - self.tail, 0.07)

    def _box(self, row: int, left: float, wide: float) -> tuple[float, float, float, float]:
        """Return left, bottom, width and height as fractions of the figure."""
        bottom = self.height - self.head - row * (self.side + self.gap) - self.side
        return (left / self.width, bottom / self.height, wide / self.width,
                self.side / self.height)  # fmt: skip


def _label(figure: Figure, sheet: _Sheet, row: int, name: str, details: str) -> None:
    _, bottom, _, tall = sheet.picture(row, 0)
    left, top = 0.05 / sheet.width, bottom + tall
    words = textwrap.fill(name, 20)
    below = top - (0.05 + 0.14 * (1 + words.count("\n"))) / sheet.height
    figure.text(left, top, plain(words), fontsize=8, fontweight="bold", color=INK, va="top")
    figure.text(left, below, details, fontsize=6.5, color=MUTED, va="top", linespacing=1.3)


def _checked(name: str, values: Any, count: int) -> np.ndarray:
    grid = np.asarray(values, dtype=np.float32)
    if grid.ndim != 3 or len(grid) != count:
        raise ValueError(
            f"grids of {name!r} must have shape ({count}, h, w) for {count} pictures, "
            f"got {grid.shape}"
        )
    return grid


def _digits(value: float) -> str:
    """Say a correlation shortly: ".7", "−.2", "0"; "1" only where it is 1 to two digits."""
    text = f"{value:.1f}" if abs(value) < 0.95 else f"{value:.2f}"
    text = {"1.00": "1", "-1.00": "−1", "0.0": "0", "-0.0": "0"}.get(text, text)
    return text.replace("-0.", "−.").replace("0.", ".")
