"""`serve`: the filter behind an address decides as the filter itself, and every request gets an answer."""

import base64
import contextlib
import http.client
import io
import json
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
from PIL import Image

import hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.cli._server import FilterServer
from hybrid_rs_jax.data import demo

SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.25, demo.VOCAB_SIZE), 0.25)


def running(guard, **options):
    server = FilterServer(("127.0.0.1", 0), guard, "demo", **{"time_limit": 600.0} | options)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def stop():
        server.shutdown()
        thread.join()
        server.server_close()

    return server, stop


def asked(server, method="POST", path="/classify", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=600)
    try:
        connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def picture(pixels):
    file = io.BytesIO()
    Image.fromarray(np.rint(255 * pixels[..., 0]).astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def server():
    guard = hrs.SmoothedClassifier(DemoGuard.load(), SMOOTHING, flags=8, batch_size=16, copies=16)
    server, stop = running(guard)
    yield server
    stop()


def test_it_decides_as_the_filter_does(server):
    inputs = demo.load_demo()
    rows = [int(np.argmax(inputs.labels)), int(np.argmax(~inputs.labels & (inputs.digits > 4)))]
    for row in rows:
        body = {"text": inputs.prompts[row], "image": picture(inputs.images[row])}
        status, content, _ = asked(server, body=body)
        assert (status, json.loads(content)) == (200, {"unsafe": bool(inputs.labels[row])})
    assert json.loads(asked(server, "GET", "/health")[1]) == {
        "status": "ok",
        "model": "demo",
        "copies": 16,
        "flags": 8,
    }
    metrics = asked(server, "GET", "/metrics")[1].decode()
    assert 'hybrid_rs_requests_total{answer="unsafe"} 1' in metrics
    assert 'hybrid_rs_requests_total{answer="safe"} 1' in metrics


def test_what_is_no_request_gets_one_sentence(server):
    good = picture(np.zeros((8, 8, 1)))
    for body, sentence in (
        (b"\xff", "must be JSON in UTF-8"),
        (b"[", "The request is not legal JSON"),
        ({"text": "dial"}, 'must be an object {\\"text\\", \\"image\\"}'),
        ({"text": 3, "image": good}, "must be texts"),
        ({"text": "dial", "image": "%"}, "image must be a picture file in base64"),
        ({"text": "dial", "image": "AAAA"}, "cannot be decoded"),
        ({"text": "zebra", "image": good}, "zebra"),
    ):
        status, content, _ = asked(server, body=body)
        assert status == 400
        assert sentence in content.decode()
    assert asked(server, "GET", "/nothing")[0] == 404
    assert asked(server, path="/nothing", body={})[0] == 404


def true_in_the_end(condition):
    """Wait for it; the time limit ends a test that has failed, and is no part of it."""
    limit = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


class Held:
    """Has nothing against anything, and says so once it is let."""

    on_host = True

    def __init__(self):
        self.let = threading.Event()

    def encode(self, text, image):
        return hrs.data.Input(np.zeros(1, np.int32), np.zeros((1, 1, 3), np.float32), np.ones(1, bool))

    def __call__(self, tokens, images):
        assert self.let.wait(600)
        return np.zeros(len(tokens), bool)


@contextlib.contextmanager
def clients(server, bodies):
    """The answers to requests that are made at the same time, in their order; all are there at the end."""
    found = [None] * len(bodies)

    def client(place):
        found[place] = asked(server, body=bodies[place])

    threads = [threading.Thread(target=client, args=(place,), daemon=True) for place in range(len(bodies))]
    for each in threads:
        each.start()
    yield found
    for each in threads:
        each.join()


def all_at_once(server, bodies):
    """The answers to requests that wait at the same time: none is decided before the last one is there."""
    waiting, decide = server.waiting, server.waiting._decide

    def when_all_are_there(group):
        true_in_the_end(lambda: len(group) + len(waiting._queue) == len(bodies))
        waiting._decide = decide
        decide(group)

    waiting._decide = when_all_are_there
    with clients(server, bodies) as found:
        pass
    return found


TEXT_NOISE = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 9), None)
BODY = {"text": "", "image": picture(np.zeros((8, 8, 1)))}


def test_every_one_of_many_clients_gets_a_decision_or_is_told_to_wait():
    held = Held()
    server, stop = running(hrs.SmoothedClassifier(held, TEXT_NOISE, copies=1, batch_size=1), queue=4)
    try:
        with clients(server, [BODY] * 40) as found:
            true_in_the_end(lambda: server.answers["busy"] == 36)
            held.let.set()
    finally:
        held.let.set()
        stop()
    statuses = [status for status, _, _ in found]
    assert sorted(statuses) == [200] * 4 + [429] * 36
    assert all(headers["Retry-After"] == "1" for status, _, headers in found if status == 429)
    assert server.answers == {"safe": 4, "busy": 36}


def test_a_crowd_shares_batches_and_each_gets_its_own_decision():
    guard = hrs.SmoothedClassifier(DemoGuard.load(), SMOOTHING, flags=8, batch_size=64, copies=16)
    server, stop = running(guard, together=8)
    inputs = demo.load_demo()
    rows = [*np.flatnonzero(inputs.labels)[:15], *np.flatnonzero(~inputs.labels & (inputs.digits > 4))[:15]]
    bodies = [{"text": inputs.prompts[row], "image": picture(inputs.images[row])} for row in rows]
    try:
        found = all_at_once(server, bodies)
    finally:
        stop()
    assert [status for status, _, _ in found] == [200] * 30
    alone = [guard.detect(inputs.prompts[row], inputs.images[row]) for row in rows]
    assert [json.loads(content)["unsafe"] for _, content, _ in found] == alone
    assert {*alone[:15], *alone[15:]} == {True, False}
    assert server.waiting.groups <= 5  # the first one may be small


