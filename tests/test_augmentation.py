"""Batches are varied as the settings say, and labels follow."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
)

from lulc_lib import augmentation
from lulc_lib.augmentation import augment, draw_turns, mix
from lulc_lib.config import RunConfig
from lulc_lib.drawn_tiles import synthetic
from lulc_lib.models import EUROSAT_MEAN

NONE = RunConfig(augment="none")
TILES = synthetic(1, seed=1)


def varied(images, config, size=64):
    rng = np.random.default_rng(0)
    return augment(images, draw_turns(len(images), config, rng), config, rng, size)


def test_d4_gives_the_eight_symmetries():
    """All eight flips and turns occur, each image is one of them, and labels need no change."""
    images = TILES.images[:1].repeat(64, 1, 1, 1)
    config = replace(NONE, augment="d4")
    out = varied(images, config)
    tile = images[:1].float() / 255
    turns = [torch.rot90(t, k, (2, 3)) for t in (tile, tile.flip(3)) for k in range(4)]
    seen = {next(i for i, t in enumerate(turns) if torch.equal(t[0], x)) for x in out}
    assert seen == set(range(8))


def test_flip_mirrors_left_and_right_alone():
    """Horizontal flips, nothing else."""
    images = TILES.images[:1].repeat(32, 1, 1, 1)
    out = varied(images, replace(NONE, augment="flip"))
    tile = images[0].float() / 255
    kinds = {torch.equal(x, tile) + 2 * torch.equal(x, tile.flip(2)) for x in out}
    assert kinds == {1, 2}


def test_shift_moves_the_tile_and_reflects_its_edge():
    """A shift by (dy, dx) is the tile's own window; the border shows the mirrored tile."""
    tile = torch.arange(64 * 64).remainder(251).to(torch.uint8).view(1, 1, 64, 64)
    images = tile.repeat(200, 3, 1, 1)
    out = varied(images, replace(NONE, shift=2)) * 255
    padded = np.pad(tile[0, 0].numpy(), 2, mode="reflect")
    windows = [padded[dy : dy + 64, dx : dx + 64] for dy in range(5) for dx in range(5)]
    found = {
        next(i for i, w in enumerate(windows) if np.array_equal(w, x[0].round().numpy()))
        for x in out
    }
    assert len(found) == 25


def test_crop_of_the_whole_tile_is_the_tile():
    """The limit: a crop of all of the tile at its own size changes nothing."""
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)

    class Whole:
        def uniform(self, low, high, n):
            return np.full(n, high if low == 0.5 else 0.0)

    out = augmentation._cropped(images.float() / 255, 0.5, 64, Whole())
    assert torch.allclose(out, images.float() / 255, atol=1e-5)


def test_crops_come_at_the_size_inside():
    """The earlier project's random resized crop arrives at 224 px, in range."""
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    out = varied(images, replace(NONE, crop_scale=0.08), 224)
    assert out.shape == (4, 3, 224, 224)
    assert 0 <= float(out.min()) <= float(out.max()) <= 1


def test_mixup_blends_images_and_targets_alike():
    """Image and target have the same share of the same partner; without mixup nothing changes."""
    labels = torch.arange(10)
    images = F.one_hot(labels, 10).float().view(10, 1, 1, 10).expand(10, 3, 10, 10)
    x, y = mix(images, labels, replace(NONE, mixup=0.5), np.random.default_rng(3))
    assert torch.allclose(x[:, 0, 0], y)
    assert torch.allclose(y.sum(1), torch.ones(10))
    assert torch.equal(y.argmax(1), labels)
    same_x, same_y = mix(images, labels, NONE, np.random.default_rng(3))
    assert same_x is images
    assert same_y is labels


def test_turns_are_indices_of_the_ways_that_the_setting_knows():
    """A way is counted from 0 among those of its setting, all of which come up."""
    rng = np.random.default_rng(0)
    kinds = {a: set(draw_turns(99, replace(NONE, augment=a), rng)) for a in augmentation.WAYS}
    eight = set(range(8))
    assert kinds == {"none": {0}, "flip": {0, 1}, "d4": eight, "d4_cycle": eight}


