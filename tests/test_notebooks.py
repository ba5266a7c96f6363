"""Every notebook keeps to the anatomy: one test for each notebook and rule."""

import pytest
from rules import ROOT, RULES, Notebook, notebooks

NOTEBOOKS = {str(path.relative_to(ROOT).with_suffix("")): path for path in notebooks()}


@pytest.fixture(scope="module", params=NOTEBOOKS.values(), ids=NOTEBOOKS)
def notebook(request: pytest.FixtureRequest) -> Notebook:
    return Notebook(request.param)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_anatomy(notebook: Notebook, rule) -> None:
    problems = rule(notebook)
    assert not problems, "\n".join([rule.__doc__, *problems])
