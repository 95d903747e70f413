"""The residual smoothness mapper: features of noisy pictures in, features nearer to those of the clean ones out."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from hybrid_rs_jax._checks import check_whole
from hybrid_rs_jax._files import atomic_file, check_target
from hybrid_rs_jax._jax import applied
from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax.models._attention import attend
from hybrid_rs_jax.models.denoiser.denoiser import parameters_digest

__all__ = ["Mapper", "MapperConfig", "MapperNetwork", "load_mapper", "save_mapper", "scaled"]


@dataclasses.dataclass(frozen=True)
class MapperConfig:
    """Sizes of a mapper.

    Attributes:
      features: of each token, D.
      tokens: vectors that a feature is made of, L: 1 for a pooled feature, the patches for a grid side by side.
      blocks: the second paper takes 3.
      heads: of the attention; they divide `features`.
      expansion: hidden features of the MLP, in multiples of D.
      condition: hidden features of the three small networks that are told the noise.
      kernel: tokens under the depthwise convolution, odd.
      scale: damping of each block's residual at the start.

    Raises:
      ValueError: for a size that is out of range.
    """

    features: int
    tokens: int = 1
    blocks: int = 3
    heads: int = 4
    expansion: int = 2
    condition: int = 32
    kernel: int = 3
    scale: float = 5e-4

    def __post_init__(self) -> None:
        for name in ("features", "tokens", "blocks", "heads", "expansion", "condition", "kernel"):
            check_whole(name, getattr(self, name), 1)
        if self.features % self.heads:
            raise ValueError(f"heads must divide features = {self.features}, got {self.heads}.")
        if not self.kernel % 2:
            raise ValueError(f"kernel must be odd, got {self.kernel}.")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {self.scale}.")


class MapperNetwork(nnx.Module):
    """`M(z, sigma)` of Eq. 10 (A.28 to A.33): the residual that is added to a feature.

    Every block normalises its input, `h = attention + MLP + convolution / 2` (attention in the first block alone), and
    adds

        [(1 + gamma) (alpha h/|h|) + beta] * sigma^b * scale

    with gamma and beta (FiLM), alpha and b from small networks that are told `log sigma`; `scale` is learned, one
    number per feature. The paper lets sigma^b damp the first summand alone; here it damps both, so at sigma = 0 the
    residual is zero whatever the weights are, and the identity loss `l_id` of Eq. 12 with it.
    """

    def __init__(self, config: MapperConfig, rngs: nnx.Rngs):
        self.blocks = nnx.List([_Block(config, rngs, attends=number == 0) for number in range(config.blocks)])

    def __call__(self, z: Float[Array, "b l d"], sigma: Float[Array, " b"]) -> Float[Array, "b l d"]:
        residual = jnp.zeros_like(z)
        for block in self.blocks:
            residual = residual + block(z + residual, sigma)
        return residual


class _Block(nnx.Module):
    def __init__(self, config: MapperConfig, rngs: nnx.Rngs, *, attends: bool):
        wide, hidden = config.features, config.condition
        linear = functools.partial(nnx.Linear, dtype=jnp.float32, param_dtype=jnp.float32, rngs=rngs)
        self.heads = config.heads
        self.norm = nnx.LayerNorm(wide, dtype=jnp.float32, rngs=rngs)
        self.mixed: Any = linear(wide, 3 * wide) if attends else None
        self.out: Any = linear(wide, wide) if attends else None
        self.up, self.down = linear(wide, config.expansion * wide), linear(config.expansion * wide, wide)
        self.taps = nnx.Param(jax.random.normal(rngs.params(), (config.kernel, wide), jnp.float32) / config.kernel)
        # the last layers start at zero: FiLM as the identity, alpha and b as softplus(0)
        zero = nnx.initializers.zeros_init()
        self.film_up, self.film_down = linear(1, hidden), linear(hidden, 2 * wide, kernel_init=zero)
        self.size_up, self.size_down = linear(1, hidden), linear(hidden, 2, kernel_init=zero)
        self.scale = nnx.Param(jnp.full((wide,), config.scale, jnp.float32))

    def __call__(self, z: Array, sigma: Array) -> Array:
        noisy = sigma > 0
        level = jnp.log(jnp.where(noisy, sigma, 1))[:, None]
        gamma, beta = jnp.split(self.film_down(nnx.gelu(self.film_up(level)))[:, None], 2, axis=-1)
        alpha, power = jnp.split(jax.nn.softplus(self.size_down(nnx.gelu(self.size_up(level))))[:, None], 2, axis=-1)
        damping = jnp.where(noisy, 1, 0)[:, None, None] * jnp.exp(power * level[:, None])
        h = self._refined(self.norm(z))
        direction = h / jnp.sqrt((h * h).sum(axis=-1, keepdims=True) + jnp.float32(1e-12))
        return ((1 + gamma) * alpha * direction + beta) * damping * self.scale[...]

    def _refined(self, x: Array) -> Array:
        length, reach = x.shape[1], len(self.taps[...]) // 2
        padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
        local = sum(padded[:, i : i + length] * tap for i, tap in enumerate(self.taps[...]))
        h = self.down(nnx.gelu(self.up(x))) + jnp.float32(0.5) * local
        if self.mixed is None:
            return h
        query, key, value = jnp.split(self.mixed(x).reshape(*x.shape[:2], 3 * self.heads, -1), 3, axis=2)
        return h + self.out(attend(query, key, value, causal=False, implementation="xla").reshape(x.shape))


class Mapper:
    """A network and its weights: `z + |z|/sqrt(L) M(z sqrt(L)/|z|, sigma)`, so that it is told directions only.

    It belongs to the encoder whose features it follows, and cannot spoil a certificate.

    Args:
      network: of the sizes `config`.
      config: sizes.
      digest: what tells the weights from others; None takes a SHA-256 of the parameters.

    >>> config = MapperConfig(features=8)
    >>> mapper = Mapper(MapperNetwork(config, nnx.Rngs(0)), config)
    >>> feature = np.ones((1, 8), np.float32)
    >>> bool((mapper(feature, 0.0) == feature).all()), bool((mapper(feature, 0.5) == feature).all())
    (True, False)
    """

    def __init__(self, network: MapperNetwork, config: MapperConfig, digest: str | None = None):
        self.config, self._digest = config, digest
        self._parameters = nnx.split(network)[1]
        self._apply = _Apply(config)

    def __call__(self, features: Any, sigma: Any) -> Float[Array, "b f"]:
        """Map each feature.

        Args:
          features: floats [b, tokens * features].
          sigma: the pixel noise of the pictures that were encoded, at least 0; one for all or [b]. At 0 the features
            come back as they are.

        Raises:
          ValueError: if they have another length.
        """
        features = jnp.asarray(features, jnp.float32)
        self.check_features(features.shape)
        return applied(self._apply, self._parameters, features, jnp.asarray(sigma, jnp.float32))

    def functional(self) -> tuple[Callable[..., Array], Any]:
        """`apply(parameters, features, sigma)`, hashable and the same on each call, and the parameters."""
        return self._apply, self._parameters

    def describe(self) -> dict[str, object]:
        """Everything that its answers depend on, for the header of a run."""
        if self._digest is None:
            self._digest = parameters_digest(self._parameters)
        return {
            "name": "hybrid_rs_jax.models.booster.Mapper",
            "weights_sha256": self._digest,
            "network": dataclasses.asdict(self.config),
        }

    def check_features(self, shape: tuple[int, ...]) -> None:
        """Raise one sentence for features of another shape than [b, tokens * features]."""
        length = self.config.tokens * self.config.features
        if len(shape) != 2 or shape[1] != length:
            raise ValueError(
                f"The mapper takes features [b, {length}], {self.config.tokens} of {self.config.features}, got shape "
                f"{list(shape)}; it was trained for another encoder."
            )

    @property
    def num_parameters(self) -> int:
        """Numbers in the weights."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self._parameters))

    def __repr__(self) -> str:
        return f"Mapper({self.num_parameters:,} parameters, {self.config.tokens} x {self.config.features} features)"


