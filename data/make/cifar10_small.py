"""Write cifar10_small.npz: a stand-in for CIFAR-10 drawn from Noto Color Emoji.

Shapes, types and the ten classes are CIFAR-10's; the images are not. The test split
shows glyphs that the training split does not (deer and frog: other poses).
"""

import numpy as np
from common import output_path, save_npz
from glyphs import (
    CLASSES,
    GLYPHS,
    GROUNDS,
    HOMES,
    SURFACES,
    draw_glyph,
    landscape,
    load_font,
    pose,
    recolor,
    surface,
    tilt,
    to_image,
)
from PIL import Image, ImageFont

SIDE, OVERSAMPLING = 32, 4  # drawn at 128 x 128, shrunk to 32 x 32
TRAIN_PER_CLASS, TEST_PER_CLASS = 200, 50


def background(label: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Choose and paint what is behind an object. Returns (size, size, 3) in 0..255."""
    at_home = rng.random() < 0.4
    kind = str(rng.choice(HOMES[label] if at_home else list(SURFACES)))
    if kind in GROUNDS and rng.random() < 0.5:
        return landscape(size, kind, rng.uniform(0.2, 0.7), rng)
    return surface(kind, size, rng)


def draw(
    font: ImageFont.FreeTypeFont, label: str, test: bool, rng: np.random.Generator
) -> np.ndarray:
    """Compose one image of a class. Returns (32, 32, 3) uint8."""
    size = SIDE * OVERSAMPLING
    image = to_image(background(label, size, rng))
    familiar, held_out = GLYPHS[label]
    character = str(rng.choice(list(held_out if test and held_out else familiar)))
    glyph = recolor(draw_glyph(font, character), label, rng)
    glyph = pose(
        glyph,
        size=size * rng.uniform(0.6, 0.95),
        angle=tilt(label, test, rng),
        flip=bool(rng.integers(2)),
    )
    center = size * (0.5 + rng.uniform(-0.12, 0.12, 2))
    corner = (center - np.array(glyph.size) / 2).round().astype(int)
    image.paste(glyph, tuple(corner.tolist()), glyph)
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    return small // 8 * 8 + 4  # 32 levels look the same and compress far better


def split(
    font: ImageFont.FreeTypeFont, per_class: int, test: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one split, shuffled: images (n, 32, 32, 3) and labels (n, 1), both uint8."""
    labels = rng.permutation(np.repeat(np.arange(len(CLASSES)), per_class))
    images = np.stack([draw(font, CLASSES[label], test, rng) for label in labels])
    return images, labels.astype(np.uint8)[:, np.newaxis]


def main() -> None:
    """Draw both splits and write them."""
    path = output_path(__doc__, "cifar10_small.npz")
    font = load_font()
    rng = np.random.default_rng(1234)
    x_train, y_train = split(font, TRAIN_PER_CLASS, False, rng)
    x_test, y_test = split(font, TEST_PER_CLASS, True, rng)
    save_npz(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


if __name__ == "__main__":
    main()
