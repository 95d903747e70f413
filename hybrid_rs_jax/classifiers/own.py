"""Models of other libraries as base classifiers: a torch module, an estimator with `predict`, a function of texts."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from hybrid_rs_jax.classifiers._pairs import qualified_name
from hybrid_rs_jax.classifiers._votes import NO_SCORE
from hybrid_rs_jax.classifiers.host import HostClassifier

__all__ = ["Features", "decisions", "own_classifier"]

Features = Literal["tokens", "pixels", "both", "texts"]
Decode = Callable[[np.ndarray], str]
#: Tokens, images, and whether columns have names: a data frame, or an array.
Rows = Callable[[np.ndarray, np.ndarray, bool], Any]


def own_classifier(
    model: Any,
    *,
    decode: Decode | None = None,
    on_host: bool = False,
    threshold: float | None = None,
    features: Features | None = None,
    unsafe: tuple[int, ...] | None = None,
    rows: Rows | None = None,
) -> Any:
    """A model as a base classifier.

    - A torch module runs in `eval` mode, without gradients; `forward(tokens, images)` or `forward(images)` gets int64
      [b, l] and float32 [b, c, h, w], channels first as torch has them.
      Of data without pictures `forward(tokens)`.
    - An estimator (`predict`, scikit-learn's way) gets one row of features per pair: the token ids, the flattened
      pixels, or both in this order, whichever has the number of features it was fitted on; a pipeline that was fitted
      on texts gets texts. Of two classes the second of `classes_` is Unsafe; more classes are certified as classes.
    - A callable that says `takes_text = True` gets (list of texts, images), one with a single argument the texts alone.
    - Any other callable gets (tokens, images) and stays as it is: JAX is compiled, the rest is called on the host.

    Outputs are decisions (bools, 0 and 1), or scores with a `threshold`, or for modules [b, 2] with Unsafe second.

    Args:
      model: the model.
      decode: turns the tokens of one input, int32 [l], into text; for `takes_text`.
      on_host: call a function on the host, without a trial whether JAX can trace it.
      threshold: a score above it is Unsafe; of an estimator the probability of its second class.
      features: what an estimator gets; None: what fits its number of features.
      unsafe: the classes that are Unsafe, by number, of a module or a function that returns classes or a column each.
      rows: of a table of features, its rows from (tokens, images, with names of columns): what an estimator gets.

    Returns:
      The base classifier, see `BaseClassifier`.

    Raises:
      ValueError: for what is no model, or a setting that means nothing to it.

    >>> from sklearn.linear_model import LogisticRegression
    >>> dark = LogisticRegression().fit([[0, 0], [1, 1]], [True, False])  # its classes are False and True
    >>> own_classifier(dark)(np.zeros((1, 1), int), np.zeros((1, 1, 2, 1))).tolist()
    [True]
    """
    if isinstance(model, type):
        raise ValueError(f"the model must be an object, got the class {model.__name__}; name an instance of it")
    if features is not None and not _is_estimator(model):
        raise ValueError(f"features mean something to an estimator with predict only, got {qualified_name(model)}")
    if _is_torch(model):
        classes = None if unsafe else getattr(model, "classes", None)
        return _Own(model, _torch_call(model), threshold, _state_digest(model), classes, unsafe=unsafe)
    if _is_estimator(model):
        if unsafe is not None:
            raise ValueError(f"unsafe classes mean nothing to an estimator, got {qualified_name(model)}")
        return _estimator(model, threshold, features, rows, decode)
    if not callable(model):
        raise ValueError(
            "the model must be a classifier, called with (tokens, images), a torch module or an estimator with "
            f"predict, got {model!r:.80}"
        )
    classes = None if unsafe else getattr(model, "classes", None)
    alone = len(_asked(model)) == 1
    if getattr(model, "takes_text", False) or alone:
        return _Own(model, _text_call(model, decode, alone), threshold, None, classes, unsafe=unsafe)
    if unsafe is not None:
        return _Own(model, model, threshold, None, None, unsafe=unsafe)
    if threshold is not None and (hasattr(model, "functional") or hasattr(model, "margin")):
        raise ValueError(f"{qualified_name(model)} has a margin of its own and no use for a threshold")
    if threshold is not None and not on_host and getattr(model, "on_host", None) is not True:
        return _Above(model, threshold)
    if threshold is not None or (on_host and getattr(model, "on_host", None) is not True):
        return _Own(model, model, threshold, None, classes)
    return model


class _Own(HostClassifier):
    """A host classifier that knows how to read what other libraries return."""

    def __init__(
        self,
        model: Any,
        call: Callable[[Any, Any], Any],
        threshold: float | None,
        digest: str | None,
        classes: int | None,
        settings: dict[str, object] | None = None,
        unsafe: tuple[int, ...] | None = None,
    ):
        super().__init__(
            lambda tokens, images: decisions(call(tokens, images), threshold, classes, unsafe),
            name=qualified_name(model),
            digest=digest,
            classes=classes,
            max_in_flight=int(getattr(model, "max_in_flight", 1)),
        )
        described = model.describe() if hasattr(model, "describe") else {}
        own = {} if unsafe is None else {"unsafe": list(unsafe)}
        self._settings = {"threshold": threshold, **(settings or {}), **own, **described}

    def describe(self) -> dict[str, object]:
        """As a host classifier, with the settings of the model."""
        return {**super().describe(), **self._settings}


class _Above:
    """A function whose score above a threshold is Unsafe; JAX may trace it."""

    def __init__(self, function: Any, threshold: float):
        self._function, self._threshold = function, threshold
        self.name = qualified_name(function)

    def __call__(self, tokens: Any, images: Any) -> Any:
        import jax
        import jax.numpy as jnp

        found = self._function(tokens, images)
        scores = found if isinstance(found, jax.Array) else _array(found)
        if scores.dtype == bool:
            raise ValueError(f"a threshold needs scores, got bools from {self.name}")
        above = scores > self._threshold
        if isinstance(scores, jax.core.Tracer):  # what is compiled cannot raise: the engine refuses this label
            return jnp.where(jnp.isfinite(scores), above.astype(jnp.int32), jnp.int32(NO_SCORE))
        _check_finite(np.asarray(scores))
        return above

    def describe(self) -> dict[str, object]:
        described = self._function.describe() if hasattr(self._function, "describe") else {}
        return {"name": self.name, **described, "threshold": self._threshold}


def decisions(
    returned: Any, threshold: float | None, classes: int | None, unsafe: tuple[int, ...] | None = None
) -> np.ndarray:
    """Decisions from labels [b], scores [b] or [b, 1], or one column per class.

    Args:
      returned: what a model returned.
      threshold: a score above it is Unsafe; with `unsafe` the sum of their columns.
      classes: number of classes, where the class is certified.
      unsafe: the classes that are Unsafe; the largest column, or the label, says which class it is.

    Raises:
      ValueError: for another shape, scores without a threshold, or what is not finite.
    """
    if isinstance(returned, dict):
        returned = returned.get("logits", returned)
    found = _array(getattr(returned, "logits", returned))
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if unsafe is not None:
        return _of_classes(found, threshold, unsafe)
    if found.ndim == 2:
        if classes == found.shape[1] or (classes is None and threshold is None and found.shape[1] == 2):
            _check_finite(found)
            return found.argmax(axis=1) if classes is not None else found[:, 1] > found[:, 0]
        if classes is None and found.shape[1] > 2:
            raise ValueError(
                f"The model returns {found.shape[1]} columns: give it an attribute classes = {found.shape[1]} for a "
                "certificate of the class, say which classes are Unsafe (--unsafe-classes K,K,...), or return one "
                "decision per pair."
            )
    if threshold is not None:
        if found.ndim != 1 or found.dtype.kind != "f":
            raise ValueError(f"A threshold needs one score per pair, got {found.dtype} of shape {found.shape}.")
        _check_finite(found)
        return found > threshold
    if found.dtype.kind == "f":
        if found.size and np.isin(found, (0, 1)).all():
            return found.astype(np.int32)  # labels that were fitted as floats
        raise ValueError(
            f"The model returns scores ({found.dtype}), {float(found.flat[0]) if found.size else 0:g} for one: say "
            "from where on one is Unsafe (a threshold: --threshold X)."
        )
    return found


def _of_classes(found: np.ndarray, threshold: float | None, unsafe: tuple[int, ...]) -> np.ndarray:
    """Whether the class is among the unsafe ones."""
    if found.ndim == 1 and found.dtype.kind in "iu" and threshold is None:
        return np.isin(found, unsafe)
    if found.ndim != 2 or max(unsafe) >= found.shape[1]:
        raise ValueError(f"The model must return a column for each class 0..{max(unsafe)}, got shape {found.shape}.")
    _check_finite(found)
    if threshold is None:
        return np.isin(found.argmax(axis=1), unsafe)
    return found[:, list(unsafe)].sum(axis=1) > threshold


def _check_finite(found: np.ndarray) -> None:
    if not np.isfinite(found).all():
        raise ValueError(f"A score must be a finite number, got {found[~np.isfinite(found)].flat[0]}.")


def _array(found: Any) -> np.ndarray:
    return np.asarray(found.detach().float().cpu() if _of_torch(found) and found.is_floating_point() else found)


def _of_torch(found: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(found, torch.Tensor)


def _is_torch(model: Any) -> bool:
    torch = sys.modules.get("torch")  # whoever has a module has imported it
    return torch is not None and isinstance(model, torch.nn.Module)


def _is_estimator(model: Any) -> bool:
    return not isinstance(model, type) and hasattr(model, "predict") and not callable(model)


def _torch_call(module: Any) -> Callable[[Any, Any], Any]:
    import torch

    module.eval()
    asked = _asked(module.forward)
    if len(asked) not in (1, 2):
        raise ValueError(
            f"forward of {qualified_name(module)} must take (tokens, images) or (images), got {len(asked)} arguments"
        )
    first = next(iter(module.parameters()), None)
    device = torch.device("cpu") if first is None else first.device

    def call(tokens: np.ndarray, images: np.ndarray) -> Any:
        pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1))).to(device)
        words = torch.from_numpy(tokens).to(device, torch.int64)
        with torch.no_grad():
            alone = pixels if images.size else words
            found = module(alone) if len(asked) == 1 else module(words, pixels)
        found = found.get("logits", found) if isinstance(found, dict) else getattr(found, "logits", found)
        return found.cpu() if _of_torch(found) else found

    return call


def _state_digest(module: Any) -> str:
    """SHA-256 of the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if _of_torch(value):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(_array(value).tobytes())
    return digest.hexdigest()


def _asked(function: Any) -> list[str]:
    """Names of the positional arguments that a call must give; none where a callable does not say them."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
    ]


def _text_call(model: Any, decode: Decode | None, alone: bool) -> Callable[[Any, Any], Any]:
    if decode is None:
        raise ValueError(
            f"{qualified_name(model)} takes texts, and these data hold token ids: give texts and pictures "
            "(.jsonl, .csv, .parquet or a folder)"
        )
    if alone:
        return lambda tokens, images: model([decode(row) for row in tokens])
    return lambda tokens, images: model([decode(row) for row in tokens], images)


def _estimator(
    model: Any, threshold: float | None, features: Features | None, table: Rows | None, decode: Decode | None
) -> Any:
    known = getattr(model, "classes_", None)
    labels = None if known is None else np.asarray(known)
    if labels is not None and labels.ndim != 1:
        raise ValueError(f"{qualified_name(model)} decides several things at once; one is certified")
    classes = len(labels) if labels is not None and len(labels) > 2 else None
    if threshold is not None and classes is not None:
        raise ValueError(f"a threshold needs two classes, and {qualified_name(model)} has {classes}")
    if labels is not None and len(labels) < 2:
        raise ValueError(f"{qualified_name(model)} knows one class only, {labels.tolist()}")

    if features == "texts" and decode is None:
        _text_call(model, decode, True)  # says what is missing

    def call(tokens: np.ndarray, images: np.ndarray) -> Any:
        reads = features is None and not images.size and not hasattr(model, "n_features_in_")
        rows: Any
        if table is not None and features is None:
            rows = table(tokens, images, hasattr(model, "feature_names_in_"))
        elif decode is not None and (features == "texts" or reads):
            rows = [decode(row) for row in tokens]
        else:
            rows = _features(model, tokens, images, features)
        if threshold is not None and hasattr(model, "predict_proba"):
            return np.asarray(model.predict_proba(rows))[:, 1].astype(np.float64)
        found = np.asarray(model.predict(rows))
        if labels is None:
            return found
        return np.searchsorted(labels, found) if classes is not None else found == labels[1]

    fitted = "those that it was fitted on" if table is None else "the columns of the table"
    settings: dict[str, object] = {"features": features or fitted}
    if labels is not None:
        settings["class_names"] = [str(label) for label in labels]
    if labels is not None and classes is None:
        settings["unsafe"] = str(labels[1])
    try:
        digest = hashlib.sha256(pickle.dumps(model)).hexdigest()
    except Exception:  # what cannot be pickled is known by its source alone
        digest = None
    return _Own(model, call, threshold, digest, classes, settings)


def _features(model: Any, tokens: np.ndarray, images: np.ndarray, wanted: Features | None) -> np.ndarray:
    """Rows of features as the estimator was fitted on."""
    pixels = images.reshape(len(images), -1)
    every: dict[str, np.ndarray] = {"tokens": tokens, "pixels": pixels}
    widths = {"tokens": tokens.shape[1], "pixels": pixels.shape[1], "both": tokens.shape[1] + pixels.shape[1]}
    number = getattr(model, "n_features_in_", None)
    fitting = [name for name, width in widths.items() if number in (None, width)]
    chosen = wanted or (fitting[0] if len(fitting) == 1 else None)
    if chosen is None or (number is not None and widths[chosen] != number):
        there = ", ".join(f"{name} {width}" for name, width in widths.items())
        fits = "several fit" if fitting else "none fits"
        fits = fits if chosen is None else f"{chosen} do not fit"
        raise ValueError(
            f"The estimator was fitted on {number or 'an unknown number of'} features, the data have {there}: {fits}; "
            "say which it gets (features: tokens, pixels or both)."
        )
    return every[chosen] if chosen in every else np.hstack([tokens.astype(np.float32), pixels])
