"""What the experiments share: certificates of their own draws."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import hybrid_rs_jax as hrs

FOLDER = Path(__file__).parents[2] / "experiments"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the experiments are not beside the tests")


def test_no_experiment_certifies_its_draws_as_if_they_were_ideal():
    """One door, which subtracts how far the noise that was drawn is from the ideal one."""
    naked = re.compile(r"\bhrs\.certify(_classes)?\(|\bcertify_(counts|decisions|class_counts)\(")
    found = {path.name for path in FOLDER.rglob("*.py") if naked.search(path.read_text(encoding="utf-8"))}
    assert found == {"_common.py"}


def test_certificates_of_own_draws_subtract_what_their_noise_lacks(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    import _common as common

    smoothing = hrs.HybridSmoothing(common.uniform(0.25), 0.5)
    counts = np.array([10_000, 9000])
    found = common.certified(counts, 10_000, smoothing, common.PIXELS, range(3), plan=None)
    delta = smoothing.total_variation(64)
    assert delta > 0
    assert found.statement.noise.total_variation == delta
    ideal = hrs.certify(counts, 10_000, smoothing, common.TAU, common.ALPHA, range(3))
    shown = ideal.radius >= 0
    assert (found.radius[shown] < ideal.radius[shown]).all()
    np.testing.assert_allclose(found.radius, ideal.radius, atol=1e-6)
