"""`report_card`: what is tested on what, what is recommended, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lulc_lib import create_model, report_card, report_cards, split, synthetic
from lulc_lib.anatomies import anatomy
from lulc_lib.checkpoints import load_checkpoint
from lulc_lib.evidence import (
    CENTRE_LEAD,
    CORE,
    LEAD,
    MOSAIC,
    REMOVAL,
    SINGLE_DELETION,
    ReportCard,
    Row,
    ranks,
)
from lulc_lib.explanations import RECOMMENDED
from lulc_lib.explanations.table import METHODS as METHOD_TABLE
from lulc_lib.plots import close, plot_report_card
from lulc_lib.report_cards import (
    CHOOSING,
    CUE,
    FULL,
    NULLS,
    TESTS,
    Candidate,
    Ground,
    Sizes,
    agreement,
    clever_hans,
    takes_own_scale,
)
from lulc_lib.storage import cache_dir

METHODS = ("gradcam", "hirescam", "inputxgradient")
TINY = Sizes(tiles=4, mosaics=4, few=2, curves=2, fillings=("mean",))
SMALL = Sizes(tiles=20, mosaics=8, few=4, curves=4, fillings=("mean",))


@pytest.fixture(scope="module")
def parts():
    return split(synthetic(20, seed=3), "seed42")


class Colours(torch.nn.Module):
    """A network whose logits are means over cells of how near their colours are to each class's."""

    def __init__(self, tiles):
        super().__init__()
        self.features = torch.nn.Conv2d(3, 10, 8, 8)
        self.fc = torch.nn.Linear(10, 10)
        labels = tiles.labels
        means = torch.stack([tiles.float(labels == k).mean((0, 2, 3)) for k in range(10)])
        weight = (40 * means / 64)[:, :, None, None].expand(-1, -1, 8, 8)
        with torch.no_grad():
            self.features.weight.copy_(weight)
            self.features.bias.copy_(-20 * means.square().sum(1))
            self.fc.weight.copy_(torch.eye(10))
            self.fc.bias.zero_()

    def forward(self, images):
        return self.fc(self.features(images).mean((2, 3)))


@pytest.fixture(scope="module")
def model(parts):
    wrapped = create_model(Colours(parts.train), image_size=64, mean=(0, 0, 0), std=(1, 1, 1))
    return wrapped.eval()


@pytest.fixture(scope="module")
def card(model, parts):
    return report_card(model, parts.test, METHODS, sizes=SMALL, choose_on=parts.val)


def test_every_test_has_figures_of_all(card):
    """Explanations and nulls have a row in each test, with an interval around the value."""
    frame = card.frame
    for test in (MOSAIC, SINGLE_DELETION, REMOVAL, "deletion", "insertion", "drawn evidence"):
        own = frame[frame.test == test]
        assert set(own.method) == {*METHODS, *NULLS}, test
        assert (own.low <= own.value).all()
        assert (own.value <= own.high).all()
    assert set(frame[frame.test.str.endswith(LEAD)].method) == set(METHODS)
    assert set(frame[frame.test.str.endswith(CENTRE_LEAD)].test) == {f"{REMOVAL}, {CENTRE_LEAD}"}
    assert frame[frame.test == MOSAIC].n.between(1, SMALL.mosaics).all()


def test_probabilities_and_logits_are_both_measured(card):
    """Removal, curves and single deletion each have a figure of the logit and the probability."""
    tests = set(card.frame.test)
    for one, other in (
        (REMOVAL, f"{REMOVAL} of the logit"),
        ("deletion", "deletion of the logit"),
        ("insertion", "insertion of the logit"),
        (SINGLE_DELETION, f"{SINGLE_DELETION} of the probability"),
    ):
        assert {one, other} <= tests


def test_curves_have_every_filling(model, parts):
    """Those of the sizes, and that of ROAD, for the probability and the logit."""
    sizes = replace(TINY, fillings=("blur", "mean", "texture"))
    found = report_card(model, parts.test, ["hirescam"], ["curves"], sizes=sizes)
    own = found.frame[found.frame.method == "hirescam"]
    for test in ("deletion", "insertion", "deletion of the logit", "insertion of the logit"):
        assert list(own.filling[own.test == test]) == ["blur", "mean", "texture", "linear"]


