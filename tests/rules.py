"""The anatomy of a notebook as rules that a program can check.

A rule takes a `Notebook` and returns a list of complaints, each saying how to mend it.
"""

import ast
import re
import statistics
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
LINE_LENGTH = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"][
    "line-length"
]
PICTURE_CHAPTERS = {"ch04", "ch05", "ch06"}  # these may be 500 KB, the others 300 KB
RULES: list[Callable] = []
distributions = cache(packages_distributions)  # it reads every package's file list


def notebooks(root: Path = ROOT) -> list[Path]:
    """Every notebook of the repository, in the order of the book."""
    return sorted(root.glob("ch[0-9][0-9]_*/[!.]*.ipynb"))


@dataclass
class Notebook:
    """A notebook on disk and the views of it that rules need."""

    path: Path
    root: Path = ROOT

    @cached_property
    def node(self) -> nbformat.NotebookNode:
        return nbformat.read(self.path, as_version=4)

    @cached_property
    def cells(self) -> list[nbformat.NotebookNode]:
        return self.node.cells

    @cached_property
    def code(self) -> list[nbformat.NotebookNode]:
        return [cell for cell in self.cells if cell.cell_type == "code"]

    @cached_property
    def markdown(self) -> list[nbformat.NotebookNode]:
        return [cell for cell in self.cells if cell.cell_type == "markdown"]

    @cached_property
    def settings(self) -> nbformat.NotebookNode | None:
        """The first code cell under the heading `## Settings`, or None."""
        under = False
        for cell in self.cells:
            under = under or cell.source.startswith("## Settings")
            if under and cell.cell_type == "code":
                return cell
        return None

    def number(self, cell: nbformat.NotebookNode) -> str:
        """How a message names a cell: its place and how it begins."""
        first = cell.source.split("\n", 1)[0][:50]
        place = next(i for i, other in enumerate(self.cells) if other is cell)
        return f"cell {place} ({first!r})"

    def streams(self, cell: nbformat.NotebookNode, name: str) -> str:
        """What a cell printed to `name`, stdout or stderr."""
        return "".join(
            output.text for output in cell.outputs if output.get("name") == name
        )


def rule(check: Callable[[Notebook], list[str]]) -> Callable[[Notebook], list[str]]:
    """Register a rule."""
    RULES.append(check)
    return check


def code_lines(cell: nbformat.NotebookNode) -> list[str]:
    """The lines of a cell that hold something."""
    return [line for line in cell.source.splitlines() if line.strip()]


