"""Long training runs survive being killed: run, kill, go on."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def definitions(notebook: str, last: str) -> str:
    """Set-up, settings and all cells that define something, up to function `last`."""
    cells = json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    settings = next(k for k, s in enumerate(sources) if "SMOKE_TEST =" in s)
    kept = sources[: settings + 1]
    for source in sources[settings + 1 :]:
        names = [getattr(node, "name", None) for node in ast.parse(source).body]
        if any(names):
            kept.append(source)
        if last in names:
            return "\n\n".join(kept)
    raise ValueError(f"{notebook} defines no {last}")


def test_breakout_goes_on_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    script = tmp_path / "run.py"
    lines = definitions("ch09_drl_games/01_dqn_breakout.ipynb", "train")
    script.write_text(
        f"{lines}\n\ntrain(Agent(), Path({str(path)!r}), num_steps)\n", encoding="utf-8"
    )
    environment = os.environ | {"SMOKE_TEST": "1", "MPLBACKEND": "Agg"}
    command = [sys.executable, str(script)]
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not path.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    run.kill()
    run.wait()
    with np.load(path, allow_pickle=False) as file:
        first = dict(file)
    assert 0 < first["step"] < 2400, "it was killed too late to show anything"

    again = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0, again.stderr
    with np.load(path, allow_pickle=False) as file:
        second = dict(file)
    assert second["step"] == 2400
    np.testing.assert_array_equal(second["measures"][:, 0], [800, 1600, 2400])
    k = len(first["measures"])
    np.testing.assert_array_equal(second["measures"][:k], first["measures"])
    assert (np.diff(second["scores"][:, 0]) >= 0).all()
    assert f"step {int(first['step'])}:" not in again.stdout, "it began once more"
    assert not list(tmp_path.glob("*.partial"))


def test_self_play_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Killed and resumed, a run of AlphaZero ends as one that was left alone."""
    lines = definitions("ch09_drl_games/05_alphazero.ipynb", "train")
    script = tmp_path / "run.py"
    script.write_text(
        f"""{lines}

import sys
use_bfloat16 = False
small = replace(
    tic_tac_toe_settings, num_iterations=12, num_games=16, num_updates=5,
    compare_every=6, num_simulations=20,
)
run = train(tic_tac_toe, small, Path(sys.argv[1]))
kept = [row[:4] + row[6:] for row in run.history]  # without the clock
sizes = [float(p.detach().double().norm()) for p in run.network.parameters()]
print(json.dumps([kept, run.comparisons, sorted(run.snapshots), sizes]))
""",
        encoding="utf-8",
    )
    environment = os.environ | {
        "SMOKE_TEST": "1",
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(script)]
    path = tmp_path / "run.pt"
    run = subprocess.Popen(
        [*command, str(path)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not path.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    run.kill()
    run.wait()
    (tmp_path / "run.partial").unlink(missing_ok=True)

    def finish(path: Path) -> tuple[str, list]:
        """Run to the end; what is printed before the last line, and that line."""
        done = subprocess.run(
            [*command, str(path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        *before, last = done.stdout.splitlines()
        return "\n".join(before), json.loads(last)

    said, resumed = finish(path)
    assert "going on after iteration" in said, "it began once more"
    _, whole = finish(tmp_path / "whole.pt")
    assert len(whole[0]) == 12 and whole[2] == [0, 6, 12]
    assert resumed[2] == whole[2]
    for a, b in zip(resumed, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    assert not list(tmp_path.glob("*.partial"))
