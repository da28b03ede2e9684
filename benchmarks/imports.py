"""Measure how long a start takes: `import lulc_lib`, `lulc --help`, and the tiles.

    python benchmarks/imports.py            # half a minute
    python benchmarks/imports.py --quick    # three rounds: does it run at all, nothing written

The import is what a process that runs `import lulc_lib` takes beyond one that runs `pass`; both
start in turns. `lulc --help` is the whole command, interpreter included. Both are medians over
fresh processes. EuroSAT, decoded before, is loaded five times in one process, and 200 tiles are
drawn on one core: medians of seconds, the drawing's for 1,000 tiles.
"""

import argparse
import contextlib
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "imports.json"
WANTED = {
    "import_seconds": 0.15,
    "help_seconds": 0.5,
    "decoded_tiles_seconds": 1.0,  # left out where EuroSAT is not
    "drawing_seconds": 10.0,
}
COMMANDS = {
    "bare": [sys.executable, "-c", "pass"],
    "import": [sys.executable, "-c", "import lulc_lib"],
    "help": [str(Path(sys.executable).with_name("lulc")), "--help"],
}
HEAVY = ("torch", "numpy", "matplotlib", "timm", "PIL")


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def tiles_seconds(rounds: int) -> dict[str, float]:
    """Return the seconds to load decoded tiles, where there are any, and to draw 1,000."""
    from lulc_lib.drawn_tiles import synthetic
    from lulc_lib.eurosat import DataUnavailableError, load_eurosat

    def median(way: Callable[[], object], clock: Callable[[], float]) -> float:
        way()  # decodes, or imports what is needed
        took = []
        for _ in range(rounds):
            start = clock()
            way()
            took.append(clock() - start)
        return statistics.median(took)

    found = {"drawing_seconds": round(5 * median(lambda: synthetic(20), time.process_time), 3)}
    with contextlib.suppress(DataUnavailableError):
        took = median(lambda: load_eurosat(download=False), time.perf_counter)
        found["decoded_tiles_seconds"] = round(took, 3)
    return found


def loaded(command: list[str]) -> list[str]:
    """Return which heavy packages a Python command brings in."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *command], check=True, capture_output=True, text=True
    )
    names = {line.rsplit("|", 1)[-1].strip() for line in run.stderr.splitlines()}
    return [name for name in HEAVY if name in names]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rounds, nothing written")
    quick = parser.parse_args().quick
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(4 if quick else 31):
        for name, command in COMMANDS.items():
            took = seconds(command)
            if turn:  # the first round warms the file cache
                times[name].append(took)
    median = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "import_seconds": round(median["import"] - median["bare"], 3),
        "help_seconds": round(median["help"], 3),
        "bare_python_seconds": round(median["bare"], 3),
        **tiles_seconds(1 if quick else 5),
        "rounds": len(times["bare"]),
        "heavy_packages_loaded": loaded(["-c", "import lulc_lib"])
        + loaded(["-m", "lulc_lib", "--help"]),
        "wanted": WANTED,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(
        f"import lulc_lib: {result['import_seconds']:.3f} s beyond bare Python's "
        f"{result['bare_python_seconds']:.3f} s (wanted: at most {WANTED['import_seconds']} s)"
    )
    print(
        f"lulc --help: {result['help_seconds']:.3f} s (wanted: at most {WANTED['help_seconds']} s)"
    )
    for name, what in (("decoded_tiles_seconds", "EuroSAT, decoded before"),
                       ("drawing_seconds", "1,000 drawn tiles")):  # fmt: skip
        if name in result:
            print(f"{what}: {result[name]:.3f} s (wanted: at most {WANTED[name]} s)")
    print(f"heavy packages loaded: {', '.join(result['heavy_packages_loaded']) or 'none'}")
    if not quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    missed = [name for name, most in WANTED.items() if result.get(name, 0) > most]
    return 1 if missed and not quick else 0


if __name__ == "__main__":
    raise SystemExit(main())
