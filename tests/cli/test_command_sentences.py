"""What commands print beside certificates: numbers are parsed back and held against a calculation of their own."""

import io
import math
import re
from contextlib import redirect_stdout
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import counted
from hybrid_rs_jax.certificate import certify_features
from hybrid_rs_jax.cli import operate
from hybrid_rs_jax.cli._bill import Bill
from hybrid_rs_jax.cli._explain import explain
from hybrid_rs_jax.cli.app import main
from hybrid_rs_jax.confidence import SequentialTest, Verdict, samples_for_share, staged_looks
from hybrid_rs_jax.confidence.score_law import ScoreLaw, score_edges
from hybrid_rs_jax.kernels.record import smoothing_text
from hybrid_rs_jax.results.certificate import certify_counts, certify_decisions
from hybrid_rs_jax.results.comparison import CELL, cautions, compared, comparison_record
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.operation import operating_points
from hybrid_rs_jax.results.statement import Provisional

SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.5)


def printed(call, *arguments, **settings):
    with redirect_stdout(io.StringIO()) as out:
        call(*arguments, **settings)
    return out.getvalue()


def certified(successes, n, **settings):
    counts = Counts(tuple(f"i{k}" for k in range(len(successes))), np.array(successes), np.array(n), **settings)
    return certify_decisions(counts, SMOOTHING, 0.05, 0.01, range(3))


# plan


def planned(capsys, flags):
    assert main(["plan", *flags.split()]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("beta", "tau", "alpha"),
    [("0.5", "4.6e-05", "0.01"), ("0.75", "0.3", "1e-200"), ("0.25", "0.01", "0.9"), ("0.96875", "1e-12", "0.3")],
)
def test_a_plan_for_masked_tokens_has_the_numbers_of_the_closed_form(capsys, beta, tau, alpha):
    """Masked tokens keep `p - (1 - beta^d)`; n agreeing draws prove `alpha^(1/n)`."""
    masked = "--kernel absorbing --no-pixel-noise --budget 2 --epsilon 0 --samples 500"
    said = planned(capsys, f"{masked} --beta {beta} --tau {tau} --alpha {alpha}")
    rows = [line.split() for line in said.splitlines() if re.match(r"^[012] ", line)]
    assert len(rows) == 3
    with localcontext() as context:
        context.prec = 60
        for d, need, draws, failures, *_ in rows:
            exact = 1 - Decimal(beta) ** int(d) + Decimal(tau)
            stated = 1 - Decimal(need.removeprefix("1-")) if need.startswith("1-") else Decimal(need)
            assert exact <= stated
            n, ln = int(draws), Decimal(alpha).ln()
            assert (ln / n).exp() > exact
            assert n == 1 or (ln / (n - 1)).exp() <= exact * (1 + Decimal("1e-9"))
            assert (failures == "—") is (n > 500)
    assert ("Gaussian" in said) is False
    assert "given that the certificate is right" in said


def test_a_plan_with_pixel_noise_says_that_it_is_about_ideal_noise(capsys):
    for which in ("--budget 1 --epsilon 0.1", "--target d=0,eps=0.1 --samples 200"):
        said = planned(capsys, f"{which} --beta 0.5 --vocab-size 9 --sigma 1 --tau 0.3")
        assert "All of this is about ideal Gaussian noise; a run also subtracts" in said


def law_of_the_stop(plan, p):
    """Probability of each stop (draws, verdict), draw by draw; an independent calculation."""
    alive, ended = {0: 1.0}, {}
    for n in range(1, plan.max_samples + 1):
        step = {}
        for k, mass in alive.items():
            for hit, share in ((1, p), (0, 1 - p)):
                step[k + hit] = step.get(k + hit, 0.0) + mass * share
        alive = {}
        for k, mass in step.items():
            verdict = int(plan.verdict(n, k))
            if verdict == Verdict.CONTINUE:
                alive[k] = mass
            else:
                ended[n, verdict] = ended.get((n, verdict), 0.0) + mass
    return ended


