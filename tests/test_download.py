"""`data/download.py` against a server on this machine that fails in every way."""

import contextlib
import importlib.util
import io
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import wave
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data"))
import download  # noqa: E402

CONTENT = Random(1234).randbytes(300_000)
WRONG = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
HALF = len(CONTENT) // 2


class Handler(BaseHTTPRequestHandler):
    """Answers /name with the method `name`."""

    protocol_version = "HTTP/1.0"  # the end of an answer closes the connection

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        """Note the request and the bytes sent, then answer."""
        self.server.seen.append(self)
        self.sent = 0
        with contextlib.suppress(ConnectionError):
            getattr(self, self.path.strip("/"))()

    @property
    def start(self) -> int:
        """The first byte that is asked for."""
        return int(self.headers.get("Range", "bytes=0-")[6:-1])

    def head(self, status: int = 200, length: int | None = None, **headers) -> None:
        """Send the status line and the headers."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self, content: bytes) -> None:
        """Send and count bytes."""
        self.wfile.write(content)
        self.sent += len(content)

    def range(self, content: bytes, first: int | None = None) -> None:
        """Send what is asked for, or pretend that it starts at `first`."""
        rest = content[self.start :]
        if not self.start:
            self.head(200, len(rest))
        else:
            first = self.start if first is None else first
            span = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self.head(206, len(rest), Content_Range=span)
        self.body(rest)

    def good(self) -> None:
        """All is well, with ranges."""
        self.range(CONTENT)

    def whole(self) -> None:
        """All is well, but ranges are ignored."""
        self.head(200, len(CONTENT))
        self.body(CONTENT)

    def unannounced(self) -> None:
        """All is well, but the length is not said."""
        self.head()
        self.body(CONTENT)

    def dies(self) -> None:
        """Half of the file, then the connection closes; the rest if asked for."""
        if self.start:
            self.range(CONTENT)
        else:
            self.head(200, len(CONTENT))
            self.body(CONTENT[:HALF])

    def dies_unannounced(self) -> None:
        """Half of the file, and nobody says how long it should be."""
        self.head()
        self.body(CONTENT[:HALF])

    def dies_in_chunk(self) -> None:
        """Half of the file, in the middle of a chunk."""
        self.protocol_version = "HTTP/1.1"
        self.head(200, Transfer_Encoding="chunked", Connection="close")
        self.wfile.write(b"%x\r\n" % len(CONTENT))
        self.body(CONTENT[:HALF])

    def stalls(self) -> None:
        """Half of the file, then silence on an open connection."""
        self.head(200, len(CONTENT))
        self.body(CONTENT[:HALF])
        self.server.over.wait(10)

    def silent(self) -> None:
        """No answer at all."""
        self.server.over.wait(10)

    def gone(self) -> None:
        """404."""
        self.send_error(404)

    def wrong(self) -> None:
        """The right length, one bit wrong."""
        self.range(WRONG)

    def wrong_rest(self) -> None:
        """Wrong when resumed, right from the beginning."""
        self.range(WRONG if self.start else CONTENT)

    def too_long(self) -> None:
        """More than the file, and the length is not said."""
        self.head()
        self.body(CONTENT + bytes(100_000))

    def endless(self) -> None:
        """Far more than the file, as long as somebody listens."""
        self.head()
        for _ in range(1000):
            self.body(bytes(1 << 16))

    def other_size(self) -> None:
        """Another file."""
        self.head(200, 1000)
        self.body(bytes(1000))

    def portal(self) -> None:
        """A page to log in, as hotels send."""
        self.head(200, Content_Type="text/html; charset=utf-8")
        self.body(b"<html>Welcome!</html>")

    def no_range(self) -> None:
        """416 when resumed."""
        self.head(416) if self.start else self.good()

    def other_range(self) -> None:
        """Another range than asked for."""
        self.range(CONTENT, first=7)

    def referer(self) -> None:
        """403 for those who come from elsewhere."""
        ok = self.headers.get("Referer") == "https://example.org/"
        self.good() if ok else self.send_error(403)

    def unchecked(self) -> None:
        """A file without a checksum, whole the second time."""
        self.body(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT[: HALF * len(self.server.seen)])


class Server(ThreadingHTTPServer):
    """The server, with what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[Handler] = []
        self.over = threading.Event()

    def url(self, name: str) -> str:
        """The address that `Handler.name` answers."""
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def asked(self) -> list[tuple[str, str | None, int]]:
        """What was asked for, from where on, and how many bytes were sent."""
        return [(h.path[1:], h.headers.get("Range"), h.sent) for h in self.seen]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on the loopback interface."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "TIMEOUT", 10)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join(10)


