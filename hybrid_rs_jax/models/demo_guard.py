"""The network of the built-in demo guard: a small vision-language classifier with one output.

    picture -> patches -> dense -> slots ----------------.
    tokens  -> embedding -> self-attention -> cross-attention -> strongest position -> logit (> 0: Unsafe)

It is sized for throughput on a CPU (below 1 MFLOP per input), because certification evaluates it on hundreds
of thousands of noisy copies. Everything runs in float32, also under ``jax_enable_x64``.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32, Int32

from hybrid_rs_jax._files import atomic_file
from hybrid_rs_jax._json import parse_json


@dataclass(frozen=True)
class DemoGuardConfig:
    """Sizes of the demo guard.

    Attributes:
        vocab_size: symbols in the text alphabet.
        length: tokens per input, prompt and suffix together.
        image_size: height and width of the one-channel picture.
        width: features per token and per slot.
        patch: side of the square patches that the picture is cut into.
        stride: step from one patch to the next; patches overlap where it is below ``patch``.
        patch_features: features of a patch.
        hidden: features of the dense layer behind the patches.
        slots: vectors that the picture is summarised in, which the tokens attend to.
    """

    vocab_size: int = 512
    length: int = 16
    image_size: int = 8
    width: int = 32
    patch: int = 4
    stride: int = 2
    patch_features: int = 48
    hidden: int = 256
    slots: int = 10

    def __post_init__(self) -> None:
        if (self.image_size - self.patch) % self.stride:
            raise ValueError(
                "stride must divide image_size - patch, so that the patches reach the border, but "
                f"image_size = {self.image_size}, patch = {self.patch} and stride = {self.stride}."
            )


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, dtype=jnp.float32, param_dtype=jnp.float32, rngs=rngs)


class Attention(nnx.Module):
    """Attention with one head: batched products of many small heads are slow on a CPU."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.query = _linear(width, width, rngs)
        self.key = _linear(width, width, rngs)
        self.value = _linear(width, width, rngs)
        self.scale = width**-0.5

    def __call__(self, x: Float32[Array, "b l d"], context: Float32[Array, "b m d"]) -> Float32[Array, "b l d"]:
        scores = jnp.einsum("bld,bmd->blm", self.query(x), self.key(context)) * jnp.float32(self.scale)
        return jnp.einsum("blm,bmd->bld", jax.nn.softmax(scores, axis=-1), self.value(context))


class ImageEncoder(nnx.Module):
    """Overlapping patches (a convolution as one matrix product), then two dense layers, cut into slots."""

    def __init__(self, config: DemoGuardConfig, rngs: nnx.Rngs):
        self.patch, self.starts = config.patch, range(0, config.image_size - config.patch + 1, config.stride)
        self.shape = (config.slots, config.width)
        self.patches = _linear(config.patch**2, config.patch_features, rngs)
        self.hidden = _linear(len(self.starts) ** 2 * config.patch_features, config.hidden, rngs)
        self.out = _linear(config.hidden, config.slots * config.width, rngs)

    def __call__(self, images: Float32[Array, "b h w 1"]) -> Float32[Array, "b s d"]:
        batch, size = images.shape[0], self.patch
        cuts = [images[:, y : y + size, x : x + size, 0] for y in self.starts for x in self.starts]
        x = jax.nn.relu(self.patches(jnp.stack(cuts, axis=1).reshape(-1, size * size)))
        x = jax.nn.relu(self.hidden(x.reshape(batch, -1)))
        return self.out(x).reshape(batch, *self.shape)


