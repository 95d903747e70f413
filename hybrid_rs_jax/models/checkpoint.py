"""Networks from config.json, and their weights from safetensors, without torch."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hybrid_rs_jax.models._attention import Implementation, check_implementation
from hybrid_rs_jax.models._hub import checkpoint_folder
from hybrid_rs_jax.models._keys import KeyTable, Target
from hybrid_rs_jax.models._original_llava import is_original, translate
from hybrid_rs_jax.models._safetensors import StoredTensor, checkpoint_tensors
from hybrid_rs_jax.models._vision_language import DECODERS, TOWERS
from hybrid_rs_jax.models.llava import Llava
from hybrid_rs_jax.models.llava_onevision import LlavaOnevision
from hybrid_rs_jax.models.sharding import named_parameters, parameter_shardings

__all__ = ["ARCHITECTURES", "from_config", "from_pretrained", "load_config"]

ARCHITECTURES: dict[str, type[Any]] = {"llava_onevision": LlavaOnevision, "llava": Llava, **DECODERS, **TOWERS}


def load_config(source: str | os.PathLike[str]) -> dict[str, Any]:
    """config.json of a checkpoint, in the layout of transformers.

    Args:
      source: a folder or a hub id.

    Raises:
      ValueError: if it is absent, not JSON, or of a quantised checkpoint.
    """
    path = checkpoint_folder(source) / "config.json"
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no config.json.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold one JSON object, got {type(config).__name__}.")
    if config.get("quantization_config"):
        raise ValueError(f"{path} is of a quantised checkpoint; give one with float weights.")
    return translate(config) if is_original(config) else config


def from_config(
    config: dict[str, Any],
    *,
    dtype: Any = jnp.float32,
    param_dtype: Any = None,
    attention: Implementation = "auto",
    seed: int = 0,
) -> Any:
    """A network with random weights, as wide as keeps the size of activations; drawn on the host, nothing is compiled.

    Args:
      config: the contents of config.json.
      dtype: dtype of the computation, float32 or bfloat16.
      param_dtype: dtype of the weights; None for `dtype`.
      attention: "xla", "cudnn", or "auto".
      seed: of the random weights.

    Returns:
      A `LlavaOnevision`, `Llava`, `Qwen2`, `Llama`, `Siglip` or `Clip`.

    Raises:
      ValueError: for an architecture or a setting that is not supported.
    """
    cls = _architecture(config)
    settings, options = cls.read_config(config), _options(dtype, param_dtype, attention)
    network = nnx.eval_shape(lambda: cls(settings, rngs=nnx.Rngs(0), **options))
    generator = np.random.default_rng(seed)
    for name, parameter in named_parameters(network).items():
        parameter.set_value(jnp.asarray(_draw(name, parameter.shape, generator), parameter.dtype))
    return network


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    dtype: Any = jnp.float32,
    param_dtype: Any = None,
    attention: Implementation = "auto",
    mesh: jax.sharding.Mesh | None = None,
) -> Any:
    """A network with the weights of a checkpoint.

    Tensors go one at a time from the memory map of their file to their device, dtype and sharding, so that the host
    holds about one tensor beside what the devices hold. All faults of the checkpoint are found from the headers of
    its files, before any weight is read.

    Args:
      source: a folder or a hub id, in the layout of transformers (any version) or of the original LLaVA repository.
      dtype: dtype of the computation, float32 or bfloat16.
      param_dtype: dtype of the weights; None for `dtype`.
      attention: "xla", "cudnn", or "auto".
      mesh: a mesh with the axes of `sharding.make_mesh`; None for JAX's default device.

    Raises:
      ValueError: for what the network cannot take. Missing, unknown and misshapen tensors are all named in one error.
    """
    folder = checkpoint_folder(source)
    config = load_config(folder)
    cls = _architecture(config)
    settings, options = cls.read_config(config), _options(dtype, param_dtype, attention)
    tensors = checkpoint_tensors(folder)
    head = next((name for name in tensors if name.rsplit(".", 2)[-2:] == ["lm_head", "weight"]), None)
    if head is None:
        settings = _tied(settings)
    network = nnx.eval_shape(lambda: cls(settings, rngs=nnx.Rngs(0), **options))
    parameters = named_parameters(network)
    sources, faults = _assign(tensors, parameters, network.key_table())
    if head is not None and _is_tied(settings):
        faults += _tie_faults(head, tensors, network.key_table())
    if faults:
        raise ValueError(f"The checkpoint in {folder} does not fit {config['model_type']}: {'; '.join(faults)}.")
    shardings = parameter_shardings(network, mesh)
    for name, (stored, target) in sources.items():
        parameters[name].set_value(_load(stored, target, parameters[name], shardings[name]))
    return network


def _architecture(config: dict[str, Any]) -> type[Any]:
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise ValueError(f"model_type must be one of {', '.join(ARCHITECTURES)}, got {kind}.")
    return ARCHITECTURES[kind]


def _options(dtype: Any, param_dtype: Any, attention: Implementation) -> dict[str, Any]:
    """Checked here: JAX adds a note of its own to an error that is raised while it builds the network."""
    check_implementation(attention)
    param_dtype = dtype if param_dtype is None else param_dtype
    for name, value in (("dtype", dtype), ("param_dtype", param_dtype)):
        if jnp.dtype(value) not in (jnp.float32, jnp.bfloat16):
            raise ValueError(f"{name} must be float32 or bfloat16, got {jnp.dtype(value)}.")
    return {"dtype": dtype, "param_dtype": param_dtype, "attention": attention}


def _draw(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Scales are one, biases zero, maps normal with variance 1 / inputs, embeddings with 1 / features."""
    kind = name.rsplit(".", 1)[-1]
    if kind in ("scale", "bias"):
        return np.full(shape, kind == "scale", np.float32)
    inputs = math.prod(shape[:-1]) if kind == "kernel" else shape[-1]
    return generator.standard_normal(shape, np.float32) * np.float32(inputs**-0.5)


