"""Saved figures are made small, and stay what they were."""

import base64
import importlib.util
import io
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("save", ROOT / ".ci/save.py")
save = importlib.util.module_from_spec(spec)
spec.loader.exec_module(save)


def encode(pixels: np.ndarray) -> str:
    """A base64 PNG of pixels (height, width, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype("uint8")).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def decode(png: str) -> np.ndarray:
    """Its pixels (height, width, 3)."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    return np.asarray(image.convert("RGB"), int)


def test_thin_curves_keep_their_colors_beside_a_smooth_picture() -> None:
    rng = np.random.default_rng(1234)
    pixels = np.full((300, 300, 3), 255)
    gray = np.linspace(0, 255, 150) + rng.normal(0, 20, (300, 150))
    pixels[:, 150:] = np.clip(gray, 0, 255)[..., None] * [1, 0.9, 0.8]
    colors = [(31, 119, 180), (140, 86, 75), (227, 119, 194), (127, 127, 127)]
    for row, color in enumerate(colors):
        pixels[50 * row + 20, :150] = color  # one pixel wide
    before = encode(pixels)
    after = save.shrink(before)
    assert len(after) < 0.75 * len(before)
    assert np.abs(decode(after) - decode(before)).max() <= 48


def test_a_picture_that_a_palette_would_spoil_stays() -> None:
    y, x = np.mgrid[:256, :256]
    every = encode(np.stack([x, y, (x + y) * 37 % 256], axis=-1))
    assert save.shrink(every, tolerance=8) == every


def test_few_colors_are_kept_exactly() -> None:
    pixels = np.zeros((200, 200, 3))
    pixels[50:, :, 0] = 255
    pixels[:, 99, 1] = 170
    before = encode(pixels)
    np.testing.assert_array_equal(decode(save.shrink(before)), pixels)
