"""Look at one tile: paint on it, ask the models, and pack what they say for the page."""

import collections
import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lulc_lib.anatomies import anatomy
from lulc_lib.arrays import softmax
from lulc_lib.explanations import RECOMMENDED, Explanation, explain, is_loaded, methods, recommended
from lulc_lib.explanations.table import method_named
from lulc_lib.export import pack_grid
from lulc_lib.faithfulness import deletion_order, first_pixels, random_order, remove, swap
from lulc_lib.models import TileClassifier
from lulc_lib.plots import (
    GROUND,
    Scale,
    describe_grid,
    describe_peak,
    describe_probability,
    describe_range,
    map_scale,
)
from lulc_lib.predictions import identity, predict
from lulc_lib.storage import cache_key, digest_arrays, load_arrays, store_arrays
from lulc_lib.tiles import CLASSES, TILE_SIZE, TileSet
from lulc_lib.widgets.state import State, Stroke
from lulc_lib.widgets.work import Between, Job, StoppedError

REFERENCE = 16  # tiles whose maps set the scale that all tiles share
KEPT_MAPS, KEPT_TILES, KEPT_ANSWERS = 512, 64, 512  # about 20 kB, 50 kB and 40 bytes each


@dataclass(frozen=True)
class Asked:
    """What one map depends on, beside the model's weights: the key of the caches."""

    model: str
    tile: str
    strokes: tuple[Stroke, ...]
    method: str
    target: int | None  # None: the class predicted for the painted tile
    contrast: int | None
    stage: int


def stroke_mask(stroke: Stroke) -> Tensor:
    """Return the pixels that a stroke covers: those whose middle lies within its radius.

    Returns:
        bool (64, 64).
    """
    y, x = torch.meshgrid(*[torch.arange(TILE_SIZE) + 0.5] * 2, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).view(-1, 1, 2)  # (4096, 1, 2)
    points = torch.tensor(stroke.points, dtype=torch.float32)
    first, last = (points, points) if len(points) == 1 else (points[:-1], points[1:])
    way = last - first
    length = way.square().sum(-1).clamp(min=1e-12)
    along = (((pixels - first) * way).sum(-1) / length).clamp(0, 1)  # (4096, segments)
    nearest = first + along[..., None] * way
    apart = (pixels - nearest).square().sum(-1).amin(1)
    return (apart <= stroke.radius**2).view(TILE_SIZE, TILE_SIZE)


