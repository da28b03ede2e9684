"""Models take tiles as they are, and know their own anatomy."""

import contextlib
import json
import threading
import time

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from lulc_lib.metrics import predict
from lulc_lib.models import (
    EUROSAT_MEAN,
    EUROSAT_STD,
    PlainAttention,
    TileClassifier,
    anatomy,
    create_model,
    evaluating,
    from_spec,
    to_grid,
)

SMALL_VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}


class Toy(nn.Module):
    """One convolution, global average pooling, one linear layer."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=8, padding=1)
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


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


def test_resize_and_normalisation_are_the_first_layers():
    """A tile in [0, 1] goes in; the network sees it resized and normalised."""
    model = create_model(Toy(), image_size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    prepared = model.prepare(torch.full((1, 3, 64, 64), 0.75))
    assert prepared.shape == (1, 3, 32, 32)
    assert torch.allclose(prepared, torch.ones_like(prepared))
    assert create_model("resnet18").mean == EUROSAT_MEAN
    assert create_model("resnet18").std == EUROSAT_STD


def test_features_are_what_the_head_reads():
    """Logits with features equal plain logits, and the head maps features to them."""
    model = create_model("vit", **SMALL_VIT).eval()
    images = torch.rand(3, 3, 64, 64)
    logits, features = model.forward_with_features(images)
    assert torch.equal(logits, model(images))
    head = model.get_submodule(anatomy(model).head)
    assert torch.allclose(head(features), logits, atol=1e-6)


def test_size_inside_can_change_where_the_network_allows_it():
    """A convolutional network takes another size inside; a ViT refuses by name."""
    model = create_model("resnet18", image_size=64)
    assert anatomy(model).grid == (2, 2)
    model.image_size = 128
    assert anatomy(model).grid == (4, 4)
    assert model.spec["image_size"] == 128
    with pytest.raises(ValueError, match="vit works at 64 px alone"):
        create_model("vit", **SMALL_VIT).image_size = 128


def test_spec_builds_the_same_architecture():
    """What a card stores of a model is enough to build it again."""
    model = create_model("vit", **SMALL_VIT)
    again = from_spec(model.spec)
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in again.state_dict().items()
    }
    assert again.spec == model.spec
    broken = {k: v for k, v in model.spec.items() if k != "architecture"}
    with pytest.raises(ValueError, match="lacks architecture"):
        from_spec(broken)
    assert create_model(Toy(), image_size=64).spec is None


def test_patches_may_come_from_convolutions():
    """The grid is that of as many halvings; each tile is by itself; the spec builds it again."""
    torch.manual_seed(0)
    model = create_model("vit", conv_stem=(8, 16), depth=2).eval()
    found = anatomy(model)
    assert (found.family, found.grid, found.prefix_tokens) == ("vit", (8, 8), 0)
    assert found.layer == "network.blocks.1"
    assert anatomy(create_model("vit", conv_stem=(16,), depth=1)).grid == (16, 16)
    images = torch.rand(3, 3, 64, 64)
    with evaluating(model):
        alone = torch.cat([model(images[i : i + 1]) for i in range(3)])
        together = model.train()(images)  # no batch statistics: training changes nothing
    torch.testing.assert_close(alone, together)
    again = from_spec(json.loads(json.dumps(model.spec)))
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_pretrained_weights_come_from_a_local_file(tmp_path, ending):
    """Weights of a local file are in the model, but for the new head, with their own statistics."""
    source = timm.create_model("resnet18", num_classes=1000)
    file = tmp_path / f"weights.{ending}"
    if ending == "safetensors":
        save_file(source.state_dict(), file)
    else:
        torch.save(source.state_dict(), file)
    model = create_model("resnet18.a1_in1k", pretrained=file, image_size=64)
    assert torch.equal(model.network.conv1.weight, source.conv1.weight)
    assert model.network.fc.weight.shape == (10, 512)
    assert model.mean == (0.485, 0.456, 0.406)
    assert model.spec["pretrained"] == file.name
    other = create_model("resnet18", image_size=64)
    assert "pretrained" not in other.spec
    assert not torch.equal(other.network.conv1.weight, source.conv1.weight)


def test_pretrained_vit_from_a_local_file(tmp_path):
    """A ViT's weights load too; its own mean and deviation of 0.5 come with them."""
    source = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2)
    file = tmp_path / "vit.safetensors"
    save_file(source.state_dict(), file)
    model = create_model("vit_tiny_patch16_224.augreg_in21k", pretrained=file, depth=2)
    assert torch.equal(model.network.blocks[1].norm1.weight, source.blocks[1].norm1.weight)
    assert model.mean == (0.5, 0.5, 0.5)


