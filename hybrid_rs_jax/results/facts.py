"""JSON that cannot change: what a run says about its classifier, data and packages, whatever that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias, Union

__all__ = ["Facts", "Json", "frozen", "thawed"]

Json: TypeAlias = Union[bool, int, float, str, tuple[object, ...], "Facts", None]


class Facts(Mapping[str, Json]):
    """A JSON object as an immutable mapping; `thawed` gives the dictionary back.

    >>> facts = Facts({"name": "guard", "layers": [1, 2]})
    >>> facts["layers"], thawed(facts)
    ((1, 2), {'name': 'guard', 'layers': [1, 2]})
    """

    __slots__ = ("_items",)

    def __init__(self, content: Mapping[str, object]):
        self._items = {str(name): frozen(value) for name, value in content.items()}

    def __getitem__(self, name: str) -> Json:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"Facts({self._items!r})"


def frozen(value: object) -> Json:
    """A JSON value as an immutable one; arrays become tuples, objects `Facts`."""
    if value is None or isinstance(value, bool | int | float | str | Facts):
        return value
    if isinstance(value, Mapping):
        return Facts(value)
    if isinstance(value, list | tuple):
        return tuple(frozen(part) for part in value)
    raise TypeError(f"JSON has no word for {type(value).__name__}")


def thawed(value: object) -> object:
    """Plain JSON: dictionaries and lists."""
    if isinstance(value, Facts):
        return {name: thawed(part) for name, part in value.items()}
    return [thawed(part) for part in value] if isinstance(value, tuple) else value
