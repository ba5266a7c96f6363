"""Write scenes_small.npz: drawn scenes with boxes, labels and per-pixel classes.

One to four emoji of cifar10_small's classes stand in a landscape or before a wall. They
may hide each other a little; boxes and masks tell what is visible.
"""

import numpy as np
from common import output_path, save_npz
from glyphs import (
    CLASSES,
    GLYPHS,
    GROUNDS,
    draw_glyph,
    landscape,
    load_font,
    pose,
    recolor,
    surface,
    to_image,
)
from PIL import Image, ImageFont

SIDE, OVERSAMPLING = 128, 2  # drawn at 256 x 256, shrunk to 128 x 128
CANVAS = SIDE * OVERSAMPLING
MAX_OBJECTS = 4
MIN_VISIBLE = 0.75  # of an object's area, the rest is hidden or out of the picture
SIZES = 0.22, 0.5  # of an object's longer side, as a fraction of the picture's
NUM_TRAIN, NUM_TEST = 200, 50
FLYING = {"airplane", "bird"}  # need no ground


def place(
    glyph: Image.Image,
    label: str,
    depth: float,
    horizon: float,
    rng: np.random.Generator,
) -> Image.Image:
    """Put a glyph at random on an empty canvas (RGBA).

    depth: 0 far, 1 near. What stands on the ground has its feet the lower the nearer.
    """
    width, height = glyph.size
    left = rng.uniform(-0.1 * width, CANVAS - 0.9 * width)
    if label in FLYING:
        top = rng.uniform(0, CANVAS - height)
    else:
        feet = horizon + (1 - horizon) * (0.15 + 0.85 * depth)
        top = CANVAS * (feet + rng.uniform(-0.1, 0.05)) - height
    layer = Image.new("RGBA", (CANVAS, CANVAS))
    layer.paste(glyph, (round(left), round(top)))
    return layer


def coverage(layer: Image.Image) -> np.ndarray:
    """Return how much of each final pixel a layer covers: (128, 128) in 0..1."""
    alpha = layer.getchannel("A").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(alpha, dtype=np.float64) / 255


def visible(covers: list[np.ndarray]) -> np.ndarray:
    """Return what can be seen of the background and of each layer, back to front.

    covers: n arrays (128, 128). Returns (n + 1, 128, 128), which sums to 1 per pixel.
    """
    parts = [np.ones((SIDE, SIDE))]
    for cover in covers:
        parts = [part * (1 - cover) for part in parts] + [cover]
    return np.stack(parts)


def draw_scene(
    font: ImageFont.FreeTypeFont, labels: list[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[int], np.ndarray]:
    """Compose a scene of the given classes; whatever finds no room is left out.

    Returns the image (128, 128, 3), the boxes (n, 4) as x1, y1, x2, y2, the n labels
    and the class mask (128, 128).
    """
    if rng.random() < 0.8:
        horizon = rng.uniform(0.15, 0.5)
        background = landscape(CANVAS, str(rng.choice(GROUNDS)), horizon, rng)
    else:
        horizon = 0.3
        background = surface("wall", CANVAS, rng)

    layers, covers, areas, placed = [], [], [], []
    depths = np.sort(rng.random(len(labels)))  # the far ones first, and smaller
    for label, depth in zip(labels, depths, strict=True):
        name = CLASSES[label]
        character = str(rng.choice(list("".join(GLYPHS[name]))))
        glyph = pose(
            recolor(draw_glyph(font, character), name, rng),
            size=CANVAS * (SIZES[0] + (SIZES[1] - SIZES[0]) * depth),
            angle=rng.uniform(-20, 20) if name in FLYING else rng.uniform(-6, 6),
            flip=bool(rng.integers(2)),
        )
        area = np.asarray(glyph.getchannel("A")).sum() / 255 / OVERSAMPLING**2
        for _ in range(30):
            layer = place(glyph, name, depth, horizon, rng)
            cover = coverage(layer)
            seen = visible([*covers, cover])[1:].sum(axis=(1, 2))
            if np.all(seen >= MIN_VISIBLE * np.array([*areas, area])):
                layers.append(layer)
                covers.append(cover)
                areas.append(area)
                placed.append(label)
                break

    image = to_image(background)
    for layer in layers:
        image.paste(layer, (0, 0), layer)
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    owner = visible(covers).argmax(axis=0)  # 0: background
    boxes = []
    for index in range(1, len(placed) + 1):
        rows, columns = np.nonzero(owner == index)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    mask = np.array([0, *(label + 1 for label in placed)], dtype=np.uint8)[owner]
    return small // 8 * 8 + 4, np.array(boxes, dtype=np.int16), placed, mask


def split(
    font: ImageFont.FreeTypeFont, name: str, num_scenes: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw one split: x, boxes, labels, counts, masks, each with `_name` appended."""
    counts = 1 + rng.permutation(np.arange(num_scenes) % MAX_OBJECTS)
    deck = rng.permutation(np.arange(counts.sum()) % len(CLASSES))  # balanced classes
    arrays = {
        "x": np.zeros((num_scenes, SIDE, SIDE, 3), dtype=np.uint8),
        "boxes": np.zeros((num_scenes, MAX_OBJECTS, 4), dtype=np.int16),
        "labels": np.full((num_scenes, MAX_OBJECTS), -1, dtype=np.int8),
        "counts": np.zeros(num_scenes, dtype=np.uint8),
        "masks": np.zeros((num_scenes, SIDE, SIDE), dtype=np.uint8),
    }
    hands = np.split(deck, np.cumsum(counts)[:-1])
    for i, hand in enumerate(hands):
        image, boxes, labels, mask = draw_scene(font, hand.tolist(), rng)
        arrays["x"][i], arrays["masks"][i] = image, mask
        arrays["counts"][i] = len(labels)
        arrays["boxes"][i, : len(labels)] = boxes
        arrays["labels"][i, : len(labels)] = labels
    return {f"{key}_{name}": array for key, array in arrays.items()}


def main() -> None:
    """Draw both splits and write them."""
    path = output_path(__doc__, "scenes_small.npz")
    font = load_font()
    rng = np.random.default_rng(1234)
    train = split(font, "train", NUM_TRAIN, rng)
    test = split(font, "test", NUM_TEST, rng)
    save_npz(path, **train, **test, class_names=np.array(CLASSES))


if __name__ == "__main__":
    main()
