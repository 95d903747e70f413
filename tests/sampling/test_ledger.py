"""The ledger: what was appended comes back, once, and a run goes on only as the run that it was."""

import json
import os
import sqlite3
import threading
import zlib

import jaxtyping
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, LOCK_FILE, SHARED, CountRow, Ledger, LedgerError, Stream

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


def shared(index, first, draws, *counts, ties=0):
    """A row of the shared stream."""
    return CountRow(index, SHARED, first, draws, counts, ties)


def test_what_was_appended_comes_back_after_a_restart(folder):
    with Ledger.create(folder, HEADER) as ledger:
        ledger.register(INPUTS)
        ledger.append([shared(0, 0, 100, 97, ties=1), shared(1, 0, 50, 0)])
        ledger.append([shared(0, 100, 10, 10)])
    with Ledger.resume(folder, HEADER) as ledger:
        assert ledger.tallies() == {(0, SHARED): shared(0, 0, 110, 107, ties=1), (1, SHARED): shared(1, 0, 50, 0)}
        ledger.append([shared(1, 50, 1, 1, ties=1)])
        assert ledger.tallies()[1, SHARED] == shared(1, 0, 51, 1, ties=1)
    with Ledger.open(folder) as ledger:
        counts = ledger.counts()
        assert (ledger.header, ledger.version) == (HEADER, 2)
        assert counts.ids == {0: "a", 1: "b", 5: "c"}
        assert counts.undrawn == ["c"]
        assert (counts.draws, counts.ties) == (161, 2)
        table = counts.streams[SHARED]
        for name, expected in {
            "index": [0, 1],
            "draws": [110, 51],
            "counts": [[107], [1]],
            "ties": [1, 1],
            "contiguous": [True, True],
        }.items():
            column = getattr(table, name)
            assert column.dtype == (bool if name == "contiguous" else np.int64)
            assert column.tolist() == expected, name
        assert ledger.rows() == [shared(0, 0, 110, 107, ties=1), shared(1, 0, 51, 1, ties=1)]


def test_the_streams_of_an_input_have_nothing_to_do_with_each_other(folder):
    streams = [Stream.parse(text) for text in ("budget:0", "budget:12", "forced:", "forced:0,1,2", "shared")]
    rows = [CountRow(0, stream, 0, 10 + k, (k,)) for k, stream in enumerate(streams)]
    law = CountRow(0, Stream("law", (4,)), 0, 5, (0, 1, 4, 0))
    with Ledger.create(folder, HEADER) as ledger:
        ledger.register(INPUTS)
        ledger.append([*rows, law])
        assert ledger.rows() == sorted([*rows, law], key=lambda row: str(row.stream))
        counts = ledger.counts()
    assert counts.streams.keys() == {*streams, law.stream}
    assert counts.streams[law.stream].counts.tolist() == [[0, 1, 4, 0]]
    assert counts.streams[streams[3]].draws.tolist() == [13]


@pytest.mark.parametrize(
    "text", ["", "shared:", "shared:1", "budget", "budget:1001", "budget:01", "forced:2,1", "forced:1,1", "forced:-1",
             "law:0", "law:4,5", "law:1.5", "Shared", "forced: 1", "other:1", "budget:１"],
)  # fmt: skip
def test_a_text_that_names_no_stream_is_refused(text):
    with pytest.raises(ValueError, match=r"^[^\n]*got [^\n]*\.$"):
        Stream.parse(text)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["shared", "budget", "forced", "law"]), st.sets(st.integers(0, 1000), max_size=5))
def test_a_stream_is_the_one_that_its_text_names(kind, numbers):
    try:
        stream = Stream(kind, tuple(sorted(numbers)))
    except ValueError:
        assert (kind, len(numbers)) != ("forced", len(numbers))
        return
    assert Stream.parse(str(stream)) == stream


def test_votes_per_class_add_up(folder):
    with Ledger.create(folder, {"classes": 4}) as ledger:
        ledger.register(INPUTS)
        ledger.append([shared(0, 0, 10, 7, 0, 2, 0, ties=1), shared(5, 0, 4, 0, 0, 0, 0, ties=4)])
        ledger.append([shared(0, 10, 10, 0, 0, 10, 0)])
        assert ledger.tallies()[0, SHARED] == shared(0, 0, 20, 7, 0, 12, 0, ties=1)
        assert ledger.counts().streams[SHARED].counts.tolist() == [[7, 0, 12, 0], [0, 0, 0, 0]]
        with pytest.raises(LedgerError, match="counts must hold 4 integers in this run, got 1"):
            ledger.append([shared(1, 0, 10, 5)])


