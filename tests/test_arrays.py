"""Numbers and arrays as several modules need them: counts, logits as probabilities, grids."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from lulc_lib.arrays import resized, softmax, whole_number

PACKAGE = Path(__file__).parents[1] / "lulc_lib"


def test_counts_are_whole_numbers():
    """NumPy's integers pass as ints; truth values, fractions and what is too small are named."""
    assert whole_number("count", np.int64(3)) == 3
    assert type(whole_number("count", np.int64(3))) is int
    for value in (True, 2.5, 0, "3", None):
        with pytest.raises(ValueError, match=f"count must be a whole .* 1, got {value!r}"):
            whole_number("count", value)
    with pytest.raises(ValueError, match="side must be a whole number of at least 2, got 1"):
        whole_number("side", 1, least=2)


def test_softmax_by_hand():
    """Logits log 1, log 2, log 5 are 1/8, 2/8, 5/8, whatever is added to all of them."""
    logits = np.log(np.array([[1, 2, 5], [1, 2, 5]])) + np.array([[0], [500]])
    assert softmax(logits) == pytest.approx(np.array([[1, 2, 5]] * 2) / 8)
    assert softmax(logits[0]) == pytest.approx(np.array([1, 2, 5]) / 8)
    assert softmax(np.float32([[1, 2]])).dtype == np.float64


def test_softmax_of_what_is_broken_is_nan():
    """A row with NaN or +inf says so, without a warning; the other rows are as they were."""
    found = softmax(np.float32([[np.nan, 0], [np.inf, 0], [0, 0]]))
    assert np.isnan(found[:2]).any(axis=1).all()
    assert found[2] == pytest.approx([0.5, 0.5])


def test_a_grid_is_resized_between_the_middles_of_its_cells():
    """Two cells, 0 and 1, over four pixels: 0, 1/4, 3/4, 1; a grid of the size stays."""
    assert resized(np.array([[0.0, 1.0]]), 4)[0] == pytest.approx([0, 0.25, 0.75, 1])
    same = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
    assert np.array_equal(resized(same, 8), same)


def test_grids_of_any_number_of_axes():
    """Concepts are (N, n, h, w), maps (N, h, w), one map (h, w): each as PyTorch has it."""
    grids = np.random.default_rng(0).random((2, 3, 5, 4))
    whole = resized(grids, 16)
    assert whole.shape == (2, 3, 16, 16)
    assert whole.dtype == np.float32
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(grids).float(), (16, 16), mode="bilinear"
    )
    assert np.array_equal(whole, theirs.numpy())
    assert np.array_equal(resized(grids[1], 16), whole[1])
    assert np.array_equal(resized(grids[1, 2], 16), whole[1, 2])


def test_no_module_has_a_copy():
    """Each is written once: no other module takes exponentials of logits or resizes grids so."""
    others = {path: path.read_text() for path in PACKAGE.rglob("*.py") if path.stem != "arrays"}
    copy = r"np\.exp\(.*logits|interpolate\(.*(grid|TILE_SIZE)"
    assert [path.name for path, text in others.items() if re.search(copy, text)] == []
