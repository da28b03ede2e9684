"""Maps of randomised models and of changed tiles, and the verdict on a planted cue."""

import numpy as np
import pytest
import torch
from torch import nn

from lulc_lib.drawn_tiles import plant, synthetic
from lulc_lib.explanations import explain
from lulc_lib.faithfulness import (
    cascade,
    complexity,
    complexity_rise,
    finds_cue,
    randomised,
    rank_correlation,
    stability_noise,
    stability_turns,
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


# --- ranks ---------------------------------------------------------------------------------------


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


# --- randomisation -------------------------------------------------------------------------------


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
    assert steps == [f"network.{name}" for name in names]
    assert changed_before == {key for key, _ in model.named_parameters()}
    whole = randomised(model, seed=4).state_dict()
    assert all(torch.equal(value, whole[key]) for key, value in last.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not torch.equal(global_state, torch.get_rng_state())  # by our own draws alone


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


# --- stability -----------------------------------------------------------------------------------


def brightness(model, images, target):
    """Explain by a pixel's own brightness: turned with the tile, and nothing else."""
    return images.mean(1)


def test_no_noise_changes_nothing_and_much_noise_does(resnet, few):
    """Without noise a map is itself; the more noise, the less alike the maps."""
    assert stability_noise(gradient, resnet, few, sigma=0).tolist() == [1.0] * 4
    little = stability_noise(brightness, resnet, few, "River", sigma=0.001)
    much = stability_noise(brightness, resnet, few, "River", sigma=0.1)
    kept = np.isfinite(little) & np.isfinite(much)
    assert kept.any()
    assert (little > much)[kept].all()
    again = stability_noise(brightness, resnet, few, "River", sigma=0.1)
    np.testing.assert_array_equal(again, much)


class Corner(nn.Module):
    """Answers Forest where the left upper corner is bright, else AnnualCrop."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, x):
        bright = x[:, 0, :8, :8].mean((1, 2)) - 0.5
        return torch.stack([0 * bright, bright, *[bright * 0 - 1] * 8], dim=1) * self.scale


def test_turns_of_a_map_that_turns_with_the_tile_are_alike(few):
    """All seven other positions turned back give the same map; one that stays put does not."""
    model = create_model(Corner(), image_size=64, mean=(0, 0, 0), std=(1, 1, 1))
    images = few.float() * 0.4  # dark corners everywhere: the answer stays
    assert stability_turns(brightness, model, images) == pytest.approx([1.0] * 4)

    def still(model, images, target):
        return np.tile(np.arange(64.0), (len(images), 64, 1))

    # Back from the turns that keep or mirror the rows it is itself (1 of 7) or its negative (2 of
    # 7); across them it is uncorrelated.
    assert stability_turns(still, model, images) == pytest.approx([-1 / 7] * 4)


def test_only_positions_that_keep_the_answer_count(few):
    """A tile whose bright corner moves away answers otherwise: only its mirror image is left."""
    model = create_model(Corner(), image_size=64, mean=(0, 0, 0), std=(1, 1, 1))
    images = torch.zeros(2, 3, 64, 64)
    images[0, :, :8, :8] = 1  # stays in its corner when mirrored at the diagonal alone
    images[1, :, :8, :8], images[1, :, 20, 30] = 1, 0.5
    asked = []

    def watched(model, images, target):
        asked.append(len(images))
        return brightness(model, images, target)

    assert stability_turns(watched, model, images) == pytest.approx([1.0, 1.0])
    assert asked == [2, 2]
    # All logits hang on a hair: noise changes the answer in every draw.
    images = torch.full((1, 3, 64, 64), 0.5)
    images[:, :, 0, 0] += 1e-6
    odd = [stability_noise(brightness, model, images, sigma=0.3, seed=s)[0] for s in range(8)]
    assert 0 < np.isnan(odd).sum() < 8
    assert np.isfinite(stability_noise(brightness, model, images, sigma=0.3, draws=8)).all()


def test_refusals_name_the_value(resnet, few):
    """Settings out of range, and explainers whose maps do not fit."""
    with pytest.raises(ValueError, match=r"sigma must lie in \[0, 1\].*got -1 and 1"):
        stability_noise(edge, resnet, few, sigma=-1)
    with pytest.raises(ValueError, match=r"draws be at least 1, got 0\.02 and 0"):
        stability_noise(edge, resnet, few, draws=0)
    with pytest.raises(ValueError, match=r"heatmap must have shape \(4, H, W\), got \(1, 64, 64\)"):
        survival(lambda *_: np.zeros((1, 64, 64)), resnet, few)
    with pytest.raises(ValueError, match="2 targets do not fit 4 tiles"):
        survival(edge, resnet, few, target=[1, 2])


# --- the verdict on a planted cue ----------------------------------------------------------------


@pytest.fixture(scope="module")
def cues():
    return plant(synthetic(3, seed=6), seed=1)


def null_maps(tiles, model):
    return {n: explain(model, tiles, method=n).heatmap for n in ("centre", "blur", "edge")}


def test_maps_on_the_cue_find_it_and_nulls_do_not(cues, resnet):
    """The cue's own mask finds it, noise does not, and no null does."""
    nulls = null_maps(cues, resnet)
    found = finds_cue(cues.masks.numpy().astype(float), cues.masks, nulls)
    assert found.found
    assert (found.value, found.low, found.high, found.n) == (1.0, 1.0, 1.0, 30)
    noise = np.random.default_rng(0).standard_normal(cues.masks.shape)
    verdict = finds_cue(noise, cues.masks, nulls)
    assert not verdict.found
    assert verdict.low < 0.5 < verdict.high
    for name, area in verdict.nulls.items():
        assert area.low < 0.55, name
        assert area.high > 0.45, name
        assert not finds_cue(nulls[name], cues.masks, {}).found, name


def test_what_a_null_finds_too_is_no_verdict(cues):
    """A map above the least area still has to lie above every null."""
    inside = cues.masks.numpy() + 0.5 * np.random.default_rng(0).standard_normal((30, 64, 64))
    assert finds_cue(inside, cues.masks, {}).found
    assert not finds_cue(inside, cues.masks, {"blur": cues.masks.numpy()}).found
    assert not finds_cue(inside, cues.masks, {}, least=0.99).found


def test_the_verdict_refuses_what_cannot_be(cues):
    """No maps, and a bar below chance."""
    with pytest.raises(ValueError, match=r"least must lie in \[0.5, 1\), where 0.5 is chance"):
        finds_cue(np.zeros((30, 64, 64)), cues.masks, {}, least=0.4)
    with pytest.raises(ValueError, match="there are no maps"):
        finds_cue(np.zeros((0, 64, 64)), cues.masks[:0], {})
