"""A cell that hangs and a kernel that dies fail their notebook, and soon."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nbformat import v4, write
from rules import ROOT

HANG = "while True:\n    pass"
# SIGINT is how nbval interrupts: here it finds deaf ears.
HANG_DEAF = f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{HANG}"
DIE = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


def run(tmp_path: Path, source: str, timeout: int) -> tuple[str, float]:
    """What pytest prints about a notebook with a good cell, `source` and two more.

    `timeout` is nbval's limit in seconds. Returns the output and the seconds it took.
    """
    cells = [v4.new_code_cell(s) for s in ("x = 1", source, "x += 1", "print(x)")]
    notebook = tmp_path / "broken.ipynb"
    write(v4.new_notebook(cells=cells), notebook)
    limits = ["--numprocesses=0", f"--nbval-cell-timeout={timeout}", "--timeout=90"]
    config = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "conftest", *config, *limits]
        + [str(notebook)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stdout, time.perf_counter() - start


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (HANG, "Timeout of 3 seconds exceeded"),
        (HANG_DEAF, "Failed to interrupt kernel"),
        (DIE, "Timeout of 3 seconds exceeded"),
        ("1 / 0", "ZeroDivisionError"),
    ],
    ids=["hang", "hang-deaf", "die", "error"],
)
def test_broken_cell_ends_its_notebook(
    tmp_path: Path, source: str, message: str
) -> None:
    printed, seconds = run(tmp_path, source, timeout=3)
    assert message in printed
    assert "1 failed, 1 passed, 2 skipped" in printed  # the cells after it don't run
    assert "Cell 1 of this notebook failed" in printed
    assert seconds < 3 + 30


def test_the_limit_is_a_minute_or_two() -> None:
    limit = re.search(
        r"--nbval-cell-timeout=(\d+)", (ROOT / "pyproject.toml").read_text()
    )
    assert 30 <= int(limit[1]) <= 120
