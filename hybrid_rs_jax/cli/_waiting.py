"""Requests that wait for the filter: those that wait at the same time are decided in the same batches."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import CancelledError, Future

from hybrid_rs_jax.data.inputs import Input
from hybrid_rs_jax.smoothed_classifier import SmoothedClassifier

__all__ = ["Waiting"]

_log = logging.getLogger(__name__)
_Request = tuple[Input, Future[bool]]


class Waiting:
    """Takes requests from any thread and decides them in one of its own.

    There is no window to wait for: whoever comes while a group is at the classifier is in the next one, so a lone
    request is decided at once and a crowd fills the batches.

    Args:
      guard: the filter.
      together: requests of a group at most.

    Attributes:
      groups: groups that were decided; seconds: what they took.
    """

    def __init__(self, guard: SmoothedClassifier, together: int):
        self.groups, self.seconds = 0, 0.0
        self._guard, self._together = guard, together
        self._queue: list[_Request] = []
        self._news, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="filter", daemon=True)
        self._thread.start()

    def decision(self, given: Input, seconds: float) -> bool:
        """Whether the input is flagged.

        Raises:
          TimeoutError: if there is no decision in time; a request that still waits is given up.
          RuntimeError: if the classifier failed.
          concurrent.futures.CancelledError: if `close` came first.
        """
        answer: Future[bool] = Future()
        with self._news:
            if self._closed:  # nobody would look at it
                raise CancelledError
            self._queue.append((given, answer))
            self._news.notify()
        try:
            return answer.result(seconds)
        finally:
            answer.cancel()

    def close(self) -> None:
        """End the thread after the group at hand; what waits is not decided."""
        with self._news:
            self._closed = True
            for _, answer in self._queue:
                answer.cancel()
            self._news.notify()
        self._thread.join()

    def _work(self) -> None:
        while group := self._next():
            begin = time.monotonic()
            self._decide(group)
            self.seconds += time.monotonic() - begin
            self.groups += 1

    def _next(self) -> list[_Request]:
        """The oldest request that somebody waits for, and others of its shape; none where all is over."""
        with self._news:
            while not self._closed:
                self._queue = [(given, answer) for given, answer in self._queue if not answer.cancelled()]
                if not self._queue:
                    self._news.wait()
                    continue
                shape = _shape(self._queue[0][0])
                alike = [request for request in self._queue if _shape(request[0]) == shape][: self._together]
                taken = set(map(id, alike))
                self._queue = [request for request in self._queue if id(request) not in taken]
                if group := [request for request in alike if request[1].set_running_or_notify_cancel()]:
                    return group
        return []

    def _decide(self, group: list[_Request]) -> None:
        """Answer each as its decision comes. Where the classifier fails on a group each is asked for by itself."""
        try:
            for number, flagged in self._guard.detect_together([given for given, _ in group]):
                group[number][1].set_result(flagged)
        except Exception as error:  # a fault of the classifier is no decision, and one request's must not be another's
            undecided = [request for request in group if not request[1].done()]
            if len(group) > 1:
                for request in undecided:
                    self._decide([request])
                return
            _log.exception("The classifier failed on a request.")
            for _, answer in undecided:
                answer.set_exception(RuntimeError(f"the classifier failed: {error}"))


def _shape(given: Input) -> tuple[object, ...]:
    return given.tokens.shape, given.image.shape, given.image.dtype
