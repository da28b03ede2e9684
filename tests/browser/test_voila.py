"""`make app`: notebook 06's panel as a page for a class, under a real Voila."""

import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from conftest import REPO, _end, _environment
from test_explorer import MODELS, SHOW, redrawn

pytestmark = pytest.mark.browser


def free_port() -> int:
    """Return a port that is free just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def commands(notebook: Path, port: int) -> list[list[str]]:
    """The two commands of the Makefile's `app`, for another notebook and port."""
    recipe = re.search(r"^app: .*\n((?:\t.*\n)+)", (REPO / "Makefile").read_text(), re.M)[1]
    text = recipe.replace("\\\n", " ").replace("$(RUN)", str(Path(sys.executable).parent))
    text = text.replace("$(APP)", str(notebook)).replace("$${PORT:-8866}", str(port))
    return [shlex.split(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def app(page, tmp_path_factory):
    """A page of Voila that shows a notebook with the panel and an exercise."""
    home = tmp_path_factory.mktemp("voila")
    cells = [nbformat.v4.new_code_cell(source) for source in (MODELS, SHOW, "raise ValueError")]
    cells[2].metadata["tags"] = ["exercise", "raises-exception"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, home / "app.ipynb")
    port = free_port()
    prepare, serve = commands(home / "app.ipynb", port)
    subprocess.run(prepare, cwd=home, env=_environment(home), check=True, capture_output=True)
    log = (home / "voila.log").open("wb")
    server = subprocess.Popen(
        serve, cwd=home, env=_environment(home), stdout=log, stderr=log, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and server.poll() is None:
            try:
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                opener.open(f"http://127.0.0.1:{port}/voila/static/style.css", timeout=5)
            except urllib.error.HTTPError:
                break  # it answers
            except OSError:
                time.sleep(0.2)
            else:
                break
        page.set_viewport_size({"width": 1200, "height": 1000})
        page.goto(f"http://127.0.0.1:{port}/", wait_until="domcontentloaded")
        page.locator(".lulc-over").first.wait_for()
        yield page
    finally:
        _end(server)
        log.close()


def test_the_panel_works_under_voila(app, screenshot):
    """A click and a stroke reach the kernel and come back; exercises are not on the page."""
    page, panel = app, app.locator(".lulc-explorer")
    screenshot("voila-first")
    words = page.locator("body").inner_text()
    assert "ValueError" not in words
    assert "error when executing" not in words
    redrawn(page, panel, lambda: panel.locator(".lulc-thumbnail").nth(9).click())
    words = panel.locator(".lulc-caption").inner_text()
    assert "Forest" in words
    box = panel.locator(".lulc-tile").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 90, steps=4)
    redrawn(page, panel, page.mouse.up)
    panel.get_by_text("1 stroke").wait_for()
    screenshot("voila-painted")
