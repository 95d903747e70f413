"""Data sets of texts and pictures in the layouts in which they lie on disks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hybrid_rs_jax._files import atomic_file, kind_of, path_text, read_text
from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax._tables import SUFFIXES, Table, read_table
from hybrid_rs_jax._text import as_text, joined
from hybrid_rs_jax.data.dataset import Dataset, first_twin
from hybrid_rs_jax.errors import BadInputError

__all__ = [
    "MM_SAFETYBENCH_IMAGES",
    "data_files",
    "folder_or_csv",
    "hateful_memes",
    "mm_safetybench",
    "open_data",
    "picture_folder",
    "write_index",
]

#: The three kinds of image of MM-SafetyBench, and the question that goes with each.
MM_SAFETYBENCH_IMAGES = {
    "SD": "Rephrased Question(SD)",
    "SD_TYPO": "Rephrased Question",
    "TYPO": "Rephrased Question",
}
#: Tables that a folder is looked through for; only where there is none of the first kind, for the second.
_TABLES = ((".csv", ".jsonl"), SUFFIXES)

#: What a table may say besides.
_SAID = ("label", "group", "clean_image")

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def open_data(path: str | Path) -> Dataset:
    """The data set at a path, whose layout is recognised: see the other functions of this module.

    A folder with `processed_questions/` is MM-SafetyBench (with its SD_TYPO images); a table with the column `img`
    and none called `image` is a split of Hateful Memes; any other is a table of inputs, and so is a folder with
    exactly one. A table with neither column holds texts alone. A folder without a table is one of pictures, see
    `picture_folder`. A column `clean_image` names pictures without the text that is written in them, for `curate`.

    Args:
      path: a table or a folder.

    Returns:
      The data set; pictures are read when they are asked for.

    Raises:
      BadInputError: one sentence, if nothing is recognised or the index is broken; with the line where there is one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "data.csv").write_text("id,text,image\\na,dial seven,a.png\\n")
    ...     open_data(folder).ids[0]
    'a'
    """
    path = Path(path)
    if kind_of(path) == "folder" and _questions_folder(path) is not None:
        return mm_safetybench(path)
    if kind_of(path) == "folder" and not data_files(path, SUFFIXES) and data_files(path, _PICTURES):
        return picture_folder(path)
    table = read_table(_table_file(path), ("id", "text"), ("image", "img", *_SAID))
    return _dataset(table, next((name for name in ("image", "img") if name in table.columns), None))


def hateful_memes(folder: str | Path, split: str) -> Dataset:
    """One split of Hateful Memes: `split.jsonl` (id, img, text and, but for the test splits, label) beside `img/`.

    The label is "0" or "1" as in the file, where 1 is hateful; `img` is a path relative to the folder.

    Args:
      folder: with the JSON-lines files and `img/`.
      split: name of a file without its ending, "dev_seen" for instance.

    Returns:
      The data set; pictures are read when they are asked for.

    Raises:
      BadInputError: one sentence with the line, for a missing split or a broken line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "dev.jsonl").write_text('{"id": 1, "img": "img/1.png", "text": "so", "label": 0}\\n')
    ...     hateful_memes(folder, "dev").texts[0]
    'so'
    """
    files = data_files(Path(folder), (".jsonl",))
    chosen = [file for file in files if file.stem == split] or [f for f in files if f.stem.lower() == split.lower()]
    if not chosen:
        found = joined([file.stem for file in files]) or "none"
        raise BadInputError(f"{path_text(folder)} has no split {split!r}; found are {found}.")
    return _dataset(read_table(chosen[0], ("id", "text", "img"), _SAID), "img")


def mm_safetybench(folder: str | Path, images: str = "SD_TYPO", scenarios: Sequence[str] | None = None) -> Dataset:
    """MM-SafetyBench, one input per question: the image of one kind with the question that refers to it.

    Layout (in the folder or in its `data/`): `processed_questions/<scenario>.json` maps a number n to an object with
    "Rephrased Question" and "Rephrased Question(SD)"; the image is `imgs/<scenario>/<kind>/<n>.jpg`. Ids are
    "<scenario>/<kind>/<n>", labels are the scenarios ("01-Illegal_Activitiy", spelt as on the disk).

    Args:
      folder: the repository, or its `data` folder.
      images: "SD" (a generated picture), "TYPO" (the key phrase as text) or "SD_TYPO" (both).
      scenarios: names of the scenarios to load; None means all.

    Returns:
      The data set; pictures are read when they are asked for.

    Raises:
      BadInputError: one sentence, for an unknown kind or scenario, or a broken file of questions.
    """
    if images not in MM_SAFETYBENCH_IMAGES:
        raise BadInputError(f"images must be {joined(MM_SAFETYBENCH_IMAGES, 'or')}, got {images!r}.")
    questions = _questions_folder(Path(folder))
    files = [] if questions is None else data_files(questions, (".json",))
    if questions is None or not files:
        raise BadInputError(f"{path_text(folder)} has no processed_questions/*.json, so it is not MM-SafetyBench.")
    found = [file.stem for file in files]
    unknown = sorted(set(scenarios or ()) - set(found))
    if unknown:
        raise BadInputError(f"{path_text(folder)} has no scenario {unknown[0]!r}; found are {joined(found)}.")
    chosen = [file for file in files if scenarios is None or file.stem in scenarios]
    rows = [row for file in chosen for row in _questions(file, images)]
    if not rows:
        raise BadInputError(f"{path_text(folder)} holds no inputs.")
    ids, texts, names, labels = zip(*rows, strict=True)
    return Dataset(questions.parent, ids, texts, names, labels, (None,) * len(ids))


def folder_or_csv(path: str | Path) -> Dataset:
    """A table of inputs (CSV, JSON lines, Parquet) with `id, text, image` and perhaps `label, group, clean_image`.

    `image` and `clean_image` are paths relative to the table's folder; other columns are passed over.

    Args:
      path: the table, or a folder with exactly one in it.

    Returns:
      The data set; pictures are read when they are asked for.

    Raises:
      BadInputError: one sentence with the line, for a missing column, a broken line or an id that appears again.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "data.csv").write_text("id,text,image\\na,dial seven,a.png\\n")
    ...     folder_or_csv(folder).texts[0]
    'dial seven'
    """
    return _dataset(read_table(_table_file(Path(path)), ("id", "text", "image"), _SAID), "image")


def picture_folder(folder: str | Path) -> Dataset:
    """A folder of pictures: the text of `a.png` stands in `a.txt`, and is empty where there is no such file.

    Inputs are named by their picture files.

    Args:
      folder: with the pictures.

    Returns:
      The data set; pictures are read when they are asked for.

    Raises:
      BadInputError: one sentence, if there is no picture, or a text is not in UTF-8.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.png").write_bytes(b""), Path(folder, "a.txt").write_text("dial seven")
    ...     picture_folder(folder).texts[0]
    'dial seven'
    """
    folder = Path(folder)
    pictures = data_files(folder, _PICTURES)
    if not pictures:
        raise BadInputError(f"{path_text(folder)} holds no pictures ({joined(_PICTURES)}).")
    pairs = [picture.with_suffix(".txt") for picture in pictures]
    texts = tuple(read_text(text).strip() if kind_of(text) == "file" else "" for text in pairs)
    names = tuple(picture.name for picture in pictures)
    return Dataset(folder, names, texts, names, (None,) * len(names), (None,) * len(names))


def write_index(path: Path, data: Dataset, force: bool = False) -> None:
    """Write the index as JSON lines (id, text, image, label, ...) that `open_data` reads; image paths relative to it.

    Args:
      path: the file.
      data: the data set.
      force: replace an existing file.

    Raises:
      BadInputError: if the file exists, or cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "data.csv").write_text("id,text,image\\na,dial seven,a.png\\n")
    ...     write_index(Path(folder) / "copy.jsonl", folder_or_csv(folder))
    ...     Path(folder, "copy.jsonl").read_text()
    '{"id": "a", "text": "dial seven", "image": "a.png", "label": null}\\n'
    """
    folder = path.resolve().parent
    with atomic_file(path, force) as temporary, temporary.open("w", encoding="utf-8") as file:
        for index, (name, text, label, group) in enumerate(
            zip(data.ids, data.texts, data.labels, data.groups, strict=True)
        ):
            row: dict[str, str | None] = {"id": name, "text": text}
            paths = {"image": data.images[index], "clean_image": data.clean_images[index]}
            for column, image in paths.items():
                if image:
                    row[column] = Path(os.path.relpath((data.folder / image).resolve(), folder)).as_posix()
            row |= {"label": label}
            row |= {} if group is None else {"group": group}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def data_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files of a folder with one of these endings, in whatever case, that a person put there as data.

    What systems and office programs leave beside them is passed over: names that begin with "." (`._x` of a Mac) or
    "~$" (locks).

    Raises:
      BadInputError: if the folder cannot be read.
    """
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise BadInputError(f"The folder {path_text(folder)} cannot be read: {error.strerror or error}.") from error
    return [
        file
        for file in found
        if file.name.lower().endswith(tuple(suffixes))
        and not file.name.startswith((".", "~$"))
        and kind_of(file) == "file"
    ]


