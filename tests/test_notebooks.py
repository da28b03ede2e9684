"""The notebooks run, tell the truth, and are built the same way.

Two questions of each: does it keep to the form; and does it run? Where EuroSAT is, it runs as
committed and must print in its tagged cells what the file says it prints; elsewhere on drawn tiles
(`LULC_SMOKE=1`, a stripped copy, nothing compared).
"""

import ast
import asyncio
import copy
import itertools
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty

import nbformat
import pytest
import zmq
import zmq.asyncio
from jupyter_client.session import Session
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval_rounding import within_rounding
from run_notebooks import (
    METADATA,
    ShellChannel,
    clean,
    code_cells,
    execute_in_place,
    kernel_environment,
    notebook_paths,
    run_nbval,
    smoke_copy,
)

PATHS = notebook_paths()
EXPECTED = (
    "00_start_here", "01_explore_eurosat", "02_train_resnet50", "03_train_vit",
    "04_evaluate_and_compare", "05_explain_with_gradcam", "06_explore_interactively",
    "07_compare_methods", "08_test_the_explanations", "09_when_the_map_lies",
    "10_another_region", "11_rates_and_chance", "12_find_the_errors",
)  # fmt: skip
MAY_IMPORT = {"lulc_lib", "numpy", "torch", "IPython", *sys.stdlib_module_names}
STUB = 'raise NotImplementedError("your code goes here")'  # tells less than any hint
LONGEST_CODE, LONGEST_PROSE, LARGEST = 25, 120, 2**20  # lines, words, bytes
ABSOLUTE = re.compile(
    r"(?<![\w.:/<>~-])/(?:data|home|media|mnt|opt|private|root|srv|tmp|Users|usr|var|work\w*)/"
    r"|\b[A-Z]:\\"
)
TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
EMBEDDED = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def tags(cell: NotebookNode) -> set[str]:
    """Return a cell's tags."""
    return set(cell.metadata.get("tags", []))


