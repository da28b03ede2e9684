"""Tests of held gates: sums by hand, completeness, refusals; and of products over layers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import GluMlp, SwiGLU, SwiGLUPacked
from torch import nn

from lulc_lib.anatomies import anatomy
from lulc_lib.explanations import explain
from lulc_lib.explanations.cam import gradcam_form, refined_layers
from lulc_lib.explanations.gates import HeldGates
from lulc_lib.models import create_model

SMALL = {"patch_size": 16, "embed_dim": 48, "depth": 4, "num_heads": 3}
AVERAGED = {**SMALL, "class_token": False, "global_pool": "avg"}


def make(name="vit_tiny_patch16_224", biases=True, **arguments):
    """Return a small network at 64 px whose weights are far from a trained one's shyness."""
    torch.manual_seed(0)
    model = create_model(name, image_size=64, **arguments)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, std=0.2) if biases else nn.init.zeros_(module.bias)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def logits_of(model, images):
    with torch.no_grad():
        return model(images).numpy()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", SMALL),
        ("vit_tiny_patch16_224", AVERAGED),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "embed_dim": 24, "num_heads": (1, 2)}),
        ("convnext_atto", {}),
        ("mobilenetv3_small_050", {}),
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_held_gates_leave_the_outputs(name, arguments, fused, images):
    """Holding gates changes what is differentiated, and nothing that is computed."""
    model = make(name, **arguments)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    with torch.no_grad(), HeldGates():
        held = model(images)
    np.testing.assert_allclose(held, logits_of(model, images), rtol=1e-4, atol=1e-4)


def test_held_gates_leave_the_outputs_of_torchvision(images):
    """`nn.MultiheadAttention` is met as well."""
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(64, 16, 2, 3, 48, 96, num_classes=10)
    nn.init.normal_(network.heads.head.weight, std=0.2)
    model = create_model(network, image_size=64).eval()
    with torch.no_grad(), HeldGates():
        held = model(images)
    np.testing.assert_allclose(held, logits_of(model, images), atol=1e-5)
    found = explain(model, images, "libragrad", layer=anatomy(model).outputs[0])
    assert np.ptp(found.grid) > 0


@pytest.mark.parametrize("function", [F.gelu, F.silu, torch.tanh, F.elu, F.mish])
def test_a_held_gate_does_not_jump_at_zero(function):
    """What is exactly 0 has the gate of its neighbours: rounding decides what is exactly 0."""
    x = torch.tensor([-1e-3, 0.0, 1e-3], requires_grad=True)
    with HeldGates():
        held = function(x)
    (gates,) = torch.autograd.grad(held.sum(), x)
    assert held[1] == 0
    torch.testing.assert_close(gates[1], (gates[0] + gates[2]) / 2, atol=1e-3, rtol=0)


@pytest.mark.parametrize("module", [F.relu6, nn.ReLU6(), nn.Hardtanh(0, 6)])
def test_a_held_gate_of_a_cut_activation(module):
    """Beyond the cut the value is still an input times a gate, however the function is called."""
    x = torch.tensor([10.0, 3.0, -1.0], requires_grad=True)
    with HeldGates():
        held = module(x)
    assert held.tolist() == [6, 3, 0]
    (gates,) = torch.autograd.grad(held.sum(), x)
    torch.testing.assert_close(gates, torch.tensor([0.6, 1.0, 0.0]))


@pytest.mark.parametrize(
    "mlp",
    [
        SwiGLU(8, 16, bias=False),
        SwiGLUPacked(8, 16, bias=False),
        GluMlp(8, 16, bias=False),
        nn.Sequential(nn.Linear(8, 16, bias=False), nn.GLU()),
    ],
)
def test_a_gated_mlp_is_counted_once(mlp):
    """One of two factors that are both made of the tile is the other's gate: a sum of its inputs.

    With both left free, activation times gradient would sum to twice what the block returns.
    """
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    plain = mlp(x)
    with HeldGates():
        held = mlp(x)
    torch.testing.assert_close(held, plain)
    (slope,) = torch.autograd.grad(held[:, 0].sum(), x)
    torch.testing.assert_close((slope * x).sum(1), plain[:, 0])


def test_libragrad_needs_a_layer_that_runs(images):
    """Fused attention passes its dropout by: there is nothing to look at."""
    with pytest.raises(ValueError, match=r"attn_drop' runs 0 times in one forward pass; choose"):
        explain(make(**AVERAGED), images, "libragrad", layer="network.blocks.0.attn.attn_drop")


def test_without_biases_libragrad_is_complete(images):
    """A ViT without biases is homogeneous once its gates are held: maps sum to the logit.

    At the first block's output, through three blocks of attention, norms and GELU. A plain
    gradient's maps do not, so that the sum is no matter of course.
    """
    model = make(biases=False, **AVERAGED)
    found = explain(model, images, "libragrad", layer="network.blocks.0")
    own = np.take_along_axis(found.logits, found.target[:, None], 1)[:, 0]
    np.testing.assert_allclose(found.grid.sum((1, 2)), own, rtol=1e-4, atol=1e-4)
    plain = explain(model, images, "hirescam", layer="network.blocks.0")
    assert np.abs(plain.grid.sum((1, 2)) - own).min() > 0.05


