"""The vision tower of a checkpoint as an encoder of pictures."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from hybrid_rs_jax._jax import applied
from hybrid_rs_jax.models import Clip, ImagePreprocessor, from_pretrained, load_preprocessor
from hybrid_rs_jax.models._vision import VisionTower
from hybrid_rs_jax.models.checkpoint import checkpoint_folder
from hybrid_rs_jax.models.image_processing import ImagePlan

__all__ = ["POOLINGS", "TowerEncoder"]

POOLINGS = ("mean", "class", "grid")


class TowerEncoder:
    """A CLIP or SigLIP tower, alone or in a LLaVA checkpoint; tokens are not looked at.

    Pictures are `image_size` high and wide, in [0, 1] before the noise; the checkpoint's own image processing follows
    the noise and is part of the encoder.

    Args:
      tower: the network.
      preprocessor: the checkpoint's image processing; None maps [0, 1] to [-1, 1].
      pooling: "mean" of the patch features; "class", the feature of CLIP's class token; "grid", all patch features side
        by side as one vector, what LLaVA's projector reads: the certified cosine is that of the grid as a whole.
      digest: what tells its weights from others.

    Raises:
      ValueError: if there is no such pooling, or no class token.
    """

    def __init__(
        self,
        tower: VisionTower,
        preprocessor: ImagePreprocessor | None = None,
        *,
        pooling: str = "mean",
        digest: str | None = None,
    ):
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be 'mean', 'class' or 'grid', got {pooling!r}.")
        if pooling == "class" and not isinstance(tower, Clip):
            raise ValueError(f"pooling 'class' needs the class token of a CLIP tower, got a {type(tower).__name__}.")
        self.pooling, self.image_size = pooling, (tower.config.image_size, tower.config.image_size)
        self._digest, self._tower = digest, type(tower).__name__
        plan = None if preprocessor is None else preprocessor.plan(*self.image_size)
        graph, self._parameters = nnx.split(tower)
        first = tower.extra_tokens
        self._apply = functools.partial(_encode, graph, plan, pooling, first)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], *, pooling: str = "mean") -> TowerEncoder:
        """The tower of a checkpoint.

        Args:
          source: folder or hub id of a CLIP or SigLIP vision model, or of a LLaVA checkpoint.
          pooling: as above.

        Raises:
          ValueError: one sentence, if the checkpoint cannot be read or holds no tower.
        """
        folder = checkpoint_folder(source)
        network = from_pretrained(folder)
        tower = network if isinstance(network, VisionTower) else getattr(network, "vision_tower", None)
        if not isinstance(tower, VisionTower):
            raise ValueError(f"The checkpoint {folder.name} is a {type(network).__name__} and holds no vision tower.")
        processed = any(folder.glob("*processor_config.json"))
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(path.read_bytes())
        preprocessor = load_preprocessor(folder) if processed else None
        return cls(tower, preprocessor, pooling=pooling, digest=digest.hexdigest())

    def __call__(self, tokens: Any, images: Any) -> Float[Array, "b features"]:
        """Encode each picture, floats [b, image_size, image_size, 3]."""
        return applied(self._apply, self._parameters, jnp.asarray(tokens), jnp.asarray(images))

    def functional(self) -> tuple[Callable[..., Array], Any]:
        """The encoder as a pure function `apply(parameters, tokens, images)`, and the parameters."""
        return self._apply, self._parameters

    def describe(self) -> dict[str, object]:
        """Tower, pooling and digest, for a run's header."""
        return {"name": f"{self._tower} tower", "pooling": self.pooling, "weights_sha256": self._digest}


def _encode(
    graph: Any, plan: ImagePlan | None, pooling: str, extra: int, parameters: Any, tokens: Array, images: Array
) -> Array:
    pixels = images.astype(jnp.float32)
    # one view: a tower sees the whole picture, tiles belong to the networks around it
    shown = 2 * pixels - 1 if plan is None else plan.distinct(pixels)[:, 0]
    states = nnx.merge(graph, parameters)(shown)
    if pooling == "class":
        return states[:, 0]
    patches = states[:, extra:]
    return patches.mean(axis=1) if pooling == "mean" else patches.reshape(len(patches), -1)
