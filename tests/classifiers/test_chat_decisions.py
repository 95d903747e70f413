"""How an answer becomes a decision, without a server."""

import json
import math

import pytest

from hybrid_rs_jax.classifiers import FirstTokenDecision, TextDecision


def first_token(**probabilities):
    top = [{"token": token.replace("_", " "), "logprob": math.log(p)} for token, p in probabilities.items()]
    return {"message": {"content": ""}, "logprobs": {"content": [{"top_logprobs": top}]}}


@pytest.mark.parametrize(
    ("probabilities", "unsafe"),
    [
        ({"Unsafe": 0.9, "Safe": 0.1}, True),
        ({"Unsafe": 0.1, "Safe": 0.9}, False),
        ({"Safe": 0.4, "Un": 0.3, "uns": 0.2}, True),  # masses are added up
        ({"Unsafe": 0.4, "S": 0.3, "_safe": 0.2}, False),
        ({"UNSAFE": 1.0}, True),
        ({"\u2581Un": 0.6, "\u0120Safe": 0.4}, True),
        ({"unsafe.": 0.6, "safe": 0.4}, True),
        ({"Unsafely": 0.6, "safe": 0.4}, False),  # another word
        ({"Safety": 0.6, "Unsafe": 0.4}, True),
        ({"Unsafe": 0.5, "Safe": 0.5}, False),  # a tie errs to the side that certifies less
        ({"_": 0.9, "Unsafe": 0.1}, True),
        ({"Maybe": 0.9}, None),
        ({"_": 1.0}, None),
    ],
)
def test_the_likelier_kind_of_first_token_decides(probabilities, unsafe):
    assert FirstTokenDecision().decide(first_token(**probabilities)) is unsafe


def test_a_token_that_begins_words_of_both_kinds_counts_for_neither():
    decision = FirstTokenDecision(unsafe=("bad",), safe=("benign", "ok"))
    assert decision.decide(first_token(b=0.9, ok=0.1)) is False
    assert decision.decide(first_token(b=0.9, ba=0.1)) is True
    assert decision.decide(first_token(b=1.0)) is None


def test_an_answer_without_tokens_says_neither():
    assert FirstTokenDecision().decide({"message": {}, "logprobs": {"content": []}}) is None


@pytest.mark.parametrize(
    ("text", "unsafe"),
    [
        ("Unsafe", True),
        ("SAFE.", False),
        ("**unsafe**\nbecause it is not safe", True),
        ("Safe, nothing unsafe here", False),
        ("unsafely", None),
        ("", None),
        (None, None),
    ],
)
def test_the_first_pattern_in_the_text_decides(text, unsafe):
    assert TextDecision().decide({"message": {"content": text}}) is unsafe


def test_patterns_that_match_at_the_same_place_are_safe():
    assert TextDecision(unsafe="y", safe="yes").decide({"message": {"content": "yes"}}) is False


@pytest.mark.parametrize("decision", [FirstTokenDecision(), TextDecision()])
def test_a_description_survives_json(decision):
    assert json.loads(json.dumps(decision.describe())) == decision.describe()


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (FirstTokenDecision, {"unsafe": ()}, r"\(\)"),
        (FirstTokenDecision, {"safe": ("",)}, r"''"),
        (FirstTokenDecision, {"safe": (" safe",)}, "' safe'"),
        (FirstTokenDecision, {"safe": ("Unsafe",)}, "'unsafe' in both"),
        (FirstTokenDecision, {"top": 0}, "got 0"),
        (FirstTokenDecision, {"top": 21}, "got 21"),
        (TextDecision, {"unsafe": "("}, r"'\('"),
        (TextDecision, {"max_tokens": 0}, "got 0"),
    ],
)
def test_bad_settings_raise_one_sentence_with_the_value(kind, changes, words):
    with pytest.raises(ValueError, match=rf"^[^\n]*{words}[^\n]*\.$"):
        kind(**changes)
