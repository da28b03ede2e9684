"""The explorer: find tiles, look at them through several models, paint on them, keep what is found.

A thin shell: what is shown is one `State`, pure functions turn it into data, elements draw these.
"""

import contextlib
import functools
import itertools
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import ipywidgets
import numpy as np

from lulc_lib.explanations import Explanation
from lulc_lib.export import PageLook, explain_for_page, gallery_html
from lulc_lib.images import data_uri, open_picture, png_bytes, printable
from lulc_lib.models import TileClassifier
from lulc_lib.plots import (
    GROUND,
    GalleryFigure,
    Scale,
    colour_table,
    describe_probability,
    figure_png,
    map_scale,
    plot_gallery,
)
from lulc_lib.predictions import (
    Predictions,
    cached_predictions,
    kept_components,
    predict,
    store_predictions,
)
from lulc_lib.tiles import CLASS_COLORS, CLASSES, GROUND_METRES, TileSet
from lulc_lib.widgets.cells import close_parts, replace_earlier
from lulc_lib.widgets.checks import checked_models, checked_tiles, matched
from lulc_lib.widgets.elements import (
    Form,
    Look,
    Matrix,
    Scatter,
    Thumbnails,
    encoded,
    listener,
    sprite,
)
from lulc_lib.widgets.finding import Facts, asks_models, colour_distance, confusion, embed, find
from lulc_lib.widgets.looking import (
    Failure,
    Looking,
    asked_of,
    beside_of,
    deletion_found,
    further_arguments,
    jobs_of,
    method_facts,
    packed_map,
    packed_model,
)
from lulc_lib.widgets.panel import detail_fields, does_not_apply, find_fields, shown_stage
from lulc_lib.widgets.state import ALL, State, Stroke
from lulc_lib.widgets.stories import STORIES, ended, opening, packed
from lulc_lib.widgets.work import Between, Job, Work

PER_PAGE = 60  # thumbnails
ON_A_PAGE = 60  # tiles of a kept page
CHUNK = 8  # tiles predicted between two looks at whether something else is wanted
PAINTED_AT_ONCE = 4  # strokes; more are painted in the background
_OPEN_FIRST = "open a picture of your own first, with the same fit"
_FINDS = ("label", "predicted", "answer", "judge", "confidence", "among", "sort")
_TABLES = {
    kind: encoded(colour_table(Scale(1.0, kind == "diverging", False)))
    for kind in ("sequential", "diverging")
}
_TOOL_HELP = {
    "blur": "the brush puts a blur of what lies around",
    "mean": "the brush puts the tile's mean colour",
    "texture": "the brush puts neighbouring texture",
    "linear": "the brush puts the mean of the neighbours, with noise",
    "swap": "the brush puts the pixels of another tile",
    "erase": "the brush gives the tile's own pixels back",
    "undo": "take back the last stroke, also on another tile",
    "redo": "paint again what was taken back",
    "clean": "take back all strokes on this tile",
    "take": "the brush takes pixels from this tile",
    "before": "the tile before painting, or the other tile, stands beside it",
    "previous": "the tile before",
    "next": "the next tile",
}


