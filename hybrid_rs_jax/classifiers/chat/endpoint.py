"""One request to a chat endpoint, and its repetition: when to try again, how long to wait, when to give up."""

from __future__ import annotations

import dataclasses
import email.utils
import math
import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError
from typing import Any

from hybrid_rs_jax.classifiers._asking import HOPELESS, cause_text, quote
from hybrid_rs_jax.classifiers.chat.reply import Reply, parse_reply
from hybrid_rs_jax.errors import BadInputError

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


class _FaultError(Exception):
    """Why an attempt failed; the text goes into a sentence.

    Attributes:
      permanent: another attempt would fail as well.
      pause: the wait in seconds that the server asks for.
    """

    def __init__(self, reason: str, permanent: bool = False, pause: float = 0.0):
        super().__init__(reason)
        self.permanent, self.pause = permanent, pause


class Endpoint:
    """The client of one chat endpoint; its methods may be called from many threads.

    The official client does the transport (connections, time-outs, kinds of errors). It never retries by itself: its
    waits are not counted and not interrupted, and leave out answers that are cut short. Nor does it follow redirects,
    which turn a question into a request without one.
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
        self._secret, self._attempts = api_key, attempts
        self._backoff, self._longest_wait = backoff, longest_wait
        self._openai, self._tenacity = _packages()
        self._client = self._openai.OpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0, timeout=timeout)
        self._lock = threading.Lock()
        self._was_reached = False

    def ask(self, body: dict[str, object], given_up: threading.Event) -> Reply:
        """The reply to a request.

        Raises:
          ChatError: a permanent fault, or as many faults in a row as attempts are allowed.
          CancelledError: `given_up` was set meanwhile.
        """
        retrying = self._tenacity.Retrying(
            retry=self._tenacity.retry_if_exception(lambda error: not getattr(error, "permanent", True)),
            stop=self._tenacity.stop_after_attempt(self._attempts),
            wait=self._wait,
            before=lambda state: self._begin(state.attempt_number, given_up),
            sleep=given_up.wait,
            reraise=True,
        )
        try:
            reply: Reply = retrying(self._attempt, body)
        except _FaultError as fault:
            how = "refused the request:" if fault.permanent else f"failed {self._attempts} times in a row, at last with"
            failure = self.error(f"{how} {fault}")
        else:
            self._check_model(reply)
            self.count(prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens)
            return reply
        raise failure  # out here, where no earlier error hangs on to it

    def error(self, reason: str, advice: str = RESUME) -> ChatError:
        """A ChatError that names the endpoint; the API key is struck out wherever a server repeats it."""
        return ChatError(self._without_secret(f"The chat endpoint {self.url} {reason}. {advice}"))

    def quoted(self, words: object) -> str:
        """The server's own words, on one line and not too long; the key goes first, or a cut could leave half of it."""
        return quote(self._without_secret(str(words)))

    def count(self, **more: int) -> None:
        """Add to the statistics."""
        with self._lock:
            now = self.statistics
            self.statistics = dataclasses.replace(now, **{name: getattr(now, name) + more[name] for name in more})

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _begin(self, attempt: int, given_up: threading.Event) -> None:
        if given_up.is_set():
            raise CancelledError
        self.count(requests=1, retries=int(attempt > 1))

    def _attempt(self, body: dict[str, object]) -> Reply:
        found = self._send(body)
        if isinstance(found, str):
            try:
                return parse_reply(found)
            except BadInputError as error:
                why = str(error).rstrip(".")
                found = _FaultError(f"an answer that is no chat completion, {self.quoted(found)}: {why}")
        if found.pause > self._longest_wait:
            limit = f"longest_wait = {self._longest_wait:g} s"
            found = _FaultError(f"it asks for a pause of {found.pause:.0f} s, longer than {limit}: {found}", True)
        raise found

    def _send(self, body: dict[str, object]) -> str | _FaultError:
        """The body of the answer, or why there is none.

        Errors of the client end here: they hold the request, and with it the API key. So they are told, not raised.
        """
        try:
            answer = self._client.post("/chat/completions", body=body, cast_to=str, options={"follow_redirects": False})
            self._was_reached = True
            return answer
        except self._openai.APIStatusError as error:
            self._was_reached = True
            return self._status_fault(error)
        except self._openai.APITimeoutError:
            return _FaultError("the time-out was exceeded")
        except self._openai.APIConnectionError as error:
            return self._connection_fault(error)
        except Exception as error:  # of a library that met what no server should send
            return _FaultError(f"the answer could not be received ({type(error).__name__})")

    def _status_fault(self, error: Any) -> _FaultError:
        status, headers = int(error.status_code), error.response.headers
        reason = f"status {status}"
        if 300 <= status < 400:
            where = headers.get("location")
            goal = f" to {self.quoted(where)}; give the address behind it as base_url" if where else ""
            return _FaultError(f"{reason}, it redirects{goal}", permanent=True)
        if status in _HINTS:
            reason += f" ({_HINTS[status]})"
        if status not in (401, 403):  # those may quote a part of the key
            body = error.body if error.body is not None else error.message
            reason += f", {self.quoted(body.get('message', body) if isinstance(body, dict) else body)}"
        # out of money is reported like too many requests, but does not pass
        permanent = not (status in (408, 409, 425, 429) or status >= 500) or error.code == "insufficient_quota"
        return _FaultError(reason, permanent, _retry_after(headers))

    def _connection_fault(self, error: BaseException) -> _FaultError:
        """A broken connection by its innermost cause; a wrong address does not become right by trying again."""
        while (cause := error.__cause__ or error.__context__) is not None:
            error = cause
        hopeless = isinstance(error, HOPELESS) and not self._was_reached
        return _FaultError(f"the connection failed, {cause_text(error)}", permanent=hopeless)

    def _check_model(self, reply: Reply) -> None:
        with self._lock:
            if self.served_model is None:
                self.served_model = reply.model
            expected = self.served_model
        if reply.model != expected:
            raise self.error(
                f"answers with the model {self.quoted(reply.model)} instead of {self.quoted(expected)}",
                "Votes of two models must not be added up: start a new run, or resume this one with "
                f"served_model={self.quoted(expected)} when the endpoint serves that model again.",
            )

    def _wait(self, state: Any) -> float:
        """Seconds until the next attempt: they double, with jitter, and are at least what the server wishes."""
        doubled = min(self._backoff * 2.0 ** min(state.attempt_number - 1, 60), self._longest_wait)
        return max(doubled * (1 - random.random() / 2), state.outcome.exception().pause)

    def _without_secret(self, text: str) -> str:
        return text.replace(self._secret, "[API key]") if self._secret else text


def _packages() -> tuple[Any, Any]:
    try:
        import openai
        import PIL  # noqa: F401  (needed for the first picture: better to know at once)
        import tenacity
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"A chat classifier needs the package {error.name}: pip install 'hybrid-rs-jax[chat]'.", name=error.name
        ) from None
    return openai, tenacity


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait: a number, or the time until a date; 0 without a wish that makes sense."""
    value = headers.get("retry-after", "0")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, OSError):
            return 0.0
    return seconds if 0 < seconds < math.inf else 0.0
