"""How pytest and nbval run the notebooks: small mode, no cell after a failed one."""

import os
import time
from pathlib import Path
from queue import Empty

import pytest
from nbval.kernel import RunningKernel

# The kernels inherit these. In full mode, where a cell may take long:
# SMOKE_TEST=0 pytest --nbval-cell-timeout=36000 --timeout=0 ch04_cnn
os.environ.setdefault("SMOKE_TEST", "1")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # two kernels share a GPU
# Each worker's kernel has its share of the cores. OpenMP's threads wait for each other
# at every operation; two kernels that want all cores cost each other several times the
# work. (Only in workers: they inherit what the process that starts them sets.)
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    WORKERS = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    SHARE = max(1, (os.cpu_count() or 1) // WORKERS)
    os.environ.setdefault("OMP_NUM_THREADS", str(SHARE))

FAILED = pytest.StashKey[str]()
SLOW = Path(__file__).parent / "tests" / "slow.txt"
get_message = RunningKernel.get_message


def get_message_of_the_living(
    self: RunningKernel, stream: str, timeout: float | None = None
) -> dict:
    """nbval's get_message, but a kernel that has died is not waited for.

    Raises RuntimeError then, and queue.Empty after `timeout` seconds as ever.
    """
    end = time.monotonic() + (float("inf") if timeout is None else timeout)
    while True:
        alive = self.is_alive()  # asked first: its last words may be waiting
        try:
            return get_message(self, stream, min(1, max(0, end - time.monotonic())))
        except Empty:
            if not alive:
                code = self.km.provisioner.process.returncode
                raise RuntimeError(
                    f"the kernel died in this cell (exit status {code}); -9 is what "
                    "Linux does when the memory is full"
                ) from None
            if time.monotonic() >= end:
                raise


RunningKernel.get_message = get_message_of_the_living


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the notebooks that take longest first, so that no core idles at the end."""
    names = SLOW.read_text().splitlines() if SLOW.exists() else []
    places = {str(SLOW.parents[1] / name): place for place, name in enumerate(names)}
    items.sort(key=lambda item: places.get(str(item.path), len(places)))


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
