"""Inputs of a run: the built-in demo, loaders for data sets on the disk, and the interaction-only filter."""

from hybrid_rs_jax.data.curate import Curation, Outcome, curate
from hybrid_rs_jax.data.dataset import Dataset, RawInput
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
from hybrid_rs_jax.data.fields import Schema, open_table
from hybrid_rs_jax.data.index import (
    folder_or_csv,
    hateful_memes,
    mm_safetybench,
    open_data,
    picture_folder,
    write_index,
)
from hybrid_rs_jax.data.inputs import ArrayInputs, Input, Inputs, load_npz
from hybrid_rs_jax.data.pictures import fit, read_image
from hybrid_rs_jax.data.subwords import Subwords
from hybrid_rs_jax.data.texts import Bytes, TextInputs, Tokenizer, Words

__all__ = [
    "PAD",
    "PROMPT_LENGTH",
    "SUFFIX_LENGTH",
    "VOCAB_SIZE",
    "ArrayInputs",
    "Bytes",
    "Curation",
    "Dataset",
    "DemoInputs",
    "Input",
    "Inputs",
    "Outcome",
    "RawInput",
    "Schema",
    "Subwords",
    "TextInputs",
    "Tokenizer",
    "Words",
    "curate",
    "decode",
    "encode",
    "fit",
    "folder_or_csv",
    "hateful_memes",
    "held_out_unsafe",
    "load_demo",
    "load_npz",
    "mm_safetybench",
    "open_data",
    "open_table",
    "picture_folder",
    "read_image",
    "suffix_mask",
    "write_index",
]