def test_cutmix_puts_in_a_patch_and_its_share_of_the_target():
    """Each pixel is the image's own or its partner's; the target has the shares of the areas."""
    labels = torch.arange(10)
    images = labels.float().view(10, 1, 1, 1).expand(10, 3, 64, 64) / 10
    x, y = mix(images, labels, replace(NONE, cutmix=1.0), np.random.default_rng(1))
    own = (x[:, 0] == images[:, 0]).float().mean((1, 2))
    assert torch.allclose(y.sum(1), torch.ones(10))
    changed = own < 1
    assert changed.sum() >= 8
    assert torch.allclose(y[changed, labels[changed]], own[changed], atol=1e-6)
    assert float(own.min()) >= 0.5
    assert torch.equal(images[:, 0, 0, 0], labels / 10)  # the batch given is as it was


def test_mixup_and_cutmix_take_turns():
    """With both on, some batches are blended and some patched."""
    labels = torch.arange(10)
    images = labels.float().view(10, 1, 1, 1).expand(10, 3, 64, 64) / 10
    config, patched = replace(NONE, mixup=1.0, cutmix=1.0), []
    for seed in range(20):
        x, _ = mix(images, labels, config, np.random.default_rng(seed))
        patched.append(bool(x.amax((1, 2, 3)).gt(x.amin((1, 2, 3))).any()))
    assert {False, True} == set(patched)


def test_probabilities_are_mixed_like_labels():
    """A teacher's answers, given as targets, are blended by the same share."""
    labels = torch.arange(10)
    images = torch.rand(10, 3, 8, 8)
    hard = mix(images, labels, replace(NONE, mixup=0.5), np.random.default_rng(3))[1]
    soft = F.one_hot(labels, 10).float()
    assert torch.equal(
        mix(images, soft, replace(NONE, mixup=0.5), np.random.default_rng(3))[1], hard
    )


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_colours_are_changed_as_torchvision_does(share):
    """Three factors per image, applied in order, equal torchvision's own functions."""
    images = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    rng = np.random.default_rng(4)
    config = replace(NONE, colour=share)
    out = augment(images, draw_turns(6, config, rng), config, rng, 64)
    factors = np.random.default_rng(4).uniform(1 - share, 1 + share, (3, 6))
    assert np.ptp(factors, axis=1).min() > 0.2 * share
    for image, found, (bright, contrast, saturation) in zip(images, out, factors.T, strict=True):
        wanted = adjust_brightness(image.float() / 255, bright)
        wanted = adjust_saturation(adjust_contrast(wanted, contrast), saturation)
        assert torch.allclose(found, wanted, atol=2e-3)  # torchvision's weights have four digits
    assert out.min() >= 0
    assert out.max() <= 1


def test_without_a_share_no_colour_changes():
    """0 leaves each pixel and every other draw as they were."""
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    plain = replace(NONE, shift=2)
    assert torch.equal(varied(images, plain), varied(images, replace(plain, colour=0.0)))
    assert torch.equal(varied(images, NONE), images.float() / 255)


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_erasing_blanks_one_rectangle_of_some_images(chance):
    """Erased pixels have EuroSAT's mean colour and fill a rectangle of 2 to 33 % of the tile."""
    images = torch.zeros(200, 3, 64, 64, dtype=torch.uint8)
    out = varied(images, replace(NONE, erase=chance))
    blank = (out - torch.tensor(EUROSAT_MEAN).view(1, 3, 1, 1)).abs().amax(1) < 1e-6
    assert float(blank.any(2).any(1).float().mean()) == pytest.approx(chance, abs=0.12)
    for one in blank[blank.any(2).any(1)]:
        area = int(one.any(0).sum()) * int(one.any(1).sum())
        assert area == int(one.sum())
        assert 0.01 < area / 64**2 < 0.36


def test_in_a_cycle_each_tile_meets_each_turn_once():
    """Eight epochs show all eight turns of each tile, whatever the order; starts differ by seed."""
    order = np.random.default_rng(1).permutation(50)
    met = np.stack([augmentation.turns_in_cycle(order, 50, epoch, 7) for epoch in range(8)])
    assert all(sorted(turns) == list(range(8)) for turns in met.T.tolist())
    assert len(set(met[0].tolist())) > 4
    again = augmentation.turns_in_cycle(order[::-1], 50, 3, 7)
    np.testing.assert_array_equal(again[::-1], met[3])
    assert (augmentation.turns_in_cycle(order, 50, 0, 8) != met[0]).any()
