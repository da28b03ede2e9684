"""Explanations on pixels: gradients and occlusion through captum, and full gradients."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from lulc_lib.explanations.batch import Batch, hooked, pick
from lulc_lib.models import TileClassifier
from lulc_lib.tiles import TILE_SIZE

NOISE = 0.1  # SmoothGrad: standard deviation, in units of [0, 1]
SAMPLES = 25  # SmoothGrad: noisy copies a tile
STEPS = 50  # integrated gradients: points on the way from the baseline
# Full gradients: by how much a map's sum may miss the logit, as a part of all shares' sizes.
# Measured on nine networks: 1e-6 in float32, 2e-3 in bfloat16; TF32 on a GPU lies between them.
_ROUNDING = {False: 1e-3, True: 1e-2}
WINDOW, STRIDE = 8, 4  # occlusion, in pixels: a patch of 80 m that moves by 40 m


def baseline(model: TileClassifier) -> Tensor:
    """Return the mean colour, (1, 3, 1, 1): a tile that says nothing, zero once normalised."""
    return model.prepare.mean


def input_x_gradient(batch: Batch) -> np.ndarray:
    """Multiply each pixel by the gradient of the target's logit there."""
    from captum.attr import InputXGradient

    with torch.enable_grad():
        found = InputXGradient(batch.run).attribute(_leaf(batch.images), target=batch.target)
    return _summed(found)


def smoothgrad(batch: Batch) -> np.ndarray:
    """Average the gradient over noisy copies of the tile; each tile meets the same noise."""
    from captum.attr import Saliency

    # A generator of its own: the global ones are shared by all threads.
    generator = torch.Generator(batch.device).manual_seed(0)
    deviations = torch.full((SAMPLES, *batch.images.shape[1:]), NOISE, device=batch.device)
    noise, maps = torch.normal(0.0, deviations, generator=generator), []
    saliency = Saliency(batch.run)
    parts = noise.split(SAMPLES if batch.between is None else batch.chunk)
    for image, target in zip(batch.images, batch.target, strict=True):
        found = []
        for part in parts:
            with torch.enable_grad():
                slopes = saliency.attribute(
                    _leaf(image + part), target=target.expand(len(part)), abs=False
                )
            found.append(slopes.sum(dim=0, keepdim=True))
        maps.append(_summed(sum(found[1:], found[0]) * 1 / SAMPLES))
    return np.concatenate(maps)


def integrated_gradients(batch: Batch) -> np.ndarray:
    """Add up the gradient on the way from a tile of the mean colour.

    The map's sum is the logit minus the logit of that tile (completeness).
    """
    from captum.attr import IntegratedGradients

    with torch.enable_grad():
        found = IntegratedGradients(batch.run).attribute(
            _leaf(batch.images), _blank(batch), target=batch.target, n_steps=STEPS,
            internal_batch_size=max(batch.chunk, len(batch)),
        )  # fmt: skip
    return _summed(found)


def occlusion(batch: Batch) -> np.ndarray:
    """Cover a patch with the mean colour and note what the logit loses, averaged over patches."""
    from captum.attr import Occlusion

    found = Occlusion(batch.run).attribute(
        batch.images, (3, WINDOW, WINDOW), (3, STRIDE, STRIDE), _blank(batch),
        target=batch.target, perturbations_per_eval=max(1, batch.chunk // len(batch)),
    )  # fmt: skip
    return found.mean(dim=1).cpu().numpy()


def _leaf(images: Tensor) -> Tensor:
    return images.detach().clone().requires_grad_()


def _blank(batch: Batch) -> Tensor:
    return baseline(batch.model).expand_as(batch.images).contiguous()


def _summed(attributions: Tensor) -> np.ndarray:
    return attributions.detach().sum(dim=1).float().cpu().numpy()


# --- full gradients ------------------------------------------------------------------------------

_LINEAR = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)
_PASSING = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Dropout, nn.Flatten, nn.MaxPool2d,
    nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ConstantPad2d, nn.ZeroPad2d,
)  # fmt: skip
_PASSING_BY_NAME = {"Prepare", "SelectAdaptivePool2d", "DropPath", "FastAdaptiveAvgPool2d"}


def not_piecewise_linear(model: nn.Module) -> list[str]:
    """Return the kinds of modules in a model for which full gradients are not defined."""
    kinds = {
        type(m).__name__
        for m in model.modules()
        if not isinstance(m, _LINEAR + _PASSING)
        and type(m).__name__ not in _PASSING_BY_NAME
        and (not any(m.children()) or isinstance(m, nn.MultiheadAttention))
    }
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    kinds |= {f"{type(m).__name__} without running_var" for m in norms if m.running_var is None}
    return sorted(kinds)


