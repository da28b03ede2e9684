"""What a report card says: how a model's explanations did in tests, and which one to take."""

import hashlib
import json
import math
import shlex
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from torch import nn

from lulc_lib.files import atomic_write, home_expanded, one_line, read_json
from lulc_lib.metrics import Interval
from lulc_lib.predictions import added_code, structure_digest, weights_digest
from lulc_lib.wording import did_you_mean

FORMAT = 2
RECOMMENDED = "recommended"  # as a method: what the model's report card recommends
REPORT_ENDING = ".report.json"
# What a method is judged by, and how far it leads there: the paired difference from each null.
MOSAIC, SINGLE_DELETION, REMOVAL = "mosaic", "single deletion", "removal"
CORE = (MOSAIC, SINGLE_DELETION, REMOVAL)  # what a recommendation rests on
COUNTS = ("mosaics", "tiles")  # heads of the counts in `core_figures`
LEAD = "lead over nulls"
CENTRE_LEAD = "lead over centre"
_ALWAYS = (*CORE, *(f"{test}, {LEAD}" for test in CORE[:2]), f"{REMOVAL}, {CENTRE_LEAD}")
LEAST_TILES = 10  # with fewer no interval says anything
_MOST_BYTES = 2**24


class ReportCardWarning(UserWarning):
    """A report card beside a checkpoint cannot be used, and is left aside."""


@dataclass(frozen=True)
class Row:
    """One figure of one explanation in one test.

    Attributes:
        method: name in `methods()`.
        layer: dotted name of the layer, None where the method has none.
        test: name of the test, see `report_cards.TESTS`.
        filling: how holes were filled, "" where the test has none.
        value: mean over tiles.
        low: lower end of its bootstrap 95 % interval.
        high: upper end.
        n: number of tiles or mosaics.
        seconds: time for one map of one tile, on the machine that made the card.
    """

    method: str
    layer: str | None
    test: str
    filling: str
    value: float
    low: float
    high: float
    n: int
    seconds: float

    @property
    def interval(self) -> Interval:
        """The figure with its interval."""
        return Interval(self.value, self.low, self.high)


