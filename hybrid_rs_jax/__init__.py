"""Certified robustness of multimodal classifiers by hybrid randomized smoothing, in JAX.

    import hybrid_rs_jax as hrs

    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(beta=0.25, vocab_size=32_000), sigma=0.5)
    certificate = hrs.certify(counts=[9_998], n=10_000, smoothing=smoothing, tau=4.6e-5, alpha=0.01)
    certificate.radius  # one certified pixel radius per token budget 0..8

Names are imported when they are first used (PEP 562), so that the command line answers at once.
"""

from typing import TYPE_CHECKING

from hybrid_rs_jax._lazy import lazy_names
from hybrid_rs_jax._version import __version__

if TYPE_CHECKING:
    from hybrid_rs_jax.certificate import (
        FeatureCertificate,
        FrontierTable,
        SimilarityTarget,
        certified_budget,
        certified_radius,
        certify_features,
        core,
        frontier_table,
        joint_radius,
        joint_worst_case,
        l2_of_linf,
        largest_probability,
        required_probability,
        required_samples,
        worst_case_probability,
    )
    from hybrid_rs_jax.classifiers import (
        BaseClassifier,
        ChatClassifier,
        HostClassifier,
        TabularClassifier,
        VlmGuard,
    )
    from hybrid_rs_jax.confidence import ScoreLaw, clopper_pearson, detection_threshold, mean_lower_bound
    from hybrid_rs_jax.kernels import (
        AbsorbingKernel,
        CategoricalKernel,
        Conditional,
        DeletionKernel,
        Edits,
        HybridSmoothing,
        UniformKernel,
    )
    from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio
    from hybrid_rs_jax.report.plots import plot
    from hybrid_rs_jax.results import (
        Certificate,
        ClassCertificate,
        certify,
        certify_classes,
        read_certificates,
        read_counts,
    )
    from hybrid_rs_jax.sampling import Draws, data_mesh, sample, sample_counts, sample_features
    from hybrid_rs_jax.smoothed_classifier import SmoothedClassifier
    from hybrid_rs_jax.smoothed_encoder import SmoothedEncoder
    from hybrid_rs_jax.smoothed_tower import SmoothedTower

__all__ = [
    "AbsorbingKernel",
    "BaseClassifier",
    "CategoricalKernel",
    "Certificate",
    "ChatClassifier",
    "ClassCertificate",
    "Draws",
    "FeatureCertificate",
    "FrontierTable",
    "Conditional",
    "DeletionKernel",
    "Edits",
    "HostClassifier",
    "HybridSmoothing",
    "LikelihoodRatio",
    "ScoreLaw",
    "SimilarityTarget",
    "SmoothedClassifier",
    "SmoothedEncoder",
    "SmoothedTower",
    "TabularClassifier",
    "UniformKernel",
    "VlmGuard",
    "__version__",
    "certified_budget",
    "certified_radius",
    "certify",
    "certify_classes",
    "certify_features",
    "clopper_pearson",
    "core",
    "data_mesh",
    "detection_threshold",
    "frontier_table",
    "joint_radius",
    "joint_worst_case",
    "l2_of_linf",
    "largest_probability",
    "mean_lower_bound",
    "plot",
    "read_certificates",
    "read_counts",
    "required_probability",
    "required_samples",
    "sample",
    "sample_counts",
    "sample_features",
    "worst_case_probability",
]

_HOMES = {
    "certificate": (
        "FeatureCertificate FrontierTable certified_budget certified_radius certify_features core frontier_table "
        "SimilarityTarget joint_radius joint_worst_case l2_of_linf "
        "largest_probability required_probability required_samples worst_case_probability"
    ),
    "classifiers": "BaseClassifier ChatClassifier HostClassifier TabularClassifier VlmGuard",
    "confidence": "ScoreLaw clopper_pearson detection_threshold mean_lower_bound",
    "kernels": "AbsorbingKernel CategoricalKernel Conditional DeletionKernel Edits HybridSmoothing UniformKernel",
    "likelihood_ratio": "LikelihoodRatio",
    "report.plots": "plot",
    "results": "Certificate ClassCertificate certify certify_classes read_certificates read_counts",
    "sampling": "Draws data_mesh sample sample_counts sample_features",
    "smoothed_classifier": "SmoothedClassifier",
    "smoothed_encoder": "SmoothedEncoder",
    "smoothed_tower": "SmoothedTower",
}
_FILES = ("smoothed_classifier", "smoothed_encoder", "smoothed_tower", "report.plots")
_ROOMS = [home for home in _HOMES if home not in _FILES] + ["attacks", "data", "features", "models", "report"]
__getattr__, __dir__ = lazy_names(__name__, _HOMES, _ROOMS)
