"""One tile, painted or not: each answer and map is computed once, and says what it is."""

import base64
import contextlib

import numpy as np
import pytest
import torch

from lulc_lib.drawn_tiles import synthetic
from lulc_lib.evidence import RECOMMENDED, Recommendation, ReportCard, network_digest
from lulc_lib.explanations import explain
from lulc_lib.models import create_model
from lulc_lib.plots import map_scale
from lulc_lib.predictions import predict, weights_digest
from lulc_lib.tiles import CLASSES
from lulc_lib.widgets.looking import (
    REFERENCE,
    Asked,
    Cache,
    Looking,
    asked_of,
    deletion,
    is_slow,
    packed_map,
    packed_model,
    stroke_mask,
)
from lulc_lib.widgets.state import State, Stroke
from lulc_lib.widgets.work import StoppedError


@pytest.fixture(scope="module")
def tiles():
    return synthetic(n_per_class=2, seed=0)


@pytest.fixture
def looking(tiles):
    torch.manual_seed(0)
    models = {
        "resnet": create_model("resnet18", image_size=64).eval(),
        "vit": create_model("vit", depth=2, embed_dim=48).eval(),
    }
    return Looking(models, tiles)


def made(state, looking, model, method):
    """Return the packed map of a state after computing it and, where it is shared, its scale."""
    with contextlib.suppress(ValueError):
        asked = asked_of(state, looking, model, method)
        looking.map(asked)
        if state.scale == "shared":
            looking.scale(asked)
    return packed_map(state, looking, model, method)


def unpack(packed):
    """Return the grid that the page draws."""
    values = np.frombuffer(base64.b64decode(packed["values"]), dtype=np.int8)
    return values.reshape(packed["rows"], packed["columns"]) * packed["peak"] / 127


def test_strokes_cover_what_the_brush_touches():
    """A dab is a disc; a line a band with round ends; what lies outside the tile is cut off."""
    dab = stroke_mask(Stroke("blur", 5, ((20, 30),)))
    assert dab[30, 20]
    assert dab[30, 24]
    assert not dab[30, 25]  # its middle is 5.5 px away
    assert abs(int(dab.sum()) - np.pi * 25) < 6
    line = stroke_mask(Stroke("blur", 2, ((10, 10), (40, 10))))
    assert line[8:12, 10:40].all()
    assert not line[13].any()
    assert not line[:, 43:].any()
    assert stroke_mask(Stroke("blur", 3, ((0, 0), (-50, 0)))).sum() < 12


def test_painting_goes_stroke_by_stroke(looking, tiles):
    """Blur changes the stroke alone, swap shows the other tile there, erase gives the tile back."""
    name, other = tiles.names[0], tiles.names[7]
    first = Stroke("blur", 6, ((20, 20), (40, 40)))
    painted = looking.painted(name, (first,))
    mask = stroke_mask(first)
    assert torch.equal(painted[:, ~mask], tiles.float(0)[:, ~mask])
    assert (painted[:, mask] != tiles.float(0)[:, mask]).any()
    swapped = looking.painted(name, (first, Stroke("swap", 4, ((30, 30),), other)))
    spot = stroke_mask(Stroke("swap", 4, ((30, 30),), other))
    assert torch.equal(swapped[:, spot], tiles.float(7)[:, spot])
    back = looking.painted(name, (first, Stroke("erase", 60, ((32, 32),))))
    assert torch.equal(back, tiles.float(0))
    with pytest.raises(ValueError, match="no tile 'gone'"):
        looking.painted("gone")


def test_answers_are_the_models_own(looking, tiles, monkeypatch):
    """The same as predict and explain give; asked twice, computed once; what is known is taken."""
    name = tiles.names[3]
    own = predict(looking.models["vit"], tiles[3]).probabilities[0]
    np.testing.assert_allclose(looking.answer("vit", name), own, atol=1e-6)
    asked = Asked("vit", name, (), "gradcam", 4, None, 0)
    expected = explain(looking.models["vit"], tiles[3], "gradcam", target=4)
    np.testing.assert_allclose(looking.map(asked).grid, expected.grid, atol=1e-6)
    looking.learn("resnet", tiles.names, np.eye(10, dtype=np.float32)[tiles.labels.numpy()])
    assert looking.answer("resnet", name)[int(tiles.labels[3])] == 1
    monkeypatch.setattr("lulc_lib.widgets.looking.explain", None)
    monkeypatch.setattr("lulc_lib.widgets.looking.predict", None)
    assert looking.map(asked) is looking.map(asked)
    looking.answer("vit", name)


