"""The smoothing-aware alternating attack (paper A.5, Algorithm 1), with random restarts."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from hybrid_rs_jax._checks import check_budget_array, check_epsilon, check_mask, check_same_inputs
from hybrid_rs_jax._jax import own_settings
from hybrid_rs_jax.attacks._objective import Target, gradients, margins
from hybrid_rs_jax.attacks._pixels import descend, project_l2, random_images, to_grid
from hybrid_rs_jax.attacks._settings import AttackSettings
from hybrid_rs_jax.attacks._tokens import best_substitution, propose, random_tokens
from hybrid_rs_jax.attacks.guards import DifferentiableGuard
from hybrid_rs_jax.classifiers.base import for_smoothing
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.kernels._threefry import key_words, typed_key
from hybrid_rs_jax.kernels.grid import round_to_grid

__all__ = ["AttackResult", "attack"]


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """The strongest attack found on each of B inputs.

    Attributes:
      tokens, images: attacked inputs, int[B, L] and float[B, H, W, C]; within the budgets, and where pixels carry
        noise on its grid.
      changes: changed tokens per input, int64[B].
      distance: l2 change of the pixels per input, float64[B], between pictures on the grid, computed in float64 and
        rounded up: at most epsilon.
      restart: which restart was chosen, int64[B].
      scores: share of the selection draws called Unsafe, float64[B, R], for each restart. The smallest one is biased
        downwards, as the choice was made on it: estimate the score of the attacked input with draws of its own.
    """

    tokens: np.ndarray
    images: np.ndarray
    changes: np.ndarray
    distance: np.ndarray
    restart: np.ndarray
    scores: np.ndarray


def attack(
    guard: DifferentiableGuard,
    tokens: Int[Array | np.ndarray, "inputs length"],
    images: Float[Array | np.ndarray, "inputs height width channels"],
    smoothing: HybridSmoothing,
    d: Any,
    epsilon: Any,
    key: Key[Array, ""],
    *,
    eligible: Bool[Array | np.ndarray, "*inputs length"] | None = None,
    append_only: bool = False,
    start: tuple[np.ndarray, np.ndarray] | None = None,
    settings: AttackSettings | None = None,
) -> AttackResult:
    """Push the smoothed score down: `min P(f(noisy x') = Unsafe)` over `l0(x1', x1) <= d`, `|x2' - x2| <= epsilon`.

    Alternates, from several starting points, a token step (gradient of the soft score in the one-hot tokens, through
    the noise; the best of some substitutions as seen by the same noisy copies) and pixel steps (normalised gradient,
    projected to the l2 ball, step length falling from epsilon to a tenth of it); in the end pixels are put back on the
    grid of the noise, inside of the ball. Pixels are not clipped: the certificate covers all of the ball. The result is
    a feasible attack, hence an upper bound on the worst-case score, never the worst case itself.

    Args:
      guard: what is attacked; `TableGuard` wraps networks with an embedding table.
      tokens: clean tokens.
      images: clean pixels, in a floating dtype that the guard takes; rounded to the grid of the noise.
      smoothing: the noise of the defender, which the attack averages over.
      d: budget of changed tokens, integers of at least 0, [inputs] or a scalar.
      epsilon: l2 budget in the units of the pixels, at least 0, [inputs] or a scalar.
      key: what is found for input i depends on `(key, i)`, its budgets and the settings.
      eligible: positions that carry token noise and that the attacker may change, bool[length] or
        bool[inputs, length]; None means all.
      append_only: the attacker may use only the first `d` eligible positions (a suffix that grows from the left).
      start: tokens and images to begin the first restart from instead of the clean ones, within the budgets: what was
        found for smaller budgets, for instance.
      settings: effort; default `AttackSettings()`.

    Returns:
      An `AttackResult`.

    Raises:
      ValueError: if shapes differ, a budget is negative, a token is outside of the noise alphabet, `start` is outside
        of the budgets, or the guard was made for other noise.

    >>> import hybrid_rs_jax as hrs
    >>> from hybrid_rs_jax.attacks import TableGuard
    >>> from hybrid_rs_jax.classifiers import DemoGuard
    >>> from hybrid_rs_jax.data import demo
    >>> inputs, guard = demo.held_out_unsafe(1), TableGuard(DemoGuard.load())
    >>> smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, demo.VOCAB_SIZE), 0.25)
    >>> small = AttackSettings(restarts=1, steps=1, gradient_samples=4, candidates=2, selection_samples=8)
    >>> arguments = (inputs.tokens, inputs.images, smoothing, 1, 0.5, jax.random.key(0))
    >>> found = attack(guard, *arguments, eligible=demo.suffix_mask(), settings=small)
    >>> int((found.tokens != inputs.tokens).sum()) <= 1
    True
    """
    settings = AttackSettings() if settings is None else settings
    tokens, images = np.asarray(tokens), np.asarray(images)
    mask, d, epsilon = _checked(tokens, images, smoothing, eligible, d, epsilon)
    images = _on_grid(images, smoothing)
    margin, parameters, table = for_smoothing(guard, smoothing).embedded()
    legal = _legal(mask, d if append_only else None, smoothing, len(table))
    shrunk = _shrunk(epsilon, images)
    first = (tokens, images) if start is None else _checked_start(start, tokens, images, legal, d, epsilon)
    static = _Plan(margin, smoothing, settings, bool((d > 0).any()), bool((epsilon > 0).any()))
    parts = []
    size = min(settings.pairs_at_once, len(tokens))
    with own_settings():
        own = functools.partial(jax.random.fold_in, typed_key(key_words(key)))
        keys = jax.vmap(own)(jnp.arange(len(tokens), dtype=jnp.uint32))
        for begin in range(0, len(tokens), size):
            # the last rows again where the chunk would be short: one compilation serves all
            rows = np.minimum(np.arange(begin, begin + size), len(tokens) - 1)
            columns = [jnp.asarray(x[rows]) for x in (tokens, images, mask, legal, d.astype(np.int32), shrunk, *first)]
            found = _attack_chunk(static, parameters, table, keys[rows], *columns)
            parts.append([np.asarray(part)[: len(tokens) - begin] for part in found])
    best_tokens, best_images, restart, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    return AttackResult(
        best_tokens,
        best_images,
        (best_tokens != tokens).sum(axis=1),
        _distance(best_images, images, smoothing),
        restart.astype(np.int64),
        scores.astype(np.float64),
    )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What the compiled attack depends on."""

    margin: Any
    smoothing: HybridSmoothing
    settings: AttackSettings
    use_tokens: bool
    use_pixels: bool


