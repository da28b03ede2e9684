"""What all figures share: inks, titles, frames and the Axes they start from."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lulc_lib.images import printable
from lulc_lib.tiles import TILE_SIZE, as_images

INK, MUTED, RULE = "#1F2933", "#667085", "#D0D5DD"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito, colour-blind safe
MARKERS = ("o", "D", "s", "^")


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the Axes given, or that of a new figure which pyplot knows."""
    if ax is None:
        figure, ax = plt.subplots(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return ax


def close(drawn: Axes | Figure) -> None:
    """Let pyplot forget the figure of an Axes, which outside notebooks it otherwise keeps."""
    plt.close(drawn if isinstance(drawn, Figure) else drawn.figure)


def show_made(draw: Callable[[], Any]) -> Any:
    """Call a function, show the figures that it leaves with pyplot, and return what it returns.

    A notebook shows such figures at the end of a cell alone, not when a control is moved.
    """
    from IPython.display import display  # only notebooks call this

    before = set(plt.get_fignums())
    try:
        made = draw()
        for number in sorted(set(plt.get_fignums()) - before):
            display(plt.figure(number))
    finally:  # a figure that an error left half drawn goes too
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
    return made


def dress(ax: Axes, title: str = "", subtitle: str = "", grid: str = "both") -> None:
    """Give a panel its title, quiet spines and light grid lines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(RULE)
    ax.tick_params(length=0, labelsize=8.5, colors=INK)
    ax.xaxis.label.set(color=INK, fontsize=8.5)
    ax.yaxis.label.set(color=INK, fontsize=8.5)
    ax.grid(visible=True, axis=grid, color=RULE, linewidth=0.6)
    ax.set_axisbelow(True)
    titles(ax, title, subtitle)


def plain(text: str) -> str:
    """Return a name or caption as matplotlib draws it letter by letter; its lines are kept.

    Between two dollar signs matplotlib reads a formula; a file's name may hold two.
    """
    return "\n".join(map(printable, str(text).split("\n"))).replace("$", r"\$")


def titles(ax: Axes, title: str, subtitle: str = "") -> None:
    """Put a bold title and a quiet second line above a panel, at its left edge."""
    if title:
        ax.set_title(plain(title), loc="left", fontsize=11, fontweight="bold", color=INK,
                     pad=20 if subtitle else 8)  # fmt: skip
    if subtitle:
        ax.annotate(plain(subtitle), (0, 1), (0, 7), xycoords="axes fraction", fontsize=8.5,
                    color=MUTED, textcoords="offset points", annotation_clip=False)  # fmt: skip


def legend(ax: Axes, columns: int, left: bool = False) -> None:
    """Put the legend above the panel, on the subtitle's line."""
    corner, x = ("lower left", 0) if left else ("lower right", 1)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles, [plain(label) for label in labels], loc=corner, bbox_to_anchor=(x, 1),
              ncols=columns, frameon=False, fontsize=8, handletextpad=0.3,
              borderaxespad=0.2, borderpad=0.1)  # fmt: skip


def frame(ax: Axes, grid: tuple[int, int] | None = None) -> Axes:
    """Show the whole tile without axes; a grid's cells become ticks around the frame."""
    ax.set(xlim=(-0.5, TILE_SIZE - 0.5), ylim=(TILE_SIZE - 0.5, -0.5), aspect="equal")
    ax.spines[:].set(color=RULE, linewidth=0.8)
    ax.set_xticks([])
    ax.set_yticks([])
    if grid is not None and max(grid) < TILE_SIZE:
        ax.set_yticks(np.linspace(-0.5, TILE_SIZE - 0.5, grid[0] + 1))
        ax.set_xticks(np.linspace(-0.5, TILE_SIZE - 0.5, grid[1] + 1))
        ax.tick_params(length=2.5, width=0.6, color=MUTED, labelleft=False, labelbottom=False)
    return ax


def lighter(name: str, share: float) -> tuple[float, ...]:
    """Mix a colour with white; a share of 1 is white."""
    colour = np.array(matplotlib.colors.to_rgb(name))
    return tuple(colour + (1 - colour) * share)


def readable_on(colour: Sequence[float]) -> str:
    """Return black or white, whichever reads better on a colour."""
    return "white" if np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.55 else INK


def percent(value: float) -> str:
    """Say a share in per cent, such as "98.2 %"; a dash where it is undefined."""
    return f"{100 * value:.1f} %" if np.isfinite(value) else "–"


def one_picture(image: Any) -> np.ndarray:
    """Return one tile as float (64, 64, 3) in [0, 1]."""
    images = as_images(image)
    if len(images) != 1:
        raise ValueError(f"one tile (3, {TILE_SIZE}, {TILE_SIZE}) is drawn here, got {len(images)}")
    return images[0].numpy().transpose(1, 2, 0).astype(np.float64)
