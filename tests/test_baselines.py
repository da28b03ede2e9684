"""The colour-only baseline sees colours and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lulc_lib.baselines import colour_baseline, colour_features
from lulc_lib.drawn_tiles import synthetic
from lulc_lib.metrics import evaluate
from lulc_lib.splits import split


@pytest.fixture(scope="module")
def parts():
    """Two hundred drawn tiles, split."""
    return split(synthetic(20, seed=2), "seed42")


def test_features_by_hand(parts):
    """Mean and deviation of each channel, as NumPy has them."""
    pixels = parts.test.images.numpy().reshape(len(parts.test), 3, -1) / 255
    expected = np.concatenate([pixels.mean(2), pixels.std(2)], axis=1)
    got = colour_features(parts.test)
    assert got.dtype == np.float32
    assert np.allclose(got, expected, atol=1e-5)
    assert colour_features(parts.test[:0]).shape == (0, 6)


def test_shuffled_pixels_give_the_same_prediction(parts):
    """Shape and place do not count: shuffling a tile's pixels changes nothing."""
    order = torch.randperm(64 * 64, generator=torch.Generator().manual_seed(0))
    images = parts.test.images.flatten(2)[:, :, order].view_as(parts.test.images)
    shuffled = replace(parts.test, images=images)
    a, b = (colour_baseline(parts.train, tiles) for tiles in (parts.test, shuffled))
    assert np.allclose(a.logits, b.logits, atol=1e-3)


def test_beats_chance_and_labels_matter(parts):
    """Colours say much of drawn tiles; with shuffled labels they say nothing."""
    good = evaluate(colour_baseline(parts.train, parts.test), resamples=10).accuracy
    mixed = parts.train.labels[torch.randperm(len(parts.train))]
    bad = evaluate(
        colour_baseline(replace(parts.train, labels=mixed), parts.test), resamples=10
    ).accuracy
    assert good > 0.4
    assert bad < 0.4


def test_is_logistic_regression(parts):
    """The prediction is scikit-learn's on standardised features, whichever solver finds it."""
    x, z = (colour_features(s).astype(np.float64) for s in (parts.train, parts.test))
    mean, deviation = x.mean(0), x.std(0)
    plain = LogisticRegression(max_iter=20000, tol=1e-9)
    plain.fit((x - mean) / deviation, parts.train.labels)
    expected = plain.predict_log_proba((z - mean) / deviation)
    assert colour_baseline(parts.train, parts.test).logits == pytest.approx(expected, abs=1e-3)


def test_training_tiles_are_recognised(parts):
    """Scoring the baseline on its own training tiles is refused."""
    with pytest.raises(ValueError, match="train"):
        evaluate(colour_baseline(parts.train, parts.train))


def test_errors_name_the_cause(parts):
    """A missing class and an empty test are named."""
    with pytest.raises(ValueError, match="no tile of Forest"):
        colour_baseline(parts.train[parts.train.labels != 1], parts.test)
    with pytest.raises(ValueError, match="test holds no tiles"):
        colour_baseline(parts.train, parts.test[:0])
