"""The smoothed filter behind an address: flag a request when K of M noisy copies are unsafe.

POST /classify takes {"text", "image"} (a picture file in base64; perhaps "appended", the
text behind the trusted one) and answers {"unsafe": true} or false. GET /health and GET
/metrics are there as well. Noise is secret and fresh at each request. Model and noise must
be those of the certificate.
"""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from hybrid_rs_jax.cli._values import flag, integer
from hybrid_rs_jax.cli.options import BETA, Batch, Count, GuardOptions, NoiseOptions, ThreatOptions
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.report.tables import say

EXAMPLES = """\
examples:
  hybrid-rs serve --model demo --samples 1000 --port 8000
  hybrid-rs serve --model ./LlavaGuard-0.5B --samples 100 --flags 2 --sigma 0.5"""

DEMO_SIGMA = 0.25


def serve(
    *,
    model: Annotated[str, Parameter(metavar="MODEL")],
    samples: Count,
    flags: Count = 1,
    host: str = "127.0.0.1",
    port: Annotated[int, flag(integer(0, 65535), "PORT")] = 8000,
    queue: Annotated[int, flag(integer(1, 100_000), "Q")] = 64,
    together: Annotated[int, flag(integer(1, 4096), "R")] = 16,
    time_limit: Annotated[int, flag(integer(1, 86_400), "SECONDS")] = 60,
    batch_size: Batch | None = None,
    noise: NoiseOptions | None = None,
    threat: ThreatOptions | None = None,
    guard: GuardOptions | None = None,
) -> None:
    """Open the model, listen until interrupted.

    Parameters
    ----------
    model
        demo, the folder of a vision-language checkpoint, or package.module:name of a classifier with
        encode(text, image)
    samples
        noisy copies M per request; an unsafe request ends at its K-th unsafe copy
    flags
        unsafe copies K that flag a request (default: 1)
    host
        address to listen on (default: 127.0.0.1, this machine alone)
    port
        0 takes a free one (default: 8000)
    queue
        requests that may wait; one more is answered 429 at once (default: 64)
    together
        requests that share batches at most, of those that wait at the same time (default: 16)
    time_limit
        seconds that a request waits for its decision; then it is answered 503 (default: 60)
    batch_size
        noisy copies per step (default: what memory holds, at most 2000)
    """
    from hybrid_rs_jax.cli._server import FilterServer
    from hybrid_rs_jax.smoothed_classifier import SmoothedClassifier

    if flags > samples:
        raise BadInputError(f"--flags must be at most --samples = {samples}, got {flags}.")
    classifier, symbols = _opened(model, guard or GuardOptions(), threat or ThreatOptions())
    noise = (noise or NoiseOptions()).or_default(kernel="uniform")
    if noise.kernel == "deletion":
        raise BadInputError("--kernel must be uniform, absorbing, categorical or none to be served, got deletion.")
    if noise.kernel != "none":
        noise = noise.or_default(beta=BETA)
    if noise.kernel == "uniform":
        noise = noise.or_default(vocab_size=symbols)
    if model == "demo" and not noise.no_pixel_noise:
        noise = noise.or_default(sigma=DEMO_SIGMA)
    with library_sentences():
        smoothed = SmoothedClassifier(classifier, noise.smoothing(), flags=flags, batch_size=batch_size, copies=samples)
    try:
        server = FilterServer((host, port), smoothed, model, queue, together, float(time_limit))
    except OSError as error:
        raise BadInputError(f"{host}:{port} cannot be listened on: {error.strerror or error}.") from error
    with server:
        say(smoothed.guarantee(samples))
        say(f"Listening on http://{host}:{server.server_port}/classify; Ctrl-C ends it.")
        server.serve_forever()


def _opened(model: str, guard: GuardOptions, threat: ThreatOptions) -> tuple[Any, int | None]:
    """The classifier, and the size of its alphabet where it knows it."""
    from hybrid_rs_jax.cli._models import found_object
    from hybrid_rs_jax.cli._sources import is_checkpoint, open_guard

    if is_checkpoint(model):
        opened = open_guard(model, guard, threat=threat.region)
        return opened, opened.vocab_size
    guard.refuse(model)
    if model == "demo":
        from hybrid_rs_jax.classifiers import DemoGuard
        from hybrid_rs_jax.data import demo

        return DemoGuard.load(), demo.VOCAB_SIZE
    found, _ = found_object(model)
    if not callable(found) or not hasattr(found, "encode"):
        raise BadInputError(f"--model {model} must be a classifier with encode(text, image), got {found!r:.80}.")
    return found, getattr(found, "vocab_size", None)
