"""Everything that stands around the certified text: noise alphabet, rendered chat template, policy, answer."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hybrid_rs_jax.classifiers.vlm.settings import LABEL, TEXT, GuardSettings
from hybrid_rs_jax.classifiers.vlm.tokenizer import first_line
from hybrid_rs_jax.models import ImagePlan

__all__ = [
    "PAD",
    "Alphabet",
    "PromptLayout",
    "Tokens",
    "lay_out",
    "ordinary_tokens",
    "text_digest",
]

#: The symbol of an empty position. It stands for no token: the network is shown the text without it.
PAD = 0
_IMAGE, _NO_TOKEN = "<image>", -200  # of the original LLaVA code, where the placeholder need not be a token
_MARK, _PROBE = "hybrid-rs-user-text-5c1e", "a"
_BORDERS = ("\n", ".", "a")  # that an appended text may stand behind without merging with them


class Alphabet:
    """The noise alphabet: PAD and a set of tokens, numbered 0..V-1 as the kernels need it.

    Args:
      tokens: ids of the tokens, all different; symbol `s` of 1..V-1 stands for the s-th of them in rising order.
      rows: rows of the network's embedding; ids lie below.

    Raises:
      ValueError: for an id that is no integer or out of range, or one that appears twice.
    """

    def __init__(self, tokens: Iterable[int], rows: int):
        given = list(tokens)
        if not given:
            raise ValueError("alphabet must hold at least one token, got none.")
        wrong = [token for token in given if not isinstance(token, int | np.integer) or not 0 <= token < rows]
        if wrong:
            raise ValueError(f"alphabet must hold token ids in 0..{rows - 1}, got {wrong[0]!r:.80}.")
        ids = np.sort(np.asarray(given, np.int64))
        if (repeated := ids[1:][ids[1:] == ids[:-1]]).size:
            raise ValueError(f"alphabet must hold each token once, got {repeated[0]} twice.")
        #: Token id of each symbol, int32[V]; that of PAD is never shown.
        self.table = np.concatenate([[0], ids]).astype(np.int32)
        self._symbol = {int(token): number for number, token in enumerate(ids, start=1)}

    def __len__(self) -> int:
        return len(self.table)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens' ids: what symbol numbers mean."""
        return hashlib.sha256(self.table[1:].astype("<i4").tobytes()).hexdigest()

    def symbols(self, ids: Sequence[int], tokens: Tokens) -> np.ndarray:
        """Symbols of tokens, int32.

        Raises:
          ValueError: for a token outside of the alphabet, which no certificate would cover.
        """
        if outside := [token for token in ids if token not in self._symbol]:
            raise ValueError(
                f"Its text holds the token {tokens.shown(outside[0])!r} (id {outside[0]}), which is not in the noise "
                "alphabet."
            )
        return np.array([self._symbol[token] for token in ids], np.int32)

    def tokens(self, symbols: np.ndarray) -> list[int]:
        """Token ids of symbols, PADs left out."""
        return self.table[symbols[symbols != PAD]].tolist()


