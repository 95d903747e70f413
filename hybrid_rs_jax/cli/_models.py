"""A classifier by name: one's own object of any library, or an address."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_rs_jax._files import path_text, read_text
from hybrid_rs_jax.cli._doors import ModelOptions
from hybrid_rs_jax.cli.options import GuardOptions
from hybrid_rs_jax.errors import BadInputError

__all__ = ["LEGAL_MODELS", "found_object", "imported", "is_address", "is_onnx", "opened_address", "opened_onnx"]

LEGAL_MODELS = (
    "--model must be demo, package.module:name of a model, an ONNX file, an address http://..., or the folder of a "
    "checkpoint"
)
_IMPORTED = ("--on-host", "--threshold", "--features", "--unsafe-classes")
Decode = Callable[[np.ndarray], str]


def is_address(model: str) -> bool:
    """Whether `--model` names an endpoint."""
    return re.match(r"https?://", model, re.IGNORECASE) is not None


def imported(
    name: str, found: tuple[Any, str | None], options: ModelOptions, decode: Decode | None, rows: Any = None
) -> tuple[Any, Mapping[str, object]]:
    """What `found_object` found as a classifier, and what a header says of it."""
    from hybrid_rs_jax.classifiers.own import own_classifier

    options.refuse(name, *_IMPORTED, what="a model that is imported")
    model, source = found
    try:
        classifier = own_classifier(
            model,
            decode=decode,
            on_host=options.on_host,
            threshold=options.threshold,
            features=options.features,
            unsafe=options.unsafe_classes,
            rows=rows,
        )
    except ValueError as error:
        raise BadInputError(f"--model {name}: {str(error).rstrip('.')}.") from error
    described = classifier.describe() if hasattr(classifier, "describe") else {}
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else None
    return classifier, {"name": name, "source_sha256": digest, **described}


def is_onnx(model: str) -> bool:
    """Whether `--model` names an ONNX file."""
    return model.lower().endswith(".onnx")


def opened_onnx(path: str, options: ModelOptions) -> tuple[Any, Mapping[str, object]]:
    """The classifier of an ONNX file, and what a header says of it."""
    from hybrid_rs_jax.classifiers.onnx import OnnxClassifier

    options.refuse(path, "--threshold", "--output", "--unsafe-classes", what="an ONNX file")
    classifier = OnnxClassifier(path, output=options.output, threshold=options.threshold, unsafe=options.unsafe_classes)
    return classifier, classifier.describe()


def opened_address(
    url: str, options: ModelOptions, guard: GuardOptions, decode: Decode | None
) -> tuple[Any, Mapping[str, object]]:
    """The classifier behind an address, and what a header says of it."""
    if decode is None:
        raise BadInputError(
            f"--model {url} is asked with texts and pictures; --data must be a .jsonl, .csv or .parquet file, a folder "
            "or demo, not token ids."
        )
    try:
        if options.wire == "json":
            classifier = _wire(url, options, guard, decode)
        else:
            classifier = _chat(url, options, guard, decode)
    except (ValueError, ModuleNotFoundError) as error:
        text = str(error).replace("base_url", "--model").replace("url must", "--model must")
        raise error if isinstance(error, BadInputError) else BadInputError(text) from error
    return classifier, classifier.describe()


def _wire(url: str, options: ModelOptions, guard: GuardOptions, decode: Decode) -> Any:
    from hybrid_rs_jax.classifiers import WireClassifier
    from hybrid_rs_jax.classifiers._asking import MOST_AT_ONCE

    options.refuse(url, "--wire", "--threshold", "--concurrency", what="a JSON endpoint")
    _only(guard, url, "a JSON endpoint")
    concurrency = options.concurrency or MOST_AT_ONCE
    return WireClassifier(url, decode, threshold=options.threshold, concurrency=concurrency)


def _chat(url: str, options: ModelOptions, guard: GuardOptions, decode: Decode) -> Any:
    from hybrid_rs_jax.classifiers import ChatClassifier, FirstTokenDecision, TextDecision
    from hybrid_rs_jax.classifiers._asking import MOST_AT_ONCE

    options.refuse(url, "--wire", "--model-name", "--concurrency", what="a chat endpoint")
    _only(guard, url, "a chat endpoint", "policy", "labels", "decision")
    for name, value in (("--model-name", options.model_name), ("--policy", guard.policy)):
        if value is None:
            raise BadInputError(
                f"{name} is needed: a chat endpoint is asked for a model, with the policy of a file (or --wire json "
                'for an endpoint that answers {"unsafe": true}).'
            )
    unsafe, safe = (tuple(label.split("|")) for label in guard.labels or ("Unsafe", "Safe"))
    decision: Any = FirstTokenDecision(unsafe, safe)
    if guard.decision == "generate":
        patterns = [rf"\b(?:{'|'.join(map(re.escape, words))})\b" for words in (unsafe, safe)]
        decision = TextDecision(unsafe=patterns[0], safe=patterns[1])
    policy = read_text(Path(str(guard.policy)))
    return ChatClassifier(
        url,
        str(options.model_name),
        decode=decode,
        policy=policy,
        decision=decision,
        concurrency=options.concurrency or MOST_AT_ONCE,
    )


def _only(guard: GuardOptions, model: str, what: str, *legal: str) -> None:
    """Flags of texts and pictures serve every model, others do not."""
    legal = (*legal, "text_length", "image_size")
    if idle := [name for name in guard.given() if name not in legal]:
        raise BadInputError(f"--{idle[0].replace('_', '-')} means nothing to {what}, got --model {model}.")


def found_object(name: str, flag: str = "--model", what: str = "a model") -> tuple[Any, str | None]:
    """The object `package.module:name`, and the file of the module.

    The current folder is searched too, as `python -m` does.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise BadInputError(f"{_legal(flag, what)}, got {path_text(name)}.")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's own module raises
        raise BadInputError(f"{flag} {name}: {module_name} cannot be imported: {error!r}.") from error
    source = getattr(found, "__file__", None)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise BadInputError(f"{flag} {name}: {module_name} has no {attribute}.")
        found = getattr(found, part)
    return found, source


def _legal(flag: str, what: str) -> str:
    if flag == "--model":
        return LEGAL_MODELS
    return f"{flag} must be demo, package.module:name of {what} or a checkpoint's folder"
