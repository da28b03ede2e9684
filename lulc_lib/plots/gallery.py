"""Draw a gallery: tiles in rows, beside each the maps of several models or methods."""

import base64
import functools
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from lulc_lib.arrays import softmax
from lulc_lib.evidence import SINGLE_DELETION
from lulc_lib.explanations import Explanation
from lulc_lib.explanations.table import METHODS
from lulc_lib.plots.files import figure_jpeg, figure_png
from lulc_lib.plots.maps import (
    GROUND,
    Scale,
    describe_grid,
    describe_probability,
    describe_range,
    dress_colour_bar,
    extend,
    map_scale,
    plot_heatmap,
)
from lulc_lib.plots.style import INK, MUTED, frame, plain
from lulc_lib.predictions import Predictions, aligned
from lulc_lib.tiles import CLASSES, TileSet, as_images, undivided
from lulc_lib.wording import layer_in_words

LARGEST_GALLERY = 200  # pictures that one figure can carry before nobody can open it
_FOOTER = (
    "Below a tile: its label and name. Below a map: the predicted class and its probability, the "
    "target and its own where that is another class, the map's range. Maps: raw values of the "
    "method, one scale per column, over the tile in grey; values beyond a pointed end of the scale "
    "are drawn as its end; outlined at half of the scale, dashed below 0. A map shows which cells "
    "this method credits for the class, as coarsely as its grid; the line below the grid says "
    "whether it was told apart from maps that look at nothing, and the share of the map on the "
    "right one of four tiles (mosaic, chance 0.25; not to be compared between models that see "
    "mosaics of different sizes). It does not show where the class is, nor that the answer is "
    "right."
)
_FAILED_DELETION = (
    "Where a method failed single deletion alone, the line below the grid has its figure in that "
    "test instead: the correlation with what each patch costs, chance 0."
)


class GalleryFigure(Figure):
    """A Figure outside pyplot that a notebook can still show.

    It is shown as JPEG, since notebooks with many tiles would grow beyond what a page can carry.
    Through `_ipython_display_`, because matplotlib registers a PNG for every Figure.
    """

    def _ipython_display_(self) -> None:
        from IPython.display import display  # only IPython calls this

        picture = base64.b64encode(figure_jpeg(self)).decode("ascii")
        display({"image/jpeg": picture, "text/plain": repr(self)}, raw=True)

    def _repr_png_(self) -> bytes:
        return figure_png(self)


