"""The pure cores under jit, vmap, grad, sharding and float32, and what the host API leaves alone."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy.special import ndtr
from test_soundness import short_cases, smoothing_of

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate import _batches, _solve
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, identity

SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(beta=0.25, vocab_size=32_000), sigma=0.5)


def pad(ratio: LikelihoodRatio, atoms: int = 32) -> LikelihoodRatio:
    """Atoms without mass, so that one compiled shape serves all."""
    extra = (0, atoms - ratio.atoms)
    return LikelihoodRatio(
        np.pad(ratio.log_ratio, extra, mode="edge"),
        np.pad(ratio.log_p, extra, constant_values=-np.inf),
        np.pad(ratio.log_q, extra, constant_values=-np.inf),
        np.float64(ratio.p_0),
        np.float64(ratio.q_inf),
        np.float64(ratio.rounding),
    )


CHANNELS = {
    "gaussian": pad(identity()),
    "uniform": pad(hrs.UniformKernel(0.8, 50).likelihood_ratio(3)),
    "turned": pad(hrs.UniformKernel(0.9, 3).likelihood_ratio(2)),
    "absorbing": pad(hrs.AbsorbingKernel(0.8).likelihood_ratio(2)),
    "categorical": pad(hrs.CategoricalKernel(0.5, (2, 3, 10)).likelihood_ratio(3)),
}
P_A = np.array([0.3, 0.6, 0.9, 0.99, 1 - 1e-6, 1 - 1e-12])
RHO = np.array([0.0, 1e-6, 0.1, 0.5, 1.0, 3.0])
TAU = np.array([0.1, 1e-3, 0.3, 4.6e-5, 0.5, 0.5])
NAMES = ("worst_case", "radius", "required")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def core(name):
    """One function (p_a, likelihood_ratio, x) -> array per core; the required probability takes tau for p_a."""
    return {
        "worst_case": lambda p, ratio, x: jnp.stack(hrs.core.worst_case_probability(p, ratio, x)),
        "radius": lambda p, ratio, x: hrs.core.certified_radius(p, ratio, x),
        "required": lambda p, ratio, x: jnp.stack(hrs.core.required_probability(ratio, x, p)),
    }[name]


def second(name):
    return TAU if name == "radius" else RHO


# Transformations


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channel", CHANNELS)
def test_vmap_equals_loop(channel, name, x64):
    function, ratio = core(name), CHANNELS[channel]
    together = jax.vmap(function, in_axes=(0, None, 0), out_axes=-1)(P_A, ratio, second(name))
    lanes = function(P_A, ratio, second(name))
    loop = jnp.stack([function(p, ratio, x) for p, x in zip(P_A, second(name), strict=True)], axis=-1)
    # the order of a sum over atoms may differ, so a few units in the last place may
    np.testing.assert_allclose(together, loop, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(lanes, loop, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_channels_equals_loop(name, x64):
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves, axis=-1), *CHANNELS.values())
    function = core(name)
    together = jax.vmap(function, in_axes=(None, -1, None), out_axes=-1)(0.99, stacked, 0.1)
    loop = jnp.stack([function(0.99, ratio, 0.1) for ratio in CHANNELS.values()], axis=-1)
    np.testing.assert_allclose(together, loop, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_every_lane_may_have_its_own_channel(name, x64):
    """Fields of shape [atoms, lanes]."""
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves, axis=-1), *CHANNELS.values())
    p, x = np.full(len(CHANNELS), 0.99), np.full(len(CHANNELS), 0.1)
    together = core(name)(p, stacked, x)
    loop = jnp.stack([core(name)(0.99, ratio, 0.1) for ratio in CHANNELS.values()], axis=-1)
    np.testing.assert_allclose(together, loop, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channel", CHANNELS)
def test_jit_equals_eager(channel, name, x64):
    function, ratio = core(name), CHANNELS[channel]
    compiled, eager = jax.jit(function)(P_A, ratio, second(name)), function(P_A, ratio, second(name))
    np.testing.assert_allclose(compiled, eager, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_many_lanes_equal_few_lanes(x64):
    """From 64 lanes on the sum over atoms is a loop."""
    p = jnp.linspace(0.05, 0.999, 120)
    for name in NAMES:
        function, ratio = core(name), CHANNELS["uniform"]
        x = jnp.full(120, 0.2)
        many = function(p, ratio, x)
        few = jnp.concatenate([function(p[i : i + 40], ratio, x[i : i + 40]) for i in (0, 40, 80)], axis=-1)
        np.testing.assert_allclose(many, few, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["radius", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[::2])])
def test_sharding_over_devices_changes_nothing(name, x64):
    mesh = jax.make_mesh((2,), ("lanes",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("lanes"))
    p, x = jnp.linspace(0.05, 0.999, 400), jnp.linspace(0.01, 0.4, 400)
    compiled = jax.jit(core(name))
    here = compiled(p, CHANNELS["uniform"], x)
    there = compiled(jax.device_put(p, spread), CHANNELS["uniform"], jax.device_put(x, spread))
    assert len(there.sharding.device_set) == 2
    np.testing.assert_array_equal(np.asarray(here), np.asarray(there))


# Derivatives


def difference(function, x: float, step: float) -> float:
    """Central difference of fourth order."""
    values = [float(function(x + k * step)) for k in (-2, -1, 1, 2)]
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize(("p_a", "rho"), [(0.7, 0.3), (0.95, 1.0), (0.999, 0.7)])
def test_derivatives_of_the_worst_case(channel, p_a, rho, x64):
    ratio = CHANNELS[channel]

    def value(p, r, which=0):
        return hrs.core.worst_case_probability(p, ratio, r)[which]

    by_p, by_rho = jax.grad(value, argnums=(0, 1))(p_a, rho)
    step = 1e-4 * min(p_a, 1 - p_a)
    assert float(by_p) == pytest.approx(difference(lambda p: value(p, rho), p_a, step), rel=1e-6)
    assert float(by_rho) == pytest.approx(difference(lambda r: value(p_a, r), rho, 1e-3 * rho), rel=1e-6)
    np.testing.assert_allclose(jax.grad(value, argnums=(0, 1))(p_a, rho, 1), (by_p, by_rho), rtol=1e-12)
    assert by_p > 0
    assert by_rho < 0


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize(("p_a", "tau"), [(0.8, 0.05), (0.95, 0.2), (0.999, 0.01)])
def test_derivatives_of_the_radius(channel, p_a, tau, x64):
    ratio = CHANNELS[channel]
    rho = float(hrs.core.certified_radius(p_a, ratio, tau))
    by_p, by_tau = jax.grad(hrs.core.certified_radius, argnums=(0, 2))(p_a, ratio, tau)
    if rho <= 0:
        assert (float(by_p), float(by_tau)) == (0, 0)
        return
    step = 1e-4 * min(p_a, 1 - p_a)
    numeric = difference(lambda p: hrs.core.certified_radius(p, ratio, tau), p_a, step)
    assert float(by_p) == pytest.approx(numeric, rel=1e-6)
    numeric = difference(lambda t: hrs.core.certified_radius(p_a, ratio, t), tau, 1e-4 * tau)
    assert float(by_tau) == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("channel", CHANNELS)
def test_derivatives_by_the_masses(channel, x64):
    """Along every log mass and the singular clean mass, the ratio of each atom held fixed."""
    ratio = CHANNELS[channel]
    p_a, rho, tau = 0.9, 0.4, 0.02

    def worst(log_p, log_q, p_0):
        changed = dataclasses.replace(ratio, log_p=log_p, log_q=log_q, p_0=p_0)
        return hrs.core.worst_case_probability(p_a, changed, rho)[0]

    def radius(log_p, log_q, p_0):
        changed = dataclasses.replace(ratio, log_p=log_p, log_q=log_q, p_0=p_0)
        return hrs.core.certified_radius(p_a, changed, tau)

    at = (jnp.asarray(ratio.log_p), jnp.asarray(ratio.log_q), jnp.asarray(float(ratio.p_0)))
    exact = dual_value(ratio, p_a, rho)
    for function in (worst, radius):
        by_p, by_q, by_p_0 = jax.grad(function, argnums=(0, 1, 2))(*at)
        if function is worst:
            # p_A < 1/2 or not: near one the clean masses count through 1 - F, so that p_0 has no part of its own
            np.testing.assert_allclose(by_q, exact["q"], rtol=1e-6, atol=1e-12)
            np.testing.assert_allclose(by_p, exact["p"], rtol=1e-6, atol=1e-12)
            assert float(by_p_0) == pytest.approx(exact["p_0"], rel=1e-6)
        elif channel != "gaussian":  # there V with more adversarial mass than 1 would pass the ceiling of d = 0
            scale = float(jax.grad(function, argnums=1)(*at).sum())
            assert scale > 0
            # from below: a law with more adversarial mass than one has a radius beyond that of one Gaussian
            values = [float(function(at[0], at[1] - step, at[2])) for step in (0.0, 1e-3, 2e-3)]
            numeric = (3 * values[0] - 4 * values[1] + values[2]) / 2e-3
            assert float(by_q.sum()) == pytest.approx(numeric, rel=1e-4)


def dual_value(ratio: LikelihoodRatio, p_a: float, rho: float) -> dict[str, np.ndarray]:
    """Envelope theorem by hand: q_i Phi(a_i - rho), - t p_i Phi(a_i) and - t at the root of F = p_A."""
    log_ratio, p, q = ratio.log_ratio, np.exp(ratio.log_p), np.exp(ratio.log_q)
    low, high = -100.0, 100.0
    for _ in range(200):
        c = (low + high) / 2
        clean = float(ratio.p_0) + p @ ndtr((c - log_ratio) / rho + rho / 2)
        low, high = (c, high) if clean < p_a else (low, c)
    a = (low - log_ratio) / rho + rho / 2
    return {"q": q * ndtr(a - rho), "p": -np.exp(low) * p * ndtr(a), "p_0": -np.exp(low)}


# One trace


def test_new_values_never_retrace_a_core():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def both(p, ratio, x, tau):
        return hrs.core.worst_case_probability(p, ratio, x), hrs.core.certified_radius(p, ratio, tau)

    with jax.enable_x64(True):
        for beta, p_a, rho, tau in ((0.25, 0.9, 0.1, 0.5), (0.7, 0.999, 2.0, 1e-3), (0.5, 0.2, 0.0, 0.1)):
            ratio = pad(hrs.UniformKernel(beta, 77).likelihood_ratio(4))
            both(jnp.full(3, p_a), ratio, jnp.full(3, rho), jnp.full(3, tau))


def test_new_values_never_compile_a_host_function_again():
    blocks = (_solve.solve_worst_case, _solve.solve_radius, _solve.solve_required)

    def ask(beta, vocab_size, tau, seed):
        rng = np.random.default_rng(seed)
        smoothing = hrs.HybridSmoothing(hrs.UniformKernel(beta, vocab_size), float(rng.uniform(0.1, 2)))
        p_a = rng.uniform(0.5, 1.0, 40)
        for d in (0, 1, 4, 15):  # at most 31 atoms: one capacity
            hrs.worst_case_probability(p_a, d, rng.uniform(0, 1, 40), smoothing)
            hrs.certified_radius(p_a, d, smoothing, tau)
            hrs.required_probability(d, rng.uniform(0, 1, 40), smoothing, tau)

    ask(0.25, 32_000, 4.6e-5, seed=0)
    ask(0.9, 20, 0.01, seed=1)  # whatever the first pass of the radius leaves unfinished comes in blocks of 1 or 16
    for size in (1, 16, 256):
        _batches.radius_lanes(identity(), *(np.full(size, x) for x in (0.9, 0.1, 0.5, 0.5)))
    before = [block._cache_size() for block in blocks]
    ask(0.5, 500, 0.1, seed=2)
    ask(0.05, 7, 0.5, seed=3)
    ask(0.8, 3, 0.3, seed=4)
    assert [block._cache_size() for block in blocks] == before


def test_host_blocks_compile_once_per_size_and_capacity():
    before = _solve.solve_worst_case._cache_size()
    for lanes in (3000, 3500, 4096):
        hrs.worst_case_probability(np.linspace(0.1, 0.9, lanes), 2, 0.1, SMOOTHING)
    assert _solve.solve_worst_case._cache_size() <= before + 1


# float32


def float32_questions(count: int, seed: int):
    """Questions whose every number is a float32."""
    for case in short_cases(count, seed):
        p_a, tau = float(np.float32(case.p_a)), float(np.float32(case.tau))
        rho = float(np.float32(case.epsilon / case.sigma))
        yield dataclasses.replace(case, p_a=p_a, tau=tau, sigma=1.0, epsilon=rho)


def test_float32_core_is_sound():
    worst = jax.jit(hrs.core.worst_case_probability)
    radius = jax.jit(hrs.core.certified_radius)
    certified = tight = 0
    for case in float32_questions(500, seed=32):
        channels = case.channels
        ratios = smoothing_of(case).likelihood_ratios(case.d)
        ratios = [pad(ratio, 128) for ratio in ratios]
        p_a, rho, tau = (np.float32(x) for x in (case.p_a, case.epsilon, case.tau))
        bounds = [worst(p_a, ratio, rho) for ratio in ratios]
        found = min(float(radius(p_a, ratio, tau)) for ratio in ratios)
        assert all(bound.dtype == jnp.float32 for pair in bounds for bound in pair)
        lower, upper = (min(float(bound) for bound in column) for column in zip(*bounds, strict=True))
        assert oracle.lower_bound_is_sound(channels, case.p_a, case.rho, lower), case
        assert oracle.upper_bound_is_sound(channels, case.p_a, case.rho, upper), case
        if found >= 0:
            assert found < np.inf or case.p_a == 1
            if found < np.inf:
                assert oracle.radius_is_sound(channels, case.p_a, case.tau, oracle.exact(found)), case
        certified += found > 0
        tight += upper > 1e-6 and upper - lower < 1e-2 * upper
    assert certified > 100
    assert tight > 150


def test_float32_core_of_a_double_rounds_towards_the_safe_side():
    """Python and float64 numbers that float32 cannot hold."""
    for p_a in (0.9, 0.99, 0.999, 1 - 1e-6, 0.1, 1e-3):
        for rho in (0.1, 0.3, 1.1):
            lower, _ = hrs.core.worst_case_probability(p_a, identity(), rho)
            assert lower.dtype == jnp.float32
            assert oracle.lower_bound_is_sound(oracle.gaussian(), p_a, rho, float(lower))
        for tau in (0.05, 0.3):
            found = float(hrs.core.certified_radius(p_a, identity(), tau))
            assert found < 0 or oracle.radius_is_sound(oracle.gaussian(), p_a, tau, oracle.exact(found))


def test_dtype_follows_the_inputs():
    ratio = CHANNELS["uniform"]
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            p, x = jnp.asarray([0.9, 0.99], dtype), jnp.asarray([0.1, 0.2], dtype)
            assert jax.eval_shape(hrs.core.worst_case_probability, p, ratio, x)[0].dtype == dtype
            assert jax.eval_shape(hrs.core.certified_radius, p, ratio, x).dtype == dtype
            assert jax.eval_shape(hrs.core.required_probability, ratio, x, p)[0].dtype == dtype


# The host API and its surroundings


@pytest.mark.parametrize("promotion", ["strict", "standard"])
@pytest.mark.parametrize("wide", [False, True])
def test_host_functions_do_not_depend_on_the_callers_settings(wide, promotion):
    p_a, d = np.linspace(0.5, 0.9999, 40), np.arange(3)[:, None]

    def answers():
        return (
            hrs.worst_case_probability(p_a, d, 0.1, SMOOTHING),
            hrs.largest_probability(1 - p_a, d, 0.1, SMOOTHING),
            hrs.certified_radius(p_a, d, SMOOTHING, 4.6e-5),
            hrs.required_probability(d, np.linspace(0, 1, 5), SMOOTHING, 4.6e-5),
            hrs.frontier_table(range(2), SMOOTHING, 4.6e-5, size=9).certified_radius(p_a),
            hrs.certify([9_999], 10_000, SMOOTHING, 4.6e-5, 0.01, range(3)).radius,
        )

    expected = answers()
    before = dict(jax.config.values)
    with jax.enable_x64(wide), jax.numpy_dtype_promotion(promotion):
        inside = answers()
        assert jax.config.jax_enable_x64 == wide
    assert dict(jax.config.values) == before
    for one, other in zip(expected, inside, strict=True):
        assert type(other) is np.ndarray
        assert other.dtype == np.float64
        np.testing.assert_array_equal(one, other)


def test_host_functions_return_python_scalars_for_scalars():
    assert type(hrs.worst_case_probability(0.9, 1, 0.1, SMOOTHING)) is float
    assert type(hrs.largest_probability(0.1, 1, 0.1, SMOOTHING)) is float
    assert type(hrs.certified_radius(0.9, 1, SMOOTHING, 0.5)) is float
    assert type(hrs.required_probability(1, 0.1, SMOOTHING, 0.5)) is float
    assert type(hrs.certified_budget(0.9, SMOOTHING, 0.5)) is int
    assert type(hrs.required_samples(1, 0.1, SMOOTHING, 0.5, 0.01)) is int


def test_host_functions_broadcast():
    p_a, d, epsilon = np.full((4, 1, 1), 0.99), np.arange(3)[:, None], np.linspace(0, 1, 5)
    worst = hrs.worst_case_probability(p_a, d, epsilon, SMOOTHING)
    assert worst.shape == (4, 3, 5)
    single = [[hrs.worst_case_probability(0.99, int(b), float(e), SMOOTHING) for e in epsilon] for b in d[:, 0]]
    np.testing.assert_allclose(worst[2], single, rtol=1e-12)
    assert hrs.certified_radius(p_a, d, SMOOTHING, np.full(5, 0.1)).shape == (4, 3, 5)
    assert hrs.certified_budget(p_a, SMOOTHING, 0.1, epsilon).shape == (4, 1, 5)
    assert hrs.required_probability(d, epsilon, SMOOTHING, 0.1).shape == (3, 5)
    assert hrs.worst_case_probability(np.zeros(0), 1, 0.1, SMOOTHING).shape == (0,)
