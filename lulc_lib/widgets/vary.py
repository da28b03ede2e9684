"""A figure with controls: what is drawn anew when a value changes."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets

from lulc_lib.files import one_line
from lulc_lib.plots.style import show_made
from lulc_lib.widgets.cells import close_parts, replace_earlier


class Vary(ipywidgets.interactive):
    """Call a function again whenever one of its arguments is changed by a slider or a list.

    The first value of each argument is taken first. What the function draws or prints stands below
    the controls; an error is told there in one line. Where pages show no controls, call the
    function once more beside it.
    """

    def __init__(self, draw: Callable[..., Any], **choices: Sequence[Any]):
        """Make the controls, and call the function with the first values.

        Args:
            draw: takes each of `choices` by name, and draws or prints; a gallery that it returns
                is shown.
            **choices: for each argument the values to choose from, at least two, the first of which
                is taken first: words make a list, anything else a slider, numbers in order.

        Raises:
            TypeError: if `draw` is no function, takes other arguments, or choices are no sequence.
            ValueError: if there is nothing to choose.
        """
        if not callable(draw):
            raise TypeError(f"draw must be a function, got {draw!r}")
        if not choices:
            raise ValueError("name at least one argument of the function, with its values")
        try:
            inspect.signature(draw).bind(**choices)
        except TypeError as error:
            raise TypeError(f"{_name(draw)} cannot be called with {', '.join(choices)}: {error}"
                            ) from None  # fmt: skip
        controls = {name: _control(name, values) for name, values in choices.items()}
        self._draws = _name(draw)

        def told(**values: Any) -> Any:
            try:
                made = show_made(lambda: draw(**values))
            except Exception as error:
                print(f"{type(error).__name__}: {one_line(str(error))}")
                return None
            return made if hasattr(made, "_ipython_display_") else None

        super().__init__(told, {"auto_display": True}, **controls)
        replace_earlier(self)

    def close(self) -> None:
        """Take the figure and its controls off the page."""
        close_parts(self)
        super().close()

    def __repr__(self) -> str:
        """Say what is drawn, and which arguments can be changed."""
        counts = [f"{len(w.options)} values of {w.description}" for w in self.kwargs_widgets]
        return f"Vary({self._draws}: {', '.join(counts)})"


def _name(draw: Callable[..., Any]) -> str:
    return getattr(draw, "__name__", type(draw).__name__)


def _control(name: str, values: Sequence[Any]) -> ipywidgets.Widget:
    """Return a list for words, else a slider."""
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise TypeError(f"{name} must be a list of values to choose from, got {values!r}")
    found = [value.item() if hasattr(value, "item") else value for value in values]
    if len(found) < 2:
        raise ValueError(f"{name} must have at least two values to choose from, got {found!r}")
    options = [(f"{v:g}" if isinstance(v, float) else str(v), v) for v in found]
    style = {"description_width": "initial"}
    if all(isinstance(value, str) for value in found):
        return ipywidgets.Dropdown(options=options, description=name, style=style)
    if all(isinstance(value, int | float) for value in found):
        options.sort(key=lambda option: option[1])
    return ipywidgets.SelectionSlider(
        options=options, value=found[0], description=name, style=style, continuous_update=False
    )