@dataclass(frozen=True)
class Recommendation:
    """The explanation that a card recommends.

    Attributes:
        method: name in `methods()`.
        layer: dotted name of the layer, None where the method has none.
        reason: in one sentence, with its figures.
    """

    method: str
    layer: str | None
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What a card says of one explanation.

    Attributes:
        proven: whether it was told apart from every null on mosaics and in single deletion.
        words: in one sentence, with the figures.
        short: for a caption, with the figure of the first test that it failed, else of mosaics.
    """

    proven: bool
    words: str
    short: str


@dataclass(frozen=True)
class ReportCard:
    """How the explanations of one model did in tests; made by `report_card`.

    Attributes:
        model: name of the checkpoint that the model was loaded from, else of the model.
        weights: digest of its weights: the card speaks of no others.
        network: digest of what else it computes with, see `network_digest`; "" where that was not
            as the checkpoint says, so that the card speaks of no checkpoint.
        tiles: which tiles were explained, in words.
        digest: of the data set that they came from.
        rows: every figure.
        recommended: which explanation to take, None where none was told apart from every null.
        quick: whether it is a short trial.
        hardware: what it was made on, in words.
        versions: of this library, torch and timm.
        created: date and time, ISO 8601, UTC.
        left_out: explanations that failed on a tile or take too long, each with the reason.
        precision: of maps and answers, "float32" or "bfloat16".
        settings: how `report_card` was asked: "seed", and the `Sizes` "sizes" and "choosing" (None
            where the explanation was chosen on the same tiles); None in a card that lacks them.
        choice: the core tests' figures on the tiles that the explanation was chosen on; empty where
            those are the card's own.
    """

    model: str
    weights: str
    tiles: str
    digest: str
    rows: tuple[Row, ...]
    recommended: Recommendation | None
    quick: bool = False
    hardware: str = ""
    versions: dict[str, str] | None = None
    created: str = ""
    left_out: tuple[str, ...] = ()
    precision: str = "float32"
    settings: dict[str, Any] | None = None
    choice: tuple[Row, ...] = ()
    network: str = ""

    def __repr__(self) -> str:
        best = self.recommended
        word = f"recommends {_named(best.method, best.layer)}" if best else "recommends nothing"
        return f"ReportCard({self.model}, {self.tiles}: {len(self.rows)} figures, {word})"

    @property
    def frame(self) -> pd.DataFrame:
        """All rows as a tidy DataFrame, one figure a row."""
        return pd.DataFrame([asdict(row) for row in self.rows], columns=list(Row.__annotations__))

    def __hash__(self) -> int:
        return hash((self.model, self.weights, self.created))

    def find(self, method: str, layer: str | None, test: str, filling: str = "") -> Row | None:
        """Return one row of the card, None where this explanation has none in this test.

        Args:
            method: a method that the card covers, or "recommended".
            layer: dotted name of the layer; None or "auto" takes the only one that the card tested
                the method at; of "recommended", that of the recommendation.
            test: name of a test in `.frame`, of a core test or of the leads in one.
            filling: how holes were filled; "" takes the first filling.

        Raises:
            TypeError: if an argument is no text.
            ValueError: if the card has no such method, test or filling, or tested the method at
                several layers and none is named.
        """
        filled = {row.filling for row in self.rows if row.filling}
        tests = dict.fromkeys((*(row.test for row in self.rows), *_ALWAYS))
        method, layer = self._meant(method, layer)
        self._check("method", method, dict.fromkeys(row.method for row in self.rows))
        self._check("test", test, tests)
        if filling:
            self._check("filling", filling, filled)
        return row_of(self, method, layer, test, filling)

    def verdict(self, method: str, layer: str | None = None) -> Verdict:
        """Say whether an explanation was told apart from maps that look at nothing.

        Args:
            method: name in `methods()`, or "recommended".
            layer: as in `find`.

        Raises:
            TypeError: if an argument is no text.
            ValueError: if the card tested the method at several layers and none is named.
        """
        method, layer = self._meant(method, layer)
        found = [row_of(self, method, layer, test) for test in (MOSAIC, SINGLE_DELETION)]
        leads = [row_of(self, method, layer, f"{t}, {LEAD}") for t in (MOSAIC, SINGLE_DELETION)]
        known = [(row, lead) for row, lead in zip(found, leads, strict=True) if row and lead]
        if len(known) < 2:
            return self._uncovered(method, layer)
        figures = ", ".join(f"{row.test} {row.interval}" for row, _ in known)
        few = [row for row, lead in known if lead.n < LEAST_TILES]
        failed = [row for row, lead in known if not lead.low > 0] or few
        shown = (failed or [row for row, _ in known])[0]  # the figure that the verdict rests on
        short = f"{shown.test} {shown.value:.2f}"
        if failed:
            where = " and ".join(row.test for row in failed)
            words = f"{figures}: not told apart from maps that look at nothing by {where}"
            if failed is few:
                words = f"{figures}: fewer than {LEAST_TILES} tiles in {where} tell no map apart"
            return Verdict(False, words, f"unproven · {short}")
        words = f"{figures}, both above all maps that look at nothing"
        return Verdict(True, words, f"passed · {short}")

    def _check(self, kind: str, name: str, known: Iterable[str]) -> None:
        _text(kind, name)
        if name not in known:
            raise ValueError(
                f"the report card of {self.model} has no {kind} {name!r}"
                f"{did_you_mean(name, known, otherwise='.')} It has {', '.join(map(repr, known))}"
            )

    def _meant(self, method: str, layer: str | None) -> tuple[str, str | None]:
        """Return the method, and the layer that is meant."""
        _text("method", method)
        if layer not in (None, "auto"):
            _text("layer", layer)
            return method, layer
        if method == RECOMMENDED and self.recommended is not None:
            return self.recommended.method, self.recommended.layer
        tested = [own for name, own in candidates(self) if name == method]
        if len(tested) > 1 and None not in tested:
            raise ValueError(
                f"the report card of {self.model} tested {method} at {', '.join(tested)}; name one "
                "of these layers"
            )
        return method, tested[0] if len(tested) == 1 else None

    def _uncovered(self, method: str, layer: str | None) -> Verdict:
        """Say why the card does not tell an explanation from maps that look at nothing."""
        name, both = _named(method, layer), (MOSAIC, SINGLE_DELETION)
        lacking = [test for test in both if row_of(self, method, layer, test) is None]
        if (method, layer) not in set(candidates(self)):
            words = f"the report card of {self.model} does not cover {name}"
            return Verdict(False, words, "unproven · not tested")
        if lacking:
            words = f"the report card of {self.model} lacks {' and '.join(lacking)} of {name}"
            return Verdict(False, words, f"unproven · no {lacking[0]}")
        words = f"{name} looks at nothing: a map is proven by its lead over such maps"
        return Verdict(False, words, "unproven · looks at nothing")

    def to_json(self) -> str:
        """Return the card as JSON text with a digest of all it says, which `from_json` reads."""
        values = {"format": FORMAT, **asdict(self)}
        return json.dumps({**values, "sha256": _digest(values)}, indent=1)

    @classmethod
    def from_json(cls, source: Path | str, what: str = "the report card") -> "ReportCard":
        """Read a card from a file, given as a `Path`, or from a text.

        Raises:
            ValueError: if it is no report card of this version; one line that names the source.
            OSError: if the file cannot be read.
        """
        if isinstance(source, str) and not source.lstrip().startswith("{"):
            raise ValueError(
                f"{what} is read from a Path, or from a JSON text, got {one_line(source)[:80]!r}"
            )
        values = read_json(source, what, _MOST_BYTES)
        where = f"{what} {source}" if isinstance(source, Path) else what
        try:
            return _from_values(values)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(
                one_line(f"{where} is no report card of format {FORMAT}: {error}")
            ) from error

    def save(self, path: str | Path) -> Path:
        """Write the card as JSON, whole or not at all; return the file's absolute path.

        Beside a checkpoint it is called NAME.report.json, and `load_checkpoint` finds it.

        Raises:
            IsADirectoryError: if the path is a folder.
        """
        file = home_expanded(path).absolute()
        if file.is_dir():
            raise IsADirectoryError(
                f"a report card is written to a file, and {file} is a folder; give a name such as "
                f"{file / ('NAME' + REPORT_ENDING)}"
            )
        with atomic_write(file) as temporary:
            temporary.write_text(self.to_json() + "\n", encoding="utf-8")
        return file


def row_of(
    card: ReportCard, method: str, layer: str | None, test: str, filling: str = ""
) -> Row | None:
    """Return one row of a card, None where it has none; "" takes the first filling."""
    for row in card.rows:
        if (row.method, row.layer, row.test) == (method, layer, test) and (
            not filling or row.filling == filling
        ):
            return row
    return None


def check_card(name: str, card: Any) -> None:
    """Refuse what is no report card, such as a path, for the function of this name."""
    if not isinstance(card, ReportCard):
        raise TypeError(
            f"{name} takes a report card, as report_card makes and "
            f"ReportCard.from_json(Path(...)) reads one, got {type(card).__name__}"
        )


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {value!r}")


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _from_values(values: Any) -> ReportCard:
    if not isinstance(values, dict) or not {"sha256", "format", "rows"} <= set(values):
        raise ValueError("it holds no rows of a report card")
    values = dict(values)
    if values.pop("format") != FORMAT:
        raise ValueError("it has another format; make it again")
    if values.pop("sha256") != _digest({"format": FORMAT, **values}):
        raise ValueError("it is not as it was written; make it again")
    rows, choice = (
        tuple(_checked_row(Row(**row)) for row in given)
        for given in (values.pop("rows"), values.pop("choice", ()))
    )
    best = values.pop("recommended")
    known = {spec.name for spec in fields(ReportCard)}
    if unknown := set(values) - known:
        raise ValueError(f"it holds {sorted(unknown)[0]!r}")
    recommended = None if best is None else Recommendation(**best)
    if recommended is not None:
        _check_texts(recommended, ("method", "reason"))
        _check_place(recommended)
    values["left_out"] = tuple(values.get("left_out", ()))
    card = ReportCard(rows=rows, recommended=recommended, choice=choice, **values)
    _check_texts(
        card, ("model", "weights", "tiles", "digest", "hardware", "created", "precision", "network")
    )
    for words in card.left_out:
        _need(isinstance(words, str), f"left_out holds {words!r}, which is no text")
    known = card.settings is None or isinstance(card.settings, dict)
    _need(known, f"settings are {card.settings!r}, which are no object")
    _need(isinstance(card.quick, bool), f"quick is {card.quick!r}, which is neither true nor false")
    return card


def _need(holds: bool, words: str) -> None:
    if not holds:
        raise TypeError(words)


def _check_texts(of: Any, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(of, name)
        _need(isinstance(value, str), f"{name} is {value!r}, which is no text")


def _check_place(of: Row | Recommendation) -> None:
    _check_texts(of, ("method",))
    layer = of.layer
    _need(layer is None or isinstance(layer, str), f"layer is {layer!r}, which is no text")


def _checked_row(row: Row) -> Row:
    _check_texts(row, ("test", "filling"))
    _check_place(row)
    for name in ("value", "low", "high", "seconds"):
        value = getattr(row, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _need(number and math.isfinite(value), f"{name} of {row.method} is no number: {value!r}")
    count = isinstance(row.n, int) and not isinstance(row.n, bool) and row.n > 0
    _need(count, f"n of {row.method} is no number of tiles: {row.n!r}")
    _need(row.low <= row.high, f"low of {row.method} lies above high")
    return row


UNTESTED = Verdict(False, "there is no report card of these weights", "unproven · no report card")
CONTRASTED = Verdict(
    False,
    "the report card tested finercam against the three nearest classes, not against one that was "
    "asked for",
    "unproven · not tested",
)


def report_file(weights: str | Path) -> Path:
    """Return where the report card of a checkpoint lies, or would lie."""
    weights = Path(weights)
    return weights.with_name(weights.name.removesuffix(".safetensors") + REPORT_ENDING)


def known_card(model: nn.Module) -> ReportCard | None:
    """Return the report card beside a model's checkpoint, if it speaks of the model as it is.

    It does where weights, modules, size inside and normalisation are those of the checkpoint and
    of the card, and nobody has put a hook or a method of his own into the model.

    Warns:
        ReportCardWarning: if the file is damaged; it counts as none then.
    """
    file = getattr(model, "report_file", None)
    network = network_digest(model) if file is not None and file.is_file() else ""
    if not network:
        return None
    card = _read(file, file.stat().st_mtime_ns)
    same = card is not None and card.network == network and card.weights == _digest_of(model)
    return card if same else None


def network_digest(model: nn.Module) -> str:
    """Return a SHA-256 over what a model computes with beside its weights.

    These are names and kinds of its modules, the size inside and the normalisation. Settings of a
    module do not take part, since other versions of timm print other ones.

    Returns:
        The digest; "" where a setting is not as the model's checkpoint says, or somebody has put a
        hook or a method of his own into the model.
    """
    if added_code(model) or not _as_loaded(model):
        return ""
    kinds = {name: type(one).__name__ for name, one in model.named_modules(remove_duplicate=False)}
    scale = [[round(float(v), 4) for v in np.ravel(getattr(model, key))] for key in ("mean", "std")]
    return _digest({"modules": kinds, "image_size": int(model.image_size), "scale": scale})


def _as_loaded(model: nn.Module) -> bool:
    """Return whether a model's modules and settings are those of its checkpoint."""
    card = getattr(model, "card", None)
    if card is None:
        return True
    own = {key: getattr(model, key) for key in ("image_size", "mean", "std")}
    same = all(np.allclose(value, card.model.get(key, value)) for key, value in own.items())
    return same and getattr(model, "structure", None) in (None, structure_digest(model))


