"""Write eileen_collins.jpg: the NASA photograph that scikit-image ships, as a JPEG."""

from common import fail, output_path, replacing
from PIL import Image


def main() -> None:
    """Read the photograph (512 x 512, RGB) and write it."""
    path = output_path(__doc__, "eileen_collins.jpg")
    try:
        from skimage.data import astronaut
    except ImportError:
        fail("scikit-image is missing: pip install -r data/make/requirements.txt")

    photograph = Image.fromarray(astronaut())
    with replacing(path) as temporary:
        photograph.save(temporary, "JPEG", quality=92, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes, {photograph.size}")


if __name__ == "__main__":
    main()
