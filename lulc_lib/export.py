"""Write one self-contained HTML gallery: tiles, maps and captions in a page that needs no network.

Maps travel as int8 grids with their peaks and are enlarged in the page, so that a tile with its map
takes about 10 kB. The page forbids itself everything but its own style and script (CSP), and shows
tiles and captions where scripts do not run.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lulc_lib.explanations import Explanation, check_methods, explain
from lulc_lib.explanations import methods as known_methods
from lulc_lib.images import data_uri, png_bytes
from lulc_lib.metrics import disagreement
from lulc_lib.models import TileClassifier
from lulc_lib.plots import (
    GROUND,
    Column,
    Scale,
    colour_table,
    describe_grid,
    describe_peak,
    describe_probability,
    describe_range,
    gallery_columns,
    write_whole,
)
from lulc_lib.predictions import Predictions, aligned, predict
from lulc_lib.tiles import CLASS_COLORS, CLASSES, TileSet, as_images, undivided
from lulc_lib.wording import layer_in_words

_EUROSAT_CREDIT = (
    "EuroSAT: Helber et al. 2019, doi 10.1109/JSTARS.2019.2918242. Contains modified Copernicus "
    "Sentinel data."
)
MOST_AT_FIRST = 4  # columns that a page shows at once, unless its reader asks for more
_VERDICTS = {
    "": "right or wrong",
    "right": "all models right",
    "wrong": "at least one wrong",
    "disagree": "models disagree",
}


TARGETS = {"predicted": "the predicted class", "label": "the label", "runner-up": "the runner-up"}


@dataclass(frozen=True)
class PageLook:
    """How a page looks when it opens; its reader can change all but the notes.

    Attributes:
        opacity: of maps over the tile, 0 to 1.
        own_range: whether each map is stretched to its own range.
        scales: name of an explanation -> its scale; without one, its maps set it.
        notes: name of a tile -> what is said below it.
    """

    opacity: float = 0.6
    own_range: bool = False
    scales: dict[str, Scale] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def explain_for_page(
    models: Mapping[str, TileClassifier],
    tiles: TileSet,
    methods: Sequence[str],
    predictions: Mapping[str, Predictions] | None = None,
    *,
    precision: str = "float32",
    cache: bool = False,
    target: str = "predicted",
    more: Callable[[str, str], Mapping[str, Any]] | None = None,
    missing: dict[str, str] | None = None,
    between: Callable[[int], None] | None = None,
) -> dict[str, dict[str, Explanation]]:
    """Explain tiles for a page: each model by each method, for each of `TARGETS`.

    Args:
        models: name -> model.
        tiles: the tiles of the page.
        methods: names in `methods()`, or "recommended"; class-blind ones come with one target.
        predictions: model name -> Predictions that contain these tiles; what is missing is
            predicted.
        precision: as in `explain`.
        cache: as in `explain`.
        target: what the page shows first: one of `TARGETS`, or a class name for all tiles.
        more: further arguments of `explain`, such as a layer, by model name and method.
        missing: filled with "model · method" -> why there is no map, where it is given; without
            it, the first such method is an error.
        between: as in `explain`.

    Returns:
        What `gallery_html` takes: "model" or, for several methods, "model · method" -> target name
        -> Explanation.

    Raises:
        ValueError: if a method cannot explain a model and `missing` is not given, if there is no
            map at all, or if predictions lack a tile.
    """
    blind = dict(zip(*known_methods()[["name", "class-blind"]].to_numpy().T, strict=True))
    asked: dict[str, dict[str, Explanation]] = {}
    for name, model in models.items():
        given = (predictions or {}).get(name) or predict(model, tiles, precision=precision)
        able = list(methods) if missing is None else _able(name, model, methods, missing)
        ranked = aligned(given, tiles, name).logits.argsort(axis=1)
        classes = {
            "predicted": ranked[:, -1],
            "label": tiles.labels.numpy(),
            "runner-up": ranked[:, -2],
        }
        if target in CLASSES:
            classes[target] = np.full(len(tiles), CLASSES.index(target))
        order = [target, *(other for other in classes if other != target)]
        settings = {"precision": precision, "cache": cache, "between": between}
        for one in order:
            chosen = [m for m in able if one == "predicted" or not blind.get(m)]
            found = {}
            for group in [chosen] if more is None and chosen else [[m] for m in chosen]:
                own = {} if more is None else more(name, group[0])
                try:
                    found |= explain(model, tiles, group, classes[one], **settings, **own)
                except ValueError as error:
                    if missing is None or more is None:
                        raise
                    missing[f"{name} · {group[0]}"] = str(error)
            for method, own in found.items():
                key = name if len(methods) == 1 else f"{name} · {method}"
                asked.setdefault(key, {})[one] = own
    if not asked:
        raise ValueError("; ".join((missing or {"": "there is no method"}).values()))
    return asked


def _able(
    name: str, model: TileClassifier, methods: Sequence[str], missing: dict[str, str]
) -> list[str]:
    """Return the methods that can explain a model; say of the others why not."""
    able = []
    for method in methods:
        try:
            check_methods(model, [method])
        except ValueError as error:
            missing[f"{name} · {method}"] = str(error)
        else:
            able.append(method)
    return able


def gallery_html(
    tiles: Any,
    explanations: Mapping[str, Explanation | Mapping[str, Explanation]],
    path: str | Path,
    predictions: Mapping[str, Predictions] | None = None,
    *,
    title: str | None = None,
    ground: float | None = GROUND,
    missing: Mapping[str, str] | None = None,
    look: PageLook | None = None,
) -> Path:
    """Write a gallery of tiles and their maps as one HTML file.

    Args:
        tiles: a TileSet, or images (N, 3, 64, 64) without labels.
        explanations: name -> Explanation of these very tiles, or several for one name, by target,
            as `explain_for_page` gives them; the reader chooses among these, and the first sets
            the scale. For several methods of one model keys such as "resnet50 · gradcam++".
        path: the file to write, whole or not at all; missing folders are made.
        predictions: model name -> Predictions that contain these tiles; None takes the logits
            that the explanations carry.
        title: heading of the page.
        ground: metres along the side of a tile; None when unknown.
        missing: "model · method" -> why there are no maps, said above the tiles.
        look: how maps are drawn when the page opens, and notes on tiles.

    Returns:
        The absolute path of the page.

    Raises:
        TypeError: if explanations is not a dict.
        ValueError: if an explanation or a prediction does not belong to the tiles.
        OSError: if the file cannot be written.
    """
    tiles = tiles if isinstance(tiles, TileSet) else undivided(tiles)
    images = (as_images(tiles).numpy() * 255).round().astype(np.uint8)
    if not isinstance(explanations, Mapping):
        gallery_columns(tiles, explanations)  # which refuses it in words
    variants = {
        name: dict(given) if isinstance(given, Mapping) else {"predicted": given}
        for name, given in explanations.items()
    }
    first = {name: next(iter(given.values())) for name, given in variants.items()}
    look = look or PageLook()
    columns = gallery_columns(tiles, first, predictions, look.scales)
    columns = [replace(c, scale=_common(c.scale, variants[c.name])) for c in columns]
    for target in dict.fromkeys(t for given in variants.values() for t in given):
        gallery_columns(tiles, {n: g[target] for n, g in variants.items() if target in g})
    models = list(dict.fromkeys(column.model for column in columns))
    title = title or f"What {_listed(models)} look{'s' if len(models) == 1 else ''} at"
    style = "".join(
        f".chip.{name} {{ background: {colour}; }}\n" for name, colour in CLASS_COLORS.items()
    )
    shown = _shown_at_first(columns)
    width = 165 * (1 + len(shown)) + 12 * len(shown) + 30  # below it, maps wrap
    style += f"#cards {{ --card-width: {width}px; }}\n"
    script = static_text("shared.js") + static_text("gallery.js")
    page = page_text(
        "gallery",
        title,
        style,
        script,
        summary=html.escape(_summary(tiles, columns)),
        selection=html.escape(_selection(tiles)),
        filters=_filters(tiles, columns) + _targets(variants),
        legend="\n".join(_legend(c, column, ground, shown) for c, column in enumerate(columns))
        + "".join(
            f'<section class="scale"><h3>{html.escape(name)}</h3><p>no maps: {html.escape(why)}</p>'
            "</section>"
            for name, why in (missing or {}).items()
        ),
        cards="\n".join(
            _card(i, image, tiles, columns, ground, look.notes) for i, image in enumerate(images)
        ),
        opacity=round(100 * look.opacity),
        own="checked " if look.own_range else "",
        credit=html.escape(credit(tiles)),
        data=json_block(
            {
                "columns": [_packed(column, variants[column.name]) for column in columns],
                **_answers(tiles, columns),
            }
        ),
    )
    return write_whole(path, page.encode(errors="backslashreplace"))


def pack_grid(grid: np.ndarray) -> tuple[str, list[float]]:
    """Store grids (N, h, w) as base64 of int8 with one peak per map.

    A value is q * peak / 127, so the error is at most peak / 254. What is not finite becomes 0,
    with a peak of 0.
    """
    finite = np.isfinite(grid).all(axis=(1, 2))
    values = np.where(finite[:, None, None], grid, 0).astype(np.float64)
    peaks = np.abs(values).max(axis=(1, 2))
    scaled = values / np.where(peaks > 0, peaks, 1)[:, None, None] * 127
    quantised = np.rint(scaled).astype(np.int8)
    return base64.b64encode(quantised.tobytes()).decode("ascii"), peaks.tolist()


def _packed(column: Column, variants: Mapping[str, Explanation]) -> dict[str, Any]:
    """Return what the page needs to draw one explanation's maps, for each target."""
    colours = colour_table(column.scale).tobytes()
    return {
        "name": column.name,
        "model": column.model,
        "rows": column.explanation.grid.shape[1],
        "columns": column.explanation.grid.shape[2],
        "signed": column.scale.signed,
        "limit": column.scale.limit,
        "variants": {target: _variant(given) for target, given in variants.items()},
        "colours": base64.b64encode(colours).decode("ascii"),
    }


