"""`report_card`: test a model's explanations beside maps that look at nothing, and recommend one.

No test decides alone: a product of maps wins on mosaics and loses on removal, and a blob in the
middle of the tile wins removal. So the recommended explanation is told apart from every null in two
tests, and has the best mean rank over three.
"""

import importlib.metadata
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lulc_lib import __version__
from lulc_lib.anatomies import anatomy
from lulc_lib.arrays import whole_number
from lulc_lib.config import check_precision
from lulc_lib.drawn_tiles import plant
from lulc_lib.evidence import (
    CENTRE_LEAD,
    CORE,
    LEAD,
    LEAST_TILES,
    MOSAIC,
    RECOMMENDED,
    REMOVAL,
    SINGLE_DELETION,
    Recommendation,
    ReportCard,
    Row,
    candidates,
    check_card,
    network_digest,
    ranks,
    row_of,
)
from lulc_lib.explanations import check_methods, explain, layer_of, recommended
from lulc_lib.explanations.engine import map_libraries
from lulc_lib.explanations.table import METHODS
from lulc_lib.faithfulness import (
    FILLS,
    MEASURES,
    Mosaics,
    adapted,
    area_under_roc,
    cascade,
    causal,
    complexity,
    deletion,
    deletion_order,
    falls_of,
    insertion,
    mosaics,
    patch_answers,
    pointing,
    rank_correlation,
    recognised,
    relevance_share,
    removal_answers,
    removal_of,
    share_inside,
    single_deletion,
    stability_noise,
    stability_turns,
)
from lulc_lib.faithfulness.planted import LEAST
from lulc_lib.files import one_line
from lulc_lib.hardware import describe_hardware
from lulc_lib.kept import image_hashes
from lulc_lib.models import MOST_PIXELS, TileClassifier, enlarged
from lulc_lib.predictions import identity, predict, weights_digest
from lulc_lib.running import copied, device_of
from lulc_lib.storage import cache_key, digest_arrays, load_arrays, store_arrays
from lulc_lib.tiles import TileSet
from lulc_lib.wording import did_you_mean

NULLS = tuple(name for name, method in METHODS.items() if method.family == "null")
CUE = "planted cue"
RESAMPLES = 1000  # bootstrap, of tiles
MOST_CHANNELS = 256  # of the layer; with more, scorecam is left out unless it is named
MANY_PASSES = 20  # forward passes a map from which on fewer tiles are taken


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list, such as [{values!r}], got {values!r}")
    values = list(values)
    if not values:
        raise ValueError(f"{name} are empty; name at least one, or leave them out")
    return values


