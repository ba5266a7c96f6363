"""Write scenes_yolo.cfg and .weights: what notebook 5.6 trained in its full mode.

jupyter execute ch05_advanced_cv/06_object_detection.ipynb
python data/make/scenes_yolo.py
"""

import os
from pathlib import Path

import pooch
from common import fail, output_path, replacing


def main() -> None:
    """Copy both of the notebook's files from its cache to `data/`."""
    out = output_path(__doc__, "scenes_yolo.cfg")
    cache = Path(os.environ.get("PDL_CACHE", pooch.os_cache("python-deep-learning")))
    for suffix in (".cfg", ".weights"):
        source, target = cache / f"scenes_yolo{suffix}", out.with_suffix(suffix)
        if not source.exists():
            fail(f"{source} isn't there: run notebook 5.6 in its full mode first")
        with replacing(target) as temporary:
            temporary.write_bytes(source.read_bytes())
        print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