def _variant(given: Explanation) -> dict[str, Any]:
    values, peaks = pack_grid(np.asarray(given.grid))
    return {
        "values": values,
        "peaks": peaks,
        "target": np.asarray(given.target).tolist(),
        "range": [describe_range(grid) for grid in given.grid],
        "where": [_where(grid) for grid in given.grid],
    }


def _answers(tiles: Any, columns: list[Column]) -> dict[str, Any]:
    """Return what filters and orders ask for: labels, and what each model says."""
    models = {column.model: column for column in columns}
    labels = tiles.labels.tolist() if isinstance(tiles, TileSet) else None
    apart = disagreement([column.probabilities for column in models.values()])
    rows = []
    for name, column in models.items():
        known = column.predicted if labels is None else labels
        of_label = column.probabilities[np.arange(len(known)), known]
        loss = -np.log(np.maximum(np.nan_to_num(of_label), 1e-12))
        rows.append({
            "name": name,
            "predicted": column.predicted.tolist(),
            "confidence": np.nan_to_num(column.probability).round(4).tolist(),
            "loss": loss.round(4).tolist(),
        })  # fmt: skip
    return {
        "models": rows,
        "labels": labels,
        "classes": list(CLASSES),
        "apart": np.nan_to_num(apart).round(4).tolist(),
    }


