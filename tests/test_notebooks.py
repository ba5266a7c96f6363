"""Every notebook keeps to the rules."""

from pathlib import Path

import pytest
from rules import ROOT, RULES, Notebook, notebooks


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: str(p.relative_to(ROOT)))
def test_rules(path: Path) -> None:
    notebook = Notebook(path)
    problems = [f"{rule.__name__}: {p}" for rule in RULES for p in rule(notebook)]
    assert not problems, "\n".join(problems)
