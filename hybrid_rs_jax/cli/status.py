"""How far a run is: inputs done, begun, left, skipped with their reasons, and its pace.

The run may be at work, on this machine or another that shares its disk; nothing is
written.
"""

from __future__ import annotations

import json as json_module
from collections import Counter
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hybrid_rs_jax._text import counted
from hybrid_rs_jax.report.progress import left_text, rate_text
from hybrid_rs_jax.report.tables import print_table, say

EXAMPLES = """\
examples:
  hybrid-rs status run
  hybrid-rs status run --json"""

_SHOWN = 10
#: A session that works reports every few seconds; a batch of a large model may take minutes.
QUIET_SECONDS = 600.0


def status(run: Annotated[Path, Parameter(metavar="RUN")], /, *, json: bool = False) -> None:
    """Count what the ledger holds.

    Parameters
    ----------
    run
        run folder of sample
    json
        print one object, with every input that was skipped
    """
    from hybrid_rs_jax.results.pace import RunPace
    from hybrid_rs_jax.results.progress import run_status

    found = run_status(run)
    if json:
        print(json_module.dumps(found.record(), indent=2, ensure_ascii=False))
        return
    left = "not known" if found.left is None else f"{found.left:,}"
    inputs = "not known" if found.inputs is None else f"{found.inputs:,}"
    rows = [
        ["inputs", inputs],
        ["done", f"{found.done:,}"],
        ["begun", f"{found.begun:,}"],
        ["left", left],
        ["skipped", f"{len(found.skipped):,}"],
        ["draws", f"{found.draws:,}"],
    ]
    if (pace := found.pace) is not None:
        rows.append(["pace", rate_text(pace.per_second, "copies") or "not known"])
        if pace.retries is not None:
            rows.append(["retries", f"{pace.retries:,}"])
    print_table(["", str(run.name or run)], rows)
    for reason, number in Counter(reason for _, reason in found.skipped).most_common(_SHOWN):
        names = [name for name, why in found.skipped if why == reason]
        say(f"Skipped {names[0]}" + (f" and {counted(number - 1, 'other')}" if number > 1 else "") + f": {reason}")
    if len({reason for _, reason in found.skipped}) > _SHOWN:
        say("--json prints all reasons.")
    if pace is not None and found.left:
        age = pace.age(RunPace.now())
        settled = max(pace.settled, found.draws)  # a session that was killed has drawn more than it has said
        share = f"{100 * settled // max(pace.draws, 1)} % of the draws are settled"
        if age <= QUIET_SECONDS and pace.seconds_left is not None:
            say(f"{share}; {left_text(max(pace.seconds_left - age, 0.0))}.")
        else:
            say(f"At least {share}; no session has reported since {pace.at}.")
    if found.left:
        say("`hybrid-rs sample ... --resume` goes on with it.")
