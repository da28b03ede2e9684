"""Measure how long the quick report card of the light model takes with a cold cache.

    python benchmarks/quick_card.py            # some minutes
    python benchmarks/quick_card.py --quick    # a few tiles: does it run at all, nothing written

`lulc report vit --quick` is a process of its own with an empty cache folder: it decodes the tiles,
loads the model, tests its explanations and prints the table. It runs twice, once with all that the
processor can, and once with AVX2 alone: PyTorch and its libraries are told so by environment
variables. Such a processor is as fast as this one otherwise, which an older one may not be.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lulc_lib.hardware import describe_hardware

RESULTS = Path(__file__).parent / "results" / "quick_card.json"
WANTED = {"seconds": 120.0}
WAYS = {
    "all instructions": {},
    "AVX2 alone": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}


def seconds(variables: dict[str, str], few: list[str]) -> float:
    """Return the seconds of the whole command, told these environment variables."""
    with tempfile.TemporaryDirectory(prefix="lulc-bench-") as folder:
        command = [sys.executable, "-m", "lulc_lib", "report", "vit", "--quick", *few]
        start = time.perf_counter()
        subprocess.run(command, env={**os.environ, **variables, "LULC_CACHE": folder}, check=True)
        return time.perf_counter() - start


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few tiles, nothing written")
    quick = parser.parse_args().quick
    few = ["--drawn", "--n-tiles", "10", "--n-mosaics", "8"] if quick else []
    took = {name: round(seconds(variables, few), 1) for name, variables in WAYS.items()}
    enough = True
    for name, value in took.items():
        enough &= value <= WANTED["seconds"]
        print(f"quick card, {name}: {value:.0f} s (wanted: at most {WANTED['seconds']:.0f} s)")
    if quick:
        return 0
    result = {
        "wanted": WANTED,
        "seconds": took,
        "hardware": describe_hardware(torch.device("cpu")),
        "torch": torch.__version__,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
