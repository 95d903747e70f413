"""Prototype heads: no vector within the certified cap, and no attack within the radius, changes the decision."""

import numpy as np
import pytest

from hybrid_rs_jax.certificate.prototypes import (
    cap_similarity,
    certify_prototypes,
    directions,
    nearest,
    paper_similarity,
)
from hybrid_rs_jax.confidence.score_law import ScoreLaw
from hybrid_rs_jax.kernels import HybridSmoothing

RNG = np.random.default_rng(0)
PROTOTYPES, FEATURES = RNG.standard_normal((5, 8)), RNG.standard_normal((200, 8))
UNIT = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)


def turned(u, towards, cosine):
    """The unit vector at this cosine from u, in the plane of u and `towards`."""
    side = towards - u * (u @ towards)
    return cosine * u + np.sqrt(1 - cosine**2) * side / np.linalg.norm(side)


def test_every_vector_of_the_cap_keeps_the_decision_and_just_beyond_it_one_does_not():
    labels, needed = nearest(FEATURES, PROTOTYPES), cap_similarity(FEATURES, PROTOTYPES)
    apart = directions(labels, PROTOTYPES)
    unit = PROTOTYPES / np.linalg.norm(PROTOTYPES, axis=1, keepdims=True)
    for u, y, cosine, w in zip(UNIT, labels, needed, apart, strict=True):
        worst = w[np.argmin(w @ u)]
        inside = [turned(u, -worst, cosine), *(turned(u, v, cosine) for v in RNG.standard_normal((20, 8)))]
        assert all((unit @ v).argmax() == y for v in inside)
        assert (unit @ turned(u, -worst, cosine - 1e-6)).argmax() != y


def test_the_cap_never_asks_for_more_than_the_closed_form_of_the_paper():
    cap, paper = cap_similarity(FEATURES, PROTOTYPES), paper_similarity(FEATURES, PROTOTYPES)
    assert np.all(cap <= paper + 1e-8)
    assert np.mean(paper - cap) > 0.001


def test_two_classes_close_to_each_other_need_more():
    near = np.array([[1.0, 0.0], [1.0, 0.01]])
    assert cap_similarity([[1.0, 0.004]], near)[0] > 0.9999
    assert cap_similarity([[1.0, 0.005]], near)[0] == 1.0  # in the middle: nothing is certified


def laws(angles, n, rng):
    """A plane encoder f(z) = (cos, sin)(angle + .3 z) seen through noise of deviation 1, and its two laws."""
    turned_by = angles[:, None] + 0.3 * rng.standard_normal((len(angles), n))
    draws = np.stack([np.cos(turned_by), np.sin(turned_by)], axis=2)
    clean = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    w = directions(nearest(clean, np.eye(2)), np.eye(2))[:, 0]
    to_score = [ScoreLaw.of(np.clip((1 + np.einsum("inf,if->in", draws, v)) / 2, 0, 1)) for v in (clean, w)]
    return clean, *to_score


def test_no_shift_within_the_radius_changes_the_decision_of_the_smoothed_head():
    angles = np.linspace(0.0, 0.7, 8)
    clean, similarity, margin = laws(angles, 4000, np.random.default_rng(3))
    found = certify_prototypes(clean, np.eye(2), HybridSmoothing(None, 1.0), 0.01, similarity=similarity, margin=margin)
    assert np.array_equal(found.radius, np.maximum(found.cap_radius, found.direct_radius))
    # the smoothed feature of an input shifted by r points to the angle + .3 r: the border is pi / 4
    border = (np.pi / 4 - angles) / 0.3
    assert np.all(found.radius[:, 0] <= border)
    assert np.all(found.direct_radius[:5, 0] > 0.4 * border[:5])
    assert np.all(found.direct_radius[:5, 0] > found.cap_radius[:5, 0])


def test_one_law_alone_takes_the_whole_risk():
    clean, similarity, margin = laws(np.array([0.1]), 2000, np.random.default_rng(3))
    smoothing = HybridSmoothing(None, 1.0)
    both = certify_prototypes(clean, np.eye(2), smoothing, 0.02, similarity=similarity, margin=margin)
    alone = certify_prototypes(clean, np.eye(2), smoothing, 0.01, margin=margin)
    assert both.direct_radius[0, 0] == alone.radius[0, 0]
    assert alone.cap is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margin": None}, "similarity, margin or both"),
        ({"features": [[1.0, 0.0], [0.0, 1.0]]}, "a law for each of the 2 features"),
        ({"features": [[0.0, 0.0]]}, "features must not be zero"),
        ({"features": [[np.nan, 0.0]]}, "features must be finite"),
        ({"prototypes": [[1.0, 0.0], [2.0, 0.0]]}, "differ in their direction"),
        ({"prototypes": [[1.0, 0.0]]}, "at least 2 rows"),
    ],
)
def test_heads_that_decide_nothing_are_refused(change, message):
    margin = ScoreLaw.of([[0.9, 0.8]])
    arguments = {"features": [[1.0, 0.1]], "prototypes": np.eye(2), "margin": margin, "similarity": None} | change
    if "prototypes" in change:
        arguments["similarity"] = margin
    with pytest.raises(ValueError, match=message):
        certify_prototypes(smoothing=HybridSmoothing(None, 1.0), alpha=0.01, **arguments)
