"""The files in data/: unharmed, documented, and what data/README.md says they are."""

import hashlib
import re
import wave

import numpy as np
import pytest
from PIL import Image
from rules import ROOT

DATA = ROOT / "data"
README = (DATA / "README.md").read_text(encoding="utf-8")
SUMS = dict(
    reversed(line.split("  ", 1))
    for line in (DATA / "SHA256SUMS").read_text().splitlines()
)
SUFFIXES = {".npz", ".png", ".jpg", ".wav", ".txt", ".cfg", ".weights"}
FILES = sorted(
    path.relative_to(DATA).as_posix()
    for path in DATA.rglob("*")
    if path.suffix in SUFFIXES and "make" not in path.relative_to(DATA).parts
)
ENTRIES = sorted({name.split("/")[0] for name in FILES})  # a folder counts as one
WAVS = sorted(DATA.glob("spoken_digits_small/*"))


def load(name: str) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file in data/; pickle is an error."""
    with np.load(DATA / name, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def rows(images: np.ndarray) -> set[bytes]:
    """Return the distinct images of an array (n, ...)."""
    return {image.tobytes() for image in images}


def test_checksums() -> None:
    assert set(SUMS) == set(FILES), "run data/make/checksums.py"
    for name, expected in SUMS.items():
        found = hashlib.sha256((DATA / name).read_bytes()).hexdigest()
        assert found == expected, f"data/{name} is not the file that SHA256SUMS lists"


def test_total_size() -> None:
    assert sum((DATA / name).stat().st_size for name in FILES) < 10e6


@pytest.mark.parametrize("name", ENTRIES)
def test_readme_describes(name: str) -> None:
    """Each file has a section with source, license, script, size and checksum."""
    path = DATA / name
    heading = f"## `{name}/`\n" if path.is_dir() else f"## `{name}`\n"
    assert heading in README
    section = README.split(heading)[1].split("\n## ")[0]
    for topic in ("Source", "License", f"Made by `make/{path.stem}.py`"):
        assert f"\n- {topic}" in section, f"{name}: no line on {topic}"
    assert (DATA / "make" / f"{path.stem}.py").exists()
    if path.is_dir():
        assert f"- {len(list(path.iterdir()))} files" in section
    else:
        fact = re.search(r"- ([\d,]+) bytes, SHA-256 `(\w+)`", section)
        assert fact, f"{name}: no size and checksum"
        assert int(fact[1].replace(",", "")) == path.stat().st_size
        assert fact[2] == SUMS[name]


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".npz")])
def test_arrays(name: str) -> None:
    """No pickle; splits agree in shape and type; each key is documented."""
    arrays = load(name)  # raises if an array needs pickle
    section = README.split(f"## `{name}`\n")[1].split("\n## ")[0]
    for key, array in arrays.items():
        assert f"`{key}`" in section, f"{name}: {key} is not in data/README.md"
        if key.endswith("_train"):
            other = arrays[key.replace("_train", "_test")]
            assert (other.dtype, other.shape[1:]) == (array.dtype, array.shape[1:])
            assert len(array) == len(arrays["x_train"])
            assert len(other) == len(arrays["x_test"])


@pytest.mark.parametrize(
    ("name", "image_shape", "label_shape", "sizes"),
    [
        ("mnist_small.npz", (28, 28), (), (4000, 1000)),
        ("cifar10_small.npz", (32, 32, 3), (1,), (2000, 500)),
    ],
)
def test_classification(
    name: str, image_shape: tuple, label_shape: tuple, sizes: tuple
) -> None:
    """As Keras' loaders give them, balanced, shuffled, no image twice."""
    arrays = load(name)
    assert list(arrays) == ["x_train", "y_train", "x_test", "y_test"]
    for split, size in zip(("train", "test"), sizes):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        assert images.shape == (size, *image_shape) and images.dtype == np.uint8
        assert labels.shape == (size, *label_shape) and labels.dtype == np.uint8
        assert np.bincount(labels.ravel()).tolist() == [size // 10] * 10
        assert len(set(labels.ravel()[:50].tolist())) == 10, "not shuffled"
        assert images.max() - images.min() > 240
        assert images.reshape(size, -1).std(axis=1).min() > 2, "an empty image"
    x_train, x_test = rows(arrays["x_train"]), rows(arrays["x_test"])
    assert (len(x_train), len(x_test)) == sizes, "an image occurs twice"
    assert not x_train & x_test, "an image is in both splits"


def test_scenes_share_no_image() -> None:
    scenes = load("scenes_small.npz")
    assert scenes["x_train"].shape == (200, 128, 128, 3)
    assert scenes["x_test"].shape == (50, 128, 128, 3)
    assert not rows(scenes["x_train"]) & rows(scenes["x_test"])
    assert scenes["class_names"].tolist()[::9] == ["airplane", "truck"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_scenes(split: str) -> None:
    """Boxes are tight around what the masks show, and padding is where it should be."""
    scenes = load("scenes_small.npz")
    assert scenes[f"x_{split}"].dtype == np.uint8
    masks = scenes[f"masks_{split}"]
    labels = scenes[f"labels_{split}"]
    boxes = scenes[f"boxes_{split}"].astype(int)
    counts = scenes[f"counts_{split}"]
    assert counts.min() >= 1 and counts.max() == labels.shape[1] == 4
    padding = np.arange(4) >= counts[:, np.newaxis]
    assert np.all(labels[padding] == -1) and np.all(boxes[padding] == 0)
    per_class = np.bincount(labels[~padding], minlength=10)
    assert per_class.min() > 0.8 * per_class.max(), "classes are not balanced"
    for mask, count, scene_boxes, scene_labels in zip(masks, counts, boxes, labels):
        unexplained = mask > 0
        for (x1, y1, x2, y2), label in zip(scene_boxes[:count], scene_labels):
            assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 128
            inside = mask[y1:y2, x1:x2] == label + 1
            edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
            assert all(edge.any() for edge in edges), "a box is not tight"
            unexplained[y1:y2, x1:x2] &= ~inside
        assert not unexplained.any(), "the mask shows an object without a box"


def test_spoken_digit_names() -> None:
    """Three speakers say ten digits ten times."""
    speakers = ("american", "british", "scottish")
    expected = {
        f"{digit}_{speaker}_{index}.wav"
        for digit in range(10)
        for speaker in speakers
        for index in range(10)
    }
    assert {path.name for path in WAVS} == expected


def test_spoken_digits() -> None:
    """8 kHz, mono, 16 bits, neither empty nor silent, no recording twice."""
    recordings = set()
    for path in WAVS:
        with wave.open(str(path), "rb") as recording:
            kind = recording.getframerate(), recording.getnchannels()
            assert (*kind, recording.getsampwidth()) == (8000, 1, 2), path.name
            frames = recording.readframes(recording.getnframes())
        samples = np.frombuffer(frames, dtype="<i2") / 32768
        assert 0.15 < len(samples) / 8000 < 0.8, path.name
        assert np.abs(samples).max() == pytest.approx(0.9, abs=1e-3), path.name
        assert np.sqrt(np.mean(samples**2)) > 0.05, path.name
        recordings.add(frames)
    assert len(recordings) == len(WAVS), "a recording occurs twice"


def test_photograph() -> None:
    with Image.open(DATA / "eileen_collins.jpg") as photograph:
        assert photograph.format == "JPEG"
        pixels = np.asarray(photograph.convert("RGB"))
        assert photograph.mode == "RGB"
    assert pixels.shape == (512, 512, 3)
    suit = pixels[300, 200].astype(int)  # orange
    assert suit[0] > suit[1] + 40 > suit[2] + 40


def test_novel() -> None:
    content = (DATA / "pride_and_prejudice.txt").read_bytes()
    assert b"\r" not in content and content.endswith(b".\n")
    text = content.decode("utf-8")
    assert text.startswith("PRIDE AND PREJUDICE\n\nBy Jane Austen\n")
    assert "It is a truth universally acknowledged, that a single man" in text
    assert 300_000 < len(text) < 400_000
    chapters = re.findall(r"^Chapter (\d+)$", text, re.M)
    assert chapters == [str(number) for number in range(1, 37)]
