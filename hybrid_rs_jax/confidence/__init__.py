"""From counts to confidence: bounds that hold with a stated probability over the draws."""

from hybrid_rs_jax.confidence._clopper_pearson import LowerBound, clopper_pearson, clopper_pearson_bound
from hybrid_rs_jax.confidence._deployment import detection_threshold

__all__ = ["LowerBound", "clopper_pearson", "clopper_pearson_bound", "detection_threshold"]
