"""Forced positions in engine and run: the same noise elsewhere, one stream per set, resumed and merged."""

import contextlib

import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_rs_jax.classifiers import HostClassifier
from hybrid_rs_jax.confidence import FixedSample
from hybrid_rs_jax.data.inputs import ArrayInputs
from hybrid_rs_jax.kernels import (
    AbsorbingKernel,
    CategoricalKernel,
    Conditional,
    DeletionKernel,
    HybridSmoothing,
    UniformKernel,
    run_key,
)
from hybrid_rs_jax.sampling.design import StreamGroup
from hybrid_rs_jax.sampling.engine import sample_counts
from hybrid_rs_jax.sampling.ledger import SHARED, Ledger, Stream, merge
from hybrid_rs_jax.sampling.run import sample_run

TOKENS = np.array([[3, 1, 4, 1], [2, 2, 0, 3]], np.int32)
IMAGES = np.zeros((2, 2, 2, 1), np.float32)
ELIGIBLE = np.array([False, True, True, True])
FORCED = np.array([False, True, False, False])
SMOOTHING = HybridSmoothing(UniformKernel(0.25, 5), 0.25)
KEY = run_key(3)


def shows_a_two(tokens, images):
    return (tokens == 2).sum(axis=-1) % 2 == 1


def bright(tokens, images):
    return images.mean(axis=(1, 2, 3)) > 0.05


def noisy(smoothing, forced, n=40):
    """The copies that a classifier was given, in the order of their numbers."""
    seen = []

    def keep(tokens, images):
        seen.append((np.asarray(tokens), np.asarray(images)))
        return np.zeros(len(tokens), bool)

    sample_counts(
        HostClassifier(keep), TOKENS[:1], IMAGES[:1], smoothing, n, KEY, eligible=ELIGIBLE, forced=forced, batch_size=n
    )
    return tuple(np.concatenate(part) for part in zip(*seen, strict=True))


@pytest.mark.parametrize(
    "kernel",
    [UniformKernel(0.25, 5), AbsorbingKernel(0.25, 7), CategoricalKernel(0.25, (5, 5, 5, 5))],
    ids=["uniform", "absorbing", "categorical"],
)
def test_all_other_noise_of_a_draw_is_what_it_is_without_forced_positions(kernel):
    smoothing = HybridSmoothing(kernel, 0.25)
    (plain, pictures), (forced, same_pictures) = noisy(smoothing, None), noisy(smoothing, FORCED)
    np.testing.assert_array_equal(pictures, same_pictures)
    np.testing.assert_array_equal(plain[:, ~FORCED], forced[:, ~FORCED])
    assert (forced[:, FORCED] != plain[:, FORCED]).any()


@pytest.mark.parametrize("batch_size", [7, 64])
def test_counts_are_those_of_the_forced_law_for_every_batch_size(batch_size):
    n = 20_000
    counts = sample_counts(
        shows_a_two, TOKENS, IMAGES, SMOOTHING, n, KEY, eligible=ELIGIBLE, forced=FORCED, batch_size=64 * batch_size
    )
    even = 1.0  # chance of an even number of twos so far
    for place, clean in enumerate(TOKENS[0]):
        two = float(clean == 2) if not ELIGIBLE[place] else 0.2 if FORCED[place] else 0.25 / 4 if clean != 2 else 0.75
        even = even * (1 - two) + (1 - even) * two
    assert abs(counts[0] / n - (1 - even)) < 4 * 0.5 / n**0.5


def test_a_conditional_smoothing_without_forced_positions_draws_the_deployed_noise():
    conditional = HybridSmoothing(Conditional(SMOOTHING.discrete), 0.25)
    plain, same = (sample_counts(shows_a_two, TOKENS, IMAGES, s, 500, KEY) for s in (SMOOTHING, conditional))
    np.testing.assert_array_equal(plain, same)


