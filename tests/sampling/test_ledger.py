"""The ledger: what was appended comes back, once, and a run goes on only as the run that it was."""

import json
import os
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, Ledger, LedgerError, Record, Tally

HEADER = {
    "smoothing": {"kernel": "uniform", "beta": 0.25, "vocab_size": 512, "sigma": 0.25},
    "eligible_positions": list(range(8, 40)),
    "seed": 0,
    "plan": {"plan": "fixed", "n": 1000},
    "packages": {"jax": "0.10.2"},
}
INPUTS = [("a", 0, "digest a"), ("b", 1, "digest b"), ("c", 5, "digest c")]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def ledger(folder):
    with Ledger.create(folder, HEADER) as ledger:
        ledger.register(INPUTS)
        yield ledger


def test_what_was_appended_comes_back_after_a_restart(folder):
    with Ledger.create(folder, HEADER) as ledger:
        ledger.register(INPUTS)
        ledger.append([(0, None, 0, 100, 97, 1), Record(1, None, 0, 50, 0)])
        ledger.append([(0, None, 100, 10, 10, 0)])
    with Ledger.resume(folder, HEADER) as ledger:
        assert ledger.tallies() == {(0, None): Tally(0, 110, 107, 1), (1, None): Tally(0, 50, 0, 0)}
        ledger.append([(1, None, 50, 1, 1, 1)])
        assert ledger.tallies()[1, None] == Tally(0, 51, 1, 1)
    with Ledger.open(folder) as ledger:
        counts = ledger.counts()
        assert ledger.header == HEADER
        assert counts.ids == ["a", "b"]
        assert counts.undrawn == ["c"]
        assert counts.votes is None
        for name, expected in {
            "index": [0, 1],
            "budget": [-1, -1],
            "n": [110, 51],
            "successes": [107, 1],
            "ties": [1, 1],
        }.items():
            column = getattr(counts, name)
            assert column.dtype == np.int64
            assert column.tolist() == expected, name
        records = ledger.records()
        assert records.first.tolist() == [0, 100, 0, 50]
        assert records.count.tolist() == [100, 10, 50, 1]
        assert records.successes.tolist() == [97, 10, 0, 1]


def test_each_budget_has_a_sample_of_its_own(ledger):
    ledger.append([(0, 0, 0, 10, 9, 0), (0, 3, 0, 20, 8, 0), (0, 3, 20, 5, 5, 0)])
    assert ledger.tallies() == {(0, 0): Tally(0, 10, 9, 0), (0, 3): Tally(0, 25, 13, 0)}
    counts = ledger.counts()
    assert (counts.ids, counts.budget.tolist(), counts.n.tolist()) == (["a", "a"], [0, 3], [10, 25])


def test_votes_per_class_add_up(folder):
    with Ledger.create(folder, {"classes": 4}) as ledger:
        ledger.register(INPUTS)
        ledger.append([(0, None, 0, 10, np.array([7, 0, 2, 0]), 1), (1, 2, 0, 3, [0, 0, 0, 3], 0)])
        ledger.append([(0, None, 10, 10, (0, 0, 10, 0), 0), (5, None, 0, 4, [0, 0, 0, 0], 4)])
        assert ledger.tallies()[0, None] == Tally(0, 20, (7, 0, 12, 0), 1)
        assert ledger.tallies()[5, None] == Tally(0, 4, (0, 0, 0, 0), 4)
        counts = ledger.counts()
    assert counts.votes.tolist() == [[7, 0, 12, 0], [0, 0, 0, 3], [0, 0, 0, 0]]
    assert counts.successes.tolist() == [0, 0, 0]


