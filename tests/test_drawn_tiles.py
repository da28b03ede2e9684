"""Tests of the drawn tiles: the same for the same seed, and true about their evidence."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lulc_lib.drawn_tiles import PAINTERS, cue_colour, plant, synthetic
from lulc_lib.explanations import nulls
from lulc_lib.explanations.batch import Batch
from lulc_lib.faithfulness import area_under_roc
from lulc_lib.models import create_model
from lulc_lib.tiles import CLASSES

N = 20
THINGS = ("Highway", "Industrial", "Residential", "River")


@pytest.fixture(scope="module")
def tiles():
    return synthetic(N, seed=3)


@pytest.fixture(scope="module")
def many():
    return synthetic(100, seed=9)


def pixels(tiles) -> np.ndarray:
    """Return images as float64 (N, 64, 64, 3) in [0, 1]."""
    return tiles.images.numpy().transpose(0, 2, 3, 1) / 255


def grown(mask: np.ndarray, steps: int) -> np.ndarray:
    """Return a mask (64, 64) grown by its eight neighbours, `steps` times."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).any((2, 3))
    return mask


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected piece of a mask (64, 64)."""
    largest, rest = np.zeros_like(mask), mask.copy()
    while rest.any():
        piece = np.zeros_like(mask)
        piece.flat[np.argmax(rest)] = True
        while (wider := grown(piece, 1) & rest).sum() > piece.sum():
            piece = wider
        largest = piece if piece.sum() > largest.sum() else largest
        rest &= ~piece
    return largest


def test_tile_set_is_complete_and_in_class_order(tiles):
    """All ten classes come in EuroSAT's order and size, named as EuroSAT names them."""
    assert tuple(PAINTERS) == CLASSES
    assert tiles.images.shape == (10 * N, 3, 64, 64)
    assert tiles.images.dtype == torch.uint8
    assert tiles.images.is_contiguous()
    assert tiles.masks.dtype == torch.bool
    assert tiles.labels.tolist() == sorted(tiles.labels.tolist())
    assert tiles.class_counts() == dict.fromkeys(CLASSES, N)
    assert tiles.names[0] == "AnnualCrop/AnnualCrop_1.jpg"
    assert tiles.names[-1] == f"SeaLake/SeaLake_{N}.jpg"
    assert len(set(tiles.names)) == len(tiles)
    assert tiles.source == "drawn tiles"


def test_same_seed_same_tiles_and_global_chance_untouched(tiles):
    """A seed fixes pixels, masks and digest, and numpy's global generator is left alone."""
    np.random.seed(0)
    again = synthetic(N, seed=3)
    assert torch.equal(again.images, tiles.images)
    assert torch.equal(again.masks, tiles.masks)
    assert again.digest == tiles.digest
    assert np.random.randint(1 << 30) == np.random.RandomState(0).randint(1 << 30)


def test_another_seed_gives_other_tiles(tiles):
    """No tile of another seed is the same tile, and the digest tells the sets apart."""
    other = synthetic(N, seed=4)
    same = (other.images == tiles.images).flatten(1).all(1)
    assert not same.any()
    assert other.digest != tiles.digest
    assert other.digest.startswith(f"drawn-{N}-4-")


def test_no_two_tiles_are_alike(tiles):
    """Every tile of a set is a drawing of its own."""
    assert len(torch.unique(tiles.images.flatten(1), dim=0)) == len(tiles)


def test_asking_for_more_leaves_the_first_tiles_as_they_are(tiles):
    """Tile number i of a class does not depend on how many are asked for."""
    few = synthetic(2, seed=3)
    rows = [tiles.names.index(name) for name in few.names]
    assert torch.equal(few.images, tiles.images[rows])
    assert torch.equal(few.masks, tiles.masks[rows])
    assert few.digest != tiles.digest


def test_large_seeds_and_numpy_integers_are_taken():
    """Any integer from 0 up is a seed, and a seed beyond 32 bits is not folded onto a small one."""
    small, large = synthetic(1, seed=np.int64(1)), synthetic(1, seed=2**32 + 1)
    assert torch.equal(small.images, synthetic(1, seed=1).images)
    assert not torch.equal(small.images, large.images)


