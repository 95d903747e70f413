"""A denoiser: pictures in [0, 1] with Gaussian noise in, an estimate of the clean pictures out, in one step."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from hybrid_rs_jax._jax import applied
from hybrid_rs_jax.models.denoiser.config import UNetConfig
from hybrid_rs_jax.models.denoiser.schedule import Rule
from hybrid_rs_jax.models.denoiser.unet import UNet

__all__ = ["Denoiser"]


class Denoiser:
    """A network and the rule by which it is asked.

    It removes noise that somebody else has added, and adds none of its own: what it does belongs to the base classifier
    behind it, and cannot spoil a certificate (method section 12).

    Args:
      network: a U-Net.
      rule: which time and coefficients belong to a noise level.
      digest: what tells the weights from others; None takes a SHA-256 of the parameters.
      size: height and width of the pictures that it was trained on; None: not known.
    """

    def __init__(self, network: UNet, rule: Rule, digest: str | None = None, size: tuple[int, int] | None = None):
        self.config, self.rule, self.dtype = network.config, rule, jnp.dtype(network.dtype)
        self.size = size
        self._parameters = nnx.split(network)[1]
        self._apply = _Apply(self.config, self.dtype, rule)
        self._digest = digest

    def __call__(self, images: Any, sigma: Any) -> Float[Array, "batch height width channels"]:
        """Estimate the clean pictures, `clip(skip x + out network(scale x, time), -1, 1)` with `x = 2 images - 1`.

        Args:
          images: floats [B, H, W, C]; clean pixels lie in [0, 1], noisy ones need not.
          sigma: standard deviation of the noise in the units of the pixels, one for all or [B]; may be traced.

        Returns:
          float32 in [0, 1]. For a TRACED sigma outside of the range, which cannot be refused, NaN.

        Raises:
          ValueError: if shapes do not fit, or sigma lies outside of what the network was trained on.
        """
        images = jnp.asarray(images, jnp.float32)
        self.check_images(images.shape)
        if not isinstance(sigma, jax.core.Tracer):
            self.check_sigma(sigma)
        sigma = jnp.asarray(sigma, jnp.float32)
        if sigma.shape not in ((), images.shape[:1]):
            raise ValueError(f"sigma must be one number or {images.shape[0]}, one per image, got shape {sigma.shape}.")
        return applied(self._apply, self._parameters, images, sigma)

    def functional(self) -> tuple[Callable[..., Array], Any]:
        """`apply(parameters, images, sigma)`, hashable and the same on each call, and the parameters.

        It is traced as it stands, checks the shape of the pictures but not sigma, and takes float32.
        """
        return self._apply, self._parameters

    def describe(self) -> dict[str, object]:
        """Everything that its answers depend on, for the header of a run."""
        if self._digest is None:
            self._digest = parameters_digest(self._parameters)
        return {
            "name": "hybrid_rs_jax.models.Denoiser",
            "weights_sha256": self._digest,
            "dtype": str(self.dtype),
            "network": self.config.write(),
            **self.rule.describe(),
        }

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Least and largest sigma, in the units of pictures in [0, 1]."""
        low, high = self.rule.range
        return low / 2, high / 2

    def check_sigma(self, sigma: Any) -> None:
        """Raise one sentence for a sigma that the network was not trained on."""
        low, high = self.sigma_range
        values = np.asarray(sigma, np.float64)
        inside = (values > 0) & (values >= low) & (values <= high)
        if not inside.all():
            interval = f"(0, {high:.6g}]" if low == 0 else f"[{low:.6g}, {high:.6g}]"
            raise ValueError(
                f"sigma must lie in {interval}, the range of the denoiser's noise schedule for images in [0, 1], got "
                f"{values[~inside].flat[0]:g}."
            )

    def time(self, sigma: float) -> float:
        """What the network is told for noise of `sigma`: the time step of a diffusion, counted from 0.

        >>> from hybrid_rs_jax.models.denoiser import fashion_denoiser
        >>> 259 > fashion_denoiser().time(0.5) > 258  # linear schedule; this one takes the time between two steps
        True
        """
        return float(self.rule.ask(jnp.float32(2 * sigma)).time)

    def check_images(self, shape: tuple[int, ...]) -> None:
        """Raise one sentence for images of another shape than [B, H, W, C] with the network's channels and sides."""
        if len(shape) != 4:
            raise ValueError(f"images must have shape [batch, height, width, channels], got {list(shape)}.")
        self.config.check_pictures(shape)

    def flops(self, height: int, width: int) -> int:
        """Floating-point operations for one picture of that size, two per multiplication."""
        from hybrid_rs_jax.models._flops import count_flops

        shape = jax.ShapeDtypeStruct((1, height, width, self.config.picture_channels), jnp.float32)
        parameters = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._parameters)
        return count_flops(self._apply, parameters, shape, jax.ShapeDtypeStruct((), jnp.float32))

    @property
    def num_parameters(self) -> int:
        """Numbers in the weights."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self._parameters))

    def __repr__(self) -> str:
        low, high = self.sigma_range
        return (
            f"Denoiser({self.num_parameters:,} parameters, {self.config.picture_channels} channels, "
            f"sigma in {low:.3g}..{high:.3g})"
        )


@dataclasses.dataclass(frozen=True)
class _Apply:
    """The denoiser as a function of its parameters; equal for the same network and rule."""

    config: UNetConfig
    dtype: Any
    rule: Rule

    def __call__(self, parameters: Any, images: Array, sigma: Array) -> Array:
        self.config.check_pictures(images.shape)
        s = 2 * jnp.asarray(sigma, jnp.float32)
        asked = self.rule.ask(s)
        x = 2 * images.astype(jnp.float32) - 1
        wide = jax.tree.map(lambda value: value.reshape(-1, 1, 1, 1), asked)
        network = nnx.merge(_graph(self.config, self.dtype), parameters)
        answer = network(to_patches(wide.scale * x, self.config.patch_size), asked.time.reshape(-1))
        answer = answer[..., : self.config.in_channels].astype(jnp.float32)  # what follows would be the variance
        answer = from_patches(answer, self.config.patch_size)
        clean = jnp.clip(wide.skip * x + wide.out * answer, -1, 1)
        low, high = self.rule.range
        inside = (s > 0) & (s >= low * (1 - 1e-6)) & (s <= high * (1 + 1e-6))
        return jnp.where(inside.reshape(-1, 1, 1, 1), (clean + 1) / 2, jnp.nan)


@functools.cache
def _graph(config: UNetConfig, dtype: Any) -> Any:
    """The network's structure, without its parameters."""
    return nnx.split(nnx.eval_shape(lambda: UNet(config, dtype=dtype, rngs=nnx.Rngs(0))))[0]


def to_patches(x: Array, size: int) -> Array:
    """Tiles of `size` by `size` pixels as channels, [B, H, W, C] -> [B, H / size, W / size, size * size * C]."""
    batch, height, width, channels = x.shape
    cut = x.reshape(batch, height // size, size, width // size, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(batch, height // size, width // size, size * size * channels)


def from_patches(x: Array, size: int) -> Array:
    """The inverse of `to_patches`."""
    batch, rows, columns, features = x.shape
    cut = x.reshape(batch, rows, columns, size, size, features // size**2).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(batch, rows * size, columns * size, features // size**2)


def parameters_digest(parameters: Any) -> str:
    """SHA-256 of names, shapes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