_digests: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()


def _digest_of(model: nn.Module) -> str:
    """Return the digest of a model's weights, made anew when place, version or sum of one changed.

    Sums take an eighth of the time of the digest, which would double that of a single map. What is
    written through `.data` or NumPy and leaves each tensor's sum as it was is not seen.
    """
    sign = [
        (
            name,
            tensor.data_ptr(),
            0 if tensor.is_inference() else tensor._version,
            float(tensor.sum()),
        )
        for name, tensor in model.state_dict().items()
    ]
    if _digests.get(model, (None,))[0] != sign:
        _digests[model] = sign, weights_digest(model)
    return _digests[model][1]


_kept: dict[Path, tuple[int, ReportCard | None]] = {}  # by file, with the time it was written
_reading = threading.Lock()  # the first thread reads, the others wait for what it finds


def _read(file: Path, written: int) -> ReportCard | None:
    with _reading:
        if _kept.get(file, (None,))[0] == written:
            return _kept[file][1]
        try:
            card, why = ReportCard.from_json(file), ""
        except (ValueError, OSError) as error:
            card, why = None, one_line(str(error))
        _kept[file] = written, card
    if card is None:
        warnings.warn(
            f"{why.removesuffix('; make it again')}; it is left aside: make it again with "
            f"`lulc report {shlex.quote(str(file).removesuffix(REPORT_ENDING))}`, or remove the "
            "file",
            ReportCardWarning,
            stacklevel=4,
        )
    return card