def _targets(variants: Mapping[str, Mapping[str, Explanation]]) -> str:
    """Return the list of targets to choose from, where there are several."""
    names = dict.fromkeys(target for given in variants.values() for target in given)
    if len(names) < 2:
        return ""
    return _select("target", "Map for", {name: TARGETS.get(name, name) for name in names})


def _summary(tiles: Any, columns: list[Column]) -> str:
    count = f"{len(tiles):,} tile{'s' if len(tiles) != 1 else ''}"
    if not isinstance(tiles, TileSet):
        return f"{count} without labels"
    right = ", ".join(
        f"{column.model} {int((column.predicted == column.labels).sum())} right"
        for column in {column.model: column for column in columns}.values()
    )
    return f"{count}: {tiles.source}, {tiles.part} · {right} of the {len(tiles):,} shown"


def _selection(tiles: Any) -> str:
    """Say that the tiles shown are a choice, so that nobody reads an accuracy from their number."""
    if not isinstance(tiles, TileSet):
        return ""
    return (
        "These tiles are a selection, in which mistakes may be over-represented: how many are "
        "right here is not the accuracy, which the model's card gives."
    )


def credit(tiles: Any) -> str:
    """Return whom to credit for tiles, or '' where nothing is known of them."""
    if not isinstance(tiles, TileSet):
        return ""
    if tiles.drawn:
        return "Drawn tiles: pictures made by a program, not satellite images."
    return _EUROSAT_CREDIT if tiles.from_eurosat else ""


def _filters(tiles: Any, columns: list[Column]) -> str:
    """Return the two lists by which labelled tiles are filtered."""
    if not isinstance(tiles, TileSet):
        return ""
    counts = {name: count for name, count in tiles.class_counts().items() if count}
    labels = {"": "all labels"} | {name: f"{name} ({count})" for name, count in counts.items()}
    verdicts = dict(_VERDICTS)
    if len({column.model for column in columns}) < 2:
        verdicts = {"": "right or wrong", "right": "right", "wrong": "wrong"}
    models = list(dict.fromkeys(column.model for column in columns))
    said = sorted({int(k) for column in columns for k in column.predicted})
    predicted = {"": "any class"} | {str(k): CLASSES[k] for k in said}
    asked = {"": "any model"} | {name: name for name in models}
    orders = {"": "as chosen", "loss": "largest loss", "confidence": "least confidence"}
    if len(models) > 1:
        orders["disagreement"] = "largest disagreement"
    return (
        _select("label", "Label", labels)
        + _select("predicted", "Predicted", predicted)
        + _select("verdict", "Answer", verdicts)
        + (_select("judge", "According to", asked) if len(models) > 1 else "")
        + _percent("least", "Confidence from", 0)
        + _percent("most", "to", 100)
        + _select("sort", "Sort by", orders)
    )


