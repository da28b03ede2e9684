"""Taking pixels away does what it says, and only there."""

import numpy as np
import pytest
import torch
from torch import nn

from lulc_lib import predictions
from lulc_lib.drawn_tiles import synthetic
from lulc_lib.faithfulness import (
    FILLS,
    deleting,
    deletion,
    deletion_order,
    fills,
    first_pixels,
    insertion,
    random_order,
    removal,
    removal_answers,
    removal_of,
    remove,
    swap,
)
from lulc_lib.models import EUROSAT_MEAN, create_model
from lulc_lib.predictions import predict


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
    noise = {"rtol": 0, "atol": 0.05} if fill == "linear" else {}
    torch.testing.assert_close(remove(even, quarter, fill), even, **noise)
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


def test_masks_may_be_turned_round_or_write_protected(tiles):
    """How an array lies in memory is no part of a mask."""
    mask = np.zeros((64, 64), dtype=bool)
    mask[5:20, 30:] = True
    expected = remove(tiles[:2], mask)
    assert torch.equal(remove(tiles[:2], np.ascontiguousarray(mask[:, ::-1])[:, ::-1]), expected)
    assert torch.equal(remove(tiles[:2], np.broadcast_to(mask, (2, 64, 64))), expected)
    assert torch.equal(
        swap(tiles[:2], tiles[2], mask[::-1]), swap(tiles[:2], tiles[2], mask[::-1].copy())
    )