BAD_ROWS = {
    "too many successes": ((1, SHARED, 0, 5, (6,)), r"add up to at most the 5 draws, got \[6\]"),
    "too many votes": ((1, SHARED, 0, 5, (3, 3)), "add up to at most the 5 draws"),
    "negative successes": ((1, SHARED, 0, 5, (-1,)), "counts must be at least 0"),
    "no counts": ((1, SHARED, 0, 5, ()), "counts must be at least 0"),
    "no draws": ((1, SHARED, 0, 0, (0,)), "draws must be in 1"),
    "negative first": ((1, SHARED, -1, 5, (0,)), "first must be in 0"),
    "too far": ((1, SHARED, 2**40 - 4, 5, (0,)), r"draws must be in 1\.\.4, got 5"),
    "index": ((2**31, SHARED, 0, 5, (0,)), "index must be in"),
    "too many ties": ((1, SHARED, 0, 5, (0,), 6), r"ties must be in 0\.\.5, got 6"),
    "float": ((1, SHARED, 0, 5, (3.0,)), "must be integers"),
    "text": ((1, SHARED, "0", 5, (3,)), "must be integers"),
    "one number": ((1, SHARED, 0, 5, 3), "must be integers"),
    "bins that miss draws": ((1, Stream("law", (2,)), 0, 5, (3, 1)), "must be 2 integers that add up to the 5 draws"),
    "too few bins": ((1, Stream("law", (2,)), 0, 5, (5,)), "must be 2 integers"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_counts_that_cannot_be_are_refused_in_one_sentence(case, monkeypatch):
    values, sentence = BAD_ROWS[case]
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    with pytest.raises(ValueError, match=rf"^[^\n]*{sentence}[^\n]*\.$"):
        CountRow(*values)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([shared(0, 9, 2, 0)], r"Draws 9\.\.10 of input 'a' cannot be recorded: draws 0\.\.9 are recorded already"),
        ([shared(0, 3, 2, 0)], "recorded already"),
        ([shared(0, 0, 100, 0)], "recorded already"),
        ([shared(1, 4, 5, 0), shared(1, 0, 5, 0)], r"Draws 0\.\.4 of input 'b'.* draws 4\.\.8 are recorded already"),
        ([shared(2, 0, 5, 0)], "input with index 2 cannot be recorded: it is not registered"),
        ([shared(0, 10, 5, 1, 1)], "counts must hold 1 integers in this run, got 2"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_and_takes_its_whole_call_with_it(ledger, rows, sentence):
    ledger.append([shared(0, 0, 10, 5)])
    before = ledger.rows()
    with pytest.raises(LedgerError, match=rf"^[^\n]*{sentence}[^\n]*\.$"):
        ledger.append([shared(5, 0, 5, 1), *rows])
    assert ledger.rows() == before
    ledger.append([shared(5, 0, 5, 1)])


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["shared", "budget:1"]), st.integers(0, 30), st.integers(1, 9)),
        max_size=30,
    )
)
def test_no_draw_is_ever_counted_twice_and_ranges_that_touch_are_one(tmp_path_factory, ranges):
    drawn = {}
    with Ledger.create(tmp_path_factory.mktemp("ledger") / "run", {}) as ledger:
        ledger.register([(str(i), i, "") for i in range(3)])
        for index, name, first, draws in ranges:
            stream = Stream.parse(name)
            seen, new = drawn.setdefault((index, stream), set()), set(range(first, first + draws))
            row = CountRow(index, stream, first, draws, (sum(s % 3 == 0 for s in new),))
            if seen & new:
                with pytest.raises(LedgerError, match="recorded already"):
                    ledger.append([row])
            else:
                ledger.append([row])
                seen |= new
        rows, counts = ledger.rows(), ledger.counts()
    held = {}
    for row in rows:
        held.setdefault((row.index, row.stream), []).append(row)
        assert row.counts == (sum(s % 3 == 0 for s in range(row.first, row.end)),)
    for place, seen in drawn.items():
        assert set().union(*(range(row.first, row.end) for row in held[place])) == seen
        gaps = sum(s + 1 not in seen for s in seen)
        assert len(held[place]) == gaps, "one range between two gaps"
        table = counts.streams[place[1]]
        at = table.index.tolist().index(place[0])
        assert table.draws[at] == len(seen)
        assert table.contiguous[at] == (seen == set(range(len(seen))))


