"""From a noise level to what the network is asked, and from its answer to a picture.

Everything here is in the network's units, pictures in [-1, 1]; `s` is the standard deviation of the noise on them,
twice that on pictures in [0, 1] (method section 12). A rule says what input, time and coefficients belong to `s`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

__all__ = ["Asked", "Diffusion", "Preconditioned", "Rule", "read_rule"]

PREDICTIONS = ("epsilon", "sample", "v_prediction")
#: Schedules by the names that diffusers gives them.
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


class Asked(NamedTuple):
    """What one pass of the network is given, how its answer is read: `x0 = skip x + out network(scale x, time)`.

    Attributes:
      scale: factor of the noisy picture before the network.
      time: what the network is told.
      skip, out: coefficients of the noisy picture and of the network's answer.
    """

    scale: Float[Array, "*levels"]
    time: Float[Array, "*levels"]
    skip: Float[Array, "*levels"]
    out: Float[Array, "*levels"]


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """A network that was trained on the time steps of a diffusion, `x_t = sqrt(abar_t) x + sqrt(1 - abar_t) noise`.

    With `s_t = sqrt((1 - abar_t) / abar_t)` the noisy picture `x + s_t noise` is `x_t / sqrt(abar_t)`. Noise of level
    `s` is taken for that of the first step `t` with `s_t >= s`; or, with `fractional`, for that of the time between
    two steps where the level is `s` itself (linear in `log s_t`).

    Attributes:
      schedule: "linear", "scaled_linear" or "squaredcos_cap_v2"; "trained" takes `betas`.
      steps: number of time steps, at least 2.
      beta_start, beta_end: first and last variance that is added, of the linear schedules.
      prediction: the network's answer: "epsilon" (the noise), "sample" (the picture) or "v_prediction".
      fractional: whether times between two steps are used.
      betas: for "trained", one per step.

    Raises:
      ValueError: for an unknown schedule or prediction, or a number out of range.
    """

    schedule: str = "linear"
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction: str = "epsilon"
    fractional: bool = False
    betas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.schedule not in (*SCHEDULES, "trained"):
            raise ValueError(f"beta_schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule}.")
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction_type must be one of {', '.join(PREDICTIONS)}, got {self.prediction}.")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 2 <= self.steps <= 1_000_000:
            raise ValueError(f"num_train_timesteps must be an integer in 2..1000000, got {self.steps!r}.")
        if self.schedule == "trained" and len(self.betas) != self.steps:
            raise ValueError(f"trained_betas must hold num_train_timesteps = {self.steps}, got {len(self.betas)}.")
        beta = self._betas()
        if not ((beta > 0) & (beta < 1)).all():
            raise ValueError(f"The betas of a schedule must lie in (0, 1), got {beta.min():g} to {beta.max():g}.")

    @functools.cached_property
    def levels(self) -> Float64[np.ndarray, " steps"]:
        """`s_t` of every step, increasing."""
        kept = np.cumsum(np.log1p(-self._betas()))  # log abar
        return np.sqrt(np.expm1(-kept))

    @property
    def range(self) -> tuple[float, float]:
        """The levels that are denoised: any up to the last step's."""
        return 0.0, float(self.levels[-1])

    def step(self, s: object) -> Int[np.ndarray, "*levels"]:
        """The first step (counted from 0) whose level is at least `s`; `steps` where there is none.

        >>> Diffusion().step([2 * 0.25, 2 * 0.5, 2 * 1.0]).tolist()
        [145, 259, 396]
        """
        return np.searchsorted(self.levels, np.asarray(s, np.float64), side="left")

    def ask(self, s: Float[Array, "*levels"]) -> Asked:
        """What belongs to noise of level `s`; traced values will do."""
        levels = self.levels.astype(np.float32)
        if self.fractional:
            time = jnp.interp(jnp.log(s), np.log(levels), np.arange(self.steps, dtype=np.float32))
        else:
            step = jnp.searchsorted(levels, s, side="left").clip(0, self.steps - 1)
            time, s = step.astype(jnp.float32), jnp.asarray(levels)[step]
        scale = jnp.reciprocal(jnp.sqrt(1 + s * s))  # sqrt(abar)
        if self.prediction == "epsilon":
            skip, out = jnp.ones_like(s), -s
        elif self.prediction == "sample":
            skip, out = jnp.zeros_like(s), jnp.ones_like(s)
        else:  # v = sqrt(abar) noise - sqrt(1 - abar) x, so x0 = sqrt(abar) x_t - sqrt(1 - abar) v
            skip, out = scale * scale, -s * scale
        return Asked(scale, time, skip, out)

    def target(self, clean: Array, noise: Array, s: Array) -> Array:
        """What the network should answer for `clean + s * noise`, for training."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return clean
        return (noise - s * clean) / jnp.sqrt(1 + s * s)

    def describe(self) -> dict[str, object]:
        """All that the answer depends on, JSON-able."""
        return {"rule": "diffusion", **dataclasses.asdict(self), "betas": list(self.betas)}

    def write(self) -> dict[str, object]:
        """The contents of scheduler_config.json."""
        betas = {"trained_betas": list(self.betas)} if self.betas else {"beta_schedule": self.schedule}
        return {
            "_class_name": "DDPMScheduler",
            **betas,
            "num_train_timesteps": self.steps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "prediction_type": self.prediction,
            "fractional_time": self.fractional,
        }

    def _betas(self) -> Float64[np.ndarray, " steps"]:
        if self.schedule == "trained":
            return np.asarray(self.betas, np.float64)
        if self.schedule == "linear":
            return np.linspace(self.beta_start, self.beta_end, self.steps)
        if self.schedule == "scaled_linear":
            return np.linspace(max(self.beta_start, 0) ** 0.5, max(self.beta_end, 0) ** 0.5, self.steps) ** 2
        edges = np.cos((np.arange(self.steps + 1) / self.steps + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - edges[1:] / edges[:-1], 0.999)


@dataclasses.dataclass(frozen=True)
class Preconditioned:
    """A network that is told the level itself (EDM, consistency models).

    `x0 = c_skip x + c_out F(c_in x, c_noise)` with `c_in = (s^2 + d^2)^(-1/2)`, `c_skip = d^2 / (m^2 + d^2)`,
    `c_out = m d (s^2 + d^2)^(-1/2)`, `c_noise = time_scale / 4 * ln(s)`; `m = s`, or `s - sigma_min` for a consistency
    model, which is the identity at `sigma_min`.

    Attributes:
      sigma_data: `d`, standard deviation of the clean pictures.
      sigma_min, sigma_max: levels that the network was trained on.
      consistency: whether it is a consistency model.
      time_scale: factor of `c_noise`: 1 for EDM, 1000 for the consistency models of OpenAI.
      sign: -1 where the network answers with the negative of F (v prediction).

    Raises:
      ValueError: for numbers that are out of range.
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    consistency: bool = False
    time_scale: float = 1.0
    sign: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.sigma_data < math.inf and 0 < self.sigma_min < self.sigma_max < math.inf):
            raise ValueError(
                "sigma_data, sigma_min and sigma_max must be positive with sigma_min < sigma_max, got "
                f"{self.sigma_data}, {self.sigma_min} and {self.sigma_max}."
            )

    @property
    def range(self) -> tuple[float, float]:
        """The levels that are denoised."""
        return self.sigma_min, self.sigma_max

    def ask(self, s: Float[Array, "*levels"]) -> Asked:
        """What belongs to noise of level `s`; traced values will do."""
        d = self.sigma_data
        m = s - self.sigma_min if self.consistency else s
        scale = jnp.reciprocal(jnp.sqrt(s * s + d * d))
        time = self.time_scale / 4 * jnp.log(s)
        return Asked(scale, time, d * d / (m * m + d * d), self.sign * d * m * scale)

    def describe(self) -> dict[str, object]:
        """All that the answer depends on, JSON-able."""
        return {"rule": "preconditioned", **dataclasses.asdict(self)}

    def write(self) -> dict[str, object]:
        """The contents of scheduler_config.json, of which `read_rule` makes the same rule.

        Raises:
          ValueError: for a time_scale or a sign that such a file does not say.
        """
        levels = {name: getattr(self, name) for name in ("sigma_data", "sigma_min", "sigma_max")}
        written: dict[str, object] = {"_class_name": "CMStochasticIterativeScheduler", **levels}
        if not self.consistency:
            prediction = "v_prediction" if self.sign < 0 else "epsilon"
            written = {"_class_name": "EDMEulerScheduler", **levels, "prediction_type": prediction}
        if read_rule(written) != self:
            legal = "1000 and sign 1 for a consistency model" if self.consistency else "1 for EDM"
            raise ValueError(
                f"time_scale must be {legal} in a scheduler_config.json, got {self.time_scale:g} and sign {self.sign}."
            )
        return written


