"""`explain`: check what is asked, run the tiles in batches, share the passes."""

import contextlib
import importlib.metadata
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lulc_lib.anatomies import anatomy
from lulc_lib.arrays import whole_number
from lulc_lib.attention import PlainAttention
from lulc_lib.config import check_precision
from lulc_lib.evidence import RECOMMENDED, Recommendation, ReportCard, known_card
from lulc_lib.explanations.attention import look
from lulc_lib.explanations.batch import Batch
from lulc_lib.explanations.cam import refined_layers
from lulc_lib.explanations.gates import check_sums
from lulc_lib.explanations.nulls import check_grid
from lulc_lib.explanations.pixels import not_piecewise_linear
from lulc_lib.explanations.result import Explanation, finished
from lulc_lib.explanations.table import DEFAULT_METHOD, METHODS, Method, method_named
from lulc_lib.models import TileClassifier
from lulc_lib.predictions import identity
from lulc_lib.running import check_explainable, device_of, evaluating
from lulc_lib.storage import cache_key, digest_arrays, free_memory, load_arrays, store_arrays
from lulc_lib.tiles import (
    CLASSES,
    TILE_SIZE,
    as_images,
    cell_metres,
    class_index,
    class_indices,
    undivided,
)
from lulc_lib.wording import did_you_mean

# Pixels inside the model at once: more is not faster, since large memory is made anew each time.
_BATCH_PIXELS = {"cnn": 8 * 224**2, "vit": 16 * 224**2}
_MEMORY_SHARE = 0.25  # of the free memory


@dataclass(frozen=True, eq=False)
class _Request:
    """What is asked of a model, checked."""

    model: TileClassifier
    tiles: Tensor
    targets: np.ndarray | None  # int64 (N,), None for the predicted classes
    layer: str | None
    contrast: int | None
    precision: str
    batch_size: int
    between: Callable[[int], None] | None


@overload
def explain(
    model: TileClassifier, images: Any, method: str | None = ..., *args: Any, **kwargs: Any
) -> Explanation: ...
@overload
def explain(
    model: TileClassifier, images: Any, method: Sequence[str], *args: Any, **kwargs: Any
) -> dict[str, Explanation]: ...
def explain(
    model: TileClassifier,
    images: Any,
    method: str | Sequence[str] | None = None,
    target: Any = None,
    layer: str | int = "auto",
    contrast: Any = None,
    precision: str = "float32",
    *,
    batch_size: int | None = None,
    cache: bool = False,
    between: Callable[[int], None] | None = None,
) -> Explanation | dict[str, Explanation]:
    """Explain a model's decision on each tile by a map of what counts for the target class.

    The layer and the grid of its cells are found from the model. Maps keep their sign and their
    size: nothing is clipped or scaled beyond what the method's own definition says. The model
    comes back as it was, also after an error.

    Args:
        model: made by `create_model` or `load_checkpoint`.
        images: a TileSet, or images (N, 3, 64, 64), float32 in [0, 1] or uint8.
        method: a name in `methods()`, or several, which then share one pass. None, or
            "recommended", takes the method and layer that the report card beside the model's
            checkpoint recommends for these weights; where there is none, or a layer is named, it
            takes Grad-CAM.
        target: class to explain: None for the predicted one, an index or a name for all tiles, or
            one per tile.
        layer: for CAM methods: "auto" takes the last one through which patches reach the logits
            (`anatomy` says more); else a dotted name in `model.named_modules()`, or a number as in
            `layers(model)`.
        contrast: class to tell the target from, for finercam; None compares with the three
            nearest in logit.
        precision: "float32", or "bfloat16" for autocast.
        batch_size: tiles at a time; default: so many that they fit in free memory.
        cache: keep the maps on disk under the digests of weights, tiles and settings. A wrapped
            module, or a model with modules or hooks of your own, is always run: their code has
            no digest.
        between: called before each pass through the model with the number of images in it, so that
            long work can be followed; what it raises ends the work and leaves the model as it was.
            With it, smoothgrad passes `batch_size` noisy copies at a time instead of all.

    Returns:
        Maps, targets and logits as NumPy arrays; for several methods a dict, name -> Explanation.
        `ground` says why this method was taken. A method that no report card of these weights
        found above maps that look at nothing carries the warning "Unproven".

    Raises:
        TypeError: if model, images, target or layer have a wrong type.
        ValueError: if method, layer, class or precision are unknown, images or targets do not
            fit, a method takes no contrast or no layer, cannot explain this network, or the layer
            has no grid or does not reach the logits; or if the model cannot be explained as it
            is: parameters of half precision, made under `torch.inference_mode`, or spread over
            several devices by `nn.DataParallel`.
    """
    _check_model(model)
    layer = _asked_layer(layer)
    card = known_card(model)
    asked = [_asked(card, name, layer) for name in _names(method)]
    contrasted = any(one.method.takes_contrast for one in asked)
    results = {}
    for where in dict.fromkeys(one.layer for one in asked):
        same = [one for one in asked if one.layer == where]
        chosen = list({one.method.name: one.method for one in same}.values())
        takes = any(one.takes_contrast for one in chosen) or not contrasted
        against = contrast if takes else None
        request = _checked(model, images, chosen, target, where, against, precision, batch_size)
        request = replace(request, between=between)
        found = _found(request, chosen, cache)
        for one in same:
            known = request.layer if one.method.layered else None
            against = request.contrast is not None and one.method.takes_contrast
            results[one.name] = finished(
                one.method, known, card, one.ground, found[one.method.name], against
            )
    several = not (method is None or isinstance(method, str))
    return {one.name: results[one.name] for one in asked} if several else results[asked[0].name]


