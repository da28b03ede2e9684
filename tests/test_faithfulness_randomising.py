"""Randomised copies have new weights throughout, and maps of the tile alone survive them."""

import numpy as np
import pytest
import torch
from torch import nn

from lulc_lib.drawn_tiles import synthetic
from lulc_lib.explanations import explain
from lulc_lib.faithfulness import (
    cascade,
    complexity,
    complexity_rise,
    randomised,
    rank_correlation,
    survival,
)
from lulc_lib.models import create_model


def edge(model, images, target):
    """Explain by the tile alone."""
    return explain(model, images, method="edge", target=target).heatmap


def gradient(model, images, target):
    """Explain by gradient x input."""
    return explain(model, images, method="inputxgradient", target=target).heatmap


def small_vit(**others):
    return create_model("vit", depth=2, embed_dim=24, num_heads=2, **others).eval()


@pytest.fixture(scope="module")
def few():
    return synthetic(1, seed=3)[:4]


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(1)
    return create_model("test_resnet", image_size=32).eval()


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_rank_correlation_has_known_answers():
    """Order alone counts; ties share a rank; equal flat maps are alike, one flat map is not."""
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((2, 3, 4))
    assert rank_correlation(maps, np.exp(maps)) == pytest.approx([1, 1])
    assert rank_correlation(maps, -maps) == pytest.approx([-1, -1])
    assert rank_correlation(maps * 0, maps * 0).tolist() == [1, 1]
    assert rank_correlation(maps * 0, maps).tolist() == [0, 0]
    one, other = np.array([[[1.0, 2, 2, 4]]]), np.array([[[1.0, 3, 2, 4]]])
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4
    assert rank_correlation(one, other) == pytest.approx([4.5 / np.sqrt(4.5 * 5)])
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3, 4\) and \(2, 3, 3\)"):
        rank_correlation(maps, maps[..., :3])
    assert rank_correlation(maps.tolist(), maps.tolist()).tolist() == [1, 1]
    for measure in (lambda broken: rank_correlation(maps, broken), complexity):
        with pytest.raises(ValueError, match="2 of 2 heat maps hold NaN"):
            measure(np.full_like(maps, np.nan))


@pytest.mark.parametrize(
    "make",
    [
        lambda: create_model("test_resnet", image_size=32),
        lambda: small_vit(class_token=True, global_pool="token", init_values=0.1),
        lambda: create_model("test_convnext", image_size=64),
        lambda: create_model(
            nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)),
            image_size=64,
        ),
    ],
    ids=["resnet", "vit", "convnext", "wrapped"],
)
def test_a_randomised_copy_has_other_weights_and_can_be_explained(make, few):
    """Every parameter with more than one value that is no norm's changes; the model does not."""
    torch.manual_seed(5)
    model = make().eval()
    with torch.no_grad():  # as if trained: away from what any initialisation gives
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    explain(model, few[:1])  # so that the model's layers are known
    before = weights(model)
    copy = randomised(model, seed=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, parameter in copy.named_parameters():
        assert parameter.numel() == 1 or not torch.equal(parameter, before[name]), name
    for name, value in randomised(model, seed=2).state_dict().items():
        assert torch.equal(value, copy.state_dict()[name]), name
    other = randomised(model, seed=3)
    assert not torch.equal(other(few.float()), copy(few.float()))
    assert np.isfinite(explain(copy, few).heatmap).all()
    assert copy._anatomies.keys() == model._anatomies.keys()
    assert not copy.training


def test_what_no_layer_draws_keeps_its_mean_and_deviation():
    """Class tokens, positions and scales are drawn as the trained ones were spread."""
    model = small_vit(class_token=True, global_pool="token", init_values=0.1)
    with torch.no_grad():
        model.network.pos_embed.normal_(3.0, 0.5)
    copy = randomised(model).requires_grad_(False)
    assert copy.network.pos_embed.mean() == pytest.approx(3.0, abs=0.1)
    assert copy.network.pos_embed.std() == pytest.approx(0.5, abs=0.1)
    assert torch.all(copy.network.blocks[0].ls1.gamma == 0.1)  # all alike, and so no deviation


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: small_vit(init_values=1e-5), ["ls1.gamma", "ls2.gamma"]),
        (
            lambda: create_model(
                "beit_base_patch16_224", image_size=64, depth=2, embed_dim=24, num_heads=2
            ),
            ["gamma_1", "gamma_2"],
        ),
    ],
    ids=["layers", "blocks"],
)
def test_scales_of_layerscale_are_drawn_as_the_trained_ones_are_spread(make, parts):
    """They do not go back to where they began, where a block adds nearly nothing."""
    model = make().requires_grad_(False)
    names = [f"network.blocks.{i}.{part}" for i in (0, 1) for part in parts]
    for name in names:
        model.get_parameter(name).normal_(0.5, 0.1)
    copy = randomised(model)
    for name in names:
        found, trained = copy.get_parameter(name), model.get_parameter(name)
        assert not torch.equal(found, trained)
        assert found.mean() == pytest.approx(0.5, abs=0.1)
        assert found.std() == pytest.approx(0.1, abs=0.06)


