"""Options that commands share: a frozen dataclass per group, whose fields are the flags and whose texts are the help.

Nothing here needs JAX, so that `--help` answers at once. Annotations are evaluated here and now (no `from __future__`):
the parser reads those of a class that inherits fields in another module, which need not know the names.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from hybrid_rs_jax._text import joined, setting_text
from hybrid_rs_jax.cli import _values
from hybrid_rs_jax.cli._values import at_least_zero, flag, integer, integer_grid, open_unit, positive, risk_level
from hybrid_rs_jax.errors import BadInputError, library_sentences

if TYPE_CHECKING:
    from hybrid_rs_jax.confidence import SamplingPlan, SequentialTest
    from hybrid_rs_jax.kernels import HybridSmoothing
    from hybrid_rs_jax.results.statement import ThreatName

__all__ = [
    "ALPHA",
    "BETA",
    "P_DELETE",
    "SAMPLES",
    "TAU",
    "Batch",
    "Count",
    "GuardOptions",
    "KernelName",
    "NoiseOptions",
    "RiskOptions",
    "Seed",
    "StoppingOptions",
    "Level",
    "Unit",
    "check_fields",
    "ThreatOptions",
    "check_noise",
    "check_target",
    "target_test",
]

TAU, ALPHA, BETA, P_DELETE, SAMPLES = 4.6e-5, 0.01, 0.25, 0.5, 10_000

KernelName = Literal["uniform", "absorbing", "categorical", "deletion", "none"]
Unit = Annotated[float, flag(open_unit, "P")]
Level = Annotated[float, flag(risk_level, "A")]
Positive = Annotated[float, flag(positive, "X")]
AtLeastZero = Annotated[float, flag(at_least_zero, "X")]
Count = Annotated[int, flag(integer(1, 2**31 - 1), "N")]
Batch = Annotated[int, flag(integer(1, 2**24), "B")]
Seed = Annotated[int, flag(integer(0, 2**31 - 1), "S")]
Target = Annotated[tuple[int, float], flag(_values.target, "d=D,eps=E")]
Symbols = Annotated[int, flag(integer(2, 2**31 - 1), "V")]
Cardinalities = Annotated[
    tuple[int, ...], flag(lambda text: tuple(integer_grid(2, 2**31 - 1)(text).tolist()), "K,K,...")
]


@Parameter(name="*", group=Group("Smoothing distribution"))
@dataclass(frozen=True, kw_only=True)
class NoiseOptions:
    """The flags that define the smoothing distribution."""

    kernel: KernelName | None = None
    """token noise: replace by another symbol, mask, replace per field, delete; none = image-only"""
    beta: Unit | None = None
    """probability that a token is replaced, in (0, 1)"""
    p_delete: Unit | None = None
    """probability that a token is deleted, in (0, 1) (deletion)"""
    vocab_size: Symbols | None = None
    """symbols that the noise draws from, at least 2 (uniform; absorbing does not depend on it)"""
    cardinalities: Cardinalities | None = None
    """symbols per field, e.g. 2,5,16 (categorical)"""
    sigma: Positive | None = None
    """standard deviation of the pixel noise, in the unit of the pixels"""
    step: Positive | None = None
    """step of the grid that pixels and their noise lie on (default: 1/255)"""
    no_pixel_noise: bool = False
    """text-only: tokens alone carry noise"""

    def or_default(self, **defaults: Any) -> "NoiseOptions":
        """The same, with these values where a flag was not given."""
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def smoothing(self) -> "HybridSmoothing":
        """The smoothing distribution of the flags.

        Raises:
          BadInputError: if a flag is missing, or has no meaning for the kernel.
        """
        from hybrid_rs_jax.kernels.record import KERNELS, build_smoothing

        if self.kernel is None:
            raise BadInputError(
                f"--kernel is needed, {joined(KERNELS, 'or')}: counts do not say which noise was drawn."
            )
        given = self._given()
        check_noise(no_pixel_noise=self.no_pixel_noise, **given)
        return build_smoothing(given)

    def repeated(self, known: "HybridSmoothing") -> "HybridSmoothing":
        """The smoothing distribution of a run, which the flags may repeat but not contradict.

        Raises:
          BadInputError: if a flag contradicts the run.
        """
        from hybrid_rs_jax.kernels.record import describe_smoothing

        if self.no_pixel_noise and known.sigma is not None:
            raise BadInputError("--no-pixel-noise contradicts the run, which has pixel noise; leave it out.")
        recorded = describe_smoothing(known)
        for name, value in self._given().items():
            wanted = recorded.get(name)
            wanted = tuple(wanted) if isinstance(wanted, list) else wanted
            if value is not None and value != wanted:
                raise BadInputError(
                    f"{_flag(name)} {_shown(value)} contradicts the run, which was drawn with {name} = "
                    f"{_shown(wanted)}; counts certify only the noise that they were drawn with."
                )
        return known

    def _given(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "no_pixel_noise"}


@Parameter(name="*", group=Group("Risk"))
@dataclass(frozen=True, kw_only=True)
class RiskOptions:
    """The decision threshold and the risk level."""

    tau: Unit | None = None
    """decision threshold on the smoothed score, in (0, 1) (default: 4.6e-05)"""
    alpha: Level | None = None
    """risk level per input, in (0, 1), chosen before the counts are seen (default: 0.01)"""

    @property
    def threshold(self) -> float:
        """tau, or its default."""
        return TAU if self.tau is None else self.tau

    @property
    def level(self) -> float:
        """alpha, or its default."""
        return ALPHA if self.alpha is None else self.alpha


@Parameter(name="*", group=Group("How many draws"))
@dataclass(frozen=True, kw_only=True)
class StoppingOptions:
    """The flags that say when an input has been drawn often enough."""

    samples: Count = SAMPLES
    """noisy copies per input; with --target or --frontier: at most (default: 10000)"""
    target: Target | None = None
    """stop an input as soon as it is decided whether (D, E) can be certified, at total risk alpha"""
    frontier: bool = False
    """stop an input when more copies could hardly raise any radius; alpha is spread over the looks"""
    tolerance: AtLeastZero | None = None
    """with --frontier: radius that is not worth more copies, in units of sigma (default: 0.1)"""

    def check(self) -> None:
        """Refuse flags that contradict each other."""
        if self.target is not None and self.frontier:
            raise BadInputError("--target and --frontier both say when to stop; give one of them.")
        if self.tolerance is not None and not self.frontier:
            raise BadInputError("--tolerance has a meaning with --frontier only.")

    def plan(
        self, smoothing: "HybridSmoothing", tau: float, alpha: float, total_variation: float = 0.0
    ) -> "SamplingPlan":
        """The sampling plan, for noise that is `total_variation` away from the ideal one.

        Raises:
          BadInputError: if the flags contradict each other, or the target cannot be certified with so few draws.
        """
        from hybrid_rs_jax.certificate.frontier import TOLERANCE, frontier_plan
        from hybrid_rs_jax.confidence import FixedSample

        self.check()
        if self.target is not None:
            return target_test(*self.target, smoothing, tau, alpha, self.samples, total_variation)
        if not self.frontier:
            return FixedSample(self.samples)
        budgets = range(9 if smoothing.discrete is not None else 1)
        tolerance = TOLERANCE if self.tolerance is None else self.tolerance
        with library_sentences():
            return frontier_plan(smoothing, tau, alpha, self.samples, budgets=budgets, tolerance=tolerance)

    def aim(self, tau: float, alpha: float) -> dict[str, object] | None:
        """What early stopping is for, as the header of a run says it; None: a fixed number of draws."""
        from hybrid_rs_jax.certificate.frontier import TOLERANCE

        if self.target is not None:
            return {"d": self.target[0], "epsilon": self.target[1], "tau": tau, "alpha": alpha}
        if self.frontier:
            return {"tolerance": TOLERANCE if self.tolerance is None else self.tolerance, "tau": tau, "alpha": alpha}
        return None

    def text(self, risk: RiskOptions) -> str:
        """The plan in a few words."""
        if self.target is None and not self.frontier:
            return f"{self.samples:,} copies each."
        what = "more copies could hardly raise a radius"
        if self.target is not None:
            what = f"d = {self.target[0]}, eps = {setting_text(self.target[1])} is decided"
        return (
            f"at most {self.samples:,} copies each, fewer once {what} "
            f"(tau = {setting_text(risk.threshold)}, alpha = {setting_text(risk.level)})."
        )


@Parameter(name="*", group=Group("Vision-language checkpoint (--model PATH)"))
@dataclass(frozen=True, kw_only=True)
class GuardOptions:
    """The flags of a vision-language guard; None where one was not given."""

    profile: Literal["llavaguard", "qwenguard", "nemotron", "shieldgemma2", "generic"] | None = None
    """how the guard was trained to be asked: policy, order, answer and labels; the other flags win over it
    (default: what config.json, the name and the chat template tell, else generic)"""
    policy: Annotated[str, Parameter(metavar="NAME|FILE")] | None = None
    """combination, text_only, image_only, plain (no words around the text), or a text file with {text} where the
    user's text stands (default: that of the profile, else combination)"""
    template: Literal["checkpoint", "policy_first"] | None = None
    """order of the prompt; policy_first computes the policy once per run (default: checkpoint)"""
    views: Literal["checkpoint", "base"] | None = None
    """what is shown of a picture; base leaves out the tiles of LLaVA-OneVision: half of the positions, and another
    base classifier (default: checkpoint)"""
    text_length: Annotated[int, flag(integer(1, 2**20), "L")] | None = None
    """positions of the certified text, padding included (default: 64; of other models the longest text and 8 more)"""
    image_size: Annotated[tuple[int, int], flag(_values.image_size, "HxW")] | None = None
    """certified resolution in pixels, e.g. 384x384 (default: one tile of a checkpoint, else of the first picture)"""
    alphabet: Annotated[Path, Parameter(metavar="FILE")] | None = None
    """ids of the tokens that noise draws from and attackers may use, a text file of integers
    (default: all tokens that are not special)"""
    labels: Annotated[tuple[str, str], flag(_values.labels, "UNSAFE,SAFE")] | None = None
    """the two labels; spellings of one are separated by | (default: Unsafe,Safe)"""
    answer: Annotated[str, Parameter(metavar="TEXT")] | None = None
    """beginning of an answer with {label} in it (default: {"rating": "{label}")"""
    decision: Literal["logit_mass", "generate"] | None = None
    """compare the labels' masses, or decode an answer and look for a label, slowly (default: logit_mass)"""
    generated_tokens: Annotated[int, flag(integer(1, 2**12), "K")] | None = None
    """most tokens that --decision generate decodes (default: 16)"""
    dtype: Literal["float32", "bfloat16"] | None = None
    """of weights and computation (default: float32 on a CPU, bfloat16 elsewhere)"""
    attention: Literal["auto", "xla", "cudnn"] | None = None
    """kernel; auto is cuDNN where it applies (default: auto)"""
    model_parallel: Annotated[int, flag(integer(1, 4096), "N")] | None = None
    """spread the weights over N devices, and batches over the rest (default: 1)"""

    def given(self) -> dict[str, object]:
        """What was given, by the names of the fields."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def refuse(self, model: str) -> None:
        """Raise one sentence where flags were given that mean nothing to the model."""
        if idle := [_flag(name) for name in self.given()]:
            verb = "means" if len(idle) == 1 else "mean"
            raise BadInputError(
                f"{joined(idle)} {verb} something to a vision-language checkpoint only, got --model {model}."
            )


@Parameter(name="*", group=Group("Threat"))
@dataclass(frozen=True, kw_only=True)
class ThreatOptions:
    """Which changes of the text an attacker may make."""

    threat: Literal["append", "suffix", "anywhere", "insert", "l0"] | None = None
    """append: up to d tokens right behind the text; suffix: any d of the positions behind it; anywhere (l0): any d
    positions of the text; insert: d tokens inserted anywhere (deletion noise) (default: suffix)"""

    @property
    def name(self) -> "ThreatName":
        """The threat in today's word."""
        return "anywhere" if self.threat == "l0" else self.threat or "suffix"

    def of_noise(self, noise: NoiseOptions) -> "ThreatOptions":
        """Deletion noise is about insertions, where nothing else was said."""
        return ThreatOptions(threat="insert") if noise.kernel == "deletion" and self.threat is None else self

    @property
    def region(self) -> str:
        """Which positions of a guard's prompt carry noise."""
        return "suffix" if self.name in ("append", "suffix") else "l0"


