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
    from captum.attr import NoiseTunnel, Saliency

    tunnel, maps = NoiseTunnel(Saliency(batch.run)), []
    devices = [batch.device] if batch.device.type == "cuda" else []
    for image, target in zip(batch.images, batch.target, strict=True):
        with torch.random.fork_rng(devices), torch.enable_grad():
            torch.manual_seed(0)
            found = tunnel.attribute(
                _leaf(image[None]), nt_type="smoothgrad", nt_samples=SAMPLES, stdevs=NOISE,
                target=target[None], abs=False,
            )  # fmt: skip
        maps.append(_summed(found))
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
    return sorted(kinds)


def fullgrad(batch: Batch) -> np.ndarray:
    """Share out the logit over the pixels: normalised input x gradient, each bias x its gradient.

    Srinivas and Fleuret 2019, arXiv:1905.00780, equation 4. The paper's picture takes absolute
    values and brings each layer to its own range; here both are left out, so that the map keeps
    its sign and sums to the logit minus the bias of the last layer. A cell of a layer is spread
    over the pixels it covers.
    """
    biases = dict(_biases(batch.model))
    outputs: dict[str, Tensor] = {}
    target = batch.target  # before the hooks are on: it may take a pass of its own
    with torch.enable_grad():
        with hooked(batch.model, {n: _keeper(n, outputs) for n in ("prepare", *biases)}):
            objective = pick(batch.run(_leaf(batch.images)), target).sum()
        slopes = torch.autograd.grad(objective, list(outputs.values()))
    total = 0
    for (name, output), slope in zip(outputs.items(), slopes, strict=True):
        if name == "prepare":
            share = (output.detach() * slope).float().sum(dim=1)
        else:
            share = torch.einsum("nchw,c->nhw", slope.float(), biases[name])
        total = total + _on_tile(share)
    return total.cpu().numpy()


def _keeper(name: str, outputs: dict[str, Tensor]) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        outputs[name] = output
        return output.clone()  # the next layer may work in place

    return hook


def _biases(model: TileClassifier) -> Iterator[tuple[str, Tensor]]:
    """Yield the layers on maps that add a bias: name, bias of each channel (C,)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            yield name, module.bias.detach()
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            scale = (module.running_var + module.eps).rsqrt() * module.weight
            # timm's joint layers end in an activation: the norm alone is what their `drop` sees
            place = f"{name}.drop" if hasattr(module, "drop") else name
            yield place, (module.bias - module.running_mean * scale).detach()


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
