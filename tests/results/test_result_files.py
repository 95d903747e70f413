"""Results in files: the same result back, every digit in flat tables, LaTeX, and old files as far as they are true."""

import csv
import json
import re

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax._files import write_json
from hybrid_rs_jax.confidence import FixedSample, SequentialTest
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.results.accuracy import accuracy_table
from hybrid_rs_jax.results.certificate import certify_counts, certify_decisions
from hybrid_rs_jax.results.classes import certify_class_counts
from hybrid_rs_jax.results.counts import Column, Counts
from hybrid_rs_jax.results.facts import Facts
from hybrid_rs_jax.results.reading import read_certificates
from hybrid_rs_jax.results.record import record
from hybrid_rs_jax.results.runs import Run
from hybrid_rs_jax.results.sentences import threat_model
from hybrid_rs_jax.results.statement import Provisional

UNIFORM = hrs.UniformKernel(0.25, 512)
HYBRID = hrs.HybridSmoothing(UNIFORM, 0.5)
HEADER = {
    "smoothing": {"kernel": "uniform", "beta": 0.25, "vocab_size": 512, "sigma": 0.5},
    "samples": 100,
    "eligible_positions": [4, 5, 6, 7],
    "noise": {"generator": "threefry2x32", "step": 1 / 255, "total_variation": 5e-12, "off_grid_attackers": False},
    "classifier": {"name": "guard", "layers": [1, 2], "parts": {"depth": 2}},
}
PLAN = SequentialTest(0.3, 0.01, 200)


def run_of(tmp_path, **change):
    return Run.of(tmp_path / "run.json", HEADER | change)


def shared(tmp_path):
    return Counts(("a", "b, c", "d\ne"), np.array([100, 60, 3]), np.array([100, 100, 100]))


def of_a_run(tmp_path):
    return Counts(
        ("a", "b"),
        np.array([100, 60]),
        np.array([100, 100]),
        ties=np.array([0, 7]),
        run=run_of(tmp_path),
        skipped=(("c", "its picture is cut off"),),
        unfinished=("d",),
    )


def unfinished(tmp_path):
    looked = Provisional(100, 1, (10, 20))
    return Counts(("a",), np.array([31]), np.array([31]), run=run_of(tmp_path), provisional=looked)


def per_budget(tmp_path):
    run = run_of(tmp_path, mode="per budget", budgets=[0, 1, 2])
    return Counts(("a",), np.array([[99, 98, 90]]), np.array([[100, 100, 99]]), budgets=(0, 1, 2), run=run)


def stopped_early(tmp_path):
    looks = PLAN.looks
    n, futile = (int(looks[np.argmax(PLAN.verdict(looks, k) != 0)]) for k in (looks, 0 * looks))
    aim = {"d": 1, "epsilon": 0.1, "tau": 0.01, "alpha": 0.01}
    run = run_of(tmp_path, plan=PLAN.describe(), aim=aim)
    return Counts(("a", "b"), np.array([n, 0]), np.array([n, futile]), run=run, plan=PLAN)


def with_columns(tmp_path):
    others = (Column("text", ("first", 'with "quotes", and comma')), Column("n", ("taken", "name")))
    return Counts(("a", "b"), np.array([9, 5]), np.array([10, 10]), others=others)


def off_the_ideal(tmp_path):
    return Counts(("a", "b"), np.array([100, 60]), np.array([100, 100]), total_variation=0.01)


MAKERS = [shared, off_the_ideal, of_a_run, unfinished, per_budget, stopped_early, with_columns]


@pytest.mark.parametrize("decision", ["unsafe", "safe", "both"])
@pytest.mark.parametrize("make", MAKERS)
def test_a_result_comes_back_equal_from_json(tmp_path, make, decision):
    counts = make(tmp_path)
    result = certify_decisions(counts, HYBRID, 0.3, 0.01, range(3), decision)
    result.save(tmp_path / "a.json")
    back = hrs.read_certificates(tmp_path / "a.json")
    assert back == result
    assert back.statements == result.statements
    assert [s.needs for s in back.statements] == [s.needs for s in result.statements]
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(record(result)))
    assert len(text.splitlines()) >= len(result)


def test_votes_per_class_come_back_equal_from_json(tmp_path):
    votes = np.array([[90, 5, 3], [30, 35, 30]])
    counts = Counts(("a", "b"), np.zeros(2, int), np.array([100, 100]), votes=votes, ties=np.array([1, 0]))
    result = certify_class_counts(counts, HYBRID, 0.01, range(2))
    result.save(tmp_path / "a.json")
    assert read_certificates(tmp_path / "a.json") == result
    row = json.loads((tmp_path / "a.json").read_text())["certificates"][0]
    assert (row["label"], row["votes"], row["n"]) == (0, [90, 5, 3], 100)


