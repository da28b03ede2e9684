"""Gradients with the network's gates held constant, and exact terms of linear heads."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lulc_lib.explanations.attention import OpenAttention
from lulc_lib.explanations.batch import Batch, cut, graft, pick
from lulc_lib.models import TileClassifier
from lulc_lib.tiles import TILE_SIZE

# Elementwise functions with f(0) = 0: x times a gate, which is held.
_ACTIVATIONS = {
    F.gelu, F.silu, F.hardswish, F.mish, F.elu, F.celu, F.selu, F.leaky_relu, F.relu6, F.hardtanh,
    torch.tanh, Tensor.tanh,
}  # fmt: skip
_PRODUCTS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.mul_, torch.multiply, Tensor.multiply}
# What is a weight of something else wherever it occurs inside a network.
_WEIGHTS = {
    torch.softmax, Tensor.softmax, F.softmax, torch.sigmoid, Tensor.sigmoid, F.sigmoid,
    F.hardsigmoid,
}  # fmt: skip
# By how much a sum may miss a logit, as a share of the terms' sizes: by rounding, reduced or not.
_ROUNDING = {False: 1e-3, True: 3e-2}


class HeldGates(OpenAttention):
    """Within this context a network is linear in its tokens around the given tile.

    The probabilities of attention, the deviations that norms divide by, and the gates of
    activations keep their values, and no gradient flows through them; what they multiply stays
    differentiable. Where an activation multiplies other values of the tile, as in SwiGLU, it is
    their gate, and held whole. Outputs are the same, up to rounding. LibraGrad, arXiv:2411.16760,
    section 4.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Hold what is a gate; pass everything else on."""
        kwargs = dict(kwargs or {})
        if func in _WEIGHTS:
            return func(*args, **kwargs).detach()
        if func in _ACTIVATIONS:
            kwargs.pop("inplace", None)
            made = _gated(lambda x: func(x, *args[1:], **kwargs), args[0])
            made.is_activation = True
            return made
        if func in _NORMS:
            return _NORMS[func](*args, **kwargs)
        if func in _PRODUCTS and len(args) == 2:
            return func(*_one_held(*args), **kwargs)
        if func is F.glu:
            return _glu(*args, **kwargs)
        return super().__torch_function__(func, types, args, kwargs)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        return F.scaled_dot_product_attention(query.detach(), key.detach(), value, *args, **kwargs)


def _one_held(one: Any, other: Any) -> tuple[Any, Any]:
    """Return two factors, the activation among them held where both are made of the tile."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape):
        return one, other
    if not (one.requires_grad and other.requires_grad) or one.is_leaf or other.is_leaf:
        return one, other
    if getattr(other, "is_activation", False):
        return one, other.detach()
    return (one.detach() if getattr(one, "is_activation", False) else one), other


