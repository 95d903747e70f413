"""Clean decisions of a checkpoint: on pictures of the certified size, and of their own as a deployed one is shown them.

A certificate is about pictures of one size, to which all are fitted. A server of the same checkpoint is shown pictures
as they come, and its image processing cuts tiles, adds a border or rounds to patches by the shape of each. Both are the
same network behind the same processing, yet they may decide differently: how often, is a question of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hybrid_rs_jax._text import counted, joined
from hybrid_rs_jax.cli._process import is_out_of_memory
from hybrid_rs_jax.data.inputs import Input
from hybrid_rs_jax.errors import UnreadableInputError, library_sentences

if TYPE_CHECKING:
    from hybrid_rs_jax.classifiers import VlmGuard
    from hybrid_rs_jax.data import Dataset, RawInput
    from hybrid_rs_jax.models import ImagePreprocessor

__all__ = ["clean_lines"]

#: Inputs that are decided without noise.
SHOWN = 8


@dataclass(frozen=True, eq=False)
class _Case:
    """An input before and after it is encoded, and what the guard says of it at the certified size."""

    raw: RawInput
    encoded: Input
    unsafe: bool


def clean_lines(guard: VlmGuard, texts: Dataset) -> Iterator[tuple[str, str]]:
    """The decisions on the first inputs without noise, and how many of them differ at the pictures' own sizes."""
    cases = _decided(guard, texts)
    unsafe = [case.raw.id for case in cases if case.unsafe]
    names = f" ({', '.join(unsafe)})" if unsafe else ""
    yield "clean inputs", f"{len(unsafe)} of the first {counted(len(cases), 'one')} Unsafe without noise{names}"
    if cases:
        yield "own sizes", _own_sizes(guard, cases)


def _decided(guard: VlmGuard, texts: Dataset) -> list[_Case]:
    """The first inputs that can be used."""
    pairs = []
    for index in range(min(len(texts), SHOWN)):
        try:
            raw = texts.read(index)
            pairs.append((raw, guard.encode(raw.text, raw.image)))
        except (UnreadableInputError, ValueError):
            continue
    if not pairs:
        return []
    with library_sentences():
        tokens, images = (np.stack([getattr(each, name) for _, each in pairs]) for name in ("tokens", "image"))
        votes = np.asarray(guard(tokens, images)).tolist()
    return [_Case(raw, encoded, vote) for (raw, encoded), vote in zip(pairs, votes, strict=True)]


def _own_sizes(guard: VlmGuard, cases: list[_Case]) -> str:
    """How often the decision is another one at the picture's own size, and for which inputs."""
    sizes: dict[tuple[int, int], list[_Case]] = {}
    for case in cases:
        height, width = case.raw.image.shape[:2]
        sizes.setdefault((height, width), []).append(case)
    if set(sizes) == {guard.image_size} and guard.settings.views == "checkpoint":
        return "the pictures have the certified size already, so a deployed guard is shown the same"
    changed, refused = [], []
    for size, alike in sizes.items():
        votes = _at_own_size(guard, size, alike)
        if isinstance(votes, str):
            refused.append((len(alike), votes))
            continue
        for case, unsafe in zip(alike, votes, strict=True):
            if unsafe != case.unsafe:
                words = [("Safe", "Unsafe")[vote] for vote in (case.unsafe, unsafe)]
                changed.append(f"{case.raw.id} ({words[0]} here, {words[1]} there)")
    tried = len(cases) - sum(number for number, _ in refused)
    height, width = guard.image_size
    said = f"{len(changed)} of {counted(tried, 'input')} decided otherwise than at {height}x{width}"
    said += f" when shown at their own size, {_geometry(guard.preprocessor)}"
    said += f": {joined(changed)}" if changed else ""
    if refused:
        number = sum(number for number, _ in refused)
        said += f". {counted(number, 'input')} could not be shown so: {refused[0][1].rstrip('.')}"
    return said


def _at_own_size(guard: VlmGuard, size: tuple[int, int], cases: list[_Case]) -> list[bool] | str:
    """Decisions on pictures of one size as they are, or why there are none."""
    import jax

    tokens = np.stack([case.encoded.tokens for case in cases])
    images = np.stack([case.raw.image for case in cases])
    try:
        return np.asarray(guard.decide_unfitted(tokens, images)).tolist()
    except ValueError as error:
        return str(error)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if is_out_of_memory(error):
            return f"there is not enough memory for {size[0]}x{size[1]} pixels"
        raise


def _geometry(preprocessor: ImagePreprocessor) -> str:
    """What the checkpoint's image processing makes of a picture of any shape."""
    settings = preprocessor.settings
    if settings.pinpoints:
        return "cut into tiles by their shape"
    if settings.area is not None:
        return f"rounded to multiples of {settings.step} pixels"
    if settings.border is not None:
        return "made a square by a border"
    if settings.crop is not None and isinstance(settings.size, int):
        return "resized by the shorter edge and cropped"
    if settings.family == "Gemma3":
        return (
            "squeezed into one view (pan and scan, which a server may switch on, shows further views that are not "
            "known here: with it nothing is said)"
        )
    return "squeezed into one view"
