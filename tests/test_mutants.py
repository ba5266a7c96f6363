"""The tool for planted mistakes tells red from green, and its list is in order."""

import ast
from collections import Counter
from pathlib import Path

import mutants
import pytest
from nbformat import v4, write

NAME = "ch01_ml_overview/01_halving.ipynb"
MUTANTS = mutants.read_list()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a notebook whose last cell checks half of what it computes."""
    cells = ["half, third = 4 / 2, 6 / 3", "assert half == 2, 'a half'"]
    (tmp_path / NAME).parent.mkdir()
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells])
    write(notebook, tmp_path / NAME)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "state", "why"),
    [
        ("4 / 2", "4 / 3", "red", "Cell 1: AssertionError: a half"),
        ("6 / 3", "6 / 2", "green", "no check noticed"),
        ("4 / 2", "four / 2", "trivial", "Cell 0: NameError: name 'four'"),
        ("5 / 2", "5 / 3", "gone", "occurs 0 times"),
        ("half", "halve", "gone", "occurs 3 times"),
    ],
    ids=["red", "green", "trivial", "gone", "more"],
)
def test_verdict(root: Path, old: str, new: str, state: str, why: str) -> None:
    found, reason = mutants.run({"notebook": NAME, "old": old, "new": new}, root)
    assert found == state and why in reason


def test_exit_status(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    states = {MUTANTS[0]["what"]: ("green", "no check noticed")}
    monkeypatch.setattr(
        mutants, "run", lambda mutant: states.get(mutant["what"], ("red", "Cell 1: …"))
    )
    assert mutants.main([]) == 1
    count = len(MUTANTS)
    assert f"{count - 1} of {count} planted mistakes" in capsys.readouterr().out
    assert mutants.main(["ch02_neural_networks"]) == 0
    assert "ch01" not in capsys.readouterr().out
    assert mutants.main(["ch99"]) == 2


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["what"])
def test_listed_mistake_can_be_planted(mutant: mutants.Mutant) -> None:
    assert mutant.keys() == {"notebook", "what", "kind", "old", "new"}
    assert mutant["kind"] in ("gross", "subtle")
    for cell in mutants.plant(mutant).cells:
        if cell.cell_type == "code" and mutant["new"] in cell.source:
            ast.parse(cell.source)


def test_each_notebook_has_two_and_a_subtle_one() -> None:
    count = Counter(mutant["notebook"] for mutant in MUTANTS)
    assert min(count.values()) >= 2
    subtle = {mutant["notebook"] for mutant in MUTANTS if mutant["kind"] == "subtle"}
    assert subtle == count.keys()