@pytest.mark.parametrize("decision", ["unsafe", "safe", "both"])
@pytest.mark.parametrize("make", MAKERS)
def test_csv_and_parquet_hold_every_digit(tmp_path, make, decision):
    parquet = pytest.importorskip("pyarrow.parquet")
    result = certify_decisions(make(tmp_path), HYBRID, 0.3, 0.01, range(3), decision)
    result.save(tmp_path / "a.csv")
    result.save(tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(tmp_path / "a.parquet")
    assert json.loads(table.schema.metadata[b"statement"])["guarantee"] == record(result)["statement"]["guarantee"]
    stored = table.to_pylist()
    assert [row["id"] for row in rows] == [row["id"] for row in stored] == list(result.ids)
    for row, other, view in zip(rows, stored, result, strict=True):
        assert int(row["budget"]) == other["budget"] == view.budget
        for d, radius in zip(result.budgets, view.radius, strict=True):
            assert float(row[f"radius_{d}"]) == other[f"radius_{d}"] == radius
        for name, bounds in (("p_a", result.lower_bound), ("upper_bound", result.upper_bound)):
            if bounds is None:
                assert not any(key.startswith(name) for key in row)
            elif bounds.p.ndim == 1:
                assert float(row[name]) == other[name] == bounds.p[view.index]


def test_columns_that_came_with_the_counts_go_through(tmp_path):
    hrs.results.certify_decisions(with_columns(tmp_path), HYBRID, 0.3, 0.01, range(2)).save(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["first", 'with "quotes", and comma']
    assert [(row["n"], row["n_"]) for row in rows] == [("10", "taken"), ("10", "name")]


def test_one_sample_per_budget_gets_one_column_per_budget(tmp_path):
    certificate = hrs.certify([[9, 8]], 10, hrs.HybridSmoothing(UNIFORM, None), tau=0.01, alpha=0.02, budgets=(0, 2))
    assert certificate.statement.risk.per_statement == 0.01
    certificate.save(tmp_path / "a.csv")
    header = (tmp_path / "a.csv").read_text().splitlines()[0]
    assert header == "id,successes_0,successes_2,n_0,n_2,p_a_0,p_a_2,budget,radius_0,radius_2"


def test_to_pandas_has_the_columns_of_the_csv_file_or_says_what_is_missing(tmp_path):
    certificate = hrs.certify([9, 3], 10, HYBRID, 0.3, 0.01, range(2))
    try:
        import pandas  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install pandas"):
            certificate.to_pandas()
        return
    frame = certificate.to_pandas()
    certificate.save(tmp_path / "a.csv")
    assert list(frame.columns) == (tmp_path / "a.csv").read_text().splitlines()[0].split(",")
    assert frame["radius_1"].tolist() == certificate.radius[:, 1].tolist()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    certificate = hrs.certify([9], 10, HYBRID, 0.3, 0.01, range(2))
    certificate.save(tmp_path / "a.csv")
    with pytest.raises(BadInputError, match="already exists"):
        certificate.save(tmp_path / "a.csv")
    certificate.save(tmp_path / "a.csv", force=True)
    with pytest.raises(BadInputError, match=r"must end in \.json, \.csv, \.parquet or \.tex"):
        certificate.save(tmp_path / "a.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"]


def test_a_latex_table_has_one_row_per_input_and_the_statement_as_its_caption(tmp_path):
    counts = Counts(("50 % & _odd_ {id} \\ ~^", "plain"), np.array([100, 3]), np.array([100, 100]))
    result = certify_decisions(counts, HYBRID, 0.3, 0.01, range(2), "both")
    result.save(tmp_path / "a.tex")
    text = (tmp_path / "a.tex").read_text()
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    columns = re.search(r"\\begin\{tabular\}\{(l?r*)\}", text)[1]
    assert len(body) == 2
    for line in body:
        assert len(re.split(r"(?<!\\)&", line)) == len(columns)
    assert r"50 \% \& \_odd\_ \{id\} \textbackslash{} \textasciitilde{}\textasciicircum{}" in body[0]
    assert re.search(r"\\caption\{.*99 \\% over the draws.*tau = 0\.3", text)
    assert text.count("{") == text.count("}")
    certified = result.radius[0][result.radius[0] >= 0]
    for cell, exact in zip(re.findall(r"\d\.\d{3}", body[0])[-certified.size :], certified, strict=True):
        assert float(cell) <= exact < float(cell) + 1e-3


def test_many_inputs_make_a_latex_table_of_budgets(tmp_path):
    hrs.certify(np.arange(100), 100, HYBRID, 0.3, 0.01, range(2)).save(tmp_path / "a.tex")
    text = (tmp_path / "a.tex").read_text()
    assert len(text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "it has no 'statement'"),
        ({"statement": {}, "certificates": [{}]}, "it has no 'id'"),
        ({"statement": {}, "certificates": []}, "it has no certificates"),
        (
            {
                "statement": {"budgets": [0, 1], "tau": 0.5, "alpha": 0.1, "kernel": "none", "sigma": 1},
                "certificates": [{"id": "a", "successes": 1, "n": 1, "p_a": 0.1, "radius": [0.5], "budget": 0}],
            },
            "expected 2 radii",
        ),
        (
            {
                "statement": {"budgets": [0], "tau": 0.5, "alpha": 0.1, "kernel": "none", "sigma": 1},
                "certificates": [{"id": "a", "successes": 1, "n": 1, "p_a": 0.1, "radius": [-0.5], "budget": 0}],
            },
            "at least 0 or -1",
        ),
        (
            {
                "statement": {"budgets": [0], "tau": 1.5, "alpha": 0.1, "kernel": "none", "sigma": 1},
                "certificates": [{"id": "a", "successes": 1, "n": 1, "p_a": 0.1, "radius": [0.5], "budget": 0}],
            },
            "tau must be a number",
        ),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, content, sentence):
    write_json(tmp_path / "a.json", content)
    with pytest.raises(BadInputError, match=sentence):
        read_certificates(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["[" * 100_000, "not json", '{"statement": 1e400}', '{"a": 1, "a": 2}'])
def test_what_is_no_json_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInputError, match="no result of certify"):
        read_certificates(tmp_path / "a.json")


