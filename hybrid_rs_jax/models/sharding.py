"""Data and tensor parallelism: how the weights of a network are split over a mesh of devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

__all__ = ["make_mesh", "named_parameters", "parameter_shardings", "partition_spec", "shard"]

COLUMN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "fc1", "linear_1", "lm_head")
ROW = ("o_proj", "out_proj", "down_proj", "fc2", "linear_2")


def make_mesh(data: int, model: int, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of `data x model` devices: batches are split over the first axis, weights over the second.

    Args:
      data: devices over which a batch is split.
      model: devices over which weights are split.
      devices: which; None takes the first of this process's.

    Returns:
      A mesh with the axes "data" and "model".

    Raises:
      ValueError: if there are not that many devices.

    >>> dict(make_mesh(1, 1).shape)
    {'data': 1, 'model': 1}
    """
    devices = jax.devices() if devices is None else devices
    if data < 1 or model < 1 or data * model > len(devices):
        raise ValueError(f"data x model must lie in 1..{len(devices)} devices, got {data} x {model}.")
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, model), ("data", "model"), axis_types=types, devices=devices[: data * model])


def partition_spec(name: str, shape: tuple[int, ...], parts: int, heads: int | None = None) -> PartitionSpec:
    """How one parameter is split into `parts` along the mesh axis "model".

    The maps that open a block (query, key, value, gate, up) are split by columns and the maps that close it by rows, so
    that each block needs one sum over devices; embedding and output layer are split by vocabulary. What cannot be split
    evenly, or would cut a head in two, is kept whole on every device.

    Args:
      name: dotted path of the parameter, as in "layers.0.attention.q_proj.kernel".
      shape: its shape.
      parts: size of the mesh axis "model".
      heads: heads that the parameter's columns hold, for query, key and value maps.

    >>> tuple(partition_spec("layers.0.mlp.down_proj.kernel", (64, 16), parts=2))
    ('model', None)
    """
    *_, owner, kind = ("", *name.split("."))
    if kind == "embedding":
        axis = 0
    elif owner in COLUMN and kind in ("kernel", "bias"):
        axis = len(shape) - 1
    elif owner in ROW and kind == "kernel":
        axis = 0
    else:
        return PartitionSpec()
    if shape[axis] % parts or (heads is not None and heads % parts):
        return PartitionSpec()
    return PartitionSpec(*("model" if i == axis else None for i in range(len(shape))))


def named_parameters(network: Any) -> dict[str, nnx.Param]:
    """Parameters by their dotted paths."""
    state = nnx.to_flat_state(nnx.state(network, nnx.Param))
    return {".".join(map(str, path)): variable for path, variable in state}


def parameter_shardings(network: Any, mesh: Mesh | AbstractMesh | None) -> dict[str, Sharding]:
    """The sharding of every parameter on the mesh; the default device for all where there is none."""
    parameters = named_parameters(network)
    if mesh is None:
        return dict.fromkeys(parameters, jnp.zeros(0).sharding)
    if "model" not in mesh.axis_names:
        raise ValueError(f"mesh must have an axis named 'model', got {mesh.axis_names}.")
    parts = mesh.shape["model"]
    return {
        name: NamedSharding(mesh, partition_spec(name, variable.shape, parts, _heads(network, name)))
        for name, variable in parameters.items()
    }


def shard(network: Any, mesh: Mesh) -> Any:
    """Move a network's weights onto the mesh, in place, and return it.

    Args:
      network: a network of this package.
      mesh: of `make_mesh`.

    Returns:
      The same network.

    >>> from hybrid_rs_jax.models import from_config
    >>> config = {"model_type": "qwen2", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32}
    >>> config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    >>> type(shard(from_config(config), make_mesh(1, 1))).__name__
    'Qwen2'
    """
    parameters = named_parameters(network)
    for name, sharding in parameter_shardings(network, mesh).items():
        parameters[name].set_value(jax.device_put(parameters[name][...], sharding))
    return network


def _heads(network: Any, name: str) -> int | None:
    """Heads in the columns of a query, key or value map."""
    owner = name.split(".")[-2] if "." in name else ""
    if owner not in ("q_proj", "k_proj", "v_proj"):
        return None
    config = network.config
    if hasattr(config, "text"):
        config = config.vision if name.startswith("vision_tower.") else config.text
    return config.num_heads if owner == "q_proj" else getattr(config, "num_key_value_heads", config.num_heads)