BAD_RECORDS = {
    "overlap": ([(0, None, 9, 2, 0, 0)], "Draws 9..10 of input 'a' cannot be recorded: .* recorded already"),
    "inside": ([(0, None, 3, 2, 0, 0)], "recorded already"),
    "around": ([(0, None, 0, 100, 0, 0)], "recorded already"),
    "twice in one call": (
        [(1, None, 0, 5, 0, 0), (1, None, 4, 5, 0, 0)],
        "Draws 4..8 of input 'b' .* recorded already",
    ),
    "too many successes": ([(1, None, 0, 5, 6, 0)], r"successes must be an integer in 0\.\.count"),
    "negative successes": ([(1, None, 0, 5, -1, 0)], r"successes must be an integer in 0\.\.count"),
    "no draws": ([(1, None, 0, 0, 0, 0)], "count must be at least 1"),
    "negative first": ([(1, None, -1, 5, 0, 0)], "first must be at least 0"),
    "too far": ([(1, None, 2**40, 1, 0, 0)], r"first \+ count must be at most"),
    "beyond 64 bits": ([(1, None, 2**70, 1, 0, 0)], "A record must hold integers"),
    "too many ties": ([(1, None, 0, 5, 0, 6)], r"ties must be in 0\.\.count"),
    "budget out of range": ([(1, 1001, 0, 5, 0, 0)], "with budget 1001 cannot be recorded: budget must be None or in"),
    "budget -1": ([(1, -1, 0, 5, 0, 0)], r"budget must be None or in 0\.\.1000, got -1"),
    "unknown input": ([(2, None, 0, 5, 0, 0)], "input number 2 cannot be recorded: the input is not registered"),
    "float": ([(1, None, 0, 5, 3.0, 0)], "A record must hold integers"),
    "votes": ([(1, None, 0, 5, [3, 2], 0)], "A record must hold integers .* successes one integer"),
    "too short": ([(1, None, 0)], "A record must hold integers"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_bad_record_is_refused_in_one_sentence_and_takes_its_whole_call_with_it(ledger, case):
    records, sentence = BAD_RECORDS[case]
    ledger.append([(0, None, 0, 10, 5, 0)])
    before = ledger.records()
    with pytest.raises(LedgerError, match=rf"^[^\n]*{sentence}[^\n]*\.$"):
        ledger.append([(5, None, 0, 5, 1, 0), *records])
    np.testing.assert_array_equal(before, ledger.records())
    ledger.append([(5, None, 0, 5, 1, 0)])


@pytest.mark.parametrize(
    ("votes", "sentence"),
    [
        ([1, 2], "one number per class, 3 of them, got 2"),
        ([5, 5, 1], "votes must add up to at most count"),
        ([-1, 5, 0], "votes must be at least 0"),
        (7, "successes 3 votes, one integer per class"),
        ([1.0, 2.0, 0.0], "successes 3 votes, one integer per class"),
    ],
)
def test_bad_votes_are_refused(folder, votes, sentence):
    with Ledger.create(folder, {"classes": 3}) as ledger:
        ledger.register(INPUTS)
        with pytest.raises(LedgerError, match=sentence):
            ledger.append([(0, None, 0, 10, votes, 0)])
        assert ledger.tallies() == {}


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([None, 0, 1]), st.integers(0, 30), st.integers(1, 9)), max_size=30
    )
)
def test_no_draw_is_ever_counted_twice(tmp_path_factory, records):
    drawn = {}
    with Ledger.create(tmp_path_factory.mktemp("ledger") / "run", {}) as ledger:
        ledger.register([(str(i), i, "") for i in range(3)])
        for index, budget, first, count in records:
            seen = drawn.setdefault((index, budget), set())
            draws = set(range(first, first + count))
            if seen & draws:
                with pytest.raises(LedgerError, match="recorded already"):
                    ledger.append([(index, budget, first, count, count, 0)])
            else:
                ledger.append([(index, budget, first, count, count, 0)])
                seen |= draws
        counts = ledger.counts()
        found = dict(
            zip(zip(counts.index.tolist(), counts.budget.tolist(), strict=True), counts.n.tolist(), strict=True)
        )
        assert found == {(i, -1 if b is None else b): len(seen) for (i, b), seen in drawn.items()}
        whole = {place: seen == set(range(len(seen))) for place, seen in drawn.items()}
        assert counts.contiguous.tolist() == [
            whole[i, None if b < 0 else b] for i, b in zip(counts.index.tolist(), counts.budget.tolist(), strict=True)
        ]


def test_a_gap_is_named_and_no_place_to_go_on_from(ledger):
    ledger.append([(0, None, 0, 10, 5, 0), (0, None, 25, 10, 5, 0)])
    with pytest.raises(LedgerError, match=r"^The draws 10\.\.24 of input 'a' are missing"):
        ledger.tallies()
    assert ledger.counts().contiguous.tolist() == [False]
    ledger.append([(0, None, 10, 15, 0, 0)])
    assert ledger.tallies() == {(0, None): Tally(0, 35, 10, 0)}