OLD = {
    "statement": {
        "kernel": "uniform",
        "beta": 0.25,
        "vocab_size": 512,
        "sigma": 0.5,
        "tau": 0.3,
        "alpha": 0.01,
        "budgets": [0, 1],
        "simultaneous": True,
        "side": "above",
        "plan": None,
        "needed_samples": [4, 60],
        "package": "hybrid_rs_jax 0.1.0",
        "run": {
            "samples": 100,
            "plan": FixedSample(100).describe(),
            "eligible_positions": [4, 5],
            "extended_from": [50],
        },
    },
    "certificates": [{"id": "a", "successes": 90, "n": 90, "p_a": 0.9501, "radius": [1.0, 0.5], "budget": 1}],
}


def test_a_file_of_version_0_1_is_read_and_says_what_that_version_left_out(tmp_path):
    write_json(tmp_path / "a.json", OLD)
    result = read_certificates(tmp_path / "a.json")
    assert result.radius.tolist() == [[1.0, 0.5]]
    assert result.p_a.tolist() == [0.9501]
    assert result.complement[0] >= 1 - 0.9501
    assert result.statement.noise.drawn == "version 0.1"
    assert result.statement.provisional == Provisional(100, 1, (50,))
    assert result.statement.threat.positions == (4, 5)


def test_an_upper_bound_that_version_0_1_called_p_a_is_an_upper_bound(tmp_path):
    write_json(tmp_path / "a.json", {**OLD, "statement": OLD["statement"] | {"side": "below"}})
    result = read_certificates(tmp_path / "a.json")
    assert result.upper_bound.p.tolist() == [0.9501]
    assert result.upper_bound.complement[0] <= 1 - 0.9501
    with pytest.raises(AttributeError, match="no p_a"):
        _ = result.p_a


def test_two_decisions_of_version_0_1_must_be_certified_again(tmp_path):
    write_json(tmp_path / "a.json", {**OLD, "statement": OLD["statement"] | {"side": "both"}})
    with pytest.raises(BadInputError, match="mixed the bounds of two decisions"):
        read_certificates(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"threat": "typos"}, "threat must be one of append, suffix, anywhere, .*, image, got 'typos'"),
        ({"noise": 3}, "noise must be an object, got 3"),
        ({"noise": {"generator": 3}}, "generator must be a text, got 3"),
        ({"noise": {"step": "wide"}}, r"step must be a number of at least 0\.0 and below inf, got 'wide'"),
        ({"noise": {"total_variation": 1.0}}, r"total_variation must be .* at least 0\.0 and below 1\.0, got 1\.0"),
        ({"samples": -1}, "samples must be a non-negative integer, got -1"),
        ({"classes": True}, "classes must be a non-negative integer, got True"),
        ({"aim": {"tau": 0.5}}, r"aim must name tau and alpha, got \{'tau': 0\.5\}"),
        ({"draws": {"kind": "both"}}, r"must be described by a design, got \{'kind': 'both'\}"),
    ],
)
def test_a_header_out_of_range_is_one_sentence_with_file_name_and_value(tmp_path, change, sentence):
    with pytest.raises(BadInputError, match=rf"run\.json: [^\n]*{sentence}[^\n]*\.$"):
        run_of(tmp_path, **change)


