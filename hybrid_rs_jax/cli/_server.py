"""The smoothed filter behind an address: JSON in and out, a bounded queue, fresh secret noise for each request."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hybrid_rs_jax._files import parse_json
from hybrid_rs_jax.data.pictures import decode_image
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError
from hybrid_rs_jax.smoothed_classifier import SmoothedClassifier

__all__ = ["FilterServer"]

_log = logging.getLogger(__name__)
_LARGEST_BODY = 1 << 25


class FilterServer(ThreadingHTTPServer):
    """Answers `POST /classify`, `GET /health` and `GET /metrics`.

    A request is `{"text", "image"}`, the picture in base64, and may have `"appended"`, the text behind the trusted one;
    the answer is `{"unsafe": true}` or `false`. Requests are classified one after the other; a limited number waits,
    and one more is told 429 at once, with the seconds after which to try again.

    Args:
      place: host and port; port 0 takes a free one.
      guard: the filter, with its number of copies and flags.
      name: of the model, for `/health`.
      queue: requests that may wait or be classified, at least 1.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, place: tuple[str, int], guard: SmoothedClassifier, name: str, queue: int = 64):
        super().__init__(place, _Handler)
        self.guard, self.name = guard, name
        self.answers: Counter[str] = Counter()
        self.seconds = 0.0
        self._room = threading.BoundedSemaphore(queue)
        self._turn, self._count = threading.Lock(), threading.Lock()

    def answer(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and content for the body of a request."""
        if not self._room.acquire(blocking=False):
            self._add("busy")
            return 429, {"error": "Too many requests are waiting; try again in a second."}
        try:
            asked = _request(body)
            with self._turn:
                begin = time.monotonic()
                unsafe = self.guard.detect(*asked)
                self._add("unsafe" if unsafe else "safe", time.monotonic() - begin)
            return 200, {"unsafe": unsafe}
        except ValueError as error:  # what the guard cannot encode
            self._add("refused")
            return 400, {"error": str(error)}
        except Exception:  # a fault of the classifier is no decision
            _log.exception("The classifier failed on a request.")
            self._add("failed")
            return 500, {"error": "The classifier failed; there is no decision on this request."}
        finally:
            self._room.release()

    def health(self) -> dict[str, Any]:
        """What is deployed."""
        return {"status": "ok", "model": self.name, "copies": self.guard.copies, "flags": self.guard.flags}

    def metrics(self) -> str:
        """Counters, as Prometheus reads them."""
        with self._count:
            lines = [
                f'hybrid_rs_requests_total{{answer="{name}"}} {self.answers[name]}'
                for name in ("unsafe", "safe", "refused", "busy", "failed")
            ]
            return "\n".join([*lines, f"hybrid_rs_seconds_total {self.seconds!r}", ""])

    def _add(self, answer: str, seconds: float = 0.0) -> None:
        with self._count:
            self.answers[answer] += 1
            self.seconds += seconds


def _request(body: bytes) -> tuple[str, Any, str]:
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
    timeout = 60

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
        status, content = self.server.answer(body)
        self._send(status, json.dumps(content))

    def _send(self, status: int, text: str, kind: str = "application/json") -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Requests may be private: nothing of them is printed."""
