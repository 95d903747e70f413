"""What a checkpoint says about its image processing, in the key names of every generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_rs_jax._files import kind_of
from hybrid_rs_jax.models._settings import Fields, read_json_object

__all__ = ["ImageSettings", "parse_settings", "read_settings"]

_LARGEST_EDGE = 16_384  # pixels
_LARGEST_NUMBER = 1e6
_KINDS = ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
_METHODS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_PINPOINTS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]

#: What a processor does where its file is silent.
_CLIP = {
    "size": {"shortest_edge": 224},
    "crop_size": 224,
    "do_center_crop": True,
    "resample": 3,
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
}
_SIGLIP = {"size": {"height": 224, "width": 224}, "resample": 3, "image_mean": 0.5, "image_std": 0.5}
_ONEVISION = {
    "size": {"height": 384, "width": 384},
    "resample": 3,
    "image_mean": _CLIP_MEAN,
    "image_std": _CLIP_STD,
    "image_grid_pinpoints": _PINPOINTS,
}
_NEXT = {**_CLIP, "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]}
_QWEN = {"resample": 3, "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD}
_DEFAULTS: dict[str, dict[str, object]] = {
    "CLIP": _CLIP,
    "Llava": {**_CLIP, "do_pad": False},
    "Siglip": _SIGLIP,
    "LlavaOnevision": _ONEVISION,
    "LlavaNext": _NEXT,
    "Gemma3": {**_SIGLIP, "resample": 2},
    "Qwen2VL": _QWEN,
    "Qwen2_5_VL": _QWEN,
}


@dataclass(frozen=True)
class ImageSettings:
    """Image processing of one checkpoint.

    Attributes:
      family: "CLIP", "Llava", "Siglip", "Gemma3", "Qwen2VL", "LlavaOnevision", ...
      size: (height, width) to resize to, or one number for the shortest edge, or None for no resizing.
      crop: (height, width) of the centre crop, or None.
      border: colour in [0, 1] of a border that makes the image a square before resizing, or None for no border.
      method: filter of every resizing.
      scale: what a pixel value of 1.0 becomes before normalisation.
      mean, std: three numbers each, `(scale * pixel - mean) / std`.
      pinpoints: (height, width) of the canvases that tiles may be cut from; none without tiles.
      tile: edge of the tiles, before they are resized to `size`.
      area: least and most pixels, where `size` is None and images are resized to multiples of `step`.
      step: see `area`.
    """

    family: str
    size: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    border: tuple[float, ...] | None
    method: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pinpoints: tuple[tuple[int, int], ...]
    tile: int
    area: tuple[int, int] | None = None
    step: int = 1


def read_settings(folder: Path) -> ImageSettings:
    """The settings of a checkpoint folder: `processor_config.json` if it has them, else `preprocessor_config.json`.

    Raises:
      ValueError: one sentence, for a missing or broken file, an unknown processor or an illegal value.
    """
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = folder / name
        if kind_of(path) != "file":
            continue
        content = Fields(read_json_object(path))
        try:
            inner = content.section("image_processor") if name == "processor_config.json" else content
            if inner is not None:
                return parse_settings(inner)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    raise ValueError(f"{folder} holds no image processor settings: expected a preprocessor_config.json.")


def parse_settings(content: Mapping[str, Any]) -> ImageSettings:
    """The settings in the content of a `preprocessor_config.json`.

    Raises:
      ValueError: one sentence that names the key, the value and what would be legal.
    """
    family = _family(Fields(content))
    fields = Fields({**_DEFAULTS[family], **Fields(content)})
    if fields.flag("do_pan_and_scan"):
        raise fields.refuse("do_pan_and_scan", "false: one view is shown of each image")
    area = _area(fields) if _DEFAULTS[family] is _QWEN else None
    if area is not None:  # no fixed size
        fields = Fields({**fields, "size": 1, "do_center_crop": False})
    size, crop = _size(fields, "size"), _size(fields, "crop_size") if "crop_size" in fields else None
    if isinstance(crop, int):
        crop = (crop, crop)
    cropped = fields.flag("do_center_crop")
    if cropped and crop is None:
        raise ValueError("do_center_crop needs a crop_size.")
    method = fields.integer("resample", low=0, high=10)
    if method not in _METHODS:
        raise fields.refuse("resample", "1 (lanczos), 2 (bilinear) or 3 (bicubic)")
    mean, std = _channels(fields, "image_mean"), _channels(fields, "image_std", positive=True)
    # the processors round the border colour down to 8 bits
    border = tuple(int(channel * 255) / 255 for channel in mean)
    normalise, tiled = fields.flag("do_normalize", True), "image_grid_pinpoints" in _DEFAULTS[family]
    factor = fields.number("rescale_factor", 1 / 255, high=1e6) if fields.flag("do_rescale", True) else 1.0
    resized = fields.flag("do_resize", True)
    if (tiled or area) and not resized:
        raise ValueError("do_resize must be true for images of any size, got false.")
    return ImageSettings(
        family=family,
        size=size if resized and area is None else None,
        crop=crop if cropped else None,
        border=border if family == "Llava" and fields.flag("do_pad") else None,
        method=_METHODS[method],
        scale=255 * factor,
        mean=mean if normalise else (0.0,) * 3,
        std=std if normalise else (1.0,) * 3,
        pinpoints=fields.pairs("image_grid_pinpoints") if tiled else (),
        tile=crop[0] if crop else size[0] if isinstance(size, tuple) else size,
        area=area,
        step=fields.integer("patch_size", 14, high=2**10) * fields.integer("merge_size", 2, high=64) if area else 1,
    )


def _family(fields: Fields) -> str:
    field = "image_processor_type" if "image_processor_type" in fields else "feature_extractor_type"
    for family in _DEFAULTS:
        if fields.get(field) in [family + kind for kind in _KINDS]:
            return family
    legal = ", ".join(family + _KINDS[0] for family in _DEFAULTS)
    raise fields.refuse("image_processor_type", f"one of {legal}")


def _area(fields: Fields) -> tuple[int, int]:
    """Least and most pixels of an image, by their own names or else as the "edges" of `size`."""
    edges = fields.section("size") or Fields({})
    low = fields.integer("min_pixels", edges.integer("shortest_edge", 56 * 56))
    return low, fields.integer("max_pixels", edges.integer("longest_edge", 28 * 28 * 1280), low=low)


def _size(fields: Fields, name: str) -> tuple[int, int] | int:
    """A number is a shortest edge, as in the oldest files; a pair is (height, width)."""
    value = fields[name]
    legal = f'integers in 1..{_LARGEST_EDGE}: a number, {{"shortest_edge"}} or {{"height", "width"}}'
    if isinstance(value, dict):
        keys = {key for key, entry in value.items() if entry is not None}
        if keys == {"shortest_edge"}:
            value = value["shortest_edge"]
        elif keys == {"height", "width"}:
            value = [value["height"], value["width"]]
    edges = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if not all(isinstance(edge, int) and not isinstance(edge, bool) and 1 <= edge <= _LARGEST_EDGE for edge in edges):
        raise fields.refuse(name, legal)
    return tuple(edges) if len(edges) == 2 else edges[0]


def _channels(fields: Fields, name: str, positive: bool = False) -> tuple[float, ...]:
    value = fields[name]
    numbers = value if isinstance(value, list | tuple) else [value] * 3
    least = 0 if positive else -_LARGEST_NUMBER
    real = [isinstance(number, int | float) and not isinstance(number, bool) for number in numbers]
    if len(numbers) != 3 or not all(real) or not all(least < number < _LARGEST_NUMBER for number in numbers):
        raise fields.refuse(name, f"{'positive' if positive else 'finite'} numbers, one or three of them")
    return tuple(float(number) for number in numbers)