@pytest.fixture
def make(server: Server, tmp_path: Path):
    """A function that makes the entry for a file from the names of its mirrors."""

    def entry(*names: str, **changes) -> download.File:
        values = {
            "name": "digits.bin",
            "urls": tuple(n if "://" in n else server.url(n) for n in names),
            "path": tmp_path / "cache" / "digits.bin",
            "size": len(CONTENT),
            "sha256": sha256(CONTENT).hexdigest(),
        }
        return download.File(**{**values, **changes})

    return entry


def run(*files: download.File, argv: tuple[str, ...] = ()) -> int:
    """The exit status of the command line for these files."""
    return download.main(argv, files=list(files))


def start(file: download.File, begin: bytes = CONTENT[:HALF]) -> Path:
    """Leave a partial file as an interrupted run does."""
    part = download.part_of(file)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(begin)
    return part


def one_line(capsys: pytest.CaptureFixture[str], name: str = "digits.bin") -> str:
    """The one line that was printed about a failure; it begins with the name."""
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1 and err.startswith(f"{name}: "), err
    return err


def closed_port() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/file"


# --- What goes well --------------------------------------------------------------


@pytest.mark.parametrize("mirror", ["good", "whole", "unannounced"])
def test_download(make, server, capsys, mirror):
    """The file arrives, only it, and the second run does not fetch it again."""
    file = make(mirror)
    assert run(file) == 0
    assert capsys.readouterr() == (f"digits.bin: downloaded to {file.path}\n", "")
    assert file.path.read_bytes() == CONTENT
    assert os.listdir(file.path.parent) == ["digits.bin"]
    assert run(file) == 0
    assert capsys.readouterr() == ("digits.bin: present\n", "")
    assert len(server.seen) == 1


def test_mirrors_in_order(make, server):
    """The first good one ends it."""
    file = make(closed_port(), "gone", "wrong", "good", "whole")
    assert run(file) == 0
    assert [name for name, *_ in server.asked()] == ["gone", "wrong", "good"]


def test_resume(make, server, capsys):
    """What broke off goes on where it ended: only the rest is sent."""
    file = make("dies")
    assert run(file) == 1
    line = one_line(capsys)
    assert f"broke off after {HALF:,} of {len(CONTENT):,} bytes" in line
    assert "(it resumes)" in line
    assert not file.path.exists()
    assert run(file) == 0
    assert file.path.read_bytes() == CONTENT
    rest = len(CONTENT) - HALF
    assert server.asked() == [("dies", None, HALF), ("dies", f"bytes={HALF}-", rest)]


def test_resume_at_the_next_mirror(make, server):
    """A mirror goes on with what another one began."""
    file = make("dies", "good")
    assert run(file) == 0
    assert server.asked()[1] == ("good", f"bytes={HALF}-", len(CONTENT) - HALF)


@pytest.mark.parametrize("mirror", ["whole", "no_range", "other_range", "wrong_rest"])
def test_start_anew(make, server, mirror):
    """No ranges, a refused or another range, a wrong checksum: from the beginning."""
    file = make(mirror)
    start(file)
    assert run(file) == 0
    assert file.path.read_bytes() == CONTENT
    assert server.asked()[0][1] == f"bytes={HALF}-"
    assert len(server.seen) == (1 if mirror == "whole" else 2)
    assert server.asked()[-1][2] == len(CONTENT)