def prose(cell: nbformat.NotebookNode) -> str:
    """The sentences of a markdown cell: no headings, tables, formulas or images."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$|```.*?```", " x ", cell.source, flags=re.S)
    lines = [x for x in text.splitlines() if not re.match(r"\s*(#|\||!\[)", x)]
    return "\n".join(lines)


def words(text: str) -> int:
    """The number of words in a text."""
    return len(re.findall(r"[A-Za-z0-9][\w’'.,%×–-]*", text))


def parse(cell: nbformat.NotebookNode) -> ast.Module:
    """The syntax tree of a code cell; magics become comments."""
    return ast.parse(re.sub(r"^(\s*)[%!]", r"\1pass  # ", cell.source, flags=re.M))


@rule
def valid(nb: Notebook) -> list[str]:
    """It is a valid notebook of a plain Python kernel."""
    problems = []
    try:
        nbformat.validate(nb.node)
    except nbformat.ValidationError as error:
        problems.append(f"not valid: {error.message}; write it with jupytext")
    if nb.node.metadata.get("kernelspec", {}).get("name") != "python3":
        problems.append("its kernelspec is not python3: set metadata.kernelspec.name")
    if "jupytext" in nb.node.metadata:
        problems.append("remove metadata.jupytext: only the notebook is committed")
    if any("execution" in cell.metadata for cell in nb.code):
        problems.append("it holds cell timings: save it with `make save`")
    return problems


@rule
def name(nb: Notebook) -> list[str]:
    """It is called NN_topic.ipynb."""
    if re.fullmatch(r"\d\d_[a-z0-9]+(_[a-z0-9]+)*", nb.path.stem):
        return []
    return ["rename it to NN_topic.ipynb, in lower case with underscores"]


@rule
def title(nb: Notebook) -> list[str]:
    """It opens with its number and title, a few sentences and a table of results."""
    cell, problems = nb.cells[0], []
    chapter, number = int(nb.path.parent.name[2:4]), int(nb.path.stem[:2])
    if cell.cell_type != "markdown" or not re.match(
        rf"# {chapter}\.{number} \S", cell.source
    ):
        problems.append(f"begin the first cell with '# {chapter}.{number} Title'")
    if len(re.findall(r"[.!?](?=\s|$)", prose(cell))) < 2:
        problems.append("say in two or three sentences what it shows, in which section")
    rows = [line for line in cell.source.splitlines() if line.startswith("|")]
    if not 1 <= len(rows) - 2 <= 4:
        problems.append(
            f"the title's table has {max(len(rows) - 2, 0)} rows, not 1 to 4: "
            "what the book reports, what this measures, hardware, time"
        )
    if "book" not in cell.source:
        problems.append("the title doesn't say which part of the book it mirrors")
    return problems


@rule
def set_up(nb: Notebook) -> list[str]:
    """The first code cell imports, seeds and prints the versions."""
    cell, problems = nb.cells[1], []
    if cell.cell_type != "code" or "import " not in cell.source:
        return [
            "put the set-up cell (imports, seed, versions) straight after the title"
        ]
    seeds = r"default_rng\(\d|manual_seed\(\d|set_random_seed\(\d"
    if not re.search(seeds, cell.source):
        problems.append(
            "seed in the set-up cell: default_rng(1234), manual_seed(1234)…"
        )
    if "__version__" not in cell.source or "print" not in cell.source:
        problems.append("print the versions in the set-up cell")
    source = "\n".join(cell.source for cell in nb.code)
    trains_torch = re.search(r"\btorch\.optim|\bnn\.(Module|Sequential)\b", source)
    if trains_torch and "cuda.is_available()" not in cell.source:
        problems.append("choose the device in the set-up cell: torch.device(…)")
    if re.search(r"^\s*[%!]\s*(pip|conda)|pip install", source, re.M):
        problems.append("install nothing: name it in requirements.txt")
    return problems


@rule
def settings(nb: Notebook) -> list[str]:
    """Every knob stands in the settings cell, with its reason."""
    cell = nb.settings
    if cell is None:
        return ["add the heading '## Settings' and the cell with every knob"]
    lines, problems = cell.source.splitlines(), []
    for node in parse(cell).body:
        around = lines[max(node.lineno - 2, 0) : node.end_lineno]
        here = any("#" in line for line in around[1:] or around)
        above = around[0].lstrip().startswith("#")
        if isinstance(node, ast.Assign) and not (here or above):
            problems.append(
                f"give the reason of {lines[node.lineno - 1]!r} in a comment"
            )
    return problems


@rule
def smoke_test(nb: Notebook) -> list[str]:
    """SMOKE_TEST stands in the settings and the data cell only, outside of loops."""
    users = [cell for cell in nb.code if "SMOKE_TEST" in cell.source]
    if not users:
        return []
    problems = []
    definition = 'SMOKE_TEST = os.environ.get("SMOKE_TEST") == "1"'
    if users[0] is not nb.settings or definition not in users[0].source:
        problems.append(f"define it in the settings cell: {definition}")
    for cell in users[2:]:
        problems.append(f"{nb.number(cell)} reads SMOKE_TEST: make it a setting")
    inner = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Lambda)
    for cell in users:
        for node in ast.walk(parse(cell)):
            if isinstance(node, inner) and "SMOKE_TEST" in ast.unparse(node):
                problems.append(
                    f"{nb.number(cell)} branches on SMOKE_TEST in a function or loop"
                )
                break
    return problems


@rule
def cell_lengths(nb: Notebook) -> list[str]:
    """12 to 30 code cells, the median 4 to 8 lines, none over 40, lines up to 88."""
    lengths, problems = [len(code_lines(cell)) for cell in nb.code], []
    if not 12 <= len(lengths) <= 30:
        problems.append(f"{len(lengths)} code cells: keep to 12 to 30, one idea a cell")
    median = statistics.median(lengths)
    if not 4 <= median <= 8:
        problems.append(f"the median cell has {median} lines: keep to 4 to 8")
    for cell in nb.code:
        if len(code_lines(cell)) > 40:
            problems.append(f"{nb.number(cell)} has over 40 lines: split it")
        if any(len(line) > LINE_LENGTH for line in cell.source.splitlines()):
            problems.append(
                f"{nb.number(cell)} has lines over {LINE_LENGTH} characters"
            )
    return problems


@rule
def introduced(nb: Notebook) -> list[str]:
    """At least one sentence introduces every code cell."""
    problems = []
    for before, cell in zip(nb.cells, nb.cells[1:]):
        if cell.cell_type == "code" and (
            before.cell_type != "markdown" or words(prose(before)) < 4
        ):
            problems.append(f"{nb.number(cell)}: put a sentence before it")
    return problems


@rule
def amount_of_prose(nb: Notebook) -> list[str]:
    """There are 2 to 4 words of prose for a line of code, 5 at most."""
    num_words = sum(words(prose(cell)) for cell in nb.markdown)
    num_lines = sum(len(code_lines(cell)) for cell in nb.code)
    if 2 <= num_words / num_lines <= 5:
        return []
    return [
        f"{num_words} words for {num_lines} lines of code is "
        f"{num_words / num_lines:.1f} a line: keep to 2 to 4"
    ]


@rule
def file_size(nb: Notebook) -> list[str]:
    """It is under 300 KB, or 500 KB in a chapter about pictures."""
    limit = 500 if nb.path.parent.name[:4] in PICTURE_CHAPTERS else 300
    size = nb.path.stat().st_size / 1000
    if size < limit:
        return []
    return [
        f"{size:.0f} KB, not under {limit}: fewer or smaller figures, dpi up to 100"
    ]


@rule
def check_cell(nb: Notebook) -> list[str]:
    """The last code cell asserts what the notebook claims and prints one line."""
    cell, problems = nb.code[-1], []
    if not any(isinstance(node, ast.Assert) for node in ast.walk(parse(cell))):
        problems.append("assert in the last code cell what the notebook claims")
    if len(nb.streams(cell, "stdout").strip().splitlines()) != 1:
        problems.append("let the last code cell print one line: checks passed")
    if not any(c.source.startswith("## Check") for c in nb.markdown):
        problems.append("put the heading '## Check' above the last code cell")
    return problems


@rule
def closing(nb: Notebook) -> list[str]:
    """It closes with notes: what differs from the book, a road not taken, exercises."""
    cell = nb.cells[-1]
    if cell.cell_type != "markdown" or not cell.source.startswith("## Notes"):
        return ["close with a markdown cell '## Notes'"]
    parts = ["**Different from the book.**", "**Not taken.**", "**Try.**"]
    return [f"add {part} to the notes" for part in parts if part not in cell.source]


@rule
def outputs(nb: Notebook) -> list[str]:
    """The saved outputs are those of one clean run."""
    problems = []
    counts = [cell.execution_count for cell in nb.code]
    if counts != list(range(1, len(counts) + 1)):
        problems.append("execution counts are not 1…n: save it with `make save`")
    for cell in nb.code:
        kinds = {output.output_type for output in cell.outputs}
        data = {kind for output in cell.outputs for kind in output.get("data", {})}
        if "error" in kinds:
            problems.append(f"{nb.number(cell)} saved an error")
        if nb.streams(cell, "stderr"):
            problems.append(f"{nb.number(cell)} saved stderr: mend what it warns of")
        if any("widget" in kind for kind in data):
            problems.append(
                f"{nb.number(cell)} saved a widget: save it with `make save`"
            )
        for output in cell.outputs:
            text = output.get("data", {}).get("text/plain", "")
            if output.output_type == "execute_result" and re.match(r"\[?<|\(<", text):
                problems.append(f"{nb.number(cell)} shows {text[:30]!r}: end it with ;")
    figures = [o for cell in nb.code for o in cell.outputs if "image/png" in str(o)]
    if not figures:
        problems.append("it shows no figure")
    return problems


@rule
def paths(nb: Notebook) -> list[str]:
    """No absolute path in its code or outputs, and no image from the network."""
    problems = []
    absolute = r"(?<![\w.:/])/(home|root|tmp|work|Users|mnt|content|usr|opt|var)/|C:\\"
    for cell in nb.code:
        text = cell.source + "".join(
            output.get("text", "") + output.get("data", {}).get("text/plain", "")
            for output in cell.outputs
        )
        if re.search(absolute, text):
            problems.append(f"{nb.number(cell)} has an absolute path: make it relative")
    for cell in nb.markdown:
        if re.search(r"!\[[^\]]*\]\(\s*http|<img[^>]+src=.?http", cell.source):
            problems.append(f"{nb.number(cell)} links an image: draw it in a code cell")
    return problems


@rule
def imports(nb: Notebook) -> list[str]:
    """It imports the standard library and requirements.txt's packages, nothing else."""
    requirements = (nb.root / "requirements.txt").read_text()
    pinned = set(re.findall(r"^([\w.-]+)(?:\[.*\])?==", requirements, re.M))
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned} | {"ipython"}
    problems, modules = [], set()
    for cell in nb.code:
        for node in ast.walk(parse(cell)):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add("." if node.level else node.module.split(".")[0])
        if "sys.path" in cell.source:
            problems.append(
                f"{nb.number(cell)} changes sys.path: a notebook stands alone"
            )
    for module in sorted(modules - set(sys.stdlib_module_names)):
        owners = {
            re.sub(r"[-_.]+", "-", d).lower() for d in distributions().get(module, [])
        }
        if not owners & pinned:
            problems.append(f"it imports {module}, which requirements.txt doesn't name")
    return problems


