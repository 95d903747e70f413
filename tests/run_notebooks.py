"""Run every notebook of a folder from top to bottom; a cell that raises fails the run."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main(folder: str) -> None:
    paths = sorted(Path(folder).glob("*.ipynb"))
    if not paths:
        raise SystemExit(f"No notebooks in {folder}.")
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(path.parent))
        print(f"{path}: {len(notebook.cells)} cells ran")


if __name__ == "__main__":
    main(*sys.argv[1:])
