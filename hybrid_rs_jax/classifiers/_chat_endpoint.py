"""One request to a chat endpoint, and its repetition: when to try again, how long to wait, when to give up."""

from __future__ import annotations

import dataclasses
import email.utils
import json
import math
import random
import threading
import time
from concurrent.futures import CancelledError
from typing import Any

__all__ = ["ChatError", "ChatStatistics", "Endpoint"]

RESUME = "The counts of the batches before are not touched, and the run can be resumed."
_HINTS = {401: "check the API key", 403: "check what the API key may do", 404: "check the address and the model's name"}


class ChatError(RuntimeError):
    """A chat endpoint could not be used; one sentence says why, a second one how the run can go on."""


@dataclasses.dataclass(frozen=True)
class ChatStatistics:
    """What a chat classifier has asked for so far.

    Attributes:
      requests: HTTP requests sent; `retries`: those of them that repeated a failed one.
      unparsable: answers that said neither Safe nor Unsafe.
      prompt_tokens, completion_tokens: what the endpoint says that it has read and written.
    """

    requests: int = 0
    retries: int = 0
    unparsable: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class _Fault:
    """Why an attempt failed.

    Attributes:
      reason: for the user; `permanent`: another attempt would fail as well.
      crowded: the server has too much to do, so that the other threads should wait, too.
      retry_after: the wait in seconds that the server asks for.
    """

    reason: str
    permanent: bool = False
    crowded: bool = False
    retry_after: float | None = None


