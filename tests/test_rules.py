"""Every rule passes a sound notebook and stops a broken one."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import rules
from nbformat import v4

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)
SET_UP = """\
import os
import numpy as np

rng = np.random.default_rng(1234)
plt.rcParams.update({"figure.dpi": 100, "figure.constrained_layout.use": True})
print("NumPy", np.__version__)"""
SETTINGS = """\
SMOKE_TEST = os.environ.get("SMOKE_TEST") == "1"  # CI: a few steps
num_steps = 2 if SMOKE_TEST else 200  # enough for three digits
# the largest that does not diverge
learning_rate = 0.1
batch_size = 8  # a handful"""
FUNCTION = '''\
def halve(x: np.ndarray) -> np.ndarray:
    """Half of `x`, of any shape."""
    half = x / 2
    return half'''
CHECK = """\
assert halve(np.ones(2)).sum() == 1
assert np.isfinite(halve(np.ones(2))).all()
assert halve(np.zeros(1)) == 0
print("checks passed")"""


def text(source: str) -> nbformat.NotebookNode:
    return v4.new_markdown_cell(source)


def code(source: str, count: int, *outputs: nbformat.NotebookNode):
    return v4.new_code_cell(source, execution_count=count, outputs=list(outputs))


def sound() -> nbformat.NotebookNode:
    """A notebook that keeps all the rules."""
    printed = v4.new_output("stream", name="stdout", text="0.4996 after 1,234 steps\n")
    figure = v4.new_output("display_data", data={"image/png": PIXEL})
    cells = [
        text(
            "# 1.2 Halving\n\nIt halves a number. It mirrors the book's section on it."
            "\n\n| result | hardware | target |\n|---|---|---|\n"
            f"{ROW}"
        ),
        code(SET_UP, 1),
        text("## Settings\n\nOne number decides how long it takes, the rest is fixed."),
        code(SETTINGS, 2),
        text("Half of a number is the number divided by two, as this cell computes."),
        code(FUNCTION, 3, figure),
        text("The same once more."),
        code(FUNCTION, 4, figure),
        text("## Check"),
        code(CHECK, 5, printed),
    ]
    cells.append(
        text(
            "## Notes\n\n**Different from the book.** Nothing is.\n\n"
            "**Not taken.** A third.\n\n**Try.** A quarter of the same number."
        )
    )
    nb = v4.new_notebook(cells=cells)
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    return nb


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository around one notebook: its requirements and the pages that list it."""
    (tmp_path / "ch01_ml_overview").mkdir()
    (tmp_path / "requirements.txt").write_text("numpy==2.4.6\n")
    (tmp_path / "README.md").write_text("[1.2](ch01_ml_overview/02_halving.ipynb)")
    (tmp_path / "ch01_ml_overview/README.md").write_text("[1.2](02_halving.ipynb)")
    return tmp_path


def complaints(
    root: Path,
    nb: nbformat.NotebookNode,
    name: str = "02_halving",
    chapter: str = "ch01_ml_overview",
) -> dict:
    """The rules that complain about a notebook, with their messages."""
    path = root / chapter / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nb, path)
    checked = rules.Notebook(path, root)
    found = {rule.__name__: rule(checked) for rule in rules.RULES}
    return {rule: problems for rule, problems in found.items() if problems}


def test_sound_notebook_passes(repository: Path) -> None:
    assert complaints(repository, sound()) == {}


def replace(cell: int, old: str, new: str) -> Callable:
    """A defect: another text in a cell."""

    def apply(nb: nbformat.NotebookNode) -> None:
        assert old in nb.cells[cell].source
        nb.cells[cell].source = nb.cells[cell].source.replace(old, new)

    return apply


def output(cell: int, kind: str, **content) -> Callable:
    """A defect: one more output of a cell."""

    def apply(nb: nbformat.NotebookNode) -> None:
        nb.cells[cell].outputs.append(v4.new_output(kind, **content))

    return apply


ROW = "| 0.5 after 1,234 steps | 2 CPU cores | 0.7 |"
SET, KNOBS, BODY, LAST_CODE, NOTES = 1, 3, 5, -2, -1
BACKEND = 'os.environ["KERAS_BACKEND"] = "tensorflow"'
FIGURE_CELLS = 5, 7
ERROR = {"ename": "ValueError", "evalue": "no", "traceback": []}
WIDGET = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
DEFECTS = [
    ("valid", "kernelspec", lambda nb: nb.metadata.kernelspec.update(name="julia")),
    ("valid", "jupytext", lambda nb: nb.metadata.update(jupytext={})),
    ("valid", "timings", lambda nb: nb.cells[SET].metadata.update(execution={})),
    ("valid", "not valid", lambda nb: nb.cells[SET].metadata.update(tags="x")),
    ("valid", "not under 1", output(5, "stream", name="stdout", text="x" * 1_000_000)),
    ("title", "begin the first cell", replace(0, "# 1.2", "# 1.3")),
    (
        "title",
        "0 rows",
        replace(0, ROW, ""),
    ),
    ("title", "part of the book", replace(0, "the book's section", "a section")),
    (
        "set_up",
        "seed in the set-up",
        replace(SET, "default_rng(1234)", "default_rng()"),
    ),
    ("set_up", "print the versions", replace(SET, "np.__version__", "'2'")),
    ("set_up", "straight after the title", lambda nb: nb.cells.insert(1, text("Now:"))),
    ("set_up", "choose the device", replace(BODY, "x / 2", "torch.optim.SGD(x)")),
    ("faults", "install nothing", replace(BODY, "half = x / 2", "%pip install six")),
    ("set_up", "name the backend", replace(SET, "import os\n", "import keras\n")),
    (
        "set_up",
        "name the backend",
        replace(BODY, "x / 2", f"x\n    import keras\n    {BACKEND}"),
    ),
    ("settings", "add the heading", replace(KNOBS - 1, "## Settings", "## Knobs")),
    ("settings", "give the reason", replace(KNOBS, "  # a handful", "")),
    ("smoke_test", "define it", replace(KNOBS, '== "1"', '!= "0"')),
    (
        "smoke_test",
        "in a function",
        replace(BODY, "x / 2", "x / 2 if SMOKE_TEST else x"),
    ),
    (
        "smoke_test",
        "make it a setting",
        lambda nb: [replace(i, "def", "SMOKE_TEST\ndef")(nb) for i in (5, 7)],
    ),
    ("check_cell", "assert", replace(LAST_CODE, "assert ", "")),
    ("check_cell", "## Check", replace(-3, "## Check", "## End")),
    ("closing", "close with", replace(NOTES, "## Notes", "## Closing")),
    ("closing", "Try", replace(NOTES, "**Try.**", "")),
    ("outputs", "1…n", lambda nb: nb.cells[BODY].update(execution_count=7)),
    ("outputs", "1…n", lambda nb: nb.cells[LAST_CODE].update(execution_count=None)),
    ("outputs", "saved an error", output(BODY, "error", **ERROR)),
    ("outputs", "saved stderr", output(BODY, "stream", name="stderr", text="Warning")),
    ("outputs", "saved a widget", output(BODY, "display_data", data=WIDGET)),
    (
        "outputs",
        "end it with ;",
        output(BODY, "execute_result", data={"text/plain": "[<Line2D>]"}),
    ),
    (
        "outputs",
        "no figure",
        lambda nb: [nb.cells[i].update(outputs=[]) for i in FIGURE_CELLS],
    ),
    ("faults", "absolute path", replace(BODY, "x / 2", "open('/home/me/x.npz')")),
    (
        "faults",
        "absolute path",
        output(BODY, "stream", name="stdout", text="saved /tmp/x"),
    ),
    (
        "faults",
        "links an image",
        replace(NOTES, "Nothing is.", "![](https://a.org/b.png)"),
    ),
    ("imports", "pandas", replace(BODY, "half = x / 2", "import pandas; half = x / 2")),
    (
        "imports",
        "imports .,",
        replace(BODY, "half = x / 2", "from . import utils; half = x"),
    ),
    (
        "faults",
        "sys.path",
        replace(BODY, "half = x / 2", "sys.path.append('..'); half = x"),
    ),
    (
        "faults",
        "unpickles",
        replace(BODY, "x / 2", "np.load('a', allow_pickle=True)"),
    ),
    (
        "functions",
        "a docstring",
        replace(BODY, '"""Half of `x`, of any shape."""', "1"),
    ),
    ("functions", "type hints", replace(BODY, "x: np.ndarray", "x")),
    ("functions", "type hints", replace(BODY, " -> np.ndarray", "")),
    (
        "faults",
        "drop nbval",
        lambda nb: nb.cells[SET].metadata.update(tags=["nbval-check-output"]),
    ),
]


@pytest.mark.parametrize(
    ("rule", "message", "defect"),
    DEFECTS,
    ids=[f"{rule}-{message}" for rule, message, _ in DEFECTS],
)
def test_broken_notebook_is_stopped(
    repository: Path, rule: str, message: str, defect: Callable
) -> None:
    nb = sound()
    defect(nb)
    found = complaints(repository, nb)
    assert message in "\n".join(found.get(rule, [])), found


def test_misnamed_notebook_is_stopped(repository: Path) -> None:
    assert {"name", "listed"} <= complaints(repository, sound(), "02-Halving").keys()


def test_unlisted_notebook_is_stopped(repository: Path) -> None:
    (repository / "README.md").write_text("nothing")
    (repository / "ch01_ml_overview/README.md").unlink()
    assert len(complaints(repository, sound())["listed"]) == 2


NEWER = [  # what holds for the chapters of the second half
    (None, None, lambda nb: None),
    ("title", "[0.6]", replace(0, "| 0.5 ", "| 0.6 ")),
    ("title", "[1239.0]", replace(0, "1,234", "1,239")),
    ("title", "[0.51]", replace(0, "| 0.5 ", "| 0.51 ")),
    ("set_up", "below 100", replace(SET, '"figure.dpi": 100', '"figure.dpi": 90')),
    ("set_up", "below 100", replace(BODY, "x / 2", "plt.figure(dpi=72)")),
    ("set_up", "below 100", replace(SET, "figure.dpi", "figure.size")),
]


@pytest.mark.parametrize(("rule", "message", "defect"), NEWER)
def test_newer_chapters(repository: Path, rule, message, defect: Callable) -> None:
    nb = sound()
    nb.cells[0].source = nb.cells[0].source.replace("# 1.2", "# 7.2")
    defect(nb)
    found = complaints(repository, nb, chapter="ch07_rnn")
    del found["listed"]  # no README of this repository has it
    if rule is None:
        assert found == {}
    else:
        assert message in "\n".join(found[rule])


@pytest.mark.parametrize(
    ("result", "lacking"),
    [
        ("0.5 of it (the book: 0.7), 1,234 steps", ""),
        ("49.96% or 50%", ""),
        ("learning rate 0.1", ""),  # a setting
        ("ResNet-18, CartPole-v1, 2-D, float32, n^3", ""),  # names
        ("0.6 of it", "[0.6]"),
        ("0.49962", "[0.49962]"),  # more digits than were printed
        ("1,235 steps", "[1235.0]"),
        ("49.9%", "[49.9]"),
    ],
)
def test_results_in_the_readme(repository: Path, result: str, lacking: str) -> None:
    link = "[1.2](ch01_ml_overview/02_halving.ipynb)"
    (repository / "README.md").write_text(f"| {link} | NumPy | halving | {result} |")
    found = complaints(repository, sound()).get("listed", [""])
    assert (lacking in found[0]) if lacking else found == [""]


def test_every_rule_was_tried() -> None:
    tried = {rule for rule, _, _ in DEFECTS} | {"name", "listed"}
    assert {rule.__name__ for rule in rules.RULES} == tried
