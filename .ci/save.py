"""Run a notebook and save its outputs in place, if all of it ran.

usage: save.py NOTEBOOK
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


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
    partial = path.with_suffix(".partial")
    nbformat.write(notebook, partial)
    os.replace(partial, path)
    print(f"saved {path}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit("name one notebook: save.py ch01_ml_overview/04_k_means.ipynb")
    save(Path(sys.argv[1]))
