"""The explorer without a browser: what it shows follows its state, and nothing breaks it."""

import base64
import builtins
import collections
import importlib.util
import json
import re
import sys
import threading
import time
import types
from dataclasses import replace
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import lulc_lib.widgets
from lulc_lib.checkpoints import load_checkpoint, save_checkpoint, save_predictions
from lulc_lib.drawn_tiles import synthetic
from lulc_lib.explanations import explain
from lulc_lib.export import explain_for_page
from lulc_lib.images import png_bytes
from lulc_lib.models import TileClassifier, create_model
from lulc_lib.predictions import Predictions, predict
from lulc_lib.tiles import CLASSES, TileSet
from lulc_lib.widgets import Explorer, State
from lulc_lib.widgets import explorer as explorer_module
from lulc_lib.widgets.finding import embed
from lulc_lib.widgets.looking import method_facts
from lulc_lib.widgets.state import Stroke
from lulc_lib.widgets.stories import STORIES
from lulc_lib.widgets.work import StoppedError


@pytest.fixture(scope="module")
def models() -> dict[str, TileClassifier]:
    """Two small untrained networks, one of each family."""
    torch.manual_seed(0)
    made = {
        "resnet50": create_model("resnet18", image_size=64).eval(),
        "vit": create_model("vit", depth=2, embed_dim=48, num_heads=3).eval(),
    }
    explain(made["vit"], synthetic(n_per_class=1, seed=0)[0], "gradcam")  # loads what makes CAMs
    return made


@pytest.fixture(scope="module")
def few() -> TileSet:
    """Twelve drawn tiles: six of each of two classes, mixed."""
    tiles = synthetic(n_per_class=6, seed=0)
    river, forest = (np.flatnonzero(tiles.labels == CLASSES.index(c)) for c in ("River", "Forest"))
    return tiles[np.stack([river, forest], axis=1).ravel()]


def answers(tiles: TileSet, wrong: tuple[int, ...]) -> Predictions:
    """Predictions with a logit of 3 for the label, or for the next class where they are wrong."""
    said = tiles.labels.numpy().copy()
    said[list(wrong)] = (said[list(wrong)] + 1) % 10
    logits = 3 * np.eye(10, dtype=np.float32)[said]
    features = np.random.default_rng(0).normal(size=(len(tiles), 8)).astype(np.float16)
    return Predictions(
        logits, tiles.labels.numpy(), tiles.names, features, tiles.source, tiles.digest
    )


@pytest.fixture
def given(few) -> dict[str, Predictions]:
    """Made-up predictions: resnet50 errs on tiles 1 and 4, vit on 4 and 5."""
    return {name: answers(few, wrong) for name, wrong in (("resnet50", (1, 4)), ("vit", (4, 5)))}


@pytest.fixture
def shown(models, few, given) -> Explorer:
    """An explorer with its predictions."""
    shown = Explorer(models, few, given)
    shown.wait()
    return shown


def put(shown: Explorer, name: str, value: object) -> None:
    """Change a control."""
    shown._on_form({"kind": "set", "name": name, "value": value})


def thumbnails(shown: Explorer) -> list[str]:
    """The names of the tiles on the page of thumbnails."""
    return [item["name"] for item in shown._thumbnails.shown["items"]]


def maps(shown: Explorer) -> list[list[str]]:
    """The methods of the maps shown, by model."""
    return [[m["method"] for m in answer["maps"]] for answer in shown._look.shown["answers"]]


# --- find -----------------------------------------------------------------------------------------


def test_it_opens_on_the_first_tile(shown, few):
    """The first tile, each model's answer and one map; thumbnails of all; a short fixed repr."""
    assert repr(shown) == "Explorer(resnet50, vit: 12 tiles)"
    assert shown.state.tile == few.names[0]
    assert maps(shown) == [["gradcam"], ["gradcam"]]
    assert [a["verdict"] for a in shown._look.shown["answers"]] == ["right", "right"]
    assert thumbnails(shown) == list(few.names)
    assert shown._thumbnails.shown["words"] == "1–12 of 12"
    assert shown._failure == ""
    rgb = np.frombuffer(base64.b64decode(shown._look.shown["tile"]), dtype=np.uint8)
    assert (rgb.reshape(64, 64, 3) == few.images[0].permute(1, 2, 0).numpy()).all()


def test_hand_and_code_reach_the_same_view(shown, models, few, given):
    """Controls change the state, show() changes the controls, and both show the same."""
    by_hand = Explorer(models, few, given)
    for name, value in (("label", "Forest"), ("answer", "wrong"), ("target", "label")):
        put(by_hand, name, value)
    shown.show(label="Forest", answer="wrong", target="label")
    assert by_hand.state == shown.state
    assert shown._finder.shown["values"]["label"] == "Forest"
    assert thumbnails(shown) == thumbnails(by_hand) == [few.names[1], few.names[5]]
    assert shown.state.tile == few.names[1]  # the first tile shown does not fit any more


def test_stepping_goes_round(shown, few):
    """Next and previous follow what is found, past its ends; the tile is marked and announced."""
    shown.show(answer="wrong")
    names = [few.names[i] for i in (1, 4, 5)]
    seen = [shown.state.tile]
    for _ in range(3):
        shown.step()
        seen.append(shown.state.tile)
    assert seen == [*names, names[0]]
    shown.step(-1)
    assert shown.state.tile == names[-1]
    assert shown._thumbnails.chosen == names[-1]
    assert "label" in shown._look.shown["words"]


def test_a_cell_of_the_confusion_matrix_shows_its_tiles(shown, few):
    """A cell filters by label and prediction of one model; the cell again takes that back."""
    counts = np.array(shown._matrix.shown["counts"])
    assert counts.sum() == 12
    forest, other = CLASSES.index("Forest"), (CLASSES.index("Forest") + 1) % 10
    assert counts[forest, other] == 1
    shown._on_matrix({"kind": "cell", "row": forest, "column": other})
    assert thumbnails(shown) == [few.names[1]]
    assert (shown.state.label, shown.state.judge) == ("Forest", "resnet50")
    shown._on_matrix({"kind": "clear"})
    assert len(thumbnails(shown)) == 12