def test_inputs_may_be_registered_again_but_not_as_something_else(ledger):
    ledger.register(INPUTS)
    for other, sentence in {
        ("a", 0, "another"): "Input 'a' is not the one that this run has drawn: its digest differs",
        ("a", 3, "digest a"): "Input 'a' has the index 0 in this run, it cannot have 3 too",
        ("d", 0, "digest a"): "Index 0 belongs to input 'a' of this run",
        ("", 7, "digest"): "id must be a name",
        ("d", -1, "digest"): r"index must be in 0\.\.2147483647, got -1 for input 'd'",
        ("d", 2**31, "digest"): "index must be in",
    }.items():
        with pytest.raises(LedgerError, match=rf"^{sentence}[^\n]*\.$"):
            ledger.register([("new", 9, "digest"), other])
    assert ledger.counts().undrawn == ["a", "b", "c"]


def test_a_skipped_input_is_left_out_until_it_is_drawn_further(ledger):
    ledger.append([(0, None, 0, 10, 5, 0), (1, None, 0, 10, 5, 0)])
    ledger.skip(0, "a", "the classifier returned NaN")
    ledger.skip(0, "a", "a later reason")
    ledger.skip(7, "unread", "cannot be read")
    counts = ledger.counts()
    assert counts.ids == ["b"]
    assert counts.undrawn == ["c"]
    assert counts.skipped == [("a", "the classifier returned NaN"), ("unread", "cannot be read")]
    assert ledger.tallies()[0, None].drawn == 10
    ledger.register([("unread", 7, "digest")])
    ledger.append([(7, None, 0, 10, 5, 0), (0, None, 10, 1, 1, 0)])
    assert ledger.counts().ids == ["a", "b", "unread"]
    assert ledger.counts().skipped == []
    with pytest.raises(LedgerError, match="Index 7 belongs to input 'unread'"):
        ledger.skip(7, "another", "cannot be read")


def test_a_run_is_created_once_and_resumed_only_where_there_is_one(folder):
    with pytest.raises(LedgerError, match="holds no run: it has no"):
        Ledger.resume(folder, HEADER)
    with pytest.raises(LedgerError, match="holds no run: it has no"):
        Ledger.open(folder)
    assert not folder.exists()
    Ledger.create(folder, HEADER).close()
    with pytest.raises(LedgerError, match=f"{folder} already holds a run; --resume continues it"):
        Ledger.create(folder, HEADER)
    assert os.listdir(folder) == [LEDGER_FILE]


def test_what_a_killed_create_leaves_behind_is_no_run(folder):
    folder.mkdir()
    (folder / f".{LEDGER_FILE}.tmp").write_bytes(b"half a ledger")
    with pytest.raises(LedgerError, match="holds no run"):
        Ledger.resume(folder, HEADER)
    Ledger.create(folder, HEADER).close()
    assert os.listdir(folder) == [LEDGER_FILE]


def test_other_settings_are_refused_with_one_line_for_each(folder):
    Ledger.create(folder, HEADER).close()
    asked = json.loads(json.dumps(HEADER))
    asked["smoothing"]["sigma"] = 0.5
    asked["eligible_positions"][3] = 99
    asked["packages"]["jax"] = "0.12.0"
    asked["plan"] = {"plan": "fixed", "n": 10_000}
    asked["dtype"] = "float32"
    del asked["seed"]
    with pytest.raises(LedgerError) as caught:
        Ledger.resume(folder, asked)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        'dtype: the run has nothing, asked is "float32"',
        "eligible_positions[3]: the run has 11, asked is 99",
        'packages.jax: the run has "0.10.2", asked is "0.12.0"',
        "plan.n: the run has 1000, asked is 10000",
        "seed: the run has 0, asked is nothing",
        "smoothing.sigma: the run has 0.25, asked is 0.5",
    ]
    Ledger.resume(folder, HEADER).close()


