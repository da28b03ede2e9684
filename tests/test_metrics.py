"""Predicting and scoring: known answers, scikit-learn and torchmetrics as oracles, side effects."""

import copy
import dataclasses
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional import classification as tm

from lulc_lib import metrics
from lulc_lib.metrics import Interval, compare, coverage, evaluate, temperature, tempered
from lulc_lib.predictions import Predictions
from lulc_lib.tiles import CLASSES


def predictions(count: int = 400, seed: int = 0, skill: float = 1.5, decimals: int = 8, **more):
    """Make predictions of a classifier of the given skill; few decimals make many ties."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(CLASSES), count)
    logits = generator.normal(size=(count, len(CLASSES)))
    logits[np.arange(count), labels] += skill
    names = tuple(f"tile {i}" for i in range(count))
    return Predictions(np.round(logits, decimals), labels, names, **more)


def test_interval_is_a_float_with_ends():
    """An interval counts as its value, shows its ends, and survives pickling and JSON."""
    figure = Interval(0.5, 0.4, 0.6)
    assert float(figure) == figure == 0.5
    assert type(figure.value) is float
    assert (figure.low, figure.high) == (0.4, 0.6)
    assert str(figure) == f"{figure}" == "0.500 [0.400, 0.600]"
    assert f"{figure:.1f}" == "0.5"
    assert repr(figure) == "Interval(0.5, 0.4, 0.6)"
    assert json.dumps(figure.to_dict()) == '{"value": 0.5, "low": 0.4, "high": 0.6}'
    for other in (pickle.loads(pickle.dumps(figure)), copy.deepcopy(figure)):
        assert (other.value, other.low, other.high) == (0.5, 0.4, 0.6)


def test_evaluate_known_answer_by_hand():
    """Four tiles of two classes, one mistaken: every figure worked out on paper."""
    logits = np.full((4, 10), -20.0)
    for tile, guess in enumerate([0, 0, 1, 0]):
        logits[tile, guess] = [9, 8, 7, 6][tile]
    logits[3, 1] = 5
    report = evaluate(Predictions(logits, [0, 0, 1, 1], tuple("abcd")))
    # Class 0: 2 hits, 1 false alarm, 0 misses; class 1: 1 hit, 0 false alarms, 1 miss.
    assert report.accuracy == 0.75
    assert report.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2, abs=1e-12)
    table = report.per_class
    assert table.loc["AnnualCrop", "users_accuracy"] == pytest.approx(2 / 3, abs=1e-12)
    assert table.loc["AnnualCrop", "producers_accuracy"] == 1
    assert table.loc["Forest", "users_accuracy"] == 1
    assert table.loc["Forest", "producers_accuracy"] == 0.5
    # Both classes rank their own two tiles first.
    assert table["ap"][:2].tolist() == [1, 1]
    assert report.macro_auprc == 1
    assert report.confusion[1, 0] == 1  # rows are labels: a Forest tile was called AnnualCrop
    assert report.confusion.sum() == report.n == 4
    assert table["support"].tolist() == [2, 2] + [0] * 8


def test_evaluate_average_precision_by_hand():
    """Ranks 1 and 3 of 4 for two positive tiles give AP (1/1 + 2/3) / 2."""
    logits = np.zeros((4, 10))
    logits[:, 0] = [4, 3, 2, 1]
    report = evaluate(Predictions(logits, [0, 1, 0, 1], tuple("abcd")))
    assert report.per_class.loc["AnnualCrop", "ap"] == pytest.approx(5 / 6, abs=1e-12)


def test_calibration_error_by_hand():
    """Two tiles said at one half, one right: ECE 0; both wrong: ECE one half."""
    logits = np.zeros((2, 10))
    logits[:, 3] = np.log(9)
    assert evaluate(Predictions(logits, [3, 0], ("a", "b"))).ece == pytest.approx(0, abs=1e-7)
    assert evaluate(Predictions(logits, [1, 0], ("a", "b"))).ece == pytest.approx(0.5, abs=1e-7)


@pytest.mark.parametrize("decimals", [8, 0])
@pytest.mark.parametrize("seed", range(3))
def test_evaluate_agrees_with_scikit_learn(seed, decimals):
    """All figures equal scikit-learn's to 1e-12, with and without ties."""
    pred = predictions(seed=seed, decimals=decimals)
    labels, guesses, report = pred.labels, pred.predicted, evaluate(pred, resamples=10)
    table = report.per_class
    assert report.macro_f1 == pytest.approx(
        sk.f1_score(labels, guesses, average="macro"), abs=1e-12
    )
    assert report.accuracy == pytest.approx(sk.accuracy_score(labels, guesses), abs=1e-12)
    assert np.array_equal(report.confusion, sk.confusion_matrix(labels, guesses))
    precision, recall, f1, support = sk.precision_recall_fscore_support(labels, guesses)
    assert np.allclose(table["users_accuracy"], precision, rtol=0, atol=1e-12)
    assert np.allclose(table["producers_accuracy"], recall, rtol=0, atol=1e-12)
    assert np.allclose(table["f1"], f1, rtol=0, atol=1e-12)
    assert table["support"].tolist() == support.tolist()
    ap = [sk.average_precision_score(labels == c, pred.probabilities[:, c]) for c in range(10)]
    assert np.allclose(table["ap"], ap, rtol=0, atol=1e-12)
    assert report.macro_auprc == pytest.approx(np.mean(ap), abs=1e-12)


