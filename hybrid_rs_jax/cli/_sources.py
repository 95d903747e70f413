"""What `sample` draws from: a model and a data set, opened by name."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_rs_jax._files import kind_of, path_text, read_text
from hybrid_rs_jax.classifiers.base import BaseClassifier
from hybrid_rs_jax.cli.options import GuardOptions, ThreatOptions
from hybrid_rs_jax.data.inputs import ArrayInputs, Input, Inputs, load_npz
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError, library_sentences

__all__ = ["Source", "first_readable", "is_checkpoint", "open_encoder", "open_guard", "open_source"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

#: The held-out inputs of the demo: unsafe ones, and safe ones for false alarms.
DEMO_DATA = ("demo", "demo-safe")
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
      pad_token: the id that is no token, for deletion noise.
    """

    classifier: Any
    inputs: Inputs
    vocab_size: int | None
    sigma_unit: str
    model: dict[str, Any]
    data: dict[str, Any]
    batch_size: int = 2000
    pad_token: int = 0


def open_source(
    model: str,
    data: str,
    guard: GuardOptions,
    pixel_range: tuple[float, float] | None = None,
    *,
    threat: ThreatOptions | None = None,
    share_image: bool = False,
) -> Source:
    """Open a model and a data set.

    Args:
      model: "demo", "package.module:name" of a classifier that is importable from here, or the folder (hub id) of a
        vision-language checkpoint.
      data: "demo", "demo-safe", a NumPy archive with tokens and images, or for a checkpoint a data set of texts and
        pictures.
      guard: the flags of checkpoints.
      pixel_range: of the pixels of an archive, what becomes 0 and 1; see `load_npz`.
      threat: which positions of the text carry noise; an archive says that itself.
      share_image: pictures carry no noise, so that a checkpoint computes each once.

    Raises:
      BadInputError: if one of them cannot be opened, or a flag does not fit the model.
    """
    threat = threat or ThreatOptions()
    if is_checkpoint(model):
        return _checkpoint(model, data, guard, threat, share_image)
    _refuse_lost_folder(model)
    guard.refuse(model)
    classifier, described = _demo_guard() if model == "demo" else _imported(model)
    return _with_data(classifier, described, data, pixel_range, threat)


def open_encoder(
    encoder: str,
    data: str,
    threat: ThreatOptions,
    pixel_range: tuple[float, float] | None = None,
    pooling: str = "mean",
) -> Source:
    """Open an encoder and a data set.

    Args:
      encoder: "demo", "package.module:name", or the folder (hub id) of a checkpoint with a vision tower.
      data: "demo", "demo-safe", or a NumPy archive with tokens and images.
      threat: which of the demo's tokens carry noise.
      pixel_range: of the pixels of an archive; pooling: of a tower's patches.

    Raises:
      BadInputError: if one of them cannot be opened.
    """
    made: Any
    if encoder == "demo":
        from hybrid_rs_jax.features import DemoEncoder

        made = DemoEncoder.load()
    elif is_checkpoint(encoder):
        from hybrid_rs_jax.features import TowerEncoder

        with library_sentences():
            made = TowerEncoder.from_pretrained(encoder, pooling=pooling)
    else:
        made, described = _imported(encoder, "--encoder", "an encoder")
        return _with_data(made, described, data, pixel_range, threat)
    return _with_data(made, made.describe(), data, pixel_range, threat)


def _with_data(
    classifier: Any,
    described: dict[str, Any],
    data: str,
    pixel_range: tuple[float, float] | None,
    threat: ThreatOptions,
) -> Source:
    """A model beside the demo's inputs or those of an archive."""
    if data in DEMO_DATA:
        inputs, named, vocab_size = _demo_inputs(threat, safe=data == "demo-safe")
        return Source(classifier, inputs, vocab_size, DEMO_UNIT, described, named)
    path = Path(data)
    if path.suffix.lower() != ".npz":
        legal = "demo, demo-safe or a NumPy archive (.npz) with tokens and images"
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


