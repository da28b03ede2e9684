"""What stands behind an error: doubted labels and near tiles, against answers worked by hand."""

import dataclasses

import numpy as np
import pytest
import torch

import lulc_lib as lulc
from lulc_lib import errors
from lulc_lib.predictions import Predictions


def _predictions(probabilities: list, labels: list, **more) -> Predictions:
    """Make predictions with given probabilities of the first classes; the others have none."""
    rows = np.full((len(labels), 10), 1e-12)
    rows[:, : len(probabilities[0])] = np.maximum(probabilities, 1e-12)
    return Predictions(np.log(rows), np.array(labels), tuple(map(str, labels)), **more)


FIVE = [[0.9, 0.1, 0], [0.7, 0.3, 0], [0.2, 0.8, 0], [0.1, 0.9, 0], [0.4, 0.6, 0]]


def test_label_issues_by_hand():
    """Thresholds are 0.6 and 0.75; the third tile alone is confidently of another class."""
    found = errors.label_issues(_predictions(FIVE, [0, 0, 0, 1, 1]))
    np.testing.assert_allclose(found.thresholds[:2], [0.6, 0.75], atol=1e-6)
    assert np.isinf(found.thresholds[2:]).all()
    assert found.joint[:2, :2].tolist() == [[2, 1], [0, 1]]  # the last tile reaches no threshold
    assert found.joint.sum() == 4
    assert (found.positions.tolist(), found.suggested.tolist()) == ([2], [1])
    assert repr(found) == "LabelIssues(1 of 4 tiles that are counted)"


def test_label_issues_take_the_most_probable_of_several_classes():
    """A tile that reaches two thresholds counts as the more probable; ties of order come last."""
    rows = [[0.5, 0.4, 0.1], [0.3, 0.6, 0.1], [0.2, 0.2, 0.6], [0.45, 0.35, 0.2]]
    found = errors.label_issues(_predictions(rows, [0, 1, 2, 2]))
    # thresholds 0.5, 0.6, 0.4: the last tile reaches none of them
    assert found.joint.sum() == 3
    assert len(found) == 0
    rows[3] = [0.52, 0.05, 0.43]  # labelled 2: thresholds 0.5, 0.6, 0.515
    found = errors.label_issues(_predictions(rows, [0, 1, 2, 2]))
    assert (found.positions.tolist(), found.suggested.tolist()) == ([3], [0])


def test_label_issues_leave_out_what_the_model_gets_right():
    """A tile counted as another class whose label is still the predicted class is no issue."""
    rows = [[0.95, 0.05], [0.95, 0.05], [0.6, 0.4], [0.7, 0.3], [0.9, 0.1]]
    given = _predictions(rows, [0, 0, 0, 1, 1])  # thresholds 0.833 and 0.2
    found = errors.label_issues(given)
    assert found.joint[:2, :2].tolist() == [[2, 1], [1, 1]]
    assert found.positions.tolist() == [4]


def test_planted_label_errors_are_found():
    """Of a good classifier's tiles, those whose labels were exchanged are found, few others."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 10, 2000)
    logits = generator.normal(size=(2000, 10))
    logits[np.arange(2000), truth] += 6
    labels = truth.copy()
    labels[:60] = (truth[:60] + 1) % 10
    found = errors.label_issues(Predictions(logits, labels, tuple(map(str, range(2000)))))
    planted = found.positions < 60
    assert planted.sum() >= 45
    assert (~planted).sum() <= 20
    assert planted[:40].all()  # the least probable labels come first
    assert (found.suggested[planted] == truth[found.positions[planted]]).mean() > 0.95


def test_label_issues_refuse_training_tiles():
    """A model that has learnt the labels cannot doubt them; labels are needed."""
    seen = np.array([True, False, False, False, False])
    with pytest.raises(ValueError, match=r"m was trained on 1 of these 5 tiles and has learnt"):
        errors.label_issues(_predictions(FIVE, [0, 0, 0, 1, 1], seen=seen, model="m"))
    bare = dataclasses.replace(_predictions(FIVE, [0, 0, 0, 1, 1]), labels=None)
    with pytest.raises(ValueError, match="have no labels"):
        errors.label_issues(bare)
    with pytest.raises(TypeError, match=r"must be Predictions, .* got list"):
        errors.label_issues([bare])


def test_thumbnails_are_means_of_cells():
    """Each value is the mean of its 4 x 4 pixels; a tile of one colour stays it."""
    tiles = lulc.synthetic(1, seed=0)[:3]
    got = errors.thumbnails(tiles)
    assert (got.shape, got.dtype) == ((3, 3 * 16 * 16), np.float32)
    cell = tiles.images[1, 2, 8:12, 60:64].double().mean() / 255  # row 2, column 15, blue
    assert got[1].reshape(3, 16, 16)[2, 2, 15] == pytest.approx(float(cell), abs=1e-6)
    flat = dataclasses.replace(tiles, images=torch.full_like(tiles.images, 51))
    np.testing.assert_allclose(errors.thumbnails(flat, 8), 0.2, atol=1e-6)
    assert errors.thumbnails(tiles[:0]).shape == (0, 768)
    with pytest.raises(ValueError, match="64 x 64 pixels do not divide into 10 x 10"):
        errors.thumbnails(tiles, 10)


def test_nearest_by_hand_and_by_brute_force():
    """The nearest rows come first, with the root of the mean squared difference."""
    references = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]])
    positions, distances = errors.nearest(np.array([[0.0, 0.0]]), references, 3)
    assert positions.tolist() == [[0, 2, 1]]
    np.testing.assert_allclose(distances, [[0, 1, np.sqrt(12.5)]], rtol=1e-6)
    generator = np.random.default_rng(0)
    queries, references = generator.normal(size=(600, 5)), generator.normal(size=(300, 5))
    apart = ((queries[:, None] - references[None]) ** 2).mean(axis=2) ** 0.5
    positions, distances = errors.nearest(queries + 100, references + 100, 4)
    assert (positions == apart.argsort(axis=1)[:, :4]).all()
    np.testing.assert_allclose(distances, np.sort(apart, axis=1)[:, :4], atol=1e-4)
    assert errors.nearest(queries[:0], references, 4)[1].shape == (0, 4)


def test_nearest_names_what_does_not_fit():
    """Other widths and too many neighbours are errors that give the values met."""
    with pytest.raises(ValueError, match=r"of one width, got \(2, 3\) and \(4, 2\)"):
        errors.nearest(np.zeros((2, 3)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"count must lie in 1\.\.4, got 5"):
        errors.nearest(np.zeros((2, 3)), np.zeros((4, 3)))


def test_votes_count_the_neighbours_labels():
    """Each row counts the labels at its positions."""
    got = errors.votes([0, 2, 2, 1], np.array([[0, 1, 2], [3, 3, 0]]), 4)
    assert got.tolist() == [[1, 0, 2, 0], [1, 2, 0, 0]]
