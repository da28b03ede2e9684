"""Compare maps of a model with those of a copy that has forgotten what it learnt.

A map that stays the same when the weights are drawn anew shows the tile, not what the model made of
it: the sanity check of Adebayo et al. 2018, arXiv:1810.03292.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from lulc_lib.faithfulness.asking import targets_of
from lulc_lib.faithfulness.explainers import Explainer, maps_of
from lulc_lib.faithfulness.grids import checked_maps
from lulc_lib.faithfulness.ranks import rank_correlation
from lulc_lib.running import copied
from lulc_lib.tiles import as_images

BINS = 100  # of the histogram whose entropy is a map's complexity
_ROUNDING = 1e-6  # of a map's largest value
_SMALLEST = 1e-30  # no bins lie in between


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of a model with new weights throughout.

    Each layer draws its weights as PyTorch does when it is made (`reset_parameters`); norms start
    with scale 1, shift 0 and, where they keep statistics, mean 0 and variance 1. Other parameters,
    such as position embeddings, class tokens and the scales of LayerScale, are drawn from a normal
    distribution with the mean and the deviation that the trained ones have. A parameter that is a
    single number so keeps its value.

    Args:
        model: a model, which is left as it is.
        seed: of the weights; the same seed gives the same copy.

    Returns:
        The copy in the model's own mode, without a card, training tiles or kept predictions.
    """
    return list(_cascade(model, seed, keep=False))[-1][1]