def test_the_lasso_filters_and_a_point_opens_its_tile(shown, few):
    """The embedding map comes when its tab opens; indices are those of the tiles."""
    assert shown._scatter.cloud["places"] == ""
    shown._tabs.selected_index = 2
    shown.wait()
    places = np.frombuffer(base64.b64decode(shown._scatter.cloud["places"]), dtype=np.float32)
    assert places.shape == (24,)
    assert "PCA" in shown._scatter.shown["words"]
    first = shown._scatter.cloud["places"]
    shown.show(judge="vit")
    shown.wait()
    assert shown._scatter.shown["words"].startswith("vit's features")
    shown.show(judge="all")
    shown.wait()
    assert shown._scatter.cloud["places"] == first
    shown._on_scatter({"kind": "point", "index": 7})
    assert shown.state.tile == few.names[7]
    shown._on_scatter({"kind": "lasso", "indices": [2, 9]})
    assert thumbnails(shown) == [few.names[2], few.names[9]]
    kept = np.frombuffer(base64.b64decode(shown._scatter.shown["kept"]), dtype=np.uint8)
    assert np.flatnonzero(kept).tolist() == [2, 9]
    shown._clear()
    assert len(thumbnails(shown)) == 12


def test_pages_turn(models, few, given, monkeypatch):
    """Pages hold so many tiles; the last one fewer; beyond it there is none."""
    monkeypatch.setattr(explorer_module, "PER_PAGE", 5)
    shown = Explorer(models, few, given)
    shown._on_thumbnails({"kind": "page", "by": 1})
    shown._on_thumbnails({"kind": "page", "by": 5})
    assert thumbnails(shown) == list(few.names[10:])
    assert shown._thumbnails.shown["words"] == "11–12 of 12"
    assert not shown._thumbnails.shown["after"]
    shown._on_thumbnails({"kind": "pick", "name": few.names[11]})
    assert shown.state.tile == few.names[11]
    assert shown.state.page == 2  # the page stays while its tile is chosen
    shown.step()
    assert (shown.state.tile, shown.state.page) == (few.names[0], 0)  # the page follows the tile
    pictures = shown._thumbnails.sprite
    shown.step()
    assert shown._thumbnails.sprite is pictures  # sent once a page
    shown.step(5)
    assert shown.state.page == 1
    assert shown._thumbnails.sprite != pictures
    shown.show(label="Forest")
    assert shown.state.page == 0


def test_an_empty_choice_is_said(shown):
    """Where no tile fits, words say so, and the panel goes on afterwards."""
    shown.show(label="River", answer="wrong", judge="vit", predicted="Forest")
    assert "No tile fits" in shown._failure
    assert thumbnails(shown) == []
    shown._clear()
    assert shown._failure == ""


# --- look -----------------------------------------------------------------------------------------


def test_slow_methods_come_later(shown, monkeypatch):
    """A slow map is announced at once and drawn when it is there; the newest request wins."""
    monkeypatch.setattr("lulc_lib.explanations.pixels.WINDOW", 16)  # few patches are enough
    monkeypatch.setattr("lulc_lib.explanations.pixels.STRIDE", 16)
    shown.show(methods=("gradcam",))
    shown.wait()
    shown.show(methods=("gradcam", "occlusion"))
    first = shown._look.shown["answers"][0]["maps"]
    shown.wait()
    later = shown._look.shown["answers"][0]["maps"]
    assert "waiting" in first[1]
    assert "values" in first[0]  # it was known
    assert "values" in later[1]
    shown.show(methods=("smoothgrad",))
    shown.show(methods=("gradcam",))  # meanwhile the reader goes on
    shown.wait()
    assert maps(shown) == [["gradcam"], ["gradcam"]]
    assert shown._failure == ""


def test_the_first_map_does_not_hold_the_panel_up(models, few, given, monkeypatch):
    """Until what makes CAMs is loaded, the panel shows tile and answers, then the map comes."""
    monkeypatch.setattr("lulc_lib.widgets.looking.is_loaded", lambda: False)
    shown = Explorer(models, few, given)
    first = shown._look.shown["answers"][0]
    assert "waiting" in first["maps"][0]
    assert sum(first["probabilities"]) == pytest.approx(1, abs=1e-3)
    shown.wait()
    assert "values" in shown._look.shown["answers"][0]["maps"][0]


def test_a_model_without_a_map_is_named_beside_the_others(shown):
    """What one model cannot do is told in words; the other's map is there."""
    shown.show(methods=("rollout",))
    shown.wait()
    cnn, vit = (answer["maps"][0] for answer in shown._look.shown["answers"])
    assert "resnet50 has no map by rollout" in cnn["problem"]
    assert vit["problem"] == ""


def test_stale_predictions_are_told(models, few, given):
    """Where the predictions given are not what the model says now, its map says so."""
    shown = Explorer(models, few, given)
    said = predict(models["vit"], few).predicted
    other = int(np.flatnonzero(said != given["vit"].predicted)[0])
    shown.show(tile=few.names[other])
    shown.wait()
    warnings = shown._look.shown["answers"][1]["maps"][0]["warnings"]
    assert any("made with other weights or settings" in text for text in warnings)
    fresh = Explorer(models, few, {n: predict(m, few) for n, m in models.items()})
    fresh.show(tile=few.names[other])
    fresh.wait()
    assert not any(
        "other weights" in text for text in fresh._look.shown["answers"][1]["maps"][0]["warnings"]
    )


# --- test -----------------------------------------------------------------------------------------


def test_the_brush_changes_what_the_models_say(shown, few):
    """A stroke changes probabilities and maps; undo brings both back; another tile is clean."""
    before = shown._look.shown
    shown._on_look({"kind": "stroke", "points": [[30, 30]], "done": False})
    shown._on_look({"kind": "stroke", "points": [[30, 30], [50, 30]], "done": True})
    shown.wait()
    after = shown._look.shown
    assert len(shown.state.strokes) == 1  # parts of a stroke under way replace each other
    assert after["tile"] != before["tile"]
    assert after["answers"][0]["before"] == before["answers"][0]["probabilities"]
    assert after["answers"][0]["probabilities"] != before["answers"][0]["probabilities"]
    assert after["answers"][0]["maps"][0]["values"] != before["answers"][0]["maps"][0]["values"]
    assert after["serial"] > before["serial"]
    shown._on_look({"kind": "act", "name": "undo"})
    assert shown._look.shown["tile"] == before["tile"]
    shown._on_look({"kind": "stroke", "points": [[3, 3]], "done": True})
    shown.step()
    assert shown.state.strokes == ()


