"""Leaf through tiles and their maps: controls around one picture that is replaced."""

import functools
import html
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import ipywidgets
import numpy as np

from lulc_lib.explanations import Explanation, explain
from lulc_lib.explanations import methods as known_methods
from lulc_lib.images import png_bytes
from lulc_lib.metrics import Predictions, predict
from lulc_lib.models import TileClassifier
from lulc_lib.plots import figure_png, gallery_columns, plot_gallery
from lulc_lib.tiles import TileSet
from lulc_lib.widgets.view import (
    ALL,
    CAM_METHODS,
    View,
    choose_tiles,
    describe_choice,
    describe_tile,
    position,
    settle,
    step,
)

KEPT_MAPS, KEPT_PICTURES = 512, 48  # about 25 kB and 150 kB each
DPI, PX_PER_INCH = 150, 118  # of the picture, and on the page: its small print is 11 px high


@dataclass(frozen=True, eq=False)
class _Shown:
    """A picture on the page with its words."""

    png: bytes
    width: int
    height: int
    words: str


class Gallery(ipywidgets.VBox):
    """Leaf through tiles and their heat maps in a notebook.

    Put it on the last line of a cell. Maps are computed for the tile shown alone. Predictions that
    are not given are computed when "right" or "wrong" first asks for them. The maps of a model that
    has changed since are stale: make a new gallery.

    Attributes:
        models: name -> model.
        tiles: the tiles to leaf through.
        predictions: name -> predictions of these tiles, as far as they are known.
        view: what is shown now.
    """

    def __init__(
        self,
        models: Mapping[str, TileClassifier],
        tiles: TileSet,
        predictions: Mapping[str, Predictions] | None = None,
        methods: Sequence[str] = CAM_METHODS,
    ):
        """Make the panel and draw the first tile.

        Args:
            models: name -> model, made by `create_model` or `load_checkpoint`.
            tiles: the tiles to leaf through.
            predictions: name -> predictions that contain these tiles.
            methods: names in `lulc_lib.methods()` to choose from; the first one is shown.

        Raises:
            TypeError: if models or predictions are no dicts, or tiles no TileSet.
            ValueError: if there is nothing to show, a method is unknown, or predictions belong to
                other tiles or to no model.
        """
        _check(models, tiles, methods)
        self.models, self.tiles, self.methods = dict(models), tiles, tuple(methods)
        self.predictions = _matched(predictions, self.models, tiles)
        self.view = View(model=next(iter(models)) if len(models) == 1 else ALL, method=methods[0])
        self._maps = functools.lru_cache(KEPT_MAPS)(self._explain)
        self._pictures = functools.lru_cache(KEPT_PICTURES)(self._draw)
        self._lock = threading.RLock()  # a page may be answered beside a running cell (subshells)
        self._make_controls()
        super().__init__([self._style, self._choices, self._steps, self._problem, self._picture,
                          self._words])  # fmt: skip
        self.show()

    def __repr__(self) -> str:
        return f"Gallery({', '.join(self.models)}: {len(self.tiles):,} tiles)"

    def show(self, **changes: Any) -> None:
        """Show something else, as the controls do.

        Args:
            **changes: fields of `View`, such as `label="River", answer="wrong", model="vit"`.

        Raises:
            ValueError: if there is no such label, answer, model, method or tile.
        """
        try:
            view = replace(self.view, **changes)
        except TypeError:
            known = ", ".join(field.name for field in fields(View))
            raise ValueError(f"a view has {known}, not {', '.join(changes)}") from None
        self._check_view(view)
        self._go(view)

    def step(self, by: int = 1) -> None:
        """Show the next tile of the choice; a negative number steps back."""
        self._go(self.view, by)

    def close(self) -> None:
        """Take the panel off the page, with all its parts."""
        for part in list(_parts(self)):
            for name in ("layout", "style"):
                if part.has_trait(name) and part.trait_has_value(name):
                    getattr(part, name).close()
            ipywidgets.VBox.close(part) if part is self else part.close()

    def _go(self, view: View, by: int = 0) -> None:
        """Take a new view; what goes wrong is said in the panel, since a click has no other way."""
        with self._lock:
            self.view, chosen, problems = view, np.array([], dtype=int), []
            try:
                chosen = choose_tiles(view, self.tiles.labels.numpy(), self._correct(view))
                self.view = step(view, chosen, by) if by else settle(view, chosen)
                shown, problems = self._shown(self.view)
            except Exception as error:
                shown, problems = None, [_in_words(error)]
            self._put(shown, chosen, problems)

    def _correct(self, view: View) -> dict[str, np.ndarray]:
        """Return which tiles the models shown get right; nothing where that does not matter."""
        if view.answer == ALL:
            return {}
        labels, correct = self.tiles.labels.numpy(), {}
        for name in self._names(view):
            if name not in self.predictions:
                self._say(f"predicting {len(self.tiles):,} tiles with {name}, please wait …")
                self.predictions[name] = predict(self.models[name], self.tiles, cache=True)
            correct[name] = self.predictions[name].predicted == labels
        return correct

    def _names(self, view: View) -> list[str]:
        return list(self.models) if view.model == ALL else [view.model]

    def _shown(self, view: View) -> tuple[_Shown | None, list[str]]:
        """Return the picture of a view, and what went wrong on the way."""
        if view.tile is None:
            return None, []
        able, problems = [], []
        for name in self._names(view):
            try:
                self._maps(name, view.tile, view.method)
                able.append(name)
            except Exception as error:
                problems.append(f"{name} has no map by {view.method}: {_in_words(error)}")
        if able:
            return self._pictures(tuple(able), view.tile, view.method), problems
        return _tile_alone(self.tiles[view.tile]), problems

    def _explain(self, name: str, tile: int, method: str) -> Explanation:
        return explain(self.models[name], self.tiles[tile], method)

    def _draw(self, names: tuple[str, ...], index: int, method: str) -> _Shown:
        tile = self.tiles[index]
        maps = {name: self._maps(name, index, method) for name in names}
        rows = {name: self._row(name, tile, maps[name], index) for name in names}
        figure = plot_gallery(tile, maps, rows)
        width, height = (round(PX_PER_INCH * inches) for inches in figure.get_size_inches())
        words = describe_tile(tile, gallery_columns(tile, maps, rows))
        return _Shown(figure_png(figure, DPI), width, height, words)

    def _row(self, name: str, tile: TileSet, maps: Explanation, index: int) -> Predictions:
        """Return what a model says of one tile: the predictions, else the map's own logits."""
        if name in self.predictions:
            known = self.predictions[name]
            logits, seen = known.logits[[index]], known.seen
            seen = None if seen is None else seen[[index]]
        else:
            logits, trained_on = maps.logits, self.models[name].trained_on
            seen = None if trained_on is None else trained_on.contains(tile)
        return Predictions(logits=logits, labels=None, names=tile.names, model=name, seen=seen)

    def _put(self, shown: _Shown | None, chosen: np.ndarray, problems: list[str]) -> None:
        """Bring the page up to date: one message per part, the picture with its size in one."""
        at, count = position(self.view, chosen)
        self._position.value = f"{at:,} / {count:,}"
        for button in (self._previous, self._next):
            button.disabled = count < 2
        words = describe_choice(self.view)
        if not count and not problems:
            problems = [f"No tile fits: {words}. Choose another label, answer or model."]
        self._say(words)
        self._problem.value = "".join(f"<p>{html.escape(text)}</p>" for text in problems)
        self._problem.layout.display = None if problems else "none"
        self._picture.layout.display = "none" if shown is None else None
        self._words.value = "" if shown is None else shown.words
        if shown is not None:
            self._picture.layout.width = f"{shown.width}px"
            with self._picture.hold_sync():
                self._picture.value = shown.png
                self._picture.width, self._picture.height = str(shown.width), str(shown.height)
        for name, control in self._dropdowns.items():
            control.value = getattr(self.view, name)

    def _say(self, text: str) -> None:
        self._status.value = html.escape(text)

    def _make_controls(self) -> None:
        counts = {name: count for name, count in self.tiles.class_counts().items() if count}
        labels = [(f"all ({len(self.tiles):,})", ALL)]
        labels += [(f"{name} ({count:,})", name) for name, count in counts.items()]
        models = [(name, name) for name in self.models]
        if len(models) > 1:
            models.insert(0, ("all side by side", ALL))
        answers = [("right or wrong", ALL), ("right", "right"), ("wrong", "wrong")]
        self._dropdowns = {
            "label": _dropdown("Label", labels),
            "answer": _dropdown("Answer", answers),
            "model": _dropdown("Model", models),
            "method": _dropdown("Method", [(name, name) for name in self.methods]),
        }
        for name, control in self._dropdowns.items():
            control.observe(functools.partial(self._on_choice, name), "value")
        self._previous, self._next = _button("previous", "left"), _button("next", "right")
        self._previous.on_click(lambda _: self.step(-1))
        self._next.on_click(lambda _: self.step(1))
        self._position, self._status = ipywidgets.Label(), ipywidgets.HTML()
        self._problem, self._words = ipywidgets.HTML(), ipywidgets.HTML()
        layout = ipywidgets.Layout(max_width="100%", height="auto")
        # No tooltip: ipywidgets 8.1 cannot show an Image that has one. The words are beside it.
        self._picture = ipywidgets.Image(format="png", layout=layout)
        self._style = ipywidgets.HTML(_STYLE, layout=ipywidgets.Layout(display="none"))
        self._choices = _wrapping(*self._dropdowns.values())
        self._steps = _wrapping(self._previous, self._next, self._position, self._status)
        for name in ("position", "status", "problem", "picture", "words"):
            getattr(self, f"_{name}").add_class(f"lulc-{name}")

    def _on_choice(self, name: str, change: dict[str, Any]) -> None:
        if change["new"] != getattr(self.view, name):  # else the control follows the view
            self._go(replace(self.view, **{name: change["new"]}))

    def _check_view(self, view: View) -> None:
        known = {name: dict(control.options).values() for name, control in self._dropdowns.items()}
        for name, values in known.items():
            value = getattr(view, name)
            if value not in values:
                raise ValueError(
                    f"this gallery has no {name} {value!r}; choose one of {', '.join(values)}"
                )
        if view.tile is not None and view.tile not in range(len(self.tiles)):
            raise ValueError(f"tile must lie in 0..{len(self.tiles) - 1}, got {view.tile!r}")


