"""One input from its loader to the ledger: clean tokens, a clean picture, and the positions that carry noise."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from hybrid_rs_jax._files import kind_of, path_text
from hybrid_rs_jax._tables import whole_number
from hybrid_rs_jax._text import as_text

__all__ = ["ArrayInputs", "Input", "Inputs", "load_npz"]

_T = TypeVar("_T", covariant=True)
_ARRAYS = ("tokens", "images", "ids", "eligible")
#: What else may be said of the inputs.
_SAID = ("labels", "groups")
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class Input:
    """One input as it is certified.

    Attributes:
      tokens: int32[L].
      image: float32[H, W, C].
      eligible: bool[L], the positions that carry noise.
      id: its name in a data set; empty outside of one.
    """

    tokens: np.ndarray
    image: np.ndarray
    eligible: np.ndarray
    id: str = ""

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, image and eligible positions."""
        return self.tokens, self.image, self.eligible

    def digest(self) -> str:
        """What identifies the input: a resumed run must find the same one."""
        whole = hashlib.sha256()
        for part in self.arrays:
            whole.update(f"{part.dtype.str} {part.shape};".encode())
            whole.update(np.ascontiguousarray(part).tobytes())
        return whole.hexdigest()


@runtime_checkable
class Inputs(Protocol[_T]):
    """A data set of which one input at a time is read."""

    @property
    def ids(self) -> Sequence[str]:
        """Names, all different."""
        ...

    def read(self, index: int) -> _T:
        """The input at `index`, 0-based; an `Input`, or before it is encoded a `RawInput`.

        Raises:
          UnreadableInputError: if it cannot be used.
        """
        ...


@dataclass(frozen=True, eq=False)
class ArrayInputs:
    """Inputs that are in memory.

    Args:
      ids: names, all different.
      tokens: int32[B, L].
      images: float32[B, H, W, C].
      eligible: bool[L] or bool[B, L].
      columns: what else is said of the inputs, "label" and "group" for two: a text for each, by name.

    Raises:
      ValueError: if the numbers of inputs differ, or an id appears twice.
    """

    ids: Sequence[str]
    tokens: np.ndarray
    images: np.ndarray
    eligible: np.ndarray
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        number = len(self.ids)
        for name, values in self.columns.items():
            if len(values) != number:
                raise ValueError(f"{name}s must hold {number} inputs, as ids does, got {len(values)}.")
        for name in ("tokens", "images"):
            if len(getattr(self, name)) != number:
                raise ValueError(f"{name} must hold {number} inputs, as ids does, got {len(getattr(self, name))}.")
        if self.eligible.shape not in (self.tokens.shape, self.tokens.shape[1:]):
            wanted = f"{list(self.tokens.shape[1:])} or {list(self.tokens.shape)}"
            raise ValueError(f"eligible must have shape {wanted}, got {list(self.eligible.shape)}.")
        if len(set(self.ids)) < number:
            name, times = Counter(self.ids).most_common(1)[0]
            raise ValueError(f"ids must all be different, got {name!r} {times} times.")

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Input:
        """The input at `index`."""
        eligible = self.eligible if self.eligible.ndim == 1 else self.eligible[index]
        return Input(self.tokens[index], self.images[index], eligible, self.ids[index])


