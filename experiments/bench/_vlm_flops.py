"""Arithmetic of one forward pass of a LLaVA-OneVision guard, counted from its sizes."""

from __future__ import annotations

import dataclasses

from hybrid_rs_jax.models import LlavaOnevisionConfig

__all__ = ["ForwardFlops", "forward_flops"]


@dataclasses.dataclass(frozen=True)
class ForwardFlops:
    """Floating-point operations for one copy; a multiplication and its addition count as two.

    Attributes:
      tower: vision tower, all views.
      projector: from the tower's features to the decoder's.
      maps: the decoder's weights: query, key, value, output, gate, up, down.
      attention: the decoder's products of queries with keys, and of weights with values; only pairs that causality lets
        through, so a kernel that computes all of them is not rewarded for it.
      labels: the rows of the output layer that the decision reads.
    """

    tower: int
    projector: int
    maps: int
    attention: int
    labels: int

    @property
    def total(self) -> int:
        """All together."""
        return sum(dataclasses.astuple(self))


def forward_flops(
    config: LlavaOnevisionConfig, views: int, image_tokens: int, text_tokens: int, *, cached: int = 0, labels: int = 2
) -> ForwardFlops:
    """Matrix products of one copy; norms, activations, softmax and resizing are left out, as is usual.

    Args:
      config: sizes of the network.
      views: pictures that the tower encodes: the base view and the tiles, or one where they are the same.
      image_tokens: positions that the picture takes in the decoder.
      text_tokens: all other positions that are computed for each copy.
      cached: positions before them whose keys and values are computed once for all copies.
      labels: rows of the output layer, read at the last position.

    """
    vision, text = config.vision, config.text
    patches, width, inner = vision.grid**2, vision.hidden_size, vision.intermediate_size
    pixels = vision.patch_size**2 * vision.num_channels
    per_layer = patches * (4 * width * width + 2 * width * inner) + 2 * patches * patches * width
    tower = views * (patches * pixels * width + max(vision.states) * per_layer)
    features = width * len(vision.feature_layers)
    projector = views * patches * (features * text.hidden_size + text.hidden_size**2)

    queries, groups = text.num_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    positions, earlier = image_tokens + text_tokens, text.num_layers - 1
    per_key, per_position = 2 * groups, 2 * queries + 2 * groups + 3 * text.intermediate_size
    # of the last layer keys and values of all positions, and of the last one alone whatever else there is
    last = positions * per_key + per_position - per_key
    pairs = earlier * (positions * (positions + 1) // 2 + positions * cached) + positions + cached
    return ForwardFlops(
        tower=2 * tower,
        projector=2 * projector,
        maps=2 * text.hidden_size * (earlier * positions * per_position + last),
        attention=2 * 2 * queries * pairs,
        labels=2 * labels * text.hidden_size,
    )
