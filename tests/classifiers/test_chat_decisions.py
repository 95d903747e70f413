"""How an answer becomes a decision, without a server."""

import json
import math

import pytest

from hybrid_rs_jax.classifiers.chat import FirstTokenDecision, Reply, TextDecision
from hybrid_rs_jax.classifiers.chat.reply import UnreadableReplyError, parse_reply
from hybrid_rs_jax.errors import BadInputError


def first_token(**probabilities):
    top = [{"token": token.replace("_", " "), "logprob": math.log(p)} for token, p in probabilities.items()]
    return Reply("guard", "", {"content": [{"top_logprobs": top}]})


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
    assert FirstTokenDecision().decide(Reply("guard", None, {"content": []})) is None


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
    assert TextDecision().decide(Reply("guard", text)) is unsafe


def test_patterns_that_match_at_the_same_place_are_safe():
    assert TextDecision(unsafe="y", safe="yes").decide(Reply("guard", "yes")) is False


@pytest.mark.parametrize("place", ["unsafe", "safe", "a third token", "the token that was drawn"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 5.0, "-0.1", None, True, [], {}])
def test_what_is_no_log_probability_is_no_vote_wherever_it_stands(place, value):
    top = [{"token": token, "logprob": -1.0} for token in ("Unsafe", "Safe", "Perhaps")]
    first = {"token": "Unsafe", "logprob": -1.0, "top_logprobs": top}
    row = {"unsafe": top[0], "safe": top[1], "a third token": top[2]}.get(place, first)
    row["logprob"] = value
    with pytest.raises(UnreadableReplyError, match=r"^gave .* as the log-probability of a first token$"):
        FirstTokenDecision().decide(Reply("guard", "", {"content": [first]}))


def test_minus_infinity_means_never_and_rounding_above_zero_is_forgiven():
    top = [{"token": "Unsafe", "logprob": 1e-6}, {"token": "Safe", "logprob": -math.inf}]
    assert FirstTokenDecision().decide(Reply("guard", "", {"content": [{"top_logprobs": top}]})) is True
    text = json.dumps({"model": "m", "choices": [{"message": {}, "logprobs": {"content": [{"top_logprobs": top}]}}]})
    assert "-Infinity" in text
    assert FirstTokenDecision().decide(parse_reply(text)) is True


@pytest.mark.parametrize(
    "logprobs",
    [
        *(None, [], {}, 3, "content", {"content": None}, {"content": {}}, {"content": "Unsafe"}, {"content": [3]}),
        *({"content": [{}]}, {"content": [{"top_logprobs": {}}]}, {"content": [{"top_logprobs": ["Unsafe"]}]}),
        {"content": [{"top_logprobs": [{"token": 3, "logprob": -1.0}]}]},
    ],
)
def test_log_probabilities_of_another_shape_are_no_vote(logprobs):
    with pytest.raises(UnreadableReplyError, match=r"^gave [^\n]*[^.]$"):
        FirstTokenDecision().decide(Reply("guard", "", logprobs))


GOOD = {"model": "m", "choices": [{"message": {"content": "Safe"}}], "usage": {"prompt_tokens": 7}}


@pytest.mark.parametrize(
    "change",
    [
        *({"model": wrong} for wrong in (None, 3)),
        *({"choices": wrong} for wrong in (None, [], {"0": {}}, "abc", [None], [[]], [{}], [{"message": "Safe"}])),
        *({"choices": [{"message": {"content": wrong}}]} for wrong in (3, True, [], {}, ["Safe"])),
    ],
)
def test_what_is_no_chat_completion_is_one_sentence(change):
    with pytest.raises(BadInputError, match=r"^the answer[^\n]*\.$"):
        parse_reply(json.dumps(GOOD | change))


@pytest.mark.parametrize("text", ["", "null", "[]", "3", '"Safe"', "{", "[" * 200_000, '{"model": 1e400}', "<html>"])
def test_what_is_no_object_is_one_sentence(text):
    with pytest.raises(BadInputError, match=r"^the answer[^\n]*\.$"):
        parse_reply(text)


def test_a_good_answer_is_read_whatever_else_it_holds():
    assert parse_reply(json.dumps(GOOD)) == Reply("m", "Safe", None, 7, 0)
    for usage in (None, [], {"prompt_tokens": "7"}, {"prompt_tokens": -1}, {"prompt_tokens": True}):
        assert parse_reply(json.dumps(GOOD | {"usage": usage})) == Reply("m", "Safe")
    refusal = parse_reply(json.dumps(GOOD | {"choices": [{"message": {"content": None, "refusal": "No."}}, 3]}))
    assert refusal.text is None


@pytest.mark.parametrize(
    ("written", "read"), [(r"\ud83d\ude00", "\U0001f600"), (r"\ud83d", "\ufffd"), (r"a\ude00b", "a\ufffdb")]
)
def test_half_of_a_surrogate_pair_is_what_a_cut_answer_ends_with(written, read):
    assert parse_reply(json.dumps(GOOD).replace("Safe", written)).text == read


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
