"""Stories of the explorer: a question, the reader's prediction, and then what the models say."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lulc_lib.tiles import CLASSES
from lulc_lib.widgets.finding import Facts
from lulc_lib.widgets.state import ALL, State, Stroke


@dataclass(frozen=True)
class Story:
    """One story.

    Attributes:
        title: in a few words.
        question: what the reader is to predict.
        changes: fields of the state that open it.
        choose: makes further ones from what the models say.
        strokes: painted when the reader has predicted.
    """

    title: str
    question: str
    changes: dict[str, Any]
    choose: Callable[[Facts], dict[str, Any]] = field(default=lambda facts: {})
    strokes: tuple[Stroke, ...] = ()


def _alike_and_wrong(facts: Facts) -> dict[str, Any]:
    """Choose the tiles on which all models give one answer against the label, the surest first."""
    rows = np.stack(list(facts.predicted.values()))
    agree = (rows == rows[0]).all(axis=0) & (rows[0] != facts.labels)
    sure = np.min(list(facts.confidence.values()), axis=0)
    order = np.flatnonzero(agree)[np.argsort(-sure[agree], kind="stable")]
    names = tuple(facts.names[i] for i in order[:20])
    return {"among": names, "tile": names[0]} if names else {}


_OPEN = {"label": ALL, "predicted": ALL, "answer": ALL, "judge": ALL, "confidence": (0.0, 1.0),
         "among": (), "sort": "order", "target": "predicted", "contrast": ""}  # fmt: skip
STORIES = {
    "river": Story(
        "A lost river",
        "This tile is labelled River, and at least one model says something else. What does it "
        "say? The maps are then drawn for the label: did the model miss the river, or see it and "
        "decide otherwise?",
        {"label": "River", "answer": "wrong", "sort": "loss", "target": "label"},
    ),
    "disagree": Story(
        "Who is right?",
        "The models disagree most on these tiles. Look at the tile alone: what is it?",
        {"answer": "disagree", "sort": "disagreement", "target": "predicted"},
    ),
    "fool": Story(
        "Fool the model",
        "The models recognise this highway. A band across its middle will be painted over with "
        "neighbouring texture. What will they say then?",
        {"label": "Highway", "answer": "right", "sort": "confidence"},
        strokes=(Stroke("texture", 6.0, ((4.0, 32.0), (60.0, 32.0))),),
    ),
    "colour": Story(
        "Colour alone",
        "The whole tile will be painted with its mean colour, and nothing else is left. What will "
        "the models say?",
        {"label": "SeaLake", "answer": "right"},
        strokes=(Stroke("mean", 64.0, ((32.0, 32.0),)),),
    ),
    "label": Story(
        "Whose error?",
        "All models give the same answer here, against the label. Look at the tile before you "
        "decide who is wrong: what is it?",
        {"answer": "wrong"},
        _alike_and_wrong,
    ),
}


def opening(story: str, facts: Facts) -> dict[str, Any]:
    """Return the fields of the state that open a story.

    Raises:
        ValueError: if no model's answers are known yet.
    """
    facts.judges(State())
    told = STORIES[story]
    return {**_OPEN, **told.changes, **told.choose(facts), "story": story, "guess": "",
            "hidden": True, "beside": "", "page": 0}  # fmt: skip


def ended(state: State) -> dict[str, Any]:
    """Return the fields of a state in which no story is told; tiles that one chose are let go."""
    among = () if state.story else state.among
    return {"story": "", "hidden": False, "guess": "", "among": among}


def packed(story: str, hidden: bool, guess: str) -> dict[str, Any]:
    """Return a story for the page."""
    told = STORIES[story]
    words = f"You expected {guess}. Now compare." if guess else ""
    return {"title": told.title, "question": told.question, "hidden": hidden, "guess": words,
            "guesses": [*CLASSES, "I cannot tell"]}  # fmt: skip
