"""How many copies to draw: a fixed number, until a target is decided, or until the frontier stands still."""

from __future__ import annotations

import argparse
from typing import Any

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import setting_text
from hybrid_rs_jax.cli import _arguments as arguments
from hybrid_rs_jax.errors import BadInputError, library_sentences

__all__ = ["add_plan_arguments", "build_plan", "parse_target", "plan_text", "target_test"]

SAMPLES = 10_000


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say when to stop."""
    group = parser.add_argument_group("how many copies")
    group.add_argument(
        "--samples",
        type=arguments.integer(1, 2**31 - 1),
        default=SAMPLES,
        metavar="N",
        help="noisy copies per input; with --target or --frontier: at most (default: %(default)s)",
    )
    stop = group.add_mutually_exclusive_group()
    stop.add_argument(
        "--target",
        type=parse_target,
        metavar="d=D,eps=E",
        help="stop an input as soon as it is decided whether (D, E) can be certified, at total risk alpha",
    )
    stop.add_argument(
        "--frontier",
        action="store_true",
        help="stop an input when more copies could hardly raise any radius; alpha is spread over the looks",
    )
    group.add_argument(
        "--tolerance",
        type=arguments.at_least_zero,
        metavar="X",
        help="with --frontier: radius that is not worth more copies, in units of sigma (default: 0.1)",
    )


def parse_target(text: str) -> tuple[int, float]:
    """`d=2,eps=0.5` as a pair."""
    fields = dict(part.partition("=")[::2] for part in text.replace(" ", "").split(","))
    if set(fields) != {"d", "eps"}:
        raise argparse.ArgumentTypeError(f"must look like d=2,eps=0.5, got {text}")
    return arguments.integer(0, arguments.MAX_BUDGET)(fields["d"]), arguments.at_least_zero(fields["eps"])


def build_plan(
    args: argparse.Namespace, smoothing: hrs.HybridSmoothing, tau: float, alpha: float
) -> tuple[Any, dict[str, Any] | None]:
    """The sampling plan of the flags, and what it aims at (None: a fixed number of copies).

    Raises:
      BadInputError: if the target cannot be certified, or not with so few copies.
    """
    from hybrid_rs_jax.confidence import FixedSample

    if args.tolerance is not None and not args.frontier:
        raise BadInputError("--tolerance has a meaning with --frontier only.")
    if args.target is not None:
        d, epsilon = args.target
        plan = target_test(d, epsilon, smoothing, tau, alpha, args.samples)
        return plan, {"d": d, "epsilon": epsilon, "tau": tau, "alpha": alpha}
    if args.frontier:
        from hybrid_rs_jax.certificate.frontier import TOLERANCE, frontier_plan

        tolerance = TOLERANCE if args.tolerance is None else args.tolerance
        budgets = range(9 if smoothing.discrete is not None else 1)
        with library_sentences():
            plan = frontier_plan(smoothing, tau, alpha, args.samples, budgets=budgets, tolerance=tolerance)
        return plan, {"tolerance": tolerance, "tau": tau, "alpha": alpha}
    return FixedSample(args.samples), None


def target_test(
    d: int, epsilon: float, smoothing: hrs.HybridSmoothing, tau: float, alpha: float, max_samples: int
) -> Any:
    """The sequential test of "is p_A high enough for (d, epsilon)?".

    Raises:
      BadInputError: if the target cannot be certified, or not with so few copies.
    """
    from hybrid_rs_jax.certificate.bounds import required_bound
    from hybrid_rs_jax.confidence import SequentialTest

    check_target(d, epsilon, smoothing)
    with library_sentences():
        need = required_bound(d, epsilon, smoothing, tau)
        draws = hrs.required_samples(d, epsilon, smoothing, tau, alpha)
    where = f"d = {d}, eps = {setting_text(epsilon)} at tau = {setting_text(tau)}"
    if need.complement <= 0 or draws < 0:
        raise BadInputError(f"No number of draws (up to 2^53) certifies {where} with this noise.")
    if draws > max_samples:
        raise BadInputError(
            f"{max_samples} draws are too few for {where} and alpha = {setting_text(alpha)}: if all of them succeed it "
            f"needs at least {draws}."
        )
    with library_sentences():
        return SequentialTest(float(need.p), alpha, max_samples, complement_star=float(need.complement))


def check_target(d: int, epsilon: float, smoothing: hrs.HybridSmoothing) -> None:
    """Refuse a target on a part that carries no noise."""
    if smoothing.sigma is None and epsilon > 0:
        raise BadInputError("eps above 0 needs pixel noise: without it no pixel change is certified.")
    if smoothing.discrete is None and d > 0:
        raise BadInputError("d above 0 needs token noise: without it no token change is certified.")
    arguments.check_fields(smoothing, d)


def plan_text(plan: Any, aim: dict[str, Any] | None) -> str:
    """The plan in a few words."""
    if aim is None:
        return f"{plan.max_samples:,} copies each."
    if "d" in aim:
        what = f"d = {aim['d']}, eps = {setting_text(aim['epsilon'])} is decided"
    else:
        what = "more copies could hardly raise a radius"
    return (
        f"at most {plan.max_samples:,} copies each, fewer once {what} "
        f"(tau = {setting_text(aim['tau'])}, alpha = {setting_text(aim['alpha'])})."
    )