def test_mosaics_of_nine_have_the_figures_of_four(eurosat):
    """Share of all and of the causal ones, area and pointing."""
    vit, _ = load_checkpoint("vit")
    ground = Ground(vit, split(eurosat, "seed42").test, replace(SMALL, mosaics=30), 0)
    one = Candidate("gradcam")
    four, nine = (TESTS[name].run(ground, one, 30) for name in (MOSAIC, "mosaic 3x3"))
    assert [name for name, _ in nine] == [
        name.replace("mosaic", "mosaic 3x3").replace("quarter", "ninth") for name, _ in four
    ]
    assert np.isfinite(nine["mosaic 3x3, own ninth causal", ""]).any()
    assert nine["mosaic 3x3", ""].mean() > 1 / 9


def test_mosaics_keep_their_scale_where_the_model_takes_it(eurosat, model):
    """The shipped ResNet is asked at the tiles' own scale; a ViT and a wrapped module are not."""
    assert not takes_own_scale(create_model("vit"))
    assert not takes_own_scale(model)
    resnet, _ = load_checkpoint("resnet50")
    ground = Ground(resnet, split(eurosat, "seed42").test, replace(SMALL, mosaics=2), 0)
    large, found = ground.mosaics
    assert found.images.shape == (2, 3, 128, 128)
    assert large.image_size == 2 * resnet.image_size
    values = TESTS[MOSAIC].run(ground, Candidate("competition"), 2)
    assert values[MOSAIC, ""].mean() > 0.5


def test_a_model_that_adds_up_is_explained_by_its_sum(card):
    """Where the logit is a mean of cells, its terms find the mosaic's tile; nulls do not."""
    layer = card.frame.layer.dropna().iloc[0]
    hires = card.find("hirescam", layer, SINGLE_DELETION)
    assert hires.value > 0.9
    for null in ("random", "centre", "cells"):  # colour alone tells these classes, and blur sees it
        assert card.find(null, None, SINGLE_DELETION).value < 0.5


def test_equal_maps_have_equal_ranks(card):
    """Ranks count the explanations alone, and tests are compared by the ranks they give."""
    table = ranks(card)
    assert set(table.index.get_level_values("method")) == set(METHODS)
    assert table["mean rank"].is_monotonic_increasing
    alike = agreement(card)
    assert np.allclose(np.nan_to_num(np.diag(alike), nan=1), 1)  # none where all are equal
    assert alike.index.tolist() == alike.columns.tolist()


def test_a_map_of_two_names_counts_once_in_the_agreement_of_tests(card):
    """Equal core figures are one map, though another test moves its third decimal."""
    first = next(row for row in card.rows if row.method == "hirescam")
    copied = [replace(row, layer="its copy") for row in card.rows if row.method == "hirescam"]
    beside = [row.test for row in copied if row.test not in CORE and row.test != CUE]
    twice = [replace(row, value=row.value + 0.004) if row.test in beside else row for row in copied]
    assert beside, "the card has a test beside the core ones"
    assert first.layer != "its copy"
    alike = agreement(replace(card, rows=(*card.rows, *twice)))
    pd.testing.assert_frame_equal(alike, agreement(card))
    moved = [replace(row, value=row.value + 0.4) if row.test in CORE else row for row in copied]
    other = agreement(replace(card, rows=(*card.rows, *moved)))
    assert not other.equals(agreement(card))


def test_a_single_tile_convicts_no_model(card):
    """A figure of fewer than ten tiles is no verdict, as in `finds_cue`."""
    layer = card.frame.layer.dropna().iloc[0]
    found = Row("hirescam", layer, CUE, "", 0.95, 0.9, 1.0, 12, 0.1)
    assert clever_hans(replace(card, rows=(found,))) == [found]
    assert clever_hans(replace(card, rows=(replace(found, n=9),))) == []


def test_other_versions_of_the_libraries_make_other_cards(parts, monkeypatch):
    """Maps that captum makes are not taken from a card that an older captum has made."""
    model = create_model("vit", depth=1, embed_dim=24, num_heads=2)
    one = Ground(model, parts.test, TINY, 0)
    versions = {"grad-cam": "1", "captum": "2"}
    monkeypatch.setattr(report_cards, "map_libraries", lambda: versions)
    assert Ground(model, parts.test, TINY, 0).key["libraries"] == versions != one.key["libraries"]


