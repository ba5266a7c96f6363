"""Write connect_four_network.npz: what notebook 9.5 trained in its full mode.

jupyter execute ch09_drl_games/05_alphazero.ipynb
python data/make/connect_four_network.py
"""

import os
from pathlib import Path

import numpy as np
import pooch
from common import fail, output_path, save_npz


def main() -> None:
    """Read the notebook's own file and write it once more, for `data/`."""
    out = output_path(__doc__, "connect_four_network.npz")
    cache = Path(os.environ.get("PDL_CACHE", pooch.os_cache("python-deep-learning")))
    path = cache / "connect_four_network.npz"
    if not path.exists():
        fail(f"{path} isn't there: run notebook 9.5 in its full mode first")
    with np.load(path, allow_pickle=False) as file:
        save_npz(out, about=file["about"], weights=file["weights"])


if __name__ == "__main__":
    main()