@pytest.mark.parametrize("decimals", [8, 1])
def test_evaluate_agrees_with_torchmetrics(decimals):
    """Macro-F1, AUPRC and calibration error equal torchmetrics' to its float32."""
    pred = predictions(seed=5, decimals=decimals)
    chances, labels = torch.from_numpy(pred.probabilities), torch.from_numpy(pred.labels)
    report = evaluate(pred, resamples=10)
    f1 = tm.multiclass_f1_score(chances, labels, 10, average="macro")
    auprc = tm.multiclass_average_precision(chances, labels, 10, average="macro")
    ece = tm.multiclass_calibration_error(chances, labels, 10, n_bins=15, norm="l1")
    assert report.macro_f1 == pytest.approx(float(f1), abs=1e-6)
    assert report.macro_auprc == pytest.approx(float(auprc), abs=1e-6)
    assert report.ece == pytest.approx(float(ece), abs=1e-6)


def test_evaluate_leaves_absent_classes_out():
    """Classes without tiles are NaN in the table and not in the means, as in both oracles."""
    pred = predictions(300, seed=2)
    some = np.flatnonzero((pred.labels < 4) & (pred.predicted < 6))
    pred = Predictions(pred.logits[some], pred.labels[some], tuple(f"{i}" for i in some))
    report, table = evaluate(pred), evaluate(pred).per_class
    assert table["ap"].notna().tolist() == [True] * 4 + [False] * 6
    assert table["producers_accuracy"].notna().tolist() == [True] * 4 + [False] * 6
    assert table["f1"].notna().tolist() == [True] * 6 + [False] * 4  # predicted in vain counts 0
    assert table["f1"].tolist()[4:6] == [0, 0]
    expected = sk.f1_score(pred.labels, pred.predicted, average="macro")
    assert report.macro_f1 == pytest.approx(expected, abs=1e-12)
    chances, labels = torch.from_numpy(pred.probabilities), torch.from_numpy(pred.labels)
    f1 = tm.multiclass_f1_score(chances, labels, 10, average="macro")
    assert report.macro_f1 == pytest.approx(float(f1), abs=1e-6)
    ap = [sk.average_precision_score(pred.labels == c, pred.probabilities[:, c]) for c in range(4)]
    assert report.macro_auprc == pytest.approx(np.mean(ap), abs=1e-12)
    assert report.macro_auprc.low <= report.macro_auprc <= report.macro_auprc.high
    json.dumps(report.to_dict(), allow_nan=False)