def test_a_stopped_card_goes_on_where_it_was(parts, monkeypatch, tmp_path):
    """What explanations share is kept too: the resumed card equals a whole one."""
    torch.manual_seed(0)
    network = create_model("resnet10t", image_size=64).eval()
    asked = (["gradcam"], [SINGLE_DELETION, REMOVAL, "adapted copy"])
    settings = {"sizes": replace(TINY, steps=1), "training": parts.train}
    monkeypatch.setenv("LULC_CACHE", str(tmp_path / "whole"))
    whole = report_card(network, parts.test, *asked, **settings)

    def stop(*_, **__):
        raise KeyboardInterrupt

    def never(*_, **__):
        raise AssertionError("this was measured before the stop")

    monkeypatch.setenv("LULC_CACHE", str(tmp_path / "stopped"))
    with monkeypatch.context() as stopped:
        stopped.setattr("lulc_lib.report_cards.removal_of", stop)
        with pytest.raises(KeyboardInterrupt):
            report_card(network, parts.test, *asked, **settings)
    with monkeypatch.context() as resumed:
        resumed.setattr("lulc_lib.report_cards.single_deletion", never)
        with pytest.raises(AssertionError, match="before the stop"):  # of the adapted copy
            report_card(network, parts.test, *asked, **settings)
    with monkeypatch.context() as resumed:
        for name in ("patch_answers", "adapted"):
            resumed.setattr(f"lulc_lib.report_cards.{name}", never)
        again = report_card(network, parts.test, *asked, **settings)
    assert [replace(row, seconds=0) for row in again.rows] == [
        replace(row, seconds=0) for row in whole.rows
    ]


def test_kept_rows_are_of_the_network_as_it_is(parts):
    """Another module measures anew; with a hook nothing is kept, and the rows are the live ones."""
    torch.manual_seed(0)
    network = create_model("vit", depth=1, embed_dim=24, num_heads=2).eval()
    asked = (parts.test, ["gradcam"], [SINGLE_DELETION])

    def values():
        return [row.value for row in report_card(network, *asked, sizes=TINY).rows]

    def files():
        return sorted((cache_dir() / "reports").glob("*.npz"))

    first, kept = values(), files()
    assert kept
    assert (values(), files()) == (first, kept)
    act = network.network.blocks[0].mlp.act
    network.network.blocks[0].mlp.act = torch.nn.ReLU()
    assert values() != first
    assert len(files()) == 2 * len(kept)
    network.network.blocks[0].mlp.act = act
    with network.network.blocks[0].register_forward_hook(lambda _, __, out: out * 0):
        assert values() != first
    assert len(files()) == 2 * len(kept)


def _figures(method, value, lead, n=10):
    made = [Row(method, None, REMOVAL, "", value, value - 0.1, value + 0.1, n, 0.1)]
    for test in (MOSAIC, SINGLE_DELETION):
        made.append(Row(method, None, test, "", value, value - 0.1, value + 0.1, n, 0.1))
        ends = (lead + 0.1, lead, lead + 0.2)
        made.append(Row(method, None, f"{test}, {LEAD}", "", *ends, n, 0.1))
    return made


def test_the_best_of_those_told_from_the_nulls_is_recommended(card):
    """The best rank without a sure lead is passed over, and so are few tiles; the reason says."""

    def asked(*rows):
        return report_cards._recommended(replace(card, rows=rows), rows, "on 20 of 40 other tiles")

    found = asked(*_figures("gradcam", 0.8, -0.05), *_figures("hirescam", 0.6, 0.1))
    assert found.method == "hirescam"
    assert found.reason.startswith("report card: number 2 of 2 by mean rank (2.")
    assert asked(*_figures("hirescam", 0.6, 0.1)).reason.startswith("report card: first of 1 by")
    same = [
        one for name in ("gradcam", "gradcam++", "xgradcam") for one in _figures(name, 0.8, -0.05)
    ]
    found = asked(*same, *_figures("hirescam", 0.6, 0.1))
    assert "number 2 of 2 by mean rank" in found.reason, "maps that are equal count once"
    assert "chosen on 20 of 40 other tiles" in found.reason
    assert asked(*_figures("hirescam", 0.6, 0.1, n=9)) is None