def printed(output: NotebookNode) -> str:
    """Return the text of an output, without pictures."""
    parts = [output.get("text", ""), *output.get("traceback", [])]
    parts += [
        "".join(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")
    ]
    return EMBEDDED.sub("", TERMINAL_COLOUR.sub("", "\n".join(parts)))


def form_faults(notebook: NotebookNode) -> list[str]:
    """Return how the opening, the cells' sizes and the metadata depart from the form."""
    wrong = []
    cells = notebook.cells
    opening = "\n".join(cell.source for cell in cells[:2] if cell.cell_type == "markdown")
    if not (cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")):
        wrong.append("the first cell is no title")
    if "?" not in opening:
        wrong.append("the opening asks no question")
    table = "\n".join(line for line in opening.splitlines() if line.lstrip().startswith("|"))
    for word in ("learn", "need", "expected", "minutes"):
        if word not in table.lower():
            wrong.append(f"the opening table has no {word!r}")
    for number, cell in enumerate(cells):
        if cell.cell_type == "code" and len(cell.source.splitlines()) > LONGEST_CODE:
            wrong.append(f"cell {number} has more than {LONGEST_CODE} lines")
        prose = "\n".join(line for line in cell.source.splitlines() if not line.startswith("|"))
        if cell.cell_type == "markdown" and len(prose.split()) > LONGEST_PROSE:
            wrong.append(f"cell {number} has {len(prose.split())} words, more than {LONGEST_PROSE}")
        if set(cell.metadata) - {"tags", "jupyter"}:
            wrong.append(f"cell {number} carries execution noise: {sorted(cell.metadata)}")
    if notebook.metadata != METADATA:
        wrong.append("its metadata are not the kernel and language alone; run `make notebooks`")
    return wrong


def hidden(source: str) -> list[str]:
    """Return calls whose picture is lost: a gallery is shown as the value of a cell alone.

    Functions that a widget calls return theirs.
    """
    tree = ast.parse(source)
    galleries = ("plots.plot_gallery", "plots.plot_maps", "explorer.figure")
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and node is not tree.body[-1]
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in galleries
    ]


def code_faults(notebook: NotebookNode) -> list[str]:
    """Return what the code cells do that a notebook should not, and which tagged cells miss."""
    wrong = []
    importing = set()
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        if re.search(r"^\s*[!%]", cell.source, flags=re.MULTILINE):
            wrong.append(f"cell {number} uses a magic or the shell")
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                importing.add(number)
                names = [alias.name for alias in node.names]
                roots = [node.module] if isinstance(node, ast.ImportFrom) else names
                for root in {str(name).split(".")[0] for name in roots} - MAY_IMPORT:
                    wrong.append(f"cell {number} imports {root}; the library should do that")
                if "*" in names:
                    wrong.append(f"cell {number} imports *")
            elif isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
                wrong.append(f"cell {number} touches sys.path")
        wrong += [f"cell {number} draws a gallery that nothing shows"] * bool(hidden(cell.source))
    if len(importing) != 1:
        wrong.append(f"imports stand in {len(importing)} cells, not in one")
    cells = code_cells(notebook)
    if sum("parameters" in tags(cell) for cell in cells) != 1:
        wrong.append("not exactly one cell is tagged parameters")
    for tag in ("check", "exercise", "nbval-check-output"):
        if not any(tag in tags(cell) for cell in cells):
            wrong.append(f"no cell is tagged {tag}")
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if "exercise" in tags(cell):
            if "raises-exception" not in tags(cell) or STUB not in cell.source:
                wrong.append("an exercise is no stub tagged raises-exception")
            if following is None or "check-exercise" not in tags(following):
                wrong.append("an exercise is not followed by its check")
        if "check-exercise" in tags(cell):
            if following is None or "solution" not in tags(following):
                wrong.append("an exercise is not followed by its solution")
            elif not following.metadata.get("jupyter", {}).get("source_hidden"):
                wrong.append("a solution is not collapsed")
            elif cell.source not in following.source:
                wrong.append("a solution does not call the exercise's check")
    for number, cell in enumerate(cells):
        if "predict" in tags(cell):
            if not re.fullmatch(r"guess = None  # [^\n]+", cell.source):
                wrong.append("a guess is filled in")
            later = itertools.takewhile(
                lambda other: "predict" not in tags(other), cells[number + 1 :]
            )
            if sum("checks.reveal(guess, " in other.source for other in later) != 1:
                wrong.append("a guess is not answered once before the next")
    for before, cell in itertools.pairwise(notebook.cells):
        hints = cell.source.count("<details>") if cell.cell_type == "markdown" else 0
        if "check-exercise" in tags(before) and hints not in (2, 3):
            wrong.append("an exercise's check is not followed by two or three hints, collapsed")
    return wrong


def output_faults(notebook: NotebookNode) -> list[str]:
    """Return what shows that the outputs are not those of one clean run from top to bottom."""
    wrong = []
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        wrong.append(f"execution counts are {counts}; run `make notebooks`")
    for cell in cells:
        texts = [printed(output) for output in cell.outputs]
        if any(ABSOLUTE.search(text) for text in texts):
            wrong.append(f"cell [{cell.execution_count}] prints an absolute path")
        kinds = {output.get("name", output.output_type) for output in cell.outputs}
        if "nbval-check-output" in tags(cell) and kinds != {"stdout"}:
            wrong.append(f"cell [{cell.execution_count}] is compared but holds {sorted(kinds)}")
        if "raises-exception" not in tags(cell) and "error" in kinds:
            wrong.append(f"cell [{cell.execution_count}] holds an error")
    return wrong


def link_faults(notebook: NotebookNode, folder: Path) -> list[str]:
    """Return the links to files that are not there."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    local = [target for target in targets if "://" not in target and ":" not in target]
    return [f"links to {target}, not there" for target in local if not (folder / target).exists()]


def assert_passes(path: Path, environment: dict[str, str], cell_timeout: float) -> None:
    """Run a notebook under nbval; every code cell must pass."""
    done = run_nbval(path, environment, cell_timeout)
    cells = len(code_cells(nbformat.read(path, as_version=4)))
    passed = re.search(r"^=+ (\d+) passed", done.stdout, flags=re.MULTILINE)
    if done.returncode or not passed or int(passed[1]) != cells:
        said = TERMINAL_COLOUR.sub("", done.stdout + done.stderr)
        report = "\n".join(said.splitlines()[-80:])
        pytest.fail(f"{path.name} fails under nbval (exit {done.returncode}):\n{report}", False)


def test_the_story_is_complete():
    """The notebooks of the story are there, in order, each leading to the next."""
    assert set(EXPECTED) <= {path.stem for path in PATHS}
    for path, following in itertools.pairwise(PATHS):
        assert f"({following.name})" in path.read_text(), f"{path.name} does not lead on"


@pytest.mark.parametrize("path", PATHS[2:], ids=lambda path: path.stem)
def test_the_reader_predicts_first(path: Path):
    """From 02 on, each notebook asks for a guess before at least one of its results."""
    assert any("predict" in tags(cell) for cell in nbformat.read(path, as_version=4).cells)


@pytest.mark.parametrize("path", PATHS[2:], ids=lambda path: path.stem)
def test_the_reader_can_vary_something(path: Path):
    """From 02 on, each notebook has a panel or a figure with controls."""
    cells = nbformat.read(path, as_version=4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert re.search(r"\b(Vary|Explorer|Live)\(", source)


@each_notebook
def test_form(path: Path):
    """A notebook keeps to the form in which all are written."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert form_faults(notebook) + code_faults(notebook) + link_faults(notebook, path.parent) == []


@each_notebook
def test_outputs(path: Path):
    """A notebook is committed with the outputs of one run, small enough for a page on the web."""
    assert output_faults(nbformat.read(path, as_version=4)) == []
    assert path.stat().st_size <= LARGEST


@pytest.fixture(scope="session")
def smoke_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that all smoke runs share, of all processes: the small models are trained once."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    return folder / "smoke-cache"


if os.environ.get("LULC_EUROSAT"):  # one of the two: the same cells run in both

    @pytest.mark.slow
    @pytest.mark.notebook
    @pytest.mark.eurosat
    @pytest.mark.timeout(3600)
    @each_notebook
    def test_full(path: Path):
        """A notebook prints in its tagged cells, on EuroSAT, what the committed file says."""
        assert_passes(path, kernel_environment(), cell_timeout=1800)

else:

    @pytest.mark.slow
    @pytest.mark.notebook
    @pytest.mark.timeout(1200)
    @each_notebook
    def test_smoke(path: Path, tmp_path: Path, smoke_cache: Path):
        """A notebook runs without data and network, on drawn tiles and small models."""
        environment = kernel_environment(
            LULC_SMOKE="1", LULC_EUROSAT="", LULC_CACHE=str(smoke_cache)
        )
        assert_passes(smoke_copy(path, tmp_path / "notebooks"), environment, cell_timeout=600)


def sample() -> NotebookNode:
    """Make a small notebook that keeps to the form and was run."""
    table = (
        "| You will learn | You need | Expected result | Minutes |\n|-|-|-|-|\n| a | b | 4 | 1 |"
    )
    cells = [
        new_markdown_cell("# Add two\n\nWhat is two and two?"),
        new_markdown_cell(table),
        new_code_cell("import os", execution_count=1),
        new_code_cell("amount = 2", execution_count=2, metadata={"tags": ["parameters"]}),
        new_code_cell(
            "print(amount + 2)",
            execution_count=3,
            metadata={"tags": ["nbval-check-output"]},
            outputs=[new_output("stream", name="stdout", text="4\n")],
        ),
        new_code_cell("assert amount + 2 == 4", execution_count=4, metadata={"tags": ["check"]}),
        new_code_cell(
            'raise NotImplementedError("your code goes here")',
            execution_count=5,
            metadata={"tags": ["exercise", "raises-exception"]},
        ),
        new_code_cell("print(amount)", execution_count=6, metadata={"tags": ["check-exercise"]}),
        new_markdown_cell("<details>\nAdd.\n</details>\n" * 2),
        new_code_cell(
            "amount *= 2\nprint(amount)",
            execution_count=7,
            metadata={"tags": ["solution"], "jupyter": {"source_hidden": True}},
        ),
    ]
    return new_notebook(cells=cells, metadata=copy.deepcopy(METADATA))


def saved(notebook: NotebookNode, folder: Path) -> Path:
    """Write a notebook into a folder."""
    path = folder / "90_add_two.ipynb"
    nbformat.write(notebook, path)
    return path


def faults(notebook: NotebookNode) -> list[str]:
    """Return all faults of a notebook in memory."""
    return [
        *form_faults(notebook),
        *code_faults(notebook),
        *output_faults(notebook),
        *link_faults(notebook, Path()),
    ]


def test_form_of_sample():
    """The checker finds nothing in a notebook that keeps to the form."""
    assert faults(sample()) == []


def _source(number: int, text: str) -> Callable[[NotebookNode], None]:
    return lambda notebook: setattr(notebook.cells[number], "source", text)


def _asking(text: str) -> Callable[[NotebookNode], None]:
    cell = new_code_cell(text, metadata={"tags": ["predict"]})
    return lambda notebook: notebook.cells.insert(4, cell)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_source(0, "Add two?"), "no title"),
        (_source(0, "# Add two"), "no question"),
        (_source(1, "| learn | need | minutes |"), "no 'expected'"),
        (_source(1, "word " * 121), "121 words"),
        (_source(2, "import os\n" * 26), "more than 25 lines"),
        (_source(2, "!ls"), "the shell"),
        (_source(2, "    %time 1"), "magic"),
        (_source(2, "from os import *"), "imports *"),
        (_source(2, "import sys\nsys.path.append('..')"), "sys.path"),
        (_source(2, "import sklearn.metrics"), "imports sklearn"),
        (_source(3, "import os"), "imports stand in 2 cells"),
        (_source(0, "# Two?\n\n[next](no_such.ipynb)"), "not there"),
        (_source(6, "pass"), "an exercise is no stub"),
        (_source(6, "raise NotImplementedError('use argsort')"), "an exercise is no stub"),
        (_asking("guess = 3  # a number"), "a guess is filled in"),
        (_asking("guess = None  # a number"), "a guess is not answered"),
        (lambda notebook: notebook.cells.pop(7), "not followed by its check"),
        (lambda notebook: notebook.cells.pop(9), "not followed by its solution"),
        (lambda notebook: notebook.cells[9].metadata.pop("jupyter"), "not collapsed"),
        (_source(9, "pass"), "does not call the exercise's check"),
        (_source(8, "Add."), "two or three hints"),
        (lambda notebook: notebook.cells[3].metadata.pop("tags"), "tagged parameters"),
        (lambda notebook: notebook.cells[5].metadata.pop("tags"), "tagged check"),
        (lambda notebook: notebook.cells[2].metadata.update(execution={}), "execution noise"),
        (lambda notebook: notebook.metadata.pop("kernelspec"), "kernel and language"),
        (lambda notebook: notebook.cells[4].update(execution_count=9), "execution counts"),
        (lambda notebook: notebook.cells[4].outputs.clear(), "is compared but holds []"),
        (lambda notebook: notebook.cells[4].outputs[0].update(name="stderr"), "holds ['stderr']"),
        (
            lambda notebook: notebook.cells[4].outputs[0].update(text="in /home/me/data\n"),
            "absolute path",
        ),
        (
            lambda notebook: notebook.cells[2].outputs.append(
                new_output("error", ename="E", evalue="", traceback=[])
            ),
            "holds an error",
        ),
    ],
)
def test_checker_finds_faults(spoil: Callable[[NotebookNode], None], fault: str):
    """The checker can fail: each kind of fault, made up here, is named."""
    notebook = sample()
    spoil(notebook)
    assert any(fault in line for line in faults(notebook)), faults(notebook)