def test_linear_filling_is_the_weighted_mean_of_the_neighbours(monkeypatch):
    """One lost pixel by hand, inside and in a corner; a ramp goes on through a hole."""
    monkeypatch.setattr(fills, "NOISE_SIGMA", 0.0)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    one = torch.zeros(64, 64, dtype=torch.bool)
    one[10, 20] = one[0, 63] = True
    filled = remove(image, one, "linear")
    around = image[0, :, 9:12, 19:22]
    beside = around[:, 0, 1] + around[:, 2, 1] + around[:, 1, 0] + around[:, 1, 2]
    corners = around[:, 0, 0] + around[:, 0, 2] + around[:, 2, 0] + around[:, 2, 2]
    torch.testing.assert_close(filled[0, :, 10, 20], beside / 6 + corners / 12)
    near = (image[0, :, 0, 62] + image[0, :, 1, 63]) / 6 + image[0, :, 1, 62] / 12
    torch.testing.assert_close(filled[0, :, 0, 63], near * 12 / 5)  # what lies in the tile
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    hole = torch.zeros(64, 64, dtype=torch.bool)
    hole[5:40, 12:50] = True
    torch.testing.assert_close(remove(ramp, hole, "linear"), ramp, rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of the other code
@pytest.mark.parametrize("kind", ["scattered", "two thirds"])
def test_linear_filling_agrees_with_a_direct_solver(kind, monkeypatch):
    """pytorch-grad-cam's copy of the authors' code solves the same equations, to 1e-3."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    monkeypatch.setattr(fills, "NOISE_SIGMA", 0.0)
    images = synthetic(n_per_class=1, seed=3).float()[:2]
    mask = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.6
    if kind == "two thirds":
        mask = torch.zeros(2, 64, 64, dtype=torch.bool)
        mask[:, 20:] = True
    solve = NoisyLinearImputer(noise=0)
    expected = torch.stack([solve(x, (~m).long()) for x, m in zip(images, mask, strict=True)])
    torch.testing.assert_close(remove(images, mask, "linear"), expected, rtol=0, atol=1e-3)


def test_noise_of_the_linear_filling_is_seeded_and_small(quarter):
    """The same seed gives the same noise for each tile of each batch, another seed another."""
    even = torch.full((3, 3, 64, 64), 0.5)
    noise = remove(even, quarter, "linear", seed=4)[:, :, :32, :32] - 0.5
    assert float(noise.std()) == pytest.approx(0.01, rel=0.1)
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(remove(even[:1], quarter, "linear", seed=4)[0, :, :32, :32] - 0.5, noise[0])
    assert not torch.equal(remove(even, quarter, "linear")[:, :, :32, :32] - 0.5, noise)
    for fill in ("blur", "mean", "texture"):
        assert torch.equal(remove(even, quarter, fill, seed=4), remove(even, quarter, fill))


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


@pytest.mark.parametrize("fill", FILLS)
def test_deletion_holds_one_batch(fill, monkeypatch):
    """Tiles are changed batch by batch, and the answers equal those of all together to the bit."""
    torch.manual_seed(0)
    model = create_model("test_resnet", image_size=32)
    tiles = synthetic(n_per_class=1, seed=3)
    order, target = random_order(10, seed=1), [int(label) for label in tiles.labels]
    shares = np.linspace(0, 1, 6)
    whole = torch.cat([remove(tiles, first_pixels(order, share), fill) for share in shares])
    rows = predict(model, whole).probabilities.reshape(6, 10, 10)
    expected = rows[:, np.arange(10), target].T.astype(np.float32)
    batches = []

    def watched(images, *others):
        batches.append(len(images))
        return remove(images, *others)

    monkeypatch.setattr(deleting, "remove", watched)
    monkeypatch.setattr(predictions, "_fitting", lambda tile_bytes: 7)
    for given in (tiles, tiles.images, tiles.float()):
        found = deletion(model, given, order, target, fill=fill, steps=5)
        assert max(batches) == 7
    assert sum(batches) == 3 * 60
    assert found.probability == pytest.approx(expected, abs=1e-6)
    monkeypatch.undo()
    for given in (tiles, tiles.float()):
        found = deletion(model, given, order, target, fill=fill, steps=5)
        assert np.array_equal(found.probability, expected)


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


@pytest.mark.parametrize("fill", ["blur", "mean"])
def test_insertion_is_deletion_read_backwards(fill, quarter):
    """Giving back the first share leaves what deleting in the reversed order leaves."""
    model = create_model(Brightness(), image_size=64)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.1
    images[:, :, :32, :32] += 0.9
    right = quarter.float().expand(2, 64, 64).numpy()
    order = deletion_order(right)
    found = insertion(model, images, order, "Forest", fill=fill, steps=8)
    mirrored = deletion(model, images, order[:, ::-1], "Forest", fill=fill, steps=8)
    assert np.array_equal(found.probability, mirrored.probability[:, ::-1])
    assert np.array_equal(found.logit, mirrored.logit[:, ::-1])
    assert found.logit_area == pytest.approx(np.trapezoid(found.logit, found.shares, axis=1))
    assert found.shares.tolist() == [i / 8 for i in range(9)]
    chance = insertion(model, images, random_order(2), [1, 1], fill=fill, steps=8)
    wrong = insertion(model, images, deletion_order(-right), "Forest", fill=fill, steps=8)
    assert (found.area > chance.area).all()
    assert (chance.area > wrong.area).all()


def test_removal_has_a_known_answer(quarter):
    """A logit that is 5 times the red of one quarter falls by 5 with it, and by nothing else."""
    model = create_model(Brightness(), image_size=64, mean=(0, 0, 0), std=(1, 1, 1))
    images = torch.zeros(2, 3, 64, 64)
    images[:, :, :32, :32] = 1
    right = quarter.float().expand(2, 64, 64).numpy()
    options = {"fill": "mean", "measure": "logit"}
    assert removal(model, images, right, "Forest", **options) == pytest.approx([5, 5], abs=1e-5)
    assert removal(model, images, -right, "Forest", **options) == pytest.approx([-5, -5], abs=1e-5)
    assert removal(model, images, right, "River", **options).tolist() == [0, 0]
    before, after = np.exp(5) / (np.exp(5) + 9), 1 / 10
    answers = removal_answers(model, images, right, fill="mean")
    assert removal_of(answers, np.array([1, 1]), "logit") == pytest.approx([5, 5], abs=1e-5)
    with pytest.raises(ValueError, match="4 answers belong to 2 tiles, got 1 targets"):
        removal_of(answers, np.array([1]))
    with pytest.raises(ValueError, match="measure must be one of probability, logit, got 'odds'"):
        removal(model, images, right, 1, measure="odds")
    found = removal(model, images, right, [1, 1], fill="mean")
    assert found == pytest.approx([before - after] * 2, abs=1e-6)
    for target in (None, np.array(1), torch.tensor([1, 1])):  # Forest is what it predicts
        assert np.array_equal(removal(model, images, right, target, fill="mean"), found)
        curve = deletion(model, images, deletion_order(right), target, fill="mean", steps=2)
        assert curve.target.tolist() == [1, 1]


def test_removal_without_a_share_or_an_order_says_nothing(tiles):
    """Share 0: exactly 0. A flat map: 0 on average. A map and its negative: opposite answers."""
    torch.manual_seed(0)
    model = create_model("test_resnet", image_size=32)
    rng = np.random.default_rng(0)
    heat = rng.random((len(tiles), 64, 64))
    target = tiles.labels.numpy()
    assert removal(model, tiles, heat, target, share=0, fill="mean").tolist() == [0] * len(tiles)
    one = removal(model, tiles, heat, target, fill="mean")
    other = removal(model, tiles.images, -heat, target, fill="mean")
    np.testing.assert_allclose(one, -other, atol=1e-7)
    flat = removal(model, tiles, np.zeros_like(heat), target, fill="mean", measure="logit")
    assert abs(flat.mean()) < 3 * flat.std() / np.sqrt(len(flat)) + 1e-7


def test_removal_takes_two_passes_a_tile(tiles):
    """The untouched tile cancels out and is not predicted."""
    seen = []
    model = create_model(Brightness(), image_size=64)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    removal(model, tiles, np.zeros((len(tiles), 64, 64)), 1, fill="mean")
    assert sum(seen) == 2 * len(tiles)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, m: remove(x, m, "blurr"), ValueError, "texture, linear, got 'blurr'"),
        (lambda x, m: remove(x, m.float()), TypeError, "mask must be bool"),
        (lambda x, m: remove(x, m[:32]), ValueError, r"or \(64, 64\), got \(32, 64\)"),
        (lambda x, m: deletion_order(np.zeros((64, 64))), ValueError, r"\(N, 64, 64\)"),
        (lambda x, m: deletion_order(np.full((1, 64, 64), np.nan)), ValueError, "NaN"),
        (lambda x, m: first_pixels(random_order(1), 2), ValueError, r"in \[0, 1\], got 2"),
        (lambda x, m: first_pixels(random_order(1)[0], 0.5), ValueError, r"\(N, 4096\)"),
        (lambda x, m: deletion(None, x, random_order(1), 1), ValueError, "order is of 1 tiles"),
        (lambda x, m: deletion(None, x, random_order(2), 1, steps=0), ValueError, "at least 1"),
        (lambda x, m: deletion(None, x, random_order(2), [1]), ValueError, r"got shape \(1,\)"),
        (lambda x, m: deletion(None, x, random_order(2), 2.0), TypeError, "target must be None"),
        (lambda x, m: deletion(None, x, random_order(2), "Fores"), ValueError, "unknown class"),
        (
            lambda x, m: deletion(None, x, np.zeros((2, 4096), int), 1),
            ValueError,
            r"each of the pixels 0\.\.4095 once, and that of tile 0 does not; deletion_order",
        ),
        (
            lambda x, m: insertion(None, x, random_order(2) - 1, 1),
            ValueError,
            "that of tile 0 does not",
        ),
        (
            lambda x, m: first_pixels(np.zeros((1, 4096)), 0.5),
            ValueError,
            "order must hold whole numbers of pixels, got float64",
        ),
        (lambda x, m: insertion(None, x, random_order(1), 1), ValueError, "order is of 1 tiles"),
        (lambda x, m: removal(None, x, np.zeros((1, 64, 64)), 1), ValueError, "of 1 tiles"),
        (
            lambda x, m: removal(None, x, np.zeros((2, 64, 64)), 1, share=-0.1),
            ValueError,
            r"in \[0, 1\], got -0.1",
        ),
        (
            lambda x, m: removal(None, x, np.zeros((2, 64, 64)), 1, measure="odds"),
            ValueError,
            "measure must be one of probability, logit, got 'odds'",
        ),
    ],
)
def test_errors_name_the_cause(call, error, message, quarter):
    """Each wrong argument is named with its value."""
    with pytest.raises(error, match=message):
        call(torch.rand(2, 3, 64, 64), quarter)
