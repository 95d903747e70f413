"""The smoothing distribution as plain JSON, and back: how a run remembers the noise it was drawn with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hybrid_rs_jax._text import ceil_text, joined, setting_text
from hybrid_rs_jax.errors import BadInputError, library_sentences

if TYPE_CHECKING:
    from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = [
    "KERNELS",
    "SAMPLER",
    "build_smoothing",
    "describe_noise",
    "describe_smoothing",
    "rounding_text",
    "smoothing_text",
]

#: What turns the generator's words into noise; another version gives other draws.
SAMPLER = "hybrid_rs_jax grid noise, version 1"

#: Fields that each kernel needs; "none" is image-only smoothing.
KERNELS: dict[str, tuple[str, ...]] = {
    "uniform": ("beta", "vocab_size"),
    "absorbing": ("beta",),
    "categorical": ("beta", "cardinalities"),
    "deletion": ("p_delete",),
    "none": (),
}


def describe_smoothing(smoothing: HybridSmoothing) -> dict[str, object]:
    """`{"kernel", its fields, "sigma", "step"}`; kernel "none" is image-only, sigma null is text-only.

    `step` is null where the smoothing does not say one; `describe_noise` says which one was drawn with. `Conditional`
    is the record of its kernel with `"draws": "conditional"`, and `"nested": true` where it is.
    """
    from hybrid_rs_jax.kernels.conditional import Conditional

    kernel = smoothing.discrete
    if isinstance(kernel, Conditional):
        inner = describe_smoothing(dataclasses.replace(smoothing, discrete=kernel.kernel))
        return {**inner, "draws": "conditional", **({"nested": True} if kernel.nested else {})}
    record: dict[str, object] = {"kernel": "none"}
    if kernel is not None:
        name = type(kernel).__name__.removesuffix("Kernel").lower()
        fields = {f.name: getattr(kernel, f.name) for f in dataclasses.fields(kernel)}  # type: ignore[arg-type]
        record = {"kernel": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}
    return {**record, "sigma": smoothing.sigma, "step": smoothing.step}


def describe_noise(smoothing: HybridSmoothing, pixels: int) -> dict[str, object]:
    """How the noise of a run is drawn, for its header: runs whose noise differs are never added up.

    Args:
      smoothing: the smoothing distribution.
      pixels: numbers in one picture, height times width times channels.

    Returns:
      `generator`, `partitionable` and `sampler`, which fix the draws; `step` of the pixel grid and `outcomes` of the
      pixel noise, null without it; `total_variation`, the distance of a noisy picture's law from the certified one,
      rounded up; `off_grid_attackers`, whether attacked pixels may lie off the grid: false, a picture is a picture.

    Raises:
      ValueError: if sigma is more than 2^16 steps.
    """
    from hybrid_rs_jax.kernels._alias import half_width

    step, sigma = smoothing.grid_step, smoothing.sigma
    return {
        "generator": "threefry2x32",
        "partitionable": True,
        "sampler": SAMPLER,
        "step": step,
        "outcomes": None if sigma is None or step is None else 2 * half_width(sigma, step) + 1,
        "total_variation": smoothing.total_variation(pixels),
        "off_grid_attackers": False,
    }


def build_smoothing(record: Mapping[str, Any]) -> HybridSmoothing:
    """The smoothing distribution that `describe_smoothing` described.

    Raises:
      BadInputError: if a field is missing or out of range, with the field's name.
    """
    name, sigma, step = record.get("kernel"), record.get("sigma"), record.get("step")
    if not isinstance(name, str) or name not in KERNELS:
        raise BadInputError(f"kernel must be {joined(KERNELS, 'or')}, got {name!r:.80}.")
    missing = [field for field in KERNELS[name] if record.get(field) is None]
    if missing:
        raise BadInputError(f"The {name} kernel needs {joined(missing)}.")
    if name == "none" and sigma is None:
        raise BadInputError("Without a kernel there must be a sigma: noise on neither part certifies nothing.")
    if record.get("draws", "ordinary") not in ("ordinary", "conditional"):
        raise BadInputError(f"draws must be ordinary or conditional, got {record['draws']!r:.80}.")
    from hybrid_rs_jax.kernels import Conditional, HybridSmoothing

    with library_sentences():
        try:
            numbers = {"sigma": sigma, "step": step}
            given = {field: None if value is None else _number(field, value) for field, value in numbers.items()}
            kernel = _kernel(name, record)
            if record.get("draws") == "conditional":
                kernel = Conditional(kernel, nested=record.get("nested") is True)
            return HybridSmoothing(kernel, **given)
        except TypeError as error:
            raise BadInputError(f"The {name} kernel has a field of the wrong type: {error}.") from error


def _kernel(name: str, record: Mapping[str, Any]) -> Any:
    from hybrid_rs_jax.kernels import AbsorbingKernel, CategoricalKernel, DeletionKernel, UniformKernel

    if name == "none":
        return None
    if name == "deletion":
        return DeletionKernel(_number("p_delete", record["p_delete"]), record.get("pad_token", 0))
    given = record["beta"]
    beta: Any = tuple(_number("beta", b) for b in given) if isinstance(given, list) else _number("beta", given)
    if name == "uniform":
        return UniformKernel(beta, record["vocab_size"])
    if name == "absorbing":
        return AbsorbingKernel(beta, record.get("mask_token", 0))
    return CategoricalKernel(beta, tuple(record["cardinalities"]))


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInputError(f"{name} must be a number, got {value!r:.80}.")
    return float(value)


def smoothing_text(record: Mapping[str, Any]) -> str:
    """The noise in a few words: "uniform kernel, beta = 0.25, 512 symbols; sigma = 0.25"."""
    parts = []
    if record["kernel"] == "none":
        parts.append("no token noise")
    else:
        share = "p_delete" if record["kernel"] == "deletion" else "beta"
        words = [f"{record['kernel']} kernel", f"{share} = {_beta_text(record.get(share))}"]
        if record.get("vocab_size"):
            words.append(f"{record['vocab_size']:,} symbols")
        if record.get("cardinalities"):
            words.append(f"{len(record['cardinalities'])} fields")
        if record.get("draws") == "conditional":
            words.append("conditional draws")
        parts.append(", ".join(words))
    parts.append("no pixel noise" if record["sigma"] is None else f"sigma = {setting_text(float(record['sigma']))}")
    if record.get("step") is not None:
        parts.append(f"steps of {setting_text(float(record['step']))}")
    return "; ".join(parts)


def rounding_text(change: float, table: bool = False) -> str:
    """What was done to pixels, or numbers of a table, that lay off the grid; `change` is the largest change."""
    what, about = ("Numbers", "numbers") if table else ("Pixels", "pictures")
    return (
        f"{what} were rounded to the grid of the noise, by at most {ceil_text(change, 6)}: certificates are about the "
        f"rounded {about}."
    )


def _beta_text(beta: Any) -> str:
    """Beta as the user gave it: the shortest number that is drawn as this multiple of 2^-32."""
    if isinstance(beta, (list, tuple)):
        return f"[{', '.join(map(_beta_text, beta))}]"
    if not isinstance(beta, float):
        return str(beta)
    texts = (f"{beta:.{digits}g}" for digits in range(1, 17))
    return next((text for text in texts if round(float(text) * 2**32) == beta * 2**32), setting_text(beta))
