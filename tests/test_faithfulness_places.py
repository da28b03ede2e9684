"""Measures of maps where it is known in which pixels the evidence lies."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from lulc_lib.checkpoints import load_checkpoint
from lulc_lib.drawn_tiles import synthetic
from lulc_lib.explanations import explain
from lulc_lib.faithfulness import (
    Mosaics,
    area_under_roc,
    causal,
    mosaics,
    pointing,
    recognised,
    relevance_share,
    share_inside,
)
from lulc_lib.models import create_model
from lulc_lib.predictions import predict
from lulc_lib.splits import split


@pytest.mark.parametrize("side", [2, 3])
def test_a_mosaic_is_made_of_other_classes_and_names_the_place(tiles, side):
    """Each place shows a tile of its own class, shrunk; the target lies in the place named."""
    flat = torch.stack([torch.full((3, 64, 64), int(k) / 10) for k in tiles.labels])
    plain = dataclasses.replace(tiles, images=(flat * 255).round().byte())
    found = mosaics(plain, 20, seed=3, side=side)
    assert found.images.shape == (20, 3, 64, 64)
    centres = [(2 * i + 1) * 64 // (2 * side) for i in range(side)]
    shown = (found.images[:, 0][:, centres][:, :, centres] * 10).round().flatten(1).int().numpy()
    assert all(len(set(row)) == side**2 for row in shown.tolist())
    np.testing.assert_array_equal(shown[np.arange(20), found.cell], found.target)
    assert len(set(found.cell.tolist())) > 1
    again, other = mosaics(plain, 20, 3, side), mosaics(plain, 20, 4, side)
    assert torch.equal(again.images, found.images)
    assert not torch.equal(other.images, found.images)


def test_no_tile_is_used_again_before_all_were(tiles):
    """Eight mosaics of 2x2 take 32 different ones of 60 tiles where the classes' turns allow it."""
    numbered = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 64, 64)
    found = mosaics(dataclasses.replace(tiles, images=numbered.contiguous()), 8, shrink=False)
    used = (found.images[:, 0, ::64, ::64] * 255).round().int().flatten().tolist()
    of_class = {k: (tiles.labels == k).nonzero()[:, 0].tolist() for k in range(10)}
    for k, own in of_class.items():
        times = [used.count(i) for i in own]
        assert max(times) - min(times) <= 1, k


def test_maps_of_any_size_are_shared_out(tiles):
    """Nine tiles at their own scale, and maps of 64 px, which three does not divide."""
    found = mosaics(tiles, 2, side=3, shrink=False)
    assert found.images.shape[-1] == 192
    assert relevance_share(found.own_in(64, 64).astype(float), found).tolist() == [1.0, 1.0]
    assert relevance_share(np.ones((2, 7, 8)), found).sum() > 0


def test_a_mosaic_may_keep_the_scale_of_its_tiles(tiles):
    """Unshrunk, each tile stands in its place as it is; the draw and its answers are the same."""
    small, large = mosaics(tiles, 3, seed=1), mosaics(tiles, 3, seed=1, shrink=False)
    assert large.images.shape == (3, 3, 128, 128)
    assert small.target.tolist() == large.target.tolist()
    assert small.cell.tolist() == large.cell.tolist()
    for i, (cell, target) in enumerate(zip(large.cell, large.target, strict=True)):
        row, column = (64 * n for n in divmod(int(cell), 2))
        shown = large.images[i, :, row : row + 64, column : column + 64]
        own = tiles.float(tiles.labels == int(target))
        assert any(torch.equal(shown, tile) for tile in own)
    assert large.own.shape == (3, 128, 128)
    maps = large.own_in(64, 64).astype(float)
    assert relevance_share(maps, large).tolist() == [1.0] * 3
    assert pointing(maps, large).tolist() == [1.0] * 3


