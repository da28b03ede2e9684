"""A real JupyterLab on localhost and a real Chromium, for the tests of what a reader can click."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

REPO = Path(__file__).resolve().parents[2]
ARTEFACTS = REPO / "outputs" / "browser"
TOKEN = "of-these-tests-alone"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# The sandbox needs rights that containers lack; the rest keeps the browser from calling anyone.
BROWSER_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab and the folder that it serves."""

    url: str
    folder: Path

    def write(self, name: str, *cells: str) -> str:
        """Write a notebook of code cells and return the address that opens it."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        # Without a kernel's name a dialog that asks for one covers the page.
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
        }
        nbformat.write(notebook, self.folder / name)
        return f"{self.url}lab/tree/{name}?token={TOKEN}&reset"

    def run_all(self, page: Any, wait: bool = True) -> None:
        """Wait until the kernel of the open notebook is ready, then run all cells."""
        page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady")
        page.wait_for_function(
            "jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'"
        )
        run = "jupyterapp.commands.execute('notebook:run-all-cells')"
        page.evaluate(run if wait else f"void {run}")

    def toggle_files(self, page: Any) -> None:
        """Fold the list of files away, or open it."""
        page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")

    def errors(self, page: Any) -> list[str]:
        """Return what the cells of the open notebook wrote as errors and to stderr."""
        kinds = ("error", "stderr")
        chosen = ", ".join(f'[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in kinds)
        return page.locator(chosen).all_inner_texts()

    def kernels(self) -> list[str]:
        """Return the ids of the kernels that run."""
        return [kernel["id"] for kernel in json.loads(_ask(f"{self.url}api/kernels"))]

    def end_kernels(self) -> None:
        """End all kernels, so that none outlives the server."""
        for kernel in self.kernels():
            _ask(f"{self.url}api/kernels/{kernel}", "DELETE")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; without one, a skip with a word, and under CI=true a failure."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        lack = "there is no Chromium here: apt install chromium"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(f"{lack} (CI must not skip the tests in a browser)")
        pytest.skip(lack)
    return found


@contextlib.contextmanager
def running_lab(home: Path) -> Iterator[Lab]:
    """Run a JupyterLab with settings, caches and notebooks of its own; end it with its kernels."""
    folder, runtime = home / "notebooks", home / "runtime"
    folder.mkdir()
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0",
               f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={TOKEN}",
               "--LabApp.news_url=", "--LabApp.expose_app_in_browser=True",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    log = (home / "lab.log").open("wb")
    server = subprocess.Popen(command, cwd=folder, env=_environment(home), stdout=log, stderr=log,
                              start_new_session=True)  # fmt: skip
    try:
        lab = Lab(_address(server, runtime, home / "lab.log"), folder)
        yield lab
        lab.end_kernels()
    finally:
        _end(server)
        log.close()


@pytest.fixture(scope="session")
def lab(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A running JupyterLab."""
    with running_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="module")
def page(chromium: str) -> Iterator[Any]:
    """An empty page, 1200 x 1000 px, of a new browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER_FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(120_000)  # for machines that do other work as well
        yield page
        browser.close()


@pytest.fixture(scope="module")
def screenshot(page: Any) -> Callable[[str], Path]:
    """Keep what the page shows as outputs/browser/NAME.png, to be looked at."""

    def keep(name: str) -> Path:
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        page.screenshot(path=path)
        return path

    return keep


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Keep what the page shows when a test fails."""
    report = yield
    if report.failed and call.when == "call" and "screenshot" in getattr(item, "funcargs", {}):
        item.funcargs["screenshot"](f"failed-{item.name}")
    return report


def _environment(home: Path) -> dict[str, str]:
    """Return an environment in which nothing of the user's settings is read or written."""
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
        "LULC_CACHE": "cache",
    }
    kept = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    kept |= {name: str(home / folder) for name, folder in own.items()}
    return kept | {"JUPYTER_NO_CONFIG": "", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}


def _address(server: subprocess.Popen, runtime: Path, log: Path) -> str:
    """Wait until the server answers and return its address, which ends in a slash."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        for file in runtime.glob(f"jpserver-{server.pid}.json"):
            try:
                url = json.loads(file.read_text())["url"].replace("localhost", "127.0.0.1")
                _ask(f"{url}api/status")
            except (OSError, ValueError):
                continue
            return url
        time.sleep(0.1)
    said = log.read_text(errors="replace")[-3000:]
    pytest.fail(f"JupyterLab did not start (exit code {server.poll()}); it said:\n{said}")


def _ask(url: str, method: str = "GET") -> bytes:
    request = urllib.request.Request(
        url, method=method, headers={"Authorization": f"token {TOKEN}"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=20) as answer:
        return answer.read()


def _end(server: subprocess.Popen) -> None:
    """End the server; kernels that it may have left notice and end themselves."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if server.poll() is None:
            os.killpg(server.pid, sign)
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                continue
