"""Measure training, as ratios taken in one run.

    python benchmarks/training.py            # about ten minutes on two cores
    python benchmarks/training.py --quick    # tiny: does it run at all, nothing written
    python benchmarks/training.py --shipped vit_spatial    # (b) alone, for some checkpoints

(a) Images/s of `lulc.fit` (bfloat16, channels last, large batches, tiles in memory) over those of
the earlier project's loop at 224 px: float32, batches of 16, a JPEG file per image opened by
torchvision's ImageFolder in 2 workers, AdamW. Both in turns, the fastest round of each counts.
(b) The shipped models: seconds of an epoch at each size and run, with its validation, when nothing
else runs; and from these and the cards' histories, the minutes until each validation macro-F1.
(c) A training step of the compact ViT in bfloat16 with PyTorch's fused attention over the same with
`PlainAttention`.
(d) A training step of ResNet50 in bfloat16 with glibc's allocator as it is over the same with its
large blocks kept (docs/scaling.md).
(e) Two processes against one: validation macro-F1 after a few epochs, of the ViT, whose
history must not change, and of ResNet50, whose BatchNorm sees half the batch.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parent))
from input import get_tiles, write_jpegs

from lulc_lib.attention import PlainAttention
from lulc_lib.cards import Card
from lulc_lib.checkpoints import available_checkpoints, read_card
from lulc_lib.config import RunConfig
from lulc_lib.models import TileClassifier, create_model
from lulc_lib.predictions import predict
from lulc_lib.splits import split
from lulc_lib.tiles import TileSet
from lulc_lib.training import fit

RESULTS = Path(__file__).parent / "results" / "training.json"
WANTED = {"resnet50": 2.5, "vit_base": 3.0}
LEVELS = (0.95, 0.97, 0.98, 0.988)  # of validation macro-F1
TRAINED, VALIDATED = 16_200, 5_400  # tiles of seed42
KEPT_BLOCKS = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736"


def earlier_rate(tiles: TileSet, network: nn.Module, steps: int) -> float:
    """Return images/s of the earlier project's loop, on `steps` batches of 16."""
    with tempfile.TemporaryDirectory(prefix="lulc-bench-") as folder:
        write_jpegs(tiles[: 16 * (steps + 1)], Path(folder))
        ways = transforms.Compose([
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ])  # fmt: skip
        data = torchvision.datasets.ImageFolder(folder, ways)
        loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True, num_workers=2)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, weight_decay=2.0)
        network.train()
        fastest = float("inf")
        batches = iter(loader)
        for turn in range(steps + 1):
            start = time.perf_counter()
            images, labels = next(batches)
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()
            if turn:  # the first one also makes what the others reuse
                fastest = min(fastest, time.perf_counter() - start)
    return 16 / fastest


def our_rate(tiles: TileSet, model: TileClassifier, batch: int, steps: int) -> float:
    """Return images/s of `fit` on `steps` batches: the faster one of two epochs."""
    config = RunConfig(
        model=model.name, epochs=2, batch_size=batch, augment="flip", precision="bfloat16",
        channels_last=True, schedule="constant", warmup_epochs=0,
    )  # fmt: skip
    history = fit(model, tiles[: batch * steps], None, config, progress=False)
    return max(row["images_per_second"] for row in history.epochs)


def compare(tiles: TileSet, name: str, quick: bool) -> dict[str, float]:
    """Run both loops in turns."""
    small = {"depth": 1, "embed_dim": 48, "num_heads": 3} if name == "vit_base" else {}
    rates: dict[str, list[float]] = {"earlier": [], "ours": []}
    for _ in range(1 if quick else 2):
        torch.manual_seed(0)
        model = create_model(name, **(small if quick else {}))
        rates["earlier"].append(earlier_rate(tiles, model.network, 1 if quick else 4))
        rates["ours"].append(our_rate(tiles, model, 4 if quick else 32, 1 if quick else 2))
    best = {way: round(max(values), 2) for way, values in rates.items()}
    return {**best, "ratio": round(best["ours"] / best["earlier"], 2)}


def shipped_cost(card: Card, tiles: TileSet, quick: bool) -> dict[str, Any]:
    """Return what a shipped model's training takes when nothing else runs, from its card.

    A few steps of each of its runs, at each size, give the seconds of an epoch; the history says
    which epoch first had which validation macro-F1. Validations count.
    """
    stages, seconds = card.stages(), {}
    for number, stage in enumerate(stages):
        for size in [size for _, size in stage.sizes] or [card.model["image_size"]]:
            torch.manual_seed(0)
            model = create_model(stage.model, image_size=size)
            config = replace(stage, sizes=(), epochs=2, warmup_epochs=0.0, teacher="", distill=0.0)
            some = tiles[: stage.batch_size * (1 if quick else 6)]
            history = fit(model, some, None, config, progress=False)
            training = TRAINED / max(row["images_per_second"] for row in history.epochs)
            views = 2 if stage.ema else 1
            seconds[number, size] = training + views * asking(model, stage, some, VALIDATED)
    passed = 0.0
    owners = [number for number, stage in enumerate(stages) for _ in range(stage.epochs)]
    reached: dict[str, float | None] = dict.fromkeys(map(str, LEVELS))
    for owner, row in zip(owners, card.history["epochs"], strict=True):
        passed += seconds[owner, int(row["size"])]
        for level in LEVELS:
            if row["val_macro_f1"] >= level and reached[str(level)] is None:
                reached[str(level)] = round(passed / 60, 1)
    epochs = {f"run {n + 1}, {size} px": round(s, 1) for (n, size), s in seconds.items()}
    return {"epoch_seconds": epochs, "minutes_to": reached, "minutes": round(passed / 60, 1)}


