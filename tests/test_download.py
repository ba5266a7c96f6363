"""`data/download.py` against a server on this machine that fails in every way."""

import contextlib
import errno
import importlib.util
import io
import logging
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
import wave
import zipfile
from collections.abc import Iterator
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
BODIES = {  # of the mirrors; the last two announce more than they send
    "good": CONTENT,
    "referer": CONTENT,
    "wrong": WRONG,
    "portal": b"<html>Welcome!</html>",
    "dies": CONTENT[:150_000],
    "stalls": CONTENT[:150_000],
}


class Handler(BaseHTTPRequestHandler):
    """Answers /name as the mirror `name` does."""

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        """Note the request, then answer."""
        kind = self.path[1:]
        self.server.asked.append(kind)
        if kind not in BODIES:
            return self.send_error(404)
        if kind == "referer" and self.headers.get("Referer") != "https://example.org/":
            return self.send_error(403)
        body = CONTENT if kind in ("dies", "stalls") else BODIES[kind]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(BODIES[kind])
        if kind == "stalls":
            self.server.over.wait(10)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A server on the loopback interface, with what it was asked."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.over = [], threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join(10)


@pytest.fixture
def make(server: ThreadingHTTPServer, tmp_path: Path):
    """A function that makes the entry for a file from the names of its mirrors."""

    def entry(*mirrors: str, **changes) -> download.File:
        values = {
            "name": "digits.bin",
            "urls": [f"http://127.0.0.1:{server.server_port}/{m}" for m in mirrors],
            "path": tmp_path / "cache" / "digits.bin",
            "size": len(CONTENT),
            "sha256": sha256(CONTENT).hexdigest(),
        }
        return download.File(**{**values, **changes})

    return entry


def run(*files: download.File, argv: tuple[str, ...] = ()) -> int:
    """The exit status of the command line for these files."""
    return download.main(argv, files=list(files))


def one_line(capsys: pytest.CaptureFixture[str], name: str = "digits.bin") -> str:
    """The one line that was printed about a failure; it begins with the name."""
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1 and err.startswith(f"{name}: "), err
    return err


def test_download(make, server, capsys):
    """The first good mirror gives it, only it, and it is not fetched again."""
    mirrors = ["gone", "wrong", "dies", "referer"]
    file = make(*mirrors, "good", referer="https://example.org/")
    assert run(file) == 0
    assert capsys.readouterr() == (f"digits.bin: downloaded to {file.path}\n", "")
    assert file.path.read_bytes() == CONTENT
    assert os.listdir(file.path.parent) == ["digits.bin"]
    assert run(file) == 0
    assert capsys.readouterr() == ("digits.bin: present\n", "")
    assert server.asked == mirrors
    assert not download.pooch.get_logger().isEnabledFor(logging.INFO)


def test_wrong_file_is_replaced(make, capsys):
    """A file counts only if it is right; it stays until there is a better one."""
    file = make("good", sha256=sha256(CONTENT).hexdigest()[:8])
    file.path.parent.mkdir()
    file.path.write_bytes(WRONG)
    assert run(file, argv=("--list",)) == 0
    assert " wrong " in capsys.readouterr().out
    assert run(make("gone")) == 1
    assert file.path.read_bytes() == WRONG
    assert run(file) == 0
    assert file.path.read_bytes() == CONTENT


def test_without_checksum(make, capsys):
    """A file is checked by its content before it gets its name."""
    file = make("good", check=lambda path: "is too short", sha256="")
    assert run(file) == 1
    assert "sent a file that is too short" in one_line(capsys)
    assert os.listdir(file.path.parent) == []
    assert run(make("good", check=lambda path: None, sha256="")) == 0


