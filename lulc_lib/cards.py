"""Model cards: what a checkpoint is, as data, as JSON and as a page."""

import base64
import hashlib
import json
import math
import re
import shlex
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lulc_lib.config import RunConfig
from lulc_lib.evidence import (
    CENTRE_LEAD,
    CORE,
    COUNTS,
    REMOVAL,
    SINGLE_DELETION,
    ReportCard,
    Row,
    core_figures,
    nulls,
    ranks,
    report_file,
    row_of,
    why_none,
)
from lulc_lib.files import atomic_write, one_line, read_json
from lulc_lib.models import ALIASES, EUROSAT_MEAN
from lulc_lib.storage import sha256_file
from lulc_lib.tiles import CLASSES, TrainedOn, split_of

CARD_FORMAT = 2  # raised when a card can no longer be read by older code
_MOST_LETTERS = 200  # of a name
_MOST_BYTES = 2**26  # of a card
_MOST_NAMES = 2**26  # bytes of training names at most: a card cannot swell up in memory


class CheckpointError(ValueError):
    """A checkpoint that cannot be saved or loaded; the message names the file and the remedy."""


@dataclass(frozen=True)
class Card:
    """What a checkpoint is, where it came from and how well it does; the JSON beside the weights.

    Attributes:
        name: file name without its ending.
        model: data to build the model again; `architecture` is None for a wrapped module.
        classes: names of the ten classes, in the order of the logits.
        weights_sha256: digest of the safetensors file.
        precision: how parameters are stored, "float16" or "float32".
        config: settings of the training run (`RunConfig`), empty if not known.
        earlier: settings of the runs before it, first to last, whose weights it went on from.
        data: source, digest, part and count of the training tiles, empty if not known.
        training_names: names of the training tiles, sorted, one a line, zlib, base64.
        metrics: `Report.to_dict()`, with intervals, empty if not evaluated.
        metrics_tta: the same for predictions averaged over flips and turns, empty if not made.
        history: `History.to_dict()`, empty if not known.
        versions: of this library, Python and the packages that made the weights.
        seconds: time spent training.
        hardware: what it was trained on, in words.
        created: date and time of saving, ISO 8601, UTC.
        notes: free text, such as known limits.
        format: version of this layout.
        card_sha256: digest of all other fields, see `card_digest`; "" until it is written.
    """

    name: str
    model: dict[str, Any]
    classes: list[str]
    weights_sha256: str
    precision: str = "float16"
    config: dict[str, Any] = field(default_factory=dict)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    training_names: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    metrics_tta: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    hardware: str = ""
    created: str = ""
    notes: str = ""
    format: int = CARD_FORMAT
    card_sha256: str = ""

    def __repr__(self) -> str:
        return f"Card({self.summary()!r})"

    def summary(self) -> str:
        """Return one line: model, training tiles and figures."""
        size = self.model.get("image_size", "?")
        words = [f"{self.name}: {self.model.get('name', '?')} at {size} px"]
        if self.data:
            count, part = self.data.get("count", 0), self.data.get("part", "?")
            words.append(f"trained on {count:,} tiles ({self.data.get('source', '?')}, {part})")
        for key, title in _TITLES.items():
            if key in self.metrics and key != "ece":
                words.append(f"{title} {_interval_text(self.metrics[key])}")
        return ", ".join(words)

    def trained_on(self) -> TrainedOn | None:
        """Return the training tiles by name, None where the card names none."""
        if not self.data:
            return None
        names = unpack_names(self.training_names)
        if len(names) != self.data["count"]:
            raise CheckpointError(
                f"the card of {self.name} speaks of {self.data['count']} training tiles and "
                f"names {len(names)}: it was changed or cut short; save or copy it again"
            )
        return TrainedOn(self.data["source"], self.data["digest"], self.data["part"], names)

    def run_config(self) -> RunConfig | None:
        """Return the settings of the training run, None where the card has none.

        Where several runs followed each other, they are those of the last one; see `stages`.
        """
        return RunConfig.from_dict(self.config) if self.config else None

    def stages(self) -> list[RunConfig]:
        """Return the settings of all training runs that made these weights, first to last."""
        runs = [*self.earlier, self.config] if self.config else []
        return [RunConfig.from_dict(values) for values in runs]

    def command(self) -> str:
        """Return the `lulc train` lines, one a stage, that repeat the recipe; "" if none can.

        None can where the card has no settings, or the model was made with arguments of its own.
        """
        stages = self.stages()
        names = [f"{self.name}-{number}" for number in range(1, len(stages))] + [self.name]
        lines = []
        for number, config in enumerate(stages):
            line = self._line(config, names[number - 1] if number else "")
            if not line:
                return ""
            name = shlex.quote(names[number])
            lines.append(line if len(stages) == 1 else f"{line} --name {name}")
        return "\n".join(lines)

    def _line(self, config: RunConfig, before: str) -> str:
        name = self.model.get("name", "")
        _, usual_size, usual = ALIASES.get(name, (name, None, {}))
        if self.model.get("arguments") != usual:
            return ""
        words = ["lulc train --model", shlex.quote(name)]
        if before:
            words.append(f"--start {shlex.quote(f'runs/{before}/{before}')}")
        elif list(self.model["mean"]) != list(EUROSAT_MEAN):
            words.append("--pretrained")
        if not (before or config.sizes) and self.model["image_size"] != usual_size:
            words.append(f"--image-size {self.model['image_size']}")
        part = split_of(self.data.get("part", ""))
        if part not in ("", "seed42"):
            words.append(f"--split {shlex.quote(part)}")
        for key, value in vars(config).items():
            if value == getattr(RunConfig, key) or key in ("model", "save_every", "tracker"):
                continue
            pairs = ",".join(f"{first}:{size}" for first, size in config.sizes)
            text = pairs if key == "sizes" else f"{value}"
            text = text.lower() if isinstance(value, bool) else text
            words.append(f"--set {shlex.quote(f'{key}={text}')}")
        return " ".join(words)