class Seen(Held):
    """Keeps the copies that it is shown."""

    def __init__(self):
        self.copies = []

    def encode(self, text, image):
        return hrs.data.Input(np.zeros(64, np.int32), np.zeros((1, 1, 3), np.float32), np.ones(64, bool))

    def __call__(self, tokens, images):
        self.copies += [row.tobytes() for row in tokens]
        return np.zeros(len(tokens), bool)


def test_two_equal_requests_never_share_noise():
    seen = Seen()
    server, stop = running(hrs.SmoothedClassifier(seen, TEXT_NOISE, copies=20, batch_size=40))
    try:
        statuses = [status for status, _, _ in all_at_once(server, [BODY] * 30)]
    finally:
        stop()
    assert statuses == [200] * 30
    assert server.waiting.groups <= 3
    assert len(seen.copies) == len(set(seen.copies)) == 30 * 20


def test_who_waits_too_long_is_told_that_there_is_no_decision():
    held = Held()
    server, stop = running(hrs.SmoothedClassifier(held, TEXT_NOISE, copies=1, batch_size=1), time_limit=0.001)
    try:
        status, content, headers = asked(server, body=BODY)
    finally:
        held.let.set()
        stop()
    assert (status, headers["Retry-After"]) == (503, "1")
    assert json.loads(content) == {"error": "No decision within 0.001 seconds; try again."}
    assert server.answers == {"late": 1}


def test_when_it_is_closed_who_waits_is_told_and_so_is_who_comes_too_late():
    held = Held()
    guard = hrs.SmoothedClassifier(held, TEXT_NOISE, copies=1, batch_size=1)
    server, stop = running(guard, together=1)
    with clients(server, [BODY] * 3) as found:
        closing = threading.Thread(target=stop)
        try:
            true_in_the_end(lambda: len(server.waiting._queue) == 2)
            closing.start()
            true_in_the_end(lambda: server.answers["late"] == 2)
        finally:
            held.let.set()
        closing.join()
        assert server.answers == {"late": 2, "safe": 1}
        assert not server._unanswered
    assert sorted(status for status, _, _ in found) == [200, 503, 503]
    with pytest.raises(CancelledError):
        server.waiting.decision(guard.encoded("", np.zeros((8, 8, 1))), 600.0)


class Fails(Held):
    """Fails on texts that begin with 7."""

    def encode(self, text, image):
        eligible = np.array([False, True])
        return hrs.data.Input(np.array([7 * (text == "bad"), 0], np.int32), np.zeros((1, 1, 3), np.float32), eligible)

    def __call__(self, tokens, images):
        if (tokens[:, 0] == 7).any():
            raise TimeoutError("a fault")
        return np.zeros(len(tokens), bool)


def test_a_request_on_which_the_classifier_fails_takes_no_other_one_with_it():
    server, stop = running(hrs.SmoothedClassifier(Fails(), TEXT_NOISE, copies=4, batch_size=64))
    try:
        found = all_at_once(server, [{**BODY, "text": "bad" if place == 3 else "good"} for place in range(12)])
    finally:
        stop()
    assert [status for status, _, _ in found] == [500 if place == 3 else 200 for place in range(12)]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model", "demo", "--samples", "3", "--flags", "4"], "--flags must be at most --samples = 3, got 4"),
        (["--model", "math:pi", "--samples", "3", "--sigma", "1"], "must be a classifier with encode(text, image)"),
        (["--model", "demo", "--samples", "3", "--port", "70000"], "--port must be an integer in 0..65535, got 70000"),
        (["--model", "demo", "--samples", "3", "--host", "999.1.1.1"], "999.1.1.1:8000 cannot be listened on"),
        (["--model", "demo"], "--samples is needed"),
        (["--model", "demo", "--samples", "3", "--kernel", "deletion"], "to be served, got deletion"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_sentence(flags, sentence, capsys):
    assert main(["serve", *flags]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("model", ["demo", "served_model:guard"])
def test_it_says_its_promise_and_address_before_it_listens(model, tmp_path, monkeypatch, capsys):
    own = "from hybrid_rs_jax.classifiers import DemoGuard\nguard = DemoGuard.load()\nguard.vocab_size = 77\n"
    (tmp_path / "served_model.py").write_text(own)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    served = []
    monkeypatch.setattr(FilterServer, "serve_forever", lambda self: served.append(self))
    noise = ["--kernel", "uniform", "--beta", "0.25", "--sigma", "0.25"]
    assert main(["serve", "--model", model, "--samples", "8", *noise, "--port", "0"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    (server,) = served
    assert f"Listening on http://127.0.0.1:{server.server_port}/classify; Ctrl-C ends it." in said
    size = demo.VOCAB_SIZE if model == "demo" else 77
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, size), 0.25)
    expected = hrs.SmoothedClassifier(DemoGuard.load(), smoothing, copies=8).guarantee(8)
    assert " ".join(expected.split()) in said
