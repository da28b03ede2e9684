"""A figure with controls: the function is called with what is chosen, and errors are told."""

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest

from lulc_lib.widgets import Vary


def test_a_change_calls_the_function_with_it():
    """First values first; a change of one control calls again with all values; returns nothing."""
    seen = []
    panel = Vary(lambda share, kind: seen.append((share, kind)),
                 share=np.linspace(0, 1, 5), kind=("top", "bottom"))  # fmt: skip
    share, kind = panel.kwargs_widgets
    share.value = 0.5
    kind.value = "bottom"
    assert seen == [(0.0, "top"), (0.5, "top"), (0.5, "bottom")]
    assert share.continuous_update is False
    jumbled = Vary(lambda n: None, n=(2, 1, 3)).kwargs_widgets[0]
    assert jumbled.value == 2
    assert [value for _, value in jumbled.options] == [1, 2, 3]
    assert type(kind).__name__ == "Dropdown"


def test_an_error_is_told_in_one_line(capsys):
    """A value for which the function fails says so, and the next one draws again."""
    panel = Vary(lambda n: print(1 / n), n=(0, 1))
    panel.kwargs_widgets[0].value = 1
    said = capsys.readouterr().out
    assert "ZeroDivisionError: division by zero\n" in said
    assert said.endswith("1.0\n")
    assert "Traceback" not in said


def test_it_says_what_it_is():
    """The text that stands on pages without controls names the function and its arguments."""

    def curve(share, kind):
        """Draw nothing."""

    panel = Vary(curve, share=(0, 1, 2), kind=("a", "b"))
    assert repr(panel) == "Vary(curve: 3 values of share, 2 values of kind)"


@pytest.mark.parametrize(
    ("draw", "choices", "error", "message"),
    [
        (3, {"n": (1, 2)}, TypeError, "draw must be a function, got 3"),
        (print, {}, ValueError, "name at least one argument"),
        (lambda n: n, {"m": (1, 2)}, TypeError, "cannot be called with m"),
        (lambda n: n, {"n": 3}, TypeError, "n must be a list of values to choose from, got 3"),
        (lambda n: n, {"n": "ab"}, TypeError, "n must be a list of values"),
        (lambda n: n, {"n": [1]}, ValueError, r"n must have at least two values .* got \[1\]"),
    ],
)
def test_wrong_arguments_are_named(draw, choices, error, message):
    """What cannot be varied is refused before anything is shown."""
    with pytest.raises(error, match=message):
        Vary(draw, **choices)


def test_close_closes_all_parts():
    """A closed figure leaves no widget behind in the kernel."""
    before = set(ipywidgets.widgets.widget._instances)
    panel = Vary(lambda n, kind: None, n=(1, 2), kind=("a", "b"))
    assert len(set(ipywidgets.widgets.widget._instances) - before) > 7
    panel.close()
    assert set(ipywidgets.widgets.widget._instances) - before == set()


def test_a_figure_is_shown_at_each_change_and_closed(monkeypatch):
    """A moved control shows its figure at once, since no cell ends then; pyplot keeps none."""
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    panel = Vary(lambda n: plt.subplots()[1].set_title(f"{n}"), n=(1, 2))
    panel.kwargs_widgets[0].value = 2
    assert [figure.axes[0].get_title() for figure in shown] == ["1", "2"]
    assert plt.get_fignums() == []

    def broken(n):
        plt.subplots()
        raise ValueError(f"no {n}")

    Vary(broken, n=(1, 2))
    assert len(shown) == 2
    assert plt.get_fignums() == []