@dataclass(frozen=True)
class Sizes:
    """How many tiles each test takes, and which fillings.

    Attributes:
        tiles: for removal and single deletion.
        mosaics: pictures of four tiles.
        few: tiles and mosaics for methods of many passes (a fifth of them but in the core tests),
            and tiles for tests that explain again.
        curves: tiles for deletion and insertion curves, and for the adapted copy.
        steps: batches of 32 tiles that the adapted copy learns from.
        fillings: how holes are filled.
    """

    tiles: int = 500
    mosaics: int = 250
    few: int = 60
    curves: int = 100
    steps: int = 150
    fillings: tuple[str, ...] = ("blur", "mean", "texture")

    def __post_init__(self) -> None:
        """Check that each is a number of at least 1, and each filling is known."""
        for name in ("tiles", "mosaics", "few", "curves", "steps"):
            whole_number(name, getattr(self, name))
            object.__setattr__(self, name, int(getattr(self, name)))
        object.__setattr__(self, "fillings", tuple(_listed("fillings", self.fillings)))
        for name in self.fillings:
            if name not in FILLS:
                raise ValueError(f"fillings must be among {', '.join(FILLS)}, got {name!r}")
        if len(set(self.fillings)) < len(self.fillings):
            raise ValueError(f"fillings name one twice: {', '.join(self.fillings)}")

    def covers(self, other: "Sizes") -> bool:
        """Return whether each number is at least another's, and no filling of it is missing."""
        mine, its = asdict(self), asdict(other)
        fillings = set(its.pop("fillings")) <= set(mine.pop("fillings"))
        return fillings and all(mine[name] >= its[name] for name in mine)

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON gives them back."""
        return {**asdict(self), "fillings": list(self.fillings)}


FULL = Sizes()
CHOOSING = Sizes(tiles=1000, mosaics=500, fillings=("blur",))  # of a full card's choice
QUICK = Sizes(tiles=64, mosaics=64, few=16, curves=16, fillings=("blur",))


@dataclass(frozen=True)
class Candidate:
    """One explanation: a method, and where it looks."""

    method: str
    layer: str | None = None  # None: the method's own


# Per-tile values of one explanation, by (test, filling); NaN where a tile does not count.
Values = dict[tuple[str, str], np.ndarray]


class NoMosaicsError(ValueError):
    """No mosaics can be made for a model, whatever the explanation."""


class Ground:
    """What all explanations of one model are tested on, each part made when it is first needed.

    Attributes:
        model: the model.
        tiles: tiles drawn from those given, as many of each class.
        target: int64 (N,), the class that the model predicts for each of them.
        sizes: how many of them a test takes.
        seed: of all draws.
        precision: of maps and answers, as in `explain` and `predict`.
        key: of what is kept in the cache, so that a card that was stopped goes on; None keeps
            nothing, for a model whose code has no digest.
    """

    def __init__(
        self,
        model: TileClassifier,
        tiles: TileSet,
        sizes: Sizes,
        seed: int,
        training: TileSet | None = None,
        precision: str = "float32",
    ):
        self.model, self.sizes, self.seed, self.precision = model, sizes, seed, precision
        drawn = np.random.default_rng(seed).permutation(len(tiles))
        self.all = tiles[drawn]
        self.tiles = self.all.balanced(sizes.tiles)
        self.target = predict(model, self.tiles).predicted
        self.seconds: dict[Candidate, float] = {}  # for one map
        self.training = training  # for the adapted copy
        known = identity(model)
        self.key = known and cache_key(
            **known,
            tiles=_digest(self.all),
            training=None if training is None else _digest(training),
            sizes=asdict(sizes),
            seed=seed,
            precision=precision,
            libraries=map_libraries(),
        )
        self._parts: dict[str, dict[str, np.ndarray]] = {}
        self._maps: tuple[Any, np.ndarray] = (None, np.zeros(0))

    def explained(
        self, model: TileClassifier, images: Any, one: Candidate, target: np.ndarray
    ) -> np.ndarray:
        """Return heat maps (N, 64, 64) of images, for one class each."""
        layer = one.layer or "auto"
        return explain(model, images, one.method, target, layer, precision=self.precision).heatmap

    def maps_of(self, model: TileClassifier, found: Mosaics, one: Candidate) -> np.ndarray:
        """Return heat maps (N, 64, 64) of mosaics by the model that takes them."""
        start = time.perf_counter()
        maps = self.explained(model, found.images, one, found.target)
        if model is self.model:  # a map of a larger image takes longer
            self.seconds[one] = (time.perf_counter() - start) / len(found)
        return maps

    def maps(self, one: Candidate, count: int) -> np.ndarray:
        """Return maps (N, 64, 64) of the first tiles, and note how long one took.

        Those of the last call are kept.
        """
        asked = (one, count)
        if self._maps[0] != asked:
            tiles, target = self.tiles[:count], self.target[:count]
            start = time.perf_counter()
            maps = self.explained(self.model, tiles, one, target)
            self.seconds[one] = (time.perf_counter() - start) / len(maps)
            self._maps = asked, maps
        return self._maps[1]

    def falls(self, filling: str, measure: str) -> np.ndarray:
        """Return what the target loses when each of 4x4 patches alone is removed, (N, 16)."""

        def make() -> dict[str, np.ndarray]:
            found = patch_answers(self.model, self.tiles, fill=filling, precision=self.precision)
            return {one: falls_of(found, self.target, one) for one in MEASURES}

        return self._part(f"falls, {filling}", make)[measure]

    def _part(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return arrays that several explanations share: those in memory, kept ones, else made."""
        if name not in self._parts:
            key = self.key and {**self.key, "part": name}
            found = load_arrays("reports", key) if key else None
            if found is None:
                found = make()
                if key:
                    store_arrays("reports", key, found)
            self._parts[name] = found
        return self._parts[name]

    @cached_property
    def own_scale(self) -> bool:
        """Whether the model takes mosaics whose tiles are as large as those it has learnt."""
        return takes_own_scale(self.model)

    def mosaics_of(self, side: int, count: int) -> tuple[TileClassifier, Mosaics | None]:
        """Return mosaics of side * side tiles, and the model, or a copy, that takes them.

        They are not shrunk where the model takes larger images. They hold tiles that the model
        gets right at this size; where these have too few classes, there are no mosaics. There are
        no more of them than such tiles suffice for in number; of a class that has few of them, a
        tile stands in several mosaics, among others each time.
        """
        pool = self.all.balanced(2 * side**2 * count)
        size = 1 if self.own_scale else side
        found = pool[np.flatnonzero(recognised(self.model, pool, size))]
        if len(np.unique(found.labels)) < side**2:
            return self.model, None
        count = min(count, len(found) // side**2)
        model = enlarged(self.model, side) if self.own_scale else self.model
        return model, mosaics(found, count, self.seed, side, shrink=not self.own_scale)

    @cached_property
    def mosaics(self) -> tuple[TileClassifier, Mosaics]:
        """Mosaics of four tiles, and the model that takes them."""
        model, found = self.mosaics_of(2, self.sizes.mosaics)
        if found is None:
            held = len(np.unique(self.all.labels))
            why = (
                f"{self.all.source}, {self.all.part} holds tiles of {held} "
                f"class{'' if held == 1 else 'es'}, and a mosaic takes four; give tiles of more"
                if held < 4
                else f"{self.model.name} recognises tiles of fewer than four classes at the size "
                "that they have in a mosaic; train the model first"
            )
            raise NoMosaicsError(f"{why}, or leave the mosaics out with tests=[...]")
        return model, found

    @cached_property
    def large(self) -> tuple[TileClassifier, Mosaics | None]:
        """Mosaics of nine tiles; at their own scale, where they cost nine times as much, few."""
        return self.mosaics_of(3, self.sizes.few if self.own_scale else self.sizes.mosaics)

    @cached_property
    def cascade(self) -> list[tuple[str, TileClassifier]]:
        """Copies drawn anew from the logits down: a third of the blocks, two thirds, all."""
        every = list(cascade(self.model, self.seed))
        steps = sorted({round(len(every) * part) for part in (1 / 3, 2 / 3, 1)} - {0})
        return [every[step - 1] for step in steps]

    @cached_property
    def adapted(self) -> TileClassifier | None:
        """A copy that has learnt from training tiles without a patch, None without such tiles."""
        if self.training is None:
            return None

        def learn() -> dict[str, np.ndarray]:
            made = adapted(
                self.model,
                self.training,
                fill=self.sizes.fillings[0],
                steps=self.sizes.steps,
                seed=self.seed,
            )
            return {name: value.cpu().numpy() for name, value in made.state_dict().items()}

        state = self._part("adapted copy", learn)
        made = copied(self.model)
        made.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        return made

    @cached_property
    def adapted_target(self) -> np.ndarray:
        """What the copy predicts for the tiles of the curves, int64 (N,)."""
        return predict(self.adapted, self.tiles[: self.sizes.curves]).predicted

    @cached_property
    def adapted_falls(self) -> np.ndarray:
        """What the copy loses when each patch alone is removed from those tiles, (N, 16)."""

        def make() -> dict[str, np.ndarray]:
            tiles = self.tiles[: self.sizes.curves]
            filling = self.sizes.fillings[0]
            found = patch_answers(self.adapted, tiles, fill=filling, precision=self.precision)
            return {"logit": falls_of(found, self.adapted_target)}

        return self._part("falls, adapted copy", make)["logit"]

    @cached_property
    def planted(self) -> TileSet:
        """Tiles with a cue of their class's colour at a random place."""
        return plant(self.tiles[: self.sizes.few], seed=self.seed)

    @cached_property
    def causal(self) -> np.ndarray:
        """Which mosaics' own quarter matters most to the model, bool (N,)."""
        return causal(*self.mosaics)

    @cached_property
    def large_causal(self) -> np.ndarray:
        """Which mosaics' own ninth matters most to the model, bool (N,)."""
        return causal(*self.large)


def _mosaic(ground: Ground, one: Candidate, count: int) -> Values:
    model, found = ground.mosaics
    found = _first(found, count)
    maps = ground.maps_of(model, found, one)
    return _of_mosaics(MOSAIC, "own quarter", maps, found, ground.causal)


def _of_mosaics(
    name: str, own: str, maps: np.ndarray, found: Mosaics, causal_ones: np.ndarray
) -> Values:
    """Return the share of all mosaics and of the causal ones, area and pointing, for maps."""
    share = relevance_share(maps, found)
    return {
        (name, ""): share,
        (f"{name}, {own} causal", ""): np.where(causal_ones[: len(found)], share, np.nan),
        (f"{name}, area under ROC", ""): area_under_roc(maps, found.own_in(*maps.shape[1:])),
        (f"{name}, pointing", ""): pointing(maps, found),
    }


def _large_mosaic(ground: Ground, one: Candidate, count: int) -> Values:
    if ground.own_scale and _passes(one.method) >= MANY_PASSES:
        return {}  # hundreds of passes over images nine times as large
    model, found = ground.large
    if found is None:
        return {}
    found = _first(found, count)
    maps = ground.maps_of(model, found, one)
    return _of_mosaics("mosaic 3x3", "own ninth", maps, found, ground.large_causal)


def _single_deletion(ground: Ground, one: Candidate, count: int) -> Values:
    maps = ground.maps(one, count)
    values: Values = {}
    for filling in ground.sizes.fillings:
        for measure, words in (("logit", ""), ("probability", " of the probability")):
            falls = ground.falls(filling, measure)[:count]
            values[SINGLE_DELETION + words, filling] = single_deletion(maps, falls)
    return values


def _adapted(ground: Ground, one: Candidate, count: int) -> Values:
    """Explain and remove patches in a copy that has learnt from tiles without a patch."""
    if ground.adapted is None:
        return {}
    count = min(count, ground.sizes.curves)
    filling = ground.sizes.fillings[0]
    tiles, target = ground.tiles[:count], ground.adapted_target[:count]
    maps = ground.explained(ground.adapted, tiles, one, target)
    falls = ground.adapted_falls[:count]
    return {("single deletion, adapted copy", filling): single_deletion(maps, falls)}


def _randomisation(ground: Ground, one: Candidate, count: int) -> Values:
    """Explain a copy whose weights are drawn anew, and as they are drawn anew from the top down."""
    tiles, target = ground.tiles[:count], ground.target[:count]
    before = ground.maps(one, count)
    values: Values = {}
    for place, (_, changed) in enumerate(ground.cascade, start=1):
        maps = ground.explained(changed, tiles, one, target)
        likeness = rank_correlation(before, maps)
        values[f"randomisation, {place} of {len(ground.cascade)} blocks", ""] = likeness
    values["randomisation", ""] = likeness
    rise = complexity(maps) / np.maximum(complexity(before), 1e-12) - 1
    values["complexity rise", ""] = np.where(complexity(before) > 0, rise, np.nan)
    return values


def _stability(ground: Ground, one: Candidate, count: int) -> Values:
    tiles, target = ground.tiles[:count], ground.target[:count]

    def explainer(model: TileClassifier, images: Any, classes: np.ndarray) -> np.ndarray:
        return ground.explained(model, images, one, classes)

    asked = (explainer, ground.model, tiles, target)
    return {
        ("stability, noise", ""): stability_noise(*asked),
        ("stability, turns", ""): stability_turns(*asked),
    }


def _removal(ground: Ground, one: Candidate, count: int) -> Values:
    tiles, target = ground.tiles[:count], ground.target[:count]
    maps = ground.maps(one, count)
    values: Values = {}
    for filling in ground.sizes.fillings:
        found = removal_answers(ground.model, tiles, maps, fill=filling, precision=ground.precision)
        values[REMOVAL, filling] = removal_of(found, target)
        values[REMOVAL + " of the logit", filling] = removal_of(found, target, "logit")
    return values


def _curves(ground: Ground, one: Candidate, count: int) -> Values:
    count = min(count, ground.sizes.curves)
    tiles, target = ground.tiles[:count], ground.target[:count]
    maps = ground.maps(one, count)
    order = deletion_order(maps)
    values: Values = {}
    fillings = ground.sizes.fillings
    if len(fillings) > 1:
        fillings = tuple(dict.fromkeys((*fillings, "linear")))  # dear: equations for each hole
    for name, run in (("deletion", deletion), ("insertion", insertion)):
        for filling in fillings:
            found = run(
                ground.model, tiles, order, target, fill=filling, steps=8,
                precision=ground.precision,
            )  # fmt: skip
            values[name, filling] = found.area
            values[name + " of the logit", filling] = found.logit_area
    return values


def _drawn(ground: Ground, one: Candidate, count: int) -> Values:
    if ground.tiles.masks is None:
        return {}
    maps, masks = ground.maps(one, count), ground.tiles.masks[:count].numpy()
    held = masks.any(axis=(1, 2)) & ~masks.all(axis=(1, 2))
    return {
        ("drawn evidence", ""): np.where(held, area_under_roc(maps, masks), np.nan),
        ("drawn evidence, share", ""): np.where(held, share_inside(maps, masks), np.nan),
    }


def _planted(ground: Ground, one: Candidate, count: int) -> Values:
    if one.method not in NULLS and one != _seeing_cues(ground.model):
        return {}
    tiles = ground.planted[:count]
    maps = ground.explained(ground.model, tiles, one, tiles.labels.numpy())
    return {(CUE, ""): area_under_roc(maps, tiles.masks)}


@dataclass(frozen=True)
class Test:
    """A test of explanations.

    Attributes:
        name: what `report_card(tests=...)` takes.
        run: returns values for some of the tiles.
        says: what it asks, its range, and which end is better.
        source: the paper.
        again: whether it explains each tile several times, and so takes few of them.
    """

    name: str
    run: Callable[[Ground, Candidate, int], Values]
    says: str
    source: str
    again: bool = False


_TESTS = (
    Test(MOSAIC, _mosaic,
         "share of a map's positive part on the explained one of four tiles, which are as large as "
         "those the model has learnt where it takes larger images, else shrunk; 0 to 1, chance "
         "0.25, higher is better",
         "after Arias-Duart et al. 2022, arXiv:2109.15035"),
    Test("mosaic 3x3", _large_mosaic, "the same among nine tiles; chance 0.11",
         "after Arias-Duart et al. 2022, arXiv:2109.15035"),
    Test(SINGLE_DELETION, _single_deletion,
         "correlation of a map's sums over 4x4 patches with what the target's logit loses when "
         "that patch alone is removed, of values (the paper's is of ranks); -1 to 1, chance 0, "
         "higher is better",
         "Hesse et al. 2024, NeurIPS (IDSDS)"),
    Test(REMOVAL, _removal,
         "what the target's probability loses by removing the map's highest quarter, less what it "
         "loses by removing the lowest; -1 to 1, chance 0, higher is better; the same of the logit",
         "Samek et al. 2017, arXiv:1509.06321"),
    Test("curves", _curves,
         "mean probability while pixels go (deletion, lower is better) or come (insertion, higher "
         "is better) in the map's order; the same of the logit; filling \"linear\" is ROAD's",
         "Petsiuk et al. 2018, arXiv:1806.07421; Rong et al. 2022, arXiv:2202.00449"),
    Test("adapted copy", _adapted,
         "single deletion for a copy that has learnt from tiles without a patch, which the holes "
         "surprise less; -1 to 1, chance 0, higher is better",
         "Hesse et al. 2024, NeurIPS (IDSDS)"),
    Test("randomisation", _randomisation,
         "rank correlation of a map with that of a copy whose weights were drawn anew, block by "
         "block from the logits down, at last all; nearer 0 is better on each tile, a map of the "
         "tile alone has 1. Tiles with opposite signs cancel in the mean, not in the interval's "
         "width. Complexity rise: by which part the entropy of a map's histogram rises then; "
         "higher is better",
         "Adebayo et al. 2018, arXiv:1810.03292; Hedström et al. 2024, arXiv:2401.06465",
         again=True),
    Test("stability", _stability,
         "rank correlation of a map with that of the tile under noise, and turned or mirrored and "
         "turned back, where the answer stays; -1 to 1, higher is better",
         "Alvarez-Melis and Jaakkola 2018, arXiv:1806.08049", again=True),
    Test("drawn evidence", _drawn,
         "area under ROC of a map for the pixels that a drawn tile's class was drawn with; the map "
         "is for the class that the model predicts, so that a model's errors lower the figure; "
         "0 to 1, chance 0.5, higher is better", "this suite"),
    Test(CUE, _planted,
         "area under ROC of a map for a square that was given the colour of the tile's class, by "
         "the one explanation that told planted small networks from their twins; 0 to 1, chance "
         "0.5. A model whose figure is above 0.7 and above all nulls answers by the cue, a "
         "\"Clever Hans\"",
         "Lapuschkin et al. 2019, doi:10.1038/s41467-019-08987-4; benchmarks/clever_hans.py",
         again=True),
)  # fmt: skip
TESTS = {test.name: test for test in _TESTS}


def report_card(
    model: TileClassifier,
    tiles: TileSet,
    methods: Sequence[str | tuple[str, str]] | None = None,
    tests: Sequence[str] | None = None,
    *,
    choose_on: TileSet | None = None,
    training: TileSet | None = None,
    quick: bool = False,
    sizes: Sizes | None = None,
    choosing: Sizes | None = None,
    seed: int = 0,
    precision: str = "float32",
    progress: bool = False,
) -> ReportCard:
    """Test explanations of a model, beside maps that look at nothing, and recommend one.

    What was measured is kept in the cache by the digests of weights and tiles: a call that was
    stopped goes on where it was. Of a network that was not made by its name, or that holds modules
    or hooks of your own, nothing is kept, since what it computes is not in its weights alone.

    Args:
        model: made by `create_model` or `load_checkpoint`.
        tiles: tiles that the model did not learn from, such as the test tiles of its split. Equal
            images count once, here and in `choose_on`.
        methods: names in `methods()`, or pairs (name, layer); None takes every method that can
            explain the model, CAMs and libragrad at several layers, and leaves out scorecam, a pass
            for each channel, where its layer has more than 256 of them, and what fails on the way
            (`ReportCard.left_out`). The nulls are added.
        tests: names in `TESTS`; None takes all that these tiles allow. Asked for by name, "planted
            cue" also takes the explanation that decides on cues.
        choose_on: other tiles, such as the validation tiles, on which the recommended explanation
            is chosen, among methods of less than 20 passes; None chooses on `tiles`, so that its
            figures there flatter it a little.
        training: tiles that a copy may learn from for the test "adapted copy"; None leaves it out.
        quick: a short trial: four methods, 64 tiles at most, as many of each class, one filling.
        sizes: how many tiles each test takes; None follows `quick`.
        choosing: the same for `choose_on`; None takes `CHOOSING` for a full card or a larger one
            (1,000 tiles, 500 mosaics, one filling), else half as many tiles as `sizes`, as many
            mosaics, and its first filling. Explanations that are nearly alike are told apart by
            more tiles alone.
        seed: of all draws of tiles.
        precision: of maps and of answers to tiles with holes, "float32" or "bfloat16". Which class
            is explained, and which tiles and mosaics count, is decided in float32. Where the
            processor multiplies bfloat16 in hardware a ResNet's card takes less time;
            benchmarks/card_precision.py compares figures and times.
        progress: show a bar.

    Returns:
        The card; `.frame` has one figure a row.

    Raises:
        TypeError: if the model is none of ours, tiles are no TileSet, or an argument has a wrong
            type.
        ValueError: if a method, a layer or a test is unknown, a method cannot explain the model, a
            test that is named needs tiles that are not given, the model was trained on one of the
            tiles, or a tile is among two of `tiles`, `choose_on` and `training`.
    """
    if not isinstance(model, TileClassifier):
        raise TypeError(
            "report_card takes a model made by create_model or load_checkpoint, got "
            f"{type(model).__name__}"
        )
    _check_parts({"tiles": tiles, "choose_on": choose_on, "training": training})
    given, tiles = tiles, _once(tiles)
    choose_on = choose_on if choose_on is None else _once(choose_on)
    seed = _seed(seed)
    if not isinstance(quick, bool | np.bool_):
        raise TypeError(f"quick must be True or False, got {quick!r}")
    quick = bool(quick)
    check_precision(precision)
    for name, value in (("sizes", sizes), ("choosing", choosing)):
        if value is not None and not isinstance(value, Sizes):
            raise TypeError(f"{name} must be a Sizes, got {type(value).__name__}")
    if choosing is not None and choose_on is None:
        raise ValueError("choosing says how many tiles of choose_on to take; give choose_on too")
    sizes = sizes or (QUICK if quick else FULL)
    wanted = [_test_named(name) for name in _listed("tests", TESTS if tests is None else tests)]
    if tests is not None:
        _check_possible(wanted, tiles, training)
    planted = any(test.name == CUE for test in wanted)
    chosen = _candidates(model, methods, quick, planted and (methods is None or tests is not None))
    called = model.name if model.card is None else model.card.name
    for part in filter(None, (tiles, choose_on)):
        _refuse_training_tiles(called, model.trained_on, part)
    core = [test for test in wanted if test.name in CORE]
    plan = [(tiles, sizes, wanted, chosen)]
    if choose_on is not None:
        half = replace(sizes, tiles=max(2, sizes.tiles // 2), fillings=sizes.fillings[:1])
        choosing = choosing or (CHOOSING if sizes.covers(FULL) else half)
        fast = [one for one in chosen if _passes(one.method) < MANY_PASSES]
        plan.insert(0, (choose_on, choosing, core, fast))
    count = sum(len(own) * len(asked) for *_, asked, own in plan)
    with tqdm(total=count, desc=f"testing {called}", disable=not progress) as bar:
        measured = [
            _measured(
                Ground(model, part, size, seed, training, precision),
                own, asked, bar, methods is None,
            )
            for part, size, asked, own in plan
        ]  # fmt: skip
    failed = dict(one for found in measured for one in found.failed.items())
    kept = [
        [one for one in found.found if _words(one.candidate) not in failed] for found in measured
    ]
    skipped = {} if methods is not None or quick else _skipped(model)
    rows = _rows(kept[-1])
    scale = "at the tiles' own scale" if takes_own_scale(model) else "shrunk to one tile"
    left = len(given) - len(tiles)
    copies = f", without {left:,} that are copies of others" if left else ""
    card = ReportCard(
        model=called,
        weights=weights_digest(model),
        network=network_digest(model),
        tiles=f"{given.source}, {given.part}: {len(tiles):,} tiles to draw from{copies}; mosaics "
        f"{scale}",
        digest=given.digest,
        rows=rows,
        recommended=None,
        quick=quick or not sizes.covers(FULL),
        precision=precision,
        hardware=describe_hardware(device_of(model)),
        versions={
            "lulc_lib": __version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "timm")},
            **map_libraries(),
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        left_out=tuple(f"{name}: {why}" for name, why in {**failed, **skipped}.items()),
        settings={
            "seed": seed,
            "sizes": sizes.as_json(),
            "choosing": None if choosing is None else choosing.as_json(),
        },
    )
    where = "on these tiles"
    if choose_on is not None:
        tried = len(choose_on.balanced(choosing.tiles))
        where = f"on {tried:,} of {len(choose_on):,} other tiles"
        leads = (f"{MOSAIC}, {LEAD}", f"{SINGLE_DELETION}, {LEAD}", f"{REMOVAL}, {CENTRE_LEAD}")
        chosen_by = _rows(kept[0])
        card = replace(card, choice=tuple(r for r in chosen_by if r.test in (*CORE, *leads)))
    return replace(card, recommended=_recommended(card, card.choice or rows, where))


# --- what is tested ------------------------------------------------------------------------------


def takes_own_scale(model: TileClassifier) -> bool:
    """Return whether a model takes mosaics whose tiles are as large as those it has learnt."""
    spec = model.spec
    return spec is not None and not spec["fixed_size"] and 3 * model.image_size <= MOST_PIXELS


def _test_named(name: Any) -> Test:
    if not isinstance(name, str):
        raise TypeError(f"tests must hold names of tests, got {name!r}")
    if name not in TESTS:
        raise ValueError(
            f"there is no test {name!r}{did_you_mean(str(name), list(TESTS), otherwise='.')} "
            f"There are {', '.join(TESTS)}"
        )
    return TESTS[name]


def _seed(value: Any) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"seed must be a whole number, got {value!r}")
    if not 0 <= value < 2**63:
        raise ValueError(f"seed must be at least 0 and below 2**63, got {value!r}")
    return int(value)


def _check_parts(parts: dict[str, TileSet | None]) -> None:
    """Refuse what is no TileSet, and tiles that are in two parts."""
    for name, part in parts.items():
        if part is None and name != "tiles":
            continue
        if not isinstance(part, TileSet):
            raise TypeError(f"{name} must be a TileSet, got {type(part).__name__}")
    given = {name: image_hashes(part) for name, part in parts.items() if part is not None}
    for one, other in itertools.combinations(given, 2):
        both = int(np.isin(given[one], given[other]).sum())
        if both:
            raise ValueError(
                f"{both:,} of the {len(given[one]):,} images of {one} are in {other} as well; "
                "choose, learn and report on different tiles, such as the parts of a split"
            )


def _check_possible(tests: Sequence[Test], tiles: TileSet, training: TileSet | None) -> None:
    """Refuse tests that were asked for by name and can have no figures."""
    names = {test.name for test in tests}
    if "adapted copy" in names and training is None:
        raise ValueError(
            "the test 'adapted copy' needs tiles that a copy may learn from: give training=, or in "
            "the command line the test part of a split, without --quick"
        )
    if "drawn evidence" in names and tiles.masks is None:
        raise ValueError(
            "the test 'drawn evidence' needs tiles with masks, such as those of synthetic(); "
            f"{tiles.source} has none"
        )


def _once(tiles: TileSet) -> TileSet:
    """Return tiles without those whose image is that of an earlier one: a copy is no other tile."""
    first = np.unique(image_hashes(tiles), return_index=True)[1]
    return tiles if len(first) == len(tiles) else tiles[np.sort(first)]


def _refuse_training_tiles(called: str, learnt: Any, tiles: TileSet) -> None:
    known = int(learnt.contains(tiles).sum()) if learnt is not None else 0
    if known:
        raise ValueError(
            f"{called} was trained on {known:,} of these {len(tiles):,} tiles; test its "
            "explanations on others, such as the test tiles of its split"
        )


def _candidates(
    model: TileClassifier,
    asked: Sequence[str | tuple[str, str]] | None,
    quick: bool,
    cues: bool = False,
) -> list[Candidate]:
    """Return the explanations to test, each with its layer, and the nulls."""
    if asked is None:
        found = list(_quick_candidates(model) if quick else _all_candidates(model))
    else:
        found = [_candidate(model, one) for one in _listed("methods", asked)]
        for one in found:
            check_methods(model, [one.method], one.layer)
    seeing = _seeing_cues(model)
    if cues and list(_able(model, [seeing.method])):
        found.append(seeing)
    with_layer = [replace(one, layer=layer_of(model, one.method, one.layer or "auto"))
                  for one in found]  # fmt: skip
    return list(dict.fromkeys([*with_layer, *[Candidate(name) for name in NULLS]]))


def _candidate(model: TileClassifier, one: Any) -> Candidate:
    """Return what is asked for as (name, layer), or by its name alone."""
    name, layer = one if isinstance(one, tuple) and len(one) == 2 else (one, None)
    if name == RECOMMENDED and layer is None:
        best = recommended(model)
        return Candidate(best.method, best.layer)
    if not isinstance(name, str):
        raise TypeError(f"methods must hold names, or pairs (name, layer), got {one!r}")
    check_methods(model, [name])
    return Candidate(name, layer if layer is None else layer_of(model, name, layer))


def _able(model: TileClassifier, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        try:
            check_methods(model, [name])
        except ValueError:
            continue
        yield name


def _early(model: TileClassifier) -> tuple[str, ...]:
    """Return layers for held gates: the second and third block, or the last two stages."""
    found = anatomy(model)
    if found.family == "vit":
        return found.outputs[1:3] or found.outputs[-1:] or (found.layer,)
    return found.stages[-2:]


def _entry(model: TileClassifier) -> tuple[str, ...]:
    """Return where libragrad sees cues in a ViT: the first block, or its input for class tokens."""
    found = anatomy(model)
    if found.family != "vit" or not found.outputs:
        return ()
    names = dict(model.named_modules())
    before = "network.pos_drop"
    return (before if found.prefix_tokens and before in names else found.outputs[0],)


def _seeing_cues(model: TileClassifier) -> Candidate:
    """Return the explanation that decides on cues, see `benchmarks/clever_hans.py`."""
    entry = _entry(model)
    if entry:
        return Candidate("libragrad", entry[0])
    return Candidate("contributions", anatomy(model).layer)


def _late(model: TileClassifier) -> tuple[str, ...]:
    """Return layers for CAMs beside the default: a block or two before it."""
    found = anatomy(model)
    return found.outputs[-3:-1] if found.family == "vit" else found.stages[-2:-1]


def _quick_candidates(model: TileClassifier) -> Iterator[Candidate]:
    found = anatomy(model)
    asked = ("gradcam", "contributions", "competition", "libragrad", "layercam", "xgradcam")
    if found.family == "vit":
        asked = ("gradcam", "libragrad", "refinecam", "competition", "layercam")
    for name in list(_able(model, asked))[:4]:
        yield Candidate(name, _early(model)[0] if name == "libragrad" else None)


def _all_candidates(model: TileClassifier) -> Iterator[Candidate]:
    skipped = _skipped(model)
    for name in _able(model, [name for name in METHODS if name not in NULLS]):
        if name in skipped:
            continue
        yield Candidate(name)
        for layer in {"gradcam": _late, "libragrad": _gates}.get(name, lambda _: ())(model):
            yield Candidate(name, layer)


def _skipped(model: TileClassifier) -> dict[str, str]:
    """Return methods of too many passes for this model, each with the reason."""
    channels = anatomy(model).channels
    if channels <= MOST_CHANNELS or not list(_able(model, ["scorecam"])):
        return {}
    return {"scorecam": f"one pass for each of {channels:,} channels; name it to test it"}


def _gates(model: TileClassifier) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*_entry(model), *_early(model)]))


