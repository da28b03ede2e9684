"""Train from random weights on 5, 10, 50 and 100 tiles of each class, three draws of each.

    python benchmarks/few_labels.py        # what there is, and what was measured
    python benchmarks/few_labels.py train  # about an hour on two AVX2 cores; killed, it goes on

The network is the suite's `vit` at 64 px. Every training takes the same number of steps, AdamW and
cosine, so that only the number of different tiles changes. The colour baseline learns from the very
same tiles. Figures are macro-F1 of the last weights on the 5,400 validation tiles of `seed42`; test
tiles are never read. The draws are of tiles and of weights alike: their spread is what chance does.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lulc_lib.baselines import colour_baseline
from lulc_lib.config import PRECISIONS, RunConfig
from lulc_lib.eurosat import load_eurosat
from lulc_lib.metrics import evaluate
from lulc_lib.models import create_model
from lulc_lib.predictions import Predictions, predict
from lulc_lib.splits import Split, split
from lulc_lib.storage import atomic_write
from lulc_lib.tiles import TileSet
from lulc_lib.training import fit

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "few_labels.json"
RUNS = HERE.parent / "outputs" / "few_labels"
EACH = (5, 10, 50, 100)
DRAWS = (0, 1, 2)
STEPS, BATCH = 600, 32


def drawn(train: TileSet, each: int, draw: int) -> TileSet:
    """Draw so many tiles of each class; a larger number of one draw contains the smaller ones."""
    labels = train.labels.numpy()
    generator = np.random.default_rng(draw)
    orders = [generator.permutation(np.flatnonzero(labels == k)) for k in np.unique(labels)]
    return train[np.sort(np.concatenate([order[:each] for order in orders]))]


def config_of(count: int, draw: int, precision: str) -> RunConfig:
    """Return the settings of a training on `count` tiles: about STEPS steps in whole epochs."""
    batch = min(BATCH, count)
    return RunConfig(
        model="vit", epochs=max(1, STEPS // max(1, count // batch)), batch_size=batch,
        learning_rate=1e-3, schedule="cosine", warmup_epochs=1.0, augment="d4", shift=4,
        label_smoothing=0.05, clip_norm=1.0, precision=precision, seed=draw, save_every=100,
    )  # fmt: skip


def train(each: int, draw: int, precision: str, parts: Split) -> dict[str, Any]:
    """Train once, or go on where it was, and return the row."""
    tiles = drawn(parts.train, each, draw)
    config = config_of(len(tiles), draw, precision)
    torch.manual_seed(draw)
    model = create_model(config.model)
    folder = RUNS / f"{each}-{draw}"
    history = fit(model, tiles, None, config, run_dir=folder, resume=True, progress=False)
    if history.interrupted:
        raise KeyboardInterrupt
    return {
        "each": each,
        "draw": draw,
        "vit": figure(predict(model, parts.val, precision=precision)),
        "colour": figure(colour_baseline(tiles, parts.val)),
        "epochs": config.epochs,
        "precision": precision,
        "torch": torch.__version__,
    }


def figure(found: Predictions) -> dict[str, float]:
    """Return macro-F1 with its interval, rounded."""
    return {key: round(value, 4) for key, value in evaluate(found).macro_f1.to_dict().items()}


def measured() -> dict[str, dict[str, Any]]:
    """Return the rows so far, by name."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return, for each number of tiles, the macro-F1 of each draw as Markdown."""
    lines = ["| tiles of each class | vit, each draw | colour, each draw |", "|---|---|---|"]
    for each in EACH:
        own = [row for row in rows.values() if row["each"] == each]
        cells = [", ".join(f"{row[k]['value']:.3f}" for row in own) for k in ("vit", "colour")]
        lines.append(f"| {each} | {cells[0] or 'not trained yet'} | {cells[1]} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["train"])
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    options = parser.parse_args()
    if options.what:
        parts = split(load_eurosat(download=False), "seed42")
        for draw in DRAWS:
            for each in EACH:
                name = f"{each}-{draw}"
                if name in measured():
                    continue
                row = train(each, draw, options.precision, parts)
                with atomic_write(RESULTS) as temporary:
                    temporary.write_text(json.dumps({**measured(), name: row}, indent=1) + "\n")
                print(f"{name}: vit {row['vit']}, colour {row['colour']}", flush=True)
    print(table(measured()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
