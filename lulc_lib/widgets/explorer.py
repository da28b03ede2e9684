"""The explorer: find tiles, look at them through several models, paint on them, keep what is found.

A thin shell: what is shown is one `State`, pure functions turn it into data, elements draw these.
"""

import contextlib
import functools
import html
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ipywidgets
import numpy as np

from lulc_lib.anatomies import anatomy
from lulc_lib.export import explain_for_page, gallery_html
from lulc_lib.images import data_uri, open_picture, png_bytes, printable
from lulc_lib.models import TileClassifier
from lulc_lib.plots import GalleryFigure, Scale, colour_table, figure_png, plot_gallery
from lulc_lib.predictions import (
    Predictions,
    cached_predictions,
    kept_components,
    predict,
    store_predictions,
)
from lulc_lib.tiles import CLASS_COLORS, CLASSES, GROUND_METRES, TileSet, cell_metres
from lulc_lib.widgets.cells import replace_earlier
from lulc_lib.widgets.checks import checked_models, checked_tiles, matched
from lulc_lib.widgets.elements import Look, Matrix, Scatter, Thumbnails, encoded, listener, sprite
from lulc_lib.widgets.finding import Facts, colour_distance, confusion, embed, find
from lulc_lib.widgets.looking import (
    Looking,
    asked_of,
    deletion_found,
    jobs_of,
    method_facts,
    packed_map,
    packed_model,
)
from lulc_lib.widgets.state import ALL, ANSWERS, SORTS, TARGETS, TOOLS, State, Stroke
from lulc_lib.widgets.work import Between, Job, Work

