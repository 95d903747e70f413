"""Inputs of a run: the built-in demo, loaders for data sets on the disk, and the interaction-only filter."""

from hybrid_rs_jax.data.curate import Curation, NoiseAlone, Outcome, curate
from hybrid_rs_jax.data.demo import (
    PAD,
    PROMPT_LENGTH,
    SUFFIX_LENGTH,
    VOCAB_SIZE,
    DemoInputs,
    decode,
    encode,
    held_out_unsafe,
    load_demo,
    suffix_mask,
)
from hybrid_rs_jax.data.images import UnreadableImageError, fit, read_image
from hybrid_rs_jax.data.inputs import ArrayInputs, Input, Inputs, load_npz
from hybrid_rs_jax.data.loaders import folder_or_csv, hateful_memes, mm_safetybench, open_data
from hybrid_rs_jax.data.samples import Record, Sample, Samples, Unreadable, write_index

__all__ = [
    "ArrayInputs",
    "Input",
    "Inputs",
    "load_npz",
    "Curation",
    "DemoInputs",
    "NoiseAlone",
    "Outcome",
    "PAD",
    "PROMPT_LENGTH",
    "Record",
    "SUFFIX_LENGTH",
    "Sample",
    "Samples",
    "Unreadable",
    "UnreadableImageError",
    "VOCAB_SIZE",
    "curate",
    "decode",
    "encode",
    "fit",
    "folder_or_csv",
    "hateful_memes",
    "held_out_unsafe",
    "load_demo",
    "mm_safetybench",
    "open_data",
    "read_image",
    "suffix_mask",
    "write_index",
]
