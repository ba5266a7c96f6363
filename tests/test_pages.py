"""The pages agree with the tree: links lead somewhere, every make target is real."""

import re
from pathlib import Path

import pytest
from rules import ROOT

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("[!.]*/README.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    broken = [link for link in links if not (page.parent / link).exists()]
    assert not broken, f"{page.relative_to(ROOT)} links to {broken}"


def test_make_targets_are_real() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`make ([a-z]+)", (ROOT / "README.md").read_text()))
    assert {"run", "test"} <= named
    assert named <= set(re.findall(r"^([a-z]+):", makefile, re.M))


def test_ten_chapters() -> None:
    chapters = sorted(path.name for path in ROOT.glob("ch[0-9][0-9]_*"))
    assert [name[2:4] for name in chapters] == [f"{i:02d}" for i in range(1, 11)]
    for name in chapters:
        text = (ROOT / name / "README.md").read_text()
        assert text.startswith(f"# Chapter {int(name[2:4])}: ")
        assert f"({name}/)" in (ROOT / "README.md").read_text(), f"link to {name}/"
