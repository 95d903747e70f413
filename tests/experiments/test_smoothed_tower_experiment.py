"""The experiment with a smoothed tower in the tiny guard: every tower is attacked, and the guard is asked."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import smoothed_tower as script

from hybrid_rs_jax.data import demo

pytest.importorskip("transformers", reason="tokenizers are read with transformers")
pytest.importorskip("sklearn", reason="training pictures come from scikit-learn")


def test_the_plain_guard_chooses_the_digit_of_most_held_out_pictures():
    guard = script.opened()
    shown = demo.load_demo("held_out").take(range(60))
    victim = script.Victim(guard, script.questions(guard, 0), None)
    feature, chosen = victim.asked(script.coloured(shown.images), None)
    assert np.mean(chosen == shown.digits) > 0.85
    assert np.allclose(np.linalg.norm(feature, axis=1), 1)


@pytest.mark.slow
def test_a_small_run_attacks_every_tower_and_is_left_as_it_is(tmp_path, capsys):
    small = ["--inputs", "3", "--steps", "2", "--samples", "30", "--steps-denoiser", "3", "--epochs", "1"]
    command = ["--out", str(tmp_path / "out"), *small]
    assert script.main(command) == 0
    rows = json.loads((tmp_path / "out" / "result.json").read_text())["rows"]
    assert len(rows) == 3 * (1 + len(script.CASES))
    for row in rows:
        assert -1 <= row["cosine"] <= 1
        assert (row["certified"] is None) == (row["tower"] == "plain")
        assert row["l2"] <= (0 if row["attack"] == "none" else 3 * (1 + 1e-5))
    capsys.readouterr()
    assert script.main(command) == 0
    assert "is finished" in capsys.readouterr().out
    assert script.main([*command[:1], str(tmp_path / "other"), "--inputs", "100000"]) == 2
