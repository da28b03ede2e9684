"""What a report card says, and how it is kept."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from lulc_lib import create_model, explain, load_checkpoint, save_checkpoint
from lulc_lib.evidence import (
    CENTRE_LEAD,
    LEAD,
    MOSAIC,
    REMOVAL,
    SINGLE_DELETION,
    Recommendation,
    ReportCard,
    ReportCardWarning,
    Row,
    _digest,
    core_figures,
    known_card,
    network_digest,
    ranks,
    report_file,
)
from lulc_lib.explanations import RECOMMENDED, layers, recommended
from lulc_lib.predictions import identity, weights_digest


def row(method, layer, test, value, low, high):
    return Row(method, layer, test, "", value, low, high, n=10, seconds=0.1)


def made_card(model, layer, lead=0.1):
    """Return a card that recommends hirescam at a layer, told from the nulls by a lead."""
    rows = []
    for test in (MOSAIC, SINGLE_DELETION):
        rows.append(row("hirescam", layer, test, 0.6, 0.5, 0.7))
        rows.append(row("hirescam", layer, f"{test}, {LEAD}", lead + 0.1, lead, lead + 0.2))
    rows.append(row("hirescam", layer, REMOVAL, 0.2, 0.1, 0.3))
    best = Recommendation("hirescam", layer, "report card: the best")
    of = {"network": network_digest(model)}
    return ReportCard("small", weights_digest(model), "drawn", "d", tuple(rows), best, **of)


@pytest.fixture
def kept(tmp_path):
    """A small model loaded from a checkpoint, without a report card."""
    torch.manual_seed(0)
    save_checkpoint(create_model("test_resnet", image_size=64), None, tmp_path / "small")
    return load_checkpoint(tmp_path / "small")[0]


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_card_comes_back_as_it_was(kept, tmp_path):
    """Written and read, a card is the same; its frame has one figure a row."""
    card = made_card(kept, "network.layer2")
    again = ReportCard.from_json(card.save(tmp_path / "a.json"))
    assert (again.rows, again.recommended) == (card.rows, card.recommended)
    assert list(card.frame.columns) == [
        "method", "layer", "test", "filling", "value", "low", "high", "n", "seconds",
    ]  # fmt: skip
    assert len(card.frame) == len(card.rows)


def _signed(values):
    """Return a card's values as text with the digest that fits them."""
    values.pop("sha256")
    return json.dumps({**values, "sha256": _digest(values)})


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("0.6", "0.9", 1),
        lambda text: text[:-20],
        lambda text: json.dumps({**json.loads(text), "format": 99}),
        lambda text: "[]",
        lambda text: "{}",
        lambda text: _signed({**json.loads(text), "settings": 3}),
    ],
)
def test_a_changed_card_is_refused(kept, tmp_path, change):
    """A figure changed by hand, a cut file and another format are errors that name the file."""
    file = made_card(kept, "network.layer2").save(tmp_path / "a.json")
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match=r"a\.json"):
        ReportCard.from_json(file)


def test_explain_takes_what_the_card_recommends(kept, images):
    """Method and layer follow the card beside the checkpoint; the result says on what ground."""
    layer = layers(kept).layer[0]
    assert explain(kept, images).method == "gradcam"
    assert explain(kept, images).ground == "no report card of these weights: Grad-CAM at the cut"
    made_card(kept, layer).save(kept.report_file)
    found = explain(kept, images)
    assert (found.method, found.layer) == ("hirescam", layer)
    assert found.ground == "report card: the best"
    assert "Unproven" not in found.warnings
    assert found.verdict.proven
    assert recommended(kept).method == "hirescam"
    both = explain(kept, images, [RECOMMENDED, "gradcam"])
    assert {name: one.method for name, one in both.items()} == {
        RECOMMENDED: "hirescam",
        "gradcam": "gradcam",
    }
    assert (both[RECOMMENDED].grid == found.grid).all()
    named = explain(kept, images, layer=layer)
    assert (named.method, named.ground) == ("gradcam", "Grad-CAM at the layer named")


