"""From the vision tower in an open_clip checkpoint to a folder that `TowerEncoder` and transformers read.

    python -m hybrid_rs_jax.models.convert_open_clip fare_eps_2.pt fare2-tower --activation quick_gelu

FARE and TeCoA publish such files: the state dict of `model.visual`, trained further from OpenAI's ViT-L/14. So are
`open_clip_pytorch_model.bin` of the hub and training checkpoints (their "state_dict"); of a whole CLIP only the tower
is taken. The file is opened with `torch.load(weights_only=True)`: arrays come out of it, code does not run. Sizes are
read from shapes. Two things are in no file of weights and are said by options:

    --activation    quick_gelu for OpenAI's weights and what was trained further from them, FARE and TeCoA among it;
                    gelu for the others (`quick_gelu` in open_clip's own model configuration). A tower with the wrong
                    one still runs, and gives features that are a little wrong.
    --head-width    features per attention head, 64 in all towers that OpenAI published

    open_clip                                       transformers
    class_embedding, positional_embedding           vision_model.embeddings.class_embedding, .position_embedding.weight
    conv1.weight                                    vision_model.embeddings.patch_embedding.weight
    ln_pre, ln_post                                 vision_model.pre_layrnorm, .post_layernorm
    transformer.resblocks.N.ln_1, .ln_2             vision_model.encoder.layers.N.layer_norm1, .layer_norm2
    transformer.resblocks.N.attn.in_proj_*          .self_attn.q_proj, .k_proj, .v_proj: three thirds, in this order
    transformer.resblocks.N.attn.out_proj           .self_attn.out_proj
    transformer.resblocks.N.mlp.c_fc, .c_proj       .mlp.fc1, .mlp.fc2
    proj                                            left out: the certified features are those before the projection

A LLaVA network keeps its own tower; to give it this one, put these tensors in the place of its `vision_tower`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys
from collections.abc import Mapping

import numpy as np

from hybrid_rs_jax._files import atomic_folder, check_target_folder
from hybrid_rs_jax.models._converter import at_least_one, converter_parser, run_converter
from hybrid_rs_jax.models._safetensors import json_text, write_tensors, write_text
from hybrid_rs_jax.models._torch_files import read_pt

__all__ = ["Sizes", "convert", "main"]

Tensors = Mapping[str, np.ndarray]
ACTIVATIONS = ("quick_gelu", "gelu")
#: What the tower is called inside of other state dicts.
_WRAPPINGS = ("module.", "model.", "visual.")
FRAME = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_KINDS, _THIRDS = ("weight", "bias"), ("q_proj", "k_proj", "v_proj")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the shapes in the file say of the tower."""

    width: int
    inner: int
    layers: int
    patch: int
    side: int

    def config(self, activation: str, head_width: int) -> dict[str, object]:
        """config.json of a CLIP vision model in transformers."""
        return {
            "architectures": ["CLIPVisionModel"],
            "model_type": "clip_vision_model",
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.width // head_width,
            "image_size": self.side,
            "patch_size": self.patch,
            "hidden_act": activation,
            "layer_norm_eps": 1e-5,
        }

    @property
    def preprocessor(self) -> dict[str, object]:
        """preprocessor_config.json: OpenAI's means and deviations, which are the defaults of that processor."""
        return {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": self.side},
            "crop_size": {"height": self.side, "width": self.side},
        }


