"""Measure the explorer with the shipped models, as a reader meets it.

    python benchmarks/explorer.py            # some minutes on two cores
    python benchmarks/explorer.py --quick    # tiny: does it run at all, nothing written

In the kernel: (a) first picture, from making the explorer with its predictions to the first map;
(b) a tile until all its maps are there, the first time and again; (c) a click on another tile while
occlusion runs, until tile and answers are shown; (d) a stroke of the brush until the ViT's new
probabilities and map are there; (e) a filter over all test tiles; (f) 1,000 random changes of every
field: errors, and memory after each value was met; (g) the page without a kernel: its size with 200
tiles, two models and four methods. In Chromium, where there is one: (h) how long the page takes to
open, and a click until it is drawn where the kernel has nothing to compute. Times are wall clock,
p95 is the 95th percentile. `benchmarks/app.py` measures `make app`.
"""

import argparse
import gc
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from input import get_tiles

from lulc_lib.checkpoints import load_checkpoint
from lulc_lib.export import explain_for_page, gallery_html
from lulc_lib.hardware import processor
from lulc_lib.models import create_model
from lulc_lib.predictions import predict
from lulc_lib.splits import split
from lulc_lib.storage import give_memory_back
from lulc_lib.tiles import CLASSES
from lulc_lib.widgets import Explorer
from lulc_lib.widgets.looking import method_facts
from lulc_lib.widgets.state import (
    ANSWERS,
    FILLS,
    SCALES,
    SIGNS,
    SORTS,
    TARGETS,
    TOOLS,
    State,
    Stroke,
)
from lulc_lib.widgets.stories import STORIES

RESULTS = Path(__file__).parent / "results" / "explorer.json"
KIND = processor().kind
STROKE = 600 if KIND == "AVX2 alone" else 200
METHODS = ("gradcam", "gradcam++", "hirescam", "layercam")
WANTED = {  # milliseconds, but for megabytes and counts
    "first_picture": 5000, "tile_again_p95": 60, "click_while_busy_p95": 300,
    "stroke_p95": STROKE, "filter_p95": 100, "errors": 0, "growth_mb": 50, "page_mb": 15,
    "page_opens": 2000,
    "browser_adds": 100,
}  # fmt: skip


def milliseconds(act: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - start)


def p95(values: list[float]) -> float:
    """Return the 95th percentile."""
    return round(float(np.percentile(values, 95)), 1)


def resident() -> float:
    """Return this process's memory in MB, after what is free was collected and given back."""
    gc.collect()
    give_memory_back()
    return in_use()


