"""What a gallery shows, as plain data, and the pure functions that choose, step and describe."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lulc_lib.plots import GROUND, Column, describe_grid, describe_probability, describe_range
from lulc_lib.tiles import CLASSES, TileSet

ALL = "all"
ANSWERS = (ALL, "right", "wrong")
CAM_METHODS = (
    "gradcam++", "gradcam", "hirescam", "elementwise", "xgradcam", "layercam", "finercam",
    "eigencam", "eigengradcam",
)  # fmt: skip

_WARNINGS = {
    "ZeroMap": "the map is zero everywhere: {method} found nothing that speaks for {target}",
    "FlatMap": "the map has one value everywhere and points nowhere",
    "NaNMap": "the map holds values that are not numbers and cannot be drawn",
    "ClassBlind": "{method} does not look at the class: its map is the same for every answer",
    "LowConfidence": "the model itself gives {target} a probability below one half",
}


@dataclass(frozen=True)
class View:
    """What a gallery shows.

    Attributes:
        label: a class name, or "all".
        answer: "all"; or only tiles that the chosen model gets "right" or "wrong". Where all models
            are shown, "right" means all of them and "wrong" at least one.
        model: name of a model, or "all", side by side.
        method: name of a method.
        tile: index of the tile shown, None where no tile fits.
    """

    label: str = ALL
    answer: str = ALL
    model: str = ALL
    method: str = CAM_METHODS[0]
    tile: int | None = 0


def choose_tiles(
    view: View, labels: np.ndarray, correct: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """Return the indices of the tiles that a view leaves in, ascending.

    Args:
        view: label, answer and model are read.
        labels: int (N,).
        correct: model name -> bool (N,); needed for the models shown when the answer matters.
    """
    keep = np.ones(len(labels), dtype=bool)
    if view.label != ALL:
        keep &= labels == CLASSES.index(view.label)
    if view.answer != ALL:
        models = list(correct or {}) if view.model == ALL else [view.model]
        right = np.all([correct[name] for name in models], axis=0)
        keep &= right if view.answer == "right" else ~right
    return np.flatnonzero(keep)


def settle(view: View, chosen: np.ndarray) -> View:
    """Keep the tile of a view where the choice still holds it, else take the first one."""
    if len(chosen) == 0:
        return replace(view, tile=None)
    held = view.tile is not None and view.tile in chosen
    return view if held else replace(view, tile=int(chosen[0]))


def step(view: View, chosen: np.ndarray, by: int) -> View:
    """Go on by some tiles of the choice, round its ends."""
    view = settle(view, chosen)
    if view.tile is None:
        return view
    at = position(view, chosen)[0] - 1
    return replace(view, tile=int(chosen[(at + by) % len(chosen)]))


def position(view: View, chosen: np.ndarray) -> tuple[int, int]:
    """Return which tile of the choice is shown, counted from 1, and how many there are."""
    if view.tile is None or len(chosen) == 0:
        return 0, 0
    return int(np.searchsorted(chosen, view.tile)) + 1, len(chosen)


def describe_choice(view: View) -> str:
    """Say which tiles a view asks for, such as "label River, vit is wrong"."""
    words = "all labels" if view.label == ALL else f"label {view.label}"
    if view.answer == ALL:
        return words
    if view.model != ALL:
        return f"{words}, {view.model} is {view.answer}"
    together = {"right": "all models are right", "wrong": "at least one model is wrong"}
    return f"{words}, {together[view.answer]}"


def describe_warnings(column: Column) -> list[str]:
    """Say in words what a reader must know of the map of one tile."""
    explanation = column.explanation
    target = CLASSES[int(explanation.target[0])]
    found = [
        _WARNINGS.get(name, name).format(method=explanation.method, target=target)
        for name, which in explanation.warnings.items()
        if 0 in which
    ]
    if column.target(0):
        found.append(
            f"the map is for {target}, which the model answers now; the predictions given say "
            f"{CLASSES[column.predicted[0]]}: they were made with other weights or settings"
        )
    if column.seen is not None and column.seen[0]:
        found.append("the model was trained on this tile, so its answer here proves nothing")
    return found


def describe_tile(tile: TileSet, columns: Sequence[Column]) -> str:
    """Return as HTML what can be said of one tile and its maps, one paragraph per model."""
    name, label = html.escape(Path(tile.names[0]).name), CLASSES[tile.labels[0]]
    words = [f"<p>label <b>{label}</b> · {name} · {GROUND:.0f} m across</p>"]
    for column in columns:
        kind, sign = ("right", "✓") if column.correct(0) else ("wrong", "✗")
        grid, predicted = column.explanation.grid[0], CLASSES[column.predicted[0]]
        facts = (
            f"<b>{html.escape(column.name)}</b> predicted "
            f"<span class={kind}>{sign} <b>{predicted}</b></span>",
            html.escape(describe_probability(column.probability[0])),
            describe_grid(grid, GROUND),
            describe_range(grid),
        )
        notes = "".join(f"<br>⚠ {html.escape(text)}." for text in describe_warnings(column))
        words.append(f"<p>{' · '.join(facts)}{notes}</p>")
    return "".join(words)
