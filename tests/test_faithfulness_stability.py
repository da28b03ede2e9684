"""Maps stay where the answer stays, or it is told that they do not."""

import numpy as np
import pytest
import torch
from torch import nn

from lulc_lib.drawn_tiles import synthetic
from lulc_lib.explanations import explain
from lulc_lib.faithfulness import stability_noise, stability_turns
from lulc_lib.models import create_model


def gradient(model, images, target):
    """Explain by gradient x input."""
    return explain(model, images, method="inputxgradient", target=target).heatmap


@pytest.fixture(scope="module")
def few():
    return synthetic(1, seed=3)[:4]


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(1)
    return create_model("test_resnet", image_size=32).eval()


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


def test_maps_may_be_turned_round_or_write_protected(resnet, few):
    """How an explainer's arrays lie in memory is no part of its maps."""

    def mirrored(model, images, target):
        return images.mean(1).double().numpy()[:, :, ::-1]

    def protected(model, images, target):
        maps = np.ascontiguousarray(mirrored(model, images, target))
        maps.flags.writeable = False
        return maps

    found = stability_turns(mirrored, resnet, few)
    assert np.array_equal(stability_turns(protected, resnet, few), found, equal_nan=True)


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
    """Settings out of range."""
    with pytest.raises(ValueError, match=r"sigma must lie in \[0, 1\], got -1"):
        stability_noise(brightness, resnet, few, sigma=-1)
    with pytest.raises(ValueError, match="draws must be a whole number of at least 1, got 0"):
        stability_noise(brightness, resnet, few, draws=0)
