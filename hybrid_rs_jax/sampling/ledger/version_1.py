"""Reading the ledgers of version 0.1 (format 1), as if they held the rows of today. They are never written.

They had a table `skipped` of its own, successes in a column and votes per class in another table, a budget in the
place of the stream (-1: shared), and weighted sums in the place of CRCs over numbers.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

from hybrid_rs_jax.sampling.ledger.counts import SHARED, CountRow, Stream
from hybrid_rs_jax.sampling.ledger.schema import InputRow, RangeRow, damaged

__all__ = ["read_header", "read_inputs", "read_ranges"]

_SEALS = {
    "ranges": "1000003 * input + 999983 * budget + 999979 * first + 999961 * count"
    " + 999959 * coalesce(successes, -1) + 999953 * ties",
    "votes": "1000003 * input + 999983 * budget + 999979 * first + 999961 * label + 999959 * successes",
}


def read_header(connection: sqlite3.Connection, path: Path) -> list[str]:
    """All versions of the header, in order."""
    rows = connection.execute("SELECT body, sha256 FROM header ORDER BY number").fetchall()
    if not rows or any(hashlib.sha256(body.encode()).hexdigest() != digest for body, digest in rows):
        raise damaged(path, "its header does not match its digest" if rows else "it has no header")
    return [body for body, _ in rows]


def read_inputs(connection: sqlite3.Connection, path: Path) -> Iterator[InputRow]:
    """Inputs by index; one that was drawn further after it was skipped is in use again."""
    known = _texts(connection, path, "inputs", "input, id, digest")
    inputs = {index: InputRow(index, name, digest, None) for index, name, digest in known}
    drawn = dict(connection.execute("SELECT input, sum(count) FROM ranges GROUP BY input"))
    for index, at, name, reason in _texts(connection, path, "skipped", "input, drawn, id, reason"):
        if at == drawn.get(index, 0):
            inputs[index] = inputs.get(index, InputRow(index, name, None, None))._replace(skipped=reason)
    yield from (inputs[index] for index in sorted(inputs))


def read_ranges(connection: sqlite3.Connection, path: Path) -> Iterator[RangeRow]:
    """Ranges by index, stream and first draw; those that follow each other are joined."""
    last: CountRow | None = None
    for row in _ranges(connection, path):
        if last is not None and (last.index, last.stream, last.end) == (row.index, row.stream, row.first):
            last = last + row
            continue
        if last is not None:
            yield _as_today(last)
        last = row
    if last is not None:
        yield _as_today(last)


def _ranges(connection: sqlite3.Connection, path: Path) -> Iterator[CountRow]:
    for table, seal in _SEALS.items():
        if connection.execute(f"SELECT 1 FROM {table} WHERE seal IS NOT {seal} LIMIT 1").fetchall():
            raise damaged(path, f"a row of {table} does not match its checksum")
    classes = json.loads(read_header(connection, path)[-1]).get("classes")
    votes: dict[tuple[int, int, int], list[int]] = {}
    for *place, label, number in connection.execute("SELECT input, budget, first, label, successes FROM votes"):
        votes.setdefault((place[0], place[1], place[2]), [0] * classes)[label] = number
    query = "SELECT input, budget, first, count, successes, ties FROM ranges ORDER BY input, budget, first"
    for index, budget, first, count, successes, ties in connection.execute(query):
        stream = SHARED if budget < 0 else Stream("budget", (budget,))
        counts = votes.get((index, budget, first), [0] * (classes or 0)) if successes is None else [successes]
        yield CountRow(index, stream, first, count, tuple(counts), ties)


def _as_today(row: CountRow) -> RangeRow:
    return row.index, str(row.stream), row.first, row.draws, json.dumps(row.counts), row.ties


def _texts(connection: sqlite3.Connection, path: Path, table: str, names: str) -> Iterator[tuple]:
    """Rows that hold text, whose seal is the CRC-32 of their Python representation."""
    for *row, seal in connection.execute(f"SELECT {names}, seal FROM {table}"):
        if seal != zlib.crc32(repr(tuple(row)).encode("utf-8", "surrogatepass")):
            raise damaged(path, f"a row of {table} does not match its checksum")
        yield tuple(row)
