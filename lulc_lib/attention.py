"""Attention written out where that is the faster way."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class PlainAttention(TorchFunctionMode):
    """Within this context, attention that will be differentiated on a CPU in bfloat16 is unfused.

    There the backward pass of PyTorch's fused attention takes one and a half to five times as long
    as that of the two products and the softmax written out (`benchmarks/training.py` measures a
    whole step). Everywhere else, and without gradients, the fused one is the faster and stays; so
    it does inside PyTorch's own `nn.MultiheadAttention`, which no mode can look into.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Write attention out where that pays; pass everything else on."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self._pays(*args, **kwargs):
            return self._attend(*args, **kwargs)
        return func(*args, **kwargs)

    @staticmethod
    def _pays(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **others: Any,
    ) -> bool:
        slow = query.device.type == "cpu" and query.dtype == torch.bfloat16
        known = not is_causal and not others.get("enable_gqa")
        return slow and known and query.requires_grad and torch.is_grad_enabled()

    @staticmethod
    def _attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,  # never true here
        scale: float | None = None,
        **_: Any,
    ) -> Tensor:
        match = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            match = match.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            match = match + attn_mask
        return F.dropout(match.softmax(dim=-1).to(value.dtype), dropout_p) @ value