def convert(tensors: Tensors, head_width: int = 64) -> tuple[Sizes, dict[str, np.ndarray]]:
    """The sizes of the tower, and its tensors under the names of transformers.

    Args:
      tensors: a state dict of open_clip's `VisionTransformer`, or of a CLIP that holds one as `visual`.
      head_width: features per attention head.

    Raises:
      ValueError: if they are not those of such a tower, class token and all.
    """
    tower = _tower(tensors)
    sizes = _sizes(tower, head_width)
    wanted = {old: f"vision_model.{new}" for old, new in FRAME.items()}
    found: dict[str, np.ndarray] = {}
    thirds: set[str] = set()
    for layer in range(sizes.layers):
        old, new = f"transformer.resblocks.{layer}", f"vision_model.encoder.layers.{layer}"
        wanted |= {f"{old}.{a}.{kind}": f"{new}.{b}.{kind}" for a, b in LAYER.items() for kind in _KINDS}
        for kind in _KINDS:
            name = f"{old}.attn.in_proj_{kind}"
            thirds.add(name)
            if name in tower and len(tower[name]) == 3 * sizes.width:
                parts = np.split(tower[name], 3)
                found |= {f"{new}.self_attn.{to}.{kind}": x for to, x in zip(_THIRDS, parts, strict=True)}
    names = {*wanted, *thirds}
    faults = [f"{name} is unknown" for name in tower if name not in names and name != "proj"]
    faults += [f"{name} is missing" for name in names if name not in tower]
    if faults:
        shown = "; ".join(sorted(faults)[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise ValueError(f"The file must hold a vision transformer of open_clip, but {shown}.")
    return sizes, {new: tower[old] for old, new in wanted.items()} | found


def _tower(tensors: Tensors) -> dict[str, np.ndarray]:
    """The part of a state dict that is the tower, under its own names."""
    found = dict(tensors)
    for wrapping in _WRAPPINGS:
        if any(name.startswith(wrapping) for name in found) and "conv1.weight" not in found:
            found = {name.removeprefix(wrapping): x for name, x in found.items() if name.startswith(wrapping)}
    return found


def _sizes(tower: Tensors, head_width: int) -> Sizes:
    numbers = [int(match[1]) for name in tower if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name))]
    needed = ("conv1.weight", "positional_embedding", "transformer.resblocks.0.mlp.c_fc.weight")
    if absent := [name for name in needed if name not in tower]:
        raise ValueError(f"The file must hold a vision transformer of open_clip, but {absent[0]} is missing.")
    width, _, patch, _ = tower["conv1.weight"].shape
    grid = math.isqrt(len(tower["positional_embedding"]) - 1)
    if 1 + grid**2 != len(tower["positional_embedding"]):
        raise ValueError(
            f"positional_embedding must hold a class token and a square grid of patches, got "
            f"{len(tower['positional_embedding'])} positions."
        )
    if width % head_width:
        raise ValueError(f"head_width must divide the {width} features of the tower, got {head_width}.")
    return Sizes(width, len(tower[needed[2]]), 1 + max(numbers), patch, patch * grid)


def _parser() -> argparse.ArgumentParser:
    made = converter_parser(
        "hybrid_rs_jax.models.convert_open_clip",
        "Convert the vision tower of an open_clip checkpoint (FARE, TeCoA) to a folder of safetensors.",
        "fare.pt tower --activation quick_gelu",
        file=".pt or .bin",
    )
    made.add_argument("--activation", choices=ACTIVATIONS, required=True, help="quick_gelu for OpenAI, FARE, TeCoA")
    made.add_argument("--head-width", type=int, default=64, help="features per attention head (default: 64)")
    return made


def _write(args: argparse.Namespace) -> int:
    at_least_one("--head-width", args.head_width)
    check_target_folder(args.out)
    sizes, tensors = convert(read_pt(args.file), args.head_width)
    dtype = np.dtype(np.float16 if args.half else np.float32)
    with atomic_folder(args.out) as made:
        shapes = {name: (value.shape, dtype) for name, value in tensors.items()}
        write_tensors(made, shapes, lambda name: np.ascontiguousarray(tensors[name], dtype))
        write_text(made / "preprocessor_config.json", json_text(sizes.preprocessor))
        write_text(made / "config.json", json_text(sizes.config(args.activation, args.head_width)))
    return sum(value.size for value in tensors.values())


def main(argv: list[str] | None = None) -> int:
    """Command line; bad input ends with one sentence and exit code 2."""
    return run_converter(_parser(), _write, lambda _: "hybrid_rs_jax.features.TowerEncoder.from_pretrained", argv)


if __name__ == "__main__":
    sys.exit(main())