@pytest.mark.parametrize(
    "mirror, reason",
    [
        ("gone", "answered 404 Not Found"),
        ("referer", "answered 403 Forbidden"),
        ("wrong", "sent a file that has the wrong SHA-256"),
        ("portal", "sent a file that has the wrong SHA-256"),
        ("dies", "broke off"),
        ("stalls", "sent nothing for 0.3 s"),
        ("", "cannot be reached"),
    ],
)
def test_failure(make, tmp_path, capsys, monkeypatch, mirror, reason):
    """One line that names file and host; nothing is left; the next one is fetched."""
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    file = make(mirror) if mirror else make(urls=[nobody])
    assert run(file) == 1
    line = one_line(capsys)
    assert f"{file.urls[0].split('/')[2]} {reason}" in line and str(file.path) in line
    assert "run this again" in line
    assert os.listdir(file.path.parent) == []
    assert run(file, make("good", name="next", path=tmp_path / "next")) == 1
    assert (tmp_path / "next").is_file()


def test_no_space(make, server, capsys, monkeypatch):
    """Too little space is noticed before the first byte."""
    usage = download.shutil.disk_usage(ROOT)._replace(free=len(CONTENT) - 1)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    file = make("good", home="KERAS_HOME")
    assert run(file) == 1
    line = one_line(capsys)
    place = f"set KERAS_HOME to another folder than {file.path.parent}"
    assert "too little space" in line and place in line
    assert not server.asked


@pytest.mark.parametrize("status", [1, 130])
def test_breaks_in_the_middle(make, capsys, monkeypatch, status):
    """A full disk or Ctrl-C in a transfer: one line, and nothing is left behind."""

    def transfer(self: object, url: str, output: str, pooch: object) -> None:
        Path(output).write_bytes(CONTENT[:1000])
        raise KeyboardInterrupt if status == 130 else OSError(errno.ENOSPC, "No space")

    monkeypatch.setattr(download.pooch.HTTPDownloader, "__call__", transfer)
    file = make("good", "good")
    assert run(file) == status
    name, line = ("interrupted", "again") if status == 130 else (file.name, "PDL_CACHE")
    assert line in one_line(capsys, name)
    assert os.listdir(file.path.parent) == []


@pytest.mark.parametrize(
    "place, home", [("cache", "KERAS_HOME"), ("root", "PDL_CACHE")]
)
def test_folder_cannot_be_made(make, tmp_path, capsys, place, home):
    """A file where the folder should be: root ignores permissions, but not this."""
    (tmp_path / place).write_text("in the way")
    assert run(make("good", home="KERAS_HOME", folder=tmp_path / "root" / "a")) == 1
    assert f"set {home} to another folder than {tmp_path / place}" in one_line(capsys)


def place(make, tmp_path: Path, *members: str) -> download.File:
    """An entry for an archive that is already there; `folder` is named batches."""
    path, folder = tmp_path / "cache" / "batches.tar.gz", tmp_path / "root" / "batches"
    path.parent.mkdir()
    with tarfile.open(path, mode="w:gz") as archive:
        for name in members:
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"A"))
    digest = sha256(path.read_bytes()).hexdigest()
    return make("good", path=path, folder=folder, sha256=digest)


def test_unpack(make, tmp_path, capsys, monkeypatch):
    """An archive is unpacked once, also if only its folder is missing, or only it."""
    file = place(make, tmp_path, "batches/a", "batches/b")
    assert run(file, argv=("--list",)) == 0
    assert " packed " in capsys.readouterr().out
    assert run(file) == 0
    assert capsys.readouterr().out == f"digits.bin: unpacked to {file.folder}\n"
    assert sorted(os.listdir(file.folder)) == ["a", "b"]
    assert os.listdir(file.folder.parent) == ["batches"]
    assert run(file) == 0
    assert capsys.readouterr().out == "digits.bin: present\n"
    monkeypatch.setitem(BODIES, "good", file.path.read_bytes())
    file.path.unlink()
    (file.folder / "a").unlink()
    assert run(file) == 0
    assert sorted(os.listdir(file.folder)) == ["a", "b"]
    assert os.listdir(file.folder.parent) == ["batches"]


@pytest.mark.parametrize(
    "members, reason",
    [
        (["batches/a", "../evil"], "outside the destination"),
        (["other/a"], "has no folder batches"),
    ],
)
def test_unpack_refuses(make, tmp_path, capsys, members, reason):
    """Names that lead elsewhere: one line, and no half of a folder."""
    file = place(make, tmp_path, *members)
    assert run(file) == 1
    assert reason in one_line(capsys)
    assert os.listdir(file.folder.parent) == []
    assert sorted(os.listdir(tmp_path)) == ["cache", "root"]