def test_contributions_of_a_vit_by_hand(images):
    """Each token's term is W (LN's affine part of it), and they sum to the logit less the bias."""
    model, network = (made := make(**AVERAGED)), made.network
    found = explain(model, images, "contributions", target=3)
    with torch.no_grad():
        tokens = network.forward_features(model.prepare(images))  # (N, 16, D)
        mean = tokens.mean(dim=1)
        scale = (mean.var(dim=1, unbiased=False) + network.fc_norm.eps).rsqrt()
        centred = (tokens - tokens.mean(dim=2, keepdim=True)) * scale[:, None, None] / 16
        terms = (centred * network.fc_norm.weight) @ network.head.weight[3]
        bias = network.head.weight[3] @ network.fc_norm.bias + network.head.bias[3]
    np.testing.assert_allclose(found.grid.reshape(3, 16), terms, atol=1e-5)
    left = found.logits[:, 3] - found.grid.sum((1, 2))
    np.testing.assert_allclose(left, float(bias), atol=1e-5)


def test_contributions_of_a_resnet_by_hand(images):
    """With global average pooling and one linear layer they are CAM over the number of cells."""
    model = make("resnet18")
    found = explain(model, images, "contributions", target=[0, 1, 2])
    with torch.no_grad():
        maps = model.network.forward_features(model.prepare(images))
        rows = model.network.fc.weight[:3]
        terms = torch.einsum("nchw,nc->nhw", maps, rows) / maps[0, 0].numel()
    np.testing.assert_allclose(found.grid, terms, atol=1e-5)
    left = found.logits[range(3), range(3)] - found.grid.sum((1, 2))
    np.testing.assert_allclose(left, model.network.fc.bias[:3].detach(), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "layer"), [(SMALL, "auto"), (AVERAGED, "network.blocks.1"), (SMALL, 0)]
)
@pytest.mark.parametrize("method", ["contributions", "competition"])
def test_what_is_no_sum_of_cells_is_refused(arguments, layer, method, images):
    """A class token, or a block between layer and head, brings in more than the cells."""
    with pytest.raises(
        ValueError, match=r"are no sums of the cells of .* use libragrad or gradcam"
    ):
        explain(make(**arguments), images, method, layer=layer)


@pytest.mark.parametrize(("arguments", "layer"), [(SMALL, "auto"), (AVERAGED, "network.blocks.1")])
@pytest.mark.parametrize("method", ["contributions", "competition"])
def test_refused_by_name_before_any_work(arguments, layer, method, images):
    """Two passes of one tile that is none of ours tell, at the layer that is asked for."""
    model = make(**arguments)
    anatomy(model)  # known from here on
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    words = rf"^{method} cannot explain vit_tiny_patch16_224: the logits are no sums"
    with pytest.raises(ValueError, match=words):
        explain(model, images, ["scorecam", method], layer=layer)
    assert [len(some) for some in seen] == [1, 1]
    seen.clear()
    explain(model, images, "gradcam")  # is not asked
    assert [len(some) for some in seen] == [3]


@pytest.mark.parametrize("method", ["contributions", "competition"])
def test_terms_cost_one_pass_and_a_few_tiles(method, images):
    """Beside the tiles' own pass: two of a tile to see whether terms add up, one for the head."""
    model = make("resnet18")
    anatomy(model)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    explain(model, images, method)
    assert seen == [1, 1, 3, 1]


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "resnet18"])
def test_terms_add_up_in_both_precisions(name, images):
    """Also in bfloat16, within its rounding, and for a head that norms before it is linear."""
    model = make(name, **(AVERAGED if name.startswith("vit") else {}))
    for precision, apart in (("float32", 1e-4), ("bfloat16", 2e-2)):
        some = [explain(model, images, "contributions", k, precision=precision) for k in range(10)]
        sums = np.stack([one.grid.sum(axis=(1, 2)) for one in some], axis=1)  # (N, 10)
        left = some[0].logits - sums
        size = np.abs(some[0].grid).sum(axis=(1, 2)).max() + np.abs(some[0].logits).max()
        assert np.abs(left - left.mean(axis=0)).max() < apart * size


class Cells(nn.Module):
    """Two cells side by side, each the mean of its half; class 0 reads red, class 1 green."""

    def __init__(self):
        super().__init__()
        self.cells = nn.Conv2d(3, 3, (64, 32), stride=(64, 32), bias=False)
        self.cut = nn.Upsample(scale_factor=(2, 1))  # a grid has at least two rows
        self.head = nn.Linear(3, 10)
        with torch.no_grad():
            self.cells.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 64, 32) / 2048)
            self.head.weight.zero_()
            self.head.weight[:2, :2] = 8 * torch.eye(2)
            self.head.bias.copy_(torch.arange(10.0) == 9)

    def forward(self, images):
        return self.head(self.cut(self.cells(images)).mean(dim=(2, 3)))


