"""The checks of the exercises: stubs are not done, solutions pass, wrong answers are told why.

Stubs and solutions are read out of the notebooks, so that they cannot drift.
"""

import ast
import copy
import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from run_notebooks import code_cells, notebook_paths

import lulc_lib as lulc
from lulc_lib import checks


def _define(names: dict[str, Any], source: str, kinds: tuple[type, ...]) -> str:
    """Run the statements of these kinds and return the name of the last function."""
    body = [node for node in ast.parse(source).body if isinstance(node, kinds)]
    exec(compile(ast.Module(body, []), "<cell>", "exec"), names)
    return next((node.name for node in reversed(body) if isinstance(node, ast.FunctionDef)), "")


def _exercises() -> dict[str, dict[str, Callable]]:
    """Return name -> the functions "stub" and "solution" of each exercise in the notebooks."""
    found: dict[str, dict[str, Callable]] = {}
    for path in notebook_paths():
        names: dict[str, Any] = {"lulc": lulc}
        for cell in code_cells(nbformat.read(path, as_version=4)):
            tags = {*cell.metadata.get("tags", [])}
            kinds = (ast.FunctionDef, ast.Import, ast.ImportFrom)
            name = _define(names, cell.source, kinds)
            for tag, word in (("exercise", "stub"), ("solution", "solution")):
                if tag in tags:
                    found.setdefault(name, {})[word] = names[name]
    return found


EXERCISES = _exercises()


def _lossy(model, x, labels, count):
    model.zero_grad()
    for part, own in zip(x.chunk(count), labels.chunk(count), strict=True):
        (F.cross_entropy(model(part), own) / count).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def _without_determinant(train, labels, test):
    columns = []
    for k in range(10):
        own = train[labels == k]
        off = test - own.mean(axis=0)
        columns.append(-0.5 * np.einsum("ni,ij,nj->n", off, np.linalg.inv(np.cov(own.T)), off))
    return np.stack(columns, axis=1)


def _smoothed_over_others(logits, labels, share):
    targets = F.one_hot(labels, 10) * (1 - share) + (1 - F.one_hot(labels, 10)) * share / 9
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def _black(images, cells):
    mask = cells.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    return torch.where(mask, 0.0, images)


def _by_value(explanations):
    rows = np.stack([one.heatmap.reshape(len(one), -1) for one in explanations.values()])
    return np.mean([np.corrcoef(rows[:, n]) for n in range(rows.shape[1])], axis=0)


def _summed_errors(first, second):
    half = [1.96 * one.std() / np.sqrt(len(one)) for one in (first, second)]
    return second.mean() - first.mean(), sum(half)


def _best_match(model, tiles, n):
    halves = [lulc.concepts(model, tiles[start::2], n).directions for start in (0, 1)]
    return float((halves[0] @ halves[1].T).max())


def _points_transposed(heatmap, row, column):
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    return (x // 32, y // 32) == (row, column)


def _corner(images, side):
    return F.interpolate(images[:, :, :side, :side], (64, 64), mode="bilinear")


def _red(tiles):
    return dataclasses.replace(tiles, images=tiles.images[:, :1].repeat(1, 3, 1, 1))


def _one_tail(b, c):
    return sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)


def _trained(tiles):
    return lulc.explain(lulc.load_checkpoint("vit")[0], tiles, "gradcam")


def _of_columns(confusion):
    return np.mean(np.diagonal(confusion) / np.maximum(confusion.sum(axis=0), 1))


def _until_first_dip(confidence, correct, accuracy):
    order = np.argsort(-confidence)
    reached = np.cumsum(correct[order]) / np.arange(1, len(order) + 1) >= accuracy
    return np.cumprod(reached).sum() / len(order)


def _less_largest(probabilities, labels):
    return probabilities[np.arange(len(labels)), labels] - probabilities.max(axis=1)


def _spread_by_n(scores, t_table):
    n = len(scores)
    return scores.mean(), t_table[n - 1] * scores.std() / np.sqrt(n)


