"""Drive CarRacing with the arrow keys and record it, for notebook 10.6.

python record.py [--seed N] [--out FOLDER]

Up: gas. Down: brake. Left and right: steer. Backspace: throw this drive away and
begin it again. Return: on to the next track. Escape, or closing the window: the end.
Recording begins with the first key of a drive, and all of it is saved as it goes.

Each drive becomes one file drive_SEED.npz (a number is added if there is one already):
frames    (n, 84, 84) uint8, what was seen: gray, without the dashboard
actions   (n,) uint8, what was done then: rows of `table`
table     (7, 3) float32, steering, gas and brake of each action
seed      () int64, of the track
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
try:
    import gymnasium as gym
    import numpy as np
    import pygame
except ImportError as error:
    sys.exit(f"error: {error}: pip install -r requirements.txt")

# Steering (-1 is left), gas, brake. From 0.9 on a brake locks the wheels.
TABLE = np.array(
    [
        [0, 0, 0],  # none
        [-1, 0, 0],  # left
        [-1, 0, 0.5],  # left and brake
        [1, 0, 0],  # right
        [1, 0, 0.5],  # right and brake
        [0, 1, 0],  # gas
        [0, 0, 0.5],  # brake
    ],
    np.float32,
)
HELP = "arrow keys drive, backspace: again, return: next track, escape: the end"
SHORTEST = 10  # frames; what is shorter was no drive
KEYS = {
    "up": pygame.K_UP,
    "down": pygame.K_DOWN,
    "left": pygame.K_LEFT,
    "right": pygame.K_RIGHT,
    "return": pygame.K_RETURN,
    "backspace": pygame.K_BACKSPACE,
    "escape": pygame.K_ESCAPE,
}


def fail(message: str) -> NoReturn:
    """Print one line and leave with exit status 1."""
    sys.exit(f"error: {message}")


def to_action(held: set[int]) -> int:
    """The row of TABLE for the keys that are down. Steering goes before gas."""
    steer = (pygame.K_RIGHT in held) - (pygame.K_LEFT in held)
    brake = pygame.K_DOWN in held
    if steer:
        return (3 if steer > 0 else 1) + brake
    if brake:
        return 6
    return 5 if pygame.K_UP in held else 0


def shrink(observation: np.ndarray) -> np.ndarray:
    """A gray picture (84, 84) of bytes from the environment's (96, 96, 3)."""
    gray = observation[:84, 6:90] @ np.array([0.299, 0.587, 0.114])
    return np.rint(gray).astype(np.uint8)


class Drive:
    """The frames and actions of one drive, and the file they are saved to."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed, self.frames, self.actions = seed, [], []
        self.path, number = folder / f"drive_{seed:06d}.npz", 1
        while self.path.exists():
            number += 1
            self.path = folder / f"drive_{seed:06d}_{number}.npz"

    def add(self, observation: np.ndarray, action: int) -> None:
        """Append what is seen and what is done about it."""
        self.frames.append(shrink(observation))
        self.actions.append(action)

    def save(self) -> None:
        """Write all of it under another name first, so that no file is ever half."""
        if len(self.actions) < SHORTEST:
            return
        temporary = self.path.with_name(f".{self.path.stem}.tmp")
        try:
            with temporary.open("wb") as file:
                np.savez_compressed(
                    file,
                    frames=np.array(self.frames, np.uint8),
                    actions=np.array(self.actions, np.uint8),
                    table=TABLE,
                    seed=np.int64(self.seed),
                )
            os.replace(temporary, self.path)
        except OSError as error:
            fail(f"cannot write {self.path}: {error.strerror}")

    def discard(self) -> None:
        """Forget all of it, also what was saved on the way."""
        self.frames, self.actions = [], []
        self.path.unlink(missing_ok=True)


def open_folder(path: Path) -> Path:
    """The folder for drives, made if need be; the drives in it must be of this kind."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        fail(f"--out: {path} is a file; name a folder")
    except OSError as error:
        fail(f"--out: cannot make {path}: {error.strerror}")
    if not os.access(path, os.W_OK):
        fail(f"--out: {path} cannot be written to")
    for file in sorted(path.glob("drive_*.npz")):
        try:
            with np.load(file, allow_pickle=False) as drive:
                same = np.array_equal(drive["table"], TABLE)
        except Exception as error:  # NumPy and zipfile raise half a dozen kinds
            fail(f"{file} is not a recording ({type(error).__name__}): move it away")
        if not same:
            fail(f"{file} has other actions: choose another folder with --out")
    return path


