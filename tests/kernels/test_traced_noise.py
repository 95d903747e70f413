"""Kernels whose numbers JAX traces: the law of the host, and derivatives of a radius in beta and sigma."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.kernels import _traced

KERNELS = {
    "uniform": lambda beta: hrs.UniformKernel(beta, 512),
    "two symbols": lambda beta: hrs.UniformKernel(beta, 2),
    "absorbing": lambda beta: hrs.AbsorbingKernel(beta),
}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("beta", [0.25, 0.75, 1 - 2.0**-12])
@pytest.mark.parametrize("d", [0, 1, 4, 31])
def test_a_traced_law_is_the_one_of_the_host_within_the_rounding_that_it_states(kernel, beta, d, x64):
    make = KERNELS[kernel]
    traced, host = jax.jit(lambda b: make(b).likelihood_ratio(d))(beta), make(beta).likelihood_ratio(d)
    unit = 2.0**-53
    for name in ("log_p", "log_q"):
        found, exact = np.asarray(getattr(traced, name)), getattr(host, name)
        allowed = (float(traced.rounding) + float(host.rounding)) * (np.abs(exact) + 4) * unit
        assert (np.abs(found - exact) <= allowed).all()
    np.testing.assert_allclose(np.asarray(traced.log_ratio), host.log_ratio, rtol=1e-12, atol=1e-12)
    assert float(traced.p_0) == pytest.approx(float(host.p_0), rel=1e-14)
    assert (np.diff(np.asarray(traced.log_ratio)) >= 0).all()


def radius(kernel, beta, sigma, d, p_a, tau):
    smoothing = hrs.HybridSmoothing(KERNELS[kernel](beta), sigma)
    (law,) = smoothing.likelihood_ratios(d)
    return smoothing.sigma * hrs.core.certified_radius(p_a, law, tau)


@pytest.mark.parametrize(
    ("kernel", "beta", "d", "p_a", "tau"),
    [
        ("uniform", 0.25, 1, 0.99, 0.01),
        pytest.param("uniform", 0.9, 4, 0.9, 0.05, marks=pytest.mark.slow),
        ("absorbing", 0.7, 2, 0.99, 0.1),
        ("two symbols", 0.3, 3, 0.99, 0.2),
    ],
)
def test_the_radius_differentiates_in_beta_and_sigma(kernel, beta, d, p_a, tau, x64):
    """Against differences of the host function, whose laws are computed in decimal arithmetic."""
    sigma, step = 0.5, 2.0**-12  # multiples of 2^-32, as the host draws them

    def on_host(b, s):
        return float(hrs.certified_radius(p_a, d, hrs.HybridSmoothing(KERNELS[kernel](b), s), tau))

    def difference(function):
        values = [function(k * step) for k in (-2, -1, 1, 2)]
        return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)

    value, by = jax.value_and_grad(lambda at: radius(kernel, at[0], at[1], d, p_a, tau))((beta, sigma))
    assert float(value) == pytest.approx(on_host(beta, sigma), rel=1e-9)
    assert float(value) > 0
    assert float(by[0]) == pytest.approx(difference(lambda h: on_host(beta + h, sigma)), rel=1e-5)
    assert float(by[1]) == pytest.approx(difference(lambda h: on_host(beta, sigma + h)), rel=1e-5)


def test_a_sweep_over_beta_is_one_vmap(x64):
    betas = np.linspace(0.2, 0.95, 6)
    together = jax.vmap(lambda beta: radius("uniform", beta, 0.5, 2, 0.999, 0.01))(jnp.asarray(betas))
    smoothings = [hrs.HybridSmoothing(KERNELS["uniform"](beta), 0.5) for beta in betas]
    alone = [float(hrs.certified_radius(0.999, 2, smoothing, 0.01)) for smoothing in smoothings]
    np.testing.assert_allclose(together, alone, rtol=1e-7)


def test_float32_stays_below_the_host():
    """Without x64 the margin is wider and the radius smaller, never larger."""
    for beta in (0.25, 0.5, 0.75):
        found = float(jax.jit(lambda b: radius("uniform", b, 0.5, 2, 0.999, 0.01))(beta))
        exact = float(hrs.certified_radius(0.999, 2, hrs.HybridSmoothing(KERNELS["uniform"](beta), 0.5), 0.01))
        assert 0.9 * exact < found <= exact


def test_what_is_no_number_of_noise_is_refused_as_before():
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\]"):
        hrs.UniformKernel(1.5, 512)
    with pytest.raises(ValueError, match="d must be at most 1024 for a beta that JAX traces, got 2000"):
        jax.jit(lambda beta: hrs.UniformKernel(beta, 512).likelihood_ratio(2000))(0.5)
    assert not _traced.is_traced(0.5)
    assert hrs.UniformKernel(0.1, 512).beta == round(0.1 * 2**32) / 2**32
