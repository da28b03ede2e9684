"""`report_card`: what is tested on what, what is recommended, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lulc_lib import create_model, report_card, split, synthetic
from lulc_lib.checkpoints import load_checkpoint
from lulc_lib.evidence import (
    CENTRE_LEAD,
    LEAD,
    MOSAIC,
    REMOVAL,
    SINGLE_DELETION,
    ReportCard,
    ranks,
)
from lulc_lib.plots import close, plot_report_card
from lulc_lib.report_cards import (
    NULLS,
    TESTS,
    Candidate,
    Ground,
    Sizes,
    agreement,
    takes_own_scale,
)

METHODS = ("gradcam", "hirescam", "inputxgradient")
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
    assert (frame[frame.test == MOSAIC].n == SMALL.mosaics).all()


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
    close(ax)


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