def _assign(
    tensors: dict[str, StoredTensor], parameters: dict[str, Any], table: KeyTable
) -> tuple[dict[str, tuple[StoredTensor, Target]], list[str]]:
    """Which stored tensor fills which parameter, in the order of the files, and everything that does not fit."""
    sources: dict[str, tuple[StoredTensor, Target]] = {}
    faults = []
    for name, stored in tensors.items():
        target = None if table.ignores(name) else table.target(name)
        if target is None or target.parameter not in parameters:
            known = table.ignores(name) or table.current_name(name).endswith("lm_head.weight")
            faults += [] if known else [f"{name} is unknown"]
        elif target.parameter in sources:
            faults.append(f"{name} fills {target.parameter} a second time")
        else:
            sources[target.parameter] = stored, target
            expected = target.stored_shape(parameters[target.parameter].shape)
            if stored.shape != expected:
                faults.append(f"{name} has shape {list(stored.shape)}, not {list(expected)}")
            elif not stored.is_float:
                faults.append(f"{name} has dtype {stored.dtype}, which is no float of 16 bits or more")
    faults += [f"{name} is missing" for name in parameters if name not in sources]
    return sources, faults


def _tie_faults(head: str, tensors: dict[str, StoredTensor], table: KeyTable) -> list[str]:
    """A stored output layer must equal the embedding that config.json ties it to: versions differ in which one wins."""
    embedding = next((name for name in tensors if table.current_name(name).endswith("embed_tokens.weight")), None)
    if embedding is None or tensors[head].shape != tensors[embedding].shape:
        return [f"{head} cannot be tied to the embedding"]
    first, second = tensors[head].read(), tensors[embedding].read()
    rows = max(1, 2**24 // max(1, first.shape[-1]))
    same = all(np.array_equal(first[i : i + rows], second[i : i + rows]) for i in range(0, len(first), rows))
    return [] if same else [f"{head} differs from the embedding that config.json ties it to"]


def _load(stored: StoredTensor, target: Target, parameter: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    view = stored.read()
    view = view.transpose(target.axes) if target.axes else view
    # always a copy: an array that aliased the map would change with the file
    return jax.make_array_from_callback(
        parameter.shape, sharding, lambda index: np.array(view[index], dtype=parameter.dtype, order="C")
    )


def _is_tied(settings: Any) -> bool:
    return bool(getattr(getattr(settings, "text", settings), "tied", False))


def _tied(settings: Any) -> Any:
    if hasattr(settings, "text"):
        return dataclasses.replace(settings, text=_tied(settings.text))
    return dataclasses.replace(settings, tied=True) if hasattr(settings, "tied") else settings
