"""Parts of sentences that several modules' messages share."""

import re
from pathlib import Path

import pytest

from lulc_lib.explanations.table import method_named
from lulc_lib.models import create_model
from lulc_lib.wording import did_you_mean, layer_in_words

PACKAGE = Path(__file__).parents[1] / "lulc_lib"


@pytest.mark.parametrize(
    ("name", "known", "count", "hint"),
    [
        ("epohs", ["epochs", "seed"], 1, "; did you mean 'epochs'?"),
        ("abd", ["abc", "abe", "xyz"], 2, "; did you mean 'abe' or 'abc'?"),
        ("abd", ["xyz"], 1, ""),
        ("abd", [], 1, ""),
    ],
)
def test_the_nearest_names_are_named(name: str, known: list[str], count: int, hint: str):
    """The nearest comes first, in quotes; where none is near, nothing is said."""
    assert did_you_mean(name, known, count) == hint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("network.blocks.5.norm1", "block 6, first norm"),
        ("network.blocks.5", "output of block 6"),
        ("network.layer4", "stage 4"),
        ("network.layer4.2.act3", "stage 4"),
        ("network.features.7", "layer network.features.7"),
        ("network.blocks.3.1", "layer network.blocks.3.1"),
        ("network.stages.3.blocks.1", "layer network.stages.3.blocks.1"),
    ],
)
def test_layers_are_said_in_words(name: str, words: str):
    """Blocks count from 1; a name without a known habit stays as it is."""
    assert layer_in_words(name) == words


def test_names_may_come_from_any_iterable():
    """The keys of a dict and a generator are as good as a list."""
    assert did_you_mean("vitt", {"vit": 1}) == did_you_mean("vitt", iter(["vit"])) != ""


def test_the_cutoff_is_what_counts_as_near():
    """A lower cutoff finds names that are less alike."""
    assert did_you_mean("gradcampp", ["cam"]) == ""
    assert did_you_mean("gradcampp", ["cam"], cutoff=0.4) == "; did you mean 'cam'?"


def test_a_sentence_ends_where_none_is_near():
    """What stands before another sentence ends in a full stop or a question mark."""
    assert did_you_mean("abd", ["xyz"], otherwise=".") == "."
    assert did_you_mean("abd", ["abc"], otherwise=".") == "; did you mean 'abc'?"
    with pytest.raises(ValueError, match=r"unknown model 'qqqqqqq'\. Aliases are"):
        create_model("qqqqqqq")
    with pytest.raises(ValueError, match=r"unknown method 'qqqqqqq'\. There are gradcam, "):
        method_named("qqqqqqq")


def test_no_module_has_a_hint_of_its_own():
    """The nearest name is looked for in one place alone."""
    own = [path.name for path in PACKAGE.rglob("*.py") if re.search("difflib", path.read_text())]
    assert own == ["wording.py"]
