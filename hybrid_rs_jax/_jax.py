"""JAX as this package needs it, whatever the environment or the caller has set.

Nothing here outlives its `with`, and `jax.config.update` is never called: settings belong to the caller. They are
properties of a thread, so that each worker thread enters for itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax

from hybrid_rs_jax.errors import BadInputError

__all__ = ["applied", "cpu_device", "float64_on_cpu", "own_settings"]

#: `apply(*arguments)` for a pure function of arrays; compiled once for all functions that are equal to it.
applied: Any = jax.jit(lambda apply, *arguments: apply(*arguments), static_argnums=0)


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """JAX's settings that would change or end a correct computation, at their defaults.

    The generator is threefry2x32 in its partitionable form. Rank promotion is used on purpose. A NaN of an idle lane is
    no error (debug_nans, debug_infs), arrays of NumPy are handed over by the way (transfer_guard), and loops are
    compiled (disable_jit).
    """
    with (
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.numpy_rank_promotion("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.transfer_guard("allow"),
        jax.disable_jit(False),
    ):
        yield


@contextlib.contextmanager
def float64_on_cpu() -> Iterator[None]:
    """`own_settings`, with float64 on the CPU: how all bounds are computed."""
    with own_settings(), jax.enable_x64(True), jax.default_device(cpu_device()):
        yield


def cpu_device() -> jax.Device:
    """The CPU, where bounds are computed even if an accelerator draws the noise.

    Raises:
      BadInputError: if JAX was told to leave the CPU out, or cannot start what it was told to use.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except (RuntimeError, AssertionError) as error:  # the second where no device at all is left
        asked = getattr(jax.config, "jax_platforms", None) or os.environ.get("JAX_PLATFORMS", "")
        raise BadInputError(
            f"JAX cannot use the CPU, on which bounds are computed, since it cannot start all of {asked!r} "
            "(JAX_PLATFORMS or jax_platforms, and the CPU); unset it, or name devices that are here, as in 'cuda,cpu'."
        ) from error
