"""What a user chooses about a guard, checked before any file of the checkpoint is read."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["ANSWER", "LABEL", "LABELS", "POLICIES", "TEXT", "GuardSettings", "Policy", "first_label"]

#: Policies that the package brings along.
POLICIES = ("combination", "text_only", "image_only", "plain")
#: Words for the two decisions, Unsafe first.
LABELS = ("Unsafe", "Safe")
#: How an answer begins, with `LABEL` in the place of the label.
ANSWER = '{"rating": "{label}"'
#: Places in a policy and in an answer.
TEXT, LABEL = "{text}", "{label}"

_LEGAL = {
    "template": ("checkpoint", "policy_first"),
    "views": ("checkpoint", "base"),
    "decision": ("logit_mass", "generate"),
    "threat": ("suffix", "l0"),
    "dtype": ("float32", "bfloat16"),
    "attention": ("auto", "xla", "cudnn"),
}
_MOST = {"text_length": 2**20, "generated_tokens": 2**12}
_LARGEST_IMAGE = 2**14


@dataclasses.dataclass(frozen=True)
class Policy:
    """A policy: its name, for a run's header, and its text with `{text}` in it once."""

    name: str
    text: str


@dataclasses.dataclass(frozen=True)
class GuardSettings:
    """What a user chooses about a guard.

    Attributes:
      policy: "combination", "text_only", "image_only" or "plain" (texts of the package, the last one nothing but the
        user's own text), or the path of a text file; `{text}`
        marks the place of the user's text in it, and without it the text comes last.
      template: "checkpoint" keeps the order of the chat template. "policy_first" puts the policy before the picture,
        which no template of LLaVA does: its keys and values are computed once and kept among the parameters.
      views: "checkpoint" shows of a picture what the checkpoint's image processing makes of it. "base" leaves out the
        tiles, as LLaVA-OneVision does it with several pictures in a prompt: at one tile, which repeats the whole
        picture, half of the positions. It is another base classifier, which decides otherwise now and then.
      decision: "logit_mass" compares the masses of the answers' next tokens, one forward pass per copy. "generate"
        decodes greedily and looks for the first label; neither label counts as Safe. For comparison.
      threat: positions that carry noise: "suffix" all behind the trusted text, "l0" the whole region.
      text_length: positions of the certified text region; 0 for a guard that judges pictures alone.
      image_size: height and width of the certified pictures; None for the size of the vision tower's tiles.
      alphabet: ids of the tokens that noise draws from and attackers may use; None for all tokens of the tokenizer
        that are not special. PAD is added.
      labels: words for unsafe and safe; spellings of one label are separated by "|". For "logit_mass" each must be one
        token of the checkpoint behind the beginning of the answer.
      answer: beginning of an answer with `{label}` in it, as the checkpoint was trained to write it.
      dtype: of weights and computation, "float32" or "bfloat16" (whose softmax has its statistics in float32); None for
        float32 on a CPU and bfloat16 elsewhere.
      attention: "xla", "cudnn", or "auto" (cuDNN on a GPU in half precision).
      share_image: encode the picture once for a batch whose rows all hold the same one: for noise on tokens alone. Both
        ways are compiled.
      generated_tokens: most tokens that "generate" decodes.
      template_options: names and values of variables that the chat template reads.
      profile: name of the profile that the settings come from, for a run's header.

    Raises:
      ValueError: one sentence, for a value that is not legal.
    """

    policy: str | os.PathLike[str] = "combination"
    template: str = "checkpoint"
    views: str = "checkpoint"
    decision: str = "logit_mass"
    threat: str = "suffix"
    text_length: int = 64
    image_size: tuple[int, int] | None = None
    alphabet: Sequence[int] | None = None
    labels: Sequence[str] = LABELS
    answer: str = ANSWER
    dtype: Any = None
    attention: str = "auto"
    share_image: bool = False
    generated_tokens: int = 16
    template_options: Sequence[tuple[str, str | bool]] = ()
    profile: str = "generic"

    def __post_init__(self) -> None:
        self._set("policy", os.fspath(self.policy))
        self._set("dtype", _dtype_name(_usual_dtype() if self.dtype is None else self.dtype))
        for name, legal in _LEGAL.items():
            if getattr(self, name) not in legal:
                raise ValueError(f"{name} must be {' or '.join(legal)}, got {getattr(self, name)!r:.80}.")
        for name, most in _MOST.items():
            least = int(name != "text_length")
            if not _is_whole(value := getattr(self, name)) or not least <= value <= most:
                raise ValueError(f"{name} must be an integer in {least}..{most}, got {value!r:.80}.")
        if self.image_size is not None:
            sides = tuple(self.image_size)
            if len(sides) != 2 or not all(_is_whole(side) and 1 <= side <= _LARGEST_IMAGE for side in sides):
                sizes = f"a height and a width in 1..{_LARGEST_IMAGE} pixels"
                raise ValueError(f"image_size must be {sizes}, got {self.image_size!r:.80}.")
            self._set("image_size", (int(sides[0]), int(sides[1])))
        if self.alphabet is not None:
            self._set("alphabet", tuple(self.alphabet))
        self._set("labels", tuple(self.labels))
        if len(self.labels) != 2 or not all(map(_is_shown, (word for words in self.spellings for word in words))):
            raise ValueError(f"labels must be two words, the one for unsafe first, got {self.labels!r:.80}.")
        if not _is_shown(self.answer) or self.answer.count(LABEL) != 1:
            raise ValueError(f"answer must hold {LABEL} exactly once, got {self.answer!r:.80}.")

    @property
    def spellings(self) -> tuple[tuple[str, ...], ...]:
        """The spellings of Unsafe and those of Safe."""
        return tuple(tuple(dict.fromkeys(label.split("|") if isinstance(label, str) else "")) for label in self.labels)

    def read_policy(self) -> Policy:
        """The policy, from the package or from its file.

        Raises:
          ValueError: if there is no such policy, it cannot be read, or `{text}` appears in it more than once.
        """
        name = os.fspath(self.policy)
        if name in POLICIES:
            text = resources.files("hybrid_rs_jax.classifiers").joinpath("policies", f"{name}.txt").read_text("utf-8")
        else:
            text, name = _policy_file(name)
        text = text.strip()
        if text.count(TEXT) > 1:
            raise ValueError(f"The policy {name} must hold {TEXT} at most once, got {text.count(TEXT)} times.")
        if self.text_length == 0:
            return Policy(name, text.replace(TEXT, "") + TEXT)  # where nothing will stand
        return Policy(name, text if TEXT in text else f"{text}\n\n{TEXT}".lstrip())

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def first_label(text: str, spellings: Sequence[Sequence[str]]) -> bool | None:
    """Whether the first label in a generated answer is one for unsafe; None where it holds neither."""
    words = sorted({word for words in spellings for word in words}, key=len, reverse=True)
    found = re.search(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)", text)
    return None if found is None else found.group() in spellings[0]


def _policy_file(name: str) -> tuple[str, str]:
    """Text and name of a file."""
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: byte {error.start} is not legal.") from error
    except (OSError, ValueError) as error:  # absent, a folder, too long, with a NUL
        raise ValueError(f"policy must be {', '.join(POLICIES)} or a text file, got {name!r:.80}.") from error
    return text, path.name


def _usual_dtype() -> str:
    """Accelerators multiply float32 in shorter numbers by default, and bfloat16 several times faster."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def _dtype_name(dtype: Any) -> str:
    """The name of a dtype that is given as a name or as a type; what is no dtype comes back as text."""
    try:
        return str(jnp.dtype(dtype))
    except TypeError:
        return str(dtype)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_shown(text: object) -> bool:
    """Whether it is a text that is not blank and that a tokenizer takes."""
    return isinstance(text, str) and bool(text.strip()) and text.isascii() | _is_unicode(text)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
