"""The experiment on conditional draws: they certify at least as many tokens, and its closed forms are the method's."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
import conditional

pytestmark = pytest.mark.slow  # compiles a program for each kind of draws and budget


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditional")
    assert conditional.main(["--out", str(folder), "--inputs", "2", "--attacked", "1", "--samples", "300"]) == 0
    return json.loads((folder / "result.json").read_text())


def test_conditional_draws_certify_more_tokens_than_ordinary_ones(result):
    budgets = {(row["draws"], row["way"]): row["mean_budget"] for row in result["rows"]}
    assert all(budgets[n, "conditional"] > budgets[n, "ordinary"] for n in (30, 100, 300))
    assert budgets[300, "both"] > budgets[300, "ordinary"]


def test_copies_at_run_time_are_those_of_the_planner(result):
    assert result["run_time"][0]["copies"][:5] == [2, 17, 73, 296, 1187]
    assert [row["beta"] for row in result["run_time"]] == [0.25, 0.5, 0.75]


def test_the_zero_one_knapsack_is_below_the_fractional_one(result):
    assert all(0 <= row["zero_one"] <= row["fractional"] * (1 + 1e-9) for row in result["text_only"])
    assert any(row["zero_one"] < 0.9 * row["fractional"] for row in result["text_only"])
