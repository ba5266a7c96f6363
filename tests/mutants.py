"""Plant mistakes in the notebooks, one at a time: does a check notice? (`make mutants`)

    python tests/mutants.py [--jobs 2] [CHAPTER or NOTEBOOK ...]

`mutants.toml` lists the mistakes. Each goes into a copy of its notebook, which nbval
runs in the small mode as `make test` does. Red is good: an assertion failed, or an
output that is compared changed. The exit status is 1 if a mistake survives, if its text
is no longer there, or if the notebook fails for a reason that has nothing to do with a
check, as a NameError.
"""

import argparse
import fnmatch
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".toml")
Mutant = dict[str, str]  # notebook, what, kind, old, new


def read_list(path: Path = LIST) -> list[Mutant]:
    """The planted mistakes in the order of the list."""
    return tomllib.loads(path.read_text())["mutant"]


def plant(mutant: Mutant, root: Path = ROOT) -> nbformat.NotebookNode:
    """The notebook with its mistake. Raises ValueError if the place isn't there."""
    notebook = nbformat.read(root / mutant["notebook"], as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    count = sum(cell.source.count(mutant["old"]) for cell in code)
    if count != 1:
        raise ValueError(f"its old text occurs {count} times, not once: renew it")
    for cell in code:
        cell.source = cell.source.replace(mutant["old"], mutant["new"])
    return notebook


def verdict(report: Path) -> tuple[str, str]:
    """ "red", "trivial" or "green", and why, from pytest's report in JUnit's format."""
    for case in ElementTree.parse(report).iter("testcase"):
        failure = case.find("failure")
        if failure is None:
            failure = case.find("error")
        if failure is None:
            continue
        text = re.sub(r"\x1b\[[0-9;]*m|#x1B\[[0-9;]*m", "", failure.text or "")
        raised = re.findall(r"^(\w*(?:Error|Exception|Interrupt)\b.*)", text, re.M)
        first = re.search(r"^Input:\n(.*)", text, re.M)  # of the cell's lines
        cell = f"{case.get('name')} ({first[1][:40].strip() if first else '?'})"
        if "Cell outputs differ" in text:
            return "red", f"{cell}: its output changed"
        said = re.findall(r"^Cell \d+: (.*)", text, re.M) or text.strip().splitlines()
        why = raised[-1] if raised else said[0] if said else "?"
        if where := re.findall(r"^-+> \d+ +(.*)", text, re.M):  # of IPython's traceback
            why = f"{why.rstrip(': ')}: {where[0]}"
        asserted = why.startswith("AssertionError")
        return ("red" if asserted else "trivial"), f"{cell}: {why[:160]}"
    return "green", "no check noticed"


def run(mutant: Mutant, root: Path = ROOT) -> tuple[str, str]:
    """Plant one mistake in a copy, run it and say what came of it."""
    try:
        notebook = plant(mutant, root)
    except (ValueError, OSError) as error:
        return "gone", str(error)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / mutant["notebook"]
        copy.parent.mkdir()
        nbformat.write(notebook, copy)
        for program in (root / mutant["notebook"]).parent.glob("*.py"):
            (copy.parent / program.name).symlink_to(program)  # 10.8 runs train.py
        if (root / "data").exists():
            (Path(folder) / "data").symlink_to(root / "data")
        report = Path(folder) / "report.xml"
        # The options of pyproject.toml hold, as in `make test`.
        command = [sys.executable, "-m", "pytest", "-p", "conftest", "--rootdir", ROOT]
        command += ["-c", ROOT / "pyproject.toml", "--numprocesses=0"]
        command += [f"--junitxml={report}", copy]
        environment = os.environ | {"SMOKE_TEST": "1"}
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True
        )
        if not report.exists():
            return "trivial", result.stderr.strip()[-300:]
        return verdict(report)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Plant mistakes in the notebooks.")
    parser.add_argument("places", nargs="*", default=["ch*"], help="as ch04_cnn")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args(argv)
    chosen = [
        mutant
        for mutant in read_list()
        if any(
            fnmatch.fnmatch(mutant["notebook"], place.rstrip("/") + end)
            for place in arguments.places
            for end in ("", "/*")
        )
    ]
    if not chosen:
        print(f"no planted mistake in {' '.join(arguments.places)}", file=sys.stderr)
        return 2
    bad = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            for mutant, (state, why) in zip(chosen, pool.map(run, chosen)):
                bad += state != "red"
                name = f"{mutant['notebook']}: {mutant['what']} ({mutant['kind']})"
                print(f"{state:7} {name}\n        {why}", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            return 130
    print(f"{len(chosen) - bad} of {len(chosen)} planted mistakes were noticed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