def _named(method: str, layer: str | None) -> str:
    return f"{method} at {layer}" if layer else method


def why_none(card: ReportCard) -> str:
    """Return in words why a card recommends nothing."""
    tested = {row.test for row in card.rows}
    if missing := [test for test in CORE if test not in tested]:
        return f"none, since the card lacks {' and '.join(missing)}"
    apart = set(nulls(card))
    if any(card.verdict(*one).proven for one in candidates(card) if one not in apart):
        return (
            "none: what was told apart from all maps that look at nothing lies below the null "
            "centre on removal, or was not told apart where it was chosen"
        )
    return "none, since none was told apart from all maps that look at nothing"


def candidates(card: ReportCard) -> Iterator[tuple[str, str | None]]:
    """Yield the explanations that a card covers, each once, in its order."""
    yield from dict.fromkeys((row.method, row.layer) for row in card.rows)


def nulls(card: ReportCard) -> list[tuple[str, str | None]]:
    """Return the maps that look at nothing: those without a lead over them."""
    led = {(row.method, row.layer) for row in card.rows if row.test.endswith((LEAD, CENTRE_LEAD))}
    return [one for one in candidates(card) if one not in led]


def ranks(card: ReportCard) -> pd.DataFrame:
    """Return the expected rank of each explanation in each core test, 1 is best, and their mean.

    Figures are of drawn tiles, and among explanations that are nearly alike the order turns with
    the draw. An expected rank is 1 plus, for each other explanation, the probability that its
    figure is truly higher, with normal errors as wide as the 95 % intervals (Laird and Louis 1989,
    Journal of Educational Statistics 14, 29-46). Errors count as independent. Those on the same
    tiles are not, so that ranks differ somewhat less than they could.

    Explanations whose figures agree to three decimals in all three tests draw one map, such as
    Grad-CAM and HiResCAM where the gradient is alike in all cells. They count once and share ranks.

    Returns:
        DataFrame indexed by (method, layer), "" for no layer, best first; explanations that lack
        a core test, and the nulls, are left out.
    """
    apart = set(nulls(card))
    found = {}
    for one in candidates(card):
        rows = [row_of(card, *one, test) for test in CORE]
        if one not in apart and all(rows):
            found[one[0], one[1] or ""] = rows
    if not found:
        return pd.DataFrame(columns=[*CORE, "mean rank"])
    index = pd.MultiIndex.from_tuples(found, names=["method", "layer"])
    maps = [tuple(round(row.value, 3) for row in rows) for rows in found.values()]
    once = dict(zip(maps, found.values(), strict=True))
    expected = np.stack(
        [_expected_ranks(rows) for rows in zip(*once.values(), strict=True)], axis=1
    )
    shared = dict(zip(once, expected, strict=True))
    table = pd.DataFrame([shared[figures] for figures in maps], index, list(CORE))
    return table.assign(**{"mean rank": table.mean(axis=1)}).sort_values("mean rank", kind="stable")


