"""Merged runs hold every draw of their sources once, or are not made."""

import os

import numpy as np
import pytest

from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, Ledger, LedgerError, Tally, merge

HEADER = {"seed": 1, "plan": {"plan": "fixed", "n": 100}}


def make(folder, records, header=HEADER, skipped=(), digests=None):
    with Ledger.create(folder, header) as ledger:
        ledger.register((f"input {i}", i, (digests or {}).get(i, f"digest {i}")) for i in {row[0] for row in records})
        ledger.append(records)
        for index in skipped:
            ledger.skip(index, f"input {index}", f"unreadable in {folder.name}")
    return folder


def content(folder):
    with Ledger.open(folder) as ledger:
        return ledger.header, ledger.tallies(), ledger.counts().skipped


def test_different_inputs_and_different_parts_of_a_sample_come_together(tmp_path):
    one = make(tmp_path / "one", [(0, None, 0, 50, 40, 1), (1, None, 0, 10, 5, 0)])
    two = make(tmp_path / "two", [(0, None, 50, 25, 20, 0), (0, None, 75, 25, 5, 2), (7, None, 0, 10, 10, 0)])
    merge(tmp_path / "all", [one, two])
    assert content(tmp_path / "all") == (
        HEADER,
        {(0, None): Tally(0, 100, 65, 3), (1, None): Tally(0, 10, 5, 0), (7, None): Tally(0, 10, 10, 0)},
        [],
    )
    assert os.listdir(tmp_path / "all") == [LEDGER_FILE]
    with Ledger.resume(tmp_path / "all", HEADER) as ledger:
        ledger.append([(1, None, 10, 90, 90, 0)])


def test_a_merged_run_is_the_run_that_one_process_would_have_made(tmp_path):
    generator = np.random.default_rng(0)
    records = [
        (i, int(budget), 10 * k, 10, generator.integers(0, 4, 3).tolist(), int(generator.integers(0, 3)))
        for i in range(5)
        for budget in range(3)
        for k in range(6)
    ]
    header = {"classes": 3}
    whole = make(tmp_path / "whole", records, header)
    part = generator.integers(0, 3, len(records))
    sources = [
        make(tmp_path / str(p), [row for row, q in zip(records, part, strict=True) if p == q], header) for p in range(3)
    ]
    merge(tmp_path / "all", sources)
    assert content(tmp_path / "all") == content(whole)
    with Ledger.open(whole) as one, Ledger.open(tmp_path / "all") as other:
        np.testing.assert_array_equal(one.records(), other.records())
        np.testing.assert_array_equal(one.counts().votes, other.counts().votes)


def test_an_input_that_any_source_has_drawn_is_in_use(tmp_path):
    one = make(tmp_path / "one", [(0, None, 0, 10, 5, 0)], skipped=[1, 2])
    two = make(tmp_path / "two", [(1, None, 0, 10, 5, 0)], skipped=[2])
    broken = make(tmp_path / "broken", [(3, None, 0, 10, 5, 0)], skipped=[3])
    merge(tmp_path / "all", [one, two, broken])
    with Ledger.open(tmp_path / "all") as ledger:
        counts = ledger.counts()
    assert counts.ids == ["input 0", "input 1"]
    assert counts.skipped == [("input 2", "unreadable in one"), ("input 3", "unreadable in broken")]


@pytest.mark.parametrize(
    ("records", "change", "sentence"),
    [
        (
            [(0, None, 49, 1, 0, 0)],
            {},
            "{two} cannot be merged .*input 'input 0', from draw 49 on: some of these draws are",
        ),
        ([(5, None, 0, 1, 0, 0)], {"header": HEADER | {"seed": 2}}, "seed: {one} has 1, {two} has 2"),
        ([(0, None, 50, 1, 0, 0)], {"digests": {0: "other"}}, "Input 'input 0' is not the one .* digest differs"),
    ],
)
def test_what_does_not_fit_together_is_refused_and_nothing_is_made(tmp_path, records, change, sentence):
    one = make(tmp_path / "one", [(0, None, 0, 50, 40, 1)])
    two = make(tmp_path / "two", records, **change)
    with pytest.raises(LedgerError, match=sentence.format(one=one, two=two)):
        merge(tmp_path / "all", [one, two])
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_one_source_twice_is_refused(tmp_path):
    one = make(tmp_path / "one", [(0, None, 0, 50, 40, 1)])
    with pytest.raises(LedgerError, match="recorded already"):
        merge(tmp_path / "all", [one, one])


def test_a_plan_that_stops_early_takes_all_draws_of_an_input_from_one_run(tmp_path):
    header = {"plan": {"plan": "sequential"}}
    one = make(tmp_path / "one", [(0, 1, 0, 50, 40, 1)], header)
    two = make(tmp_path / "two", [(0, 1, 50, 50, 40, 1)], header)
    three = make(tmp_path / "three", [(0, 2, 0, 50, 40, 1)], header)
    with pytest.raises(LedgerError, match="input 'input 0' with budget 1 has draws in both, and its plan stops early"):
        merge(tmp_path / "all", [one, two])
    merge(tmp_path / "all", [one, three])
    assert content(tmp_path / "all")[1] == {(0, 1): Tally(0, 50, 40, 1), (0, 2): Tally(0, 50, 40, 1)}


def test_an_existing_target_and_missing_sources_are_refused(tmp_path):
    one = make(tmp_path / "one", [(0, None, 0, 50, 40, 1)])
    two = make(tmp_path / "two", [(1, None, 0, 50, 40, 1)])
    for target in (one, two / LEDGER_FILE):
        with pytest.raises(LedgerError, match=f"{target} already exists"):
            merge(target, [one, two])
    with pytest.raises(LedgerError, match="missing holds no run"):
        merge(tmp_path / "all", [one, tmp_path / "missing"])
    with pytest.raises(LedgerError, match="at least one run folder"):
        merge(tmp_path / "all", [])
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]
    (tmp_path / "empty").mkdir()
    merge(tmp_path / "empty", [one, two])
    assert len(content(tmp_path / "empty")[1]) == 2


def test_a_run_that_is_being_written_can_be_merged_as_it_stands(tmp_path):
    make(tmp_path / "one", [(0, None, 0, 50, 40, 1)])
    with Ledger.resume(tmp_path / "one", HEADER) as writer:
        writer.append([(0, None, 50, 10, 9, 0)])
        merge(tmp_path / "all", [tmp_path / "one"])
        writer.append([(0, None, 60, 10, 9, 0)])
    assert content(tmp_path / "all")[1] == {(0, None): Tally(0, 60, 49, 1)}


def test_the_longest_history_of_headers_is_kept(tmp_path):
    more = HEADER | {"plan": {"plan": "fixed", "n": 200}}
    one = make(tmp_path / "one", [(0, None, 0, 50, 40, 1)], more)
    two = make(tmp_path / "two", [(1, None, 0, 50, 40, 1)])
    Ledger.resume(two, more, lambda name, had, asked: name == "plan.n").close()
    merge(tmp_path / "all", [one, two])
    with Ledger.open(tmp_path / "all") as ledger:
        assert ledger.history == [HEADER, more]