def test_what_is_done_to_a_tile_stays_with_it(shown, few):
    """A slow page still shows the last tile: strokes and notes go to the one that was seen."""
    first, second = few.names[:2]
    shown._on_look({"kind": "stroke", "points": [[30, 30]], "done": False, "tile": first})
    shown.step()
    serial = shown._look.shown["serial"]
    late = {"kind": "stroke", "points": [[30, 30], [50, 30]], "done": True, "tile": first}
    shown._on_look(late)
    assert (shown.state.tile, shown.state.strokes) == (second, ())
    assert shown._look.shown["name"] == second
    assert shown._look.shown["serial"] > serial  # the page wipes what was drawn there
    shown._on_look({"kind": "stroke", "points": [[9, 9]], "done": True, "tile": second})
    assert len(shown.state.strokes) == 1
    for name in ("clean", "take"):
        shown._on_look({"kind": "act", "name": name, "tile": first})
    assert (len(shown.state.strokes), shown.state.other) == (1, "")
    shown._on_look({"kind": "act", "name": "undo", "tile": second})
    assert (shown.state.tile, shown.state.strokes) == (second, ())
    shown._on_look({"kind": "act", "name": "undo", "tile": second})
    assert (shown.state.tile, shown.state.strokes) == (first, ())
    shown._on_form({"kind": "set", "name": "note", "value": "a bank", "tile": second})
    assert (shown.state.tile, shown.state.notes) == (first, ((second, "a bank"),))
    put(shown, "story", "river")
    shown._on_look({"kind": "guess", "value": "River", "tile": "another"})
    assert shown.state.hidden


def test_pixels_of_another_tile(shown, few):
    """The brush takes from the tile that was named; before one is, it says what to do."""
    shown.show(tool="swap")
    shown._on_look({"kind": "stroke", "points": [[3, 3]], "done": True})
    assert "take from it" in shown._failure
    assert shown.state.strokes == ()
    shown.show(tile=few.names[4])
    shown._take_from()
    shown.show(tile=few.names[0])
    shown._on_look({"kind": "stroke", "points": [[32, 32]], "done": True})
    assert shown.state.strokes[0].other == few.names[4]
    rgb = np.frombuffer(base64.b64decode(shown._look.shown["tile"]), dtype=np.uint8)
    assert (rgb.reshape(64, 64, 3)[32, 32] == few.images[4, :, 32, 32].numpy()).all()


def test_the_slider_deletes_beside_a_random_order(shown):
    """Nothing is shown at 0; then both orders, for each model, with the target's probability."""
    assert shown._look.shown["deletion"] == []
    shown.show(deleted=0.2, methods=("gradcam",))
    shown.wait()
    assert sum("image" in one for one in shown._look.shown["deletion"]) == 4
    assert "at random" in shown._look.shown["deletion"][1]["words"]
    shown.show(methods=("rollout",))  # the ViT alone has a map
    shown.wait()
    assert sum("image" in one for one in shown._look.shown["deletion"]) == 2


# --- keep -----------------------------------------------------------------------------------------


def test_a_stored_state_opens_the_same_view(shown, models, few, given):
    """State to JSON and back, in another explorer: the same tile, strokes, maps and notes."""
    shown.show(label="Forest", methods=("gradcam", "legrad"), target="River", opacity=0.3)
    shown._on_look({"kind": "stroke", "points": [[30, 30]], "done": True})
    put(shown, "note", "the bank, not the water")
    other = Explorer(models, few, given)
    other.restore(shown.to_json())
    assert other.state == shown.state
    for one in (shown, other):
        one.wait()
    one, two = ({**e._look.shown, "serial": 0, "taken": 0, "off": {}} for e in (shown, other))
    assert one == two
    assert other._details.shown["values"]["note"] == "the bank, not the water"
    other.step()
    shown.show(strokes=(), deleted=0.4)
    other.restore(shown.to_json())
    assert other.state == shown.state  # what is deleted comes back, too
    other.step()
    assert other.state.deleted == 0
    assert other._details.shown["values"]["note"] == ""


def test_links_save_what_is_shown(shown, tmp_path):
    """Picture, page and state come as links that hold the file itself."""
    for keep, start in (
        (shown._keep_picture, b"\x89PNG"),
        (shown._keep_page, b"<!DOCTYPE html>"),
        (shown._keep_state, b"{"),
    ):
        keep()
        shown.wait()
        assert shown._failure == ""
        content = base64.b64decode(shown._details.saved["address"].partition("base64,")[2])
        assert content.startswith(start)
        assert not shown._details.shown["earlier"]
        assert not any("saved" in one.shown for one in (shown._finder, shown._details))  # sent once
    assert State.from_json(content.decode()) == shown.state
    shown.show(label="Forest")
    assert shown._details.shown["earlier"]  # the file is not of what is shown now
    page = shown.export_html(tmp_path / "page.html", count=3)
    assert page.read_text().count("<article") == 3


def test_a_picture_of_ones_own(shown, tmp_path, few):
    """It is shown with its resolution and without a label; strange colours are said."""
    red = np.zeros((3, 100, 80), dtype=np.uint8)
    red[0] = 250
    (tmp_path / "red.png").write_bytes(png_bytes(red))
    name = shown.add_picture(tmp_path / "red.png")
    shown.wait()
    assert shown.state.tile == name
    words = shown._look.shown["words"]
    assert "no label" in words
    assert "10 m per pixel" in words
    assert words.count("on the ground") == 1
    assert "640 m across" not in words
    assert "as far from the mean of these tiles" in words
    assert [a["verdict"] for a in shown._look.shown["answers"]] == ["open", "open"]
    shown.figure()
    shown.show(target="label")
    assert "has no label" in shown._look.shown["answers"][0]["maps"][0]["problem"]
    shown.show(label="Forest")
    assert shown.state.tile == few.names[1]  # what is looked for now


def test_another_picture_under_the_same_name(shown, tmp_path, few):
    """It is a picture of its own: the first keeps its answers and strokes, and is opened again."""
    file = tmp_path / "mine.png"
    names = []
    for i in (3, 4, 3):
        file.write_bytes(png_bytes(few.images[i].numpy()))
        names.append(shown.add_picture(file))
        shown.wait()
        said = [answer["probabilities"] for answer in shown._look.shown["answers"]]
        expected = [predict(m, few[i]).probabilities[0] for m in shown.models.values()]
        np.testing.assert_allclose(said, expected, atol=1e-5)
        assert shown.state.strokes == ()
        shown._on_look({"kind": "stroke", "points": [[30, 30]], "done": True})
        shown._on_look({"kind": "act", "name": "undo" if i == 3 else "before"})
    assert names == ["mine.png (crop)", "mine.png (crop, 2)", "mine.png (crop)"]
    assert [name for name, _ in shown.state.paintings] == [names[1]]


