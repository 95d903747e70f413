"""What the crash tests run in a process of its own: the ledger without the package around it, which starts fast."""

import json
import os
import resource
import sys
import types
import urllib.parse  # noqa: F401  (pathlib imports it late, when another user may not read the library)
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "hybrid_rs_jax"
INPUTS, COUNT = 7, 10


def successes(index, number):
    """What draw block `number` of input `index` counted."""
    return (index * 31 + number * 17) % (COUNT + 1)


def block(number):
    """One transaction: ten draws of each input. (Imported late: the child makes the packages around it first.)"""
    from hybrid_rs_jax.sampling.ledger import SHARED, CountRow

    return [CountRow(i, SHARED, COUNT * number, COUNT, (successes(i, number),), number % 3) for i in range(INPUTS)]


def append_until_killed(ledger_class, folder):
    """Tell the number of each block only after `append` has returned."""
    with ledger_class.resume(folder, {"seed": 1}) as ledger:
        number = next((row.draws // COUNT for row in ledger.rows()), 0)
        while True:
            ledger.append(block(number))
            os.write(1, f"{number}\n".encode())
            number += 1


def fill(ledger_class, folder, size):
    """Append until no file may grow beyond `size`, then lift the limit and append once more."""
    with ledger_class.resume(folder, {"seed": 1}) as ledger:
        number, sentence = 0, ""
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))
        while not sentence:
            try:
                ledger.append(block(number))
                number += 1
            except ValueError as error:
                sentence = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        after_failure = [row.draws for row in ledger.rows()]
        ledger.append(block(number))
    print(json.dumps({"blocks": number, "sentence": sentence, "after_failure": after_failure}))


def read(ledger_class, folder):
    """Read, and try to write, as somebody who may not write here."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    found, refused = {}, []
    try:
        with ledger_class.open(folder) as ledger:
            found = {str(row.index): row.draws for row in ledger.rows()}
    except ValueError as error:
        refused.append(str(error))
    for attempt in (ledger_class.resume, ledger_class.create):
        try:
            attempt(folder, {"seed": 1}).close()
        except ValueError as error:
            refused.append(str(error))
    print(json.dumps({"found": found, "refused": refused}))


if __name__ == "__main__":
    for name, path in (("hybrid_rs_jax", PACKAGE), ("hybrid_rs_jax.sampling", PACKAGE / "sampling")):
        module = types.ModuleType(name)
        module.__path__ = [str(path)]
        sys.modules[name] = module
    from hybrid_rs_jax.sampling.ledger import Ledger

    {"append": append_until_killed, "fill": fill, "read": read}[sys.argv[1]](
        Ledger, *map(Path, sys.argv[2:3]), *sys.argv[3:]
    )
