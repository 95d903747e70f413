"""A run with its ledger: stopped anywhere and resumed, it holds exactly the counts of one that never stopped."""

import threading
import types
from concurrent.futures import CancelledError

import jax
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.confidence import FixedSample, SequentialTest
from hybrid_rs_jax.data.inputs import ArrayInputs, Input
from hybrid_rs_jax.errors import UnreadableInputError
from hybrid_rs_jax.sampling import InterruptedRun, Ledger, LedgerError, _backends, merge, sample_run
from hybrid_rs_jax.sampling._schedule import Schedule
from hybrid_rs_jax.sampling.ledger import SHARED

SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.4, 10), 0.5)
KEY = jax.random.key(7)
B, L = 9, 5
TOKENS = (np.arange(B * L, dtype=np.int32).reshape(B, L) * 7) % 10
IMAGES = np.linspace(0, 1, B * 4, dtype=np.float32).reshape(B, 2, 2, 1)
ELIGIBLE = np.array([False, True, True, True, True])
IDS = [f"input-{i}" for i in range(B)]
INPUTS = ArrayInputs(IDS, TOKENS, IMAGES, ELIGIBLE)
HEADER = {"seed": 7}
FIXED = FixedSample(100)
TEST = SequentialTest(0.6, 0.05, 400)


def by_rule(tokens, images):
    """Uses every token and one pixel, and no arithmetic that a batch could change; unsafe in about 3 of 4 draws."""
    return (tokens.sum(axis=1) % 4 != 0) | (images[:, 0, 0, 0] > 1.5)


def three_classes(tokens, images):
    return tokens.sum(axis=1) % 3


class Stop(Exception):
    """Ends a session in the middle."""


def session(folder, plan=FIXED, *, stop_after=None, inputs=INPUTS, indices=range(B), classifier=by_rule, **o):
    """One session: create the ledger, or go on with it."""
    batches = []

    def report(progress):
        batches.append(progress.drawn)
        if len(batches) == stop_after:
            raise Stop

    header = HEADER | {"classes": o.get("classes")}
    start = Ledger.resume if (folder / "ledger.sqlite").exists() else Ledger.create
    with start(folder, header) as ledger:
        return sample_run(ledger, classifier, inputs, indices, SMOOTHING, plan, KEY, report=report, **o)


def totals(folder):
    """Id -> (draws, successes or votes)."""
    with Ledger.open(folder) as ledger:
        found = ledger.counts()
    table = found.streams[SHARED]
    counts = [row if len(row) > 1 else row[0] for row in table.counts.tolist()]
    return {found.ids[i]: pair for i, *pair in zip(table.index.tolist(), table.draws.tolist(), counts, strict=True)}


@pytest.fixture(scope="module")
def whole():
    """What the engine counts without a ledger."""
    draws = hrs.sample(by_rule, TOKENS, IMAGES, SMOOTHING, TEST, KEY, eligible=ELIGIBLE)
    assert len(set(draws.n.tolist())) > 2, "inputs stop at different looks"
    return {i: [n, k] for i, n, k in zip(IDS, draws.n.tolist(), draws.successes.tolist(), strict=True)}


@pytest.mark.parametrize("plan", ["fixed", "test"])
def test_a_run_that_is_stopped_again_and_again_ends_with_the_counts_of_one_that_is_not(plan, tmp_path, whole):
    if plan == "fixed":
        counts = hrs.sample_counts(by_rule, TOKENS, IMAGES, SMOOTHING, 100, KEY, eligible=ELIGIBLE)
        whole = {i: [100, int(k)] for i, k in zip(IDS, counts, strict=True)}
    stopping = FixedSample(100) if plan == "fixed" else TEST
    for batch_size in (64, 50, 33, 64, 20):
        with pytest.raises(Stop):
            session(tmp_path / "run", stopping, stop_after=2, batch_size=batch_size)
    progress = session(tmp_path / "run", stopping, batch_size=64)
    assert progress.finished == progress.inputs == B
    assert totals(tmp_path / "run") == whole
    assert session(tmp_path / "run", stopping).classified == 0, "a finished run draws nothing"
    assert totals(tmp_path / "run") == whole


