"""Tiles are found by what their labels and the models say."""

import numpy as np
import pytest

from lulc_lib.drawn_tiles import synthetic
from lulc_lib.tiles import CLASSES
from lulc_lib.widgets.finding import Facts, colour_distance, confusion, embed, find
from lulc_lib.widgets.state import State
from lulc_lib.widgets.stories import opening

NAMES = tuple(f"tile {i}" for i in range(6))
LABELS = np.array([0, 0, 1, 1, 8, 8])


def rows(*pairs):
    """Return probabilities with the given (class, probability), the rest shared by the others."""
    table = np.empty((len(pairs), 10), dtype=np.float32)
    for row, (k, sure) in zip(table, pairs, strict=True):
        row[:] = (1 - sure) / 9
        row[k] = sure
    return table


@pytest.fixture
def facts():
    """Two models on six tiles: one errs on tiles 1 and 4, the other on tile 4 alone."""
    one = rows((0, 0.9), (1, 0.6), (1, 0.8), (1, 0.7), (3, 0.99), (8, 0.5))
    other = rows((0, 0.8), (0, 0.7), (1, 0.8), (1, 0.9), (3, 0.6), (8, 0.95))
    return Facts(NAMES, LABELS, {"one": one, "other": other})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"label": "River"}, [4, 5]),
        ({"answer": "right"}, [0, 2, 3, 5]),  # all models
        ({"answer": "wrong"}, [1, 4]),  # at least one
        ({"answer": "wrong", "judge": "other"}, [4]),
        ({"answer": "disagree"}, [1]),
        ({"predicted": "Highway"}, [4]),
        ({"predicted": "Forest"}, [1, 2, 3]),  # by at least one
        ({"predicted": "Forest", "judge": "other"}, [2, 3]),
        ({"confidence": (0.95, 1.0)}, [4, 5]),
        ({"confidence": (0.0, 0.55), "judge": "one"}, [5]),
        ({"predicted": "Forest", "confidence": (0.0, 0.65)}, [1]),  # of one and the same model
        ({"among": ("tile 5", "tile 0", "gone")}, [0, 5]),
        ({"label": "River", "answer": "right", "predicted": "River"}, [5]),
        ({"sort": "confidence", "judge": "one"}, [5, 1, 3, 2, 0, 4]),
        ({"sort": "loss", "judge": "one"}, [4, 1, 5, 3, 2, 0]),
    ],
)
def test_tiles_are_found(facts, changes, expected):
    """Filters and orders have known answers."""
    assert find(State(**changes), facts).tolist() == expected


def test_disagreement_is_the_share_of_probability_that_would_move(facts):
    """0 for equal answers, by hand for others, and the order that it gives."""
    assert facts.disagreement[2] == 0
    assert facts.disagreement[0] == pytest.approx(0.1)
    assert find(State(sort="disagreement"), facts)[0] == 1
    alone = Facts(NAMES, LABELS, {"one": facts.probabilities["one"]})
    assert not alone.disagreement.any()


def test_what_is_not_known_yet_is_said(facts):
    """Filters by answers wait for predictions, in words; labels need none."""
    empty = Facts(NAMES, LABELS, {})
    assert find(State(label="River"), empty).tolist() == [4, 5]
    for ask in (lambda: find(State(answer="wrong"), empty), lambda: opening("label", empty)):
        with pytest.raises(ValueError, match=r"what the models predict is .* until they have been"):
            ask()
    with pytest.raises(ValueError, match="what third predicts is not known yet: wait until it has"):
        find(State(sort="loss", judge="third"), facts)


def test_confusion_counts_labels_by_predictions(facts):
    """Rows are labels, columns predictions."""
    counts = confusion(facts, "one")
    assert counts[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert counts[CLASSES.index("River"), CLASSES.index("Highway")] == 1
    assert counts.sum() == 6


def test_embedding_finds_the_plane_in_which_points_lie():
    """Points of a plane in many dimensions come back with their distances; the rest is said."""
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(32, 2)))[0]
    points = rng.normal(size=(200, 2)) * (3, 1)
    places, share = embed((points @ plane.T).astype(np.float16))
    assert places.shape == (200, 2)
    assert share == pytest.approx(1, abs=1e-3)
    assert np.abs(places).max() == pytest.approx(1)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    found = np.linalg.norm(places[:, None] - places[None], axis=2)
    assert np.corrcoef(apart.ravel(), found.ravel())[0, 1] > 0.999
    assert (embed(points @ plane.T)[0] == embed(points @ plane.T)[0]).all()
    noise = rng.normal(size=(200, 32))
    assert embed(noise)[1] < 0.3
    assert embed(np.zeros((3, 4)))[0].tolist() == [[0, 0]] * 3
    assert embed(np.ones((1, 4)))[0].tolist() == [[0, 0]]


def test_colours_far_from_the_tiles_are_noticed():
    """A tile is near; bright red is far."""
    tiles = synthetic(n_per_class=10, seed=0)
    near = [colour_distance(image.numpy(), tiles) for image in tiles.images]
    assert np.mean(np.array(near) <= 1.0001) >= 0.99
    red = np.zeros((3, 64, 64), dtype=np.uint8)
    red[0] = 255
    assert colour_distance(red, tiles) > 2
    assert colour_distance(red, tiles[:1]) > 2
