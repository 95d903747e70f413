"""Certificates: from a bound on the clean score to what no attack within the budgets can do."""

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