def plot_gallery(
    tiles: Any,
    explanations: Mapping[str, Explanation],
    predictions: Mapping[str, Predictions] | None = None,
    *,
    ground: float | None = GROUND,
    opacity: float = 0.6,
    names: Sequence[str] | None = None,
    scales: Mapping[str, Scale] | None = None,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw tiles in rows, each with one map per explanation beside it.

    All maps of one explanation share its scale, shown by the colour bar above them. More than six
    tiles are set in two blocks side by side.

    Args:
        tiles: a TileSet, or images (N, 3, 64, 64) without labels.
        explanations: name -> Explanation of these very tiles, such as "resnet50".
        predictions: model name -> Predictions that contain these tiles; None takes the logits
            that the explanations carry.
        ground: metres along the side of a tile; None when unknown.
        opacity: of the maps over the tiles.
        names: what to write below the tiles instead of their names.
        scales: by the keys of `explanations`; one that is not here comes from the maps drawn.
        notes: lines to write below the pictures.

    Raises:
        TypeError: if explanations is not a dict.
        ValueError: if an explanation or a prediction does not belong to the tiles.
    """
    tiles = tiles if isinstance(tiles, TileSet) else undivided(tiles)
    images, count = as_images(tiles).numpy(), len(tiles)
    columns = gallery_columns(tiles, explanations, predictions, scales)
    if names is not None and len(names) != count:
        raise ValueError(f"{len(names)} names do not fit {count} tiles")
    if count * (1 + len(columns)) > LARGEST_GALLERY:
        raise ValueError(
            f"{count} tiles with {len(columns)} maps each are too many for one figure (at most "
            f"{LARGEST_GALLERY} pictures): pass fewer, such as tiles[:12], or use gallery_html"
        )
    blocks = 1 if count <= 6 else 2
    texts = [[column.caption(i) for column in columns] for i in range(count)]
    lines = 2 + max(details.count("\n") for row in texts for _, details, _ in row)
    verdicts = [column.explanation.verdict for column in columns]
    if any(verdict and f"· {SINGLE_DELETION}" in verdict.short for verdict in verdicts):
        notes = (*notes, _FAILED_DELETION)
    place = _Places(count, 1 + len(columns), blocks, lines, tuple(map(plain, notes)))
    figure = GalleryFigure(figsize=(place.width, place.height), facecolor="white", dpi=100)
    for block in range(blocks):
        detail = "64x64 px" if ground is None else f"64x64 px, {ground:.0f} m across"
        _heading(figure, place, (block, 0), "tile", [detail])
        for c, column in enumerate(columns):
            _draw_heading(figure, place, block, c + 1, column, ground, opacity)
    for i in range(count):
        ax = figure.add_axes(place.picture(i, 0))
        ax.imshow(images[i].transpose(1, 2, 0), interpolation="nearest")
        frame(ax)
        _caption(ax, place.points, *_tile_caption(tiles, names, i))
        for c, column in enumerate(columns):
            ax = figure.add_axes(place.picture(i, c + 1))
            maps = column.explanation
            plot_heatmap(images[i], maps.heatmap[i], ax, scale=column.scale, opacity=opacity,
                         grid=maps.grid.shape[-2:])  # fmt: skip
            _caption(ax, place.points, *texts[i][c])
    figure.text(place.margin / place.width, (place.foot - 0.05) / place.height,
                "\n".join(place.footer), fontsize=7.5, color=MUTED, va="top",
                linespacing=1.35)  # fmt: skip
    return figure


@dataclass(frozen=True, eq=False)
class Column:
    """One explanation in a gallery with what its captions need.

    Attributes:
        name: as the caller named it, such as "resnet50".
        explanation: of all tiles of the gallery.
        scale: shared by all its maps.
        probabilities: float64 (N, 10).
        labels: int (N,), or None.
        seen: bool (N,), tiles that the model was trained on; None where that is not known.
    """

    name: str
    explanation: Explanation
    scale: Scale
    probabilities: np.ndarray
    labels: np.ndarray | None
    seen: np.ndarray | None = None

    @property
    def predicted(self) -> np.ndarray:
        """Return the most probable class, int64 (N,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def probability(self) -> np.ndarray:
        """Return its probability, (N,)."""
        return self.probabilities.max(axis=1)

    @property
    def model(self) -> str:
        """Return the model's name: the key, up to a dot in the middle of the line."""
        return _model_of(self.name)

    @property
    def method(self) -> str:
        """Name the method, and say so when it does not look at the class."""
        blind = "ClassBlind" in self.explanation.warnings
        return self.explanation.method + (", blind to the class" if blind else "")

    def correct(self, i: int) -> bool | None:
        """Say whether tile i is predicted as labelled; None without labels."""
        return None if self.labels is None else bool(self.predicted[i] == self.labels[i])

    def target(self, i: int) -> str | None:
        """Return the explained class of tile i when it is not the predicted one."""
        target = int(np.asarray(self.explanation.target)[i])
        return None if target == self.predicted[i] else CLASSES[target]

    def caption(self, i: int) -> tuple[str, str, str]:
        """Return headline, details and colour of the caption of tile i."""
        right = self.correct(i)
        sign, colour = {True: ("✓ ", "#0B6E4F"), False: ("✗ ", "#B42318"), None: ("", INK)}[right]
        details = describe_probability(self.probability[i])
        if self.target(i):
            believed = self.probabilities[i, int(np.asarray(self.explanation.target)[i])]
            details += f"\ntarget {self.target(i)}\n{describe_probability(believed)}"
        if i in self.explanation.warnings.get("LowConfidence", ()):
            details += ", LowConfidence"
        details += f"\n{describe_range(self.explanation.grid[i])}"
        if self.seen is not None and self.seen[i]:
            details += "\nthe model was trained on this tile"
        return f"{sign}{CLASSES[self.predicted[i]]}", details, colour


def gallery_columns(
    tiles: Any,
    explanations: Mapping[str, Explanation],
    predictions: Mapping[str, Predictions] | None = None,
    scales: Mapping[str, Scale] | None = None,
) -> list[Column]:
    """Check that explanations and predictions belong to the tiles and join them.

    Predictions may hold more tiles than the gallery; they are found by name. The key of an
    explanation is the model's name, or begins with it: "resnet50 · gradcam++".
    """
    if not isinstance(explanations, Mapping):
        raise TypeError(
            "explanations must be a dict of name -> Explanation, such as {'resnet50': expl}, "
            f"got {type(explanations).__name__}"
        )
    if not explanations:
        raise ValueError("there are no explanations to draw: pass {'resnet50': expl}")
    labels = tiles.labels.numpy() if isinstance(tiles, TileSet) else None
    predictions = predictions or {}
    models = {name: _model_of(name) for name in explanations}
    for key in predictions:
        if key not in models and key not in models.values():
            raise ValueError(
                f"predictions of {key!r} belong to no explanation; "
                f"those are {', '.join(map(repr, explanations))}"
            )
    columns = []
    for name, explanation in explanations.items():
        if len(explanation.heatmap) != len(tiles):
            raise ValueError(
                f"explanation {name!r} holds {len(explanation.heatmap)} maps, but there are "
                f"{len(tiles)} tiles; explain the same tiles that are drawn"
            )
        given = predictions.get(name, predictions.get(models[name]))
        logits, seen = np.asarray(explanation.logits), None
        if given is not None:
            own = _of_these(given, tiles, name)
            logits, seen = own.logits, own.seen
        scale = _scale(explanation, (scales or {}).get(name))
        columns.append(Column(name, explanation, scale, softmax(logits), labels, seen))
    return columns


def _scale(found: Explanation, given: Scale | None) -> Scale:
    """Return the scale of a column: signed where its method is, whatever its values are."""
    if given is None:
        known = METHODS.get(found.method)
        signed = bool(known and known.signed) or bool((found.heatmap < 0).any())
        return map_scale(found.heatmap, signed=signed)
    beyond = bool((np.abs(found.heatmap) > given.limit * (1 + 1e-6)).any())
    return Scale(given.limit, given.signed, beyond)


@dataclass(frozen=True)
class _Places:
    """Where the pictures of a gallery go, in inches from the top left."""

    count: int
    columns: int
    blocks: int
    lines: int  # of caption below a picture
    notes: tuple[str, ...] = ()
    side: float = 1.6
    gap: float = 0.14
    head: float = 1.25
    margin: float = 0.1

    @property
    def points(self) -> float:
        """The width that a line of text may have, in points: to the next column."""
        return 72 * (self.side + self.gap) - 3

    @property
    def pitch(self) -> float:
        return self.side + 0.18 + 0.13 * self.lines

    @property
    def footer(self) -> list[str]:
        wide = int(18.3 * (self.width - 2 * self.margin))
        return [line for text in (*self.notes, _FOOTER) for line in textwrap.wrap(text, wide)]

    @property
    def foot(self) -> float:
        return 0.15 + 0.145 * len(self.footer)

    @property
    def rows(self) -> int:
        return -(-self.count // self.blocks)

    @property
    def block(self) -> float:
        return self.columns * (self.side + self.gap) + 0.25

    @property
    def width(self) -> float:
        return self.blocks * self.block - 0.25 - self.gap + 2 * self.margin

    @property
    def height(self) -> float:
        return self.head + self.rows * self.pitch + self.foot

    def picture(self, tile: int, column: int) -> tuple[float, float, float, float]:
        top = self.head + (tile % self.rows) * self.pitch
        return self.box(tile // self.rows, column, top, self.side)

    def box(self, block: int, column: int, top: float, tall: float) -> tuple[float, ...]:
        """Return left, bottom, width and height as fractions of the figure."""
        left = self.margin + block * self.block + column * (self.side + self.gap)
        bottom = self.height - top - tall
        return (left / self.width, bottom / self.height, self.side / self.width,
                tall / self.height)  # fmt: skip


def _draw_heading(
    figure: Figure, place: _Places, block: int, c: int, column: Column,
    ground: float | None, opacity: float,
) -> None:  # fmt: skip
    maps = column.explanation
    where = layer_in_words(maps.layer) if maps.layer else "no layer: pixels"
    details = [column.method, where, describe_grid(maps.grid, ground)]
    if maps.verdict is not None:
        details.append(maps.verdict.short)
    is_plain = column.name == f"{column.model} · {maps.method}"
    _heading(figure, place, (block, c), column.model if is_plain else column.name, details)
    cax = figure.add_axes(place.box(block, c, place.head - 0.31, 0.09), label="colour bar")
    shown = matplotlib.cm.ScalarMappable(column.scale.norm, column.scale.cmap)
    bar = figure.colorbar(shown, cax=cax, orientation="horizontal", alpha=opacity,
                          extend=extend(column.scale), extendfrac=0.05)  # fmt: skip
    dress_colour_bar(bar, column.scale)
    first, *_, last = bar.ax.get_xticklabels()
    first.set_ha("left")
    last.set_ha("right")


def _heading(
    figure: Figure, place: _Places, where: tuple[int, int], name: str, details: list[str]
) -> None:
    left, bottom, _, height = place.box(*where, 0.12, 0.2)
    words, size = _fitted(plain(name), place.points)
    details = [shortened(line, place.points, 7) for line in details]
    figure.text(left, bottom + height, words, fontsize=size, fontweight="bold", color=INK, va="top",
                linespacing=1.0)  # fmt: skip
    figure.text(left, bottom, "\n".join(details), fontsize=7, color=MUTED, va="top",
                linespacing=1.3)  # fmt: skip


def _fitted(name: str, points: float) -> tuple[str, float]:
    """Return a column's name and the size of its letters that fit into a width in points.

    A name that is too long is broken behind its model; letters shrink from 9.5 points to 5 at most.
    """
    if width_of(name, 9.5, "bold") <= points:
        return name, 9.5
    model, dot, rest = name.partition(" · ")
    lines = [f"{model} ·", rest] if dot else [name]
    size = min(
        9.5 if len(lines) == 1 else 7.0,
        9.5 * points / max(width_of(line, 9.5, "bold") for line in lines),
    )
    return "\n".join(lines), max(size, 5.0)


@functools.lru_cache(maxsize=4096)
def width_of(line: str, size: float, weight: str = "normal") -> float:
    """Return how wide a line is, in points, in letters of a size."""
    drawn = TextPath((0, 0), line, size, prop=FontProperties(weight=weight), usetex=False)
    return float(drawn.get_extents().x1) if line.strip() else 0.0


@functools.lru_cache(maxsize=4096)
def shortened(line: str, points: float, size: float, weight: str = "normal") -> str:
    """Return a line that fits into a width in points; of a longer one the middle is left out."""
    kept = len(line)
    made = line
    while kept > 2 and width_of(plain(made), size, weight) > points:
        kept -= 1
        made = f"{line[: (kept + 1) // 2]}…{line[len(line) - kept // 2 :]}"
    return made


def _tile_caption(tiles: Any, names: Sequence[str] | None, i: int) -> tuple[str, str, str]:
    if not isinstance(tiles, TileSet):
        return names[i] if names else "picture", "no label", INK
    return CLASSES[tiles.labels[i]], names[i] if names else Path(tiles.names[i]).stem, INK


def _caption(ax: Axes, points: float, headline: str, details: str, colour: str) -> None:
    headline = "\n".join(shortened(line, points, 8, "bold") for line in headline.split("\n"))
    details = "\n".join(shortened(line, points, 7) for line in details.split("\n"))
    ax.annotate(plain(headline), (0, 0), (0, -4), xycoords="axes fraction",
                textcoords="offset points", va="top", fontsize=8, fontweight="bold",
                color=colour)  # fmt: skip
    ax.annotate(details, (0, 0), (0, -15), xycoords="axes fraction", textcoords="offset points",
                va="top", fontsize=7, color=MUTED, linespacing=1.25)  # fmt: skip


def _model_of(name: str) -> str:
    return re.split(r"\s+·\s+", name)[0]


def _of_these(predictions: Predictions, tiles: Any, name: str) -> Predictions:
    """Return the predictions of the gallery's tiles: by name, pictures without one by number."""
    if isinstance(tiles, TileSet):
        return aligned(predictions, tiles, name)
    if len(predictions) != len(tiles):
        raise ValueError(
            f"predictions of {name!r} hold {len(predictions)} pictures, not {len(tiles)}"
        )
    return predictions
