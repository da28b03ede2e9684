"""Removing one patch after another, of a model and of a copy that is accustomed to it."""

import numpy as np
import pytest
import torch
from torch import nn

from lulc_lib.faithfulness import adapted, patch_falls, remove, single_deletion
from lulc_lib.faithfulness.grids import cell_numbers, cell_sums, edges
from lulc_lib.faithfulness.patches import falls_of, patch_answers, patch_masks
from lulc_lib.models import create_model
from lulc_lib.predictions import predict


class Patches(nn.Module):
    """The logit of Forest is a weighted sum of the mean red of 4x4 patches."""

    def __init__(self, weights):
        super().__init__()
        self.fc = nn.Linear(16, 10)
        with torch.no_grad():
            self.fc.weight.zero_()
            self.fc.bias.zero_()
            self.fc.weight[1] = torch.as_tensor(weights)

    def forward(self, x):
        return self.fc(nn.functional.avg_pool2d(x[:, :1], 16).flatten(1))


@pytest.fixture
def weights():
    return np.random.default_rng(0).standard_normal(16).astype(np.float32)


@pytest.fixture
def plain(weights):
    """A model in whose logits the pixels count as they are."""
    return create_model(Patches(weights), image_size=64, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture
def even():
    """Three tiles of 4x4 patches, each of one colour, and the colours, (3, 16)."""
    values = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images = values.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3).expand(3, 3, 64, 64)
    return images.contiguous(), values.flatten(1).numpy().astype(np.float64)


def by_hand(values, weights):
    """Return the falls of `Patches` where a patch takes the mean colour of the 15 others."""
    others = (values.sum(axis=1, keepdims=True) - values) / 15
    return weights * (values - others)


def test_falls_have_a_known_answer(plain, even, weights):
    """Each patch's fall is its weight times what its colour loses; other classes do not fall."""
    images, values = even
    found = patch_falls(plain, images, "Forest", fill="mean")
    assert found.shape == (3, 16)
    np.testing.assert_allclose(found, by_hand(values, weights), atol=1e-5)
    assert not patch_falls(plain, images, "River", fill="mean").any()
    for target in (torch.tensor(1), np.array(1), ["Forest", 1, np.int64(1)]):
        assert np.array_equal(patch_falls(plain, images, target, fill="mean"), found)
    predicted = predict(plain, images).predicted
    own = patch_falls(plain, images, predicted, fill="mean")
    assert np.array_equal(patch_falls(plain, images, None, fill="mean"), own)
    logits = predict(plain, images).logits[:, 1].astype(np.float64)
    before = np.exp(logits) / (np.exp(logits) + 9)
    left = np.exp(logits[:, None] - found)
    fall = patch_falls(plain, images, 1, fill="mean", measure="probability")
    np.testing.assert_allclose(fall, before[:, None] - left / (left + 9), atol=1e-6)


def test_falls_are_those_of_patches_removed_by_hand(tiles):
    """Batch by batch, of a TileSet or uint8, with sides that do not divide the tile too."""
    torch.manual_seed(0)
    model = create_model("test_resnet", image_size=32)
    some, target = tiles[:4], [3, 1, 4, 1]
    found = patch_falls(model, some, target, side=3)
    whole = predict(model, some).logits
    for patch, mask in enumerate(patch_masks(64, 64, 3)[:-1]):
        left = predict(model, remove(some, mask)).logits
        expected = (whole - left)[np.arange(4), target]
        np.testing.assert_allclose(found[:, patch], expected, atol=1e-4)
    np.testing.assert_allclose(patch_falls(model, some.images, target, side=3), found, atol=1e-6)


def test_falls_take_a_pass_for_each_patch_and_one_for_the_tile(plain, even):
    """N * (side * side + 1) passes."""
    seen = []
    plain.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    patch_falls(plain, even[0], 1, side=2, fill="mean")
    assert sum(seen) == 3 * 5