@pytest.mark.parametrize("behind", [False, True])
def test_a_card_of_other_weights_is_not_taken(kept, images, behind):
    """After a step of training the card speaks of another model, and Grad-CAM is unproven again."""
    made_card(kept, layers(kept).layer[0]).save(kept.report_file)
    assert known_card(kept) is not None
    weights = next(kept.parameters())
    with torch.no_grad():
        (weights.data if behind else weights).add_(0.1)  # .data keeps the version
    assert known_card(kept) is None
    assert explain(kept, images).method == "gradcam"


def test_what_no_card_found_is_unproven(kept, images):
    """No card, another layer, and a lead that may be 0: each is said, with its figure."""
    deep, first = layers(kept).layer.iloc[-1], layers(kept).layer[0]
    assert explain(kept, images, "gradcam").warnings["Unproven"] == (0, 1)
    made_card(kept, first, lead=0.0).save(kept.report_file)
    words = explain(kept, images, "hirescam", layer=first).warned(0)["Unproven"]
    assert "mosaic 0.600 [0.500, 0.700]" in words
    assert "not told apart from maps that look at nothing by mosaic and single deletion" in words
    assert "does not cover" in explain(kept, images, "hirescam", layer=deep).warned(1)["Unproven"]
    assert "Unproven" not in explain(kept, images, "edge").warnings


def test_a_contrast_that_was_asked_for_is_not_what_the_card_tested(kept, images):
    """Cards test finercam against the three nearest classes; another contrast is another map."""
    layer = layers(kept).layer[0]
    card = made_card(kept, layer)
    rows = tuple(replace(row, method="finercam") for row in card.rows)
    replace(card, rows=rows, recommended=None).save(kept.report_file)
    asked = {"layer": layer, "target": "River"}
    assert explain(kept, images, "finercam", **asked).verdict.proven
    against = explain(kept, images, "finercam", contrast="Highway", **asked)
    assert against.verdict.short == "unproven · not tested"
    assert "three nearest classes" in against.warned(0)["Unproven"]
    both = explain(kept, images, ["hirescam", "finercam"], contrast="Highway", **asked)
    assert "does not cover" in both["hirescam"].verdict.words


def test_captions_say_passed_or_unproven(kept):
    """A caption says that the tests were passed, not only made; the sentence names both tests."""
    layer = layers(kept).layer[0]
    passed = made_card(kept, layer).verdict("hirescam", layer)
    assert passed.short == "passed · mosaic 0.60"
    assert passed.words.endswith(", both above all maps that look at nothing")
    failed = made_card(kept, layer, lead=0.0)
    assert failed.verdict("hirescam", layer).short == "unproven · mosaic 0.60"
    lead = f"{MOSAIC}, {LEAD}"
    rows = [replace(row, low=0.1) if row.test == lead else row for row in failed.rows]
    half = replace(failed, rows=tuple(rows)).verdict("hirescam", layer)
    value = failed.find("hirescam", layer, SINGLE_DELETION).value
    assert half.short == f"unproven · single deletion {value:.2f}"  # the test that it failed


def test_a_verdict_names_what_is_missing(kept):
    """Too few tiles, a test that was not made and a map that looks at nothing have other words."""
    layer = layers(kept).layer[0]
    card = made_card(kept, layer)
    few = replace(card, rows=tuple(replace(row, n=4) for row in card.rows))
    verdict = few.verdict("hirescam", layer)
    assert not verdict.proven
    assert verdict.words.endswith(
        "fewer than 10 tiles in mosaic and single deletion tell no map apart"
    )
    rows = tuple(row for row in card.rows if not row.test.startswith(SINGLE_DELETION))
    verdict = replace(card, rows=rows).verdict("hirescam", layer)
    assert verdict.short == "unproven · no single deletion"
    assert f"lacks single deletion of hirescam at {layer}" in verdict.words
    centre = [row("centre", None, test, 0.2, 0.1, 0.3) for test in (MOSAIC, SINGLE_DELETION)]
    beside = replace(card, rows=(*card.rows, *centre))
    assert beside.verdict("centre", None).short == "unproven · looks at nothing"
    assert "does not cover xgradcam" in card.verdict("xgradcam", None).words


