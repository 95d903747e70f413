"""Files of PyTorch: arrays come out of them, code does not run."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hybrid_rs_jax.errors import BadInputError

__all__ = ["read_pt"]


def read_pt(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a state dict, or of the "state_dict" of a training checkpoint, as float32.

    Raises:
      BadInputError: if torch is not installed, or the file is no state dict or would have to run code.
    """
    try:
        import torch
    except ImportError as error:
        raise BadInputError('Converting needs PyTorch: pip install "hybrid-rs-jax[parity]".') from error
    try:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BadInputError(f"{path} does not exist.") from error
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        # torch's own text advises to let the file run its code
        raise BadInputError(
            f"{path} is no whole file of PyTorch, or holds more than arrays; it is left alone."
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BadInputError(f"{path} must hold tensors by their names, got {type(state).__name__} with other things.")
    return {str(name): value.float().numpy() for name, value in state.items()}
