"""A classifier behind an address: one request per noisy pair, JSON in and JSON out."""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import numpy as np

from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax.classifiers._asking import (
    HOPELESS,
    LONGEST_QUOTE,
    MOST_AT_ONCE,
    Threads,
    cause_text,
    check_patience,
    check_url,
    checked_key,
    png_text,
    quote,
)
from hybrid_rs_jax.classifiers._pairs import host_pairs, qualified_name
from hybrid_rs_jax.classifiers._timed import TimedHandler, TimedSecureHandler
from hybrid_rs_jax.classifiers.chat.endpoint import RESUME, ChatError

__all__ = ["WireClassifier"]

_LONGEST_ANSWER = 1 << 20
_AGAIN = (408, 409, 425, 429)


class WireClassifier:
    """Asks a service about each noisy pair: POST `{"text": ..., "image": <base64 PNG>}`, and reads one decision.

    Inputs without pictures (no channels) are asked about as `{"text": ...}` alone.

    The answer is a JSON object with `"unsafe": true` or `false`, or, with `threshold`, a number `"score"`, above which
    a pair is Unsafe. Pixels are clipped to [0, 1] and rounded to 8 bits; this, the decoding and everything the service
    does belong to the base classifier. An answer may be random; it must depend on its own pair alone, and the service
    must stay the same for the whole run.

    Status 408, 409, 425, 429 and 5xx, time-outs, broken connections and answers that were cut short are tried again
    after a wait that doubles (a Retry-After in seconds is obeyed); anything else, a redirect included, ends the run at
    once, which can be resumed. So does an address that was never reached and has no TLS or no known name.

    Args:
      url: address of the service, without user name, password or query.
      decode: turns the tokens of one input, int32 [l], into text; called from several threads.
      threshold: a score above it is Unsafe; None: the answer says "unsafe" itself.
      api_key: sent as `Authorization: Bearer`; None takes the environment variable HYBRID_RS_API_KEY, if there is one.
      concurrency: most requests at once, at least 1.
      attempts: most attempts per request, at least 1.
      timeout: seconds without a sign of the service, or for its answer's body, until an attempt has failed; twice as
        many for all of its answer, however little comes at a time.
      backoff: seconds before the first repetition; longest_wait: no wait is longer.

    Raises:
      ValueError: for an argument out of range.

    >>> from hybrid_rs_jax.data import demo
    >>> WireClassifier("http://localhost:8000/classify", demo.decode, threshold=0.5).describe()["threshold"]
    0.5
    """

    on_host = True
    max_in_flight = 2

    def __init__(
        self,
        url: str,
        decode: Callable[[np.ndarray], str],
        *,
        threshold: float | None = None,
        api_key: str | None = None,
        concurrency: int = MOST_AT_ONCE,
        attempts: int = 8,
        timeout: float = 60.0,
        backoff: float = 0.5,
        longest_wait: float = 60.0,
    ):
        check_url(url, "url", "http://localhost:8000/classify")
        waits = {"timeout": timeout, "backoff": backoff, "longest_wait": longest_wait}
        check_patience(concurrency, attempts, waits)
        if threshold is not None and not math.isfinite(threshold):
            raise ValueError(f"threshold must be a finite number, got {threshold}.")
        self.url, self.threshold = url, threshold
        self._decode, self._attempts, self._timeout = decode, attempts, timeout
        self._backoff, self._longest_wait = backoff, longest_wait
        key = checked_key(os.environ.get("HYBRID_RS_API_KEY") if api_key is None else api_key)
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._open = urllib.request.build_opener(_NoRedirect, TimedHandler, TimedSecureHandler).open
        self._was_reached = False
        self._threads = Threads(concurrency, "wire")

    def __call__(self, tokens: Any, images: Any) -> np.ndarray:
        """Ask about each pair: tokens int [b, l] and images float [b, h, w, 1 or 3] to bool [b], True for Unsafe.

        Raises:
          ChatError: the service could not be used; the other requests of the batch are given up.
        """
        return self._threads.votes(self._ask, *host_pairs(tokens, images))

    def describe(self) -> dict[str, object]:
        """Address, decoding and rule, for a run's header."""
        return {
            "name": "hybrid_rs_jax.classifiers.WireClassifier",
            "url": self.url,
            "threshold": self.threshold,
            "decode": qualified_name(self._decode),
        }

    def cancel(self) -> None:
        """Give up the batches under way."""
        self._threads.cancel()

    def close(self) -> None:
        """Give up what is under way and end the threads; the classifier cannot be called again."""
        self._threads.close()

    def __repr__(self) -> str:
        return f"WireClassifier({self.url!r})"

    def _ask(self, tokens: np.ndarray, image: np.ndarray, given_up: threading.Event) -> bool:
        picture = {"image": png_text(image)} if image.size else {}
        body = json.dumps({"text": self._decode(tokens), **picture}).encode()
        for attempt in range(self._attempts):
            if given_up.is_set():
                raise CancelledError
            found = self._send(body)
            if isinstance(found, bytes):
                return self._decision(found)
            fault, pause = found
            if pause > self._longest_wait:
                raise self._error(f"asks for a pause of {pause:.0f} s, longer than {self._longest_wait:g} s: {fault}")
            doubled = min(self._backoff * 2.0 ** min(attempt, 60), self._longest_wait) * (1 - random.random() / 2)
            if attempt + 1 < self._attempts:
                given_up.wait(max(doubled, pause))
        raise self._error(f"failed {self._attempts} times in a row, at last with {fault}")

    def _send(self, body: bytes) -> bytes | tuple[str, float]:
        """The body of the answer; or why there is none, and the pause that is asked for, if it may pass."""
        request = urllib.request.Request(self.url, body, self._headers, method="POST")
        try:
            with self._open(request, timeout=self._timeout) as answer:
                self._was_reached = True
                content = self._content(answer)
            return content if isinstance(content, bytes) else (content, 0.0)
        except urllib.error.HTTPError as error:
            self._was_reached = True
            with error:
                return self._status_fault(error)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None)
            cause = reason if isinstance(reason, BaseException) else error
            if isinstance(cause, HOPELESS) and not self._was_reached:
                raise self._error(f"cannot be reached: {cause_text(cause)}") from None
            return f"a broken connection, {cause_text(cause)}", 0.0

    def _content(self, answer: http.client.HTTPResponse) -> bytes | str:
        """What was answered, whole and in time, or what is wrong about that."""
        deadline, parts, size = time.monotonic() + self._timeout, [b""], 0
        while part := answer.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > _LONGEST_ANSWER:
                raise self._error(f"gave an answer of more than {_LONGEST_ANSWER:,} bytes")
            if time.monotonic() > deadline:
                return f"an answer that was not there after {self._timeout:g} s"
        if answer.length:  # bytes that were promised
            return "an answer that was cut short"
        return b"".join(parts)

    def _status_fault(self, error: urllib.error.HTTPError) -> tuple[str, float]:
        """Why a status may pass, and the pause that is asked for."""
        try:
            told = _quoted(error.read(LONGEST_QUOTE))
        except (OSError, http.client.HTTPException):
            told = "without a readable body"
        fault, where = f"status {error.code}, {told}", error.headers.get("Location")
        if 300 <= error.code < 400 and where:
            goal = _quoted(where.encode())
            raise self._error(f"refused the request: status {error.code}, it redirects to {goal}; give that address")
        if error.code not in _AGAIN and error.code < 500:
            raise self._error(f"refused the request: {fault}")
        return fault, _seconds(error.headers.get("Retry-After"))

    def _decision(self, content: bytes) -> bool:
        wanted = "unsafe" if self.threshold is None else "score"
        try:
            answer = parse_json(content.decode(), "the answer")
            value = answer[wanted] if isinstance(answer, dict) else None
            if value is None:
                raise KeyError(wanted)
        except (ValueError, KeyError):
            legal = '{"unsafe": true}' if self.threshold is None else '{"score": 0.7}'
            hint = "; a score needs a threshold" if b'"score"' in content and self.threshold is None else ""
            raise self._error(f"must answer {legal}, got {_quoted(content)}{hint}") from None
        if self.threshold is None:
            if value is True or value is False:
                return bool(value)
            raise self._error(f'must say true or false for "unsafe", got {value!r:.80}')
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._error(f'must give a finite number for "score", got {value!r:.80}')
        return bool(value > self.threshold)

    def _error(self, reason: str) -> ChatError:
        return ChatError(f"The endpoint {self.url} {reason}. {RESUME}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would turn the question into a request without one."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse it: its status is an error then."""


def _seconds(value: str | None) -> float:
    try:
        seconds = float(value or 0)
    except ValueError:
        return 0.0
    return seconds if 0 < seconds < math.inf else 0.0


def _quoted(content: bytes) -> str:
    return quote(content.decode("utf-8", "replace"))
