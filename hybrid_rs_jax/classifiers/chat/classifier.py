"""A chat model as a base classifier: one request per noisy pair, in threads."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hybrid_rs_jax.classifiers._asking import MOST_AT_ONCE, Threads, check_patience, check_url, checked_key, png_text
from hybrid_rs_jax.classifiers._pairs import host_pairs, qualified_name
from hybrid_rs_jax.classifiers.chat.endpoint import ChatStatistics, Endpoint
from hybrid_rs_jax.classifiers.chat.reply import Decision, FirstTokenDecision, UnreadableReplyError

__all__ = ["ChatClassifier"]

# What the classifier itself puts into a request.
_OWN_FIELDS = frozenset({"model", "messages", "stream", "n", "logprobs", "top_logprobs"})

_IMAGE_ENCODING = "PNG in a base64 data URL, pixels clipped to [0, 1] and rounded to 8 bits after the noise"
_UNCLEAR = (
    "Look at the policy and the words of the decision, or count such answers as Safe in a new run (unclear='safe')."
)


class ChatClassifier:
    """Asks a chat model about each noisy pair, one request per pair, and reads Safe or Unsafe from the answer.

    A request holds the policy as the system's message, the decoded tokens and the picture as the user's, and
    temperature 0. What happens after the noise is part of the base classifier and never weakens the guarantee: the
    decoding, and for the picture (grey or RGB) clipping to [0, 1] and rounding to 8 bits. It has to be the same where
    the smoothed classifier is deployed.

    A remote model need not answer the same pair in the same way each time. The certificate still holds: the base
    classifier is then a randomised one, its score at a pair is the probability of Unsafe, over the noise and over the
    model's own chance, and each answer is one vote. That asks for two things which cannot be checked from here: an
    answer depends on its own pair only, and is independent of the other answers. And the model has to stay the same:
    the id that the server gives with each answer is held against the first one, and another id ends the run. A server
    that changes the model under the same id, or its instructions to it, goes unnoticed and breaks the guarantee.

    Requests run in threads, at most `concurrency` at once over all batches. Status 408, 409, 425, 429 and 5xx,
    time-outs, broken connections and answers that are no chat completion are tried again after a wait that doubles,
    with jitter; a Retry-After of the server is obeyed. Another status ends the run at once, a redirect included (it
    would lose the question), and so do log-probabilities that are none, and TLS or a host's name that fail before the
    first answer. The engine then keeps what it has counted, and the run can be resumed.

    Args:
      base_url: address of the endpoint, as in "http://localhost:8000/v1"; no user name, password or query in it.
      model: name of the model, as the server knows it.
      decode: turns the tokens of one input, int32 [l], into text; called from several threads.
      policy: the instruction: what is Unsafe, and to answer with one of the words that `decision` looks for.
      decision: `FirstTokenDecision`, one token with log-probabilities, or `TextDecision`, for endpoints without them.
      api_key: None takes the environment variable OPENAI_API_KEY; without both none is sent that means anything. It
        is neither in `repr` nor in `describe()` nor in an error.
      concurrency: most requests at once, at least 1.
      attempts: most attempts per request, at least 1.
      timeout: seconds without a sign of the server after which an attempt has failed.
      backoff: seconds before the first repetition (the jitter takes up to half of it).
      longest_wait: seconds; no wait is longer, and a server that asks for more ends the run.
      served_model: the id that each answer must carry; None takes that of the first answer. A resumed run must be
        given the id that the attribute `served_model` had before, or the votes of two models could be added up.
      options: more fields of the request, JSON-able (`{"seed": 0}`); they are written into a run's header. None takes
        a field out, as in `{"max_tokens": None, "max_completion_tokens": 1}`.

    Raises:
      ValueError: for an argument out of range.
      ModuleNotFoundError: if openai, tenacity or Pillow is not installed: pip install 'hybrid-rs-jax[chat]'.

    >>> from hybrid_rs_jax.data import demo
    >>> guard = ChatClassifier("http://localhost:8000/v1", "my-vlm", decode=demo.decode, policy="Safe or Unsafe?")
    >>> guard.describe()["decision"]["mode"]
    'log-probabilities of the first token'
    """

    on_host = True
    # while one batch waits for its last answers, the next one keeps the threads busy
    max_in_flight = 2

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        decode: Callable[[np.ndarray], str],
        policy: str,
        decision: Decision | None = None,
        api_key: str | None = None,
        concurrency: int = MOST_AT_ONCE,
        attempts: int = 8,
        timeout: float = 60.0,
        backoff: float = 0.5,
        longest_wait: float = 60.0,
        served_model: str | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        check_url(base_url, "base_url", "http://localhost:8000/v1")
        waits = {"timeout": timeout, "backoff": backoff, "longest_wait": longest_wait}
        check_patience(concurrency, attempts, waits)
        self.model, self.base_url, self.concurrency = model, base_url, concurrency
        self._decode, self._policy = decode, policy
        self._decision = FirstTokenDecision() if decision is None else decision
        self._options = _checked_options(options or {})
        key = checked_key(os.environ.get("OPENAI_API_KEY") if api_key is None else api_key)
        self._endpoint = Endpoint(base_url, key, served_model, attempts=attempts, **waits)
        self._threads = Threads(concurrency, "chat")

    def __call__(self, tokens: Any, images: Any) -> np.ndarray:
        """Ask about each pair.

        Args:
          tokens: integers [b, l].
          images: floats [b, h, w, c], c = 1 (grey), 3 (RGB), or 0: texts alone.

        Returns:
          bool [b], True for Unsafe.

        Raises:
          ValueError: shapes, dtypes or pixels do not fit, or `decode` returned no text.
          ChatError: the endpoint could not be used; the other requests of the batch are given up.
        """
        return self._threads.votes(self._ask, *host_pairs(tokens, images))

    @property
    def statistics(self) -> ChatStatistics:
        """What has been asked for so far."""
        return self._endpoint.statistics

    @property
    def served_model(self) -> str | None:
        """The model's id as the server gives it; None before the first answer."""
        return self._endpoint.served_model

    def describe(self) -> dict[str, object]:
        """Everything that decisions depend on and that is known here, without the key, for a run's header.

        `served_model` is not in it, since it is known after the first answer only: keep it with the counts.
        """
        return {
            "name": "hybrid_rs_jax.classifiers.ChatClassifier",
            "base_url": self.base_url,
            "model": self.model,
            "policy_sha256": hashlib.sha256(self._policy.encode()).hexdigest(),
            "decode": qualified_name(self._decode),
            "decision": self._decision.describe(),
            "image": _IMAGE_ENCODING,
            "options": self._options,
        }

    def cancel(self) -> None:
        """Give up the batches under way: the threads that wait for them get a CancelledError."""
        self._threads.cancel()

    def close(self) -> None:
        """Give up what is under way and end the threads; the classifier cannot be called again.

        Requests that are on their way are waited for, until their answer or the time-out: a connection that is closed
        under them would be lost.
        """
        self._threads.close()
        self._endpoint.close()

    def __enter__(self) -> ChatClassifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ChatClassifier({self.base_url!r}, {self.model!r}, concurrency={self.concurrency})"

    def _ask(self, tokens: np.ndarray, image: np.ndarray, given_up: threading.Event) -> bool:
        text = self._decode(tokens)
        if not isinstance(text, str):
            raise ValueError(f"decode must return a str, got {type(text).__name__}.")
        fields = {"model": self.model, "messages": _messages(self._policy, text, image), "temperature": 0}
        fields |= self._decision.request() | self._options
        body = {name: value for name, value in fields.items() if value is not None}
        reply = self._endpoint.ask(body, given_up)
        try:
            unsafe = self._decision.decide(reply)
        except UnreadableReplyError as error:
            raise self._endpoint.error(str(error)) from None
        if unsafe is None:
            self._endpoint.count(unparsable=1)
            if self._decision.unclear == "error":
                shown = self._endpoint.quoted(reply.logprobs or reply.text)
                raise self._endpoint.error(f"gave an answer that says neither Safe nor Unsafe: {shown}", _UNCLEAR)
        return bool(unsafe)


def _checked_options(options: Mapping[str, Any]) -> dict[str, object]:
    if own := _OWN_FIELDS & options.keys():
        raise ValueError(f"options must leave {', '.join(sorted(_OWN_FIELDS))} to the classifier, got {min(own)!r}.")
    try:
        return json.loads(json.dumps(dict(options), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"options must be JSON-able, got an error: {error}.") from None


def _messages(policy: str, text: str, image: np.ndarray) -> list[dict[str, object]]:
    """The policy as the system's message, text and picture, if there is one, as the user's."""
    parts: list[dict[str, object]] = [{"type": "text", "text": text}]
    if image.size:
        parts.append({"type": "image_url", "image_url": {"url": "data:image/png;base64," + png_text(image)}})
    return [{"role": "system", "content": policy}, {"role": "user", "content": parts}]
