"""Attacks on the smoothed classifier: how far a certificate is from what an attacker reaches.

    from hybrid_rs_jax import attacks

    guard = attacks.TableGuard(DemoGuard.load())
    found = attacks.attack(guard, tokens, images, smoothing, d=1, epsilon=0.5, key=key, eligible=mask)
    successes = hrs.sample_counts(guard, found.tokens, found.images, smoothing, n, fresh_key, eligible=mask)
    attacks.judge(successes, n, certificate.worst_case(0.5)[:, 1], risk=1e-4).violated

Names are imported when they are first used (PEP 562).
"""

from typing import TYPE_CHECKING

from hybrid_rs_jax._lazy import lazy_names

if TYPE_CHECKING:
    from hybrid_rs_jax.attacks._attack import AttackResult, attack
    from hybrid_rs_jax.attacks._pixels import project_l2
    from hybrid_rs_jax.attacks._settings import RANDOM_SEARCH, AttackSettings
    from hybrid_rs_jax.attacks.features import FeatureAttackSettings, attack_features, score_upper_bound
    from hybrid_rs_jax.attacks.guards import DifferentiableGuard, TableGuard
    from hybrid_rs_jax.attacks.judgement import Judgement, judge
    from hybrid_rs_jax.attacks.targeted import TargetedResult, TargetedSettings, attack_towards

__all__ = [
    "RANDOM_SEARCH",
    "AttackResult",
    "AttackSettings",
    "DifferentiableGuard",
    "FeatureAttackSettings",
    "Judgement",
    "TableGuard",
    "TargetedResult",
    "TargetedSettings",
    "attack",
    "attack_features",
    "attack_towards",
    "judge",
    "project_l2",
    "score_upper_bound",
]

_HOMES = {
    "_attack": "AttackResult attack",
    "_pixels": "project_l2",
    "_settings": "RANDOM_SEARCH AttackSettings",
    "features": "FeatureAttackSettings attack_features score_upper_bound",
    "guards": "DifferentiableGuard TableGuard",
    "judgement": "Judgement judge",
    "targeted": "TargetedResult TargetedSettings attack_towards",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