@pytest.mark.notebook
def test_nbval_compares_what_is_committed(tmp_path: Path):
    """A true notebook passes; one whose tagged cell claims another result fails, and says which."""
    assert_passes(saved(sample(), tmp_path), kernel_environment(), cell_timeout=60)
    lying = sample()
    lying.cells[4].outputs[0].text = "5\n"
    with pytest.raises(pytest.fail.Exception, match=r"90_add_two.ipynb fails(.|\n)*Cell 2"):
        assert_passes(saved(lying, tmp_path), kernel_environment(), cell_timeout=60)


@pytest.mark.notebook
def test_nbval_stops_at_a_figure_with_controls_that_fails(tmp_path: Path):
    """What such a figure tells as an error fails the run."""
    notebook = sample()
    draws = "from lulc_lib.widgets import Vary\nVary(lambda n: print(1 / n), n=(0, 1))"
    notebook.cells[5].source = draws
    with pytest.raises(pytest.fail.Exception, match="a figure with controls says ZeroDivisionErr"):
        assert_passes(saved(notebook, tmp_path), kernel_environment(), cell_timeout=60)


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ("F1 0.68, 70 %, 12 of 60", True),
        ("F1 0.69, 71 %, 12 of 60", True),  # one unit in the last place, as another processor may
        ("F1 0.67, 69 %, 12 of 60", True),
        ("F1 0.70, 70 %, 12 of 60", False),
        ("F1 0.68, 72 %, 12 of 60", False),
        ("F1 0.68, 70 %, 13 of 60", False),  # a count is exact
        ("F1 0.680, 70 %, 12 of 60", False),
        ("F1 -0.68, 70 %, 12 of 60", False),
        ("F2 0.68, 70 %, 12 of 60", False),
        ("F1 0.68, 70 %, 12 of 60, 0.1", False),
        ("F1 nan, 70 %, 12 of 60", False),
    ],
)
def test_rounding_alone_may_differ(found: str, same: bool):
    """Decimals one unit apart in their last place count as equal; no other difference does."""
    reference = "F1 0.68, 70 %, 12 of 60"
    assert within_rounding(reference, found) == (reference if same else found)


