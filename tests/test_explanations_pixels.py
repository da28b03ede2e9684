"""Tests of the pixel methods: completeness, linear models, captum as an oracle, nulls."""

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

from lulc_lib.explanations import explain
from lulc_lib.models import create_model

PIXELS = ["inputxgradient", "smoothgrad", "integratedgradients", "fullgrad", "occlusion"]


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def linear():
    """A model whose logits are linear in the pixels."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 4096, 10))
    return create_model(network, image_size=64).eval()


def make(name="resnet18", size=64, **arguments):
    torch.manual_seed(0)
    model = create_model(name, image_size=size, **arguments).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def slope(model, images, target):
    """Return the gradient of a logit by the pixels, (N, 3, 64, 64)."""
    leaf = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(leaf)[:, target].sum(), leaf)
    return found


def test_a_linear_models_map_is_its_weights(linear, images):
    """Where the gradient is the same everywhere, each method must show weight x (pixel - base)."""
    weights = slope(linear, images, 3)
    base = linear.prepare.mean
    expected = {
        "inputxgradient": (weights * images).sum(1),
        "smoothgrad": weights.sum(1),
        "integratedgradients": (weights * (images - base)).sum(1),
    }
    for method, values in expected.items():
        result = explain(linear, images, method, target=3)
        assert result.grid.shape == (2, 64, 64)
        assert result.layer is None
        np.testing.assert_allclose(result.grid, values, atol=1e-4 * values.abs().max())


def test_a_network_without_a_grid(images):
    """Methods on pixels need no layer with a grid; CAM methods must say that there is none."""
    torch.manual_seed(0)
    model = create_model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4096, 10)), image_size=64)
    for result in explain(model, images, ["inputxgradient", "occlusion", "centre"]).values():
        assert np.ptp(result.grid) > 0
    with pytest.raises(ValueError, match="sequential has no layer with a grid of at least 2x2"):
        explain(model, images, ["occlusion", "gradcam"])
    with pytest.raises(ValueError, match="sequential has no layer with a grid of at least 2x2"):
        explain(model, images, "rollout")


def test_occlusion_of_a_linear_model(linear, images):
    """In the middle, a pixel's value must be the mean loss of the four patches that cover it."""
    weights = slope(linear, images, 3)
    loss = (weights * (images - linear.prepare.mean)).sum(1)
    patches = loss.unfold(1, 8, 4).unfold(2, 8, 4).sum(dim=(3, 4))  # (2, 15, 15)
    grid = explain(linear, images, "occlusion", target=3).grid
    # pixels 20..23 lie in the patches that begin at 16 and at 20: numbers 4 and 5
    expected = patches[:, 4:6, 4:6].mean(dim=(1, 2)).numpy()
    np.testing.assert_allclose(grid[:, 20:24, 20:24].min(axis=(1, 2)), expected, rtol=1e-3)
    np.testing.assert_allclose(grid[:, 20:24, 20:24].max(axis=(1, 2)), expected, rtol=1e-3)


def test_completeness_of_integrated_gradients(images):
    """The map must sum to the logit minus the logit of the tile of the mean colour."""
    model = make()
    result = explain(model, images, "integratedgradients", target=5)
    blank = model.prepare.mean.expand(1, 3, 64, 64)
    with torch.no_grad():
        lost = (model(images) - model(blank))[:, 5].numpy()
    np.testing.assert_allclose(result.grid.sum(axis=(1, 2)), lost, rtol=0.02, atol=0.002)


def test_integrated_gradients_are_captums(images):
    """The same attributions must come from captum called the plain way."""
    model = make()
    blank = model.prepare.mean.expand_as(images).contiguous()
    leaf = images.clone().requires_grad_()
    theirs = IntegratedGradients(model).attribute(leaf, blank, target=5, n_steps=50)
    ours = explain(model, images, "integratedgradients", target=5)
    expected = theirs.sum(1).detach().numpy()
    np.testing.assert_allclose(ours.grid, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 64), ("resnet18", 96), ("densenet121", 64)]
)
def test_full_gradients_sum_to_the_logit(name, size, images):
    """Input and biases share out the whole logit but the last layer's own bias."""
    model = make(name, size)
    result = explain(model, images, "fullgrad", target=5)
    head = model.network.get_classifier()
    expected = result.logits[:, 5] - float(head.bias[5].detach())
    np.testing.assert_allclose(result.grid.sum(axis=(1, 2)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [64, 96, 128])
def test_full_gradients_of_what_is_zero_are_zero(size):
    """Without biases, a tile of the mean colour, zero once normalised, must have an empty map."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 10),
    )  # fmt: skip
    model = create_model(network, image_size=size).eval()
    empty = model.prepare.mean.expand(1, 3, 64, 64).contiguous()
    spot = empty.clone()
    spot[:, :, 40:48, 8:16] = 1
    grids = [explain(model, tile, "fullgrad", target=1).grid[0] for tile in (empty, spot)]
    assert np.abs(grids[0]).max() < 1e-6 * np.abs(grids[1]).max()
    assert np.abs(grids[1][40:48, 8:16]).sum() > 0.8 * np.abs(grids[1]).sum()


def test_input_x_gradient_alone_does_not(images):
    """Negative control: without the biases' share the sum must be another."""
    model = make()
    result = explain(model, images, "inputxgradient", target=5)
    expected = result.logits[:, 5] - float(model.network.fc.bias[5].detach())
    assert np.abs(result.grid.sum(axis=(1, 2)) - expected).min() > 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("method", PIXELS)
def test_other_weights_other_map(method, images):
    """Negative control: a map that random weights leave alone would not explain the model."""
    model = make()
    one = explain(model, images, method, target=0).grid
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter)
            )
    other = explain(model, images, method, target=0).grid
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, other, strict=True)]
    assert np.abs(alike).max() < 0.95


def test_smoothgrad_is_the_same_each_time(images):
    """Noise must not depend on the batch, the order or the caller's generator."""
    model = make()
    torch.manual_seed(1)
    one = explain(model, images, "smoothgrad", target=0).grid
    torch.manual_seed(2)
    other = explain(model, images.flip(0), "smoothgrad", target=0, batch_size=1).grid
    np.testing.assert_allclose(other[::-1], one, atol=1e-5 * np.abs(one).max())


def test_nulls(linear, images):
    """Each null must be what it is called, and look at no model."""
    found = explain(linear, images, ["random", "centre", "edge", "blur"])
    again = explain(make(), images.flip(0), ["random", "centre", "edge", "blur"])
    for name, result in found.items():
        np.testing.assert_allclose(again[name].grid[::-1], result.grid, atol=1e-6)
        assert result.warnings["ClassBlind"] == (0, 1)
    noise = found["random"].grid
    assert abs(noise.mean()) < 0.05
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
    centre = found["centre"].grid[0]
    assert centre.max() == centre[31, 31] == centre[32, 32]
    assert centre[31, 15] == pytest.approx(np.exp(-0.5), abs=0.04)  # 16 px away
    ramp = (torch.arange(64.0) / 64).expand(1, 3, 64, 64).contiguous()
    edge = explain(linear, ramp, "edge").grid[0]
    np.testing.assert_allclose(edge[:, 1:-1], 1 / 64, atol=1e-5)
    even = torch.full((1, 3, 64, 64), 0.5)
    flat = explain(linear, even, ["edge", "blur"])
    assert flat["edge"].warnings["ZeroMap"] == (0,)
    np.testing.assert_allclose(flat["blur"].grid, 0.5, atol=1e-5)