def _gated(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return x times the function's ratio to x, the ratio held; at 0 it is the one just below."""
    with torch.no_grad():
        near = torch.where(x == 0, -1e-4, x)
        gate = function(near) / near
    return x * gate


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    values, gate = x.chunk(2, dim)
    return values * gate.sigmoid().detach()


def _layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    centred = x - x.mean(dim=axes, keepdim=True)
    return _affine(centred, axes, weight, bias, eps)


def _rms_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    return _affine(x, axes, weight, None, torch.finfo(x.dtype).eps if eps is None else eps)


def _group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    groups = x.reshape(len(x), num_groups, -1)
    centred = groups - groups.mean(dim=2, keepdim=True)
    normed = _affine(centred, (2,), None, None, eps).view_as(x)
    shape = (1, -1, *[1] * (x.ndim - 2))
    normed = normed if weight is None else normed * weight.view(shape)
    return normed if bias is None else normed + bias.view(shape)


def _affine(x: Tensor, axes: tuple[int, ...], weight: Any, bias: Any, eps: float) -> Tensor:
    """Divide by the held root of the mean square, then scale and shift."""
    with torch.no_grad():
        scale = (x.square().mean(dim=axes, keepdim=True) + eps).rsqrt()
    scaled = x * scale
    scaled = scaled if weight is None else scaled * weight
    return scaled if bias is None else scaled + bias


_NORMS = {F.layer_norm: _layer_norm, F.rms_norm: _rms_norm, F.group_norm: _group_norm}


def libragrad(batch: Batch) -> np.ndarray:
    """Multiply activation and gradient, the gates held constant, and sum over channels.

    LibraGrad, Mehri et al. 2024, arXiv:2411.16760: a plain gradient also tells how the gates would
    move, which nothing of the tile's own answer is made of. With held gates the network is linear,
    so that the map sums to the logit less what its biases and prefix tokens bring in.
    """
    leaves: list[Tensor] = []
    with HeldGates(), torch.no_grad(), cut(batch.model, batch.layer, True, leaves):
        logits = batch.run(batch.images)
    slope = _slope(batch, logits, leaves[0], batch.target)
    return batch.as_maps(slope * leaves[0].detach()).float().sum(dim=1).cpu().numpy()


def contributions(batch: Batch) -> np.ndarray:
    """Take the target's logit apart into one term for each cell.

    Where the head averages the cells and is linear, the terms are exact: they sum to the logit less
    a bias that is the same for every tile. A layer norm after the average counts as linear with its
    deviation held. For a network with global average pooling and one linear layer this is CAM
    (Zhou et al. 2016, arXiv:1512.04150) before any scaling.

    Raises:
        ValueError: if the logits are not such sums of this layer's cells.
    """
    every, _ = _all_terms(batch)
    return every[torch.arange(len(batch)), batch.target].cpu().numpy()


def competition(batch: Batch) -> np.ndarray:
    """Weigh each cell's contribution by the target's share among the classes there.

    Walter, Vreeken and Fischer 2026, arXiv:2503.07346: a softmax over the classes' attributions
    cell by cell; where the target's share is no more than one among all classes, the map is 0. A
    cell's attributions are scaled to what the logits would be if all cells were like it, so that
    its shares are the probabilities that the head would give. A layer norm after the average keeps
    its deviation here as well: such cells alone would have a larger one, so that the shares of a
    head with a norm are further from each other than those probabilities.

    Raises:
        ValueError: as for contributions.
    """
    every, bias = _all_terms(batch)
    classes, cells = every.shape[1], every[0, 0].numel()
    shares = (bias[None, :, None, None] + cells * every).softmax(dim=1)
    rows = torch.arange(len(batch)), batch.target
    share = shares[rows]
    return (every[rows] * share * (share > 1 / classes)).cpu().numpy()


def check_sums(model: TileClassifier, layer: str, method: str) -> None:
    """Refuse a model whose logits are no sums of a layer's cells; a tile of noise shows it.

    Raises:
        ValueError: if they are not; the message names the method.
    """
    rng = np.random.default_rng(1)
    noise = torch.from_numpy(rng.random((1, 3, TILE_SIZE, TILE_SIZE), dtype=np.float32))
    try:
        _all_terms(Batch(model, noise, None, layer, records=False))
    except ValueError as error:
        raise ValueError(f"{method} cannot explain {model.name}: {error}") from error


def _all_terms(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the terms of every class, (N, K, h, w), and the bias that they leave over, (K,)."""
    return batch.once("terms", lambda: _taken_apart(batch))


def _taken_apart(batch: Batch) -> tuple[Tensor, Tensor]:
    """Run the head alone on the tiles' cells, and on cells of zeros for the bias.

    What goes round the layer comes from a tile of noise. If that matters, or if the head is no sum,
    terms and bias do not add up to the logits of the tiles' own pass.
    """
    cells = torch.cat([batch.leaf, torch.zeros_like(batch.leaf[:1])]).requires_grad_()
    noise = np.random.default_rng(0).random((1, *batch.images.shape[1:]), dtype=np.float32)
    with HeldGates(), torch.enable_grad():
        one = torch.from_numpy(noise).to(batch.device)
        logits = graft(batch, batch.layer, one, cells.clone())  # the next layer may work in place
    maps = []
    for k in range(logits.shape[1]):
        slope = _slope(batch, logits, cells, torch.full((len(cells),), k, device=batch.device))
        maps.append(batch.as_maps((slope * cells.detach())[:-1]).float().sum(dim=1))
    every, bias = torch.stack(maps, dim=1), logits[-1].detach()
    size = 1 + bias.abs() + every.abs().sum(dim=(2, 3))
    missed = (batch.logits - bias - every.sum(dim=(2, 3))).abs()
    if (missed > _ROUNDING[batch.reduced] * size).any():  # what is not finite is named elsewhere
        raise ValueError(
            f"the logits are no sums of the cells of {batch.layer!r}: terms and bias miss them by "
            f"up to {float(missed.max()):.3g}. It needs a head that averages all cells and is "
            "linear; use libragrad or gradcam"
        )
    return every, bias


def _slope(batch: Batch, logits: Tensor, leaf: Tensor, target: Tensor) -> Tensor:
    """Return the gradient of each row's target logit at the layer, in the layer's own shape."""
    with torch.enable_grad():
        value = pick(logits, target).sum()
        (slope,) = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
    if slope is None:
        raise ValueError(f"the logits do not depend on layer {batch.layer!r}; choose another")
    return slope