def test_it_is_chosen_on_as_many_tiles_as_asked(model, parts):
    """More tiles to choose on change the choice alone, not the figures of the card."""
    asked = {"sizes": SMALL, "choose_on": parts.val}
    half = report_card(model, parts.test, ["hirescam"], CORE, **asked)
    more = report_card(model, parts.test, ["hirescam"], CORE, **asked, choosing=SMALL)
    assert half.rows == tuple(
        replace(row, seconds=mine.seconds) for row, mine in zip(more.rows, half.rows, strict=True)
    )
    for card, count in ((half, SMALL.tiles // 2), (more, SMALL.tiles)):
        counts = {row.n for row in card.choice if row.test == SINGLE_DELETION}
        assert counts == {len(parts.val.balanced(count))}


def test_the_same_seed_gives_the_same_card(model, parts, card):
    """A second call measures the same; another seed draws other mosaics."""
    again = report_card(
        model, parts.test, ["gradcam"], ["mosaic"], sizes=SMALL, choose_on=parts.val
    )
    layer = card.frame.layer.dropna().iloc[0]
    same = again.find("gradcam", layer, MOSAIC), card.find("gradcam", layer, MOSAIC)
    assert same[0].value == same[1].value
    other = report_card(model, parts.test, ["gradcam"], ["mosaic"], sizes=SMALL, seed=1)
    assert other.find("gradcam", layer, MOSAIC).value != same[0].value


def test_it_may_be_computed_in_bfloat16(model, parts, tmp_path):
    """A card in bfloat16 says so, also when read again, and its figures lie near the others."""
    cards = {
        precision: report_card(
            model, parts.test, ["gradcam"], ["single deletion"], quick=True, precision=precision
        )
        for precision in ("float32", "bfloat16")
    }
    read = ReportCard.from_json(cards["bfloat16"].save(tmp_path / "card.json"))
    assert (read.precision, cards["float32"].precision) == ("bfloat16", "float32")
    values = [card.frame.value.to_numpy() for card in cards.values()]
    assert not np.array_equal(*values)
    np.testing.assert_allclose(*values, atol=0.2)


def test_nulls_alone_recommend_nothing(model, parts):
    """A card of maps that look at nothing recommends none of them."""
    found = report_card(model, parts.test, ["edge"], list(TESTS)[:4], sizes=SMALL)
    assert found.recommended is None


def test_it_is_drawn(card):
    """Each explanation and null has its line in three panels."""
    ax = plot_report_card(card)
    labels = [text.get_text() for text in ax.child_axes[0].get_yticklabels()]
    assert len(labels) == len(METHODS) + len(NULLS)
    assert len(ax.child_axes) == 3
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [text.split(" ")[0] for text in legend] == ["told", "not", "null:", "the"]
    drawn = [line.get_marker() for line in ax.child_axes[0].lines]
    assert drawn.count("s") == len(NULLS)  # another form than the explanations
    assert drawn.count("o") == len(METHODS)
    titles = tuple(panel.get_title(loc="left") for panel in ax.child_axes)
    said = [panel.texts[0].get_text() for panel in ax.child_axes]
    assert titles == (f"{card.model}: Mosaics", "Single deletion", "Removal")
    filling = card.find("edge", None, SINGLE_DELETION).filling
    assert [text.partition(", filled by ")[2] for text in said] == ["", filling, filling]
    close(ax)


def test_on_few_tiles_no_point_is_drawn_as_told_apart():
    """The figure says what the verdict says: fewer than ten tiles tell no map apart."""
    for n in (9, 10):
        rows = []
        for test in (MOSAIC, SINGLE_DELETION, REMOVAL):
            rows.append(Row("gradcam", "a", test, "", 0.6, 0.5, 0.7, n=n, seconds=0.1))
            rows.append(Row("centre", None, test, "", 0.1, 0.0, 0.2, n=n, seconds=0.1))
            lead = CENTRE_LEAD if test == REMOVAL else LEAD
            rows.append(Row("gradcam", "a", f"{test}, {lead}", "", 0.5, 0.4, 0.6, n=n, seconds=0.1))
        card = ReportCard("small", "w", "drawn", "d", tuple(rows), None)
        ax = plot_report_card(card)
        points = [line for panel in ax.child_axes for line in panel.lines
                  if line.get_marker() == "o"]  # fmt: skip
        assert len(points) == 3
        hollow = [line.get_markerfacecolor() == "white" for line in points]
        assert hollow == [n < 10] * 3
        assert card.verdict("gradcam", "a").proven is (n >= 10)
        close(ax)


def test_a_method_that_fails_on_a_tile_is_left_out(parts, monkeypatch):
    """Without a list of methods the card goes on and says what it lacks; else it is an error."""
    network = create_model("test_resnet", image_size=32).eval()
    with monkeypatch.context() as changed:
        failing = replace(METHOD_TABLE["hirescam"], maps=_failing)
        changed.setitem(METHOD_TABLE, "hirescam", failing)
        found = report_card(network, parts.test, None, [SINGLE_DELETION], sizes=TINY)
        (words,) = found.left_out
        assert words.startswith("hirescam at network.layer")
        assert words.endswith(": no map of such a tile")
        assert "hirescam" not in set(found.frame.method)
        with pytest.raises(ValueError, match="no map of such a tile"):
            report_card(network, parts.test, ["hirescam"], [SINGLE_DELETION], sizes=TINY)


def test_scorecam_is_left_out_where_its_layer_has_many_channels(parts, monkeypatch):
    """A small network's is tested; a larger one's card says how many passes it would take."""
    network = create_model("test_resnet", image_size=32).eval()
    asked = (network, parts.test, None, [SINGLE_DELETION])
    whole = report_card(*asked, sizes=TINY)
    assert "scorecam" in set(whole.frame.method)
    assert whole.left_out == ()
    channels = anatomy(network).channels
    monkeypatch.setattr("lulc_lib.report_cards.MOST_CHANNELS", channels - 1)
    part = report_card(*asked, sizes=TINY)
    assert "scorecam" not in set(part.frame.method)
    assert part.left_out == (
        f"scorecam: one pass for each of {channels} channels; name it to test it",
    )
    named = report_card(network, parts.test, ["scorecam"], [SINGLE_DELETION], sizes=TINY)
    assert "scorecam" in set(named.frame.method)


def test_a_card_keeps_how_it_was_asked(card, model, parts, monkeypatch, tmp_path):
    """Seed and sizes come back from the file; a full card chooses on more tiles than it reports."""
    assert card.settings["seed"] == 0
    assert Sizes(**card.settings["sizes"]) == SMALL
    assert card.settings["choosing"]["tiles"] == SMALL.tiles // 2
    again = ReportCard.from_json(card.save(tmp_path / "a.json"))
    assert again.settings == card.settings
    assert Sizes(**again.settings["sizes"]).tiles == SMALL.tiles
    none = report_card(model, parts.test, ["edge"], [SINGLE_DELETION], sizes=TINY, seed=3)
    assert (none.settings["seed"], none.settings["choosing"]) == (3, None)
    monkeypatch.setattr("lulc_lib.report_cards.FULL", TINY)
    asked = (model, parts.test, ["edge"], [SINGLE_DELETION])
    full = report_card(*asked, sizes=TINY, choose_on=parts.val)
    assert Sizes(**full.settings["choosing"]) == CHOOSING
    assert not full.quick
    more = report_card(*asked, sizes=replace(TINY, mosaics=5), choose_on=parts.val)
    assert Sizes(**more.settings["choosing"]) == CHOOSING, "a larger card is no trial"
    assert not more.quick
    assert report_card(*asked, sizes=TINY, quick=True).quick
    assert report_card(*asked, sizes=replace(TINY, few=1)).quick


def test_sizes_may_come_from_numpy_and_lists(model, parts, tmp_path):
    """What was accepted at the start is saved at the end."""
    numbers = Sizes(tiles=np.int64(4), mosaics=4, few=2, curves=2, fillings=["mean"])
    assert numbers == TINY
    methods = np.array(["gradcam", "edge"])
    found = report_card(model, parts.test, methods, [SINGLE_DELETION], sizes=numbers)
    assert found.save(tmp_path / "a.json").is_file()
    with pytest.raises(TypeError, match=r"fillings must be a list, such as \['blur'\]"):
        Sizes(fillings="blur")
    with pytest.raises(ValueError, match="fillings name one twice: blur, mean, blur"):
        Sizes(fillings=("blur", "mean", "blur"))


def test_shipped_cards_are_what_the_command_makes():
    """Their settings are the defaults of a full card, so `lulc report NAME` makes them again.

    A choice may take more tiles than the default. It follows from the kept figures: the best mean
    rank of those that were told apart from every null.
    """
    folder = Path(__file__).parents[1] / "checkpoints"
    for file in folder.glob("*.report.json"):
        card = ReportCard.from_json(file)
        assert card.settings["seed"] == 0, file.name
        assert Sizes(**card.settings["sizes"]) == FULL, file.name
        assert Sizes(**card.settings["choosing"]).covers(CHOOSING), file.name
        best, chooser = card.recommended, replace(card, rows=card.choice)
        order = [
            one for one in ranks(chooser).index if chooser.verdict(one[0], one[1] or None).proven
        ]
        assert order[0] == (best.method, best.layer or ""), file.name


def _failing(batch):
    raise ValueError("no map of such a tile")


@pytest.mark.parametrize(
    "arguments",
    [{"depth": 1}, {"depth": 2}, {"depth": 2, "class_token": True, "global_pool": "token"}],
)
def test_a_shallow_vit_has_a_quick_card(parts, arguments):
    """Few blocks leave few layers to ask, and no method is asked that cannot explain them."""
    vit = create_model("vit", embed_dim=48, num_heads=2, **arguments).eval()
    found = report_card(vit, parts.test, tests=["planted cue"], quick=True,
                        sizes=replace(SMALL, few=2))  # fmt: skip
    assert "libragrad" in set(found.frame[found.frame.test == "planted cue"].method)


def test_a_quick_card_takes_four_methods():
    """Of a ViT and a ResNet alike, and the explanation that decides on cues."""
    for name in ("vit", "resnet18"):
        model = create_model(name)
        found = list(report_cards._quick_candidates(model))
        assert len({one.method for one in found}) == len(found) == 4
        assert report_cards._seeing_cues(model).method in {one.method for one in found}


def test_what_it_depends_on_is_in_its_key(parts):
    """Other labels, masks and training tiles of the same names give other figures."""
    network = create_model("test_resnet", image_size=32).eval()
    few = replace(TINY, steps=2)

    def values(test, tiles, training=None):
        found = report_card(network, tiles, ["gradcam"], [test], sizes=few, training=training)
        return found.frame[found.frame.test.str.startswith(test[:8])].value.tolist()

    turned = replace(parts.test, labels=(parts.test.labels + 3) % 10)
    assert values("planted cue", parts.test) != values("planted cue", turned)
    assert values("drawn evidence", parts.test)
    others = [synthetic(4, seed=seed) for seed in (21, 22)]
    one, other = (
        report_card(network, parts.test, ["gradcam"], ["adapted copy"], sizes=few, training=tiles)
        for tiles in others
    )
    assert one.frame.value.tolist() != other.frame.value.tolist()


def test_the_recommended_method_may_be_asked_for(model, parts):
    """Its name stands for what the card beside the model recommends, here Grad-CAM."""
    found = report_card(model, parts.test, [RECOMMENDED], [SINGLE_DELETION], sizes=SMALL)
    assert "gradcam" in set(found.frame.method)


def test_tests_that_agree_correlate_by_their_better_end(card):
    """Deletion is better when low, randomisation when near 0; both count so."""
    rows = [
        Row(name, None, test, "", value * sign, 0.0, 1.0, 20, 0.1)
        for name, value in (("gradcam", 0.1), ("hirescam", 0.2), ("layercam", 0.3))
        for test, sign in ((MOSAIC, 1), ("deletion of the logit", -1), ("randomisation", 1))
    ]
    rows = [
        replace(row, value=0.4 - row.value) if row.test == "randomisation" else row for row in rows
    ]
    asked = replace(card, rows=tuple(rows))
    assert np.allclose(agreement(asked), 1)
    wide = [
        replace(row, value=0.0, low=-row.value, high=row.value)
        if row.test == "randomisation" else row for row in rows
    ]  # fmt: skip
    cancels = agreement(replace(card, rows=tuple(wide)))
    assert np.allclose(cancels, 1), "opposite signs cancel in the mean alone"
    odd = [replace(row, method="gradcam++", value=row.value + 1e-5) for row in rows[:3]]
    worse = [
        replace(row, method="eigencam", value=v)
        for row, v in zip(rows[:3], (0.4, 0, 0.4), strict=True)
    ]
    few, many = (
        agreement(replace(card, rows=(*rows, *worse, *more)), [MOSAIC, "deletion of the logit"])
        for more in ([], odd)
    )
    assert few.shape == (2, 2)
    assert few.iloc[0, 1] < 1
    assert np.allclose(few, many), "equal maps count once"
    with pytest.raises(ValueError, match="the card has no test 'mosaics'; did you mean 'mosaic'"):
        agreement(asked, ["mosaics"])
    with pytest.raises(ValueError, match=r"the card has no test 'x'\. It has 'mosaic', "):
        agreement(asked, ["x"])
    with pytest.raises(TypeError, match="tests must be a list"):
        agreement(asked, "mosaic")
    cue = Row("gradcam", None, "planted cue", "", 0.9, 0.8, 1.0, 20, 0.1)  # of one alone
    same = [replace(row, method="xgradcam") for row in rows[:3]]
    with_cue = agreement(replace(card, rows=(*rows, *worse, *same, cue)), [*few.index])
    assert np.allclose(few, with_cue), "an explanation with a cue is still the same map"
    frame = replace(card, rows=tuple(row for row in (*rows, *worse) if row.method != "hirescam"
                                     or row.test != MOSAIC))  # fmt: skip
    wide = frame.frame.pivot_table(index="method", columns="test", values="value")
    wide["deletion of the logit"] *= -1
    assert np.allclose(agreement(frame, list(few.index)),
                       wide[list(few.index)].corr(method="spearman"))  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": "gradcam"}, TypeError, r"methods must be a list, such as \['gradcam'\]"),
        ({"methods": [("gradcam", "nope")]}, ValueError, "no layer 'nope'"),
        ({"methods": [("centre", "network.features")]}, ValueError, "no single layer"),
        ({"methods": [3]}, TypeError, "names, or pairs"),
        ({"tests": "mosaic"}, TypeError, "tests must be a list"),
        ({"precision": "half"}, ValueError, "precision must be float32 or bfloat16, got 'half'"),
        ({"seed": "a"}, TypeError, "seed must be a whole number, got 'a'"),
        ({"seed": -1}, ValueError, "seed must be at least 0 and below"),
        ({"training": np.zeros(3)}, TypeError, "training must be a TileSet"),
        ({"choose_on": 3}, TypeError, "choose_on must be a TileSet"),
        ({"sizes": 3}, TypeError, "sizes must be a Sizes"),
        ({"choosing": 3}, TypeError, "choosing must be a Sizes"),
        ({"choosing": SMALL}, ValueError, "give choose_on too"),
    ],
)
def test_wrong_arguments_are_named(options, error, message, model, parts):
    with pytest.raises(error, match=message):
        report_card(model, parts.test, **{"methods": ["gradcam"], "sizes": SMALL, **options})