def _passes(method: str) -> int:
    """Return about how many forward passes one map takes."""
    cost = METHODS[method].cost
    first = cost.split()[0]
    return 1000 if "each channel" in cost else int(first) if first.isdigit() else 0


# --- measured ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    """Values of one explanation."""

    candidate: Candidate
    values: Values
    seconds: float


@dataclass(frozen=True)
class _All:
    """Values of all explanations, and why some have none: words -> the error's message."""

    found: list[_Measured]
    failed: dict[str, str]


def _words(one: Candidate) -> str:
    return f"{one.method} at {one.layer}" if one.layer else one.method


def _measured(
    ground: Ground, chosen: Sequence[Candidate], tests: Sequence[Test], bar: Any, lenient: bool
) -> _All:
    """Test all explanations; where lenient, go on without one that cannot explain some tile."""
    found, failed = [], {}
    for one in chosen:
        bar.set_postfix_str(_words(one))
        values: Values = {}
        seconds = 0.0  # of a test that took no map
        try:
            for test in tests:
                values |= _kept(ground, one, test)
                seconds = float(values.pop(("seconds", ""))[0]) or seconds
                bar.update()
        except NoMosaicsError:
            raise
        except ValueError as error:
            if not lenient or one.method in NULLS:
                raise
            failed[_words(one)] = one_line(str(error))
            continue
        found.append(_Measured(one, values, seconds))
    return _All(found, failed)


