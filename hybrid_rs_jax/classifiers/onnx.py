"""A network in an ONNX file as a base classifier, run by onnxruntime on the host."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_rs_jax._extras import need
from hybrid_rs_jax._files import kind_of, path_text
from hybrid_rs_jax.classifiers.host import HostClassifier
from hybrid_rs_jax.classifiers.own import decisions
from hybrid_rs_jax.errors import BadInputError

__all__ = ["OnnxClassifier"]

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
_CHANNELS = (1, 3, 4)


class OnnxClassifier(HostClassifier):
    """The decisions of an ONNX file.

    An input of integers [b, l] gets the tokens, one of floats [b, ?, ?, ?] the pictures: channels first, unless only
    its last axis has 1, 3 or 4 places. A file with a fixed batch size is asked in batches of that size.

    Args:
      path: the file.
      output: name of the output that decides; None: the first one. It holds decisions [b], scores [b] or [b, 1] (with
        a threshold), or a column per class [b, K], of which the largest counts: of two classes the second is Unsafe.
      threshold: a score above it is Unsafe.
      unsafe: of a column per class, those that are Unsafe; None: the second of two, or a certificate of the class.

    Raises:
      BadInputError: if onnxruntime is not installed, or the file cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        output: str | None = None,
        threshold: float | None = None,
        unsafe: tuple[int, ...] | None = None,
    ):
        path = Path(path)
        runtime = need("onnxruntime", "onnx", "ONNX files")
        if kind_of(path) != "file":
            raise BadInputError(f"{path_text(path)} does not exist.")
        content = path.read_bytes()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises classes of its own for broken files
            reason = str(error).splitlines()[0][:200]
            raise BadInputError(f"{path_text(path)} cannot be read as an ONNX file: {reason}.") from error
        names = [node.name for node in self._session.get_outputs()]
        if output is not None and output not in names:
            raise BadInputError(f"{path_text(path)} has the outputs {', '.join(names)}, got --output {output}.")
        self._output = output or names[0]
        self._feeds = [_feed(path, node) for node in self._session.get_inputs()]
        fixed = {node.shape[0] for node in self._session.get_inputs() if isinstance(node.shape[0], int)}
        self._fixed = min(fixed) if fixed else None
        shape = next(node.shape for node in self._session.get_outputs() if node.name == self._output)
        columns = shape[1] if len(shape) == 2 and isinstance(shape[1], int) else 1
        classes = columns if columns > 2 and unsafe is None else None
        super().__init__(
            lambda tokens, images: decisions(self._run(tokens, images), threshold, classes, unsafe),
            name=f"ONNX file {path.name}",
            digest=hashlib.sha256(content).hexdigest(),
            classes=classes,
        )
        self._settings = {"output": self._output, "threshold": threshold, "unsafe": unsafe and list(unsafe)}

    def describe(self) -> dict[str, object]:
        """Name and digest of the file, the output and the rule."""
        return {**super().describe(), **self._settings}

    def _run(self, tokens: np.ndarray, images: np.ndarray) -> np.ndarray:
        if not images.size and any(kind == 1 for _, kind, _, _ in self._feeds):
            raise ValueError("The ONNX file takes pictures, and the inputs have none.")
        size = self._fixed or len(tokens)
        found = []
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size], images[start : start + size]
            missing = size - len(part[0])
            full = [np.concatenate([each, np.repeat(each[-1:], missing, axis=0)]) for each in part]
            feeds = {name: _arranged(full[kind], dtype, first) for name, kind, dtype, first in self._feeds}
            found.append(np.asarray(self._session.run([self._output], feeds)[0])[: size - missing])
        return np.concatenate(found)


def _feed(path: Path, node: Any) -> tuple[str, int, Any, bool]:
    """Name of an input, what it gets (0: tokens, 1: pictures), its dtype, and whether channels come first."""
    dtype, rank = _DTYPES.get(node.type), len(node.shape)
    if dtype is not None and rank == 2 and np.dtype(dtype).kind == "i":
        return node.name, 0, dtype, False
    if dtype is not None and rank == 4 and np.dtype(dtype).kind == "f":
        last = node.shape[3] in _CHANNELS and node.shape[1] not in _CHANNELS
        return node.name, 1, dtype, not last
    raise BadInputError(
        f"{path_text(path)}: inputs must be integers [b, l] (tokens) or floats of 4 axes (pictures), got {node.name}, "
        f"{node.type} of {rank} axes."
    )


def _arranged(values: np.ndarray, dtype: Any, channels_first: bool) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(values, -1, 1) if channels_first else values).astype(dtype, copy=False)
