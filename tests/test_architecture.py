"""Imports point to modules above, and each dependency has one owner."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "lulc_lib"

ORDER = (
    "wording", "glossary", "arrays", "files", "config", "storage", "hardware", "hub", "images",
    "tiles", "archive", "decoded", "eurosat", "public_lists", "splits", "drawn_tiles", "weights",
    "running", "attention", "anatomies", "models", "augmentation", "kept", "predictions", "metrics",
    "errors", "baselines", "evidence", "cards", "checkpoints", "training", "quickstart",
    "explanations", "faithfulness", "report_cards", "factors", "checks", "plots", "export", "live",
    "widgets", "cli",
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
    "safetensors": "weights",
    "sklearn": "kept and errors and baselines and factors",
    "timm": "models and training",
    "traitlets": "widgets",
    "wasmtime": "live",
}
EVERYONE = {"numpy", "pandas", "torch", "tqdm"}
OUTSIDE = ("__init__", "__main__")  # they stand outside the order


def modules() -> dict[str, list[Path]]:
    """Return the files of each module: one, or all of a package."""
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


def faults(module: str, source: str, package: str = "lulc_lib") -> list[str]:
    """Return what a file of a module does against the order, one line each."""
    tree = ast.parse(source)
    wrong = []
    for line, name in imported(tree, package):
        root, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if root == "lulc_lib" and target not in (module, "__version__"):
            if target not in ORDER:
                wrong.append(f"line {line}: imports {name}, which is no module of the order")
            elif ORDER.index(target) > ORDER.index(module):
                wrong.append(f"line {line}: imports {target}, which stands below {module}")
        elif root in OWNERS and module not in OWNERS[root].split(" and "):
            wrong.append(f"line {line}: imports {root}, which belongs to {OWNERS[root]}")
        elif root not in {"lulc_lib", *OWNERS, *EVERYONE, *sys.stdlib_module_names}:
            wrong.append(f"line {line}: imports {root}, which nobody declared")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
            wrong.append(f"line {node.lineno}: touches sys.path")
    return wrong


def test_the_order_is_complete():
    """Each module is in the order, and each one of the order is there and has its tests."""
    assert set(modules()) == set(ORDER)
    untested = [module for module in ORDER if not (REPO / "tests" / f"test_{module}.py").exists()]
    assert untested == []


@pytest.mark.parametrize("module", ORDER)
def test_module_keeps_the_order(module: str):
    """A module imports only from modules above it, and only dependencies it may import."""
    for path in modules().get(module, []):
        package = ".".join(path.relative_to(REPO).parent.parts)
        assert faults(module, path.read_text(), package) == [], path.name


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("tiles", "from lulc_lib.plots import plot_tiles", "plots, which stands below tiles"),
        ("tiles", "from .plots import plot_tiles", "plots, which stands below tiles"),
        ("tiles", "from lulc_lib import plots", "plots, which stands below tiles"),
        ("tiles", "def f():\n    import lulc_lib.cli", "line 2: imports cli"),
        ("tiles", "import lulc_lib as lulc", "no module of the order"),
        ("tiles", "from lulc_lib import synthetics", "no module of the order"),
        ("tiles", "import importlib\nimportlib.import_module('timm')", "timm, which belongs"),
        ("metrics", "def f():\n    from PIL import Image", "PIL, which belongs to images"),
        ("metrics", "import matplotlib.pyplot as plt", "matplotlib, which belongs to plots"),
        (
            "metrics",
            "import sklearn",
            "sklearn, which belongs to kept and errors and baselines and factors",
        ),
        ("metrics", "import requests", "requests, which nobody declared"),
        ("metrics", "import sys\nsys.path.append('x')", "touches sys.path"),
    ],
)
def test_checker_finds_offences(module: str, source: str, fault: str):
    """The checker can fail: each kind of offence, made up here, is named."""
    assert any(fault in line for line in faults(module, source))


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
    """The table in docs/design.md names the modules of the order, in it, with the same owners."""
    page = (REPO / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| `(\w+)(\.py|/)` \|.*\|(.*)\|$", page, flags=re.MULTILINE)
    assert tuple(module for module, _, _ in rows) == ORDER
    for module, kind, _ in rows:
        assert (PACKAGE / module).is_dir() == (kind == "/"), f"is {module} a file or a package?"
    owned: dict[str, str] = {}
    for module, _, cell in rows:
        for name in re.findall(r"`(\w+)`", cell):
            owned[name] = f"{owned[name]} and {module}" if name in owned else module
    assert owned == OWNERS
