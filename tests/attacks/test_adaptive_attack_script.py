"""The script `experiments/adaptive_attack.py`: budgets, resuming, summaries; and, slowly, a small run of all of it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.errors import BadInputError

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import adaptive_attack
from _attack_cases import SETTINGS, chosen_budgets

SMALL = {"inputs": 3, "curve-inputs": 2, "samples": 1000, "restarts": 2, "steps": 2, "final": 100, "again": 200}
FLAGS = [f"--{name}={value}" for name, value in SMALL.items()]


def test_token_budgets_take_turns_and_every_one_is_certified():
    smoothing = SETTINGS[0].smoothing
    certificate = hrs.certify([10_000] * 6 + [40, 9_000], 10_000, smoothing, SETTINGS[0].tau, 0.01, range(5))
    chosen = chosen_budgets(certificate)
    assert [chosen[i] for i in range(6)] == [1, 2, 3, 4, 1, 2]
    assert all(certificate.radius[i, d] > 0 for i, d in chosen.items())


def test_parts_are_made_once_and_never_overwritten(tmp_path):
    made = []
    make = lambda: {"value": made.append(1) or len(made)}
    first = adaptive_attack.part(tmp_path, {"seed": 0}, "a", make)
    assert adaptive_attack.part(tmp_path, {"seed": 0}, "a", make)["value"] == first["value"] == 1
    with pytest.raises(BadInputError, match="belongs to other settings"):
        adaptive_attack.part(tmp_path, {"seed": 1}, "a", make)
    assert len(made) == 1


def test_a_finished_result_is_kept(tmp_path, capsys):
    options = {name: value for name, value in vars(adaptive_attack.parser().parse_args(["--out", "x"])).items()}
    del options["out"]
    (tmp_path / "result.json").write_text(json.dumps({"options": options}))
    assert adaptive_attack.main(["--out", str(tmp_path)]) == 0
    assert "exists already" in capsys.readouterr().out
    assert adaptive_attack.main(["--out", str(tmp_path), "--seed", "1"]) == 2
    assert "choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--inputs", "5"], ["--inputs", "9999"], ["--restarts", "0"], ["--seed", "-1"]])
def test_numbers_out_of_range_end_in_one_sentence(flags, tmp_path, capsys):
    assert adaptive_attack.main(["--out", str(tmp_path / "new"), *flags]) == 2
    assert capsys.readouterr().err.startswith("adaptive_attack: --")
    assert not (tmp_path / "new").exists()


def test_risk_of_a_false_flag_sums_to_one_percent_over_all_cases():
    args = adaptive_attack.parser().parse_args(["--out", "x"])
    cases = args.inputs - args.curve_inputs + 3 * args.curve_inputs * 7
    assert adaptive_attack.risk_per_look(args) * 2 * cases == pytest.approx(0.01)


@pytest.mark.slow
def test_a_small_run_has_no_violation_and_resumes_to_the_same_result(tmp_path):
    out = tmp_path / "run"
    assert adaptive_attack.main(["--out", str(out), *FLAGS]) == 0
    first = json.loads((out / "result.json").read_text())
    assert first["violations"] == 0
    assert (out / "adaptive_attack.png").stat().st_size > 10_000
    for case in first["cases"]:
        assert case["changes"] <= case["d"]
        assert case["distance"] <= case["epsilon"]
        assert case["lower"] <= case["score"] <= case["upper"]
        assert len(case["restart_scores"]) == 2
    inside = [case for case in first["cases"] if case["fraction"] < 1]
    taus = {setting.name: setting.tau for setting in SETTINGS}
    assert all(case["bound"] > taus[case["setting"]] for case in inside)
    majority = {row["fraction"]: row["broken"] for row in first["settings"][2]["budgets"]}
    assert majority[4.0] == 2
    (out / "result.json").unlink()
    (out / "parts" / "anywhere-0.json").unlink()
    assert adaptive_attack.main(["--out", str(out), *FLAGS]) == 0
    again = json.loads((out / "result.json").read_text())
    np.testing.assert_array_equal(
        [case["successes"] for case in again["cases"]], [case["successes"] for case in first["cases"]]
    )
