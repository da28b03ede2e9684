"""What the explorer's controls are: their words, options and help, and which do not apply."""

import contextlib
from collections.abc import Mapping
from typing import Any

from lulc_lib import glossary
from lulc_lib.anatomies import anatomy
from lulc_lib.evidence import RECOMMENDED, known_card
from lulc_lib.explanations import recommended
from lulc_lib.explanations.table import METHODS
from lulc_lib.models import TileClassifier
from lulc_lib.tiles import CLASSES, TileSet
from lulc_lib.widgets.looking import layer_words, method_facts
from lulc_lib.widgets.state import ALL, ANSWERS, SCALES, SIGNS, SORTS, TARGETS, State
from lulc_lib.widgets.stories import STORIES

_WORDS = {
    "answer": {ALL: "right or wrong", "disagree": "models disagree"},
    "sort": {"order": "their order", "loss": "largest loss", "confidence": "least confidence",
             "disagreement": "largest disagreement"},
    "target": {"predicted": "the predicted class", "label": "the label"},
    "sign": {"signed": "for and against the class", "positive": "only what is for the class"},
    "scale": {"shared": "shared by all tiles", "per map": "each map its own range"},
}  # fmt: skip
_FAMILIES = {
    "report": "What its report card recommends",
    "cam": "Class activation maps: cells of one layer, weighted",
    "attention": "Attention: which tokens read which (ViT)",
    "gradient": "Gradients: which pixels the answer reacts to",
    "perturbation": "Covering: what the answer loses",
    "null": "Maps that look at no model, to compare with",
}
_HELP = {
    RECOMMENDED: "the method and layer that beat all maps of no model in tests; else Grad-CAM",
    "gradcam": "channels weighted by their mean gradient",
    "gradcam++": "channels weighted by their positive gradients",
    "hirescam": "gradient times activation, cell by cell",
    "elementwise": "the positive part of gradient times activation",
    "xgradcam": "channels weighted by gradients where they are active",
    "layercam": "each cell weighted by its own positive gradient",
    "eigencam": "what varies most in the layer, whatever the class",
    "eigengradcam": "what varies most in gradient times activation",
    "scorecam": "channels weighted by what the model says of the tile masked with them",
    "ablationcam": "channels weighted by what the answer loses without them",
    "finercam": "what tells the class from its nearest rivals, or from the class in 'and not'",
    "libragrad": "gradient times activation with normalisations and gates held constant",
    "contributions": "the exact share of each cell in the logit",
    "competition": "the share of each cell where the class leads the others",
    "refinecam": "Grad-CAMs of several layers multiplied: finer, and never below 0",
    "rollout": "attention multiplied through all blocks, whatever the class",
    "relevance": "attention weighted by its gradient for the class",
    "legrad": "the gradient of the class with respect to attention, over all blocks",
    "inputxgradient": "each pixel times the gradient there",
    "smoothgrad": "the gradient averaged over noisy copies of the tile",
    "integratedgradients": "the gradient summed on the way from the mean colour to the tile",
    "fullgrad": "the whole logit shared out over pixels and biases",
    "occlusion": "patches of 80 m are covered one after the other",
    "random": "a draw for each pixel",
    "cells": "a draw for each cell of the model's grid",
    "centre": "a spot in the middle",
    "edge": "where brightness changes",
    "blur": "the blurred brightness",
}
GLOSSARY = (
    "tile", "label", "predicted", "target", "heat map", "cell", "clipped", "null", "report card",
    "unproven",
)  # fmt: skip


