"""`make gpu-check` says in one line what is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rules import ROOT

BLIND_TORCH = """\
from types import SimpleNamespace
class nn: Linear = None
cuda = SimpleNamespace(is_available=lambda: False)
"""


def check(path: Path, **environment: str) -> subprocess.CompletedProcess:
    """The result of the check with the programs and modules in `path`, no others."""
    hidden = {"CUDA_VISIBLE_DEVICES"}
    kept = {k: v for k, v in os.environ.items() if k not in hidden}
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "gpu_check.py")],
        env={**kept, "PATH": str(path), "PYTHONPATH": str(path), **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("smi", "environment", "missing"),
    [
        (None, {}, "no NVIDIA driver"),
        ("echo 'no devices were found' >&2; exit 6", {}, "no devices were found"),
        ("echo NVIDIA T4, 535.161.08", {}, "535.161.08 is too old for CUDA 12.8"),
        ("echo NVIDIA T4, 570.86.10", {}, "PyTorch sees no GPU: install requirements"),
        (
            "echo NVIDIA T4, 570.86.10",
            {"CUDA_VISIBLE_DEVICES": ""},
            "PyTorch sees no GPU: CUDA_VISIBLE_DEVICES is '': unset it",
        ),
    ],
    ids=["driver", "gpu", "old", "framework", "hidden"],
)
def test_one_line(tmp_path: Path, smi: str | None, environment, missing: str) -> None:
    (tmp_path / "torch.py").write_text(BLIND_TORCH)
    if smi:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    result = check(tmp_path, **environment)
    assert result.returncode == 1
    assert missing in result.stderr and result.stderr.count("\n") == 1
