"""Guards that people use, each asked as it was trained: a table, and which row a checkpoint belongs to."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from hybrid_rs_jax._files import kind_of, read_text
from hybrid_rs_jax.classifiers.vlm.settings import ANSWER, LABELS, GuardSettings
from hybrid_rs_jax.models import load_config
from hybrid_rs_jax.models._hub import checkpoint_folder

__all__ = ["PROFILES", "Profile", "find_profile"]

_LLAVA = ("llava", "llava_next", "llava_onevision")
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


@dataclasses.dataclass(frozen=True)
class Profile:
    """How a guard is asked.

    Attributes:
      name: of the guard.
      families: values of `model_type` in config.json.
      marks: texts of which one stands in the checkpoint's name or in its chat template; none where the family is
        enough.
      policy: a policy of the package; None where the guard has one of its own, which the user gives as a file.
      template: order of the prompt, see `GuardSettings`.
      options: variables of the chat template.
      answer: how the guard's answers begin.
      labels: its words for unsafe and safe, each a single token.
      decision: see `GuardSettings`.
      image_only: whether it is shown no text but its policy: then the only threat is to pixels (d = 0).
    """

    name: str
    families: tuple[str, ...]
    marks: tuple[str, ...] = ()
    policy: str | None = "combination"
    template: str = "checkpoint"
    options: tuple[tuple[str, str | bool], ...] = ()
    answer: str = ANSWER
    labels: tuple[str, str] = LABELS
    decision: str = "logit_mass"
    image_only: bool = False

    def settings(self, **given: Any) -> GuardSettings:
        """The profile as settings, with what the user gave in its place.

        >>> PROFILES["nemotron"].settings(text_length=128).labels
        ('unsafe', 'safe')

        Raises:
          ValueError: where the guard needs a policy of its own, or the settings are not legal.
        """
        if self.policy is None and given.get("policy") is None:
            raise ValueError(
                f"policy is needed: the profile {self.name} is asked with the text that it was trained with, which its "
                "model card holds; give it as a file."
            )
        own: dict[str, Any] = {"policy": self.policy, "template": self.template, "template_options": self.options}
        own |= {"answer": self.answer, "labels": self.labels, "decision": self.decision, "profile": self.name}
        own |= {"text_length": 0} if self.image_only else {}
        return GuardSettings(**own | given)


_JSON = '{\n    "rating": "{label}"'
_TABLE = (
    Profile("llavaguard", _LLAVA, ("llavaguard",), policy=None, answer=_JSON),
    Profile("qwenguard", ("qwen2_5_vl",), ("qwenguard", "llavaguard"), policy=None, answer=_JSON),
    Profile(
        "nemotron",
        ("gemma3",),
        ("nemotron", "request_categories", "user safety"),
        policy="plain",
        options=(("request_categories", "/no_categories"), ("enable_thinking", False)),
        answer="User Safety: {label}",
        labels=("unsafe", "safe"),
    ),
    Profile("shieldgemma2", ("shieldgemma2",), policy=None, answer="{label}", labels=("Yes", "No"), image_only=True),
    Profile("generic", (*_LLAVA, "qwen2_5_vl", "gemma3")),
)
#: The profiles by their names; "generic" asks any checkpoint with a policy of the package.
PROFILES = {profile.name: profile for profile in _TABLE}


def find_profile(source: str | os.PathLike[str], name: str | None = None) -> Profile:
    """The profile of that name, or the first one that fits the checkpoint's family and, where it asks for one, a mark.

    Raises:
      ValueError: for a name that is not known, or a folder without a config.json that can be read.
    """
    if name is not None:
        if name not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {name!r:.80}.")
        return PROFILES[name]
    folder = checkpoint_folder(source)
    config = load_config(folder)
    family, named = config.get("model_type"), f"{os.fspath(source)} {config.get('_name_or_path', '')}".lower()
    shown = "\n".join([named, *(_text(folder / file) for file in _TEMPLATE_FILES)])
    fitting = (p for p in _TABLE if family in p.families and (not p.marks or any(mark in shown for mark in p.marks)))
    return next(fitting, PROFILES["generic"])


def _text(path: Path) -> str:
    return read_text(path).lower() if kind_of(path) == "file" else ""
