"""Try a model out on its data: shapes, answers, what it looks at, memory, speed, and the bill of a run.

Everything that a long run would stumble over is tried in a minute: the model is asked
twice about the same noisy copies, and about random texts and pictures. Of a checkpoint
also prompt, labels and arithmetic are shown. The time that the run would take is worked
out from a timed batch, and with --price the money.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter

from hybrid_rs_jax.cli._bill import Bill, BillOptions
from hybrid_rs_jax.cli._denoiser import DenoiserName, before_guard, denoised_source, open_denoiser
from hybrid_rs_jax.cli._deployed import clean_lines
from hybrid_rs_jax.cli._doors import ModelOptions
from hybrid_rs_jax.cli._models import is_address
from hybrid_rs_jax.cli._sources import DEMO_DATA, first_readable, is_checkpoint, open_guard, open_source
from hybrid_rs_jax.cli.options import BETA, Batch, Count, GuardOptions, NoiseOptions, RiskOptions, ThreatOptions, Unit
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.tables import say

if TYPE_CHECKING:
    from hybrid_rs_jax.kernels import HybridSmoothing

EXAMPLES = """\
examples:
  hybrid-rs doctor --model ./LlavaGuard-0.5B --dtype bfloat16
  hybrid-rs doctor --model ./LlavaGuard-0.5B --data memes.csv --samples 10000 --template policy_first
  hybrid-rs doctor --model my_filter:torch_module --data memes.jsonl --sigma 0.25 --out seen
  hybrid-rs doctor --model http://localhost:8000/classify --wire json --data memes.jsonl --sigma 0.25 --price 0.0002"""

#: A batch is repeated until so many seconds have passed.
_TIMED_SECONDS = 2.0
#: Copies that a model is tried on; of an endpoint, where each is a request, fewer.
_TRIED, _ASKED = 64, 8
CHECKPOINT_SIGMA, MISS = 0.5, 0.01


def doctor(
    *,
    model: Annotated[str, Parameter(metavar="MODEL")],
    data: Annotated[str, Parameter(metavar="DATA")] | None = None,
    samples: Count = 1000,
    batch_size: Batch | None = None,
    bill: BillOptions | None = None,
    miss_probability: Unit = MISS,
    out: Annotated[Path, Parameter(metavar="DIR")] | None = None,
    noise: NoiseOptions | None = None,
    risk: RiskOptions | None = None,
    denoiser: DenoiserName | None = None,
    own: ModelOptions | None = None,
    options: GuardOptions | None = None,
    threat: ThreatOptions | None = None,
) -> None:
    """Load, look, try, time, reckon.

    Parameters
    ----------
    model
        as for sample: demo, package.module:name, an ONNX file, an address, or the folder or hub id of a checkpoint
    data
        as for sample: the first input that can be used is tried, and all are counted (needed but for a checkpoint)
    samples
        draws per input of the planned run (default: 1000)
    batch_size
        noisy copies per step (default: 16 of a checkpoint, else 64, or 8 of an address)
    miss_probability
        probability that the filter at run time may miss a certified input, for its copies (default: 0.01)
    out
        folder to write a noisy copy to, as the model gets it: copy.txt and copy.png
    denoiser
        cleans each noisy picture before the model sees it: a folder in the layout of diffusers, or demo-fashion
    """
    from hybrid_rs_jax.confidence import copies_needed

    bill, noise, threat = bill or BillOptions(), noise or NoiseOptions(), threat or ThreatOptions()
    deployed = copies_needed((risk or RiskOptions()).threshold, miss_probability)
    if is_checkpoint(model) and not is_address(model):
        if (own or ModelOptions()) != ModelOptions() or out is not None:
            raise BadInputError("--out and the flags of one's own models mean nothing to a checkpoint.")
        count, rate = _checkpoint(model, data, noise, denoiser, options, threat, batch_size or 16)
    else:
        data = data or ("demo" if model == "demo" else None)
        if data is None:
            raise BadInputError(f"--data is needed for --model {model}.")
        count, rate = _other(model, data, noise, denoiser, own, options, threat, batch_size, out)
    _say("memory", _memory_text())
    planned = Bill(
        bill.inputs or count, samples, rate, bill.price, is_address(model), deployed if deployed > 0 else None
    )
    for name, line in zip(("planned run", "deployed"), planned.lines(), strict=False):
        _say(name, line)
    say("A plan that stops early (sample --target, --frontier) may take fewer draws.")


