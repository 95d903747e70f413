"""The least probability that certifies `rho = 0`, found with the program of the radius."""

import numpy as np
import pytest

from hybrid_rs_jax import AbsorbingKernel, CategoricalKernel, UniformKernel
from hybrid_rs_jax.certificate import _batches
from hybrid_rs_jax.certificate._still import least_probability

TAU = np.array([1e-12, 4.6e-5, 0.01, 0.3, 0.5, 0.9, 0.999])
KERNELS = UniformKernel(0.25, 32_000), UniformKernel(0.9, 2), AbsorbingKernel(0.5), CategoricalKernel(0.25, (3, 9))
LAWS = {f"{kernel}, d = {d}": kernel.likelihood_ratios(d)[0] for kernel in KERNELS for d in (0, 1, 2)}


@pytest.mark.parametrize("ratio", LAWS.values(), ids=LAWS)
def test_is_what_the_search_along_the_frontier_finds(ratio):
    p, complement = least_probability(ratio, TAU)
    other, other_complement = _batches.required_lanes(ratio, TAU, 1 - TAU, np.zeros_like(TAU))
    impossible = other_complement <= 0
    np.testing.assert_array_equal(complement[impossible] <= 1e-12, True)
    np.testing.assert_allclose(p[~impossible], other[~impossible], rtol=1e-12)
    np.testing.assert_allclose(complement[~impossible], other_complement[~impossible], rtol=1e-9)


@pytest.mark.parametrize("ratio", LAWS.values(), ids=LAWS)
def test_certifies_and_the_next_float_does_not(ratio):
    p, complement = least_probability(ratio, TAU)
    small, possible = p <= 0.5, complement >= 0
    worse = np.where(small, np.nextafter(p, 0), p), np.where(small, complement, np.nextafter(complement, 1))
    for bounds, certified in (((p, complement), True), ((worse[0], worse[1]), False)):
        columns = (*(np.clip(bound, 0, 1)[possible] for bound in bounds), TAU[possible], 1 - TAU[possible])
        np.testing.assert_array_equal(_batches.radius_lanes(ratio, *columns) >= 0, certified)


def test_many_thresholds_cost_one_search():
    ratio, taus = UniformKernel(0.25, 32_000).likelihood_ratio(2), np.linspace(1e-3, 0.5, 300)
    p, complement = least_probability(ratio, taus)
    for i in (0, 7, 299):
        alone = least_probability(ratio, taus[i : i + 1])
        assert (alone[0].item(), alone[1].item()) == (p[i], complement[i])
