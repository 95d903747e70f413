"""A network written as a checkpoint in the Hugging Face layout, which this package and transformers load."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from hybrid_rs_jax._files import kind_of
from hybrid_rs_jax.models._keys import KeyTable, Target
from hybrid_rs_jax.models._safetensors import INDEX, SHARD_BYTES, SINGLE, json_text, write_tensors, write_text
from hybrid_rs_jax.models._vision_language import VisionLanguageConfig, VisionLanguageModel
from hybrid_rs_jax.models.sharding import named_parameters

__all__ = ["save_pretrained", "stored_tensors"]

#: From the loader's own names to those of published checkpoints, which every version of transformers reads.
PUBLISHED = (
    ("language_model.lm_head.", "language_model.lm_head."),
    ("language_model.", "language_model.model."),
    ("vision_tower.", "vision_tower.vision_model."),
    ("projector.", "multi_modal_projector."),
    ("image_newline", "image_newline"),
)
LAST_NORM = tuple(f"vision_tower.vision_model.post_layernorm.{kind}" for kind in ("weight", "bias"))


def save_pretrained(
    network: VisionLanguageModel,
    folder: str | os.PathLike[str],
    config: Mapping[str, Any],
    *,
    dtype: Any = jnp.bfloat16,
    files: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json, the weights and other files of a checkpoint.

    Tensor names are those of published LLaVA checkpoints. Each file appears under its name only when it is whole, and
    config.json comes last, so a folder with a config.json holds all of the checkpoint.

    Args:
      network: a `LlavaOnevision`, `LlavaNext` or `Llava`.
      folder: made where it does not exist.
      config: contents of config.json, as `from_config` takes them; `architectures` and `dtype` are added.
      dtype: of the stored weights: float32, float16 or bfloat16. Weights are rounded to nearest.
      files: other files by name: tokenizer.json, preprocessor_config.json and so on. A text is written as it is,
        anything else as JSON.
      shard_bytes: a file of weights holds at most that many bytes, or one tensor.

    Raises:
      ValueError: if the folder holds a checkpoint, or `config` is not the network's.
    """
    folder = Path(folder)
    _check(network, config, folder)
    parameters, stored, stored_dtype = named_parameters(network), stored_tensors(network), np.dtype(dtype)

    def value(name: str) -> np.ndarray:
        shape, target = stored[name]
        if target is None:
            return np.full(shape, name.endswith("weight"), np.float32)
        weights = np.asarray(parameters[target.parameter][...])
        return weights.transpose(np.argsort(target.axes)) if target.axes else weights

    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, {name: (shape, stored_dtype) for name, (shape, _) in stored.items()}, value, shard_bytes)
    for name, content in (files or {}).items():
        write_text(folder / name, content if isinstance(content, str) else json_text(content))
    write_text(folder / "config.json", json_text(_completed(network, config, stored_dtype)))


def stored_tensors(network: VisionLanguageModel) -> dict[str, tuple[tuple[int, ...], Target | None]]:
    """The tensors of a checkpoint of this network: name on disk to (shape on disk, the parameter that it fills).

    The norm behind the tower's last layer fills none, since nothing reads it; transformers misses it where it is
    absent. A network of shapes, as `nnx.eval_shape` makes it, will do.

    Raises:
      ValueError: for a network that is none of LLaVA's.
    """
    if not isinstance(network.config, VisionLanguageConfig):
        raise ValueError(f"Networks of LLaVA are written as checkpoints, got {type(network).__name__}.")
    table = network.key_table()
    stored: dict[str, tuple[tuple[int, ...], Target | None]] = {}
    for parameter, variable in named_parameters(network).items():
        name = _published_name(table, parameter)
        target = table.target(name)
        if target is None or target.parameter != parameter:
            raise ValueError(f"{parameter} has no name in the layout of published checkpoints.")
        stored[name] = target.stored_shape(variable.shape), target
    width = (network.config.vision.hidden_size,)
    return stored | {name: (width, None) for name in LAST_NORM}


def _check(network: VisionLanguageModel, config: Mapping[str, Any], folder: Path) -> None:
    if any(kind_of(folder / name) is not None for name in ("config.json", SINGLE, INDEX)):
        raise ValueError(f"{folder} holds a checkpoint already; choose another folder.")
    read: Any = type(network)
    if read.read_config(dict(config)) != network.config:
        raise ValueError("config must describe the network, but its sizes or settings are those of another one.")
    tower = network.config.vision
    if len(network.vision_tower.layers) < tower.num_layers:
        raise ValueError(
            f"num_hidden_layers of the tower must be {len(network.vision_tower.layers)}, the layers that were built, "
            f"got {tower.num_layers}."
        )


def _completed(network: VisionLanguageModel, config: Mapping[str, Any], dtype: np.dtype) -> dict[str, object]:
    """config.json with what transformers wants to know besides."""
    kind = type(network).__name__
    tower = {"model_type": network.config.tower, **config["vision_config"]}
    if network.config.tower == "siglip_vision_model":
        tower["vision_use_head"] = False  # or transformers would expect the weights of a pooling head
    extra = {"architectures": [f"{kind}ForConditionalGeneration"], "dtype": str(dtype)}
    return {**extra, **config, "dtype": str(dtype), "vision_config": tower}


def _published_name(table: KeyTable, parameter: str) -> str:
    name = table.stored(parameter)
    for start, published in PUBLISHED:
        if name is not None and name.startswith(start):
            return published + name.removeprefix(start)
    raise ValueError(f"{parameter} has no name in the layout of published checkpoints.")