def test_uploads_are_pictures_or_states(shown, few):
    """A picture is shown, a state restored, and what is neither is said in words."""

    def upload(name: str, content: bytes) -> None:
        shown._locked(shown._on_form)({"kind": "upload", "name": name, "content": content})

    upload("mine.png", png_bytes(few.images[3].numpy()))
    assert shown.state.tile == "mine.png (crop)"
    put(shown, "fit", "resize")
    upload("mine.png", png_bytes(few.images[3].numpy()))
    assert shown.state.tile == "mine.png (resize)"
    upload("state.json", State(tile=few.names[2], label="River").to_json().encode())
    assert shown.state.tile == few.names[2]
    upload("state.json", b"{}")
    assert "not one that this version wrote" in shown._failure
    upload("mine.png", b"<html>")
    assert shown._failure.startswith("mine.png")  # and no path of a temporary folder
    assert "/" not in shown._failure
    assert shown.state.tile == few.names[2]


# --- the shell ------------------------------------------------------------------------------------


def test_it_opens_before_the_predictions_are_there(models, few, monkeypatch):
    """Without predictions the panel is there at once; filters say that they wait, then work."""
    begin = threading.Event()

    def slowly(*args, **kwargs):
        begin.wait(60)
        return predict(*args, **kwargs)

    monkeypatch.setattr(explorer_module, "predict", slowly)
    shown = Explorer(models, few)
    assert maps(shown) == [["recommended"], ["recommended"]]  # announced
    shown.show(label="River")
    assert len(shown.found) == 6
    shown.show(answer="wrong")
    assert "not known yet" in shown._failure
    begin.set()
    shown.wait()
    said = {name: predict(model, few) for name, model in models.items()}
    np.testing.assert_allclose(shown.predictions["vit"].logits, said["vit"].logits, atol=1e-5)
    assert shown.predictions["vit"].features is not None
    lost = np.logical_or(*[~p.correct for p in said.values()]) & (few.labels.numpy() == 8)
    assert shown.found.tolist() == np.flatnonzero(lost).tolist()  # what was asked meanwhile
    assert not shown._look.progress["busy"]
    assert shown._failure == ""


def test_a_model_counts_as_soon_as_it_has_predicted(models, few, monkeypatch):
    """While the second one is asked, filters and matrix know the first."""
    begin = threading.Event()

    def slowly(model, *args, **kwargs):
        if model is models["vit"]:
            begin.wait(60)
        return predict(model, *args, **kwargs)

    monkeypatch.setattr(explorer_module, "predict", slowly)
    shown = Explorer(models, few)
    for _ in range(600):
        if "resnet50" in shown.predictions:
            break
        time.sleep(0.1)
    shown.show(label="River")
    assert shown._failure == ""
    assert np.sum(shown._matrix.shown["counts"]) == len(few)
    shown.show(judge="resnet50", answer="wrong")
    assert "not known yet" not in shown._failure
    begin.set()
    assert shown.wait()


def test_cached_predictions_are_there_at_once(models, few, monkeypatch):
    """What predict has kept is taken without asking the models again."""
    tiles = few[:5]
    said = {name: predict(model, tiles, cache=True) for name, model in models.items()}
    monkeypatch.setattr(explorer_module, "predict", None)
    shown = Explorer(models, tiles)
    for name, given in said.items():
        assert (shown.predictions[name].logits == given.logits).all()
    shown.show(answer="wrong")
    assert shown._failure in ("", NONE_FITS)


def test_what_lies_beside_a_checkpoint_needs_no_model(few, tmp_path, monkeypatch):
    """Kept predictions and components fill the panel and the map of features, none computed."""
    torch.manual_seed(0)
    save_checkpoint(create_model("vit", depth=2, embed_dim=48, num_heads=3), None, tmp_path / "vit")
    model, _ = load_checkpoint(tmp_path / "vit")
    exact = save_predictions(model, few)
    monkeypatch.setattr(explorer_module, "predict", None)
    shown = Explorer({"vit": model}, few)
    shown.wait()
    assert np.array_equal(shown.predictions["vit"].logits, exact.logits)
    shown._tabs.selected_index = 2
    shown.wait()
    assert shown._failure == ""
    places = np.frombuffer(base64.b64decode(shown._scatter.cloud["places"]), dtype=np.float32)
    expected, share = embed(exact.features)
    np.testing.assert_allclose(places.reshape(-1, 2), expected, atol=2e-3)
    assert f"which hold {share:.0%} of their spread" in shown._scatter.shown["words"]


def test_a_layer_of_a_stored_state_is_found_where_there_are_no_norms(few):
    """Numbers stored for a ViT's norms, and ones beyond the first layer, open on ResNets alone."""
    torch.manual_seed(0)
    shown = Explorer({"one": create_model("resnet18", image_size=64)}, few)
    for stage in (-1, -2, 2, 9, -9, 0):
        shown.restore(State(tile=few.names[1], methods=("edge",), stage=stage).to_json())
        assert shown.state.stage == stage
        shown.step()
    assert shown._failure == ""


# --- it never blocks ------------------------------------------------------------------------------


@pytest.fixture
def explained(monkeypatch):
    """Which methods were computed how often; "occlusion" waits for an event, "scorecam" fails."""
    counts, begun, go = collections.Counter(), threading.Event(), threading.Event()

    def counted(model, images, method, *args, between=None, **kwargs):
        counts[method] += 1
        if method == "scorecam":
            raise RuntimeError("no memory for so many channels")
        if method == "occlusion":
            begun.set()
            while not go.wait(0.01):
                between(1)
            method = "gradcam"
        return explain(model, images, method, *args, between=between, **kwargs)

    monkeypatch.setattr("lulc_lib.widgets.looking.explain", counted)
    return counts, begun, go


def test_a_click_is_answered_while_a_slow_map_is_computed(shown, few, explained):
    """Another tile and the maps that are known are shown at once; the slow map is dropped."""
    counts, begun, _ = explained
    shown.show(tile=few.names[3])
    shown.wait()
    shown.show(tile=few.names[0], methods=("gradcam", "occlusion"))
    assert begun.wait(20)
    shown.show(tile=few.names[3], methods=("recommended", "occlusion"))
    said = shown._look.shown
    assert few.names[3].split("/")[1] in said["words"]
    assert said["answers"][0]["verdict"] == "right"
    assert "values" in said["answers"][0]["maps"][0]
    assert "waiting" in said["answers"][0]["maps"][1]
    shown._work.stop()
    shown.wait()
    assert counts["occlusion"] <= 4


@pytest.mark.parametrize("scale", ["shared", "per map"])
def test_what_was_computed_is_not_computed_again(shown, few, explained, scale):
    """Also with each map's own range; and a method that fails is tried once and told."""
    counts, _, go = explained
    go.set()
    shown.show(methods=("occlusion", "scorecam"), scale=scale)
    shown.wait()
    once = dict(counts)
    assert counts["scorecam"] == 2  # once a model
    assert counts["occlusion"] == 2 if scale == "per map" else counts["occlusion"] > 2
    for opacity in (0.1, 0.2, 0.3):
        shown.show(opacity=opacity)
        shown.wait()
    assert counts == once
    slow, failed = shown._look.shown["answers"][0]["maps"]
    assert "values" in slow
    assert "no memory for so many channels" in failed["problem"]