@pytest.mark.notebook
def test_nbval_takes_a_rounded_neighbour(tmp_path: Path):
    """A figure that lies between two roundings passes under either; two units away it fails."""
    notebook = sample()
    notebook.cells[4].source = "print(f'macro-F1 {amount - 1.316:.2f}')"
    output = notebook.cells[4].outputs[0]
    for claimed, passes in (("0.68", True), ("0.69", True), ("0.66", False)):
        output.text = f"macro-F1 {claimed}\n"
        path = saved(notebook, tmp_path)
        assert (run_nbval(path, kernel_environment(), 60).returncode == 0) == passes


@pytest.mark.notebook
def test_smoke_compares_nothing_but_stops_at_errors(tmp_path: Path):
    """A smoke copy sees LULC_SMOKE, forgets the file's results, and fails where a cell fails."""
    notebook = sample()
    notebook.cells[4].outputs[0].text = "5\n"
    notebook.cells[3].source = "amount = 2\nassert os.environ['LULC_SMOKE'] == '1'"
    path = saved(notebook, tmp_path)
    copied = smoke_copy(path, tmp_path / "copies")
    assert_passes(copied, kernel_environment(LULC_SMOKE="1"), cell_timeout=60)
    with pytest.raises(pytest.fail.Exception, match="KeyError: 'LULC_SMOKE'"):
        assert_passes(copied, kernel_environment(), cell_timeout=60)
    assert nbformat.read(path, as_version=4).cells[4].outputs[0].text == "5\n"


