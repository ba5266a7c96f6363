"""`make`: set-up happens once, a failing notebook is named and stops no other."""

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4, write
from PIL import Image
from rules import ROOT

# A stand-in for Python whose `-m venv` makes a pip that fails while a file is there.
FAKE_PYTHON = """#!/bin/sh
case "$1" in -c) exit 0;; esac
eval folder=\\"\\$$#\\"
rm -rf "$folder"; mkdir -p "$folder/bin"
printf '#!/bin/sh\\necho installing; test ! -e {fail}\\n' > "$folder/bin/pip"
chmod +x "$folder/bin/pip"
"""
PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """The result of make; nothing of a make around pytest reaches it."""
    hidden = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "SMOKE_TEST", "FULL", "CH"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_make_alone_prints_what_there_is() -> None:
    printed = make().stdout
    for target in ("run", "site", "test", "mutants", "gpu-check", "lab"):
        assert f"make {target}" in printed


def test_set_up_happens_once(tmp_path: Path) -> None:
    venv, python, fail = tmp_path / "venv", tmp_path / "python", tmp_path / "fail"
    python.write_text(FAKE_PYTHON.format(fail=fail))
    python.chmod(0o755)
    arguments = ["setup", f"VENV={venv}", f"PYTHON={python}"]

    fail.touch()  # as if interrupted
    assert make(*arguments).returncode != 0
    assert (venv / "bin" / "pip").exists() and not (venv / ".ready").exists()
    fail.unlink()
    assert "installing" in make(*arguments).stdout
    assert (venv / ".ready").exists()
    assert "installing" not in make(*arguments).stdout
    for file in ("requirements.txt", "constraints.txt"):
        assert "installing" in make(*arguments, "-W", file).stdout


def test_wrong_python_is_named(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    result = make("setup", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}")
    assert result.returncode != 0
    assert "Python 3.11, 3.12 or 3.13 is needed" in result.stderr


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small repository: two chapters, three notebooks, of which one fails."""
    root = tmp_path_factory.mktemp("repository")
    for folder in (".ci", "site"):
        shutil.copytree(ROOT / folder, root / folder)
    (root / "tests").mkdir()
    (root / "tests" / "slow.txt").write_text("ch02_neural_networks/01_other.ipynb\n")
    readme = ["# The notebooks", "", "[The data](data/)", ""]
    readme += ["| notebook | framework | shows | result |", "|---|---|---|---|"]
    (root / "data").mkdir()
    (root / "data" / "README.md").write_text("# Data\n")
    for file in ("Makefile", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / file, root)
    for chapter, name, *sources in [
        (
            "ch01_ml_overview",
            "01_good",
            PLOT,
            "import os; print(os.environ['SMOKE_TEST'])",
        ),
        ("ch01_ml_overview", "02_bad", PLOT, "raise ValueError('the <b> reason')"),
        ("ch02_neural_networks", "01_other", PLOT),
    ]:
        (root / chapter).mkdir(exist_ok=True)
        (root / chapter / "README.md").write_text(f"# Chapter {chapter[3]}: a name\n")
        cells = [v4.new_markdown_cell(f"# {chapter[3]}.{name[1]} Title of {name}\n\n…")]
        notebook = v4.new_notebook(cells=cells + [v4.new_code_cell(s) for s in sources])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        write(notebook, root / chapter / f"{name}.ipynb")
        link = f"[{chapter[3]}.{name[1]} Title]({chapter}/{name}.ipynb)"
        readme.append(f"| {link} | NumPy | a plot | as drawn |")
    (root / "README.md").write_text("\n".join(readme))
    return root


def test_run(copy: Path) -> None:
    own = ["run", f"PYTHON={sys.executable}", "VENV="]
    first = make(*own, "JOBS=2", cwd=copy)
    assert first.returncode != 0
    assert "[1/3] ch02_neural_networks/01_other passed" in first.stdout  # slow: first
    assert "[2/3] ch01_ml_overview/01_good passed" in first.stdout
    assert "[3/3] ch01_ml_overview/02_bad FAILED" in first.stdout
    assert "ValueError: the <b> reason" in first.stdout
    assert "warning" not in (first.stdout + first.stderr).lower()
    site = copy / "build/site"
    page = (site / "index.html").read_text()
    for text in ("2 passed, 1 failed", "small mode", "the &lt;b&gt; reason"):
        assert text in page
    assert page.count("sd-card-img-top") == 3
    good, bad = (
        (site / f"ch01_ml_overview/{n}.html").read_text() for n in ("01_good", "02_bad")
    )
    assert re.search(r">passed</b>, \d+ s<", good) and "</span>1\n" in good
    assert re.search(r">failed</b>, \d+ s, ValueError: the &lt;b&gt; reason<", bad)
    assert "An Exception was encountered" not in bad  # papermill's own words

    again = make(*own, cwd=copy)  # only what failed runs again
    assert again.returncode != 0
    assert "02_bad" in again.stdout and "01_good" not in again.stdout

    # A run that was killed leaves half a file. It breaks no site.
    (copy / "build/full/ch01_ml_overview").mkdir(parents=True)
    (copy / "build/full/ch01_ml_overview/02_bad.ipynb").write_text('{"cells": [')
    full = make(*own, "CH=ch02_neural_networks", "FULL=1", cwd=copy)
    assert full.returncode == 0 and "FAILED" not in full.stdout
    assert "[1/1] ch02_neural_networks/01_other passed" in full.stdout
    page = (site / "index.html").read_text()
    assert "1 passed, 1 failed, 1 not run" in page and "full mode" in page
    assert "it was cut off" in page
    assert make(*own, "CH=ch11", cwd=copy).returncode != 0


def test_site_shows_saved_outputs_and_stops_at_a_broken_link(copy: Path) -> None:
    own = ["site", f"PYTHON={sys.executable}", "VENV="]
    assert make(*own, cwd=copy).returncode == 0
    page = (copy / "build/site/index.html").read_text()
    assert "pdl-state" not in page and "Title" in page
    chapter = copy / "ch01_ml_overview/README.md"
    before = chapter.read_text()
    chapter.write_text(before + "\n[elsewhere](03_gone.ipynb)\n")
    broken = make(*own, cwd=copy)
    chapter.write_text(before)
    assert broken.returncode != 0 and "03_gone.ipynb" in broken.stderr


def test_save(copy: Path) -> None:
    own = ["save", f"PYTHON={sys.executable}", "VENV="]
    good, bad = (
        copy / "ch01_ml_overview" / f"{n}.ipynb" for n in ("01_good", "02_bad")
    )
    before = bad.read_bytes()
    failed = make(*own, f"NB={bad.relative_to(copy)}", cwd=copy)
    assert failed.returncode != 0 and "the <b> reason" in failed.stderr
    assert bad.read_bytes() == before
    assert make(*own, f"NB={good.relative_to(copy)}", cwd=copy).returncode == 0
    assert '"0\\n"' in good.read_text()  # SMOKE_TEST=0 was printed
    assert not list(good.parent.glob("*.partial"))
    cells = nbformat.read(good, 4).cells
    data = [o.data for c in cells for o in c.get("outputs", []) if "data" in o]
    png = next(bundle["image/png"] for bundle in data if "image/png" in bundle)
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    assert image.mode == "P" and image.width > 100  # a palette, the size unchanged