_TITLES = {
    "macro_f1": "macro-F1",
    "macro_auprc": "AUPRC",
    "accuracy": "accuracy",
    "ece": "ECE",
}


def pack_names(names: tuple[str, ...]) -> str:
    """Return names as text for a card: sorted, one a line, zlib, base64."""
    for name in names:
        if "\n" in name:
            raise CheckpointError(f"the name of a training tile has a line break: {name!r}")
    return base64.b64encode(zlib.compress("\n".join(sorted(names)).encode(), 9)).decode()


def unpack_names(packed: str) -> tuple[str, ...]:
    """Return the names that `pack_names` has packed."""
    if not packed:
        return ()
    try:
        text = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), _MOST_NAMES)
        return tuple(text.decode().split("\n")) if text else ()
    except (ValueError, zlib.error) as error:
        raise CheckpointError(f"the card's training_names cannot be read: {error}") from error


def jsonable(value: Any) -> Any:
    """Make data JSON-able: NaN and infinities, which JSON has no word for, become None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def names_in(folder: Path) -> list[str]:
    """Return the names of a folder's checkpoints, sorted."""
    found = [path for path in folder.glob("*.safetensors") if not path.name.startswith(".")]
    whole = [path for path in found if card_path(path).is_file() or waiting_card(path).is_file()]
    return sorted(path.name.removesuffix(".safetensors") for path in whole)


def card_path(weights: Path) -> Path:
    """Return where the card of a weights file lies."""
    return weights.with_name(f"{weights.name.removesuffix('.safetensors')}.json")


def waiting_card(weights: Path) -> Path:
    """Return where a new card waits while a save replaces the weights."""
    return weights.with_name(f".{weights.name.removesuffix('.safetensors')}.next.json")


