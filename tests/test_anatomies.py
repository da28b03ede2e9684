"""The anatomy of a model: layers, grids, and the one that explanations take."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from timm.layers import RmsNorm
from torch import nn

from lulc_lib.anatomies import anatomy, to_grid
from lulc_lib.explanations import explain, layers
from lulc_lib.explanations.batch import hooked
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


# --- the choice is tested ------------------------------------------------------------------------


def test_the_tables_of_the_shipped_networks():
    """What numbers mean for the two shipped networks must never change."""
    table = layers(create_model("resnet50", image_size=64))
    stages = ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert table["layer"].tolist() == [f"network.{name}" for name in stages]
    assert table["auto"].tolist() == [False] * 4 + [True]
    table = layers(create_model("vit"))
    norms = [f"network.blocks.{i}.norm1" for i in range(6)]
    assert table["layer"].tolist() == norms + [f"network.blocks.{i}" for i in range(6)]
    assert table["auto"].tolist() == [False] * 11 + [True]
    assert set(table["grid"]) == {"8x8"}


SMALL = {
    "resnet18": {},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
    "vit_tiny_patch16_224": SMALL_VIT,
    "deit_tiny_distilled_patch16_224": SMALL_VIT,
    "swin_tiny_patch4_window7_224": {"depths": (1, 1), "window_size": 4},
    "mobilenetv3_small_050": {},
    "cait_xxs24_224": {**SMALL_VIT, "depth_token_only": 2},
    "coat_lite_tiny": {"embed_dims": (64, 64, 64, 64)},
    "vit_relpos_small_patch16_rpn_224": SMALL_VIT,
    "vit_small_patch16_18x2_224": SMALL_VIT,
}  # fmt: skip
DEFAULTS = {
    "cait_xxs24_224": "network.blocks.1",  # the class token joins after it
    "coat_lite_tiny": "network.serial_blocks4.1.norm1",
    "vit_relpos_small_patch16_rpn_224": "network.blocks.1",
    "vit_small_patch16_18x2_224": "network.blocks.0",  # both branches of the last block read it
}


@pytest.mark.parametrize("name", SMALL)
def test_no_default_layer_is_blank(name):
    """Grad-CAM at the default layer must say something, whatever the architecture."""
    torch.manual_seed(0)
    model = create_model(name, image_size=64, **SMALL[name])
    for parameter in model.parameters():  # some start at or near zero
        if not parameter.any() or parameter.abs().max() < 1e-3:
            nn.init.normal_(parameter, std=0.2)
    found = explain(model, torch.rand(1, 3, 64, 64), "gradcam", target=3)
    assert np.ptp(found.grid) > 0
    assert found.layer == DEFAULTS.get(name, found.layer)


@pytest.mark.parametrize("norm", [RmsNorm, nn.RMSNorm])
def test_transformers_with_other_norms(norm):
    """A ViT with RMSNorm must be read as one with layer norms is."""
    plain = create_model("vit_tiny_patch16_224", image_size=64, **SMALL_VIT)
    made = {"img_size": 64, "num_classes": 10, "norm_layer": norm}
    other = create_model(timm.create_model("vit_tiny_patch16_224", **made, **SMALL_VIT))
    assert layers(other).equals(layers(plain))


def test_the_table_lists_only_what_is_explained():
    """Each row must be taken by `explain`, with the grid it promises and a gradient."""
    model = create_model("coat_lite_tiny", image_size=64, **SMALL["coat_lite_tiny"])
    for number, row in layers(model).iterrows():
        found = explain(model, torch.rand(1, 3, 64, 64), "gradcam", layer=number)
        assert "{}x{}".format(*found.grid.shape[1:]) == row["grid"]
    token = create_model("vit_tiny_patch16_224", image_size=64, **SMALL_VIT)
    assert "network.blocks.1" not in set(layers(token)["layer"])  # no gradient on its patches


class Tokens(nn.Module):
    """A ViT with averaged tokens, whose blocks return tuples."""

    class Block(nn.Module):
        """A residual block that also returns None."""

        def __init__(self):
            super().__init__()
            self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, tokens):
            return tokens + self.mix(self.norm(tokens)), None

    def __init__(self, last):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 16, stride=16)
        self.blocks = nn.ModuleList([self.Block(), self.Block()])
        self.last = nn.LayerNorm(8) if last else None
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens, _ = block(tokens)
        return self.head((self.last(tokens) if self.last else tokens).mean(dim=1))


def test_blocks_that_return_tuples():
    """The next layer whose output is a cut is taken; where there is none, a warning says so."""
    model = create_model(Tokens(last=True))
    assert anatomy(model).layer == "network.last"
    assert np.ptp(explain(model, torch.rand(1, 3, 64, 64)).grid) > 0
    with pytest.warns(UserWarning, match=r"network\.blocks\.1 of tokens returns several values"):
        assert anatomy(create_model(Tokens(last=False))).layer == "network.blocks.1.norm"


class Twice(nn.Module):
    """Convolutions whose last activation is one module that runs twice, and any classifier."""

    def __init__(self, head="linear"):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 8, stride=8), nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.Tanh()
        self.head = nn.Linear(8, 10) if head == "linear" else nn.Conv2d(8, 10, 1)

    def forward(self, images):
        maps = self.act(self.second(self.act(self.first(images))))
        if isinstance(self.head, nn.Conv2d):
            return self.head(maps).mean(dim=(2, 3))
        return self.head(maps.mean(dim=(2, 3)))


@pytest.mark.parametrize("head", ["linear", "convolution"])
def test_a_module_that_runs_twice_is_not_chosen(head):
    """The last layer that runs once is taken; the head may be a convolution."""
    torch.manual_seed(0)
    model = create_model(Twice(head))
    model.requires_grad_(False)
    assert layers(model)["layer"].tolist() == ["network.second"]
    assert anatomy(model).head == "network.head"
    found = predict(model, torch.rand(2, 3, 64, 64), features=True)
    assert found.features.shape == (2, 8)
    assert np.ptp(explain(model, torch.rand(1, 3, 64, 64)).grid) > 0


def test_squeezenet_has_a_convolutional_classifier():
    """A network of torchvision without a linear layer must be explained before its classifier."""
    model = create_model(torchvision.models.squeezenet1_0(num_classes=10), image_size=64)
    assert anatomy(model).layer == "network.classifier.0"  # dropout, which passes the maps on
    assert anatomy(model).head == "network.classifier.1"


class Deaf(nn.Module):
    """A network whose logits do not depend on its maps by any gradient."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 8, stride=8), nn.Linear(4, 10)
        self.straight = nn.Linear(3, 10)

    def forward(self, images):
        self.head(self.conv(images).mean(dim=(2, 3)))
        return self.straight(images.mean(dim=(2, 3)))


