"""The noise that the engine draws has the law that is certified: atom frequencies against the likelihood ratios."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import hybrid_rs_jax as hrs

DRAWS = 1_000_000
CLEAN = np.array([3, 1, 4, 1, 5, 2], np.int32)
D = 3
ATTACKED = np.where(np.arange(6) < D, (CLEAN + 2) % 7, CLEAN).astype(np.int32)
KERNELS = {
    "uniform": hrs.UniformKernel(0.4, 7),
    "uniform, L < 0": hrs.UniformKernel(0.95, 7),
    "absorbing": hrs.AbsorbingKernel(0.3, mask_token=0),
    "categorical": hrs.CategoricalKernel(0.35, (7, 7, 7, 7, 7, 7)),
    "categorical, unequal": hrs.CategoricalKernel(0.2, (9, 9, 8, 7, 7, 7)),
}


def log_masses(kernel):
    """Log p1(z | x) for a position: kept, or one given other symbol."""
    beta = float(np.max(kernel.beta))
    size = np.array(getattr(kernel, "cardinalities", [getattr(kernel, "vocab_size", 0)] * 6), np.float64)
    return np.log1p(-beta), np.log(beta) - np.log(size - 1)


def ratio_of(kernel):
    """A function of noisy tokens: log q/p over the changed positions, in JAX; -inf, +inf and masked for absorbing."""
    if isinstance(kernel, hrs.AbsorbingKernel):

        def absorbing(tokens):
            masked = (tokens[:, :D] == kernel.mask_token).all(axis=1)
            return jnp.where(masked, 0.0, -jnp.inf)

        return absorbing
    keep, other = log_masses(kernel)

    def ratio(tokens):
        p = jnp.where(tokens == CLEAN, keep, other.astype(np.float32))
        q = jnp.where(tokens == ATTACKED, keep, other.astype(np.float32))
        return (q - p)[:, :D].sum(axis=1)

    return ratio


@pytest.mark.parametrize("name", KERNELS)
def test_atom_frequencies_are_those_of_the_likelihood_ratio(name):
    """Through `sample_counts` itself: a classifier that names the atom, one class per atom; from both inputs."""
    kernel = KERNELS[name]
    law = kernel.likelihood_ratios(D)[0]
    order = np.argsort(law.log_ratio)
    levels, p, q = (np.asarray(x)[order] for x in (law.log_ratio, np.exp(law.log_p), np.exp(law.log_q)))
    edges = jnp.asarray((levels[1:] + levels[:-1]) / 2, jnp.float32)
    ratio = ratio_of(kernel)

    def atom(tokens, images):
        value = ratio(tokens)
        inside = jnp.searchsorted(edges, jnp.clip(value, -1e30, 1e30)).astype(jnp.int32)
        return jnp.where(jnp.isfinite(value), inside, jnp.int32(len(levels)))

    smoothing = hrs.HybridSmoothing(kernel, None)
    counts = hrs.sample_counts(
        atom,
        np.stack([CLEAN, ATTACKED]),
        np.zeros((2, 1, 1, 1), np.float32),
        smoothing,
        DRAWS,
        jax.random.key(1),
        classes=len(levels) + 1,
        batch_size=100_000,
    )
    singular = [law.p_0, law.q_inf]
    for observed, masses, rest in zip(counts, (p, q), singular, strict=True):
        expected = np.append(masses, rest) * DRAWS
        assert expected.sum() == pytest.approx(DRAWS, rel=1e-12)
        assert np.all(observed[expected == 0] == 0)
        large = expected > 5  # chi-square wants no nearly empty cells
        observed = np.append(observed[large], observed[~large].sum())
        expected = np.append(expected[large], expected[~large].sum())
        filled = expected > 0
        assert stats.chisquare(observed[filled], expected[filled]).pvalue > 1e-4


def test_pixel_noise_has_the_certified_standard_deviation():
    """Share of copies beyond each of many levels, against the Gaussian that the certificate assumes.

    The noise is that Gaussian rounded to 1/255, so its mass is exact between levels that lie half a step off the grid.
    """
    sigma, edges = 0.25, np.floor(np.linspace(-3, 3, 13) * 0.25 * 255) + 0.5

    def cell(tokens, images):
        return jnp.searchsorted(jnp.asarray((128 + edges) / 255, jnp.float32), images[:, 1, 0, 0]).astype(jnp.int32)

    counts = hrs.sample_counts(
        cell,
        np.zeros((1, 1), np.int32),
        np.full((1, 2, 2, 1), 128 / 255, np.float32),
        hrs.HybridSmoothing(None, sigma),
        DRAWS,
        jax.random.key(2),
        classes=edges.size + 1,
        batch_size=100_000,
    )[0]
    expected = np.diff(np.concatenate([[0], stats.norm.cdf(edges / 255 / sigma), [1]])) * DRAWS
    assert stats.chisquare(counts, expected).pvalue > 1e-4