def recommended(model: TileClassifier) -> Recommendation:
    """Return what `explain(method=None)` takes for a model: method, layer and reason.

    The layer is None where the method has none, or takes its own.

    Raises:
        TypeError: if it is no model of ours.
    """
    _check_model(model)
    return _recommended(known_card(model))


def layers(model: TileClassifier) -> pd.DataFrame:
    """List the layers that CAM methods can look at.

    Returns:
        DataFrame whose index is the number that `layer=` takes: layer (dotted name), grid ("7x7"),
        cell_metres (ground size of a cell), auto (whether `layer="auto"` takes it). Of a
        convolutional network, the last layer at each resolution, from shallow to deep. Of a ViT,
        the first norm of each block, then the output of each block, each from shallow to deep.
        Negative numbers count back from the end of the first list: -1 is the last stage of a
        convolutional network, and the first norm of a ViT's last block. Other layers with a grid
        can be chosen by name.

    Raises:
        TypeError: if it is no model of ours.
        ValueError: if no layer has a grid of at least 2x2.
    """
    _check_model(model)
    found = anatomy(model)
    sides = found.grids + found.output_grids
    rows = [
        (name, f"{h}x{w}", model.tiles_across * cell_metres(h), name == found.layer)
        for name, (h, w) in zip(found.stages + found.outputs, sides, strict=True)
    ]
    return pd.DataFrame(rows, columns=["layer", "grid", "cell_metres", "auto"])


# --- checks --------------------------------------------------------------------------------------


def _names(method: Any) -> list[Any]:
    if method is None:
        return [RECOMMENDED]
    if isinstance(method, str) or not isinstance(method, Sequence):
        return [method]
    if not method:
        raise ValueError("method is an empty list; name at least one of methods()")
    return list(dict.fromkeys(method))


@dataclass(frozen=True)
class _Asked:
    """One method that is asked for, at which layer, and on what ground it was chosen."""

    name: str  # what it is called in the results
    method: Method
    layer: Any
    ground: str


def _asked(card: ReportCard | None, name: Any, layer: Any) -> _Asked:
    if name != RECOMMENDED:
        return _Asked(name, method_named(name), layer, "named by the caller")
    if layer != "auto":
        return _Asked(name, METHODS[DEFAULT_METHOD], layer, "Grad-CAM at the layer named")
    best = _recommended(card)
    return _Asked(name, method_named(best.method), best.layer or "auto", best.reason)


def _recommended(card: ReportCard | None) -> Recommendation:
    if card is not None and card.recommended is not None:
        return card.recommended
    why = "the report card recommends nothing" if card else "no report card of these weights"
    return Recommendation(DEFAULT_METHOD, None, f"{why}: Grad-CAM at the cut")


def _checked(
    model: Any,
    images: Any,
    chosen: list[Method],
    target: Any,
    layer: Any,
    contrast: Any,
    precision: str,
    batch_size: int | None,
) -> _Request:
    check_precision(precision)
    if batch_size is not None:
        whole_number("batch_size", batch_size)
    tiles = undivided(images, model.tiles_across)  # uint8 until its batch comes up
    targets = None if target is None else class_indices(target, len(tiles))
    against = _contrast(contrast, chosen, targets)
    where = _layer_name(model, layer, chosen)
    size = batch_size or _fitting_batch(model, chosen)
    return _Request(model, tiles, targets, where, against, precision, size, None)


