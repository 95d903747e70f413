"""Tables that say where the tensors of a checkpoint belong in a network."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable

__all__ = ["KERNEL", "SAME", "Key", "KeyTable", "Target", "join"]

SAME: tuple[int, ...] = ()
KERNEL = (1, 0)  # a linear map is stored as [outputs, inputs], and kept as [inputs, outputs]


#: What may stand in the places of a template.
PLACES = {"layer": r"\d+", "map": r"[a-z]+_proj|fc[12]|linear_[12]", "n": "[12]"}


@dataclasses.dataclass(frozen=True)
class Key:
    """One line of a table, read in both directions: the names of a stored tensor and of the parameter that it fills.

    >>> key = Key("layers.{layer}.{map}.weight", "blocks.{layer}.{map}.kernel")
    >>> key.parameter_of("layers.3.fc2.weight"), key.stored_of("blocks.3.fc2.kernel"), key.stored_of("other")
    ('blocks.3.fc2.kernel', 'layers.3.fc2.weight', None)

    Attributes:
      stored: name on disk; `{layer}`, `{map}` and `{n}` are the same on both sides, see `PLACES`.
      parameter: dotted path of the parameter.
      axes: the parameter is `stored.transpose(axes)`; empty where the order is the same.
    """

    stored: str
    parameter: str
    axes: tuple[int, ...] = SAME

    def parameter_of(self, stored: str) -> str | None:
        """The parameter that a stored tensor fills; None where the name is not of this line."""
        return _translated(stored, self.stored, self.parameter)

    def stored_of(self, parameter: str) -> str | None:
        """The stored name of a parameter; None where it is not of this line."""
        return _translated(parameter, self.parameter, self.stored)


@dataclasses.dataclass(frozen=True)
class Target:
    """The parameter that a stored tensor fills, and its axes in the stored order."""

    parameter: str
    axes: tuple[int, ...]

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape on disk of a parameter of this shape."""
        if not self.axes:
            return shape
        return tuple(shape[self.axes.index(axis)] for axis in range(len(shape)))

    def stored_index(self, index: tuple[slice, ...]) -> tuple[slice, ...]:
        """The part on disk of a part of the parameter."""
        return tuple(index[self.axes.index(axis)] for axis in range(len(index))) if self.axes else index


@dataclasses.dataclass(frozen=True)
class KeyTable:
    """How one network's tensors are named in checkpoints.

    Attributes:
      keys: lines of the current layout.
      renames: (pattern, replacement) pairs that bring the start of an older name into the current layout; the first
        that matches is applied.
      ignored: patterns of tensors that the network has no use for.
    """

    keys: tuple[Key, ...]
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    def current_name(self, name: str) -> str:
        """The name in the current layout."""
        for pattern, replacement in self.renames:
            renamed, hits = re.subn("^" + pattern, replacement, name)
            if hits:
                return renamed
        return name

    def target(self, name: str) -> Target | None:
        """The parameter that the stored tensor fills; None where no line knows it."""
        current = self.current_name(name)
        for key in self.keys:
            if (parameter := key.parameter_of(current)) is not None:
                return Target(parameter, key.axes)
        return None

    def stored(self, parameter: str) -> str | None:
        """The name in the current layout of the tensor that fills a parameter; None where no line knows it."""
        return next((name for key in self.keys if (name := key.stored_of(parameter)) is not None), None)

    def ignores(self, name: str) -> bool:
        """Whether the network has no use for the stored tensor."""
        current = self.current_name(name)
        return any(re.fullmatch(pattern, current) for pattern in self.ignored)

    def under(self, prefix: str) -> KeyTable:
        """The same table for a network that is the part `prefix` of a larger one; renames are left out."""
        start = re.escape(prefix) + r"\."
        keys = tuple(Key(f"{prefix}.{key.stored}", f"{prefix}.{key.parameter}", key.axes) for key in self.keys)
        return KeyTable(keys, (), tuple(start + pattern for pattern in self.ignored))


def join(tables: Iterable[KeyTable], renames: tuple[tuple[str, str], ...]) -> KeyTable:
    """One table for a network of several parts."""
    tables = list(tables)
    keys = tuple(key for table in tables for key in table.keys)
    return KeyTable(keys, renames, tuple(pattern for table in tables for pattern in table.ignored))


def _translated(name: str, source: str, target: str) -> str | None:
    match = _pattern(source).fullmatch(name)
    return None if match is None else target.format(**match.groupdict())


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    """A template as a regular expression: `{layer}` becomes a group of that name."""
    pieces = re.split(r"\{(\w+)\}", template)
    literals, places = map(re.escape, pieces[::2]), pieces[1::2]
    groups = [f"(?P<{place}>{PLACES[place]})" for place in places]
    return re.compile("".join(literal + group for literal, group in zip(literals, [*groups, ""], strict=True)))
