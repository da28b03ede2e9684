"""The tests themselves: none asserts a time, and several processes share them."""

import ast
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

REPO = Path(__file__).parents[1]
CLOCKS = {"perf_counter", "monotonic", "process_time", "thread_time", "time", "times"}
SETTINGS = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
MARKERS = {line.split(":")[0] for line in SETTINGS["markers"]}


def clock_names(tree: ast.AST) -> set[str]:
    """Return the variables that come, by any number of steps, from a clock."""
    named: set[str] = set()
    while True:
        more = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign | ast.AugAssign) and reads_clock(node.value, named)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        if more <= named:
            return named
        named |= more


def reads_clock(tree: ast.AST, named: set[str]) -> bool:
    """Tell whether an expression calls a clock, or uses a variable that came of one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in named:
            return True
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if called and node.func.attr in CLOCKS and ast.unparse(node.func.value) in ("time", "os"):
            return True
    return False


def timed_assertions(source: str) -> list[int]:
    """Return the lines of the assertions that compare a time."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return sorted(
        {
            node.lineno
            for function in functions
            for node in ast.walk(function)
            if isinstance(node, ast.Assert) and reads_clock(node.test, clock_names(function))
        }
    )


@pytest.mark.parametrize("path", sorted((REPO / "tests").rglob("*.py")), ids=lambda path: path.stem)
def test_no_test_asserts_a_time(path: Path):
    """How long something takes depends on what else the machine does; benchmarks measure it."""
    assert timed_assertions(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "lines",
    [
        "start = time.monotonic()\n    assert time.monotonic() - start < 5",
        "start = time.perf_counter()\n    took = start - 1\n    assert took < 5",
        "before = os.times()\n    spent = before.user\n    spent -= 1\n    assert spent <= 2, 'x'",
    ],
)
def test_an_assertion_of_time_is_found(lines: str):
    """The search can fail: it finds each way in which a time was asserted here."""
    assert len(timed_assertions(f"def test():\n    {lines}\n")) == 1
    assert timed_assertions("def test():\n    end = time.time() + 9\n    assert found\n") == []


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
