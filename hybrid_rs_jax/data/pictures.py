"""Picture files as float pixels: every mode that occurs in the wild, one decision for each, whatever the metadata."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from hybrid_rs_jax._files import kind_of, path_text
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError

__all__ = ["decode_image", "fit", "read_image"]

#: Formats that are pictures and nothing else: Pillow would hand others (EPS, for one) to a program of its own.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")
_WITH_ALPHA = ("LA", "PA", "RGBA", "RGBa")
#: A picture of Pillow's greatest number of pixels takes less, even uncompressed with 16 bits and transparency.
_LARGEST_FILE = 2**30
_ORIENTATION = 274
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
#: Where the header of a JPEG ends: the scan begins, the picture ends, or something that is no segment.
_JPEG_ENDS = (b"\xda", b"\xd9", b"\xff", b"")
#: What a PNG may lack and we read; texts, profiles and times are left out.
_PNG_EXTRAS = (b"tRNS", b"eXIf")


def read_image(path: Path) -> Float32[np.ndarray, "h w 3"]:
    """The pixels of an image file (PNG, JPEG, WebP, GIF, TIFF, BMP, ...) in [0, 1], as a viewer shows them.

    Grey, palette and CMYK images become RGB (without colour profiles); transparency is laid over white; 16-bit grey
    keeps its 16 bits; the EXIF orientation is applied where it can be read; of an animation the first frame counts.

    Args:
      path: the file.

    Returns:
      float32 [h, w, 3].

    Raises:
      UnreadableInputError: for a missing, empty, truncated or foreign file, for a kind of pixel without a known range
        (32-bit numbers beyond 16 bits, floats beyond [0, 1], Lab), and above Pillow's limit of about 89 million pixels.
      BadInputError: if Pillow is not installed.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (3, 2), 255).save(f"{folder}/white.png")
    ...     read_image(Path(folder) / "white.png").shape
    (2, 3, 3)
    """
    return decode_image(_content(path), path_text(path))


def decode_image(content: bytes, name: str) -> Float32[np.ndarray, "h w 3"]:
    """The pixels of an image file's content, see `read_image`; `name` says which one it is, in sentences."""
    image = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about broken metadata, which does not matter here
            warnings.simplefilter("error", image.DecompressionBombWarning)
            image.init()
            formats = [name for name in _FORMATS if name in image.OPEN]
            with image.open(io.BytesIO(_pixels_only(content)), formats=formats) as opened:
                opened.load()
                return _upright(_pixels(opened, content), _orientation(opened))
    except UnreadableInputError as error:
        raise UnreadableInputError(f"The image {name} cannot be used: {error}.") from error
    except Exception as error:  # on broken bytes the decoders raise whatever they stumble over
        foreign = "cannot identify image file" in str(error)
        reason = "it is no picture of a known format" if foreign else _first_line(error)
        raise UnreadableInputError(f"The image {name} cannot be decoded: {reason}.") from error


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

    Returns:
      float32 [height, width, 3] in [0, 1].

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
        pillow = _pillow()
        channels = [pillow.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(image, -1, 0)]
        size = (new_width, new_height)
        resized = np.stack([np.asarray(c.resize(size, pillow.Resampling.BICUBIC)) for c in channels], axis=-1)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    canvas = np.zeros((height, width, 3), np.float32)
    canvas[top : top + new_height, left : left + new_width] = np.clip(resized, 0, 1)
    return canvas


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise BadInputError('Pictures need Pillow: pip install "hybrid-rs-jax[images]".') from error
    return Image


def _content(path: Path) -> bytes:
    """The bytes of a picture file, or one sentence why there are none."""
    if max(map(len, path.parts), default=0) > 255:
        raise UnreadableInputError(
            f"The image {path_text(path)} is not the path of a file; pictures as base64 text must be written to files."
        )
    try:
        kind = kind_of(path)
    except BadInputError as error:
        raise UnreadableInputError(f"The image {error}") from error
    if kind != "file":
        what = "does not exist" if kind is None else "is not a file"
        raise UnreadableInputError(f"The image {path_text(path)} {what}.")
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UnreadableInputError(f"The image {path_text(path)} is larger than {_LARGEST_FILE:,} bytes.")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableInputError(f"The image {path_text(path)} cannot be read: {error.strerror or error}.") from error