@pytest.mark.parametrize(("tau", "alpha"), [("0.5", "0.05"), ("0.9", "0.3")])
def test_what_early_stopping_costs_is_the_law_of_the_stop(capsys, tau, alpha):
    masked = "--kernel absorbing --no-pixel-noise --beta 0.5 --target d=0,eps=0 --samples 60"
    said = planned(capsys, f"{masked} --tau {tau} --alpha {alpha} --probability 0.6,0.95,1")
    plan = SequentialTest(float(tau) * (1 + 1e-13), float(alpha), 60)
    for line in [line for line in said.splitlines() if "%" in line and line[0].isdigit()]:
        p, share, _, *draws = line.replace(",", "").split()
        law = law_of_the_stop(plan, float(p))
        reached = sum(mass for (_, verdict), mass in law.items() if verdict == Verdict.REACHED)
        assert 0 <= 100 * reached - float(share) < 0.1 + 1e-9
        mean, median, _, worst = map(float, draws)
        assert 0 <= mean - sum(n * mass for (n, _), mass in law.items()) + 1e-9 < 0.1 + 1e-9
        assert worst == max(n for (n, _), mass in law.items() if mass > 0)
        assert median <= worst
    sentence = r"at most (\S+) \(alpha.*one of at least (\S+) with probability at least (\S+)\. "
    most, least, power = map(float, re.search(sentence, said).groups())
    for p, side in ((float(tau), -1), (least, 1)):
        reached = sum(mass for (_, verdict), mass in law_of_the_stop(plan, p).items() if verdict == Verdict.REACHED)
        assert reached <= most * (1 + 1e-9) if side < 0 else reached >= power - 1e-9


def test_the_worst_of_a_score_of_one_is_where_all_draws_that_agree_stop():
    plan = SequentialTest(0.75, 0.01, 1000)
    stop = int(plan.looks[np.argmax(plan.verdict(plan.looks, plan.looks) != 0)])
    assert plan.summary(1.0).worst == stop < plan.summary(0.99).worst <= 1000
    assert plan.summary(0.0).worst < plan.summary(0.01).worst


@pytest.mark.parametrize("complement", [1e-3, 1e-8, 1e-11])
def test_draws_at_a_share_of_one_are_those_of_the_logarithm_even_next_to_one(complement):
    """`p*` itself has lost its digits there; the search used to try millions of numbers, one after the other."""
    found = samples_for_share(1.0, 1 - complement, 0.01, complement)
    assert found == pytest.approx(math.log(0.01) / math.log1p(-complement), rel=1e-9, abs=1)


# what it costs


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from([0.1, 0.0002, 0.3, 0.07, 1e-9, 3.0]))
def test_a_bill_adds_up_as_on_paper(inputs, samples, price):
    first, at_run_time = Bill(inputs, samples, price=price, deployed=3).lines()
    amounts = [first.split(": ")[1].split(", ")[1:][-1].split(" at ")[0], at_run_time.rsplit(", ", 1)[1]]
    for shown, copies in zip(amounts, (inputs * samples, 3), strict=True):
        assert 0 <= Decimal(shown) - copies * Decimal(repr(price)) < Decimal("0.01")


def test_one_is_no_plural():
    assert list(Bill(1, 1, price=0.1, deployed=1).lines()) == [
        "1 input x 1 draw: 1 copy, 0.10 at 0.1 each",
        "at run time up to 1 copy for each request, 0.10",
    ]
    assert (counted(2, "noisy copy"), counted(2000, "input")) == ("2 noisy copies", "2,000 inputs")


# operate


@given(st.floats(1e-300, 1, exclude_max=True))
def test_an_attacker_has_an_even_chance_from_the_request_that_is_named(miss):
    requests = Decimal(operate._half(miss).replace(",", ""))
    with localcontext() as context:
        context.prec = 400
        slip = (1 - Decimal(miss)).ln()
        assert requests * slip <= Decimal("0.5").ln()
        assert (requests - 1) * slip * Decimal("0.9999") > Decimal("0.5").ln()


def test_rules_of_a_filter_name_attacker_risk_and_what_a_bound_is():
    unsafe = certified([1000] * 4, [1000] * 4)
    safe = Counts(("s",), np.array([3]), np.array([1000]))
    found = operating_points(unsafe, safe, 1, 0.1, miss_probability=0.01, alpha=0.01, most_copies=30)
    said = printed(operate._print, "pair", found, 1e-9)
    assert "4 unsafe and 1 safe input; target" in said
    assert "No rule here has a bound on false alarms of at most 1e-09." in said
    assert "The attacker: at most d of the token positions" in said
    assert "by at most eps in l2 norm" in said
    none = operating_points(unsafe, safe, 2, 3.0, miss_probability=0.01, alpha=0.01, most_copies=12)
    assert "rules up to m = 10 certifies an input" in printed(operate._print, "pair", none, None)


# compare