def test_evaluate_counts_a_class_never_predicted_as_zero():
    """User's accuracy of a class that occurs but is never predicted is 0, as in scikit-learn."""
    logits = np.zeros((4, 10))
    logits[:, 0] = 1
    table = evaluate(Predictions(logits, [0, 0, 1, 1], tuple("abcd"))).per_class
    assert table.loc["Forest", ["users_accuracy", "producers_accuracy", "f1"]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("decimals", [8, 0])
def test_resampled_figures_equal_those_of_repeated_tiles(decimals):
    """A weight of k is the tile met k times: each draw scores as scikit-learn scores the copies."""
    pred = predictions(150, seed=4, decimals=decimals)
    scorer = metrics._Scorer(pred.labels, pred.probabilities, pred.predicted)
    weights = np.concatenate(list(metrics._draws(150, 6, seed=1)))
    figures = scorer.figures(weights)
    ap = scorer.average_precision(weights)
    for row, counts in enumerate(weights):
        again = np.repeat(np.arange(150), counts)
        labels, guesses = pred.labels[again], pred.predicted[again]
        chances = pred.probabilities[again]
        expected = [sk.average_precision_score(labels == c, chances[:, c]) for c in range(10)]
        assert np.allclose(ap[row], expected, rtol=0, atol=1e-12)
        f1 = sk.f1_score(labels, guesses, average="macro")
        assert figures["macro_f1"][row] == pytest.approx(f1, abs=1e-12)
        assert figures["accuracy"][row] == pytest.approx((labels == guesses).mean(), abs=1e-12)
        copies = Predictions(pred.logits[again], labels, tuple(map(str, again)))
        assert figures["ece"][row] == pytest.approx(evaluate(copies, resamples=1).ece, abs=1e-12)


def test_draws_are_bootstrap_resamples():
    """Each draw has N tiles; a tile's count has mean 1 and variance 1 - 1/N; seeds differ."""
    draws = np.concatenate(list(metrics._draws(200, 500, seed=0)))
    assert draws.shape == (500, 200)
    assert (draws.sum(axis=1) == 200).all()
    assert draws.var() == pytest.approx(1 - 1 / 200, rel=0.03)
    assert np.array_equal(draws, np.concatenate(list(metrics._draws(200, 500, seed=0))))
    assert not np.array_equal(draws, np.concatenate(list(metrics._draws(200, 500, seed=1))))


def test_accuracy_interval_matches_theory():
    """The interval of an accuracy is 1.96 standard errors of a share to each side."""
    figure = evaluate(predictions(2000), seed=3).accuracy
    error = 1.96 * np.sqrt(figure * (1 - figure) / 2000)
    assert figure.high - figure.low == pytest.approx(2 * error, rel=0.1)


def test_intervals_cover_the_truth():
    """Of 60 samples of one classifier, about 95 % have intervals that hold its true figures."""
    whole = evaluate(predictions(50_000, seed=99), resamples=1)
    names = ("accuracy", "macro_f1", "macro_auprc", "ece")
    hits = dict.fromkeys(names, 0)
    for seed in range(60):
        report = evaluate(predictions(500, seed=seed), resamples=200)
        for name in names:
            figure = getattr(report, name)
            hits[name] += figure.low <= getattr(whole, name) <= figure.high
    assert all(49 <= count <= 60 for count in hits.values()), hits


def test_interval_of_a_small_calibration_error_holds_its_value():
    """Where confidence is honest, draws have more error than the sample; the interval does not."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (1000, 10))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (chances.cumsum(axis=1) < generator.random((1000, 1))).sum(axis=1)
    ece = evaluate(Predictions(logits, labels, tuple(map(str, range(1000))))).ece
    assert 0 <= ece.low < ece < ece.high < 0.08


def test_evaluate_is_reproducible_and_seeded():
    """The same seed gives the same intervals, another seed nearly the same, never other values."""
    pred = predictions()
    first, again, other = (evaluate(pred, seed=s).macro_auprc for s in (0, 0, 1))
    assert (first.low, first.high) == (again.low, again.high)
    assert first.value == other.value
    assert first.low != other.low
    assert first.low == pytest.approx(other.low, abs=0.01)


def test_a_random_classifier_scores_as_chance():
    """Negative control: without skill accuracy is 0.1, AUPRC the class's share; with skill not."""
    blind, able = (evaluate(predictions(3000, skill=s), resamples=50) for s in (0, 3))
    assert blind.accuracy == pytest.approx(0.1, abs=0.02)
    assert blind.macro_auprc == pytest.approx(0.1, abs=0.02)
    assert able.accuracy > 0.8
    assert able.macro_auprc > 0.9


def test_a_perfect_classifier_has_no_width():
    """All right: every figure is 1, and so are both ends."""
    pred = predictions(200, skill=50)
    report = evaluate(pred)
    for figure in (report.accuracy, report.macro_f1, report.macro_auprc):
        assert (figure.value, figure.low, figure.high) == (1, 1, 1)


def test_evaluate_refuses_training_tiles():
    """Figures on training tiles need a word: the error counts and names them and the way out."""
    seen = np.zeros(400, bool)
    seen[[7, 9]] = True
    pred = predictions(seen=seen, model="resnet50")
    with pytest.raises(ValueError, match=r"resnet50 was trained on 2 of these 400 .*'tile 7'") as e:
        evaluate(pred)
    assert "--allow-training-tiles" in str(e.value)
    assert evaluate(pred, allow_training_tiles=True, resamples=5).training_tiles == 2
    none_seen = dataclasses.replace(pred, seen=np.zeros(400, bool))
    assert evaluate(none_seen, resamples=5).training_tiles == 0


def test_evaluate_names_what_is_missing():
    """No labels, no tiles and no resamples are errors that say so."""
    bare = dataclasses.replace(predictions(), labels=None)
    with pytest.raises(ValueError, match=r"400 predictions have no labels: predict a TileSet"):
        evaluate(bare)
    with pytest.raises(ValueError, match="have no labels"):
        _ = bare.losses
    with pytest.raises(ValueError, match="the set of tiles is empty"):
        evaluate(Predictions(np.zeros((0, 10)), np.zeros(0, int), ()))
    with pytest.raises(ValueError, match="resamples must be a whole number of at least 1, got 0"):
        evaluate(predictions(), resamples=0)


def test_report_reads_well_and_is_plain_data():
    """One line for a person, JSON for a file; the table has the promised columns."""
    pred = predictions(source="eurosat", part="seed42/test", model="vit", digest="d1")
    report = evaluate(pred, resamples=20)
    assert "vit on 400 tiles, seed42/test: macro-F1 0." in repr(report)
    assert report.per_class.index.tolist() == list(CLASSES)
    assert report.per_class.index.name == "class"
    assert report.per_class.columns.tolist() == [
        "producers_accuracy", "users_accuracy", "f1", "ap", "support"
    ]  # fmt: skip
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["macro_f1"]["value"] == report.macro_f1
    assert data["macro_f1"]["low"] <= data["macro_f1"]["value"] <= data["macro_f1"]["high"]
    assert data["per_class"]["River"]["support"] == int((pred.labels == 8).sum())
    assert (data["n"], data["model"], data["part"], data["resamples"]) == (
        400, "vit", "seed42/test", 20
    )  # fmt: skip
    assert np.array_equal(data["confusion"], report.confusion)


def test_evaluating_needs_no_oracle_and_warns_of_nothing():
    """Few tiles, absent classes and ties pass without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(predictions(3, decimals=0))
        evaluate(predictions(1))


# --- compare --------------------------------------------------------------------------------------


def test_compare_known_answer_by_hand():
    """Twelve tiles of two classes: who is right alone, and McNemar's p, worked out on paper."""
    labels, names = [0] * 6 + [1] * 6, tuple("abcdefghijkl")
    guesses = {"one": [0] * 6 + [1] * 6, "other": [1] * 5 + [0] + [1] * 5 + [0]}
    said = [
        Predictions(9 * np.eye(10)[guess], labels, names, model=name)
        for name, guess in guesses.items()
    ]
    found = compare(*said)
    assert (found.both_right, found.first_alone, found.second_alone, found.neither) == (6, 6, 0, 0)
    assert found.p_value == 2 / 2**6
    assert found.accuracy == -0.5
    # Class 0: 1 hit, 5 misses, 1 false alarm; class 1: 5 hits, 1 miss, 5 false alarms.
    assert found.macro_f1 == pytest.approx((2 / 8 + 10 / 16) / 2 - 1, abs=1e-12)
    assert found.per_class.difference["Forest"] == pytest.approx(10 / 16 - 1, abs=1e-12)
    assert np.isnan(found.per_class.difference["River"])
    assert found.models == ("one", "other")
    assert "p = 0.031" in repr(found)


def test_compare_turns_round_and_pairs_its_draws():
    """Turned round, each sign changes; of a model with itself, nothing differs in any draw."""
    one, other = (predictions(seed=3, skill=skill) for skill in (1.0, 2.0))
    found, turned = compare(one, other), compare(other, one)
    assert found.macro_f1.low > 0
    for name in ("macro_f1", "macro_auprc", "accuracy"):
        a, b = getattr(found, name), getattr(turned, name)
        assert (a.value, a.low, a.high) == pytest.approx((-b.value, -b.high, -b.low), abs=1e-12)
        difference = getattr(evaluate(other), name) - getattr(evaluate(one), name)
        assert a.value == pytest.approx(difference, abs=1e-12)
    assert found.p_value == turned.p_value
    itself = compare(one, one)
    assert (itself.macro_f1.low, itself.macro_f1.high, itself.p_value) == (0, 0, 1)


def test_compare_covers_no_difference_as_often_as_it_says():
    """Two models of the same skill: the interval holds 0 in about 95 of 100 sets of tiles."""
    held = []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 10, 300)
        names = tuple(map(str, range(300)))
        shared = generator.normal(size=(300, 10)) + 1.5 * np.eye(10)[labels]
        pair = [Predictions(shared + generator.normal(size=(300, 10)), labels, names)
                for _ in range(2)]  # fmt: skip
        figure = compare(*pair, resamples=100).accuracy
        held.append(figure.low <= 0 <= figure.high)
    assert 0.85 <= np.mean(held) <= 1