@pytest.mark.parametrize(
    ("smoothing", "forced", "words"),
    [
        (SMOOTHING, np.array([True, False, False, False]), "position 0 of input 0"),
        (SMOOTHING, np.array([FORCED, ~FORCED]), "position 0 of input 1"),
        (HybridSmoothing(None, 0.25), FORCED, "forced positions need token noise"),
    ],
)
def test_what_cannot_be_forced_is_refused(smoothing, forced, words):
    with pytest.raises(ValueError, match=words):
        sample_counts(shows_a_two, TOKENS, IMAGES, smoothing, 10, KEY, eligible=ELIGIBLE, forced=forced)


def test_deleted_positions_are_gone_in_every_draw():
    kernel = DeletionKernel(0.25, pad_token=9)
    (tokens, _) = noisy(HybridSmoothing(kernel, None), np.array([False, True, True, True]))
    np.testing.assert_array_equal(tokens, np.tile([3, 9, 9, 9], (len(tokens), 1)))


GROUPS = (
    StreamGroup(FixedSample(300)),
    StreamGroup(FixedSample(50), ((0,), (1,), (2,))),
    StreamGroup(FixedSample(80), ((0, 1, 2, 3),)),
)


def drawn(folder, groups=GROUPS, indices=(0, 1), stop_after=None):
    """Counts of a run by (index, stream), and how far it came."""
    own = np.array([[False, True, True, True], [False, False, True, True]])
    inputs = ArrayInputs(("a", "b"), TOKENS, IMAGES, own)
    seen = []

    def report(progress):
        seen.append(progress.drawn)
        if stop_after is not None and progress.drawn >= stop_after:
            raise KeyboardInterrupt

    opened = Ledger.resume(folder, {"seed": 3}) if folder.exists() else Ledger.create(folder, {"seed": 3})
    with opened as ledger:
        with contextlib.suppress(KeyboardInterrupt):
            sample_run(ledger, shows_a_two, inputs, indices, SMOOTHING, groups, KEY, batch_size=60, report=report)
        return {(row.index, row.stream): (row.draws, row.counts[0]) for row in ledger.rows()}


def test_each_set_is_a_stream_and_places_that_an_input_lacks_are_left_out(tmp_path):
    rows = drawn(tmp_path / "run")
    assert rows[0, SHARED][0] == 300
    assert {str(stream) for _, stream in rows} == {"shared", "forced:0", "forced:1", "forced:2", "forced:0,1,2,3"}
    again = sample_counts(
        shows_a_two, TOKENS, IMAGES, SMOOTHING, 50, KEY,
        eligible=np.array([[False, True, True, True], [False, False, True, True]]),
        forced=np.array([[False, True, False, False], [False, False, True, False]]),
    )  # fmt: skip
    assert [rows[i, Stream("forced", (0,))][1] for i in (0, 1)] == again.tolist()


def test_a_run_that_is_stopped_in_any_group_ends_as_one_that_is_not(tmp_path):
    whole = drawn(tmp_path / "whole")
    for stop_after in (60, 620, 800):
        folder = tmp_path / f"run{stop_after}"
        drawn(folder, stop_after=stop_after)
        assert drawn(folder) == whole


def test_runs_of_some_inputs_each_are_joined(tmp_path):
    whole = drawn(tmp_path / "whole")
    drawn(tmp_path / "one", indices=(0,))
    drawn(tmp_path / "two", indices=(1,))
    merge(tmp_path / "both", [tmp_path / "one", tmp_path / "two"])
    with Ledger.open(tmp_path / "both") as ledger:
        assert {(row.index, row.stream): (row.draws, row.counts[0]) for row in ledger.rows()} == whole


def test_jax_sees_forced_positions_as_host_code_does():
    def traced(tokens, images):
        return jnp.sum(tokens == 2, axis=-1) % 2 == 1

    settings = (TOKENS, IMAGES, SMOOTHING, 400, KEY)
    host, device = (
        sample_counts(f, *settings, eligible=ELIGIBLE, forced=FORCED) for f in (HostClassifier(shows_a_two), traced)
    )
    np.testing.assert_array_equal(host, device)