def test_competition_of_two_colours_by_hand():
    """Red on the left, half red and green on the right: numbers worked out on paper.

    A cell's term is 8 times its colour, a fourth of it, since four cells are averaged. Left, class
    0's logit would be 8 and all others' 0, but class 9's, 1; right, classes 0 and 1 have 4 each.
    """
    model = create_model(Cells(), image_size=64, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    tile = torch.zeros(1, 3, 64, 64)
    tile[0, 0, :, :32], tile[0, :2, :, 32:] = 1.0, 0.5
    red, blue = (explain(model, tile, "competition", k, layer="network.cut") for k in (0, 2))
    left = np.exp(8) / (np.exp(8) + 8 + np.exp(1))
    right = np.exp(4) / (2 * np.exp(4) + 7 + np.exp(1))
    np.testing.assert_allclose(red.grid[0], [[2 * left, right]] * 2, rtol=1e-5)
    assert "ZeroMap" in blue.warnings
    own = explain(model, tile, "contributions", 0, layer="network.cut").grid[0]
    np.testing.assert_allclose(own, [[2, 1]] * 2, rtol=1e-5)


def test_competition_by_hand(images):
    """A cell's share is what the head would say if all cells were like it; below chance it is 0."""
    model = make("resnet18")
    found = explain(model, images, "competition", target=[0, 1, 2])
    with torch.no_grad():
        maps = model.network.forward_features(model.prepare(images))
        alone = model.network.fc(maps.movedim(1, 3)).softmax(dim=-1)  # (N, h, w, K)
    share = alone[torch.arange(3), :, :, torch.arange(3)].numpy()
    own = explain(model, images, "contributions", target=[0, 1, 2]).grid
    np.testing.assert_allclose(found.grid, own * share * (share > 0.1), atol=1e-5)


@pytest.mark.parametrize(("name", "arguments"), [("resnet18", {}), ("", AVERAGED), ("", SMALL)])
def test_refinecam_by_hand(name, arguments, images):
    """The product of its layers' Grad-CAMs, each made alone, cut at 0 and scaled to its peak."""
    model = make(name or "vit_tiny_patch16_224", **arguments)
    names = refined_layers(anatomy(model))
    grids = [explain(model, images, "gradcam", layer=one).grid.clip(min=0) for one in names]
    size = max(grid.shape[1:] for grid in grids)
    product = np.ones((3, *size), np.float32)
    for grid in grids:
        scaled = torch.from_numpy(grid / grid.max(axis=(1, 2), keepdims=True).clip(1e-30))
        product *= nn.functional.interpolate(scaled[:, None], size, mode="bilinear")[:, 0].numpy()
    found = explain(model, images, "refinecam")
    np.testing.assert_allclose(found.grid, product, atol=1e-5)
    assert 0 <= found.grid.min() <= found.grid.max() <= 1
    assert found.grid.max() > 0


def test_refinecam_needs_several_layers(images):
    """One block alone has nothing to be multiplied with."""
    model = make(**{**AVERAGED, "depth": 1})
    with pytest.raises(ValueError, match=r"several layers, and there is network\.blocks\.0 alone"):
        explain(model, images, "refinecam")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_ablation_keeps_its_sense_whatever_the_logits_sign(sign):
    """A channel that speaks for the class counts as such, also where the logit is negative.

    By hand on a tile red on the left: red brings in 8 of 4 averaged cells' half, 4 of the logit.
    """
    model = create_model(Cells(), image_size=64, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    tile = torch.zeros(1, 3, 64, 64)
    tile[0, 0, :, :32] = 1.0
    with torch.no_grad():
        model.network.head.bias[0] = sign * 12 - 4  # the whole logit: 12 or -12
    found = explain(model, tile, "ablationcam", 0, layer="network.cut")
    assert found.logits[0, 0] == pytest.approx(sign * 12)
    np.testing.assert_allclose(found.grid[0], [[4 / 12, 0]] * 2, atol=1e-6)


def test_ablation_keeps_its_sense_where_the_logit_is_negative(images):
    """A channel that speaks for the class counts as such, whatever the logit's sign."""
    model = make("resnet18")
    with torch.no_grad():
        model.network.fc.bias[:] = -100.0
    maps = model.network.forward_features(model.prepare(images)).detach()
    found = explain(model, images, "ablationcam", target=4)
    slopes = model.network.fc.weight[4].detach().view(1, -1, 1, 1).expand_as(maps)
    loss = maps.mean(dim=(2, 3)) * slopes[..., 0, 0] / torch.from_numpy(found.logits[:, 4:5]).abs()
    expected = torch.einsum("nc,nchw->nhw", loss, maps)
    np.testing.assert_allclose(found.grid, expected, rtol=1e-3, atol=1e-5)
    assert np.corrcoef(found.grid.ravel(), gradcam_form(maps, slopes).ravel())[0, 1] > 0
