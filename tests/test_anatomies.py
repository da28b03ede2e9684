"""The anatomy of a model: layers, grids, and the one that explanations take."""

import pytest
import torch
import torchvision
from torch import nn

from lulc_lib.anatomies import anatomy, to_grid
from lulc_lib.models import create_model
from lulc_lib.predictions import predict

SMALL_VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}


@pytest.mark.parametrize(
    ("name", "arguments", "family", "grid", "prefix", "layer"),
    [
        ("resnet18", {"image_size": 64}, "cnn", (2, 2), 0, "network.layer4"),
        ("resnet50", {"image_size": 128}, "cnn", (4, 4), 0, "network.layer4"),
        ("resnet50", {}, "cnn", (7, 7), 0, "network.layer4"),
        ("vit", {}, "vit", (8, 8), 0, "network.blocks.5"),
        ("vit_fine", {}, "vit", (16, 16), 0, "network.blocks.5"),
        ("vit_tiny_patch16_224", {"image_size": 64}, "vit", (4, 4), 1, "network.blocks.11.norm1"),
        ("deit3_small_patch16_224", {"depth": 2}, "vit", (14, 14), 1, "network.blocks.1.norm1"),
        (
            "vit_small_patch14_reg4_dinov2",
            {"image_size": 224, "depth": 2},
            "vit",
            (16, 16),
            5,
            "network.blocks.1.norm1",
        ),
        ("convnext_tiny", {"image_size": 64}, "cnn", (2, 2), 0, "network.norm_pre"),
        ("efficientnet_b0", {"image_size": 64}, "cnn", (2, 2), 0, "network.bn2"),
        ("mobilenetv3_small_100", {}, "cnn", (7, 7), 0, "network.blocks"),
        ("densenet121", {"image_size": 64}, "cnn", (2, 2), 0, "network.features"),
    ],
)
def test_anatomy_is_found(name, arguments, family, grid, prefix, layer):
    """Family, target layer, grid and prefix tokens are found without any configuration."""
    model = create_model(name, **arguments)
    found = anatomy(model)
    assert (found.family, found.grid, found.prefix_tokens) == (family, grid, prefix)
    assert found.layer == layer
    names = dict(model.named_modules())
    assert set(found.stages) <= set(names)
    assert len(found.stages) == len(found.grids)
    assert isinstance(names[found.head], nn.Linear)


@pytest.mark.parametrize(
    ("arguments", "layer"),
    [
        ({"class_token": False, "global_pool": "avg"}, "network.blocks.1"),
        ({"class_token": True, "global_pool": "avg"}, "network.blocks.1"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": True}, "network.blocks.1"),
        ({"class_token": False, "global_pool": "map"}, "network.blocks.1"),
        ({"class_token": True, "global_pool": "token"}, "network.blocks.1.norm1"),
        ({"class_token": True, "global_pool": "token", "reg_tokens": 2}, "network.blocks.1.norm1"),
    ],
)
def test_the_default_layer_of_a_vit_follows_what_its_head_reads(arguments, layer):
    """The last block's output where the head reads patch tokens, else its first norm.

    So it must be with a head of zeros too, whose logits depend on nothing.
    """
    small = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    model = create_model("vit_tiny_patch16_224", image_size=64, **small, **arguments)
    assert anatomy(model).layer == layer
    assert anatomy(model).blocks == ("network.blocks.0", "network.blocks.1")
    nn.init.zeros_(model.network.head.weight)
    model._anatomies.clear()
    assert anatomy(model).layer == layer
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_default_layer_is_found_in_any_mode(mode):
    """A caller that forbids gradients, as `predict` does, gets the same layer and no error."""
    with mode():
        model = create_model("vit", **SMALL_VIT)
        assert anatomy(model).layer == anatomy(model).blocks[-1]
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    fresh = create_model("vit", **SMALL_VIT)
    assert predict(fresh, torch.rand(2, 3, 64, 64), features=True).features.shape[0] == 2


def test_anatomy_of_wrapped_torchvision_models():
    """Torchvision's ResNet50 and ViT-B/16 are read like timm's."""
    vit = torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=10)
    found = anatomy(create_model(vit, image_size=64))
    assert (found.family, found.grid, found.prefix_tokens) == ("vit", (4, 4), 1)
    assert found.layer == "network.encoder.layers.encoder_layer_1.ln_1"
    resnet = create_model(torchvision.models.resnet18(num_classes=10), image_size=96)
    assert anatomy(resnet).layer == "network.layer4"
    assert anatomy(resnet).grid == (3, 3)


def test_anatomy_leaves_the_model_as_it_was():
    """Looking inside changes neither mode nor statistics and leaves no hook."""
    model = create_model("resnet18", image_size=64).train()
    model.network.layer1.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    anatomy(model)
    assert model.training
    assert not model.network.layer1.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Block(nn.Module):
    """The beginning of a transformer block."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, tokens):
        return self.norm(tokens)


class Merging(nn.Module):
    """A transformer whose 4x4 tokens become two on the way."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 16, stride=16)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        return self.head(self.blocks(tokens.unflatten(1, (2, 8)).mean(dim=2)).mean(dim=1))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: create_model(Merging(), image_size=64), "merges its tokens"),
        (lambda: create_model(_flat(), image_size=64), "no layer with a grid"),
    ],
)
def test_models_without_a_usable_grid_are_named(model, message):
    """A model that cannot be explained says so by name."""
    with pytest.raises(ValueError, match=message):
        anatomy(model())


def _flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10))


def test_tokens_become_a_grid_in_reading_order():
    """Prefix tokens are dropped and patch tokens laid out row by row."""
    model = create_model("vit_tiny_patch16_224", image_size=64, **SMALL_VIT)
    found = anatomy(model)
    tokens = torch.arange(17.0).view(1, 17, 1)
    grid = to_grid(tokens, found)
    assert grid.shape == (1, 1, 4, 4)
    assert grid[0, 0, 0].tolist() == [1, 2, 3, 4]
    assert grid[0, 0, :, 0].tolist() == [1, 5, 9, 13]
    maps = torch.rand(2, 5, 3, 3)
    assert torch.equal(to_grid(maps, found), maps)
    with pytest.raises(ValueError, match=r"output \(2, 10\) has no grid"):
        to_grid(torch.rand(2, 10), found)
