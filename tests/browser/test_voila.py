"""`make app`: the explorer as a page for a class, under a real Voila, with one page at most."""

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


def command(notebook: Path, port: int) -> list[str]:
    """The command of the Makefile's `app`, for another notebook and port."""
    recipe = re.search(r"^app: .*\n((?:\t.*\n)+)", (REPO / "Makefile").read_text(), re.M)[1]
    text = recipe.replace("\\\n", " ").replace("$(RUN)", str(Path(sys.executable).parent))
    text = text.replace("$(APP)", str(notebook)).replace("$${PORT:-8866}", str(port))
    text = text.replace("config_file_paths=app", f"config_file_paths={REPO / 'app'}")
    return shlex.split(text)


@pytest.fixture(scope="module")
def app(page, tmp_path_factory):
    """A page of Voila that shows a notebook with the panel."""
    home = tmp_path_factory.mktemp("voila")
    cells = [nbformat.v4.new_code_cell(source) for source in (MODELS, SHOW)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, home / "app.ipynb")
    port = free_port()
    serve = command(home / "app.ipynb", port)
    serve += [
        "--MappingKernelManager.cull_idle_timeout=15",
        "--MappingKernelManager.cull_interval=2",
    ]
    log = (home / "voila.log").open("wb")
    server = subprocess.Popen(
        serve, cwd=home, env=_environment(home) | {"LULC_PAGES": "1"}, stdout=log, stderr=log,
        start_new_session=True,
    )  # fmt: skip
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
    """A click and a stroke reach the kernel and come back."""
    page, panel = app, app.locator(".lulc-explorer")
    screenshot("voila-first")
    assert "error when executing" not in page.locator("body").inner_text()
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


def test_one_page_too_many_is_refused_in_words(app, screenshot):
    """Where all pages that fit are open, another says so; a closed page gives its place back."""
    second = app.context.browser.new_page()
    second.set_default_timeout(120_000)
    second.goto(app.url, wait_until="domcontentloaded")
    words = second.locator("body").inner_text()
    assert "All pages that this computer has memory for are open (1)" in words
    assert second.locator(".lulc-over").count() == 0
    address = app.url
    app.goto("about:blank")  # its kernel ends when nobody has been connected for a while
    for _ in range(30):
        second.wait_for_timeout(2000)
        second.reload(wait_until="domcontentloaded")
        if "All pages" not in second.locator("body").inner_text():
            break
    second.locator(".lulc-over").first.wait_for()
    assert "#view=" in address  # the link carries the view: this tile, and what was painted on it
    second.get_by_text("1 stroke").wait_for()
    assert "Forest" in second.locator(".lulc-caption").inner_text()
    second.close()
