"""An append-only file of finished inputs, so that a run that was killed can go on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from hybrid_rs_jax.errors import BadInputError

__all__ = ["Journal"]

_VERSION = 1


class Journal:
    """Entries by id, in memory and, if there is a path, in a JSON-lines file whose first line holds the settings.

    A last line without its end is one that a kill cut short: it is dropped, and its input is done again.

    Args:
      path: the file, which need not exist; None for no file.
      settings: must be the same as those of the file.
      outcomes: legal values of an entry's "outcome".

    Raises:
      BadInputError: one sentence, if the file is not a journal, is broken, has other settings or cannot be written.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, object], outcomes: Collection[str]) -> None:
        self.path = path
        self.entries: dict[str, dict[str, str]] = {}
        # as JSON gives them back: tuples become lists
        self._settings = json.loads(json.dumps(dict(settings)))
        if path is not None:
            with _as_sentence(path):
                self._open(path, outcomes)

    def add(self, entries: Sequence[dict[str, str]]) -> None:
        """Append entries and flush them to the disk."""
        if self.path is not None and entries:
            with _as_sentence(self.path):
                _append(self.path, "".join(_line(entry) for entry in entries))
        self.entries.update({entry["id"]: entry for entry in entries})

    def check_ids(self, ids: Collection[str]) -> None:
        """Raise one sentence if there are entries of other inputs than `ids`."""
        foreign = next((name for name in self.entries if name not in ids), None)
        if foreign is not None:
            raise BadInputError(f"{self.path} belongs to other data: it has id {foreign!r}, which is not among them.")

    def _open(self, path: Path, outcomes: Collection[str]) -> None:
        header = _line({"curate": _VERSION, "settings": self._settings})
        content = path.read_bytes() if path.exists() else b""
        complete = content[: content.rfind(b"\n") + 1]
        if complete:
            self._read(complete, outcomes)
        elif not header.encode().startswith(content):
            raise BadInputError(f"{path} exists and is not a journal of curate; choose another name.")
        # only now it is certain that the file is ours to cut
        if len(complete) < len(content):
            os.truncate(path, len(complete))
        if not complete:
            _append(path, header)

    def _read(self, content: bytes, outcomes: Collection[str]) -> None:
        for number, line in enumerate(content.decode(errors="replace").split("\n")[:-1], start=1):
            where = f"{self.path}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            row = row if isinstance(row, dict) else {}
            if number == 1 and row.get("curate") == _VERSION and isinstance(row.get("settings"), dict):
                self._check_settings(row["settings"])
            elif number == 1 or not isinstance(row.get("id"), str) or row.get("outcome") not in outcomes:
                raise BadInputError(f"{where} is not a line of a journal of curate.")
            elif row["id"] in self.entries:
                raise BadInputError(f"{where}: id {row['id']!r} appears again.")
            else:
                self.entries[row["id"]] = row

    def _check_settings(self, found: Mapping[str, object]) -> None:
        for name in sorted({*found, *self._settings}):
            before, now = (json.dumps(these.get(name)) for these in (found, self._settings))
            if before != now or (name in found) != (name in self._settings):
                raise BadInputError(
                    f"{self.path} was written with {name} = {before}, and now it is {now}; use a new journal."
                )


def _line(row: Mapping[str, object]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _append(path: Path, lines: str) -> None:
    with path.open("ab") as file:
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _as_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInputError(f"{path} cannot be used as a journal: {error.strerror or error}.") from error