class Cache:
    """The most recently used values, up to a number; several threads may use it."""

    def __init__(self, size: int):
        self.size = size
        self._values: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        self._turn = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Any) -> bool:
        return key in self._values

    def find(self, key: Any) -> Any:
        """Return the value of a key, None where there is none."""
        with self._turn:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Any, value: Any) -> None:
        """Keep a value; the one that was not used for longest goes."""
        with self._turn:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self.size:
                self._values.popitem(last=False)

    def drop(self, keys: Iterable[Any]) -> None:
        """Forget some values; keys that are not there are passed over."""
        with self._turn:
            for key in keys:
                self._values.pop(key, None)

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return the value of a key, made where it is not there; an error leaves nothing behind."""
        value = self.find(key)
        if value is None:
            value = make()
            self.put(key, value)
        return value


@dataclass(frozen=True)
class Failure:
    """Why something could not be computed; it is kept, so that it is not tried again and again."""

    words: str


class Looking:
    """Answers and maps of single tiles, painted or not, each computed once.

    Caches are bounded. What ends in `_found` says what is there already and computes nothing;
    everything else computes what is missing, without a lock, and may be called in any thread.

    Attributes:
        models: name -> model.
        tiles: the tiles that names stand for.
    """

    def __init__(self, models: Mapping[str, TileClassifier], tiles: TileSet):
        self.models, self.tiles = dict(models), tiles
        self.position = {name: i for i, name in enumerate(tiles.names)}
        self.own: dict[str, np.ndarray] = {}  # the user's pictures, uint8 (3, 64, 64), by name
        self._known: dict[str, tuple[dict[str, int], np.ndarray]] = {}
        self._tiles, self._answers = Cache(KEPT_TILES), Cache(KEPT_ANSWERS)
        self._maps, self._scales = Cache(KEPT_MAPS), Cache(KEPT_MAPS)
        self._parts, self._deletions = Cache(KEPT_MAPS), Cache(KEPT_TILES)
        self._seen: dict[tuple[str, str], bool] = {}

    def image(self, tile: str) -> Tensor:
        """Return a tile as float32 (3, 64, 64) in [0, 1], as it is.

        Raises:
            ValueError: if no tile is called so.
        """
        if tile in self.own:
            return torch.from_numpy(self.own[tile]).float().div_(255)
        if tile not in self.position:
            raise ValueError(f"there is no tile {tile!r} among these {len(self.tiles):,}")
        return self.tiles.float(self.position[tile])

    def label(self, tile: str) -> int | None:
        """Return the label of a tile, None for a picture of the user's own."""
        return None if tile in self.own else int(self.tiles.labels[self.position[tile]])

    def trained_on(self, model: str, tile: str) -> bool:
        """Say whether a model is known to have learned from a tile."""
        trained_on = self.models[model].trained_on
        if trained_on is None or tile in self.own:
            return False
        if (model, tile) not in self._seen:
            self._seen[model, tile] = bool(trained_on.contains(self.tiles[self.position[tile]])[0])
        return self._seen[model, tile]

    def weight(self, model: str) -> float:
        """Return how much a model has to do for a tile, so that the light one goes first."""
        one = self.models[model]
        return one.image_size**2 * sum(p.numel() for p in one.parameters())

    # --- painted tiles ---

    def painted(
        self, tile: str, strokes: tuple[Stroke, ...] = (), between: Between = lambda *_: None
    ) -> Tensor:
        """Return a tile with what was painted on it, float32 (3, 64, 64)."""
        first = self._painted_strokes(tile, strokes)
        image = self._tiles.find((tile, strokes[:first])) if first else None
        image = self.image(tile) if image is None else image
        for number in range(first, len(strokes)):
            between()
            image = self._paint(tile, image, strokes[number])
            self._tiles.put((tile, strokes[: number + 1]), image)
        return image

    def painted_found(self, tile: str, strokes: tuple[Stroke, ...], most: int = 0) -> Tensor | None:
        """Return a painted tile if no more than `most` of its strokes are still to be painted."""
        if len(strokes) - self._painted_strokes(tile, strokes) > most:
            return None
        return self.painted(tile, strokes)

    def _painted_strokes(self, tile: str, strokes: tuple[Stroke, ...]) -> int:
        """Return how many of the strokes are painted already."""
        for number in range(len(strokes), max(0, len(strokes) - KEPT_TILES), -1):
            if (tile, strokes[:number]) in self._tiles:
                return number
        return 0

    def _paint(self, tile: str, before: Tensor, stroke: Stroke) -> Tensor:
        mask = stroke_mask(stroke)
        if stroke.tool == "erase":
            return torch.where(mask, self.image(tile), before)
        if stroke.tool == "swap":
            return swap(before, self.image(stroke.other), mask)[0]
        return remove(before, mask, stroke.tool)[0]

    # --- answers ---

    def learn(self, model: str, names: Sequence[str], probabilities: np.ndarray) -> None:
        """Take the answers that are known already; they are asked before the model is."""
        self._known[model] = (dict(zip(names, range(len(names)), strict=True)), probabilities)

    def known(self, model: str, tile: str) -> np.ndarray | None:
        """Return the probabilities that were learned for a tile, None where there are none."""
        where, probabilities = self._known.get(model, ({}, None))
        return probabilities[where[tile]] if tile in where else None

    def answer(self, model: str, tile: str, strokes: tuple[Stroke, ...] = ()) -> np.ndarray:
        """Return a model's probabilities for a tile, float32 (10,)."""
        found = self.answer_found(model, tile, strokes)
        if found is None:
            found = predict(self.models[model], self.painted(tile, strokes)).probabilities[0]
            self._answers.put((model, tile, strokes), found)
        return found

    def answer_found(
        self, model: str, tile: str, strokes: tuple[Stroke, ...] = ()
    ) -> np.ndarray | None:
        """Return a model's probabilities for a tile, None where the model must be asked."""
        known = None if strokes else self.known(model, tile)
        return self._answers.find((model, tile, strokes)) if known is None else known

    # --- maps ---

    def map(self, asked: Asked, between: Between | None = None) -> Explanation:
        """Return one map.

        Raises:
            ValueError: if the method cannot explain this model, or asks for another target.
        """
        found = self._maps.find(asked)
        if found is None:
            try:
                found = self._map(asked, between)
            except StoppedError:
                raise
            except Exception as error:
                found = Failure(str(error) or type(error).__name__)
            self._maps.put(asked, found)
        if isinstance(found, Failure):
            raise ValueError(found.words)
        return found

    def map_found(self, asked: Asked) -> Explanation | Failure | None:
        """Return one map, why there is none, or None where that is not known yet."""
        return self._maps.find(asked)

    def _map(self, asked: Asked, between: Between | None) -> Explanation:
        model = self.models[asked.model]
        image = self.painted(asked.tile, asked.strokes)[None]
        found = explain(
            model, image, asked.method, **_arguments(asked, model),
            batch_size=piece(model), between=between,
        )  # fmt: skip
        if self.answer_found(asked.model, asked.tile, asked.strokes) is None:
            said = softmax(found.logits)[0]  # of the same pass
            self._answers.put((asked.model, asked.tile, asked.strokes), said)
        return found

    # --- scales ---

    def scale(self, asked: Asked, between: Between | None = None) -> Scale:
        """Return the scale that all tiles share for a method, model and layer.

        It is set by the maps of `REFERENCE` tiles, drawn once from all, each for its predicted
        class, so that a strong map looks strong and a weak one weak. It is kept on disk.

        Raises:
            ValueError: if the method cannot explain this model.
        """
        plain = _without_tile(asked)
        found = self._scales.find(plain)
        if found is None:
            try:
                found = self._scale(plain, between)
            except StoppedError:
                raise
            except Exception as error:
                found = Failure(str(error) or type(error).__name__)
            self._scales.put(plain, found)
        if isinstance(found, Failure):
            raise ValueError(found.words)
        return found

    def scale_found(self, asked: Asked) -> Scale | Failure | None:
        """Return the shared scale, why there is none, or None where it must be made first."""
        return self._scales.find(_without_tile(asked))

    def _scale(self, plain: Asked, between: Between | None) -> Scale:
        chosen = np.sort(np.random.default_rng(0).permutation(len(self.tiles))[:REFERENCE])
        model, tiles = self.models[plain.model], self.tiles[chosen]
        known = identity(model)
        key = None
        if known is not None:
            key = cache_key(
                **known, **_drawn_by(plain, model), stage=plain.stage,
                images=digest_arrays(tiles.images.cpu().numpy()),
            )  # fmt: skip
            kept = load_arrays("scales", key)
            if kept is not None:
                return Scale(float(kept["limit"]), bool(kept["signed"]), bool(kept["clipped"]))
        group = max(1, min(REFERENCE, piece(model)))
        maps, parts = [], range(0, len(tiles), group)
        for first in parts:
            some = tiles[first : first + group]

            def made(some: TileSet = some) -> Explanation:
                return explain(
                    model, some, plain.method, **_arguments(plain, model),
                    batch_size=group, between=between,
                )  # fmt: skip

            maps.append(self._parts.get((plain, first), made))
        heat = np.concatenate([found.heatmap for found in maps])
        scale = map_scale(heat, signed=method_named(maps[0].method).signed)
        self._parts.drop((plain, first) for first in parts)  # kept for a stop on the way
        if key is not None:
            values = {name: np.array(value) for name, value in asdict(scale).items()}
            store_arrays("scales", key, values)
        return scale