def add_recordings(path: Path, count: int, rate: int = 8000) -> None:
    """Add `count` short recordings to an archive."""
    recording = io.BytesIO()
    with wave.open(recording, "wb") as content:
        content.setparams((1, 2, rate, 0, "NONE", ""))
        content.writeframes(bytes(20))
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(count):
            archive.writestr(f"digits/{rate}_{count}_{i}.wav", recording.getvalue())


def test_spoken_digits(make, tmp_path):
    """Exactly 3,000 recordings at 8 kHz, undamaged; then they are unpacked."""
    check, path = download.spoken_digits_complaint, tmp_path / "digits.zip"
    add_recordings(path, 2999)
    short = path.read_bytes()
    assert "has 2,999 WAV files at {8000} Hz" in check(path)
    add_recordings(path, 1)
    whole = path.read_bytes()
    assert check(path) is None
    assert run(make(path=path, folder=tmp_path / "digits", check=check)) == 0
    assert len(os.listdir(tmp_path / "digits")) == 3000
    path.write_bytes(short)
    add_recordings(path, 1, rate=16000)
    assert "has 3,000 WAV files at {" in check(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in check(path)
    path.write_bytes(whole.replace(b"WAVEfmt", b"WAVEfmT", 1))
    assert "is damaged (Bad CRC-32" in check(path)


def test_war_and_peace(tmp_path):
    """The whole book between the markers of its publisher."""
    path = tmp_path / "book.txt"
    line = "PROJECT GUTENBERG EBOOK WAR AND PEACE ***\n"
    book = f"\ufeff*** START OF THE {line}{'words ' * 540_000}\n*** END OF THE {line}"
    for text, complaint in [
        (book, None),
        (book.replace(" OF THE ", " OF THIS "), None),
        (book[:3_100_000], "markers"),
        (book.replace("WAR AND PEACE", "EMMA"), "markers"),
        (book.replace("words ", "word"), "has 2,160,"),
        (book.replace("words", "w\udcff", 1), "in UTF-8"),
    ]:
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        wrong = download.war_and_peace_complaint(path)
        assert complaint in wrong if complaint else wrong is None


def test_names(make, tmp_path, server, capsys):
    """Only what is named is fetched; unknown names are told, and nothing is."""
    paths = [tmp_path / name for name in ("a.bin", "b.bin")]
    files = [make("good", name=path.name, path=path) for path in paths]
    assert run(*files, argv=("a.bin", "B.bin")) == 2
    line = one_line(capsys, "B.bin")
    assert "Did you mean b.bin? There are: a.bin, b.bin" in line
    assert not server.asked
    assert run(*files, argv=("b.bin",)) == 0
    assert [path.exists() for path in paths] == [False, True]


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
    script = [sys.executable, download.__file__, "--list"]
    listing = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert (listing.returncode, listing.stderr) == (0, "")
    for file in files.values():
        line = rf"^{re.escape(file.name)} .* missing +{re.escape(str(file.path))}$"
        assert re.search(line, listing.stdout, re.M)
    assert os.listdir(tmp_path) == []

    mnist, cifar = files["mnist.npz"], files["cifar-10-python.tar.gz"]
    datasets, cache = tmp_path / ".keras/datasets", tmp_path / ".cache"
    assert mnist.path == datasets / "mnist.npz"
    assert cifar.path == datasets / "cifar-10-batches-py-target_archive"
    assert cifar.folder == cache / "python-deep-learning/cifar-10-batches-py"
    weights = files["vgg19-dcbb9e9d.pth"].path
    assert weights == cache / "torch/hub/checkpoints/vgg19-dcbb9e9d.pth"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "X"))
    assert download.table()[4].path.is_relative_to(tmp_path / "X/torch")
    for name in download.HOMES:
        monkeypatch.setenv(name, str(tmp_path / name[0]))
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
        digest = re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", file.sha256)
        assert bool(file.check) != bool(digest)
        assert file.size > 0 and file.home in download.HOMES
