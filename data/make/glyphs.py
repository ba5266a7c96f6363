"""Emoji as objects, and backgrounds for them: what both kinds of stand-in draw with."""

from pathlib import Path

import numpy as np
from common import fail
from PIL import Image, ImageDraw, ImageEnhance, ImageFont
from scipy import ndimage

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # the one size at which the font has its bitmaps
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()

# For each class the glyphs for training, then those that only the test split shows.
# The font has too few deer and frogs for that: there the poses differ (see `tilt`).
GLYPHS = {
    "airplane": ("✈🛩🛬", "🛫"),
    "automobile": ("🚗🚙🚕🚘🚖🏎", "🚓🚔"),
    "bird": ("🐦🐤🦅🦉🦜🐧🦢🐔🐓🦃", "🐥🕊🦆"),
    "cat": ("🐱🐈😺😸😻😾", "😼😽😿"),
    "deer": ("🦌🫎", ""),
    "dog": ("🐶🐩🦮", "🐕"),
    "frog": ("🐸", ""),
    "horse": ("🐴🏇🎠", "🐎"),
    "ship": ("🚢⛵🛳🚤", "⛴🛥"),
    "truck": ("🚚🚒🚑", "🚛"),
}
VEHICLES = {"airplane", "automobile", "ship", "truck"}  # come in any color

# Where an object is likely to be met; it may be anywhere.
HOMES = {
    "airplane": ["sky", "dusk"],
    "automobile": ["road", "sand"],
    "bird": ["sky", "grass", "water"],
    "cat": ["wall", "grass"],
    "deer": ["grass", "snow"],
    "dog": ["wall", "grass"],
    "frog": ["grass", "water"],
    "horse": ["grass", "sand"],
    "ship": ["water"],
    "truck": ["road", "wall"],
}
# Two colors each, between which the surface varies.
SURFACES = {
    "sky": [(70, 130, 210), (200, 220, 240)],
    "dusk": [(75, 60, 110), (240, 160, 110)],
    "grass": [(45, 95, 35), (140, 175, 70)],
    "road": [(70, 70, 75), (150, 148, 145)],
    "sand": [(165, 130, 85), (225, 200, 150)],
    "snow": [(190, 205, 220), (245, 247, 250)],
    "water": [(20, 65, 110), (100, 165, 190)],
    "wall": [(90, 60, 50), (215, 190, 165)],
}
GROUNDS = ["grass", "road", "sand", "snow", "water"]


def load_font() -> ImageFont.FreeTypeFont:
    """Open Noto Color Emoji; its absence is the user's to mend."""
    try:
        return ImageFont.truetype(FONT, FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        fail(f"{FONT} is missing: apt install fonts-noto-color-emoji")


def draw_glyph(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """Draw one emoji, about 128 pixels wide, cropped to what is opaque (RGBA).

    Of several parts the largest stays: an airplane leaves its runway behind.
    """
    glyph = Image.new("RGBA", (2 * FONT_SIZE, 2 * FONT_SIZE))
    ImageDraw.Draw(glyph).text((0, 0), character, font=font, embedded_color=True)
    alpha = np.asarray(glyph.getchannel("A"))
    parts, num_parts = ndimage.label(alpha > 0, structure=np.ones((3, 3)))
    if num_parts == 0:
        fail(f"{FONT} has no {character}: upgrade fonts-noto-color-emoji")
    largest = np.bincount(parts.ravel())[1:].argmax() + 1
    glyph.putalpha(Image.fromarray(np.where(parts == largest, alpha, 0)))
    return glyph.crop(glyph.getchannel("A").getbbox())


def tilt(label: str, test: bool, rng: np.random.Generator) -> float:
    """Choose an angle in degrees.

    Deer and frog have no glyphs to hold out, so their poses are: the training split
    shows them nearly upright, the test split tilted by 12 to 25 degrees.
    """
    if GLYPHS[label][1]:
        return rng.uniform(-25, 25)
    angle = rng.uniform(12, 25) if test else rng.uniform(0, 12)
    return angle * rng.choice([-1, 1])


def recolor(glyph: Image.Image, label: str, rng: np.random.Generator) -> Image.Image:
    """Change hue (vehicles: to any), saturation and brightness of an RGBA glyph."""
    hue, saturation, value = glyph.convert("RGB").convert("HSV").split()
    half = 128 if label in VEHICLES else 12  # of the 256 steps of the color circle
    shift = int(rng.integers(-half, half))
    hue = hue.point(lambda h: (h + shift) % 256)
    rgb = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    rgb = ImageEnhance.Color(rgb).enhance(rng.uniform(0.4, 1.1))
    rgb = ImageEnhance.Brightness(rgb).enhance(rng.uniform(0.65, 1.1))
    rgb.putalpha(glyph.getchannel("A"))
    return rgb


def pose(glyph: Image.Image, size: float, angle: float, flip: bool) -> Image.Image:
    """Mirror, scale (the longer side to `size` pixels) and turn an RGBA glyph."""
    if flip:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    factor = size / max(glyph.size)
    shape = [max(1, round(side * factor)) for side in glyph.size]
    glyph = glyph.resize(shape, Image.Resampling.LANCZOS)
    glyph = glyph.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    return glyph.crop(glyph.getchannel("A").getbbox())


def noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> np.ndarray:
    """Smooth noise: a coarse random grid, enlarged. Returns (size, size) in 0..1."""
    coarse = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return smooth.clip(0, 1)


def surface(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Paint one surface: a gradient with texture. Returns (size, size, 3) in 0..255."""
    far, near = np.array(SURFACES[kind], dtype=np.float32)
    gradient = np.linspace(0, 1, size, dtype=np.float32)[:, np.newaxis]
    if rng.random() < 0.5:
        gradient = 1 - gradient
    if kind in {"sky", "dusk"}:
        texture = np.maximum(0, noise(rng, size, 5, 3) - 0.5)  # clouds
    elif kind == "water":
        texture = noise(rng, size, int(rng.integers(8, 16)), 3)  # waves
    elif kind == "wall":
        texture = noise(rng, size, 1, int(rng.integers(2, 10)))  # boards
    else:
        texture = noise(rng, size, 8, 8)
    strength = rng.uniform(0.2, 0.6)
    blend = ((1 - strength) * gradient + strength * texture)[..., np.newaxis]
    light = rng.uniform(0.75, 1.1) * (1 + rng.uniform(-0.08, 0.08, 3))  # and its tint
    return ((far + (near - far) * blend) * light).clip(0, 255)


def landscape(
    size: int, ground: str, horizon: float, rng: np.random.Generator
) -> np.ndarray:
    """Sky above the horizon (a fraction of the height), ground below it.

    Returns (size, size, 3) in 0..255.
    """
    sky = surface(str(rng.choice(["sky", "sky", "dusk"])), size, rng)
    land = surface(ground, size, rng)
    wave = horizon + 0.06 * (noise(rng, size, 1, 5)[0] - 0.5) * (ground != "water")
    rows = np.arange(size)[:, np.newaxis]
    return np.where((rows < wave * size)[..., np.newaxis], sky, land)


def to_image(pixels: np.ndarray) -> Image.Image:
    """Turn (h, w, 3) floats in 0..255 into an image."""
    return Image.fromarray(np.rint(pixels).astype(np.uint8))
