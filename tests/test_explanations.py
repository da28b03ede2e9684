"""Tests of explain: known answers, oracles, identities, negative controls, side effects."""

import contextlib
import copy
import functools
import gc
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam import (
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    FinerCAM,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
)
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import nn

from lulc_lib.anatomies import anatomy
from lulc_lib.explanations import cam, engine, explain, layers, methods, principal_map
from lulc_lib.explanations.batch import Batch
from lulc_lib.explanations.result import WARNINGS, finished
from lulc_lib.explanations.table import METHODS
from lulc_lib.factors import concepts
from lulc_lib.models import create_model
from lulc_lib.storage import CacheWarning
from lulc_lib.tiles import CLASSES, TileSet

LIBRARY = {
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "hirescam": HiResCAM,
    "elementwise": GradCAMElementWise,
    "xgradcam": XGradCAM,
    "layercam": LayerCAM,
    "eigencam": EigenCAM,
    "eigengradcam": EigenGradCAM,
}
GRADIENT = [name for name in LIBRARY if name != "eigencam"]
FORMS = {
    "gradcam": cam.gradcam_form,
    "gradcam++": cam.gradcam_pp_form,
    "hirescam": cam.hirescam_form,
    "elementwise": cam.elementwise_form,
    "xgradcam": cam.xgradcam_form,
    "layercam": cam.layercam_form,
}
ATTENTION = {"rollout", "relevance", "legrad"}


SUMS = {"contributions", "competition"}  # of what the head averages, which a class token is not
REFUSED = {"cnn": ATTENTION, "vit": {"fullgrad"} | SUMS}
PAIRS = [(f, m) for f, refused in REFUSED.items() for m in methods()["name"] if m not in refused]
SLOW = ("scorecam", "occlusion")


def able(model):
    """Return the names of all methods that can explain a model."""
    return [name for family, name in PAIRS if family == anatomy(model).family]


# --- models and tiles ----------------------------------------------------------------------------


def make(family, seed=0):
    """Return a small model with random weights, the same for the same seed."""
    return copy.deepcopy(_built(family, seed))


@functools.cache
def _built(family, seed):
    """Build it once; no weights are zero, as timm starts some of them."""
    torch.manual_seed(seed)
    if family == "cnn":
        model = create_model("resnet18", image_size=96)
    else:
        model = create_model(
            "vit_tiny_patch16_224", image_size=64, patch_size=8, embed_dim=48, depth=3, num_heads=3
        )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.15)
            nn.init.normal_(module.bias, std=0.15)
    return model.eval()


@pytest.fixture(scope="module", params=["cnn", "vit"])
def model(request):
    return make(request.param)


@pytest.fixture(scope="module")
def images():
    coarse = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, (64, 64), mode="bilinear")


class Toy(nn.Module):
    """Red and green of 4x4 blocks; class 3 is (red, top left) - (green, bottom row)."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(3, 2, 16, stride=16, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(32, 10)
        with torch.no_grad():
            self.maps.weight.zero_()
            self.maps.weight[0, 0] = self.maps.weight[1, 1] = 1 / 256
            self.head.weight.zero_()
            weights = self.head.weight[3].view(2, 4, 4)
            weights[0, :2, :2] = 1
            weights[1, 3, :] = -1
            self.head.bias.fill_(0.5)

    def forward(self, images):
        return self.head(self.act(self.maps(images)).flatten(1))


@pytest.fixture
def toy():
    return create_model(Toy(), image_size=64, mean=(0, 0, 0), std=(1, 1, 1)).eval()


@pytest.fixture
def painted():
    """A tile whose left quarter is half red and whose bottom quarter is green."""
    tile = torch.zeros(1, 3, 64, 64)
    tile[0, 0, :, :16] = 0.5
    tile[0, 1, 48:, :] = 1
    return tile


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def capture(model, images, layer, target):
    """Return activation and gradient of a layer by the plain way, a whole backward pass."""
    kept = []

    def keep(module, inputs, output):
        output.retain_grad()
        kept.append(output)
        return output.clone()

    handle = model.get_submodule(layer).register_forward_hook(keep)
    model(images)[torch.arange(len(images)), target].sum().backward()
    handle.remove()
    model.zero_grad()
    return kept[0].detach(), kept[0].grad


def patches(tokens):
    """Lay the tokens of the small ViT out by hand: a class token, then 8 rows of 8."""
    return tokens[:, 1:].reshape(len(tokens), 8, 8, -1).permute(0, 3, 1, 2)


# --- known answers -------------------------------------------------------------------------------

_0 = [0, 0, 0, 0]
BY_HAND = {
    # mean gradient: +4/16 for red, -4/16 for green
    "gradcam": [[0.125, 0, 0, 0]] * 3 + [[-0.125, -0.25, -0.25, -0.25]],
    # red: sum of activations 2, alpha = 1 / (2 + 2), weight = 4 alpha = 1; green: no positive slope
    "gradcam++": [[0.5, 0, 0, 0]] * 4,
    "hirescam": [[0.5, 0, 0, 0]] * 2 + [_0, [-1, -1, -1, -1]],
    "layercam": [[0.5, 0, 0, 0]] * 2 + [_0, _0],
    "elementwise": [[0.5, 0, 0, 0]] * 2 + [_0, _0],
    # gradient weighted by activation: red 2 x 0.5 of 4 x 0.5, green -4 x 1 of 4 x 1
    "xgradcam": [[0.25, 0, 0, 0]] * 3 + [[-0.75, -1, -1, -1]],
    # each channel set to zero: of the logit -2.5 = 1 - 4 + 0.5, red brings 1, green -4; over 2.5
    "ablationcam": [[0.2, 0, 0, 0]] * 3 + [[-1.4, -1.6, -1.6, -1.6]],
    # why 3, not 0, whose logit is always 0.5: the gradient of 3 alone
    "finercam": [[0.125, 0, 0, 0]] * 3 + [[-0.125, -0.25, -0.25, -0.25]],
    # red and green are uncorrelated, green varies more: the map is green minus its mean
    "eigencam": [[-0.25, -0.25, -0.25, -0.25]] * 3 + [[0.75, 0.75, 0.75, 0.75]],
}


@pytest.mark.parametrize("method", BY_HAND)
def test_4x4_example_worked_out_by_hand(toy, painted, method):
    """The grid must be the one worked out on paper, sign and size included."""
    contrast = 0 if method == "finercam" else None
    result = explain(toy, painted, method, target=3, layer="network.act", contrast=contrast)
    np.testing.assert_allclose(result.grid[0], BY_HAND[method], atol=1e-5)
    assert result.grid.dtype == result.heatmap.dtype == result.logits.dtype == np.float32
    assert result.layer == "network.act"


def test_heatmap_is_the_grid_resized_bilinearly(toy, painted):
    """Corners must keep their cell's value; pixel 15 lies 7.5/16 of the way to the next cell."""
    result = explain(toy, painted, "gradcam", target=3, layer="network.act")
    assert result.heatmap.shape == (1, 64, 64)
    assert result.heatmap[0, 0, 0] == pytest.approx(0.125)
    assert result.heatmap[0, 63, 63] == pytest.approx(-0.25)
    assert result.heatmap[0, 0, 15] == pytest.approx(0.125 * 8.5 / 16)
    assert result.cell_metres == 160


