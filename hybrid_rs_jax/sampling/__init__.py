"""From a base classifier to counts."""

from hybrid_rs_jax.sampling.engine import sample_counts

__all__ = ["sample_counts"]