@pytest.mark.notebook
def test_execute_in_place_keeps_a_clean_run(tmp_path: Path):
    """Running in place gives a notebook that keeps to the form; figures stay, noise goes."""
    notebook = sample()
    notebook.cells[4].outputs, notebook.cells[4].execution_count = [], None
    notebook.cells[2].source = "import os\nprint('1 of 2\\r2 of 2')"
    notebook.metadata["widgets"] = {}
    path = saved(notebook, tmp_path)
    execute_in_place(path)
    after = nbformat.read(path, as_version=4)
    assert faults(after) == []
    assert [printed(output) for output in after.cells[4].outputs] == ["4\n"]
    assert [printed(output) for output in after.cells[2].outputs] == ["2 of 2\n"]
    assert "NotImplementedError" in printed(after.cells[6].outputs[0])


@pytest.mark.notebook
def test_execute_in_place_spares_the_file_on_errors(tmp_path: Path):
    """A notebook that fails keeps the outputs it had, and the error shows the cell."""
    notebook = sample()
    notebook.cells[5].source = "assert amount == 3"
    path = saved(notebook, tmp_path)
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="assert amount == 3"):
        execute_in_place(path)
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.parametrize("timeout", [None, 30], ids=["no limit", "30 s"])
def test_shell_channel_reads_what_came_before_it_wrote(timeout: float | None):
    """A reply is not lost to a message that is sent on the same socket while it arrives."""

    async def answer() -> dict:
        session = Session(key=b"of this test alone")
        with zmq.Context() as plain, plain.socket(zmq.ROUTER) as kernel:
            port = kernel.bind_to_random_port("tcp://127.0.0.1")
            context = zmq.asyncio.Context()
            with context, context.socket(zmq.DEALER) as socket:
                socket.connect(f"tcp://127.0.0.1:{port}")
                channel = ShellChannel(socket, session)
                channel.send(session.msg("execute_request"))
                identity = kernel.recv_multipart()[0]
                waiting = asyncio.ensure_future(channel.get_msg(timeout))
                await asyncio.sleep(0.1)
                session.send(kernel, session.msg("execute_reply"), ident=identity)
                time.sleep(0.1)  # the reply arrives while the loop does something else
                channel.send(session.msg("comm_msg"))
                return await asyncio.wait_for(waiting, 20)

    assert asyncio.run(answer())["msg_type"] == "execute_reply"


