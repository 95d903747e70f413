"""Certificates hold for classifiers that look at the floats themselves: at which values noise can reach, at last bits.

On float32 noise such a classifier scored 1 at x and 0 at a distance of .008, inside a certified radius of .828.
"""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import HostClassifier
from hybrid_rs_jax.confidence import clopper_pearson_upper
from hybrid_rs_jax.kernels._alias import outcome_weights
from hybrid_rs_jax.kernels.grid import GRID_STEP, to_pixels

SIGMA, N = 0.25, 4000
SMOOTHING = hrs.HybridSmoothing(None, SIGMA)
SHAPE = (1, 8, 8, 1)
CLEAN = np.full(SHAPE, 128, np.int32)


def pixels(levels):
    """Pictures as the files hold them."""
    return (levels / 255).astype(np.float32)


NOISE = SMOOTHING.noise(np.float32).pixels
WIDTH = int(NOISE.centre)
REACHABLE = np.sort(np.asarray(to_pixels(jnp.arange(128 - WIDTH, 129 + WIDTH, dtype=jnp.int32), NOISE)))


def bits(images):
    return images.view(np.uint32)


def inside(images, values):
    place = np.clip(np.searchsorted(values, images), 0, len(values) - 1)
    return values[place] == images


#: What float32 normals could give around the clean pixel, and the grid gives as well: they share the exact values.
CLASSIFIERS = {
    "values that noise reaches from the clean picture": lambda images: inside(images, REACHABLE).all((1, 2, 3)),
    "values up to two standard deviations": lambda images: (
        inside(images, REACHABLE[(REACHABLE > 0) & (REACHABLE < 1)]).mean((1, 2, 3)) > 0.9
    ),
    "last bits of the floats": lambda images: (bits(images) & 1).sum((1, 2, 3)) % 2 == 0,
    "parity of the levels": lambda images: np.rint(images * 255).astype(int).sum((1, 2, 3)) % 2 == 0,
    "one pixel below its clean value": lambda images: images[:, 0, 0, 0] < np.float32(128.5 / 255) + 0.4,
    "all pixels against the attack": lambda images: images.mean((1, 2, 3)) < 128 / 255 + 0.06,
}
ATTACKS = {
    "one pixel by one step": [(0, 1)],
    "four pixels by one step": [(0, 1), (1, -1), (2, 1), (3, 1)],
    "one pixel by 30 steps": [(0, 30)],
    "all pixels by two steps": [(i, 2) for i in range(64)],
    "all pixels by nine steps": [(i, 9) for i in range(64)],
}


def attacked(changes):
    levels = CLEAN.copy().reshape(-1)
    for position, steps in changes:
        levels[position] += steps
    return levels.reshape(SHAPE)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_no_score_falls_below_the_certified_bound_within_the_radius(name):
    guard = HostClassifier(lambda tokens, images: CLASSIFIERS[name](images), name=name)
    inputs = [CLEAN, *map(attacked, ATTACKS.values())]
    images, tokens = pixels(np.concatenate(inputs)), np.zeros((len(inputs), 1), np.int32)
    counts = hrs.sample_counts(guard, tokens, images, SMOOTHING, N, jax.random.key(1))
    p_a = hrs.clopper_pearson(counts[0], N, 1e-4)
    delta = SMOOTHING.total_variation(64)
    for found, levels in zip(counts[1:], inputs[1:], strict=True):
        distance = np.linalg.norm((levels - CLEAN).ravel()) / 255
        bound = hrs.worst_case_probability(max(p_a - delta, 0.0), 0, distance, SMOOTHING) - delta
        assert clopper_pearson_upper(found, N, 1e-4) >= bound


@pytest.mark.parametrize("offset", [1, 3, 40, 100])
def test_exact_scores_of_any_set_of_integers_keep_the_bound(offset):
    """One pixel, scores as fractions of 2^64 from the table itself; half-lines, where the certificate is tight, too."""
    weights = outcome_weights(SIGMA, GRID_STEP)
    law = np.array(weights, object)
    rng, size = np.random.default_rng(offset), len(weights) + offset
    lines = [np.arange(size) < cut for cut in range(0, size, 97)]
    sets = [*lines, *[~line for line in lines]] + [rng.random(size) < share for share in rng.random(200)]
    sets += [np.arange(size) % 2 == 0, np.isin(np.arange(size), np.flatnonzero(law > 0))]
    delta = SMOOTHING.total_variation(1)
    worst = []
    for accepted in sets:
        clean, moved = (int(law[accepted[shift : shift + len(weights)]].sum()) for shift in (0, offset))
        p = np.nextafter(float(Fraction(clean, 2**64)), 0) - delta
        if p <= 0:
            continue
        bound = hrs.worst_case_probability(min(p, 1.0), 0, offset / 255, SMOOTHING) - delta
        assert Fraction(moved, 2**64) >= Fraction(bound)
        worst.append(float(Fraction(moved, 2**64)) - bound)
    assert min(worst) < 5e-3, "half-lines come close to the bound, so the test can fail"
