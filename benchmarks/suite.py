"""Measure how long the tests take: `make test` or `make quick`, from lint to the closing line.

    python benchmarks/suite.py test     # a quarter of an hour with fast bfloat16, longer without
    python benchmarks/suite.py quick    # a few minutes
    python benchmarks/suite.py          # what was measured, against the bars; runs nothing

The bars are minutes of a machine that does nothing else, by whether its processor multiplies
bfloat16 in hardware. Failures count as missed.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import torch

from lulc_lib.hardware import describe_hardware, processor

REPO = Path(__file__).parents[1]
RESULTS = REPO / "benchmarks" / "results" / "suite.json"
WANTED_MINUTES = {  # target: with fast bfloat16 (AMX, AVX512-BF16), and without
    "test": {"fast": 25, "slow": 60},
    "quick": {"fast": 3, "slow": 8},
}
SLOWEST = 10


def run(target: str, report: Path) -> tuple[float, float, int]:
    """Run a target of the Makefile; return wall seconds, its processes' CPU seconds, exit code."""
    options = f"{os.environ.get('PYTEST_ADDOPTS', '')} --junitxml={report}"
    before, start = os.times(), time.perf_counter()
    code = subprocess.run(
        ["make", target], cwd=REPO, env={**os.environ, "PYTEST_ADDOPTS": options}, check=False
    ).returncode
    wall, after = time.perf_counter() - start, os.times()
    spent = after.children_user + after.children_system
    return wall, spent - before.children_user - before.children_system, code


def read_report(report: Path) -> dict[str, object]:
    """Return counts, the slowest tests and the notebooks' seconds from pytest's JUnit file."""
    root = ET.parse(report).getroot()
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in root.iter("testsuite"):
        for name in counts:
            counts[name] += int(suite.get(name, "0"))
    took = {
        f"{case.get('classname')}::{case.get('name')}": round(float(case.get("time", "0")), 1)
        for case in root.iter("testcase")
    }
    ranked = sorted(took.items(), key=lambda item: -item[1])
    notebooks = {
        name.partition("[")[2].rstrip("]"): seconds
        for name, seconds in sorted(took.items())
        if "test_notebooks::test_full[" in name or "test_notebooks::test_smoke[" in name
    }
    missed = counts["failures"] + counts["errors"]
    return {
        "passed": counts["tests"] - missed - counts["skipped"],
        "failed": missed,
        "skipped": counts["skipped"],
        "slowest_seconds": dict(ranked[:SLOWEST]),
        "notebook_seconds": notebooks,
    }


def bar(target: str, found: dict[str, object]) -> int:
    """Return the minutes that a measured run may take on its kind of processor."""
    return WANTED_MINUTES[target]["fast" if found["fast_bfloat16"] else "slow"]


def tell(target: str, found: dict[str, object]) -> bool:
    """Print one measured run beside its bar; return whether it holds."""
    most = bar(target, found)
    print(
        f"make {target}: {found['wall_seconds'] / 60:.1f} min (wanted: at most {most}) on "
        f"{found['cores']} cores, {found['processor']}, {found['tiles']}; "
        f"{found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped"
    )
    for name, seconds in found["slowest_seconds"].items():
        print(f"  {seconds:7.1f} s  {name}")
    return not found["failed"] and not found["exit_code"] and found["wall_seconds"] <= 60 * most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", choices=list(WANTED_MINUTES), help="what to run")
    target = parser.parse_args().target
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if target is None:
        if not results:
            print("nothing measured yet; `python benchmarks/suite.py quick` measures `make quick`")
        holds = [tell(name, found) for name, found in results.items()]
        return 0 if holds and all(holds) else 1
    with tempfile.TemporaryDirectory(prefix="lulc-bench-") as folder:
        report = Path(folder, "report.xml")
        wall, spent, code = run(target, report)
        if not report.is_file():
            print(f"make {target} ended with exit code {code} before a test ran")
            return 1
        found = read_report(report)
    here = processor()
    results[target] = {
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(spent, 1),
        "exit_code": code,
        **found,
        "processor": here.kind,
        "fast_bfloat16": here.fast_bfloat16,
        "hardware": describe_hardware(torch.device("cpu")),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "tiles": "EuroSAT" if os.environ.get("LULC_EUROSAT") else "drawn tiles",
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if tell(target, results[target]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
