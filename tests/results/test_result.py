"""A result holds columns; a row is a view of it, a slice is a result, and the statement is typed to the last field."""

import dataclasses
import typing

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.results import counts, result, runs, statement
from hybrid_rs_jax.results.certificate import Certificate, Decisions, certify_decisions
from hybrid_rs_jax.results.classes import ClassCertificate
from hybrid_rs_jax.results.counts import Counts

SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.5)


@pytest.fixture(scope="module")
def certificate():
    return hrs.certify([1000, 900, 5], 1000, SMOOTHING, 0.1, 0.01, range(3), ids=("a", "b", "<c>"))


@pytest.fixture(scope="module")
def decisions():
    found = Counts(("a", "b", "c"), np.array([1000, 480, 0]), np.full(3, 1000))
    return certify_decisions(found, SMOOTHING, 0.5, 0.01, range(2), "both")


def test_a_row_is_a_view_of_its_index(certificate):
    assert len(certificate) == len(list(certificate)) == 3
    for index, row in enumerate(certificate):
        assert row == certificate[index]
        assert (row.id, row.successes, row.n) == (certificate.ids[index], certificate.successes[index], 1000)
        assert row.lower_bound == certificate.p_a[index]
        assert row.upper_bound is row.decision is row.ties is None
        assert row.radius == tuple(certificate.radius[index])
        assert row.budget == certificate.budget[index]
    assert certificate[-1].id == "<c>"
    with pytest.raises(IndexError):
        _ = certificate[3]


def test_a_mask_and_places_choose_inputs_like_a_slice(certificate):
    mask = np.arange(len(certificate)) != 1
    for index in (mask, mask.tolist(), np.flatnonzero(mask), np.flatnonzero(mask).tolist()):
        assert certificate[index].ids == tuple(np.array(certificate.ids)[mask].tolist())
        np.testing.assert_array_equal(certificate[index].radius, certificate.radius[mask])
    with pytest.raises(IndexError):
        certificate[[len(certificate)]]


def test_a_slice_is_a_certificate_of_fewer_inputs(certificate):
    part = certificate[1:]
    assert isinstance(part, Certificate)
    assert part.ids == ("b", "<c>")
    assert part.statement == certificate.statement
    np.testing.assert_array_equal(part.radius, certificate.radius[1:])
    np.testing.assert_array_equal(part.worst_case(0.1), certificate.worst_case(0.1)[1:])
    assert part == hrs.certify([900, 5], 1000, SMOOTHING, 0.1, 0.01, range(3), ids=("b", "<c>"))


def test_results_are_equal_where_all_their_columns_and_their_statement_are(certificate):
    same = hrs.certify([1000, 900, 5], 1000, SMOOTHING, 0.1, 0.01, range(3), ids=("a", "b", "<c>"))
    assert same == certificate
    assert certificate != dataclasses.replace(certificate, budget=certificate.budget - 1)
    assert certificate != hrs.certify([1000, 900, 5], 1000, SMOOTHING, 0.1, 0.01, range(3))
    assert certificate != "a certificate"


def test_a_summary_is_text_and_a_table_for_notebooks(certificate):
    summary = certificate.summary()
    assert [line.certified for line in summary.budgets] == (certificate.radius >= 0).sum(axis=0).tolist()
    for line, column in zip(summary.budgets, certificate.radius.T, strict=True):
        assert line.mean <= np.maximum(column, 0).mean() + 1e-15
        assert line.median == np.sort(column)[1]
    assert str(summary).splitlines()[0].split() == ["d", "certified", "mean", "r", "median", "r", "largest", "r"]
    assert "SMOOTHED" in str(summary)
    page = certificate._repr_html_()
    assert page.count("<tr>") == 4
    assert page.startswith("<table>")


def test_what_a_console_shows_of_a_result_is_its_summary_and_of_a_row_its_numbers(certificate, decisions):
    for shown in (certificate, decisions):
        assert repr(shown) == f"{type(shown).__name__} of {len(shown)} inputs\n{shown.summary()}"
    row = certificate[0]
    assert repr(row) == f"Row(id={row.id!r}, budget={row.budget}, radius={row.radius})"


def test_two_decisions_keep_two_statements_and_two_bounds(decisions):
    assert decisions.decision.tolist() == ["unsafe", "abstain", "safe"]
    unsafe, safe = decisions.statements
    assert (unsafe.side, safe.side) == ("above", "below")
    assert unsafe.risk.per_statement == safe.risk.per_statement == 0.005
    assert unsafe.needs != safe.needs or unsafe.needs.draws == safe.needs.draws
    np.testing.assert_array_equal(decisions.radius[0], decisions.unsafe.radius[0])
    np.testing.assert_array_equal(decisions.radius[2], decisions.safe.radius[2])
    assert decisions.lower_bound.p[2] < 0.5 < decisions.upper_bound.p[0]
    assert decisions[2].decision == "safe"
    assert decisions[1:].decision.tolist() == ["abstain", "safe"]


def test_an_upper_bound_is_not_called_p_a():
    below = hrs.certify([5], 1000, SMOOTHING, 0.1, 0.01, range(2), side="below")
    assert below.upper_bound.p[0] == below.bound[0]
    assert below.lower_bound is None
    with pytest.raises(AttributeError, match="upper_bound on the clean score, and no p_a"):
        _ = below.p_a


def test_alpha_is_spent_as_the_statement_says():
    shared = hrs.certify([9], 10, SMOOTHING, 0.1, 0.06, range(3))
    split = hrs.certify([[9, 9, 9]], 10, SMOOTHING, 0.1, 0.06, range(3))
    votes = hrs.certify_classes([[9, 0, 1]], SMOOTHING, 0.06, range(3))
    assert (shared.statement.risk.per_statement, shared.statement.risk.split) == (0.06, "one bound")
    assert (split.statement.risk.per_statement, split.statement.risk.split) == (0.06 / 3, "budgets")
    assert (votes.statement.risk.per_statement, votes.statement.risk.split) == (0.01, "classes")


TYPES = [
    *(getattr(statement, name) for name in statement.__all__ if name != "build_statement"),
    counts.Counts,
    counts.Column,
    runs.Run,
    Certificate,
    Decisions,
    ClassCertificate,
    result.Row,
    result.Bounds,
]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_no_field_of_a_result_is_a_dictionary_or_anything(kind):
    annotations = {
        name: str(note) for parent in kind.__mro__ for name, note in vars(parent).get("__annotations__", {}).items()
    }
    assert annotations
    for name, note in annotations.items():
        assert "Any" not in note, name
        assert "dict" not in note.lower(), name
    assert dataclasses.is_dataclass(kind) or issubclass(kind, tuple)
    if dataclasses.is_dataclass(kind):
        assert kind.__dataclass_params__.frozen
    assert typing.get_origin(kind) is None