def scaled(features: Array, tokens: int) -> tuple[Array, Array]:
    """Features as tokens [b, L, D] whose mean square length is 1, and the factor that was taken out, [b, 1, 1]."""
    length = jnp.sqrt((features * features).sum(axis=1) / tokens).reshape(-1, 1, 1)
    length = jnp.where(length > 0, length, 1)  # a feature of zero stays one, which the sampler refuses
    return features.reshape(len(features), tokens, -1) / length, length


def save_mapper(mapper: Mapper, path: str | os.PathLike[str], *, dtype: Any = np.float32) -> None:
    """Write one safetensors file, the sizes in its header, that `load_mapper` reads.

    Args:
      mapper: its parameters are rounded to `dtype`, float32 or float16.
      path: must end in .safetensors and not exist.

    Raises:
      BadInputError: if it cannot be written.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    check_target(path, (".safetensors",))
    leaves = jax.tree.leaves(mapper.functional()[1])
    tensors = {f"{i:03d}": np.ascontiguousarray(np.asarray(leaf, dtype)) for i, leaf in enumerate(leaves)}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, {"mapper": json.dumps(dataclasses.asdict(mapper.config))})


def load_mapper(path: str | os.PathLike[str]) -> Mapper:
    """A mapper that `save_mapper` wrote.

    Args:
      path: the file.

    Returns:
      The mapper, its weights in float32.

    Raises:
      ValueError: one sentence, if the file is no whole mapper.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header, names = file.metadata() or {}, sorted(file.keys())
            tensors = [file.get_tensor(name) for name in names]
        written: Any = parse_json(header["mapper"], f"The header of {path}")
        config = MapperConfig(**written)
    except KeyError as error:
        raise ValueError(f"{path} holds no mapper: its header has no entry {error}.") from error
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise ValueError(f"{path} is no whole mapper: {error}.") from error
    graph, shapes = _graph(config)
    wanted, structure = jax.tree.flatten(shapes)
    if [leaf.shape for leaf in wanted] != [tensor.shape for tensor in tensors]:
        raise ValueError(f"The weights in {path} do not fit the sizes in its header.")
    parameters = jax.tree.unflatten(structure, [jnp.asarray(tensor, jnp.float32) for tensor in tensors])
    return Mapper(nnx.merge(graph, parameters), config)


@dataclasses.dataclass(frozen=True)
class _Apply:
    """The mapper as a function of its parameters; equal for the same sizes."""

    config: MapperConfig

    def __call__(self, parameters: Any, features: Array, sigma: Array) -> Array:
        z, length = scaled(features.astype(jnp.float32), self.config.tokens)
        told = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), (len(z),))
        residual = nnx.merge(_graph(self.config)[0], parameters)(z, told)
        return features + (length * residual).reshape(features.shape)


@functools.cache
def _graph(config: MapperConfig) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: MapperNetwork(config, nnx.Rngs(0))))
