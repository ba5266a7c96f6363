"""The tool for planted mistakes tells red from green, and its list is in order."""

import ast
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import mutants
import pytest
from nbformat import v4, write

NAME = "ch01_ml_overview/01_halving.ipynb"
MUTANTS = mutants.read_list()


CELLS = [
    "half, third, fourth = 4 / 2, 6 / 3, 8 / 4",
    "assert half == 2, 'a half'",
    "print(fourth)",  # its output is compared, and nothing looks at `third`
]
CASES = {  # old and new text, the state and what is said of it
    "red": ("4 / 2", "4 / 3", "red", "Cell 1 (assert half == 2, 'a half'): AssertionE"),
    "output": ("8 / 4", "8 / 2", "red", "Cell 2 (print(fourth)): its output changed"),
    "green": ("6 / 3", "6 / 2", "green", "no check noticed"),
    "trivial": ("4 / 2", "four / 2", "trivial", "NameError: name 'four'"),
    "gone": ("5 / 2", "5 / 3", "gone", "occurs 0 times"),
    "more": ("half", "halve", "gone", "occurs 3 times"),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """What the tool finds in each case, two at a time, in a notebook of three cells."""
    root = tmp_path_factory.mktemp("repository")
    cells = [v4.new_code_cell(source) for source in CELLS]
    cells[2].metadata["tags"] = ["nbval-check-output"]
    cells[2].execution_count = 3  # without it nbval refuses to compare
    cells[2].outputs = [v4.new_output("stream", name="stdout", text="2.0\n")]
    (root / NAME).parent.mkdir()
    write(v4.new_notebook(cells=cells), root / NAME)
    planted = [{"notebook": NAME, "old": c[0], "new": c[1]} for c in CASES.values()]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CASES, pool.map(lambda m: mutants.run(m, root), planted)))


@pytest.mark.parametrize("name", CASES)
def test_verdict(verdicts: dict[str, tuple[str, str]], name: str) -> None:
    state, why = verdicts[name]
    assert state == CASES[name][2] and CASES[name][3] in why


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
