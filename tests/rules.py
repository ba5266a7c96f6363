"""The parts that every notebook has, and what is a fault, as rules for a program.

A rule takes a `Notebook` and returns a list of complaints, each saying how to mend it.
"""

import ast
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
OLDER_CHAPTERS = {"ch04"}  # it follows when its last notebook is run again
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
    def prose(self) -> str:
        """All of its Markdown."""
        return "\n".join(c.source for c in self.cells if c.cell_type == "markdown")

    @cached_property
    def source(self) -> str:
        """All of its code."""
        return "\n".join(cell.source for cell in self.code)

    @cached_property
    def settings(self) -> nbformat.NotebookNode | None:
        """The first code cell under the heading `## Settings`, or None."""
        under = False
        for cell in self.cells:
            under = under or cell.source.startswith("## Settings")
            if under and cell.cell_type == "code":
                return cell
        return None

    @cached_property
    def printed(self) -> str:
        """The text of all its saved outputs."""
        return "\n".join(
            output.get("text", "") or output.get("data", {}).get("text/plain", "")
            for cell in self.code
            for output in cell.outputs
        )

    @property
    def newer(self) -> bool:
        """Whether the rules that came with the second half hold for it."""
        return self.path.parent.name[:4] not in OLDER_CHAPTERS

    def number(self, cell: nbformat.NotebookNode) -> str:
        """How a message names a cell: its place and how it begins."""
        first = cell.source.split("\n", 1)[0][:50]
        place = next(i for i, other in enumerate(self.cells) if other is cell)
        return f"cell {place} ({first!r})"


def rule(check: Callable[[Notebook], list[str]]) -> Callable[[Notebook], list[str]]:
    """Register a rule."""
    RULES.append(check)
    return check


def parse(cell: nbformat.NotebookNode) -> ast.Module:
    """The syntax tree of a code cell; magics become comments."""
    return ast.parse(re.sub(r"^(\s*)[%!]", r"\1pass  # ", cell.source, flags=re.M))


# --- Numbers in text ---------------------------------------------------------------

# Not the digits of a name, as in ResNet-18, CartPole-v1, float32 or 2D.
NUMBER = re.compile(
    r"(?<![\w.^/-])(?<!\w,)[-−]?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(e-?\d+)?(?![\w]|\.\d)"
)


def plain(text: str) -> str:
    """The text with plain signs and without what numbers are attached to."""
    text = re.sub(r"\d+(\.\d+){2,}", " ", text)  # a version
    return re.sub(r"(\d)[×x](?=\d)|(\d)\s*[–…]\s*(?=\d)", r"\1\2 ", text)


def numbers(text: str) -> list[tuple[float, int]]:
    """The numbers in a text, without sign, and their digits after the point."""
    found = []
    for match in NUMBER.finditer(plain(text)):
        whole, fraction, exponent = match.groups()
        value = float(whole.replace(",", "") + (fraction or "") + (exponent or ""))
        digits = len(fraction or ".") - 1 - int((exponent or "e0")[1:])
        found.append((value, digits))
    return found


def missing(text: str, among: str) -> list[float]:
    """The numbers of `text` to which no number in `among` rounds.

    The fraction 0.8751 counts as 87.5%. What is printed with fewer digits than stand in
    the text, as 87 for 87.5, doesn't bear it out.
    """
    known = numbers(among)
    percentages = "%" in text
    known += [(100 * value, digits - 2) for value, digits in known if percentages]
    return [
        value
        for value, digits in numbers(text)
        if not any(
            more >= digits and abs(other - value) <= 0.5001 * 10.0**-digits
            for other, more in known
        )
    ]


def ours(cell: str) -> bool:
    """Whether a table's cell speaks of this notebook, not of the book or a target."""
    return not re.search(r"\bbook|target|paper|published", cell, re.I)