def test_layers_that_no_gradient_reaches_are_refused():
    """The error names the model and says what was looked for."""
    with pytest.raises(
        ValueError, match=r"deaf has no layer .* the gradient of its logits reaches"
    ):
        anatomy(create_model(Deaf()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_hides_layers_is_named():
    """Quantised, compiled and copied networks: unwrapped where they come in, else named."""
    assert anatomy(create_model(torch.compile(Twice()))).layer == "network.second"
    assert anatomy(create_model(nn.DataParallel(Twice()))).layer == "network.second"
    quantised = torch.ao.quantization.quantize_dynamic(Twice().eval(), {nn.Linear})
    with pytest.raises(ValueError, match=r"no gradient on from network\.head .*quantized"):
        anatomy(create_model(quantised))
    model = create_model(Twice())
    anatomy(model)
    model.network = torch.compile(model.network)
    with pytest.raises(ValueError, match=r"network of twice is compiled by torch\.compile"):
        anatomy(model)
    model.network = nn.DataParallel(Twice())
    model.network.device_ids = [0, 1]  # as with two GPUs
    with pytest.raises(ValueError, match="network of twice is a DataParallel"):
        anatomy(model)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")
def test_a_scripted_layer_is_named_and_no_hook_stays():
    """What torch.jit made takes no hooks: CAM methods say so, and methods on pixels need none."""
    torch.manual_seed(0)
    part = torch.jit.script(nn.Sequential(nn.Conv2d(4, 8, 3, 2), nn.ReLU()))
    model = create_model(
        nn.Sequential(nn.Conv2d(3, 4, 8, 8), part, nn.Flatten(), nn.Linear(72, 10))
    )
    images = torch.rand(1, 3, 64, 64)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"network\.1 of sequential was made by torch\.jit"):
            explain(model, images, "gradcam")
    assert not any(m._forward_hooks for m in (model.prepare, model.network, model.network[0]))
    assert np.ptp(explain(model, images, "inputxgradient").grid) > 0


def test_no_hook_stays_where_a_layer_takes_none():
    """A layer that refuses a hook, of whatever make, must not leave those of the layers before."""

    class Refusing(nn.ReLU):
        def register_forward_hook(self, *_, **__):
            raise RuntimeError("no hooks here")

    parts = nn.Conv2d(3, 4, 8, 8), Refusing(), nn.Flatten(), nn.Linear(256, 10)
    model = create_model(nn.Sequential(*parts))
    with pytest.raises(RuntimeError, match="no hooks here"):
        anatomy(model)
    with pytest.raises(RuntimeError), hooked(model, dict.fromkeys(("network.0", "network.1"), id)):
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_changes_of_the_model_are_noticed(monkeypatch):
    """A replaced module and gradient checkpointing are seen; failures are remembered as well."""
    model = create_model(Twice())
    for name in ("act", "second"):
        known = anatomy(model)
        assert anatomy(model) is known
        setattr(model.network, name, nn.Identity())
        assert anatomy(model) is not known, name
    assert anatomy(model).layer == "network.second"
    vit = create_model("vit_tiny_patch16_224", image_size=64, **SMALL_VIT)
    before = anatomy(vit)
    vit.network.set_grad_checkpointing(True)
    assert anatomy(vit) is not before
    assert anatomy(vit).layer == before.layer
    flat = create_model(_flat())
    for _ in range(2):
        with pytest.raises(ValueError, match="no layer with a grid"):
            anatomy(flat)
        monkeypatch.setattr(flat, "forward", None)  # a second look would run it


class Functional(nn.Module):
    """A network whose logits no module returns."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 8, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 1, 1))
        self.weights = nn.Parameter(torch.randn(10, 8))

    def forward(self, x):
        """Return logits (N, 10)."""
        return self.body(x).relu().mean(dim=(2, 3)) @ self.weights.T


def test_logits_without_a_classifier():
    """The last convolution is then a layer to look at, and no classifier to read features from."""
    torch.manual_seed(0)
    model = create_model(Functional(), image_size=64)
    found = anatomy(model)
    assert (found.head, found.layer, found.grid) == ("", "network.body", (8, 8))
    with pytest.raises(ValueError, match="outside any linear or convolutional layer"):
        predict(model, torch.rand(2, 3, 64, 64), features=True)


def test_changed_modules_settings_and_numbers_are_noticed():
    """A new module in the place of an old one, another stride, and float() after half()."""
    torch.manual_seed(0)
    model = create_model(Functional(), image_size=64)
    for stride in (4, 8, 16, 4):
        model.network.body[0] = None
        model.network.body[0] = nn.Conv2d(3, 6, 3, stride, 1)
        assert anatomy(model).grid == (64 // stride, 64 // stride)
    model.network.body[0].stride = (16, 16)
    assert anatomy(model).grid == (4, 4)
    with pytest.raises(ValueError, match=r"float16, .* call model\.float\(\)"):
        anatomy(model.half())
    assert anatomy(model.float()).grid == (4, 4)


def test_blocks_of_tuples_have_no_attention_to_show():
    """A block that returns more than its tokens is named by attention methods."""
    model = create_model("vit", **SMALL_VIT)

    class Pair(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.norm1, self.block = block.norm1, block

        def forward(self, x):
            return self.block(x[0] if isinstance(x, tuple) else x), x

    class First(nn.Module):
        def forward(self, x):
            return x[0]

    model.network.blocks = nn.Sequential(*[Pair(b) for b in model.network.blocks])
    model.network.norm = nn.Sequential(First(), model.network.norm)
    with pytest.raises(ValueError, match="tuple, and attention methods need its tokens alone"):
        explain(model, torch.rand(1, 3, 64, 64), "rollout")


def test_a_data_parallel_on_a_processor_hides_nothing():
    """There it makes no copies of the network, so that its layers and features can be looked at."""
    torch.manual_seed(0)
    model = create_model("resnet18", image_size=64)
    model.network = nn.DataParallel(model.network)
    if model.network.device_ids:
        pytest.skip("with GPUs it makes copies")
    assert anatomy(model).layer.endswith("layer4")
    assert predict(model, torch.rand(2, 3, 64, 64), features=True).features.shape == (2, 512)


def test_a_compiled_model_is_named():
    """What torch.compile returned is no model of ours; the one inside it is."""
    model = torch.compile(create_model("vit", **SMALL_VIT))
    with pytest.raises(TypeError, match=r"before torch\.compile.*model\._orig_mod"):
        explain(model, torch.rand(1, 3, 64, 64))


class Unfolded(nn.Module):
    """Patches made by a linear layer, as in the first Vision Transformers' sketches."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Unfold(16, stride=16)
        self.embed = nn.Linear(3 * 16 * 16, 24)
        self.blocks = nn.Sequential(
            *[nn.TransformerEncoderLayer(24, 2, 48, 0.0, batch_first=True) for _ in range(2)]
        )
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        """Return logits (N, 10)."""
        return self.head(self.blocks(self.embed(self.cut(x).transpose(1, 2))).mean(dim=1))


def test_patches_may_come_from_a_linear_layer():
    """Where no convolution tells the grid, it is square."""
    torch.manual_seed(0)
    model = create_model(Unfolded(), image_size=64)
    found = anatomy(model)
    assert (found.family, found.grid, found.prefix_tokens) == ("vit", (4, 4), 0)
    assert found.layer == "network.blocks.1"
    assert np.ptp(explain(model, torch.rand(1, 3, 64, 64)).grid) > 0


def test_a_half_module_is_refused_with_its_remedy():
    """A module of float16 is named where it is wrapped."""
    with pytest.raises(ValueError, match=r"parameters of float16.*call model\.float\(\)"):
        create_model(Unfolded().half(), image_size=64)


def test_tokens_are_laid_out_by_the_convolution_that_they_fit_best():
    """Twins' attention reduces 4x4 tokens to 2x2 by a convolution, which is not their grid."""
    model = create_model(
        "twins_svt_small", image_size=64, embed_dims=(16, 16, 32, 32), num_heads=(1, 1, 2, 2),
        depths=(2, 2, 4, 2),
    )  # fmt: skip
    found = anatomy(model)
    assert dict(found.tokens)[16] == (4, 4)
    named = {**dict(zip(found.stages, found.grids, strict=True)),
             **dict(zip(found.outputs, found.output_grids, strict=True))}  # fmt: skip
    third = {name: grid for name, grid in named.items() if name.startswith("network.blocks.2.")}
    assert third
    assert set(third.values()) == {(4, 4)}
