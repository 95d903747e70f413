"""What stands around the user's text: chat template, picture, policy, and their token ids."""

from __future__ import annotations

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

from hybrid_rs_jax.classifiers._vlm_tokenizer import token_ids

__all__ = ["POLICIES", "TEMPLATES", "Prompt", "PromptTokens", "read_policy", "render", "tokenise", "user_tokens"]

#: Policies that the package brings along.
POLICIES = ("combination", "text_only", "image_only")
#: "checkpoint": the order of the chat template. "policy_first": the policy stands before the picture.
TEMPLATES = ("checkpoint", "policy_first")
PLACE = "{text}"
_MARK = "hybrid-rs-user-text-5c1e"
_PROBE = "a"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt as text, `before + picture + between + user's text + after`; without a picture `before` is empty."""

    before: str
    between: str
    after: str
    image: str

    def text(self, user: str) -> str:
        """The whole prompt, the picture as its one placeholder."""
        return self.before + self.image + self.between + user + self.after


@dataclasses.dataclass(frozen=True)
class PromptTokens:
    """The same as token ids, the picture left out."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]


def read_policy(policy: str) -> tuple[str, str]:
    """The name and the text of a policy.

    Args:
      policy: one of `POLICIES`, or the path of a text file in UTF-8. `{text}` marks the place of the user's text, at
        most once; without it the text comes last.

    Raises:
      ValueError: if there is no such policy, or the mark appears more than once.
    """
    if policy in POLICIES:
        text = resources.files("hybrid_rs_jax.classifiers").joinpath("policies", f"{policy}.txt").read_text("utf-8")
    else:
        path = Path(policy)
        if not path.is_file():
            raise ValueError(f"policy must be {', '.join(POLICIES)} or a text file, got {policy}.")
        try:
            text, policy = path.read_text(encoding="utf-8-sig"), path.name
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a text file in UTF-8: byte {error.start} is not legal.") from error
    text = text.strip()
    if text.count(PLACE) > 1:
        raise ValueError(f"The policy {policy} must hold {PLACE} at most once, got {text.count(PLACE)} times.")
    return policy, text if PLACE in text else f"{text}\n\n{PLACE}".lstrip()


def render(tokenizer: Any, template: str, policy: str, order: str, image: str, with_image: bool = True) -> Prompt:
    """The prompt that the chat template makes of one picture and a policy with the user's text in it.

    Args:
      tokenizer: renders the template.
      template: chat template of the checkpoint (Jinja).
      policy: text of the policy with `{text}` in it.
      order: one of `TEMPLATES`.
      image: the picture's placeholder.
      with_image: False for a message without a picture.

    Raises:
      ValueError: if the template does not show picture and text exactly once, in this order.
    """
    if order not in TEMPLATES:
        raise ValueError(f"template must be {' or '.join(TEMPLATES)}, got {order!r}.")
    if image in policy:
        raise ValueError(f"The policy must not hold the picture's placeholder {image}.")
    head = policy.partition(PLACE)[0]
    words = policy.replace(PLACE, _MARK)
    text = _rendered(tokenizer, template, words, image, with_image)
    before, _, rest = text.partition(image) if with_image else ("", "", text)
    between, _, after = rest.partition(_MARK)
    if order == "policy_first" and with_image:
        if not between.endswith(head):
            raise ValueError("The chat template changes the text of the policy; template must be 'checkpoint' for it.")
        separator = between[: len(between) - len(head)]
        before, between = before + head, separator
    return Prompt(before, between, after, image if with_image else "")


def tokenise(tokenizer: Any, prompt: Prompt, image_token: int) -> PromptTokens:
    """Token ids around the user's text: those of a whole prompt that do not overlap a short text in its place.

    Raises:
      ValueError: if the picture's placeholder is not exactly one token.
    """
    start = len(prompt.text("")) - len(prompt.after)
    whole = prompt.text(_PROBE)
    begin = tokenizer.bos_token
    encoded = tokenizer(whole, return_offsets_mapping=True, add_special_tokens=not (begin and whole.startswith(begin)))
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    places = [number for number, token in enumerate(ids) if token == image_token]
    if len(places) != int(bool(prompt.image)):
        raise ValueError(
            f"The prompt must hold the picture's placeholder {prompt.image!r} as one token with id {image_token}, "
            f"got {len(places)} of them."
        )
    first = places[0] if places else -1
    head = [token for token, (_, end) in zip(ids, offsets, strict=True) if end <= start]
    tail = [token for token, (begins, _) in zip(ids, offsets, strict=True) if begins >= start + len(_PROBE)]
    return PromptTokens(tuple(head[: max(first, 0)]), tuple(head[first + 1 :]), tuple(tail))


def user_tokens(tokenizer: Any, prompt: Prompt, tokens: PromptTokens, image_token: int, text: str) -> tuple[int, ...]:
    """Token ids of the user's text: as within the whole prompt; by itself where a token would cross the border."""
    if not text:
        return ()
    picture = (image_token,) if prompt.image else ()
    head = tokens.before + picture + tokens.between
    whole = token_ids(tokenizer, prompt.text(text))
    inner = len(whole) - len(tokens.after)
    if inner >= len(head) and whole[: len(head)] == head and whole[inner:] == tokens.after:
        return whole[len(head) : inner]
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _rendered(tokenizer: Any, template: str, words: str, image: str, with_image: bool) -> str:
    """The user's turn and the beginning of the answer; content as a list of parts, or as one text."""
    parts = [{"type": "image"}] if with_image else []
    plain = f"{image}\n{words}" if with_image else words
    fault = ""
    for content in ([*parts, {"type": "text", "text": words}], plain):
        try:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:  # a template is a program: it may fail in any way
            fault = f": {(str(error).strip() or type(error).__name__).splitlines()[0].rstrip('.')}"
            continue
        order = text.find(image) < text.find(_MARK)
        if text.count(_MARK) == 1 and text.count(image) == int(with_image) and order:
            return text
    shown = "one picture and one text after it" if with_image else "one text"
    raise ValueError(f"The chat template of the checkpoint cannot show {shown} in a user's turn{fault}.")