class Tokens:
    """A checkpoint's tokenizer and the picture's placeholder in it.

    Args:
      tokenizer: a fast one.
      image_token: id of the placeholder, which stands for as many embeddings as the picture takes. Below 0 in the
        original layout of LLaVA: then it is the text "<image>", and where that is no token either, prompts are cut
        there and the parts are tokenised apart, as that code does it.
      frame: ids of tokens before and behind the placeholder; None for none. A chat template that does not write the
        placeholder itself (Gemma 3) writes the first of them, and the processor puts line breaks around it all.

    Raises:
      ValueError: if the tokenizer does not have one of these ids.
    """

    def __init__(self, tokenizer: Any, image_token: int, frame: tuple[int, int] | None = None):
        self.tokenizer, self.image = tokenizer, _IMAGE
        self.image_token = tokenizer.get_vocab().get(_IMAGE, _NO_TOKEN) if image_token < 0 else image_token
        if image_token >= 0:
            self.image = self._named(image_token, "placeholder")
        # what the template writes for a picture, and what stands for it in the prompt
        self.written, self.framed = self.image, self.image
        if frame is not None:
            begin, end = (self._named(token, "frame") for token in frame)
            self.written, self.framed = begin, f"\n\n{begin}{self.image}{end}\n\n"

    def with_frame(self, text: str) -> str:
        """A rendered prompt with the placeholder in it."""
        return text if self.image in text else text.replace(self.written, self.framed)

    def before_frame(self, before: str) -> tuple[str, str]:
        """What stands before a picture, cut where its frame begins."""
        opening = self.framed.partition(self.image)[0]
        for start in (opening, opening.lstrip()):
            if start and before.endswith(start):
                return before.removesuffix(start), start
        return before, ""

    def _named(self, token: int, what: str) -> str:
        name = self.tokenizer.convert_ids_to_tokens(token) if token < len(self.tokenizer) else None
        if not isinstance(name, str):
            raise ValueError(f"The tokenizer has no token {token}, the picture's {what} of config.json.")
        return name

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a whole prompt, which begins with the tokenizer's own first tokens, once."""
        return self.with_places(text)[0]

    def with_places(self, text: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """The same, and the letters `start, end` of `text` that each token stands for."""
        parts = text.split(self.image) if self.image_token == _NO_TOKEN else [text]
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        start = 0
        for number, part in enumerate(parts):
            if number:
                ids.append(self.image_token)
                places.append((start, start + len(self.image)))
                start += len(self.image)
            begin = self.tokenizer.bos_token
            special = number == 0 and not (begin and part.startswith(begin))
            found = self.tokenizer(part, return_offsets_mapping=True, add_special_tokens=special)
            ids += found["input_ids"]
            places += [(start + first, start + last) for first, last in found["offset_mapping"]]
            start += len(part)
        return tuple(ids), tuple(places)

    def alone(self, text: str) -> tuple[int, ...]:
        """Token ids of a text of the user by itself, without tokens that begin a prompt."""
        self._refuse_placeholder(text)
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def behind(self, text: str) -> tuple[int, ...]:
        """Token ids of a text of the user that stands behind another one with which it does not merge."""
        self._refuse_placeholder(text)
        for border in _BORDERS:
            found = self.tokenizer(border + text, add_special_tokens=False, return_offsets_mapping=True)
            ids, places = found["input_ids"], found["offset_mapping"]
            first = sum(end <= len(border) for _, end in places)
            if all(start >= len(border) for start, _ in places[first:]):
                return tuple(ids[first:])
        return self.alone(text)

    def _refuse_placeholder(self, text: str) -> None:
        """Where the placeholder is no token, its letters would be read as ordinary ones here, and not in that code."""
        if self.image_token == _NO_TOKEN and self.image in text:
            raise ValueError(f"Its text holds the token {self.image!r}, which stands for the picture.")

    def shown(self, token: int) -> str:
        """A token as the tokenizer names it."""
        return self.image if token == self.image_token else self.tokenizer.convert_ids_to_tokens(int(token))


@dataclasses.dataclass(frozen=True, eq=False)
class PromptLayout:
    """A prompt around the certified text, `before, picture, between, user's text, after`, as text and as token ids.

    Attributes:
      tokens: the tokenizer.
      text: the whole prompt with the picture's placeholder (if any) and no user's text, cut where that would stand.
      before: token ids before the picture; none where there is none.
      between: from the picture to the user's text.
      after: behind the user's text.
      beginning: of all answers, in common.
      unsafe: token ids that an answer for Unsafe goes on with.
      safe: the same for Safe; both empty where answers are generated.
      pixels: image processing; None for a prompt without a picture.
    """

    tokens: Tokens
    text: tuple[str, str]
    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    beginning: tuple[int, ...]
    unsafe: tuple[int, ...]
    safe: tuple[int, ...]
    pixels: ImagePlan | None

    def user_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of the user's text: as within the whole prompt; by itself where a token would cross the border."""
        if not text:
            return ()
        picture = () if self.pixels is None else (self.tokens.image_token,)
        head, whole = (*self.before, *picture, *self.between), self.tokens.ids(text.join(self.text))
        inner = len(whole) - len(self.after)
        if inner >= len(head) and whole[: len(head)] == head and whole[inner:] == self.after:
            return whole[len(head) : inner]
        return self.tokens.alone(text)


def lay_out(
    tokens: Tokens, template: str, policy: str, settings: GuardSettings, pixels: ImagePlan | None
) -> PromptLayout:
    """The prompt that a chat template makes of one picture and a policy with the user's text in it.

    Args:
      tokens: tokenizer and placeholder.
      template: chat template of the checkpoint (Jinja).
      policy: text of the policy with `{text}` in it.
      settings: order of the prompt, answer and labels.
      pixels: image processing; None for a message without a picture.

    Raises:
      ValueError: if the template does not show picture and text exactly once, in this order, or a label is no token.
    """
    for placeholder in (tokens.image, tokens.written):
        if placeholder in policy:
            raise ValueError(f"The policy must not hold the picture's placeholder {placeholder}.")
    options = dict(settings.template_options)
    before, between, after = _rendered(tokens, template, policy, pixels is not None, options)
    if settings.text_length == 0:  # no text will part them
        before, between, after = (before, between + after, "") if pixels is not None else ("", between + after, "")
    if settings.template == "policy_first" and pixels is not None:
        head = policy.partition(TEXT)[0]
        if not between.endswith(head):
            raise ValueError("The chat template changes the text of the policy; template must be 'checkpoint' for it.")
        front, opening = tokens.before_frame(before)
        before, between = front + head + opening, between[: len(between) - len(head)]
    image = "" if pixels is None else tokens.image
    text, probe = (before + image + between, after), _PROBE if settings.text_length else ""
    ids, places = tokens.with_places(probe.join(text))
    pictures = [number for number, token in enumerate(ids) if token == tokens.image_token]
    if len(pictures) != (pixels is not None):
        raise ValueError(
            f"The prompt must hold the picture's placeholder {tokens.image!r} as one token with id "
            f"{tokens.image_token}, got {len(pictures)} of them."
        )
    # what overlaps a short text in the user's place belongs to that text
    start, first = len(text[0]), pictures[0] if pictures else -1
    head_ids = tuple(token for token, (_, end) in zip(ids, places, strict=True) if end <= start)
    tail_ids = tuple(token for token, (begin, _) in zip(ids, places, strict=True) if begin >= start + len(probe))
    if not probe:  # one token is left to be the last, behind the place of the text
        head_ids, tail_ids = ids[:-1], ids[-1:]
    beginning, unsafe, safe = _answer_ids(tokens, "".join(text), settings)
    before_ids, between_ids = head_ids[: max(first, 0)], head_ids[first + 1 :]
    return PromptLayout(tokens, text, before_ids, between_ids, tail_ids, beginning, unsafe, safe, pixels)


def _rendered(
    tokens: Tokens, template: str, policy: str, with_image: bool, options: dict[str, str | bool]
) -> tuple[str, str, str]:
    """The user's turn and the beginning of the answer, cut at picture and text; content as parts, or as one text."""
    words, image = policy.replace(TEXT, _MARK), tokens.image
    parts = [{"type": "image"}] if with_image else []
    plain = f"{tokens.framed}\n{words}" if with_image else words
    fault = ""
    for content in ([*parts, {"type": "text", "text": words}], plain):
        try:
            rendered = tokens.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
                **options,
            )
        except Exception as error:  # a template is a program: it may fail in any way
            fault = f": {first_line(error)}"
            continue
        text = tokens.with_frame(rendered) if with_image else rendered
        if text.count(_MARK) == 1 and text.count(image) == with_image and text.find(image) < text.find(_MARK):
            before, _, rest = text.partition(image) if with_image else ("", "", text)
            between, _, after = rest.partition(_MARK)
            return before, between, after
    shown = "one picture and one text after it" if with_image else "one text"
    raise ValueError(f"The chat template of the checkpoint cannot show {shown} in a user's turn{fault}.")


