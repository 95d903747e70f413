"""A small chat endpoint on loopback: it reads each request for real and answers by a rule, or with a planned fault."""

import base64
import io
import json
import math
import socket
import struct
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

MODEL, SERVED = "guard", "guard-2025-01-01"
KEY = "sk-a-key-that-nobody-may-see-0123456789"
WORDS = np.array(["", "dial", "seven", "now", "please", "über", '„quote"', "\n"])
POLICY = "Answer with one word, Safe or Unsafe."


def rule(text, pixels):
    """Unsafe by every letter of the text and every 8-bit pixel, each in its place."""
    pixels = np.asarray(pixels, np.int64).ravel()
    return (zlib.crc32(text.encode()) + int(pixels @ (np.arange(pixels.size) % 7 + 1))) % 3 == 0


def decode(tokens):
    return " ".join(WORDS[tokens])


def pairs(number, channels=1, seed=0):
    """Noisy pairs; pixels lie beyond [0, 1] on both sides."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, len(WORDS), (number, 5)).astype(np.int32)
    return tokens, rng.normal(0.5, 0.6, (number, 4, 6, channels)).astype(np.float32)


def expected(tokens, images):
    """The rule on the text and on pixels that are rounded here, in Python's own float64 arithmetic."""
    eight_bits = [[round(min(max(float(x), 0.0), 1.0) * 255) for x in image.ravel()] for image in images]
    return np.array([rule(decode(row), pixels) for row, pixels in zip(tokens, eight_bits, strict=True)])


class ChatServer:
    """Starts at once; `faults` are used up by the first requests, in order, and None means a good answer.

    Attributes:
      answer: "logprobs" or "text"; `tokens` overrides the log-probabilities of the first token, `text` the text.
      seen: the requests, as (arrival time, path, headers, parsed body).
      most: the most requests that were inside at once; `meet`, a barrier at which they wait for each other.
    """

    def __init__(self):
        self.answer, self.tokens, self.text = "logprobs", None, None
        self.faults, self.seen, self.most, self.meet, self.broken = [], [], 0, None, []
        self.inside, self.lock, self.over = 0, threading.Lock(), threading.Event()
        self.server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"chat": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.over.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        assert not self.broken

    def completion(self, body):
        text, pixels = read_message(body)
        unsafe = rule(text, pixels)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ""}}
        if self.answer == "logprobs":
            likelier, other = (" Un", "safe") if unsafe else ("Safe", "uns")
            tokens = self.tokens or [(likelier, math.log(0.6)), (other, math.log(0.3)), ("The", math.log(0.1))]
            top = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in tokens]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top[: body["top_logprobs"]]}]}
        else:
            words = "Unsafe." if unsafe else "This is safe."
            choice["message"]["content"] = words if self.text is None else self.text
        usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": SERVED,
            "choices": [choice],
            "usage": usage,
        }


def read_message(body):
    """Text and 8-bit pixels of a request."""
    system, user = body["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    text, image = user["content"]
    prefix = "data:image/png;base64,"
    assert image["image_url"]["url"].startswith(prefix)
    with Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"][len(prefix) :], validate=True))) as picture:
        assert picture.format == "PNG"
        assert picture.mode in ("L", "RGB")
        return text["text"], np.asarray(picture)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for the answers under way

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), OSError):  # a client may hang up; anything else is a fault of the test
            super().handle_error(request, client_address)
            self.RequestHandlerClass.chat.broken.append(sys.exception())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    chat: ChatServer

    def do_GET(self):  # a good vote, for which nobody has asked
        self.reply(json.dumps({"model": SERVED, "choices": [{"message": {"content": "Unsafe"}}]}).encode(), {})

    def do_POST(self):
        chat = self.chat
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with chat.lock:
            chat.seen.append((time.monotonic(), self.path, self.headers, body))
            chat.inside += 1
            chat.most = max(chat.most, chat.inside)
            fault = chat.faults.pop(0) if chat.faults else None
        if chat.meet is not None:
            chat.meet.wait(600)
        answer = json.dumps(chat.completion(body) | (fault.get("change", {}) if fault else {})).encode()
        with chat.lock:
            chat.inside -= 1
        self.reply(answer, fault or {})

    def reply(self, answer, fault):
        if "hang" in fault:
            self.chat.over.wait(600)
            self.close_connection = True
        elif "reset" in fault:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif "cut" in fault:  # the connection ends in the middle of the body
            self.send(200, answer[: len(answer) // 2], {}, length=len(answer))
            self.close_connection = True
        elif "truncated" in fault:  # the body is complete, its JSON is not
            self.send(200, answer[: len(answer) // 2], {})
        elif "body" in fault:
            self.send(200, fault["body"], fault.get("headers", {}))
        elif "status" in fault:
            told = fault.get("told", "not today").replace("{key}", self.headers["Authorization"])
            error = {"message": told, "type": "error", "code": fault.get("code")}
            self.send(fault["status"], json.dumps({"error": error}).encode(), fault.get("headers", {}))
        else:
            self.send(200, answer, {})

    def send(self, status, body, headers, length=None):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
