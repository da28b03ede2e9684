"""The package opens quickly, and works where parts of it are not installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lulc_lib

BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {names}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
"""


def run(code: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_import_is_lazy():
    """`import lulc_lib` brings in no heavy library, not even numpy."""
    heavy = {"torch", "numpy", "pandas", "matplotlib", "timm", "sklearn", "PIL", "IPython"}
    loaded = run("import sys, lulc_lib; print(*{name.split('.')[0] for name in sys.modules})")
    assert set(loaded.split()) & heavy == set()
    assert "numpy" in run("import sys, lulc_lib.tiles; print(*sys.modules)").split()


def test_every_public_name_is_there():
    """All names the package promises can be had from it, and `dir` shows them."""
    for name in lulc_lib.__all__:
        assert getattr(lulc_lib, name) is not None
    assert set(lulc_lib.__all__) <= set(dir(lulc_lib))


@pytest.mark.parametrize(("world", "threads"), [("", 3), ("1", 3), ("2", 1)])
def test_a_fork_changes_only_processes_that_train_together(world, threads):
    """A forked process keeps its number of threads unless it was launched to train with others."""
    code = (
        "import os, torch, lulc_lib\n"
        f"os.environ['WORLD_SIZE'] = {world!r}\n"
        "torch.set_num_threads(3)\n"
        "if os.fork() == 0:\n"
        "    print(torch.get_num_threads(), flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    assert run(code) == str(threads)


def test_no_module_is_named_like_a_public_function():
    """`lulc.synthetic` is a function whichever file was loaded, since no module is called so."""
    modules = {path.stem for path in Path(lulc_lib.__file__).parent.iterdir()}
    assert modules & set(lulc_lib.__all__) <= {"__init__"}


def test_unknown_name_is_an_attribute_error():
    """A name that is not there is refused like any module's, so that hasattr works."""
    assert not hasattr(lulc_lib, "no_such_name")


@pytest.mark.training
def test_training_needs_neither_explanations_nor_widgets():
    """A model trains, predicts and is scored where pytorch_grad_cam and ipywidgets are missing."""
    code = BLOCK.format(names={"pytorch_grad_cam", "ipywidgets", "anywidget", "captum"}) + (
        "import lulc_lib as lulc\n"
        "parts = lulc.split(lulc.synthetic(n_per_class=5), 'seed42')\n"
        "config = lulc.RunConfig(model='resnet18', epochs=1, batch_size=15)\n"
        "model = lulc.create_model('resnet18', image_size=32)\n"
        "history = lulc.fit(model, parts.train, parts.val, config, progress=False)\n"
        "report = lulc.evaluate(lulc.predict(model, parts.test), resamples=10)\n"
        "print(len(history.epochs), report.n)\n"
        "try:\n"
        "    lulc.explain(model, parts.test)\n"
        "except ImportError as error:\n"
        "    print(error.name)\n"
    )
    assert run(code).split() == ["1", "10", "pytorch_grad_cam"]


def test_texts_are_in_plain_words():
    """Code, docs and tests speak of modules, files and readers, in no figure of speech."""
    repo = Path(__file__).parents[1]
    figures = r"\b(rooms?|houses?|hands?|whoever|witness(es)?|rubber stamp)\b"
    plain = r"(?i)(by|left-|right-)\s*hand\b"
    parts = ("lulc_lib", "docs", "tests", "benchmarks")
    paths = [p for part in parts for p in (repo / part).rglob("*")]
    paths = [p for p in paths if p.suffix in (".py", ".md", ".js", ".html", ".css")]
    found = []
    for path in [*paths, repo / "README.md", repo / "CONTRIBUTING.md"]:
        text = re.sub(plain, "", path.read_text(encoding="utf-8"))
        if path != Path(__file__):
            found += [f"{path.name}: {m[0]}" for m in re.finditer(figures, text, re.IGNORECASE)]
    assert found == []