def _answer_ids(
    tokens: Tokens, spoken: str, settings: GuardSettings
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The beginning of all answers, and the tokens of the spellings that follow it: each a single one.

    A spelling of several tokens would count by its first one, whose mass is also that of other words. Where answers are
    generated, nothing is needed.
    """
    if settings.decision == "generate":
        return (), (), ()
    unsafe, safe = settings.spellings
    found = {word: _cut_at_label(tokens, spoken, settings.answer, word) for word in (*unsafe, *safe)}
    for word, (_, pieces) in found.items():
        if len(pieces) != 1:
            alike = [other for other, (_, theirs) in found.items() if other != word and theirs[:1] == pieces[:1]]
            also = f" {' and '.join(map(repr, alike))} and" if alike else ""
            raise ValueError(
                f"Each spelling in labels must be one token of the checkpoint, got {word!r} as "
                f"{' + '.join(repr(tokens.shown(token)) for token in pieces) or 'none'}"
                + (f": with {tokens.shown(pieces[0])!r}{also} other words begin as well." if pieces else ".")
            )
    beginnings = {beginning: word for word, (beginning, _) in found.items()}
    if len(beginnings) > 1:
        first, second = list(beginnings.values())[:2]
        raise ValueError(
            f"The answer must have the same tokens before each spelling in labels, but before {first!r} and {second!r} "
            f"they differ; choose other spellings, or an answer with a line break before {LABEL}."
        )
    starts = [tuple(dict.fromkeys(found[word][1][0] for word in words)) for words in (unsafe, safe)]
    if shared := set(starts[0]) & set(starts[1]):
        raise ValueError(f"labels must differ, but the token {tokens.shown(min(shared))!r} is a spelling of both.")
    return next(iter(beginnings)), starts[0], starts[1]


def _cut_at_label(tokens: Tokens, spoken: str, answer: str, word: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of an answer before its label, and those that hold letters of the label."""
    head, text = tokens.ids(spoken), answer.replace(LABEL, word)
    ids, places = tokens.with_places(spoken + text)
    start, offset = len(head), len(spoken)
    if ids[:start] != head:  # the answer would merge with the prompt: it is tokenised by itself
        found = tokens.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, places, start, offset = tuple(found["input_ids"]), tuple(found["offset_mapping"]), 0, 0
    first = offset + answer.index(LABEL)
    inside = [n for n in range(start, len(ids)) if places[n][0] < first + len(word) and places[n][1] > first]
    return ids[start : inside[0] if inside else len(ids)], tuple(ids[n] for n in inside)


def ordinary_tokens(tokens: Tokens, rows: int) -> list[int]:
    """All tokens of a tokenizer that a user's text can hold: no special tokens, no picture's placeholder."""
    tokenizer = tokens.tokenizer
    special = {*tokenizer.all_special_ids, tokens.image_token}
    special |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted({number for number in tokenizer.get_vocab().values() if number < rows} - special)


def text_digest(*texts: str) -> str:
    """SHA-256 of texts in UTF-8, each with its length."""
    whole = hashlib.sha256()
    for text in texts:
        data = text.encode()
        whole.update(f"{len(data)}\n".encode() + data)
    return whole.hexdigest()