def _check_model(model: Any) -> None:
    if isinstance(getattr(model, "_orig_mod", None), TileClassifier):
        raise TypeError(
            "explain takes a model as it was before torch.compile, which hides its layers; pass "
            "model._orig_mod"
        )
    if not isinstance(model, TileClassifier):
        raise TypeError(
            "explain takes a model made by create_model or load_checkpoint, got "
            f"{type(model).__name__}; wrap a module with create_model(module, image_size=...)"
        )
    check_explainable(model)


def check_methods(model: TileClassifier, names: Sequence[str], layer: str | None = None) -> None:
    """Refuse, before any work, methods that are unknown or cannot explain a model.

    Args:
        model: the model.
        names: names in `methods()`.
        layer: dotted name of the layer that will be asked for; None for the automatic one.

    Raises:
        ValueError: if there is one; the message names it and says why.
    """
    card = known_card(model) if RECOMMENDED in names else None
    with torch.inference_mode(False), evaluating(model):
        for name in names:
            one = _asked(card, name, "auto")
            where = one.layer if name == RECOMMENDED else layer
            _check_able(model, one.method, None if where == "auto" else where)


def _check_able(model: TileClassifier, method: Method, layer: str | None) -> None:
    """Refuse, before any work, what a method cannot explain."""
    if method.family == "attention" and anatomy(model).family != "vit":
        raise ValueError(
            f"{method.name} needs one attention over all tokens in each block, which {model.name} "
            "does not have; use a CAM method"
        )
    if method.family == "attention":  # one black tile shows whether its attention can be seen
        look(Batch(model, torch.zeros(1, 3, TILE_SIZE, TILE_SIZE), None, None))
    if method.name in ("contributions", "competition"):
        check_sums(model, anatomy(model).layer if layer is None else layer, method.name)
    if method.name == "cells":
        check_grid(model)
    if method.name == "refinecam":
        refined_layers(anatomy(model))
    if method.name == "fullgrad":
        odd = not_piecewise_linear(model)
        if odd:
            raise ValueError(
                "fullgrad is defined for networks of convolutions, batch norms and ReLU alone; "
                f"{model.name} has {', '.join(odd)}"
            )


def _contrast(contrast: Any, chosen: list[Method], targets: np.ndarray | None) -> int | None:
    if contrast is None:
        return None
    if not any(method.takes_contrast for method in chosen):
        able = [m.name for m in METHODS.values() if m.takes_contrast]
        raise ValueError(
            f"{chosen[0].name} takes no contrast, got {contrast!r}; leave it out or use "
            + " or ".join(able)
        )
    against = class_index(contrast)
    if targets is not None and (targets == against).any():
        raise ValueError(
            f"contrast and target are both {CLASSES[against]} for tile "
            f"{int(np.flatnonzero(targets == against)[0])}; choose another class"
        )
    return against


def _asked_layer(layer: Any) -> str | int:
    """Return a layer's name or its number, whatever kind of whole number that is."""
    if isinstance(layer, str):
        return layer
    try:
        if not isinstance(layer, bool):
            return operator.index(layer)
    except TypeError:
        pass
    raise TypeError(f"layer must be 'auto', a dotted name or an index, got {layer!r}")


def layer_of(model: TileClassifier, method: str, layer: Any = "auto") -> str | None:
    """Return the dotted name of the layer that a method looks at, None where it has none.

    Args:
        model: the model.
        method: a name in `methods()`.
        layer: as in `explain`.

    Raises:
        TypeError: if the layer has a wrong type.
        ValueError: if method or layer are unknown, or the method takes no layer.
    """
    return _layer_name(model, _asked_layer(layer), [method_named(method)])


def _layer_name(model: TileClassifier, layer: Any, chosen: list[Method]) -> str | None:
    if not any(method.layered for method in chosen):
        if layer != "auto":
            raise ValueError(
                f"{chosen[0].name} looks at no single layer; leave layer={layer!r} out"
            )
        return None
    if layer == "auto":
        return anatomy(model).layer
    if isinstance(layer, int):
        stages = anatomy(model).stages
        numbered = stages + anatomy(model).outputs
        if not -len(stages) <= layer < len(numbered):
            raise ValueError(
                f"layer must lie in {-len(stages)}..{len(numbered) - 1}, got {layer}; the numbers "
                f"from 0 mean {', '.join(numbered)}"
            )
        return stages[layer] if layer < 0 else numbered[layer]
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        raise ValueError(
            f"{model.name} has no layer {layer!r}"
            f"{did_you_mean(layer, names, cutoff=0.4, otherwise='.')} Names are those of "
            "model.named_modules(), and 'auto' chooses one"
        )
    return layer


