"""The environment is the pinned one, on one CUDA, by pip and by conda alike."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distributions, requires

import pytest
from packaging.requirements import Requirement
from rules import ROOT


def canonical(name: str) -> str:
    """A distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    """The versions that a requirements file pins, by name."""
    found = re.findall(
        r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", (ROOT / file).read_text(), re.M
    )
    return {canonical(name): pinned for name, pinned in found}


REQUIREMENTS, CONSTRAINTS = pins("requirements.txt"), pins("constraints.txt")
INSTALLED = {canonical(d.name): d.version for d in distributions() if d.name}


def test_requirements_are_pinned() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if re.match(r"[A-Za-z]", line)]
    assert lines[0] == "-c constraints.txt"
    assert len(wanted) == len(REQUIREMENTS), "pin every line with =="
    differing = {n: v for n, v in REQUIREMENTS.items() if CONSTRAINTS.get(n) != v}
    assert not differing, f"renew constraints.txt, it disagrees on {differing}"


def test_installed_versions_are_the_pinned_ones() -> None:
    missing = [name for name in REQUIREMENTS if name not in INSTALLED]
    assert not missing, f"pip install -r requirements.txt, for want of {missing}"
    wrong = {
        name: f"{INSTALLED[name]} instead of {pinned}"
        for name, pinned in CONSTRAINTS.items()
        if name in INSTALLED and INSTALLED[name].split("+")[0] != pinned
    }
    assert not wrong, f"pip install -r requirements.txt, since these differ: {wrong}"


def test_everything_installed_is_pinned() -> None:
    """What a requirement brings along stands in constraints.txt too."""
    todo, seen = list(REQUIREMENTS), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            needs = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue
        todo += [
            canonical(need.name)
            for need in needs
            if need.marker is None or need.marker.evaluate({"extra": ""})
        ]
    loose = {name for name in seen & INSTALLED.keys() if name not in CONSTRAINTS}
    assert not loose, f"renew constraints.txt: it doesn't pin {loose}"


def test_one_cuda() -> None:
    """CUDA 13's cuDNN and NCCL would overwrite TensorFlow's files."""
    wheels = {name for name in INSTALLED | CONSTRAINTS if name.startswith("nvidia-")}
    other = {name for name in wheels if not name.endswith("-cu12")}
    assert not other, f"remove {other}: TensorFlow and PyTorch share CUDA 12"
    assert "nvidia-cudnn-cu12" in CONSTRAINTS
    assert CONSTRAINTS["tensorflow"] == "2.20.0" and CONSTRAINTS["torch"] == "2.10.0", (
        "TensorFlow and PyTorch move together: verify that both resolve to one set of "
        "nvidia-*-cu12 wheels and import in either order, then change this line"
    )


def test_conda_installs_the_same() -> None:
    text = (ROOT / "environment.yml").read_text()
    listed = re.findall(r"^ +- (.*)$", text, re.M)
    assert listed == [
        "conda-forge",
        "python=3.11",
        "pip",
        "pip:",
        "-r requirements.txt",
    ]


@pytest.mark.parametrize("order", ["tensorflow, torch", "torch, tensorflow"])
def test_both_frameworks_import(order: str) -> None:
    """In either order, both compute."""
    code = (
        f"import {order}\n"
        "print(float(tensorflow.reduce_sum(tensorflow.eye(3) @ tensorflow.eye(3))),"
        " float((torch.eye(3) @ torch.eye(3)).sum()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert result.stdout.split() == ["3.0", "3.0"], result.stderr[-2000:]