def test_without_network_the_error_says_what_to_bring(monkeypatch):
    """Pretrained weights that cannot be downloaded: which file to bring and how to give it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors of timm/resnet50\.tv_in1k"):
        create_model("resnet50", pretrained=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: create_model("resnet5"), ValueError, "unknown model 'resnet5'; did you mean"),
        (lambda p: create_model("resnet50.nope"), ValueError, "no weights tag"),
        (lambda p: create_model("resnet18", image_size=3), ValueError, r"in 16\.\.1024"),
        (lambda p: create_model("resnet18", image_size="64"), ValueError, "got '64'"),
        (lambda p: create_model("resnet18", mean=(0.5,)), ValueError, "three numbers"),
        (lambda p: create_model("resnet18", std=(0.5, 0.0, 0.5)), ValueError, "std must be"),
        (lambda p: create_model("vit", image_size=63), ValueError, "multiple of the patch"),
        (lambda p: create_model("resnet18", depth=3), ValueError, "timm cannot make"),
        (lambda p: create_model("vit", conv_stem=48), ValueError, "conv_stem takes channels"),
        (lambda p: create_model("vit", conv_stem=["a"]), ValueError, r"conv_stem=\['a'\]"),
        (lambda p: create_model("resnet18", conv_stem=(8,)), ValueError, "embed_dim=None"),
        (lambda p: create_model("resnet18", pretrained=p / "no.bin"), FileNotFoundError, "no.bin"),
        (lambda p: create_model("resnet18", pretrained=_junk(p)), ValueError, "does not hold"),
        (lambda p: create_model(Toy(), pretrained=True), ValueError, "leave out pretrained"),
        (lambda p: create_model(Toy(classes=7)), ValueError, r"returned \(1, 7\)"),
        (lambda p: create_model(nn.Linear(2, 2)), ValueError, "cannot take images"),
        (lambda p: create_model(18), TypeError, "name or an nn.Module, got int"),
    ],
)
def test_errors_name_the_cause(call, error, message, tmp_path):
    """Each wrong argument is named with its value and a remedy."""
    with pytest.raises(error, match=message):
        call(tmp_path)


def _junk(folder):
    file = folder / "junk.safetensors"
    file.write_bytes(b"not weights")
    return file


def test_evaluating_gives_each_module_its_mode_back():
    """Modes return also after an error inside the block."""
    model = create_model(Toy(), image_size=64).train()
    model.network.conv.eval()

    def fail():
        with evaluating(model):
            assert not model.training
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert model.training
    assert not model.network.conv.training


def test_threads_take_turns():
    """What one thread does with a model is done before another begins; one may nest."""
    model, order = Toy(), []
    inside = threading.Event()

    def other():
        inside.wait(10)
        with evaluating(model):
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with evaluating(model), evaluating(model):
        inside.set()
        time.sleep(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "other"]
    assert model.training


def test_repr_is_short():
    """A model shows its name, size and parameters, not its layers."""
    model = create_model(Toy(), image_size=64)
    assert isinstance(model, TileClassifier)
    assert repr(model) == "TileClassifier(toy, 64 px inside, 0.0 M parameters)"


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
