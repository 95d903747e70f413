"""The smoothing distribution as plain JSON, and back: how a run remembers the noise it was drawn with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hybrid_rs_jax._text import joined
from hybrid_rs_jax.errors import BadInputError, library_sentences

if TYPE_CHECKING:
    from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["KERNELS", "build_smoothing", "describe_smoothing", "smoothing_text"]

#: Fields that each kernel needs; "none" is image-only smoothing.
KERNELS: dict[str, tuple[str, ...]] = {
    "uniform": ("beta", "vocab_size"),
    "absorbing": ("beta",),
    "categorical": ("beta", "cardinalities"),
    "none": (),
}


def describe_smoothing(smoothing: HybridSmoothing) -> dict[str, Any]:
    """`{"kernel", its fields, "sigma"}`; kernel "none" is image-only, sigma null is text-only."""
    kernel = smoothing.discrete
    record: dict[str, Any] = {"kernel": "none"}
    if kernel is not None:
        name = type(kernel).__name__.removesuffix("Kernel").lower()
        fields = {f.name: getattr(kernel, f.name) for f in dataclasses.fields(kernel)}  # type: ignore[arg-type]
        record = {"kernel": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}
    return {**record, "sigma": smoothing.sigma}


def build_smoothing(record: Mapping[str, Any]) -> HybridSmoothing:
    """The smoothing distribution that `describe_smoothing` described.

    Raises:
      BadInputError: if a field is missing or out of range, with the field's name.
    """
    name, sigma = record.get("kernel"), record.get("sigma")
    if name not in KERNELS:
        raise BadInputError(f"kernel must be {joined(KERNELS, 'or')}, got {name!r}.")
    missing = [field for field in KERNELS[name] if record.get(field) is None]
    if missing:
        raise BadInputError(f"The {name} kernel needs {joined(missing)}.")
    if name == "none" and sigma is None:
        raise BadInputError("Without a kernel there must be a sigma: noise on neither part certifies nothing.")
    from hybrid_rs_jax.kernels import HybridSmoothing

    with library_sentences():
        try:
            return HybridSmoothing(_kernel(name, record), None if sigma is None else float(sigma))
        except TypeError as error:
            raise BadInputError(f"The {name} kernel has a field of the wrong type: {error}.") from error


def _kernel(name: str, record: Mapping[str, Any]) -> Any:
    from hybrid_rs_jax.kernels import AbsorbingKernel, CategoricalKernel, UniformKernel

    if name == "none":
        return None
    given = record["beta"]
    beta: Any = tuple(float(b) for b in given) if isinstance(given, list) else float(given)
    if name == "uniform":
        return UniformKernel(beta, record["vocab_size"])
    if name == "absorbing":
        return AbsorbingKernel(beta, record.get("mask_token", 0))
    return CategoricalKernel(beta, tuple(record["cardinalities"]))


def smoothing_text(record: Mapping[str, Any]) -> str:
    """The noise in a few words: "uniform kernel, beta = 0.25, 512 symbols; sigma = 0.25"."""
    parts = []
    if record["kernel"] == "none":
        parts.append("no token noise")
    else:
        words = [f"{record['kernel']} kernel", f"beta = {record.get('beta')}"]
        if record.get("vocab_size"):
            words.append(f"{record['vocab_size']:,} symbols")
        if record.get("cardinalities"):
            words.append(f"{len(record['cardinalities'])} fields")
        parts.append(", ".join(words))
    parts.append("no pixel noise" if record["sigma"] is None else f"sigma = {record['sigma']:g}")
    return "; ".join(parts)