def _expected_ranks(rows: Sequence[Row]) -> np.ndarray:
    """Return the expected rank of each figure among others of one test, 1 is the highest."""
    value = np.array([row.value for row in rows])
    error = np.array([row.high - row.low for row in rows]) / (2 * 1.96)
    wide = np.sqrt(error[:, None] ** 2 + error**2)
    higher = torch.special.ndtr(torch.from_numpy((value - value[:, None]) / np.fmax(wide, 1e-12)))
    return 0.5 + higher.numpy().sum(axis=1)  # its own probability of 1/2 is among them


def ordered(card: ReportCard) -> tuple[list[tuple[str, str | None]], list[tuple[str, str | None]]]:
    """Return explanations by mean rank, then those without one; and the nulls."""
    apart = nulls(card)
    best = [(method, layer or None) for method, layer in ranks(card).index]
    return [*best, *[one for one in candidates(card) if one not in (*best, *apart)]], apart


def core_figures(card: ReportCard, most: int = 8) -> list[list[str]]:
    """Return the figures of the core tests as rows of text: the best explanations, then the nulls.

    Returns:
        For each the method with its layer, its figure in each of `CORE` ("" where there is none),
        the number of mosaics, the number of tiles in the other two tests ("" where there are none,
        "60 to 500" where they differ), and the seconds a map takes.
    """
    best, apart = ordered(card)
    rows = []
    for one in [*best[:most], *apart]:
        found = [row_of(card, *one, test) for test in CORE]
        known = next(filter(None, found), None)
        if known is not None:
            figures = ["" if row is None else str(row.interval) for row in found]
            counts = [_counts(found[:1]), _counts(found[1:])]
            rows.append([_named(*one), *figures, *counts, f"{known.seconds:.3f}"])
    return rows


def _counts(found: list[Row | None]) -> str:
    known = sorted({row.n for row in found if row is not None})
    return " to ".join(map(str, dict.fromkeys([*known[:1], *known[-1:]])))
