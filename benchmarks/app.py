"""Measure `make app`: how long a page takes until it can be used, and the memory that it takes.

    python benchmarks/app.py            # a minute on two cores; needs Chromium and EuroSAT
    python benchmarks/app.py --quick    # drawn tiles and small models, nothing written

Prints the seconds from opening the page to the first map, and the megabytes of its kernel then,
and after a minute of clicks. `app/voila.py` says how many pages may be open by the last.
"""

import argparse
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "app.json"
PROMISED = (ROOT / "app" / "voila.py").read_text()  # what `make app` counts for a page
PAGE_MB = float(re.search(r"^PAGE_MEMORY = ([\d.e]+)", PROMISED, re.MULTILINE)[1]) / 1e6
WANTED = {"usable_s": 30.0, "page_mb": PAGE_MB}


def kernel_megabytes(server: int) -> float:
    """Return the memory of the processes that a server has started, in MB."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == server:
                total += int((folder / "statm").read_text().split()[1])
        except (OSError, ValueError):
            continue
    return round(total * os.sysconf("SC_PAGE_SIZE") / 1e6)


def measured(page: Any, address: str, server: int, clicks: int) -> dict[str, float]:
    """Open the page, click tiles, and return seconds and megabytes."""
    start = time.perf_counter()
    page.goto(address, wait_until="commit", timeout=300_000)
    page.locator(".lulc-over").first.wait_for(timeout=300_000)
    found = {"usable_s": round(time.perf_counter() - start, 1)}
    found["first_mb"] = kernel_megabytes(server)  # more than later: no memory was given back yet
    thumbnails = page.locator(".lulc-thumbnail")
    for number in range(clicks):
        thumbnails.nth(number % thumbnails.count()).click()
        page.wait_for_timeout(1000)
    return {**found, "page_mb": kernel_megabytes(server)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny, nothing written")
    quick = parser.parse_args().quick
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("there is no Chromium here")
        return 0
    from playwright.sync_api import sync_playwright

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environment = os.environ | ({"LULC_SMOKE": "1"} if quick else {})
    command = [sys.executable, "-m", "voila", str(ROOT / "app" / "explorer.ipynb"),
               f"--Voila.config_file_paths={ROOT / 'app'}", "--no-browser",
               "--Voila.ip=127.0.0.1", f"--port={port}"]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            time.sleep(8)
            with sync_playwright() as playwright:
                flags = ["--no-sandbox", "--disable-gpu"]
                chromium = playwright.chromium.launch(executable_path=browser, args=flags)
                page = chromium.new_page(viewport={"width": 1200, "height": 1000})
                address = f"http://127.0.0.1:{port}/"
                found = measured(page, address, server.pid, 3 if quick else 60)
                chromium.close()
        finally:
            server.terminate()
            server.wait(20)
    for name, most in WANTED.items():
        print(f"{name}: {found[name]} (wanted: at most {most:g})")
    print(f"the kernel takes {found['first_mb']} MB when the first map is there", flush=True)
    if not quick:
        found |= {"wanted": WANTED, "machine": platform.machine()}
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    return int(not quick and any(found[name] > most for name, most in WANTED.items()))


if __name__ == "__main__":
    sys.exit(main())
