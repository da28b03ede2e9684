"""Tests of rollout, relevance and LeGrad: textbook forms, identities, readers, torchvision."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from lulc_lib.anatomies import anatomy
from lulc_lib.explanations import attention_rollout, explain
from lulc_lib.explanations.attention import OpenAttention, look
from lulc_lib.explanations.batch import Batch
from lulc_lib.models import create_model

SMALL = {"patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 3}


def make(**arguments):
    """Return a small ViT at 64 px, 4x4 tokens, whose attention is far from even."""
    torch.manual_seed(0)
    model = create_model("vit_tiny_patch16_224", image_size=64, **{**SMALL, **arguments})
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def unfused(model, images, target):
    """Return logits, attention with gradients and block outputs, by timm's unfused way."""
    kept, outputs, handles = [], [], []

    def keep(module, inputs):
        inputs[0].retain_grad()
        kept.append(inputs[0])

    for block in model.network.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_pre_hook(keep))
        handles.append(block.register_forward_hook(lambda _, __, out: outputs.append(out)))
    logits = model(images)
    logits[:, target].sum().backward(retain_graph=True)
    for handle in handles:
        handle.remove()
    for block in model.network.blocks:
        block.attn.fused_attn = True
    model.zero_grad()
    return logits, kept, outputs


def test_what_is_seen_is_the_attention(images):
    """Matrices and logits must be those of the unfused and the fused way."""
    model = make()
    expected, kept, _ = unfused(model, images, 0)
    with torch.no_grad():
        seen = look(Batch(model, images, None, None))
        np.testing.assert_allclose(seen.logits.detach(), model(images), atol=1e-5)
    np.testing.assert_allclose(seen.logits.detach(), expected.detach(), atol=1e-5)
    for ours, theirs in zip(seen.attention, kept, strict=True):
        np.testing.assert_allclose(ours.detach(), theirs.detach(), atol=1e-6)


def test_rollout_rows_sum_to_one():
    """Attention handed on must neither grow nor shrink, and even attention stay even."""
    random = [torch.rand(2, 7, 7).softmax(-1) for _ in range(4)]
    np.testing.assert_allclose(attention_rollout(random).sum(dim=-1), 1, atol=1e-6)
    one = attention_rollout([torch.full((1, 4, 4), 0.25)])[0]
    np.testing.assert_allclose(one, 0.125 + 0.5 * np.eye(4), atol=1e-6)


def test_rollout_by_hand(images):
    """The map must be the class token's row of the product of 0.5 A + 0.5 I, block by block."""
    model = make()
    _, kept, _ = unfused(model, images, 0)
    expected = np.eye(17)[None]
    for attention in kept:
        mean = attention.detach().numpy().mean(axis=1)
        expected = (0.5 * mean + 0.5 * np.eye(17)) @ expected
    result = explain(model, images, "rollout")
    np.testing.assert_allclose(result.grid.reshape(3, 16), expected[:, 0, 1:], atol=1e-6)
    assert result.layer is None
    assert result.warnings["ClassBlind"] == (0, 1, 2)


def test_relevance_by_hand(images):
    """R = R + mean over heads of (gradient x attention)+ times R, from the identity on."""
    model = make()
    _, kept, _ = unfused(model, images, 4)
    total = np.eye(17)[None].repeat(3, axis=0)
    for attention in kept:
        share = (attention.grad * attention).detach().numpy().clip(min=0).mean(axis=1)
        total = total + share @ total
    result = explain(model, images, "relevance", target=4)
    np.testing.assert_allclose(result.grid.reshape(3, 16), total[:, 0, 1:], atol=1e-5)


def test_legrad_by_hand(images):
    """Each block's tokens, read by the head alone, must give their own attention's gradient."""
    model = make()
    _, kept, outputs = unfused(model, images, 4)
    network, total = model.network, 0
    for attention, tokens in zip(kept, outputs, strict=True):
        logit = network.forward_head(network.norm(tokens))[:, 4].sum()
        (gradient,) = torch.autograd.grad(logit, attention, retain_graph=True)
        total = total + gradient.clamp(min=0).mean(dim=(1, 2)) / len(kept)
    result = explain(model, images, "legrad", target=4)
    np.testing.assert_allclose(result.grid.reshape(3, 16), total[:, 1:], atol=1e-6)