def next_seed(folder: Path) -> int:
    """One more than the highest seed that the folder has a drive of."""
    names = (f.stem.removeprefix("drive_") for f in folder.glob("drive_*.npz"))
    return max((int(name) + 1 for name in names if name.isdecimal()), default=0)


def key_presses(text: str) -> list[tuple[set[int], int]]:
    """Keys and for how many frames, from 'up:30 up+left:5 none:10'."""
    presses = []
    for part in text.split():
        names, _, frames = part.partition(":")
        held = {n for n in names.split("+") if n != "none"}
        if not frames.isdigit() or not held <= set(KEYS):
            raise argparse.ArgumentTypeError(
                f"{part!r} is not KEY:FRAMES with keys from {', '.join(KEYS)} or none"
            )
        presses.append(({KEYS[n] for n in held}, int(frames)))
    return presses


class Typist:
    """Sends key presses as a keyboard would, and escape after the last one."""

    def __init__(self, presses: list[tuple[set[int], int]]) -> None:
        self.plan = [held for held, frames in presses for _ in range(frames)]
        self.plan.append({pygame.K_ESCAPE})
        self.down: set[int] = set()

    def type(self) -> None:
        """Post the events that lead to the keys of the next frame."""
        held = self.plan.pop(0) if self.plan else set()
        for key in self.down - held:
            pygame.event.post(pygame.event.Event(pygame.KEYUP, key=key))
        for key in held - self.down:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key))
        self.down = held


def record(
    env: gym.Env, folder: Path, seed: int, autosave: int, typist: Typist | None
) -> int:
    """Let a person drive track after track; return the number of frames kept."""
    held: set[int] = set()
    total = 0
    while True:
        observation, _ = env.reset(seed=seed)
        drive, over, again, end = Drive(folder, seed), False, False, False
        try:
            while not (over or again or end):
                if typist:
                    typist.type()
                for event in pygame.event.get():
                    if event.type == pygame.KEYDOWN:
                        held.add(event.key)
                        again |= event.key == pygame.K_BACKSPACE
                        over |= event.key == pygame.K_RETURN
                        end |= event.key == pygame.K_ESCAPE
                    elif event.type == pygame.KEYUP:
                        held.discard(event.key)
                    elif event.type == pygame.WINDOWFOCUSLOST:
                        held.clear()  # the key-up event goes to another window
                    end |= event.type == pygame.QUIT
                if over or again or end:
                    break
                action = to_action(held)
                if drive.actions or action:
                    drive.add(observation, action)
                step = env.step(TABLE[action])
                observation, over = step[0], step[2] or step[3]
                frames = len(drive.actions)
                if frames % 25 == 0:
                    pygame.display.set_caption(f"track {seed}, {frames} frames: {HELP}")
                if frames and frames % autosave == 0:
                    drive.save()
        except KeyboardInterrupt:
            end = True
        if again:
            drive.discard()
            continue
        drive.save()
        kept = len(drive.actions) if len(drive.actions) >= SHORTEST else 0
        total += kept
        if kept:
            print(f"{drive.path.name}: {kept} frames")
        if end:
            return total
        seed += 1


def main() -> None:
    """Read the command line, open the window, record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="first track; default: the next one")
    parser.add_argument("--out", type=Path, default="drives", metavar="FOLDER")
    parser.add_argument(
        "--autosave", type=int, default=250, metavar="N", help="every N frames"
    )
    parser.add_argument(
        "--keys", type=key_presses, help="press these: 'up:30 left:5' (for tests)"
    )
    args = parser.parse_args()
    if args.seed is not None and not 0 <= args.seed <= 999_999:
        fail(f"--seed must be from 0 to 999999, not {args.seed}")
    if args.autosave < 1:
        fail(f"--autosave must be at least 1, not {args.autosave}")
    folder = open_folder(args.out)
    seed = next_seed(folder) if args.seed is None else args.seed
    try:
        pygame.display.init()
        env = gym.make("CarRacing-v3", render_mode="human")
        env.reset(seed=seed)  # opens the window
    except pygame.error as error:
        fail(f"no window can be opened ({error}): run it on a desktop or by xvfb-run")
    total = record(
        env, folder, seed, args.autosave, Typist(args.keys or []) if args.keys else None
    )
    env.close()
    print(f"{total} frames of new drives in {folder}")


if __name__ == "__main__":
    main()
