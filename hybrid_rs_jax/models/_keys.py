"""Tables that say where the tensors of a checkpoint belong in a network."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

__all__ = ["KERNEL", "SAME", "Key", "KeyTable", "Target", "join"]

SAME: tuple[int, ...] = ()
KERNEL = (1, 0)  # a linear map is stored as [outputs, inputs], and kept as [inputs, outputs]


@dataclasses.dataclass(frozen=True)
class Key:
    """A pattern of stored names, the parameter that it fills, and the order of axes.

    Attributes:
      pattern: regular expression that matches a whole stored name.
      parameter: dotted path of the parameter; may refer to the pattern's groups.
      axes: the parameter is `stored.transpose(axes)`; empty where the order is the same.
    """

    pattern: str
    parameter: str
    axes: tuple[int, ...] = SAME


@dataclasses.dataclass(frozen=True)
class Target:
    """The parameter that a stored tensor fills, and its axes in the stored order."""

    parameter: str
    axes: tuple[int, ...]

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape on disk of a parameter of this shape."""
        if not self.axes:
            return shape
        stored = [0] * len(shape)
        for position, axis in enumerate(self.axes):
            stored[axis] = shape[position]
        return tuple(stored)


@dataclasses.dataclass(frozen=True)
class KeyTable:
    """How one network's tensors are named in checkpoints.

    Attributes:
      keys: patterns of the current layout.
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
        """The parameter that the stored tensor fills; None where no pattern matches."""
        current = self.current_name(name)
        for key in self.keys:
            if match := re.fullmatch(key.pattern, current):
                return Target(match.expand(key.parameter), key.axes)
        return None

    def ignores(self, name: str) -> bool:
        """Whether the network has no use for the stored tensor."""
        current = self.current_name(name)
        return any(re.fullmatch(pattern, current) for pattern in self.ignored)

    def under(self, prefix: str) -> KeyTable:
        """The same table for a network that is the part `prefix` of a larger one; older names stay behind."""
        start = re.escape(prefix) + r"\."
        keys = tuple(Key(start + key.pattern, f"{prefix}.{key.parameter}", key.axes) for key in self.keys)
        return KeyTable(keys, (), tuple(start + pattern for pattern in self.ignored))


def join(tables: Iterable[KeyTable], renames: tuple[tuple[str, str], ...]) -> KeyTable:
    """One table for a network of several parts."""
    tables = list(tables)
    keys = tuple(key for table in tables for key in table.keys)
    return KeyTable(keys, renames, tuple(pattern for table in tables for pattern in table.ignored))