class Endpoint:
    """The client of one chat endpoint; its methods may be called from many threads.

    The official client does the transport (connections, time-outs, kinds of errors). It is told never to retry: its
    own waits cannot be configured, are not counted and not interrupted, do not hold back the other threads, and leave
    out answers that are cut short.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        served_model: str | None,
        *,
        attempts: int,
        timeout: float,
        backoff: float,
        longest_wait: float,
    ):
        self.url, self.served_model, self.statistics = base_url, served_model, ChatStatistics()
        self._secret = api_key
        self._attempts, self._backoff, self._longest_wait = attempts, backoff, longest_wait
        self._client = _openai().OpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0, timeout=timeout)
        self._lock = threading.Lock()
        self._not_before = 0.0

    def ask(self, body: dict[str, Any], given_up: threading.Event) -> dict[str, Any]:
        """The first choice of the answer to a request.

        Raises:
          ChatError: a permanent fault, or as many faults in a row as attempts are allowed.
          CancelledError: `given_up` was set meanwhile.
        """
        own_turn, reason = 0.0, ""
        for attempt in range(self._attempts):
            self._wait_until(own_turn, given_up)
            self.count(requests=1, retries=int(attempt > 0))
            found = self._attempt(body)
            if isinstance(found, dict):
                self._check_model(found)
                self.count(**_usage(found))
                return found["choices"][0]
            if found.permanent:
                raise self.error(f"refused the request: {found.reason}")
            own_turn, reason = self._next_turn(attempt, found), found.reason
        raise self.error(f"failed {self._attempts} times in a row, at last with this: {reason}")

    def error(self, reason: str, advice: str = RESUME) -> ChatError:
        """A ChatError that names the endpoint; the API key is struck out wherever a server repeats it."""
        return ChatError(self._without_secret(f"The chat endpoint {self.url} {reason}. {advice}"))

    def quoted(self, words: object) -> str:
        """The server's own words, on one line and not too long; the key goes first, or a cut could leave half of it."""
        line = " ".join(self._without_secret(str(words)).split())
        return repr(line if len(line) <= 200 else line[:200] + "...")

    def count(self, **more: int) -> None:
        """Add to the statistics."""
        with self._lock:
            now = self.statistics
            self.statistics = dataclasses.replace(now, **{name: getattr(now, name) + more[name] for name in more})

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _attempt(self, body: dict[str, Any]) -> dict[str, Any] | _Fault:
        """One request: an answer with a model's id and at least one choice, or a fault.

        Errors of the client end here: they hold the request, and with it the API key.
        """
        openai = _openai()
        try:
            text = self._client.post("/chat/completions", body=body, cast_to=str)
        except openai.APIStatusError as error:
            return self._status_fault(error)
        except openai.APITimeoutError:
            return _Fault("the time-out was exceeded")
        except openai.APIConnectionError as error:
            return _Fault(f"the connection failed ({type(error.__cause__ or error).__name__})")
        except (UnicodeError, openai.OpenAIError) as error:
            return _Fault(f"the answer could not be received ({type(error).__name__})")
        answer = _completion(text)
        return _Fault(f"an answer that is no chat completion, {self.quoted(text)}") if answer is None else answer

    def _status_fault(self, error: Any) -> _Fault:
        status = int(error.status_code)
        reason = f"status {status}"
        if status in _HINTS:
            reason += f" ({_HINTS[status]})"
        if status not in (401, 403):  # those may quote a part of the key
            body = error.body if error.body is not None else error.message
            reason += f", {self.quoted(body.get('message', body) if isinstance(body, dict) else body)}"
        # out of money is reported like too many requests, but does not pass
        permanent = not (status in (408, 409, 425, 429) or status >= 500) or error.code == "insufficient_quota"
        return _Fault(reason, permanent, status in (429, 503), _retry_after(error.response.headers))

    def _check_model(self, answer: dict[str, Any]) -> None:
        with self._lock:
            if self.served_model is None:
                self.served_model = answer["model"]
            expected = self.served_model
        if answer["model"] != expected:
            raise self.error(
                f"answers with the model {answer['model']!r} instead of {expected!r}",
                "Votes of two models must not be added up: start a new run, or resume this one with "
                f"served_model={expected!r} when the endpoint serves that model again.",
            )

    def _next_turn(self, attempt: int, fault: _Fault) -> float:
        """When to try again: after a wait that doubles each time, with jitter, but not before the server wishes."""
        wait = min(self._backoff * 2.0 ** min(attempt, 60), self._longest_wait) * (1 - random.random() / 2)
        if fault.retry_after is not None:
            if fault.retry_after > self._longest_wait:
                raise self.error(
                    f"asks for a pause of {fault.retry_after:.0f} s, longer than longest_wait = {self._longest_wait:g} "
                    f"s: {fault.reason}"
                )
            wait = max(wait, fault.retry_after)
        turn = time.monotonic() + wait
        if fault.crowded:
            with self._lock:
                self._not_before = max(self._not_before, turn)
        return turn

    def _wait_until(self, own_turn: float, given_up: threading.Event) -> None:
        while not given_up.is_set() and (wait := max(own_turn, self._not_before) - time.monotonic()) > 0:
            given_up.wait(wait)
        if given_up.is_set():
            raise CancelledError

    def _without_secret(self, text: str) -> str:
        return text.replace(self._secret, "[API key]") if self._secret else text


def _openai() -> Any:
    try:
        import openai
        import PIL  # noqa: F401  (needed for the first picture: better to know at once)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"A chat classifier needs the package {error.name}: pip install 'hybrid-rs-jax[chat]'.", name=error.name
        ) from None
    return openai


def _completion(text: str) -> dict[str, Any] | None:
    """The parsed answer, if it is a chat completion; a proxy that fails may send anything with status 200."""
    try:
        answer = json.loads(text)
        complete = isinstance(answer["model"], str) and isinstance(answer["choices"][0]["message"], dict)
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return answer if complete else None


def _usage(answer: dict[str, Any]) -> dict[str, int]:
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return {}
    names = ("prompt_tokens", "completion_tokens")
    return {name: usage[name] for name in names if isinstance(usage.get(name), int)}


def _retry_after(headers: Any) -> float | None:
    """Seconds that the server asks to wait: a number, or the time until a date; None without a wish."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
