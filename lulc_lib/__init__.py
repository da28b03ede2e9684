"""Learn by doing what a land-cover classifier looks at on EuroSAT.

Names are loaded when they are first used (PEP 562, SPEC 1), so that `import lulc_lib` brings in
neither torch nor matplotlib.
"""

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "CLASSES": "tiles",
    "CLASS_COLORS": "tiles",
    "Explanation": "explanations",
    "Explorer": "widgets",
    "History": "config",
    "Live": "widgets",
    "Predictions": "predictions",
    "Report": "metrics",
    "ReportCard": "evidence",
    "RunConfig": "config",
    "TileClassifier": "models",
    "TileSet": "tiles",
    "anatomy": "anatomies",
    "colour_baseline": "baselines",
    "concepts": "factors",
    "create_model": "models",
    "compare": "metrics",
    "evaluate": "metrics",
    "explain": "explanations",
    "fit": "training",
    "layers": "explanations",
    "load_checkpoint": "checkpoints",
    "load_eurosat": "eurosat",
    "load_tiles": "quickstart",
    "methods": "explanations",
    "predict": "predictions",
    "ready_model": "quickstart",
    "report_card": "report_cards",
    "save_checkpoint": "checkpoints",
    "save_predictions": "checkpoints",
    "split": "splits",
    "synthetic": "drawn_tiles",
}
_MODULES = (
    "anatomies", "archive", "arrays", "attention", "augmentation", "baselines", "cards",
    "checkpoints", "checks", "cli", "config", "decoded", "drawn_tiles", "errors", "eurosat",
    "evidence", "explanations", "export", "factors", "faithfulness", "files", "glossary",
    "hardware", "hub", "images", "kept", "live", "metrics", "models", "plots", "predictions",
    "public_lists", "quickstart", "report_cards", "running", "splits", "storage", "tiles",
    "training", "weights", "widgets", "wording",
)  # fmt: skip
__all__ = [*_HOME, "__version__"]  # noqa: PLE0604


def _use_one_thread() -> None:
    """Ask torch, where it is loaded, for one thread, in a process launched to train with others.

    The threads that a parent has made do not survive a fork, and OpenMP would wait for them for
    ever: so do the processes that accelerate's `notebook_launcher` forks off a notebook's kernel.
    It says how many there are in WORLD_SIZE. Other forks are left as they are.
    """
    launched = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
    if launched and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)
_processes = sys.modules.get("multiprocessing.process")  # loaded in whatever it forked
if _processes is not None and _processes.parent_process() is not None:  # before our import
    _use_one_thread()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"lulc_lib.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"lulc_lib.{name}")
    else:
        raise AttributeError(f"module 'lulc_lib' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