def load_npz(path: Path, pixel_range: tuple[int | float, int | float] | None = None) -> ArrayInputs:
    """Inputs from a NumPy archive with `tokens` [B, L] and `images` [B, H, W, C]; C = 0 says that there are none.

    Optionally it has `ids`, `eligible`, and texts or integers `labels` and `groups` [B].

    Without `ids` inputs are named by their number; without `eligible` all positions carry noise. Names are compared
    without case, other arrays are passed over.

    Args:
      path: the archive.
      pixel_range: what becomes 0 and 1; then pixels must lie in this range. None: pixels are floats and stay as they
        are (images in [0, 1], say, or features of another unit), and what looks like 0..255 is refused.

    Returns:
      The inputs, checked.

    Raises:
      ValueError: if the file is not such an archive: one sentence with the file and what is wrong.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "inputs.npz"
    ...     np.savez(path, tokens=np.zeros((2, 3), np.int32), images=np.full((2, 4, 4, 1), 0.5, np.float32))
    ...     inputs = load_npz(path)
    >>> len(inputs), inputs.read(0).image.shape
    (2, (4, 4, 1))
    """
    arrays = _read_arrays(path)
    try:
        tokens = _tokens(arrays["tokens"])
        images = _pixels(arrays["images"], pixel_range)
        if len(tokens) == 0:
            raise ValueError("it holds no inputs (tokens and images of length 0)")
        ids = _ids(arrays["ids"]) if "ids" in arrays else [str(index) for index in range(len(tokens))]
        eligible = _mask(arrays["eligible"], tokens) if "eligible" in arrays else np.ones(tokens.shape[1], bool)
        said = {name.removesuffix("s"): _column(arrays.get(name), len(tokens)) for name in _SAID}
        columns = {name: values for name, values in said.items() if values is not None}
        return ArrayInputs(ids, tokens, images, eligible, columns)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).rstrip('.')}.") from error


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if (kind := kind_of(path)) != "file":
        raise ValueError(f"{path_text(path)} {'does not exist' if kind is None else 'is not a file'}.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            held = sorted(archive.files)
            asked = [name for name in held if name.casefold() in _ARRAYS]
            names = [name.casefold() for name in asked]
            arrays = {name: archive[key] for name, key in zip(names, asked, strict=True)}
            arrays |= {name: said for name in _SAID if (said := _loadable(archive, name)) is not None}
    except Exception as error:  # on broken bytes zipfile, zlib and NumPy raise whatever they stumble over
        reason = f"{str(error).strip() or type(error).__name__}".splitlines()[0].rstrip(".")
        if "Object" in reason:
            reason = "it holds Python objects; write texts as np.array(texts, dtype=str)"
        raise ValueError(
            f"{path} cannot be read as a NumPy archive (.npz, written by np.savez): {reason:.200}."
        ) from error
    missing = [name for name in ("tokens", "images") if name not in names]
    if missing:
        found = ", ".join(map(path_text, held))[:200] or "nothing"
        raise ValueError(f"{path} must hold tokens and images, got {found}.")
    for name, array in arrays.items():
        if names.count(name) > 1:
            raise ValueError(f"{path} holds {name} {names.count(name)} times, in capitals and not.")
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{path}: {name} is not a NumPy array.")
    return arrays


def _loadable(archive: Any, name: str) -> np.ndarray | None:
    """A member that need not be there, nor hold plain values."""
    try:
        return np.asarray(archive[name]) if name in archive.files else None
    except ValueError:  # Python objects
        return None


def _tokens(tokens: np.ndarray) -> np.ndarray:
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise ValueError(f"tokens must be integers [inputs, length], got {tokens.dtype} {list(tokens.shape)}")
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < 2**31:
        raise ValueError(f"tokens must lie in 0..{2**31 - 1}, got {tokens.min()}..{tokens.max()}")
    return tokens.astype(np.int32)


def _pixels(images: np.ndarray, pixel_range: tuple[int | float, int | float] | None) -> np.ndarray:
    shape = list(images.shape)
    if images.ndim != 4 or images.dtype.kind not in "fiu" or 0 in shape[1:3]:
        raise ValueError(f"images must be floats [inputs, height, width, channels], got {images.dtype} {shape}")
    _, first, *_, last = shape
    if first in _CHANNELS and last not in _CHANNELS and min(shape[2:]) > max(_CHANNELS):
        raise ValueError(f"images look channels-first, got {shape}; channels come last: np.moveaxis(images, 1, -1)")
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = images.astype(np.float32)
    if not np.isfinite(pixels).all():
        place = tuple(map(int, np.argwhere(~np.isfinite(pixels))[0]))
        raise ValueError(f"images must be finite as float32, got {images[place]} at {list(place)}")
    if not pixels.size:  # no inputs, or texts alone
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    if pixel_range is None:
        if images.dtype.kind in "iu" or (low >= 0 and high > 2 and (pixels == np.rint(pixels)).all()):
            raise ValueError(
                f"images of {images.dtype} span {low:g}..{high:g}; divide pixels of 0..255 by 255, or say their range "
                "(--pixel-range 0,255; 0,1 leaves them as they are)"
            )
        return pixels
    least, most = pixel_range
    if not (np.isfinite([least, most]).all() and least < most):
        raise ValueError(f"the pixel range must be two finite numbers that grow, got {least:g},{most:g}")
    if (least, most) == (0, 1):
        return pixels
    if not least <= low <= high <= most:
        raise ValueError(f"images must lie in the pixel range {least:g}..{most:g}, got {low:g}..{high:g}")
    return (pixels - np.float32(least)) / np.float32(most - least)


def _ids(ids: np.ndarray) -> list[str]:
    if ids.ndim != 1 or ids.dtype.kind not in "USiufM":
        raise ValueError(f"ids must be names or integers [inputs], got {ids.dtype} {list(ids.shape)}")
    return [_name(index, value) for index, value in enumerate(ids.tolist() if ids.dtype.kind != "M" else ids)]


def _name(index: int, value: object) -> str:
    if isinstance(value, bytes):
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"ids[{index}] is not a text in UTF-8, got {value!r:.80}") from error
    elif isinstance(value, np.datetime64):
        text = "" if np.isnat(value) else str(value)
    else:
        number = None if isinstance(value, str) else whole_number(value)
        text = value if isinstance(value, str) else "" if number is None else str(number)
    if not text.strip():
        raise ValueError(f"ids[{index}] must be a name or an integer, got {value!r:.80}")
    if "\0" in text:
        raise ValueError(f"ids[{index}] must hold no zero character, got {value!r:.80}")
    return as_text(text.strip(), f"ids[{index}]")


def _column(values: np.ndarray | None, number: int) -> list[str] | None:
    """What is said of each input; None where the array says something else, of which archives hold all kinds."""
    if values is None or values.shape != (number,) or values.dtype.kind not in "Uiub":
        return None
    return [as_text(str(cell), "a label") for cell in values.tolist()]


def _mask(eligible: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    length = tokens.shape[1]
    fix = f"of positions make a mask: mask = np.zeros({length}, bool); mask[positions] = True"
    values = eligible if eligible.dtype.kind in "biuf" else None
    if values is None or not np.isin(values, (0, 1)).all():
        got = eligible.dtype if values is None else values[~np.isin(values, (0, 1))].flat[0]
        raise ValueError(f"eligible must be true or false (0 or 1) for every position, got {got}; {fix}")
    if eligible.shape not in (tokens.shape, tokens.shape[1:]):
        wanted = f"{list(tokens.shape[1:])} or {list(tokens.shape)}"
        raise ValueError(f"eligible must have shape {wanted}, got {list(eligible.shape)}; {fix}")
    return eligible.astype(bool)
