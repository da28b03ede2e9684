"""Run the notebooks: in place with their results kept, or under nbval as a test.

`make notebooks` runs this file; `test_notebooks.py` takes its parts. One place decides what a
kernel sees, so that both run the same cells in the same way.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets import Type

from lulc_lib.files import atomic_write

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
OVERWRITTEN = re.compile(r"^.*\r(?=[^\n])", re.MULTILINE)  # a progress bar's earlier states


def notebook_paths() -> list[Path]:
    """Return the notebooks in reading order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells that run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def clean(notebook: NotebookNode) -> NotebookNode:
    """Remove in place what one run leaves behind and another would not repeat.

    Kept are the outputs, the execution counts, and what an author wrote: tags and collapsed cells.
    A widget's view names a model that dies with its kernel; its text stands in for it.
    """
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in ("tags", "jupyter") if key in cell.metadata}
        cell.metadata = nbformat.from_dict(kept)
    for cell in code_cells(notebook):
        cell.outputs = joined(cell.outputs)
        for output in cell.outputs:
            output.get("data", {}).pop(WIDGET_VIEW, None)
            if output.output_type == "stream":
                output.text = OVERWRITTEN.sub("", output.text)
    return notebook


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return outputs with neighbours of one stream as one: how often a kernel flushes is chance."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if kept and "name" in output and output.get("name") == kept[-1].get("name"):
            kept[-1] = nbformat.from_dict({**kept[-1], "text": kept[-1].text + output.text})
        else:
            kept.append(output)
    return kept


def strip(notebook: NotebookNode) -> NotebookNode:
    """Remove in place all outputs and execution counts, so that nbval compares nothing."""
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    return notebook


def kernel_environment(**changes: str) -> dict[str, str]:
    """Return the environment of a kernel: ours, less what would change a notebook's results."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    for name in ("LULC_SMOKE", "MPLBACKEND"):  # a set backend would hide the figures
        kept.pop(name, None)
    for name in ("LULC_EUROSAT", "LULC_CHECKPOINTS", "LULC_CACHE"):  # kernels start in notebooks/
        if kept.get(name):
            kept[name] = str(Path(kept[name]).expanduser().absolute())
    return kept | changes


class ShellChannel(AsyncZMQSocketChannel):
    """A channel that looks again each second for what has come.

    nbclient writes to it while it waits for a reply, wherever a figure has controls. A write takes
    the signal that something came, and a reply that came just before would never be read
    (https://github.com/jupyter/nbclient/issues/312).
    """

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next message; raise `queue.Empty` if none comes in `timeout` seconds."""
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            left = max(0, end - time.monotonic())
            try:
                return await super().get_msg(timeout=min(1, left))
            except Empty:
                if left <= 1:
                    raise


class KernelClient(AsyncKernelClient):
    """A client of a kernel with a `ShellChannel`."""

    shell_channel_class = Type(ShellChannel)


class KernelManager(AsyncKernelManager):
    """A manager whose clients have a `ShellChannel`."""

    client_factory = Type(KernelClient)


def execute_in_place(path: Path) -> None:
    """Run one notebook from top to bottom and keep its outputs; on an error the file stays.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails; the message shows cell and error.
    """
    notebook = strip(nbformat.read(path, as_version=4))
    client = NotebookClient(
        notebook,
        kernel_manager_class=KernelManager,
        kernel_name="python3",
        timeout=None,
        record_timing=False,
        store_widget_state=True,  # nbclient needs it for figures with controls
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env=kernel_environment())
    failed = errors_beside_controls(notebook.metadata.pop("widgets", {}))
    if failed:
        raise ValueError(f"{path.name}: a figure with controls says {failed[0]}")
    nbformat.validate(clean(notebook))
    with atomic_write(path) as temporary:
        nbformat.write(notebook, temporary)


def errors_beside_controls(widgets: dict) -> list[str]:
    """Return the errors that figures with controls told, from a notebook's stored widgets."""
    return [
        line
        for views in widgets.values()
        for one in views["state"].values()
        for output in one["state"].get("outputs", [])
        for line in "".join(output.get("text", "")).splitlines()
        if re.match(r"\w+(Error|Exception): ", line)
    ]


def smoke_copy(path: Path, folder: Path) -> Path:
    """Write a stripped copy of a notebook into a folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / path.name
    nbformat.write(strip(nbformat.read(path, as_version=4)), copy)
    return copy


def run_nbval(
    path: Path, environment: dict[str, str], cell_timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run one notebook under nbval in a pytest of its own, its kernel starting beside it.

    Only cells tagged `nbval-check-output` are compared with the outputs in the file, and only if
    the cell has an execution count; printed decimals may differ by rounding (nbval_rounding.py).
    The settings of our own pytest run stay outside.
    """
    options = ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={cell_timeout:g}"]
    options += ["--color=no", "--tb=short", "-p", "no:cacheprovider"]
    for setting in ("addopts=", "filterwarnings=default", "timeout=0"):
        options += ["-o", setting]
    return subprocess.run(
        [sys.executable, Path(__file__).with_name("nbval_rounding.py"), *options, path.name],
        cwd=path.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def main(wanted: list[str]) -> None:
    """Run the notebooks whose names start with one of the words, or all of them."""
    paths = [path for path in notebook_paths() if path.name.startswith(tuple(wanted) or "")]
    if not paths:
        names = ", ".join(path.stem for path in notebook_paths()) or "none"
        raise SystemExit(f"no notebook starts with {' or '.join(wanted)!r}; there are: {names}")
    for path in paths:
        print(f"{path.stem} ...", end=" ", flush=True)
        start = time.perf_counter()
        execute_in_place(path)
        print(f"{time.perf_counter() - start:.0f} s, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