def _percent(name: str, text: str, value: int) -> str:
    return (
        f'<label>{text} <input id="{name}" type="number" min="0" max="100" step="1" '
        f'value="{value}" autocomplete="off"> %</label>\n'
    )


def _select(name: str, text: str, options: dict[str, str]) -> str:
    choices = "".join(
        f'<option value="{html.escape(value)}">{html.escape(shown)}</option>'
        for value, shown in options.items()
    )
    return f'<label>{text} <select id="{name}" autocomplete="off">{choices}</select></label>\n'


def _common(scale: Scale, variants: Mapping[str, Explanation]) -> Scale:
    """Return the scale of the first target, signed or clipped where another target needs it."""
    maps = [given.heatmap for given in variants.values()]
    below = scale.signed or any(bool((values < 0).any()) for values in maps)
    beyond = any(bool((np.abs(values) > scale.limit * (1 + 1e-6)).any()) for values in maps)
    return Scale(scale.limit, below, beyond)


def _shown_at_first(columns: list[Column]) -> set[int]:
    """Return which columns a page shows until its reader asks for others: not too many."""
    if len(columns) <= MOST_AT_FIRST:
        return set(range(len(columns)))
    models = [column.model for column in columns]
    return {models.index(name) for name in models}


def _legend(c: int, column: Column, ground: float | None, shown: set[int]) -> str:
    """Return what is to be known of one explanation: method, layer, grid and colour bar."""
    scale, maps = column.scale, column.explanation
    bar = np.broadcast_to(colour_table(scale)[None], (8, 256, 3))
    low = -scale.limit if scale.signed else 0
    ends = [f"{end:.2g}".replace("-", "−") for end in (low, scale.limit)]
    middle = "<span>0</span>" if scale.signed else ""
    blind = "ClassBlind" in maps.warnings
    words = ("low", "high") if blind else ("against the class", "for the class")
    low_words = words[0] if scale.signed or blind else "nothing"
    layer = ""
    if maps.layer:
        words_of = html.escape(layer_in_words(maps.layer))
        layer = f' at <span title="{html.escape(maps.layer)}">{words_of}</span>'
    notes = [describe_grid(maps.grid, ground)]
    clipped = "; the strongest values lie beyond the scale" if scale.clipped else ""
    beyond = f'<span class="beyond">{clipped}</span>'
    if maps.verdict is not None:
        proven = "" if maps.verdict.proven else "unproven: "
        words_of = maps.verdict.words
        if maps.layer:
            words_of = words_of.replace(maps.layer, layer_in_words(maps.layer))
        notes.append(f"{proven}{words_of}")
    name = html.escape(column.name)
    checked = " checked" if c in shown else ""
    return f"""<section class="scale">
<h3><label><input type="checkbox" class="toggle" data-column="{c}"{checked} autocomplete="off">
{name}</label></h3>
<p>{html.escape(column.method)}{layer}<br>{html.escape("; ".join(notes))}{beyond}</p>
<div class="bar"><img src="{data_uri(png_bytes(bar))}"
alt="Colour bar of {name}, from {ends[0]} to {ends[1]}" width="256" height="12"></div>
<p class="ends"><span><span class="end">{ends[0]}<br></span>{low_words}</span>{middle}
<span><span class="end">{ends[1]}<br></span>{words[1]}</span></p>
<p class="own-ends" hidden>each map to its own strongest value: not to be compared</p>
</section>"""


