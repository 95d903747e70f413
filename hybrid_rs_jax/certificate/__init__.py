"""Certificates: from a bound on the clean score to what no attack within the budgets can do.

Names are imported when they are first used: who certifies votes need not load what certifies features.
"""

from typing import TYPE_CHECKING

from hybrid_rs_jax._lazy import lazy_names

if TYPE_CHECKING:
    from hybrid_rs_jax.certificate import core
    from hybrid_rs_jax.certificate.bounds import (
        certified_budget,
        certified_radius,
        largest_probability,
        required_probability,
        required_samples,
        worst_case_probability,
    )
    from hybrid_rs_jax.certificate.frontier import FrontierTable, frontier_table
    from hybrid_rs_jax.certificate.parts import joint_radius, joint_worst_case, l2_of_linf
    from hybrid_rs_jax.certificate.prototypes import PrototypeCertificate, certify_prototypes
    from hybrid_rs_jax.certificate.similarity import FeatureCertificate, certify_features
    from hybrid_rs_jax.certificate.similarity_target import SimilarityTarget

__all__ = [
    "FeatureCertificate",
    "FrontierTable",
    "PrototypeCertificate",
    "SimilarityTarget",
    "certified_budget",
    "certified_radius",
    "certify_features",
    "certify_prototypes",
    "core",
    "frontier_table",
    "joint_radius",
    "joint_worst_case",
    "l2_of_linf",
    "largest_probability",
    "required_probability",
    "required_samples",
    "worst_case_probability",
]

_HOMES = {
    "bounds": "certified_budget certified_radius largest_probability required_probability required_samples "
    "worst_case_probability",
    "frontier": "FrontierTable frontier_table",
    "parts": "joint_radius joint_worst_case l2_of_linf",
    "prototypes": "PrototypeCertificate certify_prototypes",
    "similarity": "FeatureCertificate certify_features",
    "similarity_target": "SimilarityTarget",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES, ["core"])
