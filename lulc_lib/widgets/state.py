"""What the explorer shows, as one piece of plain data that goes to JSON and back."""

import base64
import json
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from lulc_lib.explanations import RECOMMENDED
from lulc_lib.faithfulness import FILLS
from lulc_lib.files import read_json
from lulc_lib.tiles import CLASSES, TILE_SIZE
from lulc_lib.wording import did_you_mean

ALL = "all"
ANSWERS = (ALL, "right", "wrong", "disagree")
SORTS = ("order", "loss", "confidence", "disagreement")
TARGETS = ("predicted", "label", *CLASSES)
SIGNS = ("signed", "positive")
SCALES = ("shared", "per map")
TOOLS = (*FILLS, "swap", "erase")  # ways to paint: fill, take from another tile, give back
FORMAT = 1  # raised when older code can no longer read a stored state


@dataclass(frozen=True)
class Stroke:
    """One stroke of the brush.

    Attributes:
        tool: one of `TOOLS`; "swap" takes the pixels of `other`, "erase" gives back the tile's own.
        radius: of the brush, in pixels of the tile.
        points: ((x, y), ...), pixels from the tile's top left corner; the brush runs along them.
        other: name of the tile that "swap" takes from, else "".
    """

    tool: str
    radius: float
    points: tuple[tuple[float, float], ...]
    other: str = ""

    def __post_init__(self) -> None:
        _one_of("tool", self.tool, TOOLS)
        _within("radius", self.radius, 0.5, TILE_SIZE)
        try:
            points = tuple((float(x), float(y)) for x, y in self.points)
        except (TypeError, ValueError):
            raise ValueError(f"points must be pairs (x, y), got {self.points!r}") from None
        if not points or not all(math.isfinite(v) for point in points for v in point):
            raise ValueError(f"a stroke needs finite points, got {self.points!r}")
        object.__setattr__(self, "points", points)
        if (self.tool == "swap") != bool(self.other):
            raise ValueError(
                "a stroke by swap names the other tile, and no other stroke does; got "
                f"tool={self.tool!r}, other={self.other!r}"
            )


