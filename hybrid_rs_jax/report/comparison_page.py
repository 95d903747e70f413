"""One self-contained HTML page of several results: it opens from the disk, loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

from hybrid_rs_jax._text import counted, joined
from hybrid_rs_jax.report._page_sections import html_list, html_table
from hybrid_rs_jax.report.comparison_plots import comparison_svgs
from hybrid_rs_jax.report.page import asset
from hybrid_rs_jax.results import sentences
from hybrid_rs_jax.results.comparison import CELL, Compared, cautions, comparison_table, varied

__all__ = ["comparison_page"]

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style$own</style>
</head>
<body>
<header class="page">
<h1>$title</h1>
<p class="source">$source</p>
</header>
<main>
<section aria-labelledby="table-title">
<h2 id="table-title">What is certified</h2>
$table
<p class="note">$cell</p>
$cautions
</section>
<section aria-labelledby="figures-title">
<h2 id="figures-title">Figures</h2>
<div class="charts">
$figures
</div>
</section>
<section aria-labelledby="runs-title">
<h2 id="runs-title">What each run guarantees</h2>
$guarantees
</section>
</main>
</body>
</html>
""")


def comparison_page(runs: Sequence[Compared]) -> str:
    """The page: a row per run, figures against the budget and against each setting that differs, the guarantees.

    Equal results give equal pages: a page holds no time and no path.

    Args:
      runs: at least one.

    Returns:
      The text of a file in UTF-8.
    """
    header, rows = comparison_table(runs)
    settings = varied(runs)
    words = "their settings are the same" if not settings else f"they differ in {joined(settings)}"
    said: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        own = run.result.statements
        said.setdefault((sentences.guarantee(own), sentences.threat_model(own[0])), []).append(run.name)
    guarantees = [
        f"<h3>{escape(joined(names))}</h3><p>{escape(promise)}</p><p>The attacker: {escape(attacker)}.</p>"
        for (promise, attacker), names in said.items()
    ]
    figures = [
        f'<figure role="img" aria-label="{escape(label)}">{svg}</figure>'
        for label, svg in comparison_svgs(runs, settings)
    ]
    return _PAGE.substitute(
        title=f"{counted(len(runs), 'run')} compared",
        style=asset("page.css"),
        own="tbody th, thead th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }",
        source=escape(f"Certified by hybrid randomized smoothing; {words}."),
        table=html_table(header, rows, "Certified share and mean radius per budget, a row per run"),
        cell=CELL,
        cautions=html_list(cautions(runs)),
        figures="\n".join(figures),
        guarantees="\n".join(guarantees),
    )