def test_compare_refuses_other_tiles():
    """Other tiles, another order, other labels and training tiles are named."""
    one = predictions()
    turned = dataclasses.replace(one, names=one.names[::-1])
    with pytest.raises(
        ValueError, match="same tiles in the same order: 400 and 400 tiles have 400"
    ):
        compare(one, turned)
    with pytest.raises(ValueError, match="400 and 5 tiles have 5 names in common"):
        compare(one, predictions(count=5))
    elsewhere = dataclasses.replace(one, digest="f" * 64)
    with pytest.raises(ValueError, match=r"same names, but the digests .* are none and ffffffff"):
        compare(one, elsewhere)
    with pytest.raises(ValueError, match="other labels"):
        compare(one, dataclasses.replace(one, labels=(one.labels + 1) % 10))
    with pytest.raises(ValueError, match="was trained on 400 of these 400"):
        compare(one, dataclasses.replace(one, seen=np.ones(400, dtype=bool)))
    with pytest.raises(ValueError, match="resamples must be a whole number"):
        compare(one, one, resamples=0)


def test_tempered_divides_the_logits():
    """The predicted classes stay, the probabilities move, and 0 is no temperature."""
    pred = predictions(50)
    half = tempered(pred, 2.0)
    np.testing.assert_array_equal(half.logits, pred.logits / 2)
    assert (half.predicted == pred.predicted).all()
    assert half.names == pred.names
    for wrong in (0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="finite number above 0, got"):
            tempered(pred, wrong)


