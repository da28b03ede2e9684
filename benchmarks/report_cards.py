"""Repeat what the report cards of the shipped models claim, on other tiles and mosaics.

    python benchmarks/report_cards.py            # some minutes on two cores
    python benchmarks/report_cards.py --quick    # tiny: does it run at all, nothing written

For each shipped model the explanation that its card recommends, the next best and the nulls are
tested again, with a seed that draws other tiles and other mosaics. Claims: the recommended one has
the best mean rank over mosaics, single deletion and removal, or shares it within half a rank; it
leads every null on the first two (95 %); its lead over the null `centre` on removal is not wholly
below 0; and the null `edge`, which looks at the tile alone, comes unchanged out of a model whose
weights are drawn anew.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lulc_lib.checkpoints import load_checkpoint
from lulc_lib.eurosat import load_eurosat
from lulc_lib.evidence import CORE, ReportCard, known_card, ordered, ranks
from lulc_lib.hardware import describe_hardware
from lulc_lib.report_cards import Sizes, report_card
from lulc_lib.splits import split

RESULTS = Path(__file__).parent / "results" / "report_cards.json"
SEED = 2026  # nothing was chosen on what it draws
OTHERS = 5  # explanations beside the recommended one
SIZES = Sizes(tiles=200, mosaics=200, few=20, fillings=("blur",))
TINY = Sizes(tiles=10, mosaics=4, few=2, fillings=("blur",))
TESTS = (*CORE, "randomisation")
CLOSE = 0.5  # mean ranks that differ by no more are shared


def claims(card: ReportCard, method: str, layer: str | None) -> dict[str, bool]:
    """Return which claims hold for one explanation of a card."""
    table = ranks(card)["mean rank"]
    lead = card.find(method, layer, "removal, lead over centre")
    edge = card.find("edge", None, "randomisation")
    return {
        "best mean rank": bool(table[method, layer or ""] <= table.min() + CLOSE),
        "told from every null": card.verdict(method, layer).proven,
        "removal not below centre": lead is not None and lead.high >= 0,
        "edge survives random weights": edge is not None and edge.value > 0.999,
    }


def measure(name: str, sizes: Sizes) -> dict[str, Any]:
    """Return figures and claims of one shipped model."""
    model, _ = load_checkpoint(name)
    stored = known_card(model)
    if stored is None or stored.recommended is None:
        return {"claims": {"there is a report card that recommends": False}}
    best = (stored.recommended.method, stored.recommended.layer)
    others = [one for one in ordered(stored)[0] if one != best][:OTHERS]
    asked = [one if one[1] else one[0] for one in (best, *others)]
    start = time.perf_counter()
    test = split(load_eurosat(download=False), "seed42").test
    card = report_card(model, test, asked, TESTS, sizes=sizes, seed=SEED, progress=True)
    rows = [
        {"method": r.method, "layer": r.layer, "test": r.test,
         **{k: round(getattr(r, k), 3) for k in ("value", "low", "high")}, "n": r.n}
        for r in card.rows
    ]  # fmt: skip
    return {
        "recommended": best,
        "claims": claims(card, *best),
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "rows": rows,
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny, nothing written")
    quick = parser.parse_args().quick
    result: dict[str, Any] = {"seed": SEED}
    for name in ("vit", "resnet50"):
        result[name] = measure(name, TINY if quick else SIZES)
        for claim, holds in result[name]["claims"].items():
            print(f"{name:9} {claim}: {holds}", flush=True)
    if quick:
        return 0
    result |= {"torch": torch.__version__, "hardware": describe_hardware(torch.device("cpu"))}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(all(result[n]["claims"].values()) for n in ("vit", "resnet50")) else 1


if __name__ == "__main__":
    sys.exit(main())
