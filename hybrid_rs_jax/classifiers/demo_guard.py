"""The built-in demo guard as a base classifier."""

from importlib import resources
from typing import Any, BinaryIO, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float32, Int32

from hybrid_rs_jax.models.demo_guard import DemoGuardNetwork, load_weights


class DemoGuard:
    """Says of each (prompt, picture) pair whether it is Unsafe; it has learnt ``data.demo.is_unsafe``.

    It may be called as it is or inside ``jax.jit``, and computes in float32 either way.

    Args:
        network: the network to ask; ``DemoGuard.load()`` gives the trained one.
        metadata: how the network was trained.
    """

    def __init__(self, network: DemoGuardNetwork, metadata: dict[str, Any] | None = None):
        self.config = network.config
        self.metadata = dict(metadata or {})
        graph, self._state = nnx.split(network)
        self._apply = jax.jit(lambda state, tokens, images: nnx.merge(graph, state)(tokens, images))

    @classmethod
    def load(cls) -> "DemoGuard":
        """The trained guard that the package brings along."""
        source = resources.files("hybrid_rs_jax.models").joinpath("weights", "demo_guard.npz")
        with source.open("rb") as file:
            return cls(*load_weights(cast(BinaryIO, file)))

    def __call__(self, tokens: Any, images: Any) -> Bool[Array, " b"]:
        """Decide for each pair: True = Unsafe.

        Args:
            tokens: integers [b, 16] in 0..511.
            images: floats [b, 8, 8, 1]; clean pixels lie in [0, 1], noisy ones need not.

        Raises:
            ValueError: shapes or dtypes do not fit, or a token lies outside the alphabet (seen only outside
                ``jax.jit``, where values are known).
        """
        return self.logits(tokens, images) > 0

    def logits(self, tokens: Any, images: Any) -> Float32[Array, " b"]:
        """The real number behind each decision, above 0 for Unsafe; arguments as for a call."""
        return self._apply(self._state, *self._checked(tokens, images))

    def _checked(self, tokens: Any, images: Any) -> tuple[Int32[Array, "b l"], Float32[Array, "b h w 1"]]:
        config = self.config
        side, length = config.image_size, config.length
        if np.ndim(tokens) != 2 or np.shape(tokens)[1] != length:
            raise ValueError(f"tokens must have shape [batch, {length}], but it is {list(np.shape(tokens))}.")
        wanted = (np.shape(tokens)[0], side, side, 1)
        if np.shape(images) != wanted:
            raise ValueError(f"images must have shape {list(wanted)}, but it is {list(np.shape(images))}.")
        if not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
            raise ValueError(f"tokens must be integers, but they are {jnp.result_type(tokens)}.")
        if not jnp.issubdtype(jnp.result_type(images), jnp.floating):
            raise ValueError(f"images must be floats, but they are {jnp.result_type(images)}.")
        if not isinstance(tokens, jax.core.Tracer):
            values = np.asarray(tokens)
            outside = values[(values < 0) | (values >= config.vocab_size)]
            if outside.size:
                raise ValueError(f"Token {outside[0]} lies outside the alphabet 0..{config.vocab_size - 1}.")
        return jnp.asarray(tokens, jnp.int32), jnp.asarray(images, jnp.float32)
