"""The smoothed filter behind an address: JSON in and out, a bounded queue, fresh secret noise for each request."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax._text import setting_text
from hybrid_rs_jax.cli._waiting import Waiting
from hybrid_rs_jax.data.pictures import decode_image
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError
from hybrid_rs_jax.smoothed_classifier import SmoothedClassifier

__all__ = ["Answer", "FilterServer"]

_log = logging.getLogger(__name__)
_LARGEST_BODY = 1 << 25
#: Seconds in which the answers under way must be sent when the address is closed.
_GOODBYE_SECONDS = 5.0
_ANSWERS = ("unsafe", "safe", "refused", "busy", "late", "failed")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a request gets: an HTTP status and the fields of a JSON object."""

    status: int
    content: Mapping[str, object]
    retry: bool = False


class FilterServer(ThreadingHTTPServer):
    """Answers `POST /classify`, `GET /health` and `GET /metrics`.

    A request is `{"text", "image"}`, the picture in base64, and may have `"appended"`, the text behind the trusted one;
    the answer is `{"unsafe": true}` or `false`. Requests that wait at the same time share batches. A limited number
    waits; one more is told 429 at once, and one without a decision in time 503: neither is a decision.

    Args:
      place: host and port; port 0 takes a free one.
      guard: the filter, with its number of copies and flags.
      name: of the model, for `/health`.
      queue: requests that may wait or be classified, at least 1.
      together: requests that share batches, at most.
      time_limit: seconds that a request waits for its decision.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(
        self,
        place: tuple[str, int],
        guard: SmoothedClassifier,
        name: str,
        queue: int = 64,
        together: int = 16,
        time_limit: float = 60.0,
    ):
        self.waiting = Waiting(guard, together)  # first: an address that is taken closes what there is
        self._unanswered, self._news = 0, threading.Condition()
        super().__init__(place, _Handler)
        self.guard, self.name, self.time_limit = guard, name, time_limit
        self.answers: Counter[str] = Counter()
        self._room, self._count = threading.BoundedSemaphore(queue), threading.Lock()

    def server_close(self) -> None:
        """Close the address, and answer 503 to what still waits; all answers are sent, unless a client is slow."""
        super().server_close()
        self.waiting.close()
        with self._news:
            self._news.wait_for(lambda: not self._unanswered, _GOODBYE_SECONDS)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Between these, a request is known and its answer is not sent: `server_close` waits for it."""
        with self._news:
            self._unanswered += 1
        try:
            yield
        finally:
            with self._news:
                self._unanswered -= 1
                self._news.notify_all()

    def answer(self, body: bytes) -> Answer:
        """Status and content for the body of a request."""
        if not self._room.acquire(blocking=False):
            self._add("busy")
            return Answer(429, {"error": "Too many requests are waiting; try again in a second."}, retry=True)
        try:
            unsafe = self.waiting.decision(self.guard.encoded(*_request(body)), self.time_limit)
            self._add("unsafe" if unsafe else "safe")
            return Answer(200, {"unsafe": unsafe})
        except ValueError as error:  # what the guard cannot encode
            self._add("refused")
            return Answer(400, {"error": str(error)})
        except (TimeoutError, CancelledError):
            self._add("late")
            return Answer(
                503, {"error": f"No decision within {setting_text(self.time_limit)} seconds; try again."}, retry=True
            )
        except Exception:  # a fault of the classifier is no decision
            _log.exception("There is no decision on a request.")
            self._add("failed")
            return Answer(500, {"error": "The classifier failed; there is no decision on this request."})
        finally:
            self._room.release()

    def health(self) -> dict[str, object]:
        """What is deployed."""
        return {"status": "ok", "model": self.name, "copies": self.guard.copies, "flags": self.guard.flags}

    def metrics(self) -> str:
        """Counters, as Prometheus reads them."""
        with self._count:
            lines = [f'hybrid_rs_requests_total{{answer="{name}"}} {self.answers[name]}' for name in _ANSWERS]
        lines += [f"hybrid_rs_groups_total {self.waiting.groups}", f"hybrid_rs_seconds_total {self.waiting.seconds!r}"]
        return "\n".join([*lines, ""])

    def _add(self, answer: str) -> None:
        with self._count:
            self.answers[answer] += 1


def _request(body: bytes) -> tuple[str, np.ndarray, str]:
    """Text, picture and appended text of a request."""
    try:
        asked = parse_json(body.decode(), "The request")
    except UnicodeDecodeError:
        raise BadInputError("The request must be JSON in UTF-8.") from None
    if not isinstance(asked, dict) or not {"text", "image"} <= asked.keys() <= {"text", "image", "appended"}:
        raise BadInputError('The request must be an object {"text", "image"}, perhaps with "appended".')
    texts = [asked["text"], asked.get("appended", ""), asked["image"]]
    if not all(isinstance(text, str) for text in texts):
        raise BadInputError("text, appended and image (a picture file in base64) must be texts.")
    try:
        content = base64.b64decode(texts[2], validate=True)
    except binascii.Error as error:
        raise BadInputError(f"image must be a picture file in base64: {error}.") from None
    try:
        return texts[0], decode_image(content, "of the request"), texts[1]
    except UnreadableInputError as error:
        raise BadInputError(str(error)) from error


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FilterServer
    timeout = 60  # of reading a request

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, json.dumps(self.server.health()))
        elif self.path == "/metrics":
            self._send(200, self.server.metrics(), "text/plain; version=0.0.4")
        else:
            self._send(404, json.dumps({"error": "GET /health, GET /metrics or POST /classify."}))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LARGEST_BODY:
            self.close_connection = True
            self._send(413, json.dumps({"error": f"The request must say its length, at most {_LARGEST_BODY} bytes."}))
            return
        body = self.rfile.read(int(length))
        if self.path != "/classify":
            self._send(404, json.dumps({"error": "GET /health, GET /metrics or POST /classify."}))
            return
        with self.server.answering():
            answer = self.server.answer(body)
            self._send(answer.status, json.dumps(answer.content), retry=answer.retry)

    def _send(self, status: int, text: str, kind: str = "application/json", retry: bool = False) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if retry:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Requests may be private: nothing of them is printed."""
