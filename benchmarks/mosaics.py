"""Measure whether default maps lie on the tile that they explain, in mosaics of four tiles.

    python benchmarks/mosaics.py            # some minutes on two cores
    python benchmarks/mosaics.py --quick    # tiny: does it run at all, nothing written

Each mosaic shrinks four test tiles of different classes, which the model gets right by themselves,
to the size of one. The figure is the share of a map's positive relevance that lies on the explained
quarter, chance 0.25, with a 95 % bootstrap interval over mosaics. Beside the default stand the
layer that was the ViT's default before, Grad-CAM++ and the nulls, on the same mosaics.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lulc_lib.anatomies import anatomy
from lulc_lib.checkpoints import load_checkpoint
from lulc_lib.eurosat import load_eurosat
from lulc_lib.explanations import explain
from lulc_lib.faithfulness import mosaics, relevance_share
from lulc_lib.hardware import describe_hardware
from lulc_lib.predictions import predict
from lulc_lib.splits import split

RESULTS = Path(__file__).parent / "results" / "mosaics.json"
WANTED = {"vit": 0.50, "resnet50": 0.72}  # at least, of the default method and layer
NULLS = ("centre", "edge", "blur", "random")
SEED = 2026  # of the mosaics; no choice of method or layer was made on these
COUNT = 200


def asked(name: str) -> dict[str, dict[str, Any]]:
    """Return what is compared: title -> arguments of `explain`."""
    found: dict[str, dict[str, Any]] = {"default": {}, "gradcam++": {"method": "gradcam++"}}
    if name == "vit":
        for method in ("gradcam", "gradcam++"):
            found[f"{method} at the last norm1"] = {"method": method, "layer": -1}
    return found | {null: {"method": null} for null in NULLS}


def interval(shares: np.ndarray) -> dict[str, float]:
    """Return the mean with its 95 % bootstrap interval over mosaics."""
    rng = np.random.default_rng(0)
    means = shares[rng.integers(len(shares), size=(2000, len(shares)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {"value": round(shares.mean(), 3), "low": round(low, 3), "high": round(high, 3)}


def measure(name: str, count: int, pool: int) -> dict[str, Any]:
    """Return the figures of one shipped model."""
    model, card = load_checkpoint(name)
    tiles = split(load_eurosat(download=False), "seed42").test.balanced(pool)
    right = np.flatnonzero(predict(model, tiles, cache=True).correct)
    found = mosaics(tiles[right], count, seed=SEED)
    answers = predict(model, found.images)
    rows = {}
    for title, arguments in asked(name).items():
        maps = explain(model, found.images, target=found.target, **arguments)
        rows[title] = {
            "layer": maps.layer,
            **interval(relevance_share(maps.heatmap, found)),
        }
    return {
        "weights_sha256": card.weights_sha256,
        "default_layer": anatomy(model).layer,
        "mosaics": count,
        "probability_of_target": round(
            float(answers.probabilities[np.arange(count), found.target].mean()), 3
        ),
        "shares": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny, nothing written")
    quick = parser.parse_args().quick
    result: dict[str, Any] = {"wanted": WANTED, "seed": SEED}
    enough = True
    for name, wanted in WANTED.items():
        row = measure(name, 4 if quick else COUNT, 40 if quick else 1000)
        result[name] = row
        for title, share in row["shares"].items():
            print(f"{name} {title:28} {share['value']:.3f} [{share['low']:.3f}, "
                  f"{share['high']:.3f}] {share['layer'] or ''}", flush=True)  # fmt: skip
        reached = row["shares"]["default"]["value"]
        enough &= reached >= wanted
        print(f"{name}: the default has {reached:.3f} (wanted: {wanted})", flush=True)
    if quick:
        return 0
    result |= {"torch": torch.__version__, "hardware": describe_hardware(torch.device("cpu"))}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