def test_shared_scales_are_made_once_and_kept(models, few, given, explained):
    """A second explorer of these models and tiles reads them."""
    counts, _, _ = explained
    done = []
    for _ in range(2):
        one = Explorer(models, few, given)
        one.show(methods=("hirescam",))
        one.wait()
        scales = [answer["maps"][0]["shared"] for answer in one._look.shown["answers"]]
        assert scales == [True, True]
        done.append(counts["hirescam"])
    assert done[0] > 2  # two maps, and the tiles of the scales
    assert done[1] - done[0] <= 2  # maps alone


def test_work_can_be_stopped_and_goes_on(shown, explained):
    """The button stops what runs, and then offers to go on."""
    _, begun, go = explained
    shown.show(methods=("occlusion",))
    assert begun.wait(20)
    shown._stop_or_go_on()
    shown.wait()
    assert shown._look.progress["held"]
    assert "waiting" in shown._look.shown["answers"][0]["maps"][0]
    go.set()
    shown._stop_or_go_on()
    shown.wait()
    assert "values" in shown._look.shown["answers"][0]["maps"][0]
    assert not shown._look.progress["held"]


@pytest.mark.slow
def test_many_changes_leave_nothing_behind(shown, models, few, monkeypatch):
    """Random changes of every field raise nothing and leave no figure, hook, widget or growth."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    from explorer import random_change

    monkeypatch.setattr("lulc_lib.explanations.pixels.WINDOW", 16)  # few patches are enough
    monkeypatch.setattr("lulc_lib.explanations.pixels.STRIDE", 16)
    random = np.random.default_rng(0)
    count = len(ipywidgets.widgets.widget._instances)
    for number in range(120):
        random_change(shown, random)
        if number % 10 == 0:
            shown.wait(5)
        json.dumps(shown._look.shown)
    shown._work.stop()
    assert shown.wait(60)
    assert len(ipywidgets.widgets.widget._instances) == count
    assert plt.get_fignums() == []
    assert not any(m._forward_hooks for model in models.values() for m in model.modules())
    assert len(shown.looking._maps) <= shown.looking._maps.size


NONE_FITS = "No tile fits. Choose another label, answer or range, or clear."


def test_close_closes_all_parts(models, few, given):
    """A closed explorer leaves no widget behind in the kernel."""
    before = set(ipywidgets.widgets.widget._instances)
    shown = Explorer(models, few, given)
    assert len(set(ipywidgets.widgets.widget._instances) - before) > 8
    shown.close()
    assert set(ipywidgets.widgets.widget._instances) - before == set()


class Broken(nn.Module):
    """A network without any grid: it predicts, but no CAM can explain it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 64 * 64, 10)

    def forward(self, x):
        return self.fc(x.flatten(1))


def test_a_model_without_a_grid_is_shown_without_maps(models, few):
    """Its answers are there, and words say why there is no map."""
    shown = Explorer({"flat": create_model(Broken()), "vit": models["vit"]}, few)
    shown.wait()
    flat, vit = shown._look.shown["answers"]
    assert "flat has no map" in flat["maps"][0]["problem"]
    assert sum(flat["probabilities"]) == pytest.approx(1, abs=1e-3)
    assert vit["maps"][0]["problem"] == ""


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m, t, p: Explorer([m["vit"]], t), TypeError, "dict of name -> model.* got list"),
        (lambda m, t, p: Explorer({}, t), ValueError, "no models to look at"),
        (lambda m, t, p: Explorer({"a": nn.Flatten()}, t), TypeError, "'a' must come .* Flatten"),
        (lambda m, t, p: Explorer({"all": m["vit"]}, t), ValueError, "cannot be called 'all'"),
        (lambda m, t, p: Explorer(m, t.images), TypeError, "must be a TileSet.* got Tensor"),
        (lambda m, t, p: Explorer(m, t[:0]), ValueError, "no tiles to explore"),
        (lambda m, t, p: Explorer(m, t[[0, 0]]), ValueError, "two tiles have one name"),
        (lambda m, t, p: Explorer(m, t, [p["vit"]]), TypeError, "predictions must be a dict"),
        (lambda m, t, p: Explorer(m, t, {"v": p["vit"]}), ValueError, "'v' belong to no model"),
        (lambda m, t, p: Explorer(m, t, {"vit": 3}), TypeError, "made by predict, got int"),
        (
            lambda m, t, p: Explorer(m, t, {"vit": answers(t[:3], ())}),
            ValueError,
            "lack 9 of the 12",
        ),
        (
            lambda m, t, p: Explorer(m, t, {"vit": replace(p["vit"], digest="other")}),
            ValueError,
            "come from another data set",
        ),
    ],
)
def test_errors_of_a_caller(models, few, given, change, error, message):
    """A wrong argument is named with its value and what to give instead."""
    with pytest.raises(error, match=message):
        change(models, few, given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "Sea"}, "label must be one of all, AnnualCrop"),
        ({"judge": "resnet51"}, "no judge 'resnet51'"),
        ({"tile": "x"}, "no tile 'x'"),
        ({"methods": ("x",)}, "no method 'x'"),
        ({"class_": "River"}, "no 'class_'"),
    ],
)
def test_errors_of_show(shown, changes, message):
    """What show() does not know is named, and the view stays as it was."""
    before = shown.state
    with pytest.raises(ValueError, match=message):
        shown.show(**changes)
    assert shown.state == before


def test_every_method_can_be_chosen(shown):
    """The list of methods is that of explain."""
    sections = shown._details.fixed["fields"]
    (chooser,) = (f for s in sections for f in s["fields"] if f["kind"] == "methods")
    listed = [one["name"] for family in chooser["families"] for one in family["methods"]]
    assert sorted(listed) == sorted(method_facts())
    assert all(one["help"] for family in chooser["families"] for one in family["methods"])


@pytest.mark.parametrize("name", ["ipywidgets", "anywidget"])
def test_missing_packages_are_named(monkeypatch, name):
    """Without ipywidgets or anywidget the error says what to install and what works without."""
    monkeypatch.setitem(sys.modules, name, None)
    for module in ("explorer", "elements"):
        monkeypatch.delitem(sys.modules, f"lulc_lib.widgets.{module}")
    path = Path(lulc_lib.widgets.__file__)
    spec = importlib.util.spec_from_file_location("widgets_without", path)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {name}.*plot_gallery"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# --- a cell that runs again -----------------------------------------------------------------------


