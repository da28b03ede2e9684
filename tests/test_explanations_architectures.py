"""Tests that networks of many makes are explained without a word about their layers."""

import functools

import numpy as np
import pytest
import torch
import torchvision
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, XGradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from lulc_lib.anatomies import anatomy
from lulc_lib.explanations import explain, layers
from lulc_lib.models import create_model

# name: size inside, family, grid, prefix tokens
NETWORKS = {
    "resnet18": (96, "cnn", (3, 3), 0),
    "resnet50": (96, "cnn", (3, 3), 0),
    "convnext_tiny": (64, "cnn", (2, 2), 0),
    "efficientnet_b0": (96, "cnn", (3, 3), 0),
    "mobilenetv3_small_100": (96, "cnn", (3, 3), 0),
    "densenet121": (96, "cnn", (3, 3), 0),
    "swin_tiny_patch4_window7_224": (224, "cnn", (7, 7), 0),
    "vit_tiny_patch16_224": (64, "vit", (4, 4), 1),
    "vit_small_patch16_224": (64, "vit", (4, 4), 1),
    "vit_base_patch16_224": (64, "vit", (4, 4), 1),
    "deit3_small_patch16_224": (64, "vit", (4, 4), 1),
    "deit_tiny_distilled_patch16_224": (64, "vit", (4, 4), 2),
    "vit_small_patch14_reg4_dinov2": (224, "vit", (16, 16), 5),
    "torchvision resnet50": (96, "cnn", (3, 3), 0),
    "torchvision vit_b_16": (224, "vit", (14, 14), 1),
}
LONGEST = ("vit_base_patch16_224", "vit_small_patch14_reg4_dinov2", "torchvision vit_b_16")
LIBRARY = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus, "xgradcam": XGradCAM}


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def make(name):
    torch.manual_seed(0)
    size = NETWORKS[name][0]
    if name.startswith("torchvision"):
        network = getattr(torchvision.models, name.split()[1])(num_classes=10)
        model = create_model(network, image_size=size)
    else:
        model = create_model(name, image_size=size)
    for module in model.modules():  # some start at or near zero, and with them every gradient
        if isinstance(module, nn.Linear) and module.out_features == 10:
            nn.init.normal_(module.weight, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def as_maps(output, grid, prefix):
    """Lay out what a layer returned, by what we know of the network."""
    if output.ndim == 3:
        return output[:, prefix:].transpose(1, 2).reshape(len(output), -1, *grid)
    return output.permute(0, 3, 1, 2) if output.shape[1:3] == grid else output


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LONGEST)) for name in NETWORKS],
)
def test_any_network_is_explained_without_configuration(name, images):
    """Family, grid and prefix tokens must be found, maps not be blank, and equal the library's."""
    _, family, grid, prefix = NETWORKS[name]
    model = make(name)
    found = anatomy(model)
    assert (found.family, found.grid, found.prefix_tokens) == (family, grid, prefix)
    names = [*LIBRARY, "eigengradcam", "layercam", "finercam", "ablationcam"]
    names += ["rollout", "relevance", "legrad"] if family == "vit" else []
    if name in ("swin_tiny_patch4_window7_224", "torchvision vit_b_16"):
        names.remove("ablationcam")  # takes long, and nothing new
    results = explain(model, images, names, target=3)
    for result in results.values():
        assert result.grid.shape == (2, *grid)
        assert np.ptp(result.grid, axis=(1, 2)).min() > 0, result
        assert set(result.warnings) <= {"LowConfidence", "ClassBlind", "Unproven"}
    reshape = functools.partial(as_maps, grid=grid, prefix=prefix)
    layer = model.get_submodule(found.layer)
    for method, cls in LIBRARY.items():
        with cls(model, [layer], reshape_transform=reshape) as cam:
            theirs = cam(images, [ClassifierOutputTarget(3)] * 2)
        once = scale_cam_image(np.maximum(results[method].grid, 0), (64, 64))
        np.testing.assert_allclose(scale_cam_image(np.maximum(once, 0)), theirs, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "vit_tiny_patch16_224"])
def test_each_layer_of_the_table_has_its_grid(name, images):
    """What `layers` promises must be what a map at that layer has."""
    model = make(name)
    for number, row in layers(model).iterrows():
        result = explain(model, images[:1], "gradcam", layer=number)
        assert "{}x{}".format(*result.grid.shape[1:]) == row["grid"]


def test_attention_methods_refuse_windows(images):
    """Swin attends within windows: the error must name the network before any work is done."""
    with pytest.raises(ValueError, match="which swin_tiny_patch4_window7_224 does not have"):
        explain(make("swin_tiny_patch4_window7_224"), images, "rollout")


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_small_100", "convnext_tiny"])
def test_fullgrad_refuses_what_is_not_piecewise_linear(name, images):
    """The parts that full gradients are not defined for must be named."""
    with pytest.raises(ValueError, match=f"{name} has .*(SiLU|Hardswish|GELU)"):
        explain(make(name), images, "fullgrad")


class Wide(nn.Module):
    """A network whose maps are twice as wide as high, as (N, C, h, w) or (N, h, w, C)."""

    def __init__(self, last):
        super().__init__()
        self.last = last
        self.body = nn.Conv2d(3, 24, 8, stride=(16, 8))
        self.place = nn.Identity()
        self.head = nn.Linear(24, 10)

    def forward(self, images):
        maps = self.body(images)
        if self.last:
            return self.head(self.place(maps.permute(0, 2, 3, 1)).square().mean(dim=(1, 2)))
        return self.head(self.place(maps).square().mean(dim=(2, 3)))


@pytest.mark.parametrize("last", [False, True])
def test_grids_that_are_not_square(last, images):
    """A 4x8 grid must stay one, wherever the channels stand, and its cell be 160 m high."""
    torch.manual_seed(0)
    model = create_model(Wide(last), image_size=64).eval()
    result = explain(model, images, "gradcam", target=1, layer="network.place")
    other = create_model(Wide(not last), image_size=64).eval()
    other.load_state_dict(model.state_dict())
    assert result.grid.shape == (2, 4, 8)
    assert result.heatmap.shape == (2, 64, 64)
    again = explain(other, images, "gradcam", target=1, layer="network.place")
    np.testing.assert_allclose(result.grid, again.grid, atol=1e-6)


class Turning(nn.Module):
    """A network that a turned tile turns along: its filters look the same from all sides."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU()
        self.pool = nn.AvgPool2d(8)
        self.head = nn.Linear(6, 10)
        with torch.no_grad():
            turned = [torch.rot90(self.body.weight, k, (2, 3)) for k in range(4)]
            self.body.weight.copy_(sum(turned) / 4)

    def forward(self, images):
        return self.head(self.pool(self.act(self.body(images))).mean(dim=(2, 3)))


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "scorecam", "fullgrad", "occlusion"])
def test_a_turned_tile_turns_its_map(method, images):
    """Through a network that turns along, the map of the turned tile must be the turned map."""
    torch.manual_seed(0)
    model = create_model(Turning(), image_size=64).eval()
    where = {"layer": "network.pool"} if method.endswith("cam") else {}
    one = explain(model, images, method, target=2, **where).grid
    turned = explain(model, torch.rot90(images, 1, (2, 3)), method, target=2, **where).grid
    np.testing.assert_allclose(turned, np.rot90(one, 1, (1, 2)), atol=1e-4 * np.abs(one).max())
    assert np.abs(turned - one).max() > 1e-3 * np.abs(one).max()