def test_mosaics_and_tiles_are_counted_apart(kept):
    """A row of the table has the number of mosaics and the number of tiles of the other tests."""
    layer = layers(kept).layer[0]
    card = made_card(kept, layer)
    rows = [
        replace(one, n={MOSAIC: 10, SINGLE_DELETION: 30, REMOVAL: 20}.get(one.test, 10))
        for one in card.rows
    ]
    found = core_figures(replace(card, rows=tuple(rows)))
    assert found[0][4:6] == ["10", "20 to 30"]
    assert core_figures(card)[0][4:6] == ["10", "10"]


def test_a_new_checkpoint_drops_the_old_card(kept, tmp_path):
    """Saved over an old one, a checkpoint has no report card of the old weights."""
    made_card(kept, layers(kept).layer[0]).save(kept.report_file)
    weights = save_checkpoint(kept, None, tmp_path / "small")
    assert report_file(weights).exists(), "the weights are the same"
    with torch.no_grad():
        next(kept.parameters()).mul_(0.5)
    save_checkpoint(kept, None, tmp_path / "small")
    assert not report_file(weights).exists()


def test_a_model_without_a_file_has_no_card():
    """A wrapped module has no card, and neither has a new network."""
    network = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(), nn.LazyLinear(10))
    network(torch.zeros(1, 3, 64, 64))
    assert known_card(create_model(network, image_size=64)) is None


def test_ranks_are_those_to_be_expected(kept):
    """Where intervals are wide, a figure that is a little higher is no whole rank better."""

    def table(half):
        rows = []
        for method, value in {"gradcam": 0.5, "layercam": 0.6}.items():
            for test in (MOSAIC, SINGLE_DELETION, REMOVAL):
                rows.append(row(method, None, test, value, value - half, value + half))
                rows.append(row(method, None, f"{test}, {LEAD}", 0.1, 0.1, 0.1))
        return ranks(replace(made_card(kept, None), rows=tuple(rows)))

    wide = table(0.1)  # standard errors of 0.051, and of 0.072 for the difference of 0.1
    assert wide.loc[("layercam", ""), MOSAIC] == pytest.approx(1.083, abs=1e-3)
    assert wide.loc[("gradcam", ""), "mean rank"] == pytest.approx(1.917, abs=1e-3)
    assert table(0.01)["mean rank"].tolist() == pytest.approx([1, 2], abs=1e-6)
    assert table(10.0)["mean rank"].tolist() == pytest.approx([1.5, 1.5], abs=0.01)


def test_a_card_keeps_what_it_was_chosen_by(kept, tmp_path):
    """The figures of the other tiles come back from the file, and are checked as rows are."""
    card = made_card(kept, "network.layer2")
    card = replace(card, choice=card.rows[:2])
    file = card.save(tmp_path / "a.json")
    assert ReportCard.from_json(file).choice == card.choice
    replace(card, choice=(replace(card.rows[0], n=0),)).save(file)
    with pytest.raises(ValueError, match="n of hirescam is no number of tiles"):
        ReportCard.from_json(file)


def test_maps_that_are_one_map_count_once(kept):
    """Explanations with equal figures share their rank and push the others back by one alone."""
    rows = []
    figures = {"gradcam": 0.5, "hirescam": 0.5, "layercam": 0.4, "gradcam++": 0.6}
    for method, value in figures.items():
        for test in (MOSAIC, SINGLE_DELETION, REMOVAL):
            rows.append(row(method, None, test, value, value, value))
            rows.append(row(method, None, f"{test}, {LEAD}", 0.1, 0.1, 0.1))
    table = ranks(replace(made_card(kept, None), rows=tuple(rows)))["mean rank"]
    assert table.to_dict() == {
        ("gradcam++", ""): 1,
        ("gradcam", ""): 2,
        ("hirescam", ""): 2,
        ("layercam", ""): 3,
    }


