"""Flax NNX networks and their checkpoints. Nothing here knows of noise or certificates."""

from hybrid_rs_jax.models._decoder import PrefixCache
from hybrid_rs_jax.models._decoder_sizes import DecoderConfig
from hybrid_rs_jax.models._vision import VisionConfig
from hybrid_rs_jax.models._vision_language import VisionLanguageConfig, VisionLanguageModel
from hybrid_rs_jax.models.checkpoint import from_config, from_pretrained, load_config, load_preprocessor
from hybrid_rs_jax.models.clip import Clip
from hybrid_rs_jax.models.demo_guard import DemoGuardConfig, DemoGuardNetwork, load_weights, save_weights
from hybrid_rs_jax.models.denoiser import Denoiser, load_denoiser
from hybrid_rs_jax.models.gemma3 import Gemma3
from hybrid_rs_jax.models.image_processing import ImagePlan, ImagePreprocessor
from hybrid_rs_jax.models.llama import Llama
from hybrid_rs_jax.models.llava import Llava
from hybrid_rs_jax.models.llava_next import LlavaNext
from hybrid_rs_jax.models.llava_onevision import LlavaOnevision, LlavaOnevisionConfig
from hybrid_rs_jax.models.mistral import Mistral
from hybrid_rs_jax.models.projector import Projector
from hybrid_rs_jax.models.qwen2 import Qwen2
from hybrid_rs_jax.models.qwen2_5_vl import Qwen25VL
from hybrid_rs_jax.models.sharding import make_mesh, shard
from hybrid_rs_jax.models.siglip import Siglip

__all__ = [
    "Clip",
    "DecoderConfig",
    "DemoGuardConfig",
    "DemoGuardNetwork",
    "Denoiser",
    "Gemma3",
    "Llama",
    "Llava",
    "ImagePlan",
    "ImagePreprocessor",
    "LlavaNext",
    "LlavaOnevision",
    "LlavaOnevisionConfig",
    "Mistral",
    "PrefixCache",
    "Projector",
    "Qwen2",
    "Qwen25VL",
    "Siglip",
    "VisionConfig",
    "VisionLanguageConfig",
    "VisionLanguageModel",
    "from_config",
    "from_pretrained",
    "load_config",
    "load_preprocessor",
    "load_denoiser",
    "load_weights",
    "make_mesh",
    "save_weights",
    "shard",
]
