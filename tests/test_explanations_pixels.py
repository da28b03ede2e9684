"""Tests of the pixel methods: completeness, linear models, captum as an oracle, nulls."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

from lulc_lib.anatomies import anatomy
from lulc_lib.arrays import resized
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


class Between(nn.Module):
    """Two convolutions and a hidden linear layer, with a function of ours between its modules."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first = nn.Conv2d(3, 8, 3, stride=4)
        self.norm = nn.BatchNorm2d(8, affine=False)
        self.second = nn.Conv2d(8, 8, 3, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden, self.bare, self.fc = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.function(self.second(self.function(self.norm(self.first(x)))))
        return self.fc(F.relu(self.bare(self.hidden(self.pool(x).flatten(1)))))


def between(function):
    torch.manual_seed(0)
    network = Between(function)
    nn.init.normal_(network.norm.running_mean)
    nn.init.normal_(network.bare.running_mean)
    return create_model(network, image_size=64).eval()


def double(x):
    return x.mul_(2)


@pytest.mark.parametrize("function", [F.relu, F.leaky_relu, double])
def test_full_gradients_leave_out_what_lies_behind_the_maps(function, images):
    """The biases of hidden linear layers and norms behind the pooling are the map's whole lack."""
    model = between(function)
    grids = explain(model, images, "fullgrad", target=5).grid.sum(axis=(1, 2))
    network, pooled = model.network, []
    handle = network.pool.register_forward_hook(lambda _, __, out: pooled.append(out.flatten(1)))
    model(images)
    handle.remove()
    leaf = pooled[0].detach().requires_grad_()
    logits = network.fc(F.relu(network.bare(network.hidden(leaf))))[:, 5]
    (slope,) = torch.autograd.grad(logits.sum(), leaf)
    np.testing.assert_allclose(grids, (leaf * slope).sum(1).detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("function", [F.gelu, F.silu, torch.tanh, lambda x: x * x, lambda x: x + 1])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_full_gradients_that_do_not_sum_to_the_logit_are_refused(function, precision, images):
    """What a forward pass computes between allowed modules is seen by the sum alone."""
    with pytest.raises(ValueError, match=r"not defined for between: on tile 0 its shares sum to"):
        explain(between(function), images, "fullgrad", target=5, precision=precision)


def test_full_gradients_need_running_statistics(images):
    """A batch norm that takes its statistics from the batch is no linear layer."""
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    network = nn.Sequential(norm, nn.Conv2d(3, 10, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="has BatchNorm2d without running_var"):
        explain(create_model(network, image_size=64), images, "fullgrad")


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


def test_smoothgrad_is_captums(images):
    """The loop of captum itself, after the same seed, must draw the same noise."""
    model = make()
    leaf = images[:1].clone().requires_grad_()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        theirs = NoiseTunnel(Saliency(model)).attribute(
            leaf, nt_samples=25, stdevs=0.1, target=torch.tensor([3]), abs=False
        )
    ours = explain(model, images[:1], "smoothgrad", target=3).grid
    expected = theirs.sum(1).detach().numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


def test_no_method_touches_the_global_generators(images, monkeypatch):
    """They belong to all threads: methods must neither read, move nor keep and restore them."""
    model = create_model(nn.Sequential(nn.Conv2d(3, 10, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    for name in ("manual_seed", "set_rng_state", "get_rng_state"):
        monkeypatch.setattr(torch.random, name, None)
        monkeypatch.setattr(torch, name, None)
    explain(model, images, ["smoothgrad", "random", "occlusion", "integratedgradients"])
    monkeypatch.undo()
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])
    assert np.random.get_state()[2] == numpy_state[2]


def test_the_null_of_cells_knows_the_grid_alone(images):
    """The same tile has the same noise, whatever the weights; one normal draw for each cell."""
    small = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    torch.manual_seed(0)
    one, other = (create_model("vit_tiny_patch16_224", image_size=64, **small) for _ in range(2))
    with torch.no_grad():
        assert (one(images) != other(images)).any()
    found, again = explain(one, images, "cells"), explain(other, images.flip(0), "cells")
    np.testing.assert_array_equal(again.grid[::-1], found.grid)
    assert found.grid.shape == (2, *anatomy(one).grid)
    np.testing.assert_array_equal(found.heatmap, resized(found.grid, 64))
    assert found.layer is None
    assert found.warnings["ClassBlind"] == (0, 1)
    many = explain(one, torch.rand(64, 3, 64, 64), "cells").grid
    assert abs(many.mean()) < 0.06
    assert many.std() == pytest.approx(1, abs=0.06)
    pixels = explain(one, images, "random").grid[:, :8, :8]
    assert np.abs(pixels - found.grid).max() > 0.5  # no part of the other null
    coarse = create_model("vit_tiny_patch16_224", image_size=64, **{**small, "patch_size": 32})
    assert explain(coarse, images, "cells").grid.shape == (2, 2, 2)


def test_the_null_of_cells_needs_a_grid(images):
    """A model without a grid is refused by name, before anything runs."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4096, 10))
    flat = create_model(network, image_size=64).eval()
    with pytest.raises(ValueError, match=r"^cells draws noise in cells of the model's own grid: "):
        explain(flat, images, ["cells", "random"])


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