@pytest.mark.parametrize("family", ["cnn", "vit"])
@pytest.mark.parametrize("target", [None, 7])
def test_gradcam_is_the_textbook_formula(family, target, images):
    """Map = sum over channels of activation x mean gradient (Selvaraju et al. 2017)."""
    model = make(family)
    result = explain(model, images, "gradcam", target=target)
    classes = torch.from_numpy(result.target)
    activation, gradient = capture(model, images, result.layer, classes)
    if family == "vit":
        activation, gradient = patches(activation), patches(gradient)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    expected = (weights * activation).sum(dim=1).numpy()
    np.testing.assert_allclose(result.grid, expected, atol=1e-5 * np.abs(expected).max())


def test_layer_before_an_inplace_relu(images):
    """A map at a norm that an in-place ReLU follows must use the values before the ReLU."""
    model = make("cnn")
    layer = "network.layer4.1.bn1"
    result = explain(model, images, "hirescam", target=2, layer=layer)
    activation, gradient = capture(model, images, layer, torch.full((5,), 2))
    expected = (activation * gradient).sum(dim=1).numpy()
    np.testing.assert_allclose(result.grid, expected, atol=1e-5 * np.abs(expected).max())


# --- the library as an oracle --------------------------------------------------------------------


class Overwriting(nn.Module):
    """A network in which a layer that works in place follows each stage."""

    def __init__(self):
        super().__init__()
        sizes = ((3, 8), (8, 16), (16, 32))
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b)) for a, b in sizes
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        for stage in self.stages:
            x = F.relu(stage(x), inplace=True)
        return self.head(x.mean(dim=(2, 3)))


def test_refinecam_multiplies_gradcams_also_where_a_layer_works_in_place(images):
    """The map must be the product of Grad-CAMs that are made one at a time."""
    torch.manual_seed(0)
    model = create_model(Overwriting(), image_size=64)
    expected = torch.ones(len(images), 32, 32)
    for layer in anatomy(model).stages:
        grid = torch.from_numpy(explain(model, images, layer=layer).grid).clamp(min=0)
        grid = grid / grid.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)
        expected *= F.interpolate(grid[:, None], (32, 32), mode="bilinear")[:, 0]
    found = explain(model, images, "refinecam").grid
    np.testing.assert_allclose(found, expected, atol=1e-5)


def library_scaling(grid):
    """Clip, scale, resize and scale again, as pytorch-grad-cam does after its methods."""
    once = np.maximum(scale_cam_image(np.maximum(grid, 0), (64, 64)), 0)
    return scale_cam_image(once)


@pytest.mark.parametrize("method", LIBRARY)
def test_equals_pytorch_grad_cam(model, images, method):
    """After its clipping and scaling our map must be its own, for both families.

    The sign of an eigenvector is free, so either sign of ours may be the one.
    """
    ours = explain(model, images, method, target=4)
    reshape = patches if anatomy(model).family == "vit" else None
    layers = [model.get_submodule(ours.layer)]
    with LIBRARY[method](model, layers, reshape_transform=reshape) as cam:
        theirs = cam(images, [ClassifierOutputTarget(4)] * len(images))
    distance = np.abs(library_scaling(ours.grid) - theirs).max(axis=(1, 2))
    if method.startswith("eigen"):
        distance = np.minimum(
            distance, np.abs(library_scaling(-ours.grid) - theirs).max(axis=(1, 2))
        )
    assert distance.max() < 1e-4
    assert np.ptp(theirs) > 0.9


def library_map(cls, model, images, reshape, call, **arguments):
    """Return pytorch-grad-cam's own picture at our layer."""
    layer = [model.get_submodule(anatomy(model).layer)]
    with cls(model, layer, reshape_transform=reshape, **arguments) as theirs:
        return call(theirs, images)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "cls"), [("scorecam", ScoreCAM), ("ablationcam", AblationCAM)])
def test_methods_that_try_equal_pytorch_grad_cam(method, cls, images):
    """Where activations cannot be negative, masks, ablations and weights must be the library's."""
    model = make("cnn")
    with torch.no_grad():  # the library's maps turn round where the logit is negative
        chosen = int(model(images[:2]).amin(dim=0).argmax())
    ours = explain(model, images[:2], method, target=chosen)
    assert (ours.logits[:, chosen] > 0).all()
    targets = [ClassifierOutputTarget(chosen)] * 2
    theirs = library_map(cls, model, images[:2], None, lambda c, x: c(x, targets))
    assert np.abs(library_scaling(ours.grid) - theirs).max() < 1e-4


