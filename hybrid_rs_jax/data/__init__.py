"""Data that the package brings along: the inputs of the built-in demo."""

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

__all__ = [
    "PAD",
    "PROMPT_LENGTH",
    "SUFFIX_LENGTH",
    "VOCAB_SIZE",
    "DemoInputs",
    "decode",
    "encode",
    "held_out_unsafe",
    "load_demo",
    "suffix_mask",
]
