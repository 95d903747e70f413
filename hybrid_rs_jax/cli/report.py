"""Write one HTML page of the certificates: guarantee, frontier, every input, settings.

RUN is a run folder: its certificates.json is shown, or, where a flag asks for another
threshold, risk or budget, its counts are certified afresh. FILE is what
`hybrid-rs certify --json` or `--out FILE.json` wrote. The page is a single file: it
opens from the disk and loads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hybrid_rs_jax._files import atomic_file, check_target
from hybrid_rs_jax._text import counted, down_text, setting_text
from hybrid_rs_jax.cli._results import ResultOptions, output_path, read_or_certify
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.tables import say

if TYPE_CHECKING:
    from hybrid_rs_jax.report.previews import Preview

EXAMPLES = """\
examples:
  hybrid-rs report hybrid-rs-demo
  hybrid-rs report hybrid-rs-demo --tau 0.5 --out half.html
  hybrid-rs report certificates.json --data inputs.jsonl"""


def report(
    source: Annotated[Path, Parameter(metavar="RUN|FILE")],
    /,
    *,
    asked: ResultOptions | None = None,
    out: Annotated[Path, Parameter(metavar="HTML")] | None = None,
    force: bool = False,
    data: Annotated[Path, Parameter(metavar="PATH")] | None = None,
) -> None:
    """Read or certify, write the page.

    Parameters
    ----------
    source
        run folder, or JSON file of certify
    out
        page to write (default: RUN/certificates.html, or FILE with the suffix .html)
    force
        overwrite an existing page
    data
        data with the texts and pictures of the inputs: a NumPy archive, a table, or a folder
        (default: those of the demo where a run says that it used them, else none)
    """
    from hybrid_rs_jax.report.page import page
    from hybrid_rs_jax.report.previews import data_preview, recorded_preview

    target = output_path(source, out, ".html")
    check_target(target, (".html",), force)
    preview = None if data is None else data_preview(data)
    result = read_or_certify(source, asked or ResultOptions())
    if data is not None and preview is not None:
        _check_data(data, preview, result.ids)
    written = page(result, preview or recorded_preview(result))
    with atomic_file(target, force) as path:
        path.write_text(written, encoding="utf-8")
    risk = result.statements[0].risk
    tau = "" if risk.tau is None else f"tau = {down_text(risk.tau)}, "
    say(f"Wrote {target} ({counted(len(result), 'input')}, {tau}alpha = {setting_text(risk.alpha)}).")


def _check_data(path: Path, preview: Preview, ids: Sequence[str]) -> None:
    if all(preview(name) is None for name in ids):
        raise BadInputError(f"--data {path} has none of the {counted(len(ids), 'input')}, {ids[0]!r} for one.")
