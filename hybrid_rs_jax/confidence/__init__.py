"""From counts to confidence: bounds that hold with a stated probability over the draws, and plans of when to stop."""

from hybrid_rs_jax.confidence._clopper_pearson import (
    LowerBound,
    UpperBound,
    clopper_pearson,
    clopper_pearson_bound,
    clopper_pearson_upper,
    clopper_pearson_upper_bound,
)
from hybrid_rs_jax.confidence._deployment import copies_needed, detection_threshold, miss_probability_at
from hybrid_rs_jax.confidence._describe import plan_from
from hybrid_rs_jax.confidence._fixed import FixedSample, samples_for_share
from hybrid_rs_jax.confidence._mean import mean_lower_bound, mean_lower_bound_from_histogram
from hybrid_rs_jax.confidence._plan import SamplingPlan, Verdict
from hybrid_rs_jax.confidence._sequential import PlanSummary, SequentialTest
from hybrid_rs_jax.confidence._staged import StagedLooks, staged_looks
from hybrid_rs_jax.confidence.score_law import ScoreLaw, law_band, score_edges, score_ranks

__all__ = [
    "FixedSample",
    "LowerBound",
    "PlanSummary",
    "SamplingPlan",
    "ScoreLaw",
    "SequentialTest",
    "StagedLooks",
    "UpperBound",
    "Verdict",
    "clopper_pearson",
    "clopper_pearson_bound",
    "clopper_pearson_upper",
    "clopper_pearson_upper_bound",
    "copies_needed",
    "detection_threshold",
    "law_band",
    "mean_lower_bound",
    "mean_lower_bound_from_histogram",
    "miss_probability_at",
    "plan_from",
    "samples_for_share",
    "score_edges",
    "score_ranks",
    "staged_looks",
]
