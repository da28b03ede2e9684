"""The verdict on a planted cue, from maps alone."""

import numpy as np
import pytest
import torch

from lulc_lib.drawn_tiles import plant, synthetic
from lulc_lib.explanations import explain
from lulc_lib.faithfulness import finds_cue
from lulc_lib.models import create_model


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(1)
    return create_model("test_resnet", image_size=32).eval()


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
    with pytest.raises(ValueError, match="no map of a tile with a cue"):
        finds_cue(np.zeros((0, 64, 64)), cues.masks[:0], {})
    with pytest.raises(ValueError, match="no map of a tile with a cue"):
        finds_cue(np.zeros((30, 64, 64)), torch.zeros_like(cues.masks), {})


def test_tiles_without_a_cue_do_not_count():
    """A map that is the cue has 1 where there is one; where there is none nothing can be found."""
    tiles = synthetic(3, seed=6)
    labels = np.where(np.arange(30) % 2, -1, tiles.labels)
    cued = plant(tiles, labels, seed=1)
    found = finds_cue(cued.masks.numpy().astype(float), cued.masks, {})
    assert (found.found, found.value, found.n) == (True, 1.0, 15)


def test_a_few_tiles_are_no_verdict(cues):
    """One map on its cue says nothing: its interval has no width."""
    one = finds_cue(cues.masks[:1].numpy().astype(float), cues.masks[:1], {})
    assert (one.found, one.low, one.n) == (False, 1.0, 1)
