"""JAX settings of the environment that must neither break nor change what the package computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

__all__ = ["own_jax_settings"]


@contextlib.contextmanager
def own_jax_settings() -> Iterator[None]:
    """What our arithmetic depends on, in this thread and for this block, whatever the environment says.

    The generator is threefry2x32 in its partitionable form; arrays of unequal rank may be combined; a NaN that is an
    intermediate result (the limit of a bracket, say) ends nothing. The width of floats (x64) is left alone here: the
    engine names every dtype, and the certifier turns on what it needs.
    """
    with (
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.numpy_rank_promotion("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
    ):
        yield