@pytest.mark.parametrize("layer", ["network.layer3", "network.layer3.1.bn1"])
def test_ablationcam_runs_the_head_of_its_own_tile(images, layer):
    """Below the last layer, shortcuts past it included, the head alone must be the whole pass."""
    model = make("cnn")
    result = explain(model, images[:2], "ablationcam", target=4, layer=layer)
    weights = []
    for channel in (0, 7):

        def ablate(module, inputs, output, channel=channel):
            output = output.clone()
            output[:, channel] = 0
            return output

        handle = model.get_submodule(layer).register_forward_hook(ablate)
        with torch.no_grad():
            weights.append(model(images[:2])[:, 4].numpy())
        handle.remove()
    whole = result.logits[:, 4]
    expected = (whole - np.array(weights)) / np.abs(whole)
    batch = Batch(model, images[:2], np.array([4, 4]), layer)
    found = _weights(batch)[:, [0, 7]].T
    np.testing.assert_allclose(found, expected, atol=2e-5)


def _weights(batch):
    """Return the channels' weights (N, C) that ablationcam spreads over its maps."""
    kept = []

    def keep(weights, activations):
        kept.append(weights)
        return weights

    with torch.no_grad(), mock.patch.object(cam, "_spread", keep):
        cam.ablationcam(batch)
    return kept[0].numpy()


@pytest.mark.parametrize("contrast", [None, 6])
def test_finercam_equals_pytorch_grad_cam(model, images, contrast):
    """Why the predicted class, not the nearest ones: the objective must be the library's."""
    logits = explain(model, images, "gradcam").logits
    if contrast is None:
        ours = explain(model, images, "finercam")
        arguments = {}
    else:
        keep = logits.argmax(axis=1) != contrast
        images = images[torch.from_numpy(keep)]
        ours = explain(model, images, "finercam", contrast=contrast)
        main = logits[keep].argmax(axis=1)
        targets = [FinerWeightedTarget(int(t), [contrast], 1) for t in main]
        arguments = {"targets": targets}
    reshape = patches if anatomy(model).family == "vit" else None
    theirs = library_map(FinerCAM, model, images, reshape, lambda c, x: c(x, **arguments))
    assert np.abs(library_scaling(ours.grid) - theirs).max() < 1e-4


def test_finercam_with_a_contrast_is_a_difference(images):
    """At the last layer of a ResNet, the map of A against B must be map of A - map of B."""
    model = make("cnn")
    finer = explain(model, images, "finercam", target="River", contrast="Highway")
    river, highway = (explain(model, images, "gradcam", target=t) for t in ("River", "Highway"))
    scale = np.abs(river.grid).max()
    np.testing.assert_allclose(finer.grid, river.grid - highway.grid, atol=1e-5 * scale)


@pytest.mark.parametrize("method", FORMS)
def test_pytorch_forms_equal_the_numpy_definitions(model, images, method):
    """What a GPU computes must be what pytorch-grad-cam's own functions compute."""
    batch = Batch(model, images, np.full(5, 4), anatomy(model).layer)
    theirs = METHODS[method].maps(batch)
    ours = FORMS[method](batch.activations, batch.gradients).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("shape", [(3, 40, 4, 5), (3, 6, 7, 7), (2, 9, 3, 3)])