def find_fields(models: Mapping[str, TileClassifier], tiles: TileSet) -> list[dict[str, Any]]:
    """Return the fields of the find bar."""
    counts = tiles.class_counts()
    labels = [(f"all ({len(tiles):,})", ALL), *((f"{n} ({c:,})", n) for n, c in counts.items())]
    judges = [("any model" if len(models) > 1 else "the model", ALL), *((n, n) for n in models)]
    stories = [("choose one", ""), *((told.title, name) for name, told in STORIES.items())]
    return [
        _select("story", "Story", stories, "a question to think about: predict first, then reveal"),
        _select("label", "Label", labels, "what people said the tile is"),
        _select("predicted", "Predicted", [("any class", ALL), *((c, c) for c in CLASSES)]),
        _select("answer", "Answer", _named("answer", ANSWERS)),
        _select("judge", "According to", judges, "whose answers filter and sort"),
        {"kind": "percent", "name": "confidence", "label": "Confidence"},
        _select("sort", "Sort by", _named("sort", SORTS)),
        _button("clear", "clear filters", "show all tiles"),
    ]


def detail_fields(models: Mapping[str, TileClassifier]) -> list[dict[str, Any]]:
    """Return the fields below the tile: maps, deletion, notes, files and help."""
    target = _select("target", "Map for", _named("target", TARGETS), "the class that is explained")
    contrast = [("–", ""), *((c, c) for c in CLASSES)]
    stage = {**_select("stage", "Layer", _layers(models)), "number": True}
    look = [
        {"kind": "methods", "name": "methods", "label": "Methods", "families": _families(models)},
        target,
        _select("contrast", "and not", contrast, "why the one class and not the other"),
        stage,
        _select("sign", "Show", _named("sign", SIGNS)),
        _select("scale", "Colour scale", _named("scale", SCALES)),
        {"kind": "range", "name": "opacity", "label": "Opacity", "min": 0, "max": 1, "step": 0.05},
    ]
    delete = {"kind": "range", "name": "deleted", "label": "Delete the map's first pixels",
              "min": 0, "max": 1, "step": 0.01,
              "help": "beside as many at random; the first method chosen counts"}  # fmt: skip
    note = {"kind": "text", "name": "note", "label": "Note on this tile",
            "placeholder": "what you see, and what would prove you wrong"}  # fmt: skip
    keep = [
        _button("picture", "keep as picture", "a PNG of what is seen"),
        _button("page", "keep as page", "the tiles found, as one HTML file"),
        _button("state", "keep as view", "one file with the view, all notes and all strokes"),
        {"kind": "saved", "name": "saved"},
        {"kind": "upload", "name": "upload", "label": "Open a picture or a view",
         "accept": "image/*,.json"},
        _select("fit", "A larger picture is", [("cut at its centre", "crop"),
                                               ("shrunk", "resize")]),
    ]  # fmt: skip
    words = tuple((word, glossary.meaning(word)) for word in GLOSSARY)
    return [
        _section("Maps: methods, class, layer, scale", look),
        _section("Delete, note, keep", [delete, note, {"kind": "notes", "name": "notes"}, *keep]),
        _section("Words", [{"kind": "glossary", "name": "glossary", "words": words}]),
    ]


def does_not_apply(state: State, models: Mapping[str, TileClassifier]) -> dict[str, str]:
    """Return, by control, why it would change nothing now."""
    chosen = [METHODS[n] for n in state.methods if n in METHODS]
    all_known = len(chosen) == len(state.methods)  # "recommended" may be any
    off = {}
    if not any(m.takes_contrast for m in chosen):
        off["contrast"] = "only finercam compares with another class"
    if all_known and not any(m.layered for m in chosen):
        off["stage"] = "the methods chosen look at no single layer"
    if all_known and all(m.class_blind for m in chosen):
        off["target"] = "the methods chosen draw one map for all classes"
    if all_known and not any(m.signed for m in chosen):
        off["sign"] = "maps by the methods chosen never fall below 0"
    if len(models) < 2:
        off["judge"] = "there is one model"
    tools = {
        "swap": (not state.other, "open the other tile and press 'take from it' first"),
        "brush": (state.tool == "swap" and not state.other,
                  "open the other tile and press 'take from it' first"),
        "clean": (not state.strokes, "nothing is painted on this tile"),
        "before": (not (state.beside or state.strokes or state.other),
                   "paint first, or press 'take from it' on another tile"),
    }  # fmt: skip
    return off | {name: why for name, (holds, why) in tools.items() if holds}


