"""From float pixels to what a vision tower is shown, inside the jitted graph: resize, pad, cut, normalise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64

from hybrid_rs_jax.models._anyres import best_resolution
from hybrid_rs_jax.models._image_settings import ImageSettings, parse_settings, read_settings
from hybrid_rs_jax.models._views import Canvas, tile_canvas, whole_canvas

__all__ = ["ImagePlan", "ImagePreprocessor"]

MOST_ELONGATED = 50


@dataclass(frozen=True)
class ImagePreprocessor:
    """The image processor of a checkpoint, for batches of float pixels of one fixed size.

    Noise is added to the pixels before, at the certified resolution; all that follows is part of the base classifier.
    Supported are the processors of CLIP, SigLIP, LLaVA-1.5 and LLaVA-OneVision.

    Attributes:
      settings: sizes, crops, means and deviations.
      alone: a picture's tiles are left out, see `base_view`.

    >>> processor = ImagePreprocessor.from_config({"image_processor_type": "SiglipImageProcessor"})
    >>> processor.plan(480, 640)(np.zeros((2, 480, 640, 3), np.float32)).shape
    (2, 1, 224, 224, 3)
    """

    settings: ImageSettings
    alone: bool = False

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImagePreprocessor:
        """Read `processor_config.json` or `preprocessor_config.json` of a checkpoint folder.

        Raises:
          ValueError: one sentence, for a missing or broken file, an unknown processor or an illegal value.
        """
        return cls(read_settings(Path(folder)))

    @classmethod
    def from_config(cls, content: dict[str, object]) -> ImagePreprocessor:
        """The preprocessor that the content of a `preprocessor_config.json` describes.

        Raises:
          ValueError: one sentence, for an unknown processor or an illegal value.
        """
        return cls(parse_settings(content))

    def base_view(self) -> ImagePreprocessor:
        """The processor as it treats each of several pictures of a prompt: the whole picture, without tiles.

        A border of the mean colour makes it a square. Only LLaVA-OneVision was trained with such prompts.

        Raises:
          ValueError: for another processor.
        """
        if self.settings.family != "LlavaOnevision":
            raise ValueError(f"views must be checkpoint for the image processor of {self.settings.family}, got base.")
        border = tuple(int(channel * 255) / 255 for channel in self.settings.mean)
        return ImagePreprocessor(replace(self.settings, pinpoints=(), border=border), alone=True)

    def plan(self, height: int, width: int) -> ImagePlan:
        """Everything about images of `height` x `width` pixels that does not depend on their content.

        Args:
          height, width: size of the images, at least 1 pixel; the longer edge at most 50 times the shorter.

        Raises:
          ValueError: for a size out of range.
        """
        if min(height, width) < 1:
            raise ValueError(f"height and width must be at least 1 pixel, got {height} x {width}.")
        if max(height, width) > MOST_ELONGATED * min(height, width):
            raise ValueError(
                f"The edges of an image may differ by a factor of at most {MOST_ELONGATED}, got {height} x {width}."
            )
        side = max(height, width)
        shape = (side, side) if self.settings.border else (height, width)
        base, tiles, target = whole_canvas(self.settings, *shape), None, None
        if self.settings.pinpoints:
            tiles = tile_canvas(self.settings, height, width)
            target = best_resolution((height, width), self.settings.pinpoints)
        return ImagePlan((height, width), target, self.settings, base, tiles, self.alone)


@dataclass(frozen=True, eq=False)
class ImagePlan:
    """Image processing for one image size: two matrix products per view, then normalisation.

    Affine in the pixels, and made for jit: the matrices are constants of the graph. On clean images
    the result equals that of the checkpoint's own processor up to that one's 8-bit rounding and clipping.

    Attributes:
      image_size: (height, width) of the images, which a LLaVA-OneVision network needs to know.
      best_resolution: (height, width) of the canvas that was chosen for the tiles; None without tiles.
      settings: the checkpoint's settings.
      alone: tiles are left out of what the network would otherwise be shown.
    """

    image_size: tuple[int, int]
    best_resolution: tuple[int, int] | None
    settings: ImageSettings
    _base: Canvas
    _tiles: Canvas | None
    alone: bool = False

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of tiles; None without tiles."""
        return None if self._tiles is None else self._tiles.grid

    @property
    def views(self) -> int:
        """Number T of views: the whole image, then the tiles from left to right, then down."""
        return 1 if self.grid is None else 1 + self.grid[0] * self.grid[1]

    @property
    def view_size(self) -> tuple[int, int]:
        """(height, width) of every view."""
        return len(self._base.rows), len(self._base.columns)

    @property
    def views_are_identical(self) -> bool:
        """True when there is one tile and it shows exactly the whole image: encode `distinct(images)` once."""
        return self._tiles is not None and self._base.equals(self._tiles)

    def __call__(self, images: Float[Array | np.ndarray, "b height width 3"]) -> Float32[Array, "b t h w 3"]:
        """Normalised views of a batch; pixels in [0, 1] before noise, not clipped.

        Raises:
          ValueError: if the images have another size than the plan.
        """
        views = self.distinct(images)
        return jnp.repeat(views, 2, axis=1) if self.views_are_identical else views

    def distinct(self, images: Float[Array | np.ndarray, "b height width 3"]) -> Float32[Array, "b u h w 3"]:
        """The same without the repetition: one view where `views_are_identical`, else all of them."""
        if images.shape[1:] != (*self.image_size, 3):
            height, width = self.image_size
            raise ValueError(
                f"images must have the plan's shape (batch, {height}, {width}, 3), got {tuple(images.shape)}."
            )
        pixels = jnp.asarray(images).astype(jnp.float32)
        border = self.settings.border
        if border is not None:
            pixels = _pad_to_square(pixels, border)
        canvases = [self._base]
        if self._tiles is not None and not self.views_are_identical:
            canvases.append(self._tiles)
        views = jnp.concatenate([_cut(_draw(canvas, pixels), canvas.grid) for canvas in canvases], axis=1)
        settings, std = self.settings, np.array(self.settings.std)
        factor, shift = settings.scale / std, np.array(settings.mean) / std
        return views * jnp.asarray(factor, jnp.float32) - jnp.asarray(shift, jnp.float32)


