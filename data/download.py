"""Fetch the full datasets and the pretrained weights beforehand (`make data`).

    python data/download.py                        # everything, 1.1 GB
    python data/download.py mnist.npz coco.names   # only these
    python data/download.py --list                 # what there is, where it goes

No notebook needs this: each fetches what it uses. This does it ahead of time, from
mirrors, to where they look for it. A file gets its name once it is whole and right.

Exit status: 0 all is there, 1 something is missing, 2 wrong usage, 130 interrupted.
"""

import argparse
import difflib
import io
import os
import re
import shutil
import sys
import tarfile
import tempfile
import tomllib
import wave
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

TIMEOUT = 30  # seconds without a byte before a server counts as stalled
HOMES = {
    "KERAS_HOME": "~/.keras",
    "TORCH_HOME": "$XDG_CACHE_HOME/torch",
    "PDL_CACHE": "~/.cache/python-deep-learning",
}
DAMAGE = zipfile.BadZipFile, tarfile.TarError, zlib.error, wave.Error, EOFError
pooch.get_logger().setLevel("ERROR")


@dataclass(frozen=True)
class File:
    """One file, its mirrors in the order to try, and how to tell that it is right."""

    name: str
    urls: Sequence[str]
    path: Path
    size: int  # bytes, about
    home: str = "PDL_CACHE"  # the variable that moves it elsewhere
    sha256: str = ""  # or how it begins
    check: Callable[[Path], str | None] | None = None  # instead: what is wrong, or None
    folder: Path | None = None  # an archive is unpacked, too, in PDL_CACHE
    referer: str = ""

    def complaint(self, path: Path) -> str | None:
        """What is wrong with the content of `path`; None if it is this file."""
        if self.check:
            return self.check(path)
        right = pooch.file_hash(str(path)).startswith(self.sha256)
        return None if right else "has the wrong SHA-256"

    def state(self) -> str:
        """Verify what is there: "present", "packed", "wrong" or "missing"."""
        if not self.path.is_file():
            return "missing"
        if self.complaint(self.path):
            return "wrong"
        return "present" if not self.folder or self.folder.is_dir() else "packed"


def war_and_peace_complaint(path: Path) -> str | None:
    """What is wrong with the book's text; None if it is whole."""
    text = path.read_text(encoding="utf-8", errors="replace")
    mark = r"\*\*\* ?{} OF TH\w+ PROJECT GUTENBERG EBOOK WAR AND PEACE"
    pattern = f"{mark.format('START')}(.*){mark.format('END')}"
    book = re.search(pattern, text, re.S | re.I)
    if not book or "\ufffd" in text:
        return "lacks Project Gutenberg's START and END markers in UTF-8"
    whole = 3_000_000 < len(book[1]) < 3_500_000
    return None if whole else f"has {len(book[1]):,} characters, not about 3.2 million"


def spoken_digits_complaint(path: Path) -> str | None:
    """What is wrong with the archive of recordings; None if it is whole."""
    rates = []
    try:
        with zipfile.ZipFile(path) as archive:  # reading also compares each CRC-32
            for name in archive.namelist():
                if name.endswith(".wav"):
                    with wave.open(io.BytesIO(archive.read(name))) as recording:
                        rates.append(recording.getframerate())
    except (*DAMAGE, RuntimeError, ValueError) as error:  # also encrypted, odd names
        return f"is damaged ({error})"
    right = rates == [8000] * 3000
    return None if right else f"has {len(rates):,} WAV files at {set(rates)} Hz"


CHECKS = {  # of the files that have no fixed SHA-256
    "war_and_peace.txt": war_and_peace_complaint,
    "free-spoken-digit-dataset-1.0.10.zip": spoken_digits_complaint,
}