def test_shell_channel_keeps_to_its_limit():
    """Where nothing comes, it says so when the time is over, be it more or less than a second."""

    async def wait(seconds: float) -> float:
        context = zmq.asyncio.Context()
        with context, context.socket(zmq.DEALER) as socket:
            began = time.monotonic()
            with pytest.raises(Empty):
                await ShellChannel(socket, Session(key=b"")).get_msg(seconds)
            return time.monotonic() - began

    for seconds in (0, 0.2, 1.2):
        assert asyncio.run(wait(seconds)) >= 0.9 * seconds  # clocks and sockets round


@pytest.mark.notebook
def test_execute_in_place_reads_figures_with_controls(tmp_path: Path):
    """An error that such a figure tells, where no output of a cell shows it, stops the run."""
    notebook = sample()
    draw = "from lulc_lib.widgets import Vary\nVary(lambda n: print(1 / n), n={})"
    notebook.cells[5].source = draw.format("(1, 0)")
    path = saved(notebook, tmp_path)
    execute_in_place(path)
    assert "widgets" not in nbformat.read(path, as_version=4).metadata
    notebook.cells[5].source = draw.format("(0, 1)")
    path = saved(notebook, tmp_path)
    with pytest.raises(ValueError, match="a figure with controls says ZeroDivisionError"):
        execute_in_place(path)


def test_clean_removes_widget_views():
    """A widget's view, which names a model that is gone, leaves; its text and pictures stay."""
    notebook = sample()
    data = {"text/plain": "Gallery", "application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    notebook.cells[2].outputs.append(new_output("display_data", data=data))
    assert clean(notebook).cells[2].outputs[0].data == {"text/plain": "Gallery"}


def test_a_gallery_that_nothing_shows_is_a_fault():
    """A gallery is shown as a cell's value alone; what a function returns is its caller's."""
    lost = "if picked:\n    plots.plot_gallery(picked, maps)"
    assert hidden(lost) == ["plots.plot_gallery(picked, maps)"]
    assert hidden("explorer.figure()\nprint('below it')") == ["explorer.figure()"]
    assert hidden("def draw(x):\n    return plots.plot_maps(x, {})\n\n\ndraw(1)") == []
    assert hidden("plots.plot_maps(x, {})") == []
    notebook = sample()
    notebook.cells[2].source = f"import os\n\n{lost}\nprint(2)"
    assert "cell 2 draws a gallery that nothing shows" in code_faults(notebook)


def test_clean_joins_what_a_kernel_flushed_in_parts():
    """Neighbours of one stream become one, a bar's earlier states go; errors stay apart."""
    notebook, texts = sample(), (("stdout", "one\n"), ("stdout", "50 %\r"), ("stdout", "done\n"))
    for name, text in (*texts, ("stderr", "careful\n"), ("stdout", "two\n")):
        notebook.cells[2].outputs.append(new_output("stream", name=name, text=text))
    told = [(one.name, one.text) for one in clean(notebook).cells[2].outputs]
    assert told == [("stdout", "one\ndone\n"), ("stderr", "careful\n"), ("stdout", "two\n")]
