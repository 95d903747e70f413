"""Image files as float pixels: every mode that occurs in the wild, one decision for each."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageOps

__all__ = ["UnreadableImageError", "fit", "read_image"]

#: Formats that are pictures and nothing else: Pillow would hand others (EPS, for one) to a program of its own.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")
_WITH_ALPHA = ("LA", "PA", "RGBA", "RGBa")


class UnreadableImageError(Exception):
    """An image file that cannot be used; its text is a sentence without the final point."""


def read_image(path: Path) -> Float32[np.ndarray, "h w 3"]:
    """The pixels of an image file (PNG, JPEG, WebP, GIF, TIFF, BMP, ...) in [0, 1], as a viewer shows them.

    Grey, palette and CMYK images become RGB (without colour profiles); transparency is laid over white; 16-bit grey
    keeps its 16 bits; the EXIF orientation is applied; of an animation the first frame counts.

    Raises:
      UnreadableImageError: for a missing, empty, truncated or foreign file, for a kind of pixel without a known range
        (32-bit numbers beyond 16 bits, floats beyond [0, 1], Lab), and above Pillow's limit of about 89 million pixels.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UnreadableImageError(f"the image {path} {what}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about broken metadata, which does not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.init()
            with Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
                return _pixels(ImageOps.exif_transpose(image))
    except UnreadableImageError:
        raise
    except Exception as error:  # on broken bytes the decoders raise whatever they stumble over
        raise UnreadableImageError(f"the image {path} cannot be decoded: {_first_line(error)}") from error


def fit(
    image: Float32[np.ndarray, "h w 3"], height: int, width: int, how: Literal["stretch", "pad"] = "stretch"
) -> Float32[np.ndarray, "height width 3"]:
    """The image at the certified resolution: the one at which noise is added and radii are measured.

    Bicubic interpolation with antialiasing in floats (Pillow's, a = -1/2), clipped to [0, 1], where it can overshoot.
    An image that has the size already comes back unchanged.

    Args:
      image: pixels in [0, 1].
      height, width: certified resolution in pixels.
      how: "stretch" changes the aspect ratio; "pad" keeps it and centres the image on black.

    Raises:
      ValueError: for a size below 1 or an unknown `how`.

    >>> fit(np.ones((10, 20, 3), np.float32), 8, 8, how="pad")[:, 0, 0]
    array([0., 0., 1., 1., 1., 1., 0., 0.], dtype=float32)
    """
    if min(height, width) < 1:
        raise ValueError(f"height and width must be at least 1 pixel, got {height} x {width}.")
    if how not in ("stretch", "pad"):
        raise ValueError(f"how must be 'stretch' or 'pad', got {how!r}.")
    new_height, new_width = height, width
    if how == "pad":
        scale = min(height / image.shape[0], width / image.shape[1])
        new_height, new_width = (max(round(edge * scale), 1) for edge in image.shape[:2])
    resized = image
    if image.shape[:2] != (new_height, new_width):
        channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(image, -1, 0)]
        size = (new_width, new_height)
        resized = np.stack([np.asarray(c.resize(size, Image.Resampling.BICUBIC)) for c in channels], axis=-1)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    canvas = np.zeros((height, width, 3), np.float32)
    canvas[top : top + new_height, left : left + new_width] = np.clip(resized, 0, 1)
    return canvas


def _pixels(image: Image.Image) -> Float32[np.ndarray, "h w 3"]:
    if 0 in image.size:
        raise UnreadableImageError(f"the image has {image.height} x {image.width} pixels")
    if image.mode in _SIXTEEN_BIT or image.mode == "F":
        return _wide_grey(image)
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    elif image.mode not in _PLAIN:
        raise UnreadableImageError(f"pixels of mode {image.mode} have no agreed meaning in RGB")
    return np.asarray(image.convert("RGB"), np.float32) / np.float32(255)


def _wide_grey(image: Image.Image) -> Float32[np.ndarray, "h w 3"]:
    """Pillow's own conversion would cut 16-bit values off at 255."""
    values = np.asarray(image, np.float64)
    top = 1.0 if image.mode == "F" else 65_535.0
    if not (values.min() >= 0 and values.max() <= top):
        raise UnreadableImageError(
            f"pixels of mode {image.mode} must lie in 0..{top:g}, but they span {values.min():g}..{values.max():g}"
        )
    return np.repeat((values / top).astype(np.float32)[:, :, None], 3, axis=2)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