def test_principal_map_equals_the_full_decomposition(shape):
    """Both ways (fewer cells, fewer channels) must give the SVD's map with the peak positive."""
    activations = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours, theirs = principal_map(activations), get_2d_projection(activations)
    flat, other = ours.reshape(len(ours), -1), theirs.reshape(len(ours), -1)
    sign = np.sign((flat * other).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(flat, sign * other, atol=1e-4)
    assert (flat.max(axis=1) == np.abs(flat).max(axis=1)).all()


def test_principal_map_where_two_directions_are_equally_strong():
    """With no first direction to find by squaring, the decomposition must still give one."""
    activations = np.zeros((1, 2, 1, 4), dtype=np.float32)
    activations[0, 0, 0, :2] = 1, -1
    activations[0, 1, 0, 2:] = 1, -1
    maps = principal_map(activations)
    assert np.linalg.norm(maps) == pytest.approx(2**0.5, rel=1e-5)


def test_principal_map_of_constant_and_broken_activations():
    """Activations without variation give zeros; those with NaN give NaN, for their map alone."""
    activations = np.random.default_rng(0).normal(size=(3, 6, 4, 4)).astype(np.float32)
    activations[0] = 1
    activations[1, 2, 3, 3] = np.nan
    maps = principal_map(activations)
    assert (maps[0] == 0).all()
    assert np.isnan(maps[1]).all()
    assert np.isfinite(maps[2]).all()


# --- identities ----------------------------------------------------------------------------------


def test_cam_identity_at_the_last_layer_of_a_resnet(images):
    """With average pooling and one linear layer, CAM = cells x Grad-CAM = cells x HiResCAM.

    And the map must sum to logit minus bias.
    """
    model = make("cnn")
    grad = explain(model, images, "gradcam", target="River")
    hires = explain(model, images, "hirescam", target="River")
    river = CLASSES.index("River")
    head = model.network.fc
    with torch.no_grad():
        features = model.network.forward_features(model.prepare(images))
        cam = torch.einsum("nchw,c->nhw", features, head.weight[river]).numpy()
    cells = grad.grid[0].size
    scale = np.abs(cam).max()
    np.testing.assert_allclose(grad.grid * cells, cam, atol=1e-5 * scale)
    np.testing.assert_allclose(hires.grid, grad.grid, atol=1e-5 * scale)
    np.testing.assert_allclose(
        hires.grid.sum(axis=(1, 2)),
        hires.logits[:, river] - float(head.bias[river].detach()),
        atol=1e-4,
    )


def test_identity_does_not_hold_below_the_last_layer(images):
    """Negative control: one stage earlier, HiResCAM and Grad-CAM must differ."""
    model = make("cnn")
    both = explain(model, images, ["gradcam", "hirescam"], layer="network.layer3")
    grad, hires = both["gradcam"].grid, both["hirescam"].grid
    assert np.abs(grad - hires).max() > 0.1 * np.abs(hires).max()


@pytest.mark.parametrize(("family", "method"), [pair for pair in PAIRS if pair[1] not in SLOW])
def test_batch_equals_one_by_one(family, method, images, monkeypatch):
    """Each map must depend on its own tile alone, whatever the batch."""
    monkeypatch.setattr("lulc_lib.explanations.pixels.STEPS", 6)  # enough: the chunks still differ
    monkeypatch.setattr("lulc_lib.explanations.pixels.SAMPLES", 4)
    model = make(family)
    together = explain(model, images, method)
    by_two = explain(model, images, method, batch_size=2)
    alone = [explain(model, images[i], method) for i in range(len(images))]
    limit = 1e-4 * np.abs(together.grid).max()
    np.testing.assert_allclose(by_two.grid, together.grid, atol=limit)
    np.testing.assert_allclose(np.concatenate([a.grid for a in alone]), together.grid, atol=limit)
    np.testing.assert_array_equal([int(a.target[0]) for a in alone], together.target)


def test_logits_and_targets_are_the_models_own(model, images):
    """Logits must be those of a plain pass, the default target the predicted class."""
    with torch.no_grad():
        expected = model(images).numpy()
    result = explain(model, images)
    np.testing.assert_allclose(result.logits, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(result.target, expected.argmax(axis=1))
    np.testing.assert_array_equal(result.predicted, result.target)
    assert result.method == "gradcam"
    assert len(result) == 5


@pytest.mark.parametrize(
    "target",
    [
        ["River", "Forest", "River", "SeaLake", "Highway"],
        [8, 1, 8, 9, 3],
        torch.tensor([8, 1, 8, 9, 3]),
        np.array([8, 1, 8, 9, 3], dtype=np.uint8),
        [8, "Forest", np.int64(8), "SeaLake", torch.tensor(3)],
    ],
)
def test_targets_by_name_and_one_per_tile(model, images, target):
    """Names and indices mean the same; each tile must get the map of its own class."""
    result = explain(model, images, "hirescam", target=target)
    np.testing.assert_array_equal(result.target, [8, 1, 8, 9, 3])
    forest = explain(model, images[1], "hirescam", target="Forest")
    np.testing.assert_allclose(result.grid[1], forest.grid[0], atol=1e-4)


def test_a_tileset_equals_its_images(model, images):
    """A TileSet, its uint8 images and its float images must give the same maps."""
    raw = (images * 255).round().to(torch.uint8)
    names = tuple(f"River/River_{i}.jpg" for i in range(5))
    tiles = TileSet(raw, torch.full((5,), 8), names, "drawn tiles", "test")
    grids = [explain(model, x, target=tiles.labels).grid for x in (tiles, raw, tiles.float())]
    np.testing.assert_array_equal(grids[0], grids[1])
    np.testing.assert_array_equal(grids[0], grids[2])


def test_bfloat16_correlates_with_float32(model, images):
    """Maps in reduced precision must tell the same story, and come back as float32."""
    family = anatomy(model).family
    for method in able(model):
        if METHODS[method].family not in ("cam", "attention") or method == "scorecam":
            continue
        if (family, method) == ("vit", "xgradcam"):
            continue  # it divides by a sum of tokens that may be near 0
        full = explain(model, images, method, target=1)
        reduced = explain(model, images, method, target=1, precision="bfloat16")
        assert reduced.grid.dtype == reduced.logits.dtype == np.float32
        for one, other in zip(full.grid, reduced.grid, strict=True):
            assert np.corrcoef(one.ravel(), other.ravel())[0, 1] >= 0.99
        assert (full.grid != reduced.grid).any()


# --- what must change a map, and what leaves it blank -------------------------------------------


@pytest.mark.parametrize("method", LIBRARY)
@pytest.mark.parametrize("family", ["cnn", "vit"])
def test_other_weights_other_map(family, method, images):
    """Negative control: a map that random weights leave alone would not explain the model.

    Eigen-CAM is close to failing this in a CNN: without training it mostly shows the zero padding
    at the border.
    """
    one = explain(make(family, seed=0), images, method, target=0).grid
    other = explain(make(family, seed=1), images, method, target=0).grid
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, other, strict=True)]
    assert np.abs(alike).mean() < (0.98 if method == "eigencam" else 0.95)


def test_class_blindness(model, images):
    """Maps of two classes must differ but for the methods that say they are class-blind."""
    blind = methods().set_index("name")["class-blind"]
    for method in LIBRARY:
        one, other = (explain(model, images, method, target=t) for t in (0, 1))
        assert (one.grid == other.grid).all() == blind[method]
        assert one.warnings.get("ClassBlind", ()) == (tuple(range(5)) if blind[method] else ())


def test_vit_default_layer_is_not_blank(images):
    """At the default layer of a ViT every map must say something."""
    model = make("vit")
    for method in LIBRARY:
        result = explain(model, images, method)
        assert result.layer == "network.blocks.2.norm1"
        assert result.grid.shape == (5, 8, 8)
        assert np.ptp(result.grid, axis=(1, 2)).min() > 0
        assert set(result.warnings) <= {"ClassBlind", "LowConfidence", "Unproven"}


