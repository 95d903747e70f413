"""Denoisers: the U-Net of denoising diffusion in Flax NNX, its files in the layout of diffusers, its training."""

from hybrid_rs_jax.models.denoiser.config import UNetConfig
from hybrid_rs_jax.models.denoiser.denoiser import Denoiser
from hybrid_rs_jax.models.denoiser.folder import fashion_denoiser, load_denoiser, save_denoiser
from hybrid_rs_jax.models.denoiser.schedule import Diffusion, Preconditioned
from hybrid_rs_jax.models.denoiser.unet import UNet

__all__ = [
    "Denoiser",
    "Diffusion",
    "Preconditioned",
    "UNet",
    "UNetConfig",
    "fashion_denoiser",
    "load_denoiser",
    "save_denoiser",
]