def _pixels_only(content: bytes) -> bytes:
    """A PNG or JPEG without what says nothing about its pixels: neither its size nor its faults matter then."""
    if content.startswith(_PNG):
        return _PNG + b"".join(_png_chunks(content))
    return b"".join(_jpeg_segments(content)) if content.startswith(_JPEG) else content


def _png_chunks(content: bytes) -> Iterator[bytes]:
    start = len(_PNG)
    while start < len(content):
        name, end = content[start + 4 : start + 8], start + 12 + int.from_bytes(content[start : start + 4])
        chunk = content[start:end]
        if name in _PNG_EXTRAS and end <= len(content):
            yield chunk[:-4] + zlib.crc32(chunk[4:-4]).to_bytes(4)
        elif not name[:1].islower():  # a critical one
            yield chunk
        start = end


def _jpeg_segments(content: bytes) -> Iterator[bytes]:
    start = 2
    yield content[:start]
    while content[start : start + 1] == b"\xff" and content[start + 1 : start + 2] not in _JPEG_ENDS:
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4])
        name, segment = content[start + 1], content[start:end]
        # of application data the decoder reads two kinds, about colours; EXIF has the orientation
        read = (name in (0xE0, 0xEE) and len(segment) >= 14) or (name == 0xE1 and segment[4:8] == b"Exif")
        if read or name not in (*range(0xE0, 0xF0), 0xFE):
            yield segment
        start = end
    yield content[start:]


def _orientation(image: Any) -> int:
    """The one thing that metadata decides, where it can be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # of a broken EXIF block Pillow raises whatever it stumbles over
        return 1


def _upright(pixels: Float32[np.ndarray, "h w 3"], orientation: int) -> Float32[np.ndarray, "_ _ 3"]:
    """Turned and mirrored as EXIF says: 1..8, and anything else means as it is."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    vertical, horizontal = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if vertical else 1, :: -1 if horizontal else 1])


def _pixels(image: Any, content: bytes) -> Float32[np.ndarray, "h w 3"]:
    if 0 in image.size:
        raise UnreadableInputError(f"it has {image.height} x {image.width} pixels")
    if image.mode in _SIXTEEN_BIT or image.mode == "F":
        return _wide_grey(image)
    if image.mode in ("L", "RGB") and content.startswith(_PNG) and "transparency" in image.info:
        return _with_transparent_colour(image, content[24])
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = _pillow().new("RGBA", image.size, "white")
        image = _pillow().alpha_composite(white, image)
    elif image.mode not in _PLAIN:
        raise UnreadableInputError(f"pixels of mode {image.mode} have no agreed meaning in RGB")
    return np.asarray(image.convert("RGB"), np.float32) / np.float32(255)


def _wide_grey(image: Any) -> Float32[np.ndarray, "h w 3"]:
    """Pillow's own conversion would cut 16-bit values off at 255, and forgets the transparent one."""
    values = np.asarray(image, np.float64)
    top = 1.0 if image.mode == "F" else 65_535.0
    if not (values.min() >= 0 and values.max() <= top):
        raise UnreadableInputError(
            f"pixels of mode {image.mode} must lie in 0..{top:g}, but they span {values.min():g}..{values.max():g}"
        )
    if "transparency" in image.info:
        values = np.where(values == image.info["transparency"], top, values)
    return np.repeat((values / top).astype(np.float32)[:, :, None], 3, axis=2)


def _with_transparent_colour(image: Any, depth: int) -> Float32[np.ndarray, "h w 3"]:
    """Grey or RGB of a PNG in which one colour is transparent: Pillow scales pixels to 8 bits, not that colour."""
    values = np.asarray(image).reshape(image.height, image.width, -1)
    colour = np.atleast_1d(image.info["transparency"])
    scaled = colour >> 8 if depth == 16 else colour * (255 // (2**depth - 1))
    transparent = (values == scaled).all(axis=-1, keepdims=True)
    if depth == 16 and transparent.any():
        # the lower 8 bits, which would part the colour from its neighbours, are gone
        raise UnreadableInputError("it has 16-bit colours of which one is transparent; convert it to 8 bits")
    shown = np.where(transparent, 255, values).astype(np.float32) / np.float32(255)
    return np.broadcast_to(shown, (*shown.shape[:2], 3))


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
