"""Measure `lulc demo` with a cold cache, and which batches a processor predicts fastest in.

    python benchmarks/demo.py            # ten minutes on two cores
    python benchmarks/demo.py --quick    # drawn tiles and few rounds: does it run, nothing written

The demo is a process of its own with an empty cache folder: it decodes the tiles, loads the shipped
models, checks their kept predictions on a sample, explains and draws. CPU seconds stand beside the
wall clock's, which on a machine that does other work says little.

Batch sizes of `predict` take turns in one process for each model; the fastest round of each counts.
Rates are tiles for a second of CPU time over all threads, which sleep while they wait: other work
changes that least, and it holds the time in which memory is mapped. The allocator is measured by
processes that take turns, one of them told (GLIBC_TUNABLES) to keep the memory that it has: glibc
otherwise returns large blocks at once and maps them anew.
"""

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from lulc_lib.checkpoints import load_checkpoint
from lulc_lib.hardware import describe_hardware
from lulc_lib.models import create_model
from lulc_lib.predictions import predict
from lulc_lib.storage import processor_cache

RESULTS = Path(__file__).parent / "results" / "demo.json"
WANTED = {"demo_seconds": 120.0, "chosen_over_best": 0.85}
MODELS = ("resnet50", "vit")
SIZES = (4, 8, 16, 32, 64, 128)
KEEPING = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736"


def demo(quick: bool) -> dict[str, float]:
    """Return wall and CPU seconds of the whole command, with an empty cache."""
    few = ["--drawn", "--tiles-per-class", "10", "--epochs", "1"] if quick else []
    with tempfile.TemporaryDirectory(prefix="lulc-bench-") as folder:
        command = [sys.executable, "-m", "lulc_lib", "demo", "--out", str(Path(folder, "out"))]
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, *few], env={**os.environ, "LULC_CACHE": str(Path(folder, "cache"))}
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"lulc demo failed with {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"demo_seconds": time.perf_counter() - start, "demo_cpu_seconds": cpu}


def rates(name: str, sizes: tuple[int | None, ...], count: int, rounds: int) -> dict[str, float]:
    """Return tiles per CPU second of each batch size, the best of rounds in turns.

    Args:
        name: of a shipped model; "small" for one that is made here.
        sizes: what to compare; None as predict chooses.
        count: tiles in a round.
        rounds: after one to warm up.
    """
    model = (
        create_model("resnet10t", image_size=64) if name == "small" else load_checkpoint(name)[0]
    )
    tiles = torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8)
    best = dict.fromkeys(sizes, math.inf)
    for turn in range(rounds + 1):
        for size in sizes:
            for _ in range(2):  # the first time after another size it pays for that one's memory
                start = time.process_time()
                predict(model, tiles, batch_size=size)
            if turn:
                best[size] = min(best[size], time.process_time() - start)
    return {str(size or "chosen"): count / seconds for size, seconds in best.items()}


def alone(name: str, sizes: tuple[int | None, ...], count: int, rounds: int, tunables: str) -> dict:
    """Return `rates` of a fresh process, whose allocator is told `tunables`."""
    os.environ |= {"GLIBC_TUNABLES": tunables, "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(rates, name, sizes, count, rounds).result()


def _words(size: str) -> str:
    return "batches as predict chooses" if size == "chosen" else f"batches of {size}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny, nothing written")
    quick = parser.parse_args().quick
    result = {name: round(value, 1) for name, value in demo(quick).items()}
    print(
        f"lulc demo with a cold cache: {result['demo_seconds']:.0f} s (wanted: at most "
        f"{WANTED['demo_seconds']:.0f} s), {result['demo_cpu_seconds']:.0f} s of CPU time"
    )
    enough = result["demo_seconds"] <= WANTED["demo_seconds"]
    for name in ("small",) if quick else MODELS:
        count, rounds = (8, 1) if quick else (64 if name == "resnet50" else 256, 2)
        sizes = tuple(size for size in SIZES if size <= count)
        found = alone(name, (None, *sizes), count, rounds, "")
        ratio = found["chosen"] / max(found.values())
        enough &= ratio >= WANTED["chosen_over_best"]
        for size, rate in found.items():
            print(f"{name}, {_words(size)}: {rate:.1f} tiles per CPU second", flush=True)
        print(
            f"{name}, as predict chooses over the best: {ratio:.2f} "
            f"(wanted: at least {WANTED['chosen_over_best']:g})"
        )
        kept = [alone(name, (None, 64), count, rounds, KEEPING), found]
        kept += [alone(name, (None, 64), count, rounds, t) for t in (KEEPING, "")]
        allocator = {
            size: max(kept[0][size], kept[2][size]) / max(kept[1][size], kept[3][size])
            for size in (("chosen",) if quick else ("chosen", "64"))
        }
        for size, value in allocator.items():
            print(f"{name}, {_words(size)}, memory kept over returned: {value:.2f}", flush=True)
        result[name] = {
            "tiles_per_cpu_second": {size: round(rate, 1) for size, rate in found.items()},
            "chosen_over_best": round(ratio, 3),
            "memory_kept_over_returned": {size: round(v, 3) for size, v in allocator.items()},
        }
    if not quick:
        result |= {
            "wanted": WANTED,
            "processor": describe_hardware(torch.device("cpu")),
            "processor_cache_mb": (processor_cache() or 0) / 2**20,
            "torch": torch.__version__,
        }
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if enough else 1


if __name__ == "__main__":
    raise SystemExit(main())
