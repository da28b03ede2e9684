"""The glossary: each word once, in plain sentences, the same in the notebooks and on its page."""

import re
from pathlib import Path

import nbformat
import pytest
from run_notebooks import notebook_paths

from lulc_lib import glossary

PAGE = Path(__file__).resolve().parents[1] / "docs" / "glossary.md"
BOLD = re.compile(r"\*\*([^*]+)\*\*")


def prose(number: str) -> str:
    """Return the prose of the notebooks whose names start with a number."""
    paths = [path for path in notebook_paths() if path.name.startswith(number)]
    cells = [cell for path in paths for cell in nbformat.read(path, as_version=4).cells]
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def test_each_word_stands_once_in_order():
    """Words are in alphabetical order, none twice."""
    words = [term.word.casefold() for term in glossary.TERMS]
    assert words == sorted(set(words))


@pytest.mark.parametrize("term", glossary.TERMS, ids=lambda term: term.word)
def test_a_word_is_told_in_its_notebook(term: glossary.Term):
    """A meaning is one or two sentences, and the notebook that is named uses the word."""
    assert term.meaning[0].isupper()
    assert term.meaning.endswith(".")
    assert len(re.findall(r"[.?] [A-Z]", term.meaning)) <= 1
    text = " ".join(prose(term.notebook).split()).casefold()
    assert not term.notebook or term.word.casefold() in text


def test_the_page_is_the_glossary():
    """docs/glossary.md is what `python -m lulc_lib.glossary` prints."""
    assert PAGE.read_text() == glossary.page() + "\n"


def test_words_in_bold_are_in_the_glossary():
    """A word that a notebook prints in bold inside a sentence has its meaning in the glossary."""
    for path in notebook_paths():
        text = BOLD.findall(prose(path.name[:2]))
        terms = {word for word in text if word[-1] not in ".?:"} - {"It does not say"}
        assert terms <= {term.word for term in glossary.TERMS}, path.name


def test_the_first_notebook_has_the_same_meanings():
    """The table of words in notebook 00 repeats the glossary's meanings and links to the page."""
    table = prose("00").partition("## Words, one meaning each")[2].partition("\n## ")[0]
    assert "(../docs/glossary.md)" in table
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", table, flags=re.MULTILINE)[1:]
    assert len(rows) > 10
    assert rows == [(word, glossary.meaning(word)) for word, _ in rows]


def test_an_unknown_word_is_named():
    """A word that the glossary does not have is an error that lists those it has."""
    with pytest.raises(KeyError, match="no 'score'; there are accuracy,"):
        glossary.meaning("score")