def test_whole_tile_classes_have_whole_tile_masks(tiles):
    """Six classes are evidence everywhere; of the other four, none is."""
    share = tiles.masks.float().mean((1, 2))
    for name in CLASSES:
        of_class = share[tiles.labels == CLASSES.index(name)]
        assert bool((of_class == 1).all()) == (name not in THINGS), name


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("Highway", 0.03, 0.2),
        ("River", 0.06, 0.4),
        ("Residential", 0.1, 0.7),
        ("Industrial", 0.3, 0.98),
    ],
)
def test_evidence_covers_a_plausible_share(many, name, least, most):
    """A road is narrow, a river wider, a town most of the tile but never all of it."""
    share = many.of_class(name).masks.float().mean((1, 2))
    assert least <= share.min()
    assert share.max() <= most


@pytest.mark.parametrize(("name", "least"), [("Highway", 0.5), ("River", 0.95)])
def test_roads_and_rivers_are_bands_that_cross_the_tile(tiles, name, least):
    """The largest piece holds most of the mask and reaches the tile's edge in two places."""
    for mask in tiles.of_class(name).masks.numpy():
        piece = largest_piece(mask)
        assert piece.sum() >= least * mask.sum()
        frame = np.concatenate([piece[0], piece[1:, -1], piece[-1, -2::-1], piece[-2:0:-1, 0]])
        entries = (frame & ~np.roll(frame, 1)).sum()
        assert entries >= 2


@pytest.mark.parametrize("name", THINGS)
def test_evidence_looks_different_from_the_land_around_it(tiles, name):
    """Colours inside and outside the mask differ; inside a mask shifted elsewhere they do so less.

    The shifted mask is the control: the same shape in the wrong place.
    """
    chosen = tiles.of_class(name)
    images, masks = pixels(chosen), chosen.masks.numpy()

    def contrast(masks: np.ndarray) -> np.ndarray:
        inside = [image[mask].mean(0) for image, mask in zip(images, masks, strict=True)]
        outside = [image[~mask].mean(0) for image, mask in zip(images, masks, strict=True)]
        return np.linalg.norm(np.subtract(inside, outside), axis=1)

    true, shifted = contrast(masks), contrast(np.roll(masks, (20, 20), (1, 2)))
    assert true.min() > 0.02
    assert np.median(true) > 0.1
    assert np.median(true) > 2 * np.median(shifted)


def test_roads_and_rivers_lie_in_the_same_countryside(many):
    """Away from the mask, Highway and River tiles have the same colours; under it they differ."""
    inside, outside = {}, {}
    for name in ("Highway", "River"):
        chosen = many.of_class(name)
        pairs = list(zip(pixels(chosen), chosen.masks.numpy(), strict=True))
        inside[name] = np.stack([image[mask].mean(0) for image, mask in pairs])
        outside[name] = np.stack([image[~grown(mask, 4)].mean(0) for image, mask in pairs])

    def gap(means: dict[str, np.ndarray]) -> float:
        """Return the largest difference over the three colours, in standard errors."""
        a, b = means["Highway"], means["River"]
        return (np.abs(a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / 100)).max()

    assert gap(outside) < 3
    assert gap(inside) > 10


def test_colours_resemble_eurosat(many):
    """Mean and deviation over all tiles lie near EuroSAT's own."""
    flat = pixels(many).reshape(-1, 3)
    np.testing.assert_allclose(flat.mean(0), (0.344, 0.380, 0.408), atol=0.04)
    np.testing.assert_allclose(flat.std(0), (0.203, 0.137, 0.116), atol=0.03)


@pytest.mark.parametrize("value", [2.0, "3", None, True])
def test_arguments_that_are_no_integers_are_named(value):
    """The error says which argument, what was met and what to give."""
    with pytest.raises(TypeError, match=f"n_per_class must be an integer.*{value!r}"):
        synthetic(value)
    with pytest.raises(TypeError, match=f"seed must be an integer.*{value!r}"):
        synthetic(1, seed=value)