def test_scales_are_shared_by_all_tiles(looking, tiles):
    """The scale comes from the same few tiles whatever tile is shown, and is what the page gets."""
    state = State(tile=tiles.names[0], methods=("gradcam",))
    chosen = np.sort(np.random.default_rng(0).permutation(len(tiles))[:REFERENCE])
    maps = explain(looking.models["vit"], tiles[chosen], "gradcam")
    expected = map_scale(maps.heatmap).limit
    for name in tiles.names[:3]:
        shown = made(state.change(tile=name), looking, "vit", "gradcam")
        assert shown["limit"] == pytest.approx(expected, rel=1e-5)
    own = made(state.change(scale="per map"), looking, "vit", "gradcam")
    assert own["limit"] != pytest.approx(expected, rel=1e-3)
    assert not own["shared"]


def test_a_scale_of_what_is_recommended_follows_the_report_card(looking, tiles, tmp_path):
    """A scale that was kept for one card's method does not serve another's."""
    model = looking.models["vit"]
    asked = asked_of(State(tile=tiles.names[0]), looking, "vit", RECOMMENDED)
    chosen = tiles[np.sort(np.random.default_rng(0).permutation(len(tiles))[:REFERENCE])]
    model.report_file = tmp_path / "vit.report.json"
    limits = []
    for layer in (None, "network.blocks.0"):
        if layer:
            best = Recommendation("hirescam", layer, "report card: the best")
            of = {"network": network_digest(model)}
            card = ReportCard("vit", weights_digest(model), "", "", (), best, **of)
            card.save(model.report_file)
        limits.append(Looking(looking.models, tiles).scale(asked).limit)
        expected = map_scale(explain(model, chosen).heatmap).limit
        assert limits[-1] == pytest.approx(expected, rel=1e-5)
    assert limits[0] != pytest.approx(limits[1], rel=1e-3)


def test_maps_of_a_scale_go_when_it_is_made(looking, tiles, monkeypatch):
    """A stopped scale keeps the maps that it has; a finished one keeps none of them."""
    asked = asked_of(State(tile=tiles.names[0], methods=("gradcam",)), looking, "vit", "gradcam")
    groups = []

    def stop(*_):
        groups.append(None)
        if len(groups) == 2:
            raise StoppedError

    monkeypatch.setattr("lulc_lib.widgets.looking.PIECE", 8 * 64**2)  # two groups of tiles
    with pytest.raises(StoppedError):
        looking.scale(asked, stop)
    assert len(looking._parts) == 1
    looking.scale(asked)
    assert len(looking._parts) == 0


def test_the_page_gets_the_map_itself(looking, tiles):
    """Grid, sign and target; the positive half alone when asked; a layer counted from the end."""
    state = State(tile=tiles.names[5], target="River", methods=("gradcam",))
    found = explain(looking.models["vit"], tiles[5], "gradcam", target="River")
    packed = made(state, looking, "vit", "gradcam")
    np.testing.assert_allclose(unpack(packed), found.grid[0], atol=packed["peak"] / 250)
    assert packed["target"] == "River"
    assert packed["signed"]
    assert "River" in packed["alt"]
    positive = made(state.change(sign="positive"), looking, "vit", "gradcam")
    np.testing.assert_allclose(
        unpack(positive), np.maximum(found.grid[0], 0), atol=packed["peak"] / 250
    )
    assert not positive["signed"]
    early = made(state.change(stage=-2), looking, "vit", "gradcam")
    assert early["layer"] == "network.blocks.0.norm1"
    assert "start of block 1 of 2" in early["words"]
    deep = made(state.change(stage=-99), looking, "vit", "gradcam")
    assert deep["layer"] == "network.blocks.0.norm1"
    for stage, layer in (
        (1, "network.blocks.1"),
        (2, "network.blocks.0"),
        (99, "network.blocks.0"),
    ):
        assert layer == made(state.change(stage=stage), looking, "vit", "gradcam")["layer"]


def test_a_chosen_layer_is_for_methods_that_look_at_one(looking, tiles):
    """A state's layer leaves the others' maps as they are, instead of refusing them."""
    state = State(tile=tiles.names[5], stage=1)
    for method in ("refinecam", "legrad", "cells"):
        model = next(iter(looking.models)) if method == "refinecam" else "vit"
        shown = made(state, looking, model, method)
        plain = made(state.change(stage=0), looking, model, method)
        assert shown["problem"] == ""
        assert shown["values"] == plain["values"]


