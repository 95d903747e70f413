"""Data sets in the layouts in which they lie on disks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hybrid_rs_jax._files import read_text
from hybrid_rs_jax._text import joined
from hybrid_rs_jax.data._index import as_id, as_label, as_text, collect, csv_rows, json_rows
from hybrid_rs_jax.data.samples import Record, Samples
from hybrid_rs_jax.errors import BadInputError

__all__ = ["MM_SAFETYBENCH_IMAGES", "folder_or_csv", "hateful_memes", "mm_safetybench", "open_data"]

#: The three kinds of image of MM-SafetyBench, and the question that goes with each.
MM_SAFETYBENCH_IMAGES = {
    "SD": "Rephrased Question(SD)",
    "SD_TYPO": "Rephrased Question",
    "TYPO": "Rephrased Question",
}
_TABLES = (".csv", ".jsonl")


def open_data(path: str | Path) -> Samples:
    """The data set at a path, whose layout is recognised: see the other functions of this module.

    A folder with `processed_questions/` is MM-SafetyBench (with its SD_TYPO images); a JSON-lines file whose lines
    have the key `img` is a split of Hateful Memes; any other CSV or JSON-lines file is a table, and so is a folder
    with exactly one such file.

    Raises:
      BadInputError: one sentence, if nothing is recognised or the index is broken; with the line where there is one.
    """
    path = Path(path)
    if (path / "processed_questions").is_dir() or (path / "data" / "processed_questions").is_dir():
        return mm_safetybench(path)
    table = _table(path)
    return hateful_memes(table.parent, table.stem) if _is_hateful_memes(table) else folder_or_csv(table)


def hateful_memes(folder: str | Path, split: str) -> Samples:
    """One split of Hateful Memes: `split.jsonl` (id, img, text and, but for the test splits, label) beside `img/`.

    The label is "0" or "1" as in the file, where 1 is hateful; `img` is a path relative to the folder.

    Raises:
      BadInputError: one sentence with the line, for a missing split or a broken line.
    """
    folder = Path(folder)
    path = folder / f"{split}.jsonl"
    if not path.is_file():
        splits = sorted(file.stem for file in folder.glob("*.jsonl"))
        raise BadInputError(f"{folder} has no split {split!r}; found are {joined(splits) if splits else 'none'}.")
    return collect(path, _records(path, json_rows, "img"))


def mm_safetybench(folder: str | Path, images: str = "SD_TYPO", scenarios: Sequence[str] | None = None) -> Samples:
    """MM-SafetyBench, one input per question: the image of one kind with the question that refers to it.

    Layout (in the folder or in its `data/`): `processed_questions/<scenario>.json` maps a number n to an object with
    "Rephrased Question" and "Rephrased Question(SD)"; the image is `imgs/<scenario>/<kind>/<n>.jpg`. Ids are
    "<scenario>/<kind>/<n>", labels are the scenarios ("01-Illegal_Activitiy", spelt as on the disk).

    Args:
      folder: the repository, or its `data` folder.
      images: "SD" (a generated picture), "TYPO" (the key phrase as text) or "SD_TYPO" (both).
      scenarios: names of the scenarios to load; None means all.

    Raises:
      BadInputError: one sentence, for an unknown kind or scenario, or a broken file of questions.
    """
    folder = Path(folder)
    root = folder if (folder / "processed_questions").is_dir() else folder / "data"
    if images not in MM_SAFETYBENCH_IMAGES:
        raise BadInputError(f"images must be {joined(MM_SAFETYBENCH_IMAGES, 'or')}, got {images!r}.")
    found = sorted(path.stem for path in root.glob("processed_questions/*.json"))
    if not found:
        raise BadInputError(f"{folder} has no processed_questions/*.json, so it is not MM-SafetyBench.")
    unknown = sorted(set(scenarios or ()) - set(found))
    if unknown:
        raise BadInputError(f"{folder} has no scenario {unknown[0]!r}; found are {joined(found)}.")
    chosen = [name for name in found if scenarios is None or name in scenarios]
    return collect(root, (row for name in chosen for row in _questions(root, name, images)))


def folder_or_csv(path: str | Path) -> Samples:
    """A table of inputs: CSV with the columns `id, text, image` and perhaps `label`, or JSON lines with these keys.

    `image` is a path relative to the table's folder; other columns are passed over.

    Args:
      path: the table, or a folder with exactly one `.csv` or `.jsonl` file in it.

    Raises:
      BadInputError: one sentence with the line, for a missing column, a broken line or an id that appears again.
    """
    table = _table(Path(path))
    return collect(table, _records(table, csv_rows if table.suffix.lower() == ".csv" else json_rows, "image"))


def _table(path: Path) -> Path:
    if path.is_dir():
        tables = sorted(file for file in path.iterdir() if file.suffix.lower() in _TABLES and file.is_file())
        if len(tables) != 1:
            names = joined([file.name for file in tables]) if tables else "none"
            raise BadInputError(
                f"{path} should hold exactly one .csv or .jsonl file, found {names}; give the path of the file to use."
            )
        return tables[0]
    if not path.exists():
        raise BadInputError(f"{path} does not exist.")
    if path.suffix.lower() not in _TABLES:
        raise BadInputError(f"{path} must be a folder, a .csv file or a .jsonl file.")
    return path


def _is_hateful_memes(table: Path) -> bool:
    if table.suffix != ".jsonl":
        return False
    first = next(json_rows(table, ()), None)
    return first is not None and "img" in first[1] and "image" not in first[1]


def _records(path: Path, rows: Callable, image: str) -> Iterator[tuple[str, Record]]:
    for where, row in rows(path, ("id", "text", image)):
        name = as_text(where, image, row[image]).strip()
        if not name:
            raise BadInputError(f"{where}: {image} must be the path of an image, got an empty text.")
        record = Record(
            id=as_id(where, row["id"]),
            text=as_text(where, "text", row["text"]),
            image=path.parent / name,
            label=as_label(where, row.get("label")),
        )
        yield where, record


def _questions(root: Path, scenario: str, images: str) -> Iterator[tuple[str, Record]]:
    path = root / "processed_questions" / f"{scenario}.json"
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadInputError):
            raise
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadInputError(f"{path}{where} is not legal JSON.") from error
    if not isinstance(content, dict):
        raise BadInputError(f"{path} must hold a JSON object of questions.")
    key = MM_SAFETYBENCH_IMAGES[images]
    for number, question in content.items():
        where = f"{path}, question {number}"
        if not isinstance(question, dict) or key not in question:
            raise BadInputError(f"{where}: expected an object with {key!r}.")
        record = Record(
            id=as_id(where, f"{scenario}/{images}/{number}"),
            text=as_text(where, key, question[key]),
            image=root / "imgs" / scenario / images / f"{number}.jpg",
            label=scenario,
        )
        yield where, record
