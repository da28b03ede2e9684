"""Compute the same report card in float32 and in bfloat16, and compare figures and time.

    python benchmarks/card_precision.py            # some minutes on two cores with AMX
    python benchmarks/card_precision.py --quick    # tiny: does it run at all, nothing written

Claims: by the tests that recommend, no figure of an explanation moves by more than half of its own
95 % half interval, and the explanations keep their order by mean rank. The ratio of times is that
of this processor; without bfloat16 in hardware there is nothing to gain.
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
from lulc_lib.evidence import CORE, ranks
from lulc_lib.hardware import describe_hardware
from lulc_lib.report_cards import Sizes, report_card
from lulc_lib.splits import split

RESULTS = Path(__file__).parent / "results" / "card_precision.json"
NAME = "resnet50"
METHODS = ("gradcam", "competition", "layercam", ("libragrad", "network.layer3"))
SIZES = Sizes(tiles=100, mosaics=30, few=20, fillings=("blur",))
TINY = Sizes(tiles=10, mosaics=4, few=2, fillings=("blur",))
SEED = 7  # tiles that no other card draws, so that nothing kept is read


def measure(sizes: Sizes) -> dict[str, Any]:
    """Return times, the figures in both precisions, and the claims."""
    model, _ = load_checkpoint(NAME)
    test = split(load_eurosat(download=False), "seed42").test
    cards, minutes = {}, {}
    for precision in ("float32", "bfloat16"):
        start = time.perf_counter()
        cards[precision] = report_card(
            model, test, METHODS, CORE, sizes=sizes, seed=SEED, precision=precision, progress=True
        )
        minutes[precision] = round((time.perf_counter() - start) / 60, 2)
    rows, most = [], 0.0
    for row in cards["float32"].rows:
        other = cards["bfloat16"].find(row.method, row.layer, row.test, row.filling)
        if row.test in CORE:
            moved = abs(other.value - row.value) / max((row.high - row.low) / 2, 1e-9)
            most = max(most, moved)
            rows.append({
                "method": row.method, "layer": row.layer, "test": row.test,
                "float32": round(row.value, 4), "bfloat16": round(other.value, 4),
                "half_interval": round((row.high - row.low) / 2, 4),
            })  # fmt: skip
    orders = [list(ranks(card).index) for card in cards.values()]
    return {
        "minutes": minutes,
        "ratio": round(minutes["float32"] / max(minutes["bfloat16"], 1e-9), 2),
        "largest_move_in_half_intervals": round(most, 3),
        "claims": {"figures stay": most <= 0.5, "order stays": orders[0] == orders[1]},
        "rows": rows,
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny, nothing written")
    quick = parser.parse_args().quick
    result = measure(TINY if quick else SIZES)
    for row in result["rows"]:
        print(row)
    print({key: value for key, value in result.items() if key != "rows"})
    if quick:
        return 0
    result |= {"torch": torch.__version__, "hardware": describe_hardware(torch.device("cpu"))}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(result["claims"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
