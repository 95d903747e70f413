"""The schedule: whatever the batches, each input ends as if its copies were classified one by one."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_rs_jax.confidence import FixedSample, SequentialTest
from hybrid_rs_jax.sampling._schedule import Schedule

FIXED = FixedSample(37)
TEST = SequentialTest(0.75, 0.05, 200)


def one_by_one(plan, votes):
    """The definition: look at the votes of one input at each look, in order."""
    for n in plan.looks:
        if verdict := int(plan.verdict(np.array([n]), np.array([votes[:n].sum()]))[0]):
            return int(n), int(votes[:n].sum()), verdict
    raise AssertionError("the last look always decides")


def drive(plan, votes, slots, batch_size, depth, speculate, starts=None, piece=10**6):
    """Run a schedule as the engine does, with `votes[row, copy]` in the place of a classifier."""
    schedule = Schedule(plan, slots, batch_size, speculate=speculate)
    rows, under_way = deque(range(len(votes))), deque()
    ended, drawn, seen = {}, np.zeros((len(votes), 2), np.int64), []
    while True:
        for slot in schedule.free.tolist():
            if rows:
                row = rows.popleft()
                start = 0 if starts is None else starts[row]
                drawn[row] = start, votes[row, :start].sum()
                schedule.put(slot, row, start, int(votes[row, :start].sum()))
        while len(under_way) < depth and (batch := schedule.next_batch(patient=bool(under_way))) is not None:
            assert 0 < batch.size <= batch_size
            under_way.append(batch)
        if not under_way:
            break
        batch, rest = under_way.popleft().split(piece)
        if rest is not None:
            under_way.appendleft(rest)
        slot, copy = batch.copies()
        row = np.repeat(batch.row, batch.count)
        np.testing.assert_array_equal(slot, np.repeat(batch.slot, batch.count))
        resolved = schedule.resolve(batch, votes[row, copy], votes[row, copy] & (copy % 3 == 0))
        for r, first, count, successes in zip(
            resolved.row, resolved.first, resolved.count, resolved.votes, strict=True
        ):
            assert first == drawn[r, 0], "segments follow each other"
            drawn[r] += count, successes
        for r, verdict in zip(resolved.finished, resolved.verdict, strict=True):
            assert r not in ended
            ended[int(r)] = (*drawn[r].tolist(), int(verdict))
        seen.append((batch.size, resolved.classified))
    assert schedule.idle
    return [ended[r] for r in range(len(votes))], seen


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    slots=st.integers(1, 12),
    batch_size=st.integers(1, 90),
    depth=st.integers(1, 3),
    speculate=st.booleans(),
    test=st.booleans(),
    piece=st.integers(1, 90),
)
def test_every_input_ends_as_if_its_copies_were_classified_one_by_one(
    seed, slots, batch_size, depth, speculate, test, piece
):
    plan = TEST if test else FIXED
    rng = np.random.default_rng(seed)
    votes = rng.random((15, plan.max_samples)) < rng.choice([0.3, 0.75, 0.9, 1.0], 15)[:, None]
    ended, _ = drive(plan, votes, slots, batch_size, depth, speculate, piece=piece)
    assert ended == [one_by_one(plan, row) for row in votes]


def test_an_input_goes_on_where_it_was_left():
    rng = np.random.default_rng(5)
    votes = rng.random((8, TEST.max_samples)) < 0.85
    expected = [one_by_one(TEST, row) for row in votes]
    starts = [int(rng.integers(0, n)) for n, _, _ in expected]
    assert drive(TEST, votes, 3, 16, 2, True, starts)[0] == expected


def test_batches_are_full_across_input_boundaries_until_the_work_runs_out():
    votes = np.ones((40, FIXED.max_samples), bool)
    _, seen = drive(FIXED, votes, 12, 50, 2, False)
    sizes = [size for size, _ in seen]
    assert set(sizes[:-1]) == {50}
    assert sum(sizes) == votes.size


def test_without_speculation_few_copies_are_drawn_beyond_a_stop():
    votes = np.random.default_rng(0).random((60, TEST.max_samples)) < 0.95
    ended, seen = drive(TEST, votes, 60, 64, 1, False)
    counted, classified = sum(n for n, _, _ in ended), sum(size for size, _ in seen)
    assert counted <= classified <= counted + 60 * 16


def test_votes_per_class_are_counted():
    labels = np.array([[0, 1, 2, 2, 1, 2], [1, 1, 1, 0, 0, 1]])
    schedule = Schedule(FixedSample(6), 2, 5, classes=3)
    for row in range(2):
        schedule.put(row, row)
    total = np.zeros((2, 3), np.int64)
    while (batch := schedule.next_batch()) is not None:
        _, copy = batch.copies()
        resolved = schedule.resolve(batch, labels[np.repeat(batch.row, batch.count), copy], np.zeros(batch.size, bool))
        np.add.at(total, resolved.row, resolved.votes)
    np.testing.assert_array_equal(total, [[1, 2, 3], [2, 4, 0]])


def test_a_label_outside_of_the_classes_raises_one_sentence():
    schedule = Schedule(FixedSample(3), 1, 3, classes=2)
    schedule.put(0, 0)
    batch = schedule.next_batch()
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1, got 0\.\.5\.$"):
        schedule.resolve(batch, np.array([0, 5, 1]), np.zeros(3, bool))


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**32 - 1),
    inputs=st.integers(1, 5),
    texts=st.integers(1, 4),
    batch_size=st.integers(1, 40),
    depth=st.integers(1, 3),
    speculate=st.booleans(),
)
@pytest.mark.slow
def test_texts_that_share_pictures_end_as_if_each_were_classified_alone(
    seed, inputs, texts, batch_size, depth, speculate
):
    rng = np.random.default_rng(seed)
    plans = FIXED, TEST
    rules = rng.integers(0, 2, 7 * texts)
    votes = rng.random((7 * texts, TEST.max_samples)) < rng.choice([0.3, 0.75, 0.9, 1.0], 7 * texts)[:, None]
    expected = [one_by_one(plans[rule], row[: plans[rule].max_samples]) for rule, row in zip(rules, votes, strict=True)]
    starts = [int(rng.integers(0, n)) if rng.random() < 0.3 else 0 for n, _, _ in expected]
    schedule = Schedule(plans, inputs * texts, batch_size, texts=texts, speculate=speculate)
    waiting, under_way, ended = deque(range(7)), deque(), {}
    drawn = np.array([(start, row[:start].sum()) for start, row in zip(starts, votes, strict=True)])
    while True:
        for place in schedule.free.tolist():
            if waiting:
                number = waiting.popleft()
                for text in range(texts):
                    row = number * texts + text
                    schedule.put(place * texts + text, row, starts[row], int(drawn[row, 1]), int(rules[row]))
        while len(under_way) < depth and (batch := schedule.next_batch(patient=bool(under_way))) is not None:
            slot, copy = batch.copies()
            assert 0 < len(set(zip((slot // texts).tolist(), copy.tolist(), strict=True))) <= batch_size
            under_way.append(batch)
        if not under_way:
            break
        batch = under_way.popleft()
        row = np.repeat(batch.row, batch.count)
        resolved = schedule.resolve(batch, votes[row, batch.copies()[1]], np.zeros(batch.size, bool))
        for r, first, count, successes in zip(
            resolved.row, resolved.first, resolved.count, resolved.votes, strict=True
        ):
            assert first == drawn[r, 0], "segments follow each other"
            drawn[r] += count, successes
        ended |= {int(r): int(verdict) for r, verdict in zip(resolved.finished, resolved.verdict, strict=True)}
    assert [(*drawn[r].tolist(), ended[r]) for r in range(len(votes))] == expected