def _digest(tiles: TileSet) -> str:
    """Return one digest of images, labels and masks."""
    arrays = [tiles.images.numpy(), tiles.labels.numpy()]
    return digest_arrays(*arrays, *([] if tiles.masks is None else [tiles.masks.numpy()]))


def _kept(ground: Ground, one: Candidate, test: Test) -> Values:
    """Return one explanation's values in one test: kept ones, else measured."""
    key = ground.key and {**ground.key, "method": one.method, "layer": one.layer, "test": test.name}
    arrays = load_arrays("reports", key) if key else None
    if arrays is None:
        values = test.run(ground, one, _count(ground.sizes, one, test))
        arrays = {"|".join(name): np.asarray(v, np.float64) for name, v in values.items()}
        arrays["seconds|"] = np.array([ground.seconds.get(one, 0.0)])
        if key:
            store_arrays("reports", key, arrays)
    return {tuple(name.split("|")): values for name, values in arrays.items()}


def _count(sizes: Sizes, one: Candidate, test: Test) -> int:
    """Return how many tiles or mosaics a test takes at most."""
    if _passes(one.method) >= MANY_PASSES:
        return sizes.few if test.name in CORE else max(2, sizes.few // 5)
    return sizes.few if test.again else max(sizes.tiles, sizes.mosaics)


def _first(found: Mosaics, count: int) -> Mosaics:
    return replace(
        found, images=found.images[:count], target=found.target[:count], cell=found.cell[:count]
    )


# --- figures -------------------------------------------------------------------------------------


def _mean(values: np.ndarray) -> tuple[float, float, float, int]:
    """Return the mean over tiles, its bootstrap 95 % interval, and how many tiles count."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan"), 0
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high), len(values)


def _rows(measured: Sequence[_Measured]) -> tuple[Row, ...]:
    """Return all figures, and for the core tests how far each explanation leads the nulls."""
    nulls = {one.candidate.method: one.values for one in measured if one.candidate.method in NULLS}
    rows = []
    for one in measured:
        for (test, filling), values in one.values.items():

            def row(name: str, values: np.ndarray, one: Any = one, filling: str = filling) -> Row:
                where = one.candidate
                return Row(where.method, where.layer, name, filling, *_mean(values), one.seconds)

            if not np.isfinite(values).any():
                continue
            rows.append(row(test, values))
            if one.candidate.method in NULLS:
                continue
            leads = {
                name: _mean(_paired(values, known[test, filling]))
                for name, known in nulls.items()
                if (test, filling) in known
            }
            if test in (MOSAIC, SINGLE_DELETION) and leads:
                value, low, high, n = min(leads.values(), key=lambda lead: lead[1])
                rows.append(replace(rows[-1], test=f"{test}, {LEAD}", value=value, low=low,
                                    high=high, n=n))  # fmt: skip
            if test == REMOVAL and "centre" in leads:
                value, low, high, n = leads["centre"]
                rows.append(replace(rows[-1], test=f"{test}, {CENTRE_LEAD}", value=value, low=low,
                                    high=high, n=n))  # fmt: skip
    return tuple(rows)


def _paired(values: np.ndarray, null: np.ndarray) -> np.ndarray:
    count = min(len(values), len(null))
    return values[:count] - null[:count]


def agreement(card: ReportCard, tests: Sequence[str] | None = None) -> pd.DataFrame:
    """Return how alike the tests rank the explanations: Spearman's correlation of each two tests.

    Explanations whose figures agree to three decimals in the core tests draw one map, and count
    once. A card that lacks a core test is asked for all its tests but the planted cue, which is
    measured for one of them.

    Args:
        card: the report card.
        tests: names of its rows' tests, but the leads; None takes all.

    Returns:
        DataFrame, tests by tests, first fillings; deletion counts from its low end, and
        randomisation from 0, by the root mean square of the tiles' correlations: where these have
        opposite signs their mean is small although the maps have stayed alike. A correlation near
        0 says that two tests ask different things.

    Raises:
        TypeError: if the card is no report card, or tests are no list.
        ValueError: if the card has no row of a test.
    """
    check_card("agreement", card)
    table = card.frame
    table = table[~table.method.isin(NULLS) & ~table.test.str.contains("lead over")]
    names = list(dict.fromkeys(table.test))
    tests = names if tests is None else _listed("tests", tests)
    for test in tests:
        if test not in names:
            raise ValueError(
                f"the card has no test {test!r}{did_you_mean(str(test), names, otherwise='.')} "
                f"It has {', '.join(map(repr, names))}"
            )
    table = table.assign(name=table.method + " " + table.layer.fillna(""))
    lower = table.test.str.startswith("deletion")
    nearer = table.test.str.startswith("randomisation")
    table.loc[lower, "value"] *= -1
    table.loc[nearer, "value"] = -_root_mean_square(table[nearer])
    wide = table.pivot_table(index="name", columns="test", values="value", aggfunc="first")
    known = [*CORE] if {*CORE} <= {*wide} else [test for test in wide if test != CUE]
    once = ~wide[known].round(3).duplicated()
    return wide.loc[once, tests].round(3).corr(method="spearman")


def _root_mean_square(table: pd.DataFrame) -> pd.Series:
    """Return the root mean square of the tiles' figures from their mean, interval and number."""
    deviation = (table.high - table.low) / (2 * 1.96) * np.sqrt(table.n)
    return np.sqrt(table.value**2 + deviation**2)


def clever_hans(card: ReportCard) -> list[Row]:
    """Return the figures by which a model is a "Clever Hans": one that answers by a planted cue.

    Those in the test "planted cue" whose interval lies above 0.7 and above every null's, of at
    least 10 tiles. An empty list says that no cue of these colours was found, or that the card
    lacks the test, or the explanation that decides. The bar was tried on small networks that learnt
    drawn tiles, five of each of three kinds and their twins (benchmarks/clever_hans.py).
    """
    check_card("clever_hans", card)
    found = [row_of(card, *one, CUE) for one in candidates(card)]
    apart = [row for row in found if row is not None and row.method in NULLS]
    bar = max([LEAST, *(row.high for row in apart)])
    return [
        row
        for row in found
        if row and row.method not in NULLS and row.low > bar and row.n >= LEAST_TILES
    ]


def _recommended(card: ReportCard, chosen_by: Sequence[Row], where: str) -> Recommendation | None:
    """Return the best mean rank among the explanations that are told apart from the nulls."""
    chooser = replace(card, rows=tuple(chosen_by))
    order = ranks(chooser)
    places = (~order.duplicated()).cumsum()  # what draws one map counts once
    for (method, layer), place in places.items():
        mean, layer = order["mean rank"][method, layer], layer or None
        if not (_sound(chooser, method, layer) and _sound(card, method, layer)):
            continue
        first = "first" if place == 1 else f"number {place}"
        reason = (
            f"report card: {first} of {places.iloc[-1]} by mean rank ({mean:.1f}) over mosaics, "
            "single deletion and removal, "
            f"chosen {where}; {card.verdict(method, layer).words}"
        )
        return Recommendation(method, layer, reason)
    return None


def _sound(card: ReportCard, method: str, layer: str | None) -> bool:
    lead = row_of(card, method, layer, f"{REMOVAL}, {CENTRE_LEAD}")
    behind = lead is not None and lead.high < 0
    return card.verdict(method, layer).proven and not behind