def _families(models: Mapping[str, TileClassifier]) -> list[dict[str, Any]]:
    cards = {}
    for name, model in models.items():
        with contextlib.suppress(ValueError):
            cards[name] = known_card(model)
    groups = []
    for family, words in _FAMILIES.items():
        rows = [row for name, row in method_facts().items()
                if (name == RECOMMENDED) == (family == "report") and
                (family == "report" or row["family"] == family)]  # fmt: skip
        groups.append({
            "name": words,
            "methods": [{"name": row["name"], "cost": _cost(row), "help": _HELP[row["name"]],
                         "figure": _figure(row["name"], models, cards)} for row in rows],
        })  # fmt: skip
    return groups


def _cost(row: dict[str, Any]) -> str:
    first = row["cost"].split()[0]
    if first == "none":
        return ""
    if row["cost"].startswith("1 pass for each channel"):
        return "hundreds of passes, slow"
    words = f"{first} pass{'es' if first != '1' else ''}"
    return words if int(first) < 10 else f"{words}, slow"


def _figure(method: str, models: Mapping[str, TileClassifier], cards: Mapping[str, Any]) -> str:
    """Return what the report cards say of a method at the layer that it takes by itself."""
    words = []
    for name, model in models.items():
        card = cards.get(name)
        if card is None or (method in METHODS and METHODS[method].family == "null"):
            continue
        if method == RECOMMENDED:
            best = recommended(model)
            where = f" at {layer_words(model, best.layer)}" if best.layer else ""
            words.append(f"{name}: {best.method}{where}")
            continue
        layer = anatomy(model).layer if METHODS[method].layered else None
        verdict = card.verdict(method, layer)
        if "not tested" not in verdict.short:
            words.append(f"{name}: {verdict.short}")
    return "; ".join(words)


def _layers(models: Mapping[str, TileClassifier]) -> list[tuple[str, int]]:
    """Return the layers to choose from, counted from the last, with each model's grid."""
    found = {}
    for name, model in models.items():
        with contextlib.suppress(ValueError):  # without a grid there is nothing to choose
            found[name] = anatomy(model)
    fewest = min((len(one.grids) for one in found.values()), default=0)
    options = [("the method's own choice", 0)]
    for back in range(1, fewest + 1):
        grids = [f"{name} {one.grids[-back][0]}x{one.grids[-back][1]}"
                 for name, one in found.items()]  # fmt: skip
        place = "last stage" if back == 1 else f"stage {back} from the end"
        options.append((f"{place} ({', '.join(grids)} cells)", back))
    if any(one.blocks for one in found.values()):
        options += [(f"start of block {back} from the end (ViT)", -back)
                    for back in range(1, fewest + 1)]  # fmt: skip
    return options


def shown_stage(stage: int, models: Mapping[str, TileClassifier]) -> int:
    """Return which layer on the list a state's number means: one that is not there, by its like.

    A convolutional network has no norms to choose from, so that -2 and 2 are one layer there; a
    number beyond the first layer means the first.
    """
    listed = {value for _, value in _layers(models)}
    fewest = max(listed)
    like = max(-fewest, min(fewest, stage))
    return like if like in listed else abs(like)


def _named(name: str, values: Any) -> list[tuple[str, Any]]:
    words = _WORDS.get(name, {})
    return [(words.get(value, value), value) for value in values]


def _select(name: str, label: str, options: Any, help_: str = "") -> dict[str, Any]:
    return {"kind": "select", "name": name, "label": label, "options": list(options),
            "help": help_}  # fmt: skip


def _button(name: str, label: str, help_: str) -> dict[str, Any]:
    return {"kind": "button", "name": name, "label": label, "help": help_}


def _section(label: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {"kind": "section", "name": label, "label": label, "fields": fields}
