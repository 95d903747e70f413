"""The interaction-only filter: keep inputs that are unsafe only as a pair of text and image."""

from __future__ import annotations

import contextlib
import enum
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from hybrid_rs_jax._files import kind_of
from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax.data.dataset import RawInput
from hybrid_rs_jax.data.inputs import Inputs
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError

__all__ = ["Curation", "Decide", "Outcome", "curate"]

#: A text (or its symbols, where `decide` knows them) or None for no text, and an image or None; never both None.
Pair = tuple[str | np.ndarray | None, np.ndarray | None]
#: Decisions for a batch of pairs, True = Unsafe. How a missing half is put to the model is the caller's affair.
Decide = Callable[[Sequence[Pair]], Sequence[bool] | np.ndarray]

_JOURNAL_VERSION = 1


class Outcome(enum.StrEnum):
    """What became of an input; those that are not kept are named after the first question that they failed."""

    KEPT = "kept"
    TEXT_UNSAFE = "text alone is unsafe"
    IMAGE_UNSAFE = "image alone is unsafe"
    PAIR_SAFE = "text and image together are safe"
    NOISE_UNSAFE = "noise alone is unsafe"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Curation:
    """The outcome of every input, in the order of the data, and the reasons of the unreadable ones.

    Attributes:
      outcomes: by id.
      reasons: why an input could not be read, by id.
    """

    outcomes: dict[str, Outcome]
    reasons: dict[str, str]

    @property
    def kept(self) -> tuple[str, ...]:
        """Ids of the interaction-only inputs."""
        return tuple(name for name, outcome in self.outcomes.items() if outcome is Outcome.KEPT)

    @property
    def counts(self) -> dict[Outcome, int]:
        """Number of inputs per outcome, zeros included."""
        found = Counter(self.outcomes.values())
        return {outcome: found[outcome] for outcome in Outcome}

    def report(self) -> str:
        """How many inputs were kept, and how many were dropped why, one line each."""
        total = len(self.outcomes)
        lines = [f"{total} inputs, {len(self.kept)} of them interaction-only"]
        for outcome, count in self.counts.items():
            if outcome is not Outcome.KEPT:
                lines.append(f"  dropped {count}: {outcome}")
        return "\n".join(lines)