def target_test(
    d: int,
    epsilon: float,
    smoothing: "HybridSmoothing",
    tau: float,
    alpha: float,
    max_samples: int,
    total_variation: float = 0.0,
) -> "SequentialTest":
    """The sequential test of "is p_A high enough for (d, epsilon)?", with noise so far from the ideal one.

    Raises:
      BadInputError: if the target cannot be certified, or not with so few draws.
    """
    from hybrid_rs_jax.certificate.certify import needed_bound, needed_samples
    from hybrid_rs_jax.confidence import SequentialTest

    check_target(d, epsilon, smoothing)
    with library_sentences():
        need = needed_bound(d, epsilon, smoothing, tau, total_variation=total_variation)
        needed = needed_samples([d], smoothing, tau, alpha, epsilon=epsilon, total_variation=total_variation)
    draws = int(needed[0])
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


def check_noise(kernel: str, *, no_pixel_noise: bool = False, step: float | None = None, **given: object) -> None:
    """Refuse a kernel without the flags that it needs, and flags that it has no use for, rather than ignore them.

    Args:
      kernel: its name.
      no_pixel_noise: the switch.
      step: of the pixels' grid.
      given: `beta, p_delete, vocab_size, cardinalities, sigma`, None where the flag was not given.

    Raises:
      BadInputError: one sentence with the flags.
    """
    from hybrid_rs_jax.kernels.record import KERNELS

    missing = [_flag(name) for name in KERNELS[kernel] if given[name] is None]
    if missing:
        raise BadInputError(f"--kernel {kernel} needs {joined(missing)}.")
    if no_pixel_noise and given["sigma"] is not None:
        raise BadInputError("--no-pixel-noise contradicts --sigma; leave one of them out.")
    if kernel == "none" and given["sigma"] is None:
        raise BadInputError("--kernel none needs --sigma: noise on neither part certifies nothing.")
    if given["sigma"] is None and not no_pixel_noise:
        raise BadInputError("--sigma is needed (or --no-pixel-noise): the pixel noise is part of the certificate.")
    if given["sigma"] is None and step is not None:
        raise BadInputError("--step has a meaning with --sigma only.")
    legal = {*KERNELS[kernel], "sigma", *(["vocab_size"] if kernel == "absorbing" else [])}
    idle = [_flag(name) for name, value in given.items() if value is not None and name not in legal]
    if idle:
        raise BadInputError(f"--kernel {kernel} has no use for {joined(idle)}; leave it out or choose another kernel.")


def check_target(d: int, epsilon: float, smoothing: "HybridSmoothing") -> None:
    """Refuse a target on a part that carries no noise."""
    if smoothing.sigma is None and epsilon > 0:
        raise BadInputError("eps above 0 needs pixel noise: without it no pixel change is certified.")
    if smoothing.discrete is None and d > 0:
        raise BadInputError("d above 0 needs token noise: without it no token change is certified.")
    check_fields(smoothing, d)


def check_fields(smoothing: "HybridSmoothing", budget: int) -> None:
    """Refuse a discrete budget above the number of categorical fields."""
    fields = getattr(smoothing.discrete, "cardinalities", None)
    if fields is not None and budget > len(fields):
        raise BadInputError(f"The discrete budget must be at most the number of fields {len(fields)}, got {budget}.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
