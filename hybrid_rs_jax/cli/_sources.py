"""What `sample` draws from: a model and a data set, opened by name."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_rs_jax._files import kind_of, path_text, read_text
from hybrid_rs_jax.cli._data import (
    DEMO_DATA,
    first_readable,
    holds_texts,
    label_columns,
    open_arrays,
    open_features,
)
from hybrid_rs_jax.cli._doors import ModelOptions
from hybrid_rs_jax.cli._models import (
    LEGAL_MODELS,
    found_object,
    imported,
    is_address,
    is_onnx,
    opened_address,
    opened_onnx,
)
from hybrid_rs_jax.cli.options import GuardOptions, ThreatOptions
from hybrid_rs_jax.data.inputs import Inputs
from hybrid_rs_jax.errors import BadInputError, MissingColumnError, library_sentences

if TYPE_CHECKING:
    from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = [
    "DEMO_DATA",
    "Source",
    "first_readable",
    "is_checkpoint",
    "open_encoder",
    "open_guard",
    "open_source",
]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

CHECKPOINT_UNIT = (
    "pixels in [0, 1] at {height}x{width}, added before the checkpoint's own image processing, not clipped"
)


@dataclasses.dataclass(frozen=True)
class Source:
    """A classifier with its inputs, and how the run's header names them.

    Attributes:
      vocab_size: size of the alphabet that the data was made for, or None: the user says it.
      sigma_unit: unit, resolution and stage of the pixel noise.
      model, data: what the header says of them, with digests.
      pad_token: the id that is no token, for deletion noise.
      columns: further columns of the data, label and group for two, a value per input.
      cardinalities: symbols of each field, of a table of features.
      decode: the text of token ids; None: they are of the user's own.
    """

    classifier: Any
    inputs: Inputs
    vocab_size: int | None
    sigma_unit: str
    model: Mapping[str, object]
    data: Mapping[str, object]
    pad_token: int = 0
    columns: Mapping[str, Sequence[str | None]] = dataclasses.field(default_factory=dict)
    cardinalities: tuple[int, ...] | None = None
    decode: Callable[[np.ndarray], str] | None = None

    def padded(self, smoothing: HybridSmoothing) -> HybridSmoothing:
        """The same noise, but that a deletion kernel takes tokens away with the PAD of these inputs."""
        from hybrid_rs_jax.kernels import DeletionKernel

        if not isinstance(smoothing.discrete, DeletionKernel):
            return smoothing
        return dataclasses.replace(
            smoothing, discrete=dataclasses.replace(smoothing.discrete, pad_token=self.pad_token)
        )


def open_source(
    model: str,
    data: str,
    guard: GuardOptions,
    pixel_range: tuple[float, float] | None = None,
    *,
    threat: ThreatOptions | None = None,
    share_image: bool = False,
    own: ModelOptions | None = None,
) -> Source:
    """Open a model and a data set.

    Args:
      model: "demo", "package.module:name" of a model that is importable from here, an address, or the folder (hub id)
        of a vision-language checkpoint.
      data: "demo", "demo-safe", a NumPy archive with tokens and images, or a data set of texts and pictures.
      guard: the flags of checkpoints; those of texts and pictures among them serve every model.
      pixel_range: of the pixels of an archive, what becomes 0 and 1; see `load_npz`.
      threat: which positions of the text carry noise; an archive says that itself.
      share_image: pictures carry no noise, so that a checkpoint computes each once.
      own: the flags of one's own models and endpoints.

    Raises:
      BadInputError: if one of them cannot be opened, or a flag does not fit the model.
    """
    threat, own = threat or ThreatOptions(), own or ModelOptions()
    _refuse_flags(model, data, guard, own)
    if not is_address(model) and is_checkpoint(model):
        return _checkpoint(model, data, guard, threat, share_image)
    named = not (is_address(model) or is_onnx(model) or model == "demo")
    found = found_object(model) if named else (None, None)  # the user's own module first: it may fail at once
    try:
        opened = open_features(data, own) if own.table else open_arrays(data, guard, pixel_range, threat, own.tokenizer)
    except MissingColumnError as error:
        if own.table or is_address(model):
            raise
        raise error.advised("of a table of features --label-column says which one is the label.") from error
    if named:
        classifier, described = imported(model, found, own, opened.decode, opened.rows)
    elif is_address(model):
        classifier, described = opened_address(model, own, guard, opened.decode)
    else:
        classifier, described = opened_onnx(model, own) if is_onnx(model) else _demo_guard()
    return Source(
        classifier,
        opened.inputs,
        opened.vocab_size,
        opened.sigma_unit,
        described,
        opened.described,
        pad_token=opened.pad_token,
        columns=opened.columns,
        cardinalities=opened.cardinalities,
        decode=opened.decode,
    )


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
      data: as for `open_source`.
      threat: which of the demo's tokens carry noise.
      pixel_range: of the pixels of an archive; pooling: of a tower's patches.

    Raises:
      BadInputError: if one of them cannot be opened.
    """
    made, described = _encoder(encoder, pooling)
    opened = open_arrays(data, GuardOptions(), pixel_range, threat)
    unit, named = opened.sigma_unit, opened.described
    return Source(made, opened.inputs, opened.vocab_size, unit, described, named, pad_token=opened.pad_token)


