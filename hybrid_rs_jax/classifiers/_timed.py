"""A limit for all of an answer: a time-out of a socket counts silence alone, and a server may drip for ever."""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.request
from collections.abc import Callable
from typing import Any

__all__ = ["TimedHandler", "TimedSecureHandler"]

#: All of an answer, head and body, has so many times the socket's time-out.
_TIMES = 2


class _TimedFile(io.RawIOBase):
    """What a socket receives until a deadline, however little at a time.

    Args:
      file: reads from the socket, and keeps it open.
      received: the socket, whose time-out is the longest silence.
    """

    def __init__(self, file: io.RawIOBase, received: socket.socket):
        self._file, self._socket, self._silence = file, received, received.gettimeout()
        self._deadline = None if self._silence is None else time.monotonic() + _TIMES * self._silence

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Some bytes.

        Raises:
          TimeoutError: after the deadline, or a silence that is too long.
        """
        if self._deadline is not None and self._silence is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(min(left, self._silence))
        return self._file.readinto(buffer)

    def close(self) -> None:
        """Close the file, and with it the socket."""
        self._file.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """An answer whose head and body have one deadline."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any):
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_TimedFile(self.fp.detach(), sock))


class _Timed(urllib.request.AbstractHTTPHandler):
    def do_open(self, http_class: Callable[..., Any], req: Any, **options: Any) -> Any:
        """As urllib does, with answers that have a deadline."""

        def connection(*args: Any, **settings: Any) -> Any:
            made = http_class(*args, **settings)
            made.response_class = _TimedResponse
            return made

        return super().do_open(connection, req, **options)


class TimedHandler(_Timed, urllib.request.HTTPHandler):
    """http with a deadline."""


class TimedSecureHandler(_Timed, urllib.request.HTTPSHandler):
    """https with a deadline."""