def test_a_cell_that_runs_again_replaces_its_panel(models, few, given, monkeypatch):
    """The panel of the run before is closed with all its parts; others stay, also of one run."""
    where = {"metadata": {"cellId": "a"}, "header": {"msg_id": "1"}}
    shell = types.SimpleNamespace(get_parent=lambda: where)
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    before = set(ipywidgets.widgets.widget._instances)
    first, second = Explorer(models, few, given), Explorer(models, few, given)
    made = len(set(ipywidgets.widgets.widget._instances) - before)
    where["header"]["msg_id"] = "2"
    again = Explorer(models, few, given)
    assert len(set(ipywidgets.widgets.widget._instances) - before) == made // 2
    assert first.comm is None
    assert second.comm is None
    where["metadata"]["cellId"] = "b"
    other = Explorer(models, few, given)
    assert len(set(ipywidgets.widgets.widget._instances) - before) == made
    del where["metadata"]["cellId"]  # a front end that does not say which cell runs
    Explorer(models, few, given).close()
    for one in (again, other):
        one.close()
    assert set(ipywidgets.widgets.widget._instances) - before == set()


def test_a_live_page_is_replaced_too(models, few, monkeypatch):
    """A second run of its cell closes the page of the first with its layout."""
    where = {"metadata": {"cellId": "live"}, "header": {"msg_id": "1"}}
    shell = types.SimpleNamespace(get_parent=lambda: where)
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    before = set(ipywidgets.widgets.widget._instances)
    first = lulc_lib.widgets.Live(models["vit"], few[:2])
    made = len(set(ipywidgets.widgets.widget._instances) - before)
    where["header"]["msg_id"] = "2"
    again = lulc_lib.widgets.Live(models["vit"], few[:2])
    assert first.comm is None
    assert len(set(ipywidgets.widgets.widget._instances) - before) == made
    again.close()
    assert set(ipywidgets.widgets.widget._instances) - before == set()


def test_the_panel_of_the_app_asks_no_model_first(few, monkeypatch):
    """It shows the models on the test tiles of the split."""
    from lulc_lib.widgets import app

    monkeypatch.setenv("LULC_SMOKE", "1")
    made = create_model("vit", depth=1, embed_dim=48, num_heads=3).eval()
    monkeypatch.setattr(app, "ready_model", lambda name, parts: made)
    shown = app.class_panel()
    assert list(shown.models) == ["resnet50", "vit"]
    assert len(shown.tiles) == 48
    shown.close()


def test_the_page_of_the_app_says_why_there_are_no_tiles(monkeypatch):
    """A visitor reads the sentence, and no traceback with the server's paths."""
    from lulc_lib.widgets import app

    def none(download):
        raise FileNotFoundError("there is no EuroSAT in <data>")

    monkeypatch.setattr(app, "load_tiles", none)
    assert "there is no EuroSAT in &lt;data&gt;" in app.class_panel().value


# --- what is kept is what is seen -----------------------------------------------------------------


def test_a_kept_picture_is_what_is_seen(shown):
    """Scale, sign, opacity and note are the panel's; a method that one model lacks is a line."""
    put(shown, "note", "the $bank$")
    shown.show(methods=("gradcam", "rollout"), sign="positive", opacity=0.3)
    figure = shown.figure()
    shown.wait()
    limits = [
        map["limit"] for answer in shown._look.shown["answers"] for map in answer["maps"]
        if "limit" in map
    ]  # fmt: skip
    drawn = [ax.images[1] for ax in figure.axes if len(ax.images) == 2]
    assert len(drawn) == 3  # resnet50 has no rollout
    assert [one.norm.vmax for one in drawn] == pytest.approx(limits)
    assert all(one.norm.vmin == 0 and one.get_alpha() == 0.3 for one in drawn)
    words = " ".join(" ".join(text.get_text() for text in figure.texts).split())
    assert r"Note: the \$bank\$" in words
    assert "resnet50 · rollout: no map, rollout needs one attention" in words
    shown.models.pop("vit")
    shown.show(methods=("rollout",))
    with pytest.raises(ValueError, match="rollout needs"):
        shown.figure()


def test_a_kept_page_says_what_is_missing(shown, tmp_path):
    """One model without a method costs its columns and not the page."""
    shown.show(methods=("gradcam", "rollout"))
    page = shown.export_html(tmp_path / "page.html", count=2).read_text()
    assert "no maps: rollout needs one attention" in page
    assert page.count('<figure class="map"') == 2 * 3


def test_a_kept_page_is_what_is_seen(shown, tmp_path):
    """Opacity, sign, scale, target, layer and note are the panel's; painted tiles are said."""
    put(shown, "note", "the bank")
    shown.show(methods=("gradcam",), sign="positive", opacity=0.35, target="River", stage=1)
    shown.show(scale="per map")
    shown._on_look({"kind": "stroke", "points": [[30, 30]], "done": True})
    shown.wait()
    page = shown.export_html(tmp_path / "page.html", count=2).read_text()
    assert 'value="35"' in page
    assert 'id="own" type="checkbox" checked' in page
    assert "Note: the bank (painted in the explorer; shown here as it was)" in page
    data = json.loads(re.search(r'id="maps">(.*?)</script>', page)[1])
    for column in data["columns"]:
        assert next(iter(column["variants"])) == "River"
        assert not column["signed"]
    layers = [answer["maps"][0]["layer"] for answer in shown._look.shown["answers"]]
    assert all(f'title="{layer}"' in page for layer in layers)


@pytest.fixture
def page_begun(monkeypatch):
    """Two events: a page has begun to be made, and may go on; and what happened to each page."""
    begun, go, ends = threading.Event(), threading.Event(), []

    def paused(*args, between, **kwargs):
        begun.set()
        assert go.wait(20)
        try:
            between(1)
        except StoppedError:
            ends.append("stopped")
            raise
        ends.append("made")
        return explain_for_page(*args, between=between, **kwargs)

    monkeypatch.setattr(explorer_module, "explain_for_page", paused)
    return begun, go, ends


def test_a_page_gives_way_to_what_is_looked_at(shown, few, page_begun):
    """Another tile is computed first; the page is then made as it was asked for, and kept once."""
    begun, go, ends = page_begun
    shown._keep_page()
    assert begun.wait(20)
    shown.show(tile=few.names[3], label="Forest", opacity=0.35)
    go.set()
    assert shown.wait()
    assert ends == ["stopped", "made"]
    page = base64.b64decode(shown._details.saved["address"].partition("base64,")[2]).decode()
    assert page.count("<article") == 12  # all tiles, as when the button was pressed
    assert 'value="60"' in page
    assert not shown._look.progress["held"]