def in_use() -> float:
    """Return this process's memory in MB as it is."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def settled(explorer: Explorer, seconds: float = 120) -> None:
    """Wait until all that is looked at is drawn; shared scales may still be made."""
    end = time.perf_counter() + seconds
    while explorer._look.shown["pending"] and time.perf_counter() < end:
        time.sleep(0.002)


def first_picture(models: Any, tiles: Any, predictions: Any) -> Explorer:
    """Make an explorer and wait for its first map."""
    explorer = Explorer(models, tiles, predictions)
    drawn = False
    while not drawn:
        answers = explorer._look.shown["answers"]
        drawn = any("values" in one for answer in answers for one in answer["maps"])
        time.sleep(0.002)
    return explorer


def in_the_kernel(explorer: Explorer, count: int, changes: int) -> dict[str, float]:
    """Measure tiles, clicks while a slow map is computed, filters, and random changes."""
    rng = np.random.default_rng(0)
    names = [explorer.tiles.names[i] for i in rng.permutation(len(explorer.tiles))[:count]]

    def look(name: str) -> None:
        explorer.show(tile=name)
        settled(explorer)

    explorer.show(methods=("gradcam",), tile=names[0])
    explorer.wait()  # the scale is made once
    first = [milliseconds(lambda name=name: look(name)) for name in names[1:]]
    again = [milliseconds(lambda name=name: explorer.show(tile=name)) for name in names]
    explorer.show(methods=("gradcam", "occlusion"))
    clicks = []
    for name in names:
        time.sleep(0.5)  # the slow map is under way
        clicks.append(milliseconds(lambda name=name: explorer.show(tile=name)))
        assert all(one["probabilities"] for one in explorer._look.shown["answers"])
    explorer.show(methods=("gradcam",))
    explorer.wait()
    filters = []
    for label in ("River", "Forest", "all"):
        for asked in ({"answer": "wrong"}, {"answer": "disagree"}, {"sort": "loss"}):
            explorer._clear()
            explorer.state = explorer.state.change(label=label, **asked)
            filters.append(milliseconds(explorer._find))
    explorer._clear()
    found = {"tile_first_p95": p95(first), "tile_again_p95": p95(again)}
    found |= {"click_while_busy_p95": p95(clicks), "filter_p95": p95(filters)}
    return {**found, **random_changes(explorer, rng, changes)}


def strokes(explorer: Explorer, count: int) -> dict[str, float]:
    """Measure strokes of the brush until new probabilities and the map are there."""
    rng = np.random.default_rng(1)
    explorer.show(methods=("gradcam",))
    explorer.wait()
    times = []
    for _ in range(count):
        message = {"kind": "stroke", "points": rng.uniform(8, 56, (6, 2)).tolist(), "done": True}

        def paint(message: dict[str, Any] = message) -> None:
            explorer._on_look(message)
            settled(explorer)

        times.append(milliseconds(paint))
        explorer._on_look({"kind": "act", "name": "next"})
        settled(explorer)
    return {"stroke_p95": p95(times)}


def random_change(
    explorer: Explorer, rng: np.random.Generator, chosen: tuple[str, int] | None = None
) -> None:
    """Change one field of the state to any of its values, by control or by code, or paint.

    Args:
        explorer: what is changed.
        rng: draws field and value, and whether a control or code changes it.
        chosen: name of the field and number of the value, where these are not to be drawn.

    Raises:
        AssertionError: if the panel says something else than that no tile fits or that a model's
            answers are not known yet.
    """
    fields = list(every_value(explorer, rng).items())
    name, values = fields[rng.integers(len(fields))]
    at = rng.integers(len(values))
    if chosen is not None:
        name, at = chosen
        values = dict(fields)[name]
    value = values[at]
    if name in explorer._finder.shown["values"] and rng.random() < 0.5:
        value = list(value) if isinstance(value, tuple) else value  # as it comes from the page
        explorer._on_form({"kind": "set", "name": name, "value": value})
    else:
        explorer.show(**{name: value})
    if rng.random() < 0.2:
        points = rng.uniform(0, 64, (3, 2)).tolist()
        explorer._on_look({"kind": "stroke", "points": points, "done": True})
    problem = explorer._failure
    expected = ("No tile fits", "not known yet", "take from it")
    assert not problem or any(words in problem for words in expected), problem


def every_value(explorer: Explorer, rng: np.random.Generator) -> dict[str, list[Any]]:
    """Return for each field of the state the values to draw from; of numbers, three at random."""
    names, models = list(explorer.tiles.names), list(explorer.models)
    some = [names[i] for i in rng.integers(len(names), size=5)]
    low, high = sorted(rng.uniform(0, 1, 2).tolist())
    methods = list(method_facts())
    chosen = [methods[i] for i in rng.permutation(len(methods))[:3]]
    stroke = Stroke(FILLS[rng.integers(len(FILLS))], 5.0, ((rng.uniform(0, 64), 30.0),))
    swap = Stroke("swap", 5.0, ((30.0, 30.0),), some[0])
    shares = [0.0, 1.0, float(rng.uniform())]
    values = {
        "label": ["all", *CLASSES], "predicted": ["all", *CLASSES], "answer": list(ANSWERS),
        "judge": ["all", *models], "confidence": [(0.0, 1.0), (low, high)],
        "among": [(), tuple(some)], "sort": list(SORTS), "page": [0, 1, 2, 999],
        "tile": some, "methods": [*((one,) for one in methods), tuple(chosen[:2]), tuple(chosen)],
        "target": list(TARGETS), "contrast": ["", *CLASSES],
        "stage": [-1000, -2, -1, 0, 1, 2, 1000], "opacity": shares, "sign": list(SIGNS),
        "scale": list(SCALES), "tool": list(TOOLS), "radius": [0.5, 64.0, 5.0],
        "other": ["", *some], "strokes": [(), (stroke,), (stroke, swap)], "deleted": shares,
        "notes": [(), ((some[0], "a note"),)], "beside": ["", "before", *some],
        "paintings": [(), ((some[1], (stroke,)),)], "story": ["", *STORIES],
        "hidden": [False, True], "guess": ["", "River"],
    }  # fmt: skip
    return {name: values[name] for name in State.__annotations__}


def random_changes(explorer: Explorer, rng: np.random.Generator, count: int) -> dict[str, float]:
    """Change the state, first to every value of every field, in any order, and then at random.

    Returns:
        errors, growth of memory after each value was met, the number of changes, and of the values
        that were met for certain.
    """
    errors, before = 0, 0.0
    every = [(name, at) for name, values in every_value(explorer, rng).items()
             for at in range(len(values))]  # fmt: skip
    every = [every[at] for at in rng.permutation(len(every))]
    for number in range(count):
        if number == min(len(every), count // 2):  # what is loaded once has been loaded
            explorer.wait(60)
            before = resident()
        try:
            random_change(explorer, rng, every[number] if number < len(every) else None)
        except Exception as error:
            print(f"change {number}: {type(error).__name__} {error}", flush=True)
            errors += 1
        explorer.wait(0.2)  # as a reader does; slow maps are passed over
    explorer._work.stop()
    explorer.wait()
    explorer._clear()
    return {"errors": errors, "growth_mb": round(resident() - before, 1), "changes": count,
            "values": min(count, len(every))}  # fmt: skip


def in_the_browser(page_file: Path, browser: str, quick: bool) -> dict[str, float]:
    """Open the page, and click in a real JupyterLab; the explorer there is a small one."""
    code = Path(__file__).parents[1] / "tests" / "browser"
    line = (
        f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(code)!r}]; "
        f"import explorer; explorer.drive({str(page_file)!r}, {browser!r}, {quick})"
    )
    done = subprocess.run(
        [sys.executable, "-c", line], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


CELLS = (
    """\