PIECE = 2 * 224**2  # pixels in a model at once: a newer wish waits for no more than these


def piece(model: TileClassifier) -> int:
    """Return how many tiles go through a model between two looks at what is wanted."""
    return max(1, PIECE // model.image_size**2)


def _drawn_by(asked: Asked, model: TileClassifier) -> dict[str, str | None]:
    """Return the method of a map, and the layer where a report card says both."""
    if asked.method != RECOMMENDED or asked.stage:
        return {"method": asked.method}
    best = recommended(model)
    return {"method": best.method, "layer": best.layer}


def _without_tile(asked: Asked) -> Asked:
    return Asked(asked.model, "", (), asked.method, None, None, asked.stage)


def _arguments(asked: Asked, model: TileClassifier) -> dict[str, Any]:
    arguments: dict[str, Any] = {"target": asked.target}
    if asked.stage and _takes("layer", asked.method):
        arguments["layer"] = _layer_at(asked.stage, model)
    if asked.contrast is not None and _takes("contrast", asked.method):
        arguments["contrast"] = asked.contrast
    return arguments


def further_arguments(state: State, looking: Looking, model: str, method: str) -> dict[str, Any]:
    """Return the layer and the contrast that a state asks for, as arguments of `explain`."""
    contrast = CLASSES.index(state.contrast) if state.contrast else None
    asked = Asked(model, state.tile, (), method, None, contrast, state.stage)
    found = _arguments(asked, looking.models[model])
    del found["target"]
    return found


def _layer_at(stage: int, model: TileClassifier) -> str:
    """Return the layer that a state's `stage` means; one beyond the first layer means the first."""
    found = anatomy(model)
    names = found.outputs if stage > 0 and found.outputs else found.stages
    return names[-min(abs(stage), len(names))]


def layer_words(model: TileClassifier, layer: str) -> str:
    """Say in words which layer a dotted name is, such as "output of block 6 of 6"."""
    with contextlib.suppress(ValueError):
        found = anatomy(model)
        if layer in found.outputs and found.blocks:
            return f"output of block {found.blocks.index(layer) + 1} of {len(found.blocks)}"
        if layer in found.stages:
            number = found.stages.index(layer) + 1
            kind = "start of block" if found.blocks else "stage"
            return f"{kind} {number} of {len(found.stages)}"
    return f"layer {layer}"


def _takes(what: str, method: str) -> bool:
    facts = method_named("gradcam" if method == RECOMMENDED else method)  # at a layer it is that
    return facts.layered if what == "layer" else facts.takes_contrast


@functools.cache
def method_facts() -> dict[str, dict[str, Any]]:
    """Return the rows of `methods()` by name, after what a report card recommends."""
    rows = {row["name"]: row for row in methods().to_dict("records")}
    return {RECOMMENDED: {**rows["gradcam"], "name": RECOMMENDED}, **rows}


def is_slow(method: str) -> bool:
    """Say whether a map takes long: it needs many passes, or what makes it must load."""
    facts = method_facts()[method]
    unloaded = facts["family"] == "cam" and not is_loaded()
    return unloaded or not facts["cost"].startswith(("1 forward", "2 forward", "none"))


def asked_of(state: State, looking: Looking, model: str, method: str) -> Asked:
    """Return what a state asks of one model by one method.

    Raises:
        ValueError: if the target is the label of a picture without one, or the contrast is the
            target.
    """
    target = None
    if state.target == "label":
        target = looking.label(state.tile)
        if target is None:
            raise ValueError("a picture of your own has no label: choose another target")
    elif state.target != "predicted":
        target = CLASSES.index(state.target)
    contrast = CLASSES.index(state.contrast) if state.contrast else None
    return Asked(model, state.tile, state.strokes, method, target, contrast, state.stage)


# --- packed for the page -------------------------------------------------------------------------


def packed_model(state: State, looking: Looking, model: str) -> dict[str, Any]:
    """Return what a model says of the tile of a state: probabilities, verdict, words.

    Where the model must be asked first, the verdict is "waiting" and there are no probabilities.
    """
    now = looking.answer_found(model, state.tile, state.strokes)  # (10,)
    before = looking.answer_found(model, state.tile) if state.strokes else None
    label = looking.label(state.tile)
    packed = {"name": model, "known": looking.trained_on(model, state.tile)}
    if now is None:
        return {**packed, "probabilities": [], "before": None, "predicted": -1,
                "verdict": "waiting", "words": "…"}  # fmt: skip
    predicted = int(now.argmax())
    verdict = "open" if label is None else "right" if predicted == label else "wrong"
    words = f"{CLASSES[predicted]}, {describe_probability(float(now[predicted]))}"
    if before is not None and int(before.argmax()) != predicted:
        words += f" (before painting: {CLASSES[int(before.argmax())]})"
    return {
        **packed,
        "probabilities": [round(float(p), 6) for p in now],
        "before": None if before is None else [round(float(p), 6) for p in before],
        "predicted": predicted,
        "verdict": verdict,
        "words": words,
    }


def packed_map(state: State, looking: Looking, model: str, method: str) -> dict[str, Any]:
    """Return one map for the page from what is known, without computing anything.

    Where there is none, the reason in words is "problem"; where it is still to be computed,
    "waiting" says so. Until the shared scale is made, the map has its own range.
    """
    try:
        asked = asked_of(state, looking, model, method)
    except ValueError as error:
        return _problem(model, method, str(error))
    found, scale = looking.map_found(asked), looking.scale_found(asked)
    if isinstance(found, Failure):
        return _problem(model, method, found.words)
    if found is None:
        return {"model": model, "method": method, "waiting": f"{method} of {model}"}
    shared = state.scale == "shared" and isinstance(scale, Scale)
    if not shared:
        scale = map_scale(found.heatmap, signed=method_named(found.method).signed)
    ground = None if state.tile in looking.own else GROUND
    packed = {"model": model, **pack_map(found, scale, state, ground), "shared": shared}
    if found.layer:
        packed["words"].insert(2, layer_words(looking.models[model], found.layer))
    known = None if state.strokes else looking.known(model, state.tile)
    if known is not None and asked.target is None and int(known.argmax()) != found.target[0]:
        packed["warnings"].append(
            f"the map is for {CLASSES[int(found.target[0])]}, which the model answers now; the "
            f"predictions given say {CLASSES[int(known.argmax())]}: they were made with other "
            "weights or settings"
        )
    return packed


def _problem(model: str, method: str, words: str) -> dict[str, Any]:
    return {"model": model, "method": method, "problem": f"{model} has no map by {method}: {words}"}


def pack_map(
    found: Explanation, scale: Scale, state: State, ground: float | None = GROUND
) -> dict[str, Any]:
    """Pack the one map of an explanation: an int8 grid, its peak, its scale and its words."""
    grid, signed = found.grid[:1], scale.signed
    if state.sign == "positive":
        grid, signed = np.maximum(grid, 0), False
    values, peaks = pack_grid(grid)
    target = CLASSES[int(found.target[0])]
    words = [describe_range(found.grid[0]), describe_grid(found.grid, ground)]
    if found.verdict is not None and found.verdict.proven:
        words.append(found.verdict.short)
    return {
        "method": found.method,
        "layer": found.layer or "",
        "blind": "ClassBlind" in found.warnings,
        "target": target,
        "rows": grid.shape[1],
        "columns": grid.shape[2],
        "values": values,
        "peak": peaks[0],
        "limit": scale.limit,
        "signed": signed,
        "clipped": bool(np.abs(grid).max() > scale.limit * (1 + 1e-6)),
        "words": words,
        "warnings": list(found.warned(0).values()),
        "alt": f"{found.method} for {target}: {describe_peak(grid[0])}",
        "problem": "",
    }


def deletion(
    state: State, looking: Looking, model: str, method: str, between: Between | None = None
) -> dict[str, Any]:
    """Take away the share of pixels that the slider says, by a map's order and at random.

    Returns:
        for "map" and "random" the tile uint8 (64, 64, 3) and the target's probability, and the
        target's name.

    Raises:
        ValueError: if there is no map.
    """
    asked = asked_of(state, looking, model, method)
    found = looking.map(asked, between)
    return looking._deletions.get(
        (asked, state.deleted), lambda: _deletion(state, looking, model, found)
    )


def deletion_found(
    state: State, looking: Looking, model: str, method: str
) -> dict[str, Any] | None:
    """Return what `deletion` has made, None where it must be made first."""
    return looking._deletions.find((asked_of(state, looking, model, method), state.deleted))


def _deletion(state: State, looking: Looking, model: str, found: Explanation) -> dict[str, Any]:
    tile = looking.painted(state.tile, state.strokes)
    target = int(found.target[0])
    orders = {"map": deletion_order(found.heatmap), "random": random_order(1)}
    packed: dict[str, Any] = {"target": CLASSES[target]}
    for name, order in orders.items():
        left = remove(tile, first_pixels(order, state.deleted), "mean")
        says = predict(looking.models[model], left).probabilities[0]
        packed[name] = {
            "image": (left[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy(),
            "probability": round(float(says[target]), 4),
        }
    return packed


# --- what a state asks for -----------------------------------------------------------------------


def jobs_of(state: State, looking: Looking) -> list[Job]:
    """Return what must be computed before all that a state asks for is known, in order.

    Painting and answers come first, then the maps that take one pass or two, the light model's
    before the heavy one's; then slow maps, what the deletion slider asks, and shared scales.
    """
    jobs: list[Job] = []
    if looking.painted_found(state.tile, state.strokes) is None:
        jobs.append(
            Job(("painted", state.tile, state.strokes), f"painting {len(state.strokes)} strokes",
                lambda between: looking.painted(state.tile, state.strokes, between))
        )  # fmt: skip
    models = sorted(looking.models, key=looking.weight)
    for slow in (False, True):
        for model in models:
            jobs += [*_map_jobs(state, looking, model, slow)]
            if not slow:
                jobs += [*_answer_jobs(state, looking, model)]
    for model in models:
        jobs += [*_deletion_jobs(state, looking, model)]
    if state.scale == "shared":
        for model in models:
            jobs += [*_scale_jobs(state, looking, model)]
    if state.beside:
        jobs[len(jobs) :] = jobs_of(beside_of(state), looking)
    return list({job.key: job for job in jobs}.values())


def beside_of(state: State) -> State:
    """Return the state of what stands beside the tile: it before painting, or another tile."""
    if state.beside == "before":
        return state.change(strokes=(), beside="", deleted=0.0)
    return state.at(state.beside).change(beside="", deleted=0.0)


def _asked(state: State, looking: Looking, model: str, method: str) -> Asked | None:
    with contextlib.suppress(ValueError):
        return asked_of(state, looking, model, method)
    return None


def _map_jobs(state: State, looking: Looking, model: str, slow: bool) -> Iterator[Job]:
    for method in state.methods:
        asked = _asked(state, looking, model, method)
        if asked is None or is_slow(method) != slow or looking.map_found(asked) is not None:
            continue
        cost = method_facts()[method]["cost"].split()[0]
        yield Job(
            asked, f"{method} of {model}",
            functools.partial(_kept_failure, looking, looking.map, asked),
            int(cost) if slow and cost.isdigit() else 0,
        )  # fmt: skip


def _answer_jobs(state: State, looking: Looking, model: str) -> Iterator[Job]:
    for strokes in dict.fromkeys((state.strokes, ())):
        if looking.answer_found(model, state.tile, strokes) is None:
            key = ("answer", model, state.tile, strokes)
            yield Job(
                key, f"asking {model}",
                lambda between, strokes=strokes: looking.answer(model, state.tile, strokes),
            )  # fmt: skip


def _deletion_jobs(state: State, looking: Looking, model: str) -> Iterator[Job]:
    method = state.methods[0]
    asked = _asked(state, looking, model, method) if state.deleted else None
    if asked is None or looking._deletions.find((asked, state.deleted)) is not None:
        return
    if not isinstance(looking.map_found(asked), Failure):

        def make(between: Between) -> None:
            with contextlib.suppress(ValueError):  # said beside the map
                deletion(state, looking, model, method, between)

        yield Job(("deletion", asked, state.deleted), f"deleting for {model}", make)


def _scale_jobs(state: State, looking: Looking, model: str) -> Iterator[Job]:
    for method in state.methods:
        asked = _asked(state, looking, model, method)
        if asked is None or isinstance(looking.map_found(asked), Failure):
            continue
        if looking.scale_found(asked) is None:
            plain = _without_tile(asked)
            cost = method_facts()[method]["cost"].split()[0]
            yield Job(
                ("scale", plain), f"shared scale for {method} of {model}",
                functools.partial(_kept_failure, looking, looking.scale, asked),
                REFERENCE * int(cost) if cost.isdigit() else 0,
            )  # fmt: skip


def _kept_failure(
    looking: Looking, make: Callable[..., Any], asked: Asked, between: Between
) -> None:
    """Compute; why it failed is kept where the value would be, and said beside the tile.

    A method that has failed on the tile is not tried on the tiles of the scale.
    """
    if isinstance(looking.map_found(asked), Failure):
        return
    with contextlib.suppress(ValueError):
        make(asked, between)
