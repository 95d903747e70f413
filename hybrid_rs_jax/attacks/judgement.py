"""What the draws on an attacked input say about a certified bound."""

from __future__ import annotations

import dataclasses

import numpy as np

from hybrid_rs_jax._checks import check_probability
from hybrid_rs_jax.confidence import clopper_pearson, clopper_pearson_upper

__all__ = ["Judgement", "judge"]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Confidence limits of attacked scores, beside a bound that they are said not to fall below.

    Attributes:
      score: share of Unsafe draws, float64[...]; an unbiased estimate.
      lower, upper: one-sided Clopper-Pearson limits of the score, each wrong with probability at most `risk`.
      violated: the upper limit is below the bound. If the bound is true, this happens with probability at most `risk`
        per case, however the attack was found, provided that its draws are independent of the attack and of the
        bound. A certificate that is wrong by its own risk `alpha` may be flagged as well, and rightly.
      held: the lower limit is above the bound: the score is shown to lie above it, at the same risk.
      decisive: a score of 0 would have been flagged: `n` was large enough to see a complete failure.
    """

    score: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    violated: np.ndarray
    held: np.ndarray
    decisive: np.ndarray


def judge(successes: object, n: object, bound: object, risk: float) -> Judgement:
    """Compare the scores of attacked inputs with a lower bound on them; arguments broadcast.

    For K cases and a risk of `a` that any true bound is flagged, give `risk = a / K`.

    Args:
      successes: Unsafe draws, from noise that neither the attack nor the certificate has seen.
      n: draws, a number that was fixed before the first of them.
      bound: certified lower bound on the score (`Certificate.worst_case`), or `tau`, in [0, 1].
      risk: probability in (0, 1) of a false flag per case.

    Returns:
      A `Judgement` with the limits and flags; a case that is neither `violated` nor `held` is undecided.

    Raises:
      ValueError: if an argument is out of range.

    >>> judge([0, 500, 990], 1000, bound=0.5, risk=0.001).violated.tolist()
    [True, False, False]
    """
    bound = check_probability("bound", bound)
    lower, upper = clopper_pearson(successes, n, risk), clopper_pearson_upper(successes, n, risk)
    nothing = clopper_pearson_upper(np.zeros_like(np.asarray(successes)), n, risk)
    return Judgement(
        score=np.asarray(np.asarray(successes) / np.asarray(n)),
        lower=np.asarray(lower),
        upper=np.asarray(upper),
        violated=np.asarray(upper < bound),
        held=np.asarray(lower > bound),
        decisive=np.asarray(nothing < bound),
    )
