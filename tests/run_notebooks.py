"""Run every notebook of a folder from top to bottom; a cell that raises fails the run.

With `--store` texts and pictures are kept in the notebooks, without times or the name of a machine.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main(folder: str, *flags: str) -> None:
    given = Path(folder)
    paths = [given] if given.is_file() else sorted(given.glob("*.ipynb"))
    if not paths:
        raise SystemExit(f"No notebooks in {folder}.")
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(path.parent))
        if "--store" in flags:
            store(notebook, path)
        print(f"{path}: {len(notebook.cells)} cells ran")


def store(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Keep what was printed and drawn."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        cell.outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        if cell.cell_type != "code":
            del cell["outputs"]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