def _other(
    model: str,
    data: str,
    noise: NoiseOptions,
    denoiser: str | None,
    own: ModelOptions | None,
    options: GuardOptions | None,
    threat: ThreatOptions,
    batch_size: int | None,
    out: Path | None,
) -> tuple[int, float]:
    """A model that is no checkpoint: number of inputs, and copies per second."""
    from hybrid_rs_jax.classifiers.base import Abilities
    from hybrid_rs_jax.cli._examination import examine, timed_rate, write_copy
    from hybrid_rs_jax.cli._header import as_sentence, smoothing_of
    from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text

    begin = time.monotonic()
    source = open_source(model, data, options or GuardOptions(), threat=threat, own=own)
    smoothing = smoothing_of(noise, source, threat, demo=data in DEMO_DATA)
    source = denoised_source(source, open_denoiser(denoiser, smoothing.sigma), smoothing)
    abilities = Abilities.of(source.classifier)
    where = {True: "called on the host", False: "compiled by JAX", None: "compiled by JAX where its trace is faithful"}
    classes = "" if abilities.classes is None else f", {abilities.classes} classes"
    _say(
        "model", f"{abilities.name}, {where[abilities.on_host]}{classes} (opened in {time.monotonic() - begin:,.1f} s)"
    )
    _say("noise", smoothing_text(describe_smoothing(smoothing)))
    size = batch_size or (_ASKED if is_address(model) else _TRIED)
    with as_sentence():
        found = examine(source, smoothing, _ASKED if is_address(model) else _TRIED)
        for name, line in found.lines():
            _say(name, line)
        if source.decode is not None:
            _say("reads", repr(source.decode(found.tokens[0]))[:300])
        if out is not None:
            _say("wrote", ", ".join(map(str, write_copy(found, out, source.decode))))
        compiled, rate = timed_rate(source, smoothing, size)
    _say("speed", f"{rate:,.2f} copies/s in batches of {size} (first one: {compiled:,.1f} s)")
    return len(source.inputs.ids), rate


def _checkpoint(
    model: str,
    data: str | None,
    noise: NoiseOptions,
    denoiser: str | None,
    options: GuardOptions | None,
    threat: ThreatOptions,
    batch_size: int,
) -> tuple[int, float]:
    """A vision-language checkpoint: number of inputs, and copies per second."""
    from hybrid_rs_jax.data import open_data
    from hybrid_rs_jax.kernels import HybridSmoothing, UniformKernel

    if noise.kernel not in (None, "uniform"):
        raise BadInputError(f"--kernel must be uniform for a checkpoint to be tried out, got {noise.kernel}.")
    beta, sigma = noise.beta or BETA, noise.sigma or CHECKPOINT_SIGMA
    clean = open_denoiser(denoiser, sigma)
    texts = None if data is None else open_data(data)
    begin = time.monotonic()
    guard = open_guard(model, options or GuardOptions(), threat=threat.region)
    _say("loaded", f"in {time.monotonic() - begin:,.1f} s, {_size_text(guard)}")
    for name, text in _prompt_lines(guard):
        _say(name, text)
    encoded = _first_input(guard, texts)
    classifier = guard if clean is None else before_guard(clean, guard, sigma)
    if not guard.on_host:
        _say("arithmetic", _flops_text(classifier, encoded))
    step, arrays = _noisy_step(classifier, encoded, HybridSmoothing(UniformKernel(beta, guard.vocab_size), sigma))
    _say("noisy copies", _two_copies(step, arrays))
    for name, text in () if texts is None else clean_lines(guard, texts):
        _say(name, text)
    compiled, rate = _timed(step, arrays, batch_size)
    _say("speed", f"{rate:,.2f} copies/s in batches of {batch_size} (compiled in {compiled:,.1f} s)")
    return 100 if texts is None else len(texts), rate


def _size_text(guard: Any) -> str:
    import jax

    weights = jax.tree.leaves(guard.functional()[1]["network"])
    number, size = sum(leaf.size for leaf in weights), sum(leaf.nbytes for leaf in weights)
    return f"{number:,} parameters, {size / 1e9:,.2f} GB in {guard.settings.dtype}"


def _flops_text(classifier: Any, encoded: Any) -> str:
    """Floating-point operations of one copy, counted in the trace: matrix products and convolutions."""
    import jax

    from hybrid_rs_jax.models._flops import count_flops

    shapes = [jax.ShapeDtypeStruct((1, *part.shape), part.dtype) for part in (encoded.tokens, encoded.image)]

    def counted(part: Any) -> int:
        apply, parameters = part.functional()
        return count_flops(apply, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), parameters), *shapes)

    whole = counted(classifier)
    if (guard := getattr(classifier, "classifier", None)) is None:
        return f"{whole / 1e9:,.3g} GFLOP per copy"
    own = counted(guard)
    return (
        f"{whole / 1e9:,.3g} GFLOP per copy: denoiser {(whole - own) / 1e9:,.3g} (resizing included), network "
        f"{own / 1e9:,.3g}"
    )


