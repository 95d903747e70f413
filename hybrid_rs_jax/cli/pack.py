"""Turn texts and pictures into a NumPy archive that every model takes.

The archive holds tokens, images, ids, eligible (the positions behind each text, or all of
them with --threat anywhere), and where the data have them labels and groups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from hybrid_rs_jax._files import atomic_file, check_target
from hybrid_rs_jax._text import counted
from hybrid_rs_jax.cli import _values
from hybrid_rs_jax.cli._doors import TokenizerName
from hybrid_rs_jax.cli._values import flag, integer
from hybrid_rs_jax.cli.options import GuardOptions, ThreatOptions
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError
from hybrid_rs_jax.report.tables import say

EXAMPLES = """\
examples:
  hybrid-rs pack memes.jsonl --image-size 64x64 --out inputs.npz
  hybrid-rs pack pictures/ --tokenizer bytes --text-length 200 --out inputs.npz"""

_SHOWN = 5


def pack(
    data: Annotated[str, Parameter(metavar="DATA")],
    /,
    *,
    out: Annotated[Path, Parameter(metavar="NPZ")],
    tokenizer: TokenizerName = "words",
    text_length: Annotated[int, flag(integer(1, 2**20), "L")] | None = None,
    image_size: Annotated[tuple[int, int], flag(_values.image_size, "HxW")] | None = None,
    threat: ThreatOptions | None = None,
    force: bool = False,
) -> None:
    """Read, encode, write.

    Parameters
    ----------
    data
        .csv, .jsonl or .parquet with id, text, image (label, group), a folder of pictures (a.png with a.txt), or demo
    out
        archive to write (.npz)
    tokenizer
        alphabet: the words of the data set, 256 bytes, or the tokens of a folder with tokenizer.json; PAD belongs to
        each (default: words)
    text_length
        positions of a text (default: the longest text and 8 more)
    image_size
        resolution in pixels, e.g. 64x64 (default: that of the first picture)
    force
        overwrite an existing archive
    """
    from hybrid_rs_jax.cli._data import DEMO_DATA, open_arrays

    check_target(out, (".npz",), force)
    if data.lower().endswith(".npz"):
        raise BadInputError(f"DATA must be texts and pictures (.csv, .jsonl, .parquet, a folder) or demo, got {data}.")
    if data in DEMO_DATA and (text_length is not None or image_size is not None):
        raise BadInputError(f"--text-length and --image-size mean nothing to {data}, whose inputs are encoded.")
    given = GuardOptions(text_length=text_length, image_size=image_size)
    opened = open_arrays(data, given, None, threat or ThreatOptions(), tokenizer)
    rows, skipped = [], []
    for index, name in enumerate(opened.inputs.ids):
        try:
            rows.append((index, opened.inputs.read(index)))
        except UnreadableInputError as error:
            skipped.append(f"{name}: {error}")
    if not rows:
        raise BadInputError(f"None of the {counted(len(skipped), 'input')} can be used; the first one: {skipped[0]}")
    arrays: dict[str, np.ndarray] = {
        "ids": np.array([row.id for _, row in rows]),
        "tokens": np.stack([row.tokens for _, row in rows]),
        "images": np.stack([row.image for _, row in rows]),
        "eligible": np.stack([row.eligible for _, row in rows]),
    }
    for name, values in opened.columns.items():
        arrays[f"{name}s"] = np.array([values[index] or "" for index, _ in rows])
    with atomic_file(out, force) as path, path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    for sentence in skipped[:_SHOWN]:
        say(f"Skipped {sentence}")
    if len(skipped) > _SHOWN:
        say(f"... and {len(skipped) - _SHOWN} more.")
    length, (height, width) = rows[0][1].tokens.size, rows[0][1].image.shape[:2]
    size, inputs = opened.vocab_size, counted(len(rows), "input")
    pictures = bool(rows[0][1].image.size)
    shown = f"{height}x{width} pixels" if pictures else "no pictures"
    say(f"Wrote {out}: {inputs}, {counted(length, 'token')} each out of {size:,}, {shown}.")
    noise = " --sigma 0.25" if pictures else ""
    say(f"Next: hybrid-rs sample --model package.module:name --data {out} --vocab-size {size}{noise}")