def _check(models: Any, tiles: Any, methods: Sequence[str]) -> None:
    if not isinstance(models, Mapping):
        raise TypeError(
            "models must be a dict of name -> model, such as {'resnet50': model}, "
            f"got {type(models).__name__}"
        )
    if not models:
        raise ValueError("there are no models to look at: pass {'resnet50': model}")
    for name, model in models.items():
        if not isinstance(model, TileClassifier):
            raise TypeError(
                f"model {name!r} must come from create_model or load_checkpoint, "
                f"got {type(model).__name__}; wrap a module with create_model(module, ...)"
            )
    if ALL in models:
        raise ValueError(f"a model cannot be called {ALL!r}, which means all of them; rename it")
    if not isinstance(tiles, TileSet):
        raise TypeError(
            f"tiles must be a TileSet, such as split(data, 'seed42').test, "
            f"got {type(tiles).__name__}"
        )
    if len(tiles) == 0:
        raise ValueError("there are no tiles to leaf through: the TileSet is empty")
    known = list(known_methods()["name"])
    unknown = [name for name in methods if name not in known]
    if unknown or isinstance(methods, str) or not methods:
        raise ValueError(f"methods must be some of {', '.join(known)}, got {methods!r}")


def _matched(
    predictions: Mapping[str, Predictions] | None, models: Mapping[str, Any], tiles: TileSet
) -> dict[str, Predictions]:
    """Return the predictions of these very tiles, in their order."""
    if not isinstance(predictions, Mapping | None):
        raise TypeError(
            "predictions must be a dict of model name -> Predictions, "
            f"got {type(predictions).__name__}"
        )
    matched = {}
    for name, given in (predictions or {}).items():
        if name not in models:
            raise ValueError(
                f"predictions of {name!r} belong to no model; those are {', '.join(models)}"
            )
        where = {tile: i for i, tile in enumerate(given.names)}
        missing = [tile for tile in tiles.names if tile not in where]
        if missing or (given.digest and given.digest != tiles.digest):
            lack = (
                f"lack {len(missing)} of the" if missing else "come from another data set than the"
            )
            raise ValueError(
                f"predictions of {name!r} {lack} {len(tiles)} tiles (first: "
                f"{(missing or tiles.names)[0]!r}); predict the tiles that are shown, or leave "
                "them out"
            )
        rows = [where[tile] for tile in tiles.names]
        matched[name] = replace(
            given,
            logits=given.logits[rows],
            labels=None,
            names=tiles.names,
            features=None,
            seen=None if given.seen is None else given.seen[rows],
        )
    return matched