def card_beside(weights: Path) -> Path:
    """Return the card that belongs to the weights that are there.

    A save that was killed after it replaced the weights has left their card waiting.
    """
    waiting = waiting_card(weights)
    try:
        if waiting.is_file() and parse_card(waiting).weights_sha256 == sha256_file(weights):
            return waiting
    except (CheckpointError, OSError):  # then the card in its place counts
        pass
    return card_path(weights)


def card_digest(values: dict[str, Any]) -> str:
    """Return the SHA-256 of a card's content, however it is laid out: all but `card_sha256`."""
    content = {key: value for key, value in values.items() if key != "card_sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def card_text(values: dict[str, Any]) -> str:
    """Return a card's content as the text of its file, with its digest."""
    values = {**values, "card_sha256": card_digest(values)}
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def seal_card(path: Path) -> bool:
    """Write a card's digest anew, after somebody changed the card on purpose.

    A card of format 1, which had no digest, gets one.

    Returns:
        Whether the file had to be changed.

    Raises:
        CheckpointError: if it is no card.
    """
    values = _read_values(path)
    if values.get("format") in (1, CARD_FORMAT):
        values["format"] = CARD_FORMAT
    if values.get("card_sha256") == card_digest(values):
        return False
    check_card(values, path)
    with atomic_write(path) as temporary:
        temporary.write_text(card_text(values), encoding="utf-8")
    return True


def parse_card(path: Path) -> Card:
    """Read and check a card.

    Raises:
        CheckpointError: if it is malformed or speaks of other classes.
    """
    return _checked(_read_values(path), path)


def check_card(values: dict[str, Any], path: Path) -> None:
    """Check the content of a card that is to be written as it will be when it is read.

    Raises:
        CheckpointError: if it could not be read.
    """
    try:
        digest = card_digest(values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the card {path} cannot be written: {error}") from error
    _checked(values | {"card_sha256": digest}, path).trained_on()


def _read_values(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path, "the card", most_bytes=_MOST_BYTES)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"the card {path} must hold an object, got {type(values).__name__}")
    return values


def _checked(values: dict[str, Any], path: Path) -> Card:
    if values.get("format") == 1:
        raise CheckpointError(
            f"the card {path} has format 1, without the digest by which damage is noticed: if you "
            f"trust it, run `lulc cards --seal {shlex.quote(str(path.parent))}`"
        )
    if values.get("format") != CARD_FORMAT:
        raise CheckpointError(
            f"the card {path} has format {_shown(values.get('format'))}, this library reads "
            f"{CARD_FORMAT}; take the lulc_lib that wrote it, or save the model again"
        )
    own = {spec.name: spec for spec in fields(Card)}
    lacking = [n for n in ("name", "model", "classes", "weights_sha256") if n not in values]
    if lacking:
        raise CheckpointError(f"the card {path} lacks {', '.join(lacking)}")
    for key in set(values) & set(own):
        expected = _kind(own[key].type)
        if not isinstance(values[key], expected) or isinstance(values[key], bool):
            wanted = getattr(expected, "__name__", expected)
            raise CheckpointError(
                f"{key} in the card {path} must be {wanted}, got {_shown(values[key])}"
            )
    if values["classes"] != list(CLASSES):
        raise CheckpointError(
            f"the card {path} speaks of other classes: {_shown(values['classes'])}; "
            f"this library's are {list(CLASSES)}"
        )
    data = values.get("data") or {}
    if data and not {"source", "digest", "part", "count"} <= set(data):
        raise CheckpointError(f"data in the card {path} must name source, digest, part and count")
    for key, kind in (("source", str), ("digest", str), ("part", str), ("count", int)):
        if data and type(data[key]) is not kind:
            raise CheckpointError(f"{key} of data in the card {path} is {_shown(data[key])}")
    name = values["name"]
    check_name(name, f"the card {path}")
    if values.get("card_sha256") != card_digest(values):
        raise CheckpointError(
            f"the card {path} is not as it was written: its content does not fit its card_sha256. "
            "Copy it again, or save the model again; if you changed it on purpose, run "
            f"`lulc cards --seal {shlex.quote(str(path.parent))}`"
        )
    return Card(**{key: value for key, value in values.items() if key in own})


def check_name(name: str, source: str) -> None:
    """Check that a checkpoint's name stays in its folder, and can be printed.

    Raises:
        CheckpointError: if it does not.
    """
    safe = name.isprintable() and not set(name) & set("/\\:") and name not in ("", ".", "..")
    if not safe or len(name) > _MOST_LETTERS:
        raise CheckpointError(
            f"a checkpoint's name must be a file's name of at most {_MOST_LETTERS} printable "
            f"letters, got {_shown(name)} from {one_line(source, 100)}"
        )


def _shown(value: Any) -> str:
    return one_line(repr(value), 80)


def _kind(annotation: Any) -> Any:
    kind = getattr(annotation, "__origin__", annotation)
    return int | float if kind is float else kind


def describe_cards(folder: str | Path) -> str:
    """Return the page of model cards, as Markdown, from the JSON cards of a folder.

    Raises:
        FileNotFoundError: if the folder is missing.
        CheckpointError: if a card is malformed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of checkpoints {folder}")
    files = [folder / f"{name}.safetensors" for name in names_in(folder)]
    if not files:
        return f"{_PAGE_HEAD}\nThere are no checkpoints here yet.\n"
    rows, sections = [], []
    for weights in files:
        card = parse_card(card_beside(weights))
        try:
            rows.append(_overview_row(card, weights))
            sections.append(_section(card) + _explanations(weights))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the card of {weights} cannot be described: {type(error).__name__} "
                f"{one_line(error)}; save the model again"
            ) from error
    overview = _table(["checkpoint", "tested on", "size inside", *_TITLES.values(), "file"], rows)
    return "\n".join([_PAGE_HEAD, overview, *sections, _PAGE_FOOT])


_PAGE_HEAD = """# Model cards

Written by `lulc cards` from the JSON cards in this folder. To change a card's notes, edit its JSON
instead of this page, and run `lulc cards --seal`: else the card is refused. Figures
are followed by their 95 % bootstrap interval over test tiles; training once more would move them
too. `lulc.load_checkpoint("NAME")` loads a model; the weights are safetensors and run no code. What
it says of the test tiles lies in `NAME.predictions.npz`; `lulc.predict(..., cache=True)` reads it.
Test figures are of the weights before they were rounded to the file's precision; `float16_agrees`
in that file is the share of test tiles on which both give the same answer.
"""
_PAGE_FOOT = """## For all of them

**Use.** Learning what a land-cover classifier looks at on EuroSAT. Not for mapping: EuroSAT's
tiles were picked so that one class fills each, over Europe, in clear weather; other places,
seasons, sensors and mixed tiles were never seen. Tiles that lie beside training tiles make test
figures of a random split look better than figures on new ground. A probability is not the chance
of being right unless the ECE is small.

**Data and credit.** EuroSAT (RGB), MIT licence, (c) Patrick Helber: Helber, Bischke, Dengel and
Borth 2019, "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover
Classification", IEEE JSTARS, doi 10.1109/JSTARS.2019.2918242. Contains modified Copernicus
Sentinel data. The weights are under the licence of this project (MIT).
"""


def describe_explanations(folder: str | Path) -> str:
    """Return, as a Markdown table, what the report cards of a folder recommend, beside nulls."""
    folder, rows = Path(folder), []
    for name in names_in(folder):
        file = report_file(folder / f"{name}.safetensors")
        if not file.is_file():
            continue
        report = ReportCard.from_json(file)
        best = report.recommended
        figures = {row[0]: row[1:4] for row in core_figures(report, most=1000)}
        chosen = [(best.method, best.layer)] if best else []
        for method, layer in [*chosen, ("gradcam", None), ("centre", None), ("edge", None)]:
            label = next((k for k in figures if k.split(" at ")[0] == method), "")
            label = f"{method} at {layer}" if layer else label
            if label in figures:
                mark = " (recommended)" if chosen and (method, layer) == chosen[0] else ""
                rows.append([_code(name), f"{label}{mark}", *figures[label]])
        highest = [_strongest_null(report, test) for test in CORE]
        told = ["" if row is None else f"{row.interval} ({row.method})" for row in highest]
        rows.append([_code(name), "the strongest null", *told])
    unique = list(
        {(row[0], row[1].removesuffix(" (recommended)")): row for row in rows[::-1]}.values()
    )
    return _table(["checkpoint", "explanation", *CORE], unique[::-1])


def _explanations(weights: Path) -> str:
    """Return how the model's explanations did in tests, where there is a report card."""
    file = report_file(weights)
    if not file.is_file():
        return ""
    report = ReportCard.from_json(file)
    best = report.recommended
    words = why_none(report)
    if best is not None:
        where = f" at {best.layer}" if best.layer else ""
        words = f"{best.method}{where} ({best.reason})"
    table = _table(["explanation", *CORE, *COUNTS, "s a map"], core_figures(report))
    remarks = "".join(f" {_text(remark)}" for remark in _remarks(report))
    return (
        f"\n**Explanations**, tested by `lulc report` on {_text(report.tiles)}"
        f"{', fewer than a full report takes' if report.quick else ''}; "
        f"{_text(report.hardware)}, {_text(report.precision)}. "
        f"Recommended: {_text(words)}.{remarks} The best by mean rank, which equal maps share, "
        f"and maps that look at nothing:\n\n{table}\n"
    )


def _remarks(report: ReportCard) -> Iterator[str]:
    """Yield what a reader of the table must know: fillings, strong nulls, another first rank."""
    fillings = {
        row.filling
        for test in (SINGLE_DELETION, REMOVAL)
        for row in report.rows
        if row.test == test and row.filling
    }
    if fillings:
        first = next(row.filling for row in report.rows if row.filling)
        more = "; the report card holds the other fillings" if len(fillings) > 1 else ""
        yield f"What is removed is filled by {first} in this table{more}."
    for words in report.left_out:
        yield f"Left out: {words}."
    strongest = {test: _strongest_null(report, test) for test in (SINGLE_DELETION, REMOVAL)}
    for test, row in strongest.items():
        if row is not None and row.low > 0:
            yield f"In {test}, where chance is 0, the null {row.method} reaches {row.value:.3f}."
    best, order = report.recommended, ranks(report).index
    if best is None:
        return
    if len(order) and (best.method, best.layer or "") != order[0]:
        yield (
            f"Here {' at '.join(filter(None, order[0]))} has the best mean rank; the "
            "recommendation follows the ranks on the tiles that it was chosen on."
        )
    own, lead = (
        row_of(report, best.method, best.layer, test)
        for test in (REMOVAL, f"{REMOVAL}, {CENTRE_LEAD}")
    )
    null = strongest[REMOVAL]
    if own is not None and null is not None and null.value > own.value:
        paired = f"; its paired lead over centre is {lead.interval}" if lead else ""
        yield f"On removal {null.method} scores above the recommended {best.method}{paired}."


def _strongest_null(report: ReportCard, test: str) -> Row | None:
    found = [row for one in nulls(report) if (row := row_of(report, *one, test))]
    return max(found, key=lambda row: row.value, default=None)


def _overview_row(card: Card, weights: Path) -> list[str]:
    megabytes = weights.stat().st_size / 1e6
    figures = [_interval_text(card.metrics.get(key)) for key in _TITLES]
    size = f"{_text(card.model.get('image_size', '?'))} px"
    part = _text(card.metrics.get("part") or "not tested")
    return [_code(card.name), part, size, *figures, f"{megabytes:.1f} MB, {_text(card.precision)}"]


def _section(card: Card) -> str:
    metrics, data = card.metrics, card.data
    architecture = card.model.get("architecture") or f"{card.model.get('name')} (wrapped)"
    architecture = architecture.partition(".")[0]  # the tag names weights, not a network
    arguments = (card.model.get("arguments") or {}).items()
    words = [architecture, *(f"{key.replace('_', ' ')} {value}" for key, value in arguments)]
    lines = [f"## {_text(card.name)}", "", f"- **Model**: {_text(', '.join(words))}"]
    first = card.model.get("pretrained")
    lines[-1] += f", {_text(card.model.get('image_size', '?'))} px inside, first weights "
    lines[-1] += f"from {_text(first)}" if first else "random"
    if data:
        lines.append(
            f"- **Trained on**: {data['count']:,} tiles of {_text(data['source'])}, "
            f"{_text(data['part'])} (data set digest {_code(data['digest'][:12])})"
        )
    if metrics:
        lines.append(f"- **Tested on**: {_tested_on(metrics)}")
    if card.metrics_tta:
        figures = [f"{t} {_interval_text(card.metrics_tta.get(k))}" for k, t in _TITLES.items()]
        lines.append(f"- **Averaged over eight flips and turns**: {', '.join(figures)}")
    if card.config:
        stages = [*card.earlier, card.config]
        recipes = [_recipe(stages[0])] + [_changes(*pair) for pair in pairwise(stages)]
        lines.append(f"- **Recipe**: {_text('; then, from its best weights, '.join(recipes))}")
    if card.seconds or card.hardware:
        lines.append(
            f"- **Cost**: {card.seconds / 60:.0f} minutes, {_text(card.hardware or 'unknown')}"
        )
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    lines.append(
        f"- **Made**: {_text(card.created[:10] or 'unknown')} with {_text(versions or 'unknown')}"
    )
    lines.append(f"- **Limits**: {_text(card.notes or 'see the end of this page')}")
    return "\n".join([*lines, "", _class_table(metrics)])


def _tested_on(metrics: dict[str, Any]) -> str:
    text = f"{metrics['n']:,} tiles of {_text(metrics['source'])}, {_text(metrics['part'])}"
    if metrics.get("training_tiles"):
        text += f" (**{metrics['training_tiles']:,} of them training tiles**)"
    return text


def _recipe(config: dict[str, Any]) -> str:
    silent = ["model", "save_every", "tracker", *_without_teacher(config)]
    kept = {key: value for key, value in config.items() if key not in silent and value}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in kept.items())


