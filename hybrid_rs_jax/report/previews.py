"""What an input looks like on a page: its text, and its picture as a PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_rs_jax.errors import BadInputError, library_sentences

__all__ = ["Preview", "data_preview", "demo_preview", "picture_png", "recorded_preview"]

#: Text and PNG of the input with an id; the PNG is None where there is no picture, the whole where nothing is known.
Preview = Callable[[str], tuple[str, bytes | None] | None]

_SMALLEST, _LARGEST = 128, 256
_DEMO = "hybrid_rs_jax.data.demo"


def recorded_preview(record: Mapping[str, Any]) -> Preview | None:
    """The preview of the data that a record names, where the package itself has them: the built-in demo."""
    run = record["statement"].get("run")
    data = run.get("data") if isinstance(run, dict) else None
    name = data.get("name") if isinstance(data, dict) else None
    return demo_preview() if isinstance(name, str) and name.startswith(_DEMO) else None


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
    from hybrid_rs_jax.data.loaders import open_data
    from hybrid_rs_jax.data.samples import Sample

    samples = open_data(path)
    rows = {record.id: row for row, record in enumerate(samples.records)}

    def preview(name: str) -> tuple[str, bytes | None] | None:
        if (row := rows.get(name)) is None:
            return None
        sample = samples[row]
        return samples.records[row].text, picture_png(sample.image) if isinstance(sample, Sample) else None

    return preview


def _archive(path: Path) -> Preview:
    from hybrid_rs_jax.data.inputs import load_npz

    if not path.is_file():
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