class Explorer(ipywidgets.VBox):
    """Explore what models look at, by hand, in JupyterLab or under Voila.

    Put it on the last line of a cell. The maps of a model that has changed since are stale: make a
    new explorer.

    Attributes:
        models: name -> model.
        tiles: the tiles to explore.
        predictions: name -> predictions of these tiles, as far as they are known.
        state: what is shown now; `show` changes it.
        found: positions of the tiles that the state asks for.
    """

    _work: Work | None = None

    def __init__(
        self,
        models: Mapping[str, TileClassifier],
        tiles: TileSet,
        predictions: Mapping[str, Predictions] | None = None,
    ):
        """Make the panel and show the first tile.

        Args:
            models: name -> model, made by `create_model` or `load_checkpoint`.
            tiles: the tiles to explore.
            predictions: name -> predictions that contain these tiles; those that are missing are
                taken from the cache, or made in the background, while the panel can be used.

        Raises:
            TypeError: if models or predictions are no dicts, or tiles no TileSet.
            ValueError: if there is nothing to show, or predictions belong to other tiles or to no
                model.
        """
        self.models, self.tiles = checked_models(models), checked_tiles(tiles)
        self.predictions = matched(predictions, self.models, tiles)
        unknown = {name: m for name, m in self.models.items() if name not in self.predictions}
        self.predictions.update(cached_predictions(unknown, tiles) if unknown else {})
        self.looking = Looking(self.models, tiles)
        self.state = State(tile=tiles.names[0])
        self.found = np.arange(len(tiles))
        self._serial = 0
        self._taken = 0  # states taken: tells the page's answer to one change from that to another
        self._turn = threading.RLock()  # held while the state or what is shown changes, never while
        # a model is asked: so one thread at a time writes, and none waits for a computation
        self._work = Work(self._on_work, self._on_failure)
        self._chunks: dict[str, list[Predictions]] = {}  # predictions under way
        self._done: list[tuple[str, tuple[Stroke, ...]]] = []  # tile and strokes before each change
        self._undone: list[tuple[str, tuple[Stroke, ...]]] = []
        self._own_words: dict[str, str] = {}
        self._failure = ""
        self._saved_of: State | None = None  # what the file that was made last shows
        self._cloud: str | None = None  # the model whose features the embedding map shows
        self._know()
        super().__init__(self._layout())
        self.add_class("lulc-explorer")
        replace_earlier(self)
        self._go(self.state, everything=True)
        if set(self.models) - set(self.predictions):
            self._add("predictions", "predicting", self._predict_missing)

    def __repr__(self) -> str:
        return f"Explorer({', '.join(self.models)}: {len(self.tiles):,} tiles)"

    # --- what can be asked of it ---

    def show(self, **changes: Any) -> None:
        """Show something else, as the controls do.

        Args:
            **changes: fields of `State`, such as `label="River", answer="wrong", judge="vit"`.

        Raises:
            ValueError: if there is no such field, or its value is out of range or not here.
        """
        with self._turn:
            state = self.state.change(**changes)
            self._check_here(state)
            self._go(state)

    def step(self, by: int = 1) -> None:
        """Show the next of the tiles found; a negative number steps back."""
        with self._turn:
            names = [self.tiles.names[i] for i in self.found]
            if not names:
                return
            outside = 0 if by < 0 else -1
            at = names.index(self.state.tile) if self.state.tile in names else outside
            at = (at + by) % len(names)
            self._go(self.state.at(names[at]).change(page=at // PER_PAGE))

    def to_json(self) -> str:
        """Return what is shown as JSON text, which `restore` shows again."""
        return self.state.to_json()

    def restore(self, text: str) -> None:
        """Show what `to_json` has written, here or in another explorer of these tiles and models.

        Strokes on tiles that are not here, or with their pixels, are left out, and the panel says
        so; pictures of one's own are opened first, with the same fit.

        Raises:
            ValueError: if the text is no such state, or looks at a tile or asks a model not here.
        """
        self._reopen(State.from_json(text))

    def _reopen(self, stored: State) -> None:
        """Show a stored state; what needs tiles that are not here is left out, and that is said."""
        with self._turn:
            state, missing = stored.within({*self.looking.position, *self.looking.own})
            self._check_here(state)
            self._go(state, everything=True)
            if missing:
                words = f"Left out what needs {', '.join(missing)}: {_OPEN_FIRST}, then the view."
                self._problem(f"{self._failure} {words}".strip())

    def figure(self) -> GalleryFigure:
        """Draw what is looked at as a still picture: the tile, painted or not, and its maps.

        Raises:
            ValueError: if no chosen method has a map of this tile.
        """
        state = self.state
        return self._work.ask("drawing the picture", functools.partial(self._figure, state))

    def _figure(self, state: State, between: Between) -> GalleryFigure:
        maps, scales, problems = {}, {}, []
        for name in self.models:
            for method in state.methods:
                key = name if len(state.methods) == 1 else f"{name} · {method}"
                try:
                    asked = asked_of(state, self.looking, name, method)
                    found = self.looking.map(asked, between)
                    if state.scale == "shared":
                        scales[key] = self.looking.scale(asked, between)
                except ValueError as error:
                    problems.append(f"{key}: no map, {_in_words(error)}")
                    continue
                maps[key] = found if state.sign == "signed" else positive(found)
        if not maps:
            raise ValueError("; ".join(problems))
        if state.sign == "positive":
            scales = {key: replace(scale, signed=False) for key, scale in scales.items()}
        notes = [f"Note: {note}"] if (note := state.note(state.tile)) else []
        look = {"opacity": state.opacity, "scales": scales, "notes": [*notes, *problems]}
        if state.strokes or state.tile in self.looking.own:
            shown = self.looking.painted(state.tile, state.strokes)[None]
            words = f"{Path(state.tile).stem}{', painted' if state.strokes else ''}"
            ground = None if state.tile in self.looking.own else GROUND
            return plot_gallery(shown, maps, names=[words], ground=ground, **look)
        tile = self.tiles[self.looking.position[state.tile]]
        return plot_gallery(tile, maps, self.predictions, **look)

    def export_html(self, path: str | Path, count: int = ON_A_PAGE) -> Path:
        """Write the first of the tiles found, with their maps, as one page that needs no kernel.

        Args:
            path: the file to write.
            count: tiles at most.

        Returns:
            The absolute path of the page.

        Raises:
            ValueError: if no tile is found, or no chosen method can explain a model.
        """
        write = functools.partial(self._page, self.state, self.found[:count], path)
        return self._work.ask("writing the page", write)

    def _page(self, state: State, found: np.ndarray, path: str | Path, between: Between) -> Path:
        """Write the tiles at some positions, as a state shows them, as one page."""
        if not len(found):
            raise ValueError("no tile is found, so that there is nothing to export")
        shown = self.tiles.select(found, part=self.tiles.part)
        missing: dict[str, str] = {}

        def more(name: str, method: str) -> dict[str, Any]:
            return further_arguments(state, self.looking, name, method)

        maps = explain_for_page(
            self.models, shown, state.methods, self.predictions, target=state.target,
            more=more, missing=missing, between=between, cache=True,  # to go on after a stop
        )  # fmt: skip
        look = self._page_look(state)
        if state.sign == "positive":  # the scale begins at 0, as in the panel
            maps = {key: {t: positive(one) for t, one in made.items()}
                    for key, made in maps.items()}  # fmt: skip
            for key, made in maps.items():
                heat = next(iter(made.values())).heatmap
                look.scales.setdefault(key, map_scale(heat, signed=False))
        return gallery_html(shown, maps, path, self.predictions, missing=missing, look=look)

    def _page_look(self, state: State) -> PageLook:
        """Return what a kept page takes over from the panel: opacity, scale and notes."""
        scales: dict[str, Scale] = {}
        for name in self.models:
            for method in state.methods:
                with contextlib.suppress(ValueError):  # a picture of one's own has no label
                    asked = asked_of(state, self.looking, name, method)
                    if isinstance(scale := self.looking.scale_found(asked), Scale):
                        key = name if len(state.methods) == 1 else f"{name} · {method}"
                        signed = scale.signed and state.sign == "signed"
                        scales[key] = replace(scale, signed=signed)
        notes = dict(state.notes)
        painted = dict(state.paintings) | ({state.tile: state.strokes} if state.strokes else {})
        for name in painted:
            words = "painted in the explorer; shown here as it was"
            notes[name] = f"{notes[name]} ({words})" if name in notes else words
        return PageLook(state.opacity, state.scale == "per map", scales, notes)

    def add_picture(
        self, path: str | Path, fit: Literal["crop", "resize"] = "crop", scale: float | None = None
    ) -> str:
        """Bring a picture of one's own to the panel and show it.

        Args:
            path: a file in one of `images.FORMATS`.
            fit: "crop" keeps the picture's resolution, "resize" its whole (`images.open_picture`).
            scale: the number that is white, for values beyond 8 bits, as in `images.open_picture`.

        Returns:
            The name under which it is shown: that of the file with its fit, and a number where the
            name stands for another picture already.

        Raises:
            FileNotFoundError: if there is no such file.
            ImageError: if it is no picture that can be read.

        Warns:
            PictureWarning: for each decision about the meaning of its values, which the panel
                says too.
        """
        picture = open_picture(path, fit, scale)
        words = f"{picture.fitted}; {picture.ground}".replace(str(Path(path).parent) + "/", "")
        if (far := colour_distance(picture.image, self.tiles)) > 1:
            words += (
                f"; its colours lie {far:.1f} times as far from the mean of these tiles as 99 of "
                "100 of them: what the models say of it means little"
            )
        with self._turn:
            name = self._own_name(printable(Path(path).name), fit, picture.image)
            self.looking.own[name], self._own_words[name] = picture.image, words
            changes = ended(self.state)
            if self.state.target == "label":  # it has none
                changes["target"] = "predicted"
            self._go(self.state.at(name).change(**changes), own=True)
        return name

    def _own_name(self, file: str, fit: str, image: np.ndarray) -> str:
        """Return the first name of a picture that stands for no other pixels."""
        names = itertools.chain(
            [f"{file} ({fit})"], (f"{file} ({fit}, {n})" for n in itertools.count(2))
        )
        own = self.looking.own
        return next(n for n in names if n not in own or np.array_equal(own[n], image))

    def wait(self, seconds: float = 600) -> bool:
        """Wait until what runs in the background is done; return whether it is."""
        return self._work.wait(seconds)

    def close(self) -> None:
        """Take the panel off the page, with all its parts, and stop what it computes."""
        if self._work is not None:  # not where an argument was refused
            self._work.close()
        close_parts(self)
        super().close()

    # --- going from one state to the next ---

    def _check_here(self, state: State) -> None:
        tiles = {*self.looking.position, *self.looking.own}
        strokes = [*state.strokes, *(one for _, made in state.paintings for one in made)]
        used = [("tile", state.tile), ("other", state.other or state.tile),
                ("beside", state.tile if state.beside in ("", "before") else state.beside),
                *(("painted tile", tile) for tile, _ in state.paintings),
                *(("tile of a stroke", one.other) for one in strokes if one.other)]  # fmt: skip
        if state.judge not in (ALL, *self.models):
            raise ValueError(f"this explorer has no judge {state.judge!r}")
        for name, tile in used:
            if tile not in tiles:
                raise ValueError(f"this explorer has no {name} {tile!r}; {_OPEN_FIRST}")
        if state.story not in ("", *STORIES):
            raise ValueError(f"there is no story {state.story!r}; there are {', '.join(STORIES)}")
        unknown = [m for m in state.methods if m not in method_facts()]
        if unknown:
            raise ValueError(f"there is no method {unknown[0]!r}; there are {list(method_facts())}")

    def _go(self, state: State, everything: bool = False, own: bool = False) -> None:
        """Take a new state; what goes wrong is said in the panel, where the reader looks."""
        with self._turn:
            self._take(state, everything, own)

    def _take(self, state: State, everything: bool, own: bool) -> None:
        before = self.state
        self._taken += 1
        if state.tile != before.tile:
            self._under_way = None
        if state.tile != before.tile and state.paintings == before.paintings and not everything:
            new = {n: getattr(state, n) for n in ("strokes", "deleted")
                   if getattr(state, n) != getattr(before, n)}  # fmt: skip
            carried = {name: getattr(state, name) for name in _CARRIED}
            state = before.at(state.tile).change(**carried, **new)
        moved = state.tile != before.tile and not everything
        if moved and not state.strokes and (state.beside, before.beside) == ("before", "before"):
            state = state.change(beside="")  # the two would be the same
        finds = everything or any(getattr(state, n) != getattr(before, n) for n in _FINDS)
        self.state = state
        try:
            self._problem("")
            if finds:
                self._find(keep=everything)
            if not everything and (state.hidden, state.guess) == (before.hidden, before.guess):
                self._ask_again(before)
            self._show_tile()  # first: it is what the reader waits for
            told = self._told(self.state) != self._told(before)
            if finds or own or told or self.state.page != before.page:
                self._show_page(refresh=everything or own or told)
            if finds or told or self.state.tile != before.tile:
                self._thumbnails.chosen = self.state.tile
                self._show_place()
            if finds:
                self._show_matrix()
            if self._cloud not in (None, self._judge()):  # the embedding map shows another model
                self._add("cloud", "the map of features", self._show_cloud)
        except Exception as error:
            self._problem(_in_words(error))
        self._set_controls()
        self._work.want([] if self.state.hidden else jobs_of(self.state, self.looking))
        self._show_progress()

    def _find(self, keep: bool) -> None:
        """Find the tiles that the state asks for; unless tile and page are kept, go to them."""
        self.found = find(self.state, self.facts)
        if not len(self.found):
            self._problem("No tile fits. Choose another label, answer or range, or clear.")
        if keep:
            return
        if len(self.found) and self.looking.position.get(self.state.tile) not in self.found:
            self.state = self.state.at(self.tiles.names[self.found[0]])
        self.state = self.state.change(page=0)

    def _ask_again(self, before: State) -> None:
        """Hide the answers for the next tile of a story until the reader has predicted."""
        state = self.state
        if state.story and state.story == before.story and state.tile != before.tile:
            self.state = state.change(hidden=True, guess="")

    def _know(self) -> None:
        """Take in what the predictions say."""
        self.facts = Facts.of(self.tiles, self.predictions)
        for name, given in self.predictions.items():
            self.looking.learn(name, self.tiles.names, given.probabilities)

    def _show_page(self, refresh: bool) -> None:
        state, count = self.state, len(self.found)
        pages = max(1, -(-count // PER_PAGE))
        page = min(state.page, pages - 1)
        here = self.found[page * PER_PAGE : (page + 1) * PER_PAGE]
        names = [self.tiles.names[i] for i in here]
        own = list(self.looking.own) if page == 0 else []  # the way back to one's own pictures
        names = [*own, *names]
        items = self._thumbnails.shown["items"]
        if refresh or names != [item["name"] for item in items]:
            items = [{"name": name, "title": name, "mark": "open"} for name in own]
            items += [self._thumbnail(i) for i in here]
            pictures = [*(self.looking.own[name] for name in own), *self.tiles.images[here].numpy()]
            self._thumbnails.sprite = sprite(pictures) if pictures else ""
        first = page * PER_PAGE + 1 if count else 0
        self._thumbnails.shown = {
            "items": items,
            "words": f"{first:,}–{first + len(here) - bool(count):,} of {count:,}",
            "before": page > 0,
            "after": page < pages - 1,
        }

    def _show_matrix(self) -> None:
        state, judge = self.state, self._judge()
        known = judge in self.predictions
        self._matrix.shown = {
            "counts": confusion(self.facts, judge).tolist() if known else [],
            "classes": list(CLASSES),
            "label": state.label,
            "predicted": state.predicted,
            "words": f"{judge}: rows are labels, columns what it predicts; a cell shows its tiles"
            if known
            else f"{judge} has not predicted all tiles yet",
        }

    def _show_place(self) -> None:
        """Mark the tile, and those found, on the embedding map."""
        state, shown = self.state, self._scatter.shown
        kept = np.zeros(len(self.tiles), dtype=np.uint8)
        kept[self.found] = 1
        self._scatter.shown = {
            **shown,
            "kept": encoded(kept),
            "chosen": -1 if state.hidden else self.looking.position.get(state.tile, -1),
            "lassoed": bool(state.among),
            "inside": len(state.among),
        }

    @staticmethod
    def _told(state: State) -> tuple[bool, str]:
        """Return whether a story is told, and the tile on which its answers have been shown."""
        return bool(state.story), "" if state.hidden or not state.story else state.tile

    def _thumbnail(self, i: int) -> dict[str, Any]:
        telling, revealed = self._told(self.state)
        if telling and self.tiles.names[i] != revealed:
            title = "which class is it? Predict first"
            return {"name": self.tiles.names[i], "title": title, "mark": "open"}
        words = [Path(self.tiles.names[i]).name, f"label {CLASSES[int(self.facts.labels[i])]}"]
        marks = []
        for name, predicted in self.facts.predicted.items():
            marks.append(predicted[i] == self.facts.labels[i])
            sure = describe_probability(self.facts.confidence[name][i])
            words.append(f"{name}: {CLASSES[predicted[i]]} {sure}")
        mark = "open" if not marks else "right" if all(marks) else "wrong"
        return {"name": self.tiles.names[i], "title": ", ".join(words), "mark": mark}

    def _judge(self) -> str:
        return next(iter(self.models)) if self.state.judge == ALL else self.state.judge

    def _show_tile(self, again: bool = True) -> None:
        """Draw what is known; what must be computed first is announced.

        Args:
            again: also where nothing has changed, since the page waits for an answer.
        """
        state = self.state
        side = self._side(state)
        shown = {
            **side,
            "name": state.tile,
            "taken": self._taken,
            "methods": list(state.methods),
            "opacity": state.opacity,
            "radius": state.radius,
            "tool": state.tool,
            "scale": state.scale,
            "off": self._off(),
            "help": _TOOL_HELP,
            "deletion": [] if state.hidden else self._deletion(),
            "story": packed(state.story, state.hidden, state.guess) if state.story else None,
            "beside": self._beside(state) if state.beside and not state.hidden else None,
        }
        sides = [shown, *([shown["beside"]] if shown["beside"] else [])]
        shown["pending"] = sum(
            (answer["verdict"] == "waiting") + sum("waiting" in one for one in answer["maps"])
            for one in sides for answer in one["answers"]
        ) + sum(one.get("pending", 0) for one in shown["deletion"])  # fmt: skip
        if again or {**self._look.shown, "serial": 0} != {**shown, "serial": 0}:
            self._serial += 1
            self._look.shown = {**shown, "serial": self._serial}
            self._look.link = state.to_link() if len(state.strokes) < 200 else ""

    def _beside(self, state: State) -> dict[str, Any]:
        """Return what stands beside the tile, and what it is called there."""
        before = state.beside == "before"
        name = "before painting" if before else f"other tile, {Path(state.beside).name}"
        side = self._side(beside_of(state))
        return {**side, "name": name, "caption": "" if before else side["words"]}

    def _side(self, state: State) -> dict[str, Any]:
        """Return a tile, painted or not, with each model's answer and maps."""
        looking = self.looking
        painted = looking.painted_found(state.tile, state.strokes, PAINTED_AT_ONCE)
        tile = looking.image(state.tile) if painted is None else painted
        answers = [
            {
                **packed_model(state, looking, name),
                "maps": [packed_map(state, looking, name, method) for method in state.methods],
            }
            for name in self.models
        ]
        return {
            "tile": encoded((tile * 255).round().byte().permute(1, 2, 0).numpy()),
            "words": "which class is it?" if state.hidden else self._tile_words(state),
            "answers": [] if state.hidden else answers,
        }

    def _off(self) -> dict[str, str]:
        off = does_not_apply(self.state, self.models)
        if not self._done:
            off["undo"] = "nothing has been painted"
        if not self._undone:
            off["redo"] = "nothing was taken back"
        return off

    def _tile_words(self, state: State) -> str:
        label = self.looking.label(state.tile)
        words = [Path(state.tile).name]
        words.append("no label" if label is None else f"label {CLASSES[label]}")
        if state.tile in self._own_words:
            words.append(self._own_words[state.tile])
        else:
            words.append(f"{GROUND_METRES} m across")
        if count := len(state.strokes):
            words.append(f"{count} stroke{'s'[: count != 1]}")
        return " · ".join(words)

    def _deletion(self) -> list[dict[str, Any]]:
        """Return the tile without the pixels that the slider takes away, for each model."""
        state = self.state
        if state.deleted == 0:
            return []
        method, rows = state.methods[0], []
        for name in self.models:
            try:
                asked = asked_of(state, self.looking, name, method)
                found = deletion_found(state, self.looking, name, method)
            except ValueError as error:
                rows.append({"words": f"{name}: {_in_words(error)}"})
                continue
            if found is None:
                failed = isinstance(self.looking.map_found(asked), Failure)
                words = f"no map by {method}" if failed else "to be computed …"
                rows.append({"words": f"{name}: {words}", "pending": int(not failed)})
                continue
            for order, words in (("map", f"by {method}"), ("random", "at random")):
                words = f"{name}, {state.deleted:.0%} {words}: {found['target']}"
                rows.append({
                    "image": data_uri(png_bytes(found[order]["image"].transpose(2, 0, 1))),
                    "alt": words, "words": words,
                    "sure": describe_probability(found[order]["probability"]),
                })  # fmt: skip
        return rows

    # --- in the background ---

    def _add(self, key: str, words: str, make: Callable[[Between], None]) -> None:
        """Do some work when nothing of what is looked at is left to compute."""
        self._work.add(Job(key, words, make))

    def _on_work(self) -> None:
        """Draw what has been computed, and say how far the work is."""
        with self._turn:
            try:
                self._show_tile(again=False)
            except Exception as error:
                self._problem(_in_words(error))
            self._show_progress()

    def _on_failure(self, error: Exception) -> None:
        with self._turn:
            self._problem(_in_words(error))

    def _show_progress(self) -> None:
        now = self._work.progress
        rest = f", {now.left - 1} more to do" if now.left > 1 else ""
        words = f"{now.words}{rest} …" if now.words else ""
        if now.held and not words:
            words = f"stopped: {now.held} still to do"
        self._look.progress = {
            "words": words, "share": now.share, "busy": bool(now.words), "held": bool(now.held),
            "problem": self._failure,
        }  # fmt: skip

    def _stop_or_go_on(self) -> None:
        if self._work.progress.held:
            self._work.go_on()
        else:
            self._work.stop()
        self._on_work()

    def _predict_missing(self, between: Between) -> None:
        for name in [name for name in self.models if name not in self.predictions]:
            given = self._predicted(name, between)
            with self._turn:
                self.predictions[name] = given
                self._know()
        with self._turn:
            self._go(self.state, everything=True)
            state, own = self.state, self.state.tile in self.looking.own
            inside = own or self.looking.position[state.tile] in self.found
            if asks_models(state) and len(self.found) and not inside:  # it was waited for
                self._go(state.at(self.tiles.names[self.found[0]]))

    def _predicted(self, name: str, between: Between) -> Predictions:
        """Predict all tiles with features, in chunks that stay when the work is interrupted."""
        model, chunks = self.models[name], self._chunks.setdefault(name, [])
        for first in range(CHUNK * len(chunks), len(self.tiles), CHUNK):
            between(CHUNK)
            chunks.append(predict(model, self.tiles[first : first + CHUNK], features=True))
        given = joined(self._chunks.pop(name), self.tiles)
        store_predictions(model, self.tiles, given)
        return given

    def _show_cloud(self, between: Between) -> None:
        """Bring the embedding map up to date with the judge."""
        judge = self._judge()
        if self._cloud == judge:
            return
        features, spread = self._features(judge, between)
        places, share = embed(features)
        with self._turn:
            self._draw_cloud(judge, places, share * spread)

    def _draw_cloud(self, judge: str, places: np.ndarray, share: float) -> None:
        self._cloud = judge
        self._scatter.cloud = {
            "places": encoded(places),
            "labels": encoded(self.facts.labels.astype(np.uint8)),
            "classes": list(CLASSES),
            "colours": list(CLASS_COLORS.values()),
        }
        self._scatter.shown = {
            **self._scatter.shown,
            "words": f"{judge}'s features in two dimensions (PCA), which hold "
            f"{share:.0%} of their spread: neighbours here may be far apart there",
        }

    def _features(self, judge: str, between: Between) -> tuple[np.ndarray, float]:
        """Return a model's features, or the components kept beside it, and their part of it all."""
        given = self.predictions.get(judge)
        if given is not None and given.features is not None:
            return given.features, 1.0
        if (kept := kept_components(self.models[judge], self.tiles)) is not None:
            return kept
        self._scatter.shown = {**self._scatter.shown, "words": f"asking {judge} for features …"}
        given = self._predicted(judge, between)
        with self._turn:
            self.predictions[judge] = given
            self._know()
        return given.features, 1.0

    # --- the panel ---

    def _layout(self) -> list[ipywidgets.Widget]:
        classes = {"classes": list(CLASSES), "colours": list(CLASS_COLORS.values())}
        self._look = Look(fixed={**classes, "tables": _TABLES})
        self._finder = Form(fixed={"fields": find_fields(self.models, self.tiles)})
        self._details = Form(fixed={"fields": detail_fields(self.models)})
        self._thumbnails, self._matrix, self._scatter = Thumbnails(), Matrix(), Scatter()
        for element, act in (
            (self._look, self._on_look), (self._finder, self._on_form),
            (self._details, self._on_form), (self._thumbnails, self._on_thumbnails),
            (self._matrix, self._on_matrix), (self._scatter, self._on_scatter),
        ):  # fmt: skip
            listener(element, self._locked(act))
        self._fit = "crop"
        self._tabs = ipywidgets.Tab(
            [self._thumbnails, self._matrix, self._scatter],
            titles=("tiles", "confusion", "features"),
        )
        self._tabs.observe(self._on_tab, "selected_index")
        return [
            self._finder.add_class("lulc-findbar"),
            self._tabs.add_class("lulc-side"),
            self._look,
            self._details.add_class("lulc-details"),
        ]

    def _set_controls(self) -> None:
        """Bring the controls up to the state."""
        state = self.state
        values = {name: getattr(state, name) for name in State.__annotations__}
        values |= {"note": state.note(state.tile), "fit": self._fit,
                   "stage": shown_stage(state.stage, self.models)}  # fmt: skip
        for unsent in ("strokes", "paintings", "among", "notes"):
            del values[unsent]
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        shown = {"values": values, "off": self._off(), "taken": self._taken,
                 "earlier": state != self._saved_of,
                 "notes": [list(note) for note in state.notes]}  # fmt: skip
        self._finder.shown, self._details.shown = shown, shown

    def _problem(self, text: str) -> None:
        self._failure = text
        self._show_progress()

    # --- what the reader does ---

    def _locked(self, act: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        """Answer messages of an element one at a time; what goes wrong is said in the panel."""

        def answer(message: dict[str, Any]) -> None:
            with self._turn:
                try:
                    act(message)
                except Exception as error:
                    self._taken += 1
                    self._set_controls()  # back to what is set
                    self._problem(_in_words(error))

        return answer

    def _on_form(self, message: dict[str, Any]) -> None:
        if message["kind"] == "set" and message["name"] == "note":  # on the tile it was typed for
            self._go(self.state.with_note(message.get("tile", self.state.tile), message["value"]))
        elif message["kind"] == "set":
            self._set(message["name"], message["value"])
        elif message["kind"] == "toggle":
            self._toggle(message["value"], message["on"])
        elif message["kind"] == "upload":
            self._open(message["name"], message["content"])
        else:
            {"clear": self._clear, "picture": self._keep_picture, "page": self._keep_page,
             "state": self._keep_state}[message["name"]]()  # fmt: skip

    def _set(self, name: str, value: Any) -> None:
        """Change one field as a control does."""
        if name == "fit":
            self._fit = value
        elif name == "story" and value:
            self._tell(value)
        elif name == "story":
            self._go(self.state.change(**ended(self.state)))
        else:
            self.show(**{name: tuple(value) if isinstance(value, list) else value})

    def _toggle(self, method: str, on: bool) -> None:
        """Take a method in or out; the last one stays."""
        others = tuple(name for name in self.state.methods if name != method)
        self.show(methods=(*others, method) if on or not others else others)

    def _tell(self, story: str) -> None:
        """Open a story, with its answers hidden until the reader has predicted."""
        state = self.state.change(**opening(story, self.facts))
        self._go(state, everything=False)

    def _guess(self, value: str) -> None:
        told = STORIES[self.state.story]
        self._remember()
        strokes = told.strokes or self.state.strokes
        self._go(self.state.change(hidden=False, guess=value, strokes=strokes))

    def _on_tab(self, change: dict[str, Any]) -> None:
        if change["new"] == 2:
            self._add("cloud", "the map of features", self._show_cloud)

    def _on_look(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if message.get("tile", self.state.tile) != self.state.tile and (
            kind in ("stroke", "guess") or message["name"] in ("clean", "take", "before")
        ):  # done to a tile that has gone since: not to this one
            self._show_tile()
        elif kind == "stroke":
            self._stroke(message["points"], message["done"])
        elif kind == "set":
            self._set(message["name"], message["value"])
        elif kind == "stop":
            self._stop_or_go_on()
        elif kind == "guess":
            self._guess(message["value"])
        elif kind == "link":
            self._reopen(State.from_link(message["text"]))
        else:
            {"undo": self._undo, "redo": self._redo, "clean": lambda: self._paint(()),
             "take": self._take_from, "before": self._compare, "next": self.step,
             "previous": lambda: self.step(-1)}[message["name"]]()  # fmt: skip

    def _stroke(self, points: Any, done: bool) -> None:
        state = self.state
        if state.tool == "swap" and not state.other:
            self._problem("Choose the other tile first: open it and press 'take from it'.")
            return
        stroke = Stroke(
            state.tool, state.radius, points, state.other if state.tool == "swap" else ""
        )
        kept = tuple(s for s in state.strokes if s is not self._under_way)
        if self._under_way is None:
            self._remember()
        self._under_way = None if done else stroke
        self._go(state.change(strokes=(*kept, stroke)))

    _under_way: Stroke | None = None  # the stroke whose end has not come yet

    def _remember(self) -> None:
        """Keep what is painted now, for undo."""
        self._done.append((self.state.tile, self.state.strokes))
        self._undone.clear()

    def _paint(self, strokes: tuple[Stroke, ...]) -> None:
        self._remember()
        self._go(self.state.change(strokes=strokes))

    def _undo(self) -> None:
        self._turn_back(self._done, self._undone)

    def _redo(self) -> None:
        self._turn_back(self._undone, self._done)

    def _turn_back(
        self,
        source: list[tuple[str, tuple[Stroke, ...]]],
        other: list[tuple[str, tuple[Stroke, ...]]],
    ) -> None:
        """Bring back what was painted before, on the tile that it was painted on."""
        if source:
            tile, strokes = source.pop()
            there = self.state.at(tile)
            other.append((tile, there.strokes))
            self._under_way = None
            self._go(there.change(strokes=strokes))

    def _compare(self) -> None:
        """Put the tile before painting, or the tile that the brush takes from, beside it."""
        state = self.state
        chosen = "before" if state.strokes else state.other
        self._go(state.change(beside="" if state.beside else chosen))

    def _keep_picture(self) -> None:
        make = functools.partial(self._figure, self.state)
        name = f"{Path(self.state.tile).stem}.png"
        self._keep(name, "image/png", lambda between: figure_png(make(between)))

    def _keep_page(self) -> None:
        write = functools.partial(self._page, self.state, self.found[:ON_A_PAGE])

        def page(between: Between) -> bytes:
            between()
            with tempfile.TemporaryDirectory() as folder:
                return write(Path(folder, "page.html"), between).read_bytes()

        self._keep("tiles.html", "text/html", page)

    def _keep_state(self) -> None:
        self._offer("view.json", "application/json", self.to_json().encode(), self.state)

    def _keep(self, name: str, mime: str, make: Callable[[Between], bytes]) -> None:
        """Make a file in the background, and put a link to it on the page."""
        state = self.state

        def keep(between: Between) -> None:
            content = make(between)
            with self._turn:
                self._offer(name, mime, content, state)

        self._add(f"keep {name}", f"writing {name}", keep)

    def _offer(self, name: str, mime: str, content: bytes, state: State) -> None:
        """Put a link on the page that saves a file; no server and no path is needed for it."""
        self._details.saved = {"name": name, "address": data_uri(content, mime)}
        self._saved_of = state
        self._set_controls()

    def _open(self, name: str, content: bytes) -> None:
        """Open a file of the reader's: a view that was kept, or a picture."""
        if name.lower().endswith(".json"):
            self.restore(content.decode("utf-8", errors="replace"))
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, Path(name).name)
            file.write_bytes(content)
            try:
                self.add_picture(file, self._fit)
            except (ValueError, OSError) as error:
                raise ValueError(str(error).replace(str(file), file.name)) from error

    def _take_from(self) -> None:
        self._go(self.state.change(other=self.state.tile, tool="swap"))

    def _clear(self) -> None:
        plain = {name: getattr(State(), name) for name in _FINDS}
        self._go(self.state.change(**plain, page=0))

    def _on_thumbnails(self, message: dict[str, Any]) -> None:
        if message["kind"] == "pick":
            self._go(self.state.at(message["name"]))
            return
        pages = max(1, -(-len(self.found) // PER_PAGE))
        page = min(max(self.state.page + message["by"], 0), pages - 1)
        self._go(self.state.change(page=page))

    def _on_matrix(self, message: dict[str, Any]) -> None:
        if message["kind"] == "clear":
            self._go(self.state.change(label=ALL, predicted=ALL))
            return
        label, predicted = CLASSES[message["row"]], CLASSES[message["column"]]
        plain = {name: getattr(State(), name) for name in ("answer", "confidence", "among")}
        changes = {"label": label, "predicted": predicted, "judge": self._judge()}
        self._go(self.state.change(**plain, **changes))  # the tiles that the cell counts
        self._tabs.selected_index = 0

    def _on_scatter(self, message: dict[str, Any]) -> None:
        if message["kind"] == "hover":
            index = message["index"]
            tile = self.tiles.images[index].permute(1, 2, 0).numpy()
            words = self._thumbnail(index)["title"]
            self._scatter.hover = {"index": index, "tile": encoded(tile), "words": words}
            return
        if message["kind"] == "point":
            self._go(self.state.at(self.tiles.names[message["index"]]))
            return
        names = tuple(self.tiles.names[i] for i in message["indices"])
        self._go(self.state.change(among=names))


_CARRIED = tuple(  # of a state with another tile: all but what belongs to the tile
    name for name in State.__annotations__
    if name not in ("tile", "strokes", "paintings", "deleted")
)  # fmt: skip


def positive(found: Explanation) -> Explanation:
    """Return maps of what counts for the class alone."""
    return replace(found, heatmap=np.maximum(found.heatmap, 0), grid=np.maximum(found.grid, 0))


def joined(chunks: Sequence[Predictions], tiles: TileSet) -> Predictions:
    """Return predictions of parts of tiles, in order, as those of the whole."""
    first = chunks[0]
    features = None
    if first.features is not None:
        features = np.concatenate([chunk.features for chunk in chunks])
    seen = None if first.seen is None else np.concatenate([chunk.seen for chunk in chunks])
    return Predictions(
        logits=np.concatenate([chunk.logits for chunk in chunks]), labels=tiles.labels.numpy(),
        names=tiles.names, features=features, source=tiles.source, digest=tiles.digest,
        part=tiles.part, model=first.model, seen=seen,
        seconds=sum(chunk.seconds for chunk in chunks),
    )  # fmt: skip


def _in_words(error: Exception) -> str:
    return str(error) or type(error).__name__