def _fitting_batch(model: TileClassifier, chosen: list[Method]) -> int:
    """Return how many tiles to run at once: as many as pay, and no more than memory holds."""
    device = device_of(model)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    try:
        family, values = anatomy(model).family, anatomy(model).values
    except ValueError:  # no layer with a grid, which methods on pixels do not need
        if any(method.layered for method in chosen):
            raise
        family, values = "cnn", sum(p.numel() for p in model.parameters())
    pays = max(1, min(256, _BATCH_PIXELS[family] // model.image_size**2))
    if free is None:
        return pays
    whole = any(not m.layered for m in chosen)  # a graph of the whole network is kept
    tile = 4 * values * (3 if whole else 1)  # bytes
    return max(1, min(pays, int(free * _MEMORY_SHARE / tile)))


# --- the run -------------------------------------------------------------------------------------


def _found(
    request: _Request, chosen: list[Method], cache: bool
) -> dict[str, Mapping[str, np.ndarray]]:
    """Return grids, targets and logits for each method: kept ones, else computed."""
    keys: dict[str, dict[str, Any]] = {}
    found: dict[str, Mapping[str, np.ndarray]] = {}
    known = identity(request.model) if cache else None
    if known is not None:
        keys = _cache_keys(request, chosen, known)
        stored = {name: load_arrays("explanations", key) for name, key in keys.items()}
        found = {name: arrays for name, arrays in stored.items() if arrays is not None}
    missing = [m for m in chosen if m.name not in found]
    if missing:
        check_methods(request.model, [m.name for m in missing], request.layer)
        fresh = _run(request, missing)
        for name in keys.keys() & fresh.keys():
            store_arrays("explanations", keys[name], fresh[name])
        found = {**found, **fresh}
    return found


def _run(request: _Request, chosen: list[Method]) -> dict[str, dict[str, np.ndarray]]:
    """Run the batches; return grids, targets and logits for each method."""
    grids: dict[str, list[np.ndarray]] = {method.name: [] for method in chosen}
    targets, logits = [], []
    with (
        torch.inference_mode(False),  # a caller's inference mode would forbid gradients
        evaluating(request.model),
        _weights_cast_once(request),
        PlainAttention(),
    ):
        for start in range(0, len(request.tiles), request.batch_size):
            batch = _batch(request, chosen, start)
            for method in chosen:
                grids[method.name].append(np.asarray(method.maps(batch)))
            targets.append(batch.target.cpu().numpy())
            logits.append(batch.logits.cpu().numpy())
    target, logit = np.concatenate(targets), np.concatenate(logits)
    return {
        name: {"grid": np.concatenate(parts), "target": target, "logits": logit}
        for name, parts in grids.items()
    }


@contextlib.contextmanager
def _weights_cast_once(request: _Request) -> Iterator[None]:
    """Keep autocast's reduced weights from pass to pass, and cast nothing between the passes.

    They live until the outermost autocast ends; without this, each pass would cast them anew.
    """
    device = device_of(request.model).type
    reduced = request.precision == "bfloat16"
    with (
        torch.autocast(device, torch.bfloat16, enabled=reduced),
        torch.autocast(device, torch.bfloat16, enabled=False),
    ):
        yield


def _batch(request: _Request, chosen: list[Method], start: int) -> Batch:
    stop = start + request.batch_size
    tiles, wanted = request.tiles[start:stop], request.targets
    return Batch(
        request.model,
        as_images(tiles, None) if tiles.dtype == torch.uint8 else tiles.detach().clone(),
        None if wanted is None else wanted[start:stop],
        request.layer if any(method.layered for method in chosen) else None,
        reduced=request.precision == "bfloat16",
        records=any(method.slopes for method in chosen),
        chunk=request.batch_size,
        contrast=request.contrast,
        first=start,
        between=request.between,
    )


def map_libraries() -> dict[str, str]:
    """Return the versions of the libraries that some maps are made by."""
    return {name: importlib.metadata.version(name) for name in ("grad-cam", "captum")}


def _cache_keys(
    request: _Request, chosen: list[Method], known: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    targets = request.targets
    shared = cache_key(
        **known,
        images=digest_arrays(request.tiles.cpu().numpy()),
        targets=None if targets is None else targets.tolist(),
        precision=request.precision,
        libraries=map_libraries(),
    )
    return {
        m.name: {
            **shared,
            "method": m.name,
            "layer": request.layer if m.layered else None,
            "contrast": request.contrast if m.takes_contrast else None,
        }
        for m in chosen
    }