@pytest.mark.parametrize("method", GRADIENT)
def test_vit_map_at_the_last_block_is_blank_and_says_so(method, images):
    """Negative control: no class token reads the last block's patches, so ZeroMap must be named."""
    result = explain(make("vit"), images, method, layer="network.blocks.2")
    assert (result.grid == 0).all()
    assert result.warnings["ZeroMap"] == (0, 1, 2, 3, 4)
    assert set(result.warnings) <= {"ZeroMap", "LowConfidence", "Unproven"}
    assert "ZeroMap in 5" in repr(result)


def test_flat_and_zero_maps_are_named_by_tile(toy, painted):
    """A tile of one colour gives a flat Grad-CAM, a black one a zero map; the third is fine."""
    red = torch.zeros(1, 3, 64, 64)
    red[:, 0] = 0.5
    tiles = torch.cat([red, torch.zeros_like(red), painted])
    result = explain(toy, tiles, "gradcam", target=3, layer="network.act")
    assert result.warnings["ZeroMap"] == (1,)
    assert result.warnings["FlatMap"] == (0,)
    assert "NaNMap" not in result.warnings


def test_each_warning_has_its_sentence(toy):
    """Every name that can be warned of has words, of one map's method and target."""
    grid = np.stack([np.zeros((2, 2)), np.ones((2, 2)), np.full((2, 2), np.nan)])
    made = {"grid": grid, "target": np.array([0, 3, 8]), "logits": np.zeros((3, 10))}
    found = finished(METHODS["eigencam"], None, None, "named by the caller", made)
    assert {name: maps[0] for name, maps in found.warnings.items()} == {
        "ZeroMap": 0, "FlatMap": 1, "NaNMap": 2, "ClassBlind": 0, "LowConfidence": 0,
        "Unproven": 0,
    }  # fmt: skip
    assert set(found.warnings) == set(WARNINGS)
    assert found.warned(0)["ZeroMap"].endswith("eigencam found nothing that counts for AnnualCrop")
    assert found.warned(2)["LowConfidence"].startswith("the model itself gives River")
    assert list(found.warned(1)) == ["FlatMap", "ClassBlind", "LowConfidence", "Unproven"]


def test_low_confidence_is_named_by_tile(toy, painted):
    """A target that the model hardly believes must be named, one it believes must not."""
    believed = torch.zeros(1, 3, 64, 64)
    believed[:, 0] = 1  # logit 3 is 4.5, all others 0.5
    result = explain(toy, torch.cat([painted, believed]), target=3, layer="network.act")
    assert result.warnings["LowConfidence"] == (0,)
    said = "the model itself gives Highway a probability below one half"
    assert result.warned(0)["LowConfidence"] == said
    assert "LowConfidence" not in result.warned(1)
    assert explain(toy, believed, target=2, layer="network.act").warnings["LowConfidence"] == (0,)


def test_broken_weights_give_named_nan_maps(images):
    """NaN in the weights must be named, not scaled into a picture."""
    model = make("cnn")
    with torch.no_grad():
        model.network.layer4[1].bn2.bias[0] = torch.nan
    for method in ("gradcam", "eigencam"):
        result = explain(model, images, method, target=0)
        assert result.warnings["NaNMap"] == (0, 1, 2, 3, 4)
        assert "ZeroMap" not in result.warnings


def test_gradcam_pp_and_layercam_are_never_negative_on_rectified_activations(images):
    """What `methods` says of their sign must hold: only a ViT's activations make them negative."""
    for method in ("gradcam++", "layercam"):
        assert explain(make("cnn"), images, method).grid.min() >= 0
        assert explain(make("vit"), images, method).grid.min() < 0


@pytest.mark.slow
def test_methods_that_cannot_be_negative_are_not(model, images):
    """What `methods` says of the sign must hold for every method, on both families."""
    signed = methods().set_index("name")["signed"]
    cheap = [name for name in able(model) if name not in SLOW]
    results = explain(model, images, cheap)
    negative = {name for name, result in results.items() if result.grid.min() < 0}
    assert negative <= set(signed.index[signed])
    assert {"gradcam", "random", "inputxgradient"} <= negative


# --- side effects --------------------------------------------------------------------------------


def marked(family):
    """Return a model in a mixed state: training, one module in eval mode, some weights frozen."""
    model = make(family).train()
    first = next(m for m in model.network.modules() if isinstance(m, nn.Conv2d))
    first.eval()
    first.weight.requires_grad_(False)
    return model


def state(model):
    return (
        hooks(model),
        [module.training for module in model.modules()],
        [(p.requires_grad, p.grad, p.dtype, p.device) for p in model.parameters()],
        [buffer.clone().tolist() for buffer in model.buffers()],
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *((f, m) for f in REFUSED for m in ("gradcam", "eigencam", "ablationcam", "smoothgrad")),
        ("cnn", "fullgrad"),
        ("vit", "legrad"),
    ],
)
def test_the_model_comes_back_as_it_was(family, method, images, monkeypatch):
    """Hooks, modes, gradient flags, statistics, grad mode and the generator must be as before."""
    monkeypatch.setattr("lulc_lib.explanations.pixels.SAMPLES", 3)  # each does the same again
    model = marked(family)
    before = state(model)
    explain(model, images[:2], method, precision="bfloat16")
    assert state(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["network.layer2", "network.fc"])
def test_the_model_comes_back_after_an_error(error, place, images):
    """The same must hold when the pass breaks below or above the layer, or is interrupted."""
    model = marked("cnn")
    before = state(model)

    def fail(*_):
        raise error("stop here")

    handle = model.get_submodule(place).register_forward_hook(fail)
    with pytest.raises(error, match="stop here"):
        explain(model, images)
    handle.remove()
    assert state(model) == before


class StopError(RuntimeError):
    """What a caller raises to end the work."""