def test_a_page_can_be_stopped(shown, page_begun):
    """Stopped between two passes, it is made when the work goes on."""
    begun, go, ends = page_begun
    shown._keep_page()
    assert begun.wait(20)
    shown._stop_or_go_on()
    go.set()
    assert shown.wait()
    assert ends == ["stopped"]
    assert shown._details.saved["name"] == ""
    shown._stop_or_go_on()
    assert shown.wait()
    assert shown._details.saved["name"] == "tiles.html"


def test_a_second_press_counts(shown, page_begun):
    """A page that is asked for while another is being made is made too, and is the one offered."""
    begun, go, ends = page_begun
    shown._keep_page()
    assert begun.wait(20)
    shown.show(opacity=0.35)
    shown._keep_page()
    go.set()
    assert shown.wait()
    assert ends == ["made", "made"]
    page = base64.b64decode(shown._details.saved["address"].partition("base64,")[2]).decode()
    assert 'value="35"' in page


def test_a_tile_outside_what_is_found_stays(shown, models, few, given):
    """In a kept view and in an address; from there, next and previous go to the tiles found."""
    shown.show(label="Forest")
    shown.show(tile=few.names[2])  # a river
    other = Explorer(models, few, given)
    other.restore(shown.to_json())
    assert (other.state, other.state.tile) == (shown.state, few.names[2])
    other._on_look({"kind": "link", "text": State(tile=few.names[0]).to_link()})
    other._on_look({"kind": "link", "text": shown._look.link})
    assert other.state.tile == few.names[2]
    other.step(-1)
    assert other.state.tile == few.names[11]
    shown.step()
    assert shown.state.tile == few.names[1]


def test_the_end_of_the_predictions_leaves_the_tile(models, few, monkeypatch):
    """Another tile than those found may be looked at while the models are asked."""
    begin = threading.Event()

    def slowly(*args, **kwargs):
        begin.wait(60)
        return predict(*args, **kwargs)

    monkeypatch.setattr(explorer_module, "predict", slowly)
    shown = Explorer(models, few[:4])
    shown.show(label="Forest")
    shown.show(tile=few.names[2])
    begin.set()
    assert shown.wait()
    assert set(shown.predictions) == set(models)
    assert shown.state.tile == few.names[2]


def test_a_view_opens_without_the_pictures_that_it_names(shown, models, few, given, tmp_path):
    """What was painted on or with them is left out and said; the rest opens, or says what to do."""
    (tmp_path / "mine.png").write_bytes(png_bytes(few.images[3].numpy()))
    mine = shown.add_picture(tmp_path / "mine.png")
    shown._on_look({"kind": "stroke", "points": [[30, 30]], "done": True})
    put(shown, "note", "mine")
    on_mine = shown.to_json()
    shown._take_from()
    shown.show(tile=few.names[2], beside=mine)
    shown._on_look({"kind": "stroke", "points": [[30, 30]], "done": True})
    shown.show(tool="blur")
    shown._on_look({"kind": "stroke", "points": [[9, 9]], "done": True})
    other = Explorer(models, few, given)
    other.restore(shown.to_json())
    assert [stroke.tool for stroke in other.state.strokes] == ["blur"]
    assert (other.state.tile, other.state.other, other.state.beside) == (few.names[2], "", "")
    assert other.state.paintings == ()
    assert other.state.notes == ((mine, "mine"),)
    assert f"Left out what needs {mine}: open a picture of your own first" in other._failure
    put_safely = other._locked(other._on_form)
    put_safely({"kind": "set", "name": "tile", "value": mine})  # the note's button
    assert "no tile 'mine.png (crop)'; open a picture of your own first" in other._failure
    assert other.state.tile == few.names[2]
    with pytest.raises(ValueError, match=r"no tile .mine.png .crop..; open a picture of your own"):
        other.restore(on_mine)
    other.add_picture(tmp_path / "mine.png")
    other.restore(shown.to_json())
    assert other.state == shown.state
    assert other._failure == ""
    put_safely({"kind": "set", "name": "tile", "value": mine})
    assert len(other.state.strokes) == 1


def test_a_thousand_strokes_are_one_file(shown, models, few, given):
    """A view with notes and strokes on several tiles is restored in another explorer."""
    strokes = [Stroke("blur", 3.0, ((i % 64, i % 50), (i % 30, 9.5))) for i in range(1000)]
    shown.show(tile=few.names[3], strokes=tuple(strokes[:2]))
    shown.show(tile=few.names[0], strokes=tuple(strokes))
    put(shown, "note", "all of it")
    other = Explorer(models, few, given)
    other.restore(shown.to_json())
    other.wait()
    shown.wait()
    assert other.state == shown.state
    assert other._look.shown["tile"] == shown._look.shown["tile"]
    assert "1000 strokes" in other._look.shown["words"]
    other.show(tile=few.names[3])
    assert other.state.strokes == tuple(strokes[:2])
    assert dict(other.state.paintings)[few.names[0]] == tuple(strokes)


def test_undo_and_redo_go_across_tiles(shown, few):
    """What was painted last is taken back where it was painted, and painted again there."""
    for name in (few.names[0], few.names[2]):
        shown.show(tile=name)
        shown._on_look({"kind": "stroke", "points": [[30, 30]], "done": True})
    painted = shown.state
    shown.show(tile=few.names[5])
    shown._on_look({"kind": "act", "name": "undo"})
    assert (shown.state.tile, shown.state.strokes) == (few.names[2], ())
    shown._on_look({"kind": "act", "name": "undo"})
    assert (shown.state.tile, shown.state.strokes) == (few.names[0], ())
    shown._on_look({"kind": "act", "name": "undo"})  # nothing is left
    for _ in range(2):
        shown._on_look({"kind": "act", "name": "redo"})
    assert (shown.state.tile, shown.state.strokes) == (painted.tile, painted.strokes)


def test_what_does_not_apply_is_said(shown):
    """Controls that the methods chosen ignore are off, with their reason, and on again."""
    shown.show(methods=("eigencam",))
    off = shown._details.shown["off"]
    assert "only finercam" in off["contrast"]
    assert "one map for all classes" in off["target"]
    assert "press 'take from it'" in shown._look.shown["off"]["swap"]
    shown.show(methods=("legrad",))
    assert "no single layer" in shown._details.shown["off"]["stage"]
    assert "never fall below 0" in shown._details.shown["off"]["sign"]
    shown.show(methods=("finercam",))
    assert not {"contrast", "target", "stage", "sign"} & set(shown._details.shown["off"])