def test_a_damaged_card_is_left_aside(kept, images, tmp_path):
    """It counts as none, with a warning that says what to do; a card can be made again."""
    kept.report_file.write_text("{")
    with pytest.warns(
        ReportCardWarning, match=r"left aside: make it again with `lulc report \S+/small`"
    ):
        found = explain(kept, images)
    assert found.verdict.short == "unproven · no report card"
    made_card(kept, "network.layer2").save(kept.report_file)
    os.utime(kept.report_file, (1, 1))
    assert known_card(kept) is not None


def test_the_name_of_a_file_is_no_card(kept, tmp_path):
    """A text is read as a card; one that names a file is answered with what to do."""
    file = made_card(kept, "network.layer2").save(tmp_path / "a.json")
    with pytest.raises(ValueError, match="is read from a Path, or from a JSON text, got"):
        ReportCard.from_json(str(file))


def test_a_model_of_other_settings_has_no_card(kept, images):
    """The same weights at another size inside compute something else."""
    made_card(kept, "network.layer2").save(kept.report_file)
    assert known_card(kept) is not None
    kept.image_size = 128
    assert known_card(kept) is None
    kept.image_size = 64
    kept.prepare.mean.add_(0.1)
    assert known_card(kept) is None
    kept.prepare.mean.sub_(0.1)
    assert known_card(kept) is not None
    kept.network.act1 = nn.SiLU()
    assert known_card(kept) is None


def test_a_model_with_code_of_somebody_else_has_no_card(kept, images):
    """A hook, or a `forward`, computes something that no test has seen; PyTorch's own may stay."""
    made_card(kept, "network.layer2").save(kept.report_file)
    assert known_card(kept) is not None
    hook = kept.network.layer1.register_forward_hook(lambda module, given, made: -made)
    assert known_card(kept) is None
    assert explain(kept, images).verdict.short == "unproven · no report card"
    hook.remove()
    assert known_card(kept) is not None
    kept.network.layer1.forward = lambda x: -x
    assert known_card(kept) is None
    del kept.network.layer1.forward
    assert known_card(kept) is not None
    whole = kept.network.forward_features
    kept.network.forward_features = lambda x: whole(1 - x)
    assert known_card(kept) is None
    assert identity(kept) is None, "nothing is kept of it, and nothing read"
    del kept.network.forward_features
    assert known_card(kept) is not None
    assert identity(kept) is not None


def test_threads_find_the_same_card(kept, monkeypatch):
    """A thread that asks while the first one still reads the file waits for what that finds."""
    made_card(kept, "network.layer2").save(kept.report_file)
    read, together, count = ReportCard.from_json, threading.Barrier(4), []

    def slowly(file):
        count.append(1)
        time.sleep(0.1)
        return read(file)

    def ask(_):
        together.wait()
        return recommended(kept).method

    monkeypatch.setattr(ReportCard, "from_json", slowly)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == ["hirescam"] * 4
    assert len(count) == 1


def test_few_tiles_prove_nothing(kept):
    """An interval over fewer than ten tiles says nothing, however narrow."""
    card = made_card(kept, "network.layer2")
    assert card.verdict("hirescam", "network.layer2").proven
    few = replace(card, rows=tuple(replace(one, n=9) for one in card.rows))
    assert not few.verdict("hirescam", "network.layer2").proven


@pytest.mark.parametrize(
    "change",
    [
        {"low": float("nan")},
        {"low": float("inf")},
        {"value": True},
        {"n": "many"},
        {"method": ["gradcam"]},
        {"layer": {}},
        {"test": 3},
        {"low": 2.0},
    ],
)
def test_a_sealed_card_of_nonsense_is_refused(kept, change):
    """Each field has its type, whatever the digest says."""
    card = made_card(kept, "network.layer2")
    first, *rest = card.rows
    text = replace(card, rows=(replace(first, **change), *rest)).to_json()
    with pytest.raises(ValueError, match="is no report card of format 2"):
        ReportCard.from_json(text)


def test_the_verdict_needs_both_tests(kept):
    """A card that holds mosaics alone proves nothing."""
    card = made_card(kept, None)
    half = replace(card, rows=tuple(r for r in card.rows if r.test.startswith(MOSAIC)))
    assert card.verdict("hirescam", None).proven
    assert not half.verdict("hirescam", None).proven


