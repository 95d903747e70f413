"""What an input looks like on a page: its text, and its picture as a PNG."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hybrid_rs_jax._files import kind_of
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError, library_sentences
from hybrid_rs_jax.results.result import Result

__all__ = ["Preview", "data_preview", "demo_preview", "picture_png", "recorded_preview"]

#: Text and PNG of the input with an id; the PNG is None where there is no picture, the whole where nothing is known.
Preview = Callable[[str], tuple[str, bytes | None] | None]

_SMALLEST, _LARGEST = 128, 256
_DEMO = "hybrid_rs_jax.data.demo"


def recorded_preview(result: Result) -> Preview | None:
    """The preview of the data that a result names, where the package itself has them: the built-in demo."""
    name = None if result.counts.run is None else result.counts.run.named("data")
    return demo_preview() if name is not None and name.startswith(_DEMO) else None


def demo_preview() -> Preview:
    """Prompt and picture of the held-out inputs of the demo.

    >>> text, png = demo_preview()("digit-0001")
    >>> text.split()[0], png[1:4]
    ('input', b'PNG')
    """
    from hybrid_rs_jax.data import demo

    inputs = demo.load_demo("held_out")
    rows = {name: row for row, name in enumerate(inputs.ids)}

    def preview(name: str) -> tuple[str, bytes | None] | None:
        row = rows.get(name)
        return None if row is None else (inputs.prompts[row], picture_png(inputs.images[row]))

    return preview


def data_preview(path: Path) -> Preview:
    """Texts and pictures of a data set: a NumPy archive as `sample` reads it, or what `hybrid_rs_jax.data` opens.

    An archive holds token ids and no words: they are the text.

    Raises:
      BadInputError: if it cannot be opened, in one sentence.
    """
    if path.suffix.lower() == ".npz":
        return _archive(path)
    from hybrid_rs_jax.data.index import open_data

    data = open_data(path)
    rows = {name: row for row, name in enumerate(data.ids)}

    def preview(name: str) -> tuple[str, bytes | None] | None:
        if (row := rows.get(name)) is None:
            return None
        try:
            return data.texts[row], picture_png(data.read(row).image)
        except UnreadableInputError:
            return data.texts[row], None

    return preview


def _archive(path: Path) -> Preview:
    from hybrid_rs_jax.data.inputs import load_npz

    if kind_of(path) != "file":
        raise BadInputError(f"{path} does not exist.")
    with library_sentences():
        inputs = load_npz(path)
    rows = {name: row for row, name in enumerate(inputs.ids)}

    def preview(name: str) -> tuple[str, bytes | None] | None:
        row = rows.get(name)
        if row is None:
            return None
        return "tokens " + " ".join(map(str, inputs.tokens[row].tolist())), picture_png(inputs.images[row])

    return preview


def picture_png(pixels: np.ndarray) -> bytes | None:
    """A PNG of pixels [H, W, C] in [0, 1] (clipped to it) for the screen; None unless they are grey or RGB.

    A small picture is enlarged by a whole factor, with its pixels as squares; a large one is shrunk.
    """
    from PIL import Image

    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape:
        return None
    levels = np.rint(255 * np.clip(np.asarray(pixels, np.float64), 0, 1)).astype(np.uint8)
    factor = max(1, _SMALLEST // max(levels.shape[:2]))
    levels = levels.repeat(factor, axis=0).repeat(factor, axis=1)
    image = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
