"""Attention written out."""

import contextlib

import torch

from lulc_lib.attention import PlainAttention
from lulc_lib.models import create_model


def test_plain_attention_is_the_fused_one():
    """Gradients agree with PyTorch's own: exactly in float32, which it leaves, else nearly."""
    torch.manual_seed(0)
    model = create_model("vit", depth=2, embed_dim=24, num_heads=2)
    images = torch.rand(3, 3, 64, 64)

    def run(precision, plain):
        model.zero_grad()
        mode = PlainAttention() if plain else contextlib.nullcontext()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"), mode:
            logits = model(images).float()
        logits.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    assert torch.equal(run("float32", True), run("float32", False))
    fused, plain, exact = run("bfloat16", False), run("bfloat16", True), run("float32", False)
    assert not torch.equal(fused, plain)  # it was another path
    for one in (fused, plain):
        assert torch.nn.functional.cosine_similarity(one, exact, dim=0) > 0.98


def test_plain_attention_knows_masks():
    """Masks, additive and boolean, and a scale of one's own count as in PyTorch's function."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8, dtype=torch.bfloat16, requires_grad=True) for _ in "qkv")
    keep = torch.rand(5, 5) > 0.3
    keep[:, 0] = True
    attend = torch.nn.functional.scaled_dot_product_attention
    for mask in (keep, torch.randn(5, 5, dtype=torch.bfloat16)):
        with PlainAttention():
            plain = attend(q, k, v, attn_mask=mask, scale=0.3)
        expected = attend(q.float(), k.float(), v.float(), attn_mask=mask.to(
            mask.dtype if mask.dtype == torch.bool else torch.float32), scale=0.3)  # fmt: skip
        assert torch.allclose(plain.float(), expected, atol=0.03)


def test_plain_attention_takes_arguments_by_position():
    """The sixth argument says causal, the seventh scales: as PyTorch counts them."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8, dtype=torch.bfloat16, requires_grad=True) for _ in "qkv")
    attend = torch.nn.functional.scaled_dot_product_attention
    for causal in (False, True):
        with PlainAttention():
            plain = attend(q, k, v, None, 0.0, causal)
        expected = attend(q.float(), k.float(), v.float(), None, 0.0, causal)
        assert torch.allclose(plain.float(), expected, atol=0.03), causal
