"""What a chat endpoint answers, and how it becomes a decision: by the probabilities of the first token, or by the text.

A server may send anything, with status 200, too. Each field is looked at before it is used, and what does not fit is
an error, never a vote.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Literal

from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax.errors import BadInputError

__all__ = ["Decision", "FirstTokenDecision", "Reply", "TextDecision", "UnreadableReplyError", "parse_reply"]

# How tokenizers write the space in front of a word.
_SPACES = " \t\n\r\u2581\u0120\u010a"
# A log-probability above 0 by rounding (of float16 at most) is still one.
_ROUNDING = 0.01
# Half of a pair, as servers that cut a text write it; the tail of a whole pair is passed over by the first branch.
_HALF_PAIR = re.compile(r"(\\u[dD][89abAB]..\\u[dD][c-fC-F]..)|\\u[dD][89a-fA-F]..")


class UnreadableReplyError(ValueError):
    """The reply lacks what the decision is made from; the text goes on where "The endpoint" begins."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """The first choice of a chat completion.

    Attributes:
      model: the id of the model that answered.
      text: the message's content; None where it is null or missing, as in a refusal.
      logprobs: the choice's `logprobs` as it came.
      prompt_tokens, completion_tokens: what the server says that it has read and written.
    """

    model: str
    text: str | None
    logprobs: object = None
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def candidates(self) -> list[tuple[str, float]]:
        """Tokens and log-probabilities at the first position; none where the answer is empty.

        Raises:
          UnreadableReplyError: if there are none, or one of them is no log-probability (NaN, infinity, a text); -inf
            is one.
        """
        content = self.logprobs.get("content") if isinstance(self.logprobs, dict) else None
        if content == []:
            return []
        first = content[0] if isinstance(content, list) else None
        rows = first.get("top_logprobs") if isinstance(first, dict) else None
        if not isinstance(first, dict) or not isinstance(rows, list):
            raise UnreadableReplyError(
                "gave an answer without log-probabilities of the first token, which TextDecision would not need"
            )
        if "logprob" in first:
            _log_probability(first)
        return [_log_probability(row) for row in rows]


def parse_reply(text: str) -> Reply:
    """Read the body of an answer.

    Raises:
      BadInputError: if it is no chat completion, with what is wrong about "the answer".
    """
    answer = parse_json(_HALF_PAIR.sub(lambda found: found[1] or r"\ufffd", text), "the answer", constant=float)
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(answer, dict) or not isinstance(choice, dict) or not isinstance(message, dict):
        raise BadInputError("the answer has no first choice that holds a message.")
    model, content, usage = answer.get("model"), message.get("content"), answer.get("usage")
    if not isinstance(model, str):
        raise BadInputError("the answer does not name its model.")
    if not isinstance(content, str | None):
        raise BadInputError(f"the answer's message holds {_kind(content)} instead of a text.")
    return Reply(model, content, choice.get("logprobs"), _count(usage, "prompt"), _count(usage, "completion"))


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

    def request(self) -> dict[str, object]:
        """One token, with its likeliest alternatives."""
        return {"max_tokens": 1, "logprobs": True, "top_logprobs": self.top}

    def decide(self, reply: Reply) -> bool | None:
        """Compare the two masses.

        Raises:
          UnreadableReplyError: if the endpoint gave no log-probabilities, or something else in their place.
        """
        unsafe = safe = 0.0
        found = False
        for token, log_probability in reply.candidates():
            kinds = (_begins_any(token, self.unsafe), _begins_any(token, self.safe))
            if kinds[0] != kinds[1]:
                found = True
                unsafe += kinds[0] * math.exp(min(log_probability, 0.0))
                safe += kinds[1] * math.exp(min(log_probability, 0.0))
        return unsafe > safe if found else None

    def describe(self) -> dict[str, object]:
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

    >>> TextDecision().decide(Reply("model", "Unsafe."))
    True
    """

    unsafe: str = r"\bunsafe\b"
    safe: str = r"\bsafe\b"
    max_tokens: int = 16
    unclear: Literal["error", "safe"] = "safe"

    def __post_init__(self) -> None:
        for name in ("unsafe", "safe"):
            pattern = getattr(self, name)
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name} must be a regular expression, got {pattern!r}: {error}.") from None
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        _check_unclear(self.unclear)

    def request(self) -> dict[str, object]:
        """A short text."""
        return {"max_tokens": self.max_tokens}

    def decide(self, reply: Reply) -> bool | None:
        """Look for the patterns."""
        unsafe, safe = (re.search(pattern, reply.text or "", re.IGNORECASE) for pattern in (self.unsafe, self.safe))
        if unsafe is None or safe is None:
            return None if unsafe is safe else safe is None
        return unsafe.start() < safe.start()

    def describe(self) -> dict[str, object]:
        """Mode, patterns, length, and what an unclear answer does."""
        return {"mode": "text", **dataclasses.asdict(self)}


#: How to ask for an answer and how to read it.
Decision = FirstTokenDecision | TextDecision


def _check_unclear(unclear: str) -> None:
    if unclear not in ("error", "safe"):
        raise ValueError(f"unclear must be 'error' or 'safe', got {unclear!r}.")


def _begins_any(token: str, words: tuple[str, ...]) -> bool:
    start = token.lstrip(_SPACES).rstrip(_SPACES).casefold()
    return start != "" and any(
        word.startswith(start) or (start.startswith(word) and not start[len(word)].isalnum()) for word in words
    )


def _log_probability(row: object) -> tuple[str, float]:
    """A token and its log-probability, at most `_ROUNDING` above 0; -inf is what servers send for "never"."""
    token, value = (row.get("token", ""), row.get("logprob")) if isinstance(row, Mapping) else ("", None)
    if not isinstance(token, str):
        raise UnreadableReplyError(f"gave a first token that is no text but {_kind(token)}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= _ROUNDING:
        shown = value if isinstance(value, int | float) else _kind(value)
        raise UnreadableReplyError(f"gave {shown} as the log-probability of a first token")
    return token, float(value)


def _count(usage: object, what: str) -> int:
    count = usage.get(f"{what}_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**63 else 0


def _kind(value: object) -> str:
    kinds = {"NoneType": "null", "bool": "a truth value", "int": "a number", "float": "a number", "str": "a text"}
    return kinds.get(type(value).__name__, "an object" if isinstance(value, dict) else "a list")
