"""Questions to a server, one per noisy pair, in threads: all are answered, or the first error calls off the rest."""

from __future__ import annotations

import base64
import io
import math
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait

import numpy as np

__all__ = [
    "HOPELESS",
    "LONGEST_QUOTE",
    "MOST_AT_ONCE",
    "Question",
    "Threads",
    "cause_text",
    "check_patience",
    "check_url",
    "checked_key",
    "png_text",
    "quote",
]

#: One pair and the event that says whether its batch was given up: True for Unsafe.
Question = Callable[[np.ndarray, np.ndarray, threading.Event], bool]
#: Requests to one address at the same time, unless said otherwise.
MOST_AT_ONCE = 8
#: Letters of a server that a sentence quotes.
LONGEST_QUOTE = 200
#: Why an address that was never reached will not be: no TLS, no such name.
HOPELESS = (ssl.SSLError, socket.gaierror)
_CLOSED = "the classifier is closed"


class Threads:
    """At most so many questions at once, over all batches.

    Args:
      concurrency: threads.
      name: how they are called.
    """

    def __init__(self, concurrency: int, name: str):
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix=name)
        self._given_up: set[threading.Event] = set()  # one for each batch under way
        self._closed = False

    def votes(self, question: Question, tokens: np.ndarray, images: np.ndarray) -> np.ndarray:
        """bool[b], the answers for each pair; the first error is raised, and the other questions are given up.

        Raises:
          CancelledError: if `cancel` or `close` comes before the last answer.
        """
        given_up = threading.Event()
        self._given_up.add(given_up)
        votes: list[Future[bool]] = []
        try:
            for pair in zip(tokens, images, strict=True):
                if self._closed:
                    raise CancelledError(_CLOSED)
                votes.append(self._threads.submit(_ask, question, *pair, given_up))
            wait(votes, return_when=FIRST_EXCEPTION)
        except RuntimeError:  # no thread takes a question any more
            if self._closed:  # since the last look
                raise CancelledError(_CLOSED) from None
            raise
        finally:
            self._given_up.discard(given_up)
            given_up.set()
            for vote in votes:
                vote.cancel()
        errors = [error for vote in votes if not vote.cancelled() and (error := vote.exception()) is not None]
        # the threads that were called off have no news
        for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
            raise error
        return np.array([vote.result() for vote in votes], bool)

    def cancel(self) -> None:
        """Give up the batches under way: the threads that wait for them get a CancelledError."""
        for given_up in tuple(self._given_up):
            given_up.set()

    def close(self) -> None:
        """Give up what is under way, wait for what is on its way, and end the threads."""
        self._closed = True  # first: a batch that begins after `cancel` has looked sees it
        self.cancel()
        self._threads.shutdown()


def _ask(question: Question, tokens: np.ndarray, image: np.ndarray, given_up: threading.Event) -> bool:
    """One pair, in one of the threads; the first error gives up the batch before another request is begun."""
    try:
        return question(tokens, image, given_up)
    except BaseException:
        given_up.set()
        raise


def png_text(image: np.ndarray) -> str:
    """A picture [h, w, c], grey (c = 1) or RGB (c = 3), as a PNG in base64; nothing but the rounding is lost.

    Raises:
      ValueError: for another number of channels, or pixels that are not finite.
    """
    from PIL import Image

    if image.shape[-1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {image.shape[-1]}.")
    if not np.isfinite(image).all():
        raise ValueError(f"images must be finite, got {image[~np.isfinite(image)][0]}.")
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    # noise does not compress, so trying hard costs time only
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def check_url(url: str, name: str, example: str) -> None:
    """Raise a ValueError unless `url` is an http(s) address without secrets in it; `name` is the argument's."""
    from urllib.parse import urlsplit

    # such an address may hold a secret, so it is not shown
    if set(url) & set("@?#"):
        raise ValueError(f"{name} must hold no user name, password, query or fragment; give the key as api_key.")
    try:
        parts = urlsplit(url)
        legal = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        legal = legal and url.isascii() and url.isprintable() and " " not in url
        legal = legal and all(0 < len(label) < 64 for label in (parts.hostname or "").removesuffix(".").split("."))
    except ValueError:
        legal = False
    if not legal:
        raise ValueError(f"{name} must be an address like {example!r}, got {url!r}.")


def check_patience(concurrency: int, attempts: int, waits: Mapping[str, float]) -> None:
    """Raise a ValueError unless there is at least one request and one attempt, and every wait is positive seconds."""
    for name, number in (("concurrency", concurrency), ("attempts", attempts)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    for name, seconds in waits.items():
        if not 0 < seconds < math.inf:
            raise ValueError(f"{name} must be a positive number of seconds, got {seconds}.")


def checked_key(api_key: str | None) -> str | None:
    """A key that a header can hold, without what an editor leaves around it; None for an empty one.

    Raises:
      ValueError: for anything else, which the sentence does not show.
    """
    key = (api_key or "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("api_key must be printable ASCII without spaces; what was given is not shown.")
    return key or None


def quote(words: str) -> str:
    """A server's own words, on one line and not too long."""
    line = " ".join(words.split())
    return repr(line if len(line) <= LONGEST_QUOTE else line[:LONGEST_QUOTE] + "...")


def cause_text(error: BaseException) -> str:
    """Why a connection failed, by its innermost cause, in the words of a sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"there is no TLS at this address ({error.reason or error}), perhaps it is http and not https"
    if isinstance(error, socket.gaierror):
        return f"the host's name is not known ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens at this address (connection refused)"
    return f"{' '.join(str(error).split())[:LONGEST_QUOTE]} ({type(error).__name__})".lstrip()
