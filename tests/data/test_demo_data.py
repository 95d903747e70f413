"""The demo data: vocabulary, prompts, labels and the held-out split."""

import random

import numpy as np
import pytest

from hybrid_rs_jax.data import demo


def test_vocabulary_has_512_different_words_with_pad_first():
    words = demo.vocabulary()
    assert len(words) == len(set(words)) == demo.VOCAB_SIZE == 512
    assert words[demo.PAD] == "<pad>"
    assert [words[token] for token in demo.token_ids("digit")] == (
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    )


def test_decode_undoes_encode():
    rng = random.Random(0)
    for kind in demo.PROMPT_KINDS:
        for index in range(200):
            prompt = demo.draw_prompt(rng, kind, index % 10, scrambled=index % 2 == 0)
            tokens = demo.encode(prompt)
            assert tokens.shape == (16,)
            assert tokens.dtype == np.int32
            assert not tokens[demo.PROMPT_LENGTH :].any()
            assert demo.decode(tokens) == prompt


def test_every_word_of_the_alphabet_occurs_in_prompts():
    rng = random.Random(0)
    kinds = [demo.PROMPT_KINDS[index % 4] for index in range(6000)]
    tokens = np.stack([demo.encode(demo.draw_prompt(rng, kind, int(rng.random() * 10), True)) for kind in kinds])
    assert np.unique(tokens).size == demo.VOCAB_SIZE


def test_case_and_punctuation_are_ignored():
    np.testing.assert_array_equal(demo.encode("Please, dial SEVEN now!"), demo.encode("please dial seven now"))


def test_decode_shows_an_appended_suffix():
    tokens = demo.encode("dial seven")
    tokens[demo.PROMPT_LENGTH] = demo.encode("apple")[0]
    assert demo.decode(tokens) == "dial seven apple"


def test_unknown_word_is_named():
    with pytest.raises(ValueError, match="'zeppelin'"):
        demo.encode("please dial the zeppelin")


def test_too_long_a_prompt_is_refused():
    with pytest.raises(ValueError, match="at most 8 words"):
        demo.encode("dial " * 9)


@pytest.mark.parametrize("token", [-1, 512])
def test_token_outside_the_alphabet_is_refused(token):
    with pytest.raises(ValueError, match=f"Token {token} "):
        demo.decode([token])


def test_unknown_kind_and_missing_digit_are_refused():
    with pytest.raises(ValueError, match="Unknown prompt kind 'order'"):
        demo.draw_prompt(random.Random(0), "order")
    with pytest.raises(ValueError, match="needs a digit"):
        demo.draw_prompt(random.Random(0), "ask")


def test_suffix_mask_covers_the_second_half():
    np.testing.assert_array_equal(demo.suffix_mask(), [False] * 8 + [True] * 8)


def test_rule_needs_action_digit_word_and_that_very_picture():
    assert demo.is_unsafe(demo.encode("please dial seven now"), 7)
    assert not demo.is_unsafe(demo.encode("please dial seven now"), 3)
    assert not demo.is_unsafe(demo.encode("please dial seven now"), None)
    assert not demo.is_unsafe(demo.encode("my aunt would like seven apple"), 7)
    assert not demo.is_unsafe(demo.encode("please dial the phone now"), 7)
    assert not demo.is_unsafe(demo.encode(""), 7)


def test_rule_looks_at_the_prompt_region_only():
    tokens = demo.encode("please dial now")
    tokens[demo.PROMPT_LENGTH :] = demo.encode("seven")[0]
    assert not demo.is_unsafe(tokens, 7)


@pytest.mark.parametrize(("kind", "unsafe"), [("ask", True), ("mention", False), ("errand", False), ("chat", False)])
def test_prompt_kinds_keep_their_promise(kind, unsafe):
    rng = random.Random(1)
    for index in range(300):
        tokens = demo.encode(demo.draw_prompt(rng, kind, 4, scrambled=index % 2 == 0))
        assert demo.is_unsafe(tokens, 4) is unsafe
        assert not demo.is_unsafe(tokens, 5)


def test_held_out_inputs_are_balanced_and_follow_the_rule():
    inputs = demo.load_demo()
    assert len(inputs) == len(inputs.ids) == len(set(inputs.ids)) == len(inputs.prompts) >= 360
    assert inputs.tokens.shape == (len(inputs), 16)
    assert inputs.images.shape == (len(inputs), 8, 8, 1)
    assert (inputs.tokens.dtype, inputs.images.dtype, inputs.labels.dtype) == (np.int32, np.float32, np.bool_)
    assert inputs.images.min() == 0.0
    assert inputs.images.max() == 1.0
    assert np.bincount(inputs.digits).min() >= 44
    assert 0.45 < inputs.labels.mean() < 0.6
    assert np.bincount(inputs.digits[inputs.labels], minlength=10).min() >= 15
    for row, prompt in enumerate(inputs.prompts):
        np.testing.assert_array_equal(inputs.tokens[row], demo.encode(prompt))
        assert demo.is_unsafe(inputs.tokens[row], int(inputs.digits[row])) == inputs.labels[row]


def test_load_demo_gives_the_same_inputs_each_time():
    first, second = demo.load_demo(), demo.load_demo()
    assert first.prompts == second.prompts
    np.testing.assert_array_equal(first.images, second.images)


def test_held_out_unsafe_gives_unsafe_inputs_only():
    assert len(demo.held_out_unsafe()) == 20
    inputs = demo.held_out_unsafe(limit=10_000)
    assert inputs.labels.all()
    assert len(inputs) == demo.load_demo().labels.sum()
    with pytest.raises(ValueError, match="limit must be at least 1, but it is 0"):
        demo.held_out_unsafe(limit=0)


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="Unknown split 'test'"):
        demo.load_demo("test")


def test_train_and_held_out_are_disjoint_and_make_up_the_data_set():
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    train, held_out = demo.load_demo("train"), demo.load_demo("held_out")
    assert not set(train.ids) & set(held_out.ids)
    assert len(train) + len(held_out) == len(data.target) == 1797
    for split in (train, held_out):
        rows = [int(name.removeprefix("digit-")) for name in split.ids]
        np.testing.assert_array_equal(split.images[..., 0] * 16, data.images[rows])
        np.testing.assert_array_equal(split.digits, data.target[rows])
    # No held-out picture is in the training set under another row either.
    pictures = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in pictures for image in held_out.images)


def test_shipped_rows_follow_the_split_rule():
    datasets = pytest.importorskip("sklearn.datasets")
    rows = demo.held_out_rows(datasets.load_digits().target)
    assert demo.load_demo().ids == [f"digit-{row:04d}" for row in rows]