def claims(table: str) -> list[str]:
    """A Markdown table's cells that report what was measured here, in rows below."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    if len(rows) < 3:
        return []
    counted = [
        i for i, head in enumerate(rows[0]) if ours(head) and "hardw" not in head
    ]
    return [
        re.sub(r"\d+ (CPU )?cores?", "", row[i])
        for row in rows[2:]
        for i in counted
        if i < len(row) and ours(row[i]) and ours(row[0])
    ]


# --- The rules ---------------------------------------------------------------------


@rule
def valid(nb: Notebook) -> list[str]:
    """It is a valid notebook of a plain Python kernel, under 1 MB."""
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
    if (size := nb.path.stat().st_size) > 1_000_000:
        problems.append(f"{size / 1e6:.1f} MB, not under 1: fewer or smaller figures")
    return problems


@rule
def name(nb: Notebook) -> list[str]:
    """It is called NN_topic.ipynb."""
    if re.fullmatch(r"\d\d_[a-z0-9]+(_[a-z0-9]+)*", nb.path.stem):
        return []
    return ["rename it to NN_topic.ipynb, in lower case with underscores"]


@rule
def title(nb: Notebook) -> list[str]:
    """It opens with its number and title, and a table of results."""
    cell, problems = nb.cells[0], []
    chapter, number = int(nb.path.parent.name[2:4]), int(nb.path.stem[:2])
    if cell.cell_type != "markdown" or not re.match(
        rf"# {chapter}\.{number} \S", cell.source
    ):
        problems.append(f"begin the first cell with '# {chapter}.{number} Title'")
    rows = [line for line in cell.source.splitlines() if line.startswith("|")]
    if not 1 <= len(rows) - 2 <= 4:
        problems.append(
            f"the title's table has {max(len(rows) - 2, 0)} rows, not 1 to 4: "
            "what the book reports, what this measures, hardware, time"
        )
    if "book" not in cell.source:
        problems.append("the title doesn't say which part of the book it mirrors")
    if nb.newer:
        settings = nb.settings.source if nb.settings else ""
        for text in claims(cell.source):
            if lacking := missing(text, f"{nb.printed}\n{settings}"):
                problems.append(f"no output shows {lacking} of {text!r} in the title")
    return problems


@rule
def set_up(nb: Notebook) -> list[str]:
    """The first code cell imports, seeds, chooses the device and prints versions."""
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
    trains_torch = re.search(r"\btorch\.optim|\bnn\.(Module|Sequential)\b", nb.source)
    if trains_torch and "cuda.is_available()" not in cell.source:
        problems.append("choose the device in the set-up cell: torch.device(…)")
    keras = re.search(r"^\s*(import keras|from keras)", nb.source, re.M)
    backend = nb.source.find('os.environ["KERAS_BACKEND"] = ')
    if keras and not 0 <= backend < keras.start():
        line = 'os.environ["KERAS_BACKEND"] = "tensorflow"'
        problems.append(f"name the backend before Keras is imported: {line}")
    dpi = [float(value) for value in re.findall(r"dpi\"?\s*[:=\]]+\s*(\d+)", nb.source)]
    if nb.newer and ("figure.dpi" not in cell.source or min(dpi, default=0) < 100):
        problems.append('set "figure.dpi" in the set-up cell, and nowhere below 100')
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
def check_cell(nb: Notebook) -> list[str]:
    """Under `## Check` the last code cell asserts what the title claims."""
    problems = []
    if not any(isinstance(node, ast.Assert) for node in ast.walk(parse(nb.code[-1]))):
        problems.append("assert in the last code cell what the notebook claims")
    if not re.search("^## Check", nb.prose, re.M):
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
        data = {kind for output in cell.outputs for kind in output.get("data", {})}
        if any(output.output_type == "error" for output in cell.outputs):
            problems.append(f"{nb.number(cell)} saved an error")
        if any(output.get("name") == "stderr" for output in cell.outputs):
            problems.append(f"{nb.number(cell)} saved stderr: mend what it warns of")
        if any("widget" in kind for kind in data):
            problems.append(
                f"{nb.number(cell)} saved a widget: save it with `make save`"
            )
        for output in cell.outputs:
            text = output.get("data", {}).get("text/plain", "")
            if output.output_type == "execute_result" and re.match(r"\[?<|\(<", text):
                problems.append(f"{nb.number(cell)} shows {text[:30]!r}: end it with ;")
    if not any("image/png" in str(o) for cell in nb.code for o in cell.outputs):
        problems.append("it shows no figure")
    return problems


@rule
def faults(nb: Notebook) -> list[str]:
    """Nothing is unpickled, installed, found by an absolute path or hot-linked."""
    problems = []
    absolute = r"(?<![\w.:/])/(home|root|tmp|work|Users|mnt|content|usr|opt|var)/|C:\\"
    if re.search(absolute, nb.source + nb.printed):
        problems.append("it has an absolute path: make it relative")
    if re.search(r"!\[[^\]]*\]\(\s*http|<img[^>]+src=.?http", nb.prose):
        problems.append("it links an image: draw it in a code cell")
    if re.search(r"^\s*[%!]\s*(pip|conda)|pip install", nb.source, re.M):
        problems.append("install nothing: name it in requirements.txt")
    pickle = r"allow_pickle=True|weights_only=False|pickle\.loads?\(|safe_mode=False"
    if re.search(pickle, nb.source):
        problems.append("it unpickles: use .npz, or weights_only=True")
    if "sys.path" in nb.source:
        problems.append("it changes sys.path: a notebook stands alone")
    for cell in nb.code:
        compared = "nbval-check-output" in cell.metadata.get("tags", [])
        if compared and re.search(r"__version__|perf_counter|time\.time", cell.source):
            problems.append(
                f"{nb.number(cell)} prints versions or times: drop nbval-check-output"
            )
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
    for module in sorted(modules - set(sys.stdlib_module_names)):
        owners = {
            re.sub(r"[-_.]+", "-", d).lower() for d in distributions().get(module, [])
        }
        if not owners & pinned:
            problems.append(f"it imports {module}, which requirements.txt doesn't name")
    return problems


@rule
def functions(nb: Notebook) -> list[str]:
    """Functions have docstrings and type hints."""
    problems = []
    for cell in nb.code:
        tree = parse(cell)
        classes = [x for x in tree.body if isinstance(x, ast.ClassDef)]
        problems += [
            f"{nb.number(cell)}: give class {node.name} a docstring"
            for node in classes
            if not ast.get_docstring(node)
        ]
        for node in [x for part in (tree, *classes) for x in part.body]:
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
def listed(nb: Notebook) -> list[str]:
    """Both READMEs link to it, and the result in the README's table is its own."""
    chapter, problems = nb.path.parent.name, []
    link = f"({chapter}/{nb.path.name})"
    lines = (nb.root / "README.md").read_text().splitlines()
    rows = [line for line in lines if link in line]
    if not rows:
        problems.append(f"link to {chapter}/{nb.path.name} in README.md's table")
    for row in rows:
        result = re.split(r"(?<!\\)\|", row)[-2] if row.startswith("|") else ""
        result = re.sub(r"\((the )?(book|target)[^)]*\)", "", result)
        settings = nb.settings.source if nb.settings else ""
        if lacking := missing(
            result, f"{nb.printed}\n{nb.cells[0].source}\n{settings}"
        ):
            problems.append(f"README.md says {lacking} of it, the notebook does not")
    page = nb.path.parent / "README.md"
    if not page.exists() or f"({nb.path.name})" not in page.read_text():
        problems.append(f"link to {nb.path.name} in {chapter}/README.md")
    return problems
