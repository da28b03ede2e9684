"""Taking pixels away does what it says, and only there."""

import numpy as np
import pytest
import torch
from torch import nn

from lulc_lib.faithfulness import (
    FILLS,
    deletion,
    deletion_order,
    first_pixels,
    random_order,
    remove,
    swap,
)
from lulc_lib.models import EUROSAT_MEAN, create_model
from lulc_lib.synthetic import synthetic


class Brightness(nn.Module):
    """Calls a tile a Forest by the red of its left upper quarter, and nothing else."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 32, stride=32)
        self.fc = nn.Linear(8, 10)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            self.conv.weight[0, 0] = 1 / 32**2
            self.fc.weight[1, 0] = 5.0

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


@pytest.fixture
def quarter():
    """Mask the left upper quarter."""
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:32, :32] = True
    return mask


@pytest.mark.parametrize("fill", FILLS)
def test_only_the_hole_changes(fill, quarter):
    """Outside the mask a tile stays as it is, an empty mask changes nothing; values stay valid."""
    tiles = synthetic(n_per_class=1, seed=3)
    changed = remove(tiles, quarter, fill)
    assert changed.dtype == torch.float32
    assert changed.shape == (10, 3, 64, 64)
    assert torch.equal(changed[:, :, ~quarter], tiles.float()[:, :, ~quarter])
    assert (changed[:, :, quarter] != tiles.float()[:, :, quarter]).any()
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(remove(tiles, torch.zeros(64, 64, dtype=torch.bool), fill), tiles.float())


@pytest.mark.parametrize("fill", FILLS)
def test_nothing_of_the_hole_shines_through(fill, quarter):
    """What is taken away does not matter for what comes in its place."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images[1, :, ~quarter] = images[0, :, ~quarter]
    one, other = remove(images, quarter, fill)
    assert torch.equal(one, other)


@pytest.mark.parametrize("fill", FILLS)
def test_one_colour_stays_one_colour(fill, quarter):
    """A hole in an even tile is filled with its colour; a tile that is all hole gets EuroSAT's."""
    even = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(remove(even, quarter, fill), even)
    gone = remove(even, torch.ones(64, 64, dtype=torch.bool), fill)
    torch.testing.assert_close(gone[0, :, 5, 7], torch.tensor(EUROSAT_MEAN))
    assert gone.std((2, 3)).max() < 1e-6


def test_fills_have_known_answers():
    """A tile black on the left and white on the right, with its rightmost strip taken away."""
    image = torch.zeros(1, 3, 64, 64)
    image[..., 32:] = 1
    strip = torch.zeros(64, 64, dtype=torch.bool)
    strip[:, 48:] = True
    mean = remove(image, strip, "mean")
    torch.testing.assert_close(mean[0, 0, 10, 60], torch.tensor(16 / 48))
    mirrored = remove(image, strip, "texture")
    assert mirrored[..., 48:63].eq(1).all()  # mirrored at column 47: 48..63 show 46..31
    assert mirrored[..., 63].eq(0).all()
    image[..., 40] = 0.5
    assert remove(image, strip, "texture")[0, 0, 10, 54] == 0.5  # 47 - (54 - 47) = 40
    blurred = remove(image, strip, "blur")[0, 0, 10, 48:]
    assert (blurred.diff() >= -1e-6).all()  # the farther from the dark side the brighter
    assert blurred[-1] > mean[0, 0, 10, 60]


def test_swap_takes_the_other_tile_under_the_mask(quarter):
    """Inside the mask the other tile, outside the own one; one other tile serves all."""
    images, other = torch.rand(3, 3, 64, 64), torch.rand(1, 3, 64, 64)
    swapped = swap(images, other, quarter)
    assert torch.equal(swapped[2, :, quarter], other[0, :, quarter])
    assert torch.equal(swapped[2, :, ~quarter], images[2, :, ~quarter])
    with pytest.raises(ValueError, match="2 other images do not fit 3"):
        swap(images, torch.rand(2, 3, 64, 64), quarter)


def test_orders_follow_the_map():
    """Highest first; equals in a fixed random order; every pixel once."""
    heat = np.zeros((2, 64, 64), dtype=np.float32)
    heat[0, 10, 20], heat[0, 63, 63], heat[0, 5, 5] = 3, 2, -1
    order = deletion_order(heat)
    assert order[0, :2].tolist() == [10 * 64 + 20, 63 * 64 + 63]
    assert order[0, -1] == 5 * 64 + 5
    assert (np.sort(order, axis=1) == np.arange(4096)).all()
    assert (order[1] == deletion_order(heat)[1]).all()
    assert np.abs(np.corrcoef(order[1], np.arange(4096))[0, 1]) < 0.1  # flat: at random
    assert (random_order(2, 1)[0] != random_order(2, 2)[0]).any()


def test_first_pixels_take_a_share():
    """So many pixels, those that come first."""
    order = random_order(2)
    mask = first_pixels(order, 0.25)
    assert mask.sum((1, 2)).tolist() == [1024, 1024]
    assert mask[0].flatten()[order[0, 1023]]
    assert not mask[0].flatten()[order[0, 1024]]
    assert not first_pixels(order, 0).any()
    assert first_pixels(order, 1).all()


def test_deletion_tells_a_map_that_is_right_from_one_that_is_not(quarter):
    """Where the model looks at one quarter, an order that begins there falls first."""
    model = create_model(Brightness(), image_size=64)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.1
    images[:, :, :32, :32] += 0.9
    right = quarter.float().expand(2, 64, 64).numpy()
    good = deletion(model, images, deletion_order(right), "Forest", fill="mean", steps=8)
    bad = deletion(model, images, deletion_order(-right), "Forest", fill="mean", steps=8)
    chance = deletion(model, images, random_order(2), [1, 1], fill="mean", steps=8)
    assert (good.area < chance.area).all()
    assert (chance.area < bad.area).all()
    assert good.shares.tolist() == [i / 8 for i in range(9)]
    assert good.probability.shape == (2, 9)
    torch.testing.assert_close(  # whatever the order, both ends are the same
        torch.from_numpy(good.probability[:, [0, -1]]),
        torch.from_numpy(bad.probability[:, [0, -1]]),
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, m: remove(x, m, "blurr"), ValueError, "one of blur, mean, texture, got 'blurr'"),
        (lambda x, m: remove(x, m.float()), TypeError, "mask must be bool"),
        (lambda x, m: remove(x, m[:32]), ValueError, r"or \(64, 64\), got \(32, 64\)"),
        (lambda x, m: deletion_order(np.zeros((64, 64))), ValueError, r"\(N, 64, 64\)"),
        (lambda x, m: deletion_order(np.full((1, 64, 64), np.nan)), ValueError, "NaN"),
        (lambda x, m: first_pixels(random_order(1), 2), ValueError, r"in \[0, 1\], got 2"),
        (lambda x, m: first_pixels(random_order(1)[0], 0.5), ValueError, r"\(N, 4096\)"),
        (lambda x, m: deletion(None, x, random_order(1), 1), ValueError, "order is of 1 tiles"),
        (lambda x, m: deletion(None, x, random_order(2), 1, steps=0), ValueError, "at least 1"),
        (lambda x, m: deletion(None, x, random_order(2), [1]), ValueError, "1 targets do not fit"),
        (lambda x, m: deletion(None, x, random_order(2), "Fores"), ValueError, "unknown class"),
    ],
)
def test_errors_name_the_cause(call, error, message, quarter):
    """Each wrong argument is named with its value."""
    with pytest.raises(error, match=message):
        call(torch.rand(2, 3, 64, 64), quarter)
