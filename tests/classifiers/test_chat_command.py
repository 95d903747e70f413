"""`hybrid-rs sample` with a chat endpoint: counts through real HTTP, a breakdown and a changed model."""

import numpy as np
import pytest

from hybrid_rs_jax.cli import main
from hybrid_rs_jax.results.counts import read_counts

MODULE = """
from chat_server import KEY, MODEL, POLICY, decode
from hybrid_rs_jax.classifiers import ChatClassifier

guard = ChatClassifier({url!r}, MODEL, decode=decode, policy=POLICY, api_key=KEY, backoff=0.01, concurrency=4)
"""


@pytest.fixture
def arguments(server, tmp_path, monkeypatch):
    """The command line of a small run whose model is in a module of its own."""
    name = f"chat_model_{server.server.server_port}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(url=server.url))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "inputs.npz", tokens=rng.integers(0, 8, (3, 5)), images=rng.random((3, 4, 6, 1)))
    noise = ["--vocab-size", "8", "--sigma", "0.2", "--samples", "30", "--batch-size", "10"]
    yield ["sample", "--model", f"{name}:guard", "--data", "inputs.npz", *noise]
    __import__(name).guard.close()


def test_a_run_whose_server_broke_down_goes_on_to_the_same_counts(server, arguments, tmp_path, capsys):
    assert main([*arguments, "--out", "whole"]) == 0
    whole = read_counts(tmp_path / "whole")
    assert whole.run.facts["classifier"]["served_model"]
    server.faults = [None] * 45 + [{"status": 401}]
    assert main([*arguments, "--out", "run"]) == 2
    printed = capsys.readouterr()
    assert "401" in printed.err
    assert "Traceback" not in printed.err
    assert "sk-" not in printed.err + printed.out
    assert main([*arguments, "--out", "run", "--resume"]) == 0
    resumed = read_counts(tmp_path / "run")
    np.testing.assert_array_equal(resumed.successes, whole.successes)
    np.testing.assert_array_equal(resumed.n, 30)


def test_a_run_is_not_resumed_with_another_model_behind_the_same_name(server, arguments, capsys):
    server.faults = [None] * 25 + [{"status": 401}]
    assert main([*arguments, "--out", "run"]) == 2
    server.faults = [{"change": {"model": "guard-2026-09-09"}}] * 100
    capsys.readouterr()
    assert main([*arguments, "--out", "run", "--resume"]) == 2
    assert "guard-2026-09-09" in capsys.readouterr().err
