"""The record of a run's noise: what fixes the draws, what is left over, and what two runs must agree on."""

import dataclasses
import json

import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.kernels.record import (
    build_smoothing,
    describe_noise,
    describe_smoothing,
    rounding_text,
    smoothing_text,
)
from hybrid_rs_jax.sampling.ledger import Ledger, LedgerError

HYBRID = hrs.HybridSmoothing(hrs.UniformKernel(0.3, 512), 0.25)


def test_the_noise_names_generator_sampler_grid_and_what_is_left():
    found = describe_noise(HYBRID, 64)
    assert json.loads(json.dumps(found)) == found
    assert found.pop("sampler").startswith("hybrid_rs_jax grid noise, version ")
    assert found == {
        "generator": "threefry2x32",
        "partitionable": True,
        "step": 1 / 255,
        "outcomes": 1175,
        "total_variation": HYBRID.total_variation(64),
        "off_grid_attackers": False,
    }


def test_text_alone_has_no_grid_and_leaves_nothing():
    found = describe_noise(hrs.HybridSmoothing(hrs.AbsorbingKernel(0.5), None), 64)
    assert (found["step"], found["outcomes"], found["total_variation"]) == (None, None, 0.0)


@pytest.mark.parametrize("step", [None, 0.01])
def test_a_smoothing_comes_back_with_its_step(step):
    smoothing = dataclasses.replace(HYBRID, step=step)
    record = json.loads(json.dumps(describe_smoothing(smoothing)))
    assert build_smoothing(record) == smoothing
    del record["step"]
    assert build_smoothing(record) == HYBRID, "runs of version 0.1 say no step"


def test_beta_is_printed_as_it_was_given_though_it_is_drawn_in_steps_of_a_word():
    assert HYBRID.discrete.beta != 0.3
    assert "beta = 0.3," in smoothing_text(describe_smoothing(HYBRID))


def test_a_change_by_rounding_is_rounded_up():
    assert "by at most 0.001962:" in rounding_text(0.0019611)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"generator": "rbg"}, "noise.generator"),
        ({"step": 0.01}, "noise.step"),
        ({"sampler": "other"}, "noise.sampler"),
    ],
)
def test_a_run_is_not_resumed_with_other_noise(tmp_path, change, field):
    header = {"noise": describe_noise(HYBRID, 64)}
    Ledger.create(tmp_path / "run", header).close()
    Ledger.resume(tmp_path / "run", header).close()
    with pytest.raises(LedgerError, match=field):
        Ledger.resume(tmp_path / "run", {"noise": header["noise"] | change})
