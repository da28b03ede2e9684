"""Look at one tile: paint on it, ask the models, and pack what they say for the page."""

import collections
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lulc_lib.anatomies import anatomy
from lulc_lib.arrays import softmax
from lulc_lib.explanations import RECOMMENDED, Explanation, explain, is_loaded, methods
from lulc_lib.explanations.table import method_named
from lulc_lib.export import pack_grid
from lulc_lib.faithfulness import deletion_order, first_pixels, random_order, remove, swap
from lulc_lib.models import TileClassifier
from lulc_lib.plots import (
    Scale,
    describe_grid,
    describe_peak,
    describe_probability,
    describe_range,
    map_scale,
)
from lulc_lib.predictions import predict
from lulc_lib.tiles import CLASSES, TILE_SIZE, TileSet
from lulc_lib.widgets.state import State, Stroke

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
    """The most recently used values, up to a number."""

    def __init__(self, size: int):
        self.size = size
        self._values: collections.OrderedDict[Any, Any] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Any) -> bool:
        return key in self._values

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return the value of a key, made where it is not there; an error leaves nothing behind."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = make()
        while len(self._values) > self.size:
            self._values.popitem(last=False)
        return value


class Looking:
    """Answers and maps of single tiles, painted or not, each computed once.

    Caches are bounded, and may be asked from several threads: one computes, the others wait.

    Attributes:
        models: name -> model.
        tiles: the tiles that names stand for.
    """

    def __init__(self, models: Mapping[str, TileClassifier], tiles: TileSet):
        self.models, self.tiles = dict(models), tiles
        self.position = {name: i for i, name in enumerate(tiles.names)}
        self.own: dict[str, np.ndarray] = {}  # the user's pictures, uint8 (3, 64, 64), by name
        self.lock = threading.RLock()
        self._known: dict[str, tuple[dict[str, int], np.ndarray]] = {}
        self._tiles, self._answers = Cache(KEPT_TILES), Cache(KEPT_ANSWERS)
        self._maps, self._scales = Cache(KEPT_MAPS), Cache(KEPT_MAPS)

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

    def painted(self, tile: str, strokes: tuple[Stroke, ...] = ()) -> Tensor:
        """Return a tile with what was painted on it, float32 (3, 64, 64)."""
        with self.lock:
            return self._tiles.get((tile, strokes), lambda: self._paint(tile, strokes))

    def answer(self, model: str, tile: str, strokes: tuple[Stroke, ...] = ()) -> np.ndarray:
        """Return a model's probabilities for a tile, float32 (10,)."""
        key = (model, tile, strokes)
        with self.lock:
            return self._answers.get(key, lambda: self._answer(*key))

    def learn(self, model: str, names: Sequence[str], probabilities: np.ndarray) -> None:
        """Take the answers that are known already; they are asked before the model is."""
        self._known[model] = (dict(zip(names, range(len(names)), strict=True)), probabilities)

    def known(self, model: str, tile: str) -> np.ndarray | None:
        """Return the probabilities that were learned for a tile, None where there are none."""
        where, probabilities = self._known.get(model, ({}, None))
        return probabilities[where[tile]] if tile in where else None

    def map(self, asked: Asked) -> Explanation:
        """Return one map.

        Raises:
            ValueError: if the method cannot explain this model, or asks for another target.
        """
        with self.lock:
            return self._maps.get(asked, lambda: self._map(asked))

    def has(self, asked: Asked) -> bool:
        """Say whether a map and its scale are there without computing."""
        return asked in self._maps and _without_tile(asked) in self._scales

    def scale(self, asked: Asked) -> Scale:
        """Return the scale that all tiles share for a method, model and layer.

        It is set by the maps of `REFERENCE` tiles, drawn once from all, each for its predicted
        class, so that a strong map looks strong and a weak one weak.
        """
        plain = _without_tile(asked)
        with self.lock:
            return self._scales.get(plain, lambda: self._scale(plain))

    def _paint(self, tile: str, strokes: tuple[Stroke, ...]) -> Tensor:
        if not strokes:
            return self.image(tile)
        before, stroke = self.painted(tile, strokes[:-1]), strokes[-1]
        mask = stroke_mask(stroke)
        if stroke.tool == "erase":
            return torch.where(mask, self.image(tile), before)
        if stroke.tool == "swap":
            return swap(before, self.image(stroke.other), mask)[0]
        return remove(before, mask, stroke.tool)[0]

    def _answer(self, model: str, tile: str, strokes: tuple[Stroke, ...]) -> np.ndarray:
        known = None if strokes else self.known(model, tile)
        if known is not None:
            return known
        return predict(self.models[model], self.painted(tile, strokes)).probabilities[0]

    def _map(self, asked: Asked) -> Explanation:
        model = self.models[asked.model]
        image = self.painted(asked.tile, asked.strokes)[None]
        found = explain(model, image, asked.method, **_arguments(asked, model))
        if asked.strokes or self.known(asked.model, asked.tile) is None:
            said = softmax(found.logits)[0]  # of the same pass
            self._answers.get((asked.model, asked.tile, asked.strokes), lambda: said)
        return found

    def _scale(self, asked: Asked) -> Scale:
        chosen = np.random.default_rng(0).permutation(len(self.tiles))[:REFERENCE]
        model = self.models[asked.model]
        found = explain(
            model, self.tiles[np.sort(chosen)], asked.method, **_arguments(asked, model)
        )
        return map_scale(found.heatmap)