def test_no_tile_is_in_two_parts(model, parts):
    """Choosing, learning and reporting take different tiles."""
    for name in ("choose_on", "training"):
        with pytest.raises(ValueError, match=rf"of the 40 images of tiles are in {name} as well"):
            report_card(model, parts.test, ["gradcam"], **{name: parts.test})
    with pytest.raises(ValueError, match="mosaics must be a whole number of at least 1, got 0"):
        Sizes(mosaics=0)
    with pytest.raises(ValueError, match="fillings must be among"):
        Sizes(fillings=("blurr",))
    with pytest.raises(TypeError, match="report_card takes a model made by create_model"):
        report_card(model.network, parts.test)


def test_what_is_refused(model, parts):
    """Unknown tests and methods, no tiles, and tiles that the model learned from."""
    with pytest.raises(ValueError, match=r"no test 'mosaics'.*mosaic"):
        report_card(model, parts.test, ["gradcam"], ["mosaics"])
    with pytest.raises(ValueError, match="unknown method"):
        report_card(model, parts.test, ["gradcamm"])
    with pytest.raises(TypeError, match="TileSet"):
        report_card(model, parts.test.float())
    learnt = create_model(model.network, image_size=64)
    learnt.trained_on = parts.test.provenance()
    with pytest.raises(ValueError, match=f"trained on {len(parts.test)} of these"):
        report_card(learnt, parts.test, ["gradcam"])


