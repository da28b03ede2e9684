"""Score classifiers that see a tile's colours alone, on each split: the floors under every network.

    python benchmarks/colour_floors.py           # what was measured
    python benchmarks/colour_floors.py measure   # some minutes

Each learns from the training part of a split and is scored on its test part, with nothing tuned:
no choice is made here, so the test tiles are read once. `six numbers` are mean and deviation of
each channel (`lulc.colour_baseline`); `histograms` are 16 bins of each channel. None of them knows
where in the tile a pixel lies.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lulc_lib.baselines import colour_features
from lulc_lib.eurosat import load_eurosat
from lulc_lib.metrics import evaluate
from lulc_lib.predictions import Predictions
from lulc_lib.splits import SPLITS, split
from lulc_lib.storage import atomic_write
from lulc_lib.tiles import TileSet

RESULTS = Path(__file__).parent / "results" / "colour_floors.json"
BINS = 16


def histograms(tiles: TileSet) -> np.ndarray:
    """Return the share of each tile's pixels in each bin of each channel, float32 (N, 3 * 16)."""
    bins = (tiles.images.flatten(2) // (256 // BINS)).numpy()  # (N, 3, 4096)
    shares = [(bins == k).mean(axis=2, dtype=np.float32) for k in range(BINS)]
    return np.stack(shares, axis=2).reshape(len(tiles), -1)


def scaled(classifier: Any) -> Any:
    """Return a classifier behind a scaler that brings each number to mean 0 and deviation 1."""
    return make_pipeline(StandardScaler(), classifier)


FLOORS: dict[str, tuple[Callable[[TileSet], np.ndarray], Callable[[], Any]]] = {
    "six numbers, logistic regression": (
        colour_features, lambda: scaled(LogisticRegression(solver="newton-cholesky")),
    ),
    "six numbers, one Gaussian per class": (
        colour_features, lambda: scaled(QuadraticDiscriminantAnalysis()),
    ),
    "six numbers, 5 nearest neighbours": (
        colour_features, lambda: scaled(KNeighborsClassifier(5)),
    ),
    "histograms, logistic regression": (
        histograms, lambda: scaled(LogisticRegression(solver="newton-cholesky")),
    ),
    "histograms, random forest": (
        histograms, lambda: RandomForestClassifier(300, random_state=0),
    ),
}  # fmt: skip


def score(name: str, train: TileSet, test: TileSet) -> dict[str, Any]:
    """Return the figures of one classifier on one split."""
    features, make = FLOORS[name]
    start = time.perf_counter()
    classifier = make().fit(features(train), train.labels.numpy())
    chances = classifier.predict_proba(features(test))
    found = Predictions(
        np.log(np.maximum(chances, 1e-12)).astype(np.float32), test.labels.numpy(), test.names
    )
    report = evaluate(found)
    figures = {"macro_f1": report.macro_f1, "accuracy": report.accuracy}
    row = {key: {k: round(v, 4) for k, v in one.to_dict().items()} for key, one in figures.items()}
    return {**row, "n": len(test), "seconds": round(time.perf_counter() - start, 1)}


def measure() -> dict[str, dict[str, Any]]:
    """Score every classifier on every split that has a training and a test part."""
    tiles, rows = load_eurosat(download=False), {}
    for name in SPLITS:
        parts = split(tiles, name)
        rows[name] = {floor: score(floor, parts.train, parts.test) for floor in FLOORS}
        print(f"{name}: done", flush=True)
    return rows


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return macro-F1 with its 95 % interval as Markdown, a classifier a row, a split a column."""
    lines = ["| colour alone | " + " | ".join(rows) + " |", "|---|" + "---|" * len(rows)]
    for floor in FLOORS:
        cells = [rows[name][floor]["macro_f1"] for name in rows]
        said = [f"{c['value']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" for c in cells]
        lines.append(f"| {floor} | " + " | ".join(said) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["measure"])
    if parser.parse_args().what:
        rows = measure()
        with atomic_write(RESULTS) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n")
    if not RESULTS.is_file():
        print("nothing was measured yet; python benchmarks/colour_floors.py measure")
        return 1
    print(table(json.loads(RESULTS.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