@pytest.mark.parametrize("method", ["ablationcam", "contributions"])
def test_another_layer_is_no_remedy_for_a_stop_or_for_full_memory(toy, painted, method):
    """What `between` raises, and a head that finds no memory, must come through as they are."""
    before, passes = hooks(toy), []

    def stop(count):
        passes.append(count)
        if len(passes) == 2:  # the head alone
            raise StopError("stop here")

    def fail(head, inputs):
        if len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(StopError, match="stop here"):
        explain(toy, painted, method, between=stop)
    handle = toy.network.head.register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        explain(toy, painted, method)
    handle.remove()
    assert hooks(toy) == before


@pytest.mark.slow
def test_a_thousand_calls_leave_no_hook_and_no_memory(toy, painted):
    """A thousand calls, every fourth refused, must leave nothing on the model and in memory."""
    before, names = state(toy), ["gradcam", "eigencam", "ablationcam"]
    held = 0
    for i in range(1000):
        explain(toy, painted, names, layer="network.act")
        if i % 4 == 0:
            with pytest.raises(ValueError, match="no grid"):
                explain(toy, painted, layer="network.head")
        if i == 200:
            held = tensors()
    assert state(toy) == before
    assert tensors() <= held


def tensors():
    """Count the tensors that are alive."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def rectified(channels, made, stride):
    return nn.Conv2d(channels, made, 3, stride, 1), nn.BatchNorm2d(made), nn.ReLU()


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(
            *rectified(3, 4, 4), *rectified(4, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 10),
        ),
        lambda: create_model("vit", depth=3, embed_dim=8, num_heads=2, patch_size=16).network,
    ],
    ids=["cnn", "vit"],
)  # fmt: skip
def test_a_model_of_float64_has_the_maps_of_its_float32(build, images):
    """All methods that can explain the model must take its weights in double precision too."""
    torch.manual_seed(0)
    model = create_model(build(), image_size=64).eval()
    names = sorted({*able(model), *SUMS})  # both average their cells
    expected = explain(model, images[:1], names)
    for method, found in explain(model.double(), images[:1], names).items():
        grid = expected[method].grid
        np.testing.assert_allclose(found.grid, grid, atol=1e-3 * np.abs(grid).max(), err_msg=method)
        assert found.grid.dtype == grid.dtype


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_found_where_they_are_switched_off(model, images, mode):
    """A caller inside no_grad or inference_mode must get the same maps and keep the mode."""
    expected = explain(model, images).grid
    with mode():
        inside = images.clone()  # an inference tensor in inference mode
        result = explain(model, inside).grid
        assert not torch.is_grad_enabled()
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_frozen_model_and_images_that_want_gradients(images):
    """Neither frozen weights nor images with requires_grad must matter."""
    expected = explain(make("cnn"), images).grid
    frozen = make("cnn").requires_grad_(False)
    wanting = images.clone().requires_grad_()
    np.testing.assert_allclose(explain(frozen, wanting).grid, expected, atol=1e-6)
    assert wanting.grad is None


# --- layers and methods --------------------------------------------------------------------------


def test_layers_by_name_and_by_index(model, images):
    """The layer of a result must resolve in the model; indices count the stages."""
    names = dict(model.named_modules())
    stages = anatomy(model).stages
    for index, stage in enumerate(stages):
        by_index = explain(model, images[:1], layer=index)
        by_name = explain(model, images[:1], layer=stage)
        assert explain(model, images[:1], layer=np.int64(index)).layer == stage
        assert by_index.layer == stage
        assert stage in names
        np.testing.assert_array_equal(by_index.grid, by_name.grid)
    assert explain(model, images[:1]).layer == anatomy(model).layer


def test_layers_lists_what_can_be_chosen(model, images):
    """Each row of the table must be taken by number, with the grid it promises."""
    table = layers(model)
    assert list(table) == ["layer", "grid", "cell_metres", "auto"]
    assert table["layer"][table["auto"]].tolist() == [anatomy(model).layer]
    for number, row in table.iterrows():
        result = explain(model, images[:1], layer=number)
        assert result.layer == row["layer"]
        assert row["grid"] == "{}x{}".format(*result.grid.shape[1:])
        assert row["cell_metres"] == result.cell_metres
    with pytest.raises(TypeError, match="create_model"):
        layers(nn.Identity())


def test_no_method_means_gradcam(model, images):
    """Without a method, and with None, the map must be Grad-CAM's at the default layer."""
    plain, none = explain(model, images), explain(model, images, None)
    named = explain(model, images, "gradcam", layer=anatomy(model).layer)
    for result in (plain, none):
        assert (result.method, result.layer) == ("gradcam", named.layer)
        np.testing.assert_array_equal(result.grid, named.grid)


def averaged(seed=0):
    """Return a small ViT whose head reads the mean of its patch tokens."""
    torch.manual_seed(seed)
    model = create_model("vit", embed_dim=48, depth=3)
    for parameter in model.network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("name", ["cnn", "averaged", "vit"])
def test_the_default_layer_is_a_cut(name, images):
    """What a cut returned for another tile must give that tile's logits, whatever lies below.

    Negative controls: of a ViT with averaged tokens, the first norm of the last block is no cut,
    since the residual connection goes round it; of one with a class token, no layer is.
    """
    model = averaged() if name == "averaged" else make(name)

    def with_another(layer):
        kept = []
        hook = model.get_submodule(layer).register_forward_hook(lambda *a: kept.append(a[2]))
        expected = model(images[1:2])
        hook.remove()
        hook = model.get_submodule(layer).register_forward_hook(lambda *_: kept[0])
        found = model(images[:1])
        hook.remove()
        return (found - expected).abs().max() / expected.abs().max()

    with torch.no_grad():
        if name == "vit":
            assert with_another(anatomy(model).layer) > 1e-3
        else:
            assert with_another(anatomy(model).layer) < 1e-5
        if name == "averaged":
            assert with_another("network.blocks.2.norm1") > 1e-2