def _checkpoint(model: str, data: str, options: GuardOptions, threat: ThreatOptions, share_image: bool) -> Source:
    """A guard with texts and pictures; the data first, which is quickly read."""
    from hybrid_rs_jax.classifiers.vlm.prompt import PAD
    from hybrid_rs_jax.cli._vlm_inputs import GuardInputs
    from hybrid_rs_jax.data import open_data

    if data in DEMO_DATA:
        raise BadInputError(f"--data must be a folder, a .csv or a .jsonl file of texts and pictures, got {data}.")
    texts = open_data(data)
    guard = open_guard(model, options, threat=threat.region, share_image=share_image)
    height, width = guard.image_size
    named = {"name": "texts and pictures", "file": Path(data).name}
    unit = CHECKPOINT_UNIT.format(height=height, width=width)
    return Source(guard, GuardInputs(texts, guard), guard.vocab_size, unit, guard.describe(), named, 16, PAD)


def _demo_guard() -> tuple[Any, dict[str, Any]]:
    from hybrid_rs_jax.classifiers import DemoGuard

    guard = DemoGuard.load()
    return guard, guard.describe()


def _demo_inputs(threat: ThreatOptions, safe: bool) -> tuple[Inputs, dict[str, Any], int]:
    from hybrid_rs_jax.data import demo

    held_out = demo.held_out_safe(10_000) if safe else demo.held_out_unsafe(10_000)
    everywhere = threat.region == "l0"
    eligible = np.ones_like(demo.suffix_mask()) if everywhere else demo.suffix_mask()
    inputs = ArrayInputs(held_out.ids, held_out.tokens, held_out.images, eligible)
    words = hashlib.sha256("\n".join(demo.vocabulary()).encode()).hexdigest()
    name = f"hybrid_rs_jax.data.demo.held_out_{'safe' if safe else 'unsafe'}"
    return inputs, {"name": name, "alphabet_sha256": words}, demo.VOCAB_SIZE


def _refuse_lost_folder(model: str) -> None:
    """A path of a folder that is not there is no name of a classifier, and flags of checkpoints would fit it."""
    if model != "demo" and ":" not in model:
        what = "does not exist" if kind_of(Path(model).expanduser()) is None else "is not a folder"
        raise BadInputError(f"{_legal()}, got {path_text(model)}, which {what}.")


def _legal(flag: str = "--model", what: str = "a classifier") -> str:
    return f"{flag} must be demo, package.module:name of {what} or a checkpoint's folder"


def _imported(name: str, flag: str = "--model", what: str = "a classifier") -> tuple[Any, dict[str, Any]]:
    """The object `package.module:name`; the current folder is searched too, as `python -m` does."""
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise BadInputError(f"{_legal(flag, what)}, got {path_text(name)}.")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        classifier: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's own module raises
        raise BadInputError(f"{flag} {name}: {module_name} cannot be imported: {error!r}.") from error
    source = getattr(classifier, "__file__", None)
    for part in attribute.split("."):
        if not hasattr(classifier, part):
            raise BadInputError(f"{flag} {name}: {module_name} has no {attribute}.")
        classifier = getattr(classifier, part)
    if not isinstance(classifier, BaseClassifier) or isinstance(classifier, type):
        raise BadInputError(f"{flag} {name} must be {what}, called with (tokens, images), got {classifier!r}.")
    described = classifier.describe() if hasattr(classifier, "describe") else {}
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else None
    return classifier, {"name": name, "source_sha256": digest, **described}


def is_checkpoint(model: str) -> bool:
    """Whether `--model` names a folder or a hub id."""
    return bool(_HUB_ID.fullmatch(model)) or kind_of(Path(model).expanduser()) == "folder"


def open_guard(model: str, options: GuardOptions, **more: Any) -> Any:
    """The guard of a checkpoint.

    Args:
      model: folder or hub id.
      options: the flags: `alphabet` is a file, and `model_parallel` a number of devices.
      more: fields of `GuardSettings` that are no flags.

    Raises:
      BadInputError: one sentence, whatever is wrong with the checkpoint or the settings.
    """
    from hybrid_rs_jax.classifiers import VlmGuard

    given = {**options.given(), **more}
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