def table() -> list[File]:
    """Every file that the notebooks use in full mode."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    homes = {
        name: Path(os.environ.get(name, place.replace("$XDG_CACHE_HOME", cache)))
        for name, place in HOMES.items()
    }
    listed = tomllib.loads(Path(__file__).with_name("full_datasets.toml").read_text())
    for entry in listed["file"]:
        entry["path"] = homes[entry["home"]].expanduser() / entry["path"]
        if "folder" in entry:
            entry["folder"] = homes["PDL_CACHE"].expanduser() / entry["folder"]
    return [File(check=CHECKS.get(entry["name"]), **entry) for entry in listed["file"]]


def reason(error: requests.RequestException) -> str:
    """Why a mirror did not give the file."""
    if isinstance(error, requests.HTTPError):
        return f"answered {error.response.status_code} {error.response.reason}"
    if "timed out" in str(error).lower():
        return f"sent nothing for {TIMEOUT} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broke off"
    return f"cannot be reached ({type(error).__name__})"


def download(file: File) -> None:
    """Fetch it from the first mirror that gives it. Raises ValueError, OSError."""
    headers = {"Referer": file.referer} if file.referer else {}
    get = pooch.HTTPDownloader(sys.stderr.isatty(), timeout=TIMEOUT, headers=headers)
    reasons = []
    for url in file.urls:
        with tempfile.TemporaryDirectory(dir=file.path.parent) as aside:
            try:
                new = pooch.retrieve(url, None, file.path.name, aside, downloader=get)
                if not (wrong := file.complaint(Path(new))):
                    Path(new).replace(file.path)
                    return
                reasons.append(f"{urlsplit(url).netloc} sent a file that {wrong}")
            except requests.RequestException as error:
                reasons.append(f"{urlsplit(url).netloc} {reason(error)}")
    raise ValueError(
        f"{'; '.join(reasons)}. Check the network and the proxy, then run this again, "
        f"or put the file here yourself: {file.path}"
    )


def unpack(archive: Path, folder: Path) -> None:
    """Extract `archive`, which holds one folder named as `folder`, to `folder`.

    It is extracted aside and renamed at the end. Raises ValueError, OSError.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        new = Path(aside, "new", folder.name)
        try:
            if zipfile.is_zipfile(archive):
                shutil.unpack_archive(archive, new.parent, "zip")
            else:  # pooch.Untar lacks the filter, which refuses what leads elsewhere
                shutil.unpack_archive(archive, new.parent, "gztar", filter="data")
        except DAMAGE as error:
            raise ValueError(f"{archive} was refused ({error})") from None
        if not new.is_dir():
            raise ValueError(f"{archive} has no folder {folder.name}")
        if folder.exists():  # of an archive that was missing or wrong
            folder.replace(Path(aside, "old"))
        new.replace(folder)


def fetch(file: File) -> str:
    """Make the file present; return what was done. Raises ValueError, OSError."""
    if (before := file.state()) == "present":
        return before
    folder, home = file.path.parent, file.home
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if before != "packed":
            need = file.size * (3 if file.folder else 1)  # the archive, what it holds
            if shutil.disk_usage(folder).free < need:
                raise OSError("there is too little space")
            download(file)
        if not file.folder:
            return f"downloaded to {file.path}"
        folder, home = file.folder.parent, "PDL_CACHE"
        folder.mkdir(parents=True, exist_ok=True)
        unpack(file.path, file.folder)
        return f"unpacked to {file.folder}"
    except OSError as error:
        move = f"free some space, or set {home} to another folder than {folder}"
        raise OSError(f"{error} ({move})") from None


def main(argv: Sequence[str] | None = None, files: list[File] | None = None) -> int:
    """Run the command line; `files` stands in for the table in tests."""
    named = {file.name: file for file in (table() if files is None else files)}
    parser = argparse.ArgumentParser(description="Fetch the full datasets, verified.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--list", action="store_true", help="fetch nothing, list them")
    arguments = parser.parse_args(argv)
    for name in arguments.names:
        if name not in named:
            close = difflib.get_close_matches(name, named, n=1, cutoff=0.4)
            guess = f" Did you mean {close[0]}?" if close else ""
            names = ", ".join(named)
            print(f"{name}: no such file.{guess} There are: {names}", file=sys.stderr)
            return 2
    failed = False
    try:
        for file in [named[name] for name in arguments.names or named]:
            try:
                if arguments.list:
                    row = f"{file.size / 1e6:6.1f} MB  {file.state():8} {file.path}"
                    print(f"{file.name:36} {row}")
                else:
                    print(f"{file.name}: {fetch(file)}", flush=True)
            except (ValueError, OSError) as error:
                failed = True
                print(f"{file.name}: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: run this again", file=sys.stderr)
        return 130
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
