"""Certificates for `plot` and `report`: read from a result, or certified afresh from the counts of a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hybrid_rs_jax.cli import _arguments as arguments
from hybrid_rs_jax.cli.certify import add_budget_argument, record_from
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.results.certificates import read_certificates
from hybrid_rs_jax.results.counts import read_counts

__all__ = ["add_record_arguments", "output_path", "read_or_certify"]


def add_record_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that ask for another threshold, risk or budget than those of a finished certificate."""
    arguments.add_risk_arguments(parser)
    add_budget_argument(parser)


def output_path(source: Path, out: Path | None, suffix: str) -> Path:
    """`--out`, or RUN/certificates with the suffix, or FILE with the suffix."""
    if not source.exists():
        raise BadInputError(f"{source} does not exist.")
    if out is not None:
        return out
    return source / f"certificates{suffix}" if source.is_dir() else source.with_suffix(suffix)


def read_or_certify(args: argparse.Namespace) -> dict[str, Any]:
    """The record of `args.source`: what it holds, or its counts certified with the flags `tau, alpha, max_budget`."""
    flags = {"--tau": args.tau, "--alpha": args.alpha, "--max-budget": args.max_budget}
    given = [flag for flag, value in flags.items() if value is not None]
    if not args.source.is_dir():
        if given:
            raise BadInputError(f"{given[0]} needs a run folder; {args.source} holds certificates, which are fixed.")
        return read_certificates(args.source)
    if not given and (args.source / "certificates.json").is_file():
        return read_certificates(args.source / "certificates.json")
    # what the run says of its noise is all that there is: no flag repeats it here
    noise = dict.fromkeys(("kernel", "beta", "vocab_size", "cardinalities", "sigma", "out"))
    return record_from(read_counts(args.source), argparse.Namespace(**{**vars(args), **noise, "decision": "unsafe"}))
