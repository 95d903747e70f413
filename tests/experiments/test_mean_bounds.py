"""The table of mean bounds over six laws: what is promised of them holds in a small run."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "bench"))

import mean_bounds


def test_a_small_table_agrees_with_a_second_implementation_and_names_who_wins(tmp_path, capsys):
    out = tmp_path / "table.json"
    assert mean_bounds.main(["--n", "300", "--repetitions", "12", "--alpha", "0.01", "--out", str(out)]) == 0
    rows = {row["law"]: row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) == set(mean_bounds.LAWS)
    for row in rows.values():
        assert row["second_implementation_difference"] < 1e-9
        assert row["binned_short"] >= row["betting_short"] > 0
    assert rows["Bernoulli(.5)"]["hoeffding_over_betting"] < 1
    for name in ("Beta, .9786, sd .01", "Beta, .95, sd .05", "point at .9"):
        assert rows[name]["hoeffding_over_betting"] > 2
        assert rows[name]["bernstein_over_betting"] > 1
    assert "uniform" in capsys.readouterr().out


def test_a_risk_that_is_none_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="alpha must"):
        mean_bounds.main(["--alpha", "2"])