def _without_tile(asked: Asked) -> Asked:
    return Asked(asked.model, "", (), asked.method, None, None, asked.stage)


def _arguments(asked: Asked, model: TileClassifier) -> dict[str, Any]:
    arguments: dict[str, Any] = {"target": asked.target}
    if asked.stage and _takes("layer", asked.method):
        arguments["layer"] = _layer_at(asked.stage, model)
    if asked.contrast is not None and _takes("contrast", asked.method):
        arguments["contrast"] = asked.contrast
    return arguments


def _layer_at(stage: int, model: TileClassifier) -> str:
    """Return the layer that a state's `stage` means; one beyond the first layer means the first."""
    found = anatomy(model)
    names = found.outputs if stage > 0 and found.outputs else found.stages
    return names[-min(abs(stage), len(names))]


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
    """Return what a model says of the tile of a state: probabilities, verdict, words."""
    now = looking.answer(model, state.tile, state.strokes)  # (10,)
    before = looking.answer(model, state.tile) if state.strokes else None
    label, predicted = looking.label(state.tile), int(now.argmax())
    verdict = "open" if label is None else "right" if predicted == label else "wrong"
    words = f"{CLASSES[predicted]}, {describe_probability(float(now[predicted]))}"
    if before is not None and int(before.argmax()) != predicted:
        words += f" (before painting: {CLASSES[int(before.argmax())]})"
    return {
        "name": model,
        "probabilities": [round(float(p), 4) for p in now],
        "before": None if before is None else [round(float(p), 4) for p in before],
        "predicted": predicted,
        "verdict": verdict,
        "words": words,
        "known": _is_training_tile(looking, model, state.tile),
    }


def packed_map(state: State, looking: Looking, model: str, method: str) -> dict[str, Any]:
    """Return one map for the page; where there is none, the reason in words as "problem"."""
    try:
        asked = asked_of(state, looking, model, method)
        found = looking.map(asked)
        scale = looking.scale(asked) if state.scale == "shared" else map_scale(found.heatmap)
    except (ValueError, TypeError, RuntimeError) as error:
        return {"method": method, "problem": f"{model} has no map by {method}: {error}"}
    packed = pack_map(found, scale, state)
    known = None if state.strokes else looking.known(model, state.tile)
    if known is not None and asked.target is None and int(known.argmax()) != found.target[0]:
        packed["warnings"].append(
            f"the map is for {CLASSES[int(found.target[0])]}, which the model answers now; the "
            f"predictions given say {CLASSES[int(known.argmax())]}: they were made with other "
            "weights or settings"
        )
    return packed


def pack_map(found: Explanation, scale: Scale, state: State) -> dict[str, Any]:
    """Pack the one map of an explanation: an int8 grid, its peak, its scale and its words."""
    grid = found.grid[:1]
    signed = scale.signed or bool((grid < 0).any())
    if state.sign == "positive":
        grid, signed = np.maximum(grid, 0), False
    values, peaks = pack_grid(grid)
    target = CLASSES[int(found.target[0])]
    words = [describe_range(found.grid[0]), describe_grid(found.grid)]
    if found.layer:
        words.append(found.layer)
    if found.verdict is not None and found.verdict.proven:
        words.append(found.verdict.short)
    if state.scale != "shared":
        words.append("stretched to its own range: not to be compared with other maps")
    return {
        "method": found.method,
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


def _is_training_tile(looking: Looking, model: str, tile: str) -> bool:
    trained_on = looking.models[model].trained_on
    if trained_on is None or tile in looking.own:
        return False
    return bool(trained_on.contains(looking.tiles[looking.position[tile]])[0])


def packed_deletion(state: State, looking: Looking, model: str, method: str) -> dict[str, Any]:
    """Take away the share of pixels that the slider says, by a map's order and at random.

    Returns:
        for "map" and "random" the tile uint8 (64, 64, 3) and the target's probability, and the
        target's name.
    """
    found = looking.map(asked_of(state, looking, model, method))
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