def test_a_fixed_sample_can_be_extended(tmp_path):
    session(tmp_path / "run", FixedSample(60))
    session(tmp_path / "run", FixedSample(100))
    session(tmp_path / "once", FixedSample(100))
    assert totals(tmp_path / "run") == totals(tmp_path / "once")


def test_runs_over_shards_merge_into_the_whole_run(tmp_path):
    session(tmp_path / "whole")
    parts = [tmp_path / f"part-{rank}" for rank in range(2)]
    for rank, part in enumerate(parts):
        session(part, indices=range(rank, B, 2))
    merge(tmp_path / "merged", parts)
    assert totals(tmp_path / "merged") == totals(tmp_path / "whole")


def test_votes_per_class_are_kept(tmp_path):
    with pytest.raises(Stop):
        session(tmp_path / "run", stop_after=2, batch_size=128, classifier=three_classes, classes=3)
    session(tmp_path / "run", classifier=three_classes, classes=3)
    counts = hrs.sample_counts(three_classes, TOKENS, IMAGES, SMOOTHING, 100, KEY, eligible=ELIGIBLE, classes=3)
    assert np.all(counts.sum(axis=1) == 100)
    assert totals(tmp_path / "run") == {i: [100, row.tolist()] for i, row in zip(IDS, counts, strict=True)}


class Damaged:
    """Inputs of which some cannot be read."""

    ids = IDS

    def __init__(self, broken):
        self.broken = broken

    def read(self, index):
        if index in self.broken:
            raise UnreadableInputError(f"image {index} is truncated.")
        tokens, image, eligible = INPUTS.read(index).arrays
        return Input(np.full_like(tokens, 12) if index == 5 and self.broken else tokens, image, eligible)


def test_inputs_that_cannot_be_used_are_skipped_with_the_reason_and_tried_again(tmp_path):
    progress = session(tmp_path / "run", inputs=Damaged({0, 3}))
    assert (progress.finished, progress.skipped) == (B - 3, 3)
    with Ledger.open(tmp_path / "run") as ledger:
        skipped = dict(ledger.counts().skipped)
    assert skipped["input-3"] == "image 3 is truncated."
    assert "Token 12" in skipped["input-5"]
    assert len(totals(tmp_path / "run")) == B - 3
    session(tmp_path / "run", inputs=Damaged(set()))
    session(tmp_path / "once")
    assert totals(tmp_path / "run") == totals(tmp_path / "once")


def test_an_input_that_changed_between_two_sessions_is_refused(tmp_path):
    with pytest.raises(Stop):
        session(tmp_path / "run", stop_after=1, batch_size=50)
    changed = ArrayInputs(IDS, TOKENS, IMAGES + np.float32(1), ELIGIBLE)
    with pytest.raises(LedgerError, match="input-0"):
        session(tmp_path / "run", inputs=changed)


class Failing:
    """A host classifier that breaks down once it has answered so many draws."""

    on_host = True

    def __init__(self, answers, error):
        self.left, self.error = answers, error

    def __call__(self, tokens, images):
        if self.left < len(tokens):
            raise self.error
        self.left -= len(tokens)
        return np.asarray(by_rule(tokens, images))


def test_what_was_drawn_before_the_classifier_failed_is_kept(tmp_path):
    with pytest.raises(RuntimeError, match="the server is gone"):
        session(tmp_path / "run", batch_size=100, classifier=Failing(250, RuntimeError("the server is gone")))
    assert sum(n for n, _ in totals(tmp_path / "run").values()) > 250 - 100
    session(tmp_path / "run", batch_size=77)
    session(tmp_path / "once")
    assert totals(tmp_path / "run") == totals(tmp_path / "once")