def test_arguments_out_of_range_are_named():
    """At least one tile per class, and no negative seed."""
    with pytest.raises(ValueError, match="n_per_class must be at least 1, got 0"):
        synthetic(0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        synthetic(1, seed=-1)


# --- the planted cue -----------------------------------------------------------------------------


def luma(tiles) -> np.ndarray:
    """Return brightness (N, 64, 64) in 0..255."""
    return np.einsum("nchw,c->nhw", tiles.images.numpy(), (0.299, 0.587, 0.114))


def test_a_cue_changes_colour_alone_and_only_inside_its_square(many):
    """Outside the mask nothing changes; inside each pixel keeps its brightness; the rest stays."""
    cued = plant(many, seed=4)
    masks = cued.masks.numpy()
    assert masks.sum((1, 2)).tolist() == [144] * len(many)
    rows, columns = masks.any(2).sum(1), masks.any(1).sum(1)
    assert (rows == 12).all()
    assert (columns == 12).all()
    changed = (cued.images != many.images).numpy()
    assert not (changed & ~masks[:, None]).any()
    assert changed.any(1)[masks].mean() > 0.99
    assert np.abs(luma(cued) - luma(many)).max() < 0.3
    assert (cued.names, cued.source, cued.part) == (many.names, many.source, many.part)
    assert torch.equal(cued.labels, many.labels)
    assert cued.digest != many.digest
    assert many.masks.sum() != cued.masks.sum()  # the tiles given keep their own


def test_maps_of_brightness_and_of_the_middle_do_not_find_the_cue(many):
    """Their values inside and outside the cue are alike; the tile's colour tells it (control)."""
    plain = many[::3]
    cued = plant(plain, seed=4)
    for method in ("blur", "edge", "centre", "random"):
        maps = null(method, cued)
        assert area_under_roc(maps, cued.masks).mean() == pytest.approx(0.5, abs=0.04), method
        if method in ("blur", "edge"):
            assert np.abs(maps - null(method, plain)).max() < 2e-3, method
    colour = cued.float() - cued.float().mean(1, keepdim=True)
    assert area_under_roc(colour.norm(dim=1), cued.masks).mean() > 0.8


def null(method, tiles) -> np.ndarray:
    """Return maps of a method that looks at no model."""
    model = create_model("test_resnet", image_size=32)
    return getattr(nulls, method)(Batch(model, tiles.float(), None, None))


def test_cues_tell_classes_by_hue(tiles):
    """Cues of one class have one hue; those of two classes differ; each has brightness 1."""
    colours = np.stack([cue_colour(k) for k in range(len(CLASSES))])
    assert colours @ (0.299, 0.587, 0.114) == pytest.approx(np.ones(len(CLASSES)))
    assert colours.min() > 0
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    assert distances[~np.eye(len(CLASSES), dtype=bool)].min() > 0.2
    cued = plant(tiles, 3, seed=0)  # the cue of one class for all
    ratio = pixels(cued)[cued.masks.numpy()]
    ratio = ratio / (ratio @ (0.299, 0.587, 0.114))[:, None]
    dull = np.abs(ratio - cue_colour(3)).max(1) > 0.05
    assert dull.mean() < 0.1  # bright pixels alone


def test_labels_and_seeds_decide_the_cues(tiles):
    """The same seed plants alike; -1 plants none; the places depend on the seed alone."""
    one, again, other = plant(tiles, seed=1), plant(tiles, seed=1), plant(tiles, seed=2)
    assert torch.equal(one.images, again.images)
    assert one.digest == again.digest
    assert not torch.equal(one.masks, other.masks)
    foreign = (tiles.labels.numpy() + 1) % 10
    assert torch.equal(plant(tiles, foreign, seed=1).masks, one.masks)
    none = plant(tiles, np.where(foreign == 0, 0, -1), seed=1)
    carries = none.masks.flatten(1).any(1).numpy()
    assert carries.tolist() == (foreign == 0).tolist()
    assert torch.equal(none.images[~carries], tiles.images[~carries])
    assert plant(tiles, side=5).masks.sum((1, 2)).tolist() == [25] * len(tiles)


def test_changed_tiles_of_eurosat_do_not_pass_for_its_own(tiles):
    """A copy of EuroSAT with cues is a modified one."""
    assert plant(replace(tiles, source="eurosat")).source == "eurosat (modified)"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"side": 65}, ValueError, "side must be at most the tile's 64 px, got 65"),
        ({"side": 0}, ValueError, "side must be at least 1, got 0"),
        ({"side": 2.5}, TypeError, r"side must be an integer, got 2\.5"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"label": 10}, ValueError, r"label must lie in 0\.\.9, or be -1 for no cue, got 10"),
        (
            {"label": [1, 2]},
            ValueError,
            r"one for each of the 200 tiles, got int64 of shape \(2,\)",
        ),
        ({"label": "River"}, ValueError, "label must be one class index"),
    ],
)
def test_plant_names_what_is_wrong(tiles, arguments, error, message):
    """Each wrong argument is named with its value."""
    with pytest.raises(error, match=message):
        plant(tiles, **arguments)