def test_part_too_long(make, server):
    """A partial file longer than the file is none."""
    file = make("good")
    start(file, CONTENT + b"x")
    assert run(file) == 0
    assert server.asked() == [("good", None, len(CONTENT))]


def test_part_complete(make, server):
    """Stopped between the last byte and the new name: nothing is fetched."""
    file = make("good")
    start(file, CONTENT)
    assert run(file) == 0
    assert file.path.read_bytes() == CONTENT and not server.seen


def test_part_of_garbage(make, server):
    """A partial file of the right length and wrong content costs one new start."""
    file = make("good")
    start(file, WRONG)
    assert run(file) == 0
    assert server.asked() == [("good", None, len(CONTENT))]


def test_wrong_file_is_replaced(make, capsys):
    """A file under the final name counts only if it is the right one."""
    file = make("good")
    file.path.parent.mkdir()
    file.path.write_bytes(WRONG)
    assert run(file, argv=("--list",)) == 0
    assert " wrong " in capsys.readouterr().out
    assert run(file) == 0
    assert file.path.read_bytes() == CONTENT


def test_headers(make):
    """A mirror that wants its own Referer gets it."""
    assert run(make("referer")) == 1
    assert run(make("referer", headers={"Referer": "https://example.org/"})) == 0


def test_without_checksum(make, server, capsys):
    """A file that is checked by its content starts anew each time."""

    def check(path: Path) -> str | None:
        return None if path.stat().st_size == 2 * HALF else "is too short"

    file = make("unchecked", sha256="", size=HALF, check=check)
    assert run(file) == 1
    assert "sent a file that is too short" in one_line(capsys)
    assert os.listdir(file.path.parent) == []
    start(file, CONTENT[:1000])
    assert run(file) == 0
    assert [asked[1] for asked in server.asked()] == [None, None]
    file.path.unlink()
    assert run(make("dies", sha256="", check=check)) == 1
    assert os.listdir(file.path.parent) == []


# --- What goes wrong -------------------------------------------------------------


@pytest.mark.parametrize(
    "mirror, reason",
    [
        ("gone", "answered 404 Not Found"),
        ("wrong", "sent a file that has the wrong SHA-256"),
        ("dies", "broke off after 150,000 of 300,000 bytes"),
        ("dies_unannounced", "broke off after 150,000 of 300,000 bytes"),
        ("dies_in_chunk", "broke the connection"),
        ("stalls", "sent nothing for 0.3 s"),
        ("silent", "cannot be reached (timed out)"),
        ("too_long", "sent more than 300,000 bytes"),
        ("other_size", "offers 1,000 bytes, not 300,000"),
        ("portal", "sent a web page instead of the file"),
    ],
)
def test_failure(make, server, capsys, monkeypatch, mirror, reason):
    """One line that names the file and the host; nothing under the final name."""
    if mirror in ("stalls", "silent"):
        monkeypatch.setattr(download, "TIMEOUT", 0.3)
    file = make(mirror)
    assert run(file) == 1
    line = one_line(capsys)
    assert f"127.0.0.1:{server.server_port} {reason}" in line
    assert "un this again" in line and str(file.path) in line
    network = mirror.startswith("dies") or mirror in ("stalls", "silent")
    assert ("Check the network" in line) == network
    left = [] if mirror in ("gone", "wrong", "other_size", "portal", "silent") else 1
    assert os.listdir(file.path.parent) == (left and ["digits.bin.part"])
    assert len(server.seen) == 1


def test_no_network(make, capsys):
    """Fast, and with the advice to look at the network."""
    before = time.perf_counter()
    assert run(make(closed_port(), closed_port())) == 1
    assert time.perf_counter() - before < 5
    line = one_line(capsys)
    assert "cannot be reached (Connection refused)" in line
    assert "Check the network" in line