def _encoder(name: str, pooling: str) -> tuple[Any, Mapping[str, object]]:
    from hybrid_rs_jax.features import DemoEncoder, TowerEncoder

    if name == "demo":
        made: Any = DemoEncoder.load()
        return made, made.describe()
    if is_checkpoint(name):
        with library_sentences():
            made = TowerEncoder.from_pretrained(name, pooling=pooling)
        return made, made.describe()
    made, source = found_object(name, "--encoder", "an encoder")
    if not callable(made) or isinstance(made, type):
        raise BadInputError(f"--encoder {name} must be an encoder, called with (tokens, images), got {made!r}.")
    described = made.describe() if hasattr(made, "describe") else {}
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else None
    return made, {"name": name, "source_sha256": digest, **described}


def _refuse_flags(model: str, data: str, guard: GuardOptions, own: ModelOptions) -> None:
    """Refuse flags that mean nothing to this kind of model or of data."""
    address = is_address(model)
    if not address and is_checkpoint(model):
        own.refuse(model, what="a checkpoint")
        given = {"--tokenizer": own.tokenizer, "--label-column": own.label_column, "--schema": own.schema}
        for name, value in given.items():
            if value is not None:
                raise BadInputError(f"{name} means nothing to a checkpoint, got --model {model}.")
        return
    if own.table and address:
        raise BadInputError(f"--model {model} is asked with texts and pictures, not with a table of features.")
    if own.table and own.tokenizer is not None:
        raise BadInputError("--tokenizer means nothing to a table of features, which --label-column asks for.")
    texts = not own.table and holds_texts(data) and model != "demo"
    plain = dataclasses.replace(guard, text_length=None, image_size=None)
    if not address:
        if not is_onnx(model):
            _refuse_lost_folder(model)
        if plain.given():
            (plain if texts else guard).refuse(model)
    if model == "demo" and (own.table or holds_texts(data)):
        legal = "demo, demo-safe or a NumPy archive (.npz) with its tokens and pictures"
        raise BadInputError(f"--data must be {legal} for --model demo, got {path_text(data)}.")
    if not texts and plain != guard:
        name = "--image-size" if guard.text_length is None else "--text-length"
        raise BadInputError(f"{name} means something to texts and pictures only, got --data {path_text(data)}.")
    if model == "demo":
        own.refuse(model, what="the demo's guard")


def _checkpoint(model: str, data: str, options: GuardOptions, threat: ThreatOptions, share_image: bool) -> Source:
    """A guard with texts and pictures; the data first, which is quickly read."""
    from hybrid_rs_jax.classifiers.vlm.prompt import PAD
    from hybrid_rs_jax.cli._vlm_inputs import GuardInputs
    from hybrid_rs_jax.data import open_data

    if data in DEMO_DATA:
        raise BadInputError(f"--data must be a folder, a .csv or a .jsonl file of texts and pictures, got {data}.")
    texts = open_data(data)
    if not texts.pictures:
        raise BadInputError(f"{path_text(data)} holds texts alone; a vision-language checkpoint needs a column image.")
    guard = open_guard(model, options, threat=threat.region, share_image=share_image)
    height, width = guard.image_size
    named = {"name": "texts and pictures", "file": Path(data).name}
    unit = CHECKPOINT_UNIT.format(height=height, width=width)
    inputs = GuardInputs(texts, guard)
    described, columns = guard.describe(), label_columns(texts)
    return Source(guard, inputs, guard.vocab_size, unit, described, named, PAD, columns)


def _demo_guard() -> tuple[Any, Mapping[str, object]]:
    from hybrid_rs_jax.classifiers import DemoGuard

    guard = DemoGuard.load()
    return guard, guard.describe()


def _refuse_lost_folder(model: str) -> None:
    """A path of a folder that is not there is no name of a classifier, and flags of checkpoints would fit it."""
    if model != "demo" and ":" not in model:
        what = "does not exist" if kind_of(Path(model).expanduser()) is None else "is not a folder"
        raise BadInputError(f"{LEGAL_MODELS}, got {path_text(model)}, which {what}.")


def is_checkpoint(model: str) -> bool:
    """Whether `--model` names a folder or a hub id."""
    return bool(_HUB_ID.fullmatch(model)) or kind_of(Path(model).expanduser()) == "folder"


def open_guard(model: str, options: GuardOptions, **more: Any) -> Any:
    """The guard of a checkpoint.

    Args:
      model: folder or hub id; its profile is looked up unless the flags name one.
      options: the flags, which win over the profile: `alphabet` is a file, and `model_parallel` a number of devices.
      more: fields of `GuardSettings` that are no flags.

    Raises:
      BadInputError: one sentence, whatever is wrong with the checkpoint or the settings.
    """
    from hybrid_rs_jax.classifiers import VlmGuard
    from hybrid_rs_jax.classifiers.vlm.profiles import find_profile

    given = {**options.given(), **more}
    parts, alphabet = given.pop("model_parallel", None), given.pop("alphabet", None)
    if alphabet is not None:
        given["alphabet"] = _read_alphabet(alphabet)
    with library_sentences():
        settings = find_profile(model, given.pop("profile", None)).settings(**given)
        return VlmGuard.from_pretrained(model, settings, mesh=None if parts is None else _mesh(parts))


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