import lulc_lib as lulc
models = {name: lulc.load_checkpoint(name)[0] for name in ("resnet50", "vit")}
tiles = lulc.split(lulc.load_tiles(), "seed42").test[:60]
preds = {name: lulc.predict(model, tiles) for name, model in models.items()}
explorer = lulc.Explorer(models, tiles, preds)
explorer.show(methods=("gradcam",))""",
    "explorer",
)


def drive(page_file: str, browser: str, quick: bool) -> None:
    """Print, as JSON, how long the page takes to open and what a click takes beyond the kernel."""
    from conftest import BROWSER_FLAGS
    from playwright.sync_api import sync_playwright
    from test_explorer import redrawn

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = playwright.chromium.launch(executable_path=browser, args=BROWSER_FLAGS)
        page = chromium.new_page(viewport={"width": 1200, "height": 1000})
        opens = []
        for _ in range(3):
            start = time.perf_counter()
            page.goto(Path(page_file).as_uri())
            page.locator(".card[data-drawn]").first.wait_for()
            opens.append(1000 * (time.perf_counter() - start))
        found = {"page_opens": round(statistics.median(opens))}
        if not quick:
            found["browser_adds"] = clicks(page, Path(folder), redrawn)
        chromium.close()
    print(json.dumps(found))


def clicks(page: Any, folder: Path, redrawn: Callable[..., None]) -> float:
    """Return the 95th percentile of click to drawn where the kernel computes next to nothing."""
    from conftest import running_lab

    with running_lab(folder) as lab:
        page.goto(lab.write("explorer.ipynb", *CELLS))
        page.set_default_timeout(180_000)
        lab.run_all(page)
        panel = page.locator(".jp-Notebook .jp-Cell").nth(1)
        panel.locator(".lulc-over").first.wait_for()
        thumbs = panel.locator(".lulc-thumbnail")
        for again in (False, True):  # the second time the kernel only looks up what it has
            if again:
                page.evaluate(WATCH)
            for number in range(1, 31):
                redrawn(page, panel, lambda number=number: thumbs.nth(number).click())
        return p95(page.evaluate("window.lulcTimes"))


# From the click's event to the frame after the new picture is drawn.
WATCH = """() => {
    window.lulcTimes = [];
    const look = document.querySelector('.lulc-look');
    let clicked = null;
    document.addEventListener('click', () => { clicked = performance.now(); }, true);
    new MutationObserver(() => requestAnimationFrame(() => {
        if (clicked !== null) window.lulcTimes.push(performance.now() - clicked);
        clicked = null;
    })).observe(look, {attributes: true, attributeFilter: ['data-serial']});
}"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny, nothing written")
    quick = parser.parse_args().quick
    tiles = split(get_tiles(quick), "seed42").test
    if quick:
        torch.manual_seed(0)
        models = {"resnet50": create_model("resnet18", image_size=64).eval()}
        models["vit"] = create_model("vit", depth=1, embed_dim=48).eval()
    else:
        models = {name: load_checkpoint(name)[0] for name in ("resnet50", "vit")}
    predictions = {
        name: predict(model, tiles, features=True, cache=not quick)
        for name, model in models.items()
    }
    result: dict[str, Any] = {"wanted": WANTED, "tiles": len(tiles)}
    start = time.perf_counter()
    explorer = first_picture(models, tiles, predictions)
    result["first_picture"] = round(1000 * (time.perf_counter() - start), 1)
    explorer.wait()
    result |= in_the_kernel(explorer, 5 if quick else 60, 30 if quick else 1000)
    light = Explorer({"vit": models["vit"]}, tiles, {"vit": predictions["vit"]})
    result |= strokes(light, 5 if quick else 60)
    light.close()
    result["kernel_mb"] = round(in_use())
    with tempfile.TemporaryDirectory() as folder:
        shown = tiles[: 5 if quick else 200]
        maps = explain_for_page(models, shown, METHODS, predictions)
        page = gallery_html(shown, maps, Path(folder) / "page.html", predictions)
        result["page_mb"] = round(page.stat().st_size / 1e6, 2)
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser:
            result |= in_the_browser(page, browser, quick)
    short = [k for k, most in WANTED.items() if k in result and result[k] > most]
    for name, most in WANTED.items():
        print(f"{name}: {result.get(name, 'not measured')} (wanted: at most {most})")
    print(f"{result['changes']} changes, {result['values']} values of fields each at least once")
    print(f"the kernel takes {result['kernel_mb']} MB; processor: {KIND}", flush=True)
    if quick:
        return 0
    result |= {"torch": torch.__version__, "threads": torch.get_num_threads(),
               "machine": platform.machine(), "kind": KIND}  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
