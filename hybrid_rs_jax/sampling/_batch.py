"""How many noisy pictures go into a step where the user does not say: as many as memory holds."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hybrid_rs_jax._jax import own_settings
from hybrid_rs_jax.classifiers.base import Abilities
from hybrid_rs_jax.models._memory import peak_bytes
from hybrid_rs_jax.sampling._drawing import Row

__all__ = ["MOST", "batch_for"]

#: Noisy pictures of a step at most; and the number for classifiers that are no function of arrays.
MOST = 2000
#: Part of an accelerator's free memory for the arrays of a step, and bytes where a device does not say what it has.
_PART, _UNKNOWN = 0.8, 1 << 30
#: A compiled step takes at most so many times what its trace says (1.7 seen).
_REORDERED = 2
# The trace of two sizes gives what a picture needs, and what a step needs besides.
_SIZES = (2, 4)


def batch_for(classifier: Any, row: Row, texts: int, mesh: Mesh) -> int:
    """The largest power of two, at most `MOST`, whose arrays fit into the free memory of the devices.

    What a classifier behind `functional` (and `shared_picture`, for several texts) needs is read off its trace, by the
    same rule whether it is a network, a denoiser in front of one, or anything else. On a CPU a step has 1 GiB.

    Args:
      classifier: any base classifier.
      row: an input of the run, for its shapes.
      texts: per picture.
      mesh: devices that a step is spread over.
    """
    abilities = Abilities.of(classifier)
    if abilities.on_host or abilities.functional is None:
        return MOST
    apply, parameters = abilities.functional()
    if texts > 1 and abilities.shared_picture is not None:
        apply = abilities.shared_picture()
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf)), parameters)
    shown = (texts, *row.tokens.shape) if texts > 1 else row.tokens.shape
    dtype = jax.dtypes.canonicalize_dtype(row.image.dtype)

    def needed(pictures: int) -> int:
        tokens = jax.ShapeDtypeStruct((pictures, *shown), row.tokens.dtype)
        return peak_bytes(apply, like, tokens, jax.ShapeDtypeStruct((pictures, *row.image.shape), dtype))

    with own_settings():
        few, more = map(needed, _SIZES)
    # noisy pictures of two steps wait beside the arrays of one
    one = max(1, (more - few) // (_SIZES[1] - _SIZES[0]))
    each, fixed = _REORDERED * one + 3 * row.image.size * dtype.itemsize, max(0, few - _SIZES[0] * one)
    shards = mesh.shape["data"]
    fitting = max(1, (min(map(_free, mesh.devices.flat)) - fixed) // each)
    return max(shards, min(MOST, shards * (1 << (int(fitting).bit_length() - 1))))


def _free(device: Any) -> int:
    """Bytes that the arrays of a step may take on a device."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if not stats or "bytes_limit" not in stats:
        return _UNKNOWN
    return int(_PART * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