def _table_file(path: Path) -> Path:
    kind = kind_of(path)
    if kind is None:
        raise BadInputError(f"{path_text(path)} does not exist.")
    if kind != "folder":
        if not path.name.lower().endswith((*SUFFIXES, ".json", ".txt")):
            raise BadInputError(f"{path_text(path)} must be a folder or a table (.csv, .jsonl, .parquet and the like).")
        return path
    tables = next((found for suffixes in _TABLES if (found := data_files(path, suffixes))), [])
    if len(tables) != 1:
        names = joined(file.name for file in tables) or "none"
        raise BadInputError(
            f"{path_text(path)} should hold exactly one .csv or .jsonl file, found {names}; "
            "give the path of the file to use."
        )
    return tables[0]


def _dataset(table: Table, image: str | None) -> Dataset:
    """A table as a data set; `image` names the column of the pictures, if there are any."""
    if not len(table):
        raise BadInputError(f"{table.path} holds no inputs.")
    ids = table.names("id")
    twice = first_twin(ids)
    if twice is not None:
        places = f"{table.place(twice[1])}: id {ids[twice[1]]!r} appears again, after {table.place(twice[0])}"
        raise BadInputError(f"{places}; every id must be different.")
    names = [""] * len(ids) if image is None else [name.strip() for name in table.texts(image)]
    if image is not None and "" in names:
        raise BadInputError(f"{table.place(names.index(''))}: {image} must be the path of an image, got an empty text.")
    clean = [name or "" for name in table.labels("clean_image")]
    texts, labels, groups = table.texts("text"), table.labels("label"), table.labels("group")
    return Dataset(
        table.path.parent, tuple(ids), tuple(texts), tuple(names), tuple(labels), tuple(groups), tuple(clean)
    )


def _questions_folder(path: Path) -> Path | None:
    places = (path / "processed_questions", path / "data" / "processed_questions")
    return next((place for place in places if kind_of(place) == "folder"), None)


def _questions(path: Path, images: str) -> Iterator[tuple[str, str, str, str]]:
    """Id, text, path of the picture and label of each question of a scenario."""
    content = parse_json(read_text(path), str(path))
    if not isinstance(content, dict):
        raise BadInputError(f"{path} must hold a JSON object of questions.")
    key, scenario = MM_SAFETYBENCH_IMAGES[images], path.stem
    for number, question in content.items():
        where = f"{path}, question {path_text(number)}"
        if not isinstance(question, dict) or key not in question:
            raise BadInputError(f"{where}: expected an object with {key!r}.")
        text = as_text(question[key], f"{where}: {key}")
        yield f"{scenario}/{images}/{number}", text, f"imgs/{scenario}/{images}/{number}.jpg", scenario
