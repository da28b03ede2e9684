"""Draw tiles: what they look like, how many there are, their colours and their evidence."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from lulc_lib.arrays import whole_number
from lulc_lib.plots.style import (
    INK,
    axes_or_new,
    dress,
    frame,
    legend,
    lighter,
    one_picture,
    plain,
)
from lulc_lib.tiles import CLASS_COLORS, CLASSES, TILE_SIZE, TileSet


def plot_tiles(
    tiles: TileSet,
    columns: int = 10,
    captions: Sequence[str] | None = None,
    ax: Axes | None = None,
    inches: float = 1.0,
) -> Axes:
    """Draw a contact sheet: every tile with its label, a strip in the class's colour below it.

    Args:
        tiles: what to show, row by row.
        columns: tiles in a row.
        captions: one short text per tile instead of the label; a line wider than its tile is broken
            inside a class name.
        ax: where to draw; None makes a figure.
        inches: width of a tile in a figure that is made; captions grow with it.
    """
    if len(tiles) == 0:
        raise ValueError("there are no tiles to draw")
    if captions is not None and len(captions) != len(tiles):
        raise ValueError(f"{len(captions)} captions do not fit {len(tiles)} tiles")
    if isinstance(inches, bool) or not isinstance(inches, int | float) or not 0.2 <= inches <= 10:
        raise ValueError(f"inches must be a number from 0.2 to 10, got {inches!r}")
    columns = whole_number("columns", columns)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    texts = [CLASSES[i] for i in tiles.labels] if captions is None else captions
    texts = ["\n".join(map(short_name, text.split("\n"))) for text in texts]
    across = TILE_SIZE + 6  # tile and gap, in tile pixels
    down = TILE_SIZE + 12 + 8 * max(text.count("\n") + 1 for text in texts)
    sheet = np.full((rows * down - 4, columns * across - 6, 3), 255, dtype=np.uint8)
    ax = axes_or_new(ax, (inches * columns, down / TILE_SIZE * 0.92 * inches * rows))
    for i, image in enumerate(tiles.images.numpy().transpose(0, 2, 3, 1)):
        top, left = i // columns * down, i % columns * across
        sheet[top : top + TILE_SIZE, left : left + TILE_SIZE] = image
        sheet[top + TILE_SIZE + 1 : top + TILE_SIZE + 4, left : left + TILE_SIZE] = _rgb(
            CLASSES[tiles.labels[i]]
        )
        ax.text(left, top + TILE_SIZE + 5, plain(texts[i]), va="top", fontsize=6.5 * inches,
                color=INK, linespacing=1.05)  # fmt: skip
    ax.imshow(sheet, interpolation="nearest")
    ax.set_axis_off()
    return ax


def plot_class_balance(tiles: TileSet | Mapping[str, TileSet], ax: Axes | None = None) -> Axes:
    """Draw how many tiles each class has; a dict of parts is stacked from dark to light."""
    parts = tiles if isinstance(tiles, Mapping) else {tiles.part: tiles}
    counts = {name: part.class_counts() for name, part in parts.items()}
    ax = axes_or_new(ax, (7.2, 3.6))
    totals = np.zeros(len(CLASSES), dtype=int)
    for i, (part, count) in enumerate(counts.items()):
        values = np.array([count[name] for name in CLASSES])
        colours = [
            lighter(CLASS_COLORS[name], 0.75 * i / max(1, len(counts) - 1)) for name in CLASSES
        ]
        ax.barh(CLASSES, values, left=totals, color=colours, edgecolor="white", height=0.72)
        ax.barh([0], [0], color=lighter(INK, 0.75 * i / max(1, len(counts) - 1)), label=part)
        totals += values
    for row, total in enumerate(totals):
        ax.annotate(f"{total:,}", (total, row), (4, 0), textcoords="offset points", va="center",
                    fontsize=8, color=INK)  # fmt: skip
    ax.invert_yaxis()
    ax.set_xlim(0, max(1, totals.max()) * 1.1)
    dress(ax, "Tiles per class", f"{totals.sum():,} tiles", grid="x")
    ax.set_xlabel("tiles")
    if len(counts) > 1:
        legend(ax, len(counts))
    return ax


def plot_colour_statistics(tiles: TileSet, ax: Axes | None = None) -> Axes:
    """Draw the mean red, green and blue of each class's tiles, with their spread.

    A marker is the mean over the class's tiles of a tile's mean colour (0 to 1), its line reaches
    one standard deviation to each side; the square at the left is that mean colour itself.
    """
    if len(tiles) == 0:
        raise ValueError("there are no tiles to draw")
    means = tiles.images.numpy().mean(axis=(2, 3), dtype=np.float64) / 255
    labels = tiles.labels.numpy()
    present = [i for i in range(len(CLASSES)) if (labels == i).any()]
    centre = np.array([means[labels == i].mean(axis=0) for i in present])
    spread = np.array([means[labels == i].std(axis=0) for i in present])
    ax = axes_or_new(ax, (7.2, 4.2))
    rows = np.arange(len(present), dtype=float)
    looks = (("red", "#D55E00", "s"), ("green", "#009E73", "^"), ("blue", "#0072B2", "o"))
    for channel, (name, colour, marker) in enumerate(looks):
        x, y, xerr = centre[:, channel], rows + 0.24 * (channel - 1), spread[:, channel]
        ax.errorbar(x, y, xerr=xerr, fmt=marker, color=colour, label=name, markersize=5.5)
    ax.set_yticks(rows, [CLASSES[i] for i in present])
    ax.set_ylim(len(present) - 0.4, -0.6)
    for row, colour in zip(rows, centre, strict=True):
        ax.add_patch(Rectangle((-0.065, row - 0.36), 0.05, 0.72, color=colour, clip_on=False,
                               transform=ax.get_yaxis_transform()))  # fmt: skip
    ax.set_xlabel("mean of a tile, 0 = black, 1 = white")
    legend(ax, 3)
    dress(ax, "Mean colour by class", "line: ±1 standard deviation between tiles", grid="x")
    ax.tick_params(axis="y", pad=32)
    return ax


def plot_mask(image: Any, mask: Any, ax: Axes | None = None) -> Axes:
    """Draw a tile with the outline of its evidence; what lies outside is dimmed.

    Args:
        image: one tile (3, 64, 64), uint8 or float32 in [0, 1].
        mask: bool (64, 64), as in `TileSet.masks`.
        ax: where to draw.
    """
    picture, mask = one_picture(image), np.asarray(mask)
    if mask.dtype != bool or mask.shape != (TILE_SIZE, TILE_SIZE):
        raise ValueError(
            f"mask must be bool {(TILE_SIZE, TILE_SIZE)}, got {mask.dtype} {mask.shape}"
        )
    ax = axes_or_new(ax, (2.4, 2.4))
    ax.imshow(np.where(mask[..., None], picture, 0.45 * picture), interpolation="nearest")
    edges = _outline(mask)
    ax.add_collection(LineCollection(edges, colors="black", linewidths=2.4, capstyle="round"))
    ax.add_collection(LineCollection(edges, colors="white", linewidths=1.1, capstyle="round"))
    return frame(ax)


def _rgb(label: str) -> np.ndarray:
    return np.round(np.array(matplotlib.colors.to_rgb(CLASS_COLORS[label])) * 255).astype(np.uint8)


def short_name(label: str) -> str:
    """Break a line that holds a class name into two where it is wider than a tile."""
    return label if len(label) < 14 else re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", label)


def _outline(mask: np.ndarray) -> list[list[tuple[float, float]]]:
    """Return the pixel edges between a mask and what lies outside it as segments."""
    padded = np.pad(mask, 1)
    rows, columns = np.nonzero(padded[1:] != padded[:-1])
    edges = [[(c - 1.5, r - 0.5), (c - 0.5, r - 0.5)] for r, c in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(padded[:, 1:] != padded[:, :-1])
    return edges + [
        [(c - 0.5, r - 1.5), (c - 0.5, r - 0.5)] for r, c in zip(rows, columns, strict=True)
    ]