@functools.partial(jax.jit, static_argnums=0)
def _attack_chunk(
    plan: _Plan,
    parameters: Any,
    table: Float[Array, "vocab width"],
    keys: Key[Array, " b"],
    tokens: Int[Array, "b l"],
    images: Float[Array, "b h w c"],
    eligible: Bool[Array, "b l"],
    legal: Bool[Array, "b l vocab"],
    d: Int[Array, " b"],
    epsilon: Float[Array, " b"],
    first_tokens: Int[Array, "b l"],
    first_images: Float[Array, "b h w c"],
) -> tuple[Int[Array, "b l"], Float[Array, "b h w c"], Int[Array, " b"], Float[Array, "b r"]]:
    """All restarts of some inputs, side by side; the best of each."""
    settings, batch = plan.settings, len(tokens)
    target = Target(plan.margin, plan.smoothing, settings.temperature, parameters, table)
    per_restart = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)), in_axes=(0, None))
    keys = per_restart(keys, jnp.arange(settings.restarts)).reshape(-1)
    clean, centre, eligible, legal, d, epsilon = (
        jnp.repeat(x, settings.restarts, axis=0) for x in (tokens, images, eligible, legal, d, epsilon)
    )
    key_start, key_steps, key_choice = jax.vmap(lambda key: jax.random.split(key, 3))(keys).swapaxes(0, 1)
    tried_tokens, tried_images = _start(key_start, clean, centre, legal, d, epsilon)
    if settings.steps:
        step = functools.partial(_alternate, plan, target, clean, centre, eligible, legal, d, epsilon, key_steps)
        zeroth = jnp.arange(batch) * settings.restarts
        tried_tokens = tried_tokens.at[zeroth].set(first_tokens)
        tried_images = tried_images.at[zeroth].set(first_images)
        tried_images = project_l2(tried_images, centre, epsilon)
        (tried_tokens, tried_images), _ = jax.lax.scan(step, (tried_tokens, tried_images), jnp.arange(settings.steps))
    if plan.use_pixels and plan.smoothing.grid_step is not None:
        tried_images = to_grid(tried_images, centre, epsilon, plan.smoothing.grid_step)
    scores = _score(target, tried_tokens, tried_images, key_choice, eligible, settings)
    scores = scores.reshape(batch, settings.restarts)
    restart = jnp.argmin(scores, axis=1)
    rows = jnp.arange(batch) * settings.restarts + restart
    return tried_tokens[rows], tried_images[rows], restart, scores


