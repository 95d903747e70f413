"""Prompts around a text: what cannot be laid out is said, and what would merge is tokenised by itself."""

import pytest
from vlm_checkpoint import IMAGE, LLAVA_TEMPLATE, make_tokenizer

from hybrid_rs_jax.classifiers.vlm import GuardSettings
from hybrid_rs_jax.classifiers.vlm.prompt import Tokens, lay_out

ASSIST = "{{ messages[0].content if messages[0].content is string else bad.content }}{{ 'assist' }}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    words = ["assistant", "Unsafe", "Safe", "so Safe"]
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), LLAVA_TEMPLATE, 20 * words)


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return Tokens(tokenizer, tokenizer.convert_tokens_to_ids(IMAGE))


def laid_out(tokens, policy="Rate {text}", template=LLAVA_TEMPLATE, pixels=None, **settings):
    return lay_out(tokens, template, policy, GuardSettings(**settings), pixels)


@pytest.mark.parametrize(
    ("image", "frame", "what"), [(9999, None, "placeholder"), (3, (9999, 1), "frame"), (3, (1, 9999), "frame")]
)
def test_a_token_of_the_picture_that_the_tokenizer_does_not_have_is_named(tokenizer, image, frame, what):
    with pytest.raises(ValueError, match=rf"^The tokenizer has no token 9999, the picture's {what} of config\.json\.$"):
        Tokens(tokenizer, image, frame)


def test_a_policy_with_the_placeholder_of_the_picture_is_refused(tokens):
    with pytest.raises(ValueError, match=r"^The policy must not hold the picture's placeholder <image>\.$"):
        laid_out(tokens, f"Rate {IMAGE} and {{text}}")


def test_spellings_that_merge_differently_with_what_is_before_them_are_refused(tokenizer, tokens):
    """A blank goes into the token of one spelling and stays outside of that of the other."""
    assert tokenizer.tokenize("so Safe") == ["so", "ĠSafe"]
    assert tokenizer.tokenize("so Unsafe") == ["so", "Ġ", "Unsafe"]
    with pytest.raises(
        ValueError, match="must have the same tokens before each spelling in labels, but before 'Unsafe"
    ):
        laid_out(tokens, labels=("Unsafe", "Safe"), answer="so {label}")


def test_an_answer_or_a_text_that_would_merge_with_the_prompt_is_tokenised_by_itself(tokenizer, tokens):
    assert tokenizer.tokenize("assistant") == ["assistant"]
    found = laid_out(tokens, "{text}", ASSIST, answer='ant{"rating": "{label}"')
    alone = tokenizer('ant{"rating": "', add_special_tokens=False)["input_ids"]
    assert list(found.beginning) == alone
    assert found.user_ids("hello") == tuple(tokenizer("hello", add_special_tokens=False)["input_ids"])
    merging = laid_out(tokens, "assist{text}", ASSIST)
    assert merging.user_ids("ant") == tuple(tokenizer("ant", add_special_tokens=False)["input_ids"])
    assert merging.user_ids("") == ()
