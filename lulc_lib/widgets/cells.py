"""Which cell of a notebook runs, and how what it has shown is closed when it runs again."""

import builtins
import weakref
from typing import Any

import ipywidgets

_shown: dict[str, list[tuple[str, weakref.ref]]] = {}  # by cell: its runs and what they made


def running_cell() -> tuple[str, str] | None:
    """Return the ids of the cell that runs and of this run; None where no notebook says them."""
    shell = getattr(builtins, "get_ipython", lambda: None)()
    try:
        parent = shell.get_parent()
        return str(parent["metadata"]["cellId"]), str(parent["header"]["msg_id"])
    except (AttributeError, KeyError, TypeError):
        return None


def replace_earlier(panel: Any) -> None:
    """Close what an earlier run of the cell that runs now has made; remember the new one."""
    where = running_cell()
    if where is None:
        return
    cell, run = where
    same_run = []
    for earlier, made in _shown.get(cell, []):
        old = made()
        if earlier == run:
            same_run.append((earlier, made))
        elif old is not None:
            old.close()
    _shown[cell] = [*same_run, (run, weakref.ref(panel))]


def close_parts(widget: ipywidgets.Widget) -> None:
    """Close all parts of a widget, with their layouts and styles, and its own; it stays open."""
    for part in getattr(widget, "children", ()):
        close_parts(part)
        part.close()
    for name in ("layout", "style"):
        if widget.has_trait(name) and widget.trait_has_value(name):
            getattr(widget, name).close()