def test_endless(make, server):
    """A server that does not stop is left."""
    assert run(make("endless")) == 1
    server.over.set()
    server.server_close()  # waits for its threads
    assert server.asked()[0][2] < 32 << 20  # what the sockets hold, of 62 MiB


def test_part_survives(make, monkeypatch):
    """Neither a login page nor a mirror with another file costs what is there."""
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    file = make("portal", "other_size", "gone", "silent", closed_port())
    part = start(file)
    assert run(file) == 1
    assert part.read_bytes() == CONTENT[:HALF]


def test_the_others_go_on(make, tmp_path, capsys):
    """One failure of three: two files, exit status 1, a last line that counts."""
    paths = [tmp_path / f"{i}.bin" for i in range(3)]
    mirrors = ["good", "gone", "whole"]
    files = [make(m, name=p.name, path=p) for m, p in zip(mirrors, paths)]
    assert run(*files) == 1
    assert [path.exists() for path in paths] == [True, False, True]
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("1.bin: ")
    assert err[1:] == ["1 of 3 files could not be fetched"]


def test_no_space(make, server, capsys, monkeypatch):
    """Too little space is noticed before the first byte."""
    usage = shutil.disk_usage(ROOT)._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    file = make("good")
    assert run(file) == 1
    line = one_line(capsys)
    assert "needs 300kB" in line and "has 1.00kB left: free some space" in line
    assert not server.seen


def test_full_disk(make, capsys):
    """The disk fills up on the way; with more space it goes on."""
    file = make("good")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # EFBIG, not ENOSPC
    try:
        assert run(file) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the disk is full" in one_line(capsys)
    assert download.part_of(file).stat().st_size == 100_000
    assert not file.path.exists()
    assert run(file) == 0
    with open("/dev/full", "wb", buffering=0) as full:
        with pytest.raises(OSError) as error:
            download.append(full, b"x")
    assert "the disk is full" in download.advice(file, error.value)


