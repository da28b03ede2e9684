"""Train the same network at five learning rates, each a tenth of the one before.

    python benchmarks/learning_rates.py                      # what there is, and what was measured
    python benchmarks/learning_rates.py vit                  # all rates; killed, it goes on
    python benchmarks/learning_rates.py resnet50 --rates 1e-3 1e-4 --seed 43

The earlier project compared 1e-5 with 1e-3, 1e-4 and 1e-6 for networks that began with ImageNet's
weights. Here both families begin with random ones, so the best rate may be another. Each training
is short: a third of the training tiles of `seed42` (5,400), 15 epochs, AdamW, cosine, 64 px inside.
Figures are macro-F1 of the last weights on the 5,400 validation tiles; test tiles are never read.
Rows with their curves lie in results/learning_rates.json, validation logits in results/logits/.
Where ImageNet's weights are, the earlier project's own comparison is, for RATE in 1e-3, 1e-4,
1e-5 and 1e-6, `lulc train --preset seed --model resnet50 --pretrained --lr RATE`, and the same
with `--model vit_base`.
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lulc_lib.config import PRECISIONS, RunConfig
from lulc_lib.eurosat import load_eurosat
from lulc_lib.metrics import evaluate
from lulc_lib.models import create_model
from lulc_lib.predictions import Predictions, predict
from lulc_lib.splits import split
from lulc_lib.storage import atomic_write
from lulc_lib.tiles import TileSet
from lulc_lib.training import fit

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "learning_rates.json"
LOGITS = HERE / "results" / "logits"
RUNS = HERE.parent / "outputs" / "learning_rates"
FAMILIES = {"vit": {}, "resnet50": {"image_size": 64}}
RATES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
TILES = 5400  # a third of the training tiles


def config_of(family: str, rate: float, seed: int, precision: str) -> RunConfig:
    """Return the settings of one training: only the rate and the seed differ within a family."""
    return RunConfig(
        model=family, epochs=15, learning_rate=rate, schedule="cosine", warmup_epochs=1.0,
        augment="d4", shift=4, label_smoothing=0.05, precision=precision, clip_norm=1.0, seed=seed,
        channels_last=family == "resnet50", save_every=10,
    )  # fmt: skip


def train(
    name: str, family: str, rate: float, seed: int, precision: str, tiles: TileSet, val: TileSet
) -> dict[str, Any]:
    """Train once, or go on where it was; keep the validation logits and return the row."""
    config = config_of(family, rate, seed, precision)
    torch.manual_seed(seed)
    model = create_model(family, **FAMILIES[family])
    history = fit(model, tiles, None, config, run_dir=RUNS / name, resume=True, progress=False)
    if history.interrupted:
        raise KeyboardInterrupt
    found = predict(model, val, precision=precision)
    keep(name, found)
    report = evaluate(found)
    fastest = min(row["seconds"] for row in history.epochs)
    return {
        "family": family,
        "learning_rate": rate,
        "seed": seed,
        "val_macro_f1": {k: round(v, 4) for k, v in report.macro_f1.to_dict().items()},
        "val_loss": round(float(found.losses.mean()), 4),
        "train_loss": [round(row["train_loss"], 4) for row in history.epochs],
        "train_macro_f1": [round(row["train_macro_f1"], 4) for row in history.epochs],
        "minutes": round(fastest * len(history.epochs) / 60, 1),
        "precision": precision,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {history.hardware}",
    }


def third(train: TileSet) -> TileSet:
    """Return a third of the training tiles: the first of `seed42`, whose order is drawn already.

    The public lists name their tiles class by class, so that theirs are drawn here.
    """
    if train.part == "seed42/train":
        return train[:TILES]
    return train[np.random.default_rng(0).permutation(len(train))[:TILES]]


def keep(name: str, found: Predictions) -> None:
    """Write validation logits (float16) with what they belong to."""
    with atomic_write(LOGITS / f"{name}.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, logits=found.logits.astype(np.float16), labels=found.labels.astype(np.int8),
            facts=np.array(json.dumps({"digest": found.digest, "part": found.part})),
        )  # fmt: skip


def name_of(family: str, rate: float, seed: int) -> str:
    """Return what a training is called."""
    return f"rate-{family}-{rate:.0e}-{seed}"


def measured() -> dict[str, dict[str, Any]]:
    """Return the rows so far, by name."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows as Markdown, families and rates in order."""
    lines = [
        "| network | learning rate | seed | validation macro-F1 | training loss, first and last "
        "epoch | minutes |",
        "|---|---|---|---|---|---|",
    ]
    order = sorted(rows.values(), key=lambda r: (r["family"], -r["learning_rate"], r["seed"]))
    for row in order:
        figure = row["val_macro_f1"]
        losses = row["train_loss"]
        lines.append(
            f"| {row['family']} | {row['learning_rate']:g} | {row['seed']} | "
            f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}] | "
            f"{losses[0]:.2f}, {losses[-1]:.2f} | {row['minutes']:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", nargs="?", choices=list(FAMILIES))
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), metavar="RATE")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--threads", type=int, help="of the processor (default: all)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.family:
        parts = split(load_eurosat(download=False), "seed42")
        for rate in options.rates:
            name = name_of(options.family, rate, options.seed)
            if name in measured():
                continue
            row = train(
                name, options.family, rate, options.seed, options.precision,
                third(parts.train), parts.val,
            )  # fmt: skip
            with atomic_write(RESULTS) as temporary:
                temporary.write_text(json.dumps({**measured(), name: row}, indent=1) + "\n")
            print(f"{name}: {row['val_macro_f1']}", flush=True)
    print(table(measured()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
