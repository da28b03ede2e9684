"""The explorer's state checks itself, and goes to JSON and back."""

import json

import pytest

from lulc_lib.tiles import CLASSES
from lulc_lib.widgets.state import State, Stroke


def test_a_state_survives_json():
    """Every field comes back as it was, strokes and notes as well."""
    stroke = Stroke("blur", 4, [[1, 2], [3.5, 4]])
    taken = Stroke("swap", 6, ((0, 0),), other="Forest/Forest_1.jpg")
    state = State(
        label="River", predicted="Highway", answer="wrong", judge="vit", confidence=(0.5, 0.9),
        among=("River/River_1.jpg",), sort="loss", page=2, tile="River/River_1.jpg",
        methods=("gradcam", "legrad"), target="Highway", contrast="River", stage=-2, opacity=0.3,
        sign="positive", scale="per map", tool="swap", radius=3, other="Forest/Forest_1.jpg",
        strokes=(stroke, taken), deleted=0.25,
    ).with_note("River/River_1.jpg", "a bridge")  # fmt: skip
    again = State.from_json(state.to_json())
    assert again == state
    assert hash(again.strokes) == hash(state.strokes)  # they are keys of caches
    assert again.note("River/River_1.jpg") == "a bridge"
    assert again.with_note("River/River_1.jpg", " ").notes == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lable": "River"}, "no 'lable'; did you mean 'label'"),
        ({"label": "Rivr"}, "label must be one of all, AnnualCrop"),
        ({"contrast": None}, "contrast must be one of ''"),
        ({"opacity": 2}, r"opacity must lie in \[0, 1\], got 2"),
        ({"deleted": "much"}, "deleted must lie in"),
        ({"page": -1}, "page must be a whole number from 0, got -1"),
        ({"page": True}, "page must be a whole number"),
        ({"stage": 1001}, r"stage must lie in -1000\.\.1000, got 1001"),
        ({"confidence": (0.9, 0.1)}, "confidence must rise"),
        ({"confidence": 0.9}, "confidence must be a pair"),
        ({"methods": ()}, "at least one method"),
        ({"methods": "gradcam"}, "methods must be a list of texts"),
        ({"among": (1,)}, "among must be a text, got 1"),
        ({"tile": 3}, "tile must be a text, got 3"),
        ({"strokes": ({"tool": "blur"},)}, "is no stroke"),
        ({"notes": ("x",)}, "notes must be pairs"),
    ],
)
def test_wrong_values_are_named(changes, message):
    """A wrong field or value is named, with what there is."""
    with pytest.raises(ValueError, match=message):
        State().change(**changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("brush", 3, ((1, 1),)), "tool must be one of blur"),
        (("blur", 0, ((1, 1),)), "radius must lie in"),
        (("blur", 3, ()), "needs finite points"),
        (("blur", 3, ((float("nan"), 1),)), "needs finite points"),
        (("blur", 3, (1,)), "points must be pairs"),
        (("swap", 3, ((1, 1),)), "names the other tile"),
        (("blur", 3, ((1, 1),), "Forest/Forest_1.jpg"), "names the other tile"),
    ],
)
def test_wrong_strokes_are_named(values, message):
    """A stroke that cannot be painted is refused when it is made."""
    with pytest.raises(ValueError, match=message):
        Stroke(*values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "nested more than 32 deep"),
        ("1" * 5000, "a number of 5,000 digits"),
        ("[]", "not one that this version wrote"),
        ('{"format": 99}', "not one that this version wrote"),
        ('{"format": 1, "colour": "red"}', "no 'colour'"),
        ('{"format": 1, "label": "Moon"}', "label must be one of"),
    ],
)
def test_stored_states_are_checked(text, message):
    """What is no stored state is refused in words."""
    with pytest.raises(ValueError, match=message):
        State.from_json(text)


def test_the_plain_state_shows_everything():
    """Without a word, all tiles are found and the first method's maps are shown."""
    state = json.loads(State().to_json())
    assert (state["label"], state["answer"], state["confidence"]) == ("all", "all", [0.0, 1.0])
    assert State(target=CLASSES[0]).target == CLASSES[0]