def test_temperature_by_hand():
    """Of tiles with two possible classes, 3 of 4 right at odds of e: T = 1 / log 3."""
    logits = np.full((4, 10), -1e4)
    logits[:, 0], logits[:, 1] = 1, 0
    pred = Predictions(logits, [0, 0, 0, 1], tuple("abcd"))
    assert temperature(pred) == pytest.approx(1 / np.log(3), rel=1e-6)


def test_temperature_is_the_smallest_of_a_grid_and_undoes_a_factor():
    """No temperature on a fine grid gives a smaller loss; logits times 3 give 3 times T."""
    pred = predictions(2000)
    found = temperature(pred)
    grid = np.geomspace(0.05, 20, 400)
    least = min(tempered(pred, t).losses.mean() for t in grid)
    assert tempered(pred, found).losses.mean() <= least
    assert temperature(tempered(pred, 1 / 3)) == pytest.approx(3 * found, rel=1e-5)
    assert temperature(tempered(pred, found)) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    "ask",
    [
        evaluate,
        coverage,
        temperature,
        lambda wrong: tempered(wrong, 2.0),
        lambda wrong: compare(wrong, wrong),
        lambda wrong: compare(Predictions(np.eye(10), range(10), tuple("abcdefghij")), wrong),
    ],
)
def test_what_are_no_predictions_is_named(ask):
    """Images or a model in their place are answered with what makes predictions."""
    with pytest.raises(TypeError, match=r"as predict\(model, tiles\) returns them, got Tensor"):
        ask(torch.zeros(1, 3, 64, 64))


