"""The front page tells the truth: commands exist, links lead somewhere, figures hold."""

import json
import re
import shlex
from pathlib import Path

import pytest

from lulc_lib.cards import describe_cards, describe_explanations, names_in
from lulc_lib.cli import make_parser
from lulc_lib.evidence import CENTRE_LEAD, REMOVAL, ReportCard

REPO = Path(__file__).parents[1]
PAGE = (REPO / "README.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL))


def overview(page: str) -> list[str]:
    """Return the rows of the table of checkpoints."""
    return [line for line in page.splitlines() if re.match(r"\| (checkpoint|`\w+`) \|", line)]


def test_results_are_those_of_the_cards():
    """The table of results is, letter by letter, the one made from the JSON cards."""
    rows = overview(describe_cards(REPO / "checkpoints"))
    told = [row.split("`")[1] for row in rows[1:]]
    assert told == names_in(REPO / "checkpoints")
    assert {"resnet50", "vit"} <= set(told)
    results = PAGE.split("<!-- results")[1].split("<!-- end of results")[0]
    assert overview(results) == rows
    altered = results.replace("0.", "0.1", 1)
    assert overview(altered) != rows


def test_explanations_are_those_of_the_report_cards():
    """The table of tested explanations is the one made from the report cards."""
    told = (
        PAGE.split("<!-- explanations")[1].split("-->", 1)[1].split("<!-- end of explanations")[0]
    )
    table = describe_explanations(REPO / "checkpoints")
    assert told.strip() == table.strip()
    assert "(recommended)" in table


def test_what_another_filling_says_is_told():
    """How far the recommended maps lead `centre` on removal, by each filling."""
    leads = {}
    for name in ("resnet50", "vit"):
        card = ReportCard.from_json(REPO / "checkpoints" / f"{name}.report.json")
        for filling in ("blur", "mean", "texture"):
            row = card.find("recommended", None, f"{REMOVAL}, {CENTRE_LEAD}", filling)
            leads[name, filling] = row.interval
    told = " ".join(PAGE.split())
    lead = leads["resnet50", "blur"]
    assert f"is not told apart from `centre` on removal (lead {lead}); with the mean" in told
    signs = {key: (one.low > 0) - (one.high < 0) for key, one in leads.items()}
    assert [signs["resnet50", filling] for filling in ("blur", "mean", "texture")] == [0, -1, 1]
    assert "it lies below it, and with texture above" in told
    assert [signs["vit", filling] for filling in ("blur", "mean", "texture")] == [1, 0, 1]
    assert "`vit` is not told apart from `centre` with the mean colour, and lies above it" in told


def test_minutes_are_those_that_were_measured():
    """Those of the last run of `make test` that is kept, of all and of each notebook."""
    kept = json.loads((REPO / "benchmarks" / "results" / "suite.json").read_text())["test"]
    minutes = round(kept["wall_seconds"] / 60)
    assert f"took {minutes} minutes on EuroSAT, on two idle cores with {kept['processor']}" in PAGE
    for name, seconds in kept["notebook_seconds"].items():
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| [{name}]")]
        assert row.endswith(f"| {max(1, round(seconds / 60))} |"), name


def test_model_cards_page_is_up_to_date():
    """checkpoints/README.md is what `lulc cards` writes."""
    page = (REPO / "checkpoints" / "README.md").read_text(encoding="utf-8")
    assert page == describe_cards(REPO / "checkpoints")


@pytest.mark.parametrize("line", [x for x in CODE.splitlines() if x.startswith("lulc ")])
def test_commands_exist(line):
    """Each command of the page is understood by the parser."""
    words = shlex.split(line, comments=True)[1:]
    assert make_parser().parse_args(words).command == words[0]


def test_make_targets_exist():
    """Each `make` target that the page names is in the Makefile."""
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"make ([a-z]+)", PAGE))
    assert named >= {"demo", "test", "lab"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_links_lead_somewhere():
    """Each relative link and each module that the page names is there."""
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
        assert (REPO / target).exists(), target
    modules = {p.name for p in (REPO / "lulc_lib").iterdir()} - {"__pycache__", "static"}
    for module in modules - {"__init__.py", "__main__.py"}:
        assert module in PAGE or f"{module}/" in PAGE, f"the page does not name {module}"


def test_every_notebook_is_in_the_table():
    """The table of notebooks names all of them, in order."""
    named = re.findall(r"\]\(notebooks/(\w+)\.ipynb\)", PAGE)
    assert named == sorted(p.stem for p in (REPO / "notebooks").glob("*.ipynb"))