def test_what_cannot_be_drawn_is_said(looking, tiles):
    """A method that does not fit the model, or a target that makes no sense, comes as words."""
    state = State(tile=tiles.names[0], target=CLASSES[0], contrast=CLASSES[0])
    assert "rollout needs" in made(state, looking, "resnet", "rollout")["problem"]
    looking.models["class token"] = create_model(
        "vit_tiny_patch16_224", image_size=64, depth=2, embed_dim=48, num_heads=3
    ).eval()
    for method in ("contributions", "competition"):
        assert made(state, looking, "vit", method)["problem"] == ""
        problem = made(state, looking, "class token", method)["problem"]
        assert f"{method} cannot explain vit_tiny_patch16_224: the logits are no sums" in problem
    assert made(state, looking, "vit", "finercam")["problem"]
    assert made(state, looking, "vit", "gradcam")["problem"] == ""  # takes no contrast
    looking.own["mine"] = tiles.images[0].numpy()
    labelled = State(tile="mine", target="label")
    assert "has no label" in made(labelled, looking, "vit", "gradcam")["problem"]
    looking.answer("vit", "mine")
    assert packed_model(State(tile="mine"), looking, "vit")["verdict"] == "open"
    blind = made(State(tile=tiles.names[0]), looking, "vit", "eigencam")
    assert any("does not look at the class" in text for text in blind["warnings"])


def test_painting_shows_what_was_before(looking, tiles):
    """The answer before painting stands beside the new one."""
    state = State(tile=tiles.names[0])
    assert packed_model(state, looking, "resnet")["verdict"] == "waiting"
    looking.answer("resnet", tiles.names[0])
    plain = packed_model(state, looking, "resnet")
    assert plain["before"] is None
    assert sum(plain["probabilities"]) == pytest.approx(1, abs=1e-3)
    state = state.change(strokes=(Stroke("mean", 30, ((32, 32),)),))
    looking.answer("resnet", tiles.names[0], state.strokes)
    painted = packed_model(state, looking, "resnet")
    assert painted["before"] == plain["probabilities"]
    assert painted["probabilities"] != plain["probabilities"]


def test_training_tiles_are_told(looking, tiles):
    """A model that learned from this tile is said to know it."""
    looking.models["vit"].trained_on = tiles[:3].provenance()
    assert packed_model(State(tile=tiles.names[1]), looking, "vit")["known"]
    assert not packed_model(State(tile=tiles.names[4]), looking, "vit")["known"]


def test_deletion_stands_beside_a_random_one(looking, tiles):
    """Nothing deleted is the tile itself, for both; all deleted is the same empty tile."""
    state = State(tile=tiles.names[2])
    none = deletion(state, looking, "vit", "gradcam")
    assert (none["map"]["image"] == tiles.images[2].permute(1, 2, 0).numpy()).all()
    assert none["map"]["probability"] == none["random"]["probability"]
    some = deletion(state.change(deleted=0.3), looking, "vit", "gradcam")
    assert (some["map"]["image"] != some["random"]["image"]).any()
    gone = deletion(state.change(deleted=1.0), looking, "vit", "gradcam")
    assert (gone["map"]["image"] == gone["random"]["image"]).all()
    assert asked_of(state, looking, "vit", "gradcam").target is None


def test_caches_are_bounded_and_keep_what_is_used():
    """The oldest goes first; an error leaves nothing behind."""
    cache, made = Cache(2), []

    def make(value):
        made.append(value)
        return value

    for key in (1, 2, 1, 3, 1, 2):
        assert cache.get(key, lambda key=key: make(key)) == key
    assert made == [1, 2, 3, 2]
    assert len(cache) == 2
    with pytest.raises(ZeroDivisionError):
        cache.get(9, lambda: 1 / 0)
    assert 9 not in cache


def test_methods_of_many_passes_are_known_as_slow(looking, tiles, monkeypatch):
    """So that the reader does not wait for them; nor for the first CAM of a session."""
    explain(looking.models["vit"], tiles[0], "gradcam")
    slow = {"scorecam", "ablationcam", "smoothgrad", "occlusion"}
    assert all(map(is_slow, slow | {"integratedgradients"}))
    assert not any(map(is_slow, ("gradcam", "gradcam++", "eigencam", "legrad", "edge", "fullgrad")))
    assert not any(map(is_slow, ("libragrad", "contributions", "competition", "refinecam")))
    monkeypatch.setattr("lulc_lib.widgets.looking.is_loaded", lambda: False)
    assert is_slow("gradcam")
    assert not is_slow("legrad")