class DemoGuardNetwork(nnx.Module):
    """Token ids and pictures in, one logit per input out; above 0 means Unsafe."""

    def __init__(self, config: DemoGuardConfig, rngs: nnx.Rngs):
        width = config.width
        self.config = config
        self.image = ImageEncoder(config, rngs)
        self.embedding = nnx.Param(0.5 * jax.random.normal(rngs.params(), (config.vocab_size, width), jnp.float32))
        self.position = nnx.Param(0.5 * jax.random.normal(rngs.params(), (1, config.length, width), jnp.float32))
        self.self_attention = Attention(width, rngs)
        self.text_up = _linear(width, 2 * width, rngs)
        self.text_down = _linear(2 * width, width, rngs)
        self.cross_attention = Attention(width, rngs)
        self.joint_up = _linear(width, 2 * width, rngs)
        self.joint_out = _linear(2 * width, 1, rngs)

    def __call__(self, tokens: Int32[Array, "b l"], images: Float32[Array, "b h w 1"]) -> Float32[Array, " b"]:
        return self.scores(self.hidden_states(tokens, images)).max(axis=1)

    def scores(self, states: Float32[Array, "b l features"]) -> Float32[Array, "b l"]:
        """The logit that each position stands for; the strongest one decides."""
        return self.joint_out(jax.nn.relu(states))[..., 0]

    def hidden_states(
        self, tokens: Int32[Array, "b l"], images: Float32[Array, "b h w 1"]
    ) -> Float32[Array, "b l features"]:
        """The last layer but one at each position, before its activation: text and picture together."""
        x = jnp.take(self.embedding[...], tokens, axis=0) + self.position[...]
        x = x + self.self_attention(x, x)
        x = x + self.text_down(jax.nn.relu(self.text_up(x)))
        x = x + self.cross_attention(x, self.image(images))
        return self.joint_up(x)


def save_weights(network: DemoGuardNetwork, path: str | os.PathLike[str], metadata: Mapping[str, object]) -> None:
    """Write the weights as float16, with sizes and ``metadata`` beside them: the whole file or nothing.

    Args:
      network: the network.
      path: file to write; an existing one is replaced.
      metadata: plain JSON, read back by ``load_weights``.

    >>> import tempfile
    >>> from flax import nnx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(DemoGuardNetwork(DemoGuardConfig(), rngs=nnx.Rngs(0)), f"{folder}/guard.npz", {"seed": 0})
    ...     load_weights(f"{folder}/guard.npz")[1]["seed"]
    0
    """
    arrays = {name: np.asarray(leaf[...], np.float16) for name, leaf in _parameters(network)}
    told = np.array(json.dumps({"config": asdict(network.config), **metadata}))
    target = Path(path)
    with atomic_file(target, force=True) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, metadata=told, **arrays)


def load_weights(file: str | os.PathLike[str] | BinaryIO) -> tuple[DemoGuardNetwork, dict[str, Any]]:
    """Read what ``save_weights`` wrote.

    Args:
        file: path, or a binary file.

    Returns:
        The network in float32, and the metadata.

    Raises:
        ValueError: arrays are missing, superfluous or of the wrong shape; all of them are named.

    >>> from importlib import resources
    >>> with resources.files("hybrid_rs_jax.models").joinpath("weights", "demo_guard.npz").open("rb") as file:
    ...     network, metadata = load_weights(file)
    >>> type(network).__name__
    'DemoGuardNetwork'
    """
    with np.load(file, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    metadata = parse_json(str(arrays.pop("metadata", "{}")), "the metadata of the file")
    sizes = metadata.get("config") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(sizes, dict):
        raise ValueError("The file holds no demo guard: its metadata has no 'config'.")
    config = DemoGuardConfig(**sizes)
    network = nnx.eval_shape(lambda: DemoGuardNetwork(config, nnx.Rngs(0)))
    parameters = dict(_parameters(network))
    faults = [f"{name} is missing" for name in parameters.keys() - arrays.keys()]
    faults += [f"{name} is not a parameter" for name in arrays.keys() - parameters.keys()]
    faults += [
        f"{name} has shape {arrays[name].shape}, not {leaf.shape}"
        for name, leaf in parameters.items()
        if name in arrays and arrays[name].shape != leaf.shape
    ]
    if faults:
        raise ValueError(f"The weights do not fit the network: {'; '.join(sorted(faults))}.")
    for name, leaf in parameters.items():
        leaf.set_value(jnp.asarray(arrays[name], jnp.float32))
    return network, metadata


def _parameters(network: DemoGuardNetwork) -> list[tuple[str, Any]]:
    """Parameters with their names, as in "image/hidden/kernel"."""
    return [("/".join(map(str, key)), leaf) for key, leaf in nnx.iter_graph(network) if isinstance(leaf, nnx.Param)]