def cascade(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Draw a model's weights anew, block by block from the logits down.

    A block is what the network has at its top level: of a ViT its head with the last norm, then
    each of its blocks from last to first, then the patch embedding with the class token and
    positions; of a ResNet its last layer, then its stages from last to first, then the first
    convolution with its norm. Blocks are taken in the order in which the network lists them.

    Args:
        model: as in `randomised`.
        seed: of the weights.

    Yields:
        The dotted name of the block drawn anew, and a copy in which it and all before it are; the
        last copy is `randomised(model, seed)`.
    """
    yield from _cascade(model, seed, keep=True)


def survival(
    explainer: Explainer, model: nn.Module, images: Any, target: Any = None, seed: int = 0
) -> np.ndarray:
    """Return how much of each map survives when all weights are drawn anew.

    Spearman's rank correlation of the model's map with that of the randomised copy (Adebayo et al.
    2018, arXiv:1810.03292), the signs of the maps kept. A map that looks at the tile alone has 1.

    Args:
        explainer: any function `(model, images, target) -> maps (N, H, W)`.
        model: a model.
        images: as `predict` takes them.
        target: class to explain, one for all or one for each; None for what the model predicts.
        seed: of the copy's weights.

    Returns:
        float64 (N,) in [-1, 1]: nearer to 0 is better. 1 also for two maps that are equally flat,
        0 where one alone is flat.

    Raises:
        ValueError: if maps or targets do not fit the images, or a map is not finite.
    """
    before, after = _before_and_after(explainer, model, images, target, seed)
    return rank_correlation(before, after)


def complexity_rise(
    explainer: Explainer, model: nn.Module, images: Any, target: Any = None, seed: int = 0
) -> np.ndarray:
    """Return by which part each map's complexity rises when all weights are drawn anew.

    The efficient test of randomisation (eMPRT) of Hedström et al. 2024, arXiv:2401.06465: an
    explanation of a random model should be less ordered. Complexity is the entropy of the map's
    histogram, here of 100 bins of equal width from its lowest to its highest value.

    Args:
        explainer: as in `survival`.
        model: a model.
        images: as `predict` takes them.
        target: as in `survival`.
        seed: of the copy's weights.

    Returns:
        float64 (N,): (complexity afterwards - before) / before; higher is better, and 0 for a map
        that looks at the tile alone. NaN where the map before is flat and the one afterwards not.

    Raises:
        ValueError: as in `survival`.
    """
    before, after = map(complexity, _before_and_after(explainer, model, images, target, seed))
    rise = np.full(len(before), np.nan)
    np.divide(after - before, before, out=rise, where=before > 0)
    return np.where(after == before, 0.0, rise)


def complexity(maps: Any) -> np.ndarray:
    """Return the entropy of each map's histogram in nats, (N,), from 0 (flat) to log(100).

    A map whose values differ by no more than rounding errors is flat.

    Raises:
        ValueError: if the shape is not (N, H, W), or a value is not finite.
    """
    found = []
    for values in checked_maps(maps).reshape(len(maps), -1):
        flat = np.ptp(values) <= _ROUNDING * np.abs(values).max() or np.ptp(values) < _SMALLEST
        counts, _ = (np.ones(1), None) if flat else np.histogram(values, bins=BINS)
        shares = counts[counts > 0] / counts.sum()
        found.append(abs(float((shares * np.log(shares)).sum())))
    return np.array(found, dtype=float)


def _before_and_after(
    explainer: Explainer, model: nn.Module, images: Any, target: Any, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    tiles = as_images(images)
    wanted = targets_of(model, tiles, target)
    before = maps_of(explainer, model, tiles, wanted)
    return before, maps_of(explainer, randomised(model, seed), tiles, wanted)


# --- drawing weights anew ------------------------------------------------------------------------


def _cascade(model: nn.Module, seed: int, keep: bool) -> Iterator[tuple[str, nn.Module]]:
    """Draw a copy's blocks anew; yield a copy of it after each one, or itself."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = torch.get_rng_state()
    changed = _copied(model)
    for number, (name, modules, own) in enumerate(reversed(_blocks(changed))):
        with torch.random.fork_rng():  # what a caller draws between two steps changes nothing
            torch.manual_seed(seed + number)  # for a GPU; the CPU's draws go on
            torch.set_rng_state(state)
            _draw_anew(modules, own)
            state = torch.get_rng_state()
        yield name, _copied(changed) if keep else changed


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy that knows nothing of what was found out or kept about the model."""
    made = copied(model)
    if hasattr(made, "_anatomies"):
        made._anatomies = {}
    for fact in ("card", "predictions_file", "report_file", "trained_on"):
        if hasattr(made, fact):
            setattr(made, fact, None)
    return made


_Block = tuple[str, list[nn.Module], list[nn.Parameter]]


def _blocks(model: nn.Module) -> list[_Block]:
    """Return a network's blocks from the first to the last: name, modules, parameters outside."""
    path, network = "", model
    while len(_parts(network)) == 1 and not list(network.parameters(recurse=False)):
        name, network = _parts(network)[0]  # a wrapper around one module
        path += f"{name}."
    own = list(network.parameters(recurse=False))
    parts = _parts(network)
    if not parts:
        return [(path[:-1] or "model", [network], [])]
    rows = [i for i, (_, part) in enumerate(parts) if _is_row_of_blocks(part)]
    rows = rows or [i for i, (_, part) in enumerate(parts) if _is_row(part)]
    first, last = (rows[0], rows[-1]) if rows else (0, len(parts) - 1)
    found: list[_Block] = []
    if first:  # what stands before the first row is one block, and what follows the last row
        found.append((path + parts[0][0], [part for _, part in parts[:first]], []))
    for name, part in parts[first : last + 1]:
        inner = _parts(part) if len(rows) == 1 else []
        whole = [(path + name, [part], [])]
        found += [(f"{path}{name}.{n}", [p], []) for n, p in inner] or whole
    if parts[last + 1 :]:
        found.append((path + parts[-1][0], [part for _, part in parts[last + 1 :]], []))
    found[0][2].extend(own)
    return found


def _parts(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the children that have parameters."""
    return [(n, m) for n, m in module.named_children() if next(m.parameters(), None) is not None]


def _is_row(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList)


def _is_row_of_blocks(module: nn.Module) -> bool:
    """Tell a row of blocks from one of plain layers, such as a stem."""
    return _is_row(module) and any(_parts(child) for child in module.children())


def _draws(module: nn.Module) -> bool:
    """Tell a layer that draws its weights from what starts with constants: LayerScale and blocks.

    A LayerScale starts so small that its block would add nearly nothing; some of timm's blocks hold
    such scales, or tables of positions, themselves.
    """
    known = callable(getattr(module, "reset_parameters", None))
    return known and not _parts(module) and not type(module).__name__.startswith("LayerScale")


@torch.no_grad()
def _draw_anew(modules: list[nn.Module], others: list[nn.Parameter]) -> None:
    for module in modules:
        for part in module.modules():
            if _draws(part):
                part.reset_parameters()
            else:
                others = [*others, *part.parameters(recurse=False)]
    for parameter in others:
        spread, mean = torch.std_mean(parameter.float(), correction=0)
        parameter.copy_(torch.randn(parameter.shape) * float(spread) + float(mean))
