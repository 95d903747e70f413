"""What `sample` draws from: a model and a data set, opened by name."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import hybrid_rs_jax as hrs
from hybrid_rs_jax.report.errors import BadInputError, library_sentences
from hybrid_rs_jax.sampling.inputs import ArrayInputs, Inputs, load_npz

__all__ = ["Source", "open_source"]

PLAIN_UNIT = "as the pixels of the data, added to the picture that the classifier gets, not clipped"
DEMO_UNIT = "pixels in [0, 1] at 8x8, added to the picture that the classifier gets, not clipped"


@dataclasses.dataclass(frozen=True)
class Source:
    """A classifier with its inputs, and how the run's header names them.

    Attributes:
      vocab_size: size of the alphabet that the data was made for, or None: the user says it.
      sigma_unit: unit, resolution and stage of the pixel noise.
      model, data: what the header says of them, with digests.
    """

    classifier: Any
    inputs: Inputs
    vocab_size: int | None
    sigma_unit: str
    model: dict[str, Any]
    data: dict[str, Any]


def open_source(model: str, data: str) -> Source:
    """Open `--model` and `--data`.

    Args:
      model: "demo", or "package.module:name" of a classifier, importable from here.
      data: "demo", or a NumPy archive with tokens and images.

    Raises:
      BadInputError: if one of them cannot be opened.
    """
    classifier, described = _demo_guard() if model == "demo" else _imported(model)
    if data == "demo":
        inputs, named, vocab_size = _demo_inputs()
        return Source(classifier, inputs, vocab_size, DEMO_UNIT, described, named)
    path = Path(data)
    if path.suffix.lower() != ".npz":
        raise BadInputError(f"--data must be demo or a NumPy archive (.npz) with tokens and images, got {data}.")
    if not path.is_file():
        raise BadInputError(f"--data {data} does not exist.")
    with library_sentences():
        arrays = load_npz(path)
    # each input has its own digest in the ledger, so that data may grow between two sessions
    return Source(classifier, arrays, None, PLAIN_UNIT, described, {"name": "npz", "file": path.name})


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
        raise BadInputError(f"--model must be demo or package.module:name of a classifier, got {name}.")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        classifier: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's own module raises
        raise BadInputError(f"--model {name}: {module_name} cannot be imported: {error!r}.") from error
    source = getattr(classifier, "__file__", None)
    for part in attribute.split("."):
        if not hasattr(classifier, part):
            raise BadInputError(f"--model {name}: {module_name} has no {attribute}.")
        classifier = getattr(classifier, part)
    if not isinstance(classifier, hrs.BaseClassifier) or isinstance(classifier, type):
        raise BadInputError(f"--model {name} must be a classifier, called with (tokens, images), got {classifier!r}.")
    described = classifier.describe() if hasattr(classifier, "describe") else {}
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else None
    return classifier, {"name": name, "source_sha256": digest, **described}
