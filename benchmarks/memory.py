"""Measure the peak memory of `lulc evaluate` over all tiles, beyond what torch itself takes.

    python benchmarks/memory.py [NAME]      # a minute or more: every tile through resnet50
    python benchmarks/memory.py --quick     # 300 drawn tiles and an untrained model

Each process is a fresh one; its peak is the resident set that the kernel reports when it ends. The
cache of decoded tiles is kept, that of predictions is a fresh folder, so that the model does run.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "memory.json"
WANTED_GIB = 2.5
# Makes a checkpoint to evaluate where none is shipped: memory does not ask how good a model is.
UNTRAINED = """
import sys, lulc_lib as lulc
lulc.save_checkpoint(lulc.create_model(sys.argv[1], image_size=64), None, sys.argv[2])
"""
# The tiles are decoded before, so that the decoder's memory is not counted.
DECODE = "import lulc_lib as lulc; lulc.load_eurosat()"


def peak_gib(command: list[str], **environment: str) -> float:
    """Return the peak resident memory of one process, this parent being far smaller."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... failed with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes here
    return usage.ru_maxrss * unit / 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="resnet50", help="a checkpoint (resnet50)")
    parser.add_argument("--quick", action="store_true", help="drawn tiles, nothing written")
    options = parser.parse_args()
    lulc = str(Path(sys.executable).with_name("lulc"))
    torch = peak_gib([sys.executable, "-c", "import torch"])
    with tempfile.TemporaryDirectory(prefix="lulc-bench-") as folder:
        shipped = Path(__file__).parents[1] / "checkpoints" / f"{options.name}.safetensors"
        name, made = options.name, not shipped.is_file()
        tiles = ["--drawn", "--tiles-per-class", "30"] if options.quick else []
        if options.quick or made:
            name = str(Path(folder, "untrained"))
            model = "resnet18" if options.quick else options.name
            subprocess.run([sys.executable, "-c", UNTRAINED, model, name], check=True)
        if not options.quick:
            subprocess.run([sys.executable, "-c", DECODE], check=True)
        cache = _linked_cache(Path(folder))
        evaluate = [lulc, "evaluate", name, "--part", "all", "--allow-training-tiles", *tiles]
        peak = peak_gib(evaluate, LULC_CACHE=cache)
    result = {
        "torch_gib": round(torch, 3),
        "evaluate_gib": round(peak, 3),
        "beyond_torch_gib": round(peak - torch, 3),
        "wanted_gib": WANTED_GIB,
        "model": name if not made else f"{options.name} (untrained, 64 px)",
        "tiles": "300 drawn" if options.quick else "all of EuroSAT",
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(
        f"lulc evaluate over {result['tiles']} tiles: {result['beyond_torch_gib']:.2f} GiB beyond "
        f"torch's own {torch:.2f} GiB (wanted: at most {WANTED_GIB} GiB)"
    )
    if not options.quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if result["beyond_torch_gib"] > WANTED_GIB else 0


def _linked_cache(folder: Path) -> str:
    """Return a cache folder with the decoded tiles of the real one and nothing else."""
    from lulc_lib.storage import cache_dir  # NumPy, no torch: this parent stays small

    decoded = cache_dir() / "eurosat"
    cache = folder / "cache"
    cache.mkdir()
    if decoded.is_dir():
        (cache / "eurosat").symlink_to(decoded)
    return str(cache)


if __name__ == "__main__":
    raise SystemExit(main())
