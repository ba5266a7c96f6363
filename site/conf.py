"""The site over the notebooks, for Sphinx (`make site` and `make run`).

The repository's root is the source. Without `results` the pages show the saved outputs;
with it (`-D results=build/small`) those of the copies that `make run` executed there,
and each one's state.
"""

import base64
import html
import io
import json
import re
import shutil
from importlib.metadata import distribution
from pathlib import Path

import nbformat
from PIL import Image

# The address of the Git repository, as in https://github.com/owner/name. With it the
# pages link to their source and offer to run a notebook on Colab and Binder.
REPOSITORY = ""

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "build" / "figures"  # of the cards
WIDTH = 480  # pixels of a card's figure

project = "Python Deep Learning: the notebooks"
extensions = ["myst_nb", "sphinx_design"]
root_doc = "README"
include_patterns = ["README.md", "ch*/*.md", "ch*/*.ipynb", "data/README.md"]
exclude_patterns = ["**/.*"]
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # they come from a network
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
author = ""
copyright = "the contributors; the code is under the MIT license"

html_theme = "sphinx_book_theme"
html_title = "Python Deep Learning"
html_static_path = ["static"]
html_css_files = ["site.css"]
# From the disk a browser may not fetch the pages of which a search shows excerpts.
SUMMARY = "DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== 'file:'"
html_js_files = [(None, {"body": SUMMARY})]
html_sourcelink_suffix = ""  # what the download button gives is the notebook itself
mathjax_path = "mathjax/tex-chtml-full.js"
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "navbar_persistent": [],  # the side bar has a search field
}
html_context = {"default_mode": "auto"}  # light or dark as the browser prefers
if REPOSITORY:
    html_theme_options |= {
        "repository_url": REPOSITORY,
        "repository_branch": "main",
        "use_repository_button": True,
        "launch_buttons": {
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": "https://mybinder.org",
        },
    }


def png(notebook: nbformat.NotebookNode) -> bytes | None:
    """The first PNG among a notebook's outputs."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output.data["image/png"])
    return None


def executed(result: Path) -> nbformat.NotebookNode | None:
    """The copy that was run; None if there is none, or a run was killed writing it."""
    try:
        return nbformat.read(result, as_version=4)
    except (OSError, nbformat.reader.NotJSONError):
        return None


def state(source: Path, result: Path) -> tuple[str, str, str]:
    """What became of a notebook: "passed", "failed" or "not run", time and remark."""
    if not result.exists():
        return "not run", "", "these are its saved outputs"
    if (run := executed(result)) is None:
        return "failed", "", "it was cut off"
    seconds = f"{run.metadata.papermill.duration or 0:.0f} s"
    done = result.with_suffix(".ok")
    if done.exists():
        changed = done.stat().st_mtime < source.stat().st_mtime
        return "passed", seconds, "it has changed since" if changed else ""
    for cell in run.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return "failed", seconds, f"{output.ename}: {output.evalue}"
    log = result.with_suffix(".log")  # a dead kernel leaves no output
    lines = log.read_text().strip().splitlines() if log.exists() else []
    return "failed", seconds, lines[-1] if lines else "it was cut off"


class Site:
    """The pages of one build."""

    def __init__(self, results: str) -> None:
        self.results = ROOT / results if results else None
        self.states: dict[str, tuple[str, str, str]] = {}
        self.shown: dict[str, nbformat.NotebookNode] = {}
        for path in sorted(ROOT.glob("ch[0-9][0-9]_*/[0-9]*.ipynb")):
            name = str(path.relative_to(ROOT))
            shown = None
            if self.results:
                self.states[name] = state(path, self.results / name)
                shown = executed(self.results / name)
            self.shown[name] = shown or nbformat.read(path, as_version=4)

    def banner(self, name: str) -> str:
        """A notebook's state as text, empty over saved outputs."""
        if name not in self.states:
            return ""
        word, seconds, remark = self.states[name]
        parts = [f'<b class="pdl-{word.split()[0]}">{word}</b>', seconds]
        parts.append(html.escape(remark[:300]))
        return '<p class="pdl-state">' + ", ".join(p for p in parts if p) + "</p>"

    def notebook(self, name: str) -> str:
        """A notebook as JSON: no widgets, which want a network, and its state."""
        node = self.shown[name]
        node.metadata.pop("widgets", None)
        node.metadata.setdefault("language_info", {"name": "python"})
        tag = "papermill-error-cell-tag"  # our own line says what papermill adds
        node.cells = [c for c in node.cells if tag not in c.metadata.get("tags", [])]
        for cell in node.cells:
            if cell.cell_type == "code":
                cell.outputs = [
                    output
                    for output in cell.outputs
                    if not any("widget" in kind for kind in output.get("data", {}))
                ]
        if banner := self.banner(name):
            node.cells[0].source += f"\n\n{banner}"
        return json.dumps(node)

    def card(self, row: list[str]) -> list[str]:
        """A row of the README's tables as a card."""
        (title, name), (framework, shows, result) = link(row[0]), row[1:]
        lines = [f":::{{grid-item-card}} {title}", f":link: /{name[:-6]}"]
        lines += [":link-type: doc"]
        if name in self.shown and (figure := png(self.shown[name])):
            file = FIGURES / name.replace("/", "-").replace(".ipynb", ".png")
            file.parent.mkdir(parents=True, exist_ok=True)
            image = Image.open(io.BytesIO(figure)).convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("RGB")
            image.thumbnail((WIDTH, WIDTH))
            image.quantize(256).save(file, optimize=True)
            lines += [f":img-top: /{file.relative_to(ROOT)}", ":img-alt: "]
        lines += ["", f"{shows} *({framework})*", "", f"**{result}**"]
        return [*lines, "", self.banner(name), ":::"]

    def first_page(self, text: str) -> str:
        """The README with its tables of notebooks as cards."""
        lines, rows = [], []
        for line in [*text.splitlines(), ""]:
            cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
            if re.match(r"\| \[\d+\.\d+ ", line) and len(cells) == 4:
                rows.append(cells)
            elif line.startswith(("| notebook |", "|---|---|---|---|")):
                continue
            elif rows:
                cards = [part for row in rows for part in self.card(row)]
                lines += ["::::{grid} 1 2 2 3", ":gutter: 3", "", *cards, "::::", line]
                rows = []
            else:
                lines.append(line)
        if self.states:
            words = [word for word, *_ in self.states.values()]
            kinds = ("passed", "failed", "not run")
            counts = [f"{words.count(w)} {w}" for w in kinds if w in words]
            mode = "full mode" if self.results.name == "full" else "small mode"
            summary = f"**{', '.join(counts)}** ({mode})\n"
            place = next(i for i, x in enumerate(lines) if x.startswith("# ")) + 1
            lines.insert(place, f"\n{summary}")
        return "\n".join(lines)