def test_own_pictures_are_among_the_thumbnails(shown, few, tmp_path):
    """There is a way back to them, and they are not said to be 640 m across."""
    (tmp_path / "mine.png").write_bytes(png_bytes(few.images[3].numpy()))
    put(shown, "story", "river")
    name = shown.add_picture(tmp_path / "mine.png", "crop")
    shown.wait()
    assert shown._look.shown["story"] is None  # it tells of other tiles
    assert thumbnails(shown)[0] == name
    assert not any("1 cell" in w for w in shown._look.shown["answers"][0]["maps"][0]["words"])
    shown._on_thumbnails({"kind": "pick", "name": few.names[2]})
    shown._on_thumbnails({"kind": "pick", "name": name})
    assert shown.state.tile == name


def test_two_tiles_stand_side_by_side(shown, few):
    """Before painting, or another tile: with its own answers and maps."""
    shown._on_look({"kind": "act", "name": "take"})
    shown.show(tile=few.names[2])
    shown._on_look({"kind": "act", "name": "before"})
    shown.wait()
    beside = shown._look.shown["beside"]
    assert beside["name"] == f"other tile, {few.names[0].split('/')[1]}"
    assert few.names[0].split("/")[1] in beside["words"]
    assert "values" in beside["answers"][1]["maps"][0]
    shown._on_look({"kind": "act", "name": "before"})
    assert shown._look.shown["beside"] is None
    shown._on_look({"kind": "stroke", "points": [[30, 30]], "done": True})
    shown._on_look({"kind": "act", "name": "before"})
    beside = shown._look.shown["beside"]
    assert (beside["name"], beside["caption"]) == ("before painting", "")  # it is the same tile
    shown.step()
    assert shown._look.shown["beside"] is None  # nothing is painted there


def test_a_view_fits_into_an_address(shown, models, few, given):
    """The end of an address opens the view in another explorer; a damaged one is refused."""
    shown.show(label="Forest", target="River")
    other = Explorer(models, few, given)
    link = shown._look.link
    assert len(link) < 300
    other._on_look({"kind": "link", "text": link})
    assert other.state == shown.state
    other._locked(other._on_look)({"kind": "link", "text": link[:-7]})
    assert other._failure


def test_stories_hide_the_answers_until_the_reader_has_predicted(models):
    """Each opens, asks, and shows what the models say after a guess; the next tile asks again."""
    tiles = synthetic(n_per_class=2, seed=0)
    given = {
        name: answers(tiles, (0, 16, 17, wrong)) for name, wrong in (("resnet50", 3), ("vit", 4))
    }
    shown = Explorer(models, tiles, given)
    for story in STORIES:
        shown.show(target="Forest")
        put(shown, "story", story)
        assert shown.state.target == STORIES[story].changes.get("target", "predicted")
        assert shown._look.shown["answers"] == []
        assert "label" not in shown._look.shown["words"]
        names = [*CLASSES, "resnet50", "vit", *(Path(name).name for name in tiles.names)]
        items = shown._thumbnails.shown["items"]
        assert not any(name in item["title"] for item in items for name in names)
        assert {item["mark"] for item in items} <= {"open"}
        assert shown._scatter.shown["chosen"] == -1  # its colour is that of the label
        shown._on_look({"kind": "guess", "value": "Forest"})
        assert len(shown._look.shown["answers"]) == 2
        assert shown.state.strokes == (STORIES[story].strokes or shown.state.strokes)
        titles = [item["title"] for item in shown._thumbnails.shown["items"]]
        assert sum("label" in title for title in titles) == bool(titles)  # of this tile alone
        shown.step()
        assert shown.state.hidden
    put(shown, "story", "")
    assert not shown.state.hidden
    shown._work.stop()


def test_the_end_of_a_story_lets_its_tiles_go(shown, few, tmp_path):
    """What a story chose from is no filter afterwards; nor is a lasso beside a cell that counts."""
    (tmp_path / "mine.png").write_bytes(png_bytes(few.images[3].numpy()))
    for end in (
        lambda: put(shown, "story", ""),
        lambda: shown.add_picture(tmp_path / "mine.png"),
    ):
        put(shown, "story", "label")
        assert shown.state.among == (few.names[4],)  # both err there
        end()
        assert shown.state.among == ()
    shown.show(**{name: getattr(State(), name) for name in ("label", "answer", "judge")})
    shown.show(among=few.names[:2], confidence=(0.9, 1.0))
    counts = np.array(shown._matrix.shown["counts"])
    row, column = np.unravel_index(counts.argmax(), counts.shape)
    shown._on_matrix({"kind": "cell", "row": int(row), "column": int(column)})
    assert len(shown.found) == counts.max() > 2


def test_probabilities_are_never_quite_1(models, few):
    """The panel says what only comes near 1 as every figure does."""
    sure = replace(answers(few, ()), logits=20 * np.eye(10, dtype=np.float32)[few.labels])
    shown = Explorer(models, few, dict.fromkeys(models, sure))
    assert "resnet50: River >99.9 %" in shown._thumbnails.shown["items"][0]["title"]


def test_each_tile_of_a_story_is_predicted_anew(shown, few):
    """Whatever leads to another tile hides its answers; what stays on the tile does not."""
    put(shown, "story", "label")
    stay = [lambda: put(shown, "opacity", 0.3), lambda: shown.show(tile=shown.state.tile)]
    go = [
        lambda: shown._on_scatter({"kind": "point", "index": 7}),
        lambda: put(shown, "label", "River"),
        lambda: put(shown, "tile", few.names[5]),
        lambda: [shown._on_look({"kind": "act", "name": "undo"}) for _ in range(2)],
        lambda: shown._on_thumbnails({"kind": "pick", "name": few.names[8]}),
    ]
    for act in go:
        shown._on_look({"kind": "guess", "value": "Forest"})
        for remain in stay:
            remain()
        assert not shown.state.hidden
        tile = shown.state.tile
        act()
        assert shown.state.tile != tile
        assert (shown.state.hidden, shown.state.guess) == (True, "")
        assert shown._look.shown["answers"] == []
    shown.show(tile=few.names[0], hidden=False, guess="River")
    assert (shown.state.hidden, shown.state.guess) == (False, "River")
    shown._work.stop()


def test_a_refused_change_leaves_the_controls_as_they_were(models, few, monkeypatch):
    """A story that must wait says for what; the page hears again what is chosen."""
    begin = threading.Event()
    monkeypatch.setattr(explorer_module, "predict", lambda *args, **kwargs: begin.wait(60))
    shown = Explorer(models, few)
    before = shown._finder.shown
    shown._locked(shown._on_form)({"kind": "set", "name": "story", "value": "label"})
    assert "what the models predict is not known yet" in shown._look.progress["problem"]
    assert shown._finder.shown != before  # else it would not be sent
    assert shown._finder.shown["values"] == before["values"]
    shown._work.close()
    begin.set()
