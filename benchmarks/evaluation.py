"""Evaluate the shipped models, compare them in pairs, and write docs/evaluation.md.

    python benchmarks/evaluation.py           # a few minutes: kept predictions are read
    python benchmarks/evaluation.py --page    # only write the page from results/evaluation.json

Of each model, on the test tiles of its own split: macro-F1 and accuracy, the calibration error
before and after a temperature from all validation tiles, the area between risk and coverage, and
how many labels confident learning doubts. Of each pair, on tiles that neither has learnt from nor
was chosen by: what the second leads by, in pairs, with McNemar's test. Notebooks 04, 10 and 12 show
how, step by step; 04 and 12 fit the temperature on fewer tiles.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lulc_lib.cards import names_in
from lulc_lib.checkpoints import load_checkpoint
from lulc_lib.errors import label_issues
from lulc_lib.eurosat import load_eurosat
from lulc_lib.metrics import compare, coverage, evaluate, temperature, tempered
from lulc_lib.models import TileClassifier
from lulc_lib.predictions import predict
from lulc_lib.splits import Split, split
from lulc_lib.storage import atomic_write
from lulc_lib.tiles import TileSet, split_of

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "evaluation.json"
PAGE = HERE.parent / "docs" / "evaluation.md"
CHECKPOINTS = HERE.parent / "checkpoints"
PAIRS = (("resnet50", "vit"), ("vit", "vit_spatial"))


def figure(value: Any) -> dict[str, float]:
    """Return a figure with its interval."""
    return {key: round(float(getattr(value, key)), 6) for key in ("value", "low", "high")}


def single(model: TileClassifier, parts: Split) -> dict[str, Any]:
    """Return one model's figures on the test tiles of its split."""
    val, test = (predict(model, part, cache=True) for part in (parts.val, parts.test))
    by = temperature(val)
    cooled = tempered(test, by)
    report, curve = evaluate(test), coverage(cooled)
    return {
        "split": parts.name,
        "tiles": len(parts.test),
        "macro_f1": figure(report.macro_f1),
        "accuracy": figure(report.accuracy),
        "temperature": round(by, 3),
        "ece": figure(report.ece),
        "ece_tempered": figure(evaluate(cooled).ece),
        "aurc": figure(curve.area),
        "aurc_random": round(float(curve.chance), 4),
        "wrong": int((~test.correct).sum()),
        "labels_doubted": len(label_issues(cooled)),
    }


def new_to_both(first: Split, second: Split) -> TileSet:
    """Return the second split's test tiles that the first neither learns from nor chooses by."""
    known = np.isin(second.test.names, [*first.train.names, *first.val.names])
    return second.test.select(np.flatnonzero(~known), part="new to both")


def pair(models: list[TileClassifier], tiles: TileSet) -> dict[str, Any]:
    """Return what the second of two models leads by on the same tiles."""
    found = compare(*(predict(model, tiles, cache=True) for model in models))
    table = found.per_class
    return {
        "tiles": found.n,
        "macro_f1": figure(found.macro_f1),
        "accuracy": figure(found.accuracy),
        "first_alone": found.first_alone,
        "second_alone": found.second_alone,
        "p_value": float(f"{found.p_value:.2g}"),
        "classes": [name for name, row in table.iterrows() if row.low > 0 or row.high < 0],
    }


def words(of: dict[str, float], sign: str = "") -> str:
    """Return a figure with its interval as text."""
    return f"{of['value']:{sign}.3f} [{of['low']:{sign}.3f}, {of['high']:{sign}.3f}]"


def page(result: dict[str, Any]) -> str:
    """Return docs/evaluation.md."""
    lines = [
        "# The shipped models, evaluated",
        "",
        "Written by `python benchmarks/evaluation.py`; change that, not this page. Intervals hold",
        "95 % and cover the choice of test tiles, not another training. The temperature comes from",
        "the validation tiles of the model's split; AURC is the area between error and coverage,",
        "smaller is better; doubted labels are those of confident learning. Notebooks 04, 10 and",
        "12 show how; 04 and 12 fit T on 500 validation tiles, so that T, the ECE with T and the",
        "labels doubted differ a little there. The float16 files are asked; the cards' figures are",
        "of the float32 weights, which answer otherwise on at most one tile in a thousand.",
        "",
        "| model | split | test tiles | macro-F1 | accuracy | T | ECE | ECE with T | AURC (random "
        "order) | errors | labels doubted |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in result["models"].items():
        areas = f"{one['aurc']['value']:.4f} ({one['aurc_random']:.4f})"
        lines.append(
            f"| `{name}` | {one['split']} | {one['tiles']:,} | {words(one['macro_f1'])} | "
            f"{words(one['accuracy'])} | {one['temperature']:.2f} | {words(one['ece'])} | "
            f"{words(one['ece_tempered'])} | {areas} | {one['wrong']} | {one['labels_doubted']} |"
        )
    lines += [
        "",
        "In pairs, second less first, on test tiles of the second's split that neither model has",
        "learnt from nor was chosen by. Classes are those whose difference in F1 has an interval",
        "that leaves out 0, one class at a time; of ten equal classes about four tables in ten",
        "would show one.",
        "",
        "| first, second | tiles | macro-F1 | accuracy | right alone: first, second | McNemar's p "
        "| classes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in result["pairs"].items():
        lines.append(
            f"| {name} | {one['tiles']:,} | {words(one['macro_f1'], '+')} | "
            f"{words(one['accuracy'], '+')} | {one['first_alone']}, {one['second_alone']} | "
            f"{one['p_value']:.2g} | {', '.join(one['classes']) or 'none'} |"
        )
    return "\n".join(lines) + "\n"


def measure() -> dict[str, Any]:
    """Return the figures of all shipped models and pairs."""
    tiles = load_eurosat(download=False)
    loaded = {name: load_checkpoint(CHECKPOINTS / name) for name in names_in(CHECKPOINTS)}
    models = {name: model for name, (model, _) in loaded.items()}
    known = {part: split(tiles, part) for part in
             {split_of(card.data["part"]) for _, card in loaded.values()}}  # fmt: skip
    splits = {name: known[split_of(card.data["part"])] for name, (_, card) in loaded.items()}
    pairs = {}
    for names in PAIRS:
        common = new_to_both(*(splits[name] for name in names))
        pairs[", ".join(f"`{name}`" for name in names)] = pair([models[n] for n in names], common)
    return {
        "models": {name: single(model, splits[name]) for name, model in models.items()},
        "pairs": pairs,
    }


def main() -> int:
    """Measure, write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    if not parser.parse_args().page:
        with atomic_write(RESULTS) as temporary:
            temporary.write_text(json.dumps(measure(), indent=1) + "\n")
    with atomic_write(PAGE) as temporary:
        temporary.write_text(page(json.loads(RESULTS.read_text())))
    print(PAGE.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
