"""Write build/index.html: every notebook with its state, time and first figure.

usage: page.py RESULTS NOTEBOOK...   RESULTS is where `make run` put the executed copies
"""

import base64
import html
import sys
from pathlib import Path

import nbformat

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Python Deep Learning: the notebooks</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --soft: #888; }}
body {{ font: 16px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
  padding: 0 1rem; }}
h1 {{ margin-bottom: 0; }}
h2 {{ border-bottom: 1px solid var(--line); margin: 2.2rem 0 1rem; }}
.cards {{ display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }}
.card {{ border: 1px solid var(--line); border-radius: 8px; overflow: hidden;
  display: flex; flex-direction: column; color: inherit; text-decoration: none; }}
a.card:hover {{ border-color: #1f77b4; }}
.figure {{ background: #fff; height: 9rem; display: flex; align-items: center;
  justify-content: center; color: #999; }}
.figure img {{ max-width: 94%; max-height: 94%; object-fit: contain; }}
.text {{ padding: .7rem .9rem .8rem; }}
.state {{ font-size: .87rem; color: var(--soft); overflow-wrap: anywhere; }}
.passed b {{ color: #2a8c4a; }} .failed b {{ color: #d03030; }}
</style>
<h1>Python Deep Learning</h1>
<p>{summary}</p>
{chapters}
</html>
"""


def heading(path: Path) -> str:
    """The first heading of a notebook or a Markdown page."""
    if path.suffix == ".ipynb":
        text = nbformat.read(path, as_version=4).cells[0].source
    else:
        text = path.read_text()
    return text.split("\n", 1)[0].lstrip("# ")


def first_figure(notebook: nbformat.NotebookNode) -> bytes | None:
    """The first PNG among a notebook's outputs."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output.data["image/png"])
    return None


def state(source: Path, result: Path) -> tuple[str, str]:
    """A notebook's state ("passed", "failed" or "not run") and a remark on it."""
    if not result.exists():
        return "not run", ""
    run = nbformat.read(result, as_version=4)
    seconds = f"{run.metadata.papermill.duration or 0:.0f} s"
    done = result.with_suffix(".ok")
    if done.exists():
        changed = done.stat().st_mtime < source.stat().st_mtime
        return "passed", seconds + (", changed since" if changed else "")
    for cell in run.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return "failed", f"{seconds}: {output.ename}: {output.evalue[:200]}"
    log = result.with_suffix(".log")  # a dead kernel leaves no output
    lines = log.read_text().strip().splitlines() if log.exists() else []
    return "failed", f"{seconds}: {lines[-1][:200] if lines else 'it was cut off'}"


def card(source: Path, results: Path, base: Path) -> tuple[str, str]:
    """A notebook's state and its card on the page."""
    result = results / source
    word, remark = state(source, result)
    figure = None
    if result.exists():
        figure = first_figure(nbformat.read(result, as_version=4))
    picture = "no figure yet"
    if figure:
        thumbnail = result.with_suffix(".png")
        thumbnail.write_bytes(figure)
        picture = f'<img src="{thumbnail.relative_to(base)}" alt="" loading="lazy">'
    page = result.with_suffix(".html")
    tag, link = (
        ("a", f' href="{page.relative_to(base)}"') if page.exists() else ("div", "")
    )
    return word, (
        f'<{tag} class="card {word}"{link}><div class="figure">{picture}</div>'
        f'<div class="text">{html.escape(heading(source))}'
        f'<div class="state"><b>{word}</b> {html.escape(remark)}</div></div></{tag}>'
    )


def main(results: Path, sources: list[Path]) -> None:
    """Write the page and print where it is."""
    chapters, states = [], []
    for folder in sorted({source.parent for source in sources}):
        cards = [
            card(s, results, results.parent) for s in sources if s.parent == folder
        ]
        states += [word for word, _ in cards]
        name = html.escape(heading(folder / "README.md"))
        chapters.append(f"<h2>{name}</h2>\n<div class=cards>")
        chapters += [text for _, text in cards] + ["</div>"]
    mode = (
        "full mode" if results.name == "full" else "small mode: bundled data, few steps"
    )
    counts = [f"{states.count(w)} {w}" for w in ("passed", "failed", "not run")]
    summary = f"{', '.join(c for c in counts if c[0] != '0')} ({mode})"
    index = results.parent / "index.html"
    index.parent.mkdir(exist_ok=True)
    partial = index.with_suffix(".partial")
    partial.write_text(PAGE.format(summary=summary, chapters="\n".join(chapters)))
    partial.replace(index)
    print(f"{summary}\nopen {index}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