@dataclass(frozen=True)
class State:
    """Everything the explorer shows: what is found, what is looked at, what is tried, what is kept.

    Attributes:
        label: class name that tiles must have as label, or "all".
        predicted: class name that the judge must predict, or "all".
        answer: "right", "wrong" or "disagree" (not all models predict the same), or "all".
        judge: name of the model whose answers filter and sort, or "all": then "right" asks all
            models, and everything else at least one.
        confidence: lowest and highest probability of the judge's predicted class.
        among: names of tiles that were picked on the embedding map; () stands for all.
        sort: "order" of the TileSet; highest "loss" first; lowest "confidence" first; highest
            "disagreement" first.
        page: page of thumbnails, from 0.
        tile: name of the tile looked at, "" for none.
        methods: names in `methods()`, or "recommended" for what each model's report card says.
        target: class to explain: "predicted", "label" or a class name.
        contrast: class name to tell the target from ("why A, not B"), "" for none.
        stage: which layer CAM methods look at: 0 for the method's own choice; 1 for the output of
            the last block or stage, 2 for the one before it; -1, -2, ... for a ViT's first norm in
            these blocks, and for the same stages of a convolutional network.
        opacity: of maps over the tile, 0 to 1.
        sign: "signed", or "positive" to show only what counts for the target.
        scale: "shared" by all tiles, or "per map": each stretched to its own range.
        tool: of the brush.
        radius: of the brush, in pixels of the tile.
        other: name of the tile that "swap" takes from, "" for none.
        strokes: what was painted on the tile, in order.
        deleted: share of the pixels that the deletion slider takes away.
        notes: ((tile, text), ...).
        beside: what stands beside the tile: "before" painting, another tile's name, "" for nothing.
        paintings: ((tile, strokes), ...), what was painted on other tiles.
        story: name of a story that is being told, "" for none.
        hidden: whether label, answers and maps are hidden until the reader has said what to expect.
        guess: what the reader expected.
    """

    label: str = ALL
    predicted: str = ALL
    answer: str = ALL
    judge: str = ALL
    confidence: tuple[float, float] = (0.0, 1.0)
    among: tuple[str, ...] = ()
    sort: str = "order"
    page: int = 0
    tile: str = ""
    methods: tuple[str, ...] = (RECOMMENDED,)
    target: str = "predicted"
    contrast: str = ""
    stage: int = 0
    opacity: float = 0.6
    sign: str = "signed"
    scale: str = "shared"
    tool: str = "blur"
    radius: float = 5.0
    other: str = ""
    strokes: tuple[Stroke, ...] = ()
    deleted: float = 0.0
    notes: tuple[tuple[str, str], ...] = field(default=())
    beside: str = ""
    paintings: tuple[tuple[str, tuple[Stroke, ...]], ...] = ()
    story: str = ""
    hidden: bool = False
    guess: str = ""

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            _one_of(name, getattr(self, name), allowed)
        if not isinstance(self.hidden, bool):
            raise ValueError(f"hidden must be True or False, got {self.hidden!r}")
        for name in ("judge", "tile", "other", "beside", "story", "guess"):
            _text(name, getattr(self, name))
        for name in ("opacity", "deleted"):
            _within(name, getattr(self, name), 0, 1)
        _within("radius", self.radius, 0.5, TILE_SIZE)
        for name, low in (("page", 0), ("stage", -1000)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} must be a whole number from {low}, got {value!r}")
        if self.stage > 1000:
            raise ValueError(f"stage must lie in -1000..1000, got {self.stage}")
        object.__setattr__(self, "confidence", _checked_range(self.confidence))
        object.__setattr__(self, "among", _texts("among", self.among))
        object.__setattr__(self, "methods", _texts("methods", self.methods))
        if not self.methods:
            raise ValueError("methods must name at least one method, got ()")
        object.__setattr__(self, "strokes", _strokes(self.strokes))
        try:
            paintings = tuple((_text("tile", t), _strokes(s)) for t, s in self.paintings)
        except TypeError:
            raise ValueError(
                f"paintings must be pairs (tile, strokes), got {self.paintings!r}"
            ) from None
        object.__setattr__(self, "paintings", paintings)
        try:
            notes = tuple((_text("note", tile), _text("note", text)) for tile, text in self.notes)
        except (TypeError, ValueError):
            raise ValueError(f"notes must be pairs (tile, text), got {self.notes!r}") from None
        object.__setattr__(self, "notes", notes)

    def change(self, **changes: Any) -> "State":
        """Return the state with some fields changed.

        Raises:
            ValueError: if a field is unknown or a value is out of range; the message names both.
        """
        known = [spec.name for spec in fields(self)]
        for name in changes:
            if name not in known:
                hint = did_you_mean(name, known, otherwise=".")
                raise ValueError(f"the explorer's state has no {name!r}{hint} It has {known}")
        return replace(self, **changes)

    def at(self, tile: str) -> "State":
        """Return the state with another tile and what was painted on it; the strokes here stay."""
        if tile == self.tile:
            return self
        kept = {**dict(self.paintings), self.tile: self.strokes}
        strokes = kept.pop(tile, ())
        paintings = tuple((name, made) for name, made in kept.items() if made and name)
        return replace(self, tile=tile, strokes=strokes, paintings=paintings, deleted=0.0)

    def within(self, tiles: Collection[str]) -> tuple["State", list[str]]:
        """Return the state without what needs other tiles than these, and the others' names.

        The tile looked at stays, and so do notes.
        """
        known, missing = {"", "before", *tiles}, dict[str, None]()

        def here(name: str) -> bool:
            if name not in known:
                missing[name] = None
            return name in known

        def kept(strokes: tuple[Stroke, ...]) -> tuple[Stroke, ...]:
            return tuple(stroke for stroke in strokes if here(stroke.other))

        changes: dict[str, Any] = {name: "" for name in ("other", "beside")
                                   if not here(getattr(self, name))}  # fmt: skip
        changes["strokes"] = kept(self.strokes)
        changes["paintings"] = tuple(
            (name, left) for name, made in self.paintings if here(name) and (left := kept(made))
        )
        return replace(self, **changes), list(missing)

    def note(self, tile: str) -> str:
        """Return the note on a tile, "" where there is none."""
        return dict(self.notes).get(tile, "")

    def with_note(self, tile: str, text: str) -> "State":
        """Return the state with a note on a tile; an empty text takes it away."""
        notes = {**dict(self.notes), tile: text}
        return replace(self, notes=tuple((k, v) for k, v in notes.items() if v.strip()))

    def to_json(self) -> str:
        """Return the state as JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    def to_link(self) -> str:
        """Return what differs from the plain state as text for the end of an address."""
        plain = asdict(State())
        values = {name: value for name, value in asdict(self).items() if value != plain[name]}
        text = json.dumps({"format": FORMAT, **values}, separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")

    @classmethod
    def from_link(cls, text: str) -> "State":
        """Read a state from the end of an address.

        Raises:
            ValueError: if it is none.
        """
        try:
            read = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise ValueError("the address holds no view: its end was cut or changed") from None
        return cls.from_json(read.decode("utf-8", errors="replace"))

    @classmethod
    def from_json(cls, text: str) -> "State":
        """Read a state from JSON text.

        Raises:
            ValueError: if the text is no such JSON, or a value is out of range.
        """
        values = read_json(text, "the stored state")
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(
                f"the stored state is not one that this version wrote (format {FORMAT}); "
                "export it again"
            )
        return cls().change(**values)


_CHOICES = {
    "label": (ALL, *CLASSES),
    "predicted": (ALL, *CLASSES),
    "answer": ANSWERS,
    "sort": SORTS,
    "target": TARGETS,
    "contrast": ("", *CLASSES),
    "sign": SIGNS,
    "scale": SCALES,
    "tool": TOOLS,
}


def _strokes(values: Any) -> tuple[Stroke, ...]:
    return tuple(s if isinstance(s, Stroke) else _made(Stroke, s) for s in values)


def _made(kind: type, values: Any) -> Any:
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{values!r} is no {kind.__name__.lower()}: {error}") from error


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        shown = ", ".join(a or repr(a) for a in allowed)
        raise ValueError(f"{name} must be one of {shown}, got {value!r}")


def _within(name: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value!r}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r}")
    return value


def _texts(name: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, list | tuple):
        raise ValueError(f"{name} must be a list of texts, got {values!r}")
    return tuple(dict.fromkeys(_text(name, value) for value in values))


def _checked_range(values: Any) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in values)
    except (TypeError, ValueError):
        raise ValueError(f"confidence must be a pair (low, high), got {values!r}") from None
    if not 0 <= low <= high <= 1:
        raise ValueError(f"confidence must rise within [0, 1], got {values!r}")
    return low, high