def test_a_row_is_found_by_names_that_the_card_has(kept):
    """A misspelt method, test or filling is refused; a row that is not there is None."""
    card = made_card(kept, "network.layer2")
    value = card.find("hirescam", "network.layer2", MOSAIC).value
    assert card.find("hirescam", None, MOSAIC).value == value, "the only layer it was tested at"
    assert card.find("hirescam", "auto", MOSAIC).value == value
    assert card.find("hirescam", "network.layer1", MOSAIC) is None
    assert card.find("hirescam", None, f"{REMOVAL}, {CENTRE_LEAD}") is None
    for asked, words in (
        (("hirescan", None, MOSAIC), "has no method 'hirescan'; did you mean 'hirescam'"),
        (("hirescam", None, "mosaics"), "has no test 'mosaics'; did you mean 'mosaic'"),
        (("hirescam", None, REMOVAL, "blurr"), r"has no filling 'blurr'"),
    ):
        with pytest.raises(ValueError, match=words):
            card.find(*asked)
    with pytest.raises(TypeError, match="method must be a text, got 3"):
        card.find(3, None, MOSAIC)


def test_a_verdict_needs_a_layer_only_where_there_are_several(kept):
    """The only tested layer is meant where none is named; of two, one must be."""
    card = made_card(kept, "network.layer2")
    assert card.verdict("hirescam") == card.verdict("hirescam", "network.layer2")
    assert card.verdict("hirescam", "auto").proven
    more = tuple(replace(one, layer="network.layer1") for one in card.rows)
    both = replace(card, rows=(*card.rows, *more))
    with pytest.raises(ValueError, match=r"hirescam at network\.layer2, network\.layer1; name one"):
        both.verdict("hirescam")
    with pytest.raises(TypeError, match="method must be a text"):
        card.verdict(None)


def test_a_card_read_again_is_the_same(kept, tmp_path):
    """Equal in all it says, also as a key."""
    card = made_card(kept, "network.layer2")
    again = ReportCard.from_json(card.to_json())
    assert again == card
    assert hash(again) == hash(card)
    assert replace(card, quick=True) != card
    with pytest.raises(IsADirectoryError, match="is a folder; give a name such as"):
        card.save(tmp_path)


def test_other_files_and_changed_cards_are_told_apart(kept):
    """A model's card holds no rows of a report card; a changed one is not as it was written."""
    with pytest.raises(ValueError, match="it holds no rows of a report card"):
        ReportCard.from_json(kept.report_file.with_name("small.json"))
    file = made_card(kept, "network.layer2").save(kept.report_file)
    file.write_text(file.read_text().replace("0.6", "0.7"))
    with pytest.raises(ValueError, match=r"it is not as it was written; make it again$"):
        ReportCard.from_json(file)
    with pytest.warns(ReportCardWarning) as met:
        assert known_card(kept) is None
    assert str(met[0].message).count("make it again") == 1


def test_a_card_of_a_changed_model_is_not_the_checkpoints(kept):
    """Weights do not say all: a card of a model with a hook, or of another scale, is not taken."""
    hook = kept.network.layer1.register_forward_hook(lambda module, given, made: -made)
    changed = made_card(kept, "network.layer2")
    hook.remove()
    assert changed.network == ""
    changed.save(kept.report_file)
    assert known_card(kept) is None
    other = create_model(kept.network, image_size=64, mean=(0, 0, 0), std=(1, 1, 1))
    assert weights_digest(other) == weights_digest(kept)
    made_card(other, "network.layer2").save(kept.report_file)
    os.utime(kept.report_file, (1, 1))
    assert known_card(kept) is None
    made_card(kept, "network.layer2").save(kept.report_file)
    os.utime(kept.report_file, (2, 2))
    assert known_card(kept) is not None


def test_the_recommended_explanation_has_a_verdict(kept):
    """Its name stands for method and layer of the recommendation."""
    card = made_card(kept, "network.layer2")
    assert card.verdict("recommended") == card.verdict("hirescam", "network.layer2")
    assert card.find("recommended", None, MOSAIC).method == "hirescam"