def test_single_deletion_tells_the_right_map_from_others(plain, even, weights):
    """The falls as a map: 1; turned: -1; flat: 0; the map need not know how large the falls are."""
    images, values = even
    falls = patch_falls(plain, images, 1, fill="mean")
    right = by_hand(values, weights).reshape(3, 4, 4).repeat(16, axis=1).repeat(16, axis=2)
    np.testing.assert_allclose(single_deletion(right, falls), 1, atol=1e-6)
    np.testing.assert_allclose(single_deletion(7 * right + 3, falls), 1, atol=1e-6)
    np.testing.assert_allclose(single_deletion(-right, falls), -1, atol=1e-6)
    assert single_deletion(np.full((3, 64, 64), 0.1), falls).tolist() == [0, 0, 0]
    assert single_deletion(np.zeros((3, 64, 64)), falls).tolist() == [0, 0, 0]
    assert single_deletion(right, np.zeros((3, 16))).tolist() == [0, 0, 0]
    np.testing.assert_allclose(single_deletion(right[:, ::4, ::4], falls), 1, atol=1e-6)  # a grid
    small, large = single_deletion(1e-300 * right, falls), single_deletion(1e200 * right, falls)
    np.testing.assert_allclose([small, large], 1, atol=1e-6)


def test_single_deletion_is_pearsons_correlation(plain, tiles):
    """NumPy agrees; maps of noise are at chance on average, where the falls are not."""
    rng = np.random.default_rng(0)
    falls = patch_falls(plain, tiles, 1, fill="mean")
    noise = rng.standard_normal((len(tiles), 64, 64))
    found = single_deletion(noise, falls)
    sums = noise.reshape(-1, 4, 16, 4, 16).sum(axis=(2, 4)).reshape(-1, 16)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(sums, falls, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert abs(found.mean()) < 0.12  # three standard errors of 60 correlations over 16 patches


@pytest.mark.parametrize(("length", "side"), [(64, 4), (64, 3), (7, 2), (5, 5)])
def test_cells_are_whole_and_differ_by_one_pixel_at_most(length, side):
    """Every pixel lies in one cell, sums over cells are those over their pixels."""
    widths = np.diff(edges(length, side))
    assert widths.sum() == length
    assert widths.max() - widths.min() <= 1
    numbers = cell_numbers(length, 2 * length, side)
    assert np.unique(numbers).tolist() == list(range(side**2))
    maps = np.random.default_rng(0).standard_normal((2, length, 2 * length))
    sums = [np.bincount(numbers.ravel(), m.ravel()) for m in maps]
    np.testing.assert_allclose(cell_sums(maps, side), sums, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: patch_falls(None, x, 1, side=0), r"side must lie in 1..64.*got 0"),
        (lambda x: patch_falls(None, x, 1, side=65), r"side must lie in 1..64.*got 65"),
        (lambda x: patch_falls(None, x, 1, side=2.5), r"side must lie in 1..64.*got 2.5"),
        (lambda x: patch_falls(None, x, [1]), r"each of the 2 tiles, got shape \(1,\)"),
        (
            lambda x: patch_falls(None, x, 1, measure="odds"),
            "one of probability, logit, got 'odds'",
        ),
        (lambda x: single_deletion(x[:, 0], np.ones((2, 15))), r"\(N, side \* side\).*\(2, 15\)"),
        (lambda x: single_deletion(x[:, 0], np.ones((2, 1))), r"side 2 at least.*\(2, 1\)"),
        (lambda x: single_deletion(x[:, 0], np.full((2, 4), np.inf)), "falls hold NaN or infinite"),
        (
            lambda x: single_deletion(x[:, 0], np.ones((3, 4))),
            r"shape \(3, H, W\), got \(2, 64, 64\)",
        ),
        (lambda x: single_deletion(x[:, 0] / 0, np.ones((2, 4))), "2 of 2 heat maps hold NaN"),
    ],
)
def test_errors_name_the_cause(call, message):
    """Each wrong argument is named with its value."""
    with pytest.raises(ValueError, match=message):
        call(torch.rand(2, 3, 64, 64))