def test_a_gap_is_named_and_no_place_to_go_on_from(ledger):
    ledger.append([shared(0, 0, 10, 5), shared(0, 25, 10, 5)])
    with pytest.raises(LedgerError, match=r"^The draws 10\.\.24 of input 'a' are missing"):
        ledger.tallies()
    assert ledger.counts().streams[SHARED].contiguous.tolist() == [False]
    ledger.append([shared(0, 10, 15, 0)])
    assert ledger.tallies() == {(0, SHARED): shared(0, 0, 35, 10)}


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
    ledger.append([shared(0, 0, 10, 5), shared(1, 0, 10, 5)])
    ledger.skip(0, "a", "the classifier returned NaN")
    ledger.skip(0, "a", "a later reason")
    ledger.skip(7, "unread", "cannot be read")
    counts = ledger.counts()
    assert counts.ids == {1: "b", 5: "c"}
    assert counts.streams[SHARED].index.tolist() == [1]
    assert counts.undrawn == ["c"]
    assert counts.skipped == [("a", "the classifier returned NaN"), ("unread", "cannot be read")]
    assert ledger.tallies()[0, SHARED].draws == 10
    with pytest.raises(LedgerError, match="index 7 cannot be recorded: it is not registered"):
        ledger.append([shared(7, 0, 10, 5)])
    ledger.register([("unread", 7, "digest")])
    ledger.append([shared(7, 0, 10, 5), shared(0, 10, 1, 1)])
    assert ledger.counts().ids == {0: "a", 1: "b", 5: "c", 7: "unread"}
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
    assert sorted(os.listdir(folder)) == [LOCK_FILE, LEDGER_FILE]


def test_what_a_killed_create_leaves_behind_is_no_run(folder):
    folder.mkdir()
    (folder / f".{LEDGER_FILE}.tmp").write_bytes(b"half a ledger")
    with pytest.raises(LedgerError, match="holds no run"):
        Ledger.resume(folder, HEADER)
    Ledger.create(folder, HEADER).close()
    assert sorted(os.listdir(folder)) == [LOCK_FILE, LEDGER_FILE]


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
            lambda: reader.append([shared(0, 0, 1, 1)]),
            lambda: reader.register([("d", 3, "digest")]),
            lambda: reader.skip(0, "a", "why"),
        ):
            with pytest.raises(LedgerError, match="open for reading"):
                write()


def test_a_clean_close_leaves_one_plain_file_beside_the_lock_and_closing_twice_is_harmless(folder):
    ledger = Ledger.create(folder, HEADER)
    ledger.register(INPUTS)
    ledger.append([shared(0, 0, 10, 5)])
    assert len(os.listdir(folder)) > 2
    ledger.close()
    ledger.close()
    assert sorted(os.listdir(folder)) == [LOCK_FILE, LEDGER_FILE]


def test_a_ledger_may_be_written_and_closed_by_another_thread(folder):
    ledger = Ledger.create(folder, HEADER)

    def work():
        ledger.register(INPUTS)
        ledger.append([shared(0, 0, 10, 5)])
        ledger.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with Ledger.resume(folder, HEADER) as again:
        assert again.rows() == [shared(0, 0, 10, 5)]


def test_the_file_holds_what_its_page_says(ledger, folder):
    ledger.append([shared(0, 0, 10, 5)])
    ledger.skip(9, "unread", "cannot be read")
    ledger.close()
    connection = sqlite3.connect(folder / LEDGER_FILE)
    rows = [row for table in ("inputs", "ranges") for row in connection.execute(f"SELECT * FROM {table}")]
    connection.close()
    assert rows[3][:-1] == (9, "unread", None, "cannot be read")
    assert rows[4][:-1] == (0, "shared", 0, 10, "[5]", 0)
    for *values, crc in rows:
        assert crc == zlib.crc32("\x1f".join(map(str, values)).encode())


def test_a_ledger_that_was_made_and_not_written_is_one_plain_file_too(tmp_path):
    with Ledger.create(tmp_path / "run", {}):
        pass
    with Ledger.open(tmp_path / "run") as ledger:
        assert not ledger.rows()
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["ledger.lock", "ledger.sqlite"]
