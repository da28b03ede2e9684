"""The tests themselves: none asserts a time, and several processes share them."""

import ast
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

REPO = Path(__file__).parents[1]
_TIME = ("perf_counter", "monotonic", "process_time", "thread_time", "time")
CLOCKS = {
    "time": {*_TIME, *(f"{name}_ns" for name in _TIME)},
    "os": {"times"},
    "timeit": {"default_timer", "timeit", "repeat"},
    "datetime": {"datetime.now", "datetime.utcnow"},
}
SETTINGS = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
MARKERS = {line.split(":")[0] for line in SETTINGS["markers"]}


def clock_functions(tree: ast.AST) -> set[str]:
    """Return what a file calls its clocks: "time.time", "perf_counter" or an alias of either."""
    called: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                clocks = CLOCKS.get(alias.name, set())
                called |= {f"{alias.asname or alias.name}.{clock}" for clock in clocks}
        elif isinstance(node, ast.ImportFrom) and node.module in CLOCKS:
            clocks = CLOCKS[node.module]
            called |= {alias.asname or alias.name for alias in node.names if alias.name in clocks}
            called |= _members(node, clocks)
    while True:  # tick = time.perf_counter
        more = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and ast.unparse(node.value) in called
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        if more <= called:
            return called
        called |= more


def _members(node: ast.ImportFrom, clocks: set[str]) -> set[str]:
    """Return the clocks that are methods of an imported class, such as "datetime.now"."""
    names = {alias.name: alias.asname or alias.name for alias in node.names}
    pairs = (clock.split(".") for clock in clocks if "." in clock)
    return {f"{names[owner]}.{method}" for owner, method in pairs if owner in names}


def clock_names(tree: ast.AST, clocks: set[str]) -> set[str]:
    """Return the variables that come, by any number of steps, from a clock."""
    named: set[str] = set()
    while True:
        more = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign | ast.AugAssign | ast.NamedExpr)
            and reads_clock(node.value, named, clocks)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        if more <= named:
            return named
        named |= more


def reads_clock(tree: ast.AST, named: set[str], clocks: set[str]) -> bool:
    """Tell whether an expression calls a clock, or uses a variable that came of one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in named:
            return True
        if isinstance(node, ast.Call) and ast.unparse(node.func) in clocks:
            return True
    return False


def timed_assertions(source: str) -> list[int]:
    """Return the lines of the assertions that compare a time."""
    tree = ast.parse(source)
    clocks = clock_functions(tree)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return sorted(
        {
            node.lineno
            for function in functions
            for node in ast.walk(function)
            if isinstance(node, ast.Assert)
            and reads_clock(node.test, clock_names(function, clocks), clocks)
        }
    )


@pytest.mark.parametrize("path", sorted((REPO / "tests").rglob("*.py")), ids=lambda path: path.stem)
def test_no_test_asserts_a_time(path: Path):
    """How long something takes depends on what else the machine does; benchmarks measure it."""
    assert timed_assertions(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("imported", "lines"),
    [
        ("import time", "start = time.monotonic()\n    assert time.monotonic() - start < 5"),
        ("import time", "start = time.perf_counter()\n    took = start - 1\n    assert took < 5"),
        ("import os", "before = os.times()\n    spent = before.user\n    assert spent <= 2, 'x'"),
        ("from time import perf_counter", "assert perf_counter() < 5"),
        ("from time import monotonic as now", "start = now()\n    assert now() - start < 5"),
        ("from os import times", "spent = times().user\n    spent -= 1\n    assert spent <= 2"),
        ("import time as clock", "assert clock.process_time() < 5"),
        ("import time", "tick = time.perf_counter\n    assert tick() < 5"),
        ("import time", "assert time.perf_counter_ns() < 5e9"),
        ("import time", "if took := time.time():\n        assert took < 5"),
        ("from timeit import default_timer", "assert default_timer() < 5"),
        ("import datetime", "assert datetime.datetime.now().year < 5"),
        ("from datetime import datetime", "assert datetime.now().year < 5"),
    ],
)
def test_an_assertion_of_time_is_found(imported: str, lines: str):
    """The search can fail: it finds each way to assert a time, however the clock is called."""
    assert len(timed_assertions(f"{imported}\n\ndef test():\n    {lines}\n")) == 1


@pytest.mark.parametrize(
    "lines",
    [
        "end = time.time() + 9\n    assert found",
        "assert perf_counter() < 5",  # not imported: some other function
        "assert row.time() and card.times",
    ],
)
def test_other_assertions_pass(lines: str):
    """A clock beside an assertion, and other things of the same name, are none."""
    assert timed_assertions(f"import time\n\ndef test():\n    {lines}\n") == []


def test_quick_leaves_out_what_is_slow():
    """`make quick` names declared markers, all of those that mark what takes long."""
    recipe = re.search(r"^quick: lint.*\n\t.*-m \"not \((.*)\)\"$", _makefile(), re.M)
    assert set(recipe[1].split(" or ")) == MARKERS - {"eurosat"}


def test_both_targets_spread_the_tests():
    """`make test` and `make quick` run in as many processes as there are cores, up to four."""
    assert len(re.findall(r"^\t\$\(RUN\)/python -m pytest -n auto", _makefile(), re.M)) == 2


def test_the_number_of_processes_follows_cores_and_memory(plugin, monkeypatch):
    """One process for each core, at most four, fewer in little memory, and never none."""
    for cores, gib, processes in ((1, 99, 1), (2, 99, 2), (16, 99, 4), (16, 7, 2), (2, 1, 1)):
        monkeypatch.setattr(plugin, "CORES", cores)
        monkeypatch.setattr("lulc_lib.storage.free_memory", lambda gib=gib: gib * 2**30)
        assert plugin.pytest_xdist_auto_num_workers() == processes
    monkeypatch.setattr("lulc_lib.storage.free_memory", lambda: None)
    assert plugin.pytest_xdist_auto_num_workers() == 2


def test_what_takes_longest_starts_first(plugin, monkeypatch):
    """Notebooks, then the browser, then what is slow; the rest keeps its order."""

    def item(name: str, *marks: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, get_closest_marker={m: m for m in marks}.get)

    items = [item("a"), item("b", "slow"), item("c", "browser"), item("d", "slow", "notebook")]
    items.append(item("e"))
    monkeypatch.setattr(plugin, "WORKER", False)
    plugin.pytest_collection_modifyitems(items)
    assert "".join(one.name for one in items) == "abcde"
    monkeypatch.setattr(plugin, "WORKER", True)
    plugin.pytest_collection_modifyitems(items)
    assert "".join(one.name for one in items) == "dcbae"


def test_a_browser_file_stays_in_one_process(plugin):
    """Tests that share a JupyterLab stay together; the others go one by one."""
    asked = SimpleNamespace(getoption=lambda name: "loadfile", option=SimpleNamespace())
    assert plugin.pytest_xdist_make_scheduler(asked, None) is None
    unit = plugin.unit_of
    assert unit("tests/browser/test_page.py::test_x[1]") == "tests/browser/test_page.py"
    assert unit("tests/test_tiles.py::test_x[1]") == "tests/test_tiles.py::test_x[1]"


@pytest.fixture
def plugin(request: pytest.FixtureRequest):
    """tests/conftest.py as pytest has loaded it."""
    path = str(REPO / "tests" / "conftest.py")
    plugins = request.config.pluginmanager.get_plugins()
    return next(one for one in plugins if getattr(one, "__file__", None) == path)


def _makefile() -> str:
    return (REPO / "Makefile").read_text(encoding="utf-8")
