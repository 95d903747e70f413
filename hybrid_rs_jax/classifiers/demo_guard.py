"""The built-in demo guard as a base classifier."""

import functools
import hashlib
from collections.abc import Callable
from importlib import resources
from typing import Any, BinaryIO, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float32, Int32

from hybrid_rs_jax.classifiers._votes import votes_from_margins
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.data.inputs import Input
from hybrid_rs_jax.data.pictures import fit
from hybrid_rs_jax.models.demo_guard import DemoGuardConfig, DemoGuardNetwork, load_weights

__all__ = ["DemoGuard"]


class DemoGuard:
    """Says of each (prompt, picture) pair whether it is Unsafe; it has learnt ``data.demo.is_unsafe``.

    It may be called as it is or inside ``jax.jit``, and computes in float32 either way.

    Args:
        network: the network to ask; ``DemoGuard.load()`` gives the trained one.
        metadata: how the network was trained.
        digest: what tells its weights from others; None takes a SHA-256 of the parameters.
    """

    # The same 51,200 noisy copies of the held-out inputs (sigma = beta = 0.25) in batches of 1, 7, 64, 500, 2000 and
    # 4096 on two CPU cores: margins differed by at most 1.6e-5, by at most 8.5e-6 where they were below 2, and lay
    # within 1e-4 of zero for none of the copies. Not measured on a GPU, whose default matrix products are coarser.
    tie_tolerance = 1e-4

    def __init__(self, network: DemoGuardNetwork, metadata: dict[str, object] | None = None, digest: str | None = None):
        self.config = network.config
        self.metadata = dict(metadata or {})
        self._parameters = nnx.split(network)[1]
        self._digest = digest

    @classmethod
    def load(cls) -> "DemoGuard":
        """The trained guard that the package brings along."""
        source = resources.files("hybrid_rs_jax.models").joinpath("weights", "demo_guard.npz")
        with source.open("rb") as file:
            network, metadata = load_weights(cast(BinaryIO, file))
        return cls(network, metadata, hashlib.sha256(source.read_bytes()).hexdigest())

    def __call__(self, tokens: Any, images: Any) -> Bool[Array, " b"]:
        """Decide for each pair: True = Unsafe.

        Args:
            tokens: integers [b, 16] in 0..511.
            images: floats [b, 8, 8, 1]; clean pixels lie in [0, 1], noisy ones need not.

        Raises:
            ValueError: shapes or dtypes do not fit; a token lies outside the alphabet, or a margin is not finite (both
                seen only outside ``jax.jit``, where values are known).
        """
        margin = self.margin(tokens, images)
        return margin > 0 if isinstance(margin, jax.core.Tracer) else jnp.asarray(votes_from_margins(margin))

    def margin(self, tokens: Any, images: Any) -> Float32[Array, " b"]:
        """The logit behind each decision, above 0 for Unsafe; arguments as for a call."""
        return _jitted(self.config)(self._parameters, *self._checked(tokens, images))

    def functional(self) -> tuple[Callable[..., Array], Any]:
        """The margin as a pure function ``apply(parameters, tokens, images)``, and the parameters.

        Guards of the same sizes share one ``apply``, so that what was compiled for one serves the other.
        """
        return _apply(self.config), self._parameters

    def encode(self, trusted: str, image: Any, appended: str = "") -> Input:
        """A prompt and a picture as they are certified: words, then a suffix of 8 positions that carries noise.

        Args:
            trusted: up to 8 words of the demo's vocabulary.
            image: pixels in [0, 1], [8, 8, 1]; a colour picture becomes grey, and 8 by 8 pixels.
            appended: up to 8 more words, which may be an attacker's.

        Raises:
            ValueError: a word is not in the vocabulary, or there are more than 8.
        """
        tokens = demo.encode(trusted)
        if appended:
            tokens[demo.PROMPT_LENGTH :] = demo.encode(appended)[: demo.SUFFIX_LENGTH]
        pixels = np.asarray(image, np.float32)
        if pixels.ndim == 3 and pixels.shape[-1] == 3:
            pixels = fit(pixels, 8, 8).mean(axis=-1, keepdims=True)
        return Input(tokens, pixels, demo.suffix_mask())

    def describe(self) -> dict[str, str]:
        """Name, and SHA-256 of the weights: of their file for the guard of the package, else of the parameters."""
        if self._digest is None:
            self._digest = _parameters_digest(self._parameters)
        return {"name": "hybrid_rs_jax.classifiers.DemoGuard", "weights_sha256": self._digest}

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


@functools.cache
def _apply(config: DemoGuardConfig) -> Callable[..., Array]:
    """The network of these sizes, as a function of its parameters."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: DemoGuardNetwork(config, nnx.Rngs(0))))
    return lambda parameters, tokens, images: nnx.merge(graph, parameters)(tokens, images)


@functools.cache
def _jitted(config: DemoGuardConfig) -> Callable[..., Array]:
    return jax.jit(_apply(config))


def _parameters_digest(parameters: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode())
        digest.update(np.asarray(leaf, np.float32).tobytes())
    return digest.hexdigest()