def _start(
    keys: Key[Array, " n"],
    clean: Int[Array, "n l"],
    centre: Float[Array, "n h w c"],
    legal: Bool[Array, "n l vocab"],
    d: Int[Array, " n"],
    epsilon: Float[Array, " n"],
) -> tuple[Int[Array, "n l"], Float[Array, "n h w c"]]:
    """Random points on the edge of the budget."""
    key_tokens, key_images = jax.vmap(jax.random.split)(keys).swapaxes(0, 1)
    tokens = jax.vmap(random_tokens)(key_tokens, clean, legal, d)
    return tokens, random_images(key_images, centre, epsilon)


def _alternate(
    plan: _Plan,
    target: Target,
    clean: Int[Array, "n l"],
    centre: Float[Array, "n h w c"],
    eligible: Bool[Array, "n l"],
    legal: Bool[Array, "n l vocab"],
    d: Int[Array, " n"],
    epsilon: Float[Array, " n"],
    keys: Key[Array, " n"],
    found: tuple[Int[Array, "n l"], Float[Array, "n h w c"]],
    number: Int[Array, ""],
) -> tuple[tuple[Int[Array, "n l"], Float[Array, "n h w c"]], None]:
    """One token step, then some pixel steps, each with fresh noise."""
    settings = plan.settings
    tokens, images = found
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
    if plan.use_tokens:
        key_slope, key_pick, key_try = jax.vmap(lambda k: jax.random.split(k, 3))(_stage(keys, 0)).swapaxes(0, 1)
        slope, _ = gradients(target, tokens, images, _copies(key_slope, settings.gradient_samples), eligible)
        slope = jnp.einsum("nle,ve->nlv", slope, target.table)
        choose = functools.partial(propose, count=settings.candidates)
        candidates = jax.vmap(choose)(key_pick, slope, tokens, clean, legal, d)
        tries = _copies(key_try, settings.candidate_samples)
        tokens = best_substitution(target, candidates, tokens, images, tries, eligible)
    if plan.use_pixels:
        left = 1 - number.astype(images.dtype) / settings.steps
        length = epsilon * jnp.maximum(left, jnp.asarray(0.1, images.dtype))

        def descended(images: Float[Array, "n h w c"], inner: Int[Array, ""]) -> tuple[Float[Array, "n h w c"], None]:
            copies = _copies(_stage(keys, 1 + inner), settings.gradient_samples)
            _, gradient = gradients(target, tokens, images, copies, eligible)
            return descend(images, centre, gradient, epsilon, length), None

        images, _ = jax.lax.scan(descended, images, jnp.arange(settings.pixel_steps))
    return (tokens, images), None


