"""Certified decisions of a prototype head: the class whose prototype is nearest to the smoothed feature.

With prototypes p_k (unit vectors) the smoothed encoder F decides for `argmax_k <F(x), p_k>`. Two certificates:

- cap: F's direction stays in the cap of angle theta around u, the clean feature, `cos theta` the certified similarity.
  For the runner-up k let `w_k = (p_y - p_k)/|p_y - p_k|`. No vector of the cap prefers k if `angle(u, w_k) + theta`
  stays below pi/2: `cos theta > sqrt(1 - <u, w_k>^2)`, `<u, w_k> > 0`. This is exact for the cap, hence at least as
  good as the paper's A.44, which bounds both scores one by one (with angles clamped, method section 6).
- direct: `S = (1 + min_k <f(z), w_k>)/2` is a score in [0, 1]. While `E S > 1/2`, `<F, w_k> > 0` for each k: one law
  for all runners-up, without a union bound.

They need different draws (or the same ones twice counted); `alpha` is split evenly and the larger radius counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

from hybrid_rs_jax.certificate.similarity import FeatureCertificate, certify_features
from hybrid_rs_jax.confidence.score_law import ScoreLaw
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["PrototypeCertificate", "cap_similarity", "certify_prototypes", "directions", "paper_similarity"]

#: Dot products of unit vectors in float64, of up to a million terms, and square roots behind them.
_MARGIN = 1e-9


def directions(labels: Int64[np.ndarray, " inputs"], prototypes: object) -> Float[np.ndarray, "inputs others features"]:
    """`(p_y - p_k)/|p_y - p_k|` for each k other than y, [inputs, classes - 1, features].

    Raises:
      ValueError: if prototypes are not finite, zero, or two of them equal.
    """
    p = _unit("prototypes", prototypes)
    if len(p) < 2:
        raise ValueError(f"prototypes must have at least 2 rows, one for each class, got {len(p)}.")
    others = np.array([[k for k in range(len(p)) if k != y] for y in labels], np.int64).reshape(len(labels), -1)
    apart = p[np.asarray(labels)][:, None] - p[others]
    length = np.linalg.norm(apart, axis=2, keepdims=True)
    if np.any(length < 1e-6):
        raise ValueError("prototypes must differ in their direction, but two of them are the same.")
    return apart / length


def cap_similarity(features: object, prototypes: object) -> Float[np.ndarray, " inputs"]:
    """The cosine with the clean feature that keeps its decision: `max_k sqrt(1 - <u, w_k>^2)`, rounded up.

    Args:
      features: clean features, [inputs, features]; prototypes: [classes, features]; neither need have unit norm.

    Returns:
      float64[inputs], in (0, 1]; 1 where no cosine does.
    """
    u = _unit("features", features)
    margin = np.einsum("if,ikf->ik", u, directions(nearest(u, prototypes), prototypes)).min(axis=1) - _MARGIN
    return np.where(margin > 0, np.minimum(np.sqrt(1 - np.maximum(margin, 0) ** 2) + _MARGIN, 1.0), 1.0)


def paper_similarity(features: object, prototypes: object) -> Float[np.ndarray, " inputs"]:
    """The cosine that the paper's closed form asks for (A.44 with clamped angles): `cos((a_k - a_y)/2)`, rounded up.

    The score of y is at least `cos(a_y + theta)`, that of k at most `cos(a_k - theta)`, where `a` are the angles
    between the clean feature and the prototypes. Never below `cap_similarity`.
    """
    u, p = _unit("features", features), _unit("prototypes", prototypes)
    angles = np.sort(np.arccos(np.clip(u @ p.T, -1, 1)), axis=1)
    return np.minimum(np.cos((angles[:, 1] - angles[:, 0]) / 2) + _MARGIN, 1.0)


def nearest(features: object, prototypes: object) -> Int64[np.ndarray, " inputs"]:
    """The class of each feature."""
    scores = _unit("features", features) @ _unit("prototypes", prototypes).T
    return scores.argmax(axis=1).astype(np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class PrototypeCertificate:
    """Certified decisions of the smoothed prototype head on B inputs, at D discrete budgets.

    Attributes:
      label: class of the clean feature, int64[B]: the decision that is certified.
      radius: float64[B, D], the larger of the two; -1 where nothing is certified.
      cap_radius: from the certified similarity; direct_radius: from the score of the nearest runner-up.
      cap, direct: the certificates behind them, each at half of alpha; None where that law was not given.
    """

    label: Int64[np.ndarray, " inputs"]
    radius: Float[np.ndarray, "inputs budgets"]
    cap_radius: Float[np.ndarray, "inputs budgets"]
    direct_radius: Float[np.ndarray, "inputs budgets"]
    cap: FeatureCertificate | None
    direct: FeatureCertificate | None


def certify_prototypes(
    features: object,
    prototypes: object,
    smoothing: HybridSmoothing,
    alpha: float,
    budgets: Sequence[int] = (0,),
    *,
    similarity: ScoreLaw | None = None,
    margin: ScoreLaw | None = None,
    total_variation: float = 0.0,
) -> PrototypeCertificate:
    """Certify that the smoothed feature of an attacked input stays nearest to the prototype of the clean one.

    Args:
      features: clean features, [inputs, features].
      prototypes: one for each class, [classes, features], fixed before the draws.
      smoothing, alpha, budgets, total_variation: as for `certify_features`.
      similarity: laws of the cosine with the clean features (`sample_features`, reference "clean").
      margin: laws of the least `<f, w_k>` (`sample_features` with `directions(...)` as its reference). alpha is split
        evenly where both are given.

    Returns:
      The certificate; radii rounded down.

    Raises:
      ValueError: if neither law is given, or an argument is out of range.

    >>> from hybrid_rs_jax.kernels import HybridSmoothing
    >>> law = ScoreLaw.of(np.full((1, 1000), 0.99))
    >>> arguments = (np.eye(3)[:1], np.eye(3), HybridSmoothing(None, 0.5), 0.01)
    >>> bool(certify_prototypes(*arguments, similarity=law).radius[0, 0] > 0)
    True
    """
    u = _unit("features", features)
    given = [law for law in (similarity, margin) if law is not None]
    if not given:
        raise ValueError("similarity, margin or both must be given, got neither.")
    if any(len(law) != len(u) for law in given):
        raise ValueError(f"There must be a law for each of the {len(u)} features, got {[len(law) for law in given]}.")
    share = alpha / len(given)
    nothing = np.full((len(u), len(smoothing.check_budgets(budgets))), -1.0)
    cap_radius = direct_radius = nothing
    cap = direct = None
    if similarity is not None:
        cap = certify_features(similarity, smoothing, share, budgets, total_variation=total_variation)
        needed = cap_similarity(u, prototypes)
        found = cap.radius(np.minimum(needed, 1 - 2.0**-20))
        cap_radius = np.where((needed < 1 - 2.0**-20)[:, None], found, nothing)
    if margin is not None:
        options = {"reference": "fixed", "total_variation": total_variation}
        direct = certify_features(margin, smoothing, share, budgets, **options)  # type: ignore[arg-type]
        direct_radius = direct.radius(0.0)
    radius = np.maximum(cap_radius, direct_radius)
    return PrototypeCertificate(nearest(u, prototypes), radius, cap_radius, direct_radius, cap, direct)


def _unit(name: str, values: object) -> np.ndarray:
    vectors = np.asarray(values, np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"{name} must be finite vectors [rows, features], got shape {list(vectors.shape)}.")
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    if np.any(largest == 0):
        raise ValueError(f"{name} must not be zero, got row {int(np.argmin(largest))}.")
    scaled = vectors / largest
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