@rule
def safe_loading(nb: Notebook) -> list[str]:
    """Nothing is unpickled."""
    bad = r"allow_pickle=True|weights_only=False|pickle\.loads?\(|safe_mode=False"
    return [
        f"{nb.number(cell)} unpickles: use .npz, or weights_only=True"
        for cell in nb.code
        if re.search(bad, cell.source)
    ]


@rule
def functions(nb: Notebook) -> list[str]:
    """Functions have docstrings and type hints."""
    problems = []
    for cell in nb.code:
        tree = parse(cell)
        bodies = [tree.body] + [
            x.body for x in tree.body if isinstance(x, ast.ClassDef)
        ]
        problems += [
            f"{nb.number(cell)}: give class {node.name} a docstring"
            for node in tree.body
            if isinstance(node, ast.ClassDef) and not ast.get_docstring(node)
        ]
        for node in [x for body in bodies for x in body]:
            if not isinstance(node, ast.FunctionDef):
                continue
            dunder = node.name.startswith("__")
            if not ast.get_docstring(node) and not dunder:
                problems.append(f"{nb.number(cell)}: give {node.name} a docstring")
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            bare = [a.arg for a in arguments if not a.annotation and a.arg != "self"]
            if bare or (node.returns is None and not dunder):
                problems.append(f"{nb.number(cell)}: give {node.name} its type hints")
    return problems


@rule
def checked_outputs(nb: Notebook) -> list[str]:
    """Cells that CI compares to the letter print nothing that a machine changes."""
    return [
        f"{nb.number(cell)} prints versions or times: drop its nbval-check-output tag"
        for cell in nb.code
        if "nbval-check-output" in cell.metadata.get("tags", [])
        and re.search(r"__version__|perf_counter|time\.time", cell.source)
    ]


@rule
def listed(nb: Notebook) -> list[str]:
    """The README and the chapter's README link to it."""
    chapter, problems = nb.path.parent.name, []
    if f"({chapter}/{nb.path.name})" not in (nb.root / "README.md").read_text():
        problems.append(f"link to {chapter}/{nb.path.name} in README.md's table")
    page = nb.path.parent / "README.md"
    if not page.exists() or f"({nb.path.name})" not in page.read_text():
        problems.append(f"link to {nb.path.name} in {chapter}/README.md")
    return problems