def test_folder_cannot_be_made(make, tmp_path, capsys):
    """A file where the folder should be: root ignores permissions, but not this."""
    (tmp_path / "cache").write_text("in the way")
    assert run(make("good", variable="KERAS_HOME")) == 1
    line = one_line(capsys)
    assert str(tmp_path / "cache") in line and "set KERAS_HOME" in line
    deep = tmp_path / "cache" / "a" / "digits.bin"
    assert run(make("good", path=deep)) == 1
    assert "Not a directory" in one_line(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(make, tmp_path, capsys):
    """A folder that is not ours to write to."""
    (tmp_path / "cache").mkdir(mode=0o500)
    assert run(make("good")) == 1
    assert "Permission denied" in one_line(capsys)


def test_folder_in_the_way(make, capsys):
    """A folder under the file's own name."""
    file = make("good")
    file.path.mkdir(parents=True)
    assert run(file) == 1
    assert "is a folder: move it away" in one_line(capsys)


def test_another_run(make, server, capsys):
    """While one run fetches it, another one says so and leaves it alone."""
    file = make("good")
    part = start(file)
    with download.locked(part):
        assert run(file) == 1
    assert "another run is fetching it" in one_line(capsys)
    assert part.read_bytes() == CONTENT[:HALF] and not server.seen
    assert run(file) == 0


def test_another_run_was_faster(make, server, capsys, monkeypatch):
    """The other run ends between the look at the file, the open and the lock."""
    file, flock, state = make("good"), download.fcntl.flock, download.state

    def late(part: io.FileIO, operation: int) -> None:
        os.replace(download.part_of(file), file.path)
        flock(part, operation)

    with monkeypatch.context() as patch:
        patch.setattr(download.fcntl, "flock", late)
        assert run(file) == 1
    assert "another run has just fetched it" in one_line(capsys)
    file.path.write_bytes(CONTENT)
    states = iter(["missing"])
    monkeypatch.setattr(download, "state", lambda file: next(states, state(file)))
    assert run(file) == 0
    assert capsys.readouterr().out == "digits.bin: present\n"
    assert os.listdir(file.path.parent) == ["digits.bin"] and not server.seen


def test_runs_at_once(make):
    """Of eight runs at least one succeeds, and none spoils it."""
    file = make("good")
    with ThreadPoolExecutor(8) as pool:
        status = list(pool.map(lambda _: run(file), range(8)))
    assert 0 in status
    assert file.path.read_bytes() == CONTENT
    assert os.listdir(file.path.parent) == ["digits.bin"]


# --- Archives --------------------------------------------------------------------


def tar(*members: tuple[str, bytes]) -> bytes:
    """A .tar.gz with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def place(make, tmp_path: Path, archive: bytes, **changes) -> download.File:
    """An entry for an archive that is already there; `folder` is named batches."""
    file = make(
        closed_port(),
        path=tmp_path / "cache" / "batches.tar.gz",
        folder=tmp_path / "root" / "batches",
        size=len(archive),
        sha256=sha256(archive).hexdigest(),
        **changes,
    )
    file.path.parent.mkdir()
    file.path.write_bytes(archive)
    return file


def test_unpack(make, tmp_path, capsys):
    """An archive is unpacked, also if only its folder is missing."""
    file = place(make, tmp_path, tar(("batches/a", b"A"), ("batches/b", b"B")))
    assert run(file, argv=("--list",)) == 0
    assert " packed " in capsys.readouterr().out
    assert run(file) == 0
    assert capsys.readouterr().out == f"digits.bin: unpacked to {file.folder}\n"
    assert (file.folder / "b").read_bytes() == b"B"
    assert os.listdir(file.folder.parent) == ["batches"]
    assert run(file) == 0
    assert capsys.readouterr().out == "digits.bin: present\n"
    assert os.listdir(file.path.parent) == [file.path.name]


@pytest.mark.parametrize(
    "members, reason",
    [
        ([("batches/a", b"A"), ("../evil", b"E")], "outside the destination"),
        ([("batches/a", b"A"), ("/tmp/../../evil", b"E")], "outside the destination"),
        ([("other/a", b"A")], "has no folder batches"),
    ],
)
def test_unpack_refuses(make, tmp_path, capsys, members, reason):
    """Names that lead elsewhere: one line, and no half of a folder."""
    file = place(make, tmp_path, tar(*members))
    assert run(file) == 1
    assert reason in one_line(capsys)
    assert os.listdir(file.folder.parent) == []
    assert sorted(os.listdir(tmp_path)) == ["cache", "root"]


def test_unpack_is_atomic(make, tmp_path, monkeypatch):
    """Interrupted in the middle, unpacking leaves the folder as it was."""
    file = place(make, tmp_path, tar(("batches/a", b"A"), ("batches/b", b"B")))
    extract_one = tarfile.TarFile._extract_one
    calls = []

    def interrupt(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return extract_one(*args, **kwargs)

    monkeypatch.setattr(tarfile.TarFile, "_extract_one", interrupt)
    assert run(file) == 130
    assert os.listdir(file.folder.parent) == []
    assert run(file) == 0
    assert sorted(os.listdir(file.folder)) == ["a", "b"]


def add_recordings(path: Path, count: int, rate: int = 8000) -> None:
    """Add `count` short recordings to an archive."""
    recording = io.BytesIO()
    with wave.open(recording, "wb") as content:
        content.setparams((1, 2, rate, 0, "NONE", ""))
        content.writeframes(bytes(20))
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(count):
            archive.writestr(f"digits/{rate}_{count}_{i}.wav", recording.getvalue())


def test_spoken_digits(tmp_path):
    """Exactly 3,000 recordings at 8 kHz, undamaged, none that leads elsewhere."""
    check, path = download.spoken_digits_complaint, tmp_path / "digits.zip"
    add_recordings(path, 2999)
    short = path.read_bytes()
    assert "has 2,999 WAV files at 8,000 Hz" in check(path)
    add_recordings(path, 1)
    whole = path.read_bytes()
    assert check(path) is None
    for name in ("../evil", "/evil", "digits/../../evil"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"E")
        assert f"would unpack to {name}" in check(path)
    path.write_bytes(short)
    add_recordings(path, 1, rate=16000)
    assert "has 3,000 WAV files at 8,000, 16,000 Hz" in check(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in check(path)
    path.write_bytes(whole.replace(b"WAVEfmt", b"WAVEfmT", 1))
    assert "is damaged (Bad CRC-32" in check(path)


def test_war_and_peace(tmp_path):
    """The whole book between the markers of its publisher."""
    check, path = download.war_and_peace_complaint, tmp_path / "book.txt"
    line = "PROJECT GUTENBERG EBOOK WAR AND PEACE ***\n"
    book = f"\ufeff*** START OF THE {line}{'words ' * 540_000}\n*** END OF THE {line}"
    path.write_text(book, encoding="utf-8")
    assert check(path) is None
    path.write_text(book.replace(" OF THE ", " OF THIS "), encoding="utf-8")
    assert check(path) is None
    path.write_text(book[:3_100_000], encoding="utf-8")
    assert "markers" in check(path)
    path.write_text(book.replace("WAR AND PEACE", "EMMA"), encoding="utf-8")
    assert "markers" in check(path)
    path.write_text(book.replace("words ", "word"), encoding="utf-8")
    assert "has 2,160," in check(path)
    path.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in check(path)


# --- The command line and the table ----------------------------------------------


def test_names(make, tmp_path, server, capsys):
    """Only what is named is fetched; unknown names are told, and nothing is."""
    paths = [tmp_path / name for name in ("a.bin", "b.bin")]
    files = [make("good", name=path.name, path=path) for path in paths]
    assert run(*files, argv=("a.bin", "B.bin")) == 2
    line = one_line(capsys, "B.bin")
    assert "Did you mean b.bin? There are: a.bin, b.bin" in line
    assert not server.seen
    assert run(*files, argv=("b.bin",)) == 0
    assert [path.exists() for path in paths] == [False, True]
    assert run(*files) == 0
    assert capsys.readouterr().err == ""


def test_list(make, tmp_path, server, capsys):
    """Name, size, state and place of each; nothing is fetched or made."""
    part = make("good", name="part.bin", path=tmp_path / "part.bin")
    start(part)
    free = make("good", name="free.txt", path=tmp_path / "free", sha256="", check=len)
    assert run(make("good"), part, free, argv=("--list",)) == 0
    out = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"digits.bin +300kB +missing +{tmp_path}/cache/\S+", out[0])
    assert re.fullmatch(rf"part.bin +300kB +50% there +{tmp_path}/part.bin", out[1])
    assert re.fullmatch(rf"free.txt +~300kB +missing +{tmp_path}/free", out[2])
    assert not server.seen and not (tmp_path / "cache").exists()


def test_command_line(tmp_path):
    """The script itself with its own table: it starts fast and lists all files."""
    environment = {**os.environ, "HOME": str(tmp_path)}
    for name in ("KERAS_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "PDL_CACHE"):
        environment.pop(name, None)
    script = [sys.executable, str(ROOT / "data" / "download.py")]
    listing = subprocess.run(
        [*script, "--list"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (listing.returncode, listing.stderr) == (0, "")
    for file in download.table():
        assert re.search(rf"^{re.escape(file.name)} .*missing", listing.stdout, re.M)
    assert f"root='{tmp_path}/.cache/python-deep-learning'" in listing.stdout
    unknown = subprocess.run(
        [*script, "mnist"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("mnist: no such file. Did you mean mnist.npz?")
    assert unknown.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_interrupt(make, server):
    """Ctrl-C in the middle of a transfer: one line, 130, and it resumes."""
    file = make("stalls")
    code = (  # tests that run in the background have it ignored
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import sys; sys.path.insert(0, sys.argv[1]); import download as d, pathlib; "
        "sys.exit(d.main([], [d.File('digits.bin', (sys.argv[2],), "
        "pathlib.Path(sys.argv[3]), 300_000, sys.argv[4])]))"
    )
    arguments = [str(ROOT / "data"), file.urls[0], str(file.path), file.sha256]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        part, limit = download.part_of(file), time.monotonic() + 30
        while not (part.exists() and part.stat().st_size == HALF):
            assert time.monotonic() < limit and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "interrupted: run this again, it resumes\n"
    assert run(make("good")) == 0
    assert server.asked()[-1] == ("good", f"bytes={HALF}-", len(CONTENT) - HALF)


def source(package: str, path: str) -> str:
    """The text of an installed module, without the seconds of its import."""
    folder = Path(importlib.util.find_spec(package).origin).parent
    return (folder / path).read_text(encoding="utf-8")


def test_places(monkeypatch, tmp_path):
    """Every file goes where the installed Keras, PyTorch and torchvision look."""
    for name in ("KERAS_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "PDL_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    files = {file.name: file for file in download.table()}
    mnist, cifar = files["mnist.npz"], files["cifar-10-python.tar.gz"]
    datasets, root = tmp_path / ".keras/datasets", download.cache_root()
    assert mnist.path == datasets / "mnist.npz"
    assert cifar.path == datasets / "cifar-10-batches-py-target_archive"
    assert cifar.folder == root / "cifar-10-batches-py"
    assert root == tmp_path / ".cache/python-deep-learning"
    checkpoints = tmp_path / ".cache/torch/hub/checkpoints"
    assert files["vgg19-dcbb9e9d.pth"].path.parent == checkpoints
    for name, variable in [
        ("KERAS_HOME", "K"),
        ("TORCH_HOME", "T"),
        ("PDL_CACHE", "P"),
    ]:
        monkeypatch.setenv(name, str(tmp_path / variable))
    tops = {f.name: f.path.relative_to(tmp_path).parts[0] for f in download.table()}
    assert tops["mnist.npz"] == tops["cifar-10-python.tar.gz"] == "K"
    assert tops["vgg19-dcbb9e9d.pth"] == tops["resnet18-f37072fd.pth"] == "T"
    assert sorted(tops.values()) == ["K"] * 2 + ["P"] * 7 + ["T"] * 2

    text = source("keras", "src/datasets/cifar10.py")
    assert 'dirname = "cifar-10-batches-py-target"' in text
    assert cifar.sha256 in text and cifar.urls[-1] in text
    text = source("keras", "src/datasets/mnist.py")
    assert mnist.sha256 in text and mnist.urls[0].removesuffix("mnist.npz") in text
    text = source("keras", "src/utils/file_utils.py")
    assert 'f"{fname}_archive"' in text and 'cache_subdir="datasets"' in text
    text = source("torchvision", "datasets/cifar.py")
    assert f'base_folder = "{cifar.folder.name}"' in text
    for module, name in [("resnet", "resnet18-f37072fd"), ("vgg", "vgg19-dcbb9e9d")]:
        file = files[f"{name}.pth"]
        assert file.urls[0] in source("torchvision", f"models/{module}.py")
        assert name.endswith(f"-{file.sha256}")


def test_table():
    """Names and places are unique; what is not checked by content has a checksum."""
    files = download.table()
    assert len({f.name for f in files}) == len({f.path for f in files}) == len(files)
    for file in files:
        assert all(url.startswith("https://") for url in file.urls)
        assert bool(file.check) != bool(
            re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", file.sha256)
        )
        assert file.size > 0 and bool(file.folder) == bool(file.unpacked)
