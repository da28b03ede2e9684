"""Gradients with the network's gates held constant, and exact terms of linear heads."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lulc_lib.explanations.attention import OpenAttention
from lulc_lib.explanations.batch import Batch, cut, pick

# Elementwise functions with f(0) = 0: x times a gate, which is held.
_ACTIVATIONS = {
    F.gelu, F.silu, F.hardswish, F.mish, F.elu, F.celu, F.selu, F.leaky_relu, F.relu6,
    torch.tanh, Tensor.tanh,
}  # fmt: skip
# What is a weight of something else wherever it occurs inside a network.
_WEIGHTS = {
    torch.softmax, Tensor.softmax, F.softmax, torch.sigmoid, Tensor.sigmoid, F.sigmoid,
    F.hardsigmoid,
}  # fmt: skip
_EXACT = 1e-3  # of the logits' size: float32 sums differ by less


class HeldGates(OpenAttention):
    """Within this context a network is linear in its tokens around the tile at hand.

    The probabilities of attention, the deviations that norms divide by, and the gates of
    activations keep their values, and no gradient flows through them; what they multiply stays
    differentiable. Outputs are the same, up to rounding. LibraGrad, arXiv:2411.16760, section 4.
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
            return _gated(lambda x: func(x, *args[1:], **kwargs), args[0])
        if func in _NORMS:
            return _NORMS[func](*args, **kwargs)
        return super().__torch_function__(func, types, args, kwargs)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        return F.scaled_dot_product_attention(query.detach(), key.detach(), value, *args, **kwargs)


def _gated(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return x times the function's ratio to x, the ratio held; where x is 0 both are."""
    with torch.no_grad():
        gate = torch.where(x == 0, 0.0, function(x) / x)
    return x * gate


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


class _Held:
    """One pass with gates held: logits with the graph above the layer, and the layer's leaf."""

    def __init__(self, batch: Batch):
        self.batch, leaves = batch, []
        with HeldGates(), torch.no_grad(), cut(batch.model, batch.layer, True, leaves):
            self.logits = batch.run(batch.images)
        (self.leaf,) = leaves

    def terms(self, target: Tensor) -> Tensor:
        """Return gradient x activation of the logits of some classes, one a tile, (N, h, w)."""
        with torch.enable_grad():
            value = pick(self.logits, target).sum()
            (slope,) = torch.autograd.grad(value, self.leaf, retain_graph=True, allow_unused=True)
        if slope is None:
            raise ValueError(
                f"the logits do not depend on layer {self.batch.layer!r}; choose another"
            )
        return self.batch.as_maps(slope * self.leaf.detach()).float().sum(dim=1)


def libragrad(batch: Batch) -> np.ndarray:
    """Multiply activation and gradient, the gates held constant, and sum over channels.

    LibraGrad, Mehri et al. 2024, arXiv:2411.16760: a plain gradient also tells how the gates would
    move, which nothing of the tile's own answer is made of. With held gates the network is linear,
    so that the map sums to the logit less what its biases and prefix tokens bring in.
    """
    return _held(batch).terms(batch.target).cpu().numpy()


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
    its shares are the probabilities that the head would give.

    Raises:
        ValueError: as for contributions.
    """
    every, bias = _all_terms(batch)
    classes, cells = every.shape[1], every[0, 0].numel()
    shares = (bias[:, :, None, None] + cells * every).softmax(dim=1)
    rows = torch.arange(len(batch)), batch.target
    share = shares[rows]
    return (every[rows] * share * (share > 1 / classes)).cpu().numpy()


def _all_terms(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the terms of every class (N, K, h, w) and what is left of the logits, (N, K)."""

    def make() -> tuple[Tensor, Tensor]:
        every, left = _taken_apart(_held(batch))
        probe = Batch(batch.model, _noise(batch), None, batch.layer, reduced=batch.reduced)
        _, usual = _taken_apart(_Held(probe))
        apart = (torch.cat([left, usual]) - usual[:1]).abs().max()
        if apart > _EXACT * max(1.0, float(batch.logits.abs().max())):
            raise ValueError(
                f"the logits of {batch.model.name} are no sums of the cells of {batch.layer!r}: "
                f"what the cells leave over differs by {float(apart):.3g} between tiles. These "
                "methods need a head that averages all cells and is linear; use libragrad or "
                "gradcam"
            )
        return every, left

    return batch.once("terms", make)


def _taken_apart(held: _Held) -> tuple[Tensor, Tensor]:
    count, classes = held.logits.shape
    columns = torch.arange(classes, device=held.logits.device)[:, None].expand(-1, count)
    every = torch.stack([held.terms(column) for column in columns], dim=1)
    return every, held.logits.detach() - every.sum(dim=(2, 3))


def _noise(batch: Batch) -> Tensor:
    """Return two tiles of noise, always the same."""
    noise = np.random.default_rng(0).random((2, *batch.images.shape[1:]), dtype=np.float32)
    return torch.from_numpy(noise)


def _held(batch: Batch) -> _Held:
    return batch.once("gates held", lambda: _Held(batch))