def test_the_share_of_relevance_is_that_of_the_named_place(tiles):
    """All in the place: 1; all elsewhere: 0; alike everywhere, or nothing positive: chance."""
    found = mosaics(tiles, 4, seed=0)
    inside = np.zeros((4, 64, 64))
    for i, cell in enumerate(found.cell):
        row, column = divmod(int(cell), 2)
        inside[i, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 2.0
    assert relevance_share(inside, found).tolist() == [1.0] * 4
    assert relevance_share(2 - inside, found).tolist() == [0.0] * 4
    assert relevance_share(np.ones((4, 64, 64)), found).tolist() == [0.25] * 4
    assert relevance_share(-inside, found).tolist() == [0.25] * 4  # nothing speaks for it
    assert relevance_share(inside - 1, found).tolist() == [1.0] * 4  # what is negative is left out


def test_cells_of_nine_tiles_meet_at_the_nearest_pixel(tiles):
    """64 px are 21, 22 and 21; the own pixels are those of the named cell."""
    found = mosaics(tiles, 5, seed=1, side=3)
    assert found.cells.shape == (64, 64)
    assert [found.cells[y, x] for y in (20, 21, 42, 43) for x in (20, 21, 42, 43)] == [
        0, 1, 1, 2, 3, 4, 4, 5, 3, 4, 4, 5, 6, 7, 7, 8,
    ]  # fmt: skip
    assert np.bincount(found.cells.ravel()).tolist() == [
        441,
        462,
        441,
        462,
        484,
        462,
        441,
        462,
        441,
    ]
    assert all(
        (own == (found.cells == c)).all() for own, c in zip(found.own, found.cell, strict=True)
    )


@pytest.mark.parametrize("side", [2, 3])
def test_measures_of_a_mosaic_know_right_wrong_and_chance(tiles, side):
    """All in the place: 1; all elsewhere: 0; flat: the place's part of the area, or half."""
    found = mosaics(tiles, 6, seed=0, side=side)
    right = found.own * 2.0
    area = found.own.mean(axis=(1, 2))
    for measure in (relevance_share, pointing):
        assert measure(right, found).tolist() == [1.0] * 6
        assert measure(2 - right, found).tolist() == [0.0] * 6
        np.testing.assert_allclose(measure(np.ones_like(right), found), area)
    assert area_under_roc(right, found.own).tolist() == [1.0] * 6
    assert area_under_roc(-right, found.own).tolist() == [0.0] * 6
    assert area_under_roc(np.ones_like(right), found.own).tolist() == [0.5] * 6
    np.testing.assert_allclose(relevance_share(-right, found), area)  # nowhere positive
    np.testing.assert_allclose(
        share_inside(right + 1, found.own), relevance_share(right + 1, found)
    )


def test_pointing_shares_among_equals(tiles):
    """Three pixels of the highest value, one of them on the tile: a third."""
    found = mosaics(tiles, 1, seed=0)
    heat = np.zeros((1, 64, 64))
    heat[0].flat[np.flatnonzero(found.own[0])[:1]] = 5
    heat[0].flat[np.flatnonzero(~found.own[0])[:2]] = 5
    assert pointing(heat, found).tolist() == [1 / 3]
    assert pointing(heat - 9, found).tolist() == [1 / 3]  # the sign does not matter


def test_area_under_roc_is_scikit_learns():
    """With and without ties; a mask without one of the sides gives 0.5."""
    rng = np.random.default_rng(0)
    heat = rng.standard_normal((6, 16, 16))
    heat[3:] = heat[3:].round()  # many equals
    masks = rng.random((6, 16, 16)) < np.linspace(0.1, 0.9, 6)[:, None, None]
    expected = [roc_auc_score(m.ravel(), h.ravel()) for m, h in zip(masks, heat, strict=True)]
    np.testing.assert_allclose(area_under_roc(heat, masks), expected, atol=1e-12)
    for empty in (np.zeros((16, 16), dtype=bool), np.ones((16, 16), dtype=bool)):
        assert area_under_roc(heat, empty).tolist() == [0.5] * 6


def test_share_inside_the_evidence_of_drawn_tiles():
    """The mask as a map: 1; its complement: 0; flat or negative: its part of the area; by hand."""
    tiles = synthetic(n_per_class=1, seed=0).of_class("River")
    masks = tiles.masks.numpy()
    area = masks.mean(axis=(1, 2))
    assert 0 < area[0] < 1
    assert share_inside(masks.astype(float), masks).tolist() == [1.0]
    assert share_inside(1.0 - masks, tiles.masks).tolist() == [0.0]
    np.testing.assert_allclose(share_inside(np.ones((1, 64, 64)), masks), area)
    np.testing.assert_allclose(share_inside(-np.ones((1, 64, 64)), masks), area)
    mask = np.array([[True, False], [False, False]])
    assert share_inside(np.array([[[1.0, 2.0], [-9.0, 1.0]]]), mask).tolist() == [0.25]


class Corner(nn.Module):
    """Calls a tile a Forest where its left upper quarter has more than half the red there is."""

    def forward(self, x):
        red = x[:, 0, :32, :32].mean((1, 2)) - 0.5
        return nn.functional.one_hot(torch.tensor(1), 10) * red[:, None] * 20


@pytest.fixture
def corner():
    return create_model(Corner(), image_size=64, mean=(0, 0, 0), std=(1, 1, 1))


def test_recognised_asks_for_the_tile_at_its_size_in_a_mosaic(corner, tiles):
    """A tile that is bright everywhere stays a Forest; one bright in a corner alone does not."""
    images = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    images[0], images[1, :, :32, :32], images[2] = 255, 255, 255
    forests = dataclasses.replace(
        tiles[:3], images=images, labels=torch.tensor([1, 1, 4]), masks=None
    )
    assert predict(corner, forests).predicted.tolist() == [1, 1, 1]
    assert recognised(corner, forests).tolist() == [True, False, False]
    assert recognised(corner, forests, side=3).tolist() == [True, False, False]
    assert recognised(corner, forests, side=1).tolist() == [True, True, False]


@pytest.mark.parametrize("side", [2, 3])
def test_recognised_sees_what_a_mosaic_shows(tiles, side):
    """Each cell of the mosaic of copies is the tile as it stands in a mosaic of tiles."""
    seen = []
    model = create_model(Corner(), image_size=64)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    recognised(model, tiles[:2], side)
    pictures = torch.cat(seen)
    assert pictures.shape == (2, 3, 64, 64)
    whole = tiles.float()[:2].repeat(1, 1, side, side)
    expected = nn.functional.interpolate(whole, (64, 64), mode="bilinear", antialias=True)
    torch.testing.assert_close(pictures, expected, rtol=0, atol=1e-6)


def test_causal_mosaics_are_those_whose_own_tile_carries_the_answer(corner):
    """Where the answer rests on the first cell, no other cell is causal; nothing where it rises."""
    images = torch.full((6, 3, 64, 64), 0.2)
    images[:4, :, :32, :32] = 0.9
    images[4, :, :32, :32] = 0.1  # removed, it becomes brighter
    target, cell = np.array([1, 1, 1, 1, 1, 1]), np.array([0, 1, 2, 3, 0, 0])
    found = Mosaics(images, target, cell, 2)
    assert causal(corner, found).tolist() == [True, False, False, False, False, False]
    against = dataclasses.replace(found, target=np.full(6, 3))  # all other classes rise
    assert causal(corner, against).tolist() == [False, False, False, False, True, False]


def test_mosaics_refuse_what_cannot_be(tiles):
    """Too few classes, sizes out of range and maps of another shape are named."""
    with pytest.raises(ValueError, match="takes tiles of 4 classes, and these tiles have 1"):
        mosaics(tiles.of_class("River"), 3)
    with pytest.raises(ValueError, match="takes tiles of 16 classes, and these tiles have 10"):
        mosaics(tiles, 2, side=4)
    with pytest.raises(ValueError, match="count must be a whole number of at least 1, got 0"):
        mosaics(tiles, 0)
    found = mosaics(tiles, 2)
    with pytest.raises(ValueError, match=r"heatmap must have shape \(2, H, W\).*got \(1, 64, 64\)"):
        relevance_share(np.ones((1, 64, 64)), found)
    with pytest.raises(ValueError, match=r"1 of 2 heat maps hold NaN.*number 1"):
        relevance_share(np.stack([np.ones((64, 64)), np.full((64, 64), np.nan)]), found)
    with pytest.raises(ValueError, match=r"heatmap must have shape \(2, H, W\).*got \(3, 8, 8\)"):
        pointing(np.ones((3, 8, 8)), found)
    with pytest.raises(TypeError, match="mask must be bool"):
        area_under_roc(np.ones((2, 8, 8)), np.ones((8, 8)))
    with pytest.raises(ValueError, match="mask must have shape"):
        share_inside(np.ones((2, 8, 8)), np.ones((3, 8, 8), dtype=bool))
    with pytest.raises(TypeError, match="tiles must be a TileSet, which has labels, got Tensor"):
        recognised(None, tiles.float())
    with pytest.raises(ValueError, match="side must be a whole number of at least 1, got 0"):
        recognised(None, tiles, side=0)
    with pytest.raises(ValueError, match=r"fill must be one of blur.*got 'white'"):
        causal(create_model(Corner(), image_size=64), found, fill="white")


@pytest.mark.eurosat
@pytest.mark.parametrize(
    ("name", "least", "worse", "most"),
    [
        ("vit", 0.45, {"layer": "network.blocks.5.norm1"}, 0.33),
        ("resnet50", 0.68, {"method": "gradcam++"}, 0.5),
    ],
)
def test_the_default_map_finds_its_tile_in_a_mosaic(eurosat, name, least, worse, most):
    """The shipped models' default maps lie on the explained quarter; chance is 0.25.

    Negative controls: the layer that was the ViT's default lies there no more than chance has it,
    and the method that was the ResNet's default much less. The report cards have the figures
    of more mosaics.
    """
    model, _ = load_checkpoint(name)
    test = split(eurosat, "seed42").test.balanced(100)
    found = mosaics(test[np.flatnonzero(predict(model, test, cache=True).correct)], 40, seed=11)
    default = explain(model, found.images, target=found.target)
    other = explain(model, found.images, target=found.target, **worse)
    assert relevance_share(default.heatmap, found).mean() >= least
    assert relevance_share(other.heatmap, found).mean() <= most
