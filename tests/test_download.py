"""`data/download.py` against a server on this machine that fails in every way."""

import contextlib
import importlib.util
import io
import os
import re
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

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        """Note the request, then answer."""
        self.server.asked.append(self.path[1:])
        with contextlib.suppress(ConnectionError):
            getattr(self, self.path[1:])()

    def send(self, body: bytes, length: int | None = None, **headers: str) -> None:
        """Send the headers, which may announce more than the body holds, and it."""
        self.send_response(200)
        self.send_header("Content-Length", str(length or len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def good(self) -> None:
        """All is well."""
        self.send(CONTENT)

    def wrong(self) -> None:
        """The right length, one bit wrong."""
        self.send(WRONG)

    def portal(self) -> None:
        """A page to log in, as hotels send."""
        self.send(b"<html>Welcome!</html>", Content_Type="text/html")

    def gone(self) -> None:
        """404."""
        self.send_error(404)

    def dies(self) -> None:
        """Half of the file, then the connection closes."""
        self.send(CONTENT[:HALF], len(CONTENT))

    def stalls(self) -> None:
        """Half of the file, then silence on an open connection."""
        self.send(CONTENT[:HALF], len(CONTENT))
        self.server.over.wait(10)

    def referer(self) -> None:
        """403 for those who come from elsewhere."""
        ok = self.headers.get("Referer") == "https://example.org/"
        self.good() if ok else self.send_error(403)


class Server(ThreadingHTTPServer):
    """The server, with what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.over = threading.Event()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on the loopback interface."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
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
            "urls": [f"http://127.0.0.1:{server.server_port}/{n}" for n in names],
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
    """The file arrives, only it, and the second run does not fetch it again."""
    file = make("good")
    assert run(file) == 0
    assert capsys.readouterr() == (f"digits.bin: downloaded to {file.path}\n", "")
    assert file.path.read_bytes() == CONTENT
    assert os.listdir(file.path.parent) == ["digits.bin"]
    assert run(file) == 0
    assert capsys.readouterr() == ("digits.bin: present\n", "")
    assert server.asked == ["good"]


def test_mirrors_in_order(make, server):
    """The first good one ends it."""
    assert run(make("gone", "wrong", "dies", "good", "good")) == 0
    assert server.asked == ["gone", "wrong", "dies", "good"]


def test_wrong_file_is_replaced(make, capsys):
    """A file under the final name counts only if it is the right one."""
    file = make("good", sha256=sha256(CONTENT).hexdigest()[:8])
    file.path.parent.mkdir()
    file.path.write_bytes(WRONG)
    assert run(file, argv=("--list",)) == 0
    assert " wrong " in capsys.readouterr().out
    assert run(file) == 0
    assert file.path.read_bytes() == CONTENT


def test_headers(make):
    """A mirror that wants its own Referer gets it."""
    assert run(make("referer")) == 1
    assert run(make("referer", referer="https://example.org/")) == 0


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
        ("wrong", "sent a file that has the wrong SHA-256"),
        ("portal", "sent a file that has the wrong SHA-256"),
        ("dies", "broke off"),
        ("stalls", "sent nothing for 0.3 s"),
        ("", "cannot be reached"),
    ],
)
def test_failure(make, server, capsys, monkeypatch, mirror, reason):
    """One line that names the file and the host; nothing is left behind."""
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    file = make(mirror) if mirror else make(urls=[nobody])
    assert run(file) == 1
    line = one_line(capsys)
    host = file.urls[0].split("/")[2]
    assert f"{host} {reason}" in line and str(file.path) in line
    assert "run this again" in line
    assert os.listdir(file.path.parent) == []


def test_the_others_go_on(make, tmp_path, capsys):
    """One failure of three: two files, exit status 1."""
    kinds = {"1": "gone", "2": "good", "3": "good"}
    files = [make(k, name=n, path=tmp_path / n) for n, k in kinds.items()]
    assert run(*files) == 1
    assert capsys.readouterr().err.startswith("1: ")
    assert sorted(os.listdir(tmp_path)) == ["2", "3"]


def test_no_space(make, server, capsys, monkeypatch):
    """Too little space is noticed before the first byte."""
    usage = download.shutil.disk_usage(ROOT)._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    assert run(make("good", home="KERAS_HOME")) == 1
    line = one_line(capsys)
    assert "too little space" in line and "set KERAS_HOME to another folder" in line
    assert not server.asked


def test_folder_cannot_be_made(make, tmp_path, capsys):
    """A file where the folder should be: root ignores permissions, but not this."""
    (tmp_path / "cache").write_text("in the way")
    assert run(make("good", home="KERAS_HOME")) == 1
    line = one_line(capsys)
    assert str(tmp_path / "cache") in line and "set KERAS_HOME" in line


def place(make, tmp_path: Path, *members: tuple[str, bytes]) -> download.File:
    """An entry for an archive that is already there; `folder` is named batches."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    digest = sha256(buffer.getvalue()).hexdigest()
    path, folder = tmp_path / "cache" / "batches.tar.gz", tmp_path / "root" / "batches"
    path.parent.mkdir()
    path.write_bytes(buffer.getvalue())
    return make("gone", path=path, folder=folder, sha256=digest)


def test_unpack(make, tmp_path, capsys):
    """An archive is unpacked, also if only its folder is missing."""
    file = place(make, tmp_path, ("batches/a", b"A"), ("batches/b", b"B"))
    assert run(file, argv=("--list",)) == 0
    assert " packed " in capsys.readouterr().out
    assert run(file) == 0
    assert capsys.readouterr().out == f"digits.bin: unpacked to {file.folder}\n"
    assert (file.folder / "b").read_bytes() == b"B"
    assert os.listdir(file.folder.parent) == ["batches"]
    assert run(file) == 0
    assert capsys.readouterr().out == "digits.bin: present\n"


@pytest.mark.parametrize(
    "member, reason",
    [("../evil", "outside the destination"), ("other/a", "has no folder batches")],
)
def test_unpack_refuses(make, tmp_path, capsys, member, reason):
    """Names that lead elsewhere: one line, and no half of a folder."""
    others = [] if member.startswith("other") else [("batches/a", b"A")]
    file = place(make, tmp_path, *others, (member, b"E"))
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


def test_spoken_digits(tmp_path):
    """Exactly 3,000 recordings at 8 kHz, undamaged, none that leads elsewhere."""
    check, path = download.spoken_digits_complaint, tmp_path / "digits.zip"
    add_recordings(path, 2999)
    short = path.read_bytes()
    assert "has 2,999 WAV files at {8000} Hz" in check(path)
    add_recordings(path, 1)
    whole = path.read_bytes()
    assert check(path) is None
    for name in ("../evil", "/evil", "digits/../../evil"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"E")
        assert f"would unpack to {name}" in check(path)
    path.write_bytes(short)
    add_recordings(path, 1, rate=16000)
    assert "has 3,000 WAV files at {" in check(path)
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
    assert "in UTF-8" in check(path)


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


def test_command_line(tmp_path):
    """The script itself with its own table lists all files and makes nothing."""
    environment = {**os.environ, "HOME": str(tmp_path)}
    for name in (*download.HOMES, "XDG_CACHE_HOME"):
        environment.pop(name, None)
    script = [sys.executable, str(ROOT / "data" / "download.py"), "--list"]
    listing = subprocess.run(
        script, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (listing.returncode, listing.stderr) == (0, "")
    for file in download.table():
        assert re.search(rf"^{re.escape(file.name)} .*missing", listing.stdout, re.M)
    assert os.listdir(tmp_path) == []


def test_interrupt(make):
    """Ctrl-C in the middle of a transfer: one line, 130, nothing left behind."""
    file = make("stalls")
    code = (  # tests that run in the background have it ignored
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import sys; sys.path.insert(0, sys.argv[1]); import download as d, pathlib; "
        "sys.exit(d.main([], [d.File('digits.bin', [sys.argv[2]], "
        "pathlib.Path(sys.argv[3]), 300_000)]))"
    )
    arguments = [str(ROOT / "data"), file.urls[0], str(file.path)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        folder, limit = file.path.parent, time.monotonic() + 30
        while not (folder.is_dir() and any(x.stat().st_size for x in folder.iterdir())):
            assert time.monotonic() < limit and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "interrupted: run this again\n"
    assert os.listdir(folder) == []


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
    datasets, root = (
        tmp_path / ".keras/datasets",
        tmp_path / ".cache/python-deep-learning",
    )
    assert mnist.path == datasets / "mnist.npz"
    assert cifar.path == datasets / "cifar-10-batches-py-target_archive"
    assert cifar.folder == root / "cifar-10-batches-py"
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
        assert file.size > 0 and file.home in download.HOMES
