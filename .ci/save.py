"""Run a notebook and save its outputs in place, if all of it ran.

usage: save.py NOTEBOOK
"""

import base64
import io
import os
import sys
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image  # matplotlib depends on it


def shrink(png: str, tolerance: int = 48) -> str:
    """A base64 PNG with a palette of 256 colors, which takes half the space or less.

    It stays as it is if that would change any pixel's red, green or blue by more than
    `tolerance` of 255 (thin curves must keep their colors apart), or make it larger.
    """
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    small = image.quantize(
        256, Image.Quantize.MEDIANCUT, kmeans=4, dither=Image.Dither.NONE
    )
    change = np.abs(np.asarray(small.convert("RGB"), int) - np.asarray(image, int))
    buffer = io.BytesIO()
    small.save(buffer, "png", optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode()
    return text if change.max() <= tolerance and len(text) < len(png) else png


def save(path: Path) -> None:
    """Execute the notebook at `path` from a fresh kernel and replace it."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        sys.exit(f"{path} is left as it was: {str(error).strip().splitlines()[-1]}")
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if "widget-view" not in "".join(output.get("data", {}))
            ]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = shrink(output.data["image/png"])
    partial = path.with_suffix(".partial")
    nbformat.write(notebook, partial)
    os.replace(partial, path)
    print(f"saved {path}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit("name one notebook: save.py ch01_ml_overview/04_k_means.ipynb")
    save(Path(sys.argv[1]))
