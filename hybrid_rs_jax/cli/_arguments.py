"""Flags that several commands share, and the smoothing distribution that they describe."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Any

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import joined
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.kernels.record import KERNELS, build_smoothing, describe_smoothing

__all__ = [
    "ALPHA",
    "MAX_BUDGET",
    "TAU",
    "add_noise_arguments",
    "add_risk_arguments",
    "at_least_zero",
    "budget_list",
    "cardinalities",
    "check_fields",
    "check_noise_flags",
    "check_pixel_noise",
    "integer",
    "open_unit",
    "positive",
    "smoothing_from",
    "threshold_from",
]

TAU = 4.6e-5
ALPHA = 0.01
#: Larger discrete budgets are refused: a table over so many would take hours.
MAX_BUDGET = 1000
SMALLEST, LARGEST = 1e-12, 1e12
_FLAGS = {field: "--" + field.replace("_", "-") for field in ("kernel", "beta", "vocab_size", "cardinalities", "sigma")}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def open_unit(text: str) -> float:
    """A number in (0, 1)."""
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1), got {text}")
    return value


def positive(text: str) -> float:
    """A positive number; beyond these limits products with it leave the range of float64."""
    value = _number(text)
    if not SMALLEST <= value <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be positive, in {SMALLEST:g}..{LARGEST:g}, got {text}")
    return value


def at_least_zero(text: str) -> float:
    """A number of at least 0."""
    value = _number(text)
    if not 0 <= value <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be at least 0 and at most {LARGEST:g}, got {text}")
    return value


def integer(low: int, high: int) -> Callable[[str], int]:
    """An integer in `low..high`."""

    def parse(text: str) -> int:
        value = int(text) if text.strip().lstrip("+-").isdecimal() and len(text) < 40 else None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be an integer in {low}..{high}, got {text}")
        return value

    return parse


def cardinalities(text: str) -> tuple[int, ...]:
    """Comma-separated numbers of symbols, one per field."""
    parse = integer(2, 2**31 - 1)
    return tuple(parse(part) for part in text.split(","))


def budget_list(text: str) -> tuple[int, ...]:
    """Comma-separated discrete budgets, sorted."""
    parse = integer(0, MAX_BUDGET)
    return tuple(sorted({parse(part) for part in text.split(",")}))


def add_noise_arguments(parser: argparse.ArgumentParser, *, default_kernel: str | None, note: str = "") -> None:
    """The flags that define the smoothing distribution."""
    group = parser.add_argument_group("smoothing distribution", note or None)
    shown = " (default: %(default)s)" if default_kernel else ""
    group.add_argument(
        "--kernel",
        choices=tuple(KERNELS),
        default=default_kernel,
        help=f"token noise: replace by another symbol, mask, replace per field; none = image-only{shown}",
    )
    group.add_argument("--beta", type=open_unit, metavar="B", help="probability that a token is replaced, in (0, 1)")
    group.add_argument(
        "--vocab-size",
        type=integer(2, 2**31 - 1),
        metavar="V",
        help="symbols that the noise draws from, at least 2 (uniform; absorbing does not depend on it)",
    )
    group.add_argument(
        "--cardinalities", type=cardinalities, metavar="K,K,...", help="symbols per field, e.g. 2,5,16 (categorical)"
    )
    group.add_argument("--sigma", type=positive, metavar="S", help="standard deviation of the pixel noise")
    group.add_argument("--no-pixel-noise", action="store_true", help="text-only: tokens alone carry noise")


def add_risk_arguments(parser: argparse.ArgumentParser, tau: str = f"{TAU:g}") -> None:
    """The decision threshold and the risk level; `tau` says what the default is."""
    parser.add_argument(
        "--tau",
        type=open_unit,
        default=None,
        metavar="T",
        help=f"decision threshold on the smoothed score, in (0, 1) (default: {tau})",
    )
    parser.add_argument(
        "--alpha",
        type=open_unit,
        default=None,
        metavar="A",
        help=f"risk level per input, in (0, 1) (default: {ALPHA:g})",
    )


def smoothing_from(args: argparse.Namespace, known: hrs.HybridSmoothing | None = None) -> hrs.HybridSmoothing:
    """The smoothing distribution of the flags, or of a run, which the flags may repeat but not contradict.

    Raises:
      BadInputError: if a flag is missing, has no meaning for the kernel, or contradicts the run.
    """
    given = {field: getattr(args, field) for field in _FLAGS}
    if args.no_pixel_noise and (args.sigma is not None or (known is not None and known.sigma is not None)):
        what = "--sigma" if known is None else "the run, which has pixel noise"
        raise BadInputError(f"--no-pixel-noise contradicts {what}; leave one of them out.")
    if known is not None:
        recorded = describe_smoothing(known)
        for field, value in given.items():
            wanted = recorded.get(field)
            wanted = tuple(wanted) if isinstance(wanted, list) else wanted
            if value is not None and value != wanted:
                raise BadInputError(
                    f"{_FLAGS[field]} {_shown(value)} contradicts the run, which was drawn with {field} = "
                    f"{_shown(wanted)}; counts certify only the noise that they were drawn with."
                )
        return known
    kernel = given["kernel"]
    if kernel is None:
        raise BadInputError(f"--kernel is needed, {joined(KERNELS, 'or')}: counts do not say which noise was drawn.")
    check_noise_flags(kernel, given)
    check_pixel_noise(given["sigma"] is not None, args.no_pixel_noise)
    return build_smoothing(given)


def check_pixel_noise(sigma: bool, none: bool) -> None:
    """Whoever leaves the pixel noise out says so: without it no pixel change is certified."""
    if sigma == none:
        problem = "contradicts --no-pixel-noise" if sigma else "is needed (or --no-pixel-noise)"
        raise BadInputError(f"--sigma {problem}: the pixel noise is part of the certificate.")


def check_noise_flags(kernel: str, given: Mapping[str, Any]) -> None:
    """Refuse a kernel without the flags that it needs, and flags that it has no use for, rather than ignore them."""
    missing = [_FLAGS[field] for field in KERNELS[kernel] if given[field] is None]
    if missing:
        raise BadInputError(f"--kernel {kernel} needs {joined(missing)}.")
    if kernel == "none" and given["sigma"] is None:
        raise BadInputError("--kernel none needs --sigma: noise on neither part certifies nothing.")
    legal = {*KERNELS[kernel], "kernel", "sigma", *(["vocab_size"] if kernel == "absorbing" else [])}
    idle = [_FLAGS[field] for field, value in given.items() if value is not None and field not in legal]
    if idle:
        raise BadInputError(f"--kernel {kernel} has no use for {joined(idle)}; leave it out or choose another kernel.")


def check_fields(smoothing: hrs.HybridSmoothing, budget: int) -> None:
    """Refuse a discrete budget above the number of categorical fields."""
    fields = getattr(smoothing.discrete, "cardinalities", None)
    if fields is not None and budget > len(fields):
        raise BadInputError(f"The discrete budget must be at most the number of fields {len(fields)}, got {budget}.")


def threshold_from(args: argparse.Namespace) -> float:
    """`--tau`, or what `--runtime-samples` and `--miss-probability` make of it."""
    copies, miss = args.runtime_samples, args.miss_probability
    if copies is None and miss is None:
        return TAU if args.tau is None else args.tau
    if args.tau is not None:
        raise BadInputError("--tau and --runtime-samples both define the threshold; give one of them.")
    if copies is None:
        raise BadInputError("--miss-probability needs --runtime-samples, the noisy copies that a filter runs.")
    return hrs.detection_threshold(copies, 0.01 if miss is None else miss)


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