def test_numbers_of_layers_mean_what_they_meant():
    """Numbers must name a ViT's first norms as they always did; block outputs come after them."""
    model = averaged()
    norms = [f"network.blocks.{i}.norm1" for i in range(3)]
    outputs = [f"network.blocks.{i}" for i in range(3)]
    assert layers(model)["layer"].tolist() == norms + outputs
    tile = torch.rand(1, 3, 64, 64)
    taken = {n: explain(model, tile, layer=n).layer for n in range(-3, 6)}
    assert [taken[n] for n in (-3, -2, -1)] == norms
    assert [taken[n] for n in range(6)] == norms + outputs
    for number in (-4, 6):
        with pytest.raises(ValueError, match=rf"layer must lie in -3\.\.5, got {number}"):
            explain(model, tile, layer=number)


@pytest.mark.parametrize("layer", ["network.layer4", "network.layer3"])
def test_the_first_call_may_come_in_batches(layer, images):
    """A model whose anatomy nobody has asked for yet must be explained at a named layer."""
    fresh = make("cnn")
    fresh._anatomies.clear()
    found = explain(fresh, images, "gradcam", layer=layer, batch_size=2)
    np.testing.assert_allclose(
        found.grid, explain(fresh, images, "gradcam", layer=layer).grid, atol=1e-5
    )
    fresh._anatomies.clear()
    assert concepts(fresh, images, n=2, layer=layer).layer == layer


def test_several_methods_share_one_pass(model, images):
    """A list must give what single calls give, for one forward pass in all."""
    runs = []
    handle = model.register_forward_hook(lambda *_: runs.append(1))
    together = explain(model, images, [*LIBRARY, "finercam", "centre"], target=4)
    handle.remove()
    assert len(runs) == 1
    assert list(together) == [*LIBRARY, "finercam", "centre"]
    for name, result in together.items():
        alone = explain(model, images, name, target=4)
        assert result.method == name
        np.testing.assert_allclose(result.grid, alone.grid, atol=1e-6 * np.abs(alone.grid).max())
        assert result.warnings == alone.warnings
    assert together["centre"].layer is None


def test_methods_lists_what_explain_takes(toy, painted):
    """Each row of the table must be a method that runs, with its facts filled in."""
    table = methods()
    assert list(table) == ["name", "family", "signed", "class-blind", "cost", "source"]
    assert set(LIBRARY) <= set(table["name"])
    assert table["name"].is_unique
    assert set(table["family"]) <= {"cam", "attention", "gradient", "perturbation", "null"}
    assert (table[["cost", "source"]].map(len) > 0).all().all()
    model = make("vit")
    for name in table["name"]:
        taker = model if name in (*ATTENTION, "refinecam") else toy
        assert explain(taker, painted, name).method == name


def test_cache_returns_the_same_without_running(images, tmp_path, monkeypatch):
    """A second call must come from disk; other weights, modules, tiles or settings must not."""
    monkeypatch.setenv("LULC_CACHE", str(tmp_path))
    model, runs, run = make("cnn"), [], engine._run
    monkeypatch.setattr(engine, "_run", lambda *asked: runs.append(1) or run(*asked))
    first = explain(model, images, cache=True)
    count = len(runs)
    second = explain(model, images, cache=True)
    assert len(runs) == count
    np.testing.assert_array_equal(second.heatmap, first.heatmap)
    np.testing.assert_array_equal(second.target, first.target)
    assert second.warnings == first.warnings
    explain(model, images, "gradcam++", cache=True)
    explain(model, images, target=2, cache=True)
    explain(model, images[:3], cache=True)
    with torch.no_grad():
        model.network.fc.weight.mul_(-1)
    explain(model, images, cache=True)
    assert len(runs) == count + 4
    model.network.act1 = nn.SiLU()
    other = explain(model, images, cache=True)
    explain(model, images, cache=True)
    assert len(runs) == count + 5
    files = sorted(tmp_path.rglob("*.npz"))
    with model.network.layer2.register_forward_hook(lambda _, __, out: out * 0):
        hooked = explain(model, images, cache=True)
    assert len(runs) == count + 6
    assert sorted(tmp_path.rglob("*.npz")) == files
    assert not np.allclose(hooked.heatmap, other.heatmap)


def test_without_a_cache_folder_maps_are_made_each_time(images, tmp_path, monkeypatch):
    """Where nothing can be kept the map comes all the same, with a warning."""
    model = make("cnn")
    expected = explain(model, images)
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LULC_CACHE", str(tmp_path / "file"))
    with pytest.warns(CacheWarning, match="the explanations could not be kept"):
        found = explain(model, images, cache=True)
    np.testing.assert_array_equal(found.heatmap, expected.heatmap)


