"""Load the served filter with many clients at once: requests per second, as a ratio to the bare classifier.

    python experiments/bench/serve.py --clients 1000 --seconds 20 --out experiments/out/bench_serve.json

Two servers, one after the other, each in a process of its own: the filter on the demo guard (`hybrid-rs serve`), which
asks about up to `--samples` noisy copies per request, and the same address in front of the guard itself, which is asked
once, without noise. Every client sends one request after the other; one that is told 429 or 503 waits a second, as it
is told to. Each request must get a decision or be told to come again: anything else ends the measurement. The requests
are the demo's inputs in random order; a harmful one may end early, a harmless one costs all copies.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import io
import json
import multiprocessing
import platform
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

import hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.cli._server import FilterServer
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.data.inputs import Input

SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.25, demo.VOCAB_SIZE), 0.25)


class Bare(hrs.SmoothedClassifier):
    """The classifier itself in the place of the filter: one question about the input as it came."""

    def detect_together(self, inputs: Sequence[Input]) -> Iterator[tuple[int, bool]]:
        tokens, images = (np.stack(parts) for parts in zip(*((one.tokens, one.image) for one in inputs), strict=True))
        padding = [(0, (1 << max(0, len(inputs) - 1).bit_length()) - len(inputs))]
        tokens = np.pad(tokens, [*padding, (0, 0)], "edge")
        images = np.pad(images, [*padding, *[(0, 0)] * 3], "edge")
        yield from enumerate(np.asarray(self.classifier(tokens, images), bool)[: len(inputs)].tolist())


def serve(kind: type[hrs.SmoothedClassifier], options: argparse.Namespace, port: Connection) -> None:
    """A server until it is killed; its port goes through the pipe when every size of a group has been compiled."""
    guard = kind(DemoGuard.load(), SMOOTHING, flags=options.flags, copies=options.samples)
    inputs = demo.load_demo()
    warm = guard.encoded(inputs.prompts[0], inputs.images[0])
    size = 1
    while size <= options.together:
        list(guard.detect_together([warm] * size))
        size *= 2
    with FilterServer(("127.0.0.1", 0), guard, "demo", options.queue, options.together) as server:
        port.send(server.server_port)
        server.serve_forever()


def bodies() -> list[bytes]:
    """One request for each input of the demo, in random order."""
    inputs = demo.load_demo()
    found = []
    for row in np.random.default_rng(0).permutation(len(inputs.labels)):
        file = io.BytesIO()
        Image.fromarray(np.rint(255 * inputs.images[row][..., 0]).astype(np.uint8)).save(file, "PNG")
        asked = {"text": inputs.prompts[row], "image": base64.b64encode(file.getvalue()).decode()}
        found.append(json.dumps(asked).encode())
    return found


async def ask(port: int, body: bytes) -> tuple[int, float]:
    """Status of a request, and how long it took."""
    begin = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.read()
    finally:
        writer.close()
    status, content = int(answer.split(b" ", 2)[1]), json.loads(answer.partition(b"\r\n\r\n")[2])
    if status == 200 and not isinstance(content["unsafe"], bool):
        raise SystemExit(f"The answer {content} is no decision.")
    return status, time.monotonic() - begin


async def load(port: int, clients: int, seconds: float) -> dict[str, object]:
    """All clients at once for some seconds; what they were told."""
    asked, statuses, waits = bodies(), collections.Counter[int](), list[float]()
    begin = time.monotonic()

    async def client(number: int) -> None:
        while time.monotonic() < begin + seconds:
            status, wait = await ask(port, asked[number % len(asked)])
            statuses[status] += 1
            if status == 200:
                waits.append(wait)
                number += clients
            elif status in (429, 503):
                await asyncio.sleep(1)
            else:
                raise SystemExit(f"A request was answered {status}.")

    await asyncio.gather(*map(client, range(clients)))
    passed = time.monotonic() - begin
    median, most = np.quantile(waits, [0.5, 0.99]) if waits else (np.nan, np.nan)
    return {
        "requests": sum(statuses.values()),
        "decided": statuses[200],
        "told_to_wait": statuses[429] + statuses[503],
        "decided_per_second": statuses[200] / passed,
        "median_seconds": float(median),
        "p99_seconds": float(most),
    }


def measured(kind: type[hrs.SmoothedClassifier], options: argparse.Namespace) -> dict[str, object]:
    """A server of this kind under the clients."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(kind, options, there), daemon=True)
    process.start()
    try:
        return asyncio.run(load(here.recv(), options.clients, options.seconds))
    finally:
        process.terminate()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--samples", type=int, default=100, help="noisy copies per request")
    parser.add_argument("--flags", type=int, default=8)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--together", type=int, default=16)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    filtered, bare = measured(hrs.SmoothedClassifier, options), measured(Bare, options)
    result = {
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "machine": f"{platform.machine()}, {multiprocessing.cpu_count()} CPU cores, clients on the same machine",
        "filter": filtered,
        "bare": bare,
        "filter_over_bare": filtered["decided_per_second"] / bare["decided_per_second"],  # type: ignore[operator]
    }
    print(text := json.dumps(result, indent=2))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