def curate(
    inputs: Inputs[RawInput],
    decide: Decide,
    *,
    noise: Callable[[RawInput], Pair],
    clean_image: Callable[[int], np.ndarray | None] | None = None,
    journal: Path | None = None,
    settings: Mapping[str, object] | None = None,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> Curation:
    """Sort inputs by the interaction-only filter (paper, Section 5.2).

    An input is kept when f(text, -) = 0, f(-, image) = 0, f(text, image) = 1 and f(noise) = 0, asked in this order
    until one fails. A picture with its text written in it is a pair by itself: the second question can be asked about
    the same picture without that text, as the paper asks it (`clean_image`); the third keeps the picture as it is. Only
    the decisions of `decide` count, never the labels. Batches are kept full across inputs.

    Args:
      inputs: with different ids, for instance a `Dataset`; at most `batch_size` of them are in memory.
      decide: the base classifier; its decisions must not depend on the batch.
      noise: gives the pair of the last question: a draw of the smoothing's noise about an empty text and a grey
        picture, the same one for an input whenever it is asked.
      clean_image: gives the picture of the second question, by the input's number; None, or where it gives None: the
        input's own. `Dataset.clean_image` is one.
      journal: a JSON-lines file to which every finished input is appended. If it exists, the inputs in it are not
        asked again (unreadable ones neither): a run that was killed goes on and ends with the same result.
      settings: whatever the decisions depend on (model, policy, resolution, data, noise, ...), written to the journal;
        a journal with other settings is refused.
      batch_size: pairs per call of `decide`, at least 1.
      progress: called with the number of inputs finished so far.

    Returns:
      What was kept and why the rest was not, in the order of the inputs.

    Raises:
      ValueError: for a batch size below 1, an id that appears twice, or a wrong number of decisions.
      BadInputError: if the journal is broken, has other settings or other inputs, or cannot be written.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    name, times = next(iter(Counter(inputs.ids).most_common(1)), ("", 0))
    if times > 1:
        raise ValueError(f"id {name!r} appears twice; every id must be different.")
    log = _Journal(journal, settings or {}, set(inputs.ids))
    questions = _questions(noise)
    waiting = _unfinished(inputs, clean_image, log)
    pool: list[_Case] = []
    while True:
        pool += islice(waiting, batch_size - len(pool))
        if not pool:
            break
        unsafe = _ask(decide, [questions[case.stage].pair(case) for case in pool])
        finished, pool = _advance(questions, pool, unsafe)
        log.add(finished)
        if progress is not None:
            progress(len(log.entries))
    return Curation(
        {name: Outcome(log.entries[name]["outcome"]) for name in inputs.ids},
        {name: log.entries[name]["reason"] for name in inputs.ids if "reason" in log.entries[name]},
    )


@dataclass(frozen=True, eq=False)
class _Case:
    """An input, the picture of the question about the picture alone, and the number of the next question."""

    raw: RawInput
    alone: np.ndarray
    stage: int = 0


@dataclass(frozen=True)
class _Question:
    """Which pair to ask about, the decision that lets an input go on, and what it is called when it fails."""

    pair: Callable[[_Case], Pair]
    passes: bool
    failure: Outcome


def _questions(noise: Callable[[RawInput], Pair]) -> tuple[_Question, ...]:
    return (
        _Question(lambda case: (case.raw.text, None), False, Outcome.TEXT_UNSAFE),
        _Question(lambda case: (None, case.alone), False, Outcome.IMAGE_UNSAFE),
        _Question(lambda case: (case.raw.text, case.raw.image), True, Outcome.PAIR_SAFE),
        _Question(lambda case: noise(case.raw), False, Outcome.NOISE_UNSAFE),
    )


def _unfinished(
    inputs: Inputs[RawInput], clean_image: Callable[[int], np.ndarray | None] | None, log: _Journal
) -> Iterator[_Case]:
    """Inputs that are not in the journal yet; pictures are read only if they are needed."""
    for index, name in enumerate(inputs.ids):
        if name in log.entries:
            continue
        try:
            raw = inputs.read(index)
            clean = None if clean_image is None else clean_image(index)
        except UnreadableInputError as error:
            log.add([{"id": name, "outcome": Outcome.UNREADABLE.value, "reason": str(error)}])
        else:
            yield _Case(raw, raw.image if clean is None else clean)


def _ask(decide: Decide, pairs: list[Pair]) -> list[bool]:
    unsafe = np.asarray(decide(pairs))
    if unsafe.shape != (len(pairs),) or unsafe.dtype != np.bool_:
        raise ValueError(
            f"decide must give one boolean for each of {len(pairs)} pairs, got {unsafe.dtype} of shape {unsafe.shape}."
        )
    return unsafe.tolist()


def _advance(
    questions: Sequence[_Question], pool: list[_Case], unsafe: list[bool]
) -> tuple[list[dict[str, str]], list[_Case]]:
    """Entries of the inputs that are finished, and the others with their next question."""
    finished, going_on = [], []
    for case, decision in zip(pool, unsafe, strict=True):
        if decision != questions[case.stage].passes:
            finished.append({"id": case.raw.id, "outcome": questions[case.stage].failure.value})
        elif case.stage + 1 == len(questions):
            finished.append({"id": case.raw.id, "outcome": Outcome.KEPT.value})
        else:
            going_on.append(replace(case, stage=case.stage + 1))
    return finished, going_on


class _Journal:
    """Finished inputs by id, in memory and, if there is a path, in a JSON-lines file that begins with the settings.

    A last line without its end is one that a kill cut short: it is dropped, and its input is done again.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, object], ids: set[str]) -> None:
        self.entries: dict[str, dict[str, str]] = {}
        self._path, self._ids = path, ids
        # as JSON gives them back: tuples become lists
        self._settings = json.loads(json.dumps(dict(settings)))
        if path is not None:
            with _as_sentence(path):
                self._open(path)

    def add(self, entries: Sequence[dict[str, str]]) -> None:
        """Append entries and flush them to the disk."""
        if self._path is not None and entries:
            with _as_sentence(self._path):
                _append(self._path, entries)
        self.entries.update({entry["id"]: entry for entry in entries})

    def _open(self, path: Path) -> None:
        header = {"curate": _JOURNAL_VERSION, "settings": self._settings}
        content = path.read_bytes() if kind_of(path) is not None else b""
        complete = content[: content.rfind(b"\n") + 1]
        if not complete and not _line(header).encode().startswith(content):
            raise BadInputError(f"{path} exists and is not a journal of curate; choose another name.")
        for number, line in enumerate(complete.decode(errors="replace").split("\n")[:-1], start=1):
            self._read(f"{path}, line {number}", line, number == 1)
        # only now it is certain that the file is ours to cut
        if len(complete) < len(content):
            os.truncate(path, len(complete))
        if not complete:
            _append(path, [header])

    def _read(self, where: str, line: str, first: bool) -> None:
        try:
            row = parse_json(line, where)
        except BadInputError:
            row = None
        row = row if isinstance(row, dict) else {}
        name = row.get("id")
        if first and row.get("curate") == _JOURNAL_VERSION and isinstance(row.get("settings"), dict):
            self._check_settings(row["settings"])
        elif first or not isinstance(name, str) or row.get("outcome") not in [outcome.value for outcome in Outcome]:
            raise BadInputError(f"{where} is not a line of a journal of curate.")
        elif name in self.entries:
            raise BadInputError(f"{where}: id {name!r} appears again.")
        elif name not in self._ids:
            raise BadInputError(f"{self._path} belongs to other data: it has id {name!r}, which is not among them.")
        else:
            self.entries[name] = row

    def _check_settings(self, found: Mapping[str, object]) -> None:
        for name in sorted({*found, *self._settings}):
            before, now = (json.dumps(these.get(name)) for these in (found, self._settings))
            if before != now or (name in found) != (name in self._settings):
                raise BadInputError(
                    f"{self._path} was written with {name} = {before}, and now it is {now}; use a new journal."
                )


def _line(row: Mapping[str, object]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _append(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with path.open("ab") as file:
        file.write("".join(map(_line, rows)).encode())
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _as_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInputError(f"{path} cannot be used as a journal: {error.strerror or error}.") from error