def _without_teacher(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the settings that mean nothing where there is no teacher."""
    return () if config.get("teacher") else ("teacher_sees",)


def _changes(before: dict[str, Any], config: dict[str, Any]) -> str:
    """Return what a run's settings change of those before it, in words."""
    known = {"epochs": config["epochs"]}
    silent = _without_teacher(config)
    known |= {k: value for k, value in config.items() if value != before.get(k) and k not in silent}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in known.items())


def _class_table(metrics: dict[str, Any]) -> str:
    if not metrics.get("per_class"):
        return ""
    columns = {
        "producers_accuracy": "producer's accuracy",
        "users_accuracy": "user's accuracy",
        "f1": "F1",
        "ap": "AP",
    }
    rows = [
        [_text(name), *(_cell(row[key]) for key in columns), f"{row['support']:,}"]
        for name, row in metrics["per_class"].items()
    ]
    return _table(["class", *columns.values(), "tiles"], rows)


def _text(value: Any) -> str:
    """Return words for the page: one line in which nothing is markup."""
    words = one_line(value, 10_000).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\`*|]|\](?=[(\[:])|~(?=~)|(?<!\w)_|_(?!\w)", r"\\\g<0>", words)


def _code(value: str) -> str:
    return f"`{one_line(value).replace('`', chr(39)).replace('|', '/')}`"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _interval_text(figure: dict[str, float] | None) -> str:
    if not figure:
        return "-"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
