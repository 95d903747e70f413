"""The command line: one file per command; `main` is what `hybrid-rs` runs."""

from hybrid_rs_jax.cli.app import main

__all__ = ["main"]
