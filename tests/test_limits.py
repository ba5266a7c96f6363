"""A cell that hangs and a kernel that dies fail their notebook, and soon."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from nbformat import v4, write
from rules import ROOT

# nbval's limit for a cell here, in seconds. With 5, a kernel that starts slowly beside
# other work failed in its first cell.
TIMEOUT = 20
HANG = "import time\ntime.sleep(600)"  # costs the other kernels nothing
BROKEN = {  # the second cell of a notebook and what is said of it
    "hang": (HANG, f"Timeout of {TIMEOUT} seconds exceeded"),
    # SIGINT is how nbval interrupts: here it finds deaf ears.
    "hang-deaf": (
        f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{HANG}",
        "Failed to interrupt kernel",
    ),
    "die": (
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "the kernel died in this cell (exit status -9)",
    ),
    "error": ("1 / 0", "ZeroDivisionError"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """For each broken notebook the results of its four cells, from one pytest.

    Under load all of it takes longer, so nothing is said about seconds: that nbval's
    limit holds shows in that it ends at all.
    """
    folder = tmp_path_factory.mktemp("broken")
    for name, (source, _) in BROKEN.items():
        cells = [v4.new_code_cell(s) for s in ("x = 1", source, "x += 1", "print(x)")]
        write(v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    report = folder / "report.xml"
    limits = ["--numprocesses=4", f"--nbval-cell-timeout={TIMEOUT}", "--timeout=240"]
    config = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", *config, *limits]
        + [f"--junitxml={report}", str(folder)],
        cwd=ROOT,
        capture_output=True,
        timeout=280,
    )
    cases = list(ElementTree.parse(report).iter("testcase"))
    return {
        name: [
            case for case in cases if case.get("classname").endswith(f"{name}.ipynb")
        ]
        for name in BROKEN
    }


@pytest.mark.parametrize("name", BROKEN)
def test_broken_cell_ends_its_notebook(results: dict[str, list], name: str) -> None:
    first, second, *others = results[name]
    assert len(first) == 0, first[0].text  # it passed
    assert BROKEN[name][1] in second.find("failure").text
    assert len(others) == 2
    for case in others:  # the cells after it don't run
        assert "Cell 1 of this notebook failed" in case.find("skipped").get("message")


def test_the_limit_is_a_minute_or_two() -> None:
    limit = re.search(
        r"--nbval-cell-timeout=(\d+)", (ROOT / "pyproject.toml").read_text()
    )
    assert 30 <= int(limit[1]) <= 120


def test_slow_notebooks_exist() -> None:
    names = (ROOT / "tests" / "slow.txt").read_text().splitlines()[1:]
    assert names and not [name for name in names if not (ROOT / Path(name)).exists()]