class Slow:
    """A host classifier that takes a second (of a clock of its own) for each draw, and interrupts after so many."""

    on_host = True

    def __init__(self, monkeypatch, stop):
        self.asked = self.answered = 0
        self.stop = stop
        monkeypatch.setattr(_backends, "time", types.SimpleNamespace(monotonic=lambda: float(self.answered)))

    def __call__(self, tokens, images):
        self.asked += len(tokens)
        if self.answered >= self.stop:
            raise KeyboardInterrupt
        self.answered += len(tokens)
        return np.asarray(by_rule(tokens, images))


@pytest.mark.parametrize("stop", [1, 7, 60])
def test_an_interrupt_loses_seconds_of_a_slow_classifier_and_not_its_batch(stop, tmp_path, monkeypatch):
    classifier = Slow(monkeypatch, stop)
    with pytest.raises(InterruptedRun) as caught:
        session(tmp_path / "run", classifier=classifier, batch_size=800)
    kept = sum(n for n, _ in totals(tmp_path / "run").values())
    assert kept == caught.value.progress.drawn
    assert kept >= classifier.answered - 10, "ten seconds of answers at most"
    assert kept + caught.value.progress.lost == classifier.asked, "every answer is kept or said to be lost"
    session(tmp_path / "run")
    session(tmp_path / "once")
    assert totals(tmp_path / "run") == totals(tmp_path / "once")


class Holding:
    """Answers the first piece, and holds the next one until it has been told so often to give up."""

    on_host = True

    def __init__(self, deaf=0, error=None):
        self.sizes, self.holds, self.given_up = [], threading.Event(), threading.Event()
        self.told, self.deaf, self.error = 0, deaf, error

    def __call__(self, tokens, images):
        self.sizes.append(len(tokens))
        if len(self.sizes) > 1:
            self.holds.set()
            assert self.given_up.wait(600)
            raise CancelledError
        return np.asarray(by_rule(tokens, images))

    def cancel(self):
        self.told += 1
        if self.told > self.deaf:
            self.given_up.set()
        if self.error is not None:
            raise self.error


def interrupted_while_it_holds(classifier, folder, monkeypatch):
    """What a run says that is interrupted inside of the engine, while the classifier is at the second piece."""

    def interrupt(*_):
        assert classifier.holds.wait(600)
        raise KeyboardInterrupt

    monkeypatch.setattr(Schedule, "resolve", interrupt)
    with pytest.raises(InterruptedRun) as caught:
        session(folder, classifier=classifier)
    return caught.value.progress


def test_a_piece_that_was_about_to_begin_when_it_was_given_up_is_given_up_too(tmp_path, monkeypatch):
    monkeypatch.setattr(_backends, "_CANCEL_SECONDS", 0.01)
    classifier = Holding(deaf=3)
    progress = interrupted_while_it_holds(classifier, tmp_path / "run", monkeypatch)
    assert classifier.told >= 4
    assert progress.lost == classifier.sizes[1]


def test_a_second_interrupt_does_not_forget_what_was_lost_by_the_first(tmp_path, monkeypatch):
    classifier = Holding(error=KeyboardInterrupt())
    progress = interrupted_while_it_holds(classifier, tmp_path / "run", monkeypatch)
    assert classifier.told == 1
    assert progress.lost == classifier.sizes[1]


def test_pieces_grow_to_whole_batches_for_a_fast_classifier(tmp_path):
    sizes = []

    class Fast:
        on_host = True

        def __call__(self, tokens, images):
            sizes.append(len(tokens))
            return np.asarray(by_rule(tokens, images))

    session(tmp_path / "run", classifier=Fast(), batch_size=300)
    session(tmp_path / "once")
    assert sum(sizes) == 100 * B + 32  # a few of one batch are asked about once more, without the rest of it
    assert max(sizes) > 100
    assert totals(tmp_path / "run") == totals(tmp_path / "once")
