"""What a chat endpoint is shown: the text of a pair, and its picture as a PNG in a data URL."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

__all__ = ["IMAGE_ENCODING", "messages", "png_data_url"]

IMAGE_ENCODING = "PNG in a base64 data URL, pixels clipped to [0, 1] and rounded to 8 bits after the noise"


def messages(policy: str, text: str, image: np.ndarray) -> list[dict[str, Any]]:
    """The policy as the system's message, text and picture as the user's."""
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": png_data_url(image)}}]
    return [{"role": "system", "content": policy}, {"role": "user", "content": parts}]


def png_data_url(image: np.ndarray) -> str:
    """A picture [h, w, c], grey (c = 1) or RGB (c = 3), as a data URL; nothing but the rounding is lost.

    Raises:
      ValueError: for another number of channels, or pixels that are not finite.
    """
    from PIL import Image

    if image.shape[-1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {image.shape[-1]}.")
    if not np.isfinite(image).all():
        raise ValueError(f"images must be finite, got {image[~np.isfinite(image)][0]}.")
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    # noise does not compress, so trying hard costs time only
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
