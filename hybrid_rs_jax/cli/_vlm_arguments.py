"""Flags of vision-language checkpoints, and the guard that they describe."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hybrid_rs_jax._files import kind_of, path_text, read_text
from hybrid_rs_jax._text import joined
from hybrid_rs_jax.cli import _arguments as arguments
from hybrid_rs_jax.errors import BadInputError, library_sentences

__all__ = ["add_vlm_arguments", "is_checkpoint", "open_guard", "refuse_vlm_arguments", "vlm_settings"]

#: The flags, which have the names of the library's arguments.
_FLAGS = (
    "policy",
    "template",
    "threat",
    "text_length",
    "image_size",
    "alphabet",
    "labels",
    "answer",
    "decision",
    "generated_tokens",
    "dtype",
    "attention",
    "model_parallel",
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def add_vlm_arguments(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """The flags, `without` those that a command has no use for; None where one was not given."""
    group = parser.add_argument_group(
        "vision-language checkpoint", "for --model PATH: a folder (or hub id) of a LLaVA-OneVision or LLaVA-1.5 guard"
    )
    group.add_argument(
        "--policy",
        metavar="NAME|FILE",
        help="combination, text_only, image_only, or a text file with {text} where the user's text stands "
        "(default: combination)",
    )
    group.add_argument(
        "--template",
        choices=("checkpoint", "policy_first"),
        help="order of the prompt; policy_first computes the policy once per run (default: checkpoint)",
    )
    if "threat" not in without:
        group.add_argument(
            "--threat",
            choices=("suffix", "l0"),
            help="noise on the empty positions behind the text, or on the whole text (default: suffix)",
        )
    group.add_argument(
        "--text-length",
        type=arguments.integer(1, 2**20),
        metavar="L",
        help="positions of the certified text, padding included (default: 64)",
    )
    group.add_argument(
        "--image-size",
        type=_image_size,
        metavar="HxW",
        help="certified resolution in pixels, e.g. 384x384 (default: one tile of the checkpoint)",
    )
    group.add_argument(
        "--labels",
        type=_labels,
        metavar="UNSAFE,SAFE",
        help="the two labels; spellings of one are separated by | (default: Unsafe,Safe)",
    )
    group.add_argument(
        "--answer",
        metavar="TEXT",
        help='beginning of an answer with {label} in it (default: {"rating": "{label}")',
    )
    group.add_argument(
        "--alphabet",
        type=Path,
        metavar="FILE",
        help="ids of the tokens that noise draws from and attackers may use, a text file of integers "
        "(default: all tokens that are not special)",
    )
    if "decision" not in without:
        group.add_argument(
            "--decision",
            choices=("logit_mass", "generate"),
            help="compare the labels' masses, or decode an answer and look for a label, slowly (default: logit_mass)",
        )
        group.add_argument(
            "--generated-tokens",
            type=arguments.integer(1, 2**12),
            metavar="K",
            help="most tokens that --decision generate decodes (default: 16)",
        )
    group.add_argument("--dtype", choices=("float32", "bfloat16"), help="of weights and computation (default: float32)")
    group.add_argument(
        "--attention", choices=("auto", "xla", "cudnn"), help="kernel; auto is cuDNN where it applies (default: auto)"
    )
    group.add_argument(
        "--model-parallel",
        type=arguments.integer(1, 4096),
        metavar="N",
        help="spread the weights over N devices, and batches over the rest (default: 1)",
    )


def vlm_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What was given, as arguments of `VlmGuard.from_pretrained`."""
    given = {flag: getattr(args, flag, None) for flag in _FLAGS}
    return {name: value for name, value in given.items() if value is not None}


def refuse_vlm_arguments(args: argparse.Namespace) -> None:
    """Raise one sentence where flags were given that mean nothing to the model."""
    idle = ["--" + flag.replace("_", "-") for flag in _FLAGS if getattr(args, flag, None) is not None]
    if idle:
        raise BadInputError(
            f"{joined(idle)} mean something to a vision-language checkpoint only, got --model {args.model}."
        )


def is_checkpoint(model: str) -> bool:
    """Whether `--model` names a folder or a hub id."""
    return bool(_HUB_ID.fullmatch(model)) or kind_of(Path(model).expanduser()) == "folder"


def open_guard(model: str, settings: dict[str, Any], **more: Any) -> Any:
    """The guard of a checkpoint.

    Args:
      model: folder or hub id.
      settings: fields of `GuardSettings` as flags give them: `alphabet` is a file, and `model_parallel` a number of
        devices.
      more: fields of `GuardSettings` that are no flags.

    Raises:
      BadInputError: one sentence, whatever is wrong with the checkpoint or the settings.
    """
    from hybrid_rs_jax.classifiers import VlmGuard

    given = {**settings, **more}
    parts, alphabet = given.pop("model_parallel", None), given.pop("alphabet", None)
    if alphabet is not None:
        given["alphabet"] = _read_alphabet(alphabet)
    with library_sentences():
        return VlmGuard.from_pretrained(model, mesh=None if parts is None else _mesh(parts), **given)


def _read_alphabet(path: Path) -> tuple[int, ...]:
    """Token ids from a text file, separated by blanks, commas or line breaks."""
    words = re.split(r"[\s,]+", read_text(path).strip())
    wrong = [word for word in words if not re.fullmatch(r"\d{1,9}", word)]
    if wrong:
        raise BadInputError(f"{path_text(path)} must hold token ids, integers of at least 0, got {wrong[0]!r:.80}.")
    return tuple(map(int, words))


def _mesh(parts: int) -> Any:
    """All devices, the weights over so many of them."""
    import jax

    from hybrid_rs_jax.models import make_mesh

    count = jax.device_count()
    if count % parts:
        raise BadInputError(f"--model-parallel must divide the {count} devices, got {parts}.")
    return make_mesh(count // parts, parts)


def _image_size(text: str) -> tuple[int, int]:
    parse = arguments.integer(1, 2**14)
    height, cross, width = text.lower().partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(f"must look like 384x384 (height x width), got {text}")
    return parse(height), parse(width)


def _labels(text: str) -> tuple[str, str]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip() for part in parts):
        raise argparse.ArgumentTypeError(f"must be two labels like Unsafe,Safe, got {text}")
    return parts[0], parts[1]
