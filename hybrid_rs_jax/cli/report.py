"""Write one HTML page of the certificates: guarantee, frontier, every input, settings.

RUN is a run folder: its certificates.json is shown, or, where a flag asks for another
threshold, risk or budget, its counts are certified afresh. FILE is what
`hybrid-rs certify --json` or `--out FILE.json` wrote. The page is a single file: it
opens from the disk and loads nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hybrid_rs_jax._files import atomic_file, check_target
from hybrid_rs_jax._text import counted, setting_text
from hybrid_rs_jax.cli._results import Asked, add_result_arguments, output_path, read_or_certify
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.page import page
from hybrid_rs_jax.report.previews import Preview, data_preview, recorded_preview
from hybrid_rs_jax.report.tables import say

EXAMPLES = """\
examples:
  hybrid-rs report hybrid-rs-demo
  hybrid-rs report hybrid-rs-demo --tau 0.5 --out half.html
  hybrid-rs report certificates.json --data inputs.jsonl"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `report`."""
    parser.add_argument("source", metavar="RUN|FILE", type=Path, help="run folder, or JSON file of certify")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="HTML",
        help="page to write (default: RUN/certificates.html, or FILE with the suffix .html)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing page")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="data with the texts and pictures of the inputs: a NumPy archive, a table, or a folder "
        "(default: those of the demo where a run says that it used them, else none)",
    )
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Read or certify, write the page."""
    out = output_path(args.source, args.out, ".html")
    check_target(out, (".html",), args.force)
    preview = None if args.data is None else data_preview(args.data)
    result = read_or_certify(args.source, Asked.of(args))
    if preview is not None:
        _check_data(args.data, preview, result.ids)
    written = page(result, preview or recorded_preview(result))
    with atomic_file(out, args.force) as path:
        path.write_text(written, encoding="utf-8")
    risk = result.statements[0].risk
    tau = "" if risk.tau is None else f"tau = {setting_text(risk.tau)}, "
    say(f"Wrote {out} ({counted(len(result), 'input')}, {tau}alpha = {setting_text(risk.alpha)}).")


def _check_data(path: Path, preview: Preview, ids: Sequence[str]) -> None:
    if all(preview(name) is None for name in ids):
        raise BadInputError(f"--data {path} has none of the {counted(len(ids), 'input')}, {ids[0]!r} for one.")