def test_kept_maps_do_not_outlive_the_code(images, tmp_path, monkeypatch):
    """Maps kept by other definitions must not come back."""
    monkeypatch.setenv("LULC_CACHE", str(tmp_path))
    model = make("cnn")
    explain(model, images, "centre", cache=True)
    monkeypatch.setattr("lulc_lib.storage._code_digest", lambda: "another")
    explain(model, images, "centre", cache=True)
    assert len(list(tmp_path.rglob("*.npz"))) == 2


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "gradcampp"}, ValueError, r"unknown method 'gradcampp'; did you mean 'gradcam"),
        ({"method": 3}, ValueError, "unknown method 3.*There are gradcam"),
        ({"method": []}, ValueError, "method is an empty list"),
        ({"method": ["gradcam", "atention"]}, ValueError, "unknown method 'atention'"),
        ({"method": "rollout"}, ValueError, "rollout needs one attention over all tokens.*toy"),
        (
            {"method": "edge", "layer": 0},
            ValueError,
            "edge looks at no single layer; leave",
        ),
        ({"method": "finercam", "contrast": "Sea"}, ValueError, "unknown class 'Sea'"),
        (
            {"method": "finercam", "target": 2, "contrast": 2},
            ValueError,
            "contrast and target are both HerbaceousVegetation for tile 0",
        ),
        (
            {"layer": "network.mapps"},
            ValueError,
            "no layer 'network.mapps'; did you mean 'network.m",
        ),
        ({"layer": ""}, ValueError, "no layer ''"),
        ({"layer": 9}, ValueError, r"layer must lie in -1\.\.0, got 9; the numbers.*network"),
        ({"layer": 1.5}, TypeError, "layer must be 'auto', a dotted name or an index, got 1.5"),
        ({"layer": True}, TypeError, "layer must be 'auto', a dotted name or an index, got True"),
        (
            {"layer": "network.head"},
            ValueError,
            r"returns \(1, 10\), which has no grid; choose",
        ),
        ({"target": 10}, ValueError, r"class index must lie in 0\.\.9, got 10"),
        ({"target": -1}, ValueError, r"class index must lie in 0\.\.9, got -1"),
        ({"target": "Rivver"}, ValueError, "unknown class 'Rivver'; the classes are AnnualCrop"),
        ({"target": [1, 2]}, ValueError, r"one for each of the 1 tiles, got shape \(2,\)"),
        ({"target": 1.0}, TypeError, "target must be None, a class index, a class name.*got 1.0"),
        ({"target": True}, TypeError, "target must be None.*got True"),
        ({"contrast": 2}, ValueError, r"gradcam takes no contrast, got 2.*use finercam"),
        ({"precision": "fp16"}, ValueError, "precision must be float32 or bfloat16, got 'fp16'"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": True}, ValueError, "batch_size must be a whole number .* got True"),
        ({"images": torch.zeros(0, 3, 64, 64)}, ValueError, "the batch is empty"),
        ({"images": torch.zeros(1, 3, 32, 32)}, ValueError, r"got \(1, 3, 32, 32\)"),
        ({"images": torch.full((1, 3, 64, 64), 255.0)}, ValueError, r"must lie in \[0, 1\]"),
        ({"images": torch.full((1, 3, 64, 64), torch.nan)}, ValueError, "NaN"),
        ({"images": torch.zeros(1, 3, 64, 64).double()}, TypeError, "float64"),
        ({"model": nn.Identity()}, TypeError, r"got Identity; wrap a module with create_model\("),
    ],
)
def test_errors_name_the_value_and_the_remedy(toy, painted, arguments, error, message):
    """Each mistake a user can make must be told from the others by its message."""
    with pytest.raises(error, match=message):
        explain(**{"model": toy, "images": painted, **arguments})


def test_empty_tileset_is_an_error(toy):
    """A selection that holds no tiles must be refused as such."""
    raw = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    tiles = TileSet(raw, torch.zeros(1, dtype=torch.int64), ("a",), "drawn tiles", "test")
    with pytest.raises(ValueError, match="the batch is empty"):
        explain(toy, tiles[[]])


class Odd(Toy):
    """A toy with layers that cannot be explained: used twice, unused, a side branch, a tuple."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Identity()
        self.unused = nn.Identity()
        self.side = nn.Identity()
        self.pair = Pair()

    def forward(self, images):
        maps = self.twice(self.twice(self.act(self.maps(images))))
        self.side(maps.detach())
        return self.head(self.pair(maps)[0].flatten(1))


class Pair(nn.Module):
    def forward(self, maps):
        return maps, maps


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("network.twice", "'network.twice' runs 2 times in one forward pass"),
        ("network.unused", "'network.unused' runs 0 times in one forward pass"),
        ("network.side", "the logits do not depend on layer 'network.side'"),
        ("network.pair", "'network.pair' returns a tuple, not one tensor"),
    ],
)
def test_layers_that_cannot_be_explained(painted, layer, message):
    """A layer without one output that reaches the logits must be refused, not drawn blank."""
    model = create_model(Odd(), image_size=64)
    before = hooks(model)
    with pytest.raises(ValueError, match=message):
        explain(model, painted, layer=layer)
    assert hooks(model) == before
    with contextlib.suppress(ValueError):
        explain(model, painted, "eigencam", layer=layer)
    assert hooks(model) == before


def test_a_vit_layer_without_its_tokens_is_refused(images):
    """Only patch tokens with their prefix have a grid: the pooled token has none."""
    with pytest.raises(ValueError, match=r"returns \(5, 48\), which has no grid; choose"):
        explain(make("vit"), images, layer="network.fc_norm")


def test_contrast_equal_to_the_predicted_class(toy, painted):
    """Without a target, the tile whose predicted class is the contrast must be named."""
    red = torch.zeros_like(painted)
    red[:, 0] = 1
    images = torch.cat([painted, red])
    assert explain(toy, images).predicted.tolist() == [0, 3]
    with pytest.raises(ValueError, match=r"both Highway for tile 1; .*or give the target"):
        explain(toy, images, "finercam", contrast=3)


def test_fullgrad_names_what_it_cannot_take(images):
    """A network that is not piecewise linear must be refused by the names of its parts."""
    with pytest.raises(ValueError, match=r"fullgrad is defined for.*has GELU, LayerNorm"):
        explain(make("vit"), images, "fullgrad")


def test_batch_size_follows_free_memory(images, monkeypatch):
    """Little free memory must mean small batches, and the same maps."""
    sizes = []
    model = make("cnn")
    anatomy(model)  # found by a pass of its own
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    plenty = explain(model, images, "gradcam")
    monkeypatch.setattr("lulc_lib.explanations.engine.free_memory", lambda: 1)
    scarce = explain(model, images, "gradcam")
    assert sizes == [5, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(scarce.grid, plenty.grid, atol=1e-5 * np.abs(plenty.grid).max())