PER_PAGE = 60  # thumbnails
CHUNK = 8  # tiles predicted between two looks at whether something else is wanted
PAINTED_AT_ONCE = 4  # strokes; more are painted in the background
_FINDS = ("label", "predicted", "answer", "judge", "confidence", "among", "sort")
_TABLES = {
    kind: encoded(colour_table(Scale(1.0, kind == "diverging", False)))
    for kind in ("sequential", "diverging")
}
_NAMES = {
    "blur": "blur it away",
    "mean": "mean colour",
    "texture": "neighbouring texture",
    "linear": "mean of neighbours, with noise",
    "swap": "pixels of another tile",
    "erase": "give back",
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
        self._updating = False
        self._turn = threading.RLock()  # held while the state or what is shown changes, never while
        # a model is asked: so one thread at a time writes, and none waits for a computation
        self._work = Work(self._on_work, self._on_failure)
        self._chunks: dict[str, list[Predictions]] = {}  # predictions under way
        self._cloud: str | None = None  # the model whose features the embedding map shows
        self._know()
        self._make_controls()
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
            at = names.index(self.state.tile) if self.state.tile in names else -1
            at = (at + by) % len(names)
            self._go(self.state.change(tile=names[at], page=at // PER_PAGE))

    def to_json(self) -> str:
        """Return what is shown as JSON text, which `restore` shows again."""
        return self.state.to_json()

    def restore(self, text: str) -> None:
        """Show what `to_json` has written, here or in another explorer of these tiles and models.

        Raises:
            ValueError: if the text is no such state, or speaks of a tile or model not here.
        """
        state = State.from_json(text)
        self._check_here(state)
        self._go(state, everything=True)

    def figure(self) -> GalleryFigure:
        """Draw what is looked at as a still picture: the tile, painted or not, and its maps.

        Raises:
            ValueError: if no chosen method has a map of this tile.
        """
        state = self.state
        return self._work.ask("drawing the picture", functools.partial(self._figure, state))

    def _figure(self, state: State, between: Between) -> GalleryFigure:
        maps, problems = {}, []
        for name in self.models:
            for method in state.methods:
                try:
                    asked = asked_of(state, self.looking, name, method)
                    found = self.looking.map(asked, between)
                except ValueError as error:
                    problems.append(_in_words(error))
                    continue
                maps[name if len(state.methods) == 1 else f"{name} · {method}"] = found
        if not maps:
            raise ValueError("; ".join(problems))
        if state.strokes or state.tile in self.looking.own:
            shown = self.looking.painted(state.tile, state.strokes)[None]
            words = f"{Path(state.tile).stem}{', painted' if state.strokes else ''}"
            return plot_gallery(shown, maps, names=[words])
        return plot_gallery(self.tiles[self.looking.position[state.tile]], maps, self.predictions)

    def export_html(self, path: str | Path, count: int = 60) -> Path:
        """Write the first of the tiles found, with their maps, as one page that needs no kernel.

        Args:
            path: the file to write.
            count: tiles at most.

        Returns:
            The absolute path of the page.

        Raises:
            ValueError: if no tile is found, or a chosen method cannot explain a model.
        """
        if not len(self.found):
            raise ValueError("no tile is found, so that there is nothing to export")
        shown = self.tiles.select(self.found[:count], part=self.tiles.part)
        state = self.state

        def write(between: Between) -> Path:
            maps = explain_for_page(self.models, shown, state.methods, self.predictions)
            return gallery_html(shown, maps, path, self.predictions)

        return self._work.ask("writing the page", write)

    def add_picture(
        self, path: str | Path, fit: Literal["crop", "resize"] = "crop", scale: float | None = None
    ) -> str:
        """Bring a picture of one's own to the panel and show it.

        Args:
            path: a file in one of `images.FORMATS`.
            fit: "crop" keeps the picture's resolution, "resize" its whole (`images.open_picture`).
            scale: the number that is white, for values beyond 8 bits, as in `images.open_picture`.

        Returns:
            The name under which it is shown.

        Raises:
            FileNotFoundError: if there is no such file.
            ImageError: if it is no picture that can be read.

        Warns:
            PictureWarning: for each decision about the meaning of its values, which the panel
                says too.
        """
        picture = open_picture(path, fit, scale)
        name = f"{printable(Path(path).name)} ({fit})"
        words = f"{picture.fitted}; {picture.ground}"
        if (far := colour_distance(picture.image, self.tiles)) > 1:
            words += (
                f"; its colours lie {far:.1f} times as far from the mean of these tiles as 99 of "
                "100 of them: what the models say of it means little"
            )
        self.looking.own[name], self._own_words[name] = picture.image, words
        self._go(self.state.change(tile=name))
        return name

    def wait(self, seconds: float = 600) -> bool:
        """Wait until what runs in the background is done; return whether it is."""
        return self._work.wait(seconds)

    def close(self) -> None:
        """Take the panel off the page, with all its parts, and stop what it computes."""
        if self._work is not None:  # not where an argument was refused
            self._work.close()
        for part in list(_parts(self)):
            for name in ("layout", "style"):
                if part.has_trait(name) and part.trait_has_value(name):
                    getattr(part, name).close()
            ipywidgets.VBox.close(part) if part is self else part.close()

    # --- going from one state to the next ---

    def _check_here(self, state: State) -> None:
        for name, value, known in (
            ("judge", state.judge, (ALL, *self.models)),
            ("tile", state.tile, (*self.looking.position, *self.looking.own)),
        ):
            if value not in known:
                raise ValueError(f"this explorer has no {name} {value!r}")
        unknown = [m for m in state.methods if m not in method_facts()]
        if unknown:
            raise ValueError(f"there is no method {unknown[0]!r}; there are {list(method_facts())}")

    def _go(self, state: State, everything: bool = False) -> None:
        """Take a new state; what goes wrong is said in the panel, where the reader looks."""
        with self._turn:
            self._take(state, everything)

    def _take(self, state: State, everything: bool) -> None:
        before = self.state
        kept = (state.strokes, state.deleted) == (before.strokes, before.deleted)
        if state.tile != before.tile and kept and not everything:
            state = state.change(strokes=(), deleted=0.0)  # they belong to the tile
        finds = everything or any(getattr(state, n) != getattr(before, n) for n in _FINDS)
        self.state = state
        try:
            self._problem("")
            if finds:
                self._find(keep_page=everything)
            self._show_tile()  # first: it is what the reader waits for
            if finds or self.state.page != before.page:
                self._show_page(refresh=everything)
            if finds or self.state.tile != before.tile:
                self._thumbnails.chosen = self.state.tile
                self._show_place()
            if finds:
                self._show_matrix()
            if self._cloud not in (None, self._judge()):  # the embedding map shows another model
                self._add("cloud", "the map of features", self._show_cloud)
            self._work.want(jobs_of(self.state, self.looking))
        except Exception as error:
            self._problem(_in_words(error))
        self._set_controls()

    def _find(self, keep_page: bool = False) -> None:
        self.found = find(self.state, self.facts)
        if not len(self.found):
            self._problem("No tile fits. Choose another label, answer or range, or clear.")
        own = self.state.tile in self.looking.own  # stays until something else is looked for
        held = (own and keep_page) or self.looking.position.get(self.state.tile) in self.found
        if len(self.found) and not held:
            first = self.tiles.names[self.found[0]]
            self.state = self.state.change(tile=first, strokes=(), deleted=0.0)
        if not keep_page:
            self.state = self.state.change(page=0)

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
        items = self._thumbnails.shown["items"]
        if refresh or names != [item["name"] for item in items]:
            items = [self._thumbnail(i) for i in here]
            self._thumbnails.sprite = sprite(self.tiles.images[here].numpy()) if count else ""
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
            "chosen": self.looking.position.get(state.tile, -1),
            "lassoed": bool(state.among),
        }

    def _thumbnail(self, i: int) -> dict[str, Any]:
        words = [Path(self.tiles.names[i]).name, f"label {CLASSES[int(self.facts.labels[i])]}"]
        marks = []
        for name, predicted in self.facts.predicted.items():
            marks.append(predicted[i] == self.facts.labels[i])
            sure = 100 * self.facts.confidence[name][i]
            words.append(f"{name}: {CLASSES[predicted[i]]} {sure:.0f} %")
        mark = "open" if not marks else "right" if all(marks) else "wrong"
        return {"name": self.tiles.names[i], "title": ", ".join(words), "mark": mark}

    def _judge(self) -> str:
        return next(iter(self.models)) if self.state.judge == ALL else self.state.judge

    def _show_tile(self, again: bool = True) -> None:
        """Draw what is at hand; what must be computed first is announced.

        Args:
            again: also where nothing has changed, since the page waits for an answer.
        """
        state, looking = self.state, self.looking
        painted = looking.painted_found(state.tile, state.strokes, PAINTED_AT_ONCE)
        answers = [
            {
                **packed_model(state, looking, name),
                "maps": [packed_map(state, looking, name, method) for method in state.methods],
            }
            for name in self.models
        ]
        tile = looking.image(state.tile) if painted is None else painted
        shown = {
            "tile": encoded((tile * 255).round().byte().permute(1, 2, 0).numpy()),
            "words": self._tile_words(),
            "answers": answers,
            "opacity": state.opacity,
            "radius": state.radius,
            "pending": sum(
                (answer["verdict"] == "waiting") + sum("waiting" in one for one in answer["maps"])
                for answer in answers
            ),
        }
        if again or {**self._look.shown, "serial": 0} != {**shown, "serial": 0}:
            self._serial += 1
            self._look.shown = {**shown, "serial": self._serial}
        self._show_deletion()

    def _tile_words(self) -> str:
        state = self.state
        label = self.looking.label(state.tile)
        words = [Path(state.tile).name]
        words.append("no label" if label is None else f"label {CLASSES[label]}")
        count = len(state.strokes)
        words.append(f"{count} stroke{'s'[: count != 1]}" if count else f"{GROUND_METRES} m across")
        if state.tile in self._own_words:
            words.append(self._own_words[state.tile])
        return " · ".join(words)

    def _show_deletion(self) -> None:
        state = self.state
        if state.deleted == 0:
            self._deleted.value = ""
            return
        method, rows = state.methods[0], []
        for name in self.models:
            try:
                found = deletion_found(state, self.looking, name, method)
            except ValueError as error:
                rows.append(f"<p>{html.escape(_in_words(error))}</p>")
                continue
            if found is None:
                rows.append(f"<p><b>{html.escape(name)}</b> …</p>")
                continue
            rows.append(f"<p><b>{html.escape(name)}</b>, {found['target']}</p><div>")
            for order, words in (("map", f"by {method}"), ("random", "at random")):
                picture = data_uri(png_bytes(found[order]["image"].transpose(2, 0, 1)))
                sure = 100 * found[order]["probability"]
                rows.append(
                    f'<figure><img src="{picture}" width="112" height="112" '
                    f'alt="{state.deleted:.0%} deleted {words}"><figcaption>{words}: '
                    f"<b>{sure:.1f} %</b></figcaption></figure>"
                )
            rows.append("</div>")
        self._deleted.value = f'<div class="lulc-deleted">{"".join(rows)}</div>'

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
        self._say(f"{now.words}{rest} …" if now.words else "")
        bar = self._progress
        bar.layout.display = None if now.words else "none"
        bar.value, bar.max = (0, 1) if now.share is None else (round(100 * now.share), 100)
        self._stop.description = "go on" if now.held else "stop"
        self._stop.disabled = not (now.words or now.held)

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
        with self._turn:
            self._know()
            self._go(self.state, everything=True)

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
        return given.features, 1.0

    # --- the panel ---

    def _make_controls(self) -> None:
        self._own_words: dict[str, str] = {}
        counts = self.tiles.class_counts()
        labels = [(f"all ({len(self.tiles):,})", ALL)]
        labels += [(f"{name} ({count:,})", name) for name, count in counts.items()]
        models = [(f"{'any' if len(self.models) > 1 else 'the'} model", ALL)]
        models += _pairs(list(self.models))
        answers = ANSWERS
        words = {ALL: "right or wrong", "disagree": "models disagree"}
        self._controls: dict[str, Any] = {
            "label": _dropdown("Label", labels),
            "predicted": _dropdown("Predicted", [("any class", ALL), *_pairs(CLASSES)]),
            "answer": _dropdown("Answer", [(words.get(a, a), a) for a in answers]),
            "judge": _dropdown("Asked of", models),
            "sort": _dropdown("Sort by", [(_SORT_WORDS[s], s) for s in SORTS]),
            "confidence": _slider(ipywidgets.FloatRangeSlider, "Confidence", 0, 1, 0.01),
            "methods": ipywidgets.SelectMultiple(
                options=list(method_facts()), description="Methods", rows=10,
                layout=ipywidgets.Layout(width="224px"), style={"description_width": "80px"},
            ),
            "target": _dropdown("Map for", [(_TARGET_WORDS.get(t, t), t) for t in TARGETS]),
            "contrast": _dropdown("and not", [("–", ""), *_pairs(CLASSES)]),
            "stage": _dropdown("Layer", self._stages()),
            "sign": _dropdown("Values", [("signed", "signed"), ("for it only", "positive")]),
            "scale": _dropdown(
                "Scale", [("shared by all tiles", "shared"), ("each map its own range", "per map")]
            ),
            "opacity": _slider(ipywidgets.FloatSlider, "Opacity", 0, 1, 0.05),
            "tool": _dropdown("Brush", [(_NAMES[t], t) for t in TOOLS]),
            "radius": _slider(ipywidgets.FloatSlider, "Radius", 1, 20, 0.5),
            "deleted": _slider(ipywidgets.FloatSlider, "Delete", 0, 1, 0.01),
        }  # fmt: skip
        for name, control in self._controls.items():
            control.observe(functools.partial(self._on_control, name), "value")
        classes = {"classes": list(CLASSES), "colours": list(CLASS_COLORS.values())}
        self._look = Look(fixed={**classes, "tables": _TABLES})
        self._thumbnails, self._matrix = Thumbnails(), Matrix()
        self._scatter = Scatter()
        listener(self._look, self._locked(self._on_look))
        listener(self._thumbnails, self._locked(self._on_thumbnails))
        listener(self._matrix, self._locked(self._on_matrix))
        listener(self._scatter, self._locked(self._on_scatter))
        self._status, self._problems = ipywidgets.HTML(), ipywidgets.HTML()
        self._deleted, self._links = ipywidgets.HTML(), ipywidgets.HTML()
        self._upload = ipywidgets.FileUpload(
            accept="image/*,.json", description="open a picture or a state",
            layout=ipywidgets.Layout(width="auto"),
        )  # fmt: skip
        self._upload.observe(self._on_upload, "value")
        fits = [("cut out its centre", "crop"), ("shrink the whole", "resize")]
        self._fit = _dropdown("Picture", fits)
        self._progress = ipywidgets.IntProgress(layout=ipywidgets.Layout(display="none"))
        self._stop = _button("stop", "stop what is computed", self._stop_or_go_on)
        self._note = ipywidgets.Textarea(
            description="Note", placeholder="what you see, and what would prove you wrong",
            continuous_update=False, layout=ipywidgets.Layout(width="100%", max_width="560px"),
        )  # fmt: skip
        self._note.observe(self._on_note, "value")

    def _stages(self) -> list[tuple[str, int]]:
        """Return the layers to choose from, counted from the last, with each model's grid."""
        found = {}
        for name, model in self.models.items():
            with contextlib.suppress(ValueError):  # without a grid there is nothing to choose
                found[name] = anatomy(model)
        fewest = min((len(one.grids) for one in found.values()), default=0)
        options = [("the method's own choice", 0)]
        for back in range(1, fewest + 1):
            grids = []
            for name, one in found.items():
                h, w = one.grids[-back]
                grids.append(f"{name} {h}x{w} = {cell_metres(h):.0f} m")
            options.append((f"output {back} from the end: {', '.join(grids)}", back))
        if any(one.blocks for one in found.values()):
            options += [(f"first norm in block {back} from the end (ViT)", -back)
                        for back in range(1, fewest + 1)]  # fmt: skip
        return options

    def _layout(self) -> list[ipywidgets.Widget]:
        c = self._controls
        self._tabs = ipywidgets.Tab(
            [self._thumbnails, self._matrix, self._scatter],
            titles=("tiles", "confusion", "features"),
        )
        self._tabs.observe(self._on_tab, "selected_index")
        undo = _button("undo", "take back the last stroke", self._undo)
        clean = _button("clean tile", "take back all strokes", lambda: self._paint(()))
        other = _button("take from this tile", "the brush takes its pixels", self._take_from)
        previous = _button("previous", "the tile before", lambda: self.step(-1))
        following = _button("next", "the next tile", self.step)
        clear = _button("clear filters", "show all tiles", self._clear)
        keep = [
            _button("keep as picture", "a PNG of what is looked at", self._keep_picture),
            _button("keep as page", "the tiles found, as one HTML file", self._keep_page),
            _button("keep as state", "JSON that opens this view again", self._keep_state),
        ]
        find_rows = [c[name] for name in ("label", "predicted", "answer", "judge", "sort")]
        look_rows = [c[n] for n in ("target", "contrast", "stage", "sign", "scale", "opacity")]
        return [
            _group("lulc-find", _row(*find_rows, c["confidence"], clear), self._tabs),
            _group(
                "lulc-see",
                _row(previous, following, self._status, self._progress, self._stop),
                self._problems,
                _row(c["methods"], ipywidgets.Box(look_rows).add_class("lulc-row")),
                self._look,
                _row(c["tool"], c["radius"], other, undo, clean),
                _row(c["deleted"]),
                self._deleted,
                self._note,
                _row(*keep, self._upload, self._fit),
                self._links,
            ),
        ]

    def _set_controls(self) -> None:
        """Bring the controls up to the state, without their answering."""
        self._updating = True
        try:
            for name, control in self._controls.items():
                control.value = self._value_of(name)
            self._note.value = self.state.note(self.state.tile)
        finally:
            self._updating = False

    def _value_of(self, name: str) -> Any:
        """Return what a control shows of the state: a layer that is not on its list by its like.

        A convolutional network has no norms to choose from, so that -2 and 2 are one layer there;
        a number beyond the first layer means the first.
        """
        value = getattr(self.state, name)
        if name != "stage":
            return value
        listed = {stage for _, stage in self._controls["stage"].options}
        fewest = max(listed)
        like = max(-fewest, min(fewest, value))
        return like if like in listed else abs(like)

    def _say(self, text: str) -> None:
        self._status.value = html.escape(text)

    def _problem(self, text: str) -> None:
        self._problems.value = f"<p>{html.escape(text)}</p>" if text else ""
        self._problems.layout.display = None if text else "none"

    # --- what the reader does ---

    def _locked(self, act: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        """Answer messages of an element one at a time; what goes wrong is said in the panel."""

        def answer(message: dict[str, Any]) -> None:
            with self._turn:
                try:
                    act(message)
                except Exception as error:
                    self._problem(_in_words(error))

        return answer

    def _on_control(self, name: str, change: dict[str, Any]) -> None:
        with self._turn:
            value = change["new"]
            if self._updating or value == getattr(self.state, name):
                return
            if name != "methods" or value:
                self._go(self.state.change(**{name: value}))

    def _on_note(self, change: dict[str, Any]) -> None:
        with self._turn:
            if not self._updating:
                self.state = self.state.with_note(self.state.tile, change["new"])

    def _on_tab(self, change: dict[str, Any]) -> None:
        if change["new"] == 2:
            self._add("cloud", "the map of features", self._show_cloud)

    def _on_look(self, message: dict[str, Any]) -> None:
        if message["kind"] == "undo":
            self._undo()
            return
        state = self.state
        try:
            stroke = Stroke(
                state.tool, state.radius, message["points"],
                state.other if state.tool == "swap" else "",
            )  # fmt: skip
        except ValueError:
            self._problem("Choose the other tile first: open it and press 'take from this tile'.")
            return
        kept = tuple(s for s in state.strokes if s is not self._under_way)
        self._under_way = None if message["done"] else stroke
        self._paint((*kept, stroke))

    _under_way: Stroke | None = None  # the stroke whose end has not come yet

    def _paint(self, strokes: tuple[Stroke, ...]) -> None:
        self._go(self.state.change(strokes=strokes))

    def _undo(self) -> None:
        self._paint(self.state.strokes[:-1])

    def _keep_picture(self) -> None:
        make = functools.partial(self._figure, self.state)
        self._keep("view.png", "image/png", lambda between: figure_png(make(between)))

    def _keep_page(self) -> None:
        def page(between: Between) -> bytes:
            between()
            with tempfile.TemporaryDirectory() as folder:
                return self.export_html(Path(folder, "page.html")).read_bytes()

        self._keep("tiles.html", "text/html", page)

    def _keep_state(self) -> None:
        self._offer("state.json", "application/json", self.to_json().encode())

    def _keep(self, name: str, mime: str, make: Callable[[Between], bytes]) -> None:
        """Make a file in the background, and put a link to it on the page."""

        def keep(between: Between) -> None:
            content = make(between)
            with self._turn:
                self._offer(name, mime, content)

        self._add(f"keep {name}", f"writing {name}", keep)

    def _offer(self, name: str, mime: str, content: bytes) -> None:
        """Put a link on the page that saves a file; no server and no path is needed for it."""
        self._links.value = (
            f'<a class="lulc-link" download="{name}" href="{data_uri(content, mime)}">'
            f"save {name}</a>"
        )

    def _on_upload(self, change: dict[str, Any]) -> None:
        if not change["new"]:
            return
        given = change["new"][0]
        content = bytes(given["content"])
        try:
            if given["name"].lower().endswith(".json"):
                self.restore(content.decode("utf-8", errors="replace"))
            else:
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder, Path(given["name"]).name)
                    file.write_bytes(content)
                    self.add_picture(file, self._fit.value)
        except Exception as error:
            self._problem(_in_words(error))
        self._upload.value = ()

    def _take_from(self) -> None:
        self._go(self.state.change(other=self.state.tile, tool="swap"))
        self._say(f"the brush takes the pixels of {Path(self.state.other).name}")

    def _clear(self) -> None:
        plain = {name: getattr(State(), name) for name in _FINDS}
        self._go(self.state.change(**plain, page=0))

    def _on_thumbnails(self, message: dict[str, Any]) -> None:
        if message["kind"] == "pick":
            self._go(self.state.change(tile=message["name"]))
            return
        pages = max(1, -(-len(self.found) // PER_PAGE))
        page = min(max(self.state.page + message["by"], 0), pages - 1)
        self._go(self.state.change(page=page))

    def _on_matrix(self, message: dict[str, Any]) -> None:
        if message["kind"] == "clear":
            self._go(self.state.change(label=ALL, predicted=ALL))
            return
        label, predicted = CLASSES[message["row"]], CLASSES[message["column"]]
        changes = {"label": label, "predicted": predicted, "answer": ALL, "judge": self._judge()}
        self._go(self.state.change(**changes))
        self._tabs.selected_index = 0

    def _on_scatter(self, message: dict[str, Any]) -> None:
        if message["kind"] == "point":
            self._go(self.state.change(tile=self.tiles.names[message["index"]]))
            return
        names = tuple(self.tiles.names[i] for i in message["indices"])
        self._go(self.state.change(among=names))


_SORT_WORDS = {
    "order": "their order",
    "loss": "largest loss",
    "confidence": "least confidence",
    "disagreement": "largest disagreement",
}
_TARGET_WORDS = {"predicted": "the predicted class", "label": "the label"}


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


def _parts(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _parts(child)


def _in_words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


def _dropdown(text: str, options: Any) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(
        options=options,
        description=text,
        layout=ipywidgets.Layout(width="224px"),
        style={"description_width": "80px"},
    )


def _slider(kind: type, text: str, low: float, high: float, step: float) -> Any:
    value = (low, high) if kind is ipywidgets.FloatRangeSlider else low
    return kind(
        value=value, min=low, max=high, step=step, description=text, continuous_update=False,
        layout=ipywidgets.Layout(width="280px"), style={"description_width": "80px"},
    )  # fmt: skip


def _button(text: str, tooltip: str, act: Callable[[], None]) -> ipywidgets.Button:
    button = ipywidgets.Button(
        description=text, tooltip=tooltip, layout=ipywidgets.Layout(width="auto")
    )
    button.on_click(lambda _: act())
    return button


def _row(*parts: ipywidgets.Widget) -> ipywidgets.Box:
    return ipywidgets.Box(parts).add_class("lulc-row")


def _group(name: str, *parts: ipywidgets.Widget) -> ipywidgets.VBox:
    return ipywidgets.VBox(parts).add_class(name)