WRONG = {
    "second_guess": (lambda x: x.argmax(axis=1), "expected [3.0, 1.0], because the second largest"),
    "cell_size": (
        lambda e: (64 / e.grid.shape[1], 4096 / e.grid[0].size),
        "expected [80.0, 64.0], because 64 pixels of 10 m",
    ),
    "greyed": (_red, "expected [210.0, 210.0, 210.0], because their mean stands in every channel"),
    "overlap": (lambda a, b: len({*a.names} & {*b.names}) / len(b), "expected 0.5, because 2 of"),
    "log_likelihood": (_without_determinant, "log-determinant enter"),
    "smoothed_loss": (_smoothed_over_others, "share / 10 for every class"),
    "gradient_in_parts": (_lossy, "a part counts by its share of the tiles"),
    "shuffled": (lambda images, order: images, "patch 1, from columns 8 to 15, comes first"),
    "weights_of_block": (lambda d: 12 * d * d, "returned 12.0; expected 25.0"),
    "balanced_accuracy": (_of_columns, "of the two labels are found"),
    "mcnemar": (_one_tail, "2 of 1024 ways"),
    "cooled": (
        lambda pred, t: dataclasses.replace(pred, logits=pred.logits * t),
        "every logit is divided by T",
    ),
    "map_of_nothing": (_trained, "expected a network with random weights"),
    "covered": (_black, "take the tile's own mean"),
    "surest_error": (lambda pred: int(pred.confidence.argmax()), "tile 0 is surer, but right"),
    "enlarged": (_corner, "are the centre"),
    "rank_agreement": (_by_value, "only the order counts"),
    "in_cells": (
        lambda e, n: e.heatmap[:, :: 64 // n, :: 64 // n],
        "because its value is the mean of the map",
    ),
    "worst_match": (_best_match, "the lowest is asked for"),
    "points": (_points_transposed, "lower left quarter"),
    "cheating": (lambda maps, blob: maps * blob, "expected none below 0"),
    "divided": (lambda p: 0 if p.max() > 1 else 1, "divided 2 times your function returned 1.0"),
    "coverage_at": (_until_first_dip, "all four tiles together are right in 3 of 4 cases"),
    "label_margin": (_less_largest, "the label less the most probable other class"),
    "accuracy_gap": (_summed_errors, "root of the variances' sum, 0.1875 / 4 + 0.25 / 16"),
    "accuracy_at_mix": (lambda c, y, shares: np.average(c, weights=shares[y]), "weighted 0.2 and"),
    "mean_of_seeds": (_spread_by_n, "over n - 1 = 2 give s = 1"),
    "best_of": (lambda s, k: np.sort(s)[-k:].mean(), "have the largest 2, 3 and 3"),
    "faked_score": (lambda h, t, s: (h + t) / 2, "expected 0.8, because 0.6 of the tiles"),
}


def _in_one_piece(model, x, labels, count):
    model.zero_grad()
    F.cross_entropy(model(x), labels).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def _never_cleared(model, x, labels, count):
    for part, own in zip(x.chunk(count), labels.chunk(count), strict=True):
        (F.cross_entropy(model(part), own) * len(part) / len(x)).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def _points_by_sum(heatmap, row, column):
    sums = heatmap.reshape(2, 32, 2, 32).sum(axis=(1, 3))
    return np.unravel_index(sums.argmax(), sums.shape) == (row, column)


def _points_past_the_edge(heatmap, row, column):
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    return (int(y > 32), int(x > 32)) == (row, column)


def _by_loss(pred):
    return int(np.where(pred.correct, -1, pred.losses).argmax())


def _eight_cells(images, cells):
    mask = cells.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    return torch.where(mask, images.mean(dim=(2, 3), keepdim=True), images)


def _overflowing(tiles):
    grey = (tiles.images.sum(dim=1, keepdim=True, dtype=torch.uint8) // 3).repeat(1, 3, 1, 1)
    return dataclasses.replace(tiles, images=grey)


def _cooled_in_place(pred, temperature):
    logits = pred.logits
    logits /= temperature
    return dataclasses.replace(pred, logits=logits)


def _first_less_second(first, second):
    sizes = [one.var() / len(one) for one in (first, second)]
    return first.mean() - second.mean(), 1.96 * np.sqrt(sum(sizes))


def _without_factor(first, second):
    sizes = [one.var() / len(one) for one in (first, second)]
    return second.mean() - first.mean(), np.sqrt(sum(sizes))


def _nothing_if_none(confidence, correct, accuracy):
    order = np.argsort(-confidence)
    reached = np.cumsum(correct[order]) / np.arange(1, len(order) + 1) >= accuracy
    if reached.any():
        return (np.flatnonzero(reached)[-1] + 1) / len(order)
    return None


def _nearest(images, side):
    start = (64 - side) // 2
    return F.interpolate(images[:, :, start : start + side, start : start + side], (64, 64))


def _one_pixel_more(images, side):
    start = (64 - side) // 2
    cut = images[:, :, start : 64 - start, start : 64 - start]
    return F.interpolate(cut, (64, 64), mode="bilinear")


def _not_divided(scores, t_table):
    return scores.mean(), t_table[len(scores) - 1] * scores.std(ddof=1)


def _shuffled_in_place(images, order):
    for k in range(64):
        (y, x), (v, u) = divmod(k, 8), divmod(int(order[k]), 8)
        patch = images[:, :, 8 * v : 8 * v + 8, 8 * u : 8 * u + 8]
        images[:, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = patch
    return images


def _put_the_other_way(images, order):
    columns = F.unfold(images, 8, stride=8)[:, :, torch.argsort(order)]
    return F.fold(columns, (64, 64), 8, stride=8)


def _first_image_for_all(images, order):
    columns = F.unfold(images[:1], 8, stride=8)[:, :, order]
    return F.fold(columns, (64, 64), 8, stride=8).repeat(len(images), 1, 1, 1)


def _lowest_after_the_blob(heatmaps, blob):
    mixed = heatmaps * blob
    return mixed - mixed.min(axis=(1, 2), keepdims=True)


def _of_a_resnet(tiles):
    torch.manual_seed(0)
    return lulc.explain(lulc.create_model("resnet18", image_size=64).eval(), tiles, "gradcam")


def _halves_exchanged(model, tiles, n):
    first, second = (lulc.concepts(model, tiles[start::2], n).directions for start in (0, 1))
    return float((first @ second.T).max(axis=0).min())


def _by_label(a, b):
    return np.isin(a.labels.numpy(), b.labels.numpy()).mean()


def _greyed_in_place(tiles):
    tiles.images[:] = tiles.images.float().mean(dim=1, keepdim=True).byte()
    return tiles


def _by_logit(pred):
    wrong = np.flatnonzero(~pred.correct)
    return int(wrong[pred.logits[wrong].max(axis=1).argmax()])


def _by_margin(pred):
    wrong = np.flatnonzero(~pred.correct)
    second, first = np.sort(pred.probabilities[wrong], axis=1)[:, -2:].T
    return int(wrong[(first - second).argmax()])


def _dense_ranks(explanations):
    rows = [
        [np.unique(heat, return_inverse=True)[1].ravel() for heat in one.heatmap]
        for one in explanations.values()
    ]
    return np.mean([np.corrcoef(tile) for tile in zip(*rows, strict=True)], axis=0)


ALSO_WRONG = [
    ("overlap", _by_label, "known by its name, not by its class"),
    ("greyed", _greyed_in_place, "changed the tiles that it was given"),
    ("surest_error", _by_logit, "confidence is a probability"),
    ("surest_error", _by_margin, "confidence is a probability"),
    ("rank_agreement", _dense_ranks, "share the mean of their ranks"),
    ("shuffled", _shuffled_in_place, "copy the picture before you write into it"),
    ("shuffled", _put_the_other_way, "patch 1, from columns 8 to 15, comes first"),
    ("shuffled", _first_image_for_all, "the order 0, 1, 2, ... leaves every patch in its place"),
    ("cheating", _lowest_after_the_blob, "brought to 0 before the blob multiplies"),
    ("map_of_nothing", _of_a_resnet, "expected a block of a ViT"),
    ("worst_match", _halves_exchanged, "the lowest is asked for"),
    (
        "divided",
        lambda p: 0 if p.max() > 1 else 1 if float(p.max()) > 1 / 255 else 2,
        "rounding leaves their largest value, 0.00392157, just above 1 / 255",
    ),
    ("greyed", _overflowing, "a sum of uint8 values wraps round at 256"),
    ("log_likelihood", _without_determinant, "expected"),
    ("cooled", _cooled_in_place, "changed the logits that it was given"),
    ("accuracy_gap", _first_less_second, "the second accuracy less the first, 0.5 - 0.75"),
    ("accuracy_gap", _without_factor, "1.96 times the root"),
    ("coverage_at", _nothing_if_none, "returned nothing; expected 0"),
    ("enlarged", _nearest, "enlarged bilinearly"),
    ("enlarged", _one_pixel_more, "rows and columns 9 to 53"),
    (
        "mean_of_seeds",
        lambda x, t: (np.median(x), t[len(x) - 1] * x.std(ddof=1) / len(x) ** 0.5),
        "the mean is asked for",
    ),
    ("mean_of_seeds", _not_divided, "a mean of 3 scores varies √3 times less than one"),
    (
        "gradient_in_parts",
        _in_one_piece,
        "the model was given [5] tiles at a time; expected 2 part(s)",
    ),
    ("gradient_in_parts", _never_cleared, "gradients left by the first must be cleared"),
    ("points", _points_by_sum, "lower left quarter"),
    ("points", _points_past_the_edge, "row 32 and column 31"),
    ("divided", lambda p: 0 if p.max() > 100 else 1 if p.max() > 0.5 else 2, "pictures up to 40"),
    ("surest_error", _by_loss, "tile 1, with 0.55, has the larger loss"),
    ("covered", _eight_cells, "raised"),
    ("cheating", lambda m, b: np.maximum(m, 0) * b, "lowest value is subtracted"),
    (
        "cooled",
        lambda pred, t: dataclasses.replace(pred, logits=pred.logits / t, labels=pred.predicted),
        "The labels must stay as they are.",
    ),
]


def _named(function: Callable, name: str) -> Callable:
    """Return a function under the name that the exercise gave it."""
    function = copy.copy(function)
    function.__name__ = name
    return function


def test_every_exercise_has_a_check_and_a_wrong_answer():
    """Exercises, checks and wrong answers have the same names."""
    assert set(EXERCISES) == set(checks._CHECKS) == set(WRONG)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_stub_is_not_done(name: str):
    """The notebook's stub is told as not done."""
    answer = checks.check(EXERCISES[name]["stub"])
    assert (answer.passed, answer.text) == (False, f"{name}: not done yet.")


@pytest.mark.parametrize("name", EXERCISES)
def test_a_solution_passes(name: str, capsys: pytest.CaptureFixture):
    """The notebook's solution passes and says so in one sentence."""
    checks.check(EXERCISES[name]["solution"]).confirm()
    assert capsys.readouterr().out.startswith(f"{name}: correct.")


def _ranked(rows):
    return np.argsort(np.argsort(rows, axis=-1), axis=-1)


def _pooled(explanations):
    return np.corrcoef(np.stack([_ranked(one.heatmap.ravel()) for one in explanations.values()]))


def _first_alone(explanations):
    rows = np.stack([one.heatmap[0].ravel() for one in explanations.values()])
    return pd.DataFrame(rows.T).corr(method="spearman").to_numpy()


@pytest.mark.parametrize("function", [_pooled, _first_alone])
def test_ranks_of_all_tiles_together_or_of_one_are_wrong(function: Callable):
    """Each tile is ranked alone, and then the mean over tiles is taken."""
    answer = checks.check(_named(function, "rank_agreement"))
    assert not answer.passed
    assert "each is ranked alone" in answer.text or "equal values share" in answer.text, answer.text


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_fails_for_its_reason(name: str):
    """A plausible wrong answer fails, and the message names what is wrong with it."""
    function, reason = WRONG[name]
    answer = checks.check(_named(function, name))
    assert not answer.passed
    assert reason in answer.text, answer.text
    with pytest.raises(AssertionError, match="not right yet"):
        answer.confirm()


@pytest.mark.parametrize(("name", "function", "reason"), ALSO_WRONG)
def test_other_wrong_answers_fail_for_their_reasons(name: str, function: Callable, reason: str):
    """A second or third misunderstanding of an exercise is told as what it is."""
    answer = checks.check(_named(function, name))
    assert not answer.passed
    assert reason in answer.text, answer.text


def _failing(b, c):
    return [][b]


def _from_torch(b, c):
    return F.unfold(torch.zeros(1, 1, 8, 8, dtype=torch.bool) @ 1, 8)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda b, c: None, "not done yet"),
        (lambda b, c: ..., "not done yet"),
        (_failing, "raised IndexError in line"),
        (lambda b, c: "much", "returned a str; expected numbers"),
        (lambda b, c: [1, 2], "array of shape (2,); expected shape ()"),
        (_from_torch, "not right yet. It raised"),
    ],
)
def test_what_is_no_answer_is_told_in_a_line(function: Callable, said: str):
    """Nothing returned, an exception and a value of another kind are each told in one line."""
    text = repr(checks.check(_named(function, "mcnemar")))
    assert said in text
    assert "\n" not in text