def test_the_tokens_that_the_head_reads(images):
    """A class token is one row, an average over patches the mean of theirs."""
    model = make(class_token=False, global_pool="avg")
    _, kept, _ = unfused(model, images, 0)
    expected = np.eye(16)[None]
    for attention in kept:
        mean = attention.detach().numpy().mean(axis=1)
        expected = (0.5 * mean + 0.5 * np.eye(16)) @ expected
    result = explain(model, images, "rollout")
    np.testing.assert_allclose(result.grid.reshape(3, 16), expected.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("method", ["relevance", "legrad"])
def test_class_and_weights_change_the_map(method, images):
    """Maps must differ by target and by weights; rollout, class-blind, only by weights."""
    model = make()
    one, other = (explain(model, images, method, target=t).grid for t in (0, 1))
    assert np.abs(one - other).max() > 0.1 * np.abs(one).max()
    before = explain(model, images, ["rollout", method], target=0)
    with torch.no_grad():
        model.network.blocks[1].attn.qkv.weight.mul_(-1)
    after = explain(model, images, ["rollout", method], target=0)
    for name, result in before.items():
        assert np.abs(result.grid - after[name].grid).max() > 0.01 * np.abs(result.grid).max()


def test_several_share_one_look(images):
    """Three methods must take one pass over the tiles; the rest are passes of one tile."""
    model, sizes = make(), []
    anatomy(model)
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    together = explain(model, images, ["rollout", "relevance", "legrad"], target=4)
    handle.remove()
    assert sizes.count(3) == 1
    for name, result in together.items():
        alone = explain(model, images, name, target=4).grid
        np.testing.assert_allclose(result.grid, alone, atol=1e-6 * np.abs(alone).max())


def test_frozen_weights_and_switched_off_fusion(images):
    """Neither frozen weights nor a caller's own unfused attention may blank a map."""
    model = make()
    expected = explain(model, images, "legrad", target=4).grid
    model.requires_grad_(False)
    for block in model.network.blocks:
        block.attn.fused_attn = False
    found = explain(model, images, "legrad", target=4).grid
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert not any(block.attn.fused_attn for block in model.network.blocks)


def test_torchvision_vit(images):
    """`nn.MultiheadAttention` must be seen as well as timm's: its own weights are the oracle."""
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=3, num_heads=3, hidden_dim=48, mlp_dim=96,
        num_classes=10,
    )  # fmt: skip
    nn.init.normal_(network.heads.head.weight)
    model = create_model(network, image_size=64).eval()
    inside, attention = [], []
    layers = network.encoder.layers
    handles = [b.ln_1.register_forward_hook(lambda _, __, out: inside.append(out)) for b in layers]
    with torch.no_grad():
        logits = model(images)
        for block, tokens in zip(layers, inside, strict=True):
            _, weights = block.self_attention(
                tokens, tokens, tokens, need_weights=True, average_attn_weights=False
            )
            attention.append(weights)
        seen = look(Batch(model, images, None, None))
    for handle in handles:
        handle.remove()
    np.testing.assert_allclose(seen.logits.detach(), logits, atol=1e-5)
    for ours, theirs in zip(seen.attention, attention, strict=True):
        np.testing.assert_allclose(ours.detach(), theirs, atol=1e-6)
    for result in explain(model, images, ["rollout", "relevance", "legrad"]).values():
        assert np.ptp(result.grid, axis=(1, 2)).min() > 0


@pytest.mark.parametrize("more", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_of_other_values_is_refused(more):
    """Values apart from the keys, or added keys, would be computed as something else."""
    attention = nn.MultiheadAttention(12, 2, **more)
    tokens = torch.randn(5, 1, 12)
    value = tokens if more else tokens + 1
    with OpenAttention(), pytest.raises(ValueError, match="is not known here"):
        attention(tokens, tokens, value)


class Placed(nn.Module):
    """A block that adds positions to its tokens first, in place or not."""

    def __init__(self, block, inplace):
        super().__init__()
        self.block, self.inplace = block, inplace
        self.places = nn.Parameter(torch.linspace(-1, 1, 16)[:, None])

    def forward(self, x):
        return self.block(x.add_(self.places) if self.inplace else x + self.places)


def test_layers_that_work_in_place_change_no_map(images):
    """Blocks and a head that overwrite what they read must leave the tokens that are kept alone."""
    found = []
    for inplace in (False, True):
        model = make(global_pool="avg", class_token=False)
        blocks = [Placed(block, inplace) for block in model.network.blocks]
        model.network.blocks = nn.Sequential(*blocks)
        model.network.norm = nn.Hardtanh(-2, 2, inplace)
        found.append(explain(model, images, ["legrad", "relevance", "rollout"]))
    for name, result in found[0].items():
        np.testing.assert_allclose(found[1][name].grid, result.grid, atol=1e-6)


class Passing(nn.Module):
    """Attends to nothing."""

    def forward(self, tokens, **_):
        return tokens


def test_attention_of_another_shape_is_refused(images):
    """A network whose attention does not lie on its tokens must be named, not drawn."""
    model = make()
    model.network.blocks[1].attn = Passing()
    with pytest.raises(ValueError, match=r"shows 2 attention matrices .* in 3 blocks of 17 tokens"):
        explain(model, images, "rollout")
