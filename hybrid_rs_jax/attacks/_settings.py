"""How much an attack tries."""

from __future__ import annotations

import dataclasses

from hybrid_rs_jax._checks import check_sigma, check_whole

__all__ = ["RANDOM_SEARCH", "AttackSettings"]


@dataclasses.dataclass(frozen=True)
class AttackSettings:
    """Effort of an attack. One restart costs about
    `steps (3 gradient_samples (1 + pixel_steps) + (candidates + 1) candidate_samples) + selection_samples` passes.

    Args:
      restarts: starting points; the first is the clean input, the others are random ones within the budget.
      steps: alternations of a token step and of `pixel_steps` pixel steps; 0: the starting points themselves.
      pixel_steps: gradient steps on the pixels per alternation.
      gradient_samples: noisy copies behind each gradient.
      candidates: token substitutions that are tried out per token step.
      candidate_samples: noisy copies behind each of them, the same noise for all.
      selection_samples: fresh noisy copies that choose among the restarts.
      temperature: unit of the margin in the soft score `E sigmoid(margin / temperature)`; copies whose margin is a few
        of these from zero carry the gradient.
      pairs_at_once: inputs that are attacked at the same time; it bounds the memory.

    Raises:
      ValueError: if an argument is out of range.
    """

    restarts: int = 5
    steps: int = 10
    pixel_steps: int = 2
    gradient_samples: int = 32
    candidates: int = 16
    candidate_samples: int = 16
    selection_samples: int = 500
    temperature: float = 1.0
    pairs_at_once: int = 8

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("steps", "pixel_steps") else 1
            if field.name == "temperature":
                check_sigma(value, "temperature")  # a scale, as sigma is
            else:
                check_whole(field.name, value, least)


#: The weak attack to compare with: the best of random tokens and random directions at full budget.
RANDOM_SEARCH = AttackSettings(steps=0)