def test_what_is_no_exercise_is_an_error():
    """A value and a function of another name are named."""
    with pytest.raises(TypeError, match="expected the function of an exercise, got 3"):
        checks.check(3)
    with pytest.raises(ValueError, match="no exercise asks for a function 'len'"):
        checks.check(len)


def test_a_value_that_the_check_cannot_use_is_told():
    """A list where a tensor is needed is told in a line, not as a traceback."""
    answer = checks.check(_named(lambda images, order: images.tolist(), "shuffled"))
    assert not answer.passed
    answer = checks.check(_named(lambda explanation: object(), "cell_size"))
    assert "expected numbers" in answer.text
    answer = checks.check(_named(lambda images, order: images[0, 0, 0, 0].item(), "shuffled"))
    assert "\n" not in answer.text


@pytest.mark.parametrize(
    ("guess", "said"),
    [
        (None, "You made no guess. Set `guess` above to a number, then run both cells again."),
        (0.97, "Your guess, 0.97, is right to the last digit shown."),
        ("0.97", "Your guess, 0.97, is right to the last digit shown."),
        (np.float32(0.95), "Your guess, 0.95, was 0.02 too low: that is close."),
        (1, "Your guess, 1.00, was 0.03 too high: that is close."),
        (0.5, "Your guess, 0.50, was 0.47 too low. What did you expect that did not come true?"),
        (97, "A guess lies between 0 and 1 here; yours was 97."),
        (-1, "A guess lies between 0 and 1 here; yours was -1."),
        ("half", "A guess is one number, such as 0.5; yours was 'half'."),
        ([0.5, 0.6], "A guess is one number, such as 0.5; yours was [0.5, 0.6]."),
        (float("nan"), "A guess is one number, such as 0.5; yours was nan."),
        (True, "A guess is one number, such as 0.5; yours was True."),
        (10**400, "A guess is one number, such as 0.5; yours was 1000"),
    ],
)
def test_a_guess_is_answered(guess: Any, said: str, capsys: pytest.CaptureFixture):
    """The measurement is printed for every guess, and what was guessed is answered in a line."""
    checks.reveal(guess, 0.97, "share of tiles that are still right")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "Measured: share of tiles that are still right: 0.97."
    assert second.startswith(said)


def test_a_guess_has_the_range_and_digits_of_its_question(capsys: pytest.CaptureFixture):
    """A correlation may be below 0, and close is measured by the range that is possible."""
    checks.reveal(-0.3, -0.39, "correlation", between=(-1, 1), digits=1)
    assert capsys.readouterr().out.endswith("Your guess, -0.3, was 0.1 too high: that is close.\n")
    checks.reveal(500, 362, "tiles", between=(0, 500), digits=0)
    assert "Your guess, 500, was 138 too high. What" in capsys.readouterr().out
    checks.reveal(360, 97, "tiles", between=(0, 5400), digits=0, close=10)
    assert "Your guess, 360, was 263 too high. What" in capsys.readouterr().out


def test_a_long_answer_is_told_at_one_place():
    """Two arrays of equal means are told apart by the place where they differ most."""
    answer = checks.check(_named(_without_determinant, "log_likelihood"))
    assert re.search(r"that holds \S+ at \[\d, \d\]; expected \S+ there, because", answer.text)