def test_it_is_kept_as_json(card, tmp_path):
    """The written card reads as the same figures."""
    again = ReportCard.from_json(card.save(tmp_path / "small.report.json"))
    assert again.frame.equals(card.frame)


def test_copies_of_a_tile_are_no_more_tiles(model, parts):
    """Equal images count once: ten copies of a tile tell no map apart, and the card says so."""
    ten = parts.test[np.repeat(np.arange(2), 10)]
    found = report_card(model, ten, ["gradcam"], [SINGLE_DELETION], sizes=SMALL)
    assert set(found.frame.n) == {2}
    assert "2 tiles to draw from, without 18 that are copies of others" in found.tiles
    assert found.digest == ten.digest
    once = report_card(model, parts.test, ["gradcam"], [SINGLE_DELETION], sizes=SMALL)
    assert "copies" not in once.tiles


def test_too_few_classes_are_the_tiles_fault(model, parts):
    """Mosaics take four classes: the message tells a lack of them from a model that fails."""
    for kept, words in ((1, "1 class, and"), (3, "3 classes, and")):
        few = parts.test[np.flatnonzero(parts.test.labels.numpy() < kept)]
        with pytest.raises(ValueError, match=f"holds tiles of {words} a mosaic takes four; give"):
            report_card(model, few, ["gradcam"], [MOSAIC], sizes=SMALL)
    blind = create_model("test_resnet", image_size=32).eval()
    with pytest.raises(ValueError, match="recognises tiles of fewer than four classes"):
        report_card(blind, parts.test, ["gradcam"], [MOSAIC], sizes=SMALL)


