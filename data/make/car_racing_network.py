"""Write car_racing_network.npz: what notebook 10.6 trained in its full mode.

jupyter execute ch10_autonomous/06_behavioral_cloning.ipynb
python data/make/car_racing_network.py
"""

import os
from pathlib import Path

import numpy as np
import pooch
from common import fail, output_path, save_npz


def main() -> None:
    """Read the notebook's own file and write it once more, for `data/`."""
    out = output_path(__doc__, "car_racing_network.npz")
    cache = Path(os.environ.get("PDL_CACHE", pooch.os_cache("python-deep-learning")))
    path = cache / "car_racing_network.npz"
    if not path.exists():
        fail(f"{path} isn't there: run notebook 10.6 in its full mode first")
    with np.load(path, allow_pickle=False) as file:
        save_npz(out, **{key: file[key] for key in file.files})


if __name__ == "__main__":
    main()
