"""Tests of held gates: sums by hand, completeness, refusals; and of products over layers."""

import numpy as np
import pytest
import torch
import torchvision
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
