"""The JSON door over real sockets: what a service sends is a vote, a passing fault, or one sentence; never a guess."""

import contextlib
import socket
import threading

import numpy as np
import pytest

pytest.importorskip("PIL")

from hybrid_rs_jax.classifiers.chat import ChatError
from hybrid_rs_jax.classifiers.wire import WireClassifier

GOOD = b'{"unsafe": true}'
PAIR = np.zeros((1, 3), np.int32), np.zeros((1, 4, 4, 3), np.float32)


def answer(body=GOOD, status="200 OK", length=None, headers=""):
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n{headers}\r\n"
    return head.encode() + body


@pytest.fixture
def serve():
    """Starts a service that gives each connection the next of some raw answers, and good ones after them."""
    with contextlib.ExitStack() as open_sockets:
        threads = []

        def start(*answers):
            listening = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
            threads.append(threading.Thread(target=_serve, args=(listening, list(answers))))
            threads[-1].start()
            open_sockets.callback(listening.shutdown, socket.SHUT_RDWR)
            return f"http://127.0.0.1:{listening.getsockname()[1]}/classify"

        yield start
    for thread in threads:
        thread.join()


def _serve(listening, answers):
    with contextlib.suppress(OSError):  # the end of the test
        while True:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                asked = b""
                while not asked.endswith(b"}") and (part := connection.recv(1 << 16)):  # the question is an object
                    asked += part
                    if not asked.startswith(b"P"):  # no POST, but TLS
                        break
                connection.sendall(answers.pop(0) if answers else answer())


def vote(url, attempts=2, **changes):
    asking = WireClassifier(url, lambda tokens: "hello", attempts=attempts, backoff=0.001, timeout=600.0, **changes)
    try:
        return asking(*PAIR).tolist()
    finally:
        asking.close()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "fault",
    [
        b"",  # the connection ends at once
        b"\x00\xff no\nstatus line\r\n\r\n",
        GOOD,
        answer(GOOD[:8], length=len(GOOD)),
        answer(b"", length=100),
        CHUNKED + b"zz\r\nhello\r\n",
        CHUNKED + b"10\r\n" + GOOD[:5],
        answer(b"busy", "503 Service Unavailable"),
        answer(b"busy"[:1], "503 Service Unavailable", length=99),
        answer(b"busy", "429 Too Many Requests", headers="Retry-After: nan\r\n"),
    ],
)
def test_a_passing_fault_is_survived_and_else_told_in_one_line(serve, fault):
    assert vote(serve(fault)) == [True]
    with pytest.raises(ChatError, match=r"failed 2 times in a row, at last with ") as caught:
        vote(serve(fault, fault))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (answer(b"", "307 Temporary Redirect", headers="Location: http://elsewhere/x\r\n"), "to 'http://elsewhere/x'"),
        (answer(b"", "301 Moved Permanently"), "refused the request: status 301"),
        (answer(b"", "404 Not Found", length=99), "refused the request: status 404"),
        (answer(b" " * (1 << 20) + GOOD), "an answer of more than 1,048,576 bytes"),
        (answer(GOOD.decode().encode("utf-16")), 'must answer {"unsafe": true}, got'),
        (answer(b'{"unsafe": NaN}'), 'must answer {"unsafe": true}, got'),
        (answer(b'{"unsafe": 1}'), 'must say true or false for "unsafe", got 1'),
        (answer(b"[" * 100_000), 'must answer {"unsafe": true}, got'),
    ],
)
def test_what_will_not_pass_ends_the_run_at_once(serve, fault, words):
    with pytest.raises(ChatError) as caught:
        vote(serve(fault), attempts=8)
    assert words in str(caught.value)


def test_tls_on_a_plain_port_and_an_unknown_name_are_named_and_not_tried_again(serve, monkeypatch):
    with pytest.raises(ChatError, match="cannot be reached: there is no TLS at this address"):
        vote(serve(b"no TLS here").replace("http", "https"), attempts=8)

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # not of this machine, which may be offline or know all names
    with pytest.raises(ChatError, match="cannot be reached: the host's name is not known"):
        vote("http://nobody.invalid/", attempts=8)


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(serve):
    for key in ("sk-one\nsk-two", "sk-ü", "sk one"):
        with pytest.raises(ValueError, match=r"^api_key must be printable ASCII") as caught:
            vote(serve(), api_key=key)
        assert key not in str(caught.value)
    assert vote(serve(), api_key="sk-from-a-file\n") == [True]