def _prompt_lines(guard: Any) -> Iterator[tuple[str, str]]:
    prompt, layout, tokenizer = guard.prompt, guard.prompt.layout, guard.tokenizer
    picture = prompt.image_tokens
    parts = [len(layout.before), picture, len(layout.between), guard.text_length, len(layout.after)]
    height, width = guard.image_size
    yield (
        "prompt",
        f"{parts[0]} tokens, picture of {height}x{width} pixels as {parts[1]:,}, {parts[2]} tokens, text of up to "
        f"{parts[3]}, {parts[4]} tokens, answer of {len(layout.beginning)}: {prompt.positions:,} positions",
    )
    yield "profile", guard.settings.profile
    yield "prompt text", _shown_prompt(layout, guard)
    names = [", ".join(repr(tokenizer.decode([token])) for token in ids) for ids in (layout.unsafe, layout.safe)]
    yield "answer", f"begins with {tokenizer.decode(list(layout.beginning))!r}"
    yield "labels", f"unsafe goes on with {names[0]}, safe with {names[1]}"
    yield "alphabet", f"{guard.vocab_size - 1:,} tokens and PAD, V = {guard.vocab_size:,}"


def _shown_prompt(layout: Any, guard: Any) -> str:
    """The whole prompt as it is rendered, with a mark where picture and text stand and which of them carries noise."""
    head, tail = layout.text
    beginning = guard.tokenizer.decode(list(layout.beginning))
    picture = f"[picture, {guard.prompt.image_tokens:,} positions, noise on its pixels]"
    where = "behind the trusted text" if guard.settings.threat == "suffix" else "on all of it"
    text = f"[text of up to {guard.text_length} tokens, noise {where}]" if guard.text_length else ""
    return repr(head.replace(layout.tokens.image, picture) + text + tail + beginning)


def _first_input(guard: Any, samples: Any) -> Any:
    """The first input of the data that can be used, or without data a few random tokens and a grey picture."""
    if samples is None:
        encoded = guard.encode("", np.full((*guard.image_size, 3), 0.5, np.float32))
        words = np.random.default_rng(0).integers(1, guard.vocab_size, guard.text_length // 4)
        encoded.tokens[: words.size] = words
        return encoded
    from hybrid_rs_jax.cli._vlm_inputs import GuardInputs

    return first_readable(GuardInputs(samples, guard))


def _noisy_step(guard: Any, encoded: Any, smoothing: HybridSmoothing) -> tuple[Any, Any]:
    """Noise and margin of so many copies of one input, compiled as in a run."""
    import jax

    apply, parameters = guard.functional()

    @jax.jit
    def step(inputs: Any, keys: Any) -> Any:
        parameters, tokens, image, eligible = inputs
        noisy = jax.vmap(lambda key: smoothing.sample(key, tokens, image, eligible))(keys)
        return apply(parameters, *noisy)

    return step, (parameters, *encoded.arrays)


def _two_copies(step: Any, inputs: Any) -> str:
    import jax

    margins = np.asarray(step(inputs, jax.random.split(jax.random.key(0), 2)))
    if not np.isfinite(margins).all():
        raise BadInputError(
            f"The checkpoint gives a margin of {margins[~np.isfinite(margins)][0]} on a noisy copy: its weights or its "
            "dtype cannot be used."
        )
    return " and ".join(f"{'Unsafe' if margin > 0 else 'Safe'} (margin {margin:+.3f})" for margin in margins)


def _timed(step: Any, inputs: Any, batch_size: int) -> tuple[float, float]:
    """Seconds of the first batch, which compiles, and copies per second of those after it."""
    import jax

    keys = jax.random.split(jax.random.key(1), batch_size)
    begin = time.monotonic()
    step(inputs, keys).block_until_ready()
    compiled, batches, begin = time.monotonic() - begin, 0, time.monotonic()
    while batches == 0 or time.monotonic() - begin < _TIMED_SECONDS:
        step(inputs, keys).block_until_ready()
        batches += 1
    return compiled, batches * batch_size / max(time.monotonic() - begin, 1e-9)


def _memory_text() -> str:
    """The most that this process held, on the host and on the first device where that counts."""
    import jax

    texts = []
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        texts.append(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:,.2f} GB on the host")
    device = jax.local_devices()[0]
    if "peak_bytes_in_use" in (statistics := device.memory_stats() or {}):
        texts.append(f"{statistics['peak_bytes_in_use'] / 1e9:,.2f} GB on {device.device_kind}")
    return f"at most {' and '.join(texts)}" if texts else "not known on this system"


def _say(name: str, text: str) -> None:
    say(f"{name + ':':<14}{text}")
