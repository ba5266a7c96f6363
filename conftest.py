"""How pytest and nbval run the notebooks: small mode, no cell after a failed one."""

import os

import pytest

# The kernels inherit these. In full mode, where a cell may take long:
# SMOKE_TEST=0 pytest --nbval-cell-timeout=36000 --timeout=0 ch04_cnn
os.environ.setdefault("SMOKE_TEST", "1")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # two kernels share a GPU

FAILED = pytest.StashKey[str]()


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> None:
    """Remember the first cell of a notebook that failed."""
    if item.path.suffix == ".ipynb" and call.excinfo is not None:
        if not call.excinfo.errisinstance(pytest.skip.Exception):
            item.parent.stash.setdefault(FAILED, item.name)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the cells after it: nbval would run on, with what is left of the kernel."""
    failed = item.parent.stash.get(FAILED, None)
    if failed is not None:
        pytest.skip(f"{failed} of this notebook failed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the slowest notebooks; --durations lists single cells and tests."""
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            name = getattr(report, "nodeid", "").split("::")[0]
            if name.endswith(".ipynb"):
                seconds[name] = seconds.get(name, 0) + getattr(report, "duration", 0)
    if seconds:
        terminalreporter.section("slowest notebooks")
        for name in sorted(seconds, key=seconds.get, reverse=True)[:12]:
            terminalreporter.write_line(f"{seconds[name]:6.1f}s {name}")
