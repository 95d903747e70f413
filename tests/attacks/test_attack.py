"""The attack: within its budgets, as good as enumeration, reproducible, stronger than random tries."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_guard import LinearGuard

import hybrid_rs_jax as hrs
from hybrid_rs_jax import attacks
from hybrid_rs_jax.attacks._attack import _checked
from hybrid_rs_jax.attacks._pixels import project_l2, to_grid
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.data import demo

BETA, SIGMA, VOCAB, LENGTH = 0.3, 0.5, 5, 3
STEP = 1 / 4080  # fine enough for closed forms of the continuous ball
SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(BETA, VOCAB), SIGMA, STEP)
SMALL = attacks.AttackSettings(restarts=3, steps=4, gradient_samples=8, candidates=6, candidate_samples=8,
                               selection_samples=40, pairs_at_once=4)  # fmt: skip
KEY = jax.random.key(5)


def clean(count, seed=0, length=LENGTH, vocab=VOCAB):
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (count, 2, 2, 1))
    return rng.integers(0, vocab, (count, length)).astype(np.int32), (levels / 255).astype(np.float32)


@pytest.mark.parametrize("append_only", [False, True])
@pytest.mark.parametrize("steps", [0, 4])
def test_budgets_alphabet_and_eligible_positions_are_never_exceeded(append_only, steps):
    count, length = 60, 6
    rng = np.random.default_rng(1)
    tokens, images = clean(count, length=length)
    eligible = rng.random((count, length)) < 0.7
    d = rng.integers(0, length + 2, count)
    epsilon = np.where(rng.random(count) < 0.2, 0.0, 10.0 ** rng.uniform(-6, 3, count))
    # the guard knows more tokens than the noise draws: the attacker must not use them
    guard = LinearGuard(0, vocab=VOCAB + 4, length=length)
    settings = dataclasses.replace(SMALL, steps=steps, pairs_at_once=count)
    found = attacks.attack(
        guard, tokens, images, SMOOTHING, d, epsilon, KEY, eligible=eligible, append_only=append_only, settings=settings
    )
    changed = found.tokens != tokens
    assert np.all(changed.sum(axis=1) <= d)
    np.testing.assert_array_equal(found.changes, changed.sum(axis=1))
    assert not (changed & ~eligible).any()
    if append_only:
        assert not (changed & (np.cumsum(eligible, axis=1) > d[:, None])).any()
    assert found.tokens.min() >= 0
    assert found.tokens.max() < VOCAB
    levels, before = (np.rint(pixels.astype(np.float64) / STEP) for pixels in (found.images, images))
    np.testing.assert_array_equal(found.images, levels.astype(np.float32) * np.float32(STEP))
    exact = np.sqrt(((levels - before).astype(np.longdouble) ** 2).sum((1, 2, 3))) * np.longdouble(STEP)
    assert np.all(exact <= found.distance)
    assert np.all(found.distance <= epsilon)
    assert changed.any()
    assert np.all(found.distance[epsilon > 4 * STEP] > 0.5 * epsilon[epsilon > 4 * STEP])


def test_a_budget_of_less_than_a_step_per_pixel_is_spent_on_whole_steps_of_the_pixels_it_pulls_most():
    """150 pixels, 3 steps of budget: cut to the grid pixel by pixel nothing would be left."""
    step, rng = 1 / 255, np.random.default_rng(3)
    centre = (rng.integers(0, 256, (1, 15, 10, 1)) / 255).astype(np.float32)
    pull = rng.standard_normal(centre.shape).astype(np.float32)
    epsilon = np.full(1, 3.001 * step, np.float32)
    inside = project_l2(jnp.asarray(centre + pull), jnp.asarray(centre), jnp.asarray(epsilon))
    found = np.asarray(to_grid(inside, jnp.asarray(centre), jnp.asarray(epsilon), step))
    moved = np.rint((found - centre) * 255).ravel()
    assert np.abs(moved).sum() == 9, "9 pixels by one step: a distance of 3 steps"
    strongest = np.argsort(-np.abs(pull).ravel())[:9]
    np.testing.assert_array_equal(np.sort(np.flatnonzero(moved)), np.sort(strongest))
    np.testing.assert_array_equal(np.sign(pull.ravel()[strongest]), moved[strongest])


def test_projection_is_the_nearest_point_of_the_ball():
    rng = np.random.default_rng(0)
    centre, images = rng.normal(size=(2, 50, 2, 3, 1))
    epsilon = rng.uniform(0, 3, 50)
    with jax.enable_x64(True):
        found = np.asarray(attacks.project_l2(*map(jnp.asarray, (images, centre, epsilon))))
    length = np.sqrt(((images - centre) ** 2).sum((1, 2, 3)))
    inside = length <= epsilon
    assert 0 < inside.sum() < 50
    np.testing.assert_array_equal(found[inside], images[inside])
    expected = centre + (images - centre) * (epsilon / length)[:, None, None, None]
    np.testing.assert_allclose(found[~inside], expected[~inside], rtol=1e-12)


def test_attack_finds_the_exact_worst_case_of_a_linear_guard():
    """The worst case over all tokens and all of the ball is known by enumeration; so is the score that was reached."""
    budgets = [(0, 0.4), (1, 0.0), (1, 0.3), (2, 0.3)]
    d, epsilon = (np.array(column) for column in zip(*budgets * 4, strict=True))
    tokens, images = clean(len(d))
    guard = LinearGuard(3, bias=2.0)
    settings = dataclasses.replace(
        SMALL,
        restarts=5,
        gradient_samples=32,
        candidates=12,
        candidate_samples=64,
        steps=8,
        selection_samples=2000,
        pairs_at_once=len(d),
    )
    found = attacks.attack(guard, tokens, images, SMOOTHING, d, epsilon, KEY, settings=settings)
    reached, before = (
        np.array([guard.score(t, i, BETA, SIGMA) for t, i in zip(*pair, strict=True)])
        for pair in ((found.tokens, found.images), (tokens, images))
    )
    rows = zip(tokens, images, d, epsilon, strict=True)
    best = np.array([guard.worst_score(t, i, BETA, SIGMA, most, radius) for t, i, most, radius in rows])
    assert np.all(reached >= best - 1e-6)
    np.testing.assert_allclose(reached, best, atol=2e-3)
    assert np.all(before - best > 0.005)
    assert np.all(reached >= hrs.worst_case_probability(before, d, epsilon, SMOOTHING))


def test_attack_reaches_the_certificate_where_that_is_tight():
    """A linear guard under pixel noise alone is the worst guard there is: certificate and attack meet."""
    tokens, images = clean(4)
    guard, smoothing = LinearGuard(3, bias=1.0), hrs.HybridSmoothing(None, SIGMA, STEP)
    found = attacks.attack(guard, tokens, images, smoothing, 0, 0.4, KEY, settings=SMALL)
    clean_score = [guard.score(t, i, 0.0, SIGMA) for t, i in zip(tokens, images, strict=True)]
    reached = [guard.score(t, i, 0.0, SIGMA) for t, i in zip(found.tokens, found.images, strict=True)]
    certified = hrs.worst_case_probability(np.array(clean_score), 0, 0.4, smoothing)
    assert np.all(np.array(reached) >= certified)
    np.testing.assert_allclose(reached, certified, atol=4e-4)  # the grid costs a little


@pytest.mark.slow
def test_restarts_extend_each_other_and_never_hurt():
    tokens, images = clean(5)
    guard = LinearGuard(2)
    few, many = (
        attacks.attack(
            guard, tokens, images, SMOOTHING, 2, 0.5, KEY, settings=dataclasses.replace(SMALL, restarts=restarts)
        )
        for restarts in (3, 5)
    )
    np.testing.assert_allclose(many.scores[:, :3], few.scores, atol=1.01 / SMALL.selection_samples)
    assert np.all(many.scores.min(axis=1) <= few.scores.min(axis=1) + 1.01 / SMALL.selection_samples)
    np.testing.assert_array_equal(many.restart, many.scores.argmin(axis=1))


@pytest.mark.slow
def test_one_key_gives_one_result_however_the_inputs_are_grouped():
    tokens, images = clean(5)
    guard = LinearGuard(2)
    run = lambda key, at_once: attacks.attack(
        guard, tokens, images, SMOOTHING, 2, 0.5, key, settings=dataclasses.replace(SMALL, pairs_at_once=at_once)
    )
    first, again, grouped, other = run(KEY, 4), run(KEY, 4), run(KEY, 1), run(jax.random.key(6), 4)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.scores, again.scores)
    np.testing.assert_array_equal(first.tokens, grouped.tokens)
    np.testing.assert_allclose(first.images, grouped.images, atol=1e-5)
    assert np.any(first.images != other.images)


def test_a_start_is_used_and_must_lie_within_the_budgets():
    tokens, images = clean(4)
    guard = LinearGuard(2)
    settings = dataclasses.replace(SMALL, restarts=1, pixel_steps=0)
    shifted = ((np.rint(images / STEP) + 400).astype(np.float32) * np.float32(STEP)).astype(np.float32)
    found = attacks.attack(guard, tokens, images, SMOOTHING, 0, 0.5, KEY, start=(tokens, shifted), settings=settings)
    np.testing.assert_array_equal(found.images, shifted)
    with pytest.raises(ValueError, match="start must lie within the budgets"):
        attacks.attack(guard, tokens, images, SMOOTHING, 0, 0.1, KEY, start=(tokens, shifted), settings=settings)
    other = (tokens + 1) % VOCAB
    with pytest.raises(ValueError, match="start must lie within the budgets"):
        attacks.attack(guard, tokens, images, SMOOTHING, 2, 0.5, KEY, start=(other, images), settings=settings)


@pytest.mark.slow
def test_adaptive_attack_beats_random_tries_on_the_demo_guard():
    inputs, mask = demo.held_out_unsafe(6), demo.suffix_mask()
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, demo.VOCAB_SIZE), 0.25)
    guard = attacks.TableGuard(DemoGuard.load())
    adaptive = dataclasses.replace(SMALL, restarts=2, steps=6, gradient_samples=16, pairs_at_once=6)
    scores = []
    for settings in (adaptive, dataclasses.replace(adaptive, steps=0)):
        found = attacks.attack(
            guard, inputs.tokens, inputs.images, smoothing, 0, 1.5, KEY, eligible=mask, settings=settings
        )
        counts = hrs.sample_counts(guard, found.tokens, found.images, smoothing, 500, jax.random.key(9), eligible=mask)
        scores.append(counts / 500)
    assert np.all(scores[0] < scores[1] - 0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d": -1}, "d must be a non-negative integer .*, got -1"),
        ({"d": 0.5}, "d must be a non-negative integer .*, got 0.5"),
        ({"epsilon": -0.1}, "epsilon must be finite and at least 0, got -0.1"),
        ({"epsilon": np.inf}, "epsilon must be finite and at least 0, got inf"),
        ({"d": np.zeros(3, int)}, r"d must be a scalar or have shape \(2,\), got \(3,\)"),
        ({"tokens": np.full((2, LENGTH), VOCAB, np.int32)}, f"Token {VOCAB} lies outside of the noise alphabet"),
        ({"images": np.zeros((2, 2, 2, 1), np.uint8)}, "images must have a floating dtype, got uint8"),
        ({"images": np.zeros((3, 2, 2, 1), np.float32)}, "tokens and images must hold the same inputs, got 2 and 3"),
        ({"eligible": np.ones(LENGTH + 1, bool)}, "eligible must have shape"),
    ],
)
def test_bad_input_gives_one_clear_sentence(change, message):
    tokens, images = clean(2)
    arguments = {"tokens": tokens, "images": images, "smoothing": SMOOTHING, "eligible": None, "d": 1, "epsilon": 0.1}
    with pytest.raises(ValueError, match=message):
        _checked(**(arguments | change))


@pytest.mark.parametrize(("name", "value"), [("restarts", 0), ("steps", -1), ("candidates", 0), ("temperature", 0.0)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        attacks.AttackSettings(**{name: value})