def states_equal(one, other):
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return create_model("test_resnet", image_size=32).eval()


def test_adapting_makes_tiles_without_a_patch_familiar(small, tiles):
    """The copy's loss on tiles without a patch falls; the model and its mode stay as they are."""
    before = {name: value.clone() for name, value in small.state_dict().items()}
    small.train()
    copy = adapted(small, tiles, steps=10, batch_size=16, learning_rate=1e-3)
    assert small.training
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert not copy.training
    assert all(p.grad is None for p in copy.parameters())
    mask = patch_masks(64, 64, 4)[5]
    labels = tiles.labels.numpy()

    def loss(model):
        found = predict(model, remove(tiles, mask)).probabilities
        return -np.log(found[np.arange(len(tiles)), labels]).mean()

    assert loss(copy) < loss(small) - 0.05


def test_adapting_is_determined_by_its_seed(small, tiles):
    """The same seed gives the same copy to the bit, also under torch.no_grad; another another."""
    options = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}
    first = adapted(small, tiles, **options)
    torch.manual_seed(99)
    with torch.no_grad():
        again = adapted(small, tiles, **options)
    assert states_equal(first, again)
    assert not states_equal(first, adapted(small, tiles, seed=1, **options))
    assert not states_equal(first, adapted(small, tiles, fill="mean", **options))


def test_an_adapted_copy_has_seen_its_tiles(small, tiles, tmp_path):
    """It knows the tiles it learnt beside those of before, and speaks of no stored predictions."""
    small.trained_on = tiles[:5].provenance()
    small.card, small.predictions_file = "card", tmp_path / "kept.npz"
    copy = adapted(small, tiles[5:9], steps=1, batch_size=2)
    assert copy.trained_on.contains(tiles).tolist() == [True] * 9 + [False] * (len(tiles) - 9)
    assert copy.card is None
    assert copy.predictions_file is None
    assert small.trained_on.names == tiles[:5].names
    assert small.card == "card"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tiles": torch.zeros(2, 3, 64, 64)}, TypeError, "labels the copy learns, got Tensor"),
        ({"tiles": slice(0, 0)}, ValueError, "there are no tiles"),
        ({"fill": "white"}, ValueError, "fill must be one of .* got 'white'"),
        ({"steps": 0}, ValueError, "steps must be a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must lie between 0 and 1, got 0.0"),
        ({"side": 0}, ValueError, "side must lie in 1..64"),
    ],
)
def test_adapting_refuses_what_cannot_be(small, tiles, options, error, message):
    """Tiles without labels and settings out of range are named before anything is learnt."""
    asked = {"tiles": tiles, **options}
    if isinstance(asked["tiles"], slice):
        asked["tiles"] = tiles[asked["tiles"]]
    with pytest.raises(error, match=message):
        adapted(small, **asked)


def test_adapting_stops_at_broken_weights(small, tiles):
    """A loss that is not finite is an error and no copy."""
    with torch.no_grad():
        next(small.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="the loss is nan at step 0"):
        adapted(small, tiles, steps=2, batch_size=2)


def test_adapting_names_half_precision(small, tiles):
    """Where PyTorch speaks of types of tensors, the error says what the model needs."""
    with pytest.raises(ValueError, match=r"has parameters of bfloat16.*call model\.float\(\)"):
        adapted(small.bfloat16(), tiles, steps=1, batch_size=2)


def test_answers_belong_to_as_many_targets():
    """Answers of four tiles, read as those of two, would be numbers of nothing."""
    model = create_model(Patches(range(16)), image_size=64)
    answers = patch_answers(model, torch.rand(4, 3, 64, 64), side=4)
    assert falls_of(answers, np.ones(4, dtype=int)).shape == (4, 16)
    for count in (0, 2, 5, 68):
        with pytest.raises(ValueError, match=f"68 answers are not those of {count} tiles"):
            falls_of(answers, np.ones(count, dtype=int))
