"""record.py of chapter 10: key presses become a recording; bad input is one line.

No window is needed: SDL's dummy driver draws nowhere, and `--keys` posts the events
that a keyboard would send.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rules import ROOT

SCRIPT = ROOT / "ch10_autonomous" / "record.py"


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def run(*arguments: object, driver: str = "dummy") -> subprocess.CompletedProcess:
    """record.py with arguments, without a display."""
    environment = {**os.environ, "SDL_VIDEODRIVER": driver}
    environment.pop("DISPLAY", None)
    environment.pop("WAYLAND_DISPLAY", None)
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment
    )


@pytest.fixture(scope="module")
def record() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def test_keys_become_drives(tmp_path: Path, record: ModuleType) -> None:
    """Waiting isn't recorded; return goes on; backspace begins again; it appends."""
    keys = "none:4 up:12 left+up:2 right+down:1 return:1 none:2 down:11 backspace:1"
    ran = run("--seed", 5, "--out", tmp_path, "--keys", f"{keys} left+right+up:10")
    assert ran.returncode == 0, ran.stderr
    first, second = (arrays(f) for f in sorted(tmp_path.glob("drive_*.npz")))
    assert first["actions"].tolist() == [5] * 12 + [1] * 2 + [4]
    assert second["actions"].tolist() == [5] * 10, "left and right cancel"
    assert (first["seed"], second["seed"]) == (5, 6)
    assert first["frames"].shape == (15, 84, 84) and first["frames"].dtype == np.uint8
    env = record.gym.make("CarRacing-v3")
    observation, _ = env.reset(seed=5)
    for action in [0] * 4 + first["actions"].tolist()[:9]:
        observation = env.step(record.TABLE[action])[0]
    assert np.array_equal(first["frames"][9], record.shrink(observation)), "a slip"
    assert record.next_seed(tmp_path) == 7
    assert record.Drive(tmp_path, 5).path.name == "drive_000005_2.npz"


def test_killed_it_has_saved(tmp_path: Path) -> None:
    """Even SIGKILL leaves the frames of the last autosave, as a whole file."""
    environment = {**os.environ, "SDL_VIDEODRIVER": "dummy"}
    arguments = ("--out", tmp_path, "--autosave", 15, "--keys", "up:900")
    process = subprocess.Popen(command(*arguments), env=environment)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("drive_*.npz")) and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (path,) = tmp_path.glob("drive_*.npz")
    saved = arrays(path)
    assert len(saved["frames"]) == len(saved["actions"]) >= 15


def test_no_display(tmp_path: Path) -> None:
    ran = run("--out", tmp_path, driver="x11")
    assert ran.returncode == 1 and len(ran.stderr.splitlines()) == 1
    assert "no window can be opened" in ran.stderr


def test_bad_folders(tmp_path: Path, record: ModuleType) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="is a file"):
        record.open_folder(tmp_path / "file")
    drive = tmp_path / "drive_000001.npz"
    np.savez(drive, table=record.TABLE[:5])
    with pytest.raises(SystemExit, match="other actions"):
        record.open_folder(tmp_path)
    drive.write_bytes(drive.read_bytes()[:60])
    with pytest.raises(SystemExit, match="not a recording"):
        record.open_folder(tmp_path)


@pytest.mark.parametrize("keys", ["up", "up:x", "jump:3"])
def test_bad_keys(keys: str, record: ModuleType) -> None:
    with pytest.raises(record.argparse.ArgumentTypeError, match="KEY:FRAMES"):
        record.key_presses(keys)


def test_bad_seed(tmp_path: Path) -> None:
    ran = run("--seed", -1, "--out", tmp_path)
    assert ran.returncode == 1 and "--seed must be from 0" in ran.stderr
