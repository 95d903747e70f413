"""`serve`: the filter behind an address decides as the filter itself, and every request gets an answer."""

import base64
import http.client
import io
import json
import threading
import time

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
    server = FilterServer(("127.0.0.1", 0), guard, "demo", **options)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def stop():
        server.shutdown()
        thread.join()
        server.server_close()

    return server, stop


def asked(server, method="POST", path="/classify", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=120)
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


class Slow:
    """Takes a while, and has nothing against anything."""

    on_host = True

    def encode(self, text, image):
        return hrs.data.Input(np.zeros(1, np.int32), np.zeros((1, 1, 3), np.float32), np.ones(1, bool))

    def __call__(self, tokens, images):
        if not tokens.size:
            raise RuntimeError("a fault")
        time.sleep(0.05)
        return np.zeros(len(tokens), bool)


def test_every_one_of_many_clients_gets_a_decision_or_is_told_to_wait():
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 9), None)
    server, stop = running(hrs.SmoothedClassifier(Slow(), smoothing, copies=1, batch_size=1), queue=4)
    body = {"text": "", "image": picture(np.zeros((8, 8, 1)))}
    found = []
    try:
        asked(server, body=body)  # the first one compiles the noise
        clients = [threading.Thread(target=lambda: found.append(asked(server, body=body))) for _ in range(40)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    finally:
        stop()
    statuses = [status for status, _, _ in found]
    assert len(statuses) == 40
    assert set(statuses) == {200, 429}
    assert all(headers["Retry-After"] == "1" for status, _, headers in found if status == 429)
    assert server.answers["safe"] + server.answers["busy"] == 41


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
