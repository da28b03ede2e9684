"""Train both families three times on the west, and score them in the region east of it.

    python benchmarks/regions.py                      # what there is, and what was measured
    python benchmarks/regions.py vit --seed 43        # train one; killed, it goes on

The trainings are those of learning_rates.py at 0.001, of which there are three seeds of both on
`seed42`: a third of the training tiles (5,400), 15 epochs, AdamW, cosine, 64 px inside. Here the
tiles are those of `spatial`, whose validation tiles lie east of all training tiles. Figures are
macro-F1 of the last weights on the 5,400 validation tiles; test tiles are never read. Rows lie in
results/regions.json, validation logits in results/logits/.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import learning_rates
import numpy as np
import torch

from lulc_lib.config import PRECISIONS
from lulc_lib.eurosat import load_eurosat
from lulc_lib.splits import split
from lulc_lib.storage import atomic_write

RESULTS = Path(__file__).parent / "results" / "regions.json"
RATE = 1e-3
SEEDS = (42, 43, 44)
T95 = {2: 4.303, 3: 3.182, 4: 2.776}  # Student's t, two-sided 95 %, by degrees of freedom


def name_of(family: str, seed: int) -> str:
    """Return what a training is called."""
    return f"region-{family}-{seed}"


def measured() -> dict[str, dict[str, Any]]:
    """Return the rows so far, by name."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def scores(family: str, where: str) -> np.ndarray:
    """Return macro-F1 on the validation tiles of `seed42` or `spatial`, one per seed."""
    if where == "spatial":
        rows = [measured().get(name_of(family, seed)) for seed in SEEDS]
    else:
        names = (learning_rates.name_of(family, RATE, seed) for seed in SEEDS)
        rows = [learning_rates.measured().get(name) for name in names]
    return np.array([row["val_macro_f1"]["value"] for row in rows if row])


def difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the mean of the first less that of the second, and half its 95 % interval (Welch)."""
    one, other = (own.var(ddof=1) / len(own) for own in (first, second))
    freedom = (one + other) ** 2 / (one**2 / (len(first) - 1) + other**2 / (len(second) - 1))
    whole = int(freedom + 1e-9)  # rounded down, which makes the interval wider
    return float(first.mean() - second.mean()), float(T95[whole] * np.sqrt(one + other))


def table() -> str:
    """Return the scores of both networks on both splits, and their differences, as Markdown."""
    lines = ["| network | split | each seed | mean |", "|---|---|---|---|"]
    found = {}
    for family in learning_rates.FAMILIES:
        for where in ("seed42", "spatial"):
            own = found[family, where] = scores(family, where)
            each = ", ".join(f"{one:.3f}" for one in own)
            mean = f"{own.mean():.3f}" if len(own) else ""
            lines.append(f"| {family} | {where} | {each} | {mean} |")
    if min(map(len, found.values())) == len(SEEDS):
        lines += ["", "| difference of means | with its 95 % interval (Welch) |", "|---|---|"]
        pairs = {f"{k}, spatial less seed42": ((k, "spatial"), (k, "seed42"))
                 for k in learning_rates.FAMILIES}  # fmt: skip
        pairs |= {f"resnet50 less vit, {where}": (("resnet50", where), ("vit", where))
                  for where in ("seed42", "spatial")}  # fmt: skip
        for words, (one, other) in pairs.items():
            more, half = difference(found[one], found[other])
            lines.append(f"| {words} | {more:+.3f} [{more - half:+.3f}, {more + half:+.3f}] |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", nargs="?", choices=list(learning_rates.FAMILIES))
    parser.add_argument("--seed", type=int, choices=SEEDS, default=SEEDS[0])
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--threads", type=int, help="of the processor (default: all)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    name = name_of(options.family, options.seed)
    if options.family and name not in measured():
        parts = split(load_eurosat(download=False), "spatial")
        row = learning_rates.train(
            name, options.family, RATE, options.seed, options.precision,
            learning_rates.third(parts.train), parts.val,
        )  # fmt: skip
        with atomic_write(RESULTS) as temporary:
            temporary.write_text(json.dumps({**measured(), name: row}, indent=1) + "\n")
        print(f"{name}: {row['val_macro_f1']}", flush=True)
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
