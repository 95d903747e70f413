"""What `sample` draws from: a model and a data set, opened by name."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from hybrid_rs_jax._files import path_text
from hybrid_rs_jax.classifiers.base import BaseClassifier
from hybrid_rs_jax.cli._vlm_arguments import is_checkpoint, open_guard, refuse_vlm_arguments, vlm_settings
from hybrid_rs_jax.data.inputs import ArrayInputs, Input, Inputs, load_npz
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError, library_sentences

__all__ = ["Source", "first_readable", "open_source"]

PLAIN_UNIT = "as the pixels of the data, added to the picture that the classifier gets, not clipped"
CHECKPOINT_UNIT = (
    "pixels in [0, 1] at {height}x{width}, added before the checkpoint's own image processing, not clipped"
)
DEMO_UNIT = "pixels in [0, 1] at 8x8, added to the picture that the classifier gets, not clipped"


@dataclasses.dataclass(frozen=True)
class Source:
    """A classifier with its inputs, and how the run's header names them.

    Attributes:
      vocab_size: size of the alphabet that the data was made for, or None: the user says it.
      sigma_unit: unit, resolution and stage of the pixel noise.
      model, data: what the header says of them, with digests.
      batch_size: noisy copies per step where the user does not say.
    """

    classifier: Any
    inputs: Inputs
    vocab_size: int | None
    sigma_unit: str
    model: dict[str, Any]
    data: dict[str, Any]
    batch_size: int = 2000


def open_source(args: argparse.Namespace, pixel_range: tuple[int | float, int | float] | None = None) -> Source:
    """Open `--model` and `--data`.

    Args:
      args: `model` is "demo", "package.module:name" of a classifier that is importable from here, or the folder (hub
        id) of a vision-language checkpoint; `data` is "demo", a NumPy archive with tokens and images, or for a
        checkpoint a data set of texts and pictures. Flags of checkpoints where the command has them.
      pixel_range: of the pixels of an archive, what becomes 0 and 1; see `load_npz`.

    Raises:
      BadInputError: if one of them cannot be opened, or a flag does not fit the model.
    """
    if is_checkpoint(args.model):
        return _checkpoint(args)
    refuse_vlm_arguments(args)
    model, data = args.model, args.data
    classifier, described = _demo_guard() if model == "demo" else _imported(model)
    if data == "demo":
        inputs, named, vocab_size = _demo_inputs()
        return Source(classifier, inputs, vocab_size, DEMO_UNIT, described, named)
    path = Path(data)
    if path.suffix.lower() != ".npz":
        legal = "demo or a NumPy archive (.npz) with tokens and images"
        raise BadInputError(f"--data must be {legal}, got {path_text(data)}.")
    with library_sentences():
        arrays = load_npz(path, pixel_range)
    # each input has its own digest in the ledger, so that data may grow between two sessions
    named = {"name": "npz", "file": path.name} | ({} if pixel_range is None else {"pixel_range": list(pixel_range)})
    return Source(classifier, arrays, None, PLAIN_UNIT, described, named)


def first_readable(inputs: Inputs) -> Input:
    """An input that shows the shapes of all.

    Raises:
      BadInputError: if none can be used.
    """
    reasons = []
    for index in range(len(inputs.ids)):
        try:
            return inputs.read(index)
        except UnreadableInputError as error:
            reasons.append(str(error))
    if not reasons:
        raise BadInputError("The data hold no inputs.")
    raise BadInputError(f"None of the {len(reasons)} inputs can be used; the first one: {reasons[0]}")


def _checkpoint(args: argparse.Namespace) -> Source:
    """A guard with texts and pictures; the data first, which is quickly read."""
    from hybrid_rs_jax.cli._vlm_inputs import GuardInputs
    from hybrid_rs_jax.data import open_data

    if args.data == "demo":
        raise BadInputError("--data must be a folder, a .csv or a .jsonl file of texts and pictures, got demo.")
    data = open_data(args.data)
    guard = open_guard(args.model, vlm_settings(args), share_image=getattr(args, "no_pixel_noise", False))
    height, width = guard.image_size
    named = {"name": "texts and pictures", "file": Path(args.data).name}
    unit = CHECKPOINT_UNIT.format(height=height, width=width)
    return Source(guard, GuardInputs(data, guard), guard.vocab_size, unit, guard.describe(), named, 16)


def _demo_guard() -> tuple[Any, dict[str, Any]]:
    from hybrid_rs_jax.classifiers import DemoGuard

    guard = DemoGuard.load()
    return guard, guard.describe()


def _demo_inputs() -> tuple[Inputs, dict[str, Any], int]:
    from hybrid_rs_jax.data import demo

    held_out = demo.held_out_unsafe(10_000)
    inputs = ArrayInputs(held_out.ids, held_out.tokens, held_out.images, demo.suffix_mask())
    words = hashlib.sha256("\n".join(demo.vocabulary()).encode()).hexdigest()
    return inputs, {"name": "hybrid_rs_jax.data.demo.held_out_unsafe", "alphabet_sha256": words}, demo.VOCAB_SIZE


def _imported(name: str) -> tuple[Any, dict[str, Any]]:
    """The classifier `package.module:name`; the current folder is searched too, as `python -m` does."""
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise BadInputError(
            f"--model must be demo, package.module:name of a classifier or a checkpoint's folder, got {name}."
        )
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        classifier: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's own module raises
        raise BadInputError(f"--model {name}: {module_name} cannot be imported: {error!r}.") from error
    source = getattr(classifier, "__file__", None)
    for part in attribute.split("."):
        if not hasattr(classifier, part):
            raise BadInputError(f"--model {name}: {module_name} has no {attribute}.")
        classifier = getattr(classifier, part)
    if not isinstance(classifier, BaseClassifier) or isinstance(classifier, type):
        raise BadInputError(f"--model {name} must be a classifier, called with (tokens, images), got {classifier!r}.")
    described = classifier.describe() if hasattr(classifier, "describe") else {}
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else None
    return classifier, {"name": name, "source_sha256": digest, **described}