def test_lists_of_other_lengths_and_booleans_differ(folder):
    Ledger.create(folder, {"a": list(range(50)), "b": 1, "c": 2.0}).close()
    with pytest.raises(LedgerError) as caught:
        Ledger.resume(folder, {"a": list(range(51)), "b": True, "c": 2})
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert lines[0].startswith("a: the run has [0, 1, 2,")
    assert lines[0].endswith("... (51 entries)")
    assert lines[1:] == ["b: the run has 1, asked is true"]


def test_only_what_may_change_changes_and_the_former_header_stays_on_record(folder):
    def may_grow(name, had, asked):
        return name == "plan.n" and asked > had

    more, less = (HEADER | {"plan": {"plan": "fixed", "n": n}} for n in (10_000, 10))
    Ledger.create(folder, HEADER).close()
    with pytest.raises(LedgerError, match=r"plan\.n: the run has 1000, asked is 10\b"):
        Ledger.resume(folder, less, may_grow)
    with Ledger.resume(folder, more, may_grow) as ledger:
        assert ledger.header == more
    with Ledger.open(folder) as ledger:
        assert ledger.history == [HEADER, more]
    with pytest.raises(LedgerError, match="the run has 10000, asked is 1000"):
        Ledger.resume(folder, HEADER, may_grow)


@pytest.mark.parametrize("value", [float("nan"), np.float64("inf"), np.arange(3), object()])
def test_a_header_that_is_no_plain_json_is_refused(folder, value):
    with pytest.raises(LedgerError, match=r"^The header of a run must be plain JSON[^\n]*\.$"):
        Ledger.create(folder, {"sigma": value})
    assert not folder.exists()


def test_a_reader_cannot_write(ledger, folder):
    with Ledger.open(folder) as reader:
        for write in (
            lambda: reader.append([(0, None, 0, 1, 1, 0)]),
            lambda: reader.register([("d", 3, "digest")]),
            lambda: reader.skip(0, "a", "why"),
        ):
            with pytest.raises(LedgerError, match="open for reading"):
                write()


FORBIDDEN = [
    "UPDATE ranges SET successes = 10",
    "UPDATE votes SET successes = 1",
    "UPDATE inputs SET id = 'x'",
    "UPDATE header SET body = '{}'",
    "UPDATE skipped SET reason = ''",
    "DELETE FROM ranges",
    "DELETE FROM votes",
    "DELETE FROM inputs",
    "DELETE FROM skipped",
    "DELETE FROM header",
    "INSERT OR REPLACE INTO ranges VALUES (0, -1, 0, 10, 10, 0, 0)",
    "INSERT OR REPLACE INTO inputs VALUES (0, 'x', 'y', 0)",
    "INSERT OR REPLACE INTO inputs VALUES (77, 'a', 'y', 0)",
    "INSERT OR REPLACE INTO header VALUES (1, '{}', '')",
    "INSERT INTO header VALUES (0, '{}', '')",
    "INSERT OR REPLACE INTO skipped VALUES (1, 0, 'b', 'why', 0)",
    "INSERT INTO votes VALUES (0, -1, 0, 0, 1, 0)",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_the_database_itself_refuses_to_change_or_remove_a_row(ledger, folder, statement):
    ledger.append([(0, None, 0, 10, 5, 0)])
    ledger.skip(1, "b", "why")
    before = (ledger.records(), ledger.counts().ids, ledger.counts().skipped)
    stranger = sqlite3.connect(folder / LEDGER_FILE, isolation_level=None)
    try:
        # an UPDATE or DELETE of an empty table touches no row, so the trigger has nothing to refuse
        if statement.endswith("FROM votes") or "votes SET" in statement:
            stranger.execute("INSERT INTO votes VALUES (5, -1, 0, 0, 1, 0)")
        with pytest.raises(sqlite3.IntegrityError, match=r"append-only|recorded already"):
            stranger.execute(statement)
    finally:
        stranger.close()
    np.testing.assert_array_equal(before[0], ledger.records())
    assert before[1:] == (ledger.counts().ids, ledger.counts().skipped)


def test_a_clean_close_leaves_one_file_and_closing_twice_is_harmless(folder):
    ledger = Ledger.create(folder, HEADER)
    ledger.register(INPUTS)
    ledger.append([(0, None, 0, 10, 5, 0)])
    assert len(os.listdir(folder)) > 1
    ledger.close()
    ledger.close()
    assert os.listdir(folder) == [LEDGER_FILE]