def test_a_copy_forgets_what_was_known_of_the_model(trained):
    """Statistics of batch norms start anew; card and training tiles are another model's."""
    copy = randomised(trained)
    norms = [m for m in copy.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.all(norm.running_mean == 0) for norm in norms)
    assert trained.trained_on is not None
    assert copy.trained_on is copy.card is copy.predictions_file is None


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (small_vit, ["head", "blocks.1", "blocks.0", "patch_embed"]),
        (
            lambda: create_model("test_resnet", image_size=32).eval(),
            ["fc", "layer4", "layer3", "layer2", "layer1", "conv1"],
        ),
    ],
    ids=["vit", "resnet"],
)
def test_the_cascade_goes_from_the_logits_down(make, names):
    """Each step changes its block and leaves those below; the last is the randomised copy."""
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3)
    before, global_state = weights(model), torch.get_rng_state()
    changed_before, steps = set(), []
    for name, copy in cascade(model, seed=4):
        torch.rand(3)  # what the caller draws changes nothing
        state = copy.state_dict()
        changed = {k for k, _ in copy.named_parameters() if not torch.equal(state[k], before[k])}
        assert changed_before < changed, name
        assert any(key.startswith(name) for key in changed - changed_before), name
        changed_before, last = changed, copy
        steps.append(name)
    after = torch.get_rng_state()
    torch.set_rng_state(global_state)
    for _ in steps:
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), after), "moved by our own draws alone"
    assert steps == [f"network.{name}" for name in names]
    assert changed_before == {key for key, _ in model.named_parameters()}
    whole = randomised(model, seed=4).state_dict()
    assert all(torch.equal(value, whole[key]) for key, value in last.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_edge_survives_randomisation_and_a_gradient_does_not(resnet, few):
    """The control: a map of the tile alone is the same for any weights."""
    assert survival(edge, resnet, few).tolist() == [1.0] * 4
    assert complexity_rise(edge, resnet, few).tolist() == [0.0] * 4
    assert np.abs(survival(gradient, resnet, few)).max() < 0.5


def test_the_same_class_is_explained_before_and_after(resnet, few):
    """The randomised copy is asked for the class that the model itself predicts."""
    asked = []

    def watched(model, images, target):
        asked.append(target.tolist())
        return edge(model, images, target)

    survival(watched, resnet, few)
    survival(watched, resnet, few, target="River")
    assert asked[0] == asked[1]
    assert asked[2:] == [[8] * 4] * 2


def test_a_map_that_differs_by_rounding_alone_is_flat():
    """One pixel that is an ulp higher, or as small as numbers are, makes no histogram fail."""
    almost = np.full((1, 8, 8), 0.3, np.float32)
    almost[0, 0, 0] = np.nextafter(np.float32(0.3), np.float32(1))
    tiny = np.zeros((1, 8, 8), np.float32)
    tiny[0, 0, 0] = 1e-45
    assert complexity(almost).tolist() == complexity(tiny).tolist() == [0.0]


def test_complexity_has_known_answers():
    """Flat: 0; two values alike often: log 2; all bins alike full: log 100."""
    rising = np.arange(6400.0).reshape(1, 80, 80)
    assert complexity(rising) == pytest.approx([np.log(100)])
    assert complexity(rising % 2) == pytest.approx([np.log(2)])
    assert complexity(np.zeros((2, 8, 8))).tolist() == [0, 0]


def test_the_rise_of_complexity_has_known_answers(resnet, few):
    """From two values to four alike often: by 100 %; from a flat map to another: not a number."""

    def steps(before, after):
        def explainer(model, images, target):
            count = before if model is resnet else after
            return np.tile(np.arange(64.0) % count, (len(images), 64, 1))

        return explainer

    assert complexity_rise(steps(2, 4), resnet, few) == pytest.approx([1.0] * 4)
    assert complexity_rise(steps(4, 2), resnet, few) == pytest.approx([-0.5] * 4)
    assert np.isnan(complexity_rise(steps(1, 2), resnet, few)).all()
    assert complexity_rise(steps(1, 1), resnet, few).tolist() == [0.0] * 4


def test_what_does_not_fit_is_named(resnet, few):
    """Explainers and targets whose maps do not fit."""
    with pytest.raises(ValueError, match=r"heatmap must have shape \(4, H, W\), got \(1, 64, 64\)"):
        survival(lambda *_: np.zeros((1, 64, 64)), resnet, few)
    with pytest.raises(ValueError, match=r"each of the 4 tiles, got shape \(2,\)"):
        survival(edge, resnet, few, target=[1, 2])
