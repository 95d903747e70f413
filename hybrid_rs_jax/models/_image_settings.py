"""What a checkpoint says about its image processing, in the key names of every generation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ImageSettings", "parse_settings", "read_settings"]

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
_DEFAULTS: dict[str, dict[str, Any]] = {
    "CLIP": _CLIP,
    "Llava": {**_CLIP, "do_pad": False},
    "Siglip": _SIGLIP,
    "LlavaOnevision": _ONEVISION,
}


@dataclass(frozen=True)
class ImageSettings:
    """Image processing of one checkpoint.

    Attributes:
      family: "CLIP", "Llava", "Siglip" or "LlavaOnevision".
      size: (height, width) to resize to, or one number for the shortest edge, or None for no resizing.
      crop: (height, width) of the centre crop, or None.
      border: colour in [0, 1] of a border that makes the image a square before resizing, or None for no border.
      method: filter of every resizing.
      scale: what a pixel value of 1.0 becomes before normalisation.
      mean, std: three numbers each, `(scale * pixel - mean) / std`.
      pinpoints: (height, width) of the canvases that tiles may be cut from; none without tiles.
      tile: edge of the tiles, before they are resized to `size`.
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


def read_settings(folder: Path) -> ImageSettings:
    """The settings of a checkpoint folder: `processor_config.json` if it has them, else `preprocessor_config.json`.

    Raises:
      ValueError: one sentence, for a missing or broken file, an unknown processor or an illegal value.
    """
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise ValueError(f"{path} cannot be read as JSON: {error}.") from error
        if name == "processor_config.json" and isinstance(content, dict):
            content = content.get("image_processor")
            if content is None:
                continue
        if not isinstance(content, dict):
            raise ValueError(f"{path} must hold a JSON object with image processor settings.")
        try:
            return parse_settings(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    raise ValueError(f"{folder} holds no image processor settings: expected a preprocessor_config.json.")


def parse_settings(content: Mapping[str, Any]) -> ImageSettings:
    """The settings in the content of a `preprocessor_config.json`.

    Raises:
      ValueError: one sentence that names the key, the value and what would be legal.
    """
    family = _family(content)
    values = {**_DEFAULTS[family], **content}

    def flag(name: str, default: bool) -> bool:
        value = values.get(name, default)
        if not isinstance(value, bool | None):
            raise ValueError(f"{name} must be true or false, got {value!r}.")
        return bool(value)

    size = _size("size", values["size"])
    crop = _size("crop_size", values["crop_size"]) if values.get("crop_size") is not None else None
    if isinstance(crop, int):
        crop = (crop, crop)
    if values["resample"] not in _METHODS:
        raise ValueError(f"resample must be 1 (lanczos), 2 (bilinear) or 3 (bicubic), got {values['resample']!r}.")
    if flag("do_center_crop", False) and crop is None:
        raise ValueError("do_center_crop needs a crop_size.")
    mean, std = (
        _channels("image_mean", values["image_mean"]),
        _channels("image_std", values["image_std"], positive=True),
    )
    # the processors round the border colour down to 8 bits
    border = tuple(int(channel * 255) / 255 for channel in mean)
    normalise, tiled = flag("do_normalize", True), family == "LlavaOnevision"
    factor = _number("rescale_factor", values.get("rescale_factor", 1 / 255)) if flag("do_rescale", True) else 1.0
    if tiled and not flag("do_resize", True):
        raise ValueError("do_resize must be true where images are cut into tiles, got false.")
    return ImageSettings(
        family=family,
        size=size if flag("do_resize", True) else None,
        crop=crop if flag("do_center_crop", False) else None,
        border=border if family == "Llava" and flag("do_pad", False) else None,
        method=_METHODS[values["resample"]],
        scale=255 * factor,
        mean=mean if normalise else (0.0,) * 3,
        std=std if normalise else (1.0,) * 3,
        pinpoints=_pairs("image_grid_pinpoints", values["image_grid_pinpoints"]) if tiled else (),
        tile=crop[0] if crop else size[0] if isinstance(size, tuple) else size,
    )


def _family(content: Mapping[str, Any]) -> str:
    name = content.get("image_processor_type") or content.get("feature_extractor_type")
    for family in _DEFAULTS:
        if name in {family + kind for kind in ("ImageProcessor", "ImageProcessorFast", "FeatureExtractor")}:
            return family
    legal = ", ".join(f"{family}ImageProcessor" for family in _DEFAULTS)
    raise ValueError(f"image_processor_type must be one of {legal}, got {name!r}.")


def _size(name: str, value: object) -> tuple[int, int] | int:
    """A number is a shortest edge, as in the oldest files; a pair is (height, width)."""
    if isinstance(value, dict):
        keys = {key for key, entry in value.items() if entry is not None}
        if keys == {"shortest_edge"}:
            return _edge(name, value["shortest_edge"])
        value = [value["height"], value["width"]] if keys == {"height", "width"} else value
    if isinstance(value, list | tuple) and len(value) == 2:
        return _edge(name, value[0]), _edge(name, value[1])
    if isinstance(value, int):
        return _edge(name, value)
    raise ValueError(f'{name} must be a number, {{"shortest_edge"}} or {{"height", "width"}}, got {value!r}.')


def _edge(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 16_384:
        raise ValueError(f"{name} must be integers in 1..16384, got {value!r}.")
    return value


def _pairs(name: str, value: object) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list) or not value or not all(isinstance(row, list) and len(row) == 2 for row in value):
        raise ValueError(f"{name} must be a list of pairs (height, width), got {value!r}.")
    return tuple((_edge(name, height), _edge(name, width)) for height, width in value)


def _channels(name: str, value: object, positive: bool = False) -> tuple[float, ...]:
    numbers = value if isinstance(value, list | tuple) else [value] * 3
    if len(numbers) != 3:
        raise ValueError(f"{name} must have three entries, got {value!r}.")
    channels = tuple(_number(name, number) for number in numbers)
    if positive and min(channels) <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}.")
    return channels


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
        raise ValueError(f"{name} must be finite numbers, got {value!r}.")
    return float(value)
