"""One noisy picture for all texts of a draw: the ledger holds what it would hold if each stream were drawn alone."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_rs_jax.classifiers import Denoised
from hybrid_rs_jax.confidence import FixedSample, SequentialTest
from hybrid_rs_jax.data.inputs import ArrayInputs
from hybrid_rs_jax.kernels import AbsorbingKernel, DeletionKernel, HybridSmoothing, UniformKernel, run_key
from hybrid_rs_jax.sampling import run
from hybrid_rs_jax.sampling.design import StreamGroup
from hybrid_rs_jax.sampling.ledger import Ledger
from hybrid_rs_jax.sampling.run import sample_run

RNG = np.random.default_rng(0)
TOKENS, IMAGES = RNG.integers(0, 5, (3, 6)).astype(np.int32), RNG.random((3, 4, 4, 1)).astype(np.float32)
ELIGIBLE = np.array([[False, True, True, True, True, True]] * 2 + [[False, False, True, True, True, True]])
TEST = SequentialTest(0.5, 0.05, 120)
#: Ordinary draws, a set by itself with fewer draws, a family of sets, and one whose votes decide when it ends.
GROUPS = (
    StreamGroup(FixedSample(90)),
    StreamGroup(FixedSample(31), ((0, 1, 2, 3),)),
    StreamGroup(FixedSample(50), ((0, 1), (0, 2), (1, 2))),
    StreamGroup(TEST, ((0,), (1,))),
)


class Guard:
    """A margin of text and picture; `pictures` notes how many it has been compiled for, with how many texts."""

    tie_tolerance = 1e-6

    def __init__(self, shares):
        self.pictures, self.scale = [], jnp.float32(0.25)
        self.shared_picture = self._shared if shares else None

    def __call__(self, tokens, images):
        return self.apply(self.scale, tokens, images) > 0

    def functional(self):
        return self.apply, self.scale

    def _shared(self):
        return self.of_pictures

    def apply(self, scale, tokens, images):
        return self.of_pictures(scale, tokens[:, None], images)[:, 0]

    def of_pictures(self, scale, tokens, images):
        self.pictures.append(tokens.shape[:2])
        bright = images.mean(axis=(1, 2, 3))[:, None]
        return bright - 0.5 + scale * ((tokens == 2).astype(jnp.float32).sum(axis=-1) - 1)


def drawn(folder, guard, smoothing, groups=GROUPS, batch_size=16, stop_after=None):
    inputs = ArrayInputs(("a", "b", "c"), TOKENS, IMAGES, ELIGIBLE)

    def report(progress):
        if stop_after is not None and progress.drawn >= stop_after:
            raise KeyboardInterrupt

    opened = Ledger.resume(folder, {"seed": 3}) if folder.exists() else Ledger.create(folder, {"seed": 3})
    with opened as ledger:
        with contextlib.suppress(KeyboardInterrupt):
            last = sample_run(
                ledger, guard, inputs, range(3), smoothing, groups, run_key(3), batch_size=batch_size, report=report
            )
            most = sum(len(group.streams) * group.plan.max_samples for group in groups)
            assert (last.finished, last.settled) == (last.inputs, 3 * most)
        return {(row.index, row.stream): (row.draws, row.counts[0], row.ties) for row in ledger.rows()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("alone") / "run", Guard(False), HybridSmoothing(UniformKernel(0.25, 5), 0.25))


@pytest.mark.parametrize(("batch_size", "most"), [(16, 16), (64, 16), (7, 3)])
def test_counts_are_those_of_streams_drawn_one_by_one(batch_size, most, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "MOST_TEXTS", most)
    guard = Guard(True)
    together = drawn(tmp_path / "run", guard, HybridSmoothing(UniformKernel(0.25, 5), 0.25), batch_size=batch_size)
    assert together == alone
    assert len(together) == 3 * 7
    devices = len(jax.local_devices())
    pictures = -(-batch_size // devices) * devices
    assert {(pictures, texts) for _, texts in guard.pictures} == set(guard.pictures)
    assert {texts for _, texts in guard.pictures} <= {1, 7 if most > 7 else 3}


def test_a_run_that_is_stopped_and_goes_on_ends_as_one_that_is_not(alone, tmp_path):
    smoothing = HybridSmoothing(UniformKernel(0.25, 5), 0.25)
    for stop_after in (1, 500):
        folder = tmp_path / f"run{stop_after}"
        assert drawn(folder, Guard(True), smoothing, stop_after=stop_after) != alone
        assert drawn(folder, Guard(True), smoothing) == alone


@pytest.mark.parametrize(
    "smoothing",
    [
        HybridSmoothing(AbsorbingKernel(0.5, 2), 0.25),
        HybridSmoothing(DeletionKernel(0.25, pad_token=9), 0.5),
        HybridSmoothing(UniformKernel(0.5, 5), None),
    ],
    ids=["absorbing", "deletion", "text only"],
)
def test_every_kind_of_noise_on_texts_is_the_same_together_and_alone(smoothing, tmp_path):
    groups = (GROUPS[0], GROUPS[2])
    one, other = (drawn(tmp_path / str(shares), Guard(shares), smoothing, groups) for shares in (False, True))
    assert one == other


def test_a_picture_is_denoised_once_for_all_texts_of_a_draw(tmp_path):
    seen, smoothing = [], HybridSmoothing(UniformKernel(0.25, 5), 0.25)

    def denoiser(images, sigma):
        seen.append(len(images))
        return jnp.clip(images, 0, 1)

    groups = (StreamGroup(FixedSample(64), ((0,), (0, 1), (0, 1, 2), (0, 1, 2, 3))),)
    counts = []
    for shares in (False, True):
        behind = Guard(shares)
        counts.append(drawn(tmp_path / str(shares), Denoised(behind, denoiser), smoothing, groups))
        assert ((16, 4) if shares else (64, 1)) in behind.pictures
    assert set(seen) == {16}
    host = Guard(False)  # drawn set after set
    host.on_host, host.functional = True, None
    counts.append(drawn(tmp_path / "host", Denoised(host, denoiser), smoothing, groups))
    one, two, alone = ({place: row[:2] for place, row in rows.items()} for rows in counts)
    assert one == two == alone
