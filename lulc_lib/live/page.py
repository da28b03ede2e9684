"""Write the live page: one HTML file with a Vision Transformer, tiles and their first answers."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lulc_lib.anatomies import anatomy
from lulc_lib.config import MOST_LIVE_TILES
from lulc_lib.evidence import Verdict, known_card
from lulc_lib.explanations import Explanation, explain, recommended
from lulc_lib.explanations.attention import look
from lulc_lib.explanations.batch import Batch
from lulc_lib.export import credit, json_block, pack_grid, page_text, static_text
from lulc_lib.images import data_uri, png_bytes
from lulc_lib.live.kernel import committed
from lulc_lib.live.packing import PackedVit, live_methods, pack_vit
from lulc_lib.models import EUROSAT_MEAN, TileClassifier
from lulc_lib.plots import Scale, colour_table, map_scale, write_whole
from lulc_lib.predictions import predict
from lulc_lib.running import evaluating
from lulc_lib.tiles import CLASS_COLORS, CLASSES, METRES_PER_PIXEL, TILE_SIZE, TileSet, as_images
from lulc_lib.wording import layer_in_words

ACROSS = 10  # tiles in a row of the picture that holds them all
_AT_ONCE = 32  # tiles whose attention is kept: with 16x16 tokens they take about 1 GB
SCRIPTS = (
    "live_engine.js", "live_numbers.js", "live_draw.js", "live_fills.js", "live_state.js",
    "live_tiles.js", "live_seen.js", "live_answers.js", "live_show.js", "live_curve.js",
    "live_find.js", "live_share.js", "live_brush.js", "live_stories.js", "live.js",
)  # fmt: skip
_LIMITS = (
    "A map shows which cells a method credits for a class. It does not show where the class is, "
    "and it does not make the answer right. Nothing finer than a cell is known. Two methods, or "
    "two networks, have different units. A tile with a hole in it is none that the network learned "
    "from: compare several ways of filling it."
)
_LICENCE = "The page and the networks: MIT licence."


def live_html(
    model: TileClassifier,
    tiles: TileSet,
    path: str | Path,
    beside: tuple[str, TileClassifier] | None = None,
    *,
    title: str | None = None,
    cache: bool = False,
) -> Path:
    """Write a page in which a Vision Transformer runs live.

    Args:
        model: a plain ViT, see `pack_vit`.
        tiles: the tiles to choose from, at most 400.
        path: the file to write, whole or not at all; missing folders are made.
        beside: (name, model) whose answers and maps are computed now and stand beside.
        title: heading of the page.
        cache: keep answers and maps on disk, as in `explain`.

    Returns:
        The absolute path of the page.

    Raises:
        TypeError: if model or tiles have another type.
        ValueError: if the page cannot run the model, or there are no tiles or too many.
        OSError: if the file cannot be written.
    """
    made = live_data(model, tiles, beside, title=title, cache=cache)
    page = page_text(
        "live",
        made.data["title"],
        "",
        f"{live_script()}\n{static_text('live_page.js')}",
        {"script-src": "'wasm-unsafe-eval'", "worker-src": "blob:"},
        markup=static_text("live_body.html"),
        data=json_block(made.data),
        weights=_base64(made.weights),
    )
    return write_whole(path, page.encode(errors="backslashreplace"))


@dataclass(frozen=True, eq=False)
class LiveData:
    """What the page is made of: `data` for its scripts, and the weights, float16."""

    data: dict[str, Any]
    weights: bytes


def live_data(
    model: TileClassifier,
    tiles: TileSet,
    beside: tuple[str, TileClassifier] | None = None,
    *,
    title: str | None = None,
    cache: bool = False,
) -> LiveData:
    """Pack a model and compute the answers and maps with which the page begins.

    Args:
        model: as in `live_html`.
        tiles: as in `live_html`.
        beside: as in `live_html`.
        title: as in `live_html`.
        cache: as in `live_html`.

    Raises:
        TypeError: as in `live_html`.
        ValueError: as in `live_html`.
    """
    packed = pack_vit(model)
    if not isinstance(tiles, TileSet):
        raise TypeError(f"a live page takes a TileSet, got {type(tiles).__name__}")
    if not 1 <= len(tiles) <= MOST_LIVE_TILES:
        raise ValueError(f"a live page holds 1 to {MOST_LIVE_TILES} tiles, got {len(tiles):,}")
    name = getattr(model.card, "name", None) or model.name
    logits = predict(packed.model, tiles, cache=cache).logits
    methods = _methods(packed.model, tiles, cache)
    data = {
        "title": title or f"{name}: a Vision Transformer that answers the brush",
        "facts": _facts(name, model),
        "model": {"name": name},
        "classes": list(CLASSES),
        "colours": [CLASS_COLORS[c] for c in CLASSES],
        "spec": packed.spec,
        "kernels": committed(),
        "cells": packed.spec["size"] // packed.spec["patch"],
        "token": _token(packed),
        "empty": list(EUROSAT_MEAN),
        "tables": {kind: _table(kind == "signed") for kind in ("signed", "plain")},
        "methods": methods,
        "logits": _rounded(logits),
        "tiles": {
            "names": list(tiles.names),
            "labels": tiles.labels.tolist(),
            "side": TILE_SIZE,
            "across": ACROSS,
            "sprite": _sprite(tiles),
        },
        "beside": beside and _beside(*beside, tiles, logits, cache),
        "credit": credit(tiles),
        "about": _about(name, model, beside, tiles, methods),
    }
    return LiveData(data, packed.weights)


def live_script() -> str:
    """Return the page's script: drawing, the engine as one function, and `lulcLive`."""
    engine = static_text("product.js") + static_text("vit.js")
    wrapped = (
        f"function engineCode() {{\n{engine}\nreturn {{ makeVit, fromHalf, bytesOf64 }};\n}}\n"
    )
    bytes64 = "const { bytesOf64 } = engineCode();\n"
    return static_text("shared.js") + wrapped + bytes64 + "".join(map(static_text, SCRIPTS))


