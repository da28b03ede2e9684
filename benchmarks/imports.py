"""Measure how long `import lulc_lib` and `lulc --help` take: medians over fresh processes.

    python benchmarks/imports.py            # half a minute
    python benchmarks/imports.py --quick    # three rounds: does it run at all, nothing written

The import is what a process that runs `import lulc_lib` takes beyond one that runs `pass`; both
start in turns. `lulc --help` is the whole command, interpreter included.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "imports.json"
WANTED = {"import_seconds": 0.15, "help_seconds": 0.5}
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
    print(f"heavy packages loaded: {', '.join(result['heavy_packages_loaded']) or 'none'}")
    if not quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    missed = [name for name, most in WANTED.items() if result[name] > most]
    return 1 if missed and not quick else 0


if __name__ == "__main__":
    raise SystemExit(main())