def _pad_to_square(pixels: Float32[Array, "b y x 3"], colour: tuple[float, ...]) -> Float32[Array, "b side side 3"]:
    height, width = pixels.shape[1:3]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = jnp.broadcast_to(jnp.asarray(colour, jnp.float32), (len(pixels), side, side, 3))
    return square.at[:, top : top + height, left : left + width].set(pixels)


def _draw(canvas: Canvas, pixels: Float32[Array, "b y x 3"]) -> Float32[Array, "b y2 x2 3"]:
    """Both passes of the resizing, the one first that leaves less work to the other."""
    (new_height, height), (new_width, width) = canvas.rows.shape, canvas.columns.shape
    columns_first = new_width * height * (width + new_height) <= new_height * width * (height + new_width)
    for axis in (2, 1) if columns_first else (1, 2):
        matrix = canvas.columns if axis == 2 else canvas.rows
        if not _is_identity(matrix):
            pixels = _multiply(jnp.asarray(matrix, jnp.float32), pixels, axis)
    return pixels


def _is_identity(matrix: Float64[np.ndarray, "n m"]) -> bool:
    return matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix)))


def _multiply(weights: Array, pixels: Array, axis: int) -> Array:
    formula = "ox,byxc->byoc" if axis == 2 else "oy,byxc->boxc"
    # accelerators would multiply in fewer bits by default
    return jnp.einsum(formula, weights, pixels, precision=jax.lax.Precision.HIGHEST)


def _cut(canvas: Float32[Array, "b y x 3"], grid: tuple[int, int]) -> Float32[Array, "b t h w 3"]:
    (batch, height, width, channels), (down, across) = canvas.shape, grid
    tiles = canvas.reshape(batch, down, height // down, across, width // across, channels).transpose(0, 1, 3, 2, 4, 5)
    return tiles.reshape(batch, down * across, height // down, width // across, channels)