# --- maps ----------------------------------------------------------------------------------------


def _methods(model: TileClassifier, tiles: TileSet, cache: bool) -> list[dict[str, Any]]:
    """Return the live methods, each with its maps of the predicted classes and their scale."""
    card, best = known_card(model), recommended(model)
    rows = []
    for how in live_methods(model):
        method, layer = how["method"], how["layer"]
        maps = explain(model, tiles, method, layer=layer, cache=cache)
        verdict = _judged(card and card.verdict(method, layer), layer)
        chosen = (method, layer) == (best.method, best.layer or layer) and card is not None
        rows.append(how | _packed(maps.grid, maps.heatmap) | {
            "signed": True,
            "where": layer_in_words(layer),
            "verdict": verdict,
            "recommended": chosen,
        })  # fmt: skip
    return [*rows, _attention(model, tiles)]


def _attention(model: TileClassifier, tiles: TileSet) -> dict[str, Any]:
    """Return what the token that is pointed at first attends to in the last block."""
    found = anatomy(model)
    prefix = found.prefix_tokens
    h, w = found.grid
    row = 0 if prefix else (h // 2) * w + w // 2
    with evaluating(model):
        read = [
            look(Batch(model, some, None, None)).attention[-1].detach()[:, :, row].mean(dim=1)
            for some in as_images(tiles).split(_AT_ONCE)
        ]
    grid = torch.cat(read)[:, prefix:].reshape(-1, h, w).numpy()
    return {
        "method": "attention",
        "layer": found.blocks[-1],
        "block": len(found.blocks) - 1,
        **_packed(grid, grid),
        "signed": False,
        "where": layer_in_words(found.blocks[-1]).removeprefix("output of "),
        "verdict": "The mean over heads; it says what a token reads, not what the answer rests on.",
        "recommended": False,
    }


def _token(packed: PackedVit) -> int:
    """Return the token pointed at first: a class token, below 0, or the cell in the middle."""
    if packed.spec["prefix"]:
        return -1
    cells = packed.spec["size"] // packed.spec["patch"]
    return (cells // 2) * cells + cells // 2


def _packed(grid: np.ndarray, heatmaps: np.ndarray) -> dict[str, Any]:
    values, peaks = pack_grid(np.asarray(grid))
    return {"values": values, "peaks": peaks, "limit": map_scale(heatmaps).limit}


def _beside(
    name: str, model: TileClassifier, tiles: TileSet, logits: np.ndarray, cache: bool
) -> dict[str, Any]:
    """Return another model's answers, and maps of the classes that are likely to be asked for."""
    own = predict(model, tiles, cache=cache).logits
    wanted = [own.argmax(axis=1), logits.argmax(axis=1), tiles.labels.numpy()]
    wanted += [ranked.argsort(axis=1)[:, -2] for ranked in (own, logits)]
    pairs = sorted({(i, int(k)) for classes in wanted for i, k in enumerate(classes)})
    where, targets = (np.array(column) for column in zip(*pairs, strict=True))
    maps = explain(model, tiles.select(where, part=tiles.part), None, targets, cache=cache)
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "name": name,
        "predicted": own.argmax(axis=1).tolist(),
        "logits": _rounded(own),
        "pairs": pairs,
        "method": _described(maps),
        "verdict": _judged(maps.verdict, maps.layer),
        "rows": maps.grid.shape[1],
        "columns": maps.grid.shape[2],
        "signed": bool((maps.heatmap < 0).any()),
        "size": f"{2.7e-6 * parameters:.0f} MB",  # half precision in base64
        **_packed(maps.grid, maps.heatmap),
    }


def _described(maps: Explanation) -> str:
    at = f" at {layer_in_words(maps.layer)}" if maps.layer else ""
    return f"{maps.method}{at}, {maps.grid.shape[1]}x{maps.grid.shape[2]} cells"


def _judged(verdict: Verdict | None, layer: str | None) -> str:
    """Return what a report card says of an explanation, its layer in words."""
    if verdict is None:
        return "No report card tested it."
    words = verdict.words.replace(layer, layer_in_words(layer)) if layer else verdict.words
    return f"{words[0].upper()}{words[1:]}."


def _table(signed: bool) -> str:
    return _base64(colour_table(Scale(1, signed, False)).tobytes())


def _sprite(tiles: TileSet) -> str:
    """Return all tiles in one PNG, `ACROSS` in a row."""
    images = (as_images(tiles).numpy() * 255).round().astype(np.uint8)  # (N, 3, s, s)
    images = np.pad(images, ((0, -len(images) % ACROSS), (0, 0), (0, 0), (0, 0)))
    grid = images.reshape(-1, ACROSS, 3, TILE_SIZE, TILE_SIZE).transpose(2, 0, 3, 1, 4)
    return data_uri(png_bytes(grid.reshape(3, -1, ACROSS * TILE_SIZE)))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _rounded(logits: np.ndarray) -> list[list[float]]:
    return [[float(f"{value:.7g}") for value in row] for row in logits]


# --- words ---------------------------------------------------------------------------------------


def _facts(name: str, model: TileClassifier) -> str:
    accuracy = _metric(model, "accuracy")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    side = TILE_SIZE * METRES_PER_PIXEL
    return (
        f"{name}, {parameters:.1f} million weights, {accuracy}. "
        f"A tile is {side} m across. Everything runs in this page; nothing is sent anywhere."
    )


def _metric(model: TileClassifier, key: str) -> str:
    metrics: Mapping[str, Any] = getattr(model.card, "metrics", None) or {}
    if key not in metrics:
        return "not evaluated on test tiles"
    value = metrics[key]
    if isinstance(value, Mapping):
        value = [value["value"], value["low"], value["high"]]
    figure, low, high = (value if isinstance(value, Sequence) else (value, value, value))[:3]
    return f"{key} {figure:.3f} [{low:.3f}, {high:.3f}] on {metrics.get('n', 0):,} test tiles"


def _about(
    name: str,
    model: TileClassifier,
    beside: tuple[str, TileClassifier] | None,
    tiles: TileSet,
    methods: Sequence[Mapping[str, Any]],
) -> list[list[str]]:
    """Return headings and texts of the page's last panel."""
    notes = getattr(model.card, "notes", "")
    shown = f"{len(tiles):,} tiles: {tiles.source}, {tiles.part}."
    said = [f"{m['method']} at {m['where']}: {m['verdict']}" for m in methods]
    other = [["Beside it", f"{beside[0]}, {_metric(beside[1], 'accuracy')}."]] if beside else []
    return [
        ["The network", f"{name}, {_metric(model, 'accuracy')}. {notes}".strip()],
        *other,
        ["The tiles", f"{shown} {credit(tiles)}".strip()],
        ["The maps", " ".join(said)],
        ["Limits", _LIMITS],
        ["Licence", _LICENCE],
    ]
