"""Token steps: substitutions that the gradient proposes and noisy copies decide (GCG style, paper A.5)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from hybrid_rs_jax.attacks._objective import Target, margins, soft_logit

__all__ = ["best_substitution", "propose", "random_tokens"]


def propose(
    key: Key[Array, ""],
    slope: Float[Array, "l v"],
    tokens: Int[Array, " l"],
    clean: Int[Array, " l"],
    legal: Bool[Array, "l v"],
    d: Int[Array, ""],
    count: int,
) -> Int[Array, "count l"]:
    """Candidates for one attack, each within `d` changes of `clean`.

    A candidate writes token `v` at position `l`; where that would be one change too many, it also takes back the
    change that the gradient misses the least. Half of the candidates are those with the largest predicted gain, the
    others are drawn with a preference for large gains (Gumbel noise of one standard deviation of the gains): the
    prediction is linear, and a whole substitution is a long way to go.

    Args:
      slope: gradient of the objective in the one-hot tokens.
      legal: (position, token) pairs that the attacker may use; the clean token of a position always is.
      d: budget of changed positions.
      count: number of candidates.

    Returns:
      Candidates; the current tokens where no legal substitution is left.
    """
    length, vocab = slope.shape
    positions = jnp.arange(length)
    changed = tokens != clean
    here = slope[positions, tokens]
    undo = jnp.where(changed, slope[positions, clean] - here, jnp.inf)
    cheapest = jnp.argmin(undo)
    at_clean = jnp.arange(vocab)[None, :] == clean[:, None]
    changes = changed.sum() - changed[:, None].astype(jnp.int32) + (~at_clean).astype(jnp.int32)
    crowded = changes > d
    # a crowded substitution sits at an unchanged position, so taking back `cheapest` does not undo it
    predicted = slope - here[:, None] + jnp.where(crowded, undo[cheapest], jnp.zeros((), slope.dtype))
    usable = (legal | at_clean) & (jnp.arange(vocab)[None, :] != tokens[:, None]) & (~crowded | changed.any())
    usable &= ~crowded | (d > 0)
    gain = jnp.where(usable, -predicted, -jnp.inf).ravel()
    picks = _picks(key, gain, count)
    place, token = picks // vocab, (picks % vocab).astype(tokens.dtype)

    def candidate(place: Int[Array, ""], token: Int[Array, ""]) -> Int[Array, " l"]:
        taken_back = jnp.where(crowded[place, token] & (positions == cheapest), clean, tokens)
        written = jnp.where(positions == place, token, taken_back)
        return jnp.where(usable[place, token], written, tokens)

    return jax.vmap(candidate)(place, token)


def best_substitution(
    target: Target,
    candidates: Int[Array, "n k l"],
    tokens: Int[Array, "n l"],
    images: Float[Array, "n *pixels"],
    keys: Key[Array, "n s"],
    eligible: Bool[Array, "n l"],
) -> Int[Array, "n l"]:
    """The best of the candidates and the current tokens, all seen through the same noise."""
    everything = jnp.concatenate([tokens[:, None], candidates], axis=1)
    values = jax.lax.map(
        lambda tried: soft_logit(margins(target, tried, images, keys, eligible), target.temperature),
        everything.swapaxes(0, 1),
    )
    best = jnp.argmin(values, axis=0)
    return everything[jnp.arange(len(tokens)), best]


def random_tokens(
    key: Key[Array, ""], clean: Int[Array, " l"], legal: Bool[Array, "l v"], d: Int[Array, ""]
) -> Int[Array, " l"]:
    """`d` random positions (or all that may be changed, if fewer) with random other tokens."""
    key_places, key_tokens = jax.random.split(key)
    others = legal & (jnp.arange(legal.shape[1])[None, :] != clean[:, None])
    free = others.any(axis=1)
    order = jnp.where(free, jax.random.uniform(key_places, clean.shape, jnp.float32), jnp.inf)
    rank = jnp.argsort(jnp.argsort(order))
    noise = jax.random.uniform(key_tokens, legal.shape, jnp.float32)
    drawn = jnp.argmax(jnp.where(others, noise, -1.0), axis=1).astype(clean.dtype)
    return jnp.where(free & (rank < d), drawn, clean)


def _picks(key: Key[Array, ""], gain: Float[Array, " m"], count: int) -> Int[Array, " count"]:
    """Indices: the largest gains first, then a draw that prefers large gains."""
    count = min(count, gain.shape[0])
    greedy = -(-count // 2)
    finite = jnp.isfinite(gain)
    known = jnp.where(finite, gain, jnp.zeros_like(gain))
    number = jnp.maximum(finite.sum(), 1).astype(gain.dtype)
    mean = known.sum() / number
    spread = jnp.sqrt(jnp.where(finite, jnp.square(gain - mean), jnp.zeros_like(gain)).sum() / number)
    noisy = gain + spread * jax.random.gumbel(key, gain.shape, gain.dtype)
    parts = [jax.lax.top_k(gain, greedy)[1]]
    if count > greedy:
        parts.append(jax.lax.top_k(noisy, count - greedy)[1])
    return jnp.concatenate(parts)