def fullgrad(batch: Batch) -> np.ndarray:
    """Share out the logit over the pixels: normalised input x gradient, each bias x its gradient.

    Srinivas and Fleuret 2019, arXiv:1905.00780, equation 4. The paper's picture takes absolute
    values and brings each layer to its own range; here both are left out, so that the map keeps
    its sign and sums to the logit minus the biases behind the maps, which lie on no pixel: in most
    networks that of the last layer alone. A cell of a layer is spread over the pixels it covers.

    Raises:
        ValueError: if map and left-out biases do not add up to the logit: the network computes
            something between its modules for which full gradients are not defined.
    """
    biases = {name: bias.float() for name, bias in _biases(batch.model)}
    outputs: dict[str, Tensor] = {}
    target = batch.target  # before the hooks are on: it may take a pass of its own
    with torch.enable_grad():
        with hooked(batch.model, {n: _keeper(n, outputs) for n in ("prepare", *biases)}):
            logits = pick(batch.run(_leaf(batch.images)), target)
        slopes = torch.autograd.grad(logits.sum(), list(outputs.values()), allow_unused=True)
    total = torch.zeros(len(batch), TILE_SIZE, TILE_SIZE, device=batch.device)
    left_out, size = torch.zeros_like(logits), torch.zeros_like(logits)
    for (name, output), slope in zip(outputs.items(), slopes, strict=True):
        if slope is None:  # the logits do not depend on it
            continue
        if name != "prepare" and (slope.ndim != 4 or _is_linear(batch.model, name)):
            share = (slope.float() * biases[name]).flatten(1)
            left_out = left_out + share.sum(dim=1)
        else:
            if name == "prepare":
                share = (output.detach() * slope).float().sum(dim=1)
            else:
                share = torch.einsum("nchw,c->nhw", slope.float(), biases[name])
            total = total + _on_tile(share)
        size = size + share.abs().flatten(1).sum(dim=1)
    _check_sum(batch, total.sum(dim=(1, 2)) + left_out, logits.detach(), size)
    return total.cpu().numpy()


def _check_sum(batch: Batch, found: Tensor, logits: Tensor, size: Tensor) -> None:
    """Refuse shares that do not add up to the logits; what is not finite is named elsewhere."""
    wrong = (found - logits).abs() > _ROUNDING[batch.reduced] * size
    if wrong.any():
        i = int(wrong.nonzero()[0])
        raise ValueError(
            f"fullgrad is not defined for {batch.model.name}: on tile {batch.first + i} its shares "
            f"sum to {found[i]:.4g}, the logit is {logits[i]:.4g}; something between its modules "
            "is not piecewise linear (such as F.gelu in forward), or one runs twice; use another "
            "method"
        )


def _is_linear(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name), nn.Linear)


def _keeper(name: str, outputs: dict[str, Tensor]) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        outputs[name] = output
        return output.clone()  # the next layer may work in place

    return hook


def _biases(model: TileClassifier) -> Iterator[tuple[str, Tensor]]:
    """Yield the layers that add a bias: name, bias of each channel (C,)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            yield name, module.bias.detach()
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            scale = (module.running_var + module.eps).rsqrt()
            scale = scale if module.weight is None else scale * module.weight
            offset = 0 if module.bias is None else module.bias
            # timm's joint layers end in an activation: the norm alone is what their `drop` sees
            place = f"{name}.drop" if hasattr(module, "drop") else name
            yield place, (offset - module.running_mean * scale).detach()


def _on_tile(share: Tensor) -> Tensor:
    """Spread the cells (N, h, w) over the pixels they cover; sums stay what they are."""
    rows, columns = (_overlap(cells, TILE_SIZE).to(share) for cells in share.shape[1:])
    return rows.T @ share @ columns


def _overlap(cells: int, pixels: int) -> Tensor:
    """Return (cells, pixels): the part of each cell that lies on each pixel; rows sum to 1."""
    edges = torch.arange(cells + 1) / cells
    borders = torch.arange(pixels + 1) / pixels
    low = torch.maximum(edges[:-1, None], borders[None, :-1])
    high = torch.minimum(edges[1:, None], borders[None, 1:])
    return (high - low).clamp(min=0) * cells
