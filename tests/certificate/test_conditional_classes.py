"""Several classes from conditional draws: one column of votes per budget, one class, one alpha."""

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.confidence import clopper_pearson_bound
from hybrid_rs_jax.kernels import Conditional, HybridSmoothing, UniformKernel
from hybrid_rs_jax.results.reading import read_certificates

KERNEL = UniformKernel(0.9, 1000)
SMOOTHING = HybridSmoothing(Conditional(KERNEL), 0.5)
VOTES = np.array([[[990, 5, 5], [960, 20, 20]], [[400, 300, 300], [300, 400, 300]]])


def test_two_classes_are_certified_as_the_score_of_one_against_one_half():
    votes = np.array([[[995, 5], [970, 30]]])
    certificate = hrs.certify_classes(votes, SMOOTHING, 0.02, [1, 2])
    one = hrs.certify(votes[:, :, 0], 1000, SMOOTHING, 0.5, 0.01, [1, 2])  # alpha / 2 for each class
    np.testing.assert_allclose(certificate.radius, one.radius, atol=1e-9)
    assert certificate.label.tolist() == [0]


def test_a_class_is_certified_up_to_the_budget_whose_draws_agree_and_the_frontier_does_not_grow():
    certificate = hrs.certify_classes(VOTES, SMOOTHING, 0.01, [1, 2])
    assert certificate.budget[0] >= 1
    assert certificate.budget[1] == -1
    assert (np.diff(certificate.radius, axis=1) <= 0).all()
    assert certificate.p_a.shape == (2, 2)
    share = 0.01 / 2 / 6
    np.testing.assert_allclose(certificate.p_a[0, 0], clopper_pearson_bound(990, 1000, share).p, rtol=1e-12)


def test_radii_separate_the_leading_class_from_every_other_one():
    certificate = hrs.certify_classes(VOTES[:1], SMOOTHING, 0.01, [1, 2])
    for place, d in enumerate((1, 2)):
        radius = certificate.radius[0, place]
        if radius >= 0:
            own = HybridSmoothing(Conditional(KERNEL), 0.5)
            low = hrs.worst_case_probability(certificate.p_a[0, place], d, radius, own)
            high = hrs.largest_probability(certificate.p_b[0, place], d, radius, own)
            assert low > high - 1e-9


def test_files_hold_it_and_give_it_back(tmp_path):
    certificate = hrs.certify_classes(VOTES, SMOOTHING, 0.01, [1, 2])
    for suffix in (".json", ".csv", ".tex"):
        certificate.save(tmp_path / f"out{suffix}")
    assert read_certificates(tmp_path / "out.json") == certificate
    assert "votes_2_0" in (tmp_path / "out.csv").read_text().splitlines()[0]
    assert "conditional draws" in str(certificate.summary())


@pytest.mark.parametrize("votes", [VOTES[:, :1], VOTES[:, 0]])
def test_votes_of_one_budget_are_not_taken_for_several(votes):
    with pytest.raises(ValueError, match=r"shape \[inputs, 2 budgets, classes\]"):
        hrs.certify_classes(votes, SMOOTHING, 0.01, [1, 2])
