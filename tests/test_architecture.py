"""The house keeps its order: imports point upwards, and each dependency has one owner."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "lulc_lib"

ORDER = (
    "config", "storage", "hardware", "hub", "images", "tiles", "eurosat", "splits", "synthetic",
    "models", "augmentation", "kept", "metrics", "baselines", "checkpoints", "training",
    "quickstart",
    "explanations", "faithfulness", "concepts", "plots", "export", "widgets", "cli",
)  # fmt: skip
OWNERS = {
    "IPython": "plots",
    "PIL": "images",
    "accelerate": "training",
    "anywidget": "widgets",
    "captum": "explanations",
    "huggingface_hub": "hub",
    "ipywidgets": "widgets",
    "matplotlib": "plots",
    "platformdirs": "storage",
    "pytorch_grad_cam": "explanations",
    "safetensors": "checkpoints",
    "sklearn": "baselines and concepts",
    "timm": "models and training",
    "traitlets": "widgets",
}
EVERYONE = {"numpy", "pandas", "torch", "tqdm"}
OUTSIDE = ("__init__", "__main__")  # they stand outside the order


def rooms() -> dict[str, list[Path]]:
    """Return the files of each room: a module, or all modules of a package."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if first not in OUTSIDE:
            found.setdefault(first, []).append(path)
    return found


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all imports, those inside functions and by string too.

    Args:
        tree: the parsed file.
        package: dotted name of the package that the file lies in, for its relative imports.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).split(".")[-1]
            if called in ("import_module", "__import__", "find_spec"):
                yield node.lineno, str(node.args[0].value)


def faults(room: str, source: str, package: str = "lulc_lib") -> list[str]:
    """Return what a file of a room does against the order, one line each."""
    tree = ast.parse(source)
    wrong = []
    for line, name in imported(tree, package):
        root, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if root == "lulc_lib" and target not in (room, "__version__"):
            if target not in ORDER:
                wrong.append(f"line {line}: imports {name}, which is no room of the house")
            elif ORDER.index(target) > ORDER.index(room):
                wrong.append(f"line {line}: imports {target}, which stands below {room}")
        elif root in OWNERS and room not in OWNERS[root].split(" and "):
            wrong.append(f"line {line}: imports {root}, which belongs to {OWNERS[root]}")
        elif root not in {"lulc_lib", *OWNERS, *EVERYONE, *sys.stdlib_module_names}:
            wrong.append(f"line {line}: imports {root}, which nobody declared")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
            wrong.append(f"line {node.lineno}: touches sys.path")
    return wrong


def test_house_is_complete():
    """Every file is a room of the order, and every room of the order is there and has its tests."""
    assert set(rooms()) == set(ORDER)
    untested = [room for room in ORDER if not (REPO / "tests" / f"test_{room}.py").exists()]
    assert untested == []


@pytest.mark.parametrize("room", ORDER)
def test_room_keeps_the_order(room: str):
    """A room imports only from rooms above it, and only dependencies it may import."""
    for path in rooms().get(room, []):
        package = ".".join(path.relative_to(REPO).parent.parts)
        assert faults(room, path.read_text(), package) == [], path.name


@pytest.mark.parametrize(
    ("room", "source", "fault"),
    [
        ("tiles", "from lulc_lib.plots import plot_tiles", "plots, which stands below tiles"),
        ("tiles", "from .plots import plot_tiles", "plots, which stands below tiles"),
        ("tiles", "from lulc_lib import plots", "plots, which stands below tiles"),
        ("tiles", "def f():\n    import lulc_lib.cli", "line 2: imports cli"),
        ("tiles", "import lulc_lib as lulc", "no room of the house"),
        ("tiles", "from lulc_lib import synthetics", "no room of the house"),
        ("tiles", "import importlib\nimportlib.import_module('timm')", "timm, which belongs"),
        ("metrics", "def f():\n    from PIL import Image", "PIL, which belongs to images"),
        ("metrics", "import matplotlib.pyplot as plt", "matplotlib, which belongs to plots"),
        ("metrics", "import sklearn", "sklearn, which belongs to baselines and concepts"),
        ("metrics", "import requests", "requests, which nobody declared"),
        ("metrics", "import sys\nsys.path.append('x')", "touches sys.path"),
    ],
)
def test_checker_finds_offences(room: str, source: str, fault: str):
    """The checker is no rubber stamp: each kind of offence, made up here, is named."""
    assert any(fault in line for line in faults(room, source))


def test_checker_lets_honest_code_pass():
    """Upward imports, own dependencies and the standard library are no offence."""
    honest = (
        "import json\nimport numpy as np\nfrom sklearn.linear_model import Ridge\n"
        "from lulc_lib import __version__\nfrom lulc_lib.tiles import TileSet\n"
    )
    assert faults("baselines", honest) == []
    inside = "from .style import WIDTH\nfrom ..tiles import CLASSES\nimport matplotlib\n"
    assert faults("plots", inside, package="lulc_lib.plots") == []
    assert faults("tiles", "from ..plots import style", package="lulc_lib.tiles") != []


def test_design_page_tells_the_order():
    """The table in docs/design.md names the same rooms, in the same order, with the same owners."""
    page = (REPO / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| `(\w+)(\.py|/)` \|.*\|(.*)\|$", page, flags=re.MULTILINE)
    assert tuple(room for room, _, _ in rows) == ORDER
    for room, kind, _ in rows:
        assert (PACKAGE / room).is_dir() == (kind == "/"), f"is {room} a file or a package?"
    owned: dict[str, str] = {}
    for room, _, cell in rows:
        for name in re.findall(r"`(\w+)`", cell):
            owned[name] = f"{owned[name]} and {room}" if name in owned else room
    assert owned == OWNERS