def test_temperature_has_bounds_and_needs_labels():
    """Tiles that are all right ask for an ever smaller T; no labels or tiles are errors."""
    logits = np.eye(10)[:3]
    assert temperature(Predictions(logits, [0, 1, 2], tuple("abc"))) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="have no labels"):
        temperature(Predictions(logits, None, tuple("abc")))
    with pytest.raises(ValueError, match="there are none"):
        temperature(Predictions(logits[:0], [], ()))


def _surest_first(right: list, confidence: list) -> Predictions:
    """Make predictions of class 0 with the given order of confidence, right or wrong."""
    logits = np.zeros((len(right), 10))
    logits[:, 0] = confidence
    return Predictions(logits, [0 if r else 1 for r in right], tuple(map(str, range(len(right)))))


def test_coverage_by_hand():
    """Right, wrong, right, right in order of confidence: errors 0, 1/2, 1/3, 1/4."""
    curve = coverage(_surest_first([True, True, True, False], [2, 5, 1, 4]))
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.accuracy, [1, 1 / 2, 2 / 3, 3 / 4])
    assert curve.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert curve.chance == 0.25
    assert curve.best == pytest.approx(1 / 16)
    assert curve.area.low <= curve.area <= curve.area.high
    assert "area 0.27083, random order 0.25000, best 0.06250" in repr(curve)


def test_coverage_of_equal_confidence_is_the_error_rate():
    """Where all tiles are equally sure, every share of them has the accuracy of all."""
    curve = coverage(_surest_first([True, False, True, True], [3, 3, 3, 3]))
    np.testing.assert_allclose(curve.accuracy, 0.75)
    assert curve.area == pytest.approx(0.25)


def test_coverage_does_not_depend_on_the_order_of_the_tiles():
    """Ties included, another order of the tiles gives the same curve; it ends at the accuracy."""
    pred = predictions(300, decimals=0)
    order = np.random.default_rng(0).permutation(300)
    other = dataclasses.replace(
        pred, logits=pred.logits[order], labels=pred.labels[order],
        names=tuple(pred.names[i] for i in order),
    )  # fmt: skip
    one, two = coverage(pred, resamples=50), coverage(other, resamples=50)
    np.testing.assert_allclose(one.accuracy, two.accuracy, atol=1e-12)
    assert one.accuracy[-1] == pytest.approx(pred.correct.mean())
    assert one.best <= one.area <= one.chance


def test_coverage_interval_covers_other_tiles():
    """The interval of one sample holds the area of most other samples, and a seed repeats it."""
    curve = coverage(predictions(800), resamples=300)
    areas = [coverage(predictions(800, seed=s), resamples=1).area.value for s in range(1, 21)]
    inside = [curve.area.low <= area <= curve.area.high for area in areas]
    assert np.mean(inside) > 0.5
    assert coverage(predictions(800), resamples=300).area.to_dict() == curve.area.to_dict()


def test_coverage_refuses_training_tiles():
    """Tiles that the model was trained on would flatter it."""
    pred = predictions(10, seen=np.ones(10, dtype=bool))
    with pytest.raises(ValueError, match="was trained on 10 of these 10 tiles"):
        coverage(pred)
    assert len(coverage(pred, allow_training_tiles=True, resamples=5).coverage) == 10
