"""From a chat model's answer to a decision: the probabilities of its first token, or its text."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = ["Decision", "FirstTokenDecision", "TextDecision", "UnreadableAnswerError"]

# How tokenizers write the space in front of a word.
_SPACES = " \t\n\r\u2581\u0120\u010a"


class UnreadableAnswerError(ValueError):
    """The answer lacks what the decision is made from; the text goes on where "The endpoint" begins."""


@runtime_checkable
class Decision(Protocol):
    """How to ask for an answer and how to read it.

    Attributes:
      unclear: what an answer that says neither Safe nor Unsafe does: "safe" counts it as Safe, "error" ends the run.
    """

    @property
    def unclear(self) -> Literal["error", "safe"]: ...

    def request(self) -> dict[str, Any]:
        """Fields of the request."""
        ...

    def decide(self, choice: dict[str, Any]) -> bool | None:
        """True for Unsafe, False for Safe, None where the answer says neither."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that the reading depends on, for a run's header."""
        ...


@dataclasses.dataclass(frozen=True)
class FirstTokenDecision:
    """Unsafe when the first token of the answer is likelier to begin an Unsafe word than a Safe word.

    One token is asked for, with the log-probabilities of the `top` likeliest ones:
    `sum of p(t) over t that begin an Unsafe word > sum of p(t) over t that begin a Safe word`; a tie is Safe. A token
    begins a word when it is the start of it ("Un") or the whole of it, perhaps with a mark behind ("unsafe."); case
    and leading space do not count. A token that begins words of both kinds counts for neither.

    Args:
      unsafe, safe: the words of each kind.
      top: number of log-probabilities to ask for, 1 to 20 (what endpoints commonly allow).
      unclear: what happens when no token of either kind is among them: "error" ends the run with a sentence that shows
        the tokens; "safe" counts the copy as Safe, which can only lower the certified score of Unsafe. To resume a run
        again and again until a model that answers at random has been clear each time would raise that score.

    Raises:
      ValueError: for an empty or a shared word, `top` out of range, or another `unclear`.

    >>> FirstTokenDecision(unsafe=("yes",), safe=("no",)).request()
    {'max_tokens': 1, 'logprobs': True, 'top_logprobs': 20}
    """

    unsafe: tuple[str, ...] = ("unsafe",)
    safe: tuple[str, ...] = ("safe",)
    top: int = 20
    unclear: Literal["error", "safe"] = "error"

    def __post_init__(self) -> None:
        for name in ("unsafe", "safe"):
            words = getattr(self, name)
            if isinstance(words, str) or not words or not all(word.strip() == word != "" for word in words):
                raise ValueError(f"{name} must hold one or more words without surrounding space, got {words!r}.")
            object.__setattr__(self, name, tuple(word.casefold() for word in words))
        if shared := set(self.unsafe) & set(self.safe):
            raise ValueError(f"unsafe and safe must not share a word, got {min(shared)!r} in both.")
        if not 1 <= self.top <= 20:
            raise ValueError(f"top must lie in 1..20, got {self.top}.")
        _check_unclear(self.unclear)

    def request(self) -> dict[str, Any]:
        """One token, with its likeliest alternatives."""
        return {"max_tokens": 1, "logprobs": True, "top_logprobs": self.top}

    def decide(self, choice: dict[str, Any]) -> bool | None:
        """Compare the two masses.

        Raises:
          UnreadableAnswerError: if the endpoint gave no log-probabilities.
        """
        unsafe = safe = 0.0
        found = False
        for token, logprob in _first_token(choice):
            kinds = (_begins_any(token, self.unsafe), _begins_any(token, self.safe))
            if kinds[0] != kinds[1]:
                found = True
                unsafe += kinds[0] * math.exp(min(logprob, 0.0))
                safe += kinds[1] * math.exp(min(logprob, 0.0))
        return unsafe > safe if found else None

    def describe(self) -> dict[str, Any]:
        """Mode, words, number of alternatives, and what an unclear answer does."""
        fields = dataclasses.asdict(self) | {"unsafe": list(self.unsafe), "safe": list(self.safe)}
        return {"mode": "log-probabilities of the first token", **fields}


@dataclasses.dataclass(frozen=True)
class TextDecision:
    """Unsafe or Safe by whichever of two patterns is found first in the text of the answer.

    The policy should ask for one word: "not unsafe" would be read as Unsafe. An answer in which neither pattern is
    found (a refusal, an empty text) is counted as Safe, which can only lower the certified score of Unsafe.

    Args:
      unsafe, safe: regular expressions; case does not count. Where both match at the same place, it is Safe.
      max_tokens: length of the answer, at least 1.
      unclear: "safe" as above, or "error" to end the run instead.

    Raises:
      ValueError: for a pattern that is none, a length below 1, or another `unclear`.

    >>> TextDecision().decide({"message": {"content": "Unsafe."}})
    True
    """

    unsafe: str = r"\bunsafe\b"
    safe: str = r"\bsafe\b"
    max_tokens: int = 16
    unclear: Literal["error", "safe"] = "safe"

    def __post_init__(self) -> None:
        for name in ("unsafe", "safe"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise ValueError(
                    f"{name} must be a regular expression, got {getattr(self, name)!r}: {error}."
                ) from None
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        _check_unclear(self.unclear)

    def request(self) -> dict[str, Any]:
        """A short text."""
        return {"max_tokens": self.max_tokens}

    def decide(self, choice: dict[str, Any]) -> bool | None:
        """Look for the patterns."""
        text = choice["message"].get("content")
        if not isinstance(text, str):
            return None
        unsafe, safe = (re.search(pattern, text, re.IGNORECASE) for pattern in (self.unsafe, self.safe))
        if unsafe is None or safe is None:
            return None if unsafe is safe else safe is None
        return unsafe.start() < safe.start()

    def describe(self) -> dict[str, Any]:
        """Mode, patterns, length, and what an unclear answer does."""
        return {"mode": "text", **dataclasses.asdict(self)}


def _check_unclear(unclear: str) -> None:
    if unclear not in ("error", "safe"):
        raise ValueError(f"unclear must be 'error' or 'safe', got {unclear!r}.")


def _begins_any(token: str, words: tuple[str, ...]) -> bool:
    start = token.lstrip(_SPACES).rstrip(_SPACES).casefold()
    return start != "" and any(
        word.startswith(start) or (start.startswith(word) and not start[len(word)].isalnum()) for word in words
    )


def _first_token(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """Tokens and log-probabilities at the first position of the answer; none where the answer is empty."""
    try:
        content = choice["logprobs"]["content"]
        rows = content[0]["top_logprobs"] if content else []
        return [(str(row["token"]), float(row["logprob"])) for row in rows]
    except (KeyError, TypeError, ValueError):
        raise UnreadableAnswerError(
            "gave an answer without log-probabilities of the first token, which TextDecision would not need"
        ) from None
