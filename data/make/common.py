"""What every making script shares: where files go, how they are written, errors."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import numpy as np

DATA = Path(__file__).resolve().parents[1]  # the folder that ships


def fail(message: str) -> NoReturn:
    """Print one line and leave with exit status 1."""
    sys.exit(f"error: {message}")


def output_path(description: str, name: str) -> Path:
    """Read the command line, whose only option is another place for the output."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=DATA / name, help="default: data/")
    return parser.parse_args().out


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; move it to `path` if all went well."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}")
    finally:
        with suppress(OSError):  # it is gone if it was moved
            temporary.unlink()


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays compressed. NumPy dates every entry 1980-01-01: same bytes again."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    print(f"{path}: {path.stat().st_size:,} bytes")
    for key, array in arrays.items():
        print(f"  {key:<14} {array.dtype!s:<8} {array.shape}")
