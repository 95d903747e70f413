"""The Gaussian smoothness booster of the second paper: a mapper of features; the training of mapper and denoiser."""

from hybrid_rs_jax.models.booster.mapper import Mapper, MapperConfig, MapperNetwork, load_mapper, save_mapper

__all__ = ["Mapper", "MapperConfig", "MapperNetwork", "load_mapper", "save_mapper"]
