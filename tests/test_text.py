"""Numbers as text never promise more than the numbers do."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_rs_jax import _text as f
from hybrid_rs_jax.errors import BadInputError

PROBABILITIES = st.floats(0, 1, exclude_max=True)


@given(st.floats(-1e9, 1e9), st.integers(0, 9))
def test_floor_text_is_never_above_the_number_and_close_below_it(value, decimals):
    text = Decimal(f.floor_text(value, decimals))
    assert text <= Decimal(value) < text + Decimal(1).scaleb(-decimals)


@given(PROBABILITIES)
def test_probability_text_is_never_above_the_probability_and_keeps_two_digits(p):
    text = Decimal(f.probability_text(p))
    assert text <= Decimal(p)
    error = Decimal(p) - text
    assert error <= max(Decimal("0.1") * min(Decimal(p), 1 - Decimal(p)), Decimal("1e-17"))


@given(st.floats(1e-300, 1))
def test_ceil_probability_text_is_never_below_what_is_needed(complement):
    p = 1 - complement
    text = f.ceil_probability_text(p, complement)
    if text.startswith("1 - "):
        assert Decimal(text.removeprefix("1 - ")) <= Decimal(complement)
    else:
        assert Decimal(text) >= Decimal(p)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9996, "0.999"), (1.0, "1.000"), (0.0, "0.000"), (-0.0, "0.000"), (1e300, "1000"), (float("inf"), "inf")],
)
def test_floor_text_examples(value, text):
    assert f.floor_text(value).startswith(text)


def test_not_certified_is_a_dash():
    assert f.radius_text(-1.0) == f.budget_text(-1) == f.DASH
    assert f.radius_text(0.0) == "0.000"
    assert f.budget_text(0) == "0"


def test_percent_is_floored():
    assert f.percent_text(2, 3) == "66.6 %"
    assert f.percent_text(9_999, 10_000) == "99.9 %"
    assert f.percent_text(3, 3) == "100.0 %"


def test_mean_counts_what_is_not_certified_as_zero():
    assert f.mean([1.0, -1.0]) == 0.5


def test_settings_never_read_as_zero_or_one():
    assert f.setting_text(1 - 2**-53) == "0.9999999999999999"
    assert f.setting_text(4.6e-5) == "4.6e-05"
    assert f.setting_text(0.0) == "0"


def test_spans_and_lists():
    assert f.span_text(range(9)) == "0..8"
    assert f.span_text([1, 3, 6]) == "1, 3, 6"
    assert f.joined([]) == ""
    assert f.joined(["a"]) == "a"
    assert f.joined("abc") == "a, b and c"


def test_only_texts_that_files_can_hold_are_texts():
    assert f.as_text("ü \U0001f600", "id") == "ü \U0001f600"
    for value, sentence in (
        ("\ud83d", r"^a\.csv, line 2: id holds half of a Unicode surrogate pair, '\\ud83d'\.$"),
        (3, r"^a\.csv, line 2: id must be a text, got 3\.$"),
        (b"a", r"must be a text, got b'a'\.$"),
        (float("nan"), r"must be a text, got nan\.$"),
        (None, r"must be a text, got None\.$"),
    ):
        with pytest.raises(BadInputError, match=sentence):
            f.as_text(value, "a.csv, line 2: id")