@pytest.mark.parametrize(
    ("statement", "row", "sentence"),
    [
        ({"kernel": 3}, {}, "its kernel must be a name"),
        ({}, {"p_a": 1.5}, r"p_a must be in \[0, 1\]"),
        ({}, {"p_a": [0.5, 0.5]}, "p_a must have the shape of the counts"),
        ({}, {"id": 3}, "id must be a text, got 3"),
        ({"budgets": [0, -1]}, {}, "a budget must be an integer of at least 0, got -1"),
        ({"skipped": ["a"]}, {}, "skipped must be an object"),
        ({"unfinished": {"a": 1}}, {}, "unfinished must be a list"),
        ({"run": None, "noise": {"total_variation": 2}}, {}, r"total_variation must be a number in .*, 1\.0\), got 2"),
        ({"provisional": {"planned": -1, "partial": 0, "earlier": []}}, {}, "planned must be .* at least 0, got -1"),
    ],
)
def test_a_result_with_a_value_out_of_range_is_refused_with_it(tmp_path, statement, row, sentence):
    content = {"statement": OLD["statement"] | statement, "certificates": [OLD["certificates"][0] | row]}
    write_json(tmp_path / "a.json", content)
    with pytest.raises(BadInputError, match=sentence):
        read_certificates(tmp_path / "a.json")


def test_budgets_of_edits_come_back_from_a_file_and_are_told_in_its_words(tmp_path):
    budgets = [hrs.Edits(), hrs.Edits(inserted=1), hrs.Edits(substituted=1, inserted=1, deleted=2)]
    smoothing = hrs.HybridSmoothing(hrs.DeletionKernel(0.75), 0.5)
    result = hrs.certify([1000], 1000, smoothing, tau=0.01, alpha=0.01, budgets=budgets)
    result.save(tmp_path / "a.json")
    again = read_certificates(tmp_path / "a.json")
    assert list(again.budgets) == budgets
    assert np.array_equal(again.radius, result.radius)
    words = "the text is edited within a budget, anywhere (no edit; 1 inserted; 1 substituted + 1 inserted + 2 deleted)"
    assert words in threat_model(again.statement)


def counted(**change):
    return Counts(("a",), **{"successes": np.array([3]), "n": np.array([9])} | change)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (
            lambda: certify_counts(counted(votes=np.array([[3, 6]])), HYBRID, 0.5, 0.01, [0]),
            r"^The counts are votes per class; certify_classes certifies those\.$",
        ),
        (
            lambda: certify_counts(
                Counts(("a",), np.array([[3, 3]]), np.array([[9, 9]]), budgets=(0, 2)), HYBRID, 0.5, 0.01, [0, 1]
            ),
            r"^budgets must be those of the counts, \[0, 2\], got \[0, 1\]\.$",
        ),
        (
            lambda: certify_class_counts(counted(), HYBRID, 0.01, [0]),
            r"^Votes per class are certified from one sample for all budgets, not from one per budget\.$",
        ),
        (
            lambda: accuracy_table(hrs.certify([3], 9, HYBRID, tau=0.5, alpha=0.01), [0.5, -1.0]),
            r"^epsilon must be finite and at least 0, got -1\.0\.$",
        ),
        (lambda: Facts({"a": {1, 2}}), r"^JSON has no word for set$"),
    ],
)
def test_what_no_certificate_can_be_made_of_is_refused(ask, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        ask()


def test_facts_are_equal_and_hash_alike_whatever_their_order():
    one, other = Facts({"a": 1, "b": {"c": [1, 2]}}), Facts({"b": {"c": [1, 2]}, "a": 1})
    assert one == other
    assert hash(one) == hash(other)
    assert repr(Facts({"a": 1})) == "Facts({'a': 1})"


def test_one_count_of_conditional_draws_serves_one_budget():
    smoothing = hrs.HybridSmoothing(hrs.Conditional(UNIFORM), 0.5)
    flat = hrs.certify([1000], 1000, smoothing, tau=0.01, alpha=0.01, budgets=[1])
    deep = hrs.certify([[1000]], [[1000]], smoothing, tau=0.01, alpha=0.01, budgets=[1])
    assert flat.radius[0, 0] == deep.radius[0, 0] > 0