def _score(
    target: Target,
    tokens: Int[Array, "n l"],
    images: Float[Array, "n h w c"],
    keys: Key[Array, " n"],
    eligible: Bool[Array, "n l"],
    settings: AttackSettings,
) -> Float[Array, " n"]:
    """Share of fresh noisy copies that are Unsafe, in rounds of as many as a gradient takes."""
    size = min(settings.gradient_samples, settings.selection_samples)
    rounds = -(-settings.selection_samples // size)

    def add(total: Float[Array, " n"], number: Int[Array, ""]) -> tuple[Float[Array, " n"], None]:
        copies = _copies(_stage(keys, number), size)
        inside = number * size + jnp.arange(size) < settings.selection_samples
        unsafe = (margins(target, tokens, images, copies, eligible) > 0) & inside
        return total + unsafe.sum(axis=1).astype(total.dtype), None

    total, _ = jax.lax.scan(add, jnp.zeros(len(tokens), images.dtype), jnp.arange(rounds))
    return total / settings.selection_samples


def _copies(keys: Key[Array, " n"], samples: int) -> Key[Array, "n s"]:
    return jax.vmap(lambda key: jax.random.split(key, samples))(keys)


def _stage(keys: Key[Array, " n"], number: Any) -> Key[Array, " n"]:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def _checked(
    tokens: np.ndarray, images: np.ndarray, smoothing: HybridSmoothing, eligible: Any, d: Any, epsilon: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask and budgets per input, or one sentence."""
    check_same_inputs(tokens, images)
    if not len(tokens):
        raise ValueError("tokens must hold at least one input, got none.")
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images must have a floating dtype, got {images.dtype}.")
    mask = check_mask("eligible", eligible, tokens.shape)
    if smoothing.discrete is not None:
        smoothing.discrete.check_tokens(np.where(mask, tokens, np.zeros((), tokens.dtype)))
    d, epsilon = check_budget_array(d), check_epsilon(epsilon)
    for name, value in (("d", d), ("epsilon", epsilon)):
        if value.shape not in ((), tokens.shape[:1]):
            raise ValueError(f"{name} must be a scalar or have shape {tokens.shape[:1]}, got {value.shape}.")
    d = np.minimum(np.broadcast_to(d, len(tokens)), tokens.shape[1])
    return mask, d, np.broadcast_to(epsilon, len(tokens))


def _checked_start(
    start: tuple[np.ndarray, np.ndarray],
    tokens: np.ndarray,
    images: np.ndarray,
    legal: np.ndarray,
    d: np.ndarray,
    epsilon: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The given start in the dtypes of the clean input, or one sentence."""
    found, pixels = np.asarray(start[0]), np.asarray(start[1])
    if found.shape != tokens.shape or pixels.shape != images.shape:
        raise ValueError(
            f"start must have shapes {tokens.shape} and {images.shape}, got {found.shape}, {pixels.shape}."
        )
    changed = found != tokens
    usable = np.take_along_axis(legal, np.clip(found, 0, legal.shape[2] - 1)[..., None], axis=2)[..., 0]
    far = _distance(pixels, images) > epsilon
    if (changed.sum(axis=1) > d).any() or (changed & ~usable).any() or far.any():
        raise ValueError("start must lie within the budgets and legal tokens of every input, but it does not.")
    return found.astype(tokens.dtype), pixels.astype(images.dtype)


def _legal(
    mask: np.ndarray, first: np.ndarray | None, smoothing: HybridSmoothing, vocab: int
) -> Bool[np.ndarray, "b l vocab"]:
    """(position, token) pairs that the attacker may use: eligible positions, and tokens of the noise alphabet."""
    if first is not None:
        mask = mask & (np.cumsum(mask, axis=1) <= first[:, None])
    kernel = smoothing.discrete
    sizes = getattr(kernel, "cardinalities", getattr(kernel, "vocab_size", vocab))
    inside = np.arange(vocab) < np.broadcast_to(np.asarray(sizes), mask.shape[1:])[:, None]
    return mask[:, :, None] & inside


def _shrunk(epsilon: np.ndarray, images: np.ndarray) -> np.ndarray:
    """A radius in the dtype of the pixels that leaves room for the rounding of `centre + offset`, pixel by pixel."""
    unit = float(np.finfo(images.dtype).eps)
    pixels = int(np.prod(images.shape[1:]))
    largest = np.abs(images.astype(np.float64)).reshape(len(images), -1).max(axis=1)
    room = 4 * unit * (np.sqrt(pixels) * (largest + epsilon) + pixels * epsilon)
    return np.maximum(epsilon - room, 0.0).astype(images.dtype)


def _on_grid(images: np.ndarray, smoothing: HybridSmoothing) -> np.ndarray:
    """The pictures that the defender's filter sees: rounded to the grid of the noise, where there is noise."""
    step = smoothing.grid_step
    if step is None:
        return images
    return (round_to_grid(images, step)[0] * images.dtype.type(step)).astype(images.dtype)


def _distance(
    found: np.ndarray, images: np.ndarray, smoothing: HybridSmoothing | None = None
) -> Float[np.ndarray, " b"]:
    """l2 distances, rounded up; exact in steps where both lie on the grid of `smoothing`."""
    step = None if smoothing is None else smoothing.grid_step
    if step is None:
        offset = found.astype(np.float64) - images.astype(np.float64)
    else:
        offset = step * (round_to_grid(found, step)[0].astype(np.float64) - round_to_grid(images, step)[0])
    return np.linalg.norm(offset.reshape(len(images), -1), axis=1) * (1 + offset[0].size * 2.0**-52)
