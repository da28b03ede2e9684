"""The gallery without a browser: what it chooses, what it says, and that it never breaks."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import lulc_lib.widgets
from lulc_lib.explanations import explain
from lulc_lib.explanations import methods as known_methods
from lulc_lib.metrics import Predictions, predict
from lulc_lib.models import TileClassifier, create_model
from lulc_lib.plots import gallery_columns
from lulc_lib.synthetic import synthetic
from lulc_lib.tiles import CLASSES, TileSet
from lulc_lib.widgets import (
    CAM_METHODS,
    Gallery,
    View,
    choose_tiles,
    describe_choice,
    describe_tile,
    describe_warnings,
    position,
    settle,
    step,
)
from lulc_lib.widgets import gallery as panel

LABELS = np.array([8, 8, 1, 8, 1])  # River, River, Forest, River, Forest
RIGHT_WRONG = ("right", "wrong")
CORRECT = {
    "a": np.array([True, False, True, True, False]),
    "b": np.array([True, True, False, False, False]),
}


@pytest.fixture(scope="module")
def models() -> dict[str, TileClassifier]:
    """Two small untrained networks, one of each family."""
    torch.manual_seed(0)
    return {
        "resnet50": create_model("resnet18", image_size=64),
        "vit": create_model("vit", depth=1, embed_dim=48, num_heads=3),
    }


@pytest.fixture(scope="module")
def few() -> TileSet:
    """Twelve drawn tiles: six of each of two classes, mixed."""
    tiles = synthetic(n_per_class=6, seed=0)
    river, forest = (np.flatnonzero(tiles.labels == CLASSES.index(c)) for c in ("River", "Forest"))
    return tiles[np.stack([river, forest], axis=1).ravel()]


@pytest.fixture(scope="module")
def opened(models, few) -> Gallery:
    """A gallery of one model, for tests that leave it as it is."""
    return Gallery({"vit": models["vit"]}, few)


@pytest.fixture
def given(few) -> dict[str, Predictions]:
    """Made-up predictions: resnet50 errs on tiles 1 and 4, vit on 4 and 5."""
    return {name: answers(few, wrong) for name, wrong in (("resnet50", (1, 4)), ("vit", (4, 5)))}


def answers(tiles: TileSet, wrong: tuple[int, ...]) -> Predictions:
    """Predictions with a logit of 3 for the label, or for the next class where they are wrong."""
    said = tiles.labels.numpy().copy()
    said[list(wrong)] = (said[list(wrong)] + 1) % 10
    logits = 3 * np.eye(10, dtype=np.float32)[said]
    return Predictions(logits, tiles.labels.numpy(), tiles.names, digest=tiles.digest)


def said(widget: ipywidgets.HTML) -> str:
    """The words of an HTML widget without its tags."""
    return re.sub(r"<[^>]*>", "", widget.value)


def png(shown: Gallery) -> bytes:
    """The picture of a gallery."""
    return bytes(shown._picture.value)


# --- pure functions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"label": "River"}, [0, 1, 3]),
        ({"label": "SeaLake"}, []),
        ({"answer": "right", "model": "a"}, [0, 2, 3]),
        ({"answer": "wrong", "model": "b"}, [2, 3, 4]),
        ({"answer": "right"}, [0]),
        ({"answer": "wrong"}, [1, 2, 3, 4]),
        ({"answer": "wrong", "label": "Forest", "model": "a"}, [4]),
    ],
)
def test_choose_tiles(changes, expected):
    """Label and answer choose as worked out by hand; all models are right, or some is wrong."""
    chosen = choose_tiles(View(**changes), LABELS, CORRECT)
    assert chosen.tolist() == expected


def test_right_and_wrong_share_out_the_tiles():
    """For one model and for all, each tile is either right or wrong, never both or neither."""
    for model in ("a", "b", "all"):
        halves = [choose_tiles(View(answer=a, model=model), LABELS, CORRECT) for a in RIGHT_WRONG]
        assert sorted(np.concatenate(halves)) == list(range(len(LABELS)))


def test_settle_keeps_the_tile_where_it_can():
    """A tile stays while the choice holds it, else the first is taken, and None where none is."""
    chosen = np.array([1, 3, 7])
    assert settle(View(tile=3), chosen).tile == 3
    assert settle(View(tile=2), chosen).tile == 1
    assert settle(View(tile=None), chosen).tile == 1
    assert settle(View(tile=3), np.array([], dtype=int)).tile is None


def test_step_goes_round():
    """Steps follow the choice, pass its ends on the other side, and back undoes forth."""
    chosen = np.array([1, 3, 7])
    view = View(tile=3)
    assert [step(view, chosen, by).tile for by in (1, 2, -1, -2, 3)] == [7, 1, 1, 7, 3]
    assert step(step(view, chosen, 5), chosen, -5) == view
    assert step(view, np.array([], dtype=int), 1).tile is None


def test_position_counts_from_one():
    """The first tile is 1 of n; nothing is 0 of 0."""
    assert position(View(tile=3), np.array([1, 3, 7])) == (2, 3)
    assert position(View(tile=None), np.array([], dtype=int)) == (0, 0)


def test_describe_choice():
    """The words say which tiles are shown, and for several models which of the two meanings."""
    assert describe_choice(View()) == "all labels"
    assert describe_choice(View(label="River", answer="wrong", model="vit")) == (
        "label River, vit is wrong"
    )
    assert describe_choice(View(answer="right")) == "all labels, all models are right"
    assert describe_choice(View(answer="wrong")) == "all labels, at least one model is wrong"


def test_describe_tile(models, few, given):
    """Label, predicted, probability, grid with its ground size and raw range stand in the words."""
    maps = {"vit": replace(explain(models["vit"], few[0]), grid=np.full((1, 8, 8), 0.25))}
    maps["vit"].grid[0, 0, 0] = -0.5
    words = describe_tile(few[0], gallery_columns(few[0], maps, {"vit": given["vit"]}))
    plain = re.sub(r"<[^>]*>", "", words)
    assert "label River · River_1.jpg · 640 m across" in plain
    probability = 100 * np.exp(3) / (np.exp(3) + 9)
    assert f"vit predicted ✓ River · {probability:.1f} % · 8x8 grid, 1 cell = 80 m" in plain
    assert "raw −0.5 to 0.25" in plain


def test_names_are_escaped(models, few):
    """Names of models and files are text, not HTML."""
    tile = replace(few[0], names=("River/<b>&.jpg",))
    words = describe_tile(tile, gallery_columns(tile, {"<i>": explain(models["vit"], tile)}))
    assert "&lt;b&gt;&amp;.jpg" in words
    assert "<b>&lt;i&gt;</b>" in words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ZeroMap", "zero everywhere: gradcam++ found nothing that speaks for Forest"),
        ("FlatMap", "one value everywhere"),
        ("NaNMap", "not numbers"),
        ("ClassBlind", "gradcam++ does not look at the class"),
        ("LowConfidence", "gives Forest a probability below one half"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_warnings_in_words(models, few, name, words):
    """Each warning about this tile is said in words, and one about another tile is not."""
    maps = explain(models["vit"], few[0], target="Forest")
    for which, expected in (((0,), True), ((1,), False)):
        maps = replace(maps, warnings={name: which})
        (column,) = gallery_columns(few[0], {"vit": maps})
        assert any(words in text for text in describe_warnings(column)) == expected


def test_stale_predictions_and_training_tiles_are_told(models, few):
    """Predictions by other weights, and a tile the model was trained on, are named as such."""
    maps = explain(models["vit"], few[0])
    other = answers(few[0], ()).logits[:, ::-1].copy()
    other[0, int(maps.target[0])] -= 9
    stale = Predictions(other, None, few[0].names, seen=np.array([True]))
    (column,) = gallery_columns(few[0], {"vit": maps}, {"vit": stale})
    told = " ".join(describe_warnings(column))
    assert "made with other weights" in told
    assert "trained on this tile" in told
    (column,) = gallery_columns(few[0], {"vit": maps})
    (left,) = describe_warnings(column)  # an untrained model is not sure of anything
    assert left == f"the model itself gives {CLASSES[maps.target[0]]} a probability below one half"


# --- the panel -----------------------------------------------------------------------------------


def test_first_display(models, few):
    """The panel opens on the first tile, all models, with a whole PNG and a short fixed repr."""
    shown = Gallery(models, few)
    assert shown.view == View(tile=0)
    assert png(shown).startswith(b"\x89PNG")
    assert shown._position.value == "1 / 12"
    assert "River_1.jpg" in shown._words.value
    assert repr(shown) == "Gallery(resnet50, vit: 12 tiles)"
    bundle = shown._repr_mimebundle_()
    assert bundle["text/plain"] == repr(shown)
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert shown._dropdowns["method"].options[0] == ("gradcam++", "gradcam++")


def test_methods_are_those_of_explain():
    """The five methods of the gallery are known to explain."""
    assert set(CAM_METHODS) <= set(known_methods()["name"])


def test_hand_and_code_reach_the_same_view(models, few, given):
    """Controls change the view, show() changes the controls, and both give the same picture."""
    by_hand, by_code = Gallery(models, few, given), Gallery(models, few, given)
    for name, value in (("label", "Forest"), ("answer", "wrong"), ("model", "resnet50")):
        by_hand._dropdowns[name].value = value
    by_code.show(label="Forest", answer="wrong", model="resnet50")
    assert by_hand.view == by_code.view == View("Forest", "wrong", "resnet50", "gradcam++", 1)
    assert png(by_hand) == png(by_code)
    controls = {name: control.value for name, control in by_code._dropdowns.items()}
    assert controls == {
        "label": "Forest", "answer": "wrong", "model": "resnet50", "method": "gradcam++",
    }  # fmt: skip
    assert by_hand._status.value == "label Forest, resnet50 is wrong"
    assert by_hand._position.value == "1 / 1"
    assert by_hand._next.disabled


def test_next_and_previous(models, few):
    """Next brings another picture in the same widget; previous brings the first one back."""
    shown = Gallery({"vit": models["vit"]}, few)
    widget, first = shown._picture, png(shown)
    shown._next.click()
    assert shown._picture is widget
    assert (shown.view.tile, shown._position.value) == (1, "2 / 12")
    assert png(shown) != first
    shown._previous.click()
    assert (shown.view.tile, png(shown)) == (0, first)
    shown._previous.click()
    assert shown._position.value == "12 / 12"


def test_tile_stays_when_method_or_model_change(models, few):
    """Another method or model shows another picture of the same tile."""
    shown = Gallery(models, few)
    shown.show(tile=3)
    pictures = {png(shown)}
    for changes in ({"method": "eigencam"}, {"model": "vit"}, {"model": "resnet50"}):
        shown.show(**changes)
        assert shown.view.tile == 3
        pictures.add(png(shown))
    assert len(pictures) == 4
    assert "eigencam does not look at the class" in shown._words.value


def test_predictions_wait_until_they_are_asked_for(models, few):
    """Without predictions none are made until right or wrong asks; meanwhile a word says so."""
    shown, told = Gallery(models, few), []
    shown._status.observe(lambda change: told.append(change["new"]), "value")
    shown.step()
    shown.show(label="River", model="vit")
    assert shown.predictions == {}
    shown.show(answer="wrong")
    assert list(shown.predictions) == ["vit"]
    assert "predicting 12 tiles with vit, please wait …" in told
    assert told[-1] == "label River, vit is wrong"
    truth = predict(models["vit"], few)
    river = few.labels.numpy() == CLASSES.index("River")
    assert shown._position.value.endswith(f"/ {int((river & ~truth.correct).sum())}")


def test_given_predictions_are_found_by_name(models, few):
    """Predictions of more tiles, in another order, are matched with the tiles by name."""
    order = np.arange(len(few))[::-1].copy()
    shuffled = answers(few[order], wrong=(0, 3))  # tiles 11 and 8
    shown = Gallery({"vit": models["vit"]}, few[:10], {"vit": shuffled})
    shown.show(answer="wrong")
    assert (shown.view.tile, shown._position.value) == (8, "1 / 1")


def test_empty_choice_is_said(models, few, given):
    """Where no tile fits, the panel says which choice is empty, and goes on afterwards."""
    shown = Gallery(models, few, {"resnet50": answers(few, ())})
    shown.show(model="resnet50", label="River", answer="wrong")
    assert shown.view.tile is None
    assert "No tile fits: label River, resnet50 is wrong." in said(shown._problem)
    assert shown._position.value == "0 / 0"
    assert shown._picture.layout.display == "none"
    shown._next.click()
    assert shown.view.tile is None
    shown.show(answer="all")
    assert (shown.view.tile, shown._problem.value) == (0, "")
    assert shown._picture.layout.display is None


def flat_model() -> TileClassifier:
    """A network without any grid: it predicts, but no CAM can explain it."""
    return create_model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10)), image_size=64)


def test_model_without_a_map_is_named_and_the_others_shown(models, few):
    """One model's error is told in words beside the others' maps, and the tile stays visible."""
    shown = Gallery({"vit": models["vit"], "flat": flat_model()}, few)
    assert "flat has no map by gradcam++" in said(shown._problem)
    assert "vit predicted" in said(shown._words)
    both = png(shown)
    shown.show(model="flat")
    assert "no layer with a grid" in said(shown._problem)
    assert png(shown).startswith(b"\x89PNG")
    assert png(shown) != both
    assert "label River" in said(shown._words)
    shown.show(model="vit")
    assert shown._problem.value == ""


class Moody(nn.Module):
    """A network that fails while `broken` is set."""

    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 8, 8), nn.Linear(4, 10)
        self.broken = False

    def forward(self, x):
        if self.broken:
            raise RuntimeError("out of <memory>")
        return self.head(self.convolution(x).mean(dim=(2, 3)))


def test_failing_prediction_is_said_and_can_be_repaired(few):
    """An error while predicting is shown with its kind, and the same click works once repaired."""
    network = Moody()
    shown = Gallery({"moody": create_model(network, image_size=64)}, few)
    network.broken = True
    shown._dropdowns["answer"].value = "wrong"
    assert "RuntimeError: out of &lt;memory&gt;" in shown._problem.value
    assert shown._position.value == "0 / 0"
    network.broken = False
    shown.show()
    assert "RuntimeError" not in shown._problem.value


def test_caches_are_bounded(models, few, monkeypatch):
    """Pictures and maps are kept up to a limit, and a picture seen lately is not drawn again."""
    monkeypatch.setattr(panel, "KEPT_MAPS", 4)
    monkeypatch.setattr(panel, "KEPT_PICTURES", 3)
    shown = Gallery({"vit": models["vit"]}, few)
    for _ in range(6):
        shown.step()
    assert shown._pictures.cache_info()[2:] == (3, 3)
    assert shown._maps.cache_info()[2:] == (4, 4)
    drawn = shown._pictures.cache_info().misses
    shown.step(-1)
    assert shown._pictures.cache_info().misses == drawn


def test_many_changes_leave_nothing_behind(models, few, given):
    """Random changes raise nothing, leave no figure open, no hook, and make no more widgets."""
    shown = Gallery(models, few, given)
    count, random = len(instances()), np.random.default_rng(0)
    for _ in range(8):
        name = random.choice(list(shown._dropdowns))
        values = list(dict(shown._dropdowns[name].options).values())
        shown._dropdowns[name].value = str(random.choice(values))
        shown.step(int(random.integers(-2, 3)))
        assert "Error" not in shown._problem.value
    assert len(instances()) == count
    assert plt.get_fignums() == []
    hooks = [m._forward_hooks for model in models.values() for m in model.modules()]
    assert not any(hooks)


def test_close_closes_all_parts(models, few):
    """A closed gallery leaves no widget behind in the kernel."""
    before = set(instances())
    shown = Gallery(models, few)
    assert len(set(instances()) - before) > 10
    shown.close()
    assert set(instances()) - before == set()


def instances() -> dict:
    return ipywidgets.widgets.widget._instances


# --- errors that a caller can make ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m, t, p: Gallery([m["vit"]], t), TypeError, "dict of name -> model.* got list"),
        (lambda m, t, p: Gallery({}, t), ValueError, "no models to look at"),
        (
            lambda m, t, p: Gallery({"a": nn.Flatten()}, t),
            TypeError,
            "'a' must come .* got Flatten",
        ),
        (lambda m, t, p: Gallery({"all": m["vit"]}, t), ValueError, "cannot be called 'all'"),
        (lambda m, t, p: Gallery(m, t.images), TypeError, "must be a TileSet.* got Tensor"),
        (lambda m, t, p: Gallery(m, t[:0]), ValueError, "no tiles to leaf through"),
        (lambda m, t, p: Gallery(m, t, methods=["gradcamm"]), ValueError, r"got \['gradcamm'\]"),
        (lambda m, t, p: Gallery(m, t, methods=[]), ValueError, r"methods must .* got \[\]"),
        (lambda m, t, p: Gallery(m, t, methods="gradcam"), ValueError, "got 'gradcam'"),
        (lambda m, t, p: Gallery(m, t, [p["vit"]]), TypeError, "predictions must be a dict"),
        (lambda m, t, p: Gallery(m, t, {"v": p["vit"]}), ValueError, "'v' belong to no model"),
        (
            lambda m, t, p: Gallery(m, t, {"vit": answers(t[:3], ())}),
            ValueError,
            "lack 9 of the 12",
        ),
        (
            lambda m, t, p: Gallery(m, t, {"vit": replace(p["vit"], digest="other")}),
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
        ({"label": "Sea"}, "no label 'Sea'; choose one of all, Forest, River"),
        ({"answer": "no"}, "no answer 'no'; choose one of all, right, wrong"),
        ({"model": "resnet50"}, "no model 'resnet50'; choose one of vit"),
        ({"method": "x"}, "no method 'x'; choose one of gradcam"),
        ({"tile": 12}, r"tile must lie in 0\.\.11, got 12"),
        ({"class_": "River"}, "a view has label, answer, model, method, tile, not class_"),
    ],
)
def test_errors_of_show(opened, changes, message):
    """What show() does not know is named, the choices are listed, and the view stays as it was."""
    before = opened.view
    with pytest.raises(ValueError, match=message):
        opened.show(**changes)
    assert opened.view == before


def test_missing_ipywidgets_is_named(monkeypatch):
    """Without ipywidgets the error says what to install and what works without it."""
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.delitem(sys.modules, "lulc_lib.widgets.gallery")
    path = Path(lulc_lib.widgets.__file__)
    spec = importlib.util.spec_from_file_location("widgets_without_ipywidgets", path)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ipywidgets>=8.1'.*plot_gallery"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