def test_a_test_that_can_have_no_figures_is_refused(model, parts):
    """By name it needs its tiles; a planted cue is looked for by the explanation that decides."""
    with pytest.raises(ValueError, match="'adapted copy' needs tiles that a copy may learn from"):
        report_card(model, parts.test, ["gradcam"], ["adapted copy"], sizes=TINY)
    bare = replace(parts.test, masks=None)
    with pytest.raises(ValueError, match="'drawn evidence' needs tiles with masks"):
        report_card(model, bare, ["gradcam"], ["drawn evidence"], sizes=TINY)
    found = report_card(model, parts.test, ["gradcam"], [CUE], sizes=TINY)
    deciding = report_cards._seeing_cues(model).method
    assert set(found.frame.method) == {deciding, *NULLS}
    for name in ("quick", "seed"):
        with pytest.raises(TypeError, match=f"{name} must be"):
            report_card(model, parts.test, ["gradcam"], [CUE], **{name: "yes"})
    with pytest.raises(ValueError, match=r"seed must be at least 0 and below 2\*\*63"):
        report_card(model, parts.test, ["gradcam"], [CUE], seed=2**64)
    with pytest.raises(TypeError, match="tests must hold names of tests"):
        report_card(model, parts.test, ["gradcam"], [[CUE]])
    for ask in (agreement, clever_hans):
        with pytest.raises(TypeError, match=r"takes a report card, .* got str"):
            ask("card.json")


