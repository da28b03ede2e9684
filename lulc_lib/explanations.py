"""Explain what a model looks at: one call, any method, a signed map on the tile."""

import contextlib
import difflib
import functools
import importlib.metadata
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lulc_lib.config import PRECISIONS
from lulc_lib.metrics import weights_digest
from lulc_lib.models import Anatomy, TileClassifier, anatomy, evaluating, to_grid
from lulc_lib.storage import cached_arrays, digest_arrays
from lulc_lib.tiles import METRES_PER_PIXEL, TILE_SIZE, TileSet, as_images, class_index

_BATCH_PIXELS = 16 * 224**2  # pixels inside the model at once, unless the caller says otherwise

# Activations and gradients, float32 (N, C, h, w) each (gradients are None when the method does
# not use them) -> maps (N, h, w).
Rule = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps of what spoke for a class, one per tile, signed and unscaled.

    Attributes:
        heatmap: float32 (N, 64, 64), `grid` resized bilinearly (align_corners=False). The unit is
            the method's own: compare maps of one method, not of two.
        grid: float32 (N, h, w), as the layer gave it.
        target: int64 (N,), the class each map explains.
        logits: float32 (N, 10).
        method: name of the method, as in `methods()`.
        layer: dotted name of the layer in `model.named_modules()`, None where there is none.
        warnings: name of a warning -> numbers of the maps it is about. "ZeroMap": zero everywhere,
            the method found nothing; "FlatMap": one value everywhere; "NaNMap": holds NaN or
            infinite values; "ClassBlind": the method does not look at the target.
    """

    heatmap: np.ndarray
    grid: np.ndarray
    target: np.ndarray
    logits: np.ndarray
    method: str
    layer: str | None
    warnings: Mapping[str, tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.grid)

    def __repr__(self) -> str:
        h, w = self.grid.shape[1:]
        warned = "".join(f", {name} in {len(maps)}" for name, maps in self.warnings.items())
        where = f" at {self.layer}" if self.layer else ""
        return f"Explanation({len(self)} maps by {self.method}{where}, grid {h}x{w}{warned})"

    @property
    def predicted(self) -> np.ndarray:
        """Class with the largest logit, int64 (N,)."""
        return self.logits.argmax(axis=1)

    @property
    def cell_metres(self) -> float:
        """Ground size of one cell of the grid, in metres."""
        return TILE_SIZE * METRES_PER_PIXEL / self.grid.shape[1]


@dataclass(frozen=True)
class Method:
    """One way to explain, and what a reader must know of it.

    Attributes:
        name: what `explain(method=...)` takes.
        family: cam, attention, gradient, perturbation or null.
        signed: whether its maps can hold negative values at all.
        class_blind: whether its maps are the same for every target.
        cost: the passes one map takes.
        source: the paper.
        rule: makes the maps from what the layer gave.
        takes_contrast: whether it answers "why A, not B".
    """

    name: str
    family: str
    signed: bool
    class_blind: bool
    cost: str
    source: str
    rule: Rule
    takes_contrast: bool = False


@dataclass(frozen=True, eq=False)
class _Request:
    """What is asked of a model, checked."""

    method: Method
    targets: np.ndarray | None  # int64 (N,), None for the predicted classes
    layer: str
    precision: str
    batch_size: int


def explain(
    model: TileClassifier,
    images: Any,
    method: str = "gradcam++",
    target: Any = None,
    layer: str | int = "auto",
    contrast: Any = None,
    precision: str = "float32",
    *,
    batch_size: int | None = None,
    cache: bool = False,
) -> Explanation:
    """Explain a model's decision on each tile by a map of what spoke for the target class.

    The layer and the grid of its cells are found from the model. Maps keep their sign and their
    size: nothing is clipped or scaled beyond what the method's own definition says. The model
    comes back as it was, also after an error.

    Args:
        model: made by `create_model` or `load_checkpoint`.
        images: a TileSet, or images (N, 3, 64, 64), float32 in [0, 1] or uint8.
        method: a name in `methods()`.
        target: class to explain: None for the predicted one, an index or a name for all tiles, or
            one per tile.
        layer: "auto", a dotted name in `model.named_modules()`, or the index of a stage of
            `anatomy(model).stages` (-1 is the deepest).
        contrast: class to tell the target from; for methods that take one.
        precision: "float32", or "bfloat16" for autocast.
        batch_size: tiles at a time; default: so many that they fit in ordinary memory.
        cache: keep the maps on disk under the digests of weights, tiles and settings. A wrapped
            module is always run: its code has no digest.

    Returns:
        Maps, targets and logits as NumPy arrays.

    Raises:
        TypeError: if model, images, target or layer have a wrong type.
        ValueError: if method, layer, class or precision are unknown, images or targets do not
            fit, the method takes no contrast, or the layer has no grid or does not reach the
            logits.
    """
    chosen = _method(method)
    _check(model, chosen, contrast, precision, batch_size)
    lazily = isinstance(images, TileSet) and len(images) > 0  # uint8 until its batch comes up
    tiles = images.images if lazily else as_images(images)
    request = _Request(
        method=chosen,
        targets=_targets(target, len(tiles)),
        layer=_layer_name(model, layer),
        precision=precision,
        batch_size=batch_size or max(1, min(256, _BATCH_PIXELS // model.image_size**2)),
    )
    if cache and model.spec is not None:
        key = _cache_key(model, tiles, request)
        arrays = cached_arrays("explanations", key, lambda: _cam(model, tiles, request))
    else:
        arrays = _cam(model, tiles, request)
    return _finished(request, **arrays)


def methods() -> pd.DataFrame:
    """List the methods that `explain` knows.

    Returns:
        DataFrame with name; family (cam | attention | gradient | perturbation | null); signed (its
        maps can be negative; gradcam++ and layercam only where activations can be, as in a ViT);
        class-blind (the same map for every target); cost; source (the paper).
    """
    columns = ["name", "family", "signed", "class-blind", "cost", "source"]
    rows = [(m.name, m.family, m.signed, m.class_blind, m.cost, m.source) for m in _METHODS]
    return pd.DataFrame(rows, columns=columns)


def principal_map(activations: np.ndarray) -> np.ndarray:
    """Project each cell's activations on their first principal component.

    Equal to pytorch-grad-cam's `get_2d_projection` up to sign, by a faster road: the singular
    vectors of the centred (cells, channels) matrix X come from the smaller of X Xᵀ and Xᵀ X. The
    sign, which a decomposition leaves open, is fixed: the largest absolute value is positive. Maps
    of activations that are not finite are NaN, where the library puts zeros.

    Args:
        activations: float (N, C, h, w).

    Returns:
        float32 (N, h, w).
    """
    n, channels, h, w = activations.shape
    matrix = activations.reshape(n, channels, h * w).transpose(0, 2, 1).astype(np.float64)
    usable = np.isfinite(matrix).all(axis=(1, 2))
    matrix = np.where(usable[:, None, None], matrix, 0.0)
    matrix -= matrix.mean(axis=1, keepdims=True)
    if h * w <= channels:
        values, vectors = np.linalg.eigh(matrix @ matrix.transpose(0, 2, 1))
        maps = vectors[..., -1] * np.sqrt(np.maximum(values[:, -1:], 0))
    else:
        _, vectors = np.linalg.eigh(matrix.transpose(0, 2, 1) @ matrix)
        maps = (matrix @ vectors[..., -1:])[..., 0]
    peaks = np.take_along_axis(maps, np.abs(maps).argmax(axis=1)[:, None], axis=1)
    maps = np.where(usable[:, None], maps * np.where(peaks < 0, -1.0, 1.0), np.nan)
    return maps.reshape(n, h, w).astype(np.float32)


def _library(definition: str) -> Rule:
    """Return pytorch-grad-cam's own definition of a CAM, without its capture and its scaling."""

    def rule(activations: np.ndarray, gradients: np.ndarray | None) -> np.ndarray:
        import pytorch_grad_cam  # brings in cv2 and more: seconds that only maps should cost

        cam = getattr(pytorch_grad_cam, definition)
        bare = types.SimpleNamespace(get_cam_weights=functools.partial(cam.get_cam_weights, None))
        with np.errstate(all="ignore"):  # what comes out not finite is named by NaNMap
            return cam.get_cam_image(bare, None, None, None, activations, gradients, False)

    return rule


