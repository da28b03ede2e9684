"""What the benchmarks' pages say is what their scripts measured."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def experiments(monkeypatch):
    """The script that tries ideas for training."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import experiments

    yield experiments
    del sys.modules["experiments"]


def test_the_table_of_experiments_is_the_measured_one(experiments):
    """docs/experiments.md holds the table that the results give."""
    page = experiments.PAGE.read_text(encoding="utf-8")
    _, _, rest = page.partition(experiments.MARKS[0])
    table, _, _ = rest.partition(experiments.MARKS[1])
    assert table.strip() == experiments.table(experiments.measured())
    assert set(experiments.measured()) <= set(experiments.IDEAS)


def test_each_experiment_changes_the_base(experiments):
    """All settings are valid, and each idea changes something."""
    base = experiments.config_of("base")
    for name, idea in experiments.IDEAS.items():
        changed = experiments.config_of(name) != base or idea.network
        assert changed or name == "base", name


def test_a_page_is_written_between_its_marks(experiments, tmp_path, monkeypatch):
    """What stands around the table stays; the base's own row differs from it by nothing."""
    page, results = tmp_path / "page.md", tmp_path / "rows.json"
    page.write_text(f"before\n{experiments.MARKS[0]}\nold\n{experiments.MARKS[1]}\nafter\n")
    rows = '{"mixup": {"val_macro_f1": 0.82, "minutes": 3.0}, '
    results.write_text(rows + '"base": {"val_macro_f1": 0.8, "minutes": 2.0}}')
    monkeypatch.setattr(experiments, "PAGE", page)
    monkeypatch.setattr(experiments, "RESULTS", results)
    experiments.write_page()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| 0.8000 | +0.0000 | 2.0 |" in text
    assert "| mixup | mixup 0.2 | 0.8200 | +0.0200 | 3.0 |" in text
