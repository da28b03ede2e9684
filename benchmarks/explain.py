"""Measure what a Grad-CAM costs beside a plain forward pass, as ratios taken in one run.

    python benchmarks/explain.py            # under a minute on two cores
    python benchmarks/explain.py --quick    # a few tiles: does it run at all

Both ways see the same tiles in the same batches and take turns; the median of the rounds counts.
What is left to pay is the gradient of the layers above the map's layer: almost nothing in a
ResNet, one block of nine in the compact ViT.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lulc_lib.explanations import explain
from lulc_lib.models import TileClassifier, create_model

RESULTS = Path(__file__).parent / "results" / "explain.json"
CASES = (("resnet50", 224, 16), ("resnet50", 64, 64), ("vit", 64, 64))  # model, size, tiles


def rates(ways: dict[str, Callable[[], object]], count: int, rounds: int) -> dict[str, float]:
    """Return tiles/s of each way: one round to warm up, then rounds in turns, the median."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: count / statistics.median(times) for name, times in seconds.items()}


def plain(model: TileClassifier, tiles: torch.Tensor, precision: str) -> torch.Tensor:
    enabled = precision == "bfloat16"
    with torch.inference_mode(), torch.autocast(tiles.device.type, torch.bfloat16, enabled=enabled):
        return model(tiles)


def measure(name: str, size: int, count: int, precision: str, rounds: int) -> dict[str, object]:
    torch.manual_seed(0)
    model = create_model(name, image_size=size).eval()
    tiles = torch.rand(count, 3, 64, 64)
    ways = {
        "forward": lambda: plain(model, tiles, precision),
        "gradcam": lambda: explain(model, tiles, "gradcam", precision=precision, batch_size=count),
    }
    found = rates(ways, count, rounds)
    return {
        "model": name,
        "image_size": size,
        "precision": precision,
        "batch": count,
        **{f"{way}_tiles_per_second": round(rate, 2) for way, rate in found.items()},
        "ratio": round(found["gradcam"] / found["forward"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few tiles, nothing written")
    quick = parser.parse_args().quick
    rows = []
    for name, size, count in CASES:
        for precision in ("float32", "bfloat16"):
            if quick:
                size, count = 64, 4
            row = measure(name, size, count, precision, rounds=2 if quick else 5)
            rows.append(row)
            print(
                f"{name} at {size} px, {precision}: explain(gradcam) runs at {row['ratio']:.2f} of "
                "the rate of a plain forward pass"
            )
    if not quick:
        machine = {"threads": torch.get_num_threads(), "machine": platform.machine()}
        result = {"torch": torch.__version__, **machine, "rows": rows}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