def _card(
    i: int, image: np.ndarray, tiles: Any, columns: list[Column], ground: float | None,
    notes: Mapping[str, str],
) -> str:  # fmt: skip
    """Return one tile with its maps."""
    labelled = isinstance(tiles, TileSet)
    label = CLASSES[tiles.labels[i]] if labelled else ""
    name = html.escape(Path(tiles.names[i]).name if labelled else f"picture {i + 1}")
    note = notes.get(tiles.names[i], "") if labelled else ""
    said = f'<p class="own-note">Note: {html.escape(note)}</p>\n' if note else ""
    heading = f'<span class="chip {label}"></span>{label} <small>label · {name}</small>'
    alt = f"Tile {name}, label {label}" if labelled else f"Tile {name}"
    verdict = "right" if all(column.correct(i) is not False for column in columns) else "wrong"
    agree = len({int(column.predicted[i]) for column in columns}) == 1
    shape = "pictures tall" if any(" · " in column.name for column in columns) else "pictures"
    maps = "\n".join(_map(i, c, column, ground) for c, column in enumerate(columns))
    return f"""<article class="card" data-label="{label}" data-verdict="{verdict}"
data-agree="{"yes" if agree else "no"}">
<h2>{heading if labelled else name}</h2>
<div class="{shape}">
<figure><p class="of">tile</p><img class="tile" src="{data_uri(png_bytes(image))}" alt="{alt}"
width="192" height="192"><figcaption>{_size(ground)}</figcaption></figure>
{maps}
</div>
{said}</article>"""


def _size(ground: float | None) -> str:
    return "64x64 px" if ground is None else f"64x64 px<br>{ground:.0f} m across"


def _two_lines(name: str) -> str:
    """Put the method of a name such as "resnet50 · gradcam++" on a line of its own."""
    return "<br>".join(html.escape(part) for part in name.split(" · ", 1))


def _breakable(name: str) -> str:
    """Let a long class name break between its words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "<wbr>", name)


def _map(i: int, c: int, column: Column, ground: float | None) -> str:
    """Return one map: an empty canvas for the script, and the words, which need none."""
    grid = column.explanation.grid[i]
    target = CLASSES[int(column.explanation.target[i])]
    sign, kind = {True: ("✓ ", "right"), False: ("✗ ", "wrong"), None: ("", "open")}[
        column.correct(i)
    ]
    words = [
        f'<strong class="{kind}">{sign}{_breakable(CLASSES[column.predicted[i]])}</strong> '
        + html.escape(describe_probability(column.probability[i])).replace(" ", "&nbsp;"),
        f'<span class="range">{describe_range(grid)}</span>',
        describe_grid(grid, ground),
    ]
    words[0] += (
        f'<span class="target"{"" if column.target(i) else " hidden"}>'
        f"<br>map for <span>{target}</span></span>"
    )
    if column.seen is not None and column.seen[i]:
        words.append("the model was trained on this tile")
    alt = html.escape(f"Map by {column.name} for {target}: {_where(grid)}")
    return f"""<figure class="map" data-column="{c}"><p class="of">{_two_lines(column.name)}</p>
<div class="stack"><canvas class="over" data-tile="{i}" data-column="{c}" role="img"
aria-label="{alt}" width="192" height="192"></canvas></div>
<figcaption>{"<br>".join(words)}</figcaption></figure>"""


def _where(grid: np.ndarray) -> str:
    """Say in words what a map shows."""
    return ", ".join(dict.fromkeys([describe_range(grid), describe_peak(grid)]))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def static_text(name: str) -> str:
    """Return a file of `lulc_lib/static/`: what the page and the widgets show themselves with."""
    file = importlib.resources.files("lulc_lib") / "static" / name
    return file.read_text(encoding="utf-8").replace("\r\n", "\n")


def page_text(
    name: str,
    title: str,
    style: str,
    script: str,
    more: Mapping[str, str] | None = None,
    **blocks: str,
) -> str:
    """Return a page that asks for nothing, in which its own style and script alone are taken.

    Args:
        name: whose body, `static/NAME.html`, and layout, `static/NAME.css`, it is.
        title: plain text.
        style: rules after those of `static/style.css` and the layout.
        script: what runs.
        more: what its policy allows besides, directive -> sources.
        blocks: what stands in the body, as HTML.
    """
    title = html.escape(title)
    style = static_text("style.css") + static_text(f"{name}.css") + style
    policy = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'{_block_hash(style)}'",
        "script-src": f"'{_block_hash(script)}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for directive, sources in (more or {}).items():
        policy[directive] = f"{policy.get(directive, '')} {sources}".strip()
    body = string.Template(static_text(f"{name}.html"))
    return string.Template(static_text("page.html")).substitute(
        policy="; ".join(f"{directive} {sources}" for directive, sources in policy.items()),
        title=title,
        style=style,
        body=body.substitute(title=title, script=script, **blocks).rstrip(),
        kind=f"lulc-{name}",
    )


def _block_hash(text: str) -> str:
    """Return the hash by which a content security policy knows an inline block."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def json_block(value: Any) -> str:
    """Return JSON that may stand inside a script element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
