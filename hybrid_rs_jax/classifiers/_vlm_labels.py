"""Where the answers Safe and Unsafe part: the teacher-forced beginning and the tokens that follow it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from hybrid_rs_jax.classifiers._vlm_prompt import Prompt
from hybrid_rs_jax.classifiers._vlm_tokenizer import token_ids

__all__ = ["ANSWER", "LABELS", "AnswerTokens", "answer_tokens", "first_label", "label_words"]

#: Words for the two decisions, Unsafe first; spellings are separated by "|".
LABELS = ("Unsafe", "Safe")
#: How an answer begins.
ANSWER = '{"rating": "{label}"'
_PLACE = "{label}"


@dataclasses.dataclass(frozen=True)
class AnswerTokens:
    """The common beginning of all answers, and the token ids that each label goes on with."""

    beginning: tuple[int, ...]
    unsafe: tuple[int, ...]
    safe: tuple[int, ...]


def label_words(labels: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The spellings of Unsafe and of Safe.

    Raises:
      ValueError: if these are not two labels, or one is empty.
    """
    words = [tuple(dict.fromkeys(label.split("|"))) for label in labels]
    if len(words) != 2 or not all(word.strip() for spellings in words for word in spellings):
        raise ValueError(f"labels must be two words, the one for unsafe first, got {', '.join(labels) or 'none'}.")
    return words[0], words[1]


def answer_tokens(tokenizer: Any, prompt: Prompt, answer: str, labels: Sequence[str]) -> AnswerTokens:
    """Walk along the answers to the first position where they differ.

    Args:
      tokenizer: of the checkpoint.
      prompt: what the answer follows.
      answer: beginning of an answer with `{label}` in the place of the label.
      labels: for unsafe and for safe; spellings separated by "|".

    Raises:
      ValueError: if one answer is the beginning of another, or a spelling of each begins with the same token there.
    """
    if answer.count(_PLACE) != 1:
        raise ValueError(f"answer must hold {_PLACE} exactly once, got {answer!r}.")
    unsafe, safe = label_words(labels)
    spoken = prompt.text("")
    # of a prompt alone, so that the answer's tokens are those that follow it
    head = token_ids(tokenizer, spoken)
    sequences = {
        word: _continuation(tokenizer, spoken, head, answer.replace(_PLACE, word)) for word in (*unsafe, *safe)
    }
    step = 0
    while len({sequence[step : step + 1] for sequence in sequences.values()}) == 1:
        if any(len(sequence) <= step for sequence in sequences.values()):
            raise ValueError(f"labels must differ, got {', '.join(labels)}.")
        step += 1
    ended = [word for word, sequence in sequences.items() if len(sequence) == step]
    if ended:
        raise ValueError(
            f"The tokens of the answer {ended[0]!r} are the beginning of another answer's; choose labels, or an "
            f"answer with more text behind {_PLACE}, that part earlier."
        )
    beginning = next(iter(sequences.values()))[:step]
    starts = [tuple(dict.fromkeys(sequences[word][step] for word in words)) for words in (unsafe, safe)]
    if shared := set(starts[0]) & set(starts[1]):
        token = tokenizer.convert_ids_to_tokens(min(shared))
        raise ValueError(
            f"The labels {', '.join(labels)} cannot be told apart at one position: spellings of both begin with the "
            f"token {token!r}."
        )
    return AnswerTokens(beginning, *starts)


def first_label(text: str, labels: Sequence[str]) -> bool | None:
    """Whether the first label in a generated answer is the one for unsafe; None where it holds neither."""
    unsafe, safe = label_words(labels)
    words = sorted({*unsafe, *safe}, key=len, reverse=True)
    found = re.search(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)", text)
    return None if found is None else found.group() in unsafe


def _continuation(tokenizer: Any, spoken: str, head: tuple[int, ...], answer: str) -> tuple[int, ...]:
    whole = token_ids(tokenizer, spoken + answer)
    if whole[: len(head)] == head:
        return whole[len(head) :]
    return tuple(tokenizer(answer, add_special_tokens=False)["input_ids"])