def test_a_comparison_says_what_is_certified_and_on_which_condition():
    first = certified([990, 995], [1000, 1000])
    second = certified([990, 995], [1000, 1000], provisional=Provisional(1000, 0, (200,)))
    both = certify_decisions(second.counts, SMOOTHING, 0.05, 0.01, range(3), "both")
    said = cautions([compared("a", first), compared("b", second), compared("c", both)])
    assert "Certified in a and b: the smoothed score stays above tau." in said
    assert any(text.startswith("Certified in c: ") and "below tau" in text for text in said)
    assert said[-1] == "PROVISIONAL, true only if no vote had a part in when the draws ended: b and c."
    assert cautions([compared("a", first)]) == ["Certified: the smoothed score stays above tau."]
    records = comparison_record([compared("a", first), compared("b", second)])
    assert [record["provisional"] for record in records] == [False, True]
    assert "over all inputs (one not certified counts as 0)" in CELL


# demo --explain


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([1, 7, 100, 10_000]), st.sampled_from([0.0, 0.3, 0.97, 1.0]), st.sampled_from([4.6e-5, 0.3]))
def test_the_chain_from_votes_to_guarantee_has_the_numbers_of_its_certificate(n, share, tau):
    counts = Counts(("a",), np.array([int(n * share)]), np.array([n]))
    found = certify_counts(counts, SMOOTHING, tau, 0.01, range(4))
    said = printed(explain, found, 0)
    hits, votes = re.search(r"1\. Votes\. ([\d,]+) of ([\d,]+) noisy cop(?:y|ies) (?:is|are) called", said).groups()
    assert (votes.replace(",", ""), hits.replace(",", "")) == (str(n), str(int(n * share)))
    assert float(re.search(r"at least p_A = (\S+) with probability at least 99 %", said)[1]) <= found.p_a[0]
    if found.budget[0] < 0:
        need = re.search(r"p_A is below the (\S+) that certifies\. It abstains", said)[1]
        assert float(need) >= found.statement.needs.bound
        return
    d, epsilon = re.search(r"so \(d = (\d+), eps = (\S+)\) is certified", said).groups()
    assert float(epsilon) <= found.radius[0, int(d)]
    low, high = map(float, re.search(r"lies between (\S+) and (\S+) \(", said).groups())
    exact = hrs.worst_case_probability(found.p_a, int(d), float(epsilon), SMOOTHING)[0]
    assert low <= exact <= high
    assert exact > tau
    assert "1 tokens" not in said
    assert "1 values" not in said


def test_a_demo_whose_noise_is_too_wide_for_its_grid_is_bad_input(capsys, tmp_path):
    assert main(["demo", "--sigma", "1000", "--samples", "1", "--limit", "1", "--out", str(tmp_path / "out")]) == 2
    assert "sigma must be at most 65536 steps" in capsys.readouterr().err


# features


def test_shares_of_looks_are_rounded_up():
    counts = np.zeros((1, 16), np.int64)
    counts[0, -1] = 100
    law = ScoreLaw(counts, score_edges(16), staged_looks(100, 700))
    found = certify_features(law, hrs.HybridSmoothing(None, 1.0), 0.01)
    shares = re.search(r"shares of the looks: ([^)]+)\)", found.statement)[1].split(", ")
    assert all(float(text) >= weight for text, weight in zip(shares, law.plan.weights, strict=True))
    assert "after 100 draws of the score" in found.statement


def test_a_level_that_is_too_small_for_its_parts_is_refused_at_once():
    """The parts are made when a bound is asked for, which was too late for a sentence."""
    with pytest.raises(
        ValueError, match=r"^alpha must lie in \[1e-200, 1\), as must the part of it .* got 1\.78\d+e-202"
    ):
        certify_features(np.full((1, 2000), 0.9), hrs.HybridSmoothing(None, 1.0), 1e-200)
    assert "1 draw of the score" in certify_features([[0.9]], hrs.HybridSmoothing(None, 1.0), 0.01).statement


@given(st.floats(1e-12, 1, exclude_max=True), st.floats(1e-3, 10))
def test_noise_in_words_is_the_noise_that_is_drawn(beta, sigma):
    kernel = hrs.UniformKernel(beta, 9)
    said = smoothing_text({"kernel": "uniform", "beta": kernel.beta, "vocab_size": 9, "sigma": sigma})
    stated = float(re.search(r"beta = ([^,]+),", said)[1])
    assert hrs.UniformKernel(stated, 9).beta == kernel.beta if stated else kernel.beta == 0
    assert float(re.search(r"sigma = (\S+)$", said)[1]) == sigma