_HEAD = "1 forward pass + gradient of the layers above"
_METHODS = (
    Method(
        "gradcam", "cam", True, False, _HEAD,
        "Selvaraju et al. 2017, arXiv:1610.02391", _library("GradCAM"),
    ),
    Method(
        "gradcam++", "cam", True, False, _HEAD,
        "Chattopadhay et al. 2018, arXiv:1710.11063", _library("GradCAMPlusPlus"),
    ),
    Method(
        "hirescam", "cam", True, False, _HEAD,
        "Draelos and Carin 2020, arXiv:2011.08891", _library("HiResCAM"),
    ),
    Method(
        "layercam", "cam", True, False, _HEAD,
        "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943", _library("LayerCAM"),
    ),
    Method(
        "eigencam", "cam", True, True, "1 forward pass",
        "Muhammad and Yeasin 2020, arXiv:2008.00299", lambda maps, _: principal_map(maps),
    ),
)  # fmt: skip


def _method(name: Any) -> Method:
    known = {method.name: method for method in _METHODS}
    if name not in known:
        raise ValueError(f"unknown method {name!r}{_nearest(str(name), list(known))}")
    return known[name]


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return hint + (f" There are {', '.join(known)}" if len(known) < 40 else "")


def _check(
    model: Any, method: Method, contrast: Any, precision: str, batch_size: int | None
) -> None:
    if not isinstance(model, TileClassifier):
        raise TypeError(
            "explain takes a model made by create_model or load_checkpoint, got "
            f"{type(model).__name__}; wrap a module with create_model(module, image_size=...)"
        )
    if contrast is not None and not method.takes_contrast:
        able = [m.name for m in _METHODS if m.takes_contrast]
        raise ValueError(
            f"{method.name} takes no contrast, got {contrast!r}; leave it out"
            + (f" or use {' or '.join(able)}" if able else "")
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")


def _targets(target: Any, count: int) -> np.ndarray | None:
    """Return the wanted classes as int64 (count,), None for the predicted ones."""
    if target is None:
        return None
    values = np.asarray(target.cpu() if isinstance(target, Tensor) else target)
    if values.dtype.kind not in "iuU":
        raise TypeError(
            "target must be None, a class index, a class name or one of these per tile, "
            f"got {target!r:.80}"
        )
    if values.ndim and values.shape != (count,):
        raise ValueError(
            f"target must be one class, or one for each of the {count} tiles, "
            f"got shape {values.shape}"
        )
    indices = [class_index(value) for value in values.reshape(-1).tolist()]
    return np.broadcast_to(np.array(indices, dtype=np.int64), count).copy()


def _layer_name(model: TileClassifier, layer: Any) -> str:
    if layer == "auto":
        return anatomy(model).layer
    if isinstance(layer, int) and not isinstance(layer, bool):
        stages = anatomy(model).stages
        if not -len(stages) <= layer < len(stages):
            raise ValueError(
                f"layer must lie in {-len(stages)}..{len(stages) - 1}, got {layer}; "
                f"the stages are {', '.join(stages)}"
            )
        return stages[layer]
    if not isinstance(layer, str):
        raise TypeError(f"layer must be 'auto', a dotted name or an index, got {layer!r}")
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        raise ValueError(
            f"{model.name} has no layer {layer!r}{_nearest(layer, names)}; names are those of "
            "model.named_modules(), and 'auto' chooses one"
        )
    return layer


def _cam(model: TileClassifier, tiles: Tensor, request: _Request) -> dict[str, np.ndarray]:
    """Run the batches; return the grids, the targets and the logits."""
    method, found = request.method, anatomy(model)
    parts: dict[str, list[np.ndarray]] = {"grid": [], "target": [], "logits": []}
    record = not method.class_blind
    with (
        torch.inference_mode(False),  # a caller's inference mode would forbid gradients
        evaluating(model),
        _cut(model, request.layer, record) as leaves,
    ):
        for start in range(0, len(tiles), request.batch_size):
            batch = tiles[start : start + request.batch_size]
            batch = as_images(batch) if batch.dtype == torch.uint8 else batch
            logits, leaf = _forward(model, batch, leaves, request)
            target = logits.detach().argmax(dim=1)
            if request.targets is not None:
                wanted = request.targets[start : start + len(batch)]
                target = torch.from_numpy(wanted).to(logits.device)
            activations = _numpy(_maps(leaf.detach(), found, request.layer))
            gradients = None
            if record:
                slope = _slope(logits, target, leaf, request.layer)
                gradients = _numpy(_maps(slope, found, request.layer))
            parts["grid"].append(method.rule(activations, gradients))
            parts["target"].append(target.cpu().numpy())
            parts["logits"].append(_numpy(logits))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


@contextlib.contextmanager
def _cut(model: nn.Module, layer: str, record: bool) -> Iterator[list[Tensor]]:
    """Cut the network at a layer, so that only what lies above it is differentiated.

    A map needs the gradient at the layer alone. The forward pass starts without recording; a hook
    puts a new leaf in place of the layer's output and, from there on, turns recording on. The
    leaf is cloned on its way, since the next layer may work in place (as ReLU often does).

    Args:
        model: the network.
        layer: dotted name of the layer.
        record: False leaves the gradient out.

    Yields:
        A list that each run of the layer adds its leaf to.
    """
    leaves: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(f"layer {layer!r} returns a {type(output).__name__}, not one tensor")
        leaves.append(output.detach().requires_grad_(record))
        torch.set_grad_enabled(record)  # until the no_grad of `_forward` ends
        return leaves[-1].clone()

    handle = model.get_submodule(layer).register_forward_hook(hook)
    try:
        yield leaves
    finally:
        handle.remove()


def _forward(
    model: TileClassifier, batch: Tensor, leaves: list[Tensor], request: _Request
) -> tuple[Tensor, Tensor]:
    """Return float32 logits (N, 10) and the leaf that they were computed from."""
    leaves.clear()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    reduced = torch.autocast(device.type, torch.bfloat16, enabled=request.precision == "bfloat16")
    with torch.no_grad(), reduced:
        logits = model(batch.to(device))
    if len(leaves) != 1:
        raise ValueError(
            f"layer {request.layer!r} runs {len(leaves)} times in one forward pass; "
            "choose one that runs once"
        )
    with torch.enable_grad():
        return logits.float(), leaves.pop()


def _slope(logits: Tensor, target: Tensor, leaf: Tensor, layer: str) -> Tensor:
    """Return the gradient of the target logits at the leaf, with the leaf's shape."""
    gradient = None
    if logits.requires_grad:
        with torch.enable_grad():
            chosen = logits.gather(1, target[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, leaf, allow_unused=True)
    if gradient is None:
        raise ValueError(f"the logits do not depend on layer {layer!r}; choose another")
    return gradient


def _maps(activation: Tensor, found: Anatomy, layer: str) -> Tensor:
    """Return a layer's output as maps (N, C, h, w); refuse what has no grid."""
    shape = tuple(activation.shape)
    h, w = found.grid
    if len(shape) == 4 and found.family == "cnn":
        fits = max(shape[2:]) > 1
    elif len(shape) == 4:
        fits = shape[2:] == (h, w)
    else:
        fits = len(shape) == 3 and shape[1] == found.prefix_tokens + h * w
    if not fits:
        raise ValueError(
            f"layer {layer!r} returns {shape}, which has no grid; "
            f"choose one of {', '.join(found.stages)}"
        )
    return to_grid(activation, found)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def _finished(
    request: _Request, grid: np.ndarray, target: np.ndarray, logits: np.ndarray
) -> Explanation:
    grid = np.asarray(grid, dtype=np.float32)
    size = (TILE_SIZE, TILE_SIZE)
    resized = F.interpolate(torch.from_numpy(grid)[:, None], size, mode="bilinear")
    return Explanation(
        heatmap=resized[:, 0].numpy(),
        grid=grid,
        target=target,
        logits=logits,
        method=request.method.name,
        layer=request.layer,
        warnings=_warnings(request.method, grid),
    )


def _warnings(method: Method, grid: np.ndarray) -> dict[str, tuple[int, ...]]:
    cells = grid.reshape(len(grid), -1)
    broken = ~np.isfinite(cells).all(axis=1)
    cells = np.where(broken[:, None], 0, cells)
    size = np.abs(cells).max(axis=1)
    flat = np.ptp(cells, axis=1) <= 1e-6 * size
    marks = {
        "ZeroMap": (size == 0) & ~broken,
        "FlatMap": flat & (size > 0),
        "NaNMap": broken,
        "ClassBlind": np.full(len(grid), method.class_blind),
    }
    return {name: tuple(np.flatnonzero(m).tolist()) for name, m in marks.items() if m.any()}


def _cache_key(model: TileClassifier, tiles: Tensor, request: _Request) -> dict[str, Any]:
    targets = request.targets
    return {
        "spec": model.spec,
        "weights": weights_digest(model),
        "images": digest_arrays(tiles.cpu().numpy()),
        "method": request.method.name,
        "targets": None if targets is None else targets.tolist(),
        "layer": request.layer,
        "precision": request.precision,
        "library": importlib.metadata.version("grad-cam"),
    }