def test_an_untested_panel_says_so(card):
    """A card of one test has two panels without points, which say why."""
    one = replace(card, rows=tuple(row for row in card.rows if row.test.startswith(REMOVAL)))
    ax = plot_report_card(one)
    said = ["not tested" in [text.get_text() for text in panel.texts] for panel in ax.child_axes]
    assert said == [True, True, False]
    close(ax)


def test_nothing_asked_for_is_refused(model, parts):
    """An empty list is no card, and a layer stands beside its method, not in its name."""
    for name in ("methods", "tests"):
        with pytest.raises(ValueError, match=f"{name} are empty; name at least one"):
            report_card(model, parts.test, **{name: []})
    with pytest.raises(ValueError, match=r"give the layer apart from the method: 'gradcam', and"):
        report_card(model, parts.test, ["gradcam@network.features"])


def test_the_plot_refuses_what_it_cannot_draw(card, tmp_path):
    """A path is no card, and a number of explanations is at least 1."""
    with pytest.raises(TypeError, match=r"takes a report card, .* got PosixPath"):
        plot_report_card(card.save(tmp_path / "a.json"))
    for most in (0, -1, "3"):
        with pytest.raises(ValueError, match="most must be a whole number of at least 1, got"):
            plot_report_card(card, most=most)


def test_a_card_names_the_checkpoint():
    """Two checkpoints of one architecture have cards of different names."""
    model, _ = load_checkpoint("vit_spatial")
    found = report_card(model, synthetic(1, seed=5), ["edge"], [SINGLE_DELETION], sizes=TINY)
    assert (found.model, model.name) == ("vit_spatial", "vit")
    folder = Path(__file__).parents[1] / "checkpoints"
    for file in folder.glob("*.report.json"):
        assert ReportCard.from_json(file).model == file.name.removesuffix(".report.json")
