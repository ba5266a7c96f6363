"""Write brush_strokes.jpg: a night sky painted with strokes along a swirling flow."""

import numpy as np
from common import output_path, replacing
from PIL import Image, ImageDraw
from scipy import ndimage

SIDE = 256  # pixels of the picture that is written
SCALE = 4  # it is drawn so much larger, then shrunk: smooth edges
STROKES = 5200
# Each star: place (x, y) and radius of its glow as shares of the side, turning sense.
STARS = [
    (0.24, 0.22, 0.13, 1),
    (0.70, 0.17, 0.10, -1),
    (0.50, 0.52, 0.21, -1),
    (0.88, 0.56, 0.11, 1),
    (0.14, 0.71, 0.11, 1),
    (0.68, 0.86, 0.12, -1),
]
NIGHT = np.array([(12, 24, 74), (24, 62, 140), (52, 112, 186), (132, 184, 208)])
GLOW = np.array([(246, 226, 140), (250, 196, 48), (226, 140, 40), (70, 132, 150)])


def smooth_noise(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Noise of (SIDE, SIDE) with standard deviation 1, smooth over `sigma` pixels."""
    noise = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), sigma, mode="wrap")
    return noise / noise.std()


def flow(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Direction (cos, sin) of the brush at each pixel: the curl of a potential.

    The potential is smooth noise with a hill or hollow at each star, so that strokes
    run around stars.
    """
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    potential = 0.05 * smooth_noise(rng, 26) - 0.35 * y
    for left, top, radius, sense in STARS:
        distance = np.hypot(x - left, y - top)
        potential += sense * 0.9 * radius * np.exp(-((distance / radius) ** 2) / 2)
    along_y, along_x = np.gradient(potential)
    length = np.hypot(along_x, along_y) + 1e-12
    return along_y / length, -along_x / length


def stroke_color(rng: np.random.Generator, x: float, y: float, tone: float) -> tuple:
    """Color of a stroke at (x, y) in pixels: yellow near a star, blue elsewhere."""
    nearest = min(
        np.hypot(x / SIDE - left, y / SIDE - top) / radius
        for left, top, radius, _ in STARS
    )
    nearest += rng.normal(0, 0.10)
    if nearest < 1.15:
        palette, place = GLOW, 3 * np.clip(nearest / 1.15, 0, 1)
    else:
        palette, place = NIGHT, 1.3 + 0.75 * tone + rng.normal(0, 0.55)
    place = float(np.clip(place, 0, 2.999))
    low, share = int(place), place % 1
    color = (1 - share) * palette[low] + share * palette[low + 1]
    return tuple(np.clip(color + rng.normal(0, 9, 3), 0, 255).astype(int).tolist())


def main() -> None:
    """Draw the strokes from long to short and write the picture."""
    path = output_path(__doc__, "brush_strokes.jpg")
    rng = np.random.default_rng(1889)
    cosine, sine = flow(rng)
    tone = smooth_noise(rng, 14)
    picture = Image.new("RGB", (SIDE * SCALE, SIDE * SCALE), tuple(NIGHT[1].tolist()))
    draw = ImageDraw.Draw(picture)
    for i in range(STROKES):
        x, y = rng.uniform(0, SIDE, 2)
        rest = 1 - i / STROKES
        length = 7 + 12 * rest + rng.uniform(0, 5)
        width = 1.5 + 2.2 * rest + rng.uniform(0, 0.8)
        color = stroke_color(rng, x, y, tone[int(y), int(x)])
        points = []
        for _ in range(int(length)):
            points.append((x * SCALE, y * SCALE))
            row, column = int(y) % SIDE, int(x) % SIDE
            x, y = x + cosine[row, column], y + sine[row, column]
        radius = width * SCALE / 2
        draw.line(points, color, int(2 * radius), joint="curve")
        for px, py in (points[0], points[-1]):
            draw.ellipse((px - radius, py - radius, px + radius, py + radius), color)
        light = tuple(
            min(c + 26, 255) for c in color
        )  # the ridge that a bristle leaves
        ridge = [(px - radius / 2, py - radius / 2) for px, py in points]
        draw.line(ridge, light, max(int(radius / 2), 1))
    small = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    with replacing(path) as temporary:
        small.save(temporary, "JPEG", quality=92, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes, {small.size}")


if __name__ == "__main__":
    main()