def _tile_alone(tile: TileSet) -> _Shown:
    """Show a tile without a map, each pixel three by three."""
    picture = tile.images[0].numpy().transpose(1, 2, 0).repeat(3, axis=0).repeat(3, axis=1)
    return _Shown(png_bytes(picture), *picture.shape[1::-1], describe_tile(tile, []))


def _in_words(error: Exception) -> str:
    """Return an error's message; one that is not meant for readers keeps its type."""
    meant = isinstance(error, ValueError | TypeError | OSError)
    return str(error) if meant else f"{type(error).__name__}: {error}"


def _dropdown(name: str, options: list[tuple[str, str]]) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(
        options=options,
        description=name,
        style={"description_width": "initial"},
        layout=ipywidgets.Layout(width="max-content"),
    )


def _button(name: str, arrow: str) -> ipywidgets.Button:
    width = ipywidgets.Layout(width="7.5em")
    return ipywidgets.Button(description=name, icon=f"arrow-{arrow}", layout=width)


def _wrapping(*parts: ipywidgets.Widget) -> ipywidgets.HBox:
    row = ipywidgets.HBox(parts, layout=ipywidgets.Layout(flex_flow="row wrap"))
    row.add_class("lulc-row")
    return row


def _parts(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    for child in getattr(widget, "children", ()):
        yield from _parts(child)
    yield widget


# Colours follow the theme of the page, light or dark.
_STYLE = """<style>
.lulc-row { gap: 4px 14px; align-items: center; }
.lulc-position, .lulc-status { margin: 0; font-variant-numeric: tabular-nums; }
.lulc-words .widget-html-content, .lulc-problem .widget-html-content {
  line-height: 1.45; min-width: 0; overflow-wrap: anywhere;
}
.lulc-words p, .lulc-problem p { margin: 0 0 4px; }
.lulc-words .right { color: var(--jp-success-color0, #0b6e4f); }
.lulc-words .wrong { color: var(--jp-error-color0, #b42318); }
.lulc-problem { border-left: 4px solid var(--jp-error-color1, #b42318); padding-left: 8px; }
</style>"""
