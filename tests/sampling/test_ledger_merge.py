"""Merged runs hold every draw of their sources once, or are not made."""

import os

import numpy as np
import pytest

from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, SHARED, CountRow, Ledger, LedgerError, Stream, merge

HEADER = {"seed": 1, "plan": {"plan": "fixed", "n": 100}}


FORCED = Stream("forced", (1,))


def row(index, first, draws, *counts, ties=0, stream=SHARED):
    return CountRow(index, stream, first, draws, counts, ties)


def make(folder, rows, header=HEADER, skipped=(), digests=None):
    with Ledger.create(folder, header) as ledger:
        ledger.register((f"input {i}", i, (digests or {}).get(i, f"digest {i}")) for i in {row.index for row in rows})
        ledger.append(rows)
        for index in skipped:
            ledger.skip(index, f"input {index}", f"unreadable in {folder.name}")
    return folder


def content(folder):
    with Ledger.open(folder) as ledger:
        return ledger.header, ledger.rows(), ledger.counts().skipped


def test_different_inputs_and_different_parts_of_a_sample_come_together(tmp_path):
    one = make(tmp_path / "one", [row(0, 0, 50, 40, ties=1), row(1, 0, 10, 5), row(1, 0, 3, 3, stream=FORCED)])
    two = make(tmp_path / "two", [row(0, 50, 25, 20), row(0, 75, 25, 5, ties=2), row(7, 0, 10, 10)])
    merge(tmp_path / "all", [one, two])
    assert content(tmp_path / "all") == (
        HEADER,
        [row(0, 0, 100, 65, ties=3), row(1, 0, 3, 3, stream=FORCED), row(1, 0, 10, 5), row(7, 0, 10, 10)],
        [],
    )
    assert os.listdir(tmp_path / "all") == [LEDGER_FILE]
    with Ledger.resume(tmp_path / "all", HEADER) as ledger:
        ledger.append([row(1, 10, 90, 90)])


def test_a_merged_run_is_the_run_that_one_process_would_have_made(tmp_path):
    generator = np.random.default_rng(0)
    rows = [
        row(i, 10 * k, 10, *generator.integers(0, 4, 3).tolist(), ties=int(generator.integers(0, 3)), stream=stream)
        for i in range(5)
        for stream in (SHARED, FORCED)
        for k in range(6)
    ]
    header = {"classes": 3}
    whole = make(tmp_path / "whole", rows, header)
    part = generator.integers(0, 3, len(rows))
    sources = [
        make(tmp_path / str(p), [each for each, q in zip(rows, part, strict=True) if p == q], header) for p in range(3)
    ]
    merge(tmp_path / "all", sources)
    assert content(tmp_path / "all") == content(whole)


def test_an_input_that_any_source_has_drawn_is_in_use(tmp_path):
    one = make(tmp_path / "one", [row(0, 0, 10, 5)], skipped=[1, 2])
    two = make(tmp_path / "two", [row(1, 0, 10, 5)], skipped=[2])
    broken = make(tmp_path / "broken", [row(3, 0, 10, 5)], skipped=[3])
    merge(tmp_path / "all", [one, two, broken])
    with Ledger.open(tmp_path / "all") as ledger:
        counts = ledger.counts()
    assert list(counts.ids.values()) == ["input 0", "input 1"]
    assert counts.skipped == [("input 2", "unreadable in one"), ("input 3", "unreadable in broken")]


@pytest.mark.parametrize(
    ("rows", "change", "sentence"),
    [
        ([row(0, 49, 1, 0)], {}, r"{two} cannot be merged .*Draws 49\.\.49 of input 'input 0' .* recorded already"),
        ([row(5, 0, 1, 0)], {"header": HEADER | {"seed": 2}}, "seed: {one} has 1, {two} has 2"),
        ([row(5, 0, 1, 0)], {"header": HEADER | {"noise": "grid"}}, 'noise: {one} has nothing, {two} has "grid"'),
        ([row(0, 50, 1, 0)], {"digests": {0: "other"}}, "Input 'input 0' is not the one .* digest differs"),
    ],
)
def test_what_does_not_fit_together_is_refused_and_nothing_is_made(tmp_path, rows, change, sentence):
    one = make(tmp_path / "one", [row(0, 0, 50, 40, ties=1)])
    two = make(tmp_path / "two", rows, **change)
    with pytest.raises(LedgerError, match=sentence.format(one=one, two=two)):
        merge(tmp_path / "all", [one, two])
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_one_source_twice_is_refused(tmp_path):
    one = make(tmp_path / "one", [row(0, 0, 50, 40, ties=1)])
    with pytest.raises(LedgerError, match="recorded already"):
        merge(tmp_path / "all", [one, one])


def test_runs_without_a_draw_are_refused_and_nothing_is_made(tmp_path):
    one = make(tmp_path / "one", [], skipped=[0])
    two = make(tmp_path / "two", [])
    for sources in ([one, two], [two, two]):
        with pytest.raises(LedgerError, match=f"nothing to merge: no draw is in {sources[0]} and {two}"):
            merge(tmp_path / "all", sources)
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_a_plan_that_stops_early_takes_all_draws_of_an_input_from_one_run(tmp_path):
    header = {"plan": {"plan": "sequential"}}
    one = make(tmp_path / "one", [row(0, 0, 50, 40, ties=1)], header)
    two = make(tmp_path / "two", [row(0, 50, 50, 40, ties=1)], header)
    three = make(tmp_path / "three", [row(0, 0, 50, 40, ties=1, stream=FORCED)], header)
    with pytest.raises(LedgerError, match="input 'input 0' has draws in both, and its plan stops early"):
        merge(tmp_path / "all", [one, two])
    merge(tmp_path / "all", [one, three])
    assert len(content(tmp_path / "all")[1]) == 2


def test_an_existing_target_and_missing_sources_are_refused(tmp_path):
    one = make(tmp_path / "one", [row(0, 0, 50, 40, ties=1)])
    two = make(tmp_path / "two", [row(1, 0, 50, 40, ties=1)])
    for target in (one, two / LEDGER_FILE):
        with pytest.raises(BadInputError, match=f"{target} already exists"):
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
    make(tmp_path / "one", [row(0, 0, 50, 40, ties=1)])
    with Ledger.resume(tmp_path / "one", HEADER) as writer:
        writer.append([row(0, 50, 10, 9)])
        merge(tmp_path / "all", [tmp_path / "one"])
        writer.append([row(0, 60, 10, 9)])
    assert content(tmp_path / "all")[1] == [row(0, 0, 60, 49, ties=1)]


def test_the_longest_history_of_headers_is_kept(tmp_path):
    more = HEADER | {"plan": {"plan": "fixed", "n": 200}}
    one = make(tmp_path / "one", [row(0, 0, 50, 40, ties=1)], more)
    two = make(tmp_path / "two", [row(1, 0, 50, 40, ties=1)])
    Ledger.resume(two, more, lambda name, had, asked: name == "plan.n").close()
    merge(tmp_path / "all", [one, two])
    with Ledger.open(tmp_path / "all") as ledger:
        assert ledger.history == [HEADER, more]
