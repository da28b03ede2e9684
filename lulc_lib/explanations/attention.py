"""Explanations from a transformer's attention, written from the papers."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lulc_lib.explanations.batch import Batch, graft, hooked, pick

_ATTEND = F.scaled_dot_product_attention
_MULTI_HEAD = F.multi_head_attention_forward
_MULTI_HEAD_ARGUMENTS = (
    "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v",
    "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Seen:
    """One forward pass with every attention matrix kept.

    Attributes:
        logits: float32 (N, 10).
        attention: per block, probabilities (N, heads, T, T); rows are the tokens that read.
        tokens: per block, its output (N, T, D).
    """

    logits: Tensor
    attention: list[Tensor]
    tokens: list[Tensor]


class OpenAttention(TorchFunctionMode):
    """Compute attention openly, where PyTorch would fuse it, and keep its matrices.

    Fused attention never forms the matrix, so hooks see nothing of it. Here both ways in which
    networks call it, the fused function and `nn.MultiheadAttention`, are met at the function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _ATTEND:
            return self._attend(*args, **kwargs)
        if func is _MULTI_HEAD:
            return self._multi_head(*args, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **others: Any,
    ) -> Tensor:
        if is_causal or others.get("enable_gqa"):
            raise ValueError("causal attention, or with shared heads, is not known here")
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        match = ((query * scale) @ key.transpose(-2, -1)).float()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            match = match.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            match = match + attn_mask
        attention = match.softmax(dim=-1)
        if not self.kept:  # all that is asked lies from here on
            attention = attention.detach().requires_grad_()
            torch.set_grad_enabled(True)
        self.kept.append(attention)
        return attention.to(value.dtype) @ value

    def _multi_head(
        self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        given = {**dict(zip(_MULTI_HEAD_ARGUMENTS, args, strict=False)), **kwargs}
        masks = (given.get(name) is not None for name in ("attn_mask", "key_padding_mask"))
        more = given["bias_k"] is not None or given["bias_v"] is not None or given["add_zero_attn"]
        if not (query is key is value) or given["in_proj_weight"] is None or any(masks) or more:
            raise ValueError(
                "attention between different sequences, of values apart from the keys, with a "
                "mask or with added keys is not known here"
            )
        length, count, width = query.shape  # (T, N, D)
        heads = given["num_heads"]
        joint = F.linear(query, given["in_proj_weight"], given["in_proj_bias"])
        parts = joint.view(length, count, 3, heads, width // heads).permute(2, 1, 3, 0, 4)
        mixed = self._attend(*parts).permute(2, 0, 1, 3).reshape(length, count, width)
        return F.linear(mixed, given["out_proj_weight"], given["out_proj_bias"]), None


def look(batch: Batch) -> Seen:
    """Run a batch once with its attention in sight and the graph from the first attention on.

    Raises:
        ValueError: if the model's attention does not lie on its tokens, one matrix a block.
    """
    found, tokens = batch.anatomy, []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(
                f"a block of {batch.model.name} returns a {type(output).__name__}, and attention "
                "methods need its tokens alone; use a CAM method"
            )
        tokens.append(output)
        return output.clone()  # the next layer may work in place

    blocks = dict.fromkeys(found.blocks, keep)
    watch = OpenAttention()
    with torch.no_grad(), _fused(batch.model), hooked(batch.model, blocks), watch:
        logits = batch.run(batch.images)
    length = found.prefix_tokens + found.grid[0] * found.grid[1]
    shapes = {tuple(a.shape[-2:]) for a in watch.kept}
    if len(watch.kept) != len(blocks) or shapes != {(length, length)}:
        raise ValueError(
            f"{batch.model.name} shows {len(watch.kept)} attention matrices of {sorted(shapes)} in "
            f"{len(blocks)} blocks of {length} tokens; attention methods need one a block"
        )
    return Seen(logits, watch.kept, tokens)


def rollout(batch: Batch) -> np.ndarray:
    """Follow the attention from the tokens that the head reads down to the patches."""
    rolled = attention_rollout([a.detach().mean(dim=1) for a in _seen(batch).attention])
    return _patches(batch, torch.einsum("nt,nts->ns", _readers(batch), rolled))


def attention_rollout(attention: Sequence[Tensor]) -> Tensor:
    """Multiply the attention of all blocks, half of each passing straight on.

    Abnar and Zuidema 2020, arXiv:2005.00928, section 3: A = 0.5 W + 0.5 I per block.

    Args:
        attention: per block, (N, T, T), each row summing to 1.

    Returns:
        (N, T, T): row i says how much of each input token is in token i at the end; rows sum to 1.
    """
    rolled = torch.eye(attention[0].shape[-1], device=attention[0].device)
    rolled = rolled.expand_as(attention[0])
    for one in attention:
        rolled = 0.5 * one.float() @ rolled + 0.5 * rolled
    return rolled


def relevance(batch: Batch) -> np.ndarray:
    """Add up attention x its gradient, positive parts, block by block.

    Chefer, Gur and Wolf 2021, arXiv:2103.15679, equations 5 and 6: R = R + Ā R with
    Ā = mean over heads of (gradient x attention)⁺. The row of the tokens that the head reads, less
    the identity they began with.
    """
    seen, readers = _seen(batch), _readers(batch)
    with torch.enable_grad():
        objective = pick(seen.logits, batch.target).sum()
        gradients = torch.autograd.grad(objective, seen.attention, retain_graph=True)
    start = torch.eye(readers.shape[1], device=batch.device).expand(len(batch), -1, -1)
    total = start
    for attention, gradient in zip(seen.attention, gradients, strict=True):
        share = (gradient * attention.detach()).clamp(min=0).mean(dim=1)
        total = total + share @ total
    return _patches(batch, torch.einsum("nt,nts->ns", readers, total - start))


def legrad(batch: Batch) -> np.ndarray:
    """Ask each block's own reading of the target how it hangs on that block's attention.

    LeGrad, Bousselham et al. 2024, arXiv:2404.03214: the head reads the tokens of every block; the
    positive gradients of its logit by that block's attention are averaged over heads and reading
    tokens, then over blocks.
    """
    seen = _seen(batch)
    last = batch.anatomy.blocks[-1]
    total = 0
    with torch.enable_grad():
        for tokens, attention in zip(seen.tokens, seen.attention, strict=True):
            own = tokens.clone()  # the head may work in place
            logits = graft(batch, last, batch.images[:1], own)
            (gradient,) = torch.autograd.grad(
                pick(logits, batch.target).sum(), attention, retain_graph=True
            )
            total = total + gradient.clamp(min=0).mean(dim=(1, 2))
    return _patches(batch, total / len(seen.tokens))


def _seen(batch: Batch) -> Seen:
    return batch.once("attention", lambda: look(batch))


def _readers(batch: Batch) -> Tensor:
    """Return how much the head reads of each token, (N, T), rows summing to 1.

    A class token, the average of patches or both: found from where the logits' gradient is not
    zero at the last block's output, each such token counting alike.
    """

    def find() -> Tensor:
        last = batch.anatomy.blocks[-1]
        leaf = _seen(batch).tokens[-1].detach().requires_grad_()
        with torch.enable_grad():
            own = leaf.clone()  # the head may work in place
            logits = graft(batch, last, batch.images[:1], own)
            (slope,) = torch.autograd.grad(logits.square().sum(), leaf)
        read = (slope.abs().amax(dim=2) > 0).float()
        return read / read.sum(dim=1, keepdim=True).clamp(min=1)

    return batch.once("readers", find)


def _patches(batch: Batch, tokens: Tensor) -> np.ndarray:
    h, w = batch.anatomy.grid
    maps = tokens.detach()[:, batch.anatomy.prefix_tokens :].reshape(-1, h, w)
    return maps.float().cpu().numpy()


@contextlib.contextmanager
def _fused(model: nn.Module) -> Iterator[None]:
    """Have timm call the function that `OpenAttention` meets, and give each module its way back."""
    ways = {m: m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")}
    for module in ways:
        module.fused_attn = True
    try:
        yield
    finally:
        for module, way in ways.items():
            module.fused_attn = way