@pytest.mark.parametrize(
    "address", ["http://a/b c", "http://a/b\nc", "http://a/é", "http://a..b/", f"http://{'a' * 64}/"]
)
def test_an_address_that_cannot_be_asked_is_refused_before_it_is(address):
    with pytest.raises(ValueError, match="url must be an address like"):
        vote(address)


def test_an_answer_that_drips_byte_by_byte_ends():
    """Each byte ends a silence: without a limit for all of it the head would never be read, nor the attempt over."""
    over = threading.Event()

    def drip(listening):
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not over.wait(0.01):
                    connection.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/classify"
        asking = WireClassifier(url, lambda tokens: "hello", attempts=1, timeout=0.1)
        try:
            with pytest.raises(ChatError, match="timed out"):
                asking(*PAIR)
        finally:
            over.set()
            asking.close()
            thread.join()


SLOW_DOWN = answer(b"busy", "429 Too Many Requests", headers="Retry-After: 900\r\n")
MANY_CHUNKS = CHUNKED + b"".join(b"10000\r\n" + b" " * (1 << 16) + b"\r\n" for _ in range(17)) + b"0\r\n\r\n"
UNREADABLE = CHUNKED.replace(b"200 OK", b"503 Service Unavailable") + b"zz\r\n"


@pytest.mark.parametrize(
    ("fault", "changes", "words"),
    [
        (SLOW_DOWN, {}, "asks for a pause of 900 s, longer than 60 s: status 429, 'busy'"),
        (MANY_CHUNKS, {}, "gave an answer of more than 1,048,576 bytes"),
        (answer(b"[true]"), {}, 'must answer {"unsafe": true}, got'),
        (answer(b'{"score": 0.7}'), {}, 'must answer {"unsafe": true}, got'),
        (answer(GOOD), {"threshold": 0.5}, 'must answer {"score": 0.7}, got'),
        (answer(b'{"score": "high"}'), {"threshold": 0.5}, """must give a finite number for "score", got 'high'"""),
        (answer(b'{"score": true}'), {"threshold": 0.5}, 'must give a finite number for "score", got True'),
    ],
)
def test_an_answer_that_is_none_says_what_was_wanted(serve, fault, changes, words):
    with pytest.raises(ChatError) as caught:
        vote(serve(fault), attempts=8, **changes)
    assert words in str(caught.value)


@pytest.mark.parametrize(("score", "unsafe"), [(0.5, False), (0.51, True), (1, True), (-3, False)])
def test_a_score_above_the_threshold_is_unsafe(serve, score, unsafe):
    assert vote(serve(answer(b'{"score": %s}' % str(score).encode())), threshold=0.5) == [unsafe]


def test_a_pause_that_is_no_number_of_seconds_and_a_body_that_cannot_be_read_are_passing_faults(serve):
    dated = answer(b"busy", "503 Service Unavailable", headers="Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n")
    assert vote(serve(dated, UNREADABLE), attempts=3) == [True]
    with pytest.raises(ChatError, match="at last with status 503, without a readable body"):
        vote(serve(UNREADABLE, UNREADABLE))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"concurrency": 0}, "concurrency must be at least 1, got 0."),
        ({"attempts": 0}, "attempts must be at least 1, got 0."),
        ({"timeout": 0.0}, "timeout must be a positive number of seconds, got 0.0."),
        ({"backoff": -1.0}, "backoff must be a positive number of seconds, got -1.0."),
        ({"longest_wait": float("inf")}, "longest_wait must be a positive number of seconds, got inf."),
        ({"threshold": float("nan")}, "threshold must be a finite number, got nan."),
    ],
)
def test_settings_out_of_range_are_named(changes, sentence):
    with pytest.raises(ValueError) as caught:
        WireClassifier("http://localhost:1/classify", lambda tokens: "hello", **changes)
    assert str(caught.value) == sentence


def test_it_shows_its_address():
    asking = WireClassifier("http://localhost:1/classify", lambda tokens: "hello")
    assert repr(asking) == "WireClassifier('http://localhost:1/classify')"
    asking.close()