def link(text: str) -> tuple[str, str]:
    """The words and the target of a Markdown link."""
    return re.fullmatch(r"\[(.*)\]\((.*)\)", text).groups()


def contents(*names: str) -> str:
    """A hidden table of contents: the side bar, previous and next follow it."""
    return "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"


def read(app, docname: str, source: list[str]) -> None:
    """Prepare the text of a page for Sphinx; on disk nothing changes."""
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".ipynb":
        source[0] = app.site.notebook(str(path.relative_to(ROOT)))
        return
    # A folder's page is its README, as in a Git host's view.
    source[0] = re.sub(r"\]\(([\w./]+/)\)", r"](\1README.md)", source[0])
    if docname == "README":
        chapters = sorted(ROOT.glob("ch[0-9][0-9]_*/README.md"))
        pages = [*(f"{c.parent.name}/README" for c in chapters), "data/README"]
        source[0] = app.site.first_page(source[0]) + contents(*pages)
    elif notebooks := sorted(p.stem for p in path.parent.glob("*.ipynb")):
        source[0] += contents(*notebooks)


def start(app) -> None:
    """Read the notebooks; everything is read anew, whose outputs may have changed."""
    app.site = Site(app.config.results)


def outdated(app, env, added: set, changed: set, removed: set) -> set[str]:
    """All pages: whether a notebook passed stands on more than its own."""
    return env.found_docs


def finish(app, error: Exception | None) -> None:
    """Put MathJax's files and the start page in their places."""
    if error:
        return
    mathjax = distribution("django-static-mathjax")
    entry = next(f for f in mathjax.files if f.match("es5/tex-chtml-full.js"))
    es5 = Path(mathjax.locate_file(entry)).parent
    target = Path(app.outdir) / "_static" / "mathjax"
    shutil.copytree(es5 / "output", target / "output", dirs_exist_ok=True)
    shutil.copy(es5 / entry.name, target)
    shutil.copy(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app) -> dict:
    """Sphinx calls this."""
    app.add_config_value("results", "", "env")
    app.connect("builder-inited", start)
    app.connect("env-get-outdated", outdated)
    app.connect("source-read", read)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