def told_cost(name: str, tiles: TileSet, quick: bool) -> dict[str, Any]:
    """Return `shipped_cost` of a checkpoint, and print it."""
    row = shipped_cost(read_card(name), tiles, quick)
    reached = [f"{level} after {minutes}" for level, minutes in row["minutes_to"].items()
               if minutes is not None]  # fmt: skip
    print(f"{name}: an epoch of 16,200 tiles with its validation takes, in seconds, "
          f"{row['epoch_seconds']}; validation macro-F1 {', '.join(reached) or 'lower'}; "
          f"{row['minutes']} minutes in all", flush=True)  # fmt: skip
    return row


def asking(model: TileClassifier, config: RunConfig, tiles: TileSet, count: int) -> float:
    """Return the seconds in which a model predicts `count` tiles, from some of them."""
    predict(model, tiles[:8], precision=config.precision)
    start = time.perf_counter()
    predict(model, tiles, precision=config.precision)
    return (time.perf_counter() - start) / len(tiles) * count


def step_seconds(name: str, mode: Callable[[], object], batch: int, rounds: int) -> float:
    """Return the fastest training step of a model at 64 px in bfloat16."""
    torch.manual_seed(0)
    model = create_model(name, image_size=64).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images, labels = torch.rand(batch, 3, 64, 64), torch.randint(0, 10, (batch,))
    fastest = float("inf")
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with mode(), torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)),
                                   labels)  # fmt: skip
        with mode():
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def allocator_ratio(rounds: int) -> float:
    """Return how much longer a step takes with the allocator as it is, each in its own process."""
    line = f"import training; print(training.step_seconds('resnet50', training.bare, 64, {rounds}))"
    found = []
    for tunables in ("", KEPT_BLOCKS):
        done = subprocess.run(
            [sys.executable, "-c", line], cwd=Path(__file__).parent, check=True, text=True,
            capture_output=True, env={**os.environ, "GLIBC_TUNABLES": tunables},
        )  # fmt: skip
        found.append(float(done.stdout))
    return found[0] / found[1]


bare = contextlib.nullcontext
TWO = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from training import few_epochs
figure = few_epochs(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
if int(os.environ.get("RANK", 0)) == 0:
    print("figure", figure, flush=True)
"""


def few_epochs(name: str, count: int, epochs: int) -> float:
    """Return validation macro-F1 after a short training on `count` tiles."""
    parts = split(get_tiles(count < 500), "seed42")
    torch.manual_seed(0)
    model = create_model(name, image_size=64)
    config = RunConfig(
        model=name, epochs=epochs, batch_size=min(128, count), learning_rate=1e-3,
        precision="bfloat16", channels_last=True,
    )  # fmt: skip
    history = fit(model, parts.train[:count], parts.val[:1000], config, progress=False)
    return history.epochs[-1]["val_macro_f1"]


def compare_processes(name: str, count: int, epochs: int) -> dict[str, float]:
    """Return the validation macro-F1 of one process and of two."""
    with tempfile.TemporaryDirectory(prefix="lulc-bench-") as folder:
        script = Path(folder) / "two.py"
        script.write_text(TWO)
        words = [str(script), str(Path(__file__).parent), name, str(count), str(epochs)]
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        found = {}
        for key, start, threads in (("one", [], "2"), ("two", launcher, "1")):
            done = subprocess.run(
                [sys.executable, *start, *words], capture_output=True, text=True, check=True,
                env={**os.environ, "OMP_NUM_THREADS": threads},
            )  # fmt: skip
            found[key] = round(float(done.stdout.split("figure")[1]), 4)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny, nothing written")
    parser.add_argument("--shipped", nargs="+", metavar="NAME", help="(b) alone, for these")
    options = parser.parse_args()
    quick = options.quick
    tiles = get_tiles(quick)
    if options.shipped:
        costs = {name: told_cost(name, tiles, quick) for name in options.shipped}
        if not quick:
            known = json.loads(RESULTS.read_text())
            known["shipped"] |= costs
            RESULTS.write_text(json.dumps(known, indent=2) + "\n")
        return 0
    result: dict[str, object] = {"wanted": WANTED, "tiles": tiles.source}
    enough = True
    for name, wanted in WANTED.items():
        row = compare(tiles, name, quick)
        result[name] = row
        enough &= row["ratio"] >= wanted
        print(
            f"{name} at 224 px: {row['ours']:.1f} images/s, {row['ratio']:.2f} times the "
            f"{row['earlier']:.1f} of the earlier loop (wanted: {wanted})",
            flush=True,
        )
    result["shipped"] = {name: told_cost(name, tiles, quick) for name in available_checkpoints()}
    batch, rounds = (4, 1) if quick else (128, 6)
    fused = step_seconds("vit", bare, batch, rounds)
    plain = step_seconds("vit", PlainAttention, batch, rounds)
    result["fused_over_plain_attention"] = round(fused / plain, 2)
    print(f"a step of the vit in bfloat16 takes {fused / plain:.2f} times as long with fused "
          "attention", flush=True)  # fmt: skip
    result["allocator"] = round(allocator_ratio(1 if quick else 8), 2)
    print(f"a step of resnet50 takes {result['allocator']:.2f} times as long with the allocator "
          "as it is", flush=True)  # fmt: skip
    result["processes"] = {}
    for name in ("vit", "resnet50"):
        row = compare_processes(name, 40 if quick else 3200, 1 if quick else 4)
        result["processes"][name] = row
        print(f"{name}, validation macro-F1 after a short training: {row['one']:.4f} in one "
              f"process, {row['two']:.4f} in two", flush=True)  # fmt: skip
    if quick:
        return 0
    result |= {"torch": torch.__version__, "threads": torch.get_num_threads(),
               "machine": platform.machine()}  # fmt: skip
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