Rule = Diffusion | Preconditioned


def read_rule(config: Mapping[str, Any]) -> Rule:
    """The rule that a scheduler_config.json describes; its class decides which.

    Schedulers of the diffusion kind differ in how they take many steps, which is not asked here; what counts is the
    schedule, which they share.

    Raises:
      ValueError: for a scheduler or a setting that is not supported.
    """
    kind = str(config.get("_class_name", "DDPMScheduler"))
    if kind == "EDMEulerScheduler":
        if config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"prediction_type must be one of epsilon, v_prediction for {kind}, got {config['prediction_type']}."
            )
        sign = -1 if config.get("prediction_type") == "v_prediction" else 1
        return Preconditioned(*_levels(config), sign=sign)
    if kind == "CMStochasticIterativeScheduler":
        return Preconditioned(*_levels(config), consistency=True, time_scale=1000.0)
    if not kind.startswith(("DDPM", "DDIM", "DPMSolver", "PNDM", "EulerDiscrete", "EulerAncestral", "UniPC")):
        raise ValueError(f"The scheduler must be one of a diffusion, an EDM or a consistency model, got {kind}.")
    if config.get("rescale_betas_zero_snr"):
        raise ValueError("rescale_betas_zero_snr must be false, got true.")
    if not isinstance(config.get("fractional_time", False), bool):
        raise ValueError(f"fractional_time must be true or false, got {config['fractional_time']}.")
    made = functools.partial(
        Diffusion,
        beta_start=_number(config, "beta_start", 1e-4),
        beta_end=_number(config, "beta_end", 0.02),
        prediction=str(config.get("prediction_type", "epsilon")),
        fractional=config.get("fractional_time", False),
    )
    betas, steps = config.get("trained_betas"), config.get("num_train_timesteps", 1000)
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise ValueError(f"num_train_timesteps must be an integer, got {steps!r}.")
    if betas is None:
        return made(str(config.get("beta_schedule", "linear")), steps)
    if not isinstance(betas, list) or any(type(beta) not in (int, float) for beta in betas):
        raise ValueError(f"trained_betas must be a list of numbers, got {str(betas)[:60]}.")
    return made("trained", steps, betas=tuple(map(float, betas)))


def _levels(config: Mapping[str, Any]) -> tuple[float, float, float]:
    """sigma_data, sigma_min and sigma_max."""
    return (
        _number(config, "sigma_data", 0.5),
        _number(config, "sigma_min", 0.002),
        _number(config, "sigma_max", 80.0),
    )


def _number(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}.")
    return float(value)
